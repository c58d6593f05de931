//! The newest batches of a stream, for everybody who keeps up. Pure.
//!
//! Batches are numbered from 1 on in the order in which the source gave them. Invariant: a batch is dropped only when the
//! journal holds it durably, so whoever finds that his next one is gone finds it there.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::Batch;

/// What is there under a number.
#[derive(Debug)]
pub enum Slot {
    /// The batch.
    Here(Arc<Batch>),
    /// It was there once; the journal has it.
    Gone,
    /// It has not come yet.
    Coming,
}

/// The newest batches.
#[derive(Debug)]
pub struct Ring {
    kept: VecDeque<Arc<Batch>>,
    /// Number of the oldest one that is kept, or of the next one if none is.
    first: u64,
    /// Number of the last one that the journal holds durably.
    durable: u64,
    /// How many durable ones are kept.
    keep: usize,
}

impl Ring {
    /// A ring that keeps at most `keep` batches beyond those that the journal does not hold yet.
    pub fn new(keep: usize) -> Self {
        Self { kept: VecDeque::new(), first: 1, durable: 0, keep }
    }

    /// Takes the next batch; gives its number.
    pub fn push(&mut self, batch: Arc<Batch>) -> u64 {
        self.kept.push_back(batch);
        self.last()
    }

    /// Number of the newest batch; 0 before the first.
    pub fn last(&self) -> u64 {
        self.first + self.kept.len() as u64 - 1
    }

    /// Number of the last batch that the journal holds durably.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The journal holds everything up to this number.
    pub fn settle(&mut self, upto: u64) {
        assert!(
            upto >= self.durable && upto <= self.last(),
            "the journal holds what it was given, and does not lose it"
        );
        self.durable = upto;
        let held = usize::try_from((self.durable + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        for _ in self.keep..held {
            self.kept.pop_front();
            self.first += 1;
        }
    }

    /// What is there under a number.
    pub fn get(&self, number: u64) -> Slot {
        let Some(at) = number.checked_sub(self.first) else { return Slot::Gone };
        let found = usize::try_from(at).ok().and_then(|at| self.kept.get(at));
        found.map_or(Slot::Coming, |batch| Slot::Here(Arc::clone(batch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_here(ring: &Ring, number: u64) -> bool {
        matches!(ring.get(number), Slot::Here(_))
    }

    #[test]
    fn only_what_the_journal_holds_is_dropped_and_only_beyond_what_is_kept() {
        let mut ring = Ring::new(2);
        for number in 1..=5 {
            assert_eq!(ring.push(Arc::new(Batch::unpooled())), number);
        }
        assert!((1..=5).all(|number| is_here(&ring, number)));
        assert!(matches!(ring.get(6), Slot::Coming));
        ring.settle(2);
        assert!((1..=5).all(|number| is_here(&ring, number)));
        ring.settle(4);
        assert!(matches!(ring.get(2), Slot::Gone));
        assert!((3..=5).all(|number| is_here(&ring, number)));
        ring.settle(5);
        assert!(matches!(ring.get(3), Slot::Gone));
        assert_eq!((ring.last(), ring.durable()), (5, 5));
        assert_eq!(ring.push(Arc::new(Batch::unpooled())), 6);
        assert!(is_here(&ring, 6));
    }
}
