//! Appends to a journal: many may append at once, and one fsync makes durable whatever waits.
//!
//! Invariant: [`Writer::durable`] never names a frame that a power loss could take. Whoever wants something durable goes to
//! the disk himself, or waits for the one who is there: the next to go takes along what everybody appended meanwhile. Frames
//! are made while others are being written. A writer always begins a segment of its own, in which it numbers frames on from
//! where the last one ended. Blocks: not to be called from an async task. Starts no thread and reads no clock.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use super::back::Back;
use super::codec::Snapshot;
use super::crypt::Keys;
use super::files::Disk;
use super::format::Salt;
use super::front::Front;
use super::records::Note;
use super::recover::{Recovered, recover};
use crate::error::{Error, Fault, Result};
use crate::model::{Batch, Checkpoint, Micros, PartitionId};

/// Whether frames are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pack {
    /// Where it does not make the writer slower than the disk.
    WherePays,
    /// Each that shrinks.
    Always,
    /// None.
    Never,
}

/// What to do when the newest part of a journal is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Refuse to open it.
    Refuse,
    /// Cut it off, and say so: for those who can have it again from the source, or close the gap.
    Cut,
}

/// How a journal is written.
pub struct Options {
    /// Which history it is: the stream's name and the source's identity. A folder that holds another one is refused.
    pub lineage: String,
    /// A segment is closed once it is this large.
    pub segment_bytes: u64,
    /// And once it is this old, in microseconds.
    pub segment_age: Micros,
    /// A frame is closed when its records are this many bytes: one checksum, one packing and one decryption each. A reader
    /// holds a frame twice.
    pub frame_bytes: usize,
    /// What may wait for the disk, in bytes; beyond it nothing is taken until some of it is durable. (One batch more may be.)
    pub waiting_bytes: usize,
    /// Whether frames are packed.
    pub pack: Pack,
    /// The key that new segments are encrypted with, if any, and those that older ones may name.
    pub keys: Keys,
    /// What to do about damage in the newest part.
    pub on_damage: OnDamage,
    /// Gives 16 random bytes, new at each call.
    pub salt: Box<dyn FnMut() -> Salt + Send>,
}

impl Options {
    /// Segments of 64 MiB or an hour, frames of 256 KiB, 16 MiB that may wait, packed where it pays, not encrypted, damage
    /// refused, salted at random.
    pub fn new(lineage: impl Into<String>) -> Self {
        Self {
            lineage: lineage.into(),
            segment_bytes: 64 << 20,
            segment_age: 3_600_000_000,
            frame_bytes: 256 << 10,
            waiting_bytes: 16 << 20,
            pack: Pack::WherePays,
            keys: Keys::default(),
            on_damage: OnDamage::Refuse,
            salt: Box::new(|| uuid::Uuid::new_v4().into_bytes()),
        }
    }
}

/// The writer of a journal. Cheap to clone; all clones are one. What was not committed when the last one goes is lost.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

/// Whoever holds `back` may ask for `front`, never the other way round.
pub(super) struct Shared {
    front: Mutex<Front>,
    back: Mutex<Back>,
    durable: watch::Sender<u64>,
    paused: watch::Sender<bool>,
}

