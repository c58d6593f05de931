//! The rules of the service, asked of a [`World`] through its protocol. Time is whatever a test says.

use serde_json::{Value as Json, json};

use super::*;

/// A simulator with a present of its own.
struct Ask {
    world: World,
    now: u64,
}

const HOUR: u64 = 3_600_000;

impl Ask {
    fn new(options: Options) -> Self {
        Self { world: World::new(options), now: 1_775_044_800_000 }
    }

    fn try_call(&mut self, target: &str, body: &Json) -> Result<Json, Json> {
        let service = if ["DescribeStream", "GetRecords", "GetShardIterator", "ListStreams"].contains(&target) {
            "DynamoDBStreams_20120810"
        } else {
            "DynamoDB_20120810"
        };
        let target = format!("{service}.{target}");
        let text = body.to_string();
        let request = Request { target: &target, signed: true, body: text.as_bytes() };
        match self.world.handle(self.now, &request) {
            Answer::Said { status: 200, body, .. } => Ok(serde_json::from_slice(&body).unwrap()),
            Answer::Said { body, .. } => Err(serde_json::from_slice(&body).unwrap()),
            Answer::Cut => Err(json!({ "__type": "cut" })),
        }
    }

    fn call(&mut self, target: &str, body: &Json) -> Json {
        self.try_call(target, body).unwrap_or_else(|error| panic!("{target} {body}: {error}"))
    }

    /// The short type of the error.
    fn refused(&mut self, target: &str, body: &Json) -> String {
        let error = self.try_call(target, body).unwrap_err();
        error["__type"].as_str().unwrap().rsplit('#').next().unwrap().to_owned()
    }

    fn table(&mut self, name: &str) {
        self.call(
            "CreateTable",
            &json!({
                "TableName": name, "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "h", "AttributeType": "S"}, {"AttributeName": "r", "AttributeType": "N"}],
                "KeySchema": [{"AttributeName": "h", "KeyType": "HASH"}, {"AttributeName": "r", "KeyType": "RANGE"}],
                "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
            }),
        );
    }

    fn put(&mut self, r: u64, v: &str) {
        self.call("PutItem", &json!({"TableName": "tab", "Item": item(r, v)}));
    }

    fn arn(&mut self) -> String {
        self.call("DescribeTable", &json!({"TableName": "tab"}))["Table"]["LatestStreamArn"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn shards(&mut self) -> Vec<Json> {
        let arn = self.arn();
        let answer = self.call("DescribeStream", &json!({"StreamArn": arn}));
        answer["StreamDescription"]["Shards"].as_array().unwrap().clone()
    }

    fn iterator(&mut self, shard: &str, kind: &str) -> String {
        let arn = self.arn();
        let body = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": kind});
        self.call("GetShardIterator", &body)["ShardIterator"].as_str().unwrap().to_owned()
    }

    /// Reads a shard to where there is nothing more: the records, and whether it has ended.
    fn drain(&mut self, shard: &str) -> (Vec<Json>, bool) {
        let mut iterator = Some(self.iterator(shard, "TRIM_HORIZON"));
        let mut records = Vec::new();
        while let Some(text) = iterator {
            self.now += 1000;
            let page = self.call("GetRecords", &json!({"ShardIterator": text}));
            let found = page["Records"].as_array().unwrap().clone();
            iterator = page["NextShardIterator"].as_str().map(str::to_owned);
            if found.is_empty() && iterator.is_some() {
                return (records, false);
            }
            records.extend(found);
        }
        (records, true)
    }
}

fn item(r: u64, v: &str) -> Json {
    json!({"h": {"S": "a"}, "r": {"N": r.to_string()}, "v": {"S": v}})
}

fn key(r: u64) -> Json {
    json!({"h": {"S": "a"}, "r": {"N": r.to_string()}})
}

fn id(shard: &Json) -> String {
    shard["ShardId"].as_str().unwrap().to_owned()
}

#[test]
fn a_request_that_is_not_signed_or_not_known_is_refused() {
    let mut world = World::new(Options::default());
    let mut said = |target: &str, signed: bool, body: &[u8]| match world.handle(1, &Request { target, signed, body }) {
        Answer::Said { status, body, .. } => (status, String::from_utf8(body).unwrap()),
        Answer::Cut => panic!("cut"),
    };
    assert!(said("DynamoDB_20120810.ListTables", false, b"{}").1.contains("MissingAuthenticationTokenException"));
    assert!(said("DynamoDB_20120810.Nothing", true, b"{}").1.contains("UnknownOperationException"));
    assert!(said("DynamoDB_20120810.ListTables", true, b"{").1.contains("SerializationException"));
    assert_eq!(said("DynamoDB_20120810.ListTables", true, b"{}"), (200, "{\"TableNames\":[]}".into()));
}

#[test]
fn records_say_what_happened_and_a_write_that_changes_nothing_says_nothing() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    ask.put(1, "a");
    ask.put(1, "a");
    ask.call("PutItem", &json!({"TableName": "tab", "Item": {"h": {"S": "a"}, "r": {"N": "1.0"}, "v": {"S": "b"}}}));
    ask.call("DeleteItem", &json!({"TableName": "tab", "Key": key(1)}));
    ask.call("DeleteItem", &json!({"TableName": "tab", "Key": key(1)}));
    let shard = id(&ask.shards()[0]);
    let (records, ended) = ask.drain(&shard);
    let events: Vec<&str> = records.iter().map(|record| record["eventName"].as_str().unwrap()).collect();
    assert_eq!((events.as_slice(), ended), (&["INSERT", "MODIFY", "REMOVE"][..], false));
    assert_eq!(records[1]["dynamodb"]["OldImage"], item(1, "a"));
    assert_eq!(records[1]["dynamodb"]["NewImage"], item(1, "b"));
    assert_eq!(records[2]["dynamodb"]["Keys"], key(1));
    assert!(records[2].get("userIdentity").is_none() && records[2]["dynamodb"].get("NewImage").is_none());
}

#[test]
fn the_last_page_of_a_shard_has_records_and_no_next_iterator() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    ask.put(1, "a");
    ask.now += 4 * HOUR;
    ask.put(1, "b");
    let shards = ask.shards();
    assert_eq!(shards.len(), 2);
    let (child, parent): (Vec<Json>, Vec<Json>) = shards.into_iter().partition(|s| s.get("ParentShardId").is_some());
    assert_eq!(child[0]["ParentShardId"], parent[0]["ShardId"]);
    assert!(parent[0]["SequenceNumberRange"].get("EndingSequenceNumber").is_some());
    let text = ask.iterator(&id(&parent[0]), "TRIM_HORIZON");
    let page = ask.call("GetRecords", &json!({"ShardIterator": text}));
    assert_eq!(page["Records"].as_array().unwrap().len(), 1);
    assert!(page.get("NextShardIterator").is_none());
    assert_eq!(ask.drain(&id(&child[0])).0.len(), 1);
}

