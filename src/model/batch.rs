//! A run of consecutive changes of one partition, in one byte arena.
//!
//! A batch owns all bytes of its changes; a change is a few offsets. Nothing is allocated or reference-counted per
//! change, and a batch whose work is done gives its buffers back to the [`Home`] that it came from, which is how
//! backpressure works: who wants to read further needs an empty batch first.
//!
//! **Positions.** `marks` name the places where the source itself may be resumed (ends of its transactions). Between
//! two marks a change's position is refined by an ordinal ([`Steps::Ordinal`]); in a snapshot, where reading twice need
//! not give the same rows, it is the change's own key ([`Steps::Key`]) or another image of it whose bytes grow in the
//! order of the scan ([`Steps::Cursor`]). Changes after the last mark belong to a source
//! transaction that is still open: they may be staged but not committed whole.

mod edit;

use std::sync::Arc;

pub use edit::{Draft, Edit};

use crate::model::{Micros, PartitionId, Position};

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Sets the whole body of a key, whether or not the key was there.
    Put,
    /// Sets part of a body; the body has holes that the older image of the row fills: the row under `from` if the key
    /// changed, else the row under the same key.
    Patch,
    /// Removes a key; harmless when it is not there.
    Delete,
    /// Removes every row of the table. The key is empty.
    Clear,
}

/// A table of the source, and how its bodies are to be read. Key-value layouts have one table without a name.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Table {
    /// Full name, as the source kind writes it (`public.accounts`); empty in key-value layouts. Rows of two `Table`s of
    /// one name are rows of one table, possibly of different shape.
    pub name: String,
    /// The source kind's own description of columns and keys; opaque to everybody else.
    pub shape: Vec<u8>,
}

impl Table {
    /// Whether its rows go along with changes and are none, as values of sequences do: they have no commit time.
    pub fn goes_along(&self) -> bool {
        self.name.starts_with('!')
    }
}

/// A piece of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn is_empty(self) -> bool {
        self.len == 0
    }

    pub(crate) fn of(self, arena: &[u8]) -> &[u8] {
        let start = self.start as usize;
        arena.get(start..start + self.len as usize).expect("a span lies within the arena it was made for")
    }

    /// What lies between two places of an arena.
    fn between(start: usize, end: usize) -> Self {
        let place = |at: usize| u32::try_from(at).expect("an arena stays under 4 GiB");
        Self { start: place(start), len: place(end) - place(start) }
    }

    /// Appends bytes to an arena and says where they are.
    pub(crate) fn append(arena: &mut Vec<u8>, bytes: &[u8]) -> Self {
        let start = u32::try_from(arena.len()).expect("an arena stays under 4 GiB");
        let len = u32::try_from(bytes.len()).expect("a change stays under 4 GiB");
        arena.extend_from_slice(bytes);
        Self { start, len }
    }
}

/// One change, as offsets into its batch; read it through [`Batch::row`].
#[derive(Clone, Copy, Debug)]
pub struct Change {
    op: Op,
    fresh: bool,
    moved: bool,
    table: u16,
    key: Span,
    body: Span,
    /// Where `moved`: the key of the older image. In a batch of [`Steps::Cursor`]: the cursor.
    from: Span,
    at: Micros,
}

/// A change with its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// What it does.
    pub op: Op,
    /// The source says that the key did not exist before (an INSERT), so a sink may skip looking for it, and must still
    /// be right when it is there.
    pub fresh: bool,
    /// Where.
    pub table: &'a Arc<Table>,
    /// Key, in the layout's common form.
    pub key: &'a [u8],
    /// Body, in the source kind's own encoding (in a sink's hands: already in the sink kind's).
    pub body: &'a [u8],
    /// The key under which a patch's older image is found, where it is not `key`.
    pub from: Option<&'a [u8]>,
    /// Commit time at the source, 0 when unknown.
    pub at: Micros,
}

/// A place in a batch from which the source can be resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// How many changes of the batch lie at or before it.
    pub changes: usize,
    /// The position after them.
    pub upto: Position,
}

/// How the position of a change between two marks is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Steps {
    /// The boundary before it, and how many changes after that.
    #[default]
    Ordinal,
    /// The key of the change is the boundary (scans, which run in key order).
    Key,
    /// The change carries its boundary beside its key, given to [`Batch::push_scanned`] (scans of stores whose keys, as
    /// bytes, do not grow in the order in which the store can read them: PostgreSQL's signed numbers, for example).
    Cursor,
}

/// The buffers of a batch, to be used again.
#[derive(Debug, Default)]
pub struct Buffers {
    arena: Vec<u8>,
    changes: Vec<Change>,
    marks: Vec<Mark>,
    tables: Vec<Arc<Table>>,
}

