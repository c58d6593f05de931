//! What capture, scribe and followers share: the ring, how far the journal is, and how it all ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::releases::Releases;
use super::ring::{Ring, Slot};
use super::trail::Trail;
use crate::error::{Error, Fault};
use crate::model::{Batch, Checkpoint};

/// How a capture ended, in a form that every follower can be told.
#[derive(Clone, Debug)]
struct End {
    fault: Fault,
    text: String,
}

/// One capture's shared state.
pub(super) struct Hub {
    state: Mutex<State>,
    /// Moves whenever there is something new for a follower.
    news: watch::Sender<u64>,
    /// What the source may forget.
    release: watch::Sender<Checkpoint>,
}

struct State {
    ring: Ring,
    /// What the source gives it can give again.
    repeats: bool,
    /// The journal's last durable frame, and where partitions are there.
    sequence: u64,
    reached: Checkpoint,
    releases: Releases,
    trail: Trail,
    end: Option<End>,
    /// Why the journal waits, if it does.
    paused: Option<String>,
    closed: bool,
}

impl Hub {
    /// A hub whose journal ends at this frame, where partitions are here.
    pub(super) fn new(
        keep: usize,
        sequence: u64,
        reached: &Checkpoint,
        releases: Releases,
        repeats: bool,
    ) -> Arc<Self> {
        let release = watch::Sender::new(releases.upto());
        let mut trail = Trail::default();
        trail.note(reached, sequence);
        let (ring, reached) = (Ring::new(keep), reached.clone());
        let state = State { ring, repeats, sequence, reached, releases, trail, end: None, paused: None, closed: false };
        Arc::new(Self { state: Mutex::new(state), news: watch::Sender::new(0), release })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// A batch came; gives its number.
    pub(super) fn push(&self, batch: Arc<Batch>) -> u64 {
        let number = self.lock().ring.push(batch);
        self.tell();
        number
    }

    /// The journal holds durably everything up to a batch: it ends at this frame, where partitions are here.
    pub(super) fn settle(&self, number: u64, sequence: u64, reached: &Checkpoint) {
        {
            let mut state = self.lock();
            state.ring.settle(number);
            state.sequence = sequence;
            state.reached.clone_from(reached);
            state.releases.durable(reached);
        }
        self.released();
        self.tell();
    }

    /// Remembers where the journal is; gives, for each sink that was heard of, the first frame that it still needs, as far
    /// as that is known.
    pub(super) fn needs(&self) -> Vec<(String, u64)> {
        let mut state = self.lock();
        let State { trail, reached, sequence, releases, .. } = &mut *state;
        trail.note(reached, *sequence);
        releases.sinks().filter_map(|(name, upto)| Some((name.to_owned(), trail.needs(upto)?))).collect()
    }

    /// A sink is here now.
    pub(super) fn sink(&self, name: &str, upto: &Checkpoint) {
        self.lock().releases.sink(name, upto);
        self.released();
    }

    /// Whether the source keeps about as much as it may.
    pub(super) fn strained(&self, strained: bool) {
        self.lock().releases.strained(strained);
        self.released();
    }

    fn released(&self) {
        let upto = self.lock().releases.upto();
        self.release.send_if_modified(|known| {
            let moved = *known != upto;
            *known = upto;
            moved
        });
    }

    /// What the source may forget, as it changes.
    pub(super) fn releases(&self) -> watch::Receiver<Checkpoint> {
        self.release.subscribe()
    }

    /// News for followers: look again after it changes.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// What is there under a number; an error once all that came was given and the capture has ended.
    pub(super) fn get(&self, number: u64) -> Result<Slot, Error> {
        let state = self.lock();
        // A source that does not repeat itself is repeated by the journal, so nothing is given that it does not hold.
        let held = state.repeats || number <= state.ring.durable();
        let slot = if held { state.ring.get(number) } else { Slot::Coming };
        match (slot, &state.end) {
            (Slot::Coming, Some(end)) => Err(Error::new(end.fault, end.text.clone())),
            (slot, _) => Ok(slot),
        }
    }

    /// The number of the last batch that the journal holds durably, and the frame that it ends at.
    pub(super) fn durable(&self) -> (u64, u64) {
        let state = self.lock();
        (state.ring.durable(), state.sequence)
    }

    /// How far the journal is.
    pub(super) fn reached(&self) -> Checkpoint {
        self.lock().reached.clone()
    }

    /// The capture has ended; the first reason counts.
    pub(super) fn fail(&self, error: &Error) {
        self.lock().end.get_or_insert(End { fault: error.fault(), text: error.to_string() });
        self.tell();
    }

    /// Why the capture has ended, if it has.
    pub(super) fn ended(&self) -> Option<Error> {
        self.lock().end.as_ref().map(|end| Error::new(end.fault, end.text.clone()))
    }

    /// Whether the capture has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// The journal waits, or goes on.
    pub(super) fn paused(&self, why: Option<&Error>) {
        let mut state = self.lock();
        match (why, state.paused.is_some()) {
            (Some(error), false) => {
                tracing::error!(%error, "the journal waits, and reading with it; it goes on by itself");
                state.paused = Some(error.to_string());
            }
            (None, true) => {
                tracing::info!("the journal goes on");
                state.paused = None;
            }
            _ => {}
        }
    }

    /// Why the journal waits, if it does.
    pub(super) fn concern(&self) -> Option<String> {
        self.lock().paused.clone()
    }

    /// Nobody wants any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Whether nobody wants any more.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}
