//! What is in a frame's payload, and the only file that names `bincode`.
//!
//! ```text
//! records  = run+
//! run      = head table*tables mark*marks row*rows
//! head     = partition: text  steps: u8 (0 ordinal, 1 key, 2 cursor)  base: position  tables marks rows: u32
//! table    = number: u32  name: text  shape: bytes      numbered from 0 within a segment, before its first use
//! mark     = changes: u32  upto: position
//! row      = op: u8 (0 put, 1 patch, 2 delete, 3 clear)  fresh: bool  table: u32  at: i64  key body: bytes
//!            extra: option of bytes                     the older key, or with steps = 2 the cursor
//! position = form: u8 (0 start, 1 at, 2 end)  at: bytes  ordinal: u64
//! text, bytes = u64 length and the bytes; option = u8 0, or 1 and the value; little endian, fixed width
//! ```
//!
//! A run is a batch or a piece of one; one without marks and rows only says where its partition stands. Invariant: what is decoded is what was encoded, positions included; anything else
//! is an error and never a panic. Nothing is allocated by a number that the bytes merely claim. Pure.

use std::ops::Range;
use std::sync::Arc;

use bincode::config::{Configuration, Fixint, LittleEndian, NoLimit};
use bincode::{BorrowDecode, Encode};

use crate::error::{Error, Result};
use crate::model::{Batch, Micros, Op, PartitionId, Position, Steps, Table};

/// Fixed width, little endian: golden bytes in the tests pin it. Slices are borrowed and checked against the input's end, so
/// that no limit on allocations is needed.
const CONFIG: Configuration<LittleEndian, Fixint, NoLimit> = bincode::config::legacy();
/// LIMIT: tables of one segment; a batch cannot name more either.
pub const TABLES_MAX: usize = u16::MAX as usize;
/// LIMIT: so that counting on from an ordinal never overflows.
const ORDINAL_MAX: u64 = 1 << 62;

#[derive(Encode, BorrowDecode)]
struct Head<'a> {
    partition: &'a str,
    steps: u8,
    base: Place<'a>,
    tables: u32,
    marks: u32,
    rows: u32,
}

#[derive(Encode, BorrowDecode)]
struct Definition<'a> {
    number: u32,
    name: &'a str,
    shape: &'a [u8],
}

#[derive(Encode, BorrowDecode)]
struct Stop<'a> {
    changes: u32,
    upto: Place<'a>,
}

#[derive(Encode, BorrowDecode)]
struct Line<'a> {
    op: u8,
    fresh: bool,
    table: u32,
    at: Micros,
    key: &'a [u8],
    body: &'a [u8],
    extra: Option<&'a [u8]>,
}

#[derive(Encode, BorrowDecode)]
struct Place<'a> {
    form: u8,
    at: &'a [u8],
    ordinal: u64,
}

impl<'a> Place<'a> {
    fn of(position: &'a Position) -> Self {
        match position {
            Position::Start => Self { form: 0, at: &[], ordinal: 0 },
            Position::At { at, ordinal } => Self { form: 1, at, ordinal: *ordinal },
            Position::End => Self { form: 2, at: &[], ordinal: 0 },
        }
    }

    fn position(&self) -> Result<Position> {
        match (self.form, self.ordinal) {
            (0, 0) if self.at.is_empty() => Ok(Position::Start),
            (1, 0..ORDINAL_MAX) => Ok(Position::At { at: self.at.into(), ordinal: self.ordinal }),
            (2, 0) if self.at.is_empty() => Ok(Position::End),
            _ => Err(broken("a position has a form that this version does not know")),
        }
    }
}

fn broken(what: &str) -> Error {
    Error::corrupt(format!("read records of the journal: {what}"))
}

fn put(out: &mut Vec<u8>, value: impl Encode) {
    bincode::encode_into_std_write(value, out, CONFIG)
        .expect("a vector takes all bytes, and no value of ours is unencodable");
}

fn take<'a, T: BorrowDecode<'a, ()>>(bytes: &mut &'a [u8]) -> Result<T> {
    // The library's own error could quote what it read.
    let (value, used) = bincode::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|_| broken("they end early or hold no record here"))?;
    *bytes = bytes.get(used..).ok_or_else(|| broken("they end early"))?;
    Ok(value)
}

