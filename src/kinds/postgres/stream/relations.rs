//! From a table as the stream describes it to the table that its changes name.
//!
//! The stream knows a table's columns at the place where it stands, the catalog knows all about the table, but as it is
//! now. Invariant: a body's columns are those of its table's shape; a change of the table that the sink cannot follow by
//! itself stops the stream with a sentence, and nothing is guessed. A column that was added is followed. What happened
//! while nothing was followed is not seen here: that is between the catalogs of both sides.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::error::{Error, Result};
use crate::kinds::postgres::catalog::{self, SequenceValue};
use crate::kinds::postgres::kvrow::Kv;
use crate::kinds::postgres::shape::{Column, Shape};
use crate::kinds::postgres::wire::pgoutput::{Relation, RelationColumn, Tuple};
use crate::model::Table;
use crate::source::Fut;

/// What the stream asks of the catalog.
pub(super) trait Definitions: Send + Sync {
    /// A table as it is now; `None` if it is not there any more.
    fn shape(&self, oid: u32) -> Fut<'_, Option<Shape>>;
    /// A type as `format_type` prints it.
    fn type_name(&self, oid: u32, typmod: i32) -> Fut<'_, String>;
    /// The sequences that are to be carried, as they are now.
    fn sequences(&self) -> Fut<'_, Vec<SequenceValue>>;
    /// Whether the table is one that is replicated; publications made by others may hold more.
    fn takes(&self, schema: &str, name: &str) -> bool;
}

/// A table whose changes are followed.
pub(super) struct Followed {
    pub(super) table: Arc<Table>,
    pub(super) shape: Shape,
    /// Where rows of Teleport's `kv` come as text (servers before version 14): how they become binary.
    pub(super) text: Option<Kv>,
}

impl Followed {
    /// A tuple in the form that bodies of the table have; `space` holds it if it came in the other.
    #[inline]
    pub(super) fn settle<'t>(&self, tuple: Tuple<'t>, space: &'t mut Vec<u8>) -> Result<Tuple<'t>> {
        let Some(kv) = &self.text else { return Ok(tuple) };
        kv.to_binary(tuple.body, space)?;
        Ok(Tuple { body: space, ..tuple })
    }
}

/// The tables that this stream has described, by oid; `None` for those that are none of ours.
#[derive(Default)]
pub(super) struct Relations(HashMap<u32, Option<Followed>, foldhash::fast::RandomState>);

impl Relations {
    /// The table of a change.
    #[inline]
    pub(super) fn get(&self, oid: u32) -> Result<Option<&Followed>> {
        match self.0.get(&oid) {
            Some(known) => Ok(known.as_ref()),
            None => Err(Error::corrupt("read the PostgreSQL stream: a change of a table that it has not described")),
        }
    }

    #[cfg(test)]
    pub(super) fn insert(&mut self, oid: u32, followed: Option<Followed>) {
        self.0.insert(oid, followed);
    }

    /// What to call a table in a message.
    pub(super) fn name(&self, oid: u32) -> String {
        match self.0.get(&oid) {
            Some(Some(followed)) => format!("table {:?}", followed.shape.full_name()),
            _ => format!("a table (oid {oid})"),
        }
    }

    /// Takes note of a description.
    pub(super) async fn describe(&mut self, relation: &Relation<'_>, definitions: &dyn Definitions) -> Result<()> {
        let schema = if relation.schema.is_empty() { "pg_catalog" } else { relation.schema };
        if !definitions.takes(schema, relation.name) {
            self.0.insert(relation.oid, None);
            return Ok(());
        }
        let name = format!("{schema}.{}", relation.name);
        let attempt = || format!("follow table {name:?}");
        let before = self.0.get(&relation.oid).and_then(Option::as_ref);
        if let Some(before) = before {
            unfollowable(&before.shape, schema, relation).map_err(|error| error.during(attempt()))?;
            if before.shape.columns.len() == relation.columns().count() {
                return Ok(());
            }
        }
        let now = definitions.shape(relation.oid).await?.ok_or_else(|| {
            Error::config(
                "it was dropped at the source: if that was meant, take it out of `tables` (its rows stay in the \
                 destination) and start again",
            )
            .during(attempt())
        })?;
        let mut columns = Vec::new();
        for column in relation.columns() {
            columns.push(definition(column, &now, before, definitions).await?);
        }
        let mut shape = place(now, columns, schema, relation).map_err(|error| error.during(attempt()))?;
        let text = if shape.flat_key && !shape.binary { Some(Kv::of(&shape)?) } else { None };
        if text.is_some() {
            catalog::set_form(&mut shape, true);
        }
        self.0.insert(relation.oid, Some(Followed { table: shape.table(), shape, text }));
        Ok(())
    }
}