#[test]
fn an_iterator_expires_after_fifteen_minutes_and_a_record_after_a_day() {
    let mut ask = Ask::new(Options { rotate_every_seconds: 0, ..Options::default() });
    ask.table("tab");
    ask.put(1, "a");
    let shard = id(&ask.shards()[0]);
    let (records, _) = ask.drain(&shard);
    let first = records[0]["dynamodb"]["SequenceNumber"].clone();
    let old = ask.iterator(&shard, "TRIM_HORIZON");
    ask.now += 15 * 60_000 - 1;
    ask.call("GetRecords", &json!({"ShardIterator": old}));
    ask.now += 1;
    assert_eq!(ask.refused("GetRecords", &json!({"ShardIterator": old})), "ExpiredIteratorException");

    ask.now += 24 * HOUR - 20 * 60_000;
    let edge = ask.iterator(&shard, "TRIM_HORIZON");
    ask.now += 5 * 60_000;
    assert_eq!(ask.refused("GetRecords", &json!({"ShardIterator": edge})), "TrimmedDataAccessException");
    let arn = ask.arn();
    let body = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": first});
    assert_eq!(ask.refused("GetShardIterator", &body), "TrimmedDataAccessException");
    assert_eq!(ask.drain(&shard), (vec![], false));
}

#[test]
fn a_shard_that_ended_a_day_ago_is_gone_and_still_named_as_a_parent() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    let first = id(&ask.shards()[0]);
    ask.now += 29 * HOUR;
    let shards = ask.shards();
    assert!(shards.iter().all(|shard| id(shard) != first) && shards.len() >= 6, "{}", shards.len());
    assert!(shards.iter().all(|shard| shard.get("ParentShardId").is_some()));
    let arn = ask.arn();
    let body = json!({"StreamArn": arn, "ShardId": first, "ShardIteratorType": "TRIM_HORIZON"});
    assert_eq!(ask.refused("GetShardIterator", &body), "ResourceNotFoundException");
}

