//! One map of the configuration, read key by key.
//!
//! Every getter says in its error which key on which line is wrong and what is expected there, never what stands there.
//! A section remembers what it was asked for: `finish` refuses every key that nobody asked for, so the list of known keys
//! cannot drift away from the code that reads them.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::config::expand::{self, Outside};
use crate::config::tree::{Key, Node, Value};
use crate::config::units;
use crate::error::{Error, Result};

/// What all sections of a file have in common.
pub(super) struct Context<'a> {
    /// Names the file in errors.
    pub(super) file: &'a str,
    /// Where `${…}` is looked up.
    pub(super) outside: &'a dyn Outside,
    /// What the user should hear although it is no error.
    pub(super) notes: RefCell<Vec<String>>,
}

impl Context<'_> {
    /// An error about a line of the file.
    pub(super) fn error(&self, line: u64, what: impl std::fmt::Display) -> Error {
        Error::config(format!("read {} line {line}: {what}", self.file))
    }

    /// Notes something about a line of the file.
    pub(super) fn note(&self, line: u64, what: impl std::fmt::Display) {
        self.notes.borrow_mut().push(format!("{} line {line}: {what}", self.file));
    }
}

/// A map of the file.
pub(super) struct Section<'a> {
    pub(super) context: &'a Context<'a>,
    /// Where it is, for people: empty at the top, else ` in `src``.
    place: String,
    /// Line on which it begins.
    pub(super) line: u64,
    entries: Vec<Entry<'a>>,
    asked: RefCell<Vec<&'static str>>,
    /// Looked at for keys that this section leaves out.
    defaults: Option<&'a Section<'a>>,
}

struct Entry<'a> {
    key: &'a Key,
    node: &'a Node,
    used: Cell<bool>,
}

impl<'a> Section<'a> {
    /// Reads a node as a map.
    pub(super) fn new(context: &'a Context<'a>, name: &str, node: &'a Node) -> Result<Self> {
        let place = if name.is_empty() { String::new() } else { format!(" in `{name}`") };
        let entries = match &node.value {
            Value::Map(entries) => {
                entries.iter().map(|(key, node)| Entry { key, node, used: Cell::new(false) }).collect()
            }
            Value::Null => Vec::new(),
            other if name.is_empty() => {
                let what = format!("expected keys such as `src:` and `dst:`, found {}", other.name());
                return Err(context.error(node.line, what));
            }
            other => {
                let what = format!("`{name}` must be a map of keys, found {}", other.name());
                return Err(context.error(node.line, what));
            }
        };
        Ok(Self { context, place, line: node.line, entries, asked: RefCell::default(), defaults: None })
    }

    /// Takes keys that are left out here from another section.
    #[must_use]
    pub(super) fn or_else(self, defaults: &'a Section<'a>) -> Self {
        Self { defaults: Some(defaults), ..self }
    }

    /// The node of a key, and marks the key as known. A key without a value counts as left out.
    pub(super) fn node(&self, key: &'static str) -> Option<&'a Node> {
        self.own(key).or_else(|| self.defaults?.own(key))
    }

    /// As `node`, without the defaults.
    pub(super) fn own(&self, key: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(key);
        let entry = self.entries.iter().find(|entry| entry.key.name == key)?;
        entry.used.set(true);
        (!matches!(entry.node.value, Value::Null)).then_some(entry.node)
    }

    /// Whether a key is there, without reading it.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key.name == key)
    }

    /// The line of a key; the section's own where it is missing.
    pub(super) fn line_of(&self, key: &str) -> u64 {
        match self.entries.iter().find(|entry| entry.key.name == key) {
            Some(entry) => entry.key.line,
            None => self.defaults.filter(|defaults| defaults.has(key)).map_or(self.line, |all| all.line_of(key)),
        }
    }

    /// An error about a key.
    pub(super) fn wrong(&self, key: &str, what: impl std::fmt::Display) -> Error {
        self.context.error(self.line_of(key), format!("`{key}`{} {what}", self.place))
    }

    fn mistyped(&self, key: &str, expected: &str, node: &Node) -> Error {
        let hint = match node.value {
            Value::Bool(_) | Value::Int(_) | Value::Float if expected == TEXT => "; put it in quotes",
            _ => "",
        };
        self.wrong(key, format!("must be {expected}, found {}{hint}", node.value.name()))
    }

