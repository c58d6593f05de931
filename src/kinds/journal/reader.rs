//! Gives back what was written, in the order in which it was written, from any place: see `seek`.
//!
//! Invariant: something is given only when its frame and all before it since the place where reading began are sound, without
//! a number missing, in segments that were written one behind the other. What is damaged or missing is an error with its
//! place, and stays one; a torn tail is the end, and said. Memory: one frame as it lies on the disk, one unpacked, and the
//! caller's batch, which takes a large run in pieces.

use std::sync::Arc;

use super::crypt::Keys;
use super::files::Disk;
use super::format::{Salt, segment_name};
use super::mark::Mark;
use super::records::{self, Note, Record, Run, Standing, Tables};
use super::segment::{Found, Segment, damaged, missing, segments, unreadable};
use crate::error::{Error, Fault, Result};
use crate::model::{Batch, Checkpoint, Micros, PartitionId, Position, Table};

/// LIMIT: a buffer that one large frame blew up beyond this is not held for ever.
const KEEP: usize = 1 << 20;

/// A tail that a crash cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub segment: String,
    /// Where its last sound frame ends.
    pub at: u64,
    /// How many bytes stood behind that.
    pub bytes: u64,
}

/// What a reader gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// The batch holds changes: a batch that was written, or a piece of one.
    Run,
    /// The batch holds items of the snapshot with this number.
    Page(u64),
    /// Something that has to be known.
    Note(Note),
    /// There is nothing more, so far.
    End,
    /// There is nothing more, and what stands there is no frame: a write was cut short. (Never before a writer's `durable`.)
    Torn(Cut),
}

/// A place between two frames, and all that a reader has to know to go on from there.
#[derive(Clone)]
pub(super) struct Aside {
    /// The first sequence of the segment.
    first: u64,
    at: u64,
    next: u64,
    link: Option<(Salt, String)>,
    tables: Tables,
    pub(super) standing: Standing,
}

/// Reads a journal, beside its writer or without one.
pub struct Reader {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) keys: Keys,
    segment: Option<Segment>,
    /// Salt and lineage of the segment that was read before.
    link: Option<(Salt, String)>,
    tables: Tables,
    /// Where the frame in `records` begins.
    frame: u64,
    records: Vec<u8>,
    /// How much of them was read.
    used: usize,
    /// Where the record that was given last begins in them.
    record: usize,
    run: Option<Run>,
    /// How far the partition of the run that was given last had been before it.
    before: Option<(PartitionId, Option<Position>)>,
    /// Whether the next record is the first of a segment.
    begins: bool,
    /// Sequence of the next frame.
    next: u64,
    pub(super) standing: Standing,
    /// What the consumer has, where that must join on to what is given first of each partition.
    pub(super) from: Option<Checkpoint>,
    /// What was found to be wrong.
    stuck: Option<String>,
}

impl Reader {
    /// At the beginning of the segment that begins with `first`.
    pub(super) fn at_segment(disk: Arc<dyn Disk>, keys: Keys, first: u64) -> Self {
        Self {
            disk,
            keys,
            segment: None,
            link: None,
            tables: Tables::default(),
            frame: 0,
            records: Vec::new(),
            used: 0,
            record: 0,
            run: None,
            before: None,
            begins: false,
            next: first,
            standing: Standing::default(),
            from: None,
            stuck: None,
        }
    }

    /// The place where the reader is, if all of what it has read was given.
    pub(super) fn aside(&self) -> Option<Aside> {
        let segment = self.segment.as_ref().filter(|_| self.is_idle() && !self.begins && self.stuck.is_none())?;
        Some(Aside {
            first: segment.head().first,
            at: segment.at(),
            next: self.next,
            link: self.link.clone(),
            tables: self.tables.clone(),
            standing: self.standing.clone(),
        })
    }

    /// At a place where another reader was.
    ///
    /// # Errors
    /// As [`Reader::next`]; Config, when the segment is no longer there.
    pub(super) fn resume(disk: Arc<dyn Disk>, keys: Keys, mark: &Aside) -> Result<Self> {
        let name = segment_name(mark.first);
        let Some(mut segment) = Segment::open(&*disk, mark.first, &keys)? else {
            return Err(damaged(&name, 0, "its head is cut short"));
        };
        segment.go_to(mark.at, mark.next);
        let (link, tables, standing) = (mark.link.clone(), mark.tables.clone(), mark.standing.clone());
        let reader = Self::at_segment(disk, keys, mark.next);
        Ok(Self { segment: Some(segment), link, tables, standing, ..reader })
    }

    /// How far each partition has been given, or stood where reading began.
    pub fn reached(&self) -> &Checkpoint {
        &self.standing.reached
    }

    /// The tables that the segment has defined so far.
    pub(super) fn tables(&self) -> &[Arc<Table>] {
        self.tables.all()
    }

    /// The latest commit time of the frames that were read, and of those before them.
    pub(super) fn latest(&self) -> Micros {
        self.standing.latest
    }

