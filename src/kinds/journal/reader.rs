//! Gives batches back, in the order in which they were written, from any place.
//!
//! Invariant: a run is given only when its frame and all before it since the place where reading began are sound, without a
//! number missing. What is damaged or missing is an error with its place, and stays one; a torn tail is the end, and said.
//! The index is the format itself: segments are named by sequence, frames carry their time span in the clear, and the
//! first frame of each segment says where every partition stands. So there is no index file that could be stale.

use std::sync::Arc;

use super::crypt::Keys;
use super::files::Disk;
use super::records::{self, Tables};
use super::segment::{Found, Segment, damaged, segments, unreadable};
use super::writer::Recovered;
use crate::error::{Error, Fault, Result};
use crate::model::{Batch, Checkpoint, Micros, PartitionId, Position};

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
    /// The batch holds a run of the frame with this sequence.
    Run(u64),
    /// There is nothing more, so far.
    End,
    /// There is nothing more, and what stands there is no frame: a write was cut short. (Never before a writer's `durable`.)
    Torn(Cut),
}

/// Reads a journal, beside its writer or without one.
pub struct Reader {
    disk: Arc<dyn Disk>,
    keys: Keys,
    segment: Option<Segment>,
    tables: Tables,
    /// Where the frame in `records` begins.
    frame: u64,
    records: Vec<u8>,
    /// How much of them was given.
    used: usize,
    /// Where the run that was given last begins in them.
    run: usize,
    /// Sequence of the next frame.
    next: u64,
    reached: Checkpoint,
    /// Where the partitions stood when the segment began.
    standing: Checkpoint,
}

impl Reader {
    /// From the frame with this sequence on; 1 is the first that ever was.
    ///
    /// # Errors
    /// PositionLost, when it is no longer there; Corrupt, when what leads there is damaged.
    pub fn at_sequence(disk: Arc<dyn Disk>, keys: Keys, sequence: u64) -> Result<Self> {
        let all = segments(&*disk)?;
        let first = all.iter().rev().find(|first| **first <= sequence);
        if first.is_none() && !all.is_empty() {
            let oldest = all[0];
            return Err(Error::position_lost(format!("read the journal from {sequence}: it begins at {oldest}")));
        }
        let mut reader = Self {
            disk,
            keys,
            segment: None,
            tables: Tables::default(),
            frame: 0,
            records: Vec::new(),
            used: 0,
            run: 0,
            next: first.copied().unwrap_or(1),
            reached: Checkpoint::default(),
            standing: Checkpoint::default(),
        };
        reader.skip(|number, _| number >= sequence)?;
        if reader.next < sequence {
            let last = reader.next - 1;
            return Err(Error::position_lost(format!("read the journal from {sequence}: it ends at {last}")));
        }
        Ok(reader)
    }

    /// From the first run on that holds something behind `position`. What of that run lies before it is given too.
    ///
    /// # Errors
    /// PositionLost, when the journal does not hold what follows the position; Corrupt, when what leads there is damaged.
    pub fn at_position(disk: Arc<dyn Disk>, keys: Keys, partition: &PartitionId, position: &Position) -> Result<Self> {
        let lost =
            || Error::position_lost(format!("read the journal from {partition} {position}: it does not hold that"));
        let all = segments(&*disk)?;
        // Positions of a partition grow with sequences, so the last segment that begins before the position has it.
        for first in all.iter().rev() {
            let mut reader = Self::at_sequence(Arc::clone(&disk), keys.clone(), *first)?;
            let reaches_back = reader.standing.names(partition) && reader.standing.get(partition) <= position;
            if !reaches_back && *first != all[0] {
                continue;
            }
            let mut base = None;
            reader.skip(|_, run| {
                let found = run.partition == *partition && records::reached(run) > *position;
                if found {
                    base = Some(run.base().clone());
                }
                found
            })?;
            let joins = match base {
                Some(base) => base <= *position,
                // Nothing lies behind it: it must be where the journal ends.
                None => reader.reached.names(partition) && reader.reached.get(partition) == position,
            };
            return if joins { Ok(reader) } else { Err(lost()) };
        }
        Err(lost())
    }

