//! What lies between two places, in the order of the log.
//!
//! Invariant: what is given joins on without a gap from the beginning, and ends exactly at the end. A gap that somebody noted
//! in between, and damage, are errors at the place where they are met: nothing behind them is given.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Span, part, times};
use crate::error::{Error, Fault, Result};
use crate::kinds::journal::reader::{Given, Reader};
use crate::kinds::journal::records::{self, Note};
use crate::kinds::journal::segment::segments;
use crate::model::{Batch, Checkpoint, Micros, Position, Table};

/// LIMIT: a survey looks at pieces of about this many bytes.
const FILL: usize = 1 << 20;

/// Reads what lies between two places. Blocks.
pub(super) struct Stretch {
    reader: Reader,
    through: u64,
    fill: usize,
    from: Checkpoint,
    end: Checkpoint,
    /// How far each partition was given, or was there before.
    given: Checkpoint,
}

impl Stretch {
    /// From behind `from` to the end of the span.
    ///
    /// # Errors
    /// PositionLost, when the journal does not reach back so far, Corrupt, when what leads there is damaged.
    pub(super) fn open(span: &Span, from: Checkpoint, fill: usize) -> Result<Self> {
        let reader = before(span, &from)?;
        let (through, end, given) = (span.through, span.end.clone(), from.clone());
        Ok(Self { reader, through, fill, from, end, given })
    }

    /// The first frame that it still needs, or one before that.
    pub(super) fn needs(&self) -> u64 {
        self.reader.needs()
    }

    /// Whether everything was given.
    fn is_done(&self) -> bool {
        self.given.covers(&self.end)
    }

    /// The next piece; `None` when there is none.
    ///
    /// # Errors
    /// PositionLost at a gap, Corrupt at damage.
    pub(super) fn next(&mut self) -> Result<Option<Batch>> {
        while !self.is_done() {
            let mut batch = Batch::unpooled();
            match self.reader.next(&mut batch, self.fill, self.through)? {
                Given::Run => {
                    if let Some(part) = self.within(batch) {
                        self.given.advance(&part.partition, &records::reached(&part));
                        return Ok(Some(part));
                    }
                }
                Given::Note(Note::Gap { at, why, lost }) => self.refuse_gap(at, &why, &lost)?,
                Given::Note(_) | Given::Page(_) => {}
                Given::End | Given::Torn(_) => {
                    let (given, end) = (&self.given, &self.end);
                    return Err(Error::corrupt(format!("read the journal up to {end}: it ends at {given}")));
                }
            }
        }
        Ok(None)
    }

    /// What of a run lies between the two places.
    fn within(&self, mut batch: Batch) -> Option<Batch> {
        let partition = batch.partition.clone();
        if self.from.names(&partition) {
            let from = self.from.get(&partition);
            match batch.marks().partition_point(|mark| mark.upto <= *from) {
                0 => {}
                passed => batch = part::behind(&batch, passed)?,
            }
            if records::reached(&batch) <= *from {
                return None;
            }
        }
        // What the end does not name has ended before it, or it would stand there.
        if !self.end.names(&partition) || records::reached(&batch) <= *self.end.get(&partition) {
            return Some(batch);
        }
        let end = self.end.get(&partition);
        match batch.marks().partition_point(|mark| mark.upto <= *end) {
            // It begins behind the end, which only has to be known.
            0 => (!self.given.names(&partition) && batch.base() == end).then(|| part::place(&batch)),
            marks => Some(part::front(&batch, marks)),
        }
    }

    fn refuse_gap(&self, at: Micros, why: &str, lost: &Checkpoint) -> Result<()> {
        let is_behind = |partition| self.end.names(partition) && self.given.get(partition) >= self.end.get(partition);
        if lost.iter().all(|(partition, _)| is_behind(partition)) { Ok(()) } else { Err(gap(at, why)) }
    }
}

/// A reader at or before a place. Not a sink's way of finding one, which for a place before a gap looks behind it.
fn before(span: &Span, from: &Checkpoint) -> Result<Reader> {
    let all = segments(&*span.disk)?;
    let at_segment = |first| Reader::at_segment(Arc::clone(&span.disk), span.keys.clone(), first);
    for first in all.iter().rev() {
        let Some(standing) = at_segment(*first).prologue()? else { continue };
        let reached = standing.reached;
        let knows = |(partition, at): (&_, &Position)| reached.names(partition) || *at == Position::End;
        let is_late = reached.iter().any(|(partition, at)| at > from.get(partition));
        if !is_late && (*first == all[0] || from.iter().all(knows)) {
            let mut reader = at_segment(*first);
            reader.from = Some(from.clone());
            return Ok(reader);
        }
    }
    Err(Error::position_lost(format!("read the journal from {from}: it begins later")))
}

fn gap(at: Micros, why: &str) -> Error {
    let when = Timestamp::from_microsecond(at).map_or_else(|_| "an unknown time".to_owned(), |at| at.to_string());
    Error::position_lost(format!(
        "read the journal across {when}: changes are missing there, because of a gap ({why}); what lies wholly before or \
         wholly behind it can be read"
    ))
}

/// The gap behind a place, if that is why the journal does not go on from there.
fn gap_behind(span: &Span) -> Result<Option<Error>> {
    for (partition, position) in span.begin.iter() {
        let reader = Reader::at_position(Arc::clone(&span.disk), span.keys.clone(), partition, position);
        let Ok(mut reader) = reader else { continue };
        loop {
            match reader.next(&mut Batch::unpooled(), FILL, span.through)? {
                Given::Note(Note::Gap { at, why, lost }) if lost.names(partition) => return Ok(Some(gap(at, &why))),
                Given::Run | Given::Page(_) | Given::Note(_) => {}
                Given::End | Given::Torn(_) => break,
            }
        }
    }
    Ok(None)
}

/// What a piece of the past holds.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Changes.
    pub changes: u64,
    /// The earliest known commit time, 0 when none is.
    pub first: Micros,
    /// The latest.
    pub last: Micros,
    /// Their tables, each once by name, as last described.
    pub tables: Vec<Arc<Table>>,
    /// The first frame that is needed for it.
    pub needs: u64,
}

/// Reads a piece of the past to its end, so that it is known beforehand whether it can be given.
///
/// # Errors
/// PositionLost for a gap in it or when the journal does not reach back so far, Corrupt for damage.
pub fn survey(span: &Span) -> Result<Survey> {
    match read(span) {
        Err(error) if error.fault() == Fault::PositionLost => Err(gap_behind(span)?.unwrap_or(error)),
        found => found,
    }
}

fn read(span: &Span) -> Result<Survey> {
    let mut stretch = Stretch::open(span, span.begin.clone(), FILL)?;
    let mut found = Survey { needs: stretch.needs(), ..Survey::default() };
    while let Some(batch) = stretch.next()? {
        found.changes += batch.len() as u64;
        for row in batch.rows() {
            times(row.at, &mut found.first, &mut found.last);
        }
        enter(&mut found.tables, batch.tables());
    }
    Ok(found)
}

/// Enters tables into a list that has each name once. What goes along with changes and is none has no table of its own.
pub(super) fn enter(known: &mut Vec<Arc<Table>>, tables: &[Arc<Table>]) {
    for table in tables.iter().filter(|table| !table.goes_along()) {
        match known.iter_mut().find(|known| known.name == table.name) {
            Some(known) => known.clone_from(table),
            None => known.push(Arc::clone(table)),
        }
    }
}