const ACT: &str = "make the same change at the destination, then start again";

/// What changed between two places of the stream that no sink can follow.
fn unfollowable(before: &Shape, schema: &str, relation: &Relation<'_>) -> Result<()> {
    if before.schema != schema || before.name != relation.name {
        return Err(Error::config(format!("it was called {:?} before: {ACT}", before.full_name())));
    }
    // New columns come behind those that were there, or between them in publications with column lists; those that were
    // there keep their order unless one was dropped and made again.
    let mut rest = relation.columns();
    for column in &before.columns {
        let Some(now) = rest.find(|now| now.name == column.name) else {
            return Err(Error::config(format!(
                "its column {:?} was dropped, renamed or made a computed one at the source: {ACT}",
                column.name
            )));
        };
        if (now.type_oid, now.typmod) != (column.type_oid, column.typmod) {
            return Err(Error::config(format!(
                "the type of its column {:?} was changed at the source: {ACT}",
                column.name
            )));
        }
    }
    keyed(before, relation)
}

/// Whether old rows come with the columns of the key.
fn keyed(shape: &Shape, relation: &Relation<'_>) -> Result<()> {
    let has = |index: &usize| {
        let name = shape.columns.get(*index).map(|column| column.name.as_str());
        relation.columns().any(|column| column.key && Some(column.name) == name)
    };
    if shape.key.is_empty() || relation.identity == b'n' || !shape.key.iter().all(has) {
        return Err(Error::config(
            "it has lost its replica identity, or another key has taken its place: give it a primary key again, or run \
             `driftless check` for the statement",
        ));
    }
    Ok(())
}

/// The definition of a column as the stream has it.
async fn definition(
    column: RelationColumn<'_>,
    now: &Shape,
    before: Option<&Followed>,
    definitions: &dyn Definitions,
) -> Result<Column> {
    let same = |known: &&Column| {
        known.name == column.name && (known.type_oid, known.typmod) == (column.type_oid, column.typmod)
    };
    let known = now.columns.iter().find(same).or_else(|| before.and_then(|b| b.shape.columns.iter().find(same)));
    if let Some(known) = known {
        return Ok(known.clone());
    }
    // The stream stands before a change of the table that the catalog has seen already. Of such a column no more is
    // known than this, and the stream will stop where the change is.
    Ok(Column {
        name: column.name.to_owned(),
        type_oid: column.type_oid,
        typmod: column.typmod,
        type_name: definitions.type_name(column.type_oid, column.typmod).await?,
        base_oid: column.type_oid,
        ..Column::default()
    })
}

/// The shape of a table at the place of the stream: the catalog's, with these columns.
fn place(mut now: Shape, columns: Vec<Column>, schema: &str, relation: &Relation<'_>) -> Result<Shape> {
    let names = now.key.iter().map(|&index| now.columns.get(index).map(|column| column.name.as_str()));
    let key =
        names.map(|name| columns.iter().position(|column| Some(column.name.as_str()) == name)).collect::<Option<_>>();
    let Some(key) = key else {
        return Err(Error::config(format!(
            "its key is on a column that it did not have at this place of the stream: {ACT}"
        )));
    };
    (now.key, now.columns) = (key, columns);
    schema.clone_into(&mut now.schema);
    relation.name.clone_into(&mut now.name);
    keyed(&now, relation)?;
    Ok(now)
}

#[cfg(test)]
#[path = "relations_tests.rs"]
mod tests;
