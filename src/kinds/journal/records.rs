//! What the journal holds, as records: runs of changes, pages of snapshots, and what has to be known beside them.
//!
//! Invariant: what is decoded is what was encoded, positions included; anything else is an error and never a panic. How
//! records lie in bytes is told in `codec`. Pure.

use std::sync::Arc;

use super::codec::{Definition, Head, Line, Place, Snapshot, Stop, broken, kind, put, put_places, take, take_places};
use super::pieces::Piece;
use crate::error::{Error, Result};
use crate::model::{Batch, Checkpoint, Micros, Op, PartitionId, Position, Steps, Table};

/// LIMIT: tables of one segment; a batch cannot name more either.
pub(super) const TABLES_MAX: usize = u16::MAX as usize;
/// LIMIT: snapshots that are kept in mind; at one an hour, those of six weeks.
const SNAPSHOTS_MAX: usize = 1000;

/// What stands in a journal beside changes and items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Changes are missing here: what follows does not join on to where these partitions stood.
    Gap {
        /// When it was found.
        at: Micros,
        /// Why, in one sentence.
        why: String,
        /// How far the partitions were. They begin anew, or never come again.
        lost: Checkpoint,
    },
    /// Ended partitions that nobody asks for any more.
    Forgot(Checkpoint),
    /// A snapshot begins. Its pages follow, between them the changes that happen meanwhile.
    Began {
        /// Its number.
        snapshot: u64,
        /// When, by the writer's clock.
        at: Micros,
        /// The head then: what changed behind it may or may not be in the pages.
        head: Checkpoint,
    },
    /// A snapshot ends.
    Ended {
        /// Its number.
        snapshot: u64,
        /// When, by the writer's clock.
        at: Micros,
        /// Whether all of its pages were written; else it was given up.
        whole: bool,
        /// The head then: pages, and the changes from its beginning up to here, make the state at this head.
        head: Checkpoint,
    },
    /// The source was told to forget what lies at or before this.
    Released(Checkpoint),
}

/// Where a journal stands at some place: what its records up to there add up to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Standing {
    /// How far each partition is.
    pub(super) reached: Checkpoint,
    /// The latest commit time so far.
    pub(super) latest: Micros,
    /// The number of the last snapshot that was begun.
    pub(super) last_snapshot: u64,
    /// Whole snapshots, oldest first; behind them the one that is being written, with `ended` 0.
    pub(super) snapshots: Vec<Snapshot>,
}

impl Standing {
    /// Takes in a note of the frame `sequence`.
    pub(super) fn apply(&mut self, note: &Note, sequence: u64) {
        match note {
            Note::Gap { lost, .. } => {
                self.reached.retain(|partition| !lost.names(partition));
                // Changes that happened while it was read are missing, so it never becomes whole.
                self.give_up();
            }
            Note::Forgot(places) => self.reached.retain(|partition| !places.names(partition)),
            Note::Began { snapshot, at, .. } => {
                self.give_up();
                self.last_snapshot = *snapshot;
                let excess = (self.snapshots.len() + 1).saturating_sub(SNAPSHOTS_MAX);
                self.snapshots.drain(..excess);
                let begun = Snapshot { id: *snapshot, began: sequence, began_at: *at, ended: 0, ended_at: 0 };
                self.snapshots.push(begun);
            }
            Note::Ended { snapshot, at, whole, .. } => {
                if !whole {
                    self.give_up();
                } else if let Some(open) = self.snapshots.last_mut().filter(|s| s.id == *snapshot && s.ended == 0) {
                    (open.ended, open.ended_at) = (sequence, *at);
                }
            }
            Note::Released(_) => {}
        }
    }

    /// The snapshot that is being written.
    pub(super) fn open_snapshot(&self) -> Option<u64> {
        self.snapshots.last().filter(|snapshot| snapshot.ended == 0).map(|snapshot| snapshot.id)
    }

    /// Forgets the snapshot that is being written.
    pub(super) fn give_up(&mut self) {
        self.snapshots.retain(|snapshot| snapshot.ended != 0);
    }

    /// Whole snapshots, oldest first.
    pub(super) fn whole(&self) -> impl DoubleEndedIterator<Item = &Snapshot> {
        self.snapshots.iter().filter(|snapshot| snapshot.ended != 0)
    }
}

