//! Tables of the destination as the writer sees them, and how bodies of a source's table map onto their columns.
//!
//! Columns are matched by name, so their order may differ. Invariant: a [`Binding`] exists only if every column of the
//! source's shape has a column of the same name in the destination that takes values.

use std::sync::Arc;

use super::session::{Session, get};
use super::sql::{FeedColumn, Form, ident, qualified};
use crate::error::{Error, Result};
use crate::kinds::postgres::conn::translate;
use crate::kinds::postgres::shape::{Column, Shape};
use crate::model::Table;

/// A column of the destination.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name, not quoted.
    pub name: String,
    /// Name, quoted.
    pub quoted: String,
    /// Type without modifier.
    pub type_sql: String,
    /// Type with modifier.
    pub full_type: String,
    /// Type.
    pub oid: u32,
    /// There is an array type over it whose elements are its values; else rows go through a temporary table.
    pub in_arrays: bool,
    /// GENERATED ALWAYS AS IDENTITY.
    pub always: bool,
    /// Must be given a value.
    pub required: bool,
    /// Computed by the server.
    pub generated: bool,
}

/// A table of the destination.
#[derive(Debug)]
pub struct Target {
    /// `schema.name`, not quoted, for messages.
    pub name: String,
    /// Qualified and quoted.
    pub sql: String,
    /// Its oid.
    pub oid: u32,
    /// Its columns.
    pub places: Vec<Place>,
    /// Columns of its unique, immediate, whole indexes.
    pub unique: Vec<Vec<String>>,
    /// TRUNCATE is allowed and no foreign key stands in its way.
    pub truncate: bool,
    /// It had no row when it was looked at.
    pub was_empty: bool,
}

const COLUMNS: &str = "\
    select a.attname::text, format_type(a.atttypid, -1), format_type(a.atttypid, a.atttypmod), a.atttypid, \
        t.typarray <> 0 and t.typcategory <> 'A', a.attidentity = 'a', \
        a.attnotnull and not a.atthasdef and a.attidentity = '' and a.attgenerated = '', a.attgenerated <> '' \
    from pg_attribute a join pg_type t on t.oid = a.atttypid \
    where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum";

const TABLE: &str = "\
    select c.oid, c.relkind::text, has_table_privilege(c.oid, 'TRUNCATE') \
        and not exists (select from pg_constraint f where f.contype = 'f' and f.confrelid = c.oid and f.conrelid <> c.oid) \
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2";

const UNIQUE: &str = "\
    select array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality k(attnum, place) \
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum \
        where k.place <= i.indnkeyatts order by k.place) \
    from pg_index i where i.indrelid = $1 and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null";

impl Target {
    /// Looks a table up; `None` where there is none.
    ///
    /// # Errors
    /// Config for something that is not a table.
    pub async fn find(session: &Session, schema: &str, name: &str) -> Result<Option<Self>> {
        let full = format!("{schema}.{name}");
        let attempt = || format!("look up table {full:?} in the destination");
        let broken = |error: tokio_postgres::Error| translate(&error, attempt());
        let client = &session.client;
        let Some(row) = client.query_opt(TABLE, &[&schema, &name]).await.map_err(broken)? else { return Ok(None) };
        let (oid, kind, truncate): (u32, String, bool) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
        if kind != "r" && kind != "p" {
            return Err(Error::config(format!("{}: it is not a table", attempt())));
        }
        let mut places = Vec::new();
        for row in client.query(COLUMNS, &[&oid]).await.map_err(broken)? {
            let name: String = get(&row, 0)?;
            places.push(Place {
                quoted: ident(&name),
                name,
                type_sql: get(&row, 1)?,
                full_type: get(&row, 2)?,
                oid: get(&row, 3)?,
                in_arrays: get(&row, 4)?,
                always: get(&row, 5)?,
                required: get(&row, 6)?,
                generated: get(&row, 7)?,
            });
        }
        let mut unique = Vec::new();
        for row in client.query(UNIQUE, &[&oid]).await.map_err(broken)? {
            unique.push(get(&row, 0)?);
        }
        let sql = qualified(schema, name);
        let empty = format!("select not exists (select from {sql})");
        let was_empty = get(&client.query_one(&empty, &[]).await.map_err(broken)?, 0)?;
        Ok(Some(Self { name: full, sql, oid, places, unique, truncate, was_empty }))
    }

