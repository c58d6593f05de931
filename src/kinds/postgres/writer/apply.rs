//! What a commit's changes do to the destination's tables, inside a transaction that is already open.
//!
//! In order: clears, reads for holes, deletes, patches, puts. There are four ways to do it, each tried when the one before
//! met a unique constraint. Invariant: each leaves the same rows; they differ in what they cost and in which order of
//! rows they survive.

use std::collections::HashMap;

use tokio_postgres::types::{FromSql, Type};

use super::feed::{Rows, Sender};
use super::pipeline::{Step, Trouble};
use super::session::get;
use super::sort::{Group, Sorted};
use super::sql::{self, Form};
use super::target::Binding;
use crate::error::{Error, Result};
use crate::kinds::postgres::rowcodec::{Columns, Value, key_columns};

/// A way to write rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// New rows by COPY into the table itself, others by upsert.
    Direct,
    /// Everything by upsert.
    Upsert,
    /// All keys of the commit are deleted, then all final images inserted: survives a unique value that wanders.
    Replace,
    /// As `Replace`, and rows of other keys that hold a unique value of an incoming row are deleted too. Before the first
    /// copy is consistent such a row is older than the change that will come for it; the change is still on its way.
    Evict,
}

/// LIMIT: fewer new rows than this are upserted as arrays, which costs no round trip of its own.
const COPY_ROWS: usize = 500;

/// Bodies of changes.
struct Bodies<'a> {
    sorted: &'a Sorted<'a>,
    rows: &'a [u32],
    columns: usize,
}

impl Rows for Bodies<'_> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn each(&self, index: usize, value: &mut dyn FnMut(usize, Value<'_>) -> Result<()>) -> Result<usize> {
        let body = self.sorted.body(self.rows[index]);
        for (column, own) in Columns::expect(body, self.columns)?.enumerate() {
            value(column, own?)?;
        }
        Ok(body.len())
    }
}

/// Some columns of bodies, by their place in the shape, behind the columns of the key.
struct Parts<'a> {
    sorted: &'a Sorted<'a>,
    binding: &'a Binding,
    rows: &'a [u32],
    /// Whether the key's columns come first, and of which key.
    key: Option<Key>,
    columns: &'a [usize],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Own,
    Older,
}

impl Rows for Parts<'_> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn each(&self, index: usize, value: &mut dyn FnMut(usize, Value<'_>) -> Result<()>) -> Result<usize> {
        let index = self.rows[index];
        let row = self.sorted.changes.row(index as usize);
        let mut place = 0;
        let mut bytes = 0;
        if let Some(which) = self.key {
            let key = if which == Key::Older { row.from.unwrap_or(row.key) } else { row.key };
            for (column, &index) in key_columns(&self.binding.shape, key).zip(&self.binding.shape.key) {
                let binary = self.binding.key_form(index) == Form::Binary;
                let column = column?;
                value(place, if binary { Value::Binary(column) } else { Value::Text(column) })?;
                place += 1;
            }
            bytes += key.len();
        }
        if !self.columns.is_empty() {
            let body = self.sorted.body(index);
            for (column, own) in Columns::expect(body, self.binding.map.len())?.enumerate() {
                if self.columns.contains(&column) {
                    value(place, own?)?;
                    place += 1;
                }
            }
            bytes += body.len();
        }
        Ok(bytes)
    }
}

