//! Where changes go to.

use std::sync::Arc;

use crate::error::Error;
use crate::model::{Changes, Claim, Commit, LaneRecord, StreamId, StreamRecord, Table};
use crate::source::Fut;

/// What one commit of a sink can take, read once for each claim of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Changes in one commit.
    pub changes: usize,
    /// Bytes of keys and bodies in one commit.
    pub bytes: usize,
    /// Whether changes can be staged in an open transaction, so that a source transaction of any size stays one commit.
    /// Sinks that cannot are given prefixes with ordinals.
    pub stage: bool,
    /// Commits of one lane that may be on their way at the same time.
    pub in_flight: usize,
}

/// Control side of a sink.
pub trait Sink: Send + Sync {
    /// What one commit can take. A sink that has to ask its server knows it once a lane was claimed.
    fn limits(&self) -> Limits;

    /// Reads what the sink remembers of a stream; takes nothing, creates nothing. `None` if it does not know it.
    fn inspect<'a>(&'a self, stream: &'a StreamId) -> Fut<'a, Option<StreamRecord>>;

    /// Loads one lane's record, raises its epoch and so fences its previous owner, in one step; makes our bookkeeping and
    /// the layout's own schema where they are missing. When it returns, no commit of the previous owner is under way.
    /// Claimed lanes of a stream whose scope names another number of lanes all start from what all old lanes had passed.
    fn claim<'a>(&'a self, claim: &'a Claim) -> Fut<'a, (LaneRecord, Box<dyn Writer>)>;

    /// Shows that the owner of a lane is at work while nothing of it lands: moves the lane's beat, if it stands under this
    /// epoch; under another one nothing changes. Waits for nothing that is staged, committed or claimed, and makes none of
    /// these wait. The future may be dropped at any time. How it ends decides nothing: who owns a lane is asked by commits
    /// alone. Need not do anything in a sink where no claim gets past an open transaction.
    fn beat<'a>(&'a self, _stream: &'a StreamId, _lane: u16, _epoch: u64) -> Fut<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Makes the tables that must exist before the first change, from the source's own description. Idempotent. `load`:
    /// the first copy follows, so what is better built after it (keys, indexes) may wait for [`Sink::settle`].
    fn prepare<'a>(&'a self, _tables: &'a [Arc<Table>], _load: bool) -> Fut<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Builds what `prepare` left for later. Called when the first copy is in, before the first change of the tail.
    /// Idempotent.
    fn settle<'a>(&'a self, _tables: &'a [Arc<Table>]) -> Fut<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Removes all that the sink remembers of a stream that is done for good, and where no other stream is remembered the
    /// place of it too; the data stays. Only if each lane stands under the epoch that `seen` has, in one step: after a later
    /// claim it is [`crate::error::Fault::Fenced`], and nothing is removed. Harmless when the stream is not known.
    fn forget<'a>(&'a self, stream: &'a StreamId, _seen: &'a StreamRecord) -> Fut<'a, ()> {
        let what = format!("forget stream {stream}: this kind of destination cannot");
        Box::pin(async { Err(Error::config(what)) })
    }
}

/// One lane of a stream in a sink: the only way in which data reaches it.
pub trait Writer: Send {
    /// Adds to the transaction that is open, invisible until the next `commit`. If its connection is lost before that, the
    /// next call fails with [`crate::error::Fault::StageLost`] and everything staged is gone. Only called if
    /// [`Limits::stage`].
    fn stage<'a>(&'a mut self, changes: &'a Arc<Changes>) -> Fut<'a, ()>;

    /// Makes what was staged, the commit's changes and its `upto` durable: all or nothing, and only if the lane's record
    /// stands at `number - 1` under this writer's epoch. A record that already stands at `number` or beyond under this
    /// epoch means that an earlier try landed (and perhaps those sent after it, whose answers were lost too): success. Any
    /// other epoch is [`crate::error::Fault::Fenced`]; a lower number, and one beyond everything that this writer was ever
    /// given, is [`crate::error::Fault::Bug`]: [`crate::model::Standing`] decides.
    ///
    /// The order of calls is the order of commits; the future may be awaited later and outlives the borrow, so up to
    /// [`Limits::in_flight`] may be under way. After a [`crate::error::Fault::Transient`] failure the caller sends that
    /// commit and all later ones again, exactly as they were; the writer connects again by itself, under the same epoch.
    fn commit(&mut self, commit: Arc<Commit>) -> Fut<'static, ()>;
}
