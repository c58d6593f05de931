//! The calls, by the names that requests give them.

mod batch;
mod query;
mod read;
mod settings;
mod streams;
mod tables;
mod transact;
mod write;

use serde_json::Value as Json;

use super::fail::Result;
use super::input::Input;
use super::world::World;

/// A call: reads its parameters, changes the world, gives its answer.
pub type Call = fn(&mut World, &Input<'_>) -> Result<Json>;

const TABLES: &[(&str, Call)] = &[
    ("BatchGetItem", batch::get),
    ("BatchWriteItem", batch::write),
    ("CreateTable", tables::create),
    ("DeleteItem", write::delete_item),
    ("DeleteTable", tables::delete),
    ("DescribeContinuousBackups", settings::describe_backups),
    ("DescribeEndpoints", settings::endpoints),
    ("DescribeLimits", settings::limits),
    ("DescribeTable", tables::describe),
    ("DescribeTimeToLive", settings::describe_ttl),
    ("GetItem", read::get_item),
    ("ListTables", tables::list),
    ("ListTagsOfResource", settings::list_tags),
    ("PutItem", write::put_item),
    ("Query", query::query),
    ("Scan", query::scan),
    ("TagResource", settings::tag),
    ("TransactGetItems", transact::get),
    ("TransactWriteItems", transact::write),
    ("UntagResource", settings::untag),
    ("UpdateContinuousBackups", settings::update_backups),
    ("UpdateItem", write::update_item),
    ("UpdateTable", tables::update),
    ("UpdateTimeToLive", settings::update_ttl),
];

const STREAMS: &[(&str, Call)] = &[
    ("DescribeStream", streams::describe),
    ("GetRecords", streams::records),
    ("GetShardIterator", streams::iterator),
    ("ListStreams", streams::list),
];

/// The call that a target names.
pub fn find(target: &str) -> Option<Call> {
    let (service, name) = target.split_once('.')?;
    let calls = match service {
        "DynamoDB_20120810" => TABLES,
        "DynamoDBStreams_20120810" => STREAMS,
        _ => return None,
    };
    calls.iter().find(|(known, _)| *known == name).map(|(_, call)| *call)
}