/// The tables that a segment has defined so far, by number.
#[derive(Debug, Default)]
pub struct Tables(Vec<Arc<Table>>);

impl Tables {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
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

/// What a frame's head says about its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Summary {
    /// Whether a table is defined.
    pub defines: bool,
    /// Earliest known commit time, or 0.
    pub earliest: Micros,
    /// Latest known commit time, or 0.
    pub latest: Micros,
}

impl Summary {
    fn meet(&mut self, at: Micros) {
        if at != 0 {
            self.earliest = if self.earliest == 0 { at } else { self.earliest.min(at) };
            self.latest = if self.latest == 0 { at } else { self.latest.max(at) };
        }
    }
}

/// How many changes from `from` on fit a run of about `bytes`; at least one where there is one.
pub fn fitting(batch: &Batch, from: usize, bytes: usize) -> Range<usize> {
    let mut sum = 0;
    let mut end = from;
    while end < batch.len() && (end == from || sum < bytes) {
        let row = batch.row(end);
        sum += row.key.len() + row.body.len() + row.from.map_or(0, <[u8]>::len) + 40;
        end += 1;
    }
    from..end
}

/// Appends some changes of a batch as one run, defining tables that the segment does not have yet.
///
/// # Errors
/// Bug, when a scanned batch holds what a scan cannot find.
pub fn encode(
    out: &mut Vec<u8>,
    tables: &mut Tables,
    summary: &mut Summary,
    batch: &Batch,
    rows: Range<usize>,
) -> Result<()> {
    let base = base_of(batch, rows.start);
    let marks = batch.marks().iter().filter(|mark| {
        mark.changes <= rows.end && (mark.changes > rows.start || (rows.start == 0 && mark.changes == 0))
    });
    let mut fresh = Vec::new();
    let numbers: Vec<u32> = (batch.tables().iter())
        .map(|table| {
            let (number, is_new) = tables.number(table);
            if is_new {
                fresh.push((number, table));
            }
            number
        })
        .collect();
    let steps = match batch.steps {
        Steps::Ordinal => 0,
        Steps::Key => 1,
        Steps::Cursor => 2,
    };
    let counts = (fresh.len() as u32, marks.clone().count() as u32, rows.len() as u32);
    let partition = batch.partition.as_str();
    put(out, Head { partition, steps, base: Place::of(&base), tables: counts.0, marks: counts.1, rows: counts.2 });
    summary.defines |= !fresh.is_empty();
    for (number, table) in fresh {
        put(out, Definition { number, name: &table.name, shape: &table.shape });
    }
    for mark in marks {
        put(out, Stop { changes: (mark.changes - rows.start) as u32, upto: Place::of(&mark.upto) });
    }
    for index in rows {
        encode_row(out, &numbers, batch, index)?;
        summary.meet(batch.row(index).at);
    }
    Ok(())
}

fn encode_row(out: &mut Vec<u8>, numbers: &[u32], batch: &Batch, index: usize) -> Result<()> {
    let row = batch.row(index);
    let place = (batch.tables().iter()).position(|table| Arc::ptr_eq(table, row.table));
    let table = numbers[place.expect("a row's table is one of its batch")];
    let (op, fresh, at, key, body) = (op_number(row.op), row.fresh, row.at, row.key, row.body);
    if batch.steps != Steps::Cursor {
        put(out, Line { op, fresh, table, at, key, body, extra: row.from });
        return Ok(());
    }
    if row.op != Op::Put || row.fresh || row.from.is_some() || row.at != 0 {
        return Err(Error::bug("write to the journal: a scan by cursor holds a change that no scan finds"));
    }
    let cursor = batch.position(index);
    put(out, Line { op, fresh, table, at, key, body, extra: cursor.boundary() });
    Ok(())
}

fn op_number(op: Op) -> u8 {
    match op {
        Op::Put => 0,
        Op::Patch => 1,
        Op::Delete => 2,
        Op::Clear => 3,
    }
}

/// The position before the change at `index`.
fn base_of(batch: &Batch, index: usize) -> Position {
    let marked = batch.marks().iter().rev().find(|mark| mark.changes == index && index > 0);
    match (index, marked) {
        (0, _) => batch.base().clone(),
        (_, Some(mark)) => mark.upto.clone(),
        (_, None) => batch.position(index - 1),
    }
}

