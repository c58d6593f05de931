//! Making tables at a destination: that of the data as Teleport would, or like the source's, and our own beside it. What is
//! there already is never changed.

use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, LocalSecondaryIndex,
    PointInTimeRecoverySpecification, Projection, ProjectionType, ProvisionedThroughput, ScalarAttributeType,
    StreamSpecification, StreamViewType, TableClass, TimeToLiveSpecification,
};
use tokio::time::{Instant, sleep};

use super::connect::Access;
use super::describe::describe;
use super::fault::{Cause, cause, fault};
use super::ledger::{RECORD, STREAM};
use super::shape::{Index, Part, Shape};
use crate::error::{Error, Result};

/// LIMIT: a table is there within a minute; one with indexes may take some.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a table that is being made is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Makes our own table unless it is there.
pub async fn own(access: &Access) -> Result<()> {
    let text = |name: &str| Part { name: name.to_owned(), kind: 'S' };
    let shape = Shape {
        hash: text(STREAM),
        range: Some(text(RECORD)),
        units: None,
        expiry: None,
        stream: None,
        ..Shape::teleport(None)
    };
    let name = &access.options().checkpoints;
    match describe(access, name).await? {
        Some(found) if !found.shape.has_key_of(&shape) => Err(Error::config(format!(
            "use table {name} for checkpoints: its key is {}; set `checkpoint_table` to another name",
            found.shape.key()
        ))),
        Some(_) => wait(access, name).await,
        None => make(access, name, &shape).await,
    }
}

/// Makes the table of the data unless it is there.
pub async fn data(access: &Access, shape: &Shape) -> Result<()> {
    let name = access.table();
    match describe(access, name).await? {
        Some(found) if !found.shape.has_key_of(shape) => Err(Error::config(format!(
            "write to table {name}: its key is {}, and that of what is written is {}; name a table that is not there yet",
            found.shape.key(),
            shape.key()
        ))),
        Some(_) => wait(access, name).await,
        None => {
            make(access, name, shape).await?;
            expire(access, name, shape).await?;
            recover(access, name).await
        }
    }
}

async fn make(access: &Access, name: &str, shape: &Shape) -> Result<()> {
    let attempt = format!("make table {name}");
    let attributes = definitions(shape)?;
    let (key, global) = (key_of(shape)?, shape.global.iter().map(global).collect::<Result<Vec<_>>>()?);
    let local = shape.local.iter().map(local).collect::<Result<Vec<_>>>()?;
    let units = shape.units.map(units).transpose()?;
    let billing = if units.is_some() { BillingMode::Provisioned } else { BillingMode::PayPerRequest };
    let view = shape.stream.as_deref().map(StreamViewType::from);
    let stream = view.map(|view| StreamSpecification::builder().stream_enabled(true).stream_view_type(view).build());
    let stream = stream.transpose().map_err(|_| incomplete())?;
    let answer = access
        .try_ask(&attempt, |client| {
            let question = client
                .create_table()
                .table_name(name)
                .set_attribute_definitions(Some(attributes.clone()))
                .set_key_schema(Some(key.clone()))
                .set_global_secondary_indexes(Some(global.clone()).filter(|all| !all.is_empty()))
                .set_local_secondary_indexes(Some(local.clone()).filter(|all| !all.is_empty()))
                .billing_mode(billing.clone())
                .set_provisioned_throughput(units.clone())
                .set_stream_specification(stream.clone())
                .set_table_class(shape.infrequent.then_some(TableClass::StandardInfrequentAccess));
            async move { question.send().await }
        })
        .await?;
    match answer {
        Ok(_) => {}
        // Somebody else was faster, or the answer to the first try was lost.
        Err(error) if cause(&error) == Cause::InUse => {}
        Err(error) => return Err(fault(&attempt, &error)),
    }
    wait(access, name).await
}

async fn wait(access: &Access, name: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        match describe(access, name).await? {
            Some(found) if found.ready => return Ok(()),
            _ if begun.elapsed() > PATIENCE => {
                return Err(Error::transient(format!("make table {name}: it is not ready after ten minutes")));
            }
            _ => sleep(LOOK).await,
        }
    }
}

async fn expire(access: &Access, name: &str, shape: &Shape) -> Result<()> {
    let Some(attribute) = &shape.expiry else { return Ok(()) };
    let wanted = TimeToLiveSpecification::builder().enabled(true).attribute_name(attribute).build();
    let wanted = wanted.map_err(|_| incomplete())?;
    let attempt = format!("set the expiry of table {name}");
    let set = access.ask(&attempt, |client| {
        let question = client.update_time_to_live().table_name(name).time_to_live_specification(wanted.clone());
        async move { question.send().await }
    });
    set.await.map(drop)
}

async fn recover(access: &Access, name: &str) -> Result<()> {
    if !access.options().recoverable {
        return Ok(());
    }
    let wanted = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
    let wanted = wanted.map_err(|_| incomplete())?;
    let attempt = format!("turn on the continuous backups of table {name}");
    let set = access.ask(&attempt, |client| {
        let question =
            client.update_continuous_backups().table_name(name).point_in_time_recovery_specification(wanted.clone());
        async move { question.send().await }
    });
    set.await.map(drop)
}

fn definitions(shape: &Shape) -> Result<Vec<AttributeDefinition>> {
    let all = [Some(&shape.hash), shape.range.as_ref()].into_iter().flatten().chain(&shape.others);
    let one = |part: &Part| {
        let kind = ScalarAttributeType::from(part.kind.to_string().as_str());
        AttributeDefinition::builder().attribute_name(&part.name).attribute_type(kind).build().map_err(|_| incomplete())
    };
    all.map(one).collect()
}

fn key_of(shape: &Shape) -> Result<Vec<KeySchemaElement>> {
    let range = shape.range.as_ref().map(|range| (range.name.clone(), false));
    [Some((shape.hash.name.clone(), true)), range].into_iter().flatten().map(|part| element(&part)).collect()
}

fn element((name, hash): &(String, bool)) -> Result<KeySchemaElement> {
    let role = if *hash { KeyType::Hash } else { KeyType::Range };
    KeySchemaElement::builder().attribute_name(name).key_type(role).build().map_err(|_| incomplete())
}

fn projection(index: &Index) -> Projection {
    let include = Some(index.include.clone()).filter(|names| !names.is_empty());
    let kind = ProjectionType::from(index.projection.as_str());
    Projection::builder().projection_type(kind).set_non_key_attributes(include).build()
}

fn global(index: &Index) -> Result<GlobalSecondaryIndex> {
    let key = index.key.iter().map(element).collect::<Result<_>>()?;
    GlobalSecondaryIndex::builder()
        .index_name(&index.name)
        .set_key_schema(Some(key))
        .projection(projection(index))
        .set_provisioned_throughput(index.units.map(units).transpose()?)
        .build()
        .map_err(|_| incomplete())
}

fn local(index: &Index) -> Result<LocalSecondaryIndex> {
    let key = index.key.iter().map(element).collect::<Result<_>>()?;
    LocalSecondaryIndex::builder()
        .index_name(&index.name)
        .set_key_schema(Some(key))
        .projection(projection(index))
        .build()
        .map_err(|_| incomplete())
}

fn units((read, write): (i64, i64)) -> Result<ProvisionedThroughput> {
    ProvisionedThroughput::builder()
        .read_capacity_units(read)
        .write_capacity_units(write)
        .build()
        .map_err(|_| incomplete())
}

fn incomplete() -> Error {
    Error::bug("make a table: its description is not complete")
}
