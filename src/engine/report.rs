//! What the engine tells the world: one function per fact, log line and metric together.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};

use crate::engine::heal::Tally;
use crate::engine::status::Status;
use crate::error::Error;
use crate::model::{Checkpoint, Commit, PartitionId, Position};
use crate::telemetry::names;

struct Handles {
    changes: Counter,
    commits: Counter,
    bytes: Counter,
    retries: Counter,
    split: Counter,
}

/// Handles are kept: a look-up in the registry per commit would cost more than the rest of the accounting.
fn handles() -> &'static Handles {
    static HANDLES: OnceLock<Handles> = OnceLock::new();
    HANDLES.get_or_init(|| Handles {
        changes: counter!(names::CHANGES),
        commits: counter!(names::COMMITS),
        bytes: counter!(names::BYTES),
        retries: counter!(names::RETRIES),
        split: counter!(names::SPLIT),
    })
}

/// A commit is sent.
pub fn lane_commits(lane: u16, commit: &Commit) {
    tracing::trace!(lane, number = commit.number, changes = commit.changes.len(), "commit sent");
}

/// A commit has landed.
pub fn lane_committed(lane: u16, commit: &Commit) {
    let handles = handles();
    handles.commits.increment(1);
    handles.changes.increment(commit.changes.len() as u64);
    if !commit.changes.is_empty() {
        handles.bytes.increment(commit.changes.bytes() as u64);
    }
    // Positions of a walk are keys, and keys may hold tokens: only the source's own positions are told.
    tracing::trace!(lane, number = commit.number, changes = commit.changes.len(), upto = %commit.upto.tail(), "commit landed");
}

/// A source transaction does not fit into one commit of the sink: a reader of the sink may see a part of it for a moment.
pub fn transaction_is_split(lane: u16, partition: &PartitionId, at: &Position) {
    handles().split.increment(1);
    tracing::warn!(lane, %partition, %at, "a source transaction is larger than the sink takes at once; it is split");
}

/// A commit was not answered, or refused in a way that can pass.
pub fn commit_is_tried_again(lane: u16, error: &Error, attempt: u32, pause: Duration) {
    handles().retries.increment(1);
    // A sink that is away for an hour must not fill the log: the first tries are told, then every twelfth (a minute).
    if attempt <= 3 || attempt.is_multiple_of(12) {
        tracing::warn!(lane, attempt, ?pause, %error, "the sink did not take a commit; it is sent again as it was");
    }
}

/// An attempt ended and another one follows.
pub fn attempt_ended(stream: &str, error: &Error, pause: Duration) {
    tracing::warn!(stream, ?pause, %error, "starting again from the sink's checkpoint");
}

/// A gap was found.
pub fn gap_opened(stream: &str, reason: &str) {
    counter!(names::GAPS, "stream" => stream.to_owned()).increment(1);
    tracing::error!(stream, reason, "gap: the source no longer has what follows our position; healing by difference");
}

/// A generation was pinned.
pub fn pinned(stream: &str, generation: u64, heal: bool, pin: &Checkpoint) {
    tracing::info!(stream, generation, heal, %pin, "pinned");
}

/// The first copy is in.
pub fn loaded(stream: &str, rows: u64, bytes: u64) {
    tracing::info!(stream, rows, bytes, "first copy is in; following");
}

/// A walk over both stores is finished.
pub fn healed(stream: &str, tally: &Tally) {
    let Tally { compared, missing, different, extra, kept } = *tally;
    counter!(names::REPAIRED, "stream" => stream.to_owned()).increment(tally.repaired());
    tracing::info!(stream, compared, missing, different, extra, kept, "both sides compared and repaired");
}

/// The stream is somebody else's.
pub fn standing_by(stream: &str, owner: &str) {
    tracing::warn!(
        stream,
        owner,
        "another process owns this stream; standing by until it has been still for ten seconds"
    );
}

/// The stream was claimed.
pub fn claimed(stream: &str, epoch: u64) {
    tracing::info!(stream, epoch, "claimed");
}

/// The sink is consistent from here on, or no longer.
pub fn consistency(stream: &str, consistent: bool) {
    if consistent {
        tracing::info!(stream, "consistent");
    } else {
        tracing::warn!(stream, "not consistent");
    }
}

/// The present moment, once a second.
pub fn status(gauges: &Gauges, status: &Status) {
    gauges.consistent.set(if status.consistent { 1.0 } else { 0.0 });
    gauges.lag_seconds.set(status.lag.map_or(f64::NAN, |lag| lag.as_secs_f64()));
    gauges.epoch.set(status.epoch as f64);
    gauges.rows.set(status.walk.rows as f64);
}

/// Gauges of one stream.
pub struct Gauges {
    consistent: Gauge,
    lag_seconds: Gauge,
    epoch: Gauge,
    rows: Gauge,
}

impl Gauges {
    /// Gauges of this stream.
    pub fn new(stream: &str) -> Self {
        let stream = stream.to_owned();
        Self {
            consistent: gauge!(names::CONSISTENT, "stream" => stream.clone()),
            lag_seconds: gauge!(names::LAG_SECONDS, "stream" => stream.clone()),
            epoch: gauge!(names::EPOCH, "stream" => stream.clone()),
            rows: gauge!(names::WALK_ROWS, "stream" => stream),
        }
    }
}