/// Appends a run without changes that only says where a partition stands: the first frame of each segment begins with one
/// for every partition that was met before, so that the newest segment alone tells how far the journal reaches.
pub fn encode_standing(out: &mut Vec<u8>, partition: &PartitionId, at: &Position) {
    put(out, Head { partition: partition.as_str(), steps: 0, base: Place::of(at), tables: 0, marks: 0, rows: 0 });
}

/// Whether a decoded run is such a one.
pub fn is_standing(batch: &Batch) -> bool {
    batch.is_empty() && batch.marks().is_empty()
}

/// How far a run reaches: its last mark, or where its last change stands.
pub fn reached(batch: &Batch) -> Position {
    if batch.is_open() { batch.position(batch.len() - 1) } else { batch.upto().clone() }
}

/// Which partition the next run is of, and where it begins, without taking it.
///
/// # Errors
/// Corrupt, when this is no run.
pub fn peek(mut bytes: &[u8]) -> Result<(PartitionId, Position)> {
    let head: Head<'_> = take(&mut bytes)?;
    Ok((PartitionId::new(head.partition), head.base.position()?))
}

/// Takes the next run off the front of the records into an empty batch.
///
/// # Errors
/// Corrupt, when this is no run, or names a table that its segment has not defined.
pub fn decode(bytes: &mut &[u8], tables: &mut Tables, batch: &mut Batch) -> Result<()> {
    let head: Head<'_> = take(bytes)?;
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
    batch.begin(&PartitionId::new(head.partition), base, steps);
    for _ in 0..head.tables {
        tables.define(&take(bytes)?)?;
    }
    // Marks stand before the rows, and a batch wants them between: they are read a second time as the rows go by.
    let mut stops = *bytes;
    for _ in 0..head.marks {
        take::<Stop<'_>>(bytes)?;
    }
    let mut left = head.marks;
    let mut next = stop(&mut stops, &mut left)?;
    for row in 0..=head.rows {
        while let Some((_, upto)) = next.take_if(|(changes, _)| *changes == row) {
            if upto < *batch.upto() {
                return Err(broken("a mark lies before the one that it follows"));
            }
            batch.mark(upto);
            next = stop(&mut stops, &mut left)?;
        }
        if row < head.rows {
            if *batch.upto() == Position::End {
                return Err(broken("a change lies behind the end of its partition"));
            }
            decode_row(&take(bytes)?, tables, batch)?;
        }
    }
    if next.is_some() {
        return Err(broken("a mark lies outside of its run"));
    }
    Ok(())
}

fn stop(stops: &mut &[u8], left: &mut u32) -> Result<Option<(u32, Position)>> {
    let Some(fewer) = left.checked_sub(1) else { return Ok(None) };
    *left = fewer;
    let stop: Stop<'_> = take(stops)?;
    Ok(Some((stop.changes, stop.upto.position()?)))
}