/// What a frame's changes were committed between; 0 and 0 when nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Span {
    /// The earliest commit time.
    pub(super) earliest: Micros,
    /// The latest.
    pub(super) latest: Micros,
}

impl Span {
    fn meet(&mut self, at: Micros) {
        if at != 0 {
            self.earliest = if self.earliest == 0 { at } else { self.earliest.min(at) };
            self.latest = if self.latest == 0 { at } else { self.latest.max(at) };
        }
    }
}

/// The tables that a segment has defined so far, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables(Vec<Arc<Table>>);

impl Tables {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// All of them, by number.
    pub(super) fn all(&self) -> &[Arc<Table>] {
        &self.0
    }

    /// The number of a table, and whether it had none before.
    fn number(&mut self, table: &Arc<Table>) -> (u32, bool) {
        let known = self.0.iter().rposition(|known| Arc::ptr_eq(known, table));
        match known.or_else(|| self.0.iter().rposition(|known| known == table)) {
            Some(number) => (number as u32, false),
            None => {
                self.0.push(Arc::clone(table));
                ((self.0.len() - 1) as u32, true)
            }
        }
    }

    /// Enters a definition. One that is met again (after a reader went back) must say the same.
    fn define(&mut self, definition: &Definition<'_>) -> Result<()> {
        let number = definition.number as usize;
        match self.0.get(number) {
            Some(known) if known.name == definition.name && known.shape == definition.shape => Ok(()),
            None if number == self.0.len() && number < TABLES_MAX => {
                self.0.push(Arc::new(Table { name: definition.name.to_owned(), shape: definition.shape.to_owned() }));
                Ok(())
            }
            _ => Err(broken("a table is defined twice or out of turn")),
        }
    }
}

/// Appends a piece of a batch as one run, or as one page of a snapshot, defining tables that the segment does not have yet.
///
/// # Errors
/// Bug, when a scan by cursor holds what a scan cannot find.
pub(super) fn encode_run(
    out: &mut Vec<u8>,
    tables: &mut Tables,
    span: &mut Span,
    snapshot: Option<u64>,
    batch: &Batch,
    piece: &Piece,
) -> Result<()> {
    match snapshot {
        None => put(out, kind::RUN),
        Some(snapshot) => put(out, (kind::PAGE, snapshot)),
    }
    let mut fresh = Vec::new();
    let mut numbers = Vec::with_capacity(batch.tables().len());
    for table in batch.tables() {
        let (number, is_new) = tables.number(table);
        if is_new {
            fresh.push((number, table));
        }
        numbers.push((table, number));
    }
    let marks = &batch.marks()[piece.marks.clone()];
    put(
        out,
        Head {
            partition: batch.partition.as_str(),
            steps: steps_number(batch.steps),
            base: Place::of(&piece.base),
            tables: fresh.len() as u32,
            marks: marks.len() as u32,
            rows: piece.rows.len() as u32,
        },
    );
    for (number, table) in fresh {
        put(out, Definition { number, name: &table.name, shape: &table.shape });
    }
    for mark in marks {
        put(out, Stop { changes: (mark.changes - piece.rows.start) as u32, upto: Place::of(&mark.upto) });
    }
    let mut last = 0;
    for index in piece.rows.clone() {
        let row = batch.row(index);
        if !Arc::ptr_eq(numbers[last].0, row.table) {
            let found = numbers.iter().position(|(table, _)| Arc::ptr_eq(table, row.table));
            last = found.expect("a row's table is one of its batch");
        }
        span.meet(row.at);
        let mut line = Line {
            op: op_number(row.op),
            fresh: row.fresh,
            table: numbers[last].1,
            at: row.at,
            key: row.key,
            body: row.body,
            extra: row.from,
        };
        if batch.steps != Steps::Cursor {
            put(out, line);
            continue;
        }
        if row.op != Op::Put || row.fresh || row.from.is_some() || row.at != 0 {
            return Err(Error::bug("write to the journal: a scan by cursor holds a change that no scan finds"));
        }
        let cursor = batch.position(index);
        line.extra = cursor.boundary();
        put(out, line);
    }
    Ok(())
}

