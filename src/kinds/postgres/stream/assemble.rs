//! From messages of the output plugin to changes in a batch. No I/O, no clock.
//!
//! Invariants: a mark stands exactly where a transaction has ended or where nothing was open, at the *end* of a commit
//! record, and marks grow. Between marks the ordinal counts changes, over as many batches as it takes, and the same
//! transaction read again gives the same changes in the same order. Nothing is allocated per change: bodies are copied
//! once, from the read buffer into the arena.

use std::sync::Arc;

use super::relations::{Followed, Relations};
use super::sequences::{self, Values};
use crate::error::{Error, Result};
use crate::kinds::postgres::rowcodec::{self, Columns, Value};
use crate::kinds::postgres::wire::Lsn;
use crate::kinds::postgres::wire::pgoutput::{Message, Old, Tuple};
use crate::model::{Batch, Micros, Op, PartitionId, Position, Steps, Table};

/// Where the stream stands.
pub(super) struct Assembler {
    partition: PartitionId,
    boundary: Position,
    place: Lsn,
    ordinal: u64,
    /// A transaction is open, with this commit time.
    open: Option<Micros>,
    /// The checkpoint that we began at lies within the next transaction: until its end no mark may stand, or its changes
    /// would be counted from there and those that were passed come again.
    within: bool,
    /// Values of sequences that travel before the next mark, and the table that they are rows of.
    sequences: Values,
    sequence_table: Arc<Table>,
    key: Vec<u8>,
    old_key: Vec<u8>,
    body: Vec<u8>,
}

impl Assembler {
    /// Begins at a position of the partition.
    pub(super) fn new(partition: PartitionId, from: &Position) -> Result<Self> {
        let place = Lsn::of(from)?;
        Ok(Self {
            partition,
            boundary: place.map_or(Position::Start, Lsn::position),
            place: place.unwrap_or_default(),
            ordinal: 0,
            open: None,
            within: from.ordinal() > 0,
            sequences: Values::new(),
            sequence_table: sequences::table(),
            key: Vec::new(),
            old_key: Vec::new(),
            body: Vec::new(),
        })
    }

    /// The last boundary.
    pub(super) fn place(&self) -> Lsn {
        self.place
    }

    /// Begins a batch here.
    pub(super) fn begin(&self, batch: &mut Batch) {
        let base = if self.ordinal > 0 { self.boundary.plus(self.ordinal) } else { self.boundary.clone() };
        batch.begin(&self.partition, base, Steps::Ordinal);
    }

    /// A transaction begins that was committed at `at`.
    pub(super) fn open(&mut self, at: Micros) -> Result<()> {
        match self.open.replace(at) {
            None => Ok(()),
            Some(_) => Err(out_of_order("a transaction begins within another")),
        }
    }

    /// The open transaction ends at `end`.
    pub(super) fn close(&mut self, end: Lsn, batch: &mut Batch) -> Result<()> {
        if self.open.take().is_none() {
            return Err(out_of_order("a commit without a transaction"));
        }
        if self.ordinal > 0 {
            if end <= self.place {
                return Err(out_of_order("a transaction that had been passed comes again"));
            }
            self.within = false;
        }
        self.mark(end, batch);
        Ok(())
    }

    /// Nothing else happened up to `end`.
    pub(super) fn quiet(&mut self, end: Lsn, batch: &mut Batch) {
        if self.open.is_none() {
            self.mark(end, batch);
        }
    }

    /// Lets values of sequences travel before the next mark.
    pub(super) fn carry(&mut self, values: Values) {
        self.sequences.extend(values);
    }

    fn mark(&mut self, end: Lsn, batch: &mut Batch) {
        if end > self.place && !self.within {
            // They come behind the changes of the transaction that ends here, so those keep their ordinals whenever this
            // transaction is read.
            for (name, value) in self.sequences.drain(..) {
                let table = batch.table(&self.sequence_table);
                batch.push(Op::Put, false, table, name.as_bytes(), value.to_string().as_bytes(), 0);
            }
            self.place = end;
            self.boundary = end.position();
            self.ordinal = 0;
            batch.mark(self.boundary.clone());
        }
    }

