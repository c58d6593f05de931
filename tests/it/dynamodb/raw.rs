//! Any table, untouched: every type of attribute, keys of each type, indexes and settings.

use driftless::kinds::dynamodb::{Access, DynamoStore, Role};
use driftless::model::{Batch, Layout, PartitionId, Position, Steps};
use driftless::store::Store as _;
use serde_json::{Value, json};

use crate::support::boto::{bytes, name, server};
use crate::support::program::Site;
use crate::support::scale::pick;

/// Teleport's table of audit events, with its index.
fn audit(table: &str) {
    server().call("create_table", &json!({
        "TableName": table,
        "AttributeDefinitions": [
            {"AttributeName": "SessionID", "AttributeType": "S"}, {"AttributeName": "EventIndex", "AttributeType": "N"},
            {"AttributeName": "CreatedAtDate", "AttributeType": "S"}, {"AttributeName": "CreatedAt", "AttributeType": "N"}],
        "KeySchema": [
            {"AttributeName": "SessionID", "KeyType": "HASH"}, {"AttributeName": "EventIndex", "KeyType": "RANGE"}],
        "GlobalSecondaryIndexes": [{
            "IndexName": "timesearchV2", "Projection": {"ProjectionType": "ALL"},
            "KeySchema": [
                {"AttributeName": "CreatedAtDate", "KeyType": "HASH"}, {"AttributeName": "CreatedAt", "KeyType": "RANGE"}],
            "ProvisionedThroughput": {"ReadCapacityUnits": 10, "WriteCapacityUnits": 12}}],
        "ProvisionedThroughput": {"ReadCapacityUnits": 10, "WriteCapacityUnits": 11},
    }));
    let expiry = json!({"Enabled": true, "AttributeName": "Expires"});
    server().call("update_time_to_live", &json!({"TableName": table, "TimeToLiveSpecification": expiry}));
}

fn event(n: usize) -> Value {
    json!({
        "SessionID": {"S": format!("session-{}", n / 7)}, "EventIndex": {"N": (n % 7).to_string()},
        "EventType": {"S": "user.login"}, "CreatedAt": {"N": (1_775_044_800 + n).to_string()},
        "CreatedAtDate": {"S": "2026-04-01"}, "EventNamespace": {"S": "default"},
        "FieldsMap": {"M": {"uid": {"S": format!("{n}")}, "deep": {"L": [{"M": {"n": {"N": "1.5"}}}]}}},
        "Expires": {"N": "1806580800"},
    })
}

/// An item with every type of attribute, the odd ones included.
fn everything() -> Vec<(&'static str, Value)> {
    let digits = "3.1415926535897932384626433832795028841";
    vec![
        ("text", json!({"S": "ÿ\u{1F511}"})),
        ("empty text", json!({"S": ""})),
        ("number", json!({"N": digits})),
        ("large", json!({"N": "9.9999999999999999999999999999999999999E+125"})),
        ("small", json!({"N": "-1E-130"})),
        ("bytes", bytes(&[0, 255, 10])),
        ("no bytes", bytes(b"")),
        ("true", json!({"BOOL": true})),
        ("null", json!({"NULL": true})),
        ("texts", json!({"SS": ["b", "a", ""]})),
        ("numbers", json!({"NS": ["-1", "1E2", digits]})),
        ("many bytes", json!({"BS": [{"bytes": "AP8="}, {"bytes": ""}]})),
        ("map", json!({"M": {"inner": {"M": {"list": {"L": [{"N": "0"}, {"NULL": true}, {"M": {}}, {"L": []}]}}}}})),
    ]
}

fn put(table: &str, items: &[Value]) {
    for part in items.chunks(25) {
        let requests: Vec<_> = part.iter().map(|item| json!({"PutRequest": {"Item": item}})).collect();
        let mut with = json!({"RequestItems": {}});
        with["RequestItems"][table] = json!(requests);
        server().call("batch_write_item", &with);
    }
}

fn keyed(keys: &Value) -> Value {
    let mut item = keys.clone();
    for (name, value) in everything() {
        item[name] = value;
    }
    item
}

/// Items as boto3 gives them, in an order of their own, sets in order, and numbers as they were written: DynamoDB Local gives those of maps back so.
fn sorted(table: &str) -> Vec<String> {
    fn plain(value: &mut Value) {
        match value {
            Value::Object(all) => {
                if let Some(Value::Array(set)) = all.get_mut("SS").or(None) {
                    set.sort_by_key(ToString::to_string);
                }
                for set in ["NS", "BS"] {
                    if let Some(Value::Array(set)) = all.get_mut(set) {
                        set.sort_by_key(ToString::to_string);
                    }
                }
                all.values_mut().for_each(plain);
            }
            Value::Array(all) => all.iter_mut().for_each(plain),
            _ => {}
        }
    }
    let mut items = server().items(table);
    items.iter_mut().for_each(plain);
    let mut all: Vec<String> = items.iter().map(ToString::to_string).collect();
    all.sort();
    all
}

fn site(hint: &str, from: &str, to: &str) -> Site {
    let raw = |table: &str| server().yaml(table).replace(" }", ", layout: raw }");
    Site::new(&format!("dynamodb-raw-{hint}"), &format!("src: {}\ndst: {}\nparallel: 4\n", raw(from), raw(to)))
}

