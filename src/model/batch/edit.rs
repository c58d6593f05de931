//! Changing what a batch says, in place: what a filter does before anybody else sees the batch.
//!
//! The number of changes, their order, the marks and so every position stay as they were: a change that is left out keeps
//! its place and says nothing. Where a position is the row's own and not a count, it may be forgotten altogether. What is
//! left out or replaced is gone from the arena afterwards, too.

use super::{Batch, Op, Row, Span, Steps};
use crate::error::Result;

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It stays as it is.
    Keep,
    /// It takes what was drafted.
    Draft,
    /// It becomes the removal of its key, under the name that was drafted.
    Remove,
    /// It says nothing any more.
    LeaveOut,
}

/// Parts of a change that become others; those that are not drafted stay.
#[derive(Debug, Default)]
pub struct Draft {
    key: Option<Span>,
    body: Option<Span>,
    from: Option<Span>,
    arena: Vec<u8>,
}

impl Draft {
    /// Another key.
    pub fn key(&mut self, key: &[u8]) {
        self.key = Some(Span::append(&mut self.arena, key));
    }

    /// Another key of the older image.
    pub fn from(&mut self, from: &[u8]) {
        self.from = Some(Span::append(&mut self.arena, from));
    }

    /// Another body, appended by `write`; its answer says whether there is one.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn body(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<bool>) -> Result<()> {
        let start = self.arena.len();
        self.body = write(&mut self.arena)?.then(|| Span::between(start, self.arena.len()));
        Ok(())
    }

    fn clear(&mut self) {
        (self.key, self.body, self.from) = (None, None, None);
        self.arena.clear();
    }
}

impl Row<'_> {
    /// Whether the change was left out by [`Batch::edit`]. Who does not ask removes a key that nobody has.
    pub fn is_left_out(&self) -> bool {
        self.op == Op::Delete && self.key.is_empty()
    }
}

