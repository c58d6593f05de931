//! Key → lane. Pure.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::model::{Batch, Op, PartitionId, Position};

/// The part of a batch that one lane has to do. An empty part still says "nothing happened up to here".
#[derive(Clone, Debug)]
pub struct Share {
    /// Counts what was dispatched; the same number in every lane.
    pub seq: u64,
    /// The batch.
    pub batch: Arc<Batch>,
    /// Which of its changes, in order; `None` means all.
    pub picks: Option<Arc<[u32]>>,
}

/// What a lane is given.
#[derive(Clone, Debug)]
pub enum Work {
    /// Changes.
    Share(Share),
    /// Positions alone, to be committed at once: pins, and the marks that open and close generations. What is in
    /// `forget` is dropped first.
    Mark {
        /// As in [`Share::seq`].
        seq: u64,
        /// Partitions to forget.
        forget: Vec<PartitionId>,
        /// Partitions to move.
        upto: Vec<(PartitionId, Position)>,
    },
    /// Everything before this is to be committed without waiting for more.
    Flush,
}

/// Cuts batches into shares. A key always takes the same lane: the hash has a fixed seed, so that this holds over restarts.
pub struct Router {
    lanes: usize,
    hasher: FixedState,
}

impl Router {
    /// A router for this many lanes.
    pub fn new(lanes: u16) -> Self {
        Self { lanes: usize::from(lanes), hasher: FixedState::with_seed(0x6c61_6e65) }
    }

    /// The lane of a key.
    pub fn lane(&self, table: &str, key: &[u8]) -> usize {
        // Only the remainder is used, and it is smaller than the number of lanes.
        (self.hasher.hash_one((table, key)) % self.lanes as u64) as usize
    }

    /// The shares of a batch, one per lane, in the order of lanes. `keep`: only these of its changes, in order.
    pub fn shares(&self, seq: u64, batch: &Arc<Batch>, keep: Option<Vec<u32>>) -> Vec<Share> {
        if self.lanes == 1 {
            return vec![Share { seq, batch: Arc::clone(batch), picks: keep.map(Arc::from) }];
        }
        let mut picks = vec![Vec::new(); self.lanes];
        let all = keep.unwrap_or_else(|| (0..batch.len() as u32).collect());
        for index in all {
            let row = batch.row(index as usize);
            assert!(matches!(row.op, Op::Put | Op::Delete), "a pipeline that can meet patches or clears has one lane");
            picks[self.lane(&row.table.name, row.key)].push(index);
        }
        picks.into_iter().map(|picks| Share { seq, batch: Arc::clone(batch), picks: Some(picks.into()) }).collect()
    }
}
