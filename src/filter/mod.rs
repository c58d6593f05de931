//! What of a source a sink gets, under which keys and with which values.
//!
//! A filter makes one store out of another: the *image* of the source, in which some items are missing, some have other
//! keys and some have other values. It is applied where the source is read ([`edge`]), so nothing that is left out or
//! masked ever reaches a lane, a comparison or a log; to the engine the image is the source. The sink is looked at through
//! the same filter: what the image can never hold is nobody's there, and is neither removed nor counted.
//!
//! Everything is decided by the key at the source, by whether the item expires, and for fields by the value: never by what
//! came before. So an item is decided in the same way whenever it is met, by the tail, a walk or a comparison.
//!
//! Where two rules say something, the longer prefix wins. `exclude` wins over classes; `include` wins over a class only
//! where its prefix names at least what makes the key one of the class.
//!
//! All but [`edge`] is pure.

pub mod classes;
mod cut;
mod edge;
mod image;
mod json;
mod prefixes;
mod rename;
pub mod rules;

pub use edge::Edge;

use crate::error::{Error, Result};
use classes::Class;
use json::NotJson;
use prefixes::Prefixes;
use rename::Renaming;
use rules::{NEVER, Profile, Rules, Substitute};

/// Rules, made ready to be followed.
#[derive(Debug)]
pub struct Filter {
    /// Prefixes that are named, and whether they are taken.
    named: Prefixes<bool>,
    /// Whether what no prefix names is taken.
    others: bool,
    drop: Vec<Class>,
    profile: Option<Profile>,
    masks: Prefixes<Mask>,
    removed: Vec<(Class, Field)>,
    renaming: Renaming,
}

/// What is said of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// The item is in the image.
    Take,
    /// It is in the image unless it expires.
    TakeUnlessItExpires,
    /// It is not.
    Leave(Why),
}

/// Why something is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// No stream takes it.
    Never,
    /// By its prefix.
    Prefix,
    /// By its class.
    Class(Class),
    /// It has no class that is known, and only known classes are taken.
    Unknown,
    /// A field of it was to be replaced, and its value is not JSON.
    NotJson,
}

impl Why {
    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Prefix => "prefix",
            Self::Class(class) => class.name(),
            Self::Unknown => "unknown",
            Self::NotJson => "not_json",
        }
    }
}

/// What becomes of values under a prefix.
#[derive(Clone, Debug)]
enum Mask {
    Value(Vec<u8>),
    Fields(Vec<Field>),
}

#[derive(Clone, Debug)]
struct Field {
    path: Vec<String>,
    json: Option<String>,
}

/// What a filter needs to know of a value that is in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// That it is there: it becomes another one, whatever it is.
    Presence,
    /// All of it.
    Value,
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masked {
    /// It is as it was.
    Same,
    /// It is what was written.
    Written,
}

impl Filter {
    /// Makes rules ready.
    ///
    /// # Errors
    /// Config, for rules that cannot be followed all at once.
    pub fn new(rules: &Rules) -> Result<Self> {
        rules.check().map_err(|(key, what)| Error::config(format!("read the rules of a filter: `{key}` {what}")))?;
        let named = |prefixes: &[String], taken| {
            prefixes.iter().map(move |prefix| (prefix.as_bytes().to_vec(), taken)).collect::<Vec<_>>()
        };
        let removed = rules.profile.iter().flat_map(|profile| {
            Class::ALL.into_iter().filter_map(|class| Some((class, Field::removed(profile.removes(class)?))))
        });
        Ok(Self {
            named: Prefixes::new([named(&rules.include, true), named(&rules.exclude, false)].concat()),
            others: rules.profile.is_some() || rules.include.is_empty(),
            drop: rules.drop.clone(),
            profile: rules.profile,
            masks: masks(rules),
            removed: removed.collect(),
            renaming: Renaming::new(&rules.rename),
        })
    }

    /// What is said of a key of the source.
    pub fn say(&self, key: &[u8]) -> Say {
        if key.starts_with(NEVER.as_bytes()) || key.is_empty() {
            return Say::Leave(Why::Never);
        }
        let named = self.named.longest(key);
        if let Some((_, false)) = named {
            return Say::Leave(Why::Prefix);
        }
        if self.profile.is_some() || !self.drop.is_empty() {
            let known = classes::of(key);
            let is_named = named.is_some_and(|(len, _)| known.is_none_or(|known| len >= known.len));
            if !is_named && let Some(said) = self.say_of_class(known.map(|known| known.class)) {
                return said;
            }
        }
        if named.is_some() || self.others { Say::Take } else { Say::Leave(Why::Prefix) }
    }

