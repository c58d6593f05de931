//! The body of a row: every attribute of an item but those of its key, in one form for one content.
//!
//! ```text
//! u8 version = 1
//! u32 LE count, then so many attributes, in the order of their names' bytes: text name, value
//! text, bytes: u32 LE length, then so many bytes
//! value: a tag byte, then
//!   'S' text      'N' text (the one text of the number)      'B' bytes      't' true, 'f' false, '0' null: nothing
//!   'M' u32 LE count, then so many of: text name, value; in the order of the names' bytes
//!   'L' u32 LE count, then so many values
//!   's' 'n' 'b' a set of texts, numbers, bytes: u32 LE count, then so many, in the order of their bytes
//! ```
//!
//! DynamoDB gives attributes and members of sets in any order, and a number in one of several texts; here equal content has
//! equal bytes, so that rows are compared without being read. Lossless otherwise: every type, empty values, all 38 digits.
//! Pure.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::number::canonical;
use crate::error::{Error, Result};

const VERSION: u8 = 1;
/// LIMIT: levels of maps and lists within each other; DynamoDB takes 32.
const DEPTH: u32 = 40;

/// Attributes of an item, by name.
pub type Attributes = HashMap<String, AttributeValue>;

/// Appends the encoded form of these attributes, without those named in `leave`.
pub fn encode(attributes: &Attributes, leave: &[&str], out: &mut Vec<u8>) -> Result<()> {
    out.push(VERSION);
    let kept = attributes.iter().filter(|(name, _)| !leave.contains(&name.as_str()));
    put_map(kept.collect(), 0, out)
}

/// Reads the encoded form.
pub fn decode(bytes: &[u8]) -> Result<Attributes> {
    let mut read = Read::begin(bytes)?;
    let attributes = read.map(0)?;
    if read.0.is_empty() { Ok(attributes) } else { Err(broken()) }
}

/// An attribute's value where it is one of the simple types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simple<'a> {
    /// Text.
    S(&'a str),
    /// The one text of a number.
    N(&'a str),
    /// Bytes.
    B(&'a [u8]),
    /// Null.
    Null,
    /// Anything else.
    Other,
}

/// Calls `take` with each attribute, in the order of names.
pub fn each<'a>(bytes: &'a [u8], mut take: impl FnMut(&'a str, Simple<'a>)) -> Result<()> {
    let mut read = Read::begin(bytes)?;
    for _ in 0..read.number()? {
        let name = read.text()?;
        let value = read.simple(0)?;
        take(name, value);
    }
    if read.0.is_empty() { Ok(()) } else { Err(broken()) }
}

fn put_map(mut members: Vec<(&String, &AttributeValue)>, depth: u32, out: &mut Vec<u8>) -> Result<()> {
    members.sort_unstable_by_key(|(name, _)| name.as_bytes());
    put_number(members.len(), out)?;
    for (name, value) in members {
        put_bytes(name.as_bytes(), out)?;
        put_value(value, depth, out)?;
    }
    Ok(())
}

fn put_value(value: &AttributeValue, depth: u32, out: &mut Vec<u8>) -> Result<()> {
    if depth > DEPTH {
        return Err(Error::corrupt(
            "read an item: its maps and lists lie deeper within each other than DynamoDB allows",
        ));
    }
    match value {
        AttributeValue::S(text) => tagged(b'S', text.as_bytes(), out),
        AttributeValue::N(text) => tagged(b'N', number(text)?.as_bytes(), out),
        AttributeValue::B(bytes) => tagged(b'B', bytes.as_ref(), out),
        AttributeValue::Bool(true) => plain(b't', out),
        AttributeValue::Bool(false) => plain(b'f', out),
        AttributeValue::Null(_) => plain(b'0', out),
        AttributeValue::M(members) => {
            out.push(b'M');
            put_map(members.iter().collect(), depth + 1, out)
        }
        AttributeValue::L(values) => {
            out.push(b'L');
            put_number(values.len(), out)?;
            values.iter().try_for_each(|value| put_value(value, depth + 1, out))
        }
        AttributeValue::Ss(texts) => put_set(b's', texts.iter().map(|text| text.as_bytes().to_vec()).collect(), out),
        AttributeValue::Bs(all) => put_set(b'b', all.iter().map(|bytes| bytes.as_ref().to_vec()).collect(), out),
        AttributeValue::Ns(texts) => {
            let numbers = texts.iter().map(|text| number(text).map(String::into_bytes));
            put_set(b'n', numbers.collect::<Result<_>>()?, out)
        }
        _ => Err(Error::corrupt("read an item: one of its attributes has a type that this version does not know")),
    }
}

fn put_set(tag: u8, mut members: Vec<Vec<u8>>, out: &mut Vec<u8>) -> Result<()> {
    members.sort_unstable();
    out.push(tag);
    put_number(members.len(), out)?;
    members.iter().try_for_each(|member| put_bytes(member, out))
}

fn plain(tag: u8, out: &mut Vec<u8>) -> Result<()> {
    out.push(tag);
    Ok(())
}

fn tagged(tag: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.push(tag);
    put_bytes(bytes, out)
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    put_number(bytes.len(), out)?;
    out.extend_from_slice(bytes);
    Ok(())
}

fn put_number(number: usize, out: &mut Vec<u8>) -> Result<()> {
    let number = u32::try_from(number).map_err(|_| Error::corrupt("read an item: it is larger than 4 GiB"))?;
    out.extend_from_slice(&number.to_le_bytes());
    Ok(())
}

fn number(text: &str) -> Result<String> {
    // The text is not repeated: it is a value.
    canonical(text).ok_or_else(|| Error::corrupt("read an item: one of its numbers is not a number"))
}

/// What is left to read.
struct Read<'a>(&'a [u8]);

