//! What a server says about its tables.
//!
//! Tables are found by pattern, read with everything that is needed to read their rows and to make them again, and
//! judged: a table whose rows cannot be told apart by a key, or whose changes the server would not log, is refused
//! together with all others like it, in one message. Partitioned tables are one table, their root.
//!
//! All statements are read only and run in a transaction of their own with an empty search path, so that every name in
//! a definition comes out qualified. Nothing of a table's contents is read here.

mod key;
mod pattern;
mod read;
mod types;

use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::model::Layout;

use super::conn::translate;
use super::kvrow;
use super::options::Options;
use super::shape::Shape;

pub use pattern::Pattern;

/// Which tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Teleport's `kv`, in the first schema of the search path that has it.
    Teleport,
    /// The tables that match one of the patterns.
    Raw(Vec<Pattern>),
}

impl Scope {
    /// The tables that configuration names.
    ///
    /// # Errors
    /// Config when a pattern is none.
    pub fn of(options: &Options) -> Result<Self> {
        match options.layout {
            Layout::Teleport => Ok(Self::Teleport),
            Layout::Raw => options.tables.iter().map(|pattern| pattern.parse()).collect::<Result<_>>().map(Self::Raw),
        }
    }
}

/// What the tables are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Reading the rows that are there.
    Scan,
    /// Following the changes too: the server has to log the key of every change.
    Tail,
    /// Writing to them by a key that is known from elsewhere: nothing is refused, and the key is empty if there is none.
    Columns,
}

/// A table that cannot be replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Full name.
    pub table: String,
    /// Why, and the statement that helps if there is one.
    pub why: String,
}

/// The tables of a scope.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Those that can be replicated, by name.
    pub tables: Vec<Shape>,
    /// Those that cannot.
    pub refused: Vec<Refusal>,
}

impl Found {
    /// The tables, unless one was refused.
    ///
    /// # Errors
    /// Config, naming all refused tables at once.
    pub fn all(self) -> Result<Vec<Shape>> {
        if self.refused.is_empty() {
            return Ok(self.tables);
        }
        let mut message = format!("replicate tables: {} of them cannot be", self.refused.len());
        for refusal in &self.refused {
            message.push_str(&format!("; {}: {}", refusal.table, refusal.why));
        }
        message.push_str("; change them or leave them out of `tables`");
        Err(Error::config(message))
    }
}

/// Finds the tables of a scope and reads what they look like. The bodies' form is decided for all of them together.
/// Not within a transaction.
///
/// # Errors
/// Config when a pattern matches nothing, names something that is no table, or Teleport's table is missing or not as
/// Teleport makes it.
pub async fn find(client: &Client, scope: &Scope, need: Need) -> Result<Found> {
    in_transaction(client, async {
        let patterns = match scope {
            Scope::Teleport => return teleport(client, read::kv_required(client).await?, need).await,
            Scope::Raw(patterns) => patterns,
        };
        let (oids, mut refused) = read::matching(client, patterns).await?;
        let mut found = read::tables(client, &oids, need).await?;
        refused.append(&mut found.refused);
        found.refused = refused;
        let binary = binary_is_portable(&found.tables) && read::version(client).await? >= 140_000;
        found.tables.iter_mut().for_each(|shape| set_form(shape, binary));
        Ok(found)
    })
    .await
}

/// The tables of a sink that belong to these tables of a source, as far as they are there: keys and form of bodies are
/// the source's, columns are found by name. Not within a transaction.
///
/// # Errors
/// Config when a table lacks a column of the source's key, or Teleport's table is not as Teleport makes it.
pub async fn counterparts(client: &Client, sources: &[Shape]) -> Result<Vec<Shape>> {
    in_transaction(client, async {
        let names: Vec<_> = sources.iter().map(|shape| (shape.schema.clone(), shape.name.clone())).collect();
        let oids = read::named(client, &names).await?;
        let mut found = read::tables(client, &oids, Need::Columns).await?;
        for shape in &mut found.tables {
            let source = sources.iter().find(|source| source.schema == shape.schema && source.name == shape.name);
            follow(shape, source.ok_or_else(|| Error::bug("a table that was asked for by name has another"))?)?;
        }
        Ok(found.tables)
    })
    .await
}

/// Teleport's table of a sink, if it is there. Not within a transaction.
///
/// # Errors
/// Config when it is not as Teleport makes it.
pub async fn teleport_counterpart(client: &Client) -> Result<Option<Shape>> {
    in_transaction(client, async {
        let Some(oid) = read::kv(client).await? else { return Ok(None) };
        teleport(client, oid, Need::Scan).await?.all().map(|mut tables| tables.pop())
    })
    .await
}

