//! Either kind of Teleport backend as one side of a route: written by a busy cluster, looked at all the time.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[cfg(feature = "etcd")]
use crate::support::etcd::{Etcd, Proxy};
#[cfg(feature = "etcd")]
use crate::support::etcddb::{EtcdDb, Lines, assert_near, lines};
use crate::support::pg::Pg;
use crate::support::teleport::{Item, PgDb, SqliteDb, assert_same, now_us, uuid};

/// One side of a route.
#[derive(Clone)]
pub enum Side {
    Sqlite(Arc<SqliteDb>),
    Pg(Arc<PgDb>),
    /// driftless comes by the proxy, whoever looks or writes beside it does not.
    #[cfg(feature = "etcd")]
    Etcd(Arc<EtcdDb>, Arc<Proxy>),
}

/// Keys that are written all the time, in pairs that always have the same version.
pub const PAIRS: usize = 12;

impl Side {
    pub fn sqlite(folder: &std::path::Path, items: Option<&[Item]>) -> Self {
        Self::Sqlite(Arc::new(match items {
            Some(items) => SqliteDb::create(folder, items),
            None => SqliteDb::at(folder),
        }))
    }

    pub fn pg(server: &'static Pg, hint: &str, items: Option<&[Item]>) -> Self {
        Self::Pg(Arc::new(match items {
            Some(items) => PgDb::create(server, hint, items),
            None => PgDb::empty(server, hint),
        }))
    }

    /// A prefix of a cluster that nobody else writes to.
    #[cfg(feature = "etcd")]
    pub fn etcd(server: &'static Etcd, hint: &str) -> Self {
        Self::Etcd(Arc::new(EtcdDb::empty(server, hint)), Arc::new(Proxy::to(server.port)))
    }

    /// The same, with these items.
    #[cfg(feature = "etcd")]
    pub fn etcd_with(server: &'static Etcd, hint: &str, items: &[Item]) -> Self {
        Self::Etcd(Arc::new(EtcdDb::create(server, hint, items)), Arc::new(Proxy::to(server.port)))
    }

    /// The value of `src:` or `dst:`.
    pub fn yaml(&self) -> String {
        match self {
            #[cfg(feature = "etcd")]
            Self::Etcd(db, proxy) => {
                format!("{{ type: etcd, peers: [{:?}], prefix: {:?} }}", proxy.url(), db.prefix)
            }
            Self::Sqlite(db) => db.yaml(),
            Self::Pg(db) => format!("{{ type: postgresql, conn_string: {:?} }}", db.url()),
        }
    }

    pub fn dump(&self, now_us: i128) -> Vec<String> {
        match self {
            Self::Sqlite(db) => db.dump(now_us),
            Self::Pg(db) => db.dump(now_us),
            #[cfg(feature = "etcd")]
            Self::Etcd(..) => panic!("an etcd side has instants that are near, and is compared as a whole"),
        }
    }

    /// How many items are there that a Teleport on this sink can read.
    pub fn count(&self, #[cfg_attr(not(feature = "etcd"), expect(unused_variables))] sink: &Self) -> usize {
        #[cfg(feature = "etcd")]
        if matches!(self, Self::Etcd(..)) || matches!(sink, Self::Etcd(..)) {
            return self.lines().len();
        }
        self.dump(now_us()).len()
    }

    /// What a Teleport on etcd could read of it.
    #[cfg(feature = "etcd")]
    fn lines(&self) -> Lines {
        match self {
            Self::Etcd(db, _) => db.dump(),
            _ => lines(&self.dump(now_us())).into_iter().filter(|(_, line)| !line.0.is_empty()).collect(),
        }
    }

    /// Fails unless this source's items and no others are in the sink, as their own tools show them.
    pub fn assert_in(&self, sink: &Self) {
        #[cfg(feature = "etcd")]
        match (self, sink) {
            (_, Self::Etcd(..)) => return assert_near(&self.lines(), &sink.lines(), false),
            (Self::Etcd(..), _) => {
                return assert_near(&self.lines(), &lines(&sink.dump(now_us())), matches!(sink, Self::Sqlite(_)));
            }
            _ => {}
        }
        let now = now_us();
        assert_same(&self.dump(now), &sink.dump(now));
    }

