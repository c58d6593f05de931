//! Tables of the source that the stream should bring and does not: made after the pin, or published behind our back.
//!
//! Judged from what the catalog says, purely. Invariant: a stream is ended for a new table only if the next pin will take
//! it, whoever's tables the others are; what needs a person is told, with the statement, and stops nothing that runs, be it
//! now or after a restart. A table that *was* replicated and cannot be any more is another matter: the stream still brings
//! its changes, so that is an error.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::kinds::postgres::admin::publication::{self, State};
use crate::kinds::postgres::admin::{TableName, quoted};
use crate::kinds::postgres::catalog::{Found, Refusal};
use crate::kinds::postgres::conn::translate;

/// What a look at the tables came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// The next pin adds these.
    pub(super) added: Vec<TableName>,
    /// How many tables wait for a person to act.
    pub(super) stuck: usize,
    /// What this person has to know, with the statements.
    pub(super) why: String,
    /// Tables that are in the stream and can no longer be.
    pub(super) lost: Vec<Refusal>,
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
    /// Tables that are not published, and which of their own or of their partitions' updates would fail if they were.
    strays: BTreeMap<TableName, Vec<TableName>>,
    /// Tables that are not published, and which the role may not add.
    foreign: BTreeSet<TableName>,
    /// Configuration lets us alter the publication.
    manage: bool,
}

/// The names of tables that can be replicated.
pub(super) fn names(found: &Found) -> BTreeSet<TableName> {
    found.tables.iter().map(|shape| TableName::new(&shape.schema, &shape.name)).collect()
}

/// Asks and judges. `known`: the tables that were pinned; if nobody knows yet, those that are published become it.
pub(super) async fn look(
    client: &Client,
    publication: (&str, bool),
    found: &Found,
    known: &mut Option<BTreeSet<TableName>>,
) -> Result<News> {
    // A stream without its publication ends by itself, and the pin makes it.
    let Some(facts) = Facts::ask(client, publication, found).await? else { return Ok(News::default()) };
    let known = known.get_or_insert_with(|| facts.found.difference(&facts.missing()).cloned().collect());
    Ok(facts.judge(known))
}

/// The tables that a pin of a stream that runs already can take: all but those that a person must mend first.
///
/// # Errors
/// Config for a table that was replicated and cannot be any more.
pub(super) async fn pinnable(client: &Client, publication: (&str, bool), found: &Found) -> Result<BTreeSet<TableName>> {
    let Some(mut facts) = Facts::ask(client, publication, found).await? else { return Ok(names(found)) };
    refuse(&facts.judge(&BTreeSet::new()).lost)?;
    let blocked = facts.blocked();
    facts.found.retain(|table| !blocked.contains(table));
    Ok(facts.found)
}

/// Fails if there is any of these.
///
/// # Errors
/// Config, naming all of them.
pub(super) fn refuse(lost: &[Refusal]) -> Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!(
        "follow PostgreSQL: tables that were replicated cannot be any more: {}; change them, or leave them out of `tables`",
        lost.iter().map(|refusal| format!("{}: {}", refusal.table, refusal.why)).collect::<Vec<_>>().join("; ")
    )))
}