impl<'a> Read<'a> {
    fn begin(bytes: &'a [u8]) -> Result<Self> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(Self(rest)),
            Some((version, _)) => Err(Error::corrupt(format!(
                "read a body of DynamoDB: its format {version} is not known to this version"
            ))),
            None => Err(broken()),
        }
    }

    fn number(&mut self) -> Result<usize> {
        let (number, rest) = self.0.split_first_chunk().ok_or_else(broken)?;
        self.0 = rest;
        usize::try_from(u32::from_le_bytes(*number)).map_err(|_| broken())
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.number()?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(broken)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| broken())
    }

    fn owned(&mut self) -> Result<String> {
        self.text().map(str::to_owned)
    }

    fn tag(&mut self) -> Result<u8> {
        let (tag, rest) = self.0.split_first().ok_or_else(broken)?;
        self.0 = rest;
        Ok(*tag)
    }

    fn map(&mut self, depth: u32) -> Result<Attributes> {
        let count = self.number()?;
        let mut members = HashMap::with_capacity(count.min(self.0.len() / 5));
        for _ in 0..count {
            let name = self.owned()?;
            members.insert(name, self.value(depth)?);
        }
        Ok(members)
    }

    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        (0..self.number()?).map(|_| one(self)).collect()
    }

    fn value(&mut self, depth: u32) -> Result<AttributeValue> {
        if depth > DEPTH {
            return Err(broken());
        }
        Ok(match self.tag()? {
            b'S' => AttributeValue::S(self.owned()?),
            b'N' => AttributeValue::N(self.owned()?),
            b'B' => AttributeValue::B(Blob::new(self.bytes()?)),
            b't' => AttributeValue::Bool(true),
            b'f' => AttributeValue::Bool(false),
            b'0' => AttributeValue::Null(true),
            b'M' => AttributeValue::M(self.map(depth + 1)?),
            b'L' => AttributeValue::L(self.many(|read| read.value(depth + 1))?),
            b's' => AttributeValue::Ss(self.many(Self::owned)?),
            b'n' => AttributeValue::Ns(self.many(Self::owned)?),
            b'b' => AttributeValue::Bs(self.many(|read| read.bytes().map(Blob::new))?),
            _ => return Err(broken()),
        })
    }

    fn simple(&mut self, depth: u32) -> Result<Simple<'a>> {
        if depth > DEPTH {
            return Err(broken());
        }
        Ok(match self.tag()? {
            b'S' => Simple::S(self.text()?),
            b'N' => Simple::N(self.text()?),
            b'B' => Simple::B(self.bytes()?),
            b'0' => Simple::Null,
            b't' | b'f' => Simple::Other,
            tag @ (b'M' | b'L') => {
                for _ in 0..self.number()? {
                    if tag == b'M' {
                        self.text()?;
                    }
                    self.simple(depth + 1)?;
                }
                Simple::Other
            }
            b's' | b'n' | b'b' => {
                for _ in 0..self.number()? {
                    self.bytes()?;
                }
                Simple::Other
            }
            _ => return Err(broken()),
        })
    }
}

/// Bytes that DynamoDB counts for an attribute, its name included.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>
pub fn size(name: &str, value: &AttributeValue) -> usize {
    name.len() + size_of(value)
}

fn size_of(value: &AttributeValue) -> usize {
    // Two digits to a byte and one more, never less than what is counted.
    let number = |text: &String| text.bytes().filter(u8::is_ascii_digit).count().div_ceil(2) + 2;
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(text) => number(text),
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::M(members) => 3 + members.iter().map(|(name, value)| 1 + size(name, value)).sum::<usize>(),
        AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + size_of(value)).sum::<usize>(),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::Ns(texts) => texts.iter().map(number).sum(),
        AttributeValue::Bs(all) => all.iter().map(|bytes| bytes.as_ref().len()).sum(),
        _ => 1,
    }
}

