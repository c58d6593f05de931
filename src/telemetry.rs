//! What can be observed: log lines and metrics.
//!
//! One function per fact writes the log line and the metric together, so that the two never drift apart. All names of
//! metrics are in [`names`], with their meaning, so that `/metrics` explains itself. Logs go to stderr; libraries are
//! heard from warnings on only, whatever `-v` says, because what they log in detail is not ours to vouch for.

use std::sync::Mutex;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::error::{Error, Result};

/// Names of metrics. Stable: dashboards depend on them. The label `stream` names the pipeline.
pub mod names {
    /// Changes made durable in the sink.
    pub const CHANGES: &str = "driftless_committed_changes_total";
    /// Commits made durable in the sink.
    pub const COMMITS: &str = "driftless_commits_total";
    /// Bytes of keys and bodies made durable in the sink.
    pub const BYTES: &str = "driftless_committed_bytes_total";
    /// Commits that were sent again.
    pub const RETRIES: &str = "driftless_commit_retries_total";
    /// Source transactions that the sink did not take whole.
    pub const SPLIT: &str = "driftless_split_transactions_total";
    /// Gaps opened.
    pub const GAPS: &str = "driftless_gaps_total";
    /// 1 if the sink is a state that the source had and nothing is missing.
    pub const CONSISTENT: &str = "driftless_consistent";
    /// Age of the oldest change at the source that the sink does not have.
    pub const LAG_SECONDS: &str = "driftless_lag_seconds";
    /// Changes read and not yet durable in the sink.
    pub const LAG_CHANGES: &str = "driftless_lag_changes";
    /// 1 for the state that the pipeline is in, 0 for the others; label `state`.
    pub const STATE: &str = "driftless_state";
    /// Epoch of the claim.
    pub const EPOCH: &str = "driftless_epoch";
    /// Rows read by the walk that is under way, or was last.
    pub const WALK_ROWS: &str = "driftless_walk_rows";
    /// Rows found missing, different or extra, and written.
    pub const REPAIRED: &str = "driftless_repaired_rows_total";
    /// Bytes of log that the source keeps for the stream.
    pub const RETAINED: &str = "driftless_source_retained_bytes";
    /// Bytes that the source may still write before it gives the stream up by itself.
    pub const RETAINED_SAFE: &str = "driftless_source_safe_bytes";
    /// 1 for the `wal_status` of the slot, 0 for the others; label `status`.
    pub const WAL_STATUS: &str = "driftless_source_wal_status";
    /// Tables of the source that are meant and not replicated.
    pub const UNREPLICATED: &str = "driftless_unreplicated_tables";
    /// Bytes of journals on disk; label `journal` names the pipeline that they are called after.
    pub const JOURNAL_BYTES: &str = "driftless_journal_bytes";
    /// When the newest whole snapshot in a journal ended, in seconds since 1970; label `journal`.
    pub const JOURNAL_SNAPSHOT: &str = "driftless_journal_snapshot_timestamp_seconds";
    /// Changes and rows that a filter left out; label `why`.
    pub const LEFT_OUT: &str = "driftless_left_out_total";
    /// Watches of an etcd source that were lost.
    pub const WATCHES_LOST: &str = "driftless_watches_lost_total";
    /// Leases of an etcd source that were not read again in time.
    pub const LEASES_OVERDUE: &str = "driftless_leases_overdue";
    /// 1 if `/readyz` says yes.
    pub const READY: &str = "driftless_ready";
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends log lines to `writer`. `verbose`: 0 facts that an operator wants, 1 details, 2 everything.
pub fn start_logs<W>(verbose: u8, format: Format, colours: bool, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::new(format!("warn,driftless={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    // A second set-up in one process (tests) leaves the first in place.
    match format {
        Format::Text => drop(builder.with_target(false).try_init()),
        Format::Json => {
            drop(builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init())
        }
    }
}

/// Starts to count. Must come before anything that is counted: handles that are made earlier count into nothing.
pub fn start_metrics() -> Result<PrometheusHandle> {
    static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    // Held over the installation: two that start at once would install twice, which the second one may not.
    let mut started = HANDLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(handle) = &*started {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| Error::bug("start metrics: another recorder is installed").because(error))?;
    describe();
    Ok(started.insert(handle).clone())
}

/// Every word of `driftless_state`.
const STATES: [&str; 6] = ["standby", "snapshot", "catching_up", "following", "gap", "stopped"];

/// What a pipeline is doing, told when somebody looks.
pub fn pipeline(stream: &str, state: &str, lag_changes: Option<u64>, ready: bool) {
    let one = |yes: bool| if yes { 1.0 } else { 0.0 };
    for word in STATES {
        gauge!(names::STATE, "stream" => stream.to_owned(), "state" => word).set(one(word == state));
    }
    let unknown = f64::NAN;
    gauge!(names::LAG_CHANGES, "stream" => stream.to_owned()).set(lag_changes.map_or(unknown, |n| n as f64));
    gauge!(names::READY, "stream" => stream.to_owned()).set(one(ready));
}

/// A filter left out so many changes or rows of a batch.
pub fn left_out(stream: &str, why: &'static str, count: u64) {
    counter!(names::LEFT_OUT, "stream" => stream.to_owned(), "why" => why).increment(count);
}

/// So many rows or changes of an etcd source have a value that Teleport could not read either, and are left out. `first`:
/// nobody was told yet.
pub fn unreadable(stream: &str, count: u64, first: bool) {
    left_out(stream, "unreadable", count);
    if first {
        tracing::warn!(stream, "values that are empty or not base64 are left out: Teleport could not read them either");
    }
}

/// The watch of an etcd source was lost, and another one is made.
pub fn watch_lost(stream: &str, why: &Error) {
    counter!(names::WATCHES_LOST, "stream" => stream.to_owned()).increment(1);
    tracing::warn!(stream, %why, "a watch was lost; another one is made, at another peer if there is one");
}

/// So many changes of a commit to an etcd destination have an empty value, which Teleport could not read there; their keys
/// are removed. `first`: nobody was told yet.
pub fn unstorable(stream: &str, count: u64, first: bool) {
    left_out(stream, "empty", count);
    if first {
        tracing::warn!(stream, "items with an empty value are left out: Teleport cannot read one from etcd");
    }
}

/// A filter met keys of no class that is known, and left them out; told once for each first component.
pub fn unknown_family(stream: &str, family: &str) {
    tracing::warn!(
        stream,
        family,
        "the profile leaves out items of a class that this version does not know; name their prefix in `include` to have them"
    );
}

/// A filter left out an item because it could not be masked; told once.
pub fn not_json(stream: &str) {
    tracing::warn!(stream, "a field is to be replaced in a value that is not JSON; such items are left out");
}

/// Keeps what was counted small while nobody looks at it. Never ends.
pub async fn upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        handle.run_upkeep();
    }
}

fn describe() {
    describe_counter!(names::CHANGES, Unit::Count, "Changes made durable in the sink");
    describe_counter!(names::COMMITS, Unit::Count, "Commits made durable in the sink");
    describe_counter!(names::BYTES, Unit::Bytes, "Bytes of keys and bodies made durable in the sink");
    describe_counter!(names::RETRIES, Unit::Count, "Commits that were sent again");
    describe_counter!(names::SPLIT, Unit::Count, "Source transactions that were larger than the sink takes at once");
    describe_counter!(names::GAPS, Unit::Count, "Gaps opened: the source no longer had what follows our position");
    describe_gauge!(names::CONSISTENT, "1 if the sink is a state that the source had and nothing is missing");
    describe_gauge!(names::LAG_SECONDS, Unit::Seconds, "Age of the oldest change that the sink does not have");
    describe_gauge!(names::LAG_CHANGES, Unit::Count, "Changes read and not yet durable in the sink; NaN if unknown");
    describe_gauge!(names::STATE, "1 for the state that the pipeline is in");
    describe_gauge!(names::EPOCH, "Epoch of the claim; grows when the stream changes hands");
    describe_gauge!(names::WALK_ROWS, Unit::Count, "Rows read by the walk that is under way, or was last");
    describe_counter!(names::REPAIRED, Unit::Count, "Rows found missing, different or extra, and written");
    describe_gauge!(names::RETAINED, Unit::Bytes, "Bytes of log that a PostgreSQL source keeps for the slot");
    describe_gauge!(names::RETAINED_SAFE, Unit::Bytes, "Bytes until the server gives the slot up; NaN without a limit");
    describe_gauge!(names::WAL_STATUS, "1 for the wal_status of the slot");
    describe_gauge!(names::JOURNAL_BYTES, Unit::Bytes, "bytes of journals on disk");
    describe_gauge!(
        names::JOURNAL_SNAPSHOT,
        Unit::Seconds,
        "When the newest whole snapshot in a journal ended, since 1970; NaN without one"
    );
    describe_gauge!(
        names::UNREPLICATED,
        Unit::Count,
        "Tables of the source that `tables` means and that are not replicated"
    );
    describe_counter!(names::LEFT_OUT, Unit::Count, "Changes and rows that a filter left out");
    describe_counter!(names::WATCHES_LOST, Unit::Count, "Watches of an etcd source that were lost and made anew");
    describe_gauge!(names::LEASES_OVERDUE, Unit::Count, "Leases of an etcd source that were not read again in time");
    describe_gauge!(names::READY, "1 if /readyz says yes");
}
