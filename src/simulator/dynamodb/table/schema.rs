//! Keys: which attributes they are, their order, their limits.

use super::super::chance::hash;
use super::super::fail::{Failure, Result};
use super::super::number::Number;
use super::super::value::{Item, Value};

/// LIMIT: a partition key's bytes, as documented.
const LONGEST_HASH: usize = 2048;
/// LIMIT: a sort key's bytes, as documented.
const LONGEST_RANGE: usize = 1024;

/// A key attribute's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scalar {
    /// Text, by its UTF-8 bytes.
    S(String),
    /// A number.
    N(Number),
    /// Bytes, unsigned.
    B(Vec<u8>),
}

impl Scalar {
    /// The value, if a key can have it.
    pub fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::S(text) => Self::S(text.clone()),
            Value::N(number) => Self::N(number.clone()),
            Value::B(bytes) => Self::B(bytes.clone()),
            _ => return None,
        })
    }

    /// The value again.
    pub fn value(&self) -> Value {
        match self {
            Self::S(text) => Value::S(text.clone()),
            Self::N(number) => Value::N(number.clone()),
            Self::B(bytes) => Value::B(bytes.clone()),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::S(text) => text.as_bytes().to_vec(),
            Self::N(number) => number.to_string().into_bytes(),
            Self::B(bytes) => bytes.clone(),
        }
    }
}

/// An item's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The partition key.
    pub hash: Scalar,
    /// The sort key, where the table has one.
    pub range: Option<Scalar>,
}

/// Where an item lies: partitions by the hash of their key, in them by sort key. This is the order of a Scan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The partition key's hash.
    pub token: u64,
    /// The key.
    pub key: Key,
}

impl Key {
    /// Where an item with this key lies.
    pub fn place(self) -> Place {
        Place { token: self.token(), key: self }
    }

    /// The partition key's hash.
    pub fn token(&self) -> u64 {
        hash(&self.hash.bytes())
    }

    /// The whole key's hash, which decides about the shard of its records.
    pub fn shard_token(&self) -> u64 {
        let mut bytes = self.hash.bytes();
        bytes.push(0);
        bytes.extend(self.range.as_ref().map(Scalar::bytes).unwrap_or_default());
        hash(&bytes)
    }
}

/// One attribute of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAttribute {
    /// Its name.
    pub name: String,
    /// `S`, `N` or `B`.
    pub kind: String,
}

/// The key attributes of a table or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The partition key.
    pub hash: KeyAttribute,
    /// The sort key.
    pub range: Option<KeyAttribute>,
}

impl Schema {
    /// The key attributes, partition key first.
    pub fn attributes(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.hash).chain(&self.range)
    }

    /// Whether this attribute is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.attributes().any(|attribute| attribute.name == name)
    }

    /// The key of an item that is written.
    ///
    /// # Errors
    /// The item lacks it, or has something that cannot be a key.
    pub fn key_of(&self, item: &Item) -> Result<Key> {
        for attribute in self.attributes() {
            let name = &attribute.name;
            let value =
                item.get(name).ok_or_else(|| Failure::parameter(format!("Missing the key {name} in the item")))?;
            if value.kind() != attribute.kind {
                return Err(Failure::parameter(format!(
                    "Type mismatch for key {name} expected: {} actual: {}",
                    attribute.kind,
                    value.kind()
                )));
            }
        }
        self.checked(item)
    }

    /// The key that a request names, which has the key attributes and no other.
    ///
    /// # Errors
    /// It is not one of this table.
    pub fn named(&self, key: &Item) -> Result<Key> {
        let fits =
            |attribute: &KeyAttribute| key.get(&attribute.name).is_some_and(|value| value.kind() == attribute.kind);
        if key.len() != self.attributes().count() || !self.attributes().all(fits) {
            return Err(Failure::invalid("The provided key element does not match the schema"));
        }
        self.checked(key)
    }

    fn checked(&self, item: &Item) -> Result<Key> {
        let part = |attribute: &KeyAttribute, limit: usize, what: &str| {
            let value = Scalar::of(&item[&attribute.name]).expect("the type was compared with the schema's");
            let bytes = item[&attribute.name].size();
            if bytes == 0 {
                let kind = if attribute.kind == "S" { "string" } else { "binary" };
                return Err(Failure::invalid(format!(
                    "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an \
                     empty {kind} value. Key: {}",
                    attribute.name
                )));
            }
            if bytes > limit {
                return Err(Failure::parameter(format!("{what}{limit} bytes")));
            }
            Ok(value)
        };
        let hash = part(&self.hash, LONGEST_HASH, "Size of hashkey has exceeded the maximum size limit of")?;
        let range = self.range.as_ref().map(|range| {
            part(range, LONGEST_RANGE, "Aggregated size of all range keys has exceeded the size limit of ")
        });
        Ok(Key { hash, range: range.transpose()? })
    }

    /// The key of an item in an index, or nothing if the item is not in it.
    pub fn index_key(&self, item: &Item) -> Option<Key> {
        let part = |attribute: &KeyAttribute| {
            let value = item.get(&attribute.name).filter(|value| value.kind() == attribute.kind)?;
            Scalar::of(value)
        };
        let hash = part(&self.hash)?;
        match &self.range {
            Some(range) => Some(Key { hash, range: Some(part(range)?) }),
            None => Some(Key { hash, range: None }),
        }
    }

    /// The key as attributes.
    pub fn item(&self, key: &Key) -> Item {
        let values = std::iter::once(&key.hash).chain(&key.range);
        self.attributes().zip(values).map(|(attribute, value)| (attribute.name.clone(), value.value())).collect()
    }
}
