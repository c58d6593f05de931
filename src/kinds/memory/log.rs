//! How a write becomes a change in the log and a version of its row. Pure.
//!
//! The position of a version is that of its change: the boundary before its transaction and its ordinal within it, so a
//! checkpoint in the middle of a transaction says of each row whether it lies before or behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kinds::memory::Body;
use crate::kinds::memory::world::{Logged, State, Version, Write, place};
use crate::model::{Op, Position};

impl State {
    /// Does one write of transaction `number`; its changes are added to the logs of their shards.
    pub(super) fn write(&mut self, number: u64, write: &Write, logs: &mut BTreeMap<usize, Vec<Logged>>) {
        self.versions += 1;
        let version = self.versions;
        match write {
            Write::Put(table, key, [first, second]) => {
                let body = Body { version, fields: [Some(first), Some(second)] }.bytes();
                let fresh = self.data.body(*table, key).is_none();
                let logged = Logged { op: Op::Put, fresh, table: *table, key: key.clone(), body, from: None };
                self.log(number, logged, logs);
            }
            Write::Touch(table, key, first) if self.data.body(*table, key).is_some() => {
                let body = Body { version, fields: [Some(first), None] }.bytes();
                let logged = Logged { op: Op::Patch, fresh: false, table: *table, key: key.clone(), body, from: None };
                self.log(number, logged, logs);
            }
            Write::Move(table, from, to, first)
                if self.data.body(*table, from).is_some() && self.data.body(*table, to).is_none() =>
            {
                let body = Body { version, fields: [Some(first), None] }.bytes();
                let (table, key, from) = (*table, to.clone(), from.clone());
                let moved = Logged { op: Op::Patch, fresh: false, table, key, body, from: Some(from.clone()) };
                self.log(number, moved, logs);
                self.log(number, Logged::delete(table, from), logs);
            }
            Write::Delete(table, key) if self.data.body(*table, key).is_some() => {
                self.log(number, Logged::delete(*table, key.clone()), logs);
            }
            Write::Clear(table) => {
                let (op, key) = (Op::Clear, vec![]);
                self.log(number, Logged { op, fresh: false, table: *table, key, body: vec![], from: None }, logs);
            }
            Write::Touch(..) | Write::Move(..) | Write::Delete(..) => {}
        }
    }

    /// Enters one change in the log of its shard, and what it does in the rows.
    fn log(&mut self, number: u64, change: Logged, logs: &mut BTreeMap<usize, Vec<Logged>>) {
        let shard = self.data.shard_of(&change.key);
        assert!(
            change.op != Op::Clear && change.from.is_none()
                || self.data.shards.iter().filter(|shard| !shard.closed).count() == 1,
            "clears and moves need a world with one order"
        );
        let before = &self.data.shards[shard];
        let boundary = if before.last == 0 { Position::Start } else { place(before.last) };
        let partition = before.id.clone();
        let log = logs.entry(shard).or_default();
        let position = boundary.plus(log.len() as u64 + 1);
        let version = |body| Version { transaction: number, partition, position, body };
        let body = match change.op {
            Op::Put => Some(Arc::from(&change.body[..])),
            Op::Patch => {
                let older = self.data.body(change.table, change.from.as_ref().unwrap_or(&change.key));
                let older = older.expect("a patch is only logged for a row that is there");
                let read = |bytes| Body::read(bytes).expect("a world's own bodies are well formed");
                Some(Arc::from(read(&change.body).filled(read(&older)).bytes()))
            }
            Op::Delete => None,
            Op::Clear => {
                let gone = version(None);
                let of_table = self.data.rows.range_mut((change.table, vec![])..(change.table + 1, vec![]));
                for (_, versions) in of_table.filter(|(_, v)| v.last().is_some_and(|v| v.body.is_some())) {
                    versions.push(gone.clone());
                }
                log.push(change);
                return;
            }
        };
        let version = version(body);
        self.data.rows.entry((change.table, change.key.clone())).or_default().push(version);
        log.push(change);
    }
}

impl Logged {
    fn delete(table: u16, key: Vec<u8>) -> Self {
        Self { op: Op::Delete, fresh: false, table, key, body: vec![], from: None }
    }
}
