//! Which part of a batch is new to the journal, and how it is cut into runs. Pure.
//!
//! Invariant: of each partition a journal holds every change once, in order: a batch that begins behind what was reached is
//! refused, and what lies before it is left out. A source that is opened again within a transaction gives the transaction
//! from its beginning; the same changes have the same ordinals then, so the journal knows which of them it has. Where it
//! cannot be known, nothing is guessed.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::model::{Batch, Position, Steps};

/// A part of a batch: its changes, its marks, and the position before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) rows: Range<usize>,
    pub(super) marks: Range<usize>,
    pub(super) base: Position,
}

impl Piece {
    /// All of a batch.
    pub(super) fn whole(batch: &Batch) -> Self {
        Self { rows: 0..batch.len(), marks: 0..batch.marks().len(), base: batch.base().clone() }
    }

    /// What of a batch lies behind `reached`; `None` when nothing does.
    ///
    /// # Errors
    /// PositionLost, when the batch begins further on; Bug, when it cannot be known what of it is new.
    pub(super) fn behind(batch: &Batch, reached: &Position) -> Result<Option<Self>> {
        let base = batch.base();
        if base > reached {
            return Err(Error::position_lost(format!(
                "write to the journal: {} goes on at {base} and was at {reached}",
                batch.partition
            )));
        }
        let marks = batch.marks();
        let passed = marks.partition_point(|mark| mark.upto <= *reached);
        let last = passed.checked_sub(1).map(|index| &marks[index]);
        let (boundary, begin) = last.map_or((base, 0), |mark| (&mark.upto, mark.changes));
        // The source transaction that may be new in part, or as a whole.
        let end = marks.get(passed).map_or(batch.len(), |mark| mark.changes);
        let from = if boundary == reached {
            begin
        } else if *reached == Position::End {
            batch.len()
        } else if batch.steps != Steps::Ordinal {
            begin + partition_point(begin..end, |index| batch.position(index) <= *reached)
        } else if boundary.boundary() == reached.boundary() {
            let has = usize::try_from(reached.ordinal() - boundary.ordinal()).unwrap_or(usize::MAX);
            begin.saturating_add(has).min(end)
        } else if begin == end {
            end
        } else {
            // A place without changes, which only one of the two readings showed, may be on either side of the transaction.
            return Err(Error::bug(format!(
                "write to the journal: {} is read again from {base}, and {reached} lies within a transaction there",
                batch.partition
            )));
        };
        let piece = Self { rows: from..batch.len(), marks: passed..marks.len(), base: reached.clone() };
        let nothing = piece.rows.is_empty() && piece.marks.is_empty();
        Ok((!nothing).then_some(piece))
    }

    /// Cuts off as many changes as fit a run of about `bytes`; at least one where there is one.
    pub(super) fn split_off(&mut self, batch: &Batch, bytes: usize) -> Self {
        let (mut sum, mut end) = (0, self.rows.start);
        while end < self.rows.end && (end == self.rows.start || sum < bytes) {
            let row = batch.row(end);
            sum += row.key.len() + row.body.len() + row.from.map_or(0, <[u8]>::len) + 40;
            end += 1;
        }
        let marks = &batch.marks()[self.marks.clone()];
        let middle = self.marks.start + marks.partition_point(|mark| mark.changes <= end);
        let front = Self { rows: self.rows.start..end, marks: self.marks.start..middle, base: self.base.clone() };
        self.base = front.end(batch);
        self.rows.start = end;
        self.marks.start = middle;
        front
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.marks.is_empty()
    }

    /// The position behind it: its last mark, or as many changes further on as follow that.
    pub(super) fn end(&self, batch: &Batch) -> Position {
        let mark = batch.marks()[self.marks.clone()].last();
        let (at, changes) = mark.map_or((&self.base, self.rows.start), |mark| (&mark.upto, mark.changes));
        let more = self.rows.end.saturating_sub(changes);
        match batch.steps {
            _ if more == 0 => at.clone(),
            Steps::Ordinal => at.plus(more as u64),
            Steps::Key | Steps::Cursor => batch.position(self.rows.end - 1),
        }
    }
}