fn broken() -> Error {
    Error::corrupt("read a body of DynamoDB: it is cut short or not one of ours")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(attributes: &Attributes) -> Vec<u8> {
        let mut out = Vec::new();
        encode(attributes, &[], &mut out).unwrap();
        out
    }

    fn item(all: &[(&str, AttributeValue)]) -> Attributes {
        all.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn n(text: &str) -> AttributeValue {
        AttributeValue::N(text.into())
    }

    #[test]
    fn the_bytes_of_the_encoding_do_not_change() {
        let all = item(&[
            ("b", AttributeValue::B(Blob::new([0, 255]))),
            ("a", n("1E2")),
            ("c", AttributeValue::M(item(&[("y", AttributeValue::Bool(true)), ("x", AttributeValue::Null(true))]))),
            ("d", AttributeValue::L(vec![AttributeValue::S(String::new()), AttributeValue::Bool(false)])),
            ("e", AttributeValue::Ns(vec!["2".into(), "10".into()])),
            ("left out", n("1")),
        ]);
        let mut out = Vec::new();
        encode(&all, &["left out"], &mut out).unwrap();
        let wanted = b"\x01\x05\0\0\0\
            \x01\0\0\0aN\x03\0\0\x00100\
            \x01\0\0\0bB\x02\0\0\0\0\xff\
            \x01\0\0\0cM\x02\0\0\0\x01\0\0\0x0\x01\0\0\0yt\
            \x01\0\0\0dL\x02\0\0\0S\0\0\0\0f\
            \x01\0\0\0en\x02\0\0\0\x02\0\0\x0010\x01\0\0\x002";
        assert_eq!(out, wanted);
        assert!(decode(&[9]).unwrap_err().to_string().contains("format 9"));
        for cut in 0..out.len() {
            assert!(decode(&out[..cut]).is_err() && each(&out[..cut], |_, _| ()).is_err(), "{cut}");
        }
        assert!(decode(&[&out[..], b"x"].concat()).is_err());
    }

    #[test]
    fn equal_content_has_equal_bytes_whatever_the_order_and_the_texts() {
        let one = item(&[("s", AttributeValue::Ss(vec!["a".into(), "b".into()])), ("n", n("1.0"))]);
        let other = item(&[("n", n("10E-1")), ("s", AttributeValue::Ss(vec!["b".into(), "a".into()]))]);
        assert_eq!(encoded(&one), encoded(&other));
        let list = |a: &str, b: &str| item(&[("l", AttributeValue::L(vec![n(a), n(b)]))]);
        assert_ne!(encoded(&list("1", "2")), encoded(&list("2", "1")), "the order of a list is content");
    }

    #[test]
    fn simple_attributes_are_found_beside_others() {
        let all = item(&[
            ("a", AttributeValue::M(item(&[("x", AttributeValue::L(vec![n("1")]))]))),
            ("b", AttributeValue::Bs(vec![Blob::new("x")])),
            ("c", AttributeValue::S("text".into())),
            ("d", AttributeValue::Null(true)),
        ]);
        let (bytes, mut found) = (encoded(&all), Vec::new());
        each(&bytes, |name, value| found.push((name, value))).unwrap();
        let wanted = [("a", Simple::Other), ("b", Simple::Other), ("c", Simple::S("text")), ("d", Simple::Null)];
        assert_eq!(found, wanted);
    }

    #[test]
    fn what_lies_too_deep_is_refused_and_not_followed() {
        let deep = |levels| (0..levels).fold(AttributeValue::Null(true), |inner, _| AttributeValue::L(vec![inner]));
        let bytes = encoded(&item(&[("x", deep(32))]));
        assert!(decode(&bytes).is_ok());
        assert!(encode(&item(&[("x", deep(100))]), &[], &mut Vec::new()).is_err());
        let mut hostile = b"\x01\x01\0\0\0\x01\0\0\0x".to_vec();
        for _ in 0..100_000 {
            hostile.extend_from_slice(b"L\x01\0\0\0");
        }
        assert!(decode(&hostile).is_err() && each(&hostile, |_, _| ()).is_err());
    }

    #[test]
    fn no_value_is_in_what_is_said_of_a_broken_one() {
        let said = encode(&item(&[("x", n("planted"))]), &[], &mut Vec::new()).unwrap_err().to_string();
        assert!(!said.contains("planted"), "{said}");
    }

    fn value() -> impl Strategy<Value = AttributeValue> {
        let text = "\\PC{0,6}";
        let number = (any::<i64>(), -90i32..90).prop_map(|(n, power)| canonical(&format!("{n}E{power}")).unwrap());
        let leaf = prop_oneof![
            text.prop_map(AttributeValue::S),
            number.prop_map(AttributeValue::N),
            proptest::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| AttributeValue::B(Blob::new(bytes))),
            any::<bool>().prop_map(AttributeValue::Bool),
            Just(AttributeValue::Null(true)),
            proptest::collection::btree_set(text, 1..4).prop_map(|set| AttributeValue::Ss(set.into_iter().collect())),
            proptest::collection::btree_set(proptest::collection::vec(any::<u8>(), 0..5), 1..4)
                .prop_map(|set| AttributeValue::Bs(set.into_iter().map(Blob::new).collect())),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(AttributeValue::L),
                proptest::collection::hash_map("\\PC{0,6}", inner, 0..4).prop_map(AttributeValue::M),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_item_comes_back(all in proptest::collection::hash_map("\\PC{0,6}", value(), 0..6)) {
            prop_assert_eq!(decode(&encoded(&all)).unwrap(), all);
        }

        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), whole in any::<bool>()) {
            if whole && let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            drop(decode(&bytes));
            drop(each(&bytes, |_, _| ()));
        }
    }
}
