//! Rows on their way from a read transaction into a batch, in one buffer: the transaction's closure may run more than once,
//! so it must not touch the batch itself.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::body::Body;
use super::fault::fault;
use crate::error::{Error, Result};
use crate::model::{Batch, Micros, Op};

struct Entry {
    key_end: usize,
    end: usize,
    op: Op,
    at: Micros,
}

/// Rows in order.
#[derive(Default)]
pub struct Rows {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Rows {
    /// Adds a row of `select key, modified, expires, value, revision`.
    pub fn add(&mut self, attempt: &str, row: &rusqlite::Row<'_>) -> Result<()> {
        let cell = |index| row.get_ref(index).map_err(|error| fault(attempt, error));
        let ValueRef::Text(key) = cell(0)? else {
            return Err(Error::corrupt(format!("{attempt}: a key of table kv is not text")));
        };
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        let body = Body { modified: cell(1)?, expires: cell(2)?, value: cell(3)?, revision: cell(4)? };
        body.encode(&mut self.bytes)?;
        self.entries.push(Entry { key_end, end: self.bytes.len(), op: Op::Put, at: body.modified_at() });
        Ok(())
    }

    /// Adds a key that has no row any more.
    pub fn add_gone(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        let end = self.bytes.len();
        self.entries.push(Entry { key_end: end, end, op: Op::Delete, at: 0 });
    }

    /// Dates the newest entry.
    pub fn date(&mut self, at: Micros) {
        if let Some(entry) = self.entries.last_mut() {
            entry.at = at;
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Keys and bodies, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let starts = std::iter::once(0).chain(self.entries.iter().map(|entry| entry.end));
        starts.zip(&self.entries).map(|(start, entry)| {
            let key = self.bytes.get(start..entry.key_end).expect("entries lie within their buffer");
            (key, self.bytes.get(entry.key_end..entry.end).expect("entries lie within their buffer"))
        })
    }

    /// Adds a key with a body that is encoded already.
    #[cfg(test)]
    pub fn add_raw(&mut self, key: &[u8], body: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(body);
        self.entries.push(Entry { key_end, end: self.bytes.len(), op: Op::Put, at: 0 });
    }

    /// Appends everything to a batch.
    pub fn push_to(&self, batch: &mut Batch, table: u16) {
        for ((key, body), entry) in self.iter().zip(&self.entries) {
            batch.push(entry.op, false, table, key, body, entry.at);
        }
    }
}

/// A key as TEXT, whatever its bytes.
pub struct Key<'a>(
    /// The bytes.
    pub &'a [u8],
);

impl ToSql for Key<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}
