//! Conditions and filters: a tree, and whether an item meets it.

use std::cmp::Ordering;

use super::super::fail::{Failure, Result};
use super::super::number::Number;
use super::super::value::{Item, Value};
use super::path::Path;

/// Something that is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Compared {
    /// What lies at a path.
    Path(Path),
    /// A value of the request.
    Value(Value),
    /// The size of what lies at a path.
    Size(Path),
}

impl Compared {
    fn of(&self, item: &Item) -> Option<Value> {
        match self {
            Self::Path(path) => path.find(item).cloned(),
            Self::Value(value) => Some(value.clone()),
            Self::Size(path) => {
                let length = path.find(item)?.length()?;
                Some(Value::N(Number::parse(&length.to_string()).expect("a length is a number")))
            }
        }
    }
}

/// How two operands are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparator {
    /// `=`
    Equal,
    /// `<>`
    Different,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

impl Comparator {
    /// The comparator written so.
    pub fn of(sign: &str) -> Option<Self> {
        Some(match sign {
            "=" => Self::Equal,
            "<>" => Self::Different,
            "<" => Self::Less,
            "<=" => Self::AtMost,
            ">" => Self::Greater,
            ">=" => Self::AtLeast,
            _ => return None,
        })
    }

    /// Its sign.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Different => "<>",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        }
    }

    /// Whether it orders, and so takes scalars alone.
    pub fn orders(self) -> bool {
        !matches!(self, Self::Equal | Self::Different)
    }

    fn holds(self, a: Option<&Value>, b: Option<&Value>) -> bool {
        match self {
            Self::Equal => a.is_some() && a == b,
            Self::Different => a != b,
            Self::Less => order(a, b) == Some(Ordering::Less),
            Self::AtMost => order(a, b).is_some_and(Ordering::is_le),
            Self::Greater => order(a, b) == Some(Ordering::Greater),
            Self::AtLeast => order(a, b).is_some_and(Ordering::is_ge),
        }
    }
}

