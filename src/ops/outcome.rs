//! What `clone`, `verify`, `check`, `drop-slot`, `replay` and `restore` came to. Field names are stable: scripts read them.

use serde::Serialize;

/// The last line of `clone --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Copied {
    /// Stream name.
    pub name: String,
    /// Items that the copy holds of this source.
    pub items: u64,
    /// Bytes of their keys and bodies.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Items left out because they had expired.
    pub skipped_expired: u64,
    /// Items left out because of `exclude` and `.locks/`.
    pub skipped_excluded: u64,
}

/// What `verify` found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verified {
    /// Stream name.
    pub name: String,
    /// Nothing is missing, extra or different, or everything that was is repaired.
    pub equal: bool,
    /// Whether differences were judged against a frontier that moves; else the sides were judged as they were.
    pub live: bool,
    /// Rows of the source that were compared.
    pub compared: u64,
    /// Rows that only the source has.
    pub missing: u64,
    /// Rows that only the sink has.
    pub extra: u64,
    /// Rows that are not equal.
    pub different: u64,
    /// Rows that moved at every look, so that nothing can be said of them.
    pub unsettled: u64,
    /// Rows that were written or removed.
    pub repaired: u64,
    /// The source's head up to which it holds.
    pub head: String,
    /// How long it took.
    pub seconds: f64,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// It works today, and will hurt.
    Warning,
    /// It does not work.
    Error,
}

/// Something that `check` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stream name.
    pub name: String,
    /// `src`, `dst`, `journal`, or empty when it is about both sides.
    pub side: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, in one sentence.
    pub what: String,
    /// What mends it: a statement to run or a key to change; empty if nothing can be said.
    pub mend: String,
}

/// What `check --print-iam` prints for one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Stream name.
    pub name: String,
    /// `src` or `dst`.
    pub side: String,
    /// The policy document.
    pub policy: serde_json::Value,
}

/// What `drop-slot` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Stream name.
    pub name: String,
    /// What was done, in one sentence.
    pub what: String,
}

/// What `replay` did, or with `--dry-run` what it would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Pipeline whose source it was.
    pub name: String,
    /// Where it began, per partition.
    pub from: String,
    /// Where it ended, per partition.
    pub until: String,
    /// Changes of the source in between.
    pub changes: u64,
    /// When the first of them was committed; null when it is not known.
    pub first: Option<String>,
    /// When the last of them was.
    pub last: Option<String>,
}

/// What would reach a destination, of one sort.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Foreseen {
    /// The sort: a class of keys, the first part of keys that have none, or a table.
    pub what: String,
    /// Whole rows.
    pub puts: u64,
    /// Parts of rows.
    pub patches: u64,
    /// Removals.
    pub deletes: u64,
    /// Tables that are emptied.
    pub clears: u64,
}

/// The last line of `restore --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Pipeline whose source it was.
    pub name: String,
    /// The instant, or position, that was asked for.
    pub at: String,
    /// Number of the snapshot that it began with.
    pub snapshot: u64,
    /// When that was complete.
    pub snapshot_ended: Option<String>,
    /// Its items.
    pub items: u64,
    /// Changes of the source after it.
    pub changes: u64,
    /// When the last of them was committed; null when it is not known, or there was none.
    pub last: Option<String>,
    /// The place that was reached, per partition.
    pub place: String,
    /// Whether the journal holds something later than that, so that nothing up to it can be missing.
    pub later: bool,
}
