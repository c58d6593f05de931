//! What a table looks like: the contents of [`Table::shape`] for PostgreSQL.
//!
//! A shape says how the rows of a table are read (columns, key) and holds all that is needed to make the table again
//! somewhere else, as the source server prints it. It is written as versioned JSON: it is decoded once per table, not
//! once per row, and fields may be added without breaking older records.
//!
//! Invariant: a body of the table has exactly one entry per element of [`Shape::columns`], in that order. Generated
//! columns are no part of bodies (the stream does not carry them); they are listed apart, for making the table only.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Table;

/// Version of the encoding.
const VERSION: u32 = 1;

/// A table: how to read its rows and how to make it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shape {
    /// Schema, not quoted.
    pub schema: String,
    /// Name, not quoted.
    pub name: String,
    /// The table's oid at the server it was read from; 0 when unknown.
    pub oid: u32,
    /// Bodies and keys are in binary form; else in text form. One choice for all tables of a source.
    pub binary: bool,
    /// The binary form of every column means the same at another server: it holds no object ids that users' types got.
    pub portable: bool,
    /// The raw key is the bytes of its only column, without lengths (the teleport layout).
    pub flat_key: bool,
    /// The replicated columns, in the order of bodies. Generated columns are not among them.
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the usable key, in key order.
    pub key: Vec<usize>,
    /// The index behind the usable key.
    pub key_index: String,
    /// Columns that the server computes.
    pub generated: Vec<Generated>,
    /// Partitions, all levels down (their replica identity was checked); 0 for ordinary tables.
    pub partitions: usize,
    /// `pg_class.relreplident`: which old columns the stream carries.
    pub identity: Identity,
    /// The index that `REPLICA IDENTITY USING INDEX` names.
    pub identity_index: Option<String>,
    /// `CREATE UNLOGGED TABLE`.
    pub unlogged: bool,
    /// Storage parameters (`fillfactor='90'`), separated by commas; empty for none.
    pub options: String,
    /// What follows `PARTITION BY`, for partitioned tables; they are read and written through their root.
    pub partition_key: Option<String>,
    /// Primary key, unique, check and exclusion constraints; no foreign keys.
    pub constraints: Vec<Constraint>,
    /// Indexes that belong to no constraint.
    pub indexes: Vec<Index>,
    /// Sequences that columns own or are identities by.
    pub sequences: Vec<Sequence>,
    /// Types of the user's own that the columns need, each after those it is made of.
    pub types: Vec<UserType>,
    /// What `ddl` cannot make again; each says what it is (`a composite type public.point3`).
    pub unsupported: Vec<String>,
}

/// A replicated column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Column {
    /// Name, not quoted.
    pub name: String,
    /// `pg_attribute.attnum`; orders replicated and generated columns among each other. 0 when unknown.
    pub number: i16,
    /// Type.
    pub type_oid: u32,
    /// Type modifier, -1 for none.
    pub typmod: i32,
    /// The type as `format_type` prints it with an empty search path (quoted, qualified where needed).
    pub type_name: String,
    /// Declared NOT NULL (or part of the primary key).
    pub not_null: bool,
    /// `a`lways or by `d`efault an identity.
    pub identity: Option<char>,
    /// The default, as an expression.
    pub default: Option<String>,
    /// The collation, qualified and quoted, where it is not that of the type.
    pub collation: Option<String>,
    /// `SET STORAGE`, where it is not that of the type.
    pub storage: Option<String>,
    /// The collation compares by bytes (`C` in a UTF-8 database), so that an index reads in the order of bytes.
    pub bytewise: bool,
    /// Values are in binary form in the bodies of this source; else in text form (also types without a binary form).
    pub binary: bool,
    /// The type has a binary form.
    pub sendable: bool,
    /// The type's output function, qualified and quoted: what makes the text form.
    pub output: String,
    /// `pg_type.typcategory` of the type or, for a domain, of its base type.
    pub category: char,
    /// For a domain its base type, else the same as `type_oid`.
    pub base_oid: u32,
    /// The array type over `base_oid`; 0 for none.
    pub array_oid: u32,
}