/// The order of two scalars of one type.
fn order(a: Option<&Value>, b: Option<&Value>) -> Option<Ordering> {
    match (a?, b?) {
        (Value::S(a), Value::S(b)) => Some(a.cmp(b)),
        (Value::N(a), Value::N(b)) => Some(a.cmp(b)),
        (Value::B(a), Value::B(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// Either.
    Or(Box<Condition>, Box<Condition>),
    /// Both.
    And(Box<Condition>, Box<Condition>),
    /// Not.
    Not(Box<Condition>),
    /// A comparison.
    Compare(Comparator, Compared, Compared),
    /// Between two bounds, both included.
    Between(Compared, Compared, Compared),
    /// One of a list.
    In(Compared, Vec<Compared>),
    /// There is something.
    Exists(Path),
    /// There is nothing.
    Absent(Path),
    /// It has this type.
    HasType(Path, String),
    /// It begins so.
    BeginsWith(Compared, Compared),
    /// It contains this.
    Contains(Compared, Compared),
}

impl Condition {
    /// Whether an item meets it. An item that is not there is an empty one.
    pub fn holds(&self, item: &Item) -> bool {
        match self {
            Self::Or(a, b) => a.holds(item) || b.holds(item),
            Self::And(a, b) => a.holds(item) && b.holds(item),
            Self::Not(a) => !a.holds(item),
            Self::Compare(how, a, b) => how.holds(a.of(item).as_ref(), b.of(item).as_ref()),
            Self::Between(value, low, high) => {
                let value = value.of(item);
                Comparator::AtLeast.holds(value.as_ref(), low.of(item).as_ref())
                    && Comparator::AtMost.holds(value.as_ref(), high.of(item).as_ref())
            }
            Self::In(value, list) => {
                let value = value.of(item);
                value.is_some() && list.iter().any(|one| one.of(item) == value)
            }
            Self::Exists(path) => path.find(item).is_some(),
            Self::Absent(path) => path.find(item).is_none(),
            Self::HasType(path, kind) => path.find(item).is_some_and(|value| value.kind() == kind),
            Self::BeginsWith(value, start) => match (value.of(item), start.of(item)) {
                (Some(Value::S(value)), Some(Value::S(start))) => value.starts_with(&start),
                (Some(Value::B(value)), Some(Value::B(start))) => value.starts_with(&start),
                _ => false,
            },
            Self::Contains(value, part) => contains(value.of(item).as_ref(), part.of(item).as_ref()),
        }
    }
}

impl Condition {
    /// Whether it speaks of an attribute for which this is true.
    pub fn mentions(&self, wanted: &dyn Fn(&str) -> bool) -> bool {
        let operand = |operand: &Compared| match operand {
            Compared::Path(path) | Compared::Size(path) => wanted(&path.attribute),
            Compared::Value(_) => false,
        };
        match self {
            Self::Or(a, b) | Self::And(a, b) => a.mentions(wanted) || b.mentions(wanted),
            Self::Not(a) => a.mentions(wanted),
            Self::Compare(_, a, b) | Self::BeginsWith(a, b) | Self::Contains(a, b) => operand(a) || operand(b),
            Self::Between(a, b, c) => operand(a) || operand(b) || operand(c),
            Self::In(a, list) => operand(a) || list.iter().any(operand),
            Self::Exists(path) | Self::Absent(path) | Self::HasType(path, _) => wanted(&path.attribute),
        }
    }
}

fn contains(whole: Option<&Value>, part: Option<&Value>) -> bool {
    match (whole, part) {
        (Some(Value::S(whole)), Some(Value::S(part))) => whole.contains(part.as_str()),
        (Some(Value::B(whole)), Some(Value::B(part))) => {
            part.is_empty() || whole.windows(part.len()).any(|window| window == part.as_slice())
        }
        (Some(Value::Ss(set)), Some(Value::S(part))) => set.contains(part),
        (Some(Value::Ns(set)), Some(Value::N(part))) => set.contains(part),
        (Some(Value::Bs(set)), Some(Value::B(part))) => set.contains(part),
        (Some(Value::L(list)), Some(part)) => list.contains(part),
        _ => false,
    }
}

/// Refuses what can be known to be wrong before any item is seen.
pub fn checked(condition: Condition, what: &str) -> Result<Condition> {
    let wrong_type = |operator: &str, value: &Value, word: &str| {
        Failure::invalid(format!(
            "Invalid {what}: Incorrect operand type for operator or function; {word}: {operator}, operand type: {}",
            value.kind()
        ))
    };
    let first = match &condition {
        Condition::Compare(how, a, b) if a == b => Some((how.sign(), a)),
        Condition::Between(a, low, high) if a == low || a == high => Some(("BETWEEN", a)),
        Condition::In(a, list) if list.contains(a) => Some(("IN", a)),
        _ => None,
    };
    if let Some((sign, Compared::Path(path))) = first {
        return Err(Failure::invalid(format!(
            "Invalid {what}: The first operand must be distinct from the remaining operands for this operator or function; \
             operator: {sign}, first operand: {path}"
        )));
    }
    match &condition {
        Condition::Compare(how, a, b) if how.orders() => {
            for operand in [a, b] {
                if let Compared::Value(value) = operand
                    && !value.is_scalar()
                {
                    return Err(wrong_type(how.sign(), value, "operator"));
                }
            }
        }
        Condition::Between(_, Compared::Value(low), Compared::Value(high)) => {
            let order = order(Some(low), Some(high));
            if low.kind() != high.kind() {
                return Err(Failure::invalid(format!(
                    "Invalid {what}: The BETWEEN operator requires same data type for lower and upper bounds; lower \
                     bound operand: AttributeValue: {{{}}}, upper bound operand: AttributeValue: {{{}}}",
                    low.kind(),
                    high.kind()
                )));
            }
            match order {
                None => return Err(wrong_type("BETWEEN", low, "operator")),
                Some(Ordering::Greater) => {
                    return Err(Failure::invalid(format!(
                        "Invalid {what}: The BETWEEN operator requires upper bound to be greater than or equal to lower \
                         bound"
                    )));
                }
                Some(_) => {}
            }
        }
        Condition::BeginsWith(_, Compared::Value(value)) if !matches!(value, Value::S(_) | Value::B(_)) => {
            return Err(wrong_type("begins_with", value, "operator or function"));
        }
        _ => {}
    }
    Ok(condition)
}
