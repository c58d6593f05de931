//! Updates: a list of actions, and an item after them.
//!
//! Every right-hand side sees the item as it was before the update; the order of the clauses does not matter.

use super::super::fail::{Failure, Result};
use super::super::value::{Item, Value};
use super::path::{Path, Step};

/// The right-hand side of a `SET`.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// What lies at a path.
    Path(Path),
    /// A value of the request.
    Value(Value),
    /// What lies at a path, or else the term.
    IfNotExists(Path, Box<Term>),
    /// Two lists one after the other.
    ListAppend(Box<Term>, Box<Term>),
    /// A sum.
    Plus(Box<Term>, Box<Term>),
    /// A difference.
    Minus(Box<Term>, Box<Term>),
}

/// An update.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// `SET path = term`
    pub sets: Vec<(Path, Term)>,
    /// `REMOVE path`
    pub removes: Vec<Path>,
    /// `ADD path value`
    pub adds: Vec<(Path, Value)>,
    /// `DELETE path value`
    pub deletes: Vec<(Path, Value)>,
}

fn invalid(text: &str) -> Failure {
    Failure::invalid(format!("Invalid UpdateExpression: {text}"))
}

fn wrong_operand(operator: &str, value: &Value) -> Failure {
    invalid(&format!(
        "Incorrect operand type for operator or function; operator: {operator}, operand type: {}",
        value.long_kind()
    ))
}

fn mismatch() -> Failure {
    Failure::invalid("An operand in the update expression has an incorrect data type")
}

fn no_way() -> Failure {
    Failure::invalid("The document path provided in the update expression is invalid for update")
}

impl Update {
    /// The paths that it writes.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let sets = self.sets.iter().map(|(path, _)| path);
        let changed = self.adds.iter().chain(&self.deletes).map(|(path, _)| path);
        sets.chain(&self.removes).chain(changed)
    }

    /// Refuses what can be known to be wrong before an item is seen.
    ///
    /// # Errors
    /// Two paths touch each other, or an operand has a type that its action does not take.
    pub fn check(&self) -> Result<()> {
        let paths: Vec<&Path> = self.paths().collect();
        for (at, a) in paths.iter().enumerate() {
            for b in &paths[..at] {
                let both = format!("must remove or rewrite one of these paths; path one: {b}, path two: {a}");
                if a.overlaps(b) {
                    return Err(invalid(&format!("Two document paths overlap with each other; {both}")));
                }
                if a.conflicts(b) {
                    return Err(invalid(&format!("Two document paths conflict with each other; {both}")));
                }
            }
        }
        for (_, value) in &self.adds {
            if !matches!(value, Value::N(_) | Value::Ss(_) | Value::Ns(_) | Value::Bs(_)) {
                return Err(wrong_operand("ADD", value));
            }
        }
        for (_, value) in &self.deletes {
            if !matches!(value, Value::Ss(_) | Value::Ns(_) | Value::Bs(_)) {
                return Err(wrong_operand("DELETE", value));
            }
        }
        self.sets.iter().try_for_each(|(_, term)| term.check())
    }

    /// The item after the update.
    ///
    /// # Errors
    /// The item has something else than the update takes.
    pub fn applied(&self, before: &Item) -> Result<Item> {
        let mut after = before.clone();
        let mut writes: Vec<(&Path, Option<Value>)> = Vec::new();
        for (path, term) in &self.sets {
            writes.push((path, Some(term.of(before)?)));
        }
        for (path, value) in &self.adds {
            writes.push((path, Some(sum(path.find(before), value)?)));
        }
        for (path, value) in &self.deletes {
            match path.find(before) {
                None => {}
                Some(set) => writes.push((path, rest(set, value)?)),
            }
        }
        // Elements beyond a list's end are appended in the order of their indexes, and removed from the back, so that an
        // index means what it meant before the update.
        writes.sort_by(|(a, _), (b, _)| a.steps.cmp(&b.steps));
        let (writes, emptied): (Vec<_>, Vec<_>) = writes.into_iter().partition(|(_, value)| value.is_some());
        for (path, value) in writes {
            write(&mut after, path, value.expect("partitioned by having a value"))?;
        }
        let mut removes: Vec<&Path> = self.removes.iter().chain(emptied.into_iter().map(|(path, _)| path)).collect();
        removes.sort_by(|a, b| b.steps.cmp(&a.steps));
        for path in removes {
            remove(&mut after, path)?;
        }
        Ok(after)
    }
}

