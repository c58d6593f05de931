//! Pieces of a batch of a tail, cut at its marks. Pure.

use std::ops::Range;

use crate::model::{Batch, Position};

/// What lies between two marks of a batch, as a batch of its own.
fn between(batch: &Batch, rows: Range<usize>, marks: Range<usize>, base: Position) -> Batch {
    let mut part = Batch::unpooled();
    part.begin(&batch.partition, base, batch.steps);
    let mut marks = batch.marks()[marks].iter().peekable();
    for index in rows {
        while let Some(mark) = marks.next_if(|mark| mark.changes <= index) {
            part.mark(mark.upto.clone());
        }
        let row = batch.row(index);
        let table = part.table(row.table);
        part.push_moved(row.op, row.fresh, table, row.key, row.body, row.from, row.at);
    }
    for mark in marks {
        part.mark(mark.upto.clone());
    }
    part
}

/// Everything up to the last of so many marks; at least one.
pub(super) fn front(batch: &Batch, marks: usize) -> Batch {
    between(batch, 0..batch.marks()[marks - 1].changes, 0..marks, batch.base().clone())
}

/// Everything behind so many marks; `None` where nothing is, or before the first.
pub(super) fn behind(batch: &Batch, marks: usize) -> Option<Batch> {
    let last = &batch.marks()[marks.checked_sub(1)?];
    if last.upto == Position::End || (last.changes == batch.len() && marks == batch.marks().len()) {
        return None;
    }
    Some(between(batch, last.changes..batch.len(), marks..batch.marks().len(), last.upto.clone()))
}

/// A batch that only says how far its partition is.
pub(super) fn place(batch: &Batch) -> Batch {
    let mut part = Batch::unpooled();
    part.begin(&batch.partition, batch.base().clone(), batch.steps);
    part.mark(batch.base().clone());
    part
}

/// The place before the source transaction that a position lies within: itself, if it lies within none.
pub(super) fn closed(position: &Position) -> Position {
    match position {
        Position::At { at, ordinal: 1.. } if at.is_empty() => Position::Start,
        Position::At { at, ordinal: 1.. } => Position::at(at),
        closed => closed.clone(),
    }
}
