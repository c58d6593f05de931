//! A SQLite backend as a destination.
//!
//! The file is made as Teleport makes it (directory 0700, file 0600, its tables and indexes), and holds our bookkeeping too,
//! so data and checkpoint are one transaction. SQLite lets one writer in at a time: a claim that has taken the write lock
//! knows that no commit of an older owner is under way, and the raised epoch refuses every later one. An owner that is
//! stopped within a transaction keeps the lock; the claim then waits for the busy timeout and says so. So there is no beat:
//! while a transaction is staged nobody could read or write one, and nobody gets past it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::fault::fault;
use super::open::locate;
use super::options::{Journal, Options, Role};
use super::reader::uri;
use super::store::blocking;
use super::writer::SqliteWriter;
use super::{record, schema};
use crate::error::{Error, Result};
use crate::model::{Claim, LaneRecord, StreamId, StreamRecord};
use crate::sink::{Limits, Sink, Writer};
use crate::source::Fut;

/// Control side of a destination.
pub struct SqliteSink {
    options: Arc<Options>,
}

impl SqliteSink {
    /// Of the backend in `options.path`, which need not be there yet. Creates nothing.
    pub fn open(options: &Options) -> Result<Self> {
        if options.journal == Some(Journal::Off) {
            return Err(Error::config(
                "open a SQLite destination: journal OFF cannot undo a failed commit; choose DELETE or WAL",
            ));
        }
        locate(options, Role::Sink)?;
        Ok(Self { options: Arc::new(options.clone()) })
    }
}

impl Sink for SqliteSink {
    fn limits(&self) -> Limits {
        // LIMIT: large enough that one fsync is shared by thousands of rows, small enough that a commit's copy of its
        // changes stays a part of the memory budget and that readers of the file never wait long.
        Limits { changes: 16_384, bytes: 16 << 20, stage: true, in_flight: 2 }
    }

    fn inspect<'a>(&'a self, stream: &'a StreamId) -> Fut<'a, Option<StreamRecord>> {
        let (options, stream) = (Arc::clone(&self.options), stream.clone());
        Box::pin(blocking(move || {
            let Some(reader) = locate(&options, Role::Sink)? else { return Ok(None) };
            reader.read("read the record of a stream", |view| {
                match schema::has_ours(view.connection).map_err(|error| fault("look for our tables", error))? {
                    true => record::inspect(view.connection, &stream),
                    false => Ok(None),
                }
            })
        }))
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Fut<'a, (LaneRecord, Box<dyn Writer>)> {
        let (options, claim) = (Arc::clone(&self.options), claim.clone());
        Box::pin(async move {
            let attempt = format!("claim lane {} of stream {}", claim.lane, claim.stream);
            let (taken, connection) = {
                let (options, claim, attempt) = (Arc::clone(&options), claim.clone(), attempt.clone());
                blocking(move || take(&options, &claim, &attempt)).await?
            };
            let writer = SqliteWriter::start(&options, &claim, &taken, connection)?;
            Ok((taken, Box::new(writer) as Box<dyn Writer>))
        })
    }

    fn forget<'a>(&'a self, stream: &'a StreamId, seen: &'a StreamRecord) -> Fut<'a, ()> {
        let (options, stream, seen) = (Arc::clone(&self.options), stream.clone(), seen.clone());
        Box::pin(blocking(move || forget(&options, &stream, &seen)))
    }
}

/// Removes a stream's record, and our tables with the last one.
fn forget(options: &Options, stream: &StreamId, seen: &StreamRecord) -> Result<()> {
    if locate(options, Role::Sink)?.is_none() {
        return Ok(());
    }
    let attempt = format!("forget stream {stream}");
    let failed = |error| fault(&attempt, error);
    let mut connection = connect(options, &attempt)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    if !schema::has_ours(&transaction).map_err(failed)? {
        return Ok(());
    }
    if let Some(known) = record::inspect(&transaction, stream)? {
        seen.refuse_if_claimed(stream, &known)?;
    }
    schema::forget(&transaction, stream.as_str()).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn take(options: &Options, claim: &Claim, attempt: &str) -> Result<(LaneRecord, Connection)> {
    locate(options, Role::Sink)?;
    make_file(options)?;
    let mut connection = connect(options, attempt)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| fault(&format!("{attempt}: take the write lock of {}", options.file().display()), error))?;
    schema::create(&transaction).map_err(|error| fault(&format!("{attempt}: make the tables"), error))?;
    let taken = record::claim(&transaction, claim)?;
    transaction.commit().map_err(|error| fault(attempt, error))?;
    Ok((taken, connection))
}

/// A connection for writing to a file that is there.
pub(super) fn connect(options: &Options, attempt: &str) -> Result<Connection> {
    let failed = |error| fault(attempt, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri(&options.file(), "mode=rw"), flags).map_err(failed)?;
    connection.busy_timeout(options.busy_timeout).map_err(failed)?;
    if let Some(journal) = options.journal {
        connection.pragma_update(None, "journal_mode", journal.sql()).map_err(failed)?;
    }
    connection.pragma_update(None, "synchronous", options.sync.sql()).map_err(failed)?;
    Ok(connection)
}

/// Makes directory and file with Teleport's modes where they are missing, durably.
fn make_file(options: &Options) -> Result<()> {
    let failed = |what: &Path, error: io::Error| {
        Error::config(format!("create {}: this process may not or cannot do that", what.display())).because(error)
    };
    let file = options.file();
    if file.exists() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&options.path)
        .map_err(|error| failed(&options.path, error))?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file) {
        Ok(_) => {}
        // Another lane, or another process, was faster. The file is not opened here: see `watch` for why.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(failed(&file, error)),
    }
    // A name is durable only once its directory is.
    for directory in [Some(options.path.as_path()), options.path.parent()].into_iter().flatten() {
        if fs::metadata(directory).is_ok() {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| failed(directory, error))?;
        }
    }
    Ok(())
}
