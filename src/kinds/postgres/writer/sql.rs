//! The statements that a writer sends, as text. Pure.
//!
//! Every statement over several rows reads them from a *feed* `s`: arrays that came as parameters and are unnested
//! (`$1`, `$2`, … one per column), or a temporary table that was filled by COPY. Column `i` of a feed is called `c<i>`.
//!
//! Invariant: a value reaches the server only as a parameter or as COPY data, never inside a statement's text.

use std::fmt::Write;

/// Quotes a name.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a qualified name.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// How a column's values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// In the type's binary form.
    Binary,
    /// In the type's text form.
    Text,
}

/// One column of a feed.
#[derive(Clone, Copy, Debug)]
pub struct FeedColumn<'a> {
    /// The destination column, quoted.
    pub name: &'a str,
    /// Its type without modifier, as `format_type` prints it.
    pub type_sql: &'a str,
    /// Form of the values. Text is of type text in the feed and cast by the statement.
    pub form: Form,
}

/// Rows on their way into a statement.
#[derive(Clone, Debug)]
pub struct Feed<'a> {
    /// Its columns.
    pub columns: Vec<FeedColumn<'a>>,
    /// The temporary table that holds them, quoted; `None` for array parameters.
    pub temporary: Option<&'a str>,
}

impl Feed<'_> {
    /// What stands behind FROM.
    fn from(&self) -> String {
        self.relation(false)
    }

    fn relation(&self, numbered: bool) -> String {
        if let Some(table) = self.temporary {
            return format!("{table} s");
        }
        let mut out = "unnest(".to_owned();
        for (i, column) in self.columns.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            let element = match column.form {
                Form::Binary => column.type_sql,
                Form::Text => "text",
            };
            write!(out, "{comma}${}::{element}[]", i + 1).expect("a String takes everything");
        }
        let names = list(0..self.columns.len(), |i| format!("c{i}"));
        let end = if numbered { format!(") with ordinality as s({names}, ord)") } else { format!(") as s({names})") };
        out + &end
    }

    /// Column `i` in the type of the destination's column.
    fn value(&self, i: usize) -> String {
        match self.columns[i].form {
            Form::Text => format!("s.c{i}::{}", self.columns[i].type_sql),
            _ => format!("s.c{i}"),
        }
    }

    fn join(&self, columns: impl IntoIterator<Item = usize>) -> String {
        columns
            .into_iter()
            .map(|i| format!("t.{} = {}", self.columns[i].name, self.value(i)))
            .collect::<Vec<_>>()
            .join(" and ")
    }
}