    fn expand(&self, key: &str, text: &str) -> Result<String> {
        expand::expand(text, self.context.outside).map_err(|why| self.wrong(key, why))
    }

    /// Text, with `${…}` expanded.
    pub(super) fn text(&self, key: &'static str) -> Result<Option<String>> {
        match self.node(key) {
            None => Ok(None),
            Some(Node { value: Value::Text(text), .. }) => self.expand(key, text).map(Some),
            Some(node) => Err(self.mistyped(key, TEXT, node)),
        }
    }

    /// Text that must be there and not be empty.
    pub(super) fn required(&self, key: &'static str, meaning: &str) -> Result<String> {
        match self.text(key)? {
            Some(text) if !text.is_empty() => Ok(text),
            Some(_) => Err(self.wrong(key, format!("is empty; it must be {meaning}"))),
            None => Err(self.missing(key, meaning)),
        }
    }

    /// An error about a key that is not there and must be.
    pub(super) fn missing(&self, key: &str, meaning: &str) -> Error {
        self.context.error(self.line, format!("`{key}` is missing{}; it must be {meaning}", self.place))
    }

    /// `true` or `false` (`yes`, `no`, `on`, `off` too, as Teleport reads them).
    pub(super) fn truth(&self, key: &'static str) -> Result<Option<bool>> {
        const EXPECTED: &str = "true or false";
        match self.node(key) {
            None => Ok(None),
            Some(Node { value: Value::Bool(value), .. }) => Ok(Some(*value)),
            Some(Node { value: Value::Text(text), .. }) => match self.expand(key, text)?.as_str() {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(self.wrong(key, format!("must be {EXPECTED}"))),
            },
            Some(node) => Err(self.mistyped(key, EXPECTED, node)),
        }
    }

    /// A whole number within `least..=most`.
    pub(super) fn number(&self, key: &'static str, least: i64, most: i64) -> Result<Option<i64>> {
        let expected = match (least, most) {
            (i64::MIN, i64::MAX) => "a whole number".to_owned(),
            _ => format!("a whole number from {least} to {most}"),
        };
        let value = match self.node(key) {
            None => return Ok(None),
            Some(Node { value: Value::Int(value), .. }) => Some(*value),
            Some(Node { value: Value::Text(text), .. }) => self.expand(key, text)?.trim().parse().ok(),
            Some(node) => return Err(self.mistyped(key, &expected, node)),
        };
        let value = value.and_then(|value| i64::try_from(value).ok()).filter(|value| (least..=most).contains(value));
        value.map(Some).ok_or_else(|| self.wrong(key, format!("must be {expected}")))
    }

    /// A size in bytes, at least `least`.
    pub(super) fn size(&self, key: &'static str, least: u64) -> Result<Option<u64>> {
        let value = match self.node(key) {
            None => return Ok(None),
            Some(Node { value: Value::Int(value), .. }) => u64::try_from(*value).ok(),
            Some(Node { value: Value::Text(text), .. }) => units::size(&self.expand(key, text)?),
            Some(node) => return Err(self.mistyped(key, units::SIZE, node)),
        };
        match value {
            Some(value) if value >= least => Ok(Some(value)),
            Some(_) => Err(self.wrong(key, format!("must be at least {}MiB", least >> 20))),
            None => Err(self.wrong(key, format!("must be {}", units::SIZE))),
        }
    }

    /// A duration.
    pub(super) fn duration(&self, key: &'static str) -> Result<Option<Duration>> {
        let value = match self.node(key) {
            None => return Ok(None),
            Some(Node { value: Value::Text(text), .. }) => units::duration(&self.expand(key, text)?),
            Some(node) => return Err(self.mistyped(key, units::DURATION, node)),
        };
        value.map(Some).ok_or_else(|| self.wrong(key, format!("must be {}", units::DURATION)))
    }

    /// One word of a list of words, as its index.
    pub(super) fn word(&self, key: &'static str, words: &[&str]) -> Result<Option<usize>> {
        let expected = format!("one of {}", words.join(", "));
        let said = match self.node(key) {
            None => return Ok(None),
            Some(Node { value: Value::Text(text), .. }) => self.expand(key, text)?,
            // `on` and `off` are truth values to YAML, and words to whoever wrote `sync: OFF`.
            Some(Node { value: Value::Bool(value), .. }) => if *value { "on" } else { "off" }.to_owned(),
            Some(node) => return Err(self.mistyped(key, &expected, node)),
        };
        let found = words.iter().position(|word| word.eq_ignore_ascii_case(&said));
        found.map(Some).ok_or_else(|| self.wrong(key, format!("must be {expected}")))
    }

