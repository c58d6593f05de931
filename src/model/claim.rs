//! Ownership of a stream in a sink.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
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
    /// The number at which the lane was seen to stand still, by somebody who takes over only for that; the claim is refused
    /// as [`crate::error::Fault::Transient`] if it has moved since: its owner is at work. `None` claims in any case.
    pub still: Option<u64>,
    /// The destination held data that this stream did not write (`force: true`), so keys which only the destination
    /// has may be somebody else's. Kept in the record from the first claim on.
    pub foreign: bool,
}

impl Claim {
    /// Fails if the lane, which stands at `number`, has moved since it was seen to stand still. To be asked before the owner
    /// is disturbed.
    ///
    /// # Errors
    /// Transient: the owner is at work.
    pub fn refuse_if_moved(&self, number: u64) -> Result<()> {
        match self.still {
            Some(still) if still != number => Err(Error::transient(format!(
                "claim lane {} of stream {}: its owner is at work again",
                self.lane, self.stream
            ))),
            _ => Ok(()),
        }
    }
}

/// What a sink remembers of one lane.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LaneRecord {
    /// Raised by each claim; commits under another epoch are refused.
    pub epoch: u64,
    /// Number of the last commit that landed. Goes on over claims.
    pub number: u64,
    /// Moves while the owner is at work and nothing lands; a count that begins again with each epoch.
    pub beat: u64,
    /// Everything at or before it is in the sink.
    pub checkpoint: Checkpoint,
}

/// How a commit stands to its lane's record under one epoch (invariant 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the next one.
    Next,
    /// An earlier try of it has landed, and perhaps some that were sent after it.
    Landed,
}

impl Standing {
    /// `record`: the number at which the lane stands; `number`: the commit's; `given`: the highest number that its writer
    /// was given since it claimed the lane, this one included.
    ///
    /// # Errors
    /// Bug, for a commit that is not the next one, and for a record beyond everything that was ever sent: under one epoch
    /// nobody else can have brought it there, so to call that "landed" would be to skip what somebody else has skipped.
    pub fn of(record: u64, number: u64, given: u64) -> Result<Self> {
        if record.checked_add(1) == Some(number) {
            return Ok(Self::Next);
        }
        if record < number {
            return Err(Error::bug(format!("commit {number}: the lane stands at {record}, so it is not the next one")));
        }
        if record > given.max(number) {
            return Err(Error::bug(format!(
                "commit {number}: the lane stands at {record}, and nothing beyond {given} was ever sent under this epoch"
            )));
        }
        Ok(Self::Landed)
    }
}

/// See [`StreamRecord::pulse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse(Vec<[u64; 3]>);

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

    /// Fails if a lane was claimed since a record was read that says `self`: `now` is what it says now.
    ///
    /// # Errors
    /// Fenced.
    pub fn refuse_if_claimed(&self, stream: &StreamId, now: &Self) -> Result<()> {
        let epochs = |record: &Self| record.lanes.iter().map(|lane| lane.epoch).collect::<Vec<_>>();
        if epochs(self) == epochs(now) {
            return Ok(());
        }
        Err(Error::fenced(format!("forget stream {stream}: another process has claimed it")))
    }

    /// What changes with each claim, commit and beat of any lane: if it stays the same, nobody is at work.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.lanes.iter().map(|lane| [lane.epoch, lane.number, lane.beat]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    #[test]
    fn a_commit_has_landed_only_if_the_record_stands_between_it_and_the_last_one_that_was_sent() {
        for (record, number, given) in [(4, 5, 5), (4, 5, 8), (0, 1, 1)] {
            assert_eq!(Standing::of(record, number, given).unwrap(), Standing::Next);
        }
        for (record, number, given) in [(5, 5, 5), (7, 5, 8), (8, 5, 8)] {
            assert_eq!(Standing::of(record, number, given).unwrap(), Standing::Landed);
        }
        for (record, number, given) in [(6, 5, 5), (9, 5, 8), (3, 5, 5), (0, 2, 2), (u64::MAX, 5, 8)] {
            assert_eq!(
                Standing::of(record, number, given).unwrap_err().fault(),
                Fault::Bug,
                "{record} {number} {given}"
            );
        }
    }
}
