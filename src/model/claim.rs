//! Ownership of a stream in a sink.

use std::fmt;
use std::sync::Arc;

use crate::model::Checkpoint;

/// Name of a stream: identifies its checkpoints in the sink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// A stream of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who owns a stream: an id kept in `state_dir` under a file lock. The same owner claims again at once (a restart); another
/// one waits until the record has not moved for ten seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner(pub String);

/// What belongs to the stream and not to the process that runs it (invariant 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Kinds, layouts and prefixes. A different one is refused.
    pub layout: String,
    /// Tables, exclusions and masks. A different one opens a gap for the difference.
    pub extent: String,
    /// Number of lanes. Changes only when drained.
    pub lanes: u16,
}

/// Asks for one lane of a stream. Whoever owns all lanes owns the stream.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which stream.
    pub stream: StreamId,
    /// Which lane, from 0.
    pub lane: u16,
    /// For whom.
    pub owner: Owner,
    /// What the stream covers.
    pub scope: Scope,
    /// The lane's epoch that was seen by `inspect`; the claim is refused as [`crate::error::Fault::Fenced`] if it has
    /// moved since. `None` if no record was there.
    pub seen: Option<u64>,
    /// The destination held data that this stream did not write (`force: true`), so keys which only the destination
    /// has may be somebody else's. Kept in the record from the first claim on.
    pub foreign: bool,
}

/// What a sink remembers of one lane.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LaneRecord {
    /// Raised by each claim; commits under another epoch are refused.
    pub epoch: u64,
    /// Number of the last commit that landed. Goes on over claims.
    pub number: u64,
    /// Everything at or before it is in the sink.
    pub checkpoint: Checkpoint,
}

/// What a sink remembers of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRecord {
    /// Version of the record's format.
    pub format: u32,
    /// Who claimed it last.
    pub owner: Owner,
    /// What it covers.
    pub scope: Scope,
    /// See [`Claim::foreign`].
    pub foreign: bool,
    /// Its lanes. A lane that was never claimed stands at epoch 0.
    pub lanes: Vec<LaneRecord>,
}

impl StreamRecord {
    /// Version written by this release.
    pub const FORMAT: u32 = 1;

    /// What all lanes have passed.
    pub fn frontier(&self) -> Checkpoint {
        Checkpoint::meet(self.lanes.iter().map(|lane| &lane.checkpoint))
    }

    /// A number that grows with each commit and each claim: if it stands still, nobody is at work.
    pub fn pulse(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.epoch.wrapping_add(lane.number)).fold(0, u64::wrapping_add)
    }
}
