//! `demo`: a live replica of a Teleport-like SQLite backend, with a writer, a kill -9, a resume and a verify.
//!
//! Everything is real but the cluster: the program starts itself as `run` in a process of its own, kills it, starts it
//! again, and compares both files. Nothing outside a folder of its own is touched.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config;
use crate::error::{Error, Result};
use crate::ops::control::{self, Request};
use crate::ops::local::Local;
use crate::ops::outcome::Verified;
use crate::ops::verify::verify;
use crate::ops::view::View;

/// Items that the cluster has before the replica starts.
const ITEMS: u64 = 20_000;
/// Pause between two writes of the cluster.
const PAUSE: Duration = Duration::from_millis(2);
/// LIMIT: how long any step may take; each takes a second or two where a disk is not very slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the demo came to.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Writes of the cluster while it ran.
    pub writes: u64,
    /// Writes while the replicator was dead.
    pub missed: u64,
    /// The comparison at the end.
    pub verified: Verified,
}

/// Runs the demo; `say` hears of each step. `keep`: the folder to use and to leave behind.
///
/// # Errors
/// When a step fails, with what was attempted.
pub async fn demo(keep: Option<&Path>, say: &mut (dyn FnMut(&str) + Send)) -> Result<Shown> {
    let folder = Folder::new(keep)?;
    let cluster = Cluster::create(&folder.path().join("cluster"))?;
    say(&format!("a cluster's backend with {ITEMS} items: {}", cluster.file.display()));
    let program = Program::new(folder.path())?;
    let writer = cluster.start_writing();
    say("it is written to all the time; the replica starts: driftless run -c clone.yaml");
    let mut running = program.start()?;
    let view = program.until("the first copy", &mut running, |view| view.consistent).await?;
    say(&format!("first copy is in: {} rows, and it follows", view.rows));
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        say(&line(&program.view(&mut running).await?, writer.count()));
    }
    let before = writer.count();
    kill(running)?;
    say("kill -9");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let missed = writer.count() - before;
    say(&format!("dead for two seconds, {missed} writes missed; it starts again"));
    let mut running = program.start()?;
    let view = program.until("catching up", &mut running, |view| view.consistent).await?;
    say(&format!("resumed from its position in the copy, {}", line(&view, writer.count())));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        say(&line(&program.view(&mut running).await?, writer.count()));
    }
    let writes = writer.stop()?;
    say("the cluster rests; both sides are compared: driftless verify -c clone.yaml");
    let config = config::load(&program.config)?;
    let pipeline = config.pipelines.first().ok_or_else(|| Error::bug("read the demo's configuration"))?;
    let (verified, _) = verify(&config, pipeline, false, false, 0, &mut |_| {}).await?;
    kill(running)?;
    Ok(Shown { writes, missed, verified })
}

fn line(view: &View, writes: u64) -> String {
    let lag = view.lag_seconds.map_or("unknown".to_owned(), |lag| format!("{lag:.2} s"));
    format!("{}: {writes} writes at the source, {} changes in the copy, lag {lag}", view.state, view.changes)
}

fn kill(mut child: Child) -> Result<()> {
    child
        .kill()
        .and_then(|()| child.wait())
        .map(drop)
        .map_err(|error| Error::transient("end the demo's process").because(error))
}

/// A folder that goes with the demo, unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(keep: Option<&Path>) -> Result<Self> {
        let name = format!("driftless-demo-{}", std::process::id());
        let path = keep.map_or_else(|| std::env::temp_dir().join(name), Path::to_owned);
        std::fs::create_dir_all(&path)
            .map_err(|error| Error::config(format!("make {}", path.display())).because(error))?;
        Ok(Self { path, keep: keep.is_some() })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed stays in the system's folder for such things.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// The replicator as a process of its own.
struct Program {
    config: PathBuf,
    local: Local,
    log: PathBuf,
}

impl Program {
    fn new(folder: &Path) -> Result<Self> {
        let config = folder.join("clone.yaml");
        let state = folder.join("state");
        let side = |name: &str| format!("{{ type: sqlite, path: {:?} }}", folder.join(name).display().to_string());
        let yaml = format!(
            "name: demo\nsrc: {}\ndst: {}\nlisten: false\nstate_dir: {:?}\n",
            side("cluster"),
            side("copy"),
            state.display().to_string()
        );
        std::fs::write(&config, yaml).map_err(|error| Error::config("write the demo's clone.yaml").because(error))?;
        Ok(Self { config, local: Local::new(&state, "demo"), log: folder.join("replica.log") })
    }

