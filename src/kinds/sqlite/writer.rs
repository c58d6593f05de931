//! One lane's writes, on a thread of its own: SQLite blocks, the async runtime must not.
//!
//! A commit is one transaction: raise the lane's number (or find that it landed before, or that the lane is somebody
//! else's), then data, then positions. While something is staged that transaction simply stays open. A failed commit is
//! rolled back whole; until it was sent again, later ones are refused as transient, because they only make sense on top.
//!
//! Each change also gets a row in `events`, as Teleport writes one, because the copy may itself be followed: by another
//! driftless, or by a Teleport that was promoted onto it. Rows older than ten minutes are removed in small steps with the
//! commits; the newest is kept, so that ids never start again. In return the first copy writes each value twice:
//! with rows of 0.5 KiB it takes 1.4 times as long and the file twice the space (which is used again once the rows are
//! trimmed). `events_off: true` on the destination saves that and makes the copy a leaf.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::body::Body;
use super::fault::fault;
use super::options::Options;
use super::record::{self, Landing};
use super::rows::Key;
use super::sink::connect;
use super::time;
use super::watch::{FileId, file_id};
use crate::error::{Error, Fault, Result};
use crate::model::{Changes, Checkpoint, Claim, Commit, LaneRecord, Op, StreamId};
use crate::sink::Writer;
use crate::source::Fut;

/// How long Teleport keeps events, and so we do.
const KEEP_EVENTS: Duration = Duration::from_secs(600);
const TRIM_EVERY: Duration = Duration::from_secs(5);
/// LIMIT: a trim adds a few milliseconds to a commit; at one per commit it outruns what commits of usual size add.
const TRIM_ROWS: u32 = 20_000;

type Answer = oneshot::Sender<Result<()>>;

enum Ask {
    Stage(Arc<Changes>, Answer),
    Commit(Arc<Commit>, Answer),
}

/// The async side: hands work to the thread and waits for answers.
pub struct SqliteWriter {
    asks: Sender<Ask>,
}

impl SqliteWriter {
    /// Starts the thread of a lane that was just claimed.
    pub fn start(options: &Arc<Options>, claim: &Claim, taken: &LaneRecord, connection: Connection) -> Result<Self> {
        // LIMIT: the engine has at most `in_flight` commits under way; the rest is slack for retries.
        let (asks, inbox) = crossbeam_channel::bounded(8);
        let desk = Desk {
            file: file_id(&options.file()),
            options: Arc::clone(options),
            stream: claim.stream.clone(),
            lane: claim.lane,
            epoch: taken.epoch,
            given: taken.number,
            checkpoint: taken.checkpoint.clone(),
            connection: Some(connection),
            open: false,
            broken_at: None,
            trimmed: None,
        };
        thread::Builder::new()
            .name(format!("sqlite-lane-{}", claim.lane))
            .spawn(move || desk.run(&inbox))
            .map_err(|error| Error::transient("start the thread of a lane").because(error))?;
        Ok(Self { asks })
    }

    fn ask(&self, ask: impl FnOnce(Answer) -> Ask) -> Fut<'static, ()> {
        let (answer, wait) = oneshot::channel();
        let gone = || Error::bug("write to a lane: its thread has ended");
        // The channel is wider than what may be under way, so this never waits.
        match self.asks.try_send(ask(answer)) {
            Ok(()) => Box::pin(async move { wait.await.unwrap_or_else(|_| Err(gone())) }),
            Err(error) if error.is_full() => {
                Box::pin(async { Err(Error::bug("write to a lane: more commits are under way than the sink allows")) })
            }
            Err(_) => Box::pin(async move { Err(gone()) }),
        }
    }
}

impl Writer for SqliteWriter {
    fn stage<'a>(&'a mut self, changes: &'a Arc<Changes>) -> Fut<'a, ()> {
        self.ask(|answer| Ask::Stage(Arc::clone(changes), answer))
    }

    fn commit(&mut self, commit: Arc<Commit>) -> Fut<'static, ()> {
        self.ask(|answer| Ask::Commit(commit, answer))
    }
}