impl Batch {
    /// Lets `each` say of every change what becomes of it.
    ///
    /// # Errors
    /// The first of `each`; the batch is of no use then.
    pub fn edit(&mut self, mut each: impl FnMut(Row<'_>, &mut Draft) -> Result<Edit>) -> Result<()> {
        let mut draft = Draft::default();
        let mut edited = false;
        for index in 0..self.len() {
            draft.clear();
            let edit = each(self.row(index), &mut draft)?;
            if edit == Edit::Keep {
                continue;
            }
            if !std::mem::replace(&mut edited, true) {
                self.carry_cursors();
            }
            self.apply(index, edit, &draft);
        }
        if edited {
            self.compact();
        }
        Ok(())
    }

    /// Forgets the changes that were left out, and counts them; gives how many of them lay behind the last that stays. For
    /// rows that a store found.
    pub fn forget_left_out(&mut self) -> u64 {
        let marks = &mut self.buffers.marks;
        assert!(self.steps != Steps::Ordinal || marks.is_empty(), "changes that are counted keep their places");
        let before = self.buffers.changes.len();
        let (mut kept, mut behind) = (0, 0);
        let mut of_mark = marks.iter_mut().peekable();
        let mut index = 0;
        self.buffers.changes.retain(|change| {
            while let Some(mark) = of_mark.next_if(|mark| mark.changes <= index) {
                mark.changes = kept;
            }
            index += 1;
            let keep = change.op != Op::Delete || !change.key.is_empty();
            (kept, behind) = if keep { (kept + 1, 0) } else { (kept, behind + 1) };
            keep
        });
        of_mark.for_each(|mark| mark.changes = kept);
        self.forgotten += (before - kept) as u64;
        behind
    }

    /// How many changes were left out and forgotten.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Has a page end with its last change, which it must have, although so many that were left out lay behind it: so that its
    /// position tells nothing of them. They will be read again, and count then.
    pub fn end_with_last_change(&mut self, behind: u64) {
        self.forgotten -= behind;
        let last = self.position(self.len() - 1);
        if let Some(mark) = self.buffers.marks.last_mut().filter(|mark| mark.upto > last) {
            mark.upto = last;
        }
    }

    /// Forgets the marks of a page without changes, so that it can be filled again from further on, as it began: by key.
    pub fn unmark(&mut self) {
        assert!(self.is_empty(), "changes are behind a mark");
        self.buffers.marks.clear();
        self.steps = Steps::Key;
    }

    /// A position of a scan is the key at the source, whatever the key is called from here on.
    fn carry_cursors(&mut self) {
        if self.steps == Steps::Key {
            for change in &mut self.buffers.changes {
                change.from = change.key;
            }
            self.steps = Steps::Cursor;
        }
    }

    fn apply(&mut self, index: usize, edit: Edit, draft: &Draft) {
        let arena = &mut self.buffers.arena;
        let change = &mut self.buffers.changes[index];
        let mut take = |span: Option<Span>| span.map(|span| Span::append(arena, span.of(&draft.arena)));
        match edit {
            Edit::Keep => {}
            Edit::Draft => {
                change.key = take(draft.key).unwrap_or(change.key);
                change.body = take(draft.body).unwrap_or(change.body);
                change.from = take(draft.from).unwrap_or(change.from);
            }
            Edit::Remove => {
                change.key = take(draft.key).unwrap_or(change.key);
                (change.op, change.fresh, change.body) = (Op::Delete, false, Span::default());
            }
            Edit::LeaveOut => {
                (change.op, change.fresh) = (Op::Delete, false);
                (change.key, change.body) = (Span::default(), Span::default());
            }
        }
        if change.moved && edit != Edit::Draft {
            (change.moved, change.from) = (false, Span::default());
        }
    }

    /// Leaves behind what no change names any more.
    fn compact(&mut self) {
        let old = &self.buffers.arena;
        let mut arena = Vec::with_capacity(old.len());
        for change in &mut self.buffers.changes {
            let (key, cursor) = (change.key, change.from);
            change.key = Span::append(&mut arena, key.of(old));
            change.body = Span::append(&mut arena, change.body.of(old));
            // The cursor of a row that keeps its key is that key.
            change.from = if cursor == key { change.key } else { Span::append(&mut arena, cursor.of(old)) };
        }
        self.buffers.arena = arena;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, Position};
    use std::sync::Arc;

    fn batch(steps: Steps) -> Batch {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("p"), Position::Start, steps);
        let table = batch.table(&Arc::default());
        for key in ["keep", "name", "drop", "gone"] {
            batch.push(Op::Put, true, table, key.as_bytes(), b"SECRET", 7);
        }
        batch.mark(Position::at("name"));
        batch
    }