fn list(items: impl IntoIterator<Item = usize>, one: impl Fn(usize) -> String) -> String {
    items.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Inserts all rows; they must not be there.
pub fn insert(table: &str, feed: &Feed<'_>, overriding: bool) -> String {
    let all = || 0..feed.columns.len();
    let (names, values) = (list(all(), |i| feed.columns[i].name.to_owned()), list(all(), |i| feed.value(i)));
    let overriding = if overriding { "overriding system value " } else { "" };
    format!("insert into {table} as t ({names}) {overriding}select {values} from {}", feed.from())
}

/// Inserts rows, or sets all columns where the key is there. `sparing`: rows that stand there already are not written.
pub fn upsert(table: &str, feed: &Feed<'_>, key: &[usize], overriding: bool, sparing: bool) -> String {
    let mut out = insert(table, feed, overriding);
    let name = |i: usize| feed.columns[i].name.to_owned();
    let rest: Vec<usize> = (0..feed.columns.len()).filter(|i| !key.contains(i)).collect();
    write!(out, " on conflict ({}) do ", list(key.iter().copied(), name)).expect("a String takes everything");
    if rest.is_empty() {
        return out + "nothing";
    }
    let sets = list(rest.iter().copied(), |i| format!("{0} = excluded.{0}", name(i)));
    write!(out, "update set {sets}").expect("a String takes everything");
    if sparing {
        let old = list(rest.iter().copied(), |i| format!("t.{}", name(i)));
        let new = list(rest.iter().copied(), |i| format!("excluded.{}", name(i)));
        write!(out, " where ({old}) is distinct from ({new})").expect("a String takes everything");
    }
    out
}

/// Deletes the rows whose `columns` are those of a row of the feed.
pub fn delete(table: &str, feed: &Feed<'_>, columns: &[usize]) -> String {
    format!("delete from {table} t using {} where {}", feed.from(), feed.join(columns.iter().copied()))
}

/// Sets the columns behind the first `key` ones in the rows that these name, and fails with a division by zero unless
/// exactly as many rows were there as the last parameter says. (An error inside the transaction is the only answer that
/// keeps a COMMIT which is already on its way from taking effect.)
pub fn update(table: &str, feed: &Feed<'_>, key: usize) -> String {
    let sets = list(key..feed.columns.len(), |i| format!("{} = {}", feed.columns[i].name, feed.value(i)));
    let count = if feed.temporary.is_some() { 1 } else { feed.columns.len() + 1 };
    format!(
        "with u as (update {table} t set {sets} from {} where {} returning 1) \
         select 1 / ((select count(*) from u) = ${count}::bigint)::int",
        feed.from(),
        feed.join(0..key)
    )
}

/// Reads columns of the rows that the feed's columns name: the row's place in the feed, then the columns, each in the
/// form that is asked for.
pub fn read(table: &str, feed: &Feed<'_>, columns: &[(&str, Form)]) -> String {
    let columns = columns.iter().fold(String::new(), |out, (name, form)| match form {
        Form::Binary => format!("{out}, t.{name}"),
        Form::Text => format!("{out}, t.{name}::text"),
    });
    let all = 0..feed.columns.len();
    format!("select s.ord{columns} from {} join {table} t on {}", feed.relation(true), feed.join(all))
}

/// COPY into a table.
pub fn copy(table: &str, columns: &[&str], form: Form) -> String {
    let format = match form {
        Form::Binary => "binary",
        Form::Text => "text",
    };
    format!("copy {table} ({}) from stdin (format {format})", columns.join(", "))
}

/// The lane's compare-and-set together with its positions: one row, or a division by zero where the lane does not stand
/// at the number before under this epoch. Parameters: stream, lane, epoch, number, forgotten partitions, partitions and
/// positions.
pub const ADVANCE: &str = "\
    with cas as (update driftless.lane set number = $4::bigint, refreshed = now() \
        where stream = $1::text and lane = $2::int and epoch = $3::bigint and number = $4::bigint - 1 and open returning 1), \
    gone as (delete from driftless.position \
        where stream = $1::text and lane = $2::int and partition = any($5::text[]) and partition <> all($6::text[]) and exists (select from cas)), \
    moved as (insert into driftless.position (stream, lane, partition, position) \
        select $1::text, $2::int, p, q from unnest($6::text[], $7::text[]) as u(p, q) where exists (select from cas) \
        on conflict (stream, lane, partition) do update set position = excluded.position) \
    select 1 / (select count(*) from cas)";

/// A division by zero where the lane is not under this epoch. Parameters: stream, lane, epoch.
pub const OWNED: &str = "select 1 / (select count(*) from driftless.lane where stream = $1::text and lane = $2::int and epoch = $3::bigint and open)";

/// Sets sequences to values, those that the destination has. Parameters: names (`schema.name`) and values.
pub const SEQUENCES: &str = "\
    select setval(c.oid::regclass, v) from unnest($1::text[], $2::text[]::bigint[]) as u(name, v) \
    join pg_namespace n on true join pg_class c on c.relnamespace = n.oid and c.relkind = 'S' \
    where n.nspname || '.' || c.relname = u.name";

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(temporary: Option<&str>) -> Feed<'_> {
        let column = |name, type_sql, form| FeedColumn { name, type_sql, form };
        let columns = vec![column("\"k\"", "bigint", Form::Binary), column("\"v\"", "jsonb", Form::Text)];
        Feed { columns, temporary }
    }

    #[test]
    fn names_are_quoted_so_that_no_name_ends_a_statement() {
        assert_eq!(qualified("a\"; drop", "b"), "\"a\"\"; drop\".\"b\"");
    }

    #[test]
    fn an_upsert_sets_everything_but_the_key() {
        assert_eq!(
            upsert("x", &feed(None), &[0], true, true),
            "insert into x as t (\"k\", \"v\") overriding system value select s.c0, s.c1::jsonb \
             from unnest($1::bigint[], $2::text[]) as s(c0, c1) \
             on conflict (\"k\") do update set \"v\" = excluded.\"v\" where (t.\"v\") is distinct from (excluded.\"v\")"
        );
        assert!(upsert("x", &feed(None), &[0, 1], false, false).ends_with("do nothing"));
    }

    #[test]
    fn a_temporary_table_holds_text_as_text_and_the_statement_casts_it() {
        assert_eq!(
            delete("x", &feed(Some("p.t")), &[0, 1]),
            "delete from x t using p.t s where t.\"k\" = s.c0 and t.\"v\" = s.c1::jsonb"
        );
    }

    #[test]
    fn a_patch_that_finds_no_row_is_an_error_at_the_server() {
        assert_eq!(
            update("x", &feed(None), 1),
            "with u as (update x t set \"v\" = s.c1::jsonb from unnest($1::bigint[], $2::text[]) as s(c0, c1) \
             where t.\"k\" = s.c0 returning 1) select 1 / ((select count(*) from u) = $3::bigint)::int"
        );
    }
}
