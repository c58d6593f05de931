//! Attribute values between the JSON of the protocol and the model.
//!
//! What the protocol has no place for (two types in one value, an empty set, a 33rd level) is refused here, so that the rest never
//! meets it. Text of a set comes back sorted: sets have no order.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value as Json, json};

use super::fail::{Failure, Kind, Result};
use super::number::Number;
use super::value::{Item, Value};

/// LIMIT: levels of values within each other, as documented: a list in a list is two, and what is in it a third one.
const DEPTH: usize = 32;

/// An item as a request has it.
///
/// # Errors
/// A value that DynamoDB does not take.
pub fn item(json: &Json) -> Result<Item> {
    members(object(json)?, 0)
}

/// A value as a request has it.
///
/// # Errors
/// A value that DynamoDB does not take.
pub fn value(json: &Json) -> Result<Value> {
    nested(json, 0)
}

/// An item as an answer has it.
pub fn item_json(item: &Item) -> Json {
    Json::Object(item.iter().map(|(name, value)| (name.clone(), value_json(value))).collect())
}

/// A value as an answer has it.
pub fn value_json(value: &Value) -> Json {
    match value {
        Value::S(text) => json!({ "S": text }),
        Value::N(number) => json!({ "N": number.to_string() }),
        Value::B(bytes) => json!({ "B": BASE64.encode(bytes) }),
        Value::Bool(truth) => json!({ "BOOL": truth }),
        Value::Null => json!({ "NULL": true }),
        Value::Ss(set) => json!({ "SS": set }),
        Value::Ns(set) => json!({ "NS": set.iter().map(Number::to_string).collect::<Vec<_>>() }),
        Value::Bs(set) => json!({ "BS": set.iter().map(|bytes| BASE64.encode(bytes)).collect::<Vec<_>>() }),
        Value::L(list) => json!({ "L": list.iter().map(value_json).collect::<Vec<_>>() }),
        Value::M(map) => json!({ "M": item_json(map) }),
    }
}

fn serialization(message: &str) -> Failure {
    Failure::new(Kind::Serialization, message)
}

fn object(json: &Json) -> Result<&Map<String, Json>> {
    json.as_object().ok_or_else(|| serialization("Unexpected value type in payload: an object was expected"))
}

fn text(json: &Json) -> Result<&str> {
    json.as_str().ok_or_else(|| serialization("Unexpected value type in payload: a string was expected"))
}

fn list(json: &Json) -> Result<&Vec<Json>> {
    json.as_array().ok_or_else(|| serialization("Unexpected value type in payload: a list was expected"))
}

fn members(map: &Map<String, Json>, depth: usize) -> Result<Item> {
    map.iter().map(|(name, json)| Ok((name.clone(), nested(json, depth)?))).collect()
}

fn number(json: &Json) -> Result<Number> {
    let text = text(json)?;
    Number::parse(text).map_err(|wrong| Failure::invalid(wrong.sentence(text)))
}

fn bytes(json: &Json) -> Result<Vec<u8>> {
    BASE64.decode(text(json)?).map_err(|_| serialization("Invalid base64 in a binary value"))
}

fn set<T: Ord>(json: &Json, what: &str, one: impl Fn(&Json) -> Result<T>) -> Result<BTreeSet<T>> {
    let list = list(json)?;
    if list.is_empty() {
        return Err(Failure::parameter(what));
    }
    let set: BTreeSet<T> = list.iter().map(one).collect::<Result<_>>()?;
    if set.len() < list.len() {
        let shown: Vec<&str> = list.iter().filter_map(Json::as_str).collect();
        return Err(Failure::parameter(format!("Input collection [{}] contains duplicates.", shown.join(", "))));
    }
    Ok(set)
}

fn nested(json: &Json, depth: usize) -> Result<Value> {
    if depth >= DEPTH {
        return Err(Failure::invalid(
            "Nesting Levels have exceeded supported limits: Attributes should have no more than 32 levels deep",
        ));
    }
    let map = object(json)?;
    let mut set_members = map.iter().filter(|(_, value)| !value.is_null());
    let Some((kind, inner)) = set_members.next() else {
        return Err(Failure::invalid(
            "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes",
        ));
    };
    if set_members.next().is_some() {
        return Err(Failure::invalid(
            "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes",
        ));
    }
    Ok(match kind.as_str() {
        "S" => Value::S(text(inner)?.to_owned()),
        "N" => Value::N(number(inner)?),
        "B" => Value::B(bytes(inner)?),
        "BOOL" => Value::Bool(inner.as_bool().ok_or_else(|| serialization("A BOOL is true or false"))?),
        "NULL" if inner.as_bool() == Some(true) => Value::Null,
        "NULL" => return Err(Failure::parameter("Null attribute value types must have the value of true")),
        "SS" => Value::Ss(set(inner, "An string set  may not be empty", |one| Ok(text(one)?.to_owned()))?),
        "NS" => Value::Ns(set(inner, "An number set  may not be empty", number)?),
        "BS" => Value::Bs(set(inner, "Binary sets should not be empty", bytes)?),
        "L" => Value::L(list(inner)?.iter().map(|one| nested(one, depth + 1)).collect::<Result<_>>()?),
        "M" => Value::M(members(object(inner)?, depth + 1)?),
        _ => {
            return Err(Failure::invalid(
                "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes",
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_back_as_it_went() {
        let json = json!({
            "s": {"S": ""}, "n": {"N": "-12.5"}, "b": {"B": "AAH/"}, "t": {"BOOL": false}, "z": {"NULL": true},
            "ss": {"SS": ["", "a"]}, "ns": {"NS": ["1", "2"]}, "bs": {"BS": ["", "AA=="]},
            "l": {"L": [{"N": "1"}, {"L": []}]}, "m": {"M": {"k": {"M": {}}}},
        });
        assert_eq!(item_json(&item(&json).unwrap()), json);
    }

    #[test]
    fn what_no_type_allows_is_refused() {
        let refused = [
            json!({}),
            json!({"S": "a", "N": "1"}),
            json!({"SS": []}),
            json!({"NS": ["1", "1.0"]}),
            json!({"NULL": false}),
            json!({"N": "1e126"}),
            json!({"X": "a"}),
        ];
        for json in refused {
            assert_eq!(value(&json).unwrap_err().kind, Kind::Validation, "{json}");
        }
        for json in [json!({"S": 1}), json!({"B": "*"}), json!("a")] {
            assert_eq!(value(&json).unwrap_err().kind, Kind::Serialization, "{json}");
        }
    }

    #[test]
    fn a_thirty_third_level_is_refused() {
        let deep = |levels| (0..levels).fold(json!({"NULL": true}), |inner, _| json!({"L": [inner]}));
        assert!(value(&deep(31)).is_ok());
        assert!(value(&deep(32)).is_err());
    }
}
