//! What has to exist at a server, and what an operator has to be told about it.
//!
//! [`slot`] and [`publication`] make, inspect and remove what the source needs; [`head`] says where the server is;
//! [`pin`] puts them together; [`prove`] decides whether a stream can go on; [`check`] finds what is wrong before it matters. Nothing is changed at a server that `manage` does not allow: then the error holds the statement to run.

pub mod check;
pub mod head;
pub mod pin;
pub mod prove;
pub mod publication;
pub mod slot;

mod check_settings;
mod check_sink;
mod check_source;
mod history;

use std::fmt;

/// A table by its names, as the catalog has them. Displayed quoted, for statements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// Schema.
    pub schema: String,
    /// Table.
    pub name: String,
}

impl TableName {
    /// A table of these names.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// A name as an identifier in SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal in SQL.
pub(crate) fn literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text).trim_start().to_owned()
}
