//! Teleport's item in a body: `Value`, `Expires`, `Revision`, `Timestamp`.
//!
//! `Expires` is whole seconds and absent where there is none; null and 0 mean none too. Teleport's own library writes an empty
//! value as null. A blank revision is no attribute. What else an item has (`ID`, from before revisions) goes along and means
//! nothing. Pure.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::body::{self, Attributes, Simple};
use super::number;
use crate::error::{Error, Result};
use crate::model::{Item, Micros};

/// The attribute that holds the value.
pub const VALUE: &str = "Value";
/// The attribute that holds the instant of expiry, on which the table's own expiry is set.
pub const EXPIRES: &str = "Expires";
const REVISION: &str = "Revision";
const TIMESTAMP: &str = "Timestamp";
/// The nil UUID, which Teleport shows for a blank revision.
const NIL: &[u8] = b"00000000-0000-0000-0000-000000000000";
const SECOND: i128 = 1_000_000_000;

/// What Teleport sees of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct View<'a> {
    /// The value.
    pub value: &'a [u8],
    /// Seconds since the Unix epoch.
    pub expires: Option<i64>,
    /// The revision; empty if blank.
    pub revision: &'a str,
}

impl<'a> View<'a> {
    /// Reads a body.
    pub fn of(bytes: &'a [u8]) -> Result<Self> {
        let (mut view, mut readable) = (Self::default(), true);
        body::each(bytes, |name, value| match (name, value) {
            (VALUE, Simple::B(value)) => view.value = value,
            (VALUE, Simple::S(value)) => view.value = value.as_bytes(),
            (REVISION, Simple::S(revision)) => view.revision = revision,
            (EXPIRES, Simple::N(text)) => view.expires = number::seconds(text).filter(|at| *at != 0),
            (VALUE, Simple::Null) | (EXPIRES | REVISION, _) => {}
            (VALUE, _) => readable = false,
            _ => {}
        })?;
        match readable {
            true => Ok(view),
            false => Err(Error::corrupt("read an item of Teleport: its `Value` is neither bytes nor null")),
        }
    }

    /// Whether it has expired.
    pub fn expired(&self, now: Micros) -> bool {
        self.expires.is_some_and(|at| i128::from(at) * 1_000_000 <= i128::from(now))
    }
}

/// The item in a body.
pub fn to_item(bytes: &[u8]) -> Result<Item> {
    let view = View::of(bytes)?;
    Ok(Item {
        value: view.value.to_vec(),
        expires: view.expires.map(|at| i128::from(at) * SECOND),
        revision: view.revision.as_bytes().to_vec(),
    })
}

/// Appends the body of an item of another kind that was written at `at`. Its expiry is rounded up to a second.
pub fn from_item(item: &Item, at: Micros, out: &mut Vec<u8>) -> Result<()> {
    let mut all = Attributes::with_capacity(4);
    let mut put = |name: &str, value| drop(all.insert(name.to_owned(), value));
    let number = |seconds: i64| AttributeValue::N(seconds.to_string());
    put(VALUE, AttributeValue::B(Blob::new(item.value.as_slice())));
    put(TIMESTAMP, number(at.div_euclid(1_000_000)));
    if let Some(nanos) = item.expires {
        let seconds = i64::try_from((nanos + SECOND - 1).div_euclid(SECOND)).unwrap_or(i64::MAX);
        // 0 would mean never.
        put(EXPIRES, number(seconds.max(1)));
    }
    if holds(&item.revision) && !item.revision.is_empty() && item.revision != NIL {
        put(REVISION, AttributeValue::S(String::from_utf8_lossy(&item.revision).into_owned()));
    }
    body::encode(&all, &[], out)
}

/// Whether a revision can be held as it is.
pub fn holds(revision: &[u8]) -> bool {
    std::str::from_utf8(revision).is_ok()
}

