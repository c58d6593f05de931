//! Replaces or removes a field of a JSON text, and touches nothing else of it.
//!
//! The text is taken apart only along the path; everything beside it is written back as it was, byte for byte, so that
//! numbers keep their digits and members their order. What a reader could take for the field is treated as the field:
//!
//! - A name that is written with escapes is the name that it stands for.
//! - Upper and lower case (of ASCII) are the same, as they are to Teleport's own reader.
//! - A member that stands there twice is replaced twice.
//! - A path goes through lists: it means the field of each element.
//!
//! What is not one whole JSON value is refused, so that nothing is let through unread. Pure.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// LIMIT: levels of objects and lists along a path. Teleport's resources have fewer than ten, and a text of nothing but
/// brackets must not exhaust the stack.
const DEEPEST: usize = 128;

/// The text is not one JSON value, or nested deeper than anybody nests. Says nothing of what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson;

/// Appends `text` to `out` with the field at `path` replaced by the JSON text `with`, or removed. True if there was one;
/// else `out` may hold anything.
///
/// # Errors
/// [`NotJson`].
pub fn set(text: &[u8], path: &[String], with: Option<&str>, out: &mut Vec<u8>) -> Result<bool, NotJson> {
    let whole: &RawValue = serde_json::from_slice(text).map_err(|_| NotJson)?;
    walk(whole, path, with, DEEPEST, out)
}

fn walk(
    value: &RawValue,
    path: &[String],
    with: Option<&str>,
    left: usize,
    out: &mut Vec<u8>,
) -> Result<bool, NotJson> {
    let (text, left) = (value.get(), left.checked_sub(1).ok_or(NotJson)?);
    let Some((name, rest)) = path.split_first() else {
        out.extend_from_slice(with.unwrap_or("null").as_bytes());
        return Ok(true);
    };
    match text.as_bytes().first() {
        Some(b'{') => object(serde_json::from_str(text).map_err(|_| NotJson)?, (name, rest), with, left, out),
        Some(b'[') => list(serde_json::from_str(text).map_err(|_| NotJson)?, path, with, left, out),
        _ => {
            out.extend_from_slice(text.as_bytes());
            Ok(false)
        }
    }
}

fn object(
    members: Members<'_>,
    (name, rest): (&str, &[String]),
    with: Option<&str>,
    left: usize,
    out: &mut Vec<u8>,
) -> Result<bool, NotJson> {
    let mut found = false;
    let mut first = true;
    out.push(b'{');
    for (key, value) in members.0 {
        let meant = key.eq_ignore_ascii_case(name);
        if meant && rest.is_empty() && with.is_none() {
            found = true;
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, &key).map_err(|_| NotJson)?;
        out.push(b':');
        if meant {
            found |= walk(value, rest, with, left, out)?;
        } else {
            out.extend_from_slice(value.get().as_bytes());
        }
    }
    out.push(b'}');
    Ok(found)
}

fn list(
    elements: Vec<&RawValue>,
    path: &[String],
    with: Option<&str>,
    left: usize,
    out: &mut Vec<u8>,
) -> Result<bool, NotJson> {
    let mut found = false;
    out.push(b'[');
    for (index, element) in elements.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        found |= walk(element, path, with, left, out)?;
    }
    out.push(b']');
    Ok(found)
}

/// The members of an object in their order, those of one name all of them.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Each)
    }
}

struct Each;

impl<'de> Visitor<'de> for Each {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            members.push((name.0, value));
        }
        Ok(Members(members))
    }
}

