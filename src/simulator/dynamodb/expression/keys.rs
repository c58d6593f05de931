//! Key conditions: one partition, and a range of its sort keys.

use super::super::fail::{Failure, Result};
use super::super::value::Value;
use super::condition::{Comparator, Compared, Condition};
use super::path::Path;

/// Which sort keys.
#[derive(Clone, Debug, PartialEq)]
pub enum SortCondition {
    /// Compared with one value.
    Compare(Comparator, Value),
    /// Between two, both included.
    Between(Value, Value),
    /// Those that begin so.
    BeginsWith(Value),
}

/// What a Query reads.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyCondition {
    /// The partition.
    pub hash: Value,
    /// Which of its items; all of them without.
    pub sort: Option<SortCondition>,
}

impl KeyCondition {
    /// Finds the two parts in a condition, in any order.
    ///
    /// # Errors
    /// The condition is something else than the two parts that a Query takes.
    pub fn of(condition: &Condition, hash: &str, range: Option<&str>) -> Result<Self> {
        let parts: Vec<&Condition> = match condition {
            Condition::And(a, b) => vec![a, b],
            one => vec![one],
        };
        let mut found: (Option<Value>, Option<SortCondition>) = (None, None);
        for part in parts {
            let (name, sort) = one(part)?;
            if name == hash {
                let SortCondition::Compare(Comparator::Equal, value) = sort else {
                    return Err(Failure::invalid("Query key condition not supported"));
                };
                if found.0.replace(value).is_some() {
                    return Err(Failure::invalid(
                        "Invalid KeyConditionExpression: KeyConditionExpressions must only contain one condition per key",
                    ));
                }
            } else if Some(name) == range {
                if found.1.replace(sort).is_some() {
                    return Err(Failure::invalid(
                        "Invalid KeyConditionExpression: KeyConditionExpressions must only contain one condition per key",
                    ));
                }
            } else {
                let missed = if found.0.is_some() || range.is_none() { range.unwrap_or(hash) } else { hash };
                return Err(missing(missed));
            }
        }
        let hash = found.0.ok_or_else(|| missing(hash))?;
        Ok(Self { hash, sort: found.1 })
    }
}

fn missing(name: &str) -> Failure {
    Failure::invalid(format!("Query condition missed key schema element: {name}"))
}

/// One comparison of a top-level attribute with values of the request.
fn one(condition: &Condition) -> Result<(&str, SortCondition)> {
    let unsupported = || Failure::invalid("Query key condition not supported");
    match condition {
        Condition::Compare(how, Compared::Path(path), Compared::Value(value)) if *how != Comparator::Different => {
            Ok((name(path)?, SortCondition::Compare(*how, value.clone())))
        }
        Condition::Compare(how, Compared::Value(value), Compared::Path(path)) => {
            let turned = match how {
                Comparator::Equal => Comparator::Equal,
                Comparator::Less => Comparator::Greater,
                Comparator::AtMost => Comparator::AtLeast,
                Comparator::Greater => Comparator::Less,
                Comparator::AtLeast => Comparator::AtMost,
                Comparator::Different => return Err(unsupported()),
            };
            Ok((name(path)?, SortCondition::Compare(turned, value.clone())))
        }
        Condition::Between(Compared::Path(path), Compared::Value(low), Compared::Value(high)) => {
            Ok((name(path)?, SortCondition::Between(low.clone(), high.clone())))
        }
        Condition::BeginsWith(Compared::Path(path), Compared::Value(start)) => {
            Ok((name(path)?, SortCondition::BeginsWith(start.clone())))
        }
        _ => Err(Failure::invalid(
            "Invalid operator used in KeyConditionExpression: OR, NOT, <> and IN have no place there",
        )),
    }
}

fn name(path: &Path) -> Result<&str> {
    if path.steps.is_empty() {
        return Ok(&path.attribute);
    }
    Err(Failure::invalid(
        "Invalid KeyConditionExpression: KeyConditionExpressions cannot have conditions on nested attributes",
    ))
}