    fn edited(steps: Steps) -> Batch {
        let mut batch = batch(steps);
        let each = |row: Row<'_>, draft: &mut Draft| match row.key {
            b"name" => {
                draft.key(b"other");
                draft.body(|out| {
                    out.extend_from_slice(b"mask");
                    Ok(true)
                })?;
                Ok(Edit::Draft)
            }
            b"gone" => Ok(Edit::Remove),
            b"drop" => Ok(Edit::LeaveOut),
            _ => Ok(Edit::Keep),
        };
        batch.edit(each).unwrap();
        batch
    }

    #[test]
    fn each_change_becomes_what_was_said_and_positions_stay() {
        for steps in [Steps::Ordinal, Steps::Key] {
            let (before, after) = (batch(steps), edited(steps));
            let rows: Vec<_> = after.rows().map(|row| (row.op, row.fresh, row.key, row.body, row.from)).collect();
            let nothing = &b""[..];
            assert_eq!(rows[0], (Op::Put, true, &b"keep"[..], &b"SECRET"[..], None));
            assert_eq!(rows[1], (Op::Put, true, &b"other"[..], &b"mask"[..], None));
            assert_eq!(rows[2], (Op::Delete, false, nothing, nothing, None));
            assert_eq!(rows[3], (Op::Delete, false, &b"gone"[..], nothing, None));
            let left: Vec<_> = after.rows().map(|row| row.is_left_out()).collect();
            assert_eq!(left, [false, false, true, false]);
            for index in 0..4 {
                assert_eq!(after.position(index), before.position(index));
            }
            assert_eq!((after.marks(), after.upto()), (before.marks(), before.upto()));
        }
    }

    #[test]
    fn what_was_left_out_or_replaced_is_gone_from_memory() {
        let after = edited(Steps::Key);
        let found = after.buffers.arena.windows(6).filter(|bytes| bytes == b"SECRET").count();
        assert_eq!(found, 1, "only the change that stays has it");
    }

    #[test]
    fn a_moved_change_keeps_its_older_key_or_loses_it_with_its_place() {
        let moved = |edit: Edit| {
            let mut batch = Batch::unpooled();
            batch.begin(&PartitionId::new("p"), Position::Start, Steps::Ordinal);
            let table = batch.table(&Arc::default());
            batch.push_moved(Op::Patch, false, table, b"k", b"b", Some(b"older"), 0);
            batch.edit(|_, _| Ok(edit)).unwrap();
            batch.row(0).from.map(<[u8]>::to_vec)
        };
        assert_eq!(moved(Edit::Draft).as_deref(), Some(&b"older"[..]));
        assert_eq!(moved(Edit::LeaveOut), None);
        assert_eq!(moved(Edit::Remove), None);
    }

    #[test]
    fn a_page_forgets_what_was_left_out_and_ends_where_that_does_not_tell_it() {
        for (left_out, kept, upto) in [
            (&["a", "d"][..], &["b", "c"][..], "c"),
            (&["d", "c"], &["a", "b"], "b"),
            (&[], &["a", "b", "c", "d"], "d"),
        ] {
            let mut page = Batch::unpooled();
            page.begin(&PartitionId::new("!snapshot/1/r"), Position::Start, Steps::Key);
            let table = page.table(&Arc::default());
            for key in ["a", "b", "c", "d"] {
                page.push(Op::Put, false, table, key.as_bytes(), b"", 0);
                if matches!(key, "b" | "d") {
                    page.mark(Position::at(key));
                }
            }
            let out = |row: Row<'_>| left_out.iter().any(|key| key.as_bytes() == row.key);
            page.edit(|row, _| Ok(if out(row) { Edit::LeaveOut } else { Edit::Keep })).unwrap();
            let behind = page.forget_left_out();
            assert_eq!(page.forgotten(), left_out.len() as u64);
            page.end_with_last_change(behind);
            let keys: Vec<_> = page.rows().map(|row| std::str::from_utf8(row.key).unwrap()).collect();
            let passed = left_out.iter().filter(|key| **key < upto).count() as u64;
            assert_eq!((keys.as_slice(), page.forgotten()), (kept, passed));
            assert_eq!((page.upto(), page.closed()), (&Position::at(upto), kept.len()));
            let before_b = kept.iter().filter(|key| **key <= "b").count();
            assert_eq!(page.marks()[0].changes, before_b);
            assert_eq!(page.position(kept.len() - 1), Position::at(*kept.last().unwrap()));
        }
    }

    #[test]
    fn a_page_of_which_nothing_is_left_is_filled_again_from_further_on() {
        let mut page = batch(Steps::Key);
        page.edit(|_, _| Ok(Edit::LeaveOut)).unwrap();
        page.forget_left_out();
        page.unmark();
        assert_eq!((page.len(), page.upto(), page.forgotten()), (0, &Position::Start, 4));
        let table = page.table(&Arc::default());
        page.push(Op::Put, false, table, b"z", b"", 0);
        page.mark(Position::at("z"));
        assert_eq!(page.position(0), Position::at("z"));
    }
}