    /// What is said of a class; `None` if nothing is.
    fn say_of_class(&self, class: Option<Class>) -> Option<Say> {
        match (class, self.profile) {
            (None, None) => None,
            (None, Some(_)) => Some(Say::Leave(Why::Unknown)),
            (Some(class), Some(profile)) if !profile.takes(class) => Some(Say::Leave(Why::Class(class))),
            (Some(Class::Presence), _) if self.drop.contains(&Class::Presence) => Some(Say::TakeUnlessItExpires),
            (Some(class), _) if self.drop.contains(&class) => Some(Say::Leave(Why::Class(class))),
            (Some(_), _) => None,
        }
    }

    /// What is said of a key of the image; `None` for one that no key of the source becomes.
    pub fn say_of_image(&self, image: &[u8], scratch: &mut Vec<u8>) -> Option<Say> {
        Some(self.say(self.source_key(image, scratch)?))
    }

    /// The key of the source that becomes this key of the image; `None` if there is none.
    pub fn source_key<'a>(&self, image: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        self.renaming.back(image, scratch)
    }

    /// Appends what a key that is taken becomes; false if it stays.
    ///
    /// # Errors
    /// Config: another key of the source could become this one.
    pub fn rename(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        self.renaming.forth(key, out)
    }

    /// Whether any key becomes another.
    pub fn renames(&self) -> bool {
        !self.renaming.is_empty()
    }

    /// What must be known of the value of a key that is taken.
    pub fn needs(&self, key: &[u8]) -> Needs {
        match self.masks.longest(key) {
            Some((_, Mask::Value(_))) => Needs::Presence,
            Some((_, Mask::Fields(_))) => Needs::Value,
            None if self.removed(key).is_some() => Needs::Value,
            None => Needs::Nothing,
        }
    }

    /// Writes what the value of a key that is taken becomes; `out` is emptied first.
    ///
    /// # Errors
    /// That the item is left out.
    pub fn mask(&self, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<Masked, Why> {
        let fields = match self.masks.longest(key) {
            Some((_, Mask::Value(fixed))) => {
                out.clear();
                out.extend_from_slice(fixed);
                return Ok(if value == fixed { Masked::Same } else { Masked::Written });
            }
            Some((_, Mask::Fields(fields))) => fields.as_slice(),
            None => &[],
        };
        let mut masked = Masked::Same;
        let mut next = Vec::new();
        for Field { path, json } in self.removed(key).into_iter().chain(fields) {
            let now = if masked == Masked::Same { value } else { out.as_slice() };
            next.clear();
            match json::set(now, path, json.as_deref(), &mut next) {
                Ok(true) => {
                    std::mem::swap(out, &mut next);
                    masked = Masked::Written;
                }
                Ok(false) => {}
                Err(NotJson) => return Err(Why::NotJson),
            }
        }
        Ok(masked)
    }

    /// The field that a profile removes.
    fn removed(&self, key: &[u8]) -> Option<&Field> {
        let class = if self.removed.is_empty() { None } else { classes::of(key) }?.class;
        self.removed.iter().find(|(removed, _)| *removed == class).map(|(_, field)| field)
    }
}

impl Field {
    fn removed(path: &[&str]) -> Self {
        Self { path: path.iter().map(|&name| name.to_owned()).collect(), json: None }
    }
}

/// For each prefix that is named, everything that holds under it: the whole value of the longest prefix that has one, else
/// the fields of all prefixes in the order of the file.
fn masks(rules: &Rules) -> Prefixes<Mask> {
    Prefixes::new(rules.replace.iter().map(|named| {
        let over = rules.replace.iter().filter(|rule| named.prefix.starts_with(&rule.prefix));
        let whole = over.clone().filter_map(|rule| match &rule.with {
            Substitute::Value(value) => Some((rule.prefix.len(), value)),
            Substitute::Field { .. } => None,
        });
        let fields = over.filter_map(|rule| match &rule.with {
            Substitute::Value(_) => None,
            Substitute::Field { path, json } => Some(Field { path: path.clone(), json: json.clone() }),
        });
        let mask = match whole.max_by_key(|(len, _)| *len) {
            Some((_, value)) => Mask::Value(value.clone()),
            None => Mask::Fields(fields.collect()),
        };
        (named.prefix.clone().into_bytes(), mask)
    }))
}

#[cfg(test)]
mod tests;
