//! From "how far is each lane" to "how far are all". Pure, but for one atomic per lane.
//!
//! Lanes are first-in first-out, so the only thing that goes from right to left is one number per lane: the sequence
//! number of the last dispatch whose share is durable. The frontier is the checkpoint behind the smallest of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::{Checkpoint, PartitionId, Position};

/// The number that a lane publishes. Written by the lane alone.
#[derive(Clone, Debug, Default)]
pub struct Done(Arc<AtomicU64>);

impl Done {
    /// Everything up to this dispatch is durable in this lane.
    pub fn publish(&self, seq: u64) {
        // ORDERING: Release pairs with the Acquire in `get`: whoever sees the number also sees what the lane wrote before.
        self.0.store(seq, Ordering::Release);
    }

    /// The last published number.
    pub fn get(&self) -> u64 {
        // ORDERING: Acquire, see `publish`.
        self.0.load(Ordering::Acquire)
    }
}

/// What was dispatched and is not yet durable in every lane.
#[derive(Debug, Default)]
pub struct Frontier {
    lanes: Vec<Done>,
    open: VecDeque<Dispatched>,
    checkpoint: Checkpoint,
    next_seq: u64,
    changes_open: u64,
}

#[derive(Debug)]
struct Dispatched {
    seq: u64,
    changes: u64,
    forget: Vec<PartitionId>,
    upto: Vec<(PartitionId, Position)>,
}

impl Frontier {
    /// Starts at what all lanes have passed.
    pub fn new(lanes: Vec<Done>, checkpoint: Checkpoint) -> Self {
        Self { lanes, open: VecDeque::new(), checkpoint, next_seq: 1, changes_open: 0 }
    }

    /// Notes a dispatch; gives its sequence number.
    pub fn dispatch(&mut self, changes: usize, forget: Vec<PartitionId>, upto: Vec<(PartitionId, Position)>) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.changes_open += changes as u64;
        self.open.push_back(Dispatched { seq, changes: changes as u64, forget, upto });
        seq
    }

    /// Moves over everything that every lane has passed; true if it moved.
    pub fn advance(&mut self) -> bool {
        let done = self.lanes.iter().map(Done::get).min().unwrap_or(0);
        assert!(done < self.next_seq, "a lane cannot be done with what was never dispatched");
        let mut moved = false;
        while self.open.front().is_some_and(|front| front.seq <= done) {
            let Some(front) = self.open.pop_front() else { break };
            self.changes_open -= front.changes;
            self.checkpoint.retain(|partition| !front.forget.contains(partition));
            for (partition, position) in &front.upto {
                self.checkpoint.advance(partition, position);
            }
            moved = true;
        }
        moved
    }

    /// The checkpoint that every lane has passed.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Whether everything dispatched is durable.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// The sequence number given last.
    pub fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// Whether this dispatch is durable in every lane.
    pub fn has_passed(&self, seq: u64) -> bool {
        self.open.front().is_none_or(|front| front.seq > seq)
    }

    /// Changes that are dispatched and not yet durable everywhere.
    pub fn changes_open(&self) -> u64 {
        self.changes_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontier_never_passes_an_undone_change() {
        let lanes = [Done::default(), Done::default()];
        let mut frontier = Frontier::new(lanes.to_vec(), Checkpoint::default());
        let partition = PartitionId::new("p");
        for n in 1..=3u8 {
            frontier.dispatch(1, vec![], vec![(partition.clone(), Position::at([n]))]);
        }
        lanes[0].publish(3);
        assert!(!frontier.advance());
        lanes[1].publish(2);
        assert!(frontier.advance());
        assert_eq!(frontier.checkpoint().get(&partition), &Position::at([2]));
        assert!(frontier.has_passed(2) && !frontier.has_passed(3) && !frontier.is_idle());
    }
}