fn decode_row(line: &Line<'_>, tables: &Tables, batch: &mut Batch) -> Result<()> {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that can be seen of a batch.
    pub(in super::super) fn seen(batch: &Batch) -> Vec<String> {
        let mut out = vec![format!("{} {} {:?} {:?}", batch.partition, batch.base(), batch.steps, batch.marks())];
        for (index, row) in batch.rows().enumerate() {
            let position = batch.position(index);
            out.push(format!("{position} {row:?}"));
        }
        out
    }

    /// Changes: op, fresh, table, key, body, older key, time, and whether a mark follows.
    pub(in super::super) type Plan = Vec<(u8, bool, u8, Vec<u8>, Vec<u8>, Option<Vec<u8>>, i64, bool)>;

    /// Any batch's worth of changes.
    pub(in super::super) fn plans() -> impl Strategy<Value = Plan> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
        let row =
            (0u8..4, any::<bool>(), 0u8..3, bytes(), bytes(), proptest::option::of(bytes()), -5i64..5, any::<bool>());
        proptest::collection::vec(row, 0..12)
    }

    /// The batch of a plan, whose marks count on from `number`.
    pub(in super::super) fn batch_of(plan: &Plan, number: &mut u32) -> Batch {
        let mut batch = Batch::unpooled();
        let place = |n: u32| Position::at(format!("{n:08}"));
        batch.begin(&PartitionId::new("pg/7/1/s"), place(*number), Steps::Ordinal);
        let name = |n: u8| Arc::new(Table { name: format!("public.t{n}"), shape: vec![n; 3] });
        let tables: Vec<_> = (0..3).map(name).collect();
        for (op, fresh, table, key, body, from, at, marked) in plan {
            let op = [Op::Put, Op::Patch, Op::Delete, Op::Clear][usize::from(*op)];
            let table = batch.table(&tables[usize::from(*table)]);
            batch.push_moved(op, *fresh, table, key, body, from.as_deref(), *at);
            if *marked {
                *number += 1;
                batch.mark(place(*number));
            }
        }
        *number += 1;
        batch.mark(place(*number));
        batch
    }

    fn copied(batch: &Batch, piece: usize) -> Vec<Batch> {
        let (mut out, mut tables, mut summary) = (Vec::new(), Tables::default(), Summary::default());
        let mut from = 0;
        while from < batch.len() || from == 0 {
            let rows = if piece == 0 { 0..batch.len() } else { from..(from + piece).min(batch.len()) };
            from = rows.end.max(1);
            encode(&mut out, &mut tables, &mut summary, batch, rows).unwrap();
        }
        let (mut bytes, mut tables, mut all) = (&out[..], Tables::default(), Vec::new());
        while !bytes.is_empty() {
            let mut batch = Batch::unpooled();
            decode(&mut bytes, &mut tables, &mut batch).unwrap();
            all.push(batch);
        }
        all
    }

    #[test]
    fn a_scan_by_cursor_keeps_its_cursors() {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("!snapshot/1/t"), Position::Start, Steps::Cursor);
        let table = batch.table(&Arc::default());
        batch.push_scanned(table, b"-1", b"body", b"7f");
        batch.push_scanned(table, b"1", b"", b"81");
        batch.mark(Position::End);
        assert_eq!(seen(&copied(&batch, 0)[0]), seen(&batch));
    }

    #[test]
    fn a_change_behind_the_end_of_its_partition_is_no_run() {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("p"), Position::Start, Steps::Ordinal);
        batch.mark(Position::End);
        let table = batch.table(&Arc::default());
        batch.push(Op::Put, false, table, b"k", b"", 0);
        let mut out = Vec::new();
        encode(&mut out, &mut Tables::default(), &mut Summary::default(), &batch, 0..1).unwrap();
        assert!(decode(&mut &out[..], &mut Tables::default(), &mut Batch::unpooled()).is_err());
    }

    proptest! {
        #[test]
        fn a_batch_comes_back_as_it_went(plan in plans()) {
            let batch = batch_of(&plan, &mut 0);
            let back = copied(&batch, 0);
            prop_assert_eq!(back.len(), 1);
            prop_assert_eq!(seen(&back[0]), seen(&batch));
        }

        #[test]
        fn pieces_of_a_batch_have_its_changes_at_their_positions(plan in plans(), piece in 1usize..5) {
            let batch = batch_of(&plan, &mut 0);
            let back = copied(&batch, piece);
            let rows: Vec<_> = back.iter().flat_map(|b| seen(b).split_off(1)).collect();
            prop_assert_eq!(rows, seen(&batch).split_off(1));
            prop_assert_eq!(reached(back.last().unwrap()), reached(&batch));
            let marks: Vec<_> = back.iter().flat_map(|b| b.marks().iter().map(|m| m.upto.clone())).collect();
            prop_assert_eq!(marks, batch.marks().iter().map(|m| m.upto.clone()).collect::<Vec<_>>());
            prop_assert!(back.windows(2).all(|pair| reached(&pair[0]) == *pair[1].base()));
        }

        #[test]
        fn any_bytes_are_an_error_or_a_run_and_never_a_panic(
            plan in plans(), noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut out = Vec::new();
            let batch = batch_of(&plan, &mut 0);
            encode(&mut out, &mut Tables::default(), &mut Summary::default(), &batch, 0..batch.len()).unwrap();
            for (at, byte) in noise {
                let at = at.index(out.len());
                out[at] = byte;
            }
            let mut batch = Batch::unpooled();
            if decode(&mut &out[..], &mut Tables::default(), &mut batch).is_ok() {
                reached(&batch);
            }
        }
    }
}