#[test]
fn a_stream_that_is_switched_off_can_be_read_for_a_day_and_another_one_begins() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    ask.put(1, "a");
    let (arn, shard) = (ask.arn(), id(&ask.shards()[0]));
    ask.call("UpdateTable", &json!({"TableName": "tab", "StreamSpecification": {"StreamEnabled": false}}));
    ask.put(2, "between");
    assert_eq!(ask.drain(&shard).0.len(), 1);
    assert_eq!(ask.call("DescribeStream", &json!({"StreamArn": arn}))["StreamDescription"]["StreamStatus"], "DISABLED");
    ask.call(
        "UpdateTable",
        &json!({"TableName": "tab", "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"}}),
    );
    assert_ne!(ask.arn(), arn);
    ask.now += 25 * HOUR;
    assert_eq!(ask.refused("DescribeStream", &json!({"StreamArn": arn})), "ResourceNotFoundException");
}

#[test]
fn pages_of_records_end_at_a_thousand_and_at_a_megabyte() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    for r in 0..1200 {
        ask.put(r, "x");
    }
    let shard = id(&ask.shards()[0]);
    let text = ask.iterator(&shard, "TRIM_HORIZON");
    let page = ask.call("GetRecords", &json!({"ShardIterator": text}));
    assert_eq!(page["Records"].as_array().unwrap().len(), 1000);
    let latest = ask.iterator(&shard, "LATEST");
    for r in 0..5 {
        ask.put(r, &"y".repeat(300_000));
    }
    ask.now += 1000;
    let page = ask.call("GetRecords", &json!({"ShardIterator": latest}));
    assert_eq!(page["Records"].as_array().unwrap().len(), 3);
    assert_eq!(ask.refused("GetRecords", &json!({"ShardIterator": latest, "Limit": 1001})), "ValidationException");
}

#[test]
fn listings_come_in_pages_of_a_hundred_and_by_parent() {
    let mut ask = Ask::new(Options { rotate_every_seconds: 600, ..Options::default() });
    ask.table("tab");
    ask.now += 22 * HOUR;
    let arn = ask.arn();
    let (mut all, mut after) = (Vec::new(), Json::Null);
    loop {
        ask.now += 1;
        let page = ask.call("DescribeStream", &json!({"StreamArn": arn, "ExclusiveStartShardId": after}));
        let page = &page["StreamDescription"];
        assert!(page["Shards"].as_array().unwrap().len() <= 100);
        all.extend(page["Shards"].as_array().unwrap().clone());
        match page.get("LastEvaluatedShardId") {
            Some(last) => after = last.clone(),
            None => break,
        }
    }
    assert!(all.len() > 130);
    let parent = all.iter().find(|s| s["SequenceNumberRange"].get("EndingSequenceNumber").is_some()).unwrap();
    let filter = json!({"Type": "CHILD_SHARDS", "ShardId": parent["ShardId"]});
    let children = ask.call("DescribeStream", &json!({"StreamArn": arn, "ShardFilter": filter}));
    let children = children["StreamDescription"]["Shards"].as_array().unwrap().clone();
    assert!(children.len() == 1 && children[0]["ParentShardId"] == parent["ShardId"]);
}

#[test]
fn describe_stream_and_get_records_have_rates() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    let (arn, shard) = (ask.arn(), id(&ask.shards()[0]));
    ask.now += 1000;
    for _ in 0..10 {
        ask.call("DescribeStream", &json!({"StreamArn": arn}));
    }
    assert_eq!(ask.refused("DescribeStream", &json!({"StreamArn": arn})), "ThrottlingException");
    ask.now += 1000;
    let readers: Vec<String> = (0..3).map(|_| ask.iterator(&shard, "LATEST")).collect();
    ask.call("GetRecords", &json!({"ShardIterator": readers[0]}));
    ask.call("GetRecords", &json!({"ShardIterator": readers[1]}));
    assert_eq!(ask.refused("GetRecords", &json!({"ShardIterator": readers[2]})), "LimitExceededException");
}

