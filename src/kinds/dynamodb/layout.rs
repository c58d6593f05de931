//! Keys as they lie in a table, and as everybody else here sees them.
//!
//! *Teleport*: every item has the same partition key, `HashKey` = `teleport`, and the sort key `FullPath` is `teleport` with
//! the key behind it: `teleport/nodes/…`, `teleport.locks/…`. So a sort key has the order of its key. What has another
//! partition key, or another beginning, is somebody else's.
//!
//! *Raw*: the key is the attributes of the table's key, partition key first, each as its type's letter (`S`, `N`, `B`), the
//! length as u32 BE and the bytes; a number as its one text. Such keys have no order that a table could be read in. Pure.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::body::Attributes;
use super::number::canonical;
use super::shape::{Part, Shape};
use crate::error::{Error, Result};
use crate::model::{Layout, Table, shown};

/// The partition key of Teleport's tables.
pub const HASH: &str = "HashKey";
/// Its value, which is the beginning of every sort key too.
pub const TELEPORT: &str = "teleport";
/// The sort key of Teleport's tables.
pub const PATH: &str = "FullPath";
/// What follows every sort key of Teleport's.
const BEHIND: &str = "teleporu";
/// LIMIT: bytes of a sort key, set by DynamoDB.
const LONGEST_PATH: usize = 1024;

/// How keys lie in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// As Teleport lays them.
    Teleport,
    /// As the table's own key says.
    Raw(Part, Option<Part>),
}

impl Keys {
    /// Those of a table that is read or written in this layout.
    pub fn of(layout: Layout, table: &Table) -> Result<Self> {
        match layout {
            Layout::Teleport => Ok(Self::Teleport),
            Layout::Raw => Ok(Self::raw(&Shape::decode(&table.shape)?)),
        }
    }

    /// Those of a table of this shape.
    pub fn raw(shape: &Shape) -> Self {
        Self::Raw(shape.hash.clone(), shape.range.clone())
    }

    /// The attributes of the key.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Teleport => vec![HASH, PATH],
            Self::Raw(hash, range) => {
                [Some(hash), range.as_ref()].into_iter().flatten().map(|part| &*part.name).collect()
            }
        }
    }

    /// The key of an item; `None` if it is not of the layout.
    pub fn key(&self, item: &Attributes) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Teleport => Ok(match (item.get(HASH), item.get(PATH)) {
                (Some(AttributeValue::S(hash)), Some(AttributeValue::S(path))) if hash == TELEPORT => {
                    path.strip_prefix(TELEPORT).filter(|key| !key.is_empty()).map(|key| key.as_bytes().to_vec())
                }
                _ => None,
            }),
            Self::Raw(hash, range) => {
                let mut key = Vec::new();
                for part in [Some(hash), range.as_ref()].into_iter().flatten() {
                    put(item.get(&part.name), part, &mut key)?;
                }
                Ok(Some(key))
            }
        }
    }

    /// The key attributes of a key.
    ///
    /// # Errors
    /// Rejected, for one that the table cannot hold.
    pub fn attributes(&self, key: &[u8]) -> Result<Attributes> {
        let mut item = Attributes::with_capacity(8);
        match self {
            Self::Teleport => {
                item.insert(HASH.to_owned(), AttributeValue::S(TELEPORT.to_owned()));
                item.insert(PATH.to_owned(), AttributeValue::S(stored(key)?));
            }
            Self::Raw(hash, range) => {
                let mut rest = key;
                for part in [Some(hash), range.as_ref()].into_iter().flatten() {
                    item.insert(part.name.clone(), take(&mut rest, part)?);
                }
                if !rest.is_empty() {
                    return Err(not_a_key());
                }
            }
        }
        Ok(item)
    }
}

/// The sort keys between which those of Teleport's keys from `from` up to, and without, `to` lie, `to` included: an empty
/// side is open. `None` if a bound is no text, as none of this kind's own is.
pub fn between(from: &[u8], to: &[u8]) -> Option<(String, String)> {
    let path = |key| std::str::from_utf8(key).ok().map(|key| format!("{TELEPORT}{key}"));
    Some((path(from)?, if to.is_empty() { BEHIND.to_owned() } else { path(to)? }))
}

fn stored(key: &[u8]) -> Result<String> {
    let said = |what: &str| Error::rejected(format!("write the item {}: {what}", shown("", key)));
    if key.is_empty() {
        return Err(said("its key is empty"));
    }
    if TELEPORT.len() + key.len() > LONGEST_PATH {
        return Err(said("its key is longer than the 1016 bytes that DynamoDB takes"));
    }
    let text = std::str::from_utf8(key).map_err(|_| said("its key is not UTF-8, which DynamoDB cannot hold"))?;
    Ok(format!("{TELEPORT}{text}"))
}

fn put(value: Option<&AttributeValue>, part: &Part, key: &mut Vec<u8>) -> Result<()> {
    let number;
    let bytes = match (part.kind, value) {
        ('S', Some(AttributeValue::S(text))) => text.as_bytes(),
        ('B', Some(AttributeValue::B(bytes))) => bytes.as_ref(),
        ('N', Some(AttributeValue::N(text))) => {
            number = canonical(text).ok_or_else(not_a_key)?;
            number.as_bytes()
        }
        _ => return Err(not_a_key()),
    };
    key.push(u8::try_from(part.kind).map_err(|_| not_a_key())?);
    key.extend_from_slice(&u32::try_from(bytes.len()).map_err(|_| not_a_key())?.to_be_bytes());
    key.extend_from_slice(bytes);
    Ok(())
}