/// A column that the server computes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Generated {
    /// Name, type and the rest; `default` is the expression.
    pub column: Column,
    /// Computed when read rather than when written (`VIRTUAL`, since version 18).
    pub is_virtual: bool,
}

/// `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// The primary key, if there is one.
    #[default]
    Default,
    /// All columns.
    Full,
    /// The columns of one unique index.
    Index,
    /// Nothing: UPDATE and DELETE of a published table fail at the source.
    Nothing,
}

/// A table constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Constraint {
    /// Name, not quoted.
    pub name: String,
    /// `pg_constraint.contype`: `p`, `u`, `c`, `x`.
    pub kind: char,
    /// As `pg_get_constraintdef` prints it.
    pub definition: String,
}

/// An index without a constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Index {
    /// Name, not quoted.
    pub name: String,
    /// Whether it is unique.
    pub unique: bool,
    /// As `pg_get_indexdef` prints it: a whole statement.
    pub definition: String,
}

/// A sequence that belongs to a column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sequence {
    /// Schema, not quoted.
    pub schema: String,
    /// Name, not quoted.
    pub name: String,
    /// The column's name.
    pub column: String,
    /// Part of an identity column, so made together with it.
    pub identity: bool,
    /// Dropped with its column; else merely named by the column's default.
    pub owned: bool,
    /// Data type, as `format_type` prints it.
    pub type_name: String,
    /// `START`.
    pub start: i64,
    /// `INCREMENT`.
    pub increment: i64,
    /// `MINVALUE`.
    pub min: i64,
    /// `MAXVALUE`.
    pub max: i64,
    /// `CACHE`.
    pub cache: i64,
    /// `CYCLE`.
    pub cycle: bool,
}

/// A type that users made and that a column needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserType {
    /// Schema, not quoted.
    pub schema: String,
    /// Name, not quoted.
    pub name: String,
    /// What it is.
    pub kind: UserTypeKind,
}

/// How a type is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserTypeKind {
    /// An enum with these labels, in order.
    Enum(Vec<String>),
    /// A domain.
    Domain {
        /// Base type as `format_type` prints it.
        base: String,
        /// Collation, qualified and quoted, where it is not that of the base type.
        collation: Option<String>,
        /// NOT NULL.
        not_null: bool,
        /// The default, as an expression.
        default: Option<String>,
        /// Constraints: name and definition.
        checks: Vec<(String, String)>,
    },
    /// A composite type: name, type and collation of its fields.
    Composite(Vec<(String, String, Option<String>)>),
    /// A type that an extension brings: it is made by installing that extension.
    Extension(String),
}

impl Default for UserTypeKind {
    fn default() -> Self {
        Self::Enum(Vec::new())
    }
}

#[derive(Serialize, Deserialize)]
struct Versioned<S> {
    v: u32,
    shape: S,
}

