//! SQL that makes a table like another one.
//!
//! Pure text from a [`Shape`]. [`before_load`] makes what rows can be written to, [`after_load`] adds what is cheaper to
//! build when the rows are there: keys, constraints, indexes. Each statement can be run again without harm, so a run
//! that was interrupted starts over. A partitioned table becomes an ordinary one of the same rows: partitions that its
//! source gets later need nothing here.
//!
//! Not carried: foreign keys, triggers, rules, policies, owners and grants, comments, statistics objects, tablespaces,
//! the partitioning itself.

use crate::error::{Error, Result};

use super::catalog::SequenceValue;
use super::shape::{Column, Identity, Sequence, Shape, UserType, UserTypeKind};

/// An identifier as SQL, always in quotes.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `"schema"."name"`.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

/// A text as an SQL literal, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// What the rows need: schema, extensions, types, sequences, and the table with columns, defaults, identities and NOT NULL.
/// Each statement by itself; nothing is changed where something of the name exists.
///
/// # Errors
/// Config when a column's type is one that cannot be made from its description.
pub fn before_load(shape: &Shape) -> Result<Vec<String>> {
    if !shape.unsupported.is_empty() {
        return Err(Error::config(format!(
            "create table {:?}: it needs {}, which driftless cannot create; create the table at the destination first",
            shape.full_name(),
            shape.unsupported.join(", ")
        )));
    }
    let table = qualified(&shape.schema, &shape.name);
    let mut statements = vec![create_schema(&shape.schema)];
    for one in &shape.types {
        statements.push(create_schema(&one.schema));
        statements.push(create_type(one));
    }
    for sequence in shape.sequences.iter().filter(|sequence| !sequence.identity) {
        statements.push(create_schema(&sequence.schema));
        statements.push(format!(
            "create sequence if not exists {} as {} {}",
            qualified(&sequence.schema, &sequence.name),
            sequence.type_name,
            sequence_options(sequence)
        ));
    }
    statements.push(create_table(shape));
    for sequence in shape.sequences.iter().filter(|sequence| sequence.owned && !sequence.identity) {
        statements.push(format!(
            "alter sequence {} owned by {table}.{}",
            qualified(&sequence.schema, &sequence.name),
            quote(&sequence.column)
        ));
    }
    for column in all_columns(shape) {
        if let Some(storage) = &column.storage {
            statements.push(format!("alter table {table} alter column {} set storage {storage}", quote(&column.name)));
        }
    }
    Ok(statements)
}

/// What is better built when the rows are there: primary key, other constraints, indexes, replica identity.
pub fn after_load(shape: &Shape) -> Vec<String> {
    let table = qualified(&shape.schema, &shape.name);
    let mut statements = Vec::new();
    for constraint in &shape.constraints {
        statements.push(unless(
            &format!(
                "exists (select from pg_catalog.pg_constraint where conrelid = {}::pg_catalog.regclass and conname = {})",
                literal(&table),
                literal(&constraint.name)
            ),
            &format!("alter table {table} add constraint {} {}", quote(&constraint.name), constraint.definition),
        ));
    }
    for index in &shape.indexes {
        statements.push(unless(
            &format!(
                "exists (select from pg_catalog.pg_index where indrelid = {}::pg_catalog.regclass \
                 and indexrelid = pg_catalog.to_regclass({}))",
                literal(&table),
                literal(&qualified(&shape.schema, &index.name))
            ),
            &index.definition,
        ));
    }
    let identity = match (shape.identity, &shape.identity_index) {
        (Identity::Full, _) => Some("full".to_owned()),
        (Identity::Nothing, _) => Some("nothing".to_owned()),
        (Identity::Index, Some(index)) => Some(format!("using index {}", quote(index))),
        (Identity::Default | Identity::Index, _) => None,
    };
    statements.extend(identity.map(|identity| format!("alter table {table} replica identity {identity}")));
    statements
}

/// What tells Teleport's first start that its schema is there: `backend_version` with the row 2. Better the last of all,
/// since without it Teleport does not start on a `kv` that exists.
pub fn teleport_version(schema: &str) -> Vec<String> {
    let table = qualified(schema, "backend_version");
    vec![
        format!(
            "create table if not exists {table} (version integer primary key check (version > 0), \
             created timestamp with time zone not null default now())"
        ),
        format!("insert into {table} (version) select 2 where not exists (select from {table} where version >= 2)"),
    ]
}

/// Sets a sequence to where the source's stood, `ahead` steps further, within its bounds; nothing where it is missing.
pub fn set_sequence(value: &SequenceValue, ahead: u32) -> String {
    let ahead = if value.is_called { i64::from(ahead) } else { 0 };
    let last = value.last_value.saturating_add(value.increment.saturating_mul(ahead)).clamp(value.min, value.max);
    let name = literal(&qualified(&value.schema, &value.name));
    format!(
        "select pg_catalog.setval(c.oid::pg_catalog.regclass, {last}, {}) from pg_catalog.pg_class c \
         where c.oid = pg_catalog.to_regclass({name}) and c.relkind = 'S'",
        value.is_called
    )
}

fn create_schema(schema: &str) -> String {
    // `create schema if not exists` asks for the right to create schemas even where nothing is to be done.
    unless(
        &format!("exists (select from pg_catalog.pg_namespace where nspname = {})", literal(schema)),
        &format!("create schema {}", quote(schema)),
    )
}

