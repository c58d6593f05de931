//! The publication of a stream: exactly the replicated tables, and never one whose updates it would break.
//!
//! Publishing a table without a replica identity makes its UPDATEs and DELETEs fail at the source. So the tables are
//! locked by being added and then looked at, in one transaction that is rolled back if one of them has none. Invariants:
//! never FOR ALL TABLES or IN SCHEMA, no row filters, no column lists; changes of partitions come under their root's name.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::error::{Error, Fault, Result};
use crate::kinds::postgres::admin::{TableName, quoted};
use crate::kinds::postgres::conn::translate;

/// A publication as the catalog has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// It publishes tables that nobody named: FOR ALL TABLES.
    pub all_tables: bool,
    /// It publishes whole schemas.
    pub schemas: Vec<String>,
    /// It publishes inserts, updates, deletes and truncates, and partitions as their root.
    pub complete: bool,
    /// Its tables; whether rows or columns are filtered.
    pub tables: BTreeMap<TableName, bool>,
}

impl State {
    /// Whether all rows and columns of this table are published.
    pub fn publishes(&self, schema: &str, name: &str) -> bool {
        self.all_tables
            || self.schemas.iter().any(|published| published == schema)
            || self.tables.get(&TableName::new(schema, name)) == Some(&false)
    }
}

/// What the server says about a publication, or `None` if there is none of this name.
pub async fn inspect(client: &Client, name: &str) -> Result<Option<State>> {
    let read = async {
        // What came with version 15 is read through JSON, where a missing column is null.
        let sql = "select oid, puballtables, pubinsert and pubupdate and pubdelete and pubtruncate and pubviaroot \
             from pg_catalog.pg_publication where pubname = $1";
        let Some(row) = client.query_opt(sql, &[&name]).await? else { return Ok(None) };
        let oid: u32 = row.try_get(0)?;
        let sql = "select n.nspname::text, c.relname::text, \
               coalesce(j->>'prqual', j->>'prattrs') is not null or coalesce((j->>'prexcept')::bool, false) \
             from pg_catalog.pg_publication_rel r join pg_catalog.pg_class c on c.oid = r.prrelid \
               join pg_catalog.pg_namespace n on n.oid = c.relnamespace, lateral pg_catalog.to_jsonb(r) j where r.prpubid = $1";
        let mut tables = BTreeMap::new();
        for row in client.query(sql, &[&oid]).await? {
            let (schema, table): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            tables.insert(TableName::new(schema, table), row.try_get(2)?);
        }
        let mut schemas = Vec::new();
        let known = "select pg_catalog.to_regclass('pg_catalog.pg_publication_namespace') is not null";
        if client.query_one(known, &[]).await?.try_get(0)? {
            let sql = "select n.nspname::text from pg_catalog.pg_publication_namespace p \
                 join pg_catalog.pg_namespace n on n.oid = p.pnnspid where p.pnpubid = $1";
            for row in client.query(sql, &[&oid]).await? {
                schemas.push(row.try_get(0)?);
            }
        }
        Ok(Some(State { all_tables: row.try_get(1)?, schemas, complete: row.try_get(2)?, tables }))
    };
    read.await.map_err(|error: tokio_postgres::Error| translate(&error, "look at a publication"))
}

const OPTIONS: &str = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";

/// The statements that make a publication publish exactly these tables; none if it does.
pub fn plan(name: &str, state: Option<&State>, wanted: &BTreeSet<TableName>) -> Result<Vec<String>> {
    let publication = quoted(name);
    let list =
        // Without `only`, the children of a table by inheritance would be published with it, whether or not they can be.
        |tables: &mut dyn Iterator<Item = &TableName>| {
            tables.map(|table| format!("only {table}")).collect::<Vec<_>>().join(", ")
        };
    if wanted.is_empty() {
        return Err(Error::config(format!("publish with {name}: there is no table to publish")));
    }
    let Some(state) = state else {
        let tables = list(&mut wanted.iter());
        return Ok(vec![format!("create publication {publication} for table {tables} with ({OPTIONS})")]);
    };
    if state.all_tables {
        return Err(Error::config(format!(
            "publish with {name}: this publication is for all tables, so driftless did not make it; run: \
             drop publication {publication}"
        )));
    }
    let mut statements = Vec::new();
    if !state.complete {
        statements.push(format!("alter publication {publication} set ({OPTIONS})"));
    }
    if !state.schemas.is_empty() {
        let schemas: Vec<_> = state.schemas.iter().map(|schema| quoted(schema)).collect();
        statements.push(format!("alter publication {publication} drop tables in schema {}", schemas.join(", ")));
    }
    let mut gone = state.tables.iter().filter(|(table, filtered)| **filtered || !wanted.contains(table)).peekable();
    let keeps = |table: &TableName| state.tables.get(table) == Some(&false);
    if gone.peek().is_some() {
        let tables = list(&mut gone.map(|(table, _)| table));
        statements.push(format!("alter publication {publication} drop table {tables}"));
    }
    let mut new = wanted.iter().filter(|table| !keeps(table)).peekable();
    if new.peek().is_some() {
        statements.push(format!("alter publication {publication} add table {}", list(&mut new)));
    }
    Ok(statements)
}

