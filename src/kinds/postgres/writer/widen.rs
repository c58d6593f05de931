//! A column that the source's table got after the destination's was made.
//!
//! Rows that were there before have the column's default at both sides, if the default is a constant: the source wrote
//! none of them again, so nothing about them is in the stream. Invariant: no other difference between two tables is
//! ever mended here; whatever else the source's owner altered needs a person.

use super::session::Session;
use super::target::Target;
use crate::error::{Error, Result};
use crate::kinds::postgres::conn::translate;
use crate::kinds::postgres::ddl;
use crate::kinds::postgres::shape::{Column, Shape};

/// Adds the columns that the destination's table lacks; gives whether there were any.
///
/// # Errors
/// Config for a column whose value in rows that are there cannot be known.
pub async fn widen(session: &Session, target: &Target, shape: &Shape) -> Result<bool> {
    let missing: Vec<&Column> = shape.columns.iter().filter(|column| target.place(&column.name).is_none()).collect();
    if target.misfits(shape).len() > missing.len() {
        // More is wrong than that; nothing is touched, and the caller names all of it.
        return Ok(false);
    }
    for column in &missing {
        let statement = add(&target.sql, column).ok_or_else(|| {
            Error::config(format!(
                "add column {:?} to table {:?} of the destination: the rows that are there got values at the source that \
                 no change tells: drop the destination's table, or add the column there with the same values",
                column.name, target.name
            ))
        })?;
        session.client.batch_execute(&statement).await.map_err(|error| {
            translate(&error, format!("add column {:?} to table {:?} of the destination", column.name, target.name))
        })?;
        tracing::info!(table = %target.name, column = %column.name, "the source's table got a column; added");
    }
    Ok(!missing.is_empty())
}

/// The statement that adds a column, if its value in older rows is known.
fn add(table: &str, column: &Column) -> Option<String> {
    if column.identity.is_some() || column.type_name.is_empty() || !column.default.as_deref().is_none_or(is_constant) {
        return None;
    }
    let mut out = format!("alter table {table} add column {} {}", ddl::quote(&column.name), column.type_name);
    if let Some(collation) = &column.collation {
        out.push_str(&format!(" collate {collation}"));
    }
    if let Some(default) = &column.default {
        out.push_str(&format!(" default {default}"));
    }
    if column.not_null {
        out.push_str(" not null");
    }
    Some(out)
}

/// Whether a default, as the server prints it, is the same at any time and place: literals with casts.
fn is_constant(default: &str) -> bool {
    let outside_quotes: String = default.split('\'').step_by(2).collect();
    // Without parentheses there is no call but those that SQL spells as words.
    !outside_quotes.contains('(') && !["CURRENT_", "LOCALTIME", "USER"].iter().any(|word| outside_quotes.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_constant_and_calls_are_not() {
        for default in ["5", "'-1'::integer", "true", "'it''s (x)'::text", "ARRAY[]::text[]", "'{}'::jsonb"] {
            assert!(is_constant(default), "{default}");
        }
        for default in
            ["now()", "CURRENT_TIMESTAMP", "nextval('q'::regclass)", "CURRENT_USER", "('a'::text || random())"]
        {
            assert!(!is_constant(default), "{default}");
        }
    }

    #[test]
    fn a_column_is_added_as_the_source_has_it() {
        let column = Column {
            name: "c".into(),
            type_name: "numeric(5,2)".into(),
            default: Some("1.5".into()),
            not_null: true,
            ..Column::default()
        };
        let statement = add("x", &column).unwrap();
        assert_eq!(statement, "alter table x add column \"c\" numeric(5,2) default 1.5 not null");
        assert_eq!(add("x", &Column { identity: Some('a'), ..column }), None);
    }
}
