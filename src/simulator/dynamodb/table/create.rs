//! CreateTable's parameters, checked.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::super::fail::{Failure, Result};
use super::super::input::Input;
use super::schema::{KeyAttribute, Schema};
use super::{Index, Table};

/// LIMIT: indexes of a table, as documented: 20 global and 5 local ones.
const GLOBAL: usize = 20;
const LOCAL: usize = 5;

/// The table that is asked for. Times, names of resources and the stream are the caller's.
///
/// # Errors
/// A rule of CreateTable is broken.
pub fn created(input: &Input<'_>) -> Result<Table> {
    let name = input.required_text("TableName")?;
    if !(3..=255).contains(&name.len())
        || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    {
        return Err(Failure::invalid(
            "TableName must be at least 3 characters long and at most 255 characters long, of a-z, A-Z, 0-9, '_', '-' and '.'",
        ));
    }
    let definitions = definitions(input)?;
    let schema = schema(input.required("KeySchema")?, &definitions)?;
    let mut indexes = Vec::new();
    for (parameter, local, limit) in [("GlobalSecondaryIndexes", false, GLOBAL), ("LocalSecondaryIndexes", true, LOCAL)]
    {
        let list = input.list(parameter)?;
        if list.len() > limit {
            return Err(Failure::parameter(format!("{parameter} count exceeds the per-table limit of {limit}")));
        }
        for json in list {
            let index = index(&Input::new(json)?, local, &definitions)?;
            if local && (schema.range.is_none() || index.schema.hash != schema.hash) {
                return Err(Failure::parameter(
                    "Table KeySchema does not have a range key, which is required when specifying a LocalSecondaryIndex, or the index has another hash key",
                ));
            }
            indexes.push(index);
        }
    }
    let used = |name: &String| schema.has(name) || indexes.iter().any(|index: &Index| index.schema.has(name));
    if let Some(unused) = definitions.keys().find(|name| !used(name)) {
        return Err(Failure::parameter(format!(
            "Some AttributeDefinitions are not used. AttributeDefinitions: [{}], keys: [{}], unused: {unused}",
            definitions.keys().cloned().collect::<Vec<_>>().join(", "),
            schema.attributes().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", "),
        )));
    }
    let mut tags = BTreeMap::new();
    for tag in input.list("Tags")? {
        let tag = Input::new(tag)?;
        tags.insert(tag.required_text("Key")?.to_owned(), tag.required_text("Value")?.to_owned());
    }
    Ok(Table {
        name: name.to_owned(),
        arn: String::new(),
        id: String::new(),
        created: 0,
        schema,
        definitions: input.required("AttributeDefinitions")?.clone(),
        indexes,
        throughput: throughput(input)?,
        protected: input.flag("DeletionProtectionEnabled")?,
        busy: (0, "CREATING"),
        stream: None,
        latest_stream: None,
        ttl: None,
        recovery: None,
        tags,
        bytes: 0,
        items: BTreeMap::new(),
        expiring: std::collections::BTreeSet::new(),
        ttl_delay: (0, 0),
    })
}

/// The view type that a stream specification asks for, or nothing if it asks for no stream.
///
/// # Errors
/// It is not one.
pub fn view_type(input: &Input<'_>) -> Result<Option<Option<String>>> {
    let Some(stream) = input.part("StreamSpecification")? else { return Ok(None) };
    if !stream.flag("StreamEnabled")? {
        return match stream.text("StreamViewType")? {
            None => Ok(Some(None)),
            Some(_) => Err(Failure::parameter("StreamViewType must not be set when StreamEnabled is false")),
        };
    }
    let view = stream.text("StreamViewType")?.unwrap_or_default();
    if !["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES"].contains(&view) {
        return Err(Failure::parameter(
            "StreamViewType must be one of KEYS_ONLY, NEW_IMAGE, OLD_IMAGE, NEW_AND_OLD_IMAGES",
        ));
    }
    Ok(Some(Some(view.to_owned())))
}

