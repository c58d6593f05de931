//! Appends batches: encoded and framed at once, written and made durable together with whatever else waits.
//!
//! Invariant: [`Writer::durable`] never names a frame that a power loss could take. A failed fsync ends the writer for good:
//! what the kernel then still holds is not known, so nothing is tried again over it. A full disk only pauses: the piece that
//! found no room is cut off again, the frames stay in memory byte for byte, and the next commit writes them. A writer always
//! begins a segment of its own, in which it numbers frames on from where the last one ended.

use std::io;
use std::sync::Arc;

use super::crypt::Keys;
use super::files::{Disk, DiskFile};
use super::format::{Salt, SegmentHead, segment_name};
use super::frame::Sealer;
use super::reader::{Cut, recover};
use super::records::{self, Summary, TABLES_MAX, Tables};
use crate::error::{Error, Result};
use crate::model::{Batch, Checkpoint, Micros, PartitionId, Position};

/// LIMIT: a frame is closed when it holds this much; one checksum, one packing and one decryption each.
const FRAME_BYTES: usize = 1 << 20;
/// LIMIT: what may wait for the disk; a writer that holds more takes nothing until it has committed.
const WAITING: usize = 16 << 20;

/// How a journal is written.
pub struct Options {
    /// Which history it is: the stream's name and the source's identity. A folder that holds another one is refused.
    pub lineage: String,
    /// A segment is closed once it is this large.
    pub segment_bytes: u64,
    /// And once it is this old, in microseconds.
    pub segment_age: Micros,
    /// Whether frames are packed where it pays.
    pub pack: bool,
    /// The key that new segments are encrypted with, one of `keys`.
    pub key: Option<u64>,
    /// All keys that segments may name.
    pub keys: Keys,
    /// Gives 16 random bytes, new at each call.
    pub salt: Box<dyn FnMut() -> Salt + Send>,
}

impl Options {
    /// Segments of 64 MiB or an hour, packed, not encrypted, salted at random.
    pub fn new(lineage: impl Into<String>) -> Self {
        Self {
            lineage: lineage.into(),
            segment_bytes: 64 << 20,
            segment_age: 3_600_000_000,
            pack: true,
            key: None,
            keys: Keys::default(),
            salt: Box::new(|| uuid::Uuid::new_v4().into_bytes()),
        }
    }
}

/// What was there when a journal was opened.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The last frame, 0 when there is none.
    pub last: u64,
    /// How far each partition reaches. Compare it with what the source has confirmed: frames that were cut off whole leave no
    /// other trace.
    pub reached: Checkpoint,
    /// A tail that a crash had cut short and that is gone now.
    pub cut: Option<Cut>,
}

/// The segment that is being written.
struct Active {
    sealer: Sealer,
    tables: Tables,
    name: String,
    made: Micros,
    /// The head, until the file is there.
    head: Vec<u8>,
    file: Option<Box<dyn DiskFile>>,
    /// Bytes of it that are durable.
    at: u64,
}

/// The one writer of a journal.
pub struct Writer {
    disk: Arc<dyn Disk>,
    options: Options,
    active: Option<Active>,
    /// Records of the frame that is being filled.
    records: Vec<u8>,
    summary: Summary,
    /// Frames that wait for the disk.
    waiting: Vec<u8>,
    /// Sequence of the frame that is being filled.
    next: u64,
    durable: u64,
    reached: Checkpoint,
    paused: bool,
    dead: bool,
}