impl Buffers {
    /// Bytes that the arena holds on to.
    pub fn capacity(&self) -> usize {
        self.arena.capacity()
    }
}

/// Where a batch's buffers go when its work is done.
pub trait Home: Send + Sync {
    /// Takes the buffers back, and with them the credit to fill another batch.
    fn welcome(&self, buffers: Buffers);
}

/// A run of consecutive changes of one partition. See the module's documentation.
pub struct Batch {
    /// Which sequence it is a piece of.
    pub partition: PartitionId,
    /// How positions between marks are found.
    pub steps: Steps,
    /// The position before the first change.
    base: Position,
    buffers: Buffers,
    /// How many changes were left out and forgotten.
    forgotten: u64,
    home: Option<Arc<dyn Home>>,
}

impl Batch {
    /// An empty batch without a home, for places where backpressure plays no part.
    pub fn unpooled() -> Self {
        Self::with_buffers(Buffers::default(), None)
    }

    /// An empty batch that uses these buffers and gives them to `home` in the end.
    pub fn with_buffers(mut buffers: Buffers, home: Option<Arc<dyn Home>>) -> Self {
        buffers.arena.clear();
        buffers.changes.clear();
        buffers.marks.clear();
        buffers.tables.clear();
        Self {
            partition: PartitionId::new(""),
            steps: Steps::Ordinal,
            base: Position::Start,
            buffers,
            forgotten: 0,
            home,
        }
    }

    /// Makes this empty batch the same as another one, in its own buffers.
    pub fn copy_from(&mut self, other: &Self) {
        assert!(self.is_empty() && self.buffers.marks.is_empty(), "a batch is copied into an empty one");
        self.partition = other.partition.clone();
        self.steps = other.steps;
        self.base = other.base.clone();
        self.buffers.arena.extend_from_slice(&other.buffers.arena);
        self.buffers.changes.extend_from_slice(&other.buffers.changes);
        self.buffers.marks.extend_from_slice(&other.buffers.marks);
        self.buffers.tables.extend_from_slice(&other.buffers.tables);
    }

    /// Says which partition this is a piece of and where it begins. Must come before the first change.
    pub fn begin(&mut self, partition: &PartitionId, base: Position, steps: Steps) {
        assert!(self.is_empty() && self.buffers.marks.is_empty(), "a batch begins before its first change");
        assert!(base != Position::End, "nothing follows the end of a partition");
        self.partition = partition.clone();
        self.base = base;
        self.steps = steps;
    }

    /// The index of a table in this batch, entering it if need be. Cheap when it is the same as last time.
    pub fn table(&mut self, table: &Arc<Table>) -> u16 {
        let tables = &mut self.buffers.tables;
        let index = tables.iter().rposition(|known| Arc::ptr_eq(known, table)).unwrap_or_else(|| {
            tables.push(Arc::clone(table));
            tables.len() - 1
        });
        u16::try_from(index).expect("a batch names fewer than 65 536 table shapes")
    }

    /// Appends a change. `fresh`: the source says that the key did not exist before.
    pub fn push(&mut self, op: Op, fresh: bool, table: u16, key: &[u8], body: &[u8], at: Micros) {
        self.push_moved(op, fresh, table, key, body, None, at);
    }

    /// Appends a change whose older image lies under another key.
    #[allow(clippy::too_many_arguments)] // The fields of a change, each needed.
    pub fn push_moved(
        &mut self,
        op: Op,
        fresh: bool,
        table: u16,
        key: &[u8],
        body: &[u8],
        from: Option<&[u8]>,
        at: Micros,
    ) {
        assert!(usize::from(table) < self.buffers.tables.len(), "a change names a table of its batch");
        let arena = &mut self.buffers.arena;
        let key = Span::append(arena, key);
        let body = Span::append(arena, body);
        let moved = from.is_some();
        let from = from.map_or(Span::default(), |from| Span::append(arena, from));
        self.buffers.changes.push(Change { op, fresh, moved, table, key, body, from, at });
    }

    /// Appends a put that a scan found, with the place of its row in the scan. For [`Steps::Cursor`]: a store that scans
    /// so sets [`Batch::steps`] before its first change. `cursor` grows bytewise from one row to the next, is never
    /// empty, and depends on the row's key alone, so that two scans place the same row in the same spot.
    pub fn push_scanned(&mut self, table: u16, key: &[u8], body: &[u8], cursor: &[u8]) {
        debug_assert!(self.steps == Steps::Cursor, "only a scan by cursor carries cursors");
        self.push_moved(Op::Put, false, table, key, body, Some(cursor), 0);
        if let Some(change) = self.buffers.changes.last_mut() {
            change.moved = false;
        }
    }