    /// The sequence of the last frame that was read; where nothing was, one less than that where reading begins.
    pub fn sequence(&self) -> u64 {
        self.next - 1
    }

    /// The frame from which on everything must be read again by somebody who has all that was given: what a
    /// [`super::Cursor`] says.
    pub fn needs(&self) -> u64 {
        if self.is_idle() { self.next } else { self.next - 1 }
    }

    /// Bytes that its buffers hold on to.
    pub fn held(&self) -> usize {
        self.records.capacity() + self.segment.as_ref().map_or(0, Segment::held)
    }

    fn is_idle(&self) -> bool {
        self.run.is_none() && self.used == self.records.len()
    }

    /// How far a reader without a writer at hand may read: what the writer's last fsync made durable. Everything, where
    /// nobody says: then the end may be a write that is under way.
    pub fn settled(disk: &dyn Disk) -> u64 {
        // It may be read while it is written over.
        Mark::read(disk).or_else(|| Mark::read(disk)).map_or(u64::MAX, |mark| mark.sequence)
    }

    /// Puts about `fill` bytes of what comes next into an empty batch (a run or page that is longer is given in pieces), or
    /// gives what else is there. Reads no frame behind `through`: a reader beside a writer gives what
    /// [`super::Writer::durable`] says, one in another process [`Reader::settled`].
    ///
    /// # Errors
    /// Corrupt, with segment, offset and sequence, for what is damaged or missing, again at each call (the batch is of no
    /// use then). PositionLost, when retention removed what comes next, or a partition does not join on to what the consumer
    /// has (after [`Reader::at_checkpoint`]).
    pub fn next(&mut self, batch: &mut Batch, fill: usize, through: u64) -> Result<Given> {
        if let Some(stuck) = &self.stuck {
            return Err(Error::corrupt(stuck.clone()));
        }
        let given = self.step(batch, fill, through);
        if let Err(error) = &given
            && error.fault() == Fault::Corrupt
            && !self.is_idle()
        {
            self.stuck = Some(error.to_string());
        }
        given
    }

    fn step(&mut self, batch: &mut Batch, fill: usize, through: u64) -> Result<Given> {
        loop {
            if let Some(mut run) = self.run.take() {
                let done = run.fill(&self.records, &mut self.used, &self.tables, batch, fill);
                let (done, snapshot) = (self.told(done)?, run.snapshot);
                if snapshot.is_none() {
                    self.standing.reached.advance(&run.partition, &run.base);
                }
                self.run = (!done).then_some(run);
                return Ok(snapshot.map_or(Given::Run, Given::Page));
            }
            if self.used < self.records.len() {
                self.record = self.used;
                if let Some(note) = self.take()? {
                    return Ok(Given::Note(note));
                }
                continue;
            }
            if self.next > through {
                return Ok(Given::End);
            }
            if let Some(end) = self.advance()? {
                return Ok(end);
            }
        }
    }

    /// Goes back to the beginning of the record that was given last.
    pub(super) fn rewind(&mut self) {
        (self.used, self.run) = (self.record, None);
        if let Some((partition, position)) = self.before.take() {
            self.standing.reached.retain(|known| *known != partition);
            if let Some(position) = position {
                self.standing.reached.advance(&partition, &position);
            }
        }
    }

    /// Where the journal stood when the segment was begun at whose beginning the reader is; `None` when no sound frame is
    /// there yet.
    pub(super) fn prologue(mut self) -> Result<Option<Standing>> {
        if self.advance()?.is_some() {
            return Ok(None);
        }
        let decoded = records::decode(&self.records, &mut self.used, &mut self.tables);
        match self.told(decoded)? {
            Record::Standing(standing) => Ok(Some(standing)),
            _ => self.told(Err(Error::corrupt("a record stands where none of its kind belongs"))),
        }
    }

    /// The segment in which reading stopped, by its first sequence, where the last sound frame in it ends, and its sequence.
    pub(super) fn place(&self) -> (u64, u64, u64) {
        match &self.segment {
            None => (self.next, 0, self.next - 1),
            Some(segment) if self.stuck.is_some() => (segment.head().first, self.frame, self.next - 2),
            Some(segment) => (segment.head().first, segment.at(), self.next - 1),
        }
    }

    /// The salt of the segment that the last frame is in.
    pub(super) fn salt(&self) -> Salt {
        let before = self.link.as_ref().map(|(salt, _)| *salt);
        self.segment.as_ref().map(|segment| segment.head().salt).or(before).unwrap_or_default()
    }

