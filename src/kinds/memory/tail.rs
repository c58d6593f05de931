//! The stream of a memory source: whole transactions in order, and a shard's children after the shard.
//!
//! A batch is a run of one shard's log, cut where it is full: then it may end within a transaction, and the next one goes
//! on there. A transaction that changed nothing is a batch without changes, the reference kind's keepalive. `next` takes
//! nothing from the state before it holds an empty batch, so dropping its future loses nothing.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;

use crate::error::{Error, Result};
use crate::kinds::memory::World;
use crate::kinds::memory::faults::{Site, pass};
use crate::kinds::memory::source::lost;
use crate::kinds::memory::world::{Shard, State, place, transaction};
use crate::model::{Batch, Checkpoint, PartitionId, Position, Steps};
use crate::pool::Pool;
use crate::source::{Fut, Tail};

pub(super) struct MemoryTail {
    world: World,
    pool: Pool,
    /// What was given out of each shard.
    given: BTreeMap<PartitionId, Given>,
    /// The shard that is asked first, so that no shard waits for ever behind a busy one.
    turn: usize,
    connection: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Given {
    /// All of this transaction and those before it.
    transaction: u64,
    /// And so many changes of the next one.
    changes: usize,
    ended: bool,
}

impl MemoryTail {
    pub(super) fn new(world: World, from: &Checkpoint, pool: Pool, connection: u64) -> Result<Self> {
        let mut given = BTreeMap::new();
        for (partition, position) in from.iter().filter(|(partition, _)| !partition.is_engine()) {
            // A position within a transaction is resumed at its beginning; lanes drop what they have passed.
            let ended = *position == Position::End;
            given.insert(partition.clone(), Given { transaction: transaction(position)?, changes: 0, ended });
        }
        Ok(Self { world, pool, given, turn: 0, connection })
    }

    fn given(&self, shard: &PartitionId) -> Given {
        self.given.get(shard).copied().unwrap_or_default()
    }

    /// The shard to read from next, if any has something to give.
    fn ready(&self, state: &State) -> Result<Option<usize>> {
        if state.connection != self.connection {
            return Err(Error::transient("follow a memory source: the connection was lost"));
        }
        let shards = &state.data.shards;
        let listed = |partition: &PartitionId| shards.iter().any(|shard| shard.id == *partition);
        let given = self.given.iter().filter(|(_, given)| !given.ended).map(|(partition, _)| partition);
        let parents =
            shards.iter().filter(|shard| !self.given.contains_key(&shard.id)).flat_map(|shard| &shard.parents);
        let unknown = parents.filter(|parent| !self.given.contains_key(parent));
        if let Some(gone) = given.chain(unknown).find(|partition| !listed(partition)) {
            return Err(lost(&format!("{gone} is no longer there")));
        }
        // A transaction that was begun is ended first.
        let open = shards.iter().position(|shard| self.given(&shard.id).changes > 0);
        let first = open.unwrap_or(self.turn);
        for index in (0..shards.len()).map(|i| (first + i) % shards.len()) {
            let shard = &shards[index];
            let given = self.given(&shard.id);
            let begun = shard.parents.iter().all(|parent| self.given(parent).ended);
            if given.ended || !(begun || cfg!(mutate = "child_before_parents")) {
                continue;
            }
            if given.transaction < shard.trimmed {
                return Err(lost(&format!("{} was trimmed while it was followed", shard.id)));
            }
            if shard.closed || given.transaction < shard.last {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn fill(&mut self, state: &State, index: usize, batch: &mut Batch) {
        let shard = &state.data.shards[index];
        let mut given = self.given(&shard.id);
        let boundary = if given.transaction == 0 { Position::Start } else { place(given.transaction) };
        let base = if given.changes == 0 { boundary } else { boundary.plus(given.changes as u64) };
        batch.begin(&shard.id, base, Steps::Ordinal);
        let full = self.pool.batch_bytes().min(state.batch_bytes);
        fill_from(shard, &mut given, &self.world, full, batch);
        if shard.closed && given.transaction >= shard.last {
            given.ended = true;
            batch.mark(Position::End);
        }
        self.turn = index + 1;
        self.given.insert(batch.partition.clone(), given);
    }
}

/// Appends changes from where `given` stands until the batch is full, and moves `given`.
fn fill_from(shard: &Shard, given: &mut Given, world: &World, full: usize, batch: &mut Batch) {
    let first = shard.log.partition_point(|entry| entry.transaction <= given.transaction);
    for entry in shard.log.iter().skip(first) {
        let at = i64::try_from(entry.transaction).expect("a world has fewer than 2^63 transactions");
        for change in &entry.changes[given.changes..] {
            if batch.bytes() >= full {
                return;
            }
            let table = batch.table(&world.tables[usize::from(change.table)]);
            batch.push_moved(change.op, change.fresh, table, &change.key, &change.body, change.from.as_deref(), at);
            given.changes += 1;
        }
        *given = Given { transaction: entry.transaction, changes: 0, ended: false };
        batch.mark(place(entry.transaction));
        // A keepalive is a batch of its own, so that it is seen to take the same road as any other.
        if batch.bytes() >= full || entry.changes.is_empty() {
            return;
        }
    }
}

impl Tail for MemoryTail {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(async move {
            pass(&self.world.state, |state| &mut state.doors, Site::Next).await?;
            loop {
                poll_fn(|cx| {
                    let mut state = self.world.lock();
                    match self.ready(&state) {
                        Ok(None) => {
                            state.doors.wait(cx);
                            Poll::Pending
                        }
                        Ok(Some(_)) => Poll::Ready(Ok(())),
                        Err(error) => Poll::Ready(Err(error)),
                    }
                })
                .await?;
                let mut batch = self.pool.take().await;
                let world = self.world.clone();
                let state = world.lock();
                if let Some(index) = self.ready(&state)? {
                    self.fill(&state, index, &mut batch);
                    return Ok(batch);
                }
            }
        })
    }

    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()> {
        Box::pin(async move {
            pass(&self.world.state, |state| &mut state.doors, Site::Release).await?;
            let mut state = self.world.lock();
            let data = &mut state.data;
            let Some(slot) = &mut data.slot else { return Ok(()) };
            for shard in &mut data.shards {
                let position = upto.get(&shard.id);
                let passed = transaction(position)?;
                // Only whole transactions are forgotten, and only what exists: a position of another history says nothing.
                if passed == 0 || (passed > shard.last && *position != Position::End) {
                    continue;
                }
                let whole = if *position == Position::End { Position::End } else { place(passed) };
                slot.advance(&shard.id, &whole);
                shard.trim(passed);
            }
            Ok(())
        })
    }
}
