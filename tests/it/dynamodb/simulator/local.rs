//! The simulator beside DynamoDB Local: the same calls, and the same answers wherever both have the thing at all.
//!
//! Compared are success or the error's type, and everything in an answer that is not a time, a name of a resource, an id or a
//! sequence number. Sentences of errors are not compared: they are no contract. What the two are known to do differently stands
//! in a list below, with the reason. Beside that list: a page that ends exactly at the last key that a key condition allows has a
//! `LastEvaluatedKey` here and none there, and an iterator of a type that does not exist is an error of the service's own there.

use serde_json::{Value, json};

use crate::support::dynamodb::{Said, Service, local, simulator};

/// Members of answers whose values belong to the one service.
const OWN: &[&str] = &[
    "CreationDateTime",
    "CreationRequestDateTime",
    "TableArn",
    "TableId",
    "LatestStreamArn",
    "LatestStreamLabel",
    "StreamArn",
    "StreamLabel",
    "ShardId",
    "SequenceNumberRange",
    "SequenceNumber",
    "eventID",
    "awsRegion",
    "ApproximateCreationDateTime",
    "ShardIterator",
    "NextShardIterator",
    "LastEvaluatedShardId",
    "IndexArn",
    "IndexSizeBytes",
    "TableSizeBytes",
    "LastUpdateToPayPerRequestDateTime",
    "LastIncreaseDateTime",
    "LastDecreaseDateTime",
    "SizeBytes",
    "TableStatus",
    "message",
    "Message",
    "eventVersion",
    "eventSource",
    "TableThroughputModeSummary",
    "WarmThroughput",
    "DeletionProtectionEnabled",
    "IndexStatus",
    "OnDemandThroughput",
    "userIdentity",
    // The one gives them for indexes of tables that are paid by request and the other does not, as with units of a delete
    // of nothing; clients are told either.
    "ProvisionedThroughput",
    "ConsumedCapacity",
];

fn plain(value: &Value, key: &str) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| !OWN.contains(&key.as_str()) && !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), plain(value, key))).collect())
        }
        Value::Array(list) => {
            let inner = if key == "NS" { "N" } else { "" };
            let mut list: Vec<Value> = list.iter().map(|value| plain(value, inner)).collect();
            // Sets have no order, and neither have lists of names.
            if ["SS", "NS", "BS", "AttributeDefinitions", "GlobalSecondaryIndexes"].contains(&key) {
                list.sort_by_key(Value::to_string);
            }
            Value::Array(list)
        }
        Value::String(text) if key == "N" => json!(number(text)),
        Value::String(text) if key == "__type" => json!(text.rsplit('#').next()),
        other => other.clone(),
    }
}

/// The same number can have different texts.
fn number(text: &str) -> String {
    let (mantissa, power) = text.split_once(['E', 'e']).map_or((text, 0), |(m, p)| (m, p.parse::<i32>().unwrap()));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{part}");
    let shift = power - i32::try_from(part.len()).unwrap();
    let stripped = digits.trim_end_matches('0');
    let shift = shift + i32::try_from(digits.len() - stripped.len()).unwrap();
    match stripped.trim_start_matches('0') {
        "" => "0".into(),
        digits => format!("{sign}{digits}e{shift}"),
    }
}

fn outcome(said: &Said, unordered: bool) -> Value {
    let mut json = plain(&said.body, "");
    if unordered && let Some(items) = json.get_mut("Items").and_then(Value::as_array_mut) {
        items.sort_by_key(Value::to_string);
    }
    json["status"] = said.status.into();
    json
}

struct Both {
    ours: Service,
    theirs: Service,
    different: Vec<String>,
}

impl Both {
    fn call(&mut self, operation: &str, body: &Value) -> Said {
        let (ours, theirs) = (self.ours.call(operation, body), self.theirs.call(operation, body));
        let unordered = operation == "Scan";
        let (a, b) = (outcome(&ours, unordered), outcome(&theirs, unordered));
        if a != b {
            self.different
                .push(format!("{operation} {body}\n  ours:   {a} {}\n  theirs: {b} {}", ours.body, theirs.body));
        }
        ours
    }

    fn settled(self) {
        assert!(self.different.is_empty(), "{} differ:\n{}", self.different.len(), self.different.join("\n"));
    }
}

/// Both services, or nothing where there is to be no DynamoDB Local.
fn both() -> Option<Both> {
    Some(Both { theirs: local()?, ours: simulator(&json!({})), different: Vec::new() })
}