impl<'a> Facts<'a> {
    async fn ask(client: &Client, (name, manage): (&'a str, bool), found: &'a Found) -> Result<Option<Self>> {
        let Some(state) = publication::inspect(client, name).await? else { return Ok(None) };
        let (found, refused) = (names(found), &found.refused[..]);
        let mut facts = Self { publication: name, found, refused, state, manage, ..Self::default() };
        for table in facts.missing() {
            let one = BTreeSet::from([table.clone()]);
            let strays = publication::unidentified(client, &one).await?;
            if !strays.is_empty() {
                facts.strays.insert(table, strays);
            } else if !may_add(client, name, &one).await? {
                facts.foreign.insert(table);
            }
        }
        Ok(Some(facts))
    }

    fn missing(&self) -> BTreeSet<TableName> {
        self.found.iter().filter(|table| !self.state.publishes(&table.schema, &table.name)).cloned().collect()
    }

    /// Tables that could be replicated if a person did something.
    fn blocked(&self) -> BTreeSet<TableName> {
        let mut missing = self.missing();
        missing.retain(|table| !self.manage || self.foreign.contains(table) || self.strays.contains_key(table));
        missing
    }

    fn judge(&self, known: &BTreeSet<TableName>) -> News {
        let (missing, blocked) = (self.missing(), self.blocked());
        let mut why: Vec<String> = self.refused.iter().map(|r| format!("{}: {}", r.table, r.why)).collect();
        if !self.strays.is_empty() {
            let strays = list(self.strays.values().flatten());
            why.push(format!(
                "{strays}: publishing it would make every update fail; give it a primary key that is not deferrable, or \
                 run: alter table {strays} replica identity full"
            ));
        }
        let mut by_hand = blocked.iter().filter(|table| !self.strays.contains_key(table)).peekable();
        if by_hand.peek().is_some() {
            let reason = if self.manage { "the role owns not all of them" } else { "manage.publication is off" };
            let (tables, publication) = (list(by_hand), quoted(self.publication));
            why.push(format!(
                "{tables}: not in the publication, and {reason}; run: alter publication {publication} add table {tables}"
            ));
        }
        let is_new = |table: &&TableName| missing.contains(table) || !known.contains(table);
        let published = |refusal: &&Refusal| {
            self.state.tables.keys().any(|table| format!("{}.{}", table.schema, table.name) == refusal.table)
        };
        News {
            // One that somebody has published already is streamed, but what it held before was never copied.
            added: self.found.iter().filter(is_new).filter(|table| !blocked.contains(table)).cloned().collect(),
            stuck: self.refused.len() + blocked.len(),
            why: why.join("; "),
            lost: self.refused.iter().filter(published).cloned().collect(),
        }
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
    fn a_new_table_is_added_whatever_others_need_a_person() {
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
            ..Facts::default()
        };
        let known = tables(&["a"]);
        let added = |names: &[&str]| News { added: tables(names).into_iter().collect(), ..News::default() };
        assert_eq!(facts(&["a"], &["a"]).judge(&known), News::default());
        assert_eq!(facts(&["a", "b"], &["a"]).judge(&known), added(&["b"]));
        assert_eq!(facts(&["a", "b"], &["a", "b"]).judge(&known), added(&["b"]), "published, but never copied");
        assert_eq!(facts(&["a"], &[]).judge(&known), added(&["a"]), "dropped and made again");
        assert_eq!(facts(&[], &["a"]).judge(&known), News::default(), "one that is gone is no news");
        let b = TableName::new("public", "b");
        let stray = BTreeMap::from([(b.clone(), vec![TableName::new("public", "b1")])]);
        for (what, facts, new, says) in [
            (
                "a table without a key",
                Facts { refused: &refusal, ..facts(&["a", "b"], &["a"]) },
                &["b"][..],
                "public.c: it has no key",
            ),
            (
                "not ours to manage",
                Facts { manage: false, ..facts(&["a", "b"], &["a"]) },
                &[],
                "alter publication \"p\" add table \"public\".\"b\"",
            ),
            (
                "not ours to alter",
                Facts { foreign: BTreeSet::from([b]), ..facts(&["a", "b", "d"], &["a"]) },
                &["d"],
                "the role owns not all of them; run: alter publication \"p\" add table \"public\".\"b\"",
            ),
            (
                "a partition without a key",
                Facts { strays: stray, ..facts(&["a", "b", "d"], &["a"]) },
                &["d"],
                "\"public\".\"b1\" replica identity full",
            ),
        ] {
            let news = facts.judge(&known);
            assert_eq!(news.added, added(new).added, "{what}");
            assert!(news.stuck == 1 && news.why.ends_with(says) && news.lost.is_empty(), "{what}: {news:?}");
        }
        let lost = Facts { refused: &refusal, ..facts(&["a"], &["a", "c"]) }.judge(&known);
        assert_eq!(refuse(&lost.lost).unwrap_err().fault(), crate::error::Fault::Config, "it was replicated");
    }
}
