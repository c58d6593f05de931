//! The side of a writer that takes: batches and notes become records, records frames, and frames wait for the disk.
//!
//! Invariant: frames wait in the order of their sequences, each in the segment that it belongs to; what waits is bounded, and
//! whoever comes when it is full is told so before anything of his is taken. Touches no disk.

use super::crypt::Keys;
use super::format::{FrameHead, RECORDS_MAX, Salt, SegmentHead};
use super::frame::Sealer;
use super::pieces::Piece;
use super::records::{self, Note, Span, Standing, TABLES_MAX, Tables};
use super::writer::{Options, Pack};
use crate::error::{Error, Result};
use crate::model::{Batch, Micros, Position};

/// A segment that is to be begun before the bytes at a place of a group.
pub(super) struct Begin {
    /// Where in the group's bytes its first frame lies.
    pub(super) at: usize,
    /// Its sequence, which is in the name.
    pub(super) first: u64,
    /// The bytes of its head.
    pub(super) head: Vec<u8>,
}

/// Frames that go to the disk together.
#[derive(Default)]
pub(super) struct Group {
    /// The frames.
    pub(super) bytes: Vec<u8>,
    /// Segments to begin on the way.
    pub(super) begins: Vec<Begin>,
    /// Sequence of the last frame.
    pub(super) last: u64,
}

/// The segment that frames are being made for.
struct Open {
    sealer: Sealer,
    tables: Tables,
    made: Micros,
    /// Bytes of it so far.
    size: u64,
}

/// What waits, and what is needed to add to it.
pub(super) struct Front {
    options: Options,
    open: Option<Open>,
    /// Salt of the segment that was begun last.
    salt: Salt,
    /// Records of the frame that is being filled.
    records: Vec<u8>,
    span: Span,
    waiting: Group,
    /// Bytes that are on their way to the disk.
    under_way: usize,
    /// Whether the disk takes frames sooner than they can be packed.
    quick: bool,
    /// Sequence of the frame that is being filled.
    next: u64,
    durable: u64,
    standing: Standing,
    dead: Option<&'static str>,
}

impl Front {
    pub(super) fn new(options: Options, last: u64, salt: Salt, mut standing: Standing) -> Self {
        // Nobody goes on with a snapshot that another process was writing.
        standing.give_up();
        Self {
            options,
            open: None,
            salt,
            records: Vec::new(),
            span: Span::default(),
            waiting: Group::default(),
            under_way: 0,
            quick: false,
            next: last + 1,
            durable: last,
            standing,
            dead: None,
        }
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Bytes that its buffers hold on to.
    pub(super) fn held(&self) -> usize {
        self.records.capacity() + self.waiting.bytes.capacity()
    }

    /// Bytes that are on their way to the disk.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether the disk takes frames sooner than they can be packed.
    pub(super) fn disk_is_quick(&mut self, quick: bool) {
        self.quick = quick;
    }

    /// What may wait, in bytes.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.options.waiting_bytes
    }

    /// Sequence of the last frame that anything was taken into.
    pub(super) fn last(&self) -> u64 {
        if self.records.is_empty() { self.next - 1 } else { self.next }
    }

    /// Segments from now on are encrypted so.
    pub(super) fn use_keys(&mut self, keys: Keys) -> Result<()> {
        self.roll()?;
        self.options.keys = keys;
        Ok(())
    }

    /// Nothing is taken any more, and why.
    pub(super) fn die(&mut self, why: &'static str) {
        self.dead = Some(why);
    }

    /// Fails if nothing is taken any more.
    pub(super) fn alive(&self) -> Result<()> {
        self.dead.map_or(Ok(()), |why| Err(Error::config(format!("write to the journal: {why}"))))
    }

    /// Takes what is new of a batch of the tail; gives the sequence of the last frame that holds any of it.
    pub(super) fn batch(&mut self, batch: &Batch, now: Micros) -> Result<u64> {
        self.has_room()?;
        fits(batch)?;
        let reached = &self.standing.reached;
        let piece = match reached.names(&batch.partition) {
            true => Piece::behind(batch, reached.get(&batch.partition))?,
            false => Some(Piece::whole(batch)),
        };
        let Some(piece) = piece else { return Ok(self.last()) };
        let end = piece.end(batch);
        let sequence = self.pieces(batch, piece, None, now)?;
        self.standing.reached.advance(&batch.partition, &end);
        Ok(sequence)
    }

    /// Takes a page of the snapshot that is being written.
    pub(super) fn page(&mut self, snapshot: u64, batch: &Batch, now: Micros) -> Result<u64> {
        self.has_room()?;
        fits(batch)?;
        self.writes(snapshot)?;
        self.pieces(batch, Piece::whole(batch), Some(snapshot), now)
    }

    /// Fails if this is not the snapshot that is being written.
    pub(super) fn writes(&self, snapshot: u64) -> Result<()> {
        if self.standing.open_snapshot() == Some(snapshot) {
            return Ok(());
        }
        let text = format!("write to the journal: snapshot {snapshot} was given up, or another one was begun");
        Err(Error::transient(text))
    }

    /// Takes a note. One from which somebody may begin to read, or behind which positions mean something else, begins a
    /// frame or a segment.
    pub(super) fn note(&mut self, note: &Note, now: Micros) -> Result<u64> {
        self.has_room()?;
        if matches!(note, Note::Began { .. }) && !self.records.is_empty() {
            self.seal();
        }
        self.age(0, now)?;
        self.begin(now)?;
        records::encode_note(&mut self.records, note);
        let sequence = self.next;
        self.standing.apply(note, sequence);
        if matches!(note, Note::Gap { .. }) {
            self.roll()?;
        }
        Ok(sequence)
    }

