//! The body of a SQLite item: what a row of `kv` holds beside its key, cell by cell, so that the same kind on both sides
//! writes back exactly what it read (NULL stays NULL, an odd time stays as it is).
//!
//! ```text
//! u8 version = 1, then the cells modified, expires, value, revision, each:
//!   0                      NULL
//!   1  i64 LE              INTEGER
//!   2  f64 LE              REAL
//!   3  u32 LE length bytes TEXT
//!   4  u32 LE length bytes BLOB
//! ```
//!
//! Towards other kinds the body is an [`Item`]: a NULL value is an empty one, the revision `""` is "blank", `modified` is
//! dropped. From other kinds `modified` becomes the commit time at the source, or 0 where that is unknown: Teleport only
//! carries the column along. Pure.

use rusqlite::types::ValueRef;

use super::time;
use crate::error::{Error, Result};
use crate::model::{Item, Micros};

const VERSION: u8 = 1;

/// A row of `kv` without its key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Body<'a> {
    /// When the row was written, nanoseconds since the Unix epoch.
    pub modified: ValueRef<'a>,
    /// When it expires, as the driver writes times; NULL for never.
    pub expires: ValueRef<'a>,
    /// The value.
    pub value: ValueRef<'a>,
    /// The revision.
    pub revision: ValueRef<'a>,
}

impl<'a> Body<'a> {
    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.push(VERSION);
        for cell in [self.modified, self.expires, self.value, self.revision] {
            encode_cell(cell, out)?;
        }
        Ok(())
    }

    /// Reads the encoded form.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = bytes;
        match rest.split_off_first() {
            Some(&VERSION) => {}
            Some(other) => {
                return Err(Error::corrupt(format!(
                    "read a SQLite body: its format {other} is not known to this version"
                )));
            }
            None => return Err(broken()),
        }
        let body = Self {
            modified: decode_cell(&mut rest)?,
            expires: decode_cell(&mut rest)?,
            value: decode_cell(&mut rest)?,
            revision: decode_cell(&mut rest)?,
        };
        if rest.is_empty() { Ok(body) } else { Err(broken()) }
    }

    /// The instant of expiry in nanoseconds since the Unix epoch, or never.
    pub fn expires_at(&self) -> Result<Option<i128>> {
        match self.expires {
            ValueRef::Null => Ok(None),
            ValueRef::Integer(value) => Ok(Some(time::from_integer(value))),
            ValueRef::Text(text) => match time::parse(text) {
                Some(at) => Ok(Some(at)),
                None => Err(Error::corrupt(
                    "read the expiry of a SQLite row: the text is not a time in any form that Teleport writes",
                )),
            },
            ValueRef::Real(_) | ValueRef::Blob(_) => {
                Err(Error::corrupt("read the expiry of a SQLite row: it is neither text, a whole number nor NULL"))
            }
        }
    }

    /// The time of writing in microseconds, 0 when the column holds no number.
    pub fn modified_at(&self) -> Micros {
        match self.modified {
            ValueRef::Integer(nanos) => nanos.div_euclid(1_000),
            _ => 0,
        }
    }
}

/// The view of a body that other kinds understand.
pub fn to_item(body: &[u8]) -> Result<Item> {
    let body = Body::decode(body)?;
    Ok(Item {
        value: bytes_of(body.value).to_vec(),
        expires: body.expires_at()?,
        revision: bytes_of(body.revision).to_vec(),
    })
}

/// Appends the body of an item of another kind. `at` is its commit time at the source, 0 when unknown.
pub fn from_item(item: &Item, at: Micros, out: &mut Vec<u8>) -> Result<()> {
    let expires = item.expires.map(time::format);
    let revision = String::from_utf8_lossy(&item.revision);
    Body {
        modified: ValueRef::Integer(at.saturating_mul(1_000)),
        expires: expires.as_ref().map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes())),
        value: ValueRef::Blob(&item.value),
        revision: ValueRef::Text(revision.as_bytes()),
    }
    .encode(out)
}

