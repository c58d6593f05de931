//! What configuration can say about a SQLite backend. Plain fields under Teleport's own names where it has them.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// Which side of a pipeline the file is on. The same code reads both; only what may be missing differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A file or table that is missing is a mistake in the configuration. Nothing is ever created or altered.
    Source,
    /// A file or table that is missing is an empty destination.
    Sink,
}

/// `synchronous` of a connection that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sync {
    /// The operating system decides when bytes reach the disk: a power cut can lose commits or break the file.
    Off,
    /// A power cut can lose the newest commits in WAL mode, and (rarely) break a file that is not in WAL mode.
    Normal,
    /// A commit is on the disk when it returns. Teleport's default, and ours.
    #[default]
    Full,
    /// As `Full`, and the directory is synchronised after the journal is unlinked.
    Extra,
}

impl Sync {
    /// Reads Teleport's spelling (`OFF`, `NORMAL`, `FULL`, `EXTRA` in any case, or SQLite's numbers).
    pub fn parse(text: &str) -> Result<Self> {
        match text.to_ascii_uppercase().as_str() {
            "OFF" | "0" => Ok(Self::Off),
            "NORMAL" | "1" => Ok(Self::Normal),
            "FULL" | "2" => Ok(Self::Full),
            "EXTRA" | "3" => Ok(Self::Extra),
            _ => Err(Error::config(format!("read sync: {text:?} is none of OFF, NORMAL, FULL, EXTRA"))),
        }
    }

    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::Normal => "NORMAL",
            Self::Full => "FULL",
            Self::Extra => "EXTRA",
        }
    }
}

/// `journal_mode` of a file that we write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// A rollback journal, unlinked at each commit.
    Delete,
    /// A rollback journal, cut to nothing at each commit.
    Truncate,
    /// A rollback journal, overwritten at each commit.
    Persist,
    /// A write-ahead log: readers and the writer do not wait for each other.
    Wal,
    /// A rollback journal in memory: a crash in mid-commit can break the file.
    Memory,
    /// No journal: a failed commit cannot be undone, so a sink refuses it.
    Off,
}

impl Journal {
    /// Reads Teleport's spelling (SQLite's names in any case).
    pub fn parse(text: &str) -> Result<Self> {
        match text.to_ascii_uppercase().as_str() {
            "DELETE" => Ok(Self::Delete),
            "TRUNCATE" => Ok(Self::Truncate),
            "PERSIST" => Ok(Self::Persist),
            "WAL" => Ok(Self::Wal),
            "MEMORY" => Ok(Self::Memory),
            "OFF" => Ok(Self::Off),
            _ => Err(Error::config(format!(
                "read journal: {text:?} is none of DELETE, TRUNCATE, PERSIST, WAL, MEMORY, OFF"
            ))),
        }
    }

    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
            Self::Persist => "PERSIST",
            Self::Wal => "WAL",
            Self::Memory => "MEMORY",
            Self::Off => "OFF",
        }
    }
}

/// One SQLite backend.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that holds `sqlite.db`.
    pub path: PathBuf,
    /// Durability of commits (sinks).
    pub sync: Sync,
    /// Journal mode to set (sinks); `None` leaves the file's own, which is DELETE for a new file.
    pub journal: Option<Journal>,
    /// How long a statement waits for a lock that another process holds.
    pub busy_timeout: Duration,
    /// Source: Teleport runs with `events_off`, so the table itself is compared on each change. Sink: write no events.
    pub events_off: bool,
    /// How often a source is looked at for changes. The look costs two system calls and no lock.
    pub watch_every: Duration,
}

impl Options {
    /// The defaults for the backend in this directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sync: Sync::default(),
            journal: None,
            busy_timeout: Duration::from_secs(10),
            events_off: false,
            // LIMIT: four looks fit into the 20 ms within which a change must be seen; idle cost stays under 1 % of a core.
            watch_every: Duration::from_millis(5),
        }
    }

    /// The database file.
    pub fn file(&self) -> PathBuf {
        self.path.join("sqlite.db")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn teleports_spellings_are_understood_and_others_named() {
        assert_eq!(Sync::parse("full").unwrap(), Sync::Full);
        assert_eq!(Journal::parse("wal").unwrap(), Journal::Wal);
        assert!(Sync::parse("sometimes").unwrap_err().to_string().contains("NORMAL"));
        assert!(Journal::parse("log").unwrap_err().to_string().contains("WAL"));
        assert_eq!(Options::new("/x/backend").file(), PathBuf::from("/x/backend/sqlite.db"));
    }
}
