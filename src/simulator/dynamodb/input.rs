//! A request's parameters, read with the service's own complaints.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::expression::Names;
use super::fail::{Failure, Kind, Result};
use super::wire;

/// The parameters of a call, or of a part of it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a Map<String, Json>);

/// Older ways to say what expressions say.
const LEGACY: &[&str] = &[
    "Expected",
    "AttributeUpdates",
    "AttributesToGet",
    "KeyConditions",
    "QueryFilter",
    "ScanFilter",
    "ConditionalOperator",
];

impl<'a> Input<'a> {
    /// The parameters in this JSON.
    ///
    /// # Errors
    /// It is no object, or uses the parameters from before there were expressions.
    pub fn new(json: &'a Json) -> Result<Self> {
        let map = json.as_object().ok_or_else(|| {
            Failure::new(Kind::Serialization, "Unexpected value type in payload: an object was expected")
        })?;
        if let Some(name) = LEGACY.iter().find(|name| map.contains_key(**name)) {
            return Err(Failure::invalid(format!(
                "the simulator does not take the legacy parameter {name}; use expressions"
            )));
        }
        Ok(Self(map))
    }

    /// A parameter as it came; null is absent.
    pub fn json(&self, name: &str) -> Option<&'a Json> {
        self.0.get(name).filter(|json| !json.is_null())
    }

    /// A parameter that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn required(&self, name: &str) -> Result<&'a Json> {
        self.json(name).ok_or_else(|| {
            let mut chars = name.chars();
            let lower: String = chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect();
            Failure::invalid(format!(
                "1 validation error detected: Value null at '{lower}' failed to satisfy constraint: Member must not be null"
            ))
        })
    }

    /// A text.
    ///
    /// # Errors
    /// It is something else.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.json(name).map(|json| json.as_str().ok_or_else(|| wrong(name, "a string"))).transpose()
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// It is absent or something else.
    pub fn required_text(&self, name: &str) -> Result<&'a str> {
        self.required(name)?.as_str().ok_or_else(|| wrong(name, "a string"))
    }

    /// A truth, false if absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, name: &str) -> Result<bool> {
        self.json(name).map_or(Ok(false), |json| json.as_bool().ok_or_else(|| wrong(name, "a boolean")))
    }

    /// A number between two bounds.
    ///
    /// # Errors
    /// It is something else, or outside of the bounds.
    pub fn number(&self, name: &str, low: u64, high: u64) -> Result<Option<u64>> {
        let Some(json) = self.json(name) else { return Ok(None) };
        let out = |side: &str, bound: u64| {
            let mut lower = name.to_owned();
            lower[..1].make_ascii_lowercase();
            Failure::invalid(format!(
                "1 validation error detected: Value '{json}' at '{lower}' failed to satisfy constraint: Member must have \
                 value {side} than or equal to {bound}"
            ))
        };
        let number = json.as_i64().ok_or_else(|| wrong(name, "an integer"))?;
        match u64::try_from(number) {
            Ok(number) if number > high => Err(out("less", high)),
            Ok(number) if number >= low => Ok(Some(number)),
            _ => Err(out("greater", low)),
        }
    }

    /// A list, empty if absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn list(&self, name: &str) -> Result<&'a [Json]> {
        match self.json(name) {
            Some(json) => json.as_array().map(Vec::as_slice).ok_or_else(|| wrong(name, "a list")),
            None => Ok(&[]),
        }
    }

    /// A map, if there is one.
    ///
    /// # Errors
    /// It is something else.
    pub fn map(&self, name: &str) -> Result<Option<&'a Map<String, Json>>> {
        self.json(name).map(|json| json.as_object().ok_or_else(|| wrong(name, "an object"))).transpose()
    }

    /// A part with parameters of its own.
    ///
    /// # Errors
    /// It is something else.
    pub fn part(&self, name: &str) -> Result<Option<Self>> {
        self.json(name).map(Self::new).transpose()
    }

    /// `ExpressionAttributeNames` and `ExpressionAttributeValues`.
    ///
    /// # Errors
    /// They are something else.
    pub fn names(&self) -> Result<Names> {
        let mut names = BTreeMap::new();
        for (key, name) in self.map("ExpressionAttributeNames")?.into_iter().flatten() {
            let name = name.as_str().ok_or_else(|| wrong("ExpressionAttributeNames", "a map of strings"))?;
            names.insert(key.clone(), name.to_owned());
        }
        let mut values = BTreeMap::new();
        for (key, value) in self.map("ExpressionAttributeValues")?.into_iter().flatten() {
            let value = wire::value(value).map_err(|failure| Failure {
                message: format!("ExpressionAttributeValues contains invalid value: {} for key {key}", failure.message),
                ..failure
            })?;
            values.insert(key.clone(), value);
        }
        Ok(Names::new(names, values))
    }
}

fn wrong(name: &str, expected: &str) -> Failure {
    Failure::new(Kind::Serialization, format!("Unexpected value type in payload: {name} is {expected}"))
}
