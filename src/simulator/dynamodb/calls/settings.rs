//! What a table has beside its items: expiry, point-in-time recovery, tags.

use serde_json::{Value as Json, json};

use super::super::fail::{Failure, Result};
use super::super::input::Input;
use super::super::table::{Table, seconds};
use super::super::world::World;

fn table<'a>(world: &'a mut World, input: &Input<'_>) -> Result<&'a mut Table> {
    world.admit("control", 0)?;
    let name = world.table(input.required_text("TableName")?)?.name.clone();
    Ok(world.tables.get_mut(&name).expect("the table was looked up"))
}

/// UpdateTimeToLive.
pub fn update_ttl(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let table = table(world, input)?;
    input.required("TimeToLiveSpecification")?;
    let Some(asked) = input.part("TimeToLiveSpecification")? else { return Ok(json!({})) };
    let attribute = asked.required_text("AttributeName")?;
    match (asked.flag("Enabled")?, &table.ttl) {
        (true, Some(_)) => return Err(Failure::invalid("TimeToLive is already enabled")),
        (false, None) => return Err(Failure::invalid("TimeToLive is already disabled")),
        (false, Some(other)) if other != attribute => {
            return Err(Failure::invalid(format!(
                "TimeToLive is active on a different AttributeName: current AttributeName is {other}"
            )));
        }
        (true, None) => table.expire_by(Some(attribute.to_owned())),
        (false, Some(_)) => table.expire_by(None),
    }
    Ok(json!({ "TimeToLiveSpecification": { "AttributeName": attribute, "Enabled": table.ttl.is_some() } }))
}

/// DescribeTimeToLive.
pub fn describe_ttl(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let table = table(world, input)?;
    Ok(json!({ "TimeToLiveDescription": match &table.ttl {
        Some(attribute) => json!({ "TimeToLiveStatus": "ENABLED", "AttributeName": attribute }),
        None => json!({ "TimeToLiveStatus": "DISABLED" }),
    } }))
}

fn backups(table: &Table, now: u64) -> Json {
    let recovery = match table.recovery {
        Some(since) => json!({
            "PointInTimeRecoveryStatus": "ENABLED",
            "RecoveryPeriodInDays": 35,
            "EarliestRestorableDateTime": seconds(since),
            "LatestRestorableDateTime": seconds(now),
        }),
        None => json!({ "PointInTimeRecoveryStatus": "DISABLED" }),
    };
    json!({ "ContinuousBackupsDescription": {
        "ContinuousBackupsStatus": "ENABLED",
        "PointInTimeRecoveryDescription": recovery,
    } })
}

/// DescribeContinuousBackups.
pub fn describe_backups(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let now = world.now;
    Ok(backups(table(world, input)?, now))
}

/// UpdateContinuousBackups.
pub fn update_backups(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let now = world.now;
    let table = table(world, input)?;
    input.required("PointInTimeRecoverySpecification")?;
    let asked = input.part("PointInTimeRecoverySpecification")?;
    let on = asked.map_or(Ok(false), |asked| asked.flag("PointInTimeRecoveryEnabled"))?;
    table.recovery = if on { table.recovery.or(Some(now)) } else { None };
    Ok(backups(table, now))
}

fn tagged<'a>(world: &'a mut World, input: &Input<'_>) -> Result<&'a mut Table> {
    world.admit("control", 0)?;
    let name = world.table(input.required_text("ResourceArn")?)?.name.clone();
    Ok(world.tables.get_mut(&name).expect("the table was looked up"))
}

/// TagResource.
pub fn tag(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let table = tagged(world, input)?;
    for tag in input.list("Tags")? {
        let tag = Input::new(tag)?;
        table.tags.insert(tag.required_text("Key")?.to_owned(), tag.required_text("Value")?.to_owned());
    }
    Ok(json!({}))
}

/// UntagResource.
pub fn untag(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let table = tagged(world, input)?;
    for key in input.list("TagKeys")?.iter().filter_map(Json::as_str) {
        table.tags.remove(key);
    }
    Ok(json!({}))
}

/// ListTagsOfResource.
pub fn list_tags(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let table = tagged(world, input)?;
    let tags: Json = table.tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
    Ok(json!({ "Tags": tags }))
}

/// DescribeLimits.
pub fn limits(world: &mut World, _: &Input<'_>) -> Result<Json> {
    world.admit("control", 0)?;
    Ok(json!({
        "AccountMaxReadCapacityUnits": 80_000, "AccountMaxWriteCapacityUnits": 80_000,
        "TableMaxReadCapacityUnits": 40_000, "TableMaxWriteCapacityUnits": 40_000,
    }))
}

/// DescribeEndpoints.
pub fn endpoints(world: &mut World, _: &Input<'_>) -> Result<Json> {
    world.admit("control", 0)?;
    let address = format!("dynamodb.{}.amazonaws.com", world.options.region);
    Ok(json!({ "Endpoints": [{ "Address": address, "CachePeriodInMinutes": 1440 }] }))
}