fn steps_number(steps: Steps) -> u8 {
    match steps {
        Steps::Ordinal => 0,
        Steps::Key => 1,
        Steps::Cursor => 2,
    }
}

fn op_number(op: Op) -> u8 {
    match op {
        Op::Put => 0,
        Op::Patch => 1,
        Op::Delete => 2,
        Op::Clear => 3,
    }
}

/// Appends the record that each segment begins with.
pub(super) fn encode_standing(out: &mut Vec<u8>, standing: &Standing) {
    put(out, kind::STANDING);
    put_places(out, &standing.reached);
    put(out, (standing.latest, standing.last_snapshot, standing.snapshots.len() as u32));
    for snapshot in &standing.snapshots {
        put(out, *snapshot);
    }
}

/// Appends a note.
pub(super) fn encode_note(out: &mut Vec<u8>, note: &Note) {
    match note {
        Note::Gap { at, why, lost } => {
            put(out, (kind::GAP, *at, why.as_str()));
            put_places(out, lost);
        }
        Note::Forgot(places) => {
            put(out, kind::FORGOT);
            put_places(out, places);
        }
        Note::Began { snapshot, at, head } => {
            put(out, (kind::BEGAN, *snapshot, *at));
            put_places(out, head);
        }
        Note::Ended { snapshot, at, whole, head } => {
            put(out, (kind::ENDED, *snapshot, *at, *whole));
            put_places(out, head);
        }
        Note::Released(places) => {
            put(out, kind::RELEASED);
            put_places(out, places);
        }
    }
}

/// A record, as far as it is read at once.
pub(super) enum Record {
    /// A run, whose changes are read piece by piece.
    Run(Run),
    /// The first record of a segment.
    Standing(Standing),
    /// Anything else.
    Note(Note),
}

/// Takes the next record off the front of the records from `used` on, and moves `used` behind it: for a run, behind its
/// marks.
///
/// # Errors
/// Corrupt, when this is no record, or a table is defined out of turn.
pub(super) fn decode(records: &[u8], used: &mut usize, tables: &mut Tables) -> Result<Record> {
    let mut bytes = &records[*used..];
    let rest = &mut bytes;
    let record = match take(rest)? {
        kind::RUN => Record::Run(Run::decode(records, rest, tables, None)?),
        kind::PAGE => {
            let snapshot = take(rest)?;
            Record::Run(Run::decode(records, rest, tables, Some(snapshot))?)
        }
        kind::STANDING => {
            let reached = take_places(rest)?;
            let (latest, last_snapshot, count): (Micros, u64, u32) = take(rest)?;
            let mut standing = Standing { reached, latest, last_snapshot, snapshots: Vec::new() };
            for _ in 0..count {
                standing.snapshots.push(take(rest)?);
            }
            Record::Standing(standing)
        }
        kind::GAP => {
            let (at, why): (Micros, &str) = take(rest)?;
            Record::Note(Note::Gap { at, why: why.to_owned(), lost: take_places(rest)? })
        }
        kind::FORGOT => Record::Note(Note::Forgot(take_places(rest)?)),
        kind::BEGAN => {
            let (snapshot, at) = take(rest)?;
            Record::Note(Note::Began { snapshot, at, head: take_places(rest)? })
        }
        kind::ENDED => {
            let (snapshot, at, whole) = take(rest)?;
            Record::Note(Note::Ended { snapshot, at, whole, head: take_places(rest)? })
        }
        kind::RELEASED => Record::Note(Note::Released(take_places(rest)?)),
        _ => return Err(broken("there is one of a kind that this version does not know")),
    };
    *used = records.len() - bytes.len();
    Ok(record)
}

/// A run that is being read.
#[derive(Debug)]
pub(super) struct Run {
    /// Of which partition.
    pub(super) partition: PartitionId,
    /// Of which snapshot it is a page, if it is one.
    pub(super) snapshot: Option<u64>,
    steps: Steps,
    /// Where what was not read yet begins.
    pub(super) base: Position,
    /// Where in the records the marks are that were not met yet, and how many there are.
    marks: usize,
    marks_left: u32,
    /// Rows that were read, and how many there are.
    row: u32,
    rows: u32,
}