/// Appends the same body with another value.
pub fn with_value(bytes: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut all = body::decode(bytes)?;
    all.insert(VALUE.to_owned(), AttributeValue::B(Blob::new(value)));
    body::encode(&all, &[], out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: i64 = 1_775_045_430;

    fn encoded(all: &[(&str, AttributeValue)]) -> Vec<u8> {
        let all = all.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let mut out = Vec::new();
        body::encode(&all, &[], &mut out).unwrap();
        out
    }

    fn n(text: impl ToString) -> AttributeValue {
        AttributeValue::N(text.to_string())
    }

    #[test]
    fn an_item_of_teleport_is_read() {
        let revision = "6b1d2a5e-4c1f-4a9e-9a55-0f7c2f7d1b42";
        let bytes = encoded(&[
            ("Value", AttributeValue::B(Blob::new(*b"{\"kind\":\"node\"}"))),
            ("Timestamp", n(1_775_044_800)),
            ("Expires", n(E)),
            ("Revision", AttributeValue::S(revision.into())),
        ]);
        let item = to_item(&bytes).unwrap();
        assert_eq!(item.value, b"{\"kind\":\"node\"}");
        assert_eq!(item.expires, Some(i128::from(E) * SECOND));
        assert_eq!(item.revision, revision.as_bytes());
        let view = View::of(&bytes).unwrap();
        assert!(view.expired(E * 1_000_000) && !view.expired(E * 1_000_000 - 1));
    }

    #[test]
    fn what_old_and_odd_items_lack_is_blank() {
        let old = encoded(&[("Value", AttributeValue::B(Blob::new("v"))), ("ID", n("1775044800000000000"))]);
        assert_eq!(View::of(&old).unwrap(), View { value: b"v", expires: None, revision: "" });
        for never in [n(0), AttributeValue::Null(true)] {
            let bytes = encoded(&[("Value", AttributeValue::Null(true)), ("Expires", never)]);
            assert_eq!(View::of(&bytes).unwrap(), View::default());
        }
        assert!(View::of(&encoded(&[("Value", AttributeValue::L(vec![]))])).is_err());
    }

    #[test]
    fn an_item_of_another_kind_becomes_one_that_teleport_reads() {
        let item = Item { value: b"v".to_vec(), expires: Some(i128::from(E) * SECOND + 1), revision: b"17".to_vec() };
        let mut out = Vec::new();
        from_item(&item, 1_775_044_800_999_999, &mut out).unwrap();
        let all = body::decode(&out).unwrap();
        assert_eq!(all["Expires"], n(E + 1), "rounded up, never lost");
        assert_eq!(all["Timestamp"], n(1_775_044_800));
        assert_eq!(all["Revision"], AttributeValue::S("17".into()));
        assert_eq!(all["Value"], AttributeValue::B(Blob::new("v")));
        for revision in [&b""[..], NIL, b"\xff"] {
            let item = Item { value: vec![], expires: None, revision: revision.to_vec() };
            let mut out = Vec::new();
            from_item(&item, 0, &mut out).unwrap();
            let mut names: Vec<_> = body::decode(&out).unwrap().into_keys().collect();
            names.sort();
            assert_eq!(names, ["Timestamp", "Value"], "a blank revision and no expiry are no attributes");
        }
        for (nanos, seconds) in [(0, 1), (-5, 1), (i128::MAX / 2, i64::MAX)] {
            let mut out = Vec::new();
            from_item(&Item { expires: Some(nanos), ..Item::default() }, 0, &mut out).unwrap();
            assert_eq!(View::of(&out).unwrap().expires, Some(seconds));
        }
    }

    #[test]
    fn another_value_leaves_the_rest_as_it_was() {
        let of =
            |value: &str| encoded(&[("Value", AttributeValue::B(Blob::new(value))), ("ID", n(7)), ("Expires", n(E))]);
        let mut out = Vec::new();
        with_value(&of("old"), b"new", &mut out).unwrap();
        assert_eq!(out, of("new"));
    }
}