/// Runs a statement unless the condition holds.
fn unless(condition: &str, statement: &str) -> String {
    let mut tag = String::from("$driftless$");
    while statement.contains(&tag) || condition.contains(&tag) {
        tag.insert(1, '_');
    }
    format!("do {tag} begin if not {condition} then {statement}; end if; end {tag}")
}

fn create_type(one: &UserType) -> String {
    let name = qualified(&one.schema, &one.name);
    let create = match &one.kind {
        UserTypeKind::Enum(labels) => {
            let labels: Vec<_> = labels.iter().map(|label| literal(label)).collect();
            format!("create type {name} as enum ({})", labels.join(", "))
        }
        UserTypeKind::Domain { base, collation, not_null, default, checks } => {
            let mut sql = format!("create domain {name} as {base}");
            if let Some(collation) = collation {
                sql.push_str(&format!(" collate {collation}"));
            }
            if let Some(default) = default {
                sql.push_str(&format!(" default {default}"));
            }
            if *not_null {
                sql.push_str(" not null");
            }
            for (name, definition) in checks {
                sql.push_str(&format!(" constraint {} {definition}", quote(name)));
            }
            sql
        }
        UserTypeKind::Composite(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, kind, collation)| {
                    let collation = collation.as_ref().map(|name| format!(" collate {name}")).unwrap_or_default();
                    format!("{} {kind}{collation}", quote(name))
                })
                .collect();
            format!("create type {name} as ({})", fields.join(", "))
        }
        UserTypeKind::Extension(extension) => {
            let (extension, schema) = (quote(extension), quote(&one.schema));
            format!("create extension if not exists {extension} with schema {schema}")
        }
    };
    unless(&format!("pg_catalog.to_regtype({}) is not null", literal(&name)), &create)
}

/// Replicated and generated columns in the order of the source.
fn all_columns(shape: &Shape) -> Vec<&Column> {
    let mut columns: Vec<_> =
        shape.columns.iter().chain(shape.generated.iter().map(|generated| &generated.column)).collect();
    columns.sort_by_key(|column| column.number);
    columns
}

fn create_table(shape: &Shape) -> String {
    let columns: Vec<_> = all_columns(shape).into_iter().map(|column| column_definition(shape, column)).collect();
    let unlogged = if shape.unlogged { "unlogged " } else { "" };
    let options = match shape.options.as_str() {
        "" => String::new(),
        options => format!(" with ({options})"),
    };
    format!(
        "create {unlogged}table if not exists {} ({}){options}",
        qualified(&shape.schema, &shape.name),
        columns.join(", ")
    )
}

fn column_definition(shape: &Shape, column: &Column) -> String {
    let mut sql = format!("{} {}", quote(&column.name), column.type_name);
    if let Some(collation) = &column.collation {
        sql.push_str(&format!(" collate {collation}"));
    }
    let generated = shape.generated.iter().find(|generated| generated.column.name == column.name);
    match (generated, &column.default, column.identity) {
        (Some(generated), Some(expression), _) => {
            let kind = if generated.is_virtual { "virtual" } else { "stored" };
            sql.push_str(&format!(" generated always as ({expression}) {kind}"));
        }
        (_, _, Some(identity)) => {
            let when = if identity == 'a' { "always" } else { "by default" };
            sql.push_str(&format!(" generated {when} as identity"));
            let sequence = shape.sequences.iter().find(|sequence| sequence.identity && sequence.column == column.name);
            if let Some(sequence) = sequence {
                let name = qualified(&sequence.schema, &sequence.name);
                sql.push_str(&format!(" (sequence name {name} {})", sequence_options(sequence)));
            }
        }
        (None, Some(default), None) => sql.push_str(&format!(" default {default}")),
        (_, None, None) => {}
    }
    if column.not_null {
        sql.push_str(" not null");
    }
    sql
}

fn sequence_options(sequence: &Sequence) -> String {
    format!(
        "start with {} increment by {} minvalue {} maxvalue {} cache {}{}",
        sequence.start,
        sequence.increment,
        sequence.min,
        sequence.max,
        sequence.cache,
        if sequence.cycle { " cycle" } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(qualified("a\"b", "c.d"), r#""a""b"."c.d""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
        assert!(!unless("x", "y $driftless$ z").starts_with("do $driftless$"));
    }

    #[test]
    fn a_type_that_cannot_be_made_is_named() {
        let shape = Shape { unsupported: vec!["the range type public.floats".into()], ..Shape::default() };
        let error = before_load(&shape).unwrap_err();
        assert_eq!(error.fault(), crate::error::Fault::Config);
        assert!(error.to_string().contains("public.floats"), "{error}");
    }

    #[test]
    fn a_sequence_is_set_ahead_but_never_beyond_its_bounds() {
        let value = |last_value, increment, is_called| SequenceValue {
            schema: "s".into(),
            name: "q".into(),
            increment,
            min: -100,
            max: 100,
            last_value,
            is_called,
        };
        for (value, expected) in [
            (value(5, 2, true), "15, true"),
            (value(5, -2, true), "-5, true"),
            (value(99, 2, true), "100, true"),
            (value(1, 2, false), "1, false"),
        ] {
            assert!(set_sequence(&value, 5).contains(expected), "{}", set_sequence(&value, 5));
        }
    }
}
