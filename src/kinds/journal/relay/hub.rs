//! What capture, scribe and followers share: the ring, how far the journal is, and how it all ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::releases::Releases;
use super::ring::{Ring, Slot};
use super::trail::Trail;
use crate::error::{Error, Fault};
use crate::kinds::journal::Snapshot;
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
    /// Whether a patch that moves a key was written since somebody began to look for one; also while nobody looks.
    moves: AtomicBool,
    /// The same for a table that was emptied.
    clears: AtomicBool,
}

struct State {
    ring: Ring,
    /// The journal's last durable frame, and where partitions are there.
    sequence: u64,
    reached: Checkpoint,
    /// The last places at which no transaction was open there, of the partitions of which one is known.
    closed: Checkpoint,
    releases: Releases,
    trail: Trail,
    end: Option<End>,
    /// Why the journal waits, if it does.
    paused: Option<String>,
    deserted: bool,
    /// The newest whole snapshot in the journal with nothing missing behind it.
    snapshot: Option<Snapshot>,
}

impl Hub {
    /// A hub whose journal ends at this frame, where partitions are here.
    pub(super) fn new(keep: usize, sequence: u64, reached: &Checkpoint, releases: Releases) -> Arc<Self> {
        let release = watch::Sender::new(releases.upto());
        let mut trail = Trail::default();
        trail.note(reached, sequence);
        let (ring, reached) = (Ring::new(keep), reached.clone());
        let closed =
            reached.iter().filter(|(_, at)| at.ordinal() == 0).map(|(p, at)| (p.clone(), at.clone())).collect();
        let (end, paused, deserted, snapshot) = (None, None, false, None);
        let state = State { ring, sequence, reached, closed, releases, trail, end, paused, deserted, snapshot };
        Arc::new(Self {
            state: Mutex::new(state),
            news: watch::Sender::new(0),
            release,
            moves: AtomicBool::new(true),
            clears: AtomicBool::new(true),
        })
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

    /// The journal holds durably everything up to a batch: it ends at this frame, where partitions are here; no transaction
    /// was open at the places `closed`.
    pub(super) fn settle(&self, number: u64, sequence: u64, reached: &Checkpoint, closed: &Checkpoint) {
        {
            let mut state = self.lock();
            state.ring.settle(number);
            state.sequence = sequence;
            state.reached.clone_from(reached);
            state.closed.merge(closed);
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

    /// Somebody who is behind has read this far, and whoever has all of that needs no frame before `needs`. After a restart
    /// only the end of the journal is known otherwise, and that may lie within a transaction that no sink can pass.
    pub(super) fn read(&self, reached: &Checkpoint, needs: u64) {
        self.lock().trail.note(reached, needs.saturating_sub(1));
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
        // What was read again might be cut into other transactions: one that holds rows as they are then, or that has no end
        // where nothing happened. So the journal is who repeats it, and nobody has what it does not.
        let slot = if number <= state.ring.durable() { state.ring.get(number) } else { Slot::Coming };
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

    /// A place that the journal holds durably and at which no transaction is open; waits for one.
    ///
    /// # Errors
    /// Why the capture has ended.
    pub(super) async fn place(&self) -> Result<Checkpoint, Error> {
        let mut news = self.news();
        loop {
            news.mark_unchanged();
            {
                let state = self.lock();
                if state.reached.iter().all(|(partition, _)| state.closed.names(partition)) {
                    return Ok(state.closed.clone());
                }
                if let Some(end) = &state.end {
                    return Err(Error::new(end.fault, end.text.clone()));
                }
            }
            news.changed().await.map_err(|_| Error::bug("wait for a place: the hub is gone"))?;
        }
    }

    /// Waits until the journal holds durably everything up to `head`.
    ///
    /// # Errors
    /// Why the capture has ended.
    pub(super) async fn reach(&self, head: &Checkpoint) -> Result<(), Error> {
        let mut news = self.news();
        loop {
            news.mark_unchanged();
            if self.lock().reached.covers(head) {
                return Ok(());
            }
            if let Some(error) = self.ended() {
                return Err(error);
            }
            news.changed().await.map_err(|_| Error::bug("wait for the journal: the hub is gone"))?;
        }
    }

    /// How far the journal is, durably.
    pub(super) fn reached(&self) -> Checkpoint {
        self.lock().reached.clone()
    }

    /// Waits until the capture has ended.
    pub(super) async fn over(&self) {
        let mut news = self.news();
        loop {
            news.mark_unchanged();
            if self.has_ended() || news.changed().await.is_err() {
                return;
            }
        }
    }

    /// Begins to look for patches that move a key, and for tables that are emptied.
    pub(super) fn look_out(&self) {
        // ORDERING: Relaxed; the order that begins the snapshot is sent afterwards, through a channel.
        self.moves.store(false, Ordering::Relaxed);
        self.clears.store(false, Ordering::Relaxed);
    }

    /// Nobody looks any more.
    pub(super) fn look_away(&self) {
        self.moved();
        self.cleared();
    }

    /// A patch that moves a key is in the journal.
    pub(super) fn moved(&self) {
        // ORDERING: Relaxed; settling what it is about takes the lock afterwards, and whoever asks has waited for that.
        self.moves.store(true, Ordering::Relaxed);
    }

    /// Whether one has come since [`Hub::look_out`], or nobody looks.
    pub(super) fn has_moved(&self) -> bool {
        // ORDERING: Relaxed, see `moved`.
        self.moves.load(Ordering::Relaxed)
    }

    /// A table was emptied.
    pub(super) fn cleared(&self) {
        // ORDERING: Relaxed, see `moved`.
        self.clears.store(true, Ordering::Relaxed);
    }

    /// Whether one was since [`Hub::look_out`], or nobody looks.
    pub(super) fn has_cleared(&self) -> bool {
        // ORDERING: Relaxed, see `moved`.
        self.clears.load(Ordering::Relaxed)
    }

    /// The newest whole snapshot of the journal with nothing missing behind it, if there is one.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        self.lock().snapshot
    }

    /// There is another one, or none.
    pub(super) fn set_snapshot(&self, snapshot: Option<Snapshot>) {
        self.lock().snapshot = snapshot;
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
    pub(super) fn desert(&self) {
        self.lock().deserted = true;
    }

    /// Whether nobody wants any more.
    pub(super) fn is_deserted(&self) -> bool {
        self.lock().deserted
    }
}