    /// From the first frame on that holds a change committed at `time` or later; every change before it is older.
    ///
    /// # Errors
    /// Corrupt, when what leads there is damaged.
    pub fn at_time(disk: Arc<dyn Disk>, keys: Keys, time: Micros) -> Result<Self> {
        let all = segments(&*disk)?;
        let mut sequence = 1;
        'found: for (index, first) in all.iter().enumerate() {
            let last = index + 1 == all.len();
            let Some(mut segment) = Segment::open(&*disk, *first, &keys)? else { break };
            sequence = *first;
            while let Found::Frame(head) = segment.skim(|| Ok(last))? {
                if head.latest >= time {
                    sequence = head.sequence;
                    break 'found;
                }
                sequence = head.sequence + 1;
            }
        }
        Self::at_sequence(disk, keys, sequence)
    }

    /// How far each partition has been given, or stood where reading began.
    pub fn reached(&self) -> &Checkpoint {
        &self.reached
    }

    /// The sequence of the last frame that was read; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.next - 1
    }

    /// Puts the next run into an empty batch. Reads no frame behind `through`: a reader beside a writer gives what
    /// [`Writer::durable`](super::Writer::durable) says, one without a writer `u64::MAX`.
    ///
    /// # Errors
    /// Corrupt, with segment and offset, for what is damaged or missing, again at each call (the batch is of no use then).
    /// PositionLost, once, before a run that does not
    /// join on to what its partition has reached: a gap that was known when it was written.
    pub fn next(&mut self, batch: &mut Batch, through: u64) -> Result<Given> {
        loop {
            while self.used < self.records.len() {
                let (partition, base) = self.told(records::peek(&self.records[self.used..]))?;
                if self.reached.names(&partition) && base > *self.reached.get(&partition) {
                    let at = self.reached.get(&partition).clone();
                    self.reached.advance(&partition, &base);
                    return Err(Error::position_lost(format!(
                        "read the journal: {partition} goes on at {base} after {at}"
                    )));
                }
                self.run = self.used;
                let mut rest = &self.records[self.used..];
                let decoded = records::decode(&mut rest, &mut self.tables, batch);
                let left = rest.len();
                self.told(decoded)?;
                self.used = self.records.len() - left;
                self.reached.advance(&partition, &records::reached(batch));
                if !records::is_standing(batch) {
                    return Ok(Given::Run(self.next - 1));
                }
                self.standing.advance(&partition, &base);
            }
            if self.next > through {
                return Ok(Given::End);
            }
            if let Some(end) = self.advance()? {
                return Ok(end);
            }
        }
    }

    /// Adds to an error of the records where their frame lies.
    fn told<T>(&self, result: Result<T>) -> Result<T> {
        let name = self.segment.as_ref().map_or("", Segment::name);
        result.map_err(|error| error.during(format!("read journal segment {name} at byte {}", self.frame)))
    }

    /// Reads the next frame; says so where there is none.
    fn advance(&mut self) -> Result<Option<Given>> {
        loop {
            let next = self.next;
            let Some(segment) = &mut self.segment else {
                if let Some(end) = self.enter()? {
                    return Ok(Some(end));
                }
                continue;
            };
            let (at, first) = (segment.place().0, segment.head().first);
            let disk = &*self.disk;
            let last = || Ok(segments(disk)?.last() == Some(&first));
            match segment.next(last, &mut self.records) {
                Ok(Found::Frame(_)) => {
                    (self.frame, self.used, self.next) = (at, 0, next + 1);
                    return Ok(None);
                }
                Ok(Found::Torn(bytes)) => {
                    self.records.clear();
                    return Ok(Some(Given::Torn(Cut { segment: segment.name().to_owned(), at, bytes })));
                }
                Ok(Found::End) if self.follows(next, first)? => self.segment = None,
                Ok(Found::End) => return Ok(Some(Given::End)),
                Err(error) => {
                    self.records.clear();
                    return Err(error);
                }
            }
        }
    }

    /// Whether a segment behind the one that begins with `after` begins with this sequence.
    fn follows(&self, next: u64, after: u64) -> Result<bool> {
        let all = segments(&*self.disk)?;
        match all.iter().find(|first| **first > after) {
            None => Ok(false),
            Some(first) if *first == next => Ok(true),
            Some(first) => {
                let text =
                    format!("read the journal: frames {next} to {} are missing, their segment is gone", first - 1);
                Err(Error::corrupt(text))
            }
        }
    }

    /// Enters the segment that begins with the next sequence.
    fn enter(&mut self) -> Result<Option<Given>> {
        if !self.follows(self.next, self.next - 1)? {
            return Ok(Some(Given::End));
        }
        self.tables = Tables::default();
        self.standing = Checkpoint::default();
        self.segment = Segment::open(&*self.disk, self.next, &self.keys)?;
        if self.segment.is_some() {
            return Ok(None);
        }
        let name = super::format::segment_name(self.next);
        if segments(&*self.disk)?.last() != Some(&self.next) {
            return Err(damaged(&name, 0, "its head is cut short"));
        }
        let length = self.disk.open(&name).and_then(|file| file.length()).map_err(|error| unreadable(&name, error))?;
        Ok(Some(Given::Torn(Cut { segment: name, at: 0, bytes: length })))
    }

    /// Goes on to the first run that `wanted` says yes to, and stops before it; at the end where there is none.
    fn skip(&mut self, mut wanted: impl FnMut(u64, &Batch) -> bool) -> Result<()> {
        loop {
            let mut batch = Batch::unpooled();
            match self.next(&mut batch, u64::MAX) {
                Ok(Given::Run(number)) if wanted(number, &batch) => {
                    self.used = self.run;
                    return Ok(());
                }
                Ok(Given::Run(_)) => {}
                Ok(Given::End | Given::Torn(_)) => return Ok(()),
                Err(error) if error.fault() == Fault::PositionLost => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Finds out how far a journal reaches, and cuts a torn tail.
///
/// # Errors
/// Config, for another history's folder; Corrupt, when the newest segment is damaged.
pub(super) fn recover(disk: &Arc<dyn Disk>, keys: &Keys, lineage: &str) -> Result<Recovered> {
    let mut found = Recovered::default();
    // The newest segment may hold nothing yet; then the one before it tells how far the journal reaches.
    for first in segments(&**disk)?.iter().rev().take(2) {
        if let Some(segment) = Segment::open(&**disk, *first, keys)?
            && segment.head().lineage != lineage
        {
            let other = &segment.head().lineage;
            return Err(Error::config(format!("open the journal: the folder holds that of {other}, not of {lineage}")));
        }
        let mut reader = Reader::at_sequence(Arc::clone(disk), keys.clone(), *first)?;
        // Reading begins before the first run; here all are read.
        let end = loop {
            match reader.next(&mut Batch::unpooled(), u64::MAX) {
                Ok(Given::Run(_)) => {}
                Ok(end) => break end,
                Err(error) if error.fault() == Fault::PositionLost => {}
                Err(error) => return Err(error),
            }
        };
        if let (Given::Torn(cut), None) = (end, &found.cut) {
            // A segment without a whole head is replaced by the next one that is begun, which has its name.
            if cut.at > 0 {
                let cut_off = disk.open(&cut.segment).and_then(|mut file| file.cut(cut.at).and_then(|()| file.sync()));
                cut_off.map_err(|error| unreadable(&cut.segment, error))?;
            }
            found.cut = Some(cut);
        }
        (found.last, found.reached) = (reader.sequence(), reader.reached().clone());
        if reader.sequence() >= *first {
            break;
        }
    }
    Ok(found)
}
