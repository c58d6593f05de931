//! A table as DescribeTable tells of it.

use serde_json::{Value as Json, json};

use super::schema::Schema;
use super::{Index, Table};

fn key_schema(schema: &Schema) -> Json {
    let roles = ["HASH", "RANGE"];
    schema.attributes().zip(roles).map(|(key, role)| json!({ "AttributeName": key.name, "KeyType": role })).collect()
}

/// Milliseconds as the protocol writes a time: seconds, with a fraction.
pub fn seconds(milliseconds: u64) -> Json {
    let seconds = milliseconds as f64 / 1000.0;
    json!(seconds)
}

fn throughput(units: Option<&Json>) -> Json {
    let unit = |name: &str| units.map_or(json!(0), |units| units[name].clone());
    json!({
        "NumberOfDecreasesToday": 0,
        "ReadCapacityUnits": unit("ReadCapacityUnits"),
        "WriteCapacityUnits": unit("WriteCapacityUnits"),
    })
}

fn index(table: &Table, index: &Index) -> Json {
    let held = table.items(None).filter(|(_, item)| index.schema.index_key(item).is_some()).count();
    let mut json = json!({
        "IndexName": index.name,
        "IndexArn": format!("{}/index/{}", table.arn, index.name),
        "KeySchema": key_schema(&index.schema),
        "Projection": index.projection,
        "IndexSizeBytes": 0,
        "ItemCount": held,
    });
    if !index.local {
        json["IndexStatus"] = "ACTIVE".into();
        json["ProvisionedThroughput"] = throughput(index.throughput.as_ref());
    }
    json
}

/// The table's description, with the view type of its stream if that is on.
pub fn describe(table: &Table, view: Option<&str>, now: u64) -> Json {
    let status = if now < table.busy.0 { table.busy.1 } else { "ACTIVE" };
    let mut json = json!({
        "TableName": table.name,
        "TableArn": table.arn,
        "TableId": table.id,
        "TableStatus": status,
        "CreationDateTime": seconds(table.created),
        "AttributeDefinitions": table.definitions,
        "KeySchema": key_schema(&table.schema),
        "ItemCount": table.len(),
        "TableSizeBytes": table.bytes,
        "ProvisionedThroughput": throughput(table.throughput.as_ref()),
        "DeletionProtectionEnabled": table.protected,
    });
    if table.throughput.is_none() {
        json["BillingModeSummary"] = json!({
            "BillingMode": "PAY_PER_REQUEST",
            "LastUpdateToPayPerRequestDateTime": seconds(table.created),
        });
    }
    if let Some(stream) = &table.latest_stream {
        json["LatestStreamArn"] = stream.as_str().into();
        json["LatestStreamLabel"] = stream.rsplit('/').next().unwrap_or_default().into();
    }
    if let Some(view) = view {
        json["StreamSpecification"] = json!({ "StreamEnabled": true, "StreamViewType": view });
    }
    for (name, local) in [("GlobalSecondaryIndexes", false), ("LocalSecondaryIndexes", true)] {
        let list: Vec<Json> = table.indexes.iter().filter(|i| i.local == local).map(|i| index(table, i)).collect();
        if !list.is_empty() {
            json[name] = list.into();
        }
    }
    json
}