impl Writer {
    /// Opens a journal, or begins one in an empty folder: cuts a torn tail, and says what was there.
    ///
    /// # Errors
    /// Config, for another history's folder, a missing key or a folder that cannot be read; Corrupt, for damage in the newest
    /// segment, or when frames that were durable are gone from the end.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovered)> {
        let (found, standing, salt) = recover(&disk, &options)?;
        let back = Back::new(disk, options.waiting_bytes);
        let shared = Shared {
            durable: watch::Sender::new(found.last),
            paused: watch::Sender::new(false),
            front: Mutex::new(Front::new(options, found.last, salt, standing)),
            back: Mutex::new(back),
        };
        Ok((Self(Arc::new(shared)), found))
    }

    /// The last frame that a power loss cannot take.
    pub fn durable(&self) -> u64 {
        *self.0.durable.borrow()
    }

    /// Tells whenever [`Writer::durable`] has moved.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.durable.subscribe()
    }

    /// Whether the disk was full at the last try.
    pub fn is_paused(&self) -> bool {
        *self.0.paused.borrow()
    }

    /// Bytes that its buffers hold on to. Waits for whoever is at the disk.
    pub fn held(&self) -> usize {
        let back = self.back().held();
        back + self.front().held()
    }

    /// Bytes that were taken and are not durable.
    pub fn under_way(&self) -> usize {
        self.front().under_way()
    }

    /// Says whether the disk has taken frames sooner than they can be packed: then frames for which it is waited are not.
    pub fn disk_is_quick(&self, quick: bool) {
        self.front().disk_is_quick(quick);
    }

    /// What may wait for the disk, in bytes.
    pub fn waiting_bytes(&self) -> usize {
        self.front().waiting_bytes()
    }

    /// How far each partition is, what waits for the disk included.
    pub fn reached(&self) -> Checkpoint {
        self.front().standing().reached.clone()
    }

    /// The whole snapshots, oldest first; retention may have removed what some of them need.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.front().standing().whole().copied().collect()
    }

    /// Takes what of a batch of the tail is not in the journal yet; gives the sequence that [`Writer::durable`] must reach
    /// before all of it is safe.
    ///
    /// # Errors
    /// Transient, when too much waits for the disk: [`Writer::commit`], then again; nothing was taken. PositionLost, when the
    /// batch begins behind what its partition has reached, so that changes between them are missing: see [`Writer::gap`].
    /// Rejected, for a change that no frame holds. Config, after the disk failed.
    pub fn append(&self, batch: &Batch, now: Micros) -> Result<u64> {
        self.front().batch(batch, now)
    }

    /// Begins a snapshot, with the head as it is now; gives its number. One that was being written is given up.
    ///
    /// # Errors
    /// Config, after the disk failed.
    pub fn begin_snapshot(&self, head: &Checkpoint, now: Micros) -> Result<u64> {
        let mut front = self.front();
        let snapshot = front.standing().last_snapshot + 1;
        front.note(&Note::Began { snapshot, at: now, head: head.clone() }, now)?;
        Ok(snapshot)
    }

    /// Takes a page of the snapshot that is being written, as a scan filled it.
    ///
    /// # Errors
    /// As [`Writer::append`]. Transient too, when this snapshot was given up: begin another one.
    pub fn append_page(&self, snapshot: u64, batch: &Batch, now: Micros) -> Result<u64> {
        self.front().page(snapshot, batch, now)
    }

    /// Ends a snapshot with the head as it is now, once the journal has reached that; `whole` says whether it holds all
    /// pages, else it is given up.
    ///
    /// # Errors
    /// As [`Writer::append_page`].
    pub fn end_snapshot(&self, snapshot: u64, head: &Checkpoint, whole: bool, now: Micros) -> Result<u64> {
        let mut front = self.front();
        front.writes(snapshot)?;
        if whole && !front.standing().reached.covers(head) {
            let text = format!("end snapshot {snapshot} of the journal: it has not reached {head}");
            return Err(Error::transient(text));
        }
        front.note(&Note::Ended { snapshot, at: now, whole, head: head.clone() }, now)
    }

    /// Says that what follows does not join on to where these partitions stand: a gap that was opened and is known. They
    /// begin anew, wherever their next batch does.
    ///
    /// # Errors
    /// Config, after the disk failed.
    pub fn gap(&self, partitions: &[PartitionId], why: &str, now: Micros) -> Result<u64> {
        let mut front = self.front();
        let lost = places(&front, partitions);
        front.note(&Note::Gap { at: now, why: why.to_owned(), lost }, now)
    }

    /// Says that these partitions have ended and nobody asks for them any more.
    ///
    /// # Errors
    /// Config, after the disk failed.
    pub fn forget(&self, partitions: &[PartitionId], now: Micros) -> Result<u64> {
        let mut front = self.front();
        let places = places(&front, partitions);
        front.note(&Note::Forgot(places), now)
    }

    /// Says what the source was told to forget.
    ///
    /// # Errors
    /// Config, after the disk failed.
    pub fn released(&self, upto: &Checkpoint, now: Micros) -> Result<u64> {
        self.front().note(&Note::Released(upto.clone()), now)
    }

    /// From the next record on segments are encrypted with the current one of these keys.
    ///
    /// # Errors
    /// Config, after the disk failed.
    pub fn use_keys(&self, keys: Keys) -> Result<()> {
        self.front().use_keys(keys)
    }

    /// Makes everything that was taken before the call durable; gives the last sequence that is.
    ///
    /// # Errors
    /// Transient, when the disk is full: nothing is lost, call again when there may be room. Config, when the disk failed:
    /// this writer is done.
    pub fn commit(&self) -> Result<u64> {
        let last = self.front().last();
        self.settle(last)
    }

    /// As [`Writer::commit`], for what was taken up to `sequence`: goes to the disk only when nobody else has made that
    /// durable meanwhile.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn settle(&self, sequence: u64) -> Result<u64> {
        if self.durable() >= sequence {
            return Ok(self.durable());
        }
        let mut back = self.back();
        // What was left when there was no room goes first, then what has come since.
        for _ in 0..2 {
            if self.durable() >= sequence && back.group.is_none() {
                break;
            }
            self.fetch(&mut back);
            self.write(&mut back)?;
        }
        Ok(self.durable())
    }

    /// Takes everything that waits, to be made durable by [`Writer::put`] while more is appended; nothing is taken while what
    /// was taken before is not durable. Gives the last sequence that is taken, or durable.
    pub fn take(&self) -> u64 {
        let mut back = self.back();
        self.fetch(&mut back);
        back.group.as_ref().map_or_else(|| self.durable(), |group| group.last)
    }

    /// Makes what was taken durable, and nothing else; gives the last sequence that is.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn put(&self) -> Result<u64> {
        self.write(&mut self.back())?;
        Ok(self.durable())
    }

    /// Commits, and leaves the end of the journal so that it can be checked even after a power loss.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn close(&self) -> Result<u64> {
        let last = self.commit()?;
        self.back().close();
        Ok(last)
    }

    fn fetch(&self, back: &mut Back) {
        if back.group.is_none() {
            let mut spare = std::mem::take(&mut back.spare);
            back.group = self.front().take(&mut spare);
            back.spare = spare;
        }
    }

    fn write(&self, back: &mut Back) -> Result<()> {
        let written = back.write();
        let full = written.as_ref().is_err_and(|error| error.fault() == Fault::Transient);
        self.0.paused.send_if_modified(|paused| std::mem::replace(paused, full) != full);
        if back.is_dead() {
            self.front().die("it stopped when the disk failed, and does not go on over that; start again");
        }
        if let Some(last) = written? {
            self.front().done(last);
            self.0.durable.send_replace(last);
        }
        Ok(())
    }

    pub(super) fn front(&self) -> MutexGuard<'_, Front> {
        self.0.front.lock().expect("nobody panics while he holds what waits")
    }

    pub(super) fn back(&self) -> MutexGuard<'_, Back> {
        self.0.back.lock().expect("nobody panics while he holds the disk")
    }
}

fn places(front: &Front, partitions: &[PartitionId]) -> Checkpoint {
    let reached = &front.standing().reached;
    partitions.iter().map(|partition| (partition.clone(), reached.get(partition).clone())).collect()
}