#[test]
fn an_item_whose_time_is_over_is_deleted_by_the_service() {
    let mut ask = Ask::new(Options { rotate_every_seconds: 0, ..Options::default() });
    ask.table("tab");
    ask.call(
        "UpdateTimeToLive",
        &json!({"TableName": "tab", "TimeToLiveSpecification": {"Enabled": true, "AttributeName": "e"}}),
    );
    let expires = (ask.now / 1000 + 60).to_string();
    let with = |r: u64, e: &str| json!({"h": {"S": "a"}, "r": {"N": r.to_string()}, "e": {"N": e}});
    ask.call("PutItem", &json!({"TableName": "tab", "Item": with(1, &expires)}));
    ask.call("PutItem", &json!({"TableName": "tab", "Item": with(2, &expires)}));
    // A new expiry before the old one comes: the item stays.
    ask.call("PutItem", &json!({"TableName": "tab", "Item": with(2, "4102444800")}));
    ask.call("PutItem", &json!({"TableName": "tab", "Item": with(3, "1000")}));
    ask.now += 60_000;
    assert!(ask.call("GetItem", &json!({"TableName": "tab", "Key": key(1)})).get("Item").is_some());
    ask.now += 700_000;
    assert!(ask.call("GetItem", &json!({"TableName": "tab", "Key": key(1)})).get("Item").is_none());
    assert!(ask.call("GetItem", &json!({"TableName": "tab", "Key": key(2)})).get("Item").is_some());
    assert!(
        ask.call("GetItem", &json!({"TableName": "tab", "Key": key(3)})).get("Item").is_some(),
        "older than five years"
    );
    let shard = id(&ask.shards()[0]);
    let (records, _) = ask.drain(&shard);
    let last = records.last().unwrap();
    assert_eq!(last["eventName"], "REMOVE");
    assert_eq!(last["userIdentity"], json!({"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}));
}

#[test]
fn a_transaction_is_all_or_nothing_and_says_why() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    ask.put(1, "a");
    let body = json!({"TransactItems": [
        {"Put": {"TableName": "tab", "Item": item(2, "b")}},
        {"ConditionCheck": {"TableName": "tab", "Key": key(1), "ConditionExpression": "v = :v",
            "ExpressionAttributeValues": {":v": {"S": "z"}}, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}},
    ]});
    let error = ask.try_call("TransactWriteItems", &body).unwrap_err();
    assert!(error["__type"].as_str().unwrap().ends_with("#TransactionCanceledException"));
    assert!(error["Message"].as_str().unwrap().ends_with("[None, ConditionalCheckFailed]"));
    assert_eq!(error["CancellationReasons"][0], json!({"Code": "None"}));
    assert_eq!(error["CancellationReasons"][1]["Item"], item(1, "a"));
    assert!(ask.call("GetItem", &json!({"TableName": "tab", "Key": key(2)})).get("Item").is_none());

    let many = |n: u64| json!({"TransactItems": (0..n).map(|r| json!({"Put": {"TableName": "tab", "Item": item(r, "x")}})).collect::<Vec<_>>()});
    ask.call("TransactWriteItems", &many(100));
    assert_eq!(ask.refused("TransactWriteItems", &many(101)), "ValidationException");
    let large = json!({"TransactItems": (0..11).map(|r| json!({"Put": {"TableName": "tab", "Item": item(r, &"x".repeat(399_000))}})).collect::<Vec<_>>()});
    assert_eq!(ask.refused("TransactWriteItems", &large), "ValidationException");
    let twice = json!({"TransactItems": [{"Delete": {"TableName": "tab", "Key": key(1)}}, {"Put": {"TableName": "tab", "Item": item(1, "")}}]});
    assert_eq!(ask.refused("TransactWriteItems", &twice), "ValidationException");
}

#[test]
fn a_token_stands_for_its_request_for_ten_minutes() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    let add = |by: &str| {
        json!({"ClientRequestToken": "one", "TransactItems": [{"Update": {"TableName": "tab", "Key": key(1),
            "UpdateExpression": "ADD n :n", "ExpressionAttributeValues": {":n": {"N": by}}}}]})
    };
    let n = |ask: &mut Ask| ask.call("GetItem", &json!({"TableName": "tab", "Key": key(1)}))["Item"]["n"]["N"].clone();
    ask.call("TransactWriteItems", &add("1"));
    ask.call("TransactWriteItems", &add("1"));
    assert_eq!(n(&mut ask), "1");
    assert_eq!(ask.refused("TransactWriteItems", &add("2")), "IdempotentParameterMismatchException");
    ask.now += 600_000;
    ask.call("TransactWriteItems", &add("1"));
    assert_eq!(n(&mut ask), "2");
}

#[test]
fn batches_take_twenty_five_writes_and_may_leave_some_over() {
    let mut ask = Ask::new(Options { faults: Rates { unprocessed: 1000, ..Rates::default() }, ..Options::default() });
    ask.table("tab");
    let batch = |n: u64| json!({"RequestItems": {"tab": (0..n).map(|r| json!({"PutRequest": {"Item": item(r, "x")}})).collect::<Vec<_>>()}});
    assert_eq!(ask.refused("BatchWriteItem", &batch(26)), "ValidationException");
    let left = ask.call("BatchWriteItem", &batch(25))["UnprocessedItems"]["tab"].as_array().unwrap().len();
    assert!((1..25).contains(&left), "{left}");
    let there = ask.call("Scan", &json!({"TableName": "tab"}))["Count"].as_u64().unwrap();
    assert_eq!(there + left as u64, 25);
}

#[test]
fn an_item_of_more_than_400_kilobytes_is_refused() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    let fits = 400 * 1024 - "h".len() - "a".len() - "r".len() - 2 - "v".len();
    ask.put(1, &"x".repeat(fits));
    let body = json!({"TableName": "tab", "Item": item(1, &"x".repeat(fits + 1))});
    assert_eq!(ask.refused("PutItem", &body), "ValidationException");
}