/// The thread's side.
struct Desk {
    options: Arc<Options>,
    stream: StreamId,
    lane: u16,
    epoch: u64,
    /// The highest number that was to be committed here.
    given: u64,
    /// What the file says is passed, so that a position is never written back.
    checkpoint: Checkpoint,
    connection: Option<Connection>,
    file: Option<FileId>,
    /// A transaction with staged changes is open.
    open: bool,
    /// The commit that failed last and must come again before any later one.
    broken_at: Option<u64>,
    trimmed: Option<Instant>,
}

impl Desk {
    fn run(mut self, inbox: &Receiver<Ask>) {
        // Dropping the connection at the end rolls back what is still open.
        for ask in inbox {
            // Nobody waits any more if the lane was stopped: the answer may be dropped.
            match ask {
                Ask::Stage(changes, answer) => drop(answer.send(self.stage(&changes))),
                Ask::Commit(commit, answer) => drop(answer.send(self.commit(&commit))),
            }
        }
    }

    fn stage(&mut self, changes: &Changes) -> Result<()> {
        let staged = self.open;
        let result = self.ready().and_then(|()| {
            if !self.open {
                self.begin()?;
                self.open = true;
                record::still_ours(self.connected()?, &self.stream, self.lane, self.epoch)?;
            }
            self.apply(changes)
        });
        result.map_err(|error| self.undo(staged, error))
    }

    fn commit(&mut self, commit: &Commit) -> Result<()> {
        if let Some(broken) = self.broken_at.filter(|&broken| broken != commit.number) {
            return Err(Error::transient(format!(
                "commit {} on lane {} of stream {}: commit {broken} has not landed yet",
                commit.number, self.lane, self.stream
            )));
        }
        let staged = self.open;
        self.given = self.given.max(commit.number);
        match self.ready().and_then(|()| self.land(commit)) {
            Ok(()) => {
                self.open = false;
                self.broken_at = None;
                self.checkpoint.retain(|partition| !commit.forget.contains(partition));
                self.checkpoint.merge(&commit.upto);
                Ok(())
            }
            Err(error) => {
                let error = self.undo(staged, error);
                if error.fault() == Fault::Transient {
                    self.broken_at = Some(commit.number);
                }
                Err(error)
            }
        }
    }

    fn land(&mut self, commit: &Commit) -> Result<()> {
        if !self.open {
            self.begin()?;
        }
        let connection = self.connected()?;
        let landing = record::land(connection, &self.stream, self.lane, self.epoch, commit.number, self.given)?;
        if landing == Landing::Before {
            return self.execute("rollback");
        }
        self.apply(&commit.changes)?;
        let mut known = self.checkpoint.clone();
        for partition in &commit.forget {
            record::forget(connection, &self.stream, self.lane, partition)?;
        }
        known.retain(|partition| !commit.forget.contains(partition));
        for (partition, position) in commit.upto.iter() {
            if !known.names(partition) || known.get(partition) < position {
                record::move_to(connection, &self.stream, self.lane, partition, position)?;
            }
        }
        let trimmed = self.trim()?;
        self.execute("commit")?;
        self.trimmed = trimmed;
        Ok(())
    }

    /// Rolls back. What had been staged is lost with it, unless the failure is one that ends the lane anyway.
    fn undo(&mut self, staged: bool, error: Error) -> Error {
        self.open = false;
        if self.connection.as_ref().is_some_and(|connection| !connection.is_autocommit())
            && self.execute("rollback").is_err()
        {
            self.connection = None;
        }
        if staged && error.fault() == Fault::Transient {
            return Error::new(Fault::StageLost, "keep a transaction open").because(error);
        }
        error
    }

    /// Makes sure that there is a connection, and that it is to the file that lies under the path now.
    fn ready(&mut self) -> Result<()> {
        let file = file_id(&self.options.file());
        if file.is_none() || file != self.file {
            self.connection = None;
            if std::mem::take(&mut self.open) {
                return Err(Error::new(
                    Fault::StageLost,
                    "keep a transaction open: the destination's file was exchanged",
                ));
            }
        }
        if file.is_none() {
            return Err(Error::transient(format!("write to {}: the file is gone", self.options.file().display())));
        }
        if self.connection.is_none() {
            self.connection = Some(connect(&self.options, "open the destination again")?);
            self.file = file;
        }
        Ok(())
    }

    fn connected(&self) -> Result<&Connection> {
        self.connection.as_ref().ok_or_else(|| Error::bug("write to a lane: it has no connection"))
    }