impl Shape {
    /// The contents of [`Table::shape`].
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&Versioned { v: VERSION, shape: self })
            .expect("a shape has only text keys and finite numbers")
    }

    /// Reads the contents of [`Table::shape`].
    ///
    /// # Errors
    /// Corrupt, also for a version this program does not know and for a key that names no column.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        // The parser's own message could quote a default, which may be a user's value, so it is left out.
        let broken = |what: &str| Error::corrupt(format!("read a table's shape: {what}"));
        let Versioned { v, shape } =
            serde_json::from_slice::<Versioned<Self>>(bytes).map_err(|_| broken("it is not a shape"))?;
        if v != VERSION {
            return Err(broken(&format!("it has version {v}, this program knows version {VERSION}")));
        }
        if shape.columns.len() > usize::from(u16::MAX) || shape.key.iter().any(|&column| column >= shape.columns.len())
        {
            return Err(broken("its key names a column that it does not have"));
        }
        if shape.flat_key && shape.key.len() != 1 {
            return Err(broken("a key without lengths has one column"));
        }
        Ok(shape)
    }

    /// The shape of a table. Decodes each time; keep the result, or use [`Shapes`].
    ///
    /// # Errors
    /// As [`Shape::decode`].
    pub fn of(table: &Table) -> Result<Arc<Self>> {
        Self::decode(&table.shape).map(Arc::new).map_err(|error| error.during(format!("table {:?}", table.name)))
    }

    /// A table of this shape. Its name is empty in the teleport layout, else [`Shape::full_name`].
    pub fn table(&self) -> Arc<Table> {
        let name = if self.flat_key { String::new() } else { self.full_name() };
        Arc::new(Table { name, shape: self.encode() })
    }

    /// `schema.name`, not quoted: the name of the [`Table`], and what messages say.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Whether bodies of both shapes have the same columns at the same places, in the same form.
    pub fn aligned(&self, other: &Self) -> bool {
        self.binary == other.binary
            && self.columns.len() == other.columns.len()
            && self.columns.iter().zip(&other.columns).all(|(a, b)| a.name == b.name)
    }
}

/// Shapes that were decoded before, found by the identity of their table.
#[derive(Debug, Default)]
pub struct Shapes(Mutex<Vec<(Arc<Table>, Arc<Shape>)>>);

impl Shapes {
    /// LIMIT: tables times the shapes that each had lately; beyond it the oldest are decoded again.
    const KEPT: usize = 1024;

    /// The shape of a table; cheap for the table that was asked for last.
    ///
    /// # Errors
    /// As [`Shape::decode`].
    pub fn get(&self, table: &Arc<Table>) -> Result<Arc<Shape>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.iter().rposition(|(held, _)| Arc::ptr_eq(held, table)) {
            let shape = Arc::clone(&known[found].1);
            let last = known.len() - 1;
            known.swap(found, last);
            return Ok(shape);
        }
        let shape = Shape::of(table)?;
        if known.len() == Self::KEPT {
            known.remove(0);
        }
        known.push((Arc::clone(table), Arc::clone(&shape)));
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            schema: "public".into(),
            name: "kv".into(),
            columns: vec![
                Column { name: "key".into(), type_oid: 17, typmod: -1, category: 'U', ..Column::default() },
                Column { name: "value".into(), type_oid: 17, identity: Some('a'), category: 'U', ..Column::default() },
            ],
            key: vec![0],
            flat_key: true,
            types: vec![UserType {
                name: "mood".into(),
                kind: UserTypeKind::Enum(vec!["sad".into()]),
                ..UserType::default()
            }],
            ..Shape::default()
        }
    }

    #[test]
    fn a_shape_is_read_as_it_was_written() {
        assert_eq!(Shape::decode(&shape().encode()).unwrap(), shape());
    }

    #[test]
    fn a_broken_shape_is_corrupt_and_nothing_of_it_is_shown() {
        for text in
            ["", "{", r#"{"v":9,"shape":{}}"#, r#"{"v":1,"shape":{"key":[3]}}"#, r#"{"v":1,"shape":{"flat_key":true}}"#]
        {
            let error = Shape::decode(text.as_bytes()).unwrap_err();
            assert_eq!(error.fault(), crate::error::Fault::Corrupt, "{error}");
        }
    }

    #[test]
    fn the_cache_knows_tables_by_identity() {
        let shapes = Shapes::default();
        let (one, two) = (shape().table(), shape().table());
        let first = shapes.get(&one).unwrap();
        let second = shapes.get(&two).unwrap();
        assert!(Arc::ptr_eq(&first, &shapes.get(&one).unwrap()));
        assert!(Arc::ptr_eq(&second, &shapes.get(&two).unwrap()));
        assert!(!Arc::ptr_eq(&first, &second));
    }
}