fn definitions(input: &Input<'_>) -> Result<BTreeMap<String, String>> {
    input.required("AttributeDefinitions")?;
    let mut definitions = BTreeMap::new();
    for json in input.list("AttributeDefinitions")? {
        let one = Input::new(json)?;
        let kind = one.required_text("AttributeType")?;
        if !["S", "N", "B"].contains(&kind) {
            return Err(Failure::invalid(format!(
                "1 validation error detected: Value '{kind}' at 'attributeDefinitions.member.attributeType' failed to \
                 satisfy constraint: Member must satisfy enum value set: [B, N, S]"
            )));
        }
        if definitions.insert(one.required_text("AttributeName")?.to_owned(), kind.to_owned()).is_some() {
            return Err(Failure::parameter("Cannot have two attributes with the same name"));
        }
    }
    Ok(definitions)
}

fn schema(json: &Json, definitions: &BTreeMap<String, String>) -> Result<Schema> {
    let list = json.as_array().map(Vec::as_slice).unwrap_or_default();
    let attribute = |at: usize, role: &str| -> Result<Option<KeyAttribute>> {
        let Some(json) = list.get(at) else { return Ok(None) };
        let one = Input::new(json)?;
        if one.required_text("KeyType")? != role {
            return Err(Failure::invalid(format!("Invalid KeySchema: element {} is not a {role} key type", at + 1)));
        }
        let name = one.required_text("AttributeName")?;
        let kind = definitions.get(name).ok_or_else(|| {
            Failure::parameter(format!(
                "Some index key attributes are not defined in AttributeDefinitions. Keys: [{name}], AttributeDefinitions: [{}]",
                definitions.keys().cloned().collect::<Vec<_>>().join(", ")
            ))
        })?;
        Ok(Some(KeyAttribute { name: name.to_owned(), kind: kind.clone() }))
    };
    let hash = attribute(0, "HASH")?.ok_or_else(|| Failure::invalid("KeySchema has no HASH key"))?;
    let range = attribute(1, "RANGE")?;
    if list.len() > 2 || range.as_ref().is_some_and(|range| range.name == hash.name) {
        return Err(Failure::invalid("Invalid KeySchema: too many members, or both the same attribute"));
    }
    Ok(Schema { hash, range })
}

fn index(input: &Input<'_>, local: bool, definitions: &BTreeMap<String, String>) -> Result<Index> {
    let projection = input.required("Projection")?.clone();
    if !["ALL", "KEYS_ONLY", "INCLUDE"].contains(&projection["ProjectionType"].as_str().unwrap_or_default()) {
        return Err(Failure::parameter("Unknown ProjectionType"));
    }
    Ok(Index {
        name: input.required_text("IndexName")?.to_owned(),
        schema: schema(input.required("KeySchema")?, definitions)?,
        local,
        projection,
        throughput: input.json("ProvisionedThroughput").cloned(),
    })
}

fn throughput(input: &Input<'_>) -> Result<Option<Json>> {
    let provisioned = input.part("ProvisionedThroughput")?;
    match (input.text("BillingMode")?.unwrap_or("PROVISIONED"), provisioned) {
        ("PAY_PER_REQUEST", None) => Ok(None),
        ("PAY_PER_REQUEST", Some(_)) => Err(Failure::parameter(
            "Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST",
        )),
        ("PROVISIONED", Some(units)) => {
            let units = |name| {
                units
                    .number(name, 1, u64::MAX)
                    .and_then(|n| n.ok_or_else(|| Failure::parameter(format!("{name} must be specified"))))
            };
            Ok(Some(
                json!({ "ReadCapacityUnits": units("ReadCapacityUnits")?, "WriteCapacityUnits": units("WriteCapacityUnits")? }),
            ))
        }
        ("PROVISIONED", None) => Err(Failure::parameter(
            "ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is PROVISIONED",
        )),
        (mode, _) => Err(Failure::invalid(format!(
            "1 validation error detected: Value '{mode}' at 'billingMode' failed to satisfy constraint: Member must satisfy \
             enum value set: [PROVISIONED, PAY_PER_REQUEST]"
        ))),
    }
}