    /// Appends what a message of the open transaction changes; other messages are passed over.
    #[inline]
    pub(super) fn change(&mut self, message: &Message<'_>, relations: &Relations, batch: &mut Batch) -> Result<()> {
        let Some(at) = self.open else { return Err(out_of_order("a change without a transaction")) };
        let before = batch.len();
        match message {
            Message::Insert { relation, new } => {
                if let Some(followed) = relations.get(*relation)? {
                    self.insert(followed, *new, at, batch).map_err(|error| named(error, followed))?;
                }
            }
            Message::Update { relation, old, new } => {
                if let Some(followed) = relations.get(*relation)? {
                    self.update(followed, *old, *new, at, batch).map_err(|error| named(error, followed))?;
                }
            }
            Message::Delete { relation, old } => {
                if let Some(followed) = relations.get(*relation)? {
                    self.delete(followed, *old, at, batch).map_err(|error| named(error, followed))?;
                }
            }
            Message::Truncate(oids) => {
                for oid in oids.oids() {
                    if let Some(followed) = relations.get(oid)? {
                        let table = batch.table(&followed.table);
                        batch.push(Op::Clear, false, table, &[], &[], at);
                    }
                }
            }
            _ => {}
        }
        self.ordinal += (batch.len() - before) as u64;
        Ok(())
    }

    #[inline]
    fn insert(&mut self, followed: &Followed, new: Tuple<'_>, at: Micros, batch: &mut Batch) -> Result<()> {
        if new.holes {
            return Err(Error::corrupt("a new row says that a column is unchanged"));
        }
        let mut space = Vec::new();
        let new = followed.settle(new, &mut space)?;
        cut_key(followed, new, &mut self.key)?;
        let table = batch.table(&followed.table);
        batch.push(Op::Put, true, table, &self.key, new.body, at);
        Ok(())
    }

    fn update(
        &mut self,
        followed: &Followed,
        old: Old<'_>,
        new: Tuple<'_>,
        at: Micros,
        batch: &mut Batch,
    ) -> Result<()> {
        let (mut new_space, mut old_space) = (Vec::new(), Vec::new());
        let new = followed.settle(new, &mut new_space)?;
        let older = old.tuple().map(|older| followed.settle(older, &mut old_space)).transpose()?;
        let (mut body, mut holes) = (new.body, new.holes);
        if let (true, Some(older)) = (holes, older) {
            // An old key holds nulls where it says nothing, so only the key's own holes are filled from it.
            holes = fill(followed, older, new, matches!(old, Old::Row(_)), &mut self.body)?;
            body = &self.body;
        }
        let new = Tuple { body, columns: new.columns, holes };
        cut_key(followed, new, &mut self.key)?;
        let table = batch.table(&followed.table);
        let mut from = None;
        if let Some(older) = older {
            cut_key(followed, older, &mut self.old_key)?;
            if self.old_key != self.key {
                batch.push(Op::Delete, false, table, &self.old_key, &[], at);
                from = Some(self.old_key.as_slice()).filter(|_| holes);
            }
        }
        let op = if holes { Op::Patch } else { Op::Put };
        batch.push_moved(op, false, table, &self.key, body, from, at);
        Ok(())
    }

    fn delete(&mut self, followed: &Followed, old: Old<'_>, at: Micros, batch: &mut Batch) -> Result<()> {
        let older = old.tuple().ok_or_else(|| Error::corrupt("a deleted row comes without its key"))?;
        let mut space = Vec::new();
        let older = followed.settle(older, &mut space)?;
        cut_key(followed, older, &mut self.old_key)?;
        let table = batch.table(&followed.table);
        batch.push(Op::Delete, false, table, &self.old_key, &[], at);
        Ok(())
    }
}

#[inline]
fn cut_key(followed: &Followed, tuple: Tuple<'_>, out: &mut Vec<u8>) -> Result<()> {
    if usize::from(tuple.columns) != followed.shape.columns.len() {
        return Err(Error::corrupt("a row has another number of columns than its table"));
    }
    out.clear();
    rowcodec::key_of(&followed.shape, tuple.body, out)
}

/// Fills holes from the older image: all of them, or those of the key. True if some are left.
fn fill(followed: &Followed, older: Tuple<'_>, new: Tuple<'_>, all: bool, out: &mut Vec<u8>) -> Result<bool> {
    let count = followed.shape.columns.len();
    let pairs = Columns::expect(new.body, count)?.zip(Columns::expect(older.body, count)?);
    out.clear();
    rowcodec::begin(out, count);
    let mut holes = false;
    for (index, (value, older)) in pairs.enumerate() {
        let (mut value, older) = (value?, older?);
        if value == Value::Unchanged && (all || followed.shape.key.contains(&index)) {
            value = older;
        }
        holes |= value == Value::Unchanged;
        rowcodec::push(out, value);
    }
    Ok(holes)
}

fn out_of_order(what: &str) -> Error {
    Error::corrupt(format!("read the PostgreSQL stream: {what}"))
}

fn named(error: Error, followed: &Followed) -> Error {
    error.during(format!("read a change of table {:?}", followed.shape.full_name()))
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