    fn begin(&self) -> Result<()> {
        self.execute("begin immediate")
    }

    fn execute(&self, sql: &str) -> Result<()> {
        let attempt = format!("{sql} on lane {} of stream {}", self.lane, self.stream);
        self.connected()?.execute_batch(sql).map_err(|error| fault(&attempt, error))
    }

    fn apply(&self, changes: &Changes) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let failed = |error| fault("write changes", error);
        let connection = self.connected()?;
        let now = now();
        let created = time::format(now);
        let nanos = i64::try_from(now).unwrap_or(i64::MAX);
        let events = !self.options.events_off;
        for op in [Op::Clear, Op::Delete, Op::Put] {
            for row in changes.iter().filter(|row| row.op == op) {
                match op {
                    Op::Clear => clear(connection, events, &created, nanos).map_err(failed)?,
                    Op::Delete => delete(connection, row.key, events, &created, nanos).map_err(failed)?,
                    Op::Put => put(connection, row.key, &Body::decode(row.body)?, events, &created).map_err(failed)?,
                    Op::Patch => {}
                }
            }
        }
        if changes.iter().any(|row| row.op == Op::Patch) {
            return Err(Error::bug(
                "write changes: a row with holes reached SQLite, which has nothing to fill them with",
            ));
        }
        Ok(())
    }

    /// Removes some old events, now and then; gives the time to remember if the transaction lands.
    fn trim(&self) -> Result<Option<Instant>> {
        if self.trimmed.is_some_and(|last| last.elapsed() < TRIM_EVERY) {
            return Ok(self.trimmed);
        }
        let before = time::format(now() - KEEP_EVENTS.as_nanos().cast_signed());
        let removed = self
            .connected()?
            .prepare_cached(
                "delete from events where id in (select id from events where created < ?1 \
                 and id < (select max(id) from events) order by created limit ?2)",
            )
            .and_then(|mut statement| statement.execute(params![before, TRIM_ROWS]))
            .map_err(|error| fault("remove old events", error))?;
        // A full step means that there is more: the next commit goes on.
        Ok((removed < TRIM_ROWS as usize).then(Instant::now))
    }
}

const EVENT: &str = "insert into events (type, created, kv_key, kv_modified, kv_expires, kv_value, kv_revision) \
                     values (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

fn put(connection: &Connection, key: &[u8], body: &Body<'_>, events: bool, created: &str) -> rusqlite::Result<()> {
    let cell = |value| ToSqlOutput::Borrowed(value);
    let Body { modified, expires, value, revision } = *body;
    connection
        .prepare_cached(
            "insert into kv (key, modified, expires, value, revision) values (?1, ?2, ?3, ?4, ?5) on conflict (key) do update \
             set modified = excluded.modified, expires = excluded.expires, value = excluded.value, revision = excluded.revision",
        )?
        .execute(params![Key(key), cell(modified), cell(expires), cell(value), cell(revision)])?;
    if events {
        connection.prepare_cached(EVENT)?.execute(params![
            "1",
            created,
            Key(key),
            cell(modified),
            cell(expires),
            cell(value),
            cell(revision)
        ])?;
    }
    Ok(())
}

fn delete(connection: &Connection, key: &[u8], events: bool, created: &str, nanos: i64) -> rusqlite::Result<()> {
    let there = connection.prepare_cached("delete from kv where key = ?1")?.execute([Key(key)])?;
    if events && there > 0 {
        let none = || ToSqlOutput::Borrowed(ValueRef::Null);
        connection.prepare_cached(EVENT)?.execute(params!["2", created, Key(key), nanos, none(), none(), ""])?;
    }
    Ok(())
}

fn clear(connection: &Connection, events: bool, created: &str, nanos: i64) -> rusqlite::Result<()> {
    if events {
        connection.execute(
            "insert into events (type, created, kv_key, kv_modified, kv_expires, kv_value, kv_revision) \
             select '2', ?1, key, ?2, null, null, '' from kv",
            params![created, nanos],
        )?;
    }
    connection.execute("delete from kv", [])?;
    Ok(())
}

/// The wall clock, in nanoseconds since the Unix epoch.
pub(super) fn now() -> i128 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos().cast_signed(),
        Err(before) => -before.duration().as_nanos().cast_signed(),
    }
}