fn definition(stream: bool) -> Value {
    json!({
        "TableName": "pair", "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "h", "AttributeType": "S"}, {"AttributeName": "r", "AttributeType": "N"},
            {"AttributeName": "g", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "h", "KeyType": "HASH"}, {"AttributeName": "r", "KeyType": "RANGE"}],
        "GlobalSecondaryIndexes": [{"IndexName": "byg", "KeySchema": [{"AttributeName": "g", "KeyType": "HASH"},
            {"AttributeName": "r", "KeyType": "RANGE"}], "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["v"]}}],
        "StreamSpecification": {"StreamEnabled": stream, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    })
}

fn key(h: &str, r: &str) -> Value {
    json!({"h": {"S": h}, "r": {"N": r}})
}

fn filled(both: &mut Both) {
    both.call("CreateTable", &definition(true));
    for r in 0..12 {
        let item = json!({"h": {"S": "a"}, "r": {"N": r.to_string()}, "g": {"S": format!("g{}", r % 3)}, "v": {"N": (r * r).to_string()},
            "l": {"L": [{"N": "1"}, {"M": {"k": {"S": "x"}}}]}, "ss": {"SS": ["p", "q"]}, "other": {"S": "o"}});
        both.call("PutItem", &json!({"TableName": "pair", "Item": item}));
    }
}

#[test]
fn tables_are_described_and_refused_alike() {
    let Some(mut both) = both() else { return };
    both.call("CreateTable", &definition(true));
    both.call("CreateTable", &definition(true));
    both.call("DescribeTable", &json!({"TableName": "pair"}));
    both.call("DescribeTable", &json!({"TableName": "nothing"}));
    both.call("ListTables", &json!({}));
    both.call(
        "CreateTable",
        &json!({"TableName": "no", "KeySchema": [{"AttributeName": "h", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "x", "AttributeType": "S"}], "BillingMode": "PAY_PER_REQUEST"}),
    );
    both.call(
        "CreateTable",
        &json!({"TableName": "no", "KeySchema": [{"AttributeName": "h", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "h", "AttributeType": "S"}]}),
    );
    both.call(
        "UpdateTimeToLive",
        &json!({"TableName": "pair", "TimeToLiveSpecification": {"Enabled": true, "AttributeName": "e"}}),
    );
    both.call(
        "UpdateTimeToLive",
        &json!({"TableName": "pair", "TimeToLiveSpecification": {"Enabled": true, "AttributeName": "e"}}),
    );
    both.call("DescribeTimeToLive", &json!({"TableName": "pair"}));
    both.call(
        "UpdateTable",
        &json!({"TableName": "pair", "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"}}),
    );
    both.call("UpdateTable", &json!({"TableName": "pair", "StreamSpecification": {"StreamEnabled": false}}));
    both.call("DescribeTable", &json!({"TableName": "pair"}));
    both.call("DeleteTable", &json!({"TableName": "pair"}));
    both.call("DeleteTable", &json!({"TableName": "pair"}));
    both.call("PutItem", &json!({"TableName": "pair", "Item": key("a", "1")}));
    both.settled();
}

/// Values, right and wrong.
fn values() -> Vec<Value> {
    vec![
        json!({"N": "12345678901234567890123456789012345678"}),
        json!({"N": "123456789012345678901234567890123456789"}),
        json!({"N": "1E125"}),
        json!({"N": "1E126"}),
        json!({"N": "-9.99e125"}),
        json!({"N": "1e-130"}),
        json!({"N": "1e-131"}),
        json!({"N": "007.500"}),
        json!({"N": "-0"}),
        json!({"N": "abc"}),
        json!({"N": ""}),
        json!({"S": ""}),
        json!({"B": ""}),
        json!({"B": "AAEC"}),
        json!({"BOOL": false}),
        json!({"NULL": true}),
        json!({"NULL": false}),
        json!({"SS": []}),
        json!({"SS": ["", "a"]}),
        json!({"SS": ["a", "a"]}),
        json!({"NS": ["1", "1.0"]}),
        json!({"NS": ["1", "2.50"]}),
        json!({"BS": ["", "AA=="]}),
        json!({"L": []}),
        json!({"M": {}}),
        json!({"L": [{"M": {"a": {"L": [{"NULL": true}]}}}]}),
        json!({}),
        json!({"S": "a", "N": "1"}),
    ]
}

#[test]
fn values_are_kept_and_refused_alike() {
    let Some(mut both) = both() else { return };
    both.call("CreateTable", &definition(false));
    both.call("CreateTable", &{
        let mut d = definition(true);
        d["StreamSpecification"] = Value::Null;
        d
    });
    for value in &values() {
        let item = json!({"h": {"S": "a"}, "r": {"N": "1"}, "v": value});
        both.call("PutItem", &json!({"TableName": "pair", "Item": item}));
        both.call("GetItem", &json!({"TableName": "pair", "Key": key("a", "1"), "ConsistentRead": true}));
    }
    for depth in [31, 32, 33] {
        let nested = (0..depth).fold(json!({"S": "x"}), |inner, _| json!({"L": [inner]}));
        both.call("PutItem", &json!({"TableName": "pair", "Item": {"h": {"S": "d"}, "r": {"N": "1"}, "v": nested}}));
    }
    for size in [409_500, 409_589, 409_590, 409_591, 409_592, 409_593, 409_594, 409_600] {
        let item = json!({"h": {"S": "a"}, "r": {"N": "1"}, "v": {"S": "x".repeat(size)}});
        let (a, b) = (
            both.ours.call("PutItem", &json!({"TableName": "pair", "Item": item})),
            both.theirs.call("PutItem", &json!({"TableName": "pair", "Item": item})),
        );
        if a.status != b.status {
            both.different.push(format!("an item with {size} bytes: {} and {}", a.status, b.status));
        }
    }
    let keys = [
        json!({"h": {"S": "a"}}),
        json!({"h": {"S": ""}, "r": {"N": "1"}}),
        json!({"h": {"N": "1"}, "r": {"N": "1"}}),
        json!({"h": {"S": "a"}, "r": {"N": "1"}, "x": {"S": "y"}}),
        json!({"h": {"S": "z"}, "r": {"N": "1"}}),
    ];
    for key in &keys {
        both.call("GetItem", &json!({"TableName": "pair", "Key": key}));
        both.call("DeleteItem", &json!({"TableName": "pair", "Key": key}));
        both.call("PutItem", &json!({"TableName": "pair", "Item": key}));
    }
    both.call("PutItem", &json!({"TableName": "pair", "Item": {"h": {"S": "a"}, "r": {"N": "1"}, "g": {"N": "1"}}}));
    both.call("PutItem", &json!({"TableName": "pair", "Item": {"h": {"S": "x".repeat(2049)}, "r": {"N": "1"}}}));
    both.settled();
}

/// Filters, right and wrong.
const FILTERS: &[&str] = &[
    "v > :n",
    "v >= :n AND v < :m",
    "v <> :n",
    "missing <> :n",
    "missing = :n",
    "NOT missing = :n",
    "v = :n OR v = :m",
    "v BETWEEN :n AND :m",
    "v BETWEEN :m AND :n",
    "v IN (:n, :m)",
    "attribute_exists(l[1].k)",
    "attribute_not_exists(l[2])",
    "attribute_type(l, :t)",
    "attribute_type(v, :s)",
    "contains(ss, :s)",
    "contains(v, :n)",
    "contains(l, :n)",
    "begins_with(other, :s)",
    "begins_with(v, :n)",
    "size(l) = :n",
    "size(ss) < :n",
    "size(v) < :n",
    "size(missing) < :n",
    "v < :b",
    "v = :b",
    "v < :s",
    "r = :n",
    "l[1].k > :s",
    "(v = :n)",
    "((v = :n))",
    "(v = :n) AND (v = :n)",
    "NOT (v = :n)",
    "NOT NOT v = :n",
    "v = v",
    "v = r",
    "size(l) = size(ss)",
    "status = :n",
    "v == :n",
    "v = ",
    "v",
    "",
    "v = :n AND",
    "foo(v)",
    "attribute_exists(v, v)",
    "v BETWEEN :n AND :s",
    "v = :undefined",
    "#u = :n",
    "v != :n",
    "l[1].k = other",
    "v IN ()",
    "v in (:n) and not v = :m",
    "a-b = :n",
    "l[-1] = :n",
    "l[0] = l[0]",
    "h = :s",
];

#[test]
fn conditions_and_filters_mean_the_same() {
    let Some(mut both) = both() else { return };
    filled(&mut both);
    let values = json!({":n": {"N": "4"}, ":m": {"N": "50"}, ":s": {"S": "p"}, ":t": {"S": "L"}, ":b": {"BOOL": true}});
    for filter in FILTERS {
        let used: serde_json::Map<String, Value> = values
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| filter.contains(name.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let mut body = json!({"TableName": "pair", "FilterExpression": filter});
        if !used.is_empty() {
            body["ExpressionAttributeValues"] = Value::Object(used);
        }
        both.call("Scan", &body);
    }
    both.call("Scan", &json!({"TableName": "pair", "FilterExpression": "v = :n", "ExpressionAttributeValues": {":n": {"N": "4"}, ":x": {"N": "4"}}}));
    both.call(
        "Scan",
        &json!({"TableName": "pair", "ExpressionAttributeNames": {"#x": "v"}, "ProjectionExpression": "h"}),
    );
    for projection in
        ["h, l[1].k", "l[0], l[5], v", "l[1].nothing, h", "#x.k", "v, v", "l, l[0]", "ss[0], h", "l[1], l[0], h"]
    {
        both.call("GetItem", &json!({"TableName": "pair", "Key": key("a", "3"), "ProjectionExpression": projection}));
    }
    both.settled();
}

/// Updates, right and wrong.
const UPDATES: &[&str] = &[
    "SET v = v + :1",
    "SET v = :1 - v",
    "SET neu = if_not_exists(neu, :1)",
    "SET l = list_append(l, :l)",
    "SET l = list_append(:l, l)",
    "SET l[7] = :s",
    "SET l[0] = :s, l[9] = :1",
    "SET l[1].k = :s",
    "SET l[1].deep.er = :s",
    "SET missing.x = :s",
    "REMOVE l[0], l[1]",
    "REMOVE nothing",
    "REMOVE l[40]",
    "REMOVE l[0].x",
    "ADD v :1",
    "ADD cnt :1",
    "ADD ss :ss",
    "ADD neus :ns",
    "ADD ss :ns",
    "ADD other :1",
    "ADD v :s",
    "DELETE ss :ss",
    "DELETE ss :ns",
    "DELETE v :ss",
    "DELETE nothing :ss",
    "SET v = other",
    "SET v = missing",
    "SET other = v + other",
    "SET other = other + :1",
    "SET h = :s",
    "REMOVE r",
    "SET a = :1, a = :1",
    "SET l = :l, l[0] = :1",
    "SET a = :1 SET b = :1",
    "SET a = :1 REMOVE b ADD c :1 DELETE ss :ss",
    "SET v = r, other = v",
    "set v = :1 remove other",
    "SET",
    "",
    "FOO a",
    "SET a = foo(b)",
    "SET a = :1 + :1 + :1",
    "SET a = (:1 + :1)",
    "SET l[0] = l[1], l[1] = l[0]",
    "SET a = if_not_exists(b, if_not_exists(c, :1))",
    "SET a = list_append(other, :l)",
    "ADD l[0] :1",
    "SET a.b = :1",
    "SET v = v + :s",
    "SET #x = :1",
];

#[test]
fn updates_leave_the_same_and_give_the_same() {
    let Some(mut both) = both() else { return };
    filled(&mut both);
    let values = json!({":1": {"N": "1"}, ":l": {"L": [{"S": "z"}]}, ":ss": {"SS": ["q", "w"]}, ":ns": {"NS": ["1"]}, ":s": {"S": "text"}});
    for (at, update) in UPDATES.iter().copied().enumerate() {
        let used: serde_json::Map<String, Value> = values
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| {
                update
                    .match_indices(name.as_str())
                    .any(|(at, found)| !update[at + found.len()..].starts_with(|c: char| c.is_alphanumeric()))
            })
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        for returns in ["ALL_NEW", "UPDATED_OLD", "UPDATED_NEW"] {
            let r = (at % 12).to_string();
            let mut body =
                json!({"TableName": "pair", "Key": key("a", &r), "UpdateExpression": update, "ReturnValues": returns});
            if !used.is_empty() {
                body["ExpressionAttributeValues"] = Value::Object(used.clone());
            }
            both.call("UpdateItem", &body);
        }
    }
    both.call("UpdateItem", &json!({"TableName": "pair", "Key": key("new", "1")}));
    both.call("UpdateItem", &json!({"TableName": "pair", "Key": key("new", "2"), "UpdateExpression": "REMOVE x"}));
    both.call(
        "UpdateItem",
        &json!({"TableName": "pair", "Key": key("new", "3"), "UpdateExpression": "SET x = :x",
        "ConditionExpression": "attribute_exists(h)", "ExpressionAttributeValues": {":x": {"S": "x"}}}),
    );
    both.call("PutItem", &json!({"TableName": "pair", "Item": key("a", "1"), "ReturnValues": "ALL_OLD"}));
    both.call("PutItem", &json!({"TableName": "pair", "Item": key("a", "1"), "ReturnValues": "ALL_NEW"}));
    both.call("DeleteItem", &json!({"TableName": "pair", "Key": key("a", "2"), "ReturnValues": "ALL_OLD",
        "ConditionExpression": "v = :v", "ExpressionAttributeValues": {":v": {"N": "999"}}, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}));
    both.call("DeleteItem", &json!({"TableName": "pair", "Key": key("a", "2"), "ReturnValues": "ALL_OLD"}));
    both.call("Scan", &json!({"TableName": "pair"}));
    both.settled();
}

/// Key conditions, right and wrong.
const KEY_CONDITIONS: &[&str] = &[
    "h = :h",
    "h = :h AND r > :3",
    "h = :h AND r <= :3",
    "r >= :3 AND h = :h",
    "h = :h AND r BETWEEN :3 AND :8",
    "h = :h AND r = :3",
    "h = :h AND begins_with(r, :3)",
    "r = :3",
    "h > :h",
    "h = :h OR r = :3",
    "h = :h AND r <> :3",
    "h = :h AND v = :3",
    "h = :3",
    "h = :h AND r = :h",
    "h = :h AND r = :3 AND r = :8",
    "NOT h = :h",
    "h = :h AND h = :h",
    "(h = :h) AND (r > :3)",
    ":h = h",
];

#[test]
fn queries_and_scans_page_alike() {
    let Some(mut both) = both() else { return };
    filled(&mut both);
    for condition in KEY_CONDITIONS {
        let values: serde_json::Map<String, Value> =
            [(":h", json!({"S": "a"})), (":3", json!({"N": "3"})), (":8", json!({"N": "8"}))]
                .into_iter()
                .filter(|(name, _)| condition.contains(name))
                .map(|(k, v)| (k.to_owned(), v))
                .collect();
        for forward in [true, false] {
            both.call("Query", &json!({"TableName": "pair", "KeyConditionExpression": condition, "ExpressionAttributeValues": values, "ScanIndexForward": forward, "Limit": 5}));
        }
    }
    let values = json!({":h": {"S": "a"}, ":g": {"S": "g1"}, ":v": {"N": "10"}});
    let part = |names: &[&str]| {
        Value::Object(
            values
                .as_object()
                .unwrap()
                .iter()
                .filter(|(k, _)| names.contains(&k.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        )
    };
    for (limit, forward) in [(3, true), (5, false), (12, true), (13, true)] {
        let mut start = Value::Null;
        for _ in 0..6 {
            let said = both.call("Query", &json!({"TableName": "pair", "KeyConditionExpression": "h = :h", "FilterExpression": "v > :v",
                "ExpressionAttributeValues": part(&[":h", ":v"]), "Limit": limit, "ScanIndexForward": forward, "ExclusiveStartKey": start}));
            match said.body.get("LastEvaluatedKey") {
                Some(key) => start = key.clone(),
                None => break,
            }
        }
    }
    let mut start = Value::Null;
    for _ in 0..4 {
        let said = both.call(
            "Query",
            &json!({"TableName": "pair", "IndexName": "byg", "KeyConditionExpression": "g = :g",
            "ExpressionAttributeValues": part(&[":g"]), "Limit": 2, "ExclusiveStartKey": start}),
        );
        match said.body.get("LastEvaluatedKey") {
            Some(key) => start = key.clone(),
            None => break,
        }
    }
    both.call("Query", &json!({"TableName": "pair", "IndexName": "byg", "KeyConditionExpression": "g = :g", "ConsistentRead": true, "ExpressionAttributeValues": part(&[":g"])}));
    both.call("Query", &json!({"TableName": "pair", "IndexName": "nothing", "KeyConditionExpression": "g = :g", "ExpressionAttributeValues": part(&[":g"])}));
    both.call("Query", &json!({"TableName": "pair", "KeyConditionExpression": "h = :h", "Select": "COUNT", "ExpressionAttributeValues": part(&[":h"])}));
    both.call("Query", &json!({"TableName": "pair"}));
    both.call("Query", &json!({"TableName": "pair", "KeyConditionExpression": "h = :h", "FilterExpression": "r > :v", "ExpressionAttributeValues": part(&[":h", ":v"])}));
    both.call("Query", &json!({"TableName": "pair", "KeyConditionExpression": "h = :h", "Limit": 0, "ExpressionAttributeValues": part(&[":h"])}));
    both.call("Scan", &json!({"TableName": "pair", "Select": "COUNT"}));
    both.call("Scan", &json!({"TableName": "pair", "IndexName": "byg"}));
    both.call("Scan", &json!({"TableName": "pair", "Segment": 1}));
    both.call("Scan", &json!({"TableName": "pair", "Segment": 4, "TotalSegments": 4}));
    both.call("Scan", &json!({"TableName": "pair", "ExclusiveStartKey": {"h": {"S": "a"}}}));
    both.settled();
}

#[test]
fn batches_and_transactions_end_alike() {
    let Some(mut both) = both() else { return };
    filled(&mut both);
    let put = |r: &str| json!({"PutRequest": {"Item": {"h": {"S": "b"}, "r": {"N": r}}}});
    both.call(
        "BatchWriteItem",
        &json!({"RequestItems": {"pair": [put("1"), put("2"), {"DeleteRequest": {"Key": key("a", "1")}}]}}),
    );
    both.call("BatchWriteItem", &json!({"RequestItems": {"pair": [put("1"), put("1.0")]}}));
    both.call("BatchWriteItem", &json!({"RequestItems": {"pair": []}}));
    both.call("BatchWriteItem", &json!({"RequestItems": {}}));
    both.call(
        "BatchWriteItem",
        &json!({"RequestItems": {"pair": (0..26).map(|r| put(&r.to_string())).collect::<Vec<_>>()}}),
    );
    both.call("BatchWriteItem", &json!({"RequestItems": {"none": [put("1")]}}));
    both.call(
        "BatchGetItem",
        &json!({"RequestItems": {"pair": {"Keys": [key("b", "1"), key("b", "9")], "ProjectionExpression": "h"}}}),
    );
    both.call("BatchGetItem", &json!({"RequestItems": {"pair": {"Keys": [key("b", "1"), key("b", "1")]}}}));
    both.call(
        "BatchGetItem",
        &json!({"RequestItems": {"pair": {"Keys": (0..101).map(|r| key("b", &r.to_string())).collect::<Vec<_>>()}}}),
    );

    let put = |r: &str| json!({"Put": {"TableName": "pair", "Item": {"h": {"S": "t"}, "r": {"N": r}}}});
    let check = |condition: &str| json!({"ConditionCheck": {"TableName": "pair", "Key": key("a", "5"), "ConditionExpression": condition}});
    let update = |text: &str| json!({"Update": {"TableName": "pair", "Key": key("a", "6"), "UpdateExpression": text, "ExpressionAttributeValues": {":1": {"N": "1"}}}});
    for items in [
        json!([put("1"), check("attribute_exists(v)"), update("SET v = v + :1")]),
        json!([put("2"), check("attribute_not_exists(v)"), update("SET v = v + :1")]),
        json!([put("3"), update("SET other = other + :1")]),
        json!([put("3"), update("SET missing.x = :1")]),
        json!([put("4"), put("4")]),
        json!([put("5"), {"Put": {"TableName": "pair", "Item": {"h": {"S": "t"}}}}]),
        json!([put("5"), {"Put": {"TableName": "pair", "Item": {"h": {"N": "1"}, "r": {"N": "1"}}}}]),
        json!([put("5"), {"Delete": {"TableName": "pair", "Key": {"h": {"S": "t"}}}}]),
        json!([put("5"), {"Put": {"TableName": "none", "Item": {"h": {"S": "t"}, "r": {"N": "1"}}}}]),
        json!([put("5"), update("SET syntax = ")]),
        json!([put("5"), {"Put": {"TableName": "pair", "Item": {"h": {"S": "t"}, "r": {"N": "6"}, "v": {"S": "x".repeat(410_000)}}}}]),
        json!([{}]),
        json!([]),
        json!((0..101).map(|r| put(&r.to_string())).collect::<Vec<_>>()),
        json!((0..100).map(|r| put(&r.to_string())).collect::<Vec<_>>()),
    ] {
        both.call("TransactWriteItems", &json!({"TransactItems": items}));
    }
    let large: Vec<Value> = (0..11).map(|r| json!({"Put": {"TableName": "pair", "Item": {"h": {"S": "big"}, "r": {"N": r.to_string()}, "v": {"S": "x".repeat(390_000)}}}})).collect();
    both.call("TransactWriteItems", &json!({"TransactItems": large}));
    both.call("TransactWriteItems", &json!({"TransactItems": [put("700")], "ClientRequestToken": "tok"}));
    both.call("TransactWriteItems", &json!({"TransactItems": [put("700")], "ClientRequestToken": "tok"}));
    both.call("TransactWriteItems", &json!({"TransactItems": [put("701")], "ClientRequestToken": "tok"}));
    both.call("TransactGetItems", &json!({"TransactItems": [{"Get": {"TableName": "pair", "Key": key("t", "1")}}, {"Get": {"TableName": "pair", "Key": key("none", "1")}}]}));
    both.call("Query", &json!({"TableName": "pair", "KeyConditionExpression": "h = :h", "ExpressionAttributeValues": {":h": {"S": "t"}}}));
    both.settled();
}

#[test]
fn streams_tell_the_same_of_the_same_writes() {
    let Some(mut both) = both() else { return };
    filled(&mut both);
    both.call("PutItem", &json!({"TableName": "pair", "Item": {"h": {"S": "a"}, "r": {"N": "1.0"}, "v": {"N": "7"}}}));
    both.call("PutItem", &json!({"TableName": "pair", "Item": {"h": {"S": "a"}, "r": {"N": "1"}, "v": {"N": "7.00"}}}));
    both.call("UpdateItem", &json!({"TableName": "pair", "Key": key("a", "1"), "UpdateExpression": "REMOVE nothing"}));
    both.call("DeleteItem", &json!({"TableName": "pair", "Key": key("a", "2")}));
    both.call("DeleteItem", &json!({"TableName": "pair", "Key": key("a", "2")}));
    both.call(
        "TransactWriteItems",
        &json!({"TransactItems": [{"Delete": {"TableName": "pair", "Key": key("a", "3")}},
        {"Put": {"TableName": "pair", "Item": key("t", "1")}}]}),
    );
    both.call("UpdateTable", &json!({"TableName": "pair", "StreamSpecification": {"StreamEnabled": false}}));
    let read = |service: &Service| -> (Vec<Value>, Vec<Value>) {
        let streams = service.call("ListStreams", &json!({"TableName": "pair"})).body;
        let arn = &streams["Streams"][0]["StreamArn"];
        let description = service.call("DescribeStream", &json!({"StreamArn": arn})).body;
        let shard = &description["StreamDescription"]["Shards"][0]["ShardId"];
        let begin = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
        let mut iterator = service.call("GetShardIterator", &begin).body["ShardIterator"].clone();
        let mut records = Vec::new();
        while !iterator.is_null() {
            let page = service.call("GetRecords", &json!({"ShardIterator": iterator})).body;
            records.extend(page["Records"].as_array().unwrap().iter().map(|record| plain(record, "")));
            iterator = page["NextShardIterator"].clone();
        }
        let odd = [
            json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "AT_SEQUENCE_NUMBER"}),
            json!({"StreamArn": arn, "ShardId": "shardId-00000000000000000000-00000000", "ShardIteratorType": "TRIM_HORIZON"}),
            json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "LATEST"}),
        ];
        let mut answers: Vec<Value> =
            odd.iter().map(|body| outcome(&service.call("GetShardIterator", body), false)).collect();
        answers.push(outcome(&service.call("GetRecords", &json!({"ShardIterator": "nothing"})), false));
        answers.push(outcome(
            &service.call(
                "DescribeStream",
                &json!({"StreamArn": "arn:aws:dynamodb:us-east-1:000000000000:table/x/stream/2020-01-01T00:00:00.000"}),
            ),
            false,
        ));
        answers.push(plain(&description, ""));
        (records, answers)
    };
    let (ours, theirs) = (read(&both.ours), read(&both.theirs));
    assert_eq!(ours.0.len(), theirs.0.len());
    for (ours, theirs) in ours.0.iter().zip(&theirs.0).chain(ours.1.iter().zip(&theirs.1)) {
        if ours != theirs {
            both.different.push(format!("ours:   {ours}\n  theirs: {theirs}"));
        }
    }
    both.settled();
}
