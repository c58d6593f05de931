//! What a table is and how it is set, asked of the service. Changes nothing.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndexDescription, KeySchemaElement, KeyType,
    LocalSecondaryIndexDescription, Projection, ProvisionedThroughputDescription, TableClass, TableDescription,
    TableStatus, TimeToLiveStatus,
};

use super::connect::Access;
use super::fault::{Cause, cause, fault};
use super::shape::{Index, Part, Shape};
use crate::error::{Error, Result};

/// A table as it is.
#[derive(Clone, Debug)]
pub struct Described {
    /// What it is.
    pub shape: Shape,
    /// What no other table has, whatever it is called.
    pub id: String,
    /// Its full name.
    pub arn: String,
    /// Whether it can be read and written.
    pub ready: bool,
    /// Items, as the service counted them some hours ago.
    pub items: u64,
    /// Bytes, as the service counted them some hours ago.
    pub bytes: u64,
    /// Whether it is the layout of Teleport before 2018.
    pub ancient: bool,
}

/// The table of this name; `None` if there is none.
pub async fn describe(access: &Access, name: &str) -> Result<Option<Described>> {
    let attempt = format!("look at table {name}");
    let answer = access
        .try_ask(&attempt, |client| {
            let question = client.describe_table().table_name(name);
            async move { question.send().await }
        })
        .await?;
    match answer {
        Ok(answer) => {
            let table = answer.table.ok_or_else(|| Error::corrupt(format!("{attempt}: the answer is empty")))?;
            read(&table).map(Some).map_err(|error| error.during(&attempt))
        }
        Err(error) if cause(&error) == Cause::Missing => Ok(None),
        Err(error) => Err(fault(&attempt, &error)),
    }
}

/// As [`describe`], and it must be there and ready.
pub async fn present(access: &Access, name: &str) -> Result<Described> {
    match describe(access, name).await? {
        Some(table) if table.ready => Ok(table),
        Some(_) => Err(Error::transient(format!("look at table {name}: it is being made, changed or removed"))),
        None => Err(Error::config(format!(
            "look at table {name}: it is not there; look at `table_name`, `region` and the account"
        ))),
    }
}

/// The attribute on which a table's items expire, if they do.
pub async fn expiry(access: &Access, name: &str) -> Result<Option<String>> {
    let answer = access
        .ask(&format!("look at the expiry of table {name}"), |client| {
            let question = client.describe_time_to_live().table_name(name);
            async move { question.send().await }
        })
        .await?;
    let on = |status: &TimeToLiveStatus| matches!(status, TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling);
    let found = answer.time_to_live_description;
    Ok(found.filter(|found| found.time_to_live_status().is_some_and(on)).and_then(|found| found.attribute_name))
}

fn read(table: &TableDescription) -> Result<Described> {
    let attributes = table.attribute_definitions();
    let key = table.key_schema();
    let (hash, range) = (part(key, &KeyType::Hash, attributes), part(key, &KeyType::Range, attributes));
    let hash = hash.ok_or_else(|| Error::corrupt("its key is not described"))?;
    let named = |part: &Part| part.name == hash.name || range.as_ref().is_some_and(|range| range.name == part.name);
    let others = attributes.iter().map(defined).filter(|part| !named(part)).collect();
    let billing = table.billing_mode_summary().and_then(|billing| billing.billing_mode());
    let on_demand = billing == Some(&BillingMode::PayPerRequest);
    let units_of = |units: Option<&ProvisionedThroughputDescription>| {
        let units = units.map(|units| (units.read_capacity_units(), units.write_capacity_units()));
        let units = units.and_then(|(read, write)| read.zip(write)).filter(|(read, write)| *read > 0 && *write > 0);
        units.filter(|_| !on_demand)
    };
    let global = |index: &GlobalSecondaryIndexDescription| {
        let mut found = index_of(index.index_name(), index.key_schema(), index.projection());
        found.units = units_of(index.provisioned_throughput());
        found
    };
    let local =
        |index: &LocalSecondaryIndexDescription| index_of(index.index_name(), index.key_schema(), index.projection());
    let stream = table.stream_specification().filter(|stream| stream.stream_enabled());
    let infrequent = table.table_class_summary().and_then(|class| class.table_class());
    Ok(Described {
        id: table.table_id().or(table.table_arn()).unwrap_or_default().to_owned(),
        arn: table.table_arn().unwrap_or_default().to_owned(),
        ready: matches!(table.table_status(), Some(TableStatus::Active | TableStatus::Updating)),
        items: table.item_count().and_then(|items| u64::try_from(items).ok()).unwrap_or(0),
        bytes: table.table_size_bytes().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        ancient: attributes.iter().any(|attribute| attribute.attribute_name() == "Key"),
        shape: Shape {
            hash,
            range,
            others,
            global: table.global_secondary_indexes().iter().map(global).collect(),
            local: table.local_secondary_indexes().iter().map(local).collect(),
            units: units_of(table.provisioned_throughput()),
            expiry: None,
            stream: stream.and_then(|stream| stream.stream_view_type()).map(|view| view.as_str().to_owned()),
            infrequent: infrequent == Some(&TableClass::StandardInfrequentAccess),
        },
    })
}

fn part(key: &[KeySchemaElement], role: &KeyType, attributes: &[AttributeDefinition]) -> Option<Part> {
    let name = key.iter().find(|element| element.key_type() == role)?.attribute_name();
    attributes.iter().find(|attribute| attribute.attribute_name() == name).map(defined)
}

fn defined(attribute: &AttributeDefinition) -> Part {
    let kind = attribute.attribute_type().as_str().chars().next().unwrap_or('S');
    Part { name: attribute.attribute_name().to_owned(), kind }
}

fn index_of(name: Option<&str>, key: &[KeySchemaElement], projection: Option<&Projection>) -> Index {
    let kind = projection.and_then(|projection| projection.projection_type());
    let element =
        |element: &KeySchemaElement| (element.attribute_name().to_owned(), *element.key_type() == KeyType::Hash);
    Index {
        name: name.unwrap_or_default().to_owned(),
        key: key.iter().map(element).collect(),
        projection: kind.map_or("ALL", |kind| kind.as_str()).to_owned(),
        include: projection.map(|projection| projection.non_key_attributes().to_vec()).unwrap_or_default(),
        units: None,
    }
}
