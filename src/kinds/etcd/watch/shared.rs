//! What a source and its running tail tell each other: which revisions were seen elsewhere, whether the leases were read
//! since the start, and what a person must know.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::Position;

/// One per source.
pub(crate) struct Shared {
    /// Counts tails: what one left behind says nothing about the next.
    tails: AtomicU64,
    wanted: watch::Sender<i64>,
    /// Whether a tail runs that has not read all leases since its start.
    reading: watch::Sender<bool>,
    /// The last place that the tail gave out.
    given: Mutex<Option<Position>>,
    /// Leases that were not read again in time.
    overdue: AtomicUsize,
    /// What is wrong with the watch for as long as it is made that way.
    complaint: Mutex<Option<String>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            tails: AtomicU64::new(0),
            wanted: watch::Sender::new(0),
            reading: watch::Sender::new(false),
            given: Mutex::default(),
            overdue: AtomicUsize::new(0),
            complaint: Mutex::default(),
        }
    }
}

impl Shared {
    /// A tail begins; gives its number.
    pub(super) fn begin(&self) -> u64 {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.reading.send_replace(true);
        // ORDERING: Relaxed: whoever ends a tail was handed its number by who began it.
        self.tails.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// All leases were read, or this tail has ended.
    pub(super) fn settle(&self, tail: u64) {
        // ORDERING: Relaxed, as above.
        if self.tails.load(Ordering::Relaxed) == tail {
            self.reading.send_replace(false);
        }
    }

    /// This tail has ended: nothing that it complained about is so any more.
    pub(super) fn end(&self, tail: u64) {
        // ORDERING: Relaxed, as above.
        if self.tails.load(Ordering::Relaxed) == tail {
            self.overdue(0);
            self.complain(None);
            *self.given.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.settle(tail);
    }

    /// The cluster has this revision.
    pub(crate) fn want(&self, revision: i64) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, revision.max(*wanted)) < revision);
    }

    pub(super) fn wanted(&self) -> watch::Receiver<i64> {
        self.wanted.subscribe()
    }

    /// Waits until the tail, if one runs, has read all leases since its start.
    pub(crate) async fn settled(&self) {
        let mut reading = self.reading.subscribe();
        // The sender is ours, so it does not go while we wait.
        while *reading.borrow_and_update() {
            if reading.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn give(&self, place: &Position) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(place.clone());
    }

    /// The last place that the running tail gave out.
    pub(crate) fn given(&self) -> Option<Position> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn overdue(&self, leases: usize) {
        // ORDERING: Relaxed: a number for people.
        self.overdue.store(leases, Ordering::Relaxed);
    }

    pub(super) fn complain(&self, about: Option<String>) {
        *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = about;
    }

    /// What a person must mend.
    pub(crate) fn concern(&self, budget: u32) -> Option<String> {
        // ORDERING: Relaxed, as above.
        let overdue = self.overdue.load(Ordering::Relaxed);
        if overdue > 0 {
            return Some(format!(
                "{overdue} leases of the source were not read again in time with {budget} questions a second, and what \
                 somebody keeps alive under them may expire in the copy; raise lease_budget, or see why the destination is slow"
            ));
        }
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
