//! ListStreams, DescribeStream, GetShardIterator, GetRecords.

use serde_json::{Map, Value as Json, json};

use super::super::fail::{Failure, Kind, Result};
use super::super::faults::Fault;
use super::super::input::Input;
use super::super::stream::{From, Record, Shard, Stream, Token, View, listing};
use super::super::table::seconds;
use super::super::wire;
use super::super::world::World;

/// LIMIT: shards or streams in a page, as documented.
const PAGE: u64 = 100;
/// LIMIT: records in a page, as documented.
const RECORDS: u64 = 1000;
/// LIMIT: bytes in a page, as documented.
const BYTES: usize = 1 << 20;

fn stream<'a>(world: &'a World, arn: &str) -> Result<&'a Stream> {
    world.streams.get(arn).ok_or_else(|| {
        Failure::new(Kind::ResourceNotFound, format!("Requested resource not found: Stream: {arn} not found"))
    })
}

fn size(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// ListStreams.
pub fn list(world: &mut World, input: &Input<'_>) -> Result<Json> {
    world.admit("ListStreams", 0)?;
    let limit = input.number("Limit", 1, PAGE)?.unwrap_or(PAGE);
    let table = input.text("TableName")?;
    let after = input.text("ExclusiveStartStreamArn")?.unwrap_or_default();
    let wanted = |stream: &&Stream| table.is_none_or(|table| stream.table == table) && stream.arn.as_str() > after;
    let mut found = world.streams.values().filter(wanted);
    let page: Vec<&Stream> = found.by_ref().take(size(limit)).collect();
    let mut answer = Map::new();
    if let (Some(last), Some(_)) = (page.last(), found.next()) {
        answer.insert("LastEvaluatedStreamArn".into(), last.arn.as_str().into());
    }
    let one =
        |stream: &&Stream| json!({ "StreamArn": stream.arn, "TableName": stream.table, "StreamLabel": stream.label });
    answer.insert("Streams".into(), page.iter().map(one).collect());
    Ok(Json::Object(answer))
}

fn shard(view: &View) -> Json {
    let mut range = json!({ "StartingSequenceNumber": view.start.to_string() });
    if let Some(end) = view.end {
        range["EndingSequenceNumber"] = end.to_string().into();
    }
    let mut json = json!({ "ShardId": view.id, "SequenceNumberRange": range });
    if let Some(parent) = &view.parent {
        json["ParentShardId"] = parent.as_str().into();
    }
    json
}

/// DescribeStream.
pub fn describe(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let limit = world.options.describe_stream_per_second;
    world.admit("DescribeStream", limit)?;
    let stream = stream(world, input.required_text("StreamArn")?)?;
    let limit = input.number("Limit", 1, PAGE)?.unwrap_or(PAGE);
    let filter = input.part("ShardFilter")?;
    let parent = match filter {
        None => None,
        Some(filter) => match filter.text("Type")? {
            Some("CHILD_SHARDS") => Some(filter.required_text("ShardId")?),
            other => {
                return Err(Failure::invalid(format!(
                    "1 validation error detected: Value '{}' at 'shardFilter.type' failed to satisfy constraint: Member must \
                     satisfy enum value set: [CHILD_SHARDS]",
                    other.unwrap_or("null")
                )));
            }
        },
    };
    let after = input.text("ExclusiveStartShardId")?;
    let mut views = listing(stream, parent, after, world.now, &world.options);
    let more = views.len() > size(limit);
    views.truncate(size(limit));
    let table = world.tables.get(&stream.table);
    let keys: Vec<Json> = stream
        .schema
        .attributes()
        .zip(["HASH", "RANGE"])
        .map(|(key, role)| json!({ "AttributeName": key.name, "KeyType": role }))
        .collect();
    debug_assert!(table.is_none_or(|table| table.name == stream.table));
    let mut description = json!({
        "StreamArn": stream.arn,
        "StreamLabel": stream.label,
        "StreamStatus": if stream.ended.is_some() { "DISABLED" } else { "ENABLED" },
        "StreamViewType": stream.view,
        "CreationRequestDateTime": seconds(stream.created),
        "TableName": stream.table,
        "KeySchema": keys,
        "Shards": views.iter().map(shard).collect::<Vec<_>>(),
    });
    if let Some(last) = views.last().filter(|_| more) {
        description["LastEvaluatedShardId"] = last.id.as_str().into();
    }
    Ok(json!({ "StreamDescription": description }))
}

fn trimmed() -> Failure {
    Failure::new(
        Kind::TrimmedDataAccess,
        "The operation attempted to read past the oldest stream record in a shard: the requested sequence number is older than \
         the trim horizon",
    )
}

/// Where a GetShardIterator begins.
fn begin(world: &World, shard: &Shard, input: &Input<'_>) -> Result<From> {
    let kind = input.required_text("ShardIteratorType")?;
    let oldest = shard.trimmed.map_or(From::At(shard.start), From::After);
    match kind {
        "TRIM_HORIZON" => return Ok(oldest),
        "LATEST" => return Ok(From::After(shard.newest(world.now))),
        "AT_SEQUENCE_NUMBER" | "AFTER_SEQUENCE_NUMBER" => {}
        other => {
            return Err(Failure::invalid(format!(
                "1 validation error detected: Value '{other}' at 'shardIteratorType' failed to satisfy constraint: Member must \
                 satisfy enum value set: [AFTER_SEQUENCE_NUMBER, LATEST, AT_SEQUENCE_NUMBER, TRIM_HORIZON]"
            )));
        }
    }
    let text = input
        .text("SequenceNumber")?
        .ok_or_else(|| Failure::invalid(format!("ShardIteratorType {kind} requires a SequenceNumber")))?;
    let wrong = || Failure::invalid(format!("Invalid SequenceNumber: {text} is not one of shard {}", shard.id));
    if !(21..=40).contains(&text.len()) {
        return Err(Failure::invalid(format!(
            "1 validation error detected: Value '{text}' at 'sequenceNumber' failed to satisfy constraint: Member must have \
             length between 21 and 40"
        )));
    }
    let sequence: u128 = text.parse().map_err(|_| wrong())?;
    if !shard.covers(sequence) {
        return Err(wrong());
    }
    if shard.trimmed.is_some_and(|trimmed| sequence <= trimmed) {
        return Err(trimmed());
    }
    Ok(if kind == "AT_SEQUENCE_NUMBER" { From::At(sequence) } else { From::After(sequence) })
}

/// GetShardIterator.
pub fn iterator(world: &mut World, input: &Input<'_>) -> Result<Json> {
    world.admit("GetShardIterator", 0)?;
    let arn = input.required_text("StreamArn")?;
    let id = input.required_text("ShardId")?;
    let stream = stream(world, arn)?;
    let shard = stream
        .shard(id)
        .ok_or_else(|| Failure::new(Kind::ResourceNotFound, "Requested resource not found: Shard does not exist"))?;
    let from = begin(world, shard, input)?;
    if world.fault == Some(Fault::TrimmedData) {
        return Err(trimmed());
    }
    let (stream, shard) = (arn.to_owned(), id.to_owned());
    let token = Token { stream, shard, from, issued: world.now, reader: world.chance.next() };
    Ok(json!({ "ShardIterator": token.text() }))
}

fn record(stream: &Stream, record: &Record, region: &str) -> Json {
    let mut dynamodb = json!({
        // Whole seconds: the service says "approximate" and means it.
        "ApproximateCreationDateTime": record.at / 1000,
        "Keys": wire::item_json(&record.keys),
        "SequenceNumber": record.sequence.to_string(),
        "SizeBytes": record.size,
        "StreamViewType": stream.view,
    });
    if let Some(item) = &record.new {
        dynamodb["NewImage"] = wire::item_json(item);
    }
    if let Some(item) = &record.old {
        dynamodb["OldImage"] = wire::item_json(item);
    }
    let mut json = json!({
        "eventID": format!("{:016x}{:016x}", record.id.0, record.id.1),
        "eventName": record.event,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": region,
        "dynamodb": dynamodb,
    });
    if record.by_service {
        json["userIdentity"] = json!({ "PrincipalId": "dynamodb.amazonaws.com", "Type": "Service" });
    }
    json
}

/// The iterator of a GetRecords, once it was found to be usable.
fn usable(world: &World, text: &str) -> Result<Token> {
    let token = Token::parse(text).ok_or_else(|| Failure::invalid("Invalid ShardIterator"))?;
    let life = world.options.iterator_seconds * 1000;
    if token.issued + life <= world.now || world.fault == Some(Fault::ExpiredIterator) {
        return Err(Failure::new(
            Kind::ExpiredIterator,
            "The shard iterator has expired and can no longer be used to retrieve stream records",
        ));
    }
    Ok(token)
}

/// GetRecords.
pub fn records(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let limit = input.number("Limit", 1, RECORDS)?.unwrap_or(RECORDS);
    let token = usable(world, input.required_text("ShardIterator")?)?;
    let (now, fault) = (world.now, world.fault);
    let (readers, calls) = (world.options.readers_per_shard, world.options.get_records_per_second);
    let gone = || Failure::new(Kind::ResourceNotFound, "Invalid ShardId in ShardIterator");
    stream(world, &token.stream)?;
    let shard =
        world.streams.get_mut(&token.stream).and_then(|stream| stream.shard_mut(&token.shard)).ok_or_else(gone)?;
    if fault == Some(Fault::Throttle) {
        return Err(Failure::new(Kind::LimitExceeded, "Rate exceeded for shard"));
    }
    let admitted = shard.readers.call(token.reader, now, readers, calls);
    admitted.map_err(|why| Failure::new(Kind::LimitExceeded, why))?;
    let next = match token.from {
        From::At(sequence) => sequence,
        From::After(sequence) => sequence + 1,
    };
    if fault == Some(Fault::TrimmedData) || shard.trimmed.is_some_and(|trimmed| next <= trimmed) {
        return Err(trimmed());
    }
    let limit = match fault {
        Some(Fault::EmptyPage) => 0,
        Some(Fault::ShortPage) => size(limit).min(3),
        _ => size(limit),
    };
    let stream = stream(world, &token.stream)?;
    let shard = stream.shard(&token.shard).ok_or_else(gone)?;
    let from = shard.records.partition_point(|record| record.sequence < next);
    let mut bytes = 0;
    let mut page: Vec<&Record> = Vec::new();
    for one in shard.records.range(from..).take_while(|record| record.visible <= now).take(limit) {
        // A record larger than a page comes alone.
        if bytes + one.size > BYTES && !page.is_empty() {
            break;
        }
        bytes += one.size;
        page.push(one);
    }
    let ended = shard.closed.is_some() && from + page.len() == shard.records.len();
    let mut answer = Map::new();
    let region = &world.options.region;
    answer.insert("Records".into(), page.iter().map(|one| record(stream, one, region)).collect());
    // The last page of a closed shard may have records: that there is no next iterator is its only sign.
    if !ended || fault == Some(Fault::EmptyPage) {
        let from = page.last().map_or(token.from, |one| From::After(one.sequence));
        let next = Token { from, issued: now, ..token };
        answer.insert("NextShardIterator".into(), next.text().into());
    }
    Ok(Json::Object(answer))
}