#[test]
fn pages_of_a_query_go_on_where_they_ended_in_both_directions() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    for r in 0..25 {
        ask.put(r, "x");
    }
    for forward in [true, false] {
        let (mut seen, mut start) = (Vec::new(), Json::Null);
        loop {
            let page = ask.call(
                "Query",
                &json!({"TableName": "tab", "KeyConditionExpression": "h = :h AND r BETWEEN :a AND :b", "Limit": 7,
                    "ScanIndexForward": forward, "ExclusiveStartKey": start,
                    "ExpressionAttributeValues": {":h": {"S": "a"}, ":a": {"N": "3"}, ":b": {"N": "20"}}}),
            );
            seen.extend(
                page["Items"].as_array().unwrap().iter().map(|i| i["r"]["N"].as_str().unwrap().parse::<u64>().unwrap()),
            );
            match page.get("LastEvaluatedKey") {
                Some(key) => start = key.clone(),
                None => break,
            }
        }
        let mut expected: Vec<u64> = (3..=20).collect();
        if !forward {
            expected.reverse();
        }
        assert_eq!(seen, expected);
    }
}

#[test]
fn segments_of_a_scan_share_the_table() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    for n in 0..200 {
        let item = json!({"h": {"S": format!("h{n}")}, "r": {"N": "1"}});
        ask.call("PutItem", &json!({"TableName": "tab", "Item": item}));
    }
    let (mut seen, mut filled) = (0, 0);
    for segment in 0..4 {
        let mut start = Json::Null;
        loop {
            let body = json!({"TableName": "tab", "Segment": segment, "TotalSegments": 4, "Limit": 9, "ExclusiveStartKey": start});
            let page = ask.call("Scan", &body);
            seen += page["Count"].as_u64().unwrap();
            match page.get("LastEvaluatedKey") {
                Some(key) => start = key.clone(),
                None => break,
            }
        }
        filled += u64::from(seen > 0);
    }
    assert_eq!((seen, filled), (200, 4));
}

#[test]
fn a_script_names_the_call_that_goes_wrong() {
    let mut ask = Ask::new(Options::default());
    ask.table("tab");
    let rules = br#"{"rules":[{"operation":"PutItem","skip":1,"fault":"lost_answer"},{"operation":"PutItem","fault":"lost_request"},
        {"operation":"PutItem","fault":"throttle"},{"operation":"TransactWriteItems","fault":"transaction_conflict"}]}"#;
    ask.world.control(ask.now, "script", rules).unwrap();
    let put = |r: u64| json!({"TableName": "tab", "Item": item(r, "x")});
    ask.call("PutItem", &put(1));
    assert_eq!(ask.refused("PutItem", &put(2)), "cut");
    assert_eq!(ask.refused("PutItem", &put(3)), "cut");
    assert_eq!(ask.refused("PutItem", &put(4)), "ProvisionedThroughputExceededException");
    let there =
        |ask: &mut Ask, r| ask.call("GetItem", &json!({"TableName": "tab", "Key": key(r)})).get("Item").is_some();
    assert_eq!([1, 2, 3, 4].map(|r| there(&mut ask, r)), [true, true, false, false]);
    let error = ask.try_call("TransactWriteItems", &json!({"TransactItems": [{"Put": put(5)}]})).unwrap_err();
    assert_eq!(error["CancellationReasons"][0]["Code"], "TransactionConflict");
}

#[test]
fn the_same_seed_and_requests_give_the_same_answers() {
    let run = |seed: u64| {
        let faults = Rates { throttle: 100, internal_error: 50, lost_answer: 50, ..Rates::default() };
        let options = Options {
            seed,
            rotate_every_seconds: 60,
            split_permille: 300,
            late_milliseconds: 2000,
            faults,
            ..Options::default()
        };
        let mut ask = Ask::new(options);
        ask.table("tab");
        let mut all = Vec::new();
        for n in 0..300 {
            ask.now += 700;
            all.push(ask.try_call("PutItem", &json!({"TableName": "tab", "Item": item(n % 5, &n.to_string())})));
        }
        (all, ask.world.control(ask.now, "world", br#"{"items":true,"records":true}"#).unwrap().to_string())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).1, run(2).1);
}