impl Term {
    fn check(&self) -> Result<()> {
        match self {
            Self::Path(_) | Self::Value(_) => Ok(()),
            Self::IfNotExists(_, term) => term.check(),
            Self::ListAppend(a, b) => {
                for term in [a, b] {
                    if let Self::Value(value) = term.as_ref()
                        && !matches!(value, Value::L(_))
                    {
                        return Err(wrong_operand("list_append", value));
                    }
                    term.check()?;
                }
                Ok(())
            }
            Self::Plus(a, b) | Self::Minus(a, b) => {
                let sign = if matches!(self, Self::Plus(..)) { "+" } else { "-" };
                for term in [a, b] {
                    if let Self::Value(value) = term.as_ref()
                        && !matches!(value, Value::N(_))
                    {
                        return Err(wrong_operand(sign, value));
                    }
                    term.check()?;
                }
                Ok(())
            }
        }
    }

    fn of(&self, item: &Item) -> Result<Value> {
        match self {
            Self::Path(path) => path.find(item).cloned().ok_or_else(|| {
                Failure::invalid("The provided expression refers to an attribute that does not exist in the item")
            }),
            Self::Value(value) => Ok(value.clone()),
            Self::IfNotExists(path, term) => path.find(item).cloned().map_or_else(|| term.of(item), Ok),
            Self::ListAppend(a, b) => match (a.of(item)?, b.of(item)?) {
                (Value::L(mut a), Value::L(b)) => {
                    a.extend(b);
                    Ok(Value::L(a))
                }
                _ => Err(mismatch()),
            },
            Self::Plus(a, b) => sum_of_numbers(&a.of(item)?, &b.of(item)?, false),
            Self::Minus(a, b) => sum_of_numbers(&a.of(item)?, &b.of(item)?, true),
        }
    }
}

fn sum_of_numbers(a: &Value, b: &Value, minus: bool) -> Result<Value> {
    let (Value::N(a), Value::N(b)) = (a, b) else { return Err(mismatch()) };
    let sum = if minus { a.plus(&b.negated()) } else { a.plus(b) };
    sum.map(Value::N).map_err(|wrong| Failure::invalid(wrong.sentence("")))
}

/// What `ADD` makes of what is there.
fn sum(there: Option<&Value>, value: &Value) -> Result<Value> {
    match (there, value) {
        (None, value) => Ok(value.clone()),
        (Some(number @ Value::N(_)), Value::N(_)) => sum_of_numbers(number, value, false),
        (Some(Value::Ss(a)), Value::Ss(b)) => Ok(Value::Ss(a.union(b).cloned().collect())),
        (Some(Value::Ns(a)), Value::Ns(b)) => Ok(Value::Ns(a.union(b).cloned().collect())),
        (Some(Value::Bs(a)), Value::Bs(b)) => Ok(Value::Bs(a.union(b).cloned().collect())),
        _ => Err(mismatch()),
    }
}

/// What `DELETE` leaves of a set; an empty set is no set.
fn rest(there: &Value, value: &Value) -> Result<Option<Value>> {
    let rest = match (there, value) {
        (Value::Ss(a), Value::Ss(b)) => Value::Ss(a.difference(b).cloned().collect()),
        (Value::Ns(a), Value::Ns(b)) => Value::Ns(a.difference(b).cloned().collect()),
        (Value::Bs(a), Value::Bs(b)) => Value::Bs(a.difference(b).cloned().collect()),
        _ => return Err(mismatch()),
    };
    Ok(rest.length().is_some_and(|n| n > 0).then_some(rest))
}

fn write(item: &mut Item, path: &Path, value: Value) -> Result<()> {
    let Some((last, way)) = path.steps.split_last() else {
        item.insert(path.attribute.clone(), value);
        return Ok(());
    };
    let there = item.get_mut(&path.attribute).ok_or_else(no_way)?;
    match (last, along(there, way).ok_or_else(no_way)?) {
        (Step::Field(name), Value::M(map)) => drop(map.insert(name.clone(), value)),
        (Step::Index(index), Value::L(list)) => match list.get_mut(*index) {
            Some(place) => *place = value,
            None => list.push(value),
        },
        _ => return Err(no_way()),
    }
    Ok(())
}

fn remove(item: &mut Item, path: &Path) -> Result<()> {
    let Some((last, way)) = path.steps.split_last() else {
        item.remove(&path.attribute);
        return Ok(());
    };
    let there = item.get_mut(&path.attribute).ok_or_else(no_way)?;
    match (last, along(there, way).ok_or_else(no_way)?) {
        (Step::Field(name), Value::M(map)) => drop(map.remove(name)),
        (Step::Index(index), Value::L(list)) if *index < list.len() => drop(list.remove(*index)),
        (Step::Index(_), Value::L(_)) => {}
        _ => return Err(no_way()),
    }
    Ok(())
}

fn along<'a>(value: &'a mut Value, way: &[Step]) -> Option<&'a mut Value> {
    way.iter().try_fold(value, |value, step| match (step, value) {
        (Step::Field(name), Value::M(map)) => map.get_mut(name),
        (Step::Index(index), Value::L(list)) => list.get_mut(*index),
        _ => None,
    })
}
