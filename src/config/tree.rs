//! YAML as a tree in which every key and value knows its line.
//!
//! All typing happens on this tree (`section.rs`), so that an error can always say which key on which line is wrong and
//! what was expected there. What a value says is never part of an error: it may be a password. For the same reason
//! nothing here implements `Debug` over values.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{DuplicateKeyPolicy, Error as YamlError, Spanned};

use crate::error::{Error, Result};

/// A value and where it stands.
pub(super) struct Node {
    /// Line, from 1.
    pub(super) line: u64,
    /// What it says.
    pub(super) value: Value,
}

/// A key of a map and where it stands.
pub(super) struct Key {
    /// The key.
    pub(super) name: String,
    /// Line, from 1.
    pub(super) line: u64,
}

/// What a value says.
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

impl Value {
    /// What kind of value it is, for errors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Float => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map of keys",
        }
    }
}

impl Node {
    /// Whether it is exactly this text.
    pub(super) fn is_text(&self, text: &str) -> bool {
        matches!(&self.value, Value::Text(said) if said == text)
    }

    /// Whether it is the number 0.
    pub(super) fn is_zero(&self) -> bool {
        matches!(self.value, Value::Int(0))
    }
}

/// Reads one YAML document. `file` is only named in errors.
pub(super) fn parse(file: &str, text: &str) -> Result<Node> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        duplicate_keys: DuplicateKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
    };
    serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options).map(Node::from).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        Error::config(format!("read {file} line {line}: {}", sentence(&error)))
    })
}

/// Says what is wrong without any of the file's values: the parser's own messages are constant sentences, others may
/// quote what they read.
fn sentence(error: &YamlError) -> String {
    match error {
        YamlError::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{key}` stands there twice; remove one of the two")
        }
        YamlError::DuplicateMappingKey { .. } => "a key stands there twice; remove one of the two".into(),
        YamlError::MultipleDocuments { .. } => {
            "a second document begins; several pipelines go into a list under `pipelines`".into()
        }
        YamlError::ExternalMessage { msg, .. } => format!("not valid YAML: {msg}"),
        YamlError::InvalidUtf8Input => "not valid YAML: the file is not UTF-8".into(),
        YamlError::NullIntoString { .. } => "not valid YAML: a key is empty".into(),
        YamlError::WithSnippet { error, .. } => sentence(error),
        _ => "not valid YAML".into(),
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { line: spanned.referenced.line(), value: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Builder)
    }
}

struct Builder;

impl<'de> Visitor<'de> for Builder {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Float, Value::Int))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Float)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element::<Spanned<Value>>()? {
            nodes.push(node.into());
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Spanned<Value>>()? {
            nodes.push((Key { line: key.referenced.line(), name: key.value }, node.into()));
        }
        Ok(Value::Map(nodes))
    }
}
