//! Making the tables that a source has and the destination lacks, and building what is better built after a load.
//!
//! Invariants: a table that we did not make is never altered (but for a column that the source got meanwhile); everything that does not fit is named at once, before
//! anything is made; a table that we made and that waits for its keys is recorded in `driftless.made_table`, so that a run
//! that was interrupted goes on with it.

use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::translate;
use crate::kinds::postgres::ddl;
use crate::kinds::postgres::shape::Shape;
use crate::kinds::postgres::writer::destination::Destination;
use crate::kinds::postgres::writer::session::{Session, get};
use crate::kinds::postgres::writer::target::Target;
use crate::kinds::postgres::writer::widen::widen;
use crate::model::{Layout, Table};

/// See [`crate::sink::Sink::prepare`].
pub async fn prepare(destination: &Destination, tables: &[Arc<Table>], load: bool) -> Result<()> {
    // The teleport layout's own tables were made by the claim.
    if destination.layout == Layout::Teleport {
        return Ok(());
    }
    let session = Session::open(destination).await?;
    let (mut missing, mut wrong) = (Vec::new(), Vec::new());
    for table in tables {
        let shape = Shape::of(table)?;
        match Target::find(&session, &shape.schema, &shape.name).await? {
            None => missing.push(shape),
            Some(mut target) => {
                // In a stream that goes on, the source's table may have got the column while nobody looked.
                if !load && widen(&session, &target, &shape).await? {
                    target = Target::find(&session, &shape.schema, &shape.name).await?.unwrap_or(target);
                    destination.tables_changed();
                }
                let mut misfits = target.misfits(&shape);
                let key: Vec<&str> = shape.key.iter().map(|&column| shape.columns[column].name.as_str()).collect();
                if !target.has_key(&key) && is_settled(&session, &shape).await?.unwrap_or(true) {
                    misfits.push(format!("has no unique index on ({})", key.join(", ")));
                }
                if !misfits.is_empty() {
                    wrong.push(format!("table {:?} {}", target.name, misfits.join(", ")));
                }
            }
        }
    }
    if !wrong.is_empty() {
        return Err(Error::config(format!(
            "prepare the destination: {}: alter what is there to fit the source, or drop it and let it be made",
            wrong.join("; ")
        )));
    }
    for shape in &missing {
        make(&session, shape, load).await?;
    }
    if !missing.is_empty() {
        destination.tables_changed();
    }
    Ok(())
}

/// Makes a table, with its keys and indexes unless rows are loaded first.
async fn make(session: &Session, shape: &Shape, load: bool) -> Result<()> {
    let mut statements = ddl::before_load(shape)?;
    if !load {
        statements.extend(ddl::after_load(shape));
    }
    let broken = |error| translate(&error, format!("make table {:?} in the destination", shape.full_name()));
    session.client.batch_execute("begin").await.map_err(broken)?;
    for statement in &statements {
        session.client.batch_execute(statement).await.map_err(broken)?;
    }
    let text = "insert into driftless.made_table (name, settled) values ($1, $2) \
        on conflict (name) do update set settled = excluded.settled";
    session.client.execute(text, &[&shape.full_name(), &!load]).await.map_err(broken)?;
    session.client.batch_execute("commit").await.map_err(broken)?;
    tracing::info!(table = %shape.full_name(), "made in the destination");
    Ok(())
}

/// Whether a table that we made has its keys; `None` for a table of somebody else.
async fn is_settled(session: &Session, shape: &Shape) -> Result<Option<bool>> {
    let text = "select settled from driftless.made_table where name = $1";
    let row = session.client.query_opt(text, &[&shape.full_name()]).await;
    let row = row.map_err(|error| translate(&error, "read which tables of the destination driftless made"))?;
    row.map(|row| get(&row, 0)).transpose()
}

