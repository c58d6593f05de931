//! What configuration says about one PostgreSQL endpoint: plain values, no behaviour beyond names derived from them.
//!
//! Invariant: neither `Debug` nor any error shows a connection string. Names of slot and publication are derived from the
//! stream name alone, so that a restart, a second machine and `drop-slot` find the same ones.

use std::fmt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::model::Layout;

/// Longest name that a PostgreSQL server keeps whole, in bytes.
const NAME_MAX: usize = 63;
/// Hexadecimal digits of the hash that keeps mapped names apart. LIMIT: 32 bits, for the handful of streams of one server.
const HASH_DIGITS: usize = 8;

/// How a connection proves who it is, as Teleport's `auth_mode` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// Whatever the connection string says: password, passfile, client certificate (`auth_mode` empty).
    #[default]
    Password,
    /// An Entra ID access token as the password, fetched for each new connection (`azure`).
    Azure,
    /// An access token of the machine's service account as the password (`gcp-cloudsql`).
    GcpCloudSql,
}

/// One PostgreSQL endpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// Connection string, as libpq and pgx read it.
    pub conn_string: String,
    /// Connection string of the change feed where it differs (Teleport's `change_feed_conn_string`).
    pub change_feed_conn_string: Option<String>,
    /// How connections prove who they are.
    pub auth_mode: AuthMode,
    /// How items lie in the database.
    pub layout: Layout,
    /// Raw layout: patterns of tables, `schema.name` with `*` and `?`; empty in the teleport layout.
    pub tables: Vec<String>,
    /// Stream name.
    pub stream: String,
    /// Directory for local state.
    pub state_dir: PathBuf,
    /// Memory budget of the pipeline in bytes.
    pub memory: usize,
    /// Concurrent requests while copying.
    pub parallel: usize,
    /// Whether the slot may be made and dropped.
    pub manage_slot: bool,
    /// Whether the publication may be made and altered.
    pub manage_publication: bool,
    /// WAL that may be kept at the source for us, in bytes.
    pub max_retained: u64,
    /// Whether somebody takes over for the sink when about that much is kept, so that reaching it is no reason to give the
    /// slot up for as long as that works.
    pub relieved: bool,
}

impl Options {
    /// Everything at its documented default, for a stream and a connection string.
    pub fn new(stream: impl Into<String>, conn_string: impl Into<String>) -> Self {
        Self {
            conn_string: conn_string.into(),
            change_feed_conn_string: None,
            auth_mode: AuthMode::Password,
            layout: Layout::Teleport,
            tables: Vec::new(),
            stream: stream.into(),
            state_dir: PathBuf::from("driftless-state"),
            memory: 256 << 20,
            parallel: 100,
            manage_slot: true,
            manage_publication: true,
            max_retained: 20 << 30,
            relieved: false,
        }
    }

    /// Connection string of the change feed.
    pub fn feed_conn_string(&self) -> &str {
        self.change_feed_conn_string.as_deref().unwrap_or(&self.conn_string)
    }

    /// Name of the replication slot of this stream: `driftless_<name>` in the characters and length that a slot may have.
    /// A name that does not fit as it is ends in a hash of the original, so that no two streams share a slot.
    pub fn slot(&self) -> String {
        object_name(&self.stream)
    }

    /// Name of the publication of this stream; the same rule as for the slot.
    pub fn publication(&self) -> String {
        object_name(&self.stream)
    }
}

fn object_name(stream: &str) -> String {
    let plain = format!("driftless_{stream}");
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if plain.len() <= NAME_MAX && plain.chars().all(fits) {
        return plain;
    }
    let mut name: String =
        plain.chars().map(|c| c.to_ascii_lowercase()).map(|c| if fits(c) { c } else { '_' }).collect();
    name.truncate(NAME_MAX - HASH_DIGITS - 1);
    let digest = Sha256::digest(stream.as_bytes());
    name.push('_');
    name.extend(digest.iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")));
    name
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("stream", &self.stream)
            .field("auth_mode", &self.auth_mode)
            .field("layout", &self.layout)
            .field("tables", &self.tables)
            .field("state_dir", &self.state_dir)
            .field("memory", &self.memory)
            .field("parallel", &self.parallel)
            .field("manage_slot", &self.manage_slot)
            .field("manage_publication", &self.manage_publication)
            .field("max_retained", &self.max_retained)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_that_fits_is_kept_and_any_other_carries_a_hash() {
        assert_eq!(Options::new("cluster_1", "").slot(), "driftless_cluster_1");
        assert_eq!(Options::new("postgresql-to-sqlite", "").slot(), "driftless_postgresql_to_sqlite_e6a27856");
        assert_ne!(Options::new("a-b", "").slot(), Options::new("a.b", "").slot());
        assert_ne!(Options::new("A", "").slot(), Options::new("a", "").slot());
    }

    #[test]
    fn debug_shows_no_connection_string() {
        let mut options = Options::new("s", "postgresql://u:planted-1@h/d");
        options.change_feed_conn_string = Some("host=h password=planted-2".into());
        assert!(!format!("{options:?}").contains("planted"));
    }

    proptest! {
        #[test]
        fn every_stream_name_gives_a_legal_slot_name(stream in ".{0,120}") {
            let slot = Options::new(stream, "").slot();
            prop_assert!(slot.len() <= NAME_MAX);
            prop_assert!(slot.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        }
    }
}
