//! What every session is set to before its first statement.
//!
//! Invariant: values read as text look the same whatever the server's, database's or role's defaults are, and rows that a
//! row security policy would hide are an error, not a smaller copy. Set by statements rather than start-up options, which
//! poolers refuse.

use std::time::Duration;

use tokio_postgres::Client;

use crate::error::Result;
use crate::kinds::postgres::conn::errors::translate;

/// Limits of one session; `None` means no limit, whatever the server's default is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Longest statement.
    pub statement: Option<Duration>,
    /// Longest wait for a lock.
    pub lock: Option<Duration>,
    /// Longest idle time inside a transaction: what a stopped process may hold locks for.
    pub idle_in_transaction: Option<Duration>,
    /// Whether transactions are read-only unless they say otherwise.
    pub read_only: bool,
}

impl Session {
    /// For questions and small changes of the catalog.
    // LIMIT: a catalog question that takes longer waits for somebody, who should be named rather than waited for.
    pub const ADMIN: Self = Self {
        statement: Some(Duration::from_secs(60)),
        lock: Some(Duration::from_secs(10)),
        idle_in_transaction: Some(Duration::from_secs(60)),
        read_only: false,
    };

    /// For reading much: pages may be read slowly and between two of them the pipeline may be held up for long.
    pub const READ: Self =
        Self { statement: None, lock: Some(Duration::from_secs(60)), idle_in_transaction: None, read_only: true };

    /// For writing changes.
    // LIMIT: a process that was stopped in a transaction frees its row locks after this time, if no claim ends it before.
    pub const WRITE: Self = Self {
        statement: None,
        lock: Some(Duration::from_secs(60)),
        idle_in_transaction: Some(Duration::from_secs(60)),
        read_only: false,
    };

    /// What makes text forms the same everywhere, for a server of this `server_version_num`.
    pub fn text_settings(version: u32) -> String {
        let mut sql = String::from(
            "set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set timezone = 'UTC'; \
             set extra_float_digits = 3; set bytea_output = 'hex'; set lc_monetary = 'C'; \
             set standard_conforming_strings = on; set client_min_messages = 'warning'; set row_security = off",
        );
        if version >= 140_000 {
            sql.push_str("; set idle_session_timeout = 0");
        }
        if version >= 170_000 {
            sql.push_str("; set transaction_timeout = 0");
        }
        sql
    }

    /// Sends everything in one round trip.
    pub(super) async fn prepare(&self, client: &Client, version: u32) -> Result<()> {
        let ms = |limit: Option<Duration>| limit.map_or(0, |limit| limit.as_millis());
        let sql = format!(
            "{}; set statement_timeout = {}; set lock_timeout = {}; \
             set idle_in_transaction_session_timeout = {}; set default_transaction_read_only = {}",
            Self::text_settings(version),
            ms(self.statement),
            ms(self.lock),
            ms(self.idle_in_transaction),
            if self.read_only { "on" } else { "off" },
        );
        client.batch_execute(&sql).await.map_err(|error| translate(&error, "prepare a session with PostgreSQL"))
    }
}