fn take(rest: &mut &[u8], part: &Part) -> Result<AttributeValue> {
    let (kind, tail) = rest.split_first().ok_or_else(not_a_key)?;
    let (length, tail) = tail.split_first_chunk().ok_or_else(not_a_key)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| not_a_key())?;
    let (bytes, tail) = tail.split_at_checked(length).ok_or_else(not_a_key)?;
    *rest = tail;
    if char::from(*kind) != part.kind {
        return Err(not_a_key());
    }
    let text = || std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| not_a_key());
    Ok(match part.kind {
        'S' => AttributeValue::S(text()?),
        'N' => AttributeValue::N(text()?),
        _ => AttributeValue::B(Blob::new(bytes)),
    })
}

fn not_a_key() -> Error {
    Error::corrupt("read the key of an item: it is not one of this table's")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s(text: &str) -> AttributeValue {
        AttributeValue::S(text.into())
    }

    fn item(all: &[(&str, AttributeValue)]) -> Attributes {
        all.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn the_written_down_examples_lie_as_teleport_lays_them() {
        for (key, path) in [
            ("/authorities/host/example.com", "teleport/authorities/host/example.com"),
            (".locks/athena_lock", "teleport.locks/athena_lock"),
            ("/a?>b/ÿ~", "teleport/a?>b/ÿ~"),
        ] {
            let stored = item(&[("HashKey", s("teleport")), ("FullPath", s(path))]);
            assert_eq!(Keys::Teleport.attributes(key.as_bytes()).unwrap(), stored);
            assert_eq!(Keys::Teleport.key(&stored).unwrap().as_deref(), Some(key.as_bytes()));
        }
    }

    #[test]
    fn what_is_not_teleports_is_left_alone() {
        for (hash, path) in
            [("other", "teleport/a"), ("teleport", "/a"), ("teleport", "telepor/a"), ("teleport", "teleport")]
        {
            assert_eq!(Keys::Teleport.key(&item(&[("HashKey", s(hash)), ("FullPath", s(path))])).unwrap(), None);
        }
        assert_eq!(Keys::Teleport.key(&item(&[("SessionID", s("x"))])).unwrap(), None);
    }

    #[test]
    fn what_a_table_cannot_hold_is_refused_without_being_shown() {
        let long = [&b"/tokens/static/planted/"[..], &[b'x'; 1010]].concat();
        for key in [&b""[..], b"/tokens/static/planted/\xff", &long] {
            let said = Keys::Teleport.attributes(key).unwrap_err();
            assert_eq!(said.fault(), crate::error::Fault::Rejected);
            assert!(!said.to_string().contains("planted"), "{said}");
        }
        assert!(Keys::Teleport.attributes(&[b'/'; 1016]).is_ok());
    }

    #[test]
    fn ranges_are_bounds_of_sort_keys() {
        let of = |from: &str, to: &str| between(from.as_bytes(), to.as_bytes()).unwrap();
        assert_eq!(of("", ""), ("teleport".into(), "teleporu".into()));
        assert_eq!(of("/a", "/b"), ("teleport/a".into(), "teleport/b".into()));
        assert_eq!(between(b"\xff", b""), None);
        assert!("teleport\u{10ffff}" < BEHIND);
    }

    fn audit() -> Keys {
        let part = |name: &str, kind| Part { name: name.into(), kind };
        Keys::Raw(part("SessionID", 'S'), Some(part("EventIndex", 'N')))
    }

    #[test]
    fn the_bytes_of_a_raw_key_do_not_change() {
        let attributes =
            item(&[("SessionID", s("7d0f")), ("EventIndex", AttributeValue::N("1E1".into())), ("x", s("y"))]);
        let key = audit().key(&attributes).unwrap().unwrap();
        assert_eq!(key, b"S\0\0\0\x047d0fN\0\0\0\x0210");
        let back = item(&[("SessionID", s("7d0f")), ("EventIndex", AttributeValue::N("10".into()))]);
        assert_eq!(audit().attributes(&key).unwrap(), back);
        assert_eq!(audit().names(), ["SessionID", "EventIndex"]);
        for cut in 0..key.len() {
            assert!(audit().attributes(&key[..cut]).is_err());
        }
        assert!(audit().attributes(&[&key[..], b"x"].concat()).is_err());
        assert!(audit().key(&item(&[("SessionID", s("7d0f"))])).is_err());
    }

    proptest! {
        #[test]
        fn keys_keep_their_order_in_teleports_layout(a in "/\\PC{1,9}", b in "/\\PC{1,9}") {
            let path = |key: &str| match &Keys::Teleport.attributes(key.as_bytes()).unwrap()[PATH] {
                AttributeValue::S(path) => path.clone(),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(path(&a).as_bytes().cmp(path(&b).as_bytes()), a.as_bytes().cmp(b.as_bytes()));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            drop(audit().attributes(&bytes));
            drop(Keys::Teleport.attributes(&bytes));
        }
    }
}
