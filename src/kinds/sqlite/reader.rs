//! Reading a database that belongs to somebody else, in short transactions that create and alter nothing.
//!
//! How a file is opened depends on what lies beside it:
//!
//! | the file says | beside it | opened |
//! |---|---|---|
//! | rollback journal | anything | read-only; the connection is kept, since it holds no lock between transactions |
//! | WAL | `-wal` and `-shm` | read-only, with a read-only wal-index (`readonly_shm`), for one transaction: while a connection is open the writer's own last close cannot fold the log back into the file |
//! | WAL | neither, or an empty `-wal` | `immutable`, without locks, and believed only if file and log are the same afterwards: opening it in any other way would create both files |
//! | WAL | a `-wal` with content but no `-shm` | not at all ("transient"): only a writer can rebuild the index |
//!
//! A file that is ours, a sink, is opened for reading and writing, though nothing is written here: a process of ours that was
//! killed within a commit leaves a journal, and only a connection that may write can roll it back.
//!
//! A plain read-only connection to a WAL database would create `-shm`. One window is left: a writer that closes the file
//! between our look at `-wal` and SQLite's lock a few microseconds later leaves us with an empty `-wal` of our making,
//! which every SQLite takes for none.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OpenFlags};

use super::fault::fault;
use super::watch::{FileId, Signature, Watch, beside};
use crate::error::{Error, Fault, Result};

/// LIMIT: a scan and a handful of gets at the same time; more connections than this are closed after use.
const KEPT: usize = 4;

/// Reads one database file.
pub struct Reader {
    file: PathBuf,
    busy: Duration,
    ours: bool,
    state: Mutex<State>,
}

/// What tables there are: `kv`, `events`, and the expression for a revision.
type Tables = (bool, bool, &'static str);

struct State {
    watch: Watch,
    /// Learned under this schema cookie. A lock is held while we ask, so we do not ask twice.
    tables: Option<(FileId, [u8; 4], Tables)>,
    kept: Vec<(FileId, Connection)>,
}

/// What a read transaction sees.
pub struct View<'a> {
    /// In a transaction of its own.
    pub connection: &'a Connection,
    /// The signature taken just before the transaction began.
    pub before: &'a Signature,
    /// The signature within the transaction. In the rollback modes no writer can be within its commit then, so what it says
    /// is committed; equal to `before`, nothing was committed while the transaction began.
    pub inside: Signature,
    /// Whether table `kv` is there.
    pub has_kv: bool,
    /// Whether table `events` is there.
    pub has_events: bool,
    /// The expression that gives a row's revision: files of older Teleports have no such column.
    pub revision: &'static str,
}

/// LIMIT: about 20 ms of looking closely, which a commit that syncs its file rarely outlasts.
const QUICK_TRIES: i32 = 128;

enum Way {
    Shared,
    Immutable,
    Ours,
}

impl Reader {
    /// Of the file at this path; `ours`: a sink. Opens nothing yet.
    pub fn new(file: &Path, busy: Duration, ours: bool) -> Self {
        Self {
            file: file.to_owned(),
            busy,
            ours,
            state: Mutex::new(State { watch: Watch::new(file), tables: None, kept: Vec::new() }),
        }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The file's signature now. Takes no lock at the database.
    pub fn look(&self) -> Result<Signature> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.watch.look().map_err(|error| Error::transient(format!("look at {}", self.file.display())).because(error))
    }