/// Teleport's table. Its bodies are binary at every server; where a server streams text, [`kvrow::Kv::to_binary`] is
/// what the stream's bodies pass through.
async fn teleport(client: &Client, oid: u32, need: Need) -> Result<Found> {
    let mut found = read::tables(client, &[oid], need).await?;
    for shape in &mut found.tables {
        kvrow::Kv::of(shape)?;
        shape.flat_key = true;
        set_form(shape, true);
        if shape.key.len() != 1 || shape.key.iter().any(|&column| shape.columns[column].name != "key") {
            return Err(Error::config(format!(
                "read table {:?}: its primary key is not the column key, so it is not a Teleport backend of schema \
                 version 2",
                shape.full_name()
            )));
        }
    }
    Ok(found)
}

/// Gives a sink's table the key of the source's, and its columns the form that the source's have.
fn follow(shape: &mut Shape, source: &Shape) -> Result<()> {
    shape.flat_key = source.flat_key;
    shape.binary = source.binary;
    let mut key = Vec::new();
    for column in source.key.iter().filter_map(|&index| source.columns.get(index)) {
        key.push(shape.column(&column.name).ok_or_else(|| {
            Error::config(format!(
                "read table {:?} of the destination: it has no column {:?}, which is part of the source's key",
                shape.full_name(),
                column.name
            ))
        })?);
    }
    shape.key = key;
    for column in &mut shape.columns {
        let like = source.columns.iter().find(|like| like.name == column.name);
        column.binary = like.map_or(source.binary && column.sendable, |like| like.binary);
    }
    Ok(())
}

/// Reads tables by their oids (roots of partitioned tables, not partitions), in the form of bodies that the source has
/// decided on. Not within a transaction.
///
/// # Errors
/// As the server's.
pub async fn by_oid(client: &Client, oids: &[u32], need: Need, binary: bool) -> Result<Found> {
    in_transaction(client, async {
        let mut found = read::tables(client, oids, need).await?;
        found.tables.iter_mut().for_each(|shape| set_form(shape, binary));
        Ok(found)
    })
    .await
}

/// Whether the binary form of every column means the same at another server: no object ids of types or names that
/// users made are in it. (Servers before version 14 have no binary stream; that is not looked at here.)
pub fn binary_is_portable(tables: &[Shape]) -> bool {
    tables.iter().all(|shape| shape.portable)
}

/// Says in which form the bodies of a table are.
pub fn set_form(shape: &mut Shape, binary: bool) {
    shape.binary = binary;
    shape.columns.iter_mut().for_each(|column| column.binary = binary && column.sendable);
}

/// Last value of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceValue {
    /// Schema, not quoted.
    pub schema: String,
    /// Name, not quoted.
    pub name: String,
    /// `INCREMENT`.
    pub increment: i64,
    /// `MINVALUE`.
    pub min: i64,
    /// `MAXVALUE`.
    pub max: i64,
    /// The last value that was given out, or the first one that will be.
    pub last_value: i64,
    /// Whether `last_value` was given out.
    pub is_called: bool,
}

/// The values of all sequences that columns of these tables draw from.
///
/// # Errors
/// As the server's.
pub async fn sequence_values(client: &Client, tables: &[&Shape]) -> Result<Vec<SequenceValue>> {
    let mut values = Vec::new();
    for sequence in tables.iter().flat_map(|shape| &shape.sequences) {
        let name = super::ddl::qualified(&sequence.schema, &sequence.name);
        let row = client
            .query_one(&format!("select last_value, is_called from {name}"), &[])
            .await
            .map_err(|error| translate(&error, "read a sequence"))?;
        values.push(SequenceValue {
            schema: sequence.schema.clone(),
            name: sequence.name.clone(),
            increment: sequence.increment,
            min: sequence.min,
            max: sequence.max,
            last_value: read::get(&row, 0)?,
            is_called: read::get(&row, 1)?,
        });
    }
    Ok(values)
}

async fn in_transaction<T>(client: &Client, work: impl Future<Output = Result<T>>) -> Result<T> {
    let run = async |sql| client.batch_execute(sql).await.map_err(|error| translate(&error, "read the catalog"));
    run("begin isolation level repeatable read read only").await?;
    let result = work.await;
    // After a failure the connection may be gone too; the first error is the one that says what happened.
    let end = run("rollback").await;
    result.and_then(|result| end.map(|()| result))
}
