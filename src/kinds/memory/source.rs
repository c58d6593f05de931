//! Control side of a memory source: head, pin, and the proof that a tail can start where it is asked to.
//!
//! A slot holds what the source was told to forget; it is made by the first pin. A position before it, before what the
//! log still holds, after the head, or of another lineage is a lost position.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;

use crate::error::{Error, Result};
use crate::kinds::memory::World;
use crate::kinds::memory::faults::{Site, pass};
use crate::kinds::memory::tail::MemoryTail;
use crate::kinds::memory::world::{Data, State, transaction};
use crate::model::{Checkpoint, PartitionId, Position};
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};

impl Source for World {
    fn head(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async move {
            pass(&self.state, |state| &mut state.doors, Site::Head).await?;
            Ok(self.lock().tell())
        })
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async move {
            pass(&self.state, |state| &mut state.doors, Site::Pin).await?;
            let (head, told) = self.lock().pin();
            self.seen(told).await;
            Ok(head)
        })
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async move {
            pass(&self.state, |state| &mut state.doors, Site::Tail).await?;
            let (connection, from) = self.lock().connect(from, pool)?;
            Ok(Box::new(MemoryTail::new(self.clone(), &from, pool.clone(), connection)?) as Box<dyn Tail>)
        })
    }
}

impl World {
    /// Waits until readers see this transaction.
    pub(super) async fn seen(&self, transaction: u64) {
        poll_fn(|cx| {
            let mut state = self.lock();
            // A backup that was restored in the meantime ends before what was waited for.
            if state.data.visible >= transaction.min(state.data.transactions) {
                return Poll::Ready(());
            }
            state.doors.wait(cx);
            Poll::Pending
        })
        .await;
    }
}

impl State {
    /// A slot that is there keeps everything from before this head on, so it serves as it is.
    fn pin(&mut self) -> (Checkpoint, u64) {
        let head = self.tell();
        if self.data.slot.is_none() {
            self.data.slot = Some(head.clone());
            self.slot_start = head.clone();
        }
        (head, self.told)
    }

    /// Gives the connection on which the tail may run, and where it begins in every partition that it need not ask about.
    fn connect(&mut self, from: &Checkpoint, pool: &Pool) -> Result<(u64, Checkpoint)> {
        self.data.prove(from)?;
        self.pool = Some(pool.clone());
        let mut from = from.clone();
        for partition in self.data.passed(&from) {
            if !from.names(&partition) {
                from.advance(&partition, &Position::End);
            }
        }
        Ok((self.connection, from))
    }

    fn tell(&mut self) -> Checkpoint {
        self.told = self.data.transactions;
        self.data.head()
    }
}

impl Data {
    /// Proves that everything after `from` is still there and will be told.
    fn prove(&self, from: &Checkpoint) -> Result<()> {
        let Some(slot) = &self.slot else {
            return Err(lost("the slot is gone"));
        };
        for (partition, position) in from.iter().filter(|(partition, _)| !partition.is_engine()) {
            self.prove_partition(partition, position)?;
            let released = slot.get(partition);
            if released > position {
                return Err(lost(&format!("{partition} was released up to {released}, after {position}")));
            }
        }
        let passed = self.passed(from);
        for shard in self.shards.iter().filter(|shard| !from.names(&shard.id) && !passed.contains(&shard.id)) {
            let known = |parent: &PartitionId| from.names(parent) || self.shards.iter().any(|s| s.id == *parent);
            if shard.parents.is_empty() || !shard.parents.iter().all(known) {
                return Err(lost(&format!("{} descends from nothing that is known", shard.id)));
            }
            if shard.trimmed > 0 {
                return Err(lost(&format!("{} has lost its beginning", shard.id)));
            }
        }
        Ok(())
    }

    /// Partitions from which one that `from` names descends: whoever has a position in a child has passed its parents.
    pub(super) fn passed(&self, from: &Checkpoint) -> BTreeSet<PartitionId> {
        let mut passed = BTreeSet::new();
        // Children are younger than their parents, so one pass from the youngest finds all ancestors.
        for shard in self.shards.iter().rev() {
            if from.names(&shard.id) || passed.contains(&shard.id) {
                passed.extend(shard.parents.iter().cloned());
            }
        }
        passed
    }

    fn prove_partition(&self, partition: &PartitionId, position: &Position) -> Result<()> {
        if !self.is_ours(partition) {
            return Err(lost(&format!("{partition} is of another lineage")));
        }
        let at = transaction(position)?;
        match self.shards.iter().find(|shard| shard.id == *partition) {
            None if *position == Position::End => Ok(()),
            None => Err(lost(&format!("{partition} is no longer there"))),
            Some(shard) if shard.closed && *position == Position::End => Ok(()),
            Some(shard) if at > shard.last => Err(lost(&format!("{partition} ends before {position}"))),
            Some(shard) if at < shard.trimmed => Err(lost(&format!("{partition} begins after {position}"))),
            Some(_) => Ok(()),
        }
    }
}

pub(super) fn lost(why: &str) -> Error {
    Error::position_lost(format!("open the tail of a memory source: {why}"))
}
