//! The fastest possible source and sink, so that a bench measures the engine between them and not them.
//!
//! [`Flood`] fills batches from a table of ready-made keys and one body; [`Drain`] counts what arrives, or keeps the last
//! body of each key in a hash map per lane. Neither keeps history, checkpoints survive only as long as the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hashbrown::HashMap;

use crate::error::{Error, Result};
use crate::kinds::memory::faults::lock;
use crate::model::{
    Batch, Checkpoint, Claim, Commit, LaneRecord, Op, PartitionId, Position, Steps, StreamId, StreamRecord, Table,
};
use crate::pool::Pool;
use crate::sink::{Limits, Sink, Writer};
use crate::source::{Fut, Source, Tail};
use crate::store::{Range, Store};

/// A source with an endless, or a given, number of puts over a fixed set of keys, in a fixed order without neighbours.
#[derive(Clone)]
pub struct Flood {
    keys: Arc<Vec<[u8; 16]>>,
    body: Arc<[u8]>,
    total: u64,
    per_transaction: usize,
}

impl Flood {
    /// `total` puts over `keys` keys with bodies of `body` bytes, so many in one transaction.
    pub fn new(keys: usize, body: usize, total: u64, per_transaction: usize) -> Self {
        assert!(keys > 0 && body >= 8 && per_transaction > 0, "a flood has keys, and bodies that hold a count");
        let key = |n: usize| {
            let mut key = *b"/flood/000000000";
            // An odd multiplier visits every residue once, in no order that a tree or a cache would like.
            let scattered = (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            for (i, byte) in key[7..].iter_mut().enumerate() {
                *byte = b'a' + ((scattered >> (i * 4)) & 15) as u8;
            }
            key
        };
        Self { keys: Arc::new((0..keys).map(key).collect()), body: vec![0x5a; body].into(), total, per_transaction }
    }

    fn partition() -> PartitionId {
        PartitionId::new("memory/flood")
    }
}

fn place(n: u64) -> Position {
    Position::at(format!("{n:016x}"))
}

fn count(position: &Position) -> Result<u64> {
    let text = position.boundary().unwrap_or_default();
    let text = std::str::from_utf8(text).unwrap_or("?");
    let broken = |_| Error::corrupt("read a position of the bench source: not a number");
    if text.is_empty() { Ok(0) } else { u64::from_str_radix(text, 16).map_err(broken) }
}

impl Source for Flood {
    fn head(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async { Ok([(Self::partition(), place(self.total))].into_iter().collect()) })
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async { Ok([(Self::partition(), Position::Start)].into_iter().collect()) })
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async move {
            let given = count(from.get(&Self::partition()))?;
            let tail = FloodTail { flood: self.clone(), pool: pool.clone(), given, table: Arc::default() };
            Ok(Box::new(tail) as Box<dyn Tail>)
        })
    }
}

struct FloodTail {
    flood: Flood,
    pool: Pool,
    given: u64,
    table: Arc<Table>,
}

impl FloodTail {
    fn fill(&mut self, batch: &mut Batch) {
        let base = if self.given == 0 { Position::Start } else { place(self.given) };
        batch.begin(&Flood::partition(), base, Steps::Ordinal);
        let table = batch.table(&self.table);
        let full = self.pool.batch_bytes();
        while batch.bytes() < full && self.given < self.flood.total {
            let left = self.flood.total - self.given;
            let transaction = left.min(self.flood.per_transaction as u64);
            for n in self.given..self.given + transaction {
                let key = &self.flood.keys[(n % self.flood.keys.len() as u64) as usize];
                batch.push(Op::Put, false, table, key, &self.flood.body, n as i64);
            }
            self.given += transaction;
            batch.mark(place(self.given));
        }
    }
}

impl Tail for FloodTail {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(async move {
            if self.given >= self.flood.total {
                std::future::pending::<()>().await;
            }
            let mut batch = self.pool.take().await;
            self.fill(&mut batch);
            Ok(batch)
        })
    }

    fn release<'a>(&'a mut self, _: &'a Checkpoint) -> Fut<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// A flood has no present state: all of it comes out of the tail.
