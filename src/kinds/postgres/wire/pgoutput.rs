//! The messages of the output plugin `pgoutput`, protocol versions 1 to 4, borrowed from the read buffer.
//!
//! Formats: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>. Within a chunk of a
//! streamed transaction (version 2 on) changes, relations and types carry the xid of their subtransaction, which only the
//! reader of the chunk's bounds can know: hence `streamed`. Tuples are checked to their end but not taken apart: their
//! bytes are the body of a change as they are.

use super::Lsn;
use super::frames::EPOCH_MICROS;
use super::read::Reader;
use crate::error::{Error, Result};
use crate::model::Micros;

/// A row, in the `TupleData` form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// All of it, from the number of columns on.
    pub body: &'a [u8],
    /// How many columns it has.
    pub columns: u16,
    /// Whether a column says "unchanged".
    pub holes: bool,
}

/// What an update or a delete says of the row as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// Nothing: its identity did not change.
    Same,
    /// `K`: the columns of its replica identity, all others null.
    Key(Tuple<'a>),
    /// `O`: all of it (`REPLICA IDENTITY FULL`).
    Row(Tuple<'a>),
}

impl<'a> Old<'a> {
    /// The tuple, if there is one.
    pub fn tuple(self) -> Option<Tuple<'a>> {
        match self {
            Self::Same => None,
            Self::Key(tuple) | Self::Row(tuple) => Some(tuple),
        }
    }
}

/// A table as the stream describes it.
#[derive(Clone, Copy, Debug)]
pub struct Relation<'a> {
    /// Its oid.
    pub oid: u32,
    /// Its schema; empty means `pg_catalog`.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `pg_class.relreplident`.
    pub identity: u8,
    columns: u16,
    bytes: &'a [u8],
}

/// A column as the stream describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: &'a str,
    /// Oid of its type.
    pub type_oid: u32,
    /// Its type's modifier.
    pub typmod: i32,
}

impl<'a> Relation<'a> {
    /// The columns, in the order of tuples.
    pub fn columns(&self) -> impl Iterator<Item = RelationColumn<'a>> + use<'a> {
        let mut rest = Reader(self.bytes);
        (0..self.columns).map_while(move |_| relation_column(&mut rest))
    }
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// `B`: a transaction that has committed; its changes follow.
    Begin {
        /// When it committed.
        at: Micros,
        /// Its xid.
        xid: u32,
    },
    /// `C`: the end of a transaction's changes.
    Commit {
        /// Behind its commit record.
        end: Lsn,
    },
    /// `O`: the transaction came to this server from another one.
    Origin,
    /// `R`.
    Relation(Relation<'a>),
    /// `Y`: the name of a type that is not built in.
    Type {
        /// Its oid.
        oid: u32,
        /// Its schema; empty means `pg_catalog`.
        schema: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// `I`.
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// `U`.
    Update {
        /// The table.
        relation: u32,
        /// The row as it was.
        old: Old<'a>,
        /// The row as it is.
        new: Tuple<'a>,
    },
    /// `D`.
    Delete {
        /// The table.
        relation: u32,
        /// The row as it was; never [`Old::Same`].
        old: Old<'a>,
    },
    /// `T`: the tables were emptied.
    Truncate(Relations<'a>),
    /// `M`: something that an application wrote into the log.
    Logical,
    /// `S`: a chunk of an open transaction begins.
    StreamStart {
        /// Its top xid.
        xid: u32,
        /// Its first chunk.
        first: bool,
    },
    /// `E`: the chunk ends.
    StreamStop,
    /// `c`: the streamed transaction has committed.
    StreamCommit {
        /// Its top xid.
        xid: u32,
        /// Behind its commit record.
        end: Lsn,
        /// When it committed.
        at: Micros,
    },
    /// `A`: a streamed transaction, or one of its subtransactions, was rolled back.
    StreamAbort {
        /// Its top xid.
        xid: u32,
        /// What was rolled back: the same as `xid` if all of it.
        sub: u32,
    },
    /// `b`, `P`, `K`, `r`, `p`: two-phase commit, which we never ask for.
    TwoPhase,
}

/// Oids of truncated tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relations<'a>(&'a [u8]);

impl Relations<'_> {
    /// The oids, in order.
    pub fn oids(&self) -> impl Iterator<Item = u32> {
        let mut rest = Reader(self.0);
        std::iter::from_fn(move || rest.u32())
    }

    /// The oid at `index`.
    pub fn get(&self, index: usize) -> Option<u32> {
        self.oids().nth(index)
    }
}

/// How many bytes of a change are enough for [`table_of`].
pub const TABLE_WITHIN: usize = 1 + 4 + 4;

/// The table that a change is about, from its first [`TABLE_WITHIN`] bytes.
pub fn table_of(head: &[u8], streamed: bool) -> Option<u32> {
    let mut rest = Reader(head);
    if !matches!(rest.u8()?, b'I' | b'U' | b'D') {
        return None;
    }
    if streamed {
        rest.u32()?;
    }
    rest.u32()
}

/// Reads one message. `streamed`: it stands between a stream start and a stream stop. Also gives the xid that it carries
/// there, 0 elsewhere.
///
/// # Errors
/// Corrupt when it is not a message of versions 1 to 4, or bytes are missing or left over.
#[inline]
pub fn parse(message: &[u8], streamed: bool) -> Result<(u32, Message<'_>)> {
    let mut rest = Reader(message);
    parse_from(&mut rest, streamed).filter(|_| rest.0.is_empty()).ok_or_else(|| {
        let kind = message.first().map_or_else(String::new, |&kind| format!(" of kind {:?}", char::from(kind)));
        Error::corrupt(format!("read the PostgreSQL stream: a message{kind} is broken or of an unknown kind"))
    })
}

#[inline]
fn parse_from<'a>(rest: &mut Reader<'a>, streamed: bool) -> Option<(u32, Message<'a>)> {
    let kind = rest.u8()?;
    let carries_xid = streamed && matches!(kind, b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M');
    let xid = if carries_xid { rest.u32()? } else { 0 };
    let message = match kind {
        b'I' => {
            let relation = rest.u32()?;
            Message::Insert { relation, new: new_tuple(rest)? }
        }
        b'U' => update(rest)?,
        b'D' => Message::Delete { relation: rest.u32()?, old: old_tuple(rest.u8()?, rest)? },
        b'B' => {
            rest.u64()?;
            Message::Begin { at: micros(rest)?, xid: rest.u32()? }
        }
        b'C' => {
            rest.take(1 + 8)?;
            let end = Lsn(rest.u64()?);
            rest.take(8)?;
            Message::Commit { end }
        }
        b'R' => Message::Relation(relation(rest)?),
        b'T' => truncate(rest)?,
        other => seldom(other, rest)?,
    };
    Some((xid, message))
}

fn seldom<'a>(kind: u8, rest: &mut Reader<'a>) -> Option<Message<'a>> {
    Some(match kind {
        b'Y' => Message::Type { oid: rest.u32()?, schema: rest.text()?, name: rest.text()? },
        b'O' => {
            rest.u64()?;
            rest.text()?;
            Message::Origin
        }
        b'M' => {
            rest.take(1 + 8)?;
            rest.text()?;
            let length = rest.u32()?;
            rest.take(length as usize)?;
            Message::Logical
        }
        b'S' => Message::StreamStart { xid: rest.u32()?, first: rest.u8()? != 0 },
        b'E' => Message::StreamStop,
        b'c' => {
            let xid = rest.u32()?;
            rest.take(1 + 8)?;
            Message::StreamCommit { xid, end: Lsn(rest.u64()?), at: micros(rest)? }
        }
        b'A' => {
            let abort = Message::StreamAbort { xid: rest.u32()?, sub: rest.u32()? };
            // With `streaming 'parallel'` (version 4) place and time of the abort follow.
            if !rest.0.is_empty() {
                rest.take(8 + 8)?;
            }
            abort
        }
        b'b' | b'P' | b'K' | b'r' | b'p' => {
            rest.0 = &[];
            Message::TwoPhase
        }
        _ => return None,
    })
}

