//! What a PostgreSQL server, its driver or the socket say, as our [`Error`].
//!
//! Invariant: only severity, SQLSTATE, the primary message and names of constraint, table, column and type get through;
//! DETAIL, HINT, WHERE and QUERY can hold values of rows and are dropped. The primary message itself is dropped for
//! classes 22 and 23, where servers quote the value. One place decides the fault of each SQLSTATE (Appendix A of the
//! manual).

use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use tokio_postgres::error::{DbError, Severity};

use crate::error::{Error, Fault};

/// What of an error response may be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// Five characters of Appendix A.
    pub code: String,
    /// Primary message, never a value.
    pub message: String,
    /// Schema, table, column, constraint and type that it is about, where known.
    pub about: Vec<(&'static str, String)>,
    /// Whether the session ends with it.
    pub fatal: bool,
}

impl ServerError {
    /// From the fields on the wire. A broken field ends the reading; what was read counts.
    pub fn from_fields(mut fields: ErrorFields<'_>) -> Self {
        let mut this = Self::default();
        while let Ok(Some(field)) = fields.next() {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => this.code = text(),
                b'V' => this.fatal = matches!(field.value_bytes(), b"FATAL" | b"PANIC"),
                b'M' => this.message = text(),
                b's' => this.about.push(("schema", text())),
                b't' => this.about.push(("table", text())),
                b'c' => this.about.push(("column", text())),
                b'd' => this.about.push(("type", text())),
                b'n' => this.about.push(("constraint", text())),
                _ => {}
            }
        }
        this
    }

    /// From the driver's reading of the same fields.
    pub fn from_driver(error: &DbError) -> Self {
        let about = [
            ("schema", error.schema()),
            ("table", error.table()),
            ("column", error.column()),
            ("type", error.datatype()),
            ("constraint", error.constraint()),
        ];
        Self {
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            fatal: matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic)),
            about: about.into_iter().filter_map(|(what, name)| Some((what, name?.to_owned()))).collect(),
        }
    }

    /// How to react to it.
    pub fn fault(&self) -> Fault {
        fault_of(&self.code)
    }

    /// The error for a person, with what was being attempted.
    pub fn during(&self, attempt: impl std::fmt::Display) -> Error {
        Error::new(self.fault(), format!("{attempt}: {}", self.sentence()))
    }

    fn sentence(&self) -> String {
        let code = &self.code;
        // `invalid input syntax for type uuid: "…"` and its like quote the value that they refuse, and a trigger's RAISE
        // says what its author liked.
        let mut sentence = match code.get(..2) {
            Some("22") => format!("the server refuses a value (SQLSTATE {code})"),
            Some("23" | "44") => format!("a constraint refuses a row (SQLSTATE {code})"),
            Some("P0") => format!("a function or trigger raised an error (SQLSTATE {code})"),
            _ => format!("the server says: {} (SQLSTATE {code})", self.message.trim_end_matches('.')),
        };
        for (what, name) in &self.about {
            sentence.push_str(&format!(", {what} {name:?}"));
        }
        if let Some(advice) = advice(code) {
            sentence.push_str(": ");
            sentence.push_str(advice);
        }
        sentence
    }
}

/// How to react to a SQLSTATE.
pub fn fault_of(code: &str) -> Fault {
    match code {
        // A statement of ours that no server takes, and use of a transaction that has already failed.
        "42601" | "25P02" => Fault::Bug,
        "XX001" | "XX002" => Fault::Corrupt,
        // The database was dropped under the session; what stands there does not speak all of the protocol.
        "57P04" | "08P01" => Fault::Config,
        // A slot in use, a lock not granted in time.
        "55006" | "55P03" => Fault::Transient,
        _ => match code.get(..2) {
            // Connection, transaction state (a server that is read-only), serialization and deadlock, resources,
            // operator intervention, system and internal errors.
            Some("08" | "25" | "40" | "53" | "57" | "58" | "XX") => Fault::Transient,
            // Data exceptions, constraints, check options, limits, and what triggers raise.
            Some("22" | "23" | "44" | "54" | "P0") => Fault::Rejected,
            // Authorization, missing objects and rights, features and prerequisites that the server lacks.
            _ => Fault::Config,
        },
    }
}

fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" => "check the user and the password of the connection string",
        "28000" => "check the user of the connection string, the client certificate, and pg_hba.conf at the server",
        "3D000" => "check the database of the connection string",
        "42501" => "grant what is missing; `driftless check` prints the statements",
        "53300" => "raise max_connections or max_wal_senders, or lower `parallel`",
        "53100" => "free space on the server's disk",
        "08P01" => "connect to the server itself and not through a connection pooler",
        "25006" => "this server is read-only; name the primary, or add target_session_attrs=read-write",
        _ => return None,
    })
}

/// The driver's error as ours.
pub fn translate(error: &tokio_postgres::Error, attempt: impl std::fmt::Display) -> Error {
    if let Some(db) = error.as_db_error() {
        return ServerError::from_driver(db).during(attempt);
    }
    // The driver tells its kinds apart only by these words; causes are shown where they come from the socket.
    match error.to_string().as_str() {
        "error communicating with the server" | "error connecting to server" => {
            match std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>()) {
                Some(io) => lost(io, attempt),
                None => Error::transient(format!("{attempt}: the connection is lost")),
            }
        }
        "connection closed" | "timeout waiting for server" => {
            Error::transient(format!("{attempt}: the connection is lost"))
        }
        "unexpected message from server" | "error parsing response from server" => {
            Error::transient(format!("{attempt}: the server's answer is not what the protocol allows here"))
        }
        "authentication error" => Error::config(format!(
            "{attempt}: the authentication exchange failed: the server asks for a method that driftless does not \
             know, cannot meet channel_binding=require, or could not prove that it knows the password"
        )),
        "invalid configuration" => {
            Error::config(format!("{attempt}: the server asks for a password and the connection string gives none"))
        }
        words if words.starts_with("error deserializing") => Error::corrupt(format!("{attempt}: {words}")),
        words => Error::bug(format!("{attempt}: the driver reports: {words}")),
    }
}

/// An error of the socket as ours.
pub fn lost(error: &io::Error, attempt: impl std::fmt::Display) -> Error {
    Error::transient(format!("{attempt}: the connection is lost: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: &str) -> ServerError {
        ServerError {
            code: code.into(),
            message: "invalid input syntax for type uuid: \"planted\"".into(),
            about: vec![("constraint", "kv_pkey".into())],
            fatal: false,
        }
    }

    #[test]
    fn each_sqlstate_has_its_reaction() {
        for (codes, fault) in [
            (&["57P01", "57P02", "57P03", "53300", "40001", "40P01", "08006", "55006", "25006"][..], Fault::Transient),
            (&["28P01", "28000", "42501", "3D000", "42P01", "0A000", "55000", "57P04", "08P01"][..], Fault::Config),
            (&["23505", "23503", "22P02", "22021", "54000", "P0001"][..], Fault::Rejected),
            (&["42601"][..], Fault::Bug),
            (&["XX001"][..], Fault::Corrupt),
        ] {
            for code in codes {
                assert_eq!(fault_of(code), fault, "{code}");
            }
        }
    }

    #[test]
    fn a_message_that_quotes_a_value_is_not_shown_but_the_constraint_is() {
        for code in ["22P02", "23505", "P0001"] {
            let error = refusal(code).during("apply a commit").to_string();
            assert!(!error.contains("planted"), "{error}");
            assert!(error.contains("kv_pkey") && error.contains(code), "{error}");
        }
        assert!(refusal("28P01").during("connect").to_string().contains("check the user and the password"));
    }
}
