//! A stream: shards that follow each other, and the records in them.
//!
//! Invariants: each hash of a key lies in one open shard; a shard's records have growing sequence numbers, within the shard's
//! range; a shard ends in the same instant in which its children begin, so that a key's records are in order along the lineage
//! and nowhere else. What a reader may see of that, and when, is said by `tree` and by each record's own time.

mod lineage;
mod shard;
mod token;
mod tree;

#[cfg(test)]
mod tests;

pub use shard::{Record, Shard};
pub use token::{From, Token};
pub use tree::{View, listing};

use std::collections::BTreeSet;
use std::sync::Arc;

use super::chance::Chance;
use super::options::Options;
use super::table::Schema;
use super::value::{Item, item_size};

/// A stream of a table.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its resource name.
    pub arn: String,
    /// The part of that which distinguishes it: when it was switched on.
    pub label: String,
    /// Its table.
    pub table: String,
    /// The table's key.
    pub schema: Schema,
    /// What its records hold.
    pub view: String,
    /// When it was switched on, in milliseconds.
    pub created: u64,
    /// When it was switched off.
    pub ended: Option<u64>,
    /// Its shards, oldest first, without those that are gone.
    pub shards: Vec<Shard>,
    /// Records ever written.
    pub written: u64,
    last: u128,
    trimmed_at: u64,
}

/// A change of an item.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key's hash, which decides about the shard.
    pub token: u64,
    /// The key.
    pub keys: Item,
    /// The item before.
    pub old: Option<Arc<Item>>,
    /// The item after.
    pub new: Option<Arc<Item>>,
    /// Whether the service deleted it for its age.
    pub by_service: bool,
}

impl Stream {
    /// A new stream with its first shards.
    pub fn new(
        arn: String,
        table: &str,
        schema: Schema,
        view: &str,
        now: u64,
        options: &Options,
        chance: &mut Chance,
    ) -> Self {
        let label = arn.rsplit('/').next().unwrap_or_default().to_owned();
        let mut stream = Self {
            arn,
            label,
            table: table.to_owned(),
            schema,
            view: view.to_owned(),
            created: now,
            ended: None,
            shards: Vec::new(),
            written: 0,
            // Just below a number with one digit more: numbers of a stream have different lengths, as the service's have.
            last: 99_999_999_999_999_999_900_000 + u128::from(chance.below(50_000)),
            trimmed_at: 0,
        };
        stream.begin(options.shards.max(1), now, options, chance);
        stream
    }

    /// The next sequence number.
    fn sequence(&mut self, chance: &mut Chance) -> u128 {
        self.last += u128::from(1 + chance.below(1000));
        self.last
    }

    /// Whether DescribeStream and ListStreams still know it.
    pub fn is_gone(&self, now: u64, options: &Options) -> bool {
        self.ended.is_some_and(|ended| ended + options.retention_seconds * 1000 <= now)
    }

    /// Writes a record of a change.
    pub fn append(&mut self, change: Change, now: u64, options: &Options, chance: &mut Chance) {
        let sequence = self.sequence(chance);
        let late = chance.below(options.late_milliseconds + 1);
        let (keeps_new, keeps_old) = match self.view.as_str() {
            "NEW_IMAGE" => (true, false),
            "OLD_IMAGE" => (false, true),
            "NEW_AND_OLD_IMAGES" => (true, true),
            _ => (false, false),
        };
        let event = match (&change.old, &change.new) {
            (None, _) => "INSERT",
            (Some(_), Some(_)) => "MODIFY",
            (Some(_), None) => "REMOVE",
        };
        let new = change.new.filter(|_| keeps_new);
        let old = change.old.filter(|_| keeps_old);
        let size =
            item_size(&change.keys) + [&new, &old].into_iter().flatten().map(|item| item_size(item)).sum::<usize>();
        let id = (chance.next(), chance.next());
        let shard = self.open_shard(change.token);
        // Within a shard nothing is seen before what was written before it.
        let visible = (now + late).max(shard.records.back().map_or(0, |record| record.visible));
        let record = Record {
            sequence,
            at: now,
            visible,
            id,
            event,
            keys: change.keys,
            new,
            old,
            size,
            by_service: change.by_service,
        };
        shard.records.push_back(record);
        self.written += 1;
    }

    fn open_shard(&mut self, token: u64) -> &mut Shard {
        let open = self.shards.iter_mut().rev().find(|shard| shard.is_open() && shard.holds(token));
        open.expect("open shards cover all hashes while the stream is on")
    }

    /// The shard of this name.
    pub fn shard(&self, id: &str) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.id == id)
    }

    /// The same, to be changed.
    pub fn shard_mut(&mut self, id: &str) -> Option<&mut Shard> {
        self.shards.iter_mut().find(|shard| shard.id == id)
    }

    /// Forgets records older than the retention, and closed shards that ended before it.
    pub fn trim(&mut self, now: u64, options: &Options) {
        // LIMIT: once a second; a stream may have thousands of shards.
        if now < self.trimmed_at + 1000 {
            return;
        }
        self.trimmed_at = now;
        let retention = options.retention_seconds * 1000;
        let mut gone = BTreeSet::new();
        for shard in &mut self.shards {
            while shard.records.front().is_some_and(|record| record.at + retention <= now) {
                shard.trimmed = shard.records.pop_front().map(|record| record.sequence).or(shard.trimmed);
            }
            if shard.closed.is_some_and(|closed| closed.at + retention <= now) {
                gone.insert(shard.id.clone());
            }
        }
        self.shards.retain(|shard| !gone.contains(&shard.id));
    }
}