/// How many indexes of a range come before the first for which `passed` says no.
fn partition_point(range: Range<usize>, passed: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if passed(middle) { low = middle + 1 } else { high = middle }
    }
    low - range.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use crate::model::{Op, PartitionId};
    use std::sync::Arc;

    /// A batch from `base` on: a letter is a change of that key, a number a mark.
    fn batch(base: Position, steps: Steps, plan: &str) -> Batch {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("p"), base, steps);
        let table = batch.table(&Arc::default());
        for word in plan.split_whitespace() {
            match word {
                "end" => batch.mark(Position::End),
                _ if word.starts_with(|c: char| c.is_ascii_digit()) => batch.mark(Position::at(word)),
                _ => batch.push(Op::Put, false, table, word.as_bytes(), b"", 0),
            }
        }
        batch
    }

    /// What is new, in the same words, behind the base.
    fn new(batch: &Batch, reached: Position) -> String {
        match Piece::behind(batch, &reached) {
            Err(error) => format!("{:?}", error.fault()),
            Ok(None) => "nothing".to_owned(),
            Ok(Some(piece)) => {
                let mut out = vec![piece.base.to_string()];
                for index in piece.rows.start..=piece.rows.end {
                    let marks = batch.marks()[piece.marks.clone()].iter().filter(|mark| mark.changes == index);
                    out.extend(marks.map(|mark| mark.upto.to_string()));
                    if index < piece.rows.end {
                        out.push(String::from_utf8_lossy(batch.row(index).key).into_owned());
                    }
                }
                out.join(" ")
            }
        }
    }

    #[test]
    fn what_the_journal_has_is_left_out() {
        let at = |n: &str| Position::at(n);
        let read = batch(at("10"), Steps::Ordinal, "a b 20 c 30 d e");
        for (reached, expected) in [
            (at("10"), "@10 a b @20 c @30 d e"),
            (at("10").plus(1), "@10#1 b @20 c @30 d e"),
            (at("10").plus(2), "@10#2 @20 c @30 d e"),
            (at("20"), "@20 c @30 d e"),
            (at("30"), "@30 d e"),
            (at("30").plus(1), "@30#1 e"),
            (at("30").plus(2), "nothing"),
            (at("30").plus(7), "nothing"),
            (Position::End, "nothing"),
            (at("05"), "PositionLost"),
            // Do a and b belong to a transaction that ends before 15 or after? A mark that nothing follows gives way to the next.
            (at("15"), "Bug"),
            (at("25"), "Bug"),
            (at("35"), "Bug"),
            (at("15").plus(1), "Bug"),
        ] {
            assert_eq!(new(&read, reached.clone()), expected, "{reached}");
        }
        assert_eq!(new(&batch(at("10"), Steps::Ordinal, ""), at("10")), "nothing");
        assert_eq!(new(&batch(at("10"), Steps::Ordinal, "20"), at("15")), "@15 @20");
        assert_eq!(new(&batch(at("10"), Steps::Ordinal, "20"), at("35")), "nothing");
        assert_eq!(new(&batch(at("10"), Steps::Ordinal, "20 a 30"), at("15")), "@15 @20 a @30");
        // Opened again within a transaction that had been read from its third change on.
        let within = batch(at("10").plus(2), Steps::Ordinal, "c d 20");
        assert_eq!(new(&within, at("10").plus(3)), "@10#3 d @20");
        assert_eq!(new(&within, at("10").plus(1)), "PositionLost");
        let keys = batch(at("a"), Steps::Key, "b c e");
        assert_eq!(new(&keys, at("c")), "@c e");
        assert_eq!(new(&keys, at("d")), "@d e");
        assert_eq!(new(&keys, at("e")), "nothing");
    }

    #[test]
    fn pieces_join_and_hold_everything() {
        let read = batch(Position::at("10"), Steps::Ordinal, "a b 20 c 30 d e");
        for reached in [Position::at("10"), Position::at("10").plus(1), Position::at("20")] {
            let whole = Piece::behind(&read, &reached).unwrap().unwrap();
            for bytes in [0, 41, 82, 1000] {
                let mut rest = whole.clone();
                let mut at = reached.clone();
                let (mut rows, mut marks) = (Vec::new(), Vec::new());
                while !rest.is_empty() {
                    let front = rest.split_off(&read, bytes);
                    assert_eq!(front.base, at);
                    at = front.end(&read);
                    rows.extend(front.rows);
                    marks.extend(front.marks);
                }
                assert_eq!((rows, marks), (whole.rows.clone().collect(), whole.marks.clone().collect()));
                assert_eq!(at, Position::at("30").plus(2));
            }
        }
        assert_eq!(Piece::whole(&read).end(&read), Position::at("30").plus(2));
        assert_eq!(read.position(4), Position::at("30").plus(2));
    }

    #[test]
    fn a_refusal_says_where_both_are() {
        let error = Piece::behind(&batch(Position::at("8"), Steps::Ordinal, ""), &Position::at("5")).unwrap_err();
        assert_eq!(error.fault(), Fault::PositionLost);
        assert!(error.to_string().contains("p goes on at @8 and was at @5"), "{error}");
    }
}