impl Writer {
    /// Opens a journal, or begins one in an empty folder: cuts a torn tail, and says what was there.
    ///
    /// # Errors
    /// Config, for another history's folder, a missing key or a folder that cannot be read; Corrupt, for a damaged newest
    /// segment.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovered)> {
        if let Some(id) = options.key {
            options.keys.find(id)?;
        }
        let found = recover(&disk, &options.keys, &options.lineage)?;
        let writer = Self {
            disk,
            options,
            active: None,
            records: Vec::new(),
            summary: Summary::default(),
            waiting: Vec::new(),
            next: found.last + 1,
            durable: found.last,
            reached: found.reached.clone(),
            paused: false,
            dead: false,
        };
        Ok((writer, found))
    }

    /// The last frame that a power loss cannot take.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether the disk was full at the last commit.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Takes a batch; gives the sequence that [`Writer::durable`] must reach before it is safe.
    ///
    /// # Errors
    /// Transient, when too much waits for the disk: commit first, nothing was taken. PositionLost, when the batch begins
    /// behind what its partition has reached, so that changes between them are missing: see [`Writer::forget`]. Rejected, for a
    /// change that no frame holds.
    pub fn append(&mut self, batch: &Batch, now: Micros) -> Result<u64> {
        self.alive()?;
        if self.waiting.len() + self.records.len() >= WAITING {
            return Err(Error::transient("write to the journal: the disk is behind, as much as may wait is waiting"));
        }
        let (partition, base) = (&batch.partition, batch.base());
        if self.reached.names(partition) && base > self.reached.get(partition) {
            let at = self.reached.get(partition);
            return Err(Error::position_lost(format!(
                "write to the journal: {partition} goes on at {base} and was at {at}"
            )));
        }
        let too_large = |row: crate::model::Row<'_>| {
            row.key.len() + row.body.len() + row.from.map_or(0, <[u8]>::len) > super::format::RECORDS_MAX / 2
        };
        if batch.rows().any(too_large) {
            return Err(Error::rejected(format!(
                "write to the journal: a change of {partition} is too large for a frame"
            )));
        }
        self.roll(batch.tables().len(), now)?;
        // A batch that was taken half is an invariant broken, and nothing may be built on it.
        self.take(batch, now).inspect_err(|_| self.dead = true)
    }

    fn take(&mut self, batch: &Batch, now: Micros) -> Result<u64> {
        let mut from = 0;
        loop {
            self.begin(now)?;
            let active = self.active.as_mut().expect("a segment was just begun");
            let rows = records::fitting(batch, from, FRAME_BYTES.saturating_sub(self.records.len()));
            from = rows.end;
            records::encode(&mut self.records, &mut active.tables, &mut self.summary, batch, rows)?;
            let sequence = self.next;
            if self.records.len() >= FRAME_BYTES {
                self.seal()?;
            }
            if from >= batch.len() {
                self.reached.advance(&batch.partition, &records::reached(batch));
                return Ok(sequence);
            }
        }
    }

    /// Makes everything that was taken durable, with one fsync; gives the last sequence that is.
    ///
    /// # Errors
    /// Transient, when the disk is full: nothing is lost, call again. Config, when the disk failed: this writer is done.
    pub fn commit(&mut self) -> Result<u64> {
        self.alive()?;
        if !self.records.is_empty() {
            self.seal().inspect_err(|_| self.dead = true)?;
        }
        let Some(active) = self.active.as_mut().filter(|_| !self.waiting.is_empty()) else { return Ok(self.durable) };
        match write(&*self.disk, active, &self.waiting) {
            Ok(()) => {}
            Err(Trouble::Full(error)) => {
                self.paused = true;
                let what = format!("write to the journal: paused, no room for {} bytes", self.waiting.len());
                return Err(Error::transient(what).because(error));
            }
            Err(Trouble::Broken(error)) => {
                self.dead = true;
                return Err(
                    Error::config("write to the journal: the disk failed; check it, then start again").because(error)
                );
            }
        }
        active.at += self.waiting.len() as u64;
        self.waiting.clear();
        self.waiting.shrink_to(2 * WAITING);
        self.paused = false;
        self.durable = self.next - 1;
        Ok(self.durable)
    }

    /// Says that what follows in this partition does not join on to what is there: a gap that was opened and is known.
    pub fn forget(&mut self, partition: &PartitionId) {
        self.reached.retain(|known| known != partition);
    }

    fn alive(&self) -> Result<()> {
        let text = "write to the journal: it stopped when the disk failed, and does not go on over that; start again";
        if self.dead { Err(Error::config(text)) } else { Ok(()) }
    }

    /// Closes a segment that is full, old, or has no numbers left for tables.
    fn roll(&mut self, tables: usize, now: Micros) -> Result<()> {
        let Some(active) = &self.active else { return Ok(()) };
        let size = active.at + self.waiting.len() as u64;
        let full = active.tables.count() + tables > TABLES_MAX;
        if full || size >= self.options.segment_bytes || now.saturating_sub(active.made) >= self.options.segment_age {
            self.commit()?;
            self.active = None;
        }
        Ok(())
    }

    /// Begins a segment, in memory, if none is open. Its first frame says where every partition stands.
    fn begin(&mut self, now: Micros) -> Result<()> {
        if self.active.is_some() {
            return Ok(());
        }
        let (lineage, salt) = (self.options.lineage.clone(), (self.options.salt)());
        let head = SegmentHead { lineage, first: self.next, made: now, key: self.options.key, salt };
        let bytes = head.encode()?;
        let sealer = Sealer::new(head, &bytes, &self.options.keys, self.options.pack)?;
        let name = segment_name(self.next);
        self.active =
            Some(Active { sealer, tables: Tables::default(), name, made: now, head: bytes, file: None, at: 0 });
        for (partition, at) in self.reached.iter().filter(|(_, at)| **at != Position::End) {
            records::encode_standing(&mut self.records, partition, at);
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<()> {
        let active = self.active.as_mut().expect("records are only taken into a segment");
        active.sealer.seal(&self.records, self.next, self.durable, self.summary, &mut self.waiting)?;
        self.records.clear();
        self.summary = Summary::default();
        self.next += 1;
        Ok(())
    }
}

/// What can go wrong on the way to the disk.
enum Trouble {
    /// There is no room. What was written of it is cut off again.
    Full(io::Error),
    /// Anything else.
    Broken(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        if matches!(error.kind(), StorageFull | QuotaExceeded) { Self::Full(error) } else { Self::Broken(error) }
    }
}

fn write(disk: &dyn Disk, active: &mut Active, bytes: &[u8]) -> Result<(), Trouble> {
    if active.file.is_none() {
        active.file = Some(create(disk, &active.name, &active.head)?);
        active.at = active.head.len() as u64;
    }
    let file = active.file.as_mut().expect("the file was just made");
    if let Err(error) = file.write(active.at, bytes) {
        let trouble = Trouble::from(error);
        if matches!(trouble, Trouble::Full(_)) {
            // Where the piece stays, the next commit writes over it, and a reader takes it for the torn tail that it is.
            file.cut(active.at).or_else(|error| if full(&error) { Ok(()) } else { Err(Trouble::Broken(error)) })?;
        }
        return Err(trouble);
    }
    // An fsync that failed may have dropped what it was for: whatever it says, it is not tried again.
    file.sync().map_err(Trouble::Broken)
}

fn full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a segment's file. It gets its name when its head is durable, so that a named segment never has half a head.
fn create(disk: &dyn Disk, name: &str, head: &[u8]) -> Result<Box<dyn DiskFile>, Trouble> {
    let unnamed = format!("{name}.new");
    let mut file = disk.create(&unnamed)?;
    file.write(0, head)?;
    file.sync().map_err(Trouble::Broken)?;
    disk.rename(&unnamed, name)?;
    disk.sync_names().map_err(Trouble::Broken)?;
    Ok(file)
}
