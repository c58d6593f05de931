//! Attribute values and items, and what they weigh.
//!
//! Sets are held sorted, so that two sets with the same members are equal whatever the order of a request was.

use std::collections::{BTreeMap, BTreeSet};

use super::number::Number;

/// An item: its attributes by name.
pub type Item = BTreeMap<String, Value>;

/// A value of one of the ten types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    S(String),
    /// A number.
    N(Number),
    /// Bytes.
    B(Vec<u8>),
    /// Truth.
    Bool(bool),
    /// Nothing, said explicitly.
    Null,
    /// A set of texts.
    Ss(BTreeSet<String>),
    /// A set of numbers.
    Ns(BTreeSet<Number>),
    /// A set of bytes.
    Bs(BTreeSet<Vec<u8>>),
    /// A list.
    L(Vec<Value>),
    /// A map.
    M(Item),
}

impl Value {
    /// The type's name in a request.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::S(_) => "S",
            Self::N(_) => "N",
            Self::B(_) => "B",
            Self::Bool(_) => "BOOL",
            Self::Null => "NULL",
            Self::Ss(_) => "SS",
            Self::Ns(_) => "NS",
            Self::Bs(_) => "BS",
            Self::L(_) => "L",
            Self::M(_) => "M",
        }
    }

    /// The type's name in an error about an operand.
    pub fn long_kind(&self) -> &'static str {
        match self {
            Self::S(_) => "STRING",
            Self::N(_) => "NUMBER",
            Self::B(_) => "BINARY",
            Self::Bool(_) => "BOOLEAN",
            Self::Null => "NULL",
            Self::Ss(_) => "SS",
            Self::Ns(_) => "NS",
            Self::Bs(_) => "BS",
            Self::L(_) => "LIST",
            Self::M(_) => "MAP",
        }
    }

    /// Whether `<` and its like can be asked of it.
    pub fn is_scalar(&self) -> bool {
        matches!(self, Self::S(_) | Self::N(_) | Self::B(_))
    }

    /// What the value takes of an item's 400 KB.
    pub fn size(&self) -> usize {
        match self {
            Self::S(text) => text.len(),
            Self::N(number) => number.size(),
            Self::B(bytes) => bytes.len(),
            Self::Bool(_) | Self::Null => 1,
            Self::Ss(set) => set.iter().map(String::len).sum(),
            Self::Ns(set) => set.iter().map(Number::size).sum(),
            Self::Bs(set) => set.iter().map(Vec::len).sum(),
            Self::L(list) => 3 + list.iter().map(|value| 1 + value.size()).sum::<usize>(),
            Self::M(map) => 3 + map.iter().map(|(name, value)| 1 + name.len() + value.size()).sum::<usize>(),
        }
    }

    /// What `size(path)` gives, or nothing for types that have none.
    pub fn length(&self) -> Option<usize> {
        match self {
            // Characters are UTF-16 units here as little as anywhere else: the documentation speaks of characters.
            Self::S(text) => Some(text.chars().count()),
            Self::B(bytes) => Some(bytes.len()),
            Self::Ss(set) => Some(set.len()),
            Self::Ns(set) => Some(set.len()),
            Self::Bs(set) => Some(set.len()),
            Self::L(list) => Some(list.len()),
            Self::M(map) => Some(map.len()),
            Self::N(_) | Self::Bool(_) | Self::Null => None,
        }
    }
}

/// What an item takes: the lengths of its names and values.
pub fn item_size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value.size()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_documented_sums() {
        let number = |text| Value::N(Number::parse(text).unwrap());
        assert_eq!(Value::S("ä".into()).size(), 2);
        assert_eq!(number("1234").size(), 3);
        assert_eq!(Value::L(vec![]).size(), 3);
        assert_eq!(Value::L(vec![Value::Null, Value::Bool(true)]).size(), 3 + 2 + 2);
        assert_eq!(Value::M(Item::from([("ab".into(), Value::S("c".into()))])).size(), 3 + 1 + 2 + 1);
        assert_eq!(item_size(&Item::from([("id".into(), Value::B(vec![0; 10]))])), 12);
    }
}
