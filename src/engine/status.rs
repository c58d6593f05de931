//! What a running pipeline says of itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::model::Checkpoint;

/// What a pipeline is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// Somebody else owns the stream; waiting.
    Standby,
    /// The first copy is under way.
    Snapshot,
    /// Following, and behind.
    CatchingUp,
    /// Following.
    Following,
    /// The source has forgotten something that the sink does not have; being healed by difference.
    Gap,
    /// Not running.
    #[default]
    Stopped,
}

impl State {
    /// The word used in JSON, logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Snapshot => "snapshot",
            Self::CatchingUp => "catching_up",
            Self::Following => "following",
            Self::Gap => "gap",
            Self::Stopped => "stopped",
        }
    }
}

/// Progress of a walk over a store.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Walk {
    /// Ranges in all.
    pub ranges: usize,
    /// Ranges finished.
    pub ranges_done: usize,
    /// Rows read.
    pub rows: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// A moment of a pipeline.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Stream name.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// The sink is a state that the source had, and nothing is missing.
    pub consistent: bool,
    /// Age of the oldest head that the frontier does not cover; 0 when it covers the newest; `None` before the first head.
    pub lag: Option<Duration>,
    /// Changes read and not yet durable in the sink; `None` when the tail has not read up to the newest head, so that
    /// nobody knows how many follow.
    pub lag_changes: Option<u64>,
    /// What every lane has passed.
    pub frontier: Checkpoint,
    /// The source's newest checkpoint.
    pub head: Checkpoint,
    /// How often the source was asked for its head since the start, so that a reader can tell a fresh lag from an old one:
    /// two more, and everything that the source had when the reader first looked is taken into account.
    pub heads: u64,
    /// Epoch of the claim; 0 without one.
    pub epoch: u64,
    /// The walk that is under way, or was last.
    pub walk: Walk,
    /// Changes committed since the start.
    pub changes: u64,
    /// Gaps opened since the start.
    pub gaps: u64,
    /// Rows found missing, different or extra, and written, by healing and repair since the start.
    pub repaired: u64,
    /// Why it is not ready, or what it waits for; one sentence.
    pub reason: String,
    /// What the source does not bring and a person must mend; one sentence.
    pub concern: Option<String>,
}

/// A status that others may read.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Status>>);

impl Shared {
    /// A status of a stream that does not run yet.
    pub fn new(name: &str) -> Self {
        Self(Arc::new(Mutex::new(Status { name: name.to_owned(), ..Status::default() })))
    }

    /// A copy of the present moment.
    pub fn get(&self) -> Status {
        self.lock().clone()
    }

    /// Changes it.
    pub fn update<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        change(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        // A panic elsewhere while the status was held leaves a status that is still readable.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Turns heads and frontiers into a lag. Pure: time comes in.
#[derive(Debug, Default)]
pub struct Lag {
    /// Heads that the frontier did not cover when last looked at, with the time at which they were given.
    open: VecDeque<(Duration, Checkpoint)>,
}

/// LIMIT: heads remembered for the lag; at one a second this is more than an hour of exact figures, after which the oldest
/// is kept and the resolution halves.
const HEADS_MAX: usize = 4096;

impl Lag {
    /// A new head was given.
    pub fn head(&mut self, now: Duration, head: Checkpoint) {
        if self.open.back().is_some_and(|(_, last)| *last == head) {
            return;
        }
        if self.open.len() >= HEADS_MAX {
            let mut keep = false;
            self.open.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.open.push_back((now, head));
    }

    /// How long the oldest uncovered head has been waiting.
    pub fn lag(&mut self, now: Duration, frontier: &Checkpoint) -> Duration {
        // A head that is covered covers all before it, though they may name partitions that are forgotten since.
        if let Some(newest) = self.open.iter().rposition(|(_, head)| frontier.covers(head)) {
            self.open.drain(..=newest);
        }
        self.open.front().map_or(Duration::ZERO, |(since, _)| now.saturating_sub(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, Position};

    #[test]
    fn the_lag_is_the_age_of_the_oldest_head_that_is_not_covered() {
        let at = |n: u8| [(PartitionId::new("p"), Position::at([n]))].into_iter().collect::<Checkpoint>();
        let seconds = Duration::from_secs;
        let mut lag = Lag::default();
        lag.head(seconds(1), at(1));
        lag.head(seconds(2), at(2));
        assert_eq!(lag.lag(seconds(4), &at(0)), seconds(3));
        assert_eq!(lag.lag(seconds(4), &at(1)), seconds(2));
        assert_eq!(lag.lag(seconds(4), &at(2)), seconds(0));
    }
}
