//! Document paths: what they lead to, and the part of an item that several of them select.

use std::collections::BTreeMap;
use std::fmt;

use super::super::value::{Item, Value};

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A map's member.
    Field(String),
    /// A list's element.
    Index(usize),
}

/// A way from an item to one of its values; its first step is a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The attribute.
    pub attribute: String,
    /// The way on from there.
    pub steps: Vec<Step>,
}

impl Path {
    /// What lies there.
    pub fn find<'a>(&self, item: &'a Item) -> Option<&'a Value> {
        let mut value = item.get(&self.attribute)?;
        for step in &self.steps {
            value = match (step, value) {
                (Step::Field(name), Value::M(map)) => map.get(name)?,
                (Step::Index(index), Value::L(list)) => list.get(*index)?,
                _ => return None,
            };
        }
        Some(value)
    }

    /// The way up to the first list: of a list, an update tells all.
    pub fn to_list(&self) -> Self {
        let steps = self.steps.iter().take_while(|step| matches!(step, Step::Field(_)));
        Self { attribute: self.attribute.clone(), steps: steps.cloned().collect() }
    }

    /// Whether one leads through the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        let common = self.steps.len().min(other.steps.len());
        self.attribute == other.attribute && self.steps[..common] == other.steps[..common]
    }

    /// Whether they go different kinds of ways from one place: a list's and a map's.
    pub fn conflicts(&self, other: &Self) -> bool {
        let apart = self.steps.iter().zip(&other.steps).find(|(a, b)| a != b);
        self.attribute == other.attribute
            && apart
                .is_some_and(|pair| matches!(pair, (Step::Field(_), Step::Index(_)) | (Step::Index(_), Step::Field(_))))
    }
}

impl fmt::Display for Path {
    /// As the service's errors write it: `[a, b, [1]]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}", self.attribute)?;
        for step in &self.steps {
            match step {
                Step::Field(name) => write!(f, ", {name}")?,
                Step::Index(index) => write!(f, ", [{index}]")?,
            }
        }
        f.write_str("]")
    }
}

/// What several paths select below one value; no steps at all select all of it.
#[derive(Default)]
struct Selection<'a> {
    below: BTreeMap<&'a Step, Selection<'a>>,
}

impl<'a> Selection<'a> {
    fn add(&mut self, steps: &'a [Step]) {
        if let Some((first, rest)) = steps.split_first() {
            self.below.entry(first).or_default().add(rest);
        }
    }

    fn of(&self, value: &Value) -> Option<Value> {
        if self.below.is_empty() {
            return Some(value.clone());
        }
        match value {
            Value::M(map) => {
                let chosen = self.below.iter().filter_map(|(step, below)| match step {
                    Step::Field(name) => Some((name.clone(), below.of(map.get(name)?)?)),
                    Step::Index(_) => None,
                });
                let chosen: Item = chosen.collect();
                (!chosen.is_empty()).then_some(Value::M(chosen))
            }
            Value::L(list) => {
                let chosen = self.below.iter().filter_map(|(step, below)| match step {
                    Step::Index(index) => below.of(list.get(*index)?),
                    Step::Field(_) => None,
                });
                let chosen: Vec<Value> = chosen.collect();
                (!chosen.is_empty()).then_some(Value::L(chosen))
            }
            _ => None,
        }
    }
}

/// The part of an item that the paths select. Elements of a list close up.
pub fn project(item: &Item, paths: &[Path]) -> Item {
    let mut wanted: BTreeMap<&str, Selection<'_>> = BTreeMap::new();
    for path in paths {
        wanted.entry(&path.attribute).or_default().add(&path.steps);
    }
    let chosen = |(name, selection): (&str, &Selection<'_>)| {
        item.get(name).and_then(|value| selection.of(value)).map(|value| (name.to_owned(), value))
    };
    wanted.iter().filter_map(|(name, selection)| chosen((name, selection))).collect()
}
