//! Tables: CreateTable, DescribeTable, UpdateTable, DeleteTable, ListTables; and the streams that they switch on and off.

use serde_json::{Map, Value as Json, json};

use super::super::chance::{hash, mix};
use super::super::fail::{Failure, Kind, Result};
use super::super::input::Input;
use super::super::stream::Stream;
use super::super::table::{created, describe as description, view_type};
use super::super::world::World;

/// LIMIT: names in a page of ListTables, as documented.
const NAMES: u64 = 100;

/// Milliseconds as a stream's label has them: `2026-04-01T12:00:00.123`.
fn label(now: u64) -> String {
    let time = i64::try_from(now).ok().and_then(|now| jiff::Timestamp::from_millisecond(now).ok()).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S").to_string() + &format!(".{:03}", now % 1000)
}

fn arn(world: &World, table: &str) -> String {
    format!("arn:aws:dynamodb:{}:{}:table/{table}", world.options.region, world.options.account)
}

/// The table's description, as it is now.
fn shown(world: &World, name: &str) -> Json {
    let table = &world.tables[name];
    let view = table.stream.as_ref().and_then(|arn| world.streams.get(arn)).map(|stream| stream.view.as_str());
    description(table, view, world.now)
}

fn missing(name: &str) -> Failure {
    Failure::new(Kind::ResourceNotFound, format!("Requested resource not found: Table: {name} not found"))
}

/// The name of the table that a request means.
fn name<'a>(world: &World, input: &Input<'a>) -> Result<&'a str> {
    let name = input.required_text("TableName")?;
    let short = name.rsplit_once(":table/").map_or(name, |(_, short)| short);
    if world.tables.contains_key(short) { Ok(short) } else { Err(missing(short)) }
}

fn stream_on(world: &mut World, name: &str, view: &str) {
    let now = world.now;
    let mut at = now;
    // A stream's name is the time at which it was switched on; two in one millisecond still differ.
    let mut full = format!("{}/stream/{}", arn(world, name), label(at));
    while world.streams.contains_key(&full) {
        at += 1;
        full = format!("{}/stream/{}", arn(world, name), label(at));
    }
    let schema = world.tables[name].schema.clone();
    let stream = Stream::new(full.clone(), name, schema, view, now, &world.options, &mut world.chance);
    world.streams.insert(full.clone(), stream);
    let table = world.tables.get_mut(name).expect("the table was looked up");
    table.stream = Some(full.clone());
    table.latest_stream = Some(full);
}

fn stream_off(world: &mut World, name: &str) {
    let table = world.tables.get_mut(name).expect("the table was looked up");
    let Some(arn) = table.stream.take() else { return };
    if let Some(stream) = world.streams.get_mut(&arn) {
        stream.end(world.now, &mut world.chance);
    }
}

/// CreateTable.
pub fn create(world: &mut World, input: &Input<'_>) -> Result<Json> {
    world.admit("control", 0)?;
    let mut table = created(input)?;
    let view = view_type(input)?.flatten();
    let name = table.name.clone();
    if world.tables.contains_key(&name) {
        return Err(Failure::new(Kind::ResourceInUse, format!("Table already exists: {name}")));
    }
    table.arn = arn(world, &name);
    table.id = {
        let (a, b) = (mix(hash(name.as_bytes()) ^ world.now), world.chance.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            a >> 32,
            a >> 16 & 0xffff,
            a & 0xfff,
            b >> 52,
            b & 0xffff_ffff_ffff
        )
    };
    table.created = world.now;
    table.busy = (world.now + world.options.table_delay_milliseconds, "CREATING");
    table.ttl_delay = (world.options.ttl_delay_seconds, world.options.seed);
    world.tables.insert(name.clone(), table);
    if let Some(view) = view {
        stream_on(world, &name, &view);
    }
    let mut json = shown(world, &name);
    json["TableStatus"] = "CREATING".into();
    Ok(json!({ "TableDescription": json }))
}

/// DescribeTable.
pub fn describe(world: &mut World, input: &Input<'_>) -> Result<Json> {
    world.admit("control", 0)?;
    let name = name(world, input)?;
    Ok(json!({ "Table": shown(world, name) }))
}

/// UpdateTable: stream, billing, protection. Indexes are not changed.
pub fn update(world: &mut World, input: &Input<'_>) -> Result<Json> {
    world.admit("control", 0)?;
    let name = name(world, input)?;
    if input.json("GlobalSecondaryIndexUpdates").is_some() || input.json("ReplicaUpdates").is_some() {
        return Err(Failure::invalid("the simulator changes neither indexes nor replicas of a table that exists"));
    }
    if world.tables[name].busy.0 > world.now {
        return Err(Failure::new(
            Kind::ResourceInUse,
            format!("Attempt to change a resource which is still in use: Table is being updated: {name}"),
        ));
    }
    match view_type(input)? {
        Some(Some(_)) if world.tables[name].stream.is_some() => {
            return Err(Failure::parameter(format!("Table already has an enabled stream: TableName: {name}")));
        }
        Some(None) if world.tables[name].stream.is_none() => {
            return Err(Failure::parameter(format!("Table has no stream to disable: TableName: {name}")));
        }
        Some(Some(view)) => stream_on(world, name, &view),
        Some(None) => stream_off(world, name),
        None => {}
    }
    let busy = world.now + world.options.table_delay_milliseconds;
    let table = world.tables.get_mut(name).expect("the table was looked up");
    if input.json("DeletionProtectionEnabled").is_some() {
        table.protected = input.flag("DeletionProtectionEnabled")?;
    }
    match (input.text("BillingMode")?, input.json("ProvisionedThroughput")) {
        (Some("PAY_PER_REQUEST"), _) => table.throughput = None,
        (_, Some(units)) => table.throughput = Some(units.clone()),
        _ => {}
    }
    table.busy = (busy, "UPDATING");
    let mut json = shown(world, name);
    json["TableStatus"] = "UPDATING".into();
    Ok(json!({ "TableDescription": json }))
}

/// DeleteTable.
pub fn delete(world: &mut World, input: &Input<'_>) -> Result<Json> {
    world.admit("control", 0)?;
    let name = name(world, input)?;
    if world.tables[name].protected {
        return Err(Failure::invalid(format!(
            "Resource cannot be deleted as it is currently protected against deletion. Disable deletion protection first: {name}"
        )));
    }
    let mut json = shown(world, name);
    json["TableStatus"] = "DELETING".into();
    stream_off(world, name);
    world.tables.remove(name);
    Ok(json!({ "TableDescription": json }))
}

/// ListTables.
pub fn list(world: &mut World, input: &Input<'_>) -> Result<Json> {
    world.admit("control", 0)?;
    let limit = input.number("Limit", 1, NAMES)?.unwrap_or(NAMES);
    let after = input.text("ExclusiveStartTableName")?.unwrap_or_default();
    let mut names = world.tables.keys().filter(|name| name.as_str() > after);
    let page: Vec<&String> = names.by_ref().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect();
    let mut answer = Map::new();
    if let (Some(last), Some(_)) = (page.last(), names.next()) {
        answer.insert("LastEvaluatedTableName".into(), last.as_str().into());
    }
    answer.insert("TableNames".into(), json!(page));
    Ok(Json::Object(answer))
}