/// A column of an answer as it came.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Sender<'_> {
    /// Starts everything that these changes need. `copying`: nothing but a first copy is in the commit.
    pub async fn apply(&mut self, sorted: &mut Sorted<'_>, way: Way, copying: bool) -> Result<(), Trouble> {
        self.clear(sorted).await?;
        self.fill(sorted, way).await?;
        for group in &sorted.groups {
            let mut keys = group.deletes.clone();
            if way >= Way::Replace {
                keys.extend(group.written());
            }
            self.delete(sorted, group, &keys).await?;
        }
        for group in &sorted.groups {
            match way {
                Way::Direct | Way::Upsert => {
                    self.patch(sorted, group).await?;
                    self.put(sorted, group, way, copying).await?;
                }
                Way::Replace => self.insert(sorted, group, &group.written()).await?,
                Way::Evict => {
                    self.evict(sorted, group).await?;
                    self.insert(sorted, group, &group.written()).await?;
                }
            }
        }
        self.sequences(sorted).await
    }

    async fn clear(&mut self, sorted: &Sorted<'_>) -> Result<(), Trouble> {
        for group in sorted.groups.iter().filter(|group| group.clear) {
            let target = &group.binding.target;
            let verb = if target.truncate { "truncate" } else { "delete from" };
            self.execute(&format!("{verb} {}", target.sql), Vec::new(), Step::Data).await?;
        }
        Ok(())
    }

    async fn delete(&mut self, sorted: &Sorted<'_>, group: &Group, rows: &[u32]) -> Result<(), Trouble> {
        let binding = &*group.binding;
        let rows = Parts { sorted, binding, rows, key: Some(Key::Own), columns: &[] };
        let key: Vec<usize> = (0..binding.shape.key.len()).collect();
        let text = |feed: &sql::Feed<'_>| sql::delete(&binding.target.sql, feed, &key);
        self.run(binding, &binding.shape.key, key.len(), &rows, Step::Data, &text).await
    }

    /// Reads what rows with holes lack. Where the key stays, the holes are left alone and the other columns updated,
    /// unless the way needs whole rows.
    async fn fill(&mut self, sorted: &mut Sorted<'_>, way: Way) -> Result<(), Trouble> {
        for place in 0..sorted.groups.len() {
            let group = &sorted.groups[place];
            let mut rows = group.moved.clone();
            if way >= Way::Replace {
                rows.extend(&group.patches);
            }
            if !rows.is_empty() {
                let binding = std::sync::Arc::clone(&group.binding);
                self.read(sorted, &binding, &rows).await?;
            }
        }
        Ok(())
    }

    async fn read(&mut self, sorted: &mut Sorted<'_>, binding: &Binding, rows: &[u32]) -> Result<(), Trouble> {
        let mut missing: Vec<usize> = Vec::new();
        for &row in rows {
            for column in holes(sorted.body(row), binding)? {
                if !missing.contains(&column) {
                    missing.push(column);
                }
            }
        }
        if !binding.in_arrays(&binding.shape.key) {
            return Err(Error::config(format!(
                "read rows of table {:?} of the destination: a key column of an array type is not supported where rows \
                 come without their large values: set REPLICA IDENTITY FULL at the source",
                binding.target.name
            ))
            .into());
        }
        let wanted: Vec<(&str, Form)> =
            missing.iter().map(|&column| (&*binding.place(column).quoted, binding.form(column))).collect();
        let found = {
            let parts = Parts { sorted, binding, rows, key: Some(Key::Older), columns: &[] };
            let (arrays, feed) = self.key_feed(binding, &parts)?;
            let text = sql::read(&binding.target.sql, &feed, &wanted);
            let statement = match self.session.prepare(&text).await {
                Ok(statement) => statement,
                Err(error) => return Err(self.pipeline.blame(&error, Step::Data).await),
            };
            let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
                arrays.iter().map(|array| array as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
            match self.session.client.query(&statement, &parameters).await {
                Ok(found) => found,
                Err(error) => return Err(self.pipeline.blame(&error, Step::Data).await),
            }
        };
        if found.len() != rows.len() {
            return Err(Trouble::Hole);
        }
        for row in &found {
            let ordinal: i64 = get(row, 0)?;
            let index = usize::try_from(ordinal - 1).ok().and_then(|i| rows.get(i).copied());
            let index = index.ok_or_else(|| Error::corrupt("read rows: the server numbers them otherwise"))?;
            let mut older = HashMap::new();
            for (place, &column) in missing.iter().enumerate() {
                let raw: Option<Raw<'_>> = get(row, place + 1)?;
                let value = raw.map_or(Value::Null, |raw| match wanted[place].1 {
                    Form::Binary => Value::Binary(raw.0),
                    Form::Text => Value::Text(raw.0),
                });
                older.insert(column, value);
            }
            sorted.fill(index, |column| older.get(&column).copied().unwrap_or(Value::Unchanged))?;
        }
        Ok(())
    }

    /// Updates the columns that rows with holes do have, by which columns these are.
    async fn patch(&mut self, sorted: &Sorted<'_>, group: &Group) -> Result<(), Trouble> {
        let binding = &*group.binding;
        let mut alike: HashMap<Vec<usize>, Vec<u32>> = HashMap::new();
        for &row in &group.patches {
            let holes = holes(sorted.body(row), binding)?;
            let set = |column: &usize| !holes.contains(column) && !binding.shape.key.contains(column);
            alike.entry((0..binding.map.len()).filter(set).collect()).or_default().push(row);
        }
        for (set, rows) in alike {
            if set.is_empty() {
                continue;
            }
            let key = binding.shape.key.len();
            let columns: Vec<usize> = binding.shape.key.iter().chain(&set).copied().collect();
            let rows = Parts { sorted, binding, rows: &rows, key: Some(Key::Own), columns: &set };
            let text = |feed: &sql::Feed<'_>| sql::update(&binding.target.sql, feed, key);
            self.run(binding, &columns, key, &rows, Step::Patch, &text).await?;
        }
        Ok(())
    }

    async fn put(&mut self, sorted: &Sorted<'_>, group: &Group, way: Way, copying: bool) -> Result<(), Trouble> {
        let binding = &*group.binding;
        let target = &*binding.target;
        let rest: Vec<u32> = [&group.puts[..], &group.moved].concat();
        if !binding.keyed {
            // While a table is being loaded it has no key, and each row comes once.
            let rows = [&rest[..], &group.fresh].concat();
            return self.insert(sorted, group, &rows).await;
        }
        if !binding.updatable() {
            let rows = [&rest[..], &group.fresh].concat();
            self.delete(sorted, group, &rows).await?;
            return self.insert(sorted, group, &rows).await;
        }
        let new_table = copying && target.was_empty && !self.bindings.has_collided(target);
        let (new, rest) =
            if new_table { ([&rest[..], &group.fresh].concat(), Vec::new()) } else { (group.fresh.clone(), rest) };
        let direct = way == Way::Direct
            && new.len() >= COPY_ROWS
            && binding.one_form().is_some()
            && self.bindings.may_copy(target);
        if !direct {
            return self.upsert(sorted, group, &[new, rest].concat()).await;
        }
        self.tried.push(target.oid);
        self.upsert(sorted, group, &rest).await?;
        self.insert(sorted, group, &new).await
    }

    async fn upsert(&mut self, sorted: &Sorted<'_>, group: &Group, rows: &[u32]) -> Result<(), Trouble> {
        let binding = &*group.binding;
        let columns: Vec<usize> = (0..binding.map.len()).collect();
        let rows = Bodies { sorted, rows, columns: columns.len() };
        let (key, overriding) = (&binding.shape.key, binding.overriding());
        let text = |feed: &sql::Feed<'_>| sql::upsert(&binding.target.sql, feed, key, overriding, binding.sparing);
        self.run(binding, &columns, 0, &rows, Step::Data, &text).await
    }

    /// Inserts rows that are not there.
    async fn insert(&mut self, sorted: &Sorted<'_>, group: &Group, rows: &[u32]) -> Result<(), Trouble> {
        let binding = &*group.binding;
        let columns: Vec<usize> = (0..binding.map.len()).collect();
        let bodies = Bodies { sorted, rows, columns: columns.len() };
        if rows.len() >= COPY_ROWS
            && let Some(form) = binding.one_form()
        {
            let names: Vec<&str> = columns.iter().map(|&column| &*binding.place(column).quoted).collect();
            let text = sql::copy(&binding.target.sql, &names, form);
            return self.copy(&text, form, &bodies, &binding.forms(&columns, 0)).await;
        }
        let text = |feed: &sql::Feed<'_>| sql::insert(&binding.target.sql, feed, binding.overriding());
        self.run(binding, &columns, 0, &bodies, Step::Data, &text).await
    }

    /// Deletes whatever holds a unique value of the rows that are about to be inserted.
    async fn evict(&mut self, sorted: &Sorted<'_>, group: &Group) -> Result<(), Trouble> {
        let binding = &*group.binding;
        let rows = group.written();
        for index in &binding.target.unique {
            let columns: Option<Vec<usize>> = index.iter().map(|name| binding.shape.column(name)).collect();
            let Some(mut columns) = columns else { continue };
            columns.sort_unstable();
            let parts = Parts { sorted, binding, rows: &rows, key: None, columns: &columns };
            let all: Vec<usize> = (0..columns.len()).collect();
            let text = |feed: &sql::Feed<'_>| sql::delete(&binding.target.sql, feed, &all);
            self.run(binding, &columns, 0, &parts, Step::Data, &text).await?;
        }
        Ok(())
    }

    async fn sequences(&mut self, sorted: &Sorted<'_>) -> Result<(), Trouble> {
        let Some(statement) = self.sequence_values(sorted)? else { return Ok(()) };
        self.execute(sql::SEQUENCES, statement, Step::Data).await
    }
}

/// The columns that a body does not have.
fn holes(body: &[u8], binding: &Binding) -> Result<Vec<usize>> {
    let mut out = Vec::new();
    for (column, value) in Columns::expect(body, binding.map.len())?.enumerate() {
        if value? == Value::Unchanged {
            out.push(column);
        }
    }
    Ok(out)
}