    /// The column of this name.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.places.iter().position(|place| place.name == name)
    }

    /// Whether some unique index has exactly these columns.
    pub fn has_key(&self, columns: &[&str]) -> bool {
        self.unique
            .iter()
            .any(|index| index.len() == columns.len() && columns.iter().all(|c| index.iter().any(|i| i == c)))
    }

    /// What keeps rows of this shape from being written here; each is one clause of a sentence.
    pub fn misfits(&self, shape: &Shape) -> Vec<String> {
        let mut out = Vec::new();
        for column in &shape.columns {
            match self.place(&column.name).map(|index| &self.places[index]) {
                None => out.push(format!("lacks column {:?}", column.name)),
                Some(place) if place.generated => out.push(format!("computes column {:?}", column.name)),
                Some(place) if !column.type_name.is_empty() && !same_type(place, column) => out.push(format!(
                    "has column {:?} as {} where the source has {}",
                    column.name, place.full_type, column.type_name
                )),
                Some(_) => {}
            }
        }
        for place in self.places.iter().filter(|place| place.required) {
            if shape.column(&place.name).is_none() {
                out.push(format!("needs a value for column {:?}, which the source does not have", place.name));
            }
        }
        out
    }
}

fn same_type(place: &Place, column: &Column) -> bool {
    // The shape prints types with an empty search path, so `public.mood` there is `mood` here.
    let bare = |name: &str| name.rsplit_once('.').map_or_else(|| name.to_owned(), |(_, bare)| bare.to_owned());
    place.full_type == column.type_name || bare(&place.full_type) == bare(&column.type_name)
}

/// A source's table in the destination.
#[derive(Debug)]
pub struct Binding {
    /// The source's table.
    pub table: Arc<Table>,
    /// Its shape.
    pub shape: Arc<Shape>,
    /// Where its rows go.
    pub target: Arc<Target>,
    /// The destination's column of each of the shape's.
    pub map: Vec<usize>,
    /// A unique index stands behind the shape's key. Without one (while a table is being loaded) rows can only be added.
    pub keyed: bool,
    /// Rows that stand there already are not written again.
    pub sparing: bool,
}

impl Binding {
    /// Connects the two.
    ///
    /// # Errors
    /// Config when they do not fit.
    pub fn new(table: &Arc<Table>, shape: Arc<Shape>, target: Arc<Target>, sparing: bool) -> Result<Self> {
        let misfits = target.misfits(&shape);
        if !misfits.is_empty() {
            return Err(Error::config(format!(
                "write to table {:?} of the destination: it {}: alter it to fit the source, or drop it and let it be made",
                target.name,
                misfits.join(", ")
            )));
        }
        let map = shape.columns.iter().map(|column| target.place(&column.name).unwrap_or_default()).collect();
        let key: Vec<&str> = shape.key.iter().map(|&index| shape.columns[index].name.as_str()).collect();
        let keyed = target.has_key(&key);
        Ok(Self { table: Arc::clone(table), keyed, shape, map, target, sparing })
    }

    /// The destination's column for column `index` of the shape.
    pub fn place(&self, index: usize) -> &Place {
        &self.target.places[self.map[index]]
    }

    /// The form that values of column `index` of the shape have.
    pub fn form(&self, index: usize) -> Form {
        if self.shape.columns[index].binary { Form::Binary } else { Form::Text }
    }

    /// The form of a key's column. Teleport's keys are the bytes of the key itself, which is also their binary form.
    pub fn key_form(&self, index: usize) -> Form {
        if self.shape.flat_key { Form::Binary } else { self.form(index) }
    }

    /// The forms of columns of the shape, of which the first `keys` are cut out of keys.
    pub fn forms(&self, columns: &[usize], keys: usize) -> Vec<Form> {
        let form = |(place, &index)| if place < keys { self.key_form(index) } else { self.form(index) };
        columns.iter().enumerate().map(form).collect()
    }

    /// Column `index` of the shape in a feed.
    pub fn feed_column(&self, index: usize, form: Form) -> FeedColumn<'_> {
        let place = self.place(index);
        FeedColumn { name: &place.quoted, type_sql: &place.type_sql, form }
    }

    /// Whether these columns can go as arrays.
    pub fn in_arrays(&self, columns: &[usize]) -> bool {
        // As text everything can: the server casts each element.
        columns.iter().all(|&index| self.form(index) == Form::Text || self.place(index).in_arrays)
    }

    /// The form of whole rows, if all columns have the same one: then COPY can put them into the table itself.
    pub fn one_form(&self) -> Option<Form> {
        let first = self.form(0);
        (1..self.map.len()).all(|index| self.form(index) == first).then_some(first)
    }

    /// Whether GENERATED ALWAYS identities must be overridden.
    pub fn overriding(&self) -> bool {
        self.map.iter().any(|&place| self.target.places[place].always)
    }

    /// Whether ON CONFLICT can set every column behind the key: an identity that is always generated can only be
    /// inserted.
    pub fn updatable(&self) -> bool {
        (0..self.map.len()).all(|index| self.shape.key.contains(&index) || !self.place(index).always)
    }
}