/// See [`crate::sink::Sink::settle`].
pub async fn settle(destination: &Destination, tables: &[Arc<Table>]) -> Result<()> {
    if destination.layout == Layout::Teleport {
        return Ok(());
    }
    let session = Session::open(destination).await?;
    for table in tables {
        let shape = Shape::of(table)?;
        if is_settled(&session, &shape).await? != Some(false) {
            continue;
        }
        let broken = |error| translate(&error, format!("build keys and indexes of table {:?}", shape.full_name()));
        for statement in ddl::after_load(&shape) {
            build(&session, &shape, &statement).await?;
        }
        let text = "update driftless.made_table set settled = true where name = $1";
        session.client.execute(text, &[&shape.full_name()]).await.map_err(broken)?;
        destination.tables_changed();
    }
    Ok(())
}

/// Runs a statement of `after_load`.
///
/// A copy that was interrupted and went on reads rows at different times: a unique value that wandered meanwhile is there
/// twice. The row that was read earlier no longer has it at the source, so its own change is still to come; it goes.
async fn build(session: &Session, shape: &Shape, statement: &str) -> Result<()> {
    let broken = |error| translate(&error, format!("build keys and indexes of table {:?}", shape.full_name()));
    let Err(error) = session.client.batch_execute(statement).await else { return Ok(()) };
    if error.code() != Some(&SqlState::UNIQUE_VIOLATION) {
        return Err(broken(error));
    }
    let Some(columns) = unique_columns(shape, error.as_db_error().and_then(|db| db.constraint())) else {
        return Err(broken(error));
    };
    let table = ddl::qualified(&shape.schema, &shape.name);
    let text = format!(
        "delete from {table} t using (select ctid, row_number() over (partition by {columns} \
         order by pg_catalog.age(xmin), ctid desc) as place from {table} where num_nulls({columns}) = 0) d \
         where t.ctid = d.ctid and d.place > 1"
    );
    let gone = session.client.execute(&text, &[]).await.map_err(broken)?;
    tracing::info!(table = %shape.full_name(), rows = gone, "rows whose unique value moved on while they were copied go");
    session.client.batch_execute(statement).await.map_err(broken)
}

/// The columns of a unique constraint or index, as the server prints them; `None` where it is more than columns.
fn unique_columns<'s>(shape: &'s Shape, name: Option<&str>) -> Option<&'s str> {
    let name = name?;
    let constraint = shape.constraints.iter().find(|c| c.name == name && c.kind == 'u').map(|c| c.definition.as_str());
    let index = || shape.indexes.iter().find(|i| i.name == name && i.unique).map(|i| i.definition.as_str());
    let definition = constraint.or_else(index)?;
    let columns = definition.split_once('(')?.1;
    // A partial index or one over expressions would need its condition too; quoted names may hold anything.
    let (columns, rest) = columns.split_once(')')?;
    (rest.trim().is_empty() && !columns.contains(['(', '"'])).then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::postgres::shape::{Constraint, Index};

    #[test]
    fn only_plain_columns_are_taken_from_a_unique_definition() {
        let constraint =
            |name: &str, kind, definition: &str| Constraint { name: name.into(), kind, definition: definition.into() };
        let index =
            |name: &str, definition: &str| Index { name: name.into(), unique: true, definition: definition.into() };
        let shape = Shape {
            constraints: vec![constraint("u", 'u', "UNIQUE (a, b)"), constraint("c", 'c', "CHECK ((a > 0))")],
            indexes: vec![
                index("i", "CREATE UNIQUE INDEX i ON public.t USING btree (email)"),
                index("e", "CREATE UNIQUE INDEX e ON public.t USING btree (lower(email))"),
                index("p", "CREATE UNIQUE INDEX p ON public.t USING btree (a) WHERE (b > 0)"),
            ],
            ..Shape::default()
        };
        let found: Vec<_> = ["u", "c", "i", "e", "p"].map(|name| unique_columns(&shape, Some(name))).into();
        assert_eq!(found, [Some("a, b"), None, Some("email"), None, None]);
        assert_eq!(unique_columns(&shape, None), None);
    }
}