/// Makes the publication publish exactly these tables, if it does not; whether anything was changed.
///
/// # Errors
/// Config with the statements to run, when `manage` is off or the role may not; Config naming all tables without a
/// usable replica identity; then nothing was changed.
pub async fn ensure(client: &Client, name: &str, tables: &[TableName], manage: bool) -> Result<bool> {
    let wanted: BTreeSet<_> = tables.iter().cloned().collect();
    let statements = plan(name, inspect(client, name).await?.as_ref(), &wanted)?;
    let attempt = format!("publish with {name}");
    if statements.is_empty() {
        return refuse_strays(&attempt, unidentified(client, &wanted).await?).map(|()| false);
    }
    let by_hand = statements.join("; ");
    if !manage {
        refuse_strays(&attempt, unidentified(client, &wanted).await?)?;
        return Err(Error::config(format!("{attempt}: manage.publication is off; run: {by_hand}")));
    }
    let run = async {
        // The stream must find the publication in the log before the slot's first position: no asynchronous commit.
        client.batch_execute("begin; set local synchronous_commit = local").await?;
        client.batch_execute(&by_hand).await
    };
    let changed = match run.await {
        Ok(()) => unidentified(client, &wanted).await.and_then(|strays| refuse_strays(&attempt, strays)),
        Err(error) => {
            let refused = error.code().is_some_and(|code| code.code() == "42501");
            let error = translate(&error, &attempt);
            Err(match refused {
                true => Error::config(format!("{error}; run as the owner of the tables: {by_hand}")),
                false => error,
            })
        }
    };
    let end = if changed.is_ok() { "commit" } else { "rollback" };
    let ended = client.batch_execute(end).await.map_err(|error| translate(&error, &attempt));
    changed.and(ended).map(|()| true)
}

/// Removes the publication, if it is there; whether it was.
pub async fn drop(client: &Client, name: &str) -> Result<bool> {
    let there = inspect(client, name).await?.is_some();
    if there {
        let sql = format!("drop publication if exists {}", quoted(name));
        client.batch_execute(&sql).await.map_err(|error| translate(&error, format!("drop publication {name}")))?;
    }
    Ok(there)
}

/// The tables, and partitions of them, whose updates would fail once they are published.
pub async fn unidentified(client: &Client, tables: &BTreeSet<TableName>) -> Result<Vec<TableName>> {
    let (schemas, names): (Vec<_>, Vec<_>) = tables.iter().map(|t| (t.schema.as_str(), t.name.as_str())).unzip();
    // A key counts as the server counts it (RelationGetIndexList): valid, unique, immediate. A partitioned table keeps no
    // rows, so its leaves count.
    let sql = "with wanted as (select c.oid from unnest($1::text[], $2::text[]) w(s, t) \
           join pg_catalog.pg_namespace n on n.nspname = w.s \
           join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = w.t), \
         leaves as (select oid from wanted union select p.relid from wanted, pg_catalog.pg_partition_tree(wanted.oid) p) \
         select n.nspname::text, c.relname::text from leaves join pg_catalog.pg_class c using (oid) \
           join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
         where c.relkind = 'r' and c.relreplident <> 'f' and not exists ( \
           select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisvalid and i.indisunique and i.indimmediate \
             and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end) \
         order by 1, 2";
    let rows = client
        .query(sql, &[&schemas, &names])
        .await
        .map_err(|error| translate(&error, "look at the replica identity of tables"))?;
    rows.iter()
        .map(|row| Ok(TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?)))
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(|error| translate(&error, "look at the replica identity of tables"))
}

fn refuse_strays(attempt: &str, strays: Vec<TableName>) -> Result<()> {
    if strays.is_empty() {
        return Ok(());
    }
    let strays: Vec<_> = strays.iter().map(ToString::to_string).collect();
    Err(Error::new(
        Fault::Config,
        format!(
            "{attempt}: publishing would make every update fail of tables without a replica identity: {}; give each a \
             primary key that is not deferrable, or run: alter table <table> replica identity full",
            strays.join(", ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(names: &[&str]) -> BTreeSet<TableName> {
        names.iter().map(|name| TableName::new("public", *name)).collect()
    }

    fn publishing(names: &[&str]) -> State {
        State { complete: true, tables: tables(names).into_iter().map(|t| (t, false)).collect(), ..State::default() }
    }

    #[test]
    fn the_plan_ends_at_exactly_the_wanted_tables() {
        let filtered = State {
            tables: [(TableName::new("public", "a"), true)].into_iter().collect(),
            schemas: vec!["s".into()],
            ..publishing(&[])
        };
        for (state, expected) in [
            (publishing(&["a", "b"]), vec![]),
            (publishing(&["a"]), vec![r#"alter publication "p" add table only "public"."b""#]),
            (publishing(&["a", "b", "c"]), vec![r#"alter publication "p" drop table only "public"."c""#]),
            (
                State { complete: false, ..publishing(&["a", "b"]) },
                vec![
                    r#"alter publication "p" set (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"#,
                ],
            ),
            (
                filtered,
                vec![
                    r#"alter publication "p" drop tables in schema "s""#,
                    r#"alter publication "p" drop table only "public"."a""#,
                    r#"alter publication "p" add table only "public"."a", only "public"."b""#,
                ],
            ),
        ] {
            assert_eq!(plan("p", Some(&state), &tables(&["a", "b"])).unwrap(), expected, "{state:?}");
        }
    }

    #[test]
    fn names_are_quoted_and_a_publication_for_all_tables_is_left_alone() {
        let made = plan("p", None, &tables(&["a\"; drop table b"])).unwrap();
        assert!(
            made[0].starts_with(r#"create publication "p" for table only "public"."a""; drop table b" with"#),
            "{made:?}"
        );
        let all = State { all_tables: true, ..State::default() };
        assert_eq!(plan("p", Some(&all), &tables(&["a"])).unwrap_err().fault(), Fault::Config);
        assert!(plan("p", None, &tables(&[])).is_err());
    }
}
