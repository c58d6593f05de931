//! From fault to reaction: the one place where it is decided whether something is tried again. Pure.

use std::time::Duration;

use crate::error::Fault;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Try the same thing again after a pause.
    Retry(Duration),
    /// Give up what is in flight and begin again from the sink's checkpoint, after a pause.
    Restart(Duration),
    /// Begin again from the sink's checkpoint and heal by difference what the source has forgotten.
    Heal,
    /// Stop.
    Stop,
}

/// LIMIT: the longest pause between two tries. A sink that comes back is noticed within this time, and a sink that is
/// down for a day costs it one connection attempt in five seconds.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The pause before try number `attempt` (from 0): 50 ms, doubling, at most [`PAUSE_MAX`].
pub fn pause(attempt: u32) -> Duration {
    Duration::from_millis(50).saturating_mul(1 << attempt.min(10)).min(PAUSE_MAX)
}

/// Reaction to an error of one commit within a lane.
pub fn of_commit(fault: Fault, attempt: u32) -> Reaction {
    match fault {
        Fault::Transient => Reaction::Retry(pause(attempt)),
        Fault::Throttled(wait) => Reaction::Retry(wait.max(pause(attempt))),
        Fault::StageLost => Reaction::Restart(Duration::ZERO),
        _ => Reaction::Stop,
    }
}

/// Reaction to an error that ended an attempt of the whole pipeline. `attempt` counts attempts since the last one that
/// made progress.
pub fn of_attempt(fault: Fault, attempt: u32) -> Reaction {
    match fault {
        Fault::Transient | Fault::StageLost => Reaction::Restart(pause(attempt)),
        Fault::Throttled(wait) => Reaction::Restart(wait.max(pause(attempt))),
        Fault::PositionLost => Reaction::Heal,
        Fault::Fenced | Fault::Rejected | Fault::Corrupt | Fault::Config | Fault::Stopped | Fault::Bug => {
            Reaction::Stop
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(pause(0), Duration::from_millis(50));
        assert_eq!(pause(3), Duration::from_millis(400));
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }

    #[test]
    fn only_faults_that_can_pass_are_tried_again() {
        for fault in [Fault::Fenced, Fault::Corrupt, Fault::Rejected, Fault::Config, Fault::Bug, Fault::Stopped] {
            assert_eq!(of_attempt(fault, 0), Reaction::Stop);
            assert_eq!(of_commit(fault, 0), Reaction::Stop);
        }
        assert_eq!(of_attempt(Fault::PositionLost, 0), Reaction::Heal);
    }
}