#[test]
fn the_audit_table_is_copied_with_its_index_and_its_expiry() {
    let (from, to) = (name("events"), name("events"));
    audit(&from);
    put(&from, &(0..pick(1_000, 20_000)).map(event).collect::<Vec<_>>());
    let site = site("audit", &from, &to);
    site.done("clone", &[]);
    assert_eq!(sorted(&from), sorted(&to));
    let of = |table: &str| server().call("describe_table", &json!({"TableName": table}))["Table"].clone();
    let (source, made) = (of(&from), of(&to));
    for what in ["KeySchema", "AttributeDefinitions"] {
        let set = |table: &Value| {
            let mut all: Vec<_> = table[what].as_array().unwrap().iter().map(ToString::to_string).collect();
            all.sort();
            all
        };
        assert_eq!(set(&source), set(&made));
    }
    let index = &made["GlobalSecondaryIndexes"][0];
    assert_eq!(
        (&index["IndexName"], &index["Projection"]),
        (&json!("timesearchV2"), &json!({"ProjectionType": "ALL"}))
    );
    assert_eq!(index["ProvisionedThroughput"]["WriteCapacityUnits"], 12);
    assert_eq!(made["ProvisionedThroughput"]["WriteCapacityUnits"], 11);
    let expiry = server().call("describe_time_to_live", &json!({"TableName": to}));
    assert_eq!(expiry["TimeToLiveDescription"]["AttributeName"], "Expires");

    // What only the copy has goes with the next one, and what is missing comes back.
    let key = json!({"SessionID": {"S": "session-1"}, "EventIndex": {"N": "3"}});
    server().call("delete_item", &json!({"TableName": from, "Key": key}));
    server().call(
        "delete_item",
        &json!({"TableName": to, "Key": {"SessionID": {"S": "session-1"}, "EventIndex": {"N": "4"}}}),
    );
    let verified = site.run("verify", &["--json"]);
    assert_eq!(verified.code, Some(4), "{}", verified.stderr);
    assert_eq!((verified.json()["missing"].as_u64(), verified.json()["extra"].as_u64()), (Some(1), Some(1)));
    site.done("clone", &[]);
    assert_eq!(sorted(&from), sorted(&to));
    assert_eq!(site.done("verify", &[])["equal"], true);
}

#[test]
fn every_type_of_attribute_and_of_key_comes_through() {
    for (kind, keys) in [
        ("S", vec![json!({"k": {"S": "ÿ"}}), json!({"k": {"S": "\0"}})]),
        ("N", vec![json!({"k": {"N": "-12.50"}}), json!({"k": {"N": "1E100"}}), json!({"k": {"N": "0"}})]),
        ("B", vec![json!({"k": bytes(&[0])}), json!({"k": bytes(&[255, 0])})]),
    ] {
        let (from, to) = (name("types"), name("types"));
        server().call(
            "create_table",
            &json!({
                "TableName": from, "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": kind}],
                "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
            }),
        );
        put(&from, &keys.iter().map(keyed).collect::<Vec<_>>());
        let site = site(&format!("types-{kind}"), &from, &to);
        site.done("clone", &[]);
        assert_eq!(sorted(&to).len(), keys.len());
        assert_eq!(sorted(&from), sorted(&to));
        assert_eq!(site.done("verify", &[])["equal"], true);
        // One digit more or less is a difference.
        let mut other = keyed(&keys[0]);
        other["number"] = json!({"N": "3.141592653589793238462643383279502884"});
        put(&to, &[other]);
        assert_eq!(site.run("verify", &[]).code, Some(4));
    }
}

#[test]
fn a_destination_with_another_key_is_refused() {
    let (from, to) = (name("events"), name("other"));
    audit(&from);
    put(&from, &[event(1)]);
    server().teleport(&to);
    let refused = site("other-key", &from, &to).run("clone", &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("its key is HashKey (S), FullPath (S)"), "{}", refused.stderr);
    assert!(server().items(&to).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_segments_goes_on_behind_any_row_and_sees_each_once() {
    let table = name("events");
    let all = tokio::task::spawn_blocking({
        let table = table.clone();
        move || {
            audit(&table);
            put(&table, &(0..400).map(event).collect::<Vec<_>>());
        }
    });
    all.await.unwrap();
    let mut options = server().options(Role::Source, &table);
    options.layout = Layout::Raw;
    let mut seen = std::collections::BTreeSet::new();
    // A new store for each page is a process that was restarted.
    let ranges = DynamoStore::new(&Access::new(&options)).ranges(4).await.unwrap();
    for range in ranges {
        let mut after = Position::Start;
        while after != Position::End {
            let store = DynamoStore::new(&Access::new(&options));
            let range = store.range(&range.name).await.unwrap();
            let mut page = Batch::unpooled();
            page.begin(&PartitionId::new("!scan"), after.clone(), Steps::Key);
            let page = store.scan(&range, &after, page, 3_000).await.unwrap();
            assert_eq!(page.steps, Steps::Cursor);
            assert!(*page.upto() > after, "a page moves");
            after = page.upto().clone();
            for row in page.rows() {
                assert!(seen.insert(row.key.to_vec()), "a row is seen once");
            }
        }
    }
    assert_eq!(seen.len(), 400);
}