    /// Says that the source can be resumed here: everything so far is at or before `upto`.
    pub fn mark(&mut self, upto: Position) {
        assert!(upto >= *self.upto(), "positions of a partition only grow: {upto} after {}", self.upto());
        let changes = self.len();
        match self.buffers.marks.last_mut() {
            Some(last) if last.changes == changes => last.upto = upto,
            _ => self.buffers.marks.push(Mark { changes, upto }),
        }
    }

    /// Counts from `new` what is counted from `old`, two boundaries between which nothing was committed; `new` is the later
    /// one, and lies before the next mark.
    pub fn recount(&mut self, old: &Position, new: &Position) {
        if self.base.boundary() == old.boundary()
            && let Position::At { at, .. } = new
        {
            self.base = Position::At { at: Arc::clone(at), ordinal: self.base.ordinal() };
        }
        for mark in self.buffers.marks.iter_mut().filter(|mark| mark.upto == *old) {
            mark.upto.clone_from(new);
        }
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.buffers.changes.len()
    }

    /// Whether there is no change (there may be marks).
    pub fn is_empty(&self) -> bool {
        self.buffers.changes.is_empty()
    }

    /// Bytes held, without the fixed size of each change.
    pub fn bytes(&self) -> usize {
        self.buffers.arena.len()
    }

    /// Where the batch begins.
    pub fn base(&self) -> &Position {
        &self.base
    }

    /// The last resumable place: the base if there is no mark.
    pub fn upto(&self) -> &Position {
        self.buffers.marks.last().map_or(&self.base, |mark| &mark.upto)
    }

    /// The resumable places, in order.
    pub fn marks(&self) -> &[Mark] {
        &self.buffers.marks
    }

    /// How many changes lie at or before the last mark; those after it belong to an open source transaction.
    pub fn closed(&self) -> usize {
        self.buffers.marks.last().map_or(0, |mark| mark.changes)
    }

    /// Whether the batch ends within a source transaction.
    pub fn is_open(&self) -> bool {
        self.closed() < self.len()
    }

    /// The tables that changes of this batch name.
    pub fn tables(&self) -> &[Arc<Table>] {
        &self.buffers.tables
    }

    /// The change at `index`, with its bytes.
    pub fn row(&self, index: usize) -> Row<'_> {
        let change = &self.buffers.changes[index];
        let arena = &self.buffers.arena;
        Row {
            op: change.op,
            fresh: change.fresh,
            table: &self.buffers.tables[usize::from(change.table)],
            key: change.key.of(arena),
            body: change.body.of(arena),
            from: change.moved.then(|| change.from.of(arena)),
            at: change.at,
        }
    }

    /// All changes, with their bytes.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.len()).map(|index| self.row(index))
    }

    /// The position right after the change at `index`, not rounded up to a mark that follows it directly.
    pub fn position(&self, index: usize) -> Position {
        match self.steps {
            Steps::Key => Position::at(self.row(index).key),
            Steps::Cursor => Position::at(self.buffers.changes[index].from.of(&self.buffers.arena)),
            Steps::Ordinal => {
                let before = self.buffers.marks.partition_point(|mark| mark.changes <= index);
                let (boundary, start) = match before.checked_sub(1).map(|i| &self.buffers.marks[i]) {
                    Some(mark) => (&mark.upto, mark.changes),
                    None => (&self.base, 0),
                };
                boundary.plus((index - start) as u64 + 1)
            }
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.welcome(std::mem::take(&mut self.buffers));
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the bytes: they are somebody's private keys.
        write!(f, "Batch({} {}..{}, {} changes)", self.partition, self.base, self.upto(), self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_between_marks_count_from_the_boundary_before_them() {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("p"), Position::at("10").plus(2), Steps::Ordinal);
        let table = batch.table(&Arc::default());
        for key in ["a", "b", "c", "d"] {
            batch.push(Op::Put, false, table, key.as_bytes(), b"", 0);
            if key == "b" {
                batch.mark(Position::at("20"));
            }
        }
        let positions: Vec<_> = (0..4).map(|i| batch.position(i).to_string()).collect();
        assert_eq!(positions, ["@10#3", "@10#4", "@20#1", "@20#2"]);
        assert!(batch.is_open());
        assert_eq!(batch.closed(), 2);
    }

    #[test]
    fn a_scanned_row_carries_its_place_and_no_older_key() {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("!snapshot/1/t"), Position::Start, Steps::Key);
        batch.steps = Steps::Cursor;
        let table = batch.table(&Arc::default());
        batch.push_scanned(table, b"-1", b"body", b"7f");
        batch.push_scanned(table, b"1", b"", b"81");
        assert_eq!(batch.position(0), Position::at("7f"));
        assert_eq!(batch.position(1), Position::at("81"));
        let row = batch.row(0);
        assert_eq!((row.op, row.key, row.body, row.from), (Op::Put, &b"-1"[..], &b"body"[..], None));
    }
}
