//! The past of a source, out of its journal: what lies between two places of it, and the snapshots that it keeps.
//!
//! [`Past`] is a [`Source`] like any other, and [`Pages`] a [`Store`]: a pipeline over them does everything that it does with
//! a live source, and there is no other way into a sink. Invariants: a stretch begins and ends where no source transaction is
//! open; nothing behind a gap or damage within it is ever given; a snapshot is taken only if the stretch reaches to where it
//! is right. What it does not do: wait for what is still to come. Whoever follows it is told when it has all of it, and is
//! stopped by somebody else.

mod base;
mod pages;
mod part;
mod place;
mod stretch;
mod tail;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

pub use self::base::{Base, base};
pub use self::pages::{Nothing, Pages};
pub use self::place::{Bound, Place, place};
use self::stretch::Stretch;
pub use self::stretch::{Survey, survey};
use self::tail::PastTail;
use super::{Disk, Keys};
use crate::error::{Error, Fault};
use crate::model::{Checkpoint, Micros};
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};

/// How fast the past goes by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as the sink takes it.
    Max,
    /// So many times as fast as it happened, by commit times.
    Times(f64),
}

/// A piece of the past.
#[derive(Clone)]
pub struct Span {
    /// Where the journal lies.
    pub disk: Arc<dyn Disk>,
    /// What it is read with.
    pub keys: Keys,
    /// The last frame that may be read.
    pub through: u64,
    /// Where it begins. No transaction is open there.
    pub begin: Checkpoint,
    /// From where on the state is one that the source had: the beginning, or where the snapshot that it goes with ended.
    pub whole: Checkpoint,
    /// Where it ends. No transaction is open there.
    pub end: Checkpoint,
}

/// A piece of the past, as a source.
pub struct Past(Arc<Shared>);

/// What a source and its tail know together.
struct Shared {
    span: Span,
    speed: Speed,
    /// The tail was asked for something: who decides about consistency has its head.
    flows: AtomicBool,
    /// Everything is durable in the sink.
    done: watch::Sender<bool>,
    /// What is wrong with the journal.
    wrong: Mutex<Option<(Fault, String)>>,
}

impl Past {
    /// Reads nothing yet.
    pub fn new(span: Span, speed: Speed) -> Arc<Self> {
        let (flows, done, wrong) = (AtomicBool::new(false), watch::Sender::new(false), Mutex::default());
        Arc::new(Self(Arc::new(Shared { span, speed, flows, done, wrong })))
    }

    /// Becomes true when everything is durable in the sink.
    pub fn done(&self) -> watch::Receiver<bool> {
        self.0.done.subscribe()
    }

    /// What was found to be wrong with the journal, if anything was.
    pub fn wrong(&self) -> Option<Error> {
        let wrong = self.0.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.as_ref().map(|(fault, text)| Error::new(*fault, text.clone()))
    }
}

impl Shared {
    /// A sink has everything at or before this.
    fn passed(&self, upto: &Checkpoint) {
        if upto.covers(&self.span.end) {
            self.done.send_replace(true);
        }
    }

    /// A past that cannot be read any more is no gap to be healed: there is nothing to compare with.
    fn note(&self, error: Error) -> Error {
        let fault = if error.fault() == Fault::PositionLost { Fault::Corrupt } else { error.fault() };
        let text = error.to_string();
        *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault, text.clone()));
        Error::new(fault, text)
    }
}

impl Source for Past {
    /// The sink is consistent where the past is whole, so that is the first head; from then on it is the end.
    fn head(&self) -> Fut<'_, Checkpoint> {
        let span = &self.0.span;
        // ORDERING: Relaxed; the tail and whoever asks for heads are one task.
        let head = if self.0.flows.load(Ordering::Relaxed) { span.end.clone() } else { span.whole.clone() };
        Box::pin(async { Ok(head) })
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async { Ok(self.0.span.begin.clone()) })
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async move {
            let (span, from) = (self.0.span.clone(), from.tail());
            let (own, fill) = (from.clone(), pool.batch_bytes());
            let opened = tokio::task::spawn_blocking(move || Stretch::open(&span, own, fill)).await;
            let opened = opened.map_err(|_| Error::bug("open the journal for reading: it has panicked"))?;
            let stretch = opened.map_err(|error| self.0.note(error))?;
            // ORDERING: Relaxed, see `head`.
            self.0.flows.store(false, Ordering::Relaxed);
            self.0.passed(&from);
            Ok(Box::new(PastTail::new(Arc::clone(&self.0), stretch, pool, from)) as Box<dyn Tail>)
        })
    }
}

/// When a commit happened, for pacing and for people.
fn times(at: Micros, first: &mut Micros, last: &mut Micros) {
    if at != 0 {
        *first = if *first == 0 { at } else { (*first).min(at) };
        *last = (*last).max(at);
    }
}