    fn start(&self) -> Result<Child> {
        let failed = |error| Error::transient("start the demo's replicator").because(error);
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        let log = std::fs::File::options().create(true).append(true).open(&self.log).map_err(failed)?;
        command.arg("run").arg("-v").arg("-c").arg(&self.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().map_err(failed)
    }

    /// What the process says of itself.
    async fn view(&self, running: &mut Child) -> Result<View> {
        self.until("an answer", running, |_| true).await
    }

    /// Waits until the process is as wished.
    async fn until(&self, what: &str, running: &mut Child, wished: impl Fn(&View) -> bool) -> Result<View> {
        let begun = Instant::now();
        loop {
            if let Ok(Some(answer)) = control::ask(&self.local, Request::Status, Duration::from_secs(2)).await {
                let view: View = serde_json::from_value(answer).map_err(|_| Error::bug("read the demo's status"))?;
                if wished(&view) {
                    return Ok(view);
                }
            }
            let ended =
                running.try_wait().map_err(|error| Error::transient("watch the demo's replicator").because(error))?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("nothing");
                return Err(Error::transient(format!(
                    "wait for {what}: the replicator did not get there; it said: {last}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A backend in Teleport's layout.
struct Cluster {
    file: PathBuf,
}

/// Somebody who writes to it.
struct Writing {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<rusqlite::Result<()>>,
}

/// The tables of Teleport's `lite` backend.
const SCHEMA: &str = "
create table kv (key TEXT NOT NULL PRIMARY KEY, modified INTEGER NOT NULL, expires DATETIME, value BLOB, revision TEXT NOT NULL DEFAULT \"\");
create index kv_expires on kv (expires);
create table events (id INTEGER PRIMARY KEY, type TEXT NOT NULL, created INTEGER NOT NULL, kv_key TEXT NOT NULL, kv_modified INTEGER NOT NULL, kv_expires DATETIME, kv_value BLOB, kv_revision TEXT NOT NULL DEFAULT \"\");
create index events_created on events (created);";

impl Cluster {
    fn create(folder: &Path) -> Result<Self> {
        let failed = |error: rusqlite::Error| Error::transient("make the demo's cluster").because(error);
        std::fs::create_dir_all(folder).map_err(|error| Error::config("make the demo's cluster").because(error))?;
        let file = folder.join("sqlite.db");
        let mut connection = rusqlite::Connection::open(&file).map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        let transaction = connection.transaction().map_err(failed)?;
        for n in 0..ITEMS {
            put(&transaction, &format!("/nodes/default/{n:08}"), n, false).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(Self { file })
    }

    fn start_writing(&self) -> Writing {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (file, told, counted) = (self.file.clone(), Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || write(&file, &told, &counted));
        Writing { stop, count, thread }
    }
}

fn write(file: &Path, told: &AtomicBool, counted: &AtomicU64) -> rusqlite::Result<()> {
    let mut connection = rusqlite::Connection::open(file)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let mut n = 0;
    // ORDERING: a flag and a count for people; nothing else is published through them.
    while !told.load(Ordering::Relaxed) {
        n += 1;
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        match n % 5 {
            // Heartbeats of hot keys, new items, and items that go.
            0 => put(&transaction, &format!("/tokens/{n:08}"), n, true)?,
            1 => delete(&transaction, &format!("/nodes/default/{:08}", n / 5))?,
            _ => put(&transaction, &format!("/nodes/default/{:08}", ITEMS - 1 - n % 100), n, true)?,
        }
        transaction.commit()?;
        // ORDERING: see above.
        counted.store(n, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn put(connection: &rusqlite::Connection, key: &str, n: u64, event: bool) -> rusqlite::Result<()> {
    let value = format!("{{\"kind\":\"node\",\"version\":{n},\"labels\":\"{}\"}}", "x".repeat(200));
    let (revision, modified) = (uuid::Uuid::new_v4().to_string(), n.cast_signed());
    connection
        .prepare_cached(
            "insert or replace into kv (key, modified, expires, value, revision) values (?1, ?2, null, ?3, ?4)",
        )?
        .execute((key, modified, value.as_bytes(), &revision))?;
    if event {
        connection
            .prepare_cached(
                "insert into events (type, created, kv_key, kv_modified, kv_expires, kv_value, kv_revision)
                 values ('1', strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'), ?1, ?2, null, ?3, ?4)",
            )?
            .execute((key, modified, value.as_bytes(), &revision))?;
    }
    Ok(())
}

fn delete(connection: &rusqlite::Connection, key: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("delete from kv where key = ?1")?.execute([key])?;
    connection
        .prepare_cached(
            "insert into events (type, created, kv_key, kv_modified, kv_expires, kv_value, kv_revision)
             values ('2', strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'), ?1, 0, null, null, '')",
        )?
        .execute([key])?;
    Ok(())
}

impl Writing {
    fn count(&self) -> u64 {
        // ORDERING: a count for people.
        self.count.load(Ordering::Relaxed)
    }

    fn stop(self) -> Result<u64> {
        // ORDERING: a flag; the thread is joined before anything it did is looked at.
        self.stop.store(true, Ordering::Relaxed);
        let count = Arc::clone(&self.count);
        let written = self.thread.join().map_err(|_| Error::bug("write to the demo's cluster: the writer panicked"))?;
        written.map_err(|error| Error::transient("write to the demo's cluster").because(error))?;
        // ORDERING: the thread has ended.
        Ok(count.load(Ordering::Relaxed))
    }
}
