//! Somebody who writes at the source: hot keys, transactions, deletes, re-creates, moves, clears.

use driftless::kinds::memory::{World, Write};

use crate::rng::Rng;

/// What a world's writer does.
#[derive(Clone, Debug)]
pub struct Writer {
    rng: Rng,
    keys: usize,
    tables: usize,
    /// Per mille of writes that go to the first two keys.
    hot: usize,
    deletes: usize,
    /// Partial updates, moves and clears, which need one order.
    partial: bool,
    clears: usize,
    largest: usize,
}

impl Writer {
    pub fn new(rng: &mut Rng, tables: usize, one_order: bool) -> Self {
        Self {
            keys: rng.pick(&[3, 8, 20, 40]),
            tables,
            hot: rng.pick(&[0, 300, 800]),
            deletes: rng.pick(&[0, 150, 400]),
            partial: one_order && rng.coin(),
            clears: rng.pick(&[0, 0, 10, 60]),
            largest: rng.pick(&[1, 3, 12, 40]),
            rng: rng.fork(),
        }
    }

    /// Commits one transaction.
    pub fn write(&mut self, world: &World) {
        let size = if self.rng.chance(60) { 0 } else { self.rng.between(1, self.largest) };
        let writes: Vec<_> = (0..size).map(|_| self.one()).collect();
        world.transact(&writes);
    }

    /// Whether patches or clears can come.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    fn key(&mut self) -> Vec<u8> {
        let few = if self.rng.chance(self.hot) { 2 } else { self.keys };
        format!("/key/{:02}", self.rng.below(few)).into_bytes()
    }

    fn one(&mut self) -> Write {
        let table = self.rng.below(self.tables) as u16;
        let key = self.key();
        if self.rng.chance(self.deletes) {
            return Write::Delete(table, key);
        }
        let value = vec![b'v'; self.rng.pick(&[0, 1, 8, 40])];
        if !self.partial {
            return Write::Put(table, key, [value, vec![]]);
        }
        match self.rng.below(1000) {
            n if n < self.clears => Write::Clear(table),
            n if n < 400 => Write::Touch(table, key, value),
            n if n < 500 => Write::Move(table, key, self.key(), value),
            _ => Write::Put(table, key, [value, vec![b'w'; self.rng.below(20)]]),
        }
    }
}