/// A name, borrowed where it is written without escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    fn done(text: &str, at: &str, with: Option<&str>) -> (bool, String) {
        let mut out = Vec::new();
        let found = set(text.as_bytes(), &path(at), with, &mut out).unwrap();
        (found, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_field_is_replaced_or_removed_and_the_rest_keeps_its_bytes() {
        let text = r#"{"b":1.50,"spec":{"x":12345678901234567890123,"secret":{"a":[1]},"z":null},"a":"\u00e9"}"#;
        let replaced = r#"{"b":1.50,"spec":{"x":12345678901234567890123,"secret":"no","z":null},"a":"\u00e9"}"#;
        assert_eq!(done(text, "spec.secret", Some("\"no\"")), (true, replaced.to_owned()));
        let removed = r#"{"b":1.50,"spec":{"x":12345678901234567890123,"z":null},"a":"\u00e9"}"#;
        assert_eq!(done(text, "spec.secret", None), (true, removed.to_owned()));
        assert_eq!(done(r#"{"secret":1}"#, "secret", None), (true, "{}".to_owned()));
        assert_eq!(done(r#" {"secret" : 1 , "a" : 2} "#, "secret", None), (true, r#"{"a":2}"#.to_owned()));
    }

    #[test]
    fn whatever_a_reader_could_take_for_the_field_is_the_field() {
        let twice = r#"{"secret":"x","a":1,"secret":"y"}"#;
        assert_eq!(done(twice, "secret", None).1, r#"{"a":1}"#);
        assert_eq!(done(twice, "secret", Some("0")).1, r#"{"secret":0,"a":1,"secret":0}"#);
        assert_eq!(done(r#"{"sec\u0072et":"x"}"#, "secret", None), (true, "{}".to_owned()));
        assert_eq!(done(r#"{"Secret":"x"}"#, "secret", None), (true, "{}".to_owned()));
        let nested = r#"{"spec":[{"keys":[{"private":"x","public":1}]},{"keys":{"private":"y"}},3]}"#;
        assert_eq!(done(nested, "spec.keys.private", None).1, r#"{"spec":[{"keys":[{"public":1}]},{"keys":{}},3]}"#);
    }

    #[test]
    fn a_field_that_is_not_there_changes_nothing() {
        for text in [r#"{"a":1}"#, "[]", "3", r#""secret""#, r#"{"spec":"secret"}"#] {
            assert!(!done(text, "spec.secret", None).0, "{text}");
        }
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        let texts: [&[u8]; 8] =
            [b"", b"$2a$10$abc", b"{\"a\":1", b"{\"a\":1} {}", b"{\"a\":\xff}", b"{'a':1}", b"{\"a\":1}\0", b"nul"];
        for text in texts {
            assert_eq!(set(text, &path("a"), None, &mut Vec::new()), Err(NotJson), "{text:?}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(set(deep.as_bytes(), &path("a"), None, &mut Vec::new()), Err(NotJson));
        // What lies beside the path is read as well.
        assert_eq!(set(br#"{"a":1,"b":[1,}"#, &path("a"), None, &mut Vec::new()), Err(NotJson));
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<i64>().prop_map(|n| json!(n)),
            "[a-z\"\\\\é]{0,6}".prop_map(|s| json!(s))
        ];
        leaf.prop_recursive(4, 30, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::btree_map("[abS]|secret", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn plain(value: &mut Value, path: &[String], with: Option<&Value>) {
        match value {
            Value::Array(all) => all.iter_mut().for_each(|each| plain(each, path, with)),
            Value::Object(map) => match (path, with) {
                ([name], None) => drop(map.remove(name)),
                ([name], Some(with)) if map.contains_key(name) => drop(map.insert(name.clone(), with.clone())),
                ([name, rest @ ..], _) => {
                    if let Some(inner) = map.get_mut(name).filter(|_| !rest.is_empty()) {
                        plain(inner, rest, with);
                    }
                }
                ([], _) => {}
            },
            _ => {}
        }
    }

    proptest! {
        /// Against the plain way: parse, change, print.
        #[test]
        fn the_result_is_what_changing_the_parsed_value_gives(document in documents(), deep: bool, remove: bool) {
            let path = path(if deep { "a.secret" } else { "secret" });
            let with = (!remove).then_some("[7]");
            let mut out = Vec::new();
            let text = document.to_string();
            let found = set(text.as_bytes(), &path, with, &mut out).unwrap();
            let mut wanted = document.clone();
            plain(&mut wanted, &path, with.map(|_| json!([7])).as_ref());
            if found {
                prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), wanted);
            } else {
                prop_assert_eq!(document, wanted);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            // Whatever it says, it says it.
            prop_assert!(set(&bytes, &path("a.b"), Some("1"), &mut Vec::new()) != Ok(true) || bytes.len() > 8);
        }
    }
}
