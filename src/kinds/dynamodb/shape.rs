//! What a table is, as far as another one can be made like it: its key, its indexes, how it is paid for, its expiry and its
//! stream. Written down as JSON in the source's description of a table. Pure.

use serde::{Deserialize, Serialize};

use super::item::EXPIRES;
use super::layout::{HASH, PATH};
use crate::error::{Error, Result};

/// An attribute of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its type: `S`, `N` or `B`.
    pub kind: char,
}

/// An index of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// The attributes of its key, with whether each is the partition key.
    pub key: Vec<(String, bool)>,
    /// `ALL`, `KEYS_ONLY` or `INCLUDE`.
    pub projection: String,
    /// What is included.
    pub include: Vec<String>,
    /// Read and write units, where capacity is provisioned.
    pub units: Option<(i64, i64)>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Partition key.
    pub hash: Part,
    /// Sort key.
    pub range: Option<Part>,
    /// Attributes that only indexes have in their keys.
    pub others: Vec<Part>,
    /// Global indexes.
    pub global: Vec<Index>,
    /// Local indexes.
    pub local: Vec<Index>,
    /// Read and write units; `None` where each request is paid for.
    pub units: Option<(i64, i64)>,
    /// The attribute on which items expire.
    pub expiry: Option<String>,
    /// What the stream brings, if there is one: `NEW_IMAGE`, `NEW_AND_OLD_IMAGES`, …
    pub stream: Option<String>,
    /// Whether the table is of the class for data that is seldom read.
    pub infrequent: bool,
}

impl Shape {
    /// Teleport's own.
    pub fn teleport(units: Option<(i64, i64)>) -> Self {
        let text = |name: &str| Part { name: name.to_owned(), kind: 'S' };
        Self {
            hash: text(HASH),
            range: Some(text(PATH)),
            others: Vec::new(),
            global: Vec::new(),
            local: Vec::new(),
            units,
            expiry: Some(EXPIRES.to_owned()),
            stream: Some("NEW_IMAGE".to_owned()),
            infrequent: false,
        }
    }

    /// As it is written down.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|_| Error::bug("describe a table: its description has no form as JSON"))
    }

    /// Reads what is written down.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let read: Option<Self> = serde_json::from_slice(bytes).ok();
        let known = |part: &Part| matches!(part.kind, 'S' | 'N' | 'B');
        read.filter(|shape| known(&shape.hash) && shape.range.as_ref().is_none_or(known))
            .ok_or_else(|| Error::corrupt("read the description of a table: it is not one of DynamoDB's"))
    }

    /// Whether items have the same key in both.
    pub fn has_key_of(&self, other: &Self) -> bool {
        (&self.hash, &self.range) == (&other.hash, &other.range)
    }

    /// The key, for people.
    pub fn key(&self) -> String {
        let part = |part: &Part| format!("{} ({})", part.name, part.kind);
        let range = self.range.as_ref().map(|range| format!(", {}", part(range)));
        format!("{}{}", part(&self.hash), range.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_comes_back_and_does_not_change() {
        let shape = Shape::teleport(Some((10, 5)));
        let text = String::from_utf8(shape.encode().unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"hash":{"name":"HashKey","kind":"S"},"range":{"name":"FullPath","kind":"S"},"others":[],"global":[],"local":[],"units":[10,5],"expiry":"Expires","stream":"NEW_IMAGE","infrequent":false}"#
        );
        assert_eq!(Shape::decode(text.as_bytes()).unwrap(), shape);
        assert_eq!(shape.key(), "HashKey (S), FullPath (S)");
        for broken in ["", "{}", &text.replace(r#""kind":"S""#, r#""kind":"X""#)] {
            assert!(Shape::decode(broken.as_bytes()).is_err());
        }
    }
}
