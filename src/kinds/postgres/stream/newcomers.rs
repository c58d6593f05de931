//! Tables of the source that the stream should bring and does not: made after the pin, or published behind our back.
//!
//! Judged from what the catalog says, purely. Invariant: a stream is ended for a new table only if the next pin will take
//! it, whoever's tables the others are; what needs a person is told, with the statement, and stops nothing that runs.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::error::Result;
use crate::kinds::postgres::admin::publication::{self, State};
use crate::kinds::postgres::admin::{TableName, quoted};
use crate::kinds::postgres::catalog::{Found, Refusal};
use crate::kinds::postgres::conn::translate;

/// What a look at the tables came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Every table that matches is streamed.
    Nothing,
    /// The next pin adds these.
    Added(Vec<TableName>),
    /// A person must act first: how many tables wait for it, and one sentence with the statements.
    Stuck(usize, String),
}

/// What is judged.
#[derive(Clone, Debug, Default)]
struct Facts<'a> {
    publication: &'a str,
    /// Tables that match and could be replicated.
    found: BTreeSet<TableName>,
    /// Tables that match and cannot.
    refused: &'a [Refusal],
    state: State,
    /// Tables, or partitions of them, whose updates would fail once published.
    strays: Vec<TableName>,
    /// Configuration lets us alter the publication.
    manage: bool,
    /// The role may alter it, and owns the tables that are missing.
    may: bool,
}

/// The names of tables that can be replicated.
pub(super) fn names(found: &Found) -> BTreeSet<TableName> {
    found.tables.iter().map(|shape| TableName::new(&shape.schema, &shape.name)).collect()
}

/// Asks and judges. `known`: the tables that were pinned; if nobody knows yet, those that are published become it.
pub(super) async fn look(
    client: &Client,
    (publication, manage): (&str, bool),
    found: &Found,
    known: &mut Option<BTreeSet<TableName>>,
) -> Result<News> {
    // A stream without its publication ends by itself, and the pin makes it.
    let Some(state) = publication::inspect(client, publication).await? else { return Ok(News::Nothing) };
    let mut facts =
        Facts { publication, found: names(found), refused: &found.refused, state, manage, ..Facts::default() };
    let missing = facts.missing();
    if !missing.is_empty() {
        facts.strays = publication::unidentified(client, &missing).await?;
        facts.may = may_add(client, publication, &missing).await?;
    }
    let known = known.get_or_insert_with(|| facts.found.difference(&missing).cloned().collect());
    Ok(facts.judge(known))
}

impl Facts<'_> {
    fn missing(&self) -> BTreeSet<TableName> {
        let state = &self.state;
        let is_published = |table: &TableName| {
            state.all_tables || state.schemas.contains(&table.schema) || state.tables.get(table) == Some(&false)
        };
        self.found.iter().filter(|table| !is_published(table)).cloned().collect()
    }

    fn judge(&self, known: &BTreeSet<TableName>) -> News {
        let missing = self.missing();
        let mut why: Vec<String> = self.refused.iter().map(|r| format!("{}: {}", r.table, r.why)).collect();
        let stray = list(self.strays.iter());
        if !self.strays.is_empty() {
            why.push(format!(
                "{stray}: publishing it would make every update fail; give it a primary key that is not deferrable, or \
                 run: alter table {stray} replica identity full"
            ));
        } else if !(missing.is_empty() || self.manage && self.may) {
            let reason = if self.manage { "the role owns not all of them" } else { "manage.publication is off" };
            let (tables, publication) = (list(missing.iter()), quoted(self.publication));
            why.push(format!(
                "{tables}: not in the publication, and {reason}; run: alter publication {publication} add table {tables}"
            ));
        }
        if !why.is_empty() {
            return News::Stuck(self.refused.len() + missing.len(), why.join("; "));
        }
        // One that somebody has published already is streamed, but what it held before was never copied.
        let new: Vec<_> =
            self.found.iter().filter(|table| missing.contains(table) || !known.contains(table)).cloned().collect();
        if new.is_empty() { News::Nothing } else { News::Added(new) }
    }
}

/// Why a stream ends for new tables.
pub(super) fn sentence(tables: &[TableName]) -> String {
    format!(
        "follow PostgreSQL: new in the source and meant by `tables`: {}; taken into the publication and copied by difference",
        list(tables.iter())
    )
}

fn list<'a>(tables: impl Iterator<Item = &'a TableName>) -> String {
    tables.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether the role has the rights of the owners of the publication and of all these tables.
async fn may_add(client: &Client, publication: &str, tables: &BTreeSet<TableName>) -> Result<bool> {
    let attempt = "ask who owns the tables and the publication";
    let (schemas, names): (Vec<_>, Vec<_>) = tables.iter().map(|t| (t.schema.as_str(), t.name.as_str())).unzip();
    let sql = "select coalesce((select pg_catalog.pg_has_role(pubowner, 'USAGE') from pg_catalog.pg_publication \
             where pubname = $1), false) \
           and coalesce(pg_catalog.bool_and(pg_catalog.pg_has_role(c.relowner, 'USAGE')), true) \
         from unnest($2::text[], $3::text[]) w(s, t) join pg_catalog.pg_namespace n on n.nspname = w.s \
           join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = w.t";
    let row = client.query_one(sql, &[&publication, &schemas, &names]).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| translate(&error, attempt))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(names: &[&str]) -> BTreeSet<TableName> {
        names.iter().map(|name| TableName::new("public", *name)).collect()
    }

    #[test]
    fn a_new_table_is_added_only_if_nothing_needs_a_person() {
        let refusal = [Refusal { table: "public.c".into(), why: "it has no key".into() }];
        let published = |names: &[&str]| State {
            tables: tables(names).into_iter().map(|t| (t, false)).collect(),
            ..State::default()
        };
        let facts = |found: &[&str], in_publication: &[&str]| Facts {
            publication: "p",
            found: tables(found),
            state: published(in_publication),
            manage: true,
            may: true,
            ..Facts::default()
        };
        let known = tables(&["a"]);
        let added = |names: &[&str]| News::Added(tables(names).into_iter().collect());
        assert_eq!(facts(&["a"], &["a"]).judge(&known), News::Nothing);
        assert_eq!(facts(&["a", "b"], &["a"]).judge(&known), added(&["b"]));
        assert_eq!(facts(&["a", "b"], &["a", "b"]).judge(&known), added(&["b"]), "published, but never copied");
        assert_eq!(facts(&["a"], &[]).judge(&known), added(&["a"]), "dropped and made again");
        assert_eq!(facts(&[], &["a"]).judge(&known), News::Nothing, "one that is gone is no news");
        for (what, stuck, count, says) in [
            (
                "a table without a key",
                Facts { refused: &refusal, ..facts(&["a", "b"], &["a"]) },
                2,
                "public.c: it has no key",
            ),
            (
                "not ours to manage",
                Facts { manage: false, ..facts(&["a", "b"], &["a"]) },
                1,
                "alter publication \"p\" add table \"public\".\"b\"",
            ),
            ("not ours to alter", Facts { may: false, ..facts(&["a", "b"], &["a"]) }, 1, "the role"),
            (
                "a partition without a key",
                Facts { strays: tables(&["b1"]).into_iter().collect(), ..facts(&["a", "b"], &["a"]) },
                1,
                "\"public\".\"b1\" replica identity full",
            ),
        ] {
            let News::Stuck(tables, why) = stuck.judge(&known) else { panic!("{what}") };
            assert!(tables == count && why.contains(says), "{what}: {tables}: {why}");
        }
    }
}