    /// Runs `f` in one read transaction. Blocks; `f` must be quick, because a writer may be waiting.
    pub fn read<T>(&self, attempt: &str, mut f: impl FnMut(&View<'_>) -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            let before = self.look()?;
            let result = self.read_once(&before, attempt, &mut f);
            // The files beside a WAL database come and go with its writers, and not all at once.
            let passing = before.is_wal() && result.as_ref().is_err_and(|error| error.fault() == Fault::Transient);
            if !passing || begun.elapsed() >= self.busy {
                return result;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn read_once<T>(&self, before: &Signature, attempt: &str, f: &mut impl FnMut(&View<'_>) -> Result<T>) -> Result<T> {
        let way = self.way(before)?;
        let mark = self.mark(before);
        let connection = self.connection(before, &way, attempt)?;
        let result = self.transact(&connection, before, attempt, f);
        match way {
            // What was read without locks counts only if nobody was there.
            Way::Immutable if self.mark(&self.look()?) != mark => {
                return Err(Error::transient(format!("{attempt}: the file is being opened by its writer")));
            }
            Way::Immutable => {}
            Way::Shared | Way::Ours => {
                let healthy = result.as_ref().err().is_none_or(|error| error.fault() != Fault::Transient);
                if !before.is_wal() && healthy {
                    self.put_back(before.file, connection);
                }
            }
        }
        result
    }

    fn connection(&self, before: &Signature, way: &Way, attempt: &str) -> Result<Connection> {
        if let Way::Shared | Way::Ours = way
            && !before.is_wal()
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.kept.retain(|(file, _)| *file == before.file);
            if let Some((_, connection)) = state.kept.pop() {
                return Ok(connection);
            }
        }
        self.open(way).map_err(|error| fault(attempt, error))
    }

    fn put_back(&self, file: FileId, connection: Connection) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.kept.len() < KEPT {
            state.kept.push((file, connection));
        }
    }

    fn open(&self, way: &Way) -> rusqlite::Result<Connection> {
        let (mode, query) = match way {
            Way::Shared => (OpenFlags::SQLITE_OPEN_READ_ONLY, "mode=ro&readonly_shm=1"),
            Way::Immutable => (OpenFlags::SQLITE_OPEN_READ_ONLY, "mode=ro&immutable=1"),
            Way::Ours => (OpenFlags::SQLITE_OPEN_READ_WRITE, "mode=rw"),
        };
        let flags = mode | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri(&self.file, query), flags)?;
        // SQLite's own handler soon sleeps 25 ms and more at a time. A commit is over within a few, and one that follows at
        // once leaves a gap of some hundred microseconds: whoever looks less often does not get in.
        let mut connection = connection;
        let (patience, mut begun) = (self.busy, Instant::now());
        connection.busy_handler(Some(move |tried: i32| {
            if tried == 0 {
                begun = Instant::now();
            }
            thread::sleep(if tried < QUICK_TRIES { Duration::from_micros(100) } else { Duration::from_millis(1) });
            begun.elapsed() < patience
        }))?;
        Ok(connection)
    }

    fn way(&self, before: &Signature) -> Result<Way> {
        if self.ours {
            return Ok(Way::Ours);
        }
        if !before.is_wal() {
            return Ok(Way::Shared);
        }
        let log = fs::metadata(beside(&self.file, "-wal")).map(|meta| meta.len()).ok();
        let index = fs::metadata(beside(&self.file, "-shm")).is_ok();
        match (log, index) {
            (Some(_), true) => Ok(Way::Shared),
            (None, _) | (Some(0), false) if before.is_settled() => Ok(Way::Immutable),
            (None, _) | (Some(0), false) => {
                Err(Error::transient(format!("read {}: its writer closed it a moment ago", self.file.display())))
            }
            (Some(_), false) => Err(Error::transient(format!(
                "read {}: its write-ahead log has content but the index beside it (-shm) is missing, and only a writer can make \
                 it; start Teleport, or run `sqlite3 sqlite.db 'select 1 from kv'` once",
                self.file.display()
            ))),
        }
    }

    fn tables(&self, connection: &Connection, inside: &Signature) -> rusqlite::Result<Tables> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(schema) = inside.schema() else { return tables(connection) };
        if let Some((file, known, found)) = state.tables
            && (file, known) == (inside.file, schema)
        {
            return Ok(found);
        }
        let found = tables(connection)?;
        state.tables = Some((inside.file, schema, found));
        Ok(found)
    }

    fn transact<T>(
        &self,
        connection: &Connection,
        before: &Signature,
        attempt: &str,
        f: &mut impl FnMut(&View<'_>) -> Result<T>,
    ) -> Result<T> {
        // The transaction only reads: dropping it rolls back and takes every lock with it.
        let transaction = connection.unchecked_transaction().map_err(|error| fault(attempt, error))?;
        // The first statement takes the lock; from then on the header says what is committed.
        transaction
            .prepare_cached("select 1 from sqlite_schema limit 1")
            .and_then(|mut statement| statement.exists([]))
            .map_err(|error| fault(attempt, error))?;
        let inside = self.look()?;
        let (has_kv, has_events, revision) =
            self.tables(&transaction, &inside).map_err(|error| fault(attempt, error))?;
        f(&View { connection: &transaction, before, inside, has_kv, has_events, revision })
    }

    /// What must not move during a read without locks.
    fn mark(&self, signature: &Signature) -> Mark {
        let logged = fs::metadata(beside(&self.file, "-wal")).is_ok_and(|meta| meta.len() > 0);
        let meta = fs::metadata(&self.file).ok();
        let modified = meta.as_ref().and_then(|meta| meta.modified().ok());
        Mark { signature: signature.clone(), len: meta.map(|meta| meta.len()), modified, logged }
    }
}

#[derive(PartialEq, Eq)]
struct Mark {
    signature: Signature,
    len: Option<u64>,
    modified: Option<SystemTime>,
    logged: bool,
}

/// Asks which tables there are.
fn tables(connection: &Connection) -> rusqlite::Result<Tables> {
    let mut columns = connection.prepare_cached(
        "select m.name = 'kv', coalesce(max(c.name = 'revision'), 0) from sqlite_schema m, pragma_table_info(m.name) c \
         where m.type = 'table' and m.name in ('kv', 'events') group by m.name",
    )?;
    let (mut has_kv, mut has_events, mut revision) = (false, false, "''");
    let mut rows = columns.query([])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, bool>(0)? {
            has_kv = true;
            revision = if row.get::<_, bool>(1)? { "revision" } else { "''" };
        } else {
            has_events = true;
        }
    }
    Ok((has_kv, has_events, revision))
}

/// The file as a URI that SQLite reads (<https://www.sqlite.org/uri.html>).
pub fn uri(file: &Path, query: &str) -> String {
    let mut uri = String::from("file:");
    let bytes: &OsStr = file.as_os_str();
    for &byte in bytes.as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(char::from(byte)),
            _ => write!(uri, "%{byte:02X}").expect("writing to a string does not fail"),
        }
    }
    uri.push('?');
    uri.push_str(query);
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_characters_of_a_path_do_not_become_parameters() {
        assert_eq!(uri(Path::new("/a b/?c#%/é"), "mode=ro"), "file:/a%20b/%3Fc%23%25/%C3%A9?mode=ro");
    }
}