    /// A list of texts; a single text counts as a list of one.
    pub(super) fn texts(&self, key: &'static str) -> Result<Option<Vec<String>>> {
        const EXPECTED: &str = "a list of texts";
        let nodes = match self.node(key) {
            None => return Ok(None),
            Some(node @ Node { value: Value::Text(_), .. }) => std::slice::from_ref(node),
            Some(Node { value: Value::List(nodes), .. }) => nodes,
            Some(node) => return Err(self.mistyped(key, EXPECTED, node)),
        };
        let mut texts = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Value::Text(text) = &node.value else {
                let what = format!("`{key}`{} must be {EXPECTED}, found {} in it", self.place, node.value.name());
                return Err(self.context.error(node.line, what));
            };
            texts.push(self.expand(key, text)?);
        }
        Ok(Some(texts))
    }

    /// Text with `${…}` expanded, a whole number or a truth value.
    pub(super) fn scalar(&self, key: &'static str) -> Result<Option<Scalar>> {
        match self.node(key) {
            None => Ok(None),
            Some(Node { value: Value::Text(text), .. }) => self.expand(key, text).map(Scalar::Text).map(Some),
            Some(Node { value: Value::Bool(value), .. }) => Ok(Some(Scalar::Bool(*value))),
            Some(Node { value: Value::Int(value), .. }) => Ok(Some(Scalar::Int(*value))),
            Some(node) => Err(self.mistyped(key, "text, a whole number, true or false", node)),
        }
    }

    /// Whether a key is a list.
    pub(super) fn is_list(&self, key: &'static str) -> bool {
        matches!(self.node(key), Some(Node { value: Value::List(_), .. }))
    }

    /// Whether a key says anything, here or in the defaults.
    pub(super) fn says(&self, key: &'static str) -> bool {
        match self.node(key).map(|node| &node.value) {
            None => false,
            Some(Value::List(nodes)) => !nodes.is_empty(),
            Some(_) => true,
        }
    }

    /// Sections in a list; a single one counts as a list of one.
    pub(super) fn sections(&self, key: &'static str) -> Result<Option<Vec<Section<'a>>>> {
        let nodes = match self.node(key) {
            None => return Ok(None),
            Some(node @ Node { value: Value::Map(_), .. }) => std::slice::from_ref(node),
            Some(Node { value: Value::List(nodes), .. }) => nodes,
            Some(node) => return Err(self.mistyped(key, "a list of maps", node)),
        };
        nodes.iter().map(|node| Section::new(self.context, key, node)).collect::<Result<_>>().map(Some)
    }

    /// A section within this one.
    pub(super) fn section(&self, key: &'static str) -> Result<Option<Section<'a>>> {
        self.node(key).map(|node| Section::new(self.context, key, node)).transpose()
    }

    /// Accepts keys that mean something to Teleport and nothing to a replica, whatever they say.
    pub(super) fn accept(&self, keys: &[&'static str]) {
        for key in keys {
            self.node(key);
        }
    }

    /// Whether every key was asked for.
    pub(super) fn finish(self) -> Result<()> {
        let Some(entry) = self.entries.iter().find(|entry| !entry.used.get()) else {
            return Ok(());
        };
        let mut known = self.asked.into_inner();
        known.sort_unstable();
        known.dedup();
        let name = &entry.key.name;
        let near = known.iter().map(|key| (distance(name, key), *key)).min().filter(|(far, _)| *far <= 2);
        let hint = match near {
            Some((_, key)) => format!("did you mean `{key}`?"),
            None => format!("known keys are {}", known.join(", ")),
        };
        Err(self.context.error(entry.key.line, format!("unknown key `{name}`{}; {hint}", self.place)))
    }
}

const TEXT: &str = "text";

/// A value that stands alone.
pub(super) enum Scalar {
    Text(String),
    Bool(bool),
    Int(i128),
}

impl Scalar {
    /// As JSON.
    pub(super) fn json(&self) -> String {
        match self {
            Self::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
        }
    }
}

/// How many characters must be added, removed or replaced to turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