    /// Takes the next record.
    fn take(&mut self) -> Result<Option<Note>> {
        let decoded = records::decode(&self.records, &mut self.used, &mut self.tables);
        match (self.told(decoded)?, std::mem::take(&mut self.begins)) {
            (Record::Standing(standing), true) => {
                let differs = self.link.is_some() && standing.reached != self.standing.reached;
                if differs {
                    return self.told(Err(Error::corrupt("the segment says that partitions stand elsewhere")));
                }
                // The latest time of the frame that it stands in was seen already.
                let latest = standing.latest.max(self.standing.latest);
                self.standing = Standing { latest, ..standing };
                Ok(None)
            }
            (Record::Standing(_), false) | (_, true) => {
                self.told(Err(Error::corrupt("a record stands where none of its kind belongs")))
            }
            (Record::Run(run), false) => {
                self.joins(&run)?;
                let known = &self.standing.reached;
                let at = known.names(&run.partition).then(|| known.get(&run.partition).clone());
                self.before = run.snapshot.is_none().then(|| (run.partition.clone(), at));
                self.run = Some(run);
                Ok(None)
            }
            (Record::Note(note), false) => {
                self.before = None;
                self.standing.apply(&note, self.next - 1);
                let (Note::Gap { lost, .. }, Some(from)) = (&note, &self.from) else { return Ok(Some(note)) };
                if lost.iter().all(|(partition, at)| from.get(partition) > at) {
                    // The consumer is behind it already.
                    return Ok(None);
                }
                self.from = None;
                Ok(Some(note))
            }
        }
    }

    /// Proves that a run follows what is there.
    fn joins(&mut self, run: &Run) -> Result<()> {
        if run.snapshot.is_some() {
            return Ok(());
        }
        let (partition, base) = (&run.partition, &run.base);
        if self.standing.reached.names(partition) {
            let at = self.standing.reached.get(partition);
            if base <= at {
                return Ok(());
            }
            let text = format!("{partition} goes on at {base} after {at}, and no gap is noted");
            return self.told(Err(Error::corrupt(text)));
        }
        match &self.from {
            Some(from) if base > from.get(partition) => {
                let at = from.get(partition);
                self.used = self.record;
                Err(Error::position_lost(format!(
                    "read the journal from {partition} {at}: it holds what follows {base}"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Adds to an error of the records where their frame lies.
    fn told<T>(&self, result: Result<T>) -> Result<T> {
        let name = self.segment.as_ref().map_or("", Segment::name);
        let (at, sequence) = (self.frame, self.next - 1);
        result.map_err(|error| error.during(format!("read journal segment {name} at byte {at}, frame {sequence}")))
    }

    /// Reads the next frame; says so where there is none.
    fn advance(&mut self) -> Result<Option<Given>> {
        self.records.clear();
        self.records.shrink_to(KEEP);
        self.used = 0;
        loop {
            let Some(segment) = &mut self.segment else {
                if let Some(end) = self.enter()? {
                    return Ok(Some(end));
                }
                continue;
            };
            let at = segment.at();
            match segment.next(&*self.disk, &mut self.records) {
                Ok(Found::Frame(head)) => {
                    (self.frame, self.next) = (at, self.next + 1);
                    self.standing.latest = self.standing.latest.max(head.latest);
                    return Ok(None);
                }
                Ok(Found::Torn(bytes)) => {
                    self.records.clear();
                    return Ok(Some(Given::Torn(Cut { segment: segment.name().to_owned(), at, bytes })));
                }
                Ok(Found::End) => return Ok(Some(Given::End)),
                Ok(Found::Next) => {
                    self.link = Some((segment.head().salt, segment.head().lineage.clone()));
                    self.segment = None;
                }
                Err(error) => {
                    self.records.clear();
                    return Err(error);
                }
            }
        }
    }

    /// Enters the segment that begins with the next sequence.
    fn enter(&mut self) -> Result<Option<Given>> {
        // What is durable is asked first, so that its segment is among those that are listed then.
        let settled = Mark::read(&*self.disk).map_or(0, |mark| mark.sequence);
        let (next, all) = (self.next, segments(&*self.disk)?);
        if !all.contains(&next) {
            return match all.iter().find(|first| **first > next) {
                Some(first) => Err(missing(next, first - 1)),
                None if settled >= next => Err(missing(next, settled)),
                None => Ok(Some(Given::End)),
            };
        }
        self.tables = Tables::default();
        self.begins = true;
        let name = segment_name(next);
        let Some(segment) = Segment::open(&*self.disk, next, &self.keys)? else {
            let settled = Mark::read(&*self.disk).map_or(0, |mark| mark.sequence);
            if settled >= next || segments(&*self.disk)?.last() != Some(&next) {
                return Err(damaged(&name, 0, "its head is cut short"));
            }
            let length = self.disk.open(&name).and_then(|file| file.length());
            let bytes = length.map_err(|error| unreadable(&name, error))?;
            return Ok(Some(Given::Torn(Cut { segment: name, at: 0, bytes })));
        };
        if let Some((salt, lineage)) = &self.link
            && (segment.head().previous != *salt || segment.head().lineage != *lineage)
        {
            return Err(damaged(&name, 0, "it is not the one that was written behind the segment before it"));
        }
        self.segment = Some(segment);
        Ok(None)
    }
}
