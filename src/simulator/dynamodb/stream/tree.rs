//! What DescribeStream tells of the lineage, which may be behind.
//!
//! With a lag, each shard's begin and end become known at a time of its own within the lag; some closed shards are missing
//! altogether for a while. So a listing can have a child beside an open parent, a child whose parent is missing, or a parent that
//! has ended without children. After the lag it is right. The order of a listing says nothing about age.

use super::super::chance::{hash, mix};
use super::super::options::Options;
use super::Stream;
use super::shard::Shard;

/// A shard as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub id: String,
    /// The shard that it follows.
    pub parent: Option<String>,
    /// Its first sequence number.
    pub start: u128,
    /// Its last, if it is known to have ended.
    pub end: Option<u128>,
}

/// The place of a shard in listings.
pub fn rank(id: &str) -> (u64, &str) {
    (hash(id.as_bytes()), id)
}

fn seen(shard: &Shard, now: u64, options: &Options) -> Option<View> {
    let chance = |what: u64| mix(options.seed ^ hash(shard.id.as_bytes()) ^ what);
    let lag = |what: u64| chance(what) % (options.tree_lag_milliseconds + 1);
    if shard.parent.is_some() && now < shard.opened + lag(1) {
        return None;
    }
    let missing = |closed: u64| chance(2).is_multiple_of(4) && now < closed + lag(3);
    if shard.closed.is_some_and(|closed| missing(closed.at)) {
        return None;
    }
    let end = shard.closed.filter(|closed| now >= closed.at + lag(4)).map(|closed| closed.sequence);
    Some(View { id: shard.id.clone(), parent: shard.parent.clone(), start: shard.start, end })
}

/// The shards that are listed now, those of one parent or all, behind a shard that a page ended with.
pub fn listing(stream: &Stream, parent: Option<&str>, after: Option<&str>, now: u64, options: &Options) -> Vec<View> {
    let wanted = |shard: &&Shard| {
        parent.is_none_or(|parent| shard.parent.as_deref() == Some(parent))
            && after.is_none_or(|after| rank(&shard.id) > rank(after))
    };
    let mut views: Vec<View> =
        stream.shards.iter().filter(wanted).filter_map(|shard| seen(shard, now, options)).collect();
    views.sort_by(|a, b| rank(&a.id).cmp(&rank(&b.id)));
    views
}
