//! How shards begin and end: rotation, splits, the end of the stream.

use super::super::chance::Chance;
use super::super::options::Options;
use super::Stream;
use super::shard::{Closed, Readers, Shard};

impl Stream {
    /// Opens the first shards, which share all hashes.
    pub(super) fn begin(&mut self, count: u32, now: u64, options: &Options, chance: &mut Chance) {
        let count = u64::from(count.min(options.max_open_shards.max(1)));
        let step = u64::MAX / count;
        for n in 0..count {
            let to = if n + 1 == count { u64::MAX } else { (n + 1) * step - 1 };
            self.open(None, (n * step, to), now, options, chance);
        }
    }

    fn open(&mut self, parent: Option<String>, range: (u64, u64), now: u64, options: &Options, chance: &mut Chance) {
        let start = self.sequence(chance);
        // Shards that begin together do not end together.
        let life = options.rotate_every_seconds * 1000;
        let ends = (life > 0).then(|| now + (life - chance.below(life / 8 + 1)).max(1));
        let salt = chance.next() as u32;
        self.shards.push(Shard {
            id: format!("shardId-{now:020}-{salt:08x}"),
            parent,
            range,
            opened: now,
            start,
            closed: None,
            ends,
            records: std::collections::VecDeque::new(),
            trimmed: None,
            readers: Readers::default(),
        });
    }

    /// When the next shard ends by its age.
    pub fn next_end(&self) -> Option<u64> {
        self.shards.iter().filter(|shard| shard.is_open()).filter_map(|shard| shard.ends).min()
    }

    /// Ends the shards whose time has come, each followed by one shard or two.
    pub fn rotate_due(&mut self, now: u64, options: &Options, chance: &mut Chance) {
        let due = |shard: &&Shard| shard.is_open() && shard.ends.is_some_and(|ends| ends <= now);
        let ids: Vec<String> = self.shards.iter().filter(due).map(|shard| shard.id.clone()).collect();
        for id in ids {
            let open = self.shards.iter().filter(|shard| shard.is_open()).count();
            let split = open < options.max_open_shards as usize && chance.permille(options.split_permille);
            self.succeed(&id, split, now, options, chance);
        }
    }

    /// Ends an open shard and opens its children. Whether there was such a shard.
    pub fn succeed(&mut self, id: &str, split: bool, now: u64, options: &Options, chance: &mut Chance) -> bool {
        let Some((low, high)) = self.close(id, now, chance) else { return false };
        let parent = Some(id.to_owned());
        if split && low < high {
            let middle = low + (high - low) / 2;
            self.open(parent.clone(), (low, middle), now, options, chance);
            self.open(parent, (middle + 1, high), now, options, chance);
        } else {
            self.open(parent, (low, high), now, options, chance);
        }
        true
    }

    fn close(&mut self, id: &str, now: u64, chance: &mut Chance) -> Option<(u64, u64)> {
        let sequence = self.sequence(chance);
        let shard = self.shard_mut(id).filter(|shard| shard.is_open())?;
        shard.closed = Some(Closed { at: now, sequence });
        Some(shard.range)
    }

    /// Ends the stream: its open shards end without children.
    pub fn end(&mut self, now: u64, chance: &mut Chance) {
        let open: Vec<String> =
            self.shards.iter().filter(|shard| shard.is_open()).map(|shard| shard.id.clone()).collect();
        for id in open {
            self.close(&id, now, chance);
        }
        self.ended = Some(now);
    }
}