/// Whether two SQLite bodies are equal: value (NULL is not an empty value), instant of expiry, revision.
pub fn same(a: &[u8], b: &[u8]) -> Result<bool> {
    let (a, b) = (Body::decode(a)?, Body::decode(b)?);
    // Odd texts are equal to themselves, so that one row with a broken time does not stop a comparison.
    let expires = a.expires == b.expires || matches!((a.expires_at(), b.expires_at()), (Ok(a), Ok(b)) if a == b);
    Ok(expires && a.value == b.value && a.revision == b.revision)
}

/// Whether the body's item has expired at `now`. A time that cannot be read has not passed.
pub fn expired(body: &[u8], now: Micros) -> Result<bool> {
    let expires = Body::decode(body)?.expires_at().unwrap_or(None);
    Ok(expires.is_some_and(|at| at <= i128::from(now) * 1_000))
}

/// Whether the body's item expires at some time. A time that cannot be read is one.
pub fn expires(body: &[u8]) -> Result<bool> {
    Ok(!matches!(Body::decode(body)?.expires_at(), Ok(None)))
}

/// The value of a body; empty for none, and for a number, which Teleport never writes.
pub fn value(body: &[u8]) -> Result<&[u8]> {
    Body::decode(body).map(|body| bytes_of(body.value))
}

/// Appends the same body with another value.
pub fn with_value(body: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let body = Body::decode(body)?;
    let value = match body.value {
        ValueRef::Text(_) => ValueRef::Text(value),
        _ => ValueRef::Blob(value),
    };
    Body { value, ..body }.encode(out)
}

fn bytes_of(cell: ValueRef<'_>) -> &[u8] {
    match cell {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    }
}

fn encode_cell(cell: ValueRef<'_>, out: &mut Vec<u8>) -> Result<()> {
    let (tag, bytes) = match cell {
        ValueRef::Null => {
            out.push(0);
            return Ok(());
        }
        ValueRef::Integer(value) => {
            out.push(1);
            out.extend_from_slice(&value.to_le_bytes());
            return Ok(());
        }
        ValueRef::Real(value) => {
            out.push(2);
            out.extend_from_slice(&value.to_le_bytes());
            return Ok(());
        }
        ValueRef::Text(bytes) => (3, bytes),
        ValueRef::Blob(bytes) => (4, bytes),
    };
    let len =
        u32::try_from(bytes.len()).map_err(|_| Error::rejected("encode a SQLite body: a cell is larger than 4 GiB"))?;
    out.push(tag);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn decode_cell<'a>(rest: &mut &'a [u8]) -> Result<ValueRef<'a>> {
    let tag = *rest.split_off_first().ok_or_else(broken)?;
    Ok(match tag {
        0 => ValueRef::Null,
        1 => ValueRef::Integer(i64::from_le_bytes(array(rest)?)),
        2 => ValueRef::Real(f64::from_le_bytes(array(rest)?)),
        3 => ValueRef::Text(counted(rest)?),
        4 => ValueRef::Blob(counted(rest)?),
        _ => return Err(broken()),
    })
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or_else(broken)?;
    *rest = tail;
    Ok(*head)
}

fn counted<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let len = u32::from_le_bytes(array(rest)?) as usize;
    rest.split_off(..len).ok_or_else(broken)
}

