//! The driver's errors as ours.

use crate::error::{Error, Fault};

/// The driver's error as ours: no value of a row gets through.
pub fn translate(error: &tokio_postgres::Error, attempt: &str) -> Error {
    let Some(db) = error.as_db_error() else {
        return Error::transient(format!("{attempt}: the connection to the server is lost"));
    };
    let fault = match db.code().code().get(..2) {
        Some("08" | "40" | "53" | "57" | "58") => Fault::Transient,
        Some("42" | "28" | "3D") => Fault::Config,
        _ => Fault::Rejected,
    };
    Error::new(fault, format!("{attempt}: the server says {} (SQLSTATE {})", db.message(), db.code().code()))
}