impl Store for Flood {
    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async { Ok(vec![Arc::default()]) })
    }

    fn ranges(&self, _: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(async { Ok(vec![Range { name: "all".into(), table: Arc::default() }]) })
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        Box::pin(async { Ok(Range { name: name.to_owned(), table: Arc::default() }) })
    }

    fn scan<'a>(&'a self, _: &'a Range, _: &'a Position, mut batch: Batch, _: usize) -> Fut<'a, Batch> {
        Box::pin(async {
            batch.mark(Position::End);
            Ok(batch)
        })
    }

    fn get<'a>(&'a self, _: &'a Arc<Table>, _: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        Box::pin(async { Ok(batch) })
    }
}

/// What a [`Drain`] does with what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainMode {
    /// Counts changes.
    Count,
    /// Keeps the last body of each key.
    Keep,
}

/// A sink that takes everything at once.
#[derive(Clone)]
pub struct Drain(Arc<DrainState>);

struct DrainState {
    mode: DrainMode,
    limits: Limits,
    taken: AtomicU64,
    records: Mutex<BTreeMap<StreamId, StreamRecord>>,
}

impl Drain {
    /// A drain with these limits.
    pub fn new(mode: DrainMode, limits: Limits) -> Self {
        let (taken, records) = (AtomicU64::new(0), Mutex::default());
        Self(Arc::new(DrainState { mode, limits, taken, records }))
    }

    /// How many changes arrived, after coalescing.
    pub fn taken(&self) -> u64 {
        // ORDERING: a count for people; nothing else is published through it.
        self.0.taken.load(Ordering::Relaxed)
    }
}

impl Sink for Drain {
    fn limits(&self) -> Limits {
        self.0.limits
    }

    fn inspect<'a>(&'a self, stream: &'a StreamId) -> Fut<'a, Option<StreamRecord>> {
        Box::pin(async { Ok(lock(&self.0.records).get(stream).cloned()) })
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Fut<'a, (LaneRecord, Box<dyn Writer>)> {
        Box::pin(async move {
            let mut records = lock(&self.0.records);
            let record = records.entry(claim.stream.clone()).or_insert_with(|| StreamRecord {
                format: StreamRecord::FORMAT,
                owner: claim.owner.clone(),
                scope: claim.scope.clone(),
                foreign: claim.foreign,
                lanes: vec![LaneRecord::default(); usize::from(claim.scope.lanes)],
            });
            let lane = record.lanes.get_mut(usize::from(claim.lane));
            let lane = lane.ok_or_else(|| Error::bug("claim a lane of a drain: it has fewer lanes"))?;
            lane.epoch += 1;
            let writer = DrainWriter {
                drain: Arc::clone(&self.0),
                stream: claim.stream.clone(),
                lane: usize::from(claim.lane),
                rows: HashMap::default(),
            };
            Ok((lane.clone(), Box::new(writer) as Box<dyn Writer>))
        })
    }
}

struct DrainWriter {
    drain: Arc<DrainState>,
    stream: StreamId,
    lane: usize,
    rows: HashMap<Vec<u8>, Vec<u8>, foldhash::fast::FixedState>,
}

impl DrainWriter {
    fn keep(&mut self, changes: &crate::model::Changes) {
        for row in changes.iter() {
            match self.rows.get_mut(row.key) {
                Some(body) if row.op == Op::Put => {
                    body.clear();
                    body.extend_from_slice(row.body);
                }
                None if row.op == Op::Put => drop(self.rows.insert(row.key.to_vec(), row.body.to_vec())),
                _ => drop(self.rows.remove(row.key)),
            }
        }
    }

    fn take(&mut self, changes: &crate::model::Changes) {
        if self.drain.mode == DrainMode::Keep {
            self.keep(changes);
        }
        // ORDERING: a count for people; nothing else is published through it.
        self.drain.taken.fetch_add(changes.len() as u64, Ordering::Relaxed);
    }
}

impl Writer for DrainWriter {
    fn stage<'a>(&'a mut self, changes: &'a Arc<crate::model::Changes>) -> Fut<'a, ()> {
        self.take(changes);
        Box::pin(async { Ok(()) })
    }

    fn commit(&mut self, commit: Arc<Commit>) -> Fut<'static, ()> {
        self.take(&commit.changes);
        let mut records = lock(&self.drain.records);
        let record = records.get_mut(&self.stream).expect("a writer's stream was claimed");
        let lane = &mut record.lanes[self.lane];
        lane.number = commit.number;
        lane.checkpoint.retain(|partition| !commit.forget.contains(partition));
        lane.checkpoint.merge(&commit.upto);
        Box::pin(async { Ok(()) })
    }
}