    /// Gives all that waits to whoever takes it to the disk; nothing when nothing waits. What comes next goes into the empty
    /// buffers of `spare`.
    pub(super) fn take(&mut self, spare: &mut Group) -> Option<Group> {
        if !self.records.is_empty() {
            self.seal();
        }
        if self.waiting.bytes.is_empty() {
            return None;
        }
        self.waiting.last = self.next - 1;
        self.under_way = self.waiting.bytes.len();
        Some(std::mem::replace(&mut self.waiting, std::mem::take(spare)))
    }

    /// What was taken is durable.
    pub(super) fn done(&mut self, last: u64) {
        self.under_way = 0;
        self.durable = last;
    }

    fn has_room(&self) -> Result<()> {
        self.alive()?;
        if self.under_way + self.waiting.bytes.len() + self.records.len() < self.options.waiting_bytes {
            return Ok(());
        }
        Err(Error::transient("write to the journal: the disk is behind, as much as may wait is waiting"))
    }

    fn pieces(&mut self, batch: &Batch, mut piece: Piece, snapshot: Option<u64>, now: Micros) -> Result<u64> {
        self.age(batch.tables().len(), now)?;
        let taken = self.take_pieces(batch, &mut piece, snapshot, now);
        // A batch that was taken half is an invariant broken, and nothing may be built on it.
        taken.inspect_err(|_| self.die("a batch was taken in part, which must not happen; start again"))
    }

    fn take_pieces(&mut self, batch: &Batch, rest: &mut Piece, snapshot: Option<u64>, now: Micros) -> Result<u64> {
        loop {
            self.begin(now)?;
            let room = self.options.frame_bytes.saturating_sub(self.records.len());
            let piece = rest.split_off(batch, room);
            let open = self.open.as_mut().expect("a segment was just begun");
            records::encode_run(&mut self.records, &mut open.tables, &mut self.span, snapshot, batch, &piece)?;
            self.standing.latest = self.standing.latest.max(self.span.latest);
            let sequence = self.next;
            if self.records.len() >= self.options.frame_bytes {
                self.seal();
            }
            if rest.is_empty() {
                return Ok(sequence);
            }
        }
    }

    /// Ends a segment that is full, old, or has no numbers left for so many tables.
    fn age(&mut self, tables: usize, now: Micros) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let size = open.size + self.records.len() as u64;
        let full = open.tables.count() + tables > TABLES_MAX || size >= self.options.segment_bytes;
        if full || now.saturating_sub(open.made) >= self.options.segment_age { self.roll() } else { Ok(()) }
    }

    /// Ends the segment. The next one is begun with the next record.
    fn roll(&mut self) -> Result<()> {
        self.alive()?;
        if !self.records.is_empty() {
            self.seal();
        }
        self.open = None;
        Ok(())
    }

    /// Begins a segment if none is open. Its first record says where everything stands.
    fn begin(&mut self, now: Micros) -> Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let salt = (self.options.salt)();
        let options = &self.options;
        let head = SegmentHead {
            lineage: options.lineage.clone(),
            first: self.next,
            made: now,
            key: options.keys.current().map(super::crypt::Key::id),
            salt,
            previous: self.salt,
        };
        let bytes = head.encode()?;
        let sealer = Sealer::new(&head, &bytes, &options.keys)?;
        self.open = Some(Open { sealer, tables: Tables::default(), made: now, size: bytes.len() as u64 });
        self.salt = salt;
        self.waiting.begins.push(Begin { at: self.waiting.bytes.len(), first: self.next, head: bytes });
        records::encode_standing(&mut self.records, &self.standing);
        Ok(())
    }

    fn seal(&mut self) {
        let open = self.open.as_mut().expect("records are only taken into a segment");
        let head = FrameHead {
            sequence: self.next,
            settled: self.durable,
            earliest: self.span.earliest,
            latest: self.span.latest,
            ..FrameHead::default()
        };
        // Packing is free while nobody waits for this frame, or while a slow disk is what everybody waits for. In between,
        // when full frames come as fast as they are made, it would only make them come slower.
        let pack = match self.options.pack {
            Pack::Never => false,
            Pack::Always => true,
            Pack::WherePays => {
                let behind = self.under_way > 0 && self.waiting.bytes.len() >= self.options.waiting_bytes / 4;
                (behind && !self.quick) || self.records.len() < self.options.frame_bytes
            }
        };
        let before = self.waiting.bytes.len();
        open.sealer.seal(&self.records, head, pack, &mut self.waiting.bytes);
        open.size += (self.waiting.bytes.len() - before) as u64;
        self.records.clear();
        self.records.shrink_to(2 * self.options.frame_bytes);
        self.span = Span::default();
        self.next += 1;
    }
}

/// Fails if a change of the batch is larger than a frame could ever hold, or none that there can be.
fn fits(batch: &Batch) -> Result<()> {
    if batch.is_open() && *batch.upto() == Position::End {
        let partition = &batch.partition;
        return Err(Error::bug(format!("write to the journal: a change of {partition} lies behind its end")));
    }
    let most = RECORDS_MAX / 2;
    if batch.bytes() <= most
        || batch.rows().all(|row| row.key.len() + row.body.len() + row.from.map_or(0, <[u8]>::len) <= most)
    {
        return Ok(());
    }
    let (partition, most) = (&batch.partition, most >> 20);
    Err(Error::rejected(format!("write to the journal: a change of {partition} is larger than {most} MiB")))
}