impl Run {
    fn decode(records: &[u8], rest: &mut &[u8], tables: &mut Tables, snapshot: Option<u64>) -> Result<Self> {
        let head: Head<'_> = take(rest)?;
        let steps = match head.steps {
            0 => Steps::Ordinal,
            1 => Steps::Key,
            2 => Steps::Cursor,
            _ => return Err(broken("a run counts its positions in a way that this version does not know")),
        };
        let base = head.base.position()?;
        if base == Position::End {
            return Err(broken("a run begins at the end of its partition"));
        }
        for _ in 0..head.tables {
            tables.define(&take(rest)?)?;
        }
        let marks = records.len() - rest.len();
        // Marks stand before the rows, and a batch wants them between: they are read a second time as the rows go by.
        for _ in 0..head.marks {
            take::<Stop<'_>>(rest)?;
        }
        let partition = PartitionId::new(head.partition);
        Ok(Self { partition, snapshot, steps, base, marks, marks_left: head.marks, row: 0, rows: head.rows })
    }

    /// Fills an empty batch with about `fill` bytes of what was not read yet, at least one change where there is one, and
    /// moves `used` behind them. True when the run is read to its end.
    ///
    /// # Errors
    /// Corrupt, when the changes are none.
    pub(super) fn fill(
        &mut self,
        records: &[u8],
        used: &mut usize,
        tables: &Tables,
        batch: &mut Batch,
        fill: usize,
    ) -> Result<bool> {
        batch.begin(&self.partition, self.base.clone(), self.steps);
        let mut bytes = &records[*used..];
        let mut mark = self.mark(records)?;
        loop {
            while let Some((_, upto, next)) = mark.take_if(|(changes, ..)| *changes == self.row) {
                if upto < *batch.upto() {
                    return Err(broken("a mark lies before the one that it follows"));
                }
                batch.mark(upto);
                (self.marks, self.marks_left) = (next, self.marks_left - 1);
                mark = self.mark(records)?;
            }
            if self.row == self.rows || (batch.bytes() >= fill && !batch.is_empty()) {
                break;
            }
            if *batch.upto() == Position::End {
                return Err(broken("a change lies behind the end of its partition"));
            }
            fill_row(&take(&mut bytes)?, tables, batch)?;
            self.row += 1;
        }
        *used = records.len() - bytes.len();
        self.base = reached(batch);
        match (self.row == self.rows, mark) {
            (true, Some(_)) => Err(broken("a mark lies outside of its run")),
            (done, _) => Ok(done),
        }
    }

    /// The next mark, and where the one behind it is.
    fn mark(&self, records: &[u8]) -> Result<Option<(u32, Position, usize)>> {
        if self.marks_left == 0 {
            return Ok(None);
        }
        let mut bytes = &records[self.marks..];
        let stop: Stop<'_> = take(&mut bytes)?;
        Ok(Some((stop.changes, stop.upto.position()?, records.len() - bytes.len())))
    }
}

fn fill_row(line: &Line<'_>, tables: &Tables, batch: &mut Batch) -> Result<()> {
    let op = match line.op {
        0 => Op::Put,
        1 => Op::Patch,
        2 => Op::Delete,
        3 => Op::Clear,
        _ => return Err(broken("a change does what this version does not know")),
    };
    let table =
        tables.0.get(line.table as usize).ok_or_else(|| broken("a change names a table that is not defined"))?;
    let table = batch.table(table);
    if batch.steps != Steps::Cursor {
        batch.push_moved(op, line.fresh, table, line.key, line.body, line.extra, line.at);
        return Ok(());
    }
    let cursor = line.extra.filter(|_| op == Op::Put && !line.fresh && line.at == 0);
    let cursor = cursor.ok_or_else(|| broken("a scan by cursor holds a change that no scan finds"))?;
    batch.push_scanned(table, line.key, line.body, cursor);
    Ok(())
}

/// How far a batch reaches: its last mark, or where its last change stands.
pub(super) fn reached(batch: &Batch) -> Position {
    if batch.is_open() { batch.position(batch.len() - 1) } else { batch.upto().clone() }
}