fn broken() -> Error {
    Error::corrupt("read a SQLite body: it is cut short or not one of ours")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const E: i128 = 1_775_045_430_000_000_000;

    fn encoded(expires: ValueRef<'_>, value: ValueRef<'_>, revision: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Body { modified: ValueRef::Integer(1), expires, value, revision: ValueRef::Text(revision) }
            .encode(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn null_empty_and_bytes_are_three_values() {
        let bodies = [ValueRef::Null, ValueRef::Blob(b""), ValueRef::Blob(b"x"), ValueRef::Text(b"x")]
            .map(|value| encoded(ValueRef::Null, value, b"r"));
        for (i, a) in bodies.iter().enumerate() {
            for (j, b) in bodies.iter().enumerate() {
                assert_eq!(same(a, b).unwrap(), i == j);
            }
        }
        assert_eq!(to_item(&bodies[0]).unwrap(), to_item(&bodies[1]).unwrap());
    }

    #[test]
    fn expiry_is_compared_as_an_instant_and_kept_as_text() {
        let ours = encoded(ValueRef::Text(b"2026-04-01 12:10:30+00:00"), ValueRef::Null, b"");
        let odd = encoded(ValueRef::Text(b"2026-04-01T14:10:30+02:00"), ValueRef::Null, b"");
        let later = encoded(ValueRef::Text(b"2026-04-01 12:10:30.12+00:00"), ValueRef::Null, b"");
        assert!(same(&ours, &odd).unwrap());
        assert!(!same(&ours, &later).unwrap());
        assert_eq!(Body::decode(&odd).unwrap().expires, ValueRef::Text(b"2026-04-01T14:10:30+02:00"));
        assert_eq!(to_item(&odd).unwrap().expires, Some(E));
        let micros = (E / 1_000) as Micros;
        assert!(!expired(&ours, micros - 1).unwrap());
        assert!(expired(&ours, micros).unwrap());
        let unreadable = encoded(ValueRef::Text(b"soon"), ValueRef::Null, b"");
        assert!(to_item(&unreadable).is_err());
        assert!(same(&unreadable, &unreadable).unwrap());
        assert!(!expired(&unreadable, Micros::MAX).unwrap());
    }

    #[test]
    fn another_value_leaves_the_rest_as_it_was() {
        let expires = ValueRef::Text(b"2026-04-01T14:10:30+02:00");
        for old in [ValueRef::Null, ValueRef::Blob(b"old"), ValueRef::Integer(7)] {
            let mut out = Vec::new();
            with_value(&encoded(expires, old, b"r"), b"new", &mut out).unwrap();
            assert_eq!(out, encoded(expires, ValueRef::Blob(b"new"), b"r"));
            assert_eq!(value(&out).unwrap(), b"new");
        }
        let mut out = Vec::new();
        with_value(&encoded(expires, ValueRef::Text(b"old"), b"r"), b"new", &mut out).unwrap();
        assert_eq!(out, encoded(expires, ValueRef::Text(b"new"), b"r"));
        for (cell, wanted) in [(ValueRef::Null, false), (expires, true), (ValueRef::Text(b"soon"), true)] {
            assert_eq!(super::expires(&encoded(cell, ValueRef::Null, b"")).unwrap(), wanted);
        }
    }

    #[test]
    fn the_bytes_of_the_encoding_do_not_change() {
        let body = encoded(ValueRef::Null, ValueRef::Blob(b"v"), b"r");
        assert_eq!(body, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, b'v', 3, 1, 0, 0, 0, b'r']);
        assert!(Body::decode(&[9]).unwrap_err().to_string().contains("format 9"));
    }

    proptest! {
        #[test]
        fn an_item_of_another_kind_comes_back(value in proptest::collection::vec(any::<u8>(), 0..50),
            expires in proptest::option::of(time::FIRST..time::LAST), revision in "[a-f0-9-]{0,36}", at in any::<i32>())
        {
            let item = Item { value, expires, revision: revision.into_bytes() };
            let mut body = Vec::new();
            from_item(&item, i64::from(at), &mut body).unwrap();
            prop_assert_eq!(to_item(&body).unwrap(), item);
            prop_assert_eq!(Body::decode(&body).unwrap().modified_at(), i64::from(at));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(to_item(&bytes));
        }

        #[test]
        fn a_body_cut_short_is_an_error(cut in 0usize..22) {
            let body = encoded(ValueRef::Null, ValueRef::Blob(b"v"), b"r");
            prop_assert!(Body::decode(&body[..cut]).is_err());
        }
    }
}
