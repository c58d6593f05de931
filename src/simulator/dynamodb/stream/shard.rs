//! A shard and its records.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::value::Item;

/// A record of one change of one item.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its place in the shard.
    pub sequence: u128,
    /// When it was written, in milliseconds.
    pub at: u64,
    /// From when on it can be read.
    pub visible: u64,
    /// A name of its own.
    pub id: (u64, u64),
    /// `INSERT`, `MODIFY` or `REMOVE`.
    pub event: &'static str,
    /// The item's key.
    pub keys: Item,
    /// The item after, if the stream keeps that.
    pub new: Option<Arc<Item>>,
    /// The item before, if the stream keeps that.
    pub old: Option<Arc<Item>>,
    /// What it weighs in a page.
    pub size: usize,
    /// Whether the service deleted the item for its age.
    pub by_service: bool,
}

/// A shard's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// When, in milliseconds.
    pub at: u64,
    /// Its last sequence number.
    pub sequence: u128,
}

/// Who reads a shard, and how often: times in milliseconds, oldest first, of the last second.
#[derive(Clone, Debug, Default)]
pub struct Readers {
    calls: VecDeque<(u64, u64)>,
}

impl Readers {
    /// Notes a call of this reader, unless it is one too many.
    ///
    /// # Errors
    /// What is exceeded.
    pub fn call(&mut self, reader: u64, now: u64, readers: u32, calls: u32) -> Result<(), &'static str> {
        while self.calls.front().is_some_and(|(at, _)| at + 1000 <= now) {
            self.calls.pop_front();
        }
        if calls > 0 && self.calls.len() >= calls as usize {
            return Err("Rate exceeded for shard");
        }
        let mut others: Vec<u64> =
            self.calls.iter().map(|(_, other)| *other).filter(|other| *other != reader).collect();
        others.sort_unstable();
        others.dedup();
        if readers > 0 && others.len() >= readers as usize {
            return Err("Too many readers of this shard: no more than two can read it at the same time");
        }
        self.calls.push_back((now, reader));
        Ok(())
    }
}

/// A shard: the records of the keys whose hashes lie in its range, for as long as it is open.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its name.
    pub id: String,
    /// The shard that it follows.
    pub parent: Option<String>,
    /// The hashes that it takes, both ends included.
    pub range: (u64, u64),
    /// When it was opened, in milliseconds.
    pub opened: u64,
    /// Its first sequence number.
    pub start: u128,
    /// Its end.
    pub closed: Option<Closed>,
    /// When it will end by its age.
    pub ends: Option<u64>,
    /// What is in it.
    pub records: VecDeque<Record>,
    /// The newest record that is gone.
    pub trimmed: Option<u128>,
    /// Who reads it.
    pub readers: Readers,
}

impl Shard {
    /// Whether it takes records.
    pub fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// Whether a key with this hash belongs to it.
    pub fn holds(&self, token: u64) -> bool {
        (self.range.0..=self.range.1).contains(&token)
    }

    /// Whether this number lies in its range.
    pub fn covers(&self, sequence: u128) -> bool {
        sequence >= self.start && self.closed.is_none_or(|closed| sequence <= closed.sequence)
    }

    /// The newest record that can be read, or the number before the first.
    pub fn newest(&self, now: u64) -> u128 {
        let visible = self.records.partition_point(|record| record.visible <= now);
        let newest = visible.checked_sub(1).map(|at| self.records[at].sequence);
        newest.or(self.trimmed).unwrap_or(self.start - 1)
    }
}
