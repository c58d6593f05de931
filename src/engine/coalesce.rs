//! The final image of each key within one commit. Pure.
//!
//! A commit names a key at most once: a later change takes the place of an earlier one, a patch is filled from the image
//! that it meets, a clear drops everything that stands before it in its table. What cannot be expressed that way (a patch
//! over a patch whose own older image lies under yet another key) is refused, and the lane ends the commit before it.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::bridge::Bridge;
use crate::error::Result;
use crate::model::{Batch, Changes, Op, Row, Table};

/// Whether a change found its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is in.
    Yes,
    /// It needs what stands before it to be in the sink first.
    NotHere,
}

/// Collects changes of one commit.
pub(crate) struct Coalescer {
    changes: Changes,
    index: HashTable<Slot>,
    hasher: FixedState,
    /// Tables met so far, each once by name: the number is what keys are told apart by.
    tables: Vec<Arc<Table>>,
    /// Indexes of picks that a later clear made void.
    dead: Vec<bool>,
    any_dead: bool,
    bytes: usize,
    scratch: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Slot {
    hash: u64,
    table: u16,
    pick: u32,
}

impl Coalescer {
    pub(crate) fn new() -> Self {
        Self {
            changes: Changes::default(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(0x6472_6966_746c_6573),
            tables: Vec::new(),
            dead: Vec::new(),
            any_dead: false,
            bytes: 0,
            scratch: Vec::new(),
        }
    }

    /// Number of changes so far, void ones included.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Upper bound of the bytes of keys and bodies so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds on to a batch; gives the number to name it by in [`Coalescer::add`].
    pub(crate) fn hold(&mut self, batch: &Arc<Batch>) -> u32 {
        self.changes.hold(batch)
    }

    /// Adds the change at `at` of a held batch.
    pub(crate) fn add(&mut self, batch: &Batch, held: u32, at: usize, bridge: &dyn Bridge) -> Result<Taken> {
        let row = batch.row(at);
        let table = self.table(row.table);
        let position = u32::try_from(at).expect("a batch holds fewer than 2^32 changes");
        if row.op == Op::Clear {
            self.clear(table);
            self.append(held, position, &row);
            return Ok(Taken::Yes);
        }
        let hash = self.hash(table, row.key);
        let found = self.find(hash, table, row.key);
        if row.op == Op::Patch {
            return self.patch(held, position, &row, table, hash, found, bridge);
        }
        match found {
            Some(pick) => {
                let old = self.changes.row(pick);
                // An insert that is updated within the commit is still an insert; one that follows a delete is not.
                let fresh = old.op == Op::Put && old.fresh && row.op == Op::Put;
                self.bytes += row.body.len();
                self.changes.replace(pick, held, position, fresh);
            }
            None => self.enter(hash, table, held, position, &row),
        }
        Ok(Taken::Yes)
    }

    /// Lets go of the batches that were held: what is left of them is copied. Numbers of held batches are void.
    pub(crate) fn compact(&mut self) {
        self.changes.compact();
        self.bytes = self.changes.bytes();
    }

    /// The commit's changes in order, and room for the next commit's.
    pub(crate) fn finish(&mut self) -> Changes {
        let mut changes = std::mem::take(&mut self.changes);
        if self.any_dead {
            let dead = std::mem::take(&mut self.dead);
            changes.retain(|index| !dead.get(index).copied().unwrap_or(false));
        }
        self.dead.clear();
        self.any_dead = false;
        self.index.clear();
        self.tables.clear();
        self.bytes = 0;
        changes
    }

    #[allow(clippy::too_many_arguments)] // Everything that `add` has already looked up.
    fn patch(
        &mut self,
        held: u32,
        position: u32,
        row: &Row<'_>,
        table: u16,
        hash: u64,
        found: Option<usize>,
        bridge: &dyn Bridge,
    ) -> Result<Taken> {
        let moved = row.from.filter(|from| *from != row.key);
        let older = match moved {
            Some(from) => self.find(self.hash(table, from), table, from),
            None => found,
        };
        let Some(older) = older else {
            match found {
                Some(pick) => self.changes.replace(pick, held, position, false),
                None => self.enter(hash, table, held, position, row),
            }
            return Ok(Taken::Yes);
        };
        let image = self.changes.row(older);
        // The image is itself unfinished and lies elsewhere, or there is none: only the sink can tell.
        if image.op == Op::Delete || (image.op == Op::Patch && (moved.is_some() || image.from.is_some())) {
            return Ok(Taken::NotHere);
        }
        let fresh = image.op == Op::Put && image.fresh && moved.is_none();
        self.scratch.clear();
        let whole = bridge.fill(image, *row, &mut self.scratch)?;
        let op = if whole { Op::Put } else { Op::Patch };
        let pick = match found {
            Some(pick) => {
                self.changes.replace(pick, held, position, fresh);
                pick
            }
            None => {
                self.enter(hash, table, held, position, row);
                self.changes.len() - 1
            }
        };
        self.bytes += self.scratch.len();
        self.changes.rewrite(pick, op, &self.scratch);
        Ok(Taken::Yes)
    }

    fn clear(&mut self, table: u16) {
        self.dead.resize(self.changes.len(), false);
        self.any_dead = true;
        let (changes, dead, tables) = (&self.changes, &mut self.dead, &self.tables);
        let name = &tables[usize::from(table)].name;
        for (index, dead) in dead.iter_mut().enumerate() {
            *dead |= changes.row(index).table.name == *name;
        }
        self.index.retain(|slot| slot.table != table);
    }

    fn enter(&mut self, hash: u64, table: u16, held: u32, position: u32, row: &Row<'_>) {
        let pick = u32::try_from(self.changes.len()).expect("a commit holds fewer than 2^32 changes");
        self.append(held, position, row);
        self.index.insert_unique(hash, Slot { hash, table, pick }, |slot| slot.hash);
    }

    fn append(&mut self, held: u32, position: u32, row: &Row<'_>) {
        self.bytes += row.key.len() + row.body.len();
        self.changes.pick(held, position);
    }

    fn find(&self, hash: u64, table: u16, key: &[u8]) -> Option<usize> {
        self.index
            .find(hash, |slot| {
                slot.hash == hash && slot.table == table && self.changes.row(slot.pick as usize).key == key
            })
            .map(|slot| slot.pick as usize)
    }

    fn hash(&self, table: u16, key: &[u8]) -> u64 {
        self.hasher.hash_one((table, key))
    }

    fn table(&mut self, table: &Arc<Table>) -> u16 {
        let same = |known: &Arc<Table>| Arc::ptr_eq(known, table);
        let at = self.tables.iter().position(same).or_else(|| self.tables.iter().position(|t| t.name == table.name));
        let at = at.unwrap_or_else(|| {
            self.tables.push(Arc::clone(table));
            self.tables.len() - 1
        });
        u16::try_from(at).expect("a commit names fewer than 65 536 tables")
    }
}
