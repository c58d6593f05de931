//! What is shown of a pipeline: the fields of `status --json` and `/status.json`, which are stable.

use serde::{Deserialize, Serialize};

use crate::engine::status::Status;

/// One pipeline at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Stream name.
    pub name: String,
    /// `standby`, `snapshot`, `catching_up`, `following`, `gap` or `stopped`.
    pub state: String,
    /// Whether the sink is a state that the source had and nothing is missing.
    pub consistent: bool,
    /// Age of the oldest change that the sink does not have; null when it is not known.
    pub lag_seconds: Option<f64>,
    /// Changes that are read and not in the sink; null when it is not known.
    pub lag_changes: Option<u64>,
    /// What the sink has, per partition.
    pub frontier: String,
    /// What the source has, per partition.
    pub head: String,
    /// How often the source was asked for its head since the process started.
    #[serde(default)]
    pub heads: u64,
    /// Epoch of the claim.
    pub epoch: u64,
    /// Why it is not ready, or what it waits for; empty otherwise.
    #[serde(default)]
    pub reason: String,
    /// Ranges of the copy that is under way, or was last.
    #[serde(default)]
    pub ranges: usize,
    /// Of those, finished.
    #[serde(default)]
    pub ranges_done: usize,
    /// Rows that the copy has read.
    #[serde(default)]
    pub rows: u64,
    /// Bytes that the copy has read.
    #[serde(default)]
    pub bytes: u64,
    /// Changes committed since the process started.
    #[serde(default)]
    pub changes: u64,
    /// Gaps opened since the process started.
    #[serde(default)]
    pub gaps: u64,
}

impl From<&Status> for View {
    fn from(status: &Status) -> Self {
        Self {
            name: status.name.clone(),
            state: status.state.word().to_owned(),
            consistent: status.consistent,
            lag_seconds: status.lag.map(|lag| lag.as_secs_f64()),
            lag_changes: status.lag_changes,
            frontier: positions(&status.frontier),
            head: positions(&status.head),
            heads: status.heads,
            epoch: status.epoch,
            reason: reason(status),
            ranges: status.walk.ranges,
            ranges_done: status.walk.ranges_done,
            rows: status.walk.rows,
            bytes: status.walk.bytes,
            changes: status.changes,
            gaps: status.gaps,
        }
    }
}

/// The source's partitions of a checkpoint, without the engine's own marks.
pub fn positions(checkpoint: &crate::model::Checkpoint) -> String {
    checkpoint.tail().to_string()
}

/// All pipelines of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Views {
    /// In the order of the configuration.
    pub pipelines: Vec<View>,
}

/// Whether a pipeline is ready to be relied on; if not, why, in one line.
pub fn unready(status: &Status, budget: std::time::Duration) -> Option<String> {
    use crate::engine::status::State;
    let why = match status.state {
        State::Stopped => "stopped".to_owned(),
        State::Standby => "standing by while another process owns the stream".to_owned(),
        State::Snapshot => "the first copy is under way".to_owned(),
        State::Gap => "a gap is being healed".to_owned(),
        State::CatchingUp | State::Following => {
            let lag = match status.lag {
                _ if !status.consistent => return Some(because("not consistent yet", &reason(status))),
                None => return Some("the source's head is not known yet".to_owned()),
                Some(lag) if lag > budget => lag,
                Some(_) => return status.concern.clone(),
            };
            format!("{:.1} s behind, {:.1} s are allowed", lag.as_secs_f64(), budget.as_secs_f64())
        }
    };
    Some(because(&why, &reason(status)))
}

/// Why it is as it is, and what its source is concerned about.
fn reason(status: &Status) -> String {
    match &status.concern {
        Some(concern) if status.reason.is_empty() => concern.clone(),
        Some(concern) => format!("{}; {concern}", status.reason),
        None => status.reason.clone(),
    }
}

fn because(why: &str, reason: &str) -> String {
    if reason.is_empty() { why.to_owned() } else { format!("{why}: {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::status::State;
    use std::time::Duration;

    #[test]
    fn ready_means_consistent_known_and_within_the_budget() {
        let status = |state, consistent, lag: Option<u64>| Status {
            state,
            consistent,
            lag: lag.map(Duration::from_secs),
            ..Status::default()
        };
        for (state, consistent, lag, why) in [
            (State::Following, true, Some(0), None),
            (State::CatchingUp, true, Some(5), None),
            (State::CatchingUp, true, Some(6), Some("6.0 s behind, 5.0 s are allowed")),
            (State::Following, true, None, Some("the source's head is not known yet")),
            (State::Following, false, Some(0), Some("not consistent yet")),
            (State::Snapshot, false, Some(0), Some("the first copy is under way")),
            (State::Gap, true, Some(0), Some("a gap is being healed")),
            (State::Standby, true, Some(0), Some("standing by while another process owns the stream")),
            (State::Stopped, true, Some(0), Some("stopped")),
        ] {
            assert_eq!(unready(&status(state, consistent, lag), Duration::from_secs(5)).as_deref(), why);
        }
        let concerned = Status { concern: Some("mend this".into()), ..status(State::Following, true, Some(0)) };
        assert_eq!(unready(&concerned, Duration::from_secs(5)).as_deref(), Some("mend this"));
        assert_eq!(View::from(&concerned).reason, "mend this");
        let late = Status { reason: "catching up".into(), lag: Some(Duration::from_secs(6)), ..concerned };
        let why = unready(&late, Duration::from_secs(5));
        assert_eq!(why.as_deref(), Some("6.0 s behind, 5.0 s are allowed: catching up; mend this"));
    }
}