    /// A client that takes statements on its standard input.
    pub fn client(&self) -> Child {
        let mut command = match self {
            Self::Sqlite(db) => {
                let mut command = Command::new("sqlite3");
                command.args(["-batch", "-bail", "-cmd", ".timeout 30000"]).arg(db.file());
                command
            }
            Self::Pg(db) => db.psql(),
            #[cfg(feature = "etcd")]
            Self::Etcd(..) => panic!("etcdctl takes no statements"),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
    }

    /// Statements that put a key as Teleport does.
    pub fn put(&self, key: &str, value: &str, n: u64) -> String {
        let revision = uuid(n);
        match self {
            Self::Sqlite(_) => format!(
                "insert or replace into kv (key, modified, expires, value, revision) values ('{key}', {n}, null, cast('{value}' as blob), '{revision}');
                 insert into events (type, created, kv_key, kv_modified, kv_expires, kv_value, kv_revision)
                   values ('1', strftime('%Y-%m-%d %H:%M:%f+00:00','now'), '{key}', {n}, null, cast('{value}' as blob), '{revision}');"
            ),
            Self::Pg(_) => format!(
                "insert into kv (key, value, expires, revision) values ('{key}'::bytea, '{value}'::bytea, null, '{revision}')
                 on conflict (key) do update set value = excluded.value, revision = excluded.revision;"
            ),
            #[cfg(feature = "etcd")]
            Self::Etcd(..) => panic!("etcdctl takes no statements"),
        }
    }

    /// Commits one transaction: so many new items of half a KiB, this key, and as many again.
    pub fn put_much(&self, count: usize, key: &str) {
        let mut client = self.client();
        let (begin, value) =
            (if matches!(self, Side::Sqlite(_)) { "begin immediate;" } else { "begin;" }, "v".repeat(500));
        let mut input = std::io::BufWriter::new(client.stdin.take().unwrap());
        writeln!(input, "{begin}").unwrap();
        for n in 0..2 * count {
            if n == count {
                writeln!(input, "{}", self.put(key, "planted-last", 1)).unwrap();
            }
            writeln!(input, "{}", self.put(&format!("/bulk/{n:07}"), &value, n as u64)).unwrap();
        }
        writeln!(input, "commit;").unwrap();
        drop(input);
        assert!(client.wait().unwrap().success(), "the client failed");
    }

    fn delete(&self, key: &str) -> String {
        match self {
            Self::Sqlite(_) => format!(
                "delete from kv where key = '{key}';
                 insert into events (type, created, kv_key, kv_modified, kv_expires, kv_value, kv_revision)
                   values ('2', strftime('%Y-%m-%d %H:%M:%f+00:00','now'), '{key}', 0, null, null, '');"
            ),
            Self::Pg(_) => format!("delete from kv where key = '{key}'::bytea;"),
            #[cfg(feature = "etcd")]
            Self::Etcd(..) => panic!("etcdctl takes no statements"),
        }
    }
}

/// Waits until the sinks hold what the source does, which nobody writes to any more; fails with what differs in the end.
pub fn until_same(source: &Side, sinks: &[Side], patience: Duration) {
    let deadline = Instant::now() + patience;
    for sink in sinks {
        loop {
            let now = now_us();
            let (ours, theirs) = (source.dump(now), sink.dump(now));
            if ours == theirs || Instant::now() > deadline {
                assert_same(&ours, &theirs);
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A cluster that writes all the time: pairs of hot keys in one transaction, and others that come and go.
pub struct Writer {
    stop: Arc<AtomicBool>,
    /// Versions written so far, all pairs together.
    pub versions: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    /// A test that has failed leaves nobody behind who writes: on one server, a busy database keeps all others' heads moving.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Writer {
    pub fn start(side: &Side, pause: Duration) -> Self {
        let (stop, versions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (side, told, count) = (side.clone(), Arc::clone(&stop), Arc::clone(&versions));
        let thread = std::thread::spawn(move || {
            #[cfg(feature = "etcd")]
            if let Side::Etcd(db, _) = &side {
                return write_to_etcd(db, &told, &count, pause);
            }
            let mut client = side.client();
            let mut input = client.stdin.take().unwrap();
            let mut n = 0u64;
            while !told.load(Ordering::Relaxed) {
                n += 1;
                let pair = n as usize % PAIRS;
                let value = format!("v{n:012}");
                let mut sql = String::from(if matches!(side, Side::Sqlite(_)) { "begin immediate;" } else { "begin;" });
                for half in ["a", "b"] {
                    sql += &side.put(&format!("/hot/{pair:03}/{half}"), &value, n);
                }
                sql += &side.put(&format!("/churn/{}", n % 97), &format!("planted-{n}"), n);
                sql += &side.delete(&format!("/churn/{}", (n * 7) % 97));
                // Written once, and half of them removed once: what is lost of these no later write mends.
                if n.is_multiple_of(4) {
                    sql += &side.put(&format!("/once/{n}"), &format!("planted-{n}"), n);
                    if n.is_multiple_of(8) && n > 80 {
                        sql += &side.delete(&format!("/once/{}", n - 80));
                    }
                }
                sql += "commit;\n";
                input.write_all(sql.as_bytes()).unwrap();
                input.flush().unwrap();
                count.store(n, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
            drop(input);
            assert!(client.wait().unwrap().success(), "the writer's client failed");
        });
        Self { stop, versions, thread: Some(thread) }
    }

    /// Stops, and returns once everything is committed.
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.versions.load(Ordering::Relaxed)
    }
}

/// What [`Writer`] does, with an etcd client: each turn is one transaction.
#[cfg(feature = "etcd")]
fn write_to_etcd(db: &EtcdDb, told: &AtomicBool, count: &AtomicU64, pause: Duration) {
    use base64::Engine as _;
    use etcd_client::{Client, Txn, TxnOp};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut client = runtime.block_on(Client::connect([db.server.url()], None)).unwrap();
    let put = |key: &str, value: &str| {
        TxnOp::put(db.stored(key), base64::engine::general_purpose::STANDARD.encode(value), None)
    };
    let mut n = 0u64;
    while !told.load(Ordering::Relaxed) {
        n += 1;
        let value = format!("v{n:012}");
        let mut turn: Vec<TxnOp> =
            ["a", "b"].iter().map(|half| put(&format!("/hot/{:03}/{half}", n as usize % PAIRS), &value)).collect();
        turn.push(put(&format!("/churn/{}", n % 97), &format!("planted-{n}")));
        if n % 97 != (n * 7) % 97 {
            turn.push(TxnOp::delete(db.stored(&format!("/churn/{}", (n * 7) % 97)), None));
        }
        if n.is_multiple_of(4) {
            turn.push(put(&format!("/once/{n}"), &format!("planted-{n}")));
            if n.is_multiple_of(8) && n > 80 {
                turn.push(TxnOp::delete(db.stored(&format!("/once/{}", n - 80)), None));
            }
        }
        runtime.block_on(client.txn(Txn::new().and_then(turn))).unwrap();
        count.store(n, Ordering::Relaxed);
        std::thread::sleep(pause);
    }
}

/// What an observer has seen.
#[derive(Default)]
pub struct Seen {
    pub looks: u64,
    pub versions: HashSet<u64>,
    pub went_back: Vec<String>,
    pub half_seen: Vec<String>,
    /// When each of these was seen, in microseconds since 1970.
    pub half_seen_at: Vec<i128>,
}

/// Reads the hot keys of a sink all the time, each look in one statement.
pub struct Observer {
    stop: Arc<AtomicBool>,
    watch: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Observer {
    /// Starts; what it sees counts from [`Observer::count`] on.
    pub fn start(side: &Side) -> Self {
        let (stop, watch) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (side, told, counts) = (side.clone(), Arc::clone(&stop), Arc::clone(&watch));
        let thread = std::thread::spawn(move || observe(&side, &told, &counts));
        Self { stop, watch, thread }
    }

    /// The sink is consistent: from here on nothing may go back.
    pub fn count(&self) {
        self.watch.store(true, Ordering::Relaxed);
    }

    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn observe(side: &Side, told: &AtomicBool, counts: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut newest: HashMap<String, u64> = HashMap::new();
    let mut look = looker(side);
    while !told.load(Ordering::Relaxed) {
        let counted = counts.load(Ordering::Relaxed);
        let Some(rows) = look() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        if !counted {
            continue;
        }
        seen.looks += 1;
        let mut pairs: HashMap<String, Vec<u64>> = HashMap::new();
        for (key, version) in rows {
            seen.versions.insert(version);
            let pair = key.rsplit_once('/').unwrap().0.to_owned();
            pairs.entry(pair).or_default().push(version);
            let last = newest.entry(key.clone()).or_default();
            if version < *last {
                seen.went_back.push(format!("{key}: {last} then {version}"));
            }
            *last = version;
        }
        for (pair, versions) in pairs {
            if versions.len() != 2 || versions[0] != versions[1] {
                seen.half_seen.push(format!("{pair}: {versions:?}"));
                seen.half_seen_at.push(now_us());
            }
        }
    }
    seen
}

type Look = Box<dyn FnMut() -> Option<Vec<(String, u64)>>>;

/// Something that reads the hot keys over a connection of its own; `None` while the sink cannot be read.
fn looker(side: &Side) -> Look {
    match side.clone() {
        Side::Sqlite(db) => {
            let mut connection: Option<rusqlite::Connection> = None;
            Box::new(move || {
                if connection.is_none() {
                    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
                    connection = rusqlite::Connection::open_with_flags(db.file(), flags).ok();
                    connection.as_ref()?.busy_timeout(Duration::from_secs(10)).ok()?;
                }
                let mut query = connection
                    .as_ref()?
                    .prepare_cached("select key, cast(value as text) from kv where key >= '/hot/' and key < '/hot0'")
                    .ok()?;
                let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).ok()?;
                rows.map(|row| row.ok().map(|(key, value)| (key, number(&value)))).collect()
            })
        }
        Side::Pg(db) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut client: Option<(tokio_postgres::Client, tokio::task::JoinHandle<()>)> = None;
            Box::new(move || {
                runtime.block_on(async {
                    if client.is_none() {
                        let (session, connection) =
                            tokio_postgres::connect(&db.url(), tokio_postgres::NoTls).await.ok()?;
                        client = Some((session, tokio::spawn(async move { drop(connection.await) })));
                    }
                    let session = &client.as_ref()?.0;
                    let sql = "select convert_from(key, 'UTF8'), convert_from(value, 'UTF8') from kv
                               where key >= '/hot/' and key < '/hot0'";
                    let rows = session.query(sql, &[]).await.ok()?;
                    Some(rows.iter().map(|row| (row.get::<_, String>(0), number(row.get(1)))).collect())
                })
            })
        }
        #[cfg(feature = "etcd")]
        Side::Etcd(db, _) => {
            use base64::Engine as _;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut client: Option<etcd_client::Client> = None;
            Box::new(move || {
                runtime.block_on(async {
                    if client.is_none() {
                        client = Some(etcd_client::Client::connect([db.server.url()], None).await.ok()?);
                    }
                    let all = etcd_client::GetOptions::new().with_prefix();
                    // One range is of one revision.
                    let rows = client.as_mut()?.get(db.stored("/hot/"), Some(all)).await.ok()?;
                    let row = |row: &etcd_client::KeyValue| {
                        let value = base64::engine::general_purpose::STANDARD.decode(row.value()).ok()?;
                        Some((row.key_str().ok()?.to_owned(), number(std::str::from_utf8(&value).ok()?)))
                    };
                    rows.kvs().iter().map(row).collect()
                })
            })
        }
    }
}

fn number(value: &str) -> u64 {
    value.trim_start_matches('v').parse().unwrap()
}
