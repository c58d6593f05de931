//! Where changes come from.

use std::future::Future;
use std::pin::Pin;

use crate::error::Result;
use crate::model::{Batch, Checkpoint};
use crate::pool::Pool;

/// A boxed future: one allocation per batch, none per change.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Control side of a source.
pub trait Source: Send + Sync {
    /// The newest checkpoint: the end of what was durable when the question was asked. A partition without records stands
    /// at `Start`, which every checkpoint covers. Changes nothing at the source.
    fn head(&self) -> Fut<'_, Checkpoint>;

    /// A head from which on the source keeps its history for us (PostgreSQL: makes publication and slot if they are
    /// missing or useless, within what `manage` allows). Everything committed at or before it is visible to the source's
    /// [`crate::store::Store`] when this returns; everything after it will come out of `tail`.
    fn pin(&self) -> Fut<'_, Checkpoint>;

    /// As [`Source::pin`], for a stream that was pinned before: what configuration means and the source cannot bring is not
    /// refused any more but left out, and a [`Source::concern`].
    fn repin(&self) -> Fut<'_, Checkpoint> {
        self.pin()
    }

    /// A copy that began at the pin `from` goes on, and the stream will be opened there when it is done: whoever can keeps
    /// what comes meanwhile, so that the copy may take longer than the source remembers.
    fn keep<'a>(&'a self, _from: &'a Checkpoint) -> Fut<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Opens the stream behind `from`, having *proved* that it can start there: not before what the source has kept or has
    /// already been told to forget, not after its head, same lineage. Else [`crate::error::Fault::PositionLost`].
    /// Partitions of the engine (`!…`) in `from` are ignored; `from` names every tail partition that was pinned.
    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>>;

    /// Something that the stream does not bring and that a person must mend, in one sentence; the pipeline goes on, and is
    /// not ready while there is such a thing. Asked once a second: answers from memory.
    fn concern(&self) -> Option<String> {
        None
    }

    /// Whether the source keeps half or more of the history that it may keep for us. Asked once a second: answers from
    /// memory.
    fn strained(&self) -> bool {
        false
    }
}

/// The stream of a source: one owner, no sharing.
pub trait Tail: Send {
    /// Waits for the next batch, in partition order; a partition that has children comes to `End` before the first change
    /// of a child. A batch that ends within a source transaction is followed by the rest of it. A batch without changes means "nothing happened up to here" and takes the same road as any other.
    /// Cancel-safe: dropping the future loses nothing.
    fn next(&mut self) -> Fut<'_, Batch>;

    /// Everything at or before `upto` is durable in the sink: the source may forget it. A suggestion, never beyond the
    /// frontier; safe to repeat.
    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()>;
}