#[inline]
fn update<'a>(rest: &mut Reader<'a>) -> Option<Message<'a>> {
    let relation = rest.u32()?;
    let old = match rest.0.first()? {
        b'N' => Old::Same,
        _ => old_tuple(rest.u8()?, rest)?,
    };
    Some(Message::Update { relation, old, new: new_tuple(rest)? })
}

fn truncate<'a>(rest: &mut Reader<'a>) -> Option<Message<'a>> {
    let count = rest.u32()?;
    rest.u8()?;
    let oids = rest.take((count as usize).checked_mul(4)?)?;
    Some(Message::Truncate(Relations(oids)))
}

fn relation<'a>(rest: &mut Reader<'a>) -> Option<Relation<'a>> {
    let (oid, schema, name) = (rest.u32()?, rest.text()?, rest.text()?);
    let (identity, columns) = (rest.u8()?, rest.u16()?);
    let bytes = rest.0;
    for _ in 0..columns {
        relation_column(rest)?;
    }
    Some(Relation { oid, schema, name, identity, columns, bytes })
}

fn relation_column<'a>(rest: &mut Reader<'a>) -> Option<RelationColumn<'a>> {
    let key = rest.u8()? & 1 != 0;
    Some(RelationColumn { key, name: rest.text()?, type_oid: rest.u32()?, typmod: rest.i32()? })
}

fn micros(rest: &mut Reader<'_>) -> Option<Micros> {
    rest.i64()?.checked_add(EPOCH_MICROS)
}

fn old_tuple<'a>(kind: u8, rest: &mut Reader<'a>) -> Option<Old<'a>> {
    match kind {
        b'K' => tuple(rest).map(Old::Key),
        b'O' => tuple(rest).map(Old::Row),
        _ => None,
    }
}

#[inline]
fn new_tuple<'a>(rest: &mut Reader<'a>) -> Option<Tuple<'a>> {
    if rest.u8()? != b'N' {
        return None;
    }
    tuple(rest)
}

#[inline]
fn tuple<'a>(rest: &mut Reader<'a>) -> Option<Tuple<'a>> {
    let whole = rest.0;
    let columns = rest.u16()?;
    let mut holes = false;
    for _ in 0..columns {
        match rest.u8()? {
            b'b' | b't' => {
                let length = rest.u32()?;
                rest.take(length as usize)?;
            }
            b'n' => {}
            b'u' => holes = true,
            _ => return None,
        }
    }
    let body = whole.get(..whole.len() - rest.0.len())?;
    Some(Tuple { body, columns, holes })
}

#[cfg(test)]
#[path = "pgoutput_tests.rs"]
mod tests;
