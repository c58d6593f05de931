//! Hot keys, half of them under leases, through kills of driftless, restarts of both sides, elections at the source and
//! compactions: at the end keys, values and expiries are equal, as `etcdctl` and `sqlite3` alone show them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use etcd_client::{Client, PutOptions, TxnOp};

use super::Told;
use crate::support::etcd::{Etcd, Release, Setup, leader, until};
use crate::support::etcddb::{EtcdDb, Lines, are_near, assert_near, lines};
use crate::support::program::Site;
use crate::support::scale::{figure, pick};
use crate::support::teleport::{SqliteDb, items, now_us};

const PATIENCE: Duration = Duration::from_secs(180);

/// Where the copy is.
enum Sink {
    Sqlite(SqliteDb),
    Etcd(EtcdDb),
}

impl Sink {
    fn yaml(&self) -> String {
        match self {
            Self::Sqlite(db) => db.yaml(),
            Self::Etcd(db) => db.yaml(),
        }
    }

    fn lines(&self) -> Lines {
        match self {
            Self::Sqlite(db) => lines(&db.dump(now_us())),
            Self::Etcd(db) => db.dump(),
        }
    }
}

/// What was done to whom.
#[derive(Debug, Default)]
struct Done {
    kills: u32,
    elections: u32,
    source_restarts: u32,
    sink_restarts: u32,
    compactions: u32,
}

/// Three members that are written to, and driftless between them and a copy.
struct Case {
    members: &'static [Etcd],
    source: EtcdDb,
    sink: Sink,
    site: Site,
    done: Done,
}

#[test]
fn hot_keys_and_leases_come_through_chaos_into_etcd() {
    let server = Box::leak(Box::new(Etcd::start("chaos-sink", Release::New, &Setup::default())));
    Case::new("etcd", Sink::Etcd(EtcdDb::empty(server, "chaos"))).run();
    server.kill();
}

#[test]
fn hot_keys_and_leases_come_through_chaos_into_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    Case::new("sqlite", Sink::Sqlite(SqliteDb::at(folder.path().join("dst")))).run();
}

impl Case {
    fn new(name: &str, sink: Sink) -> Self {
        let members = Etcd::cluster(&format!("chaos-{name}"), Release::New, &Setup::default());
        let members: &'static [Etcd] = Box::leak(members.into_boxed_slice());
        let source = EtcdDb::create(&members[0], "chaos", &items(200));
        let peers: Vec<String> = members.iter().map(Etcd::url).collect();
        let yaml = format!(
            "name: chaos-{name}\nsrc: {{ type: etcd, peers: {peers:?}, prefix: {:?} }}\ndst: {}\n",
            source.prefix,
            sink.yaml()
        );
        let site = Site::watched(&format!("etcd-chaos-{name}"), &yaml);
        Self { members, source, sink, site, done: Done::default() }
    }

    fn run(mut self) {
        let (told, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let peers: Vec<String> = self.members.iter().map(Etcd::url).collect();
        let prefix = self.source.prefix.clone();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let db = EtcdDb { server: &self.members[0], prefix };
                runtime.block_on(write(&db, &peers, pick(300, 5_000), &told, &count));
            });
            // A failure in here ends the test only when the writer has ended, too.
            let over = Told(&told);
            let (members, source, sink, site) = (self.members, &self.source, &self.sink, &self.site);
            for round in 0..pick(6, 100) {
                trial(members, source, sink, site, round, &mut self.done);
            }
            drop(over);
            writer.join().unwrap();
        });
        self.settle(count.load(Ordering::Relaxed));
    }

    /// Nobody writes any more: both sides become equal.
    fn settle(self, transactions: u64) {
        let program = self.site.start("run", &[]);
        let (begun, revisions) = (Instant::now(), matches!(self.sink, Sink::Sqlite(_)));
        loop {
            let (ours, theirs) = (self.source.dump(), self.sink.lines());
            if are_near(&ours, &theirs) || begun.elapsed() > PATIENCE {
                if begun.elapsed() > PATIENCE {
                    println!("{}", self.site.log());
                }
                assert_near(&ours, &theirs, revisions);
                assert!(ours.values().any(|line| line.1.is_some()), "some are under leases");
                let leased = ours.values().filter(|line| line.1.is_some()).count();
                let (keys, done) = (ours.len(), &self.done);
                figure(
                    "5.2",
                    "etcd-chaos",
                    format!(
                        "into {}: {transactions} transactions, {done:?}: {keys} keys, values and expiries ({leased}, ± 10 s) equal",
                        if revisions { "sqlite" } else { "etcd" }
                    ),
                );
                break;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        let verdict = self.site.done("verify", &[]);
        assert_eq!(verdict["equal"], true, "{verdict}");
        assert!(program.stop(PATIENCE).success(), "{}", self.site.log());
        self.members.iter().for_each(Etcd::kill);
    }
}

/// One life of driftless, with what happens around it; it ends with a kill.
fn trial(members: &'static [Etcd], source: &EtcdDb, sink: &Sink, site: &Site, round: u64, done: &mut Done) {
    let program = site.start("run", &[]);
    site.until("it follows", PATIENCE, |status| status["consistent"] == true && status["state"] != "stopped");
    std::thread::sleep(Duration::from_millis(pick(100, 500) + pick(37, 137) * (round % 7)));
    if round % pick(6, 20) == pick(1, 9) {
        let leader = leader(members);
        members[leader].kill();
        until("the others agree", || members[(leader + 1) % 3].try_ctl(&["put", "/x", "1"]).is_ok());
        members[leader].spawn();
        members[leader].wait_ready();
        done.elections += 1;
    }
    if round % pick(6, 10) == 3 {
        // All at once as in a power cut, or one after the other as an upgrade does it.
        if round % 20 == 3 {
            members.iter().for_each(Etcd::kill);
            members.iter().for_each(Etcd::spawn);
            members.iter().for_each(Etcd::wait_ready);
        } else {
            members.iter().for_each(Etcd::restart);
        }
        done.source_restarts += 1;
    }
    if let Sink::Etcd(db) = sink
        && round % pick(6, 10) == pick(4, 6)
    {
        if round % 20 == 6 {
            db.server.restart();
        } else {
            db.server.kill();
            db.server.spawn();
            db.server.wait_ready();
        }
        done.sink_restarts += 1;
    }
    // In every other round it has just met what happened, else it has got over it.
    if round.is_multiple_of(2) {
        site.until("it follows again", PATIENCE, |status| {
            status["consistent"] == true && status["state"] == "following"
        });
    }
    program.kill();
    done.kills += 1;
    if round % pick(3, 5) == 2 {
        // What is written until it starts again is out of the history when it does.
        std::thread::sleep(Duration::from_millis(300));
        source.server.compact();
        done.compactions += 1;
    }
}

/// Creates, updates, deletes and creates again; half of the puts have a lease of ten seconds to ten minutes.
async fn write(db: &EtcdDb, peers: &[String], keys: u64, told: &AtomicBool, count: &AtomicU64) {
    let mut client = Client::connect(peers, None).await.unwrap();
    let mut leases: Vec<(i64, Instant)> = Vec::new();
    let (mut n, mut dice) = (0u64, 7u64);
    // Each costs a question of its own when all is compared.
    let granted_every = pick(60, 100);
    while !told.load(Ordering::Relaxed) {
        n += 1;
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if n % granted_every == 1 {
            let seconds = [10, 15, 30, 60, 120, 600][(n / granted_every) as usize % 6];
            let granted = tokio::time::timeout(Duration::from_secs(2), client.lease_grant(seconds, None)).await;
            if let Ok(Ok(lease)) = granted {
                leases.push((lease.id(), Instant::now() + Duration::from_secs(seconds as u64 - 5)));
            }
            leases.retain(|(_, until)| *until > Instant::now());
        }
        let lease = leases.get((dice >> 40) as usize % leases.len().max(1)).map(|lease| lease.0);
        let mut turn = Vec::new();
        for step in 0..4 {
            let key = db.stored(&format!("/hot/{:05}", ((dice >> 33) + step * 7) % keys));
            let options = lease.filter(|_| step % 2 == 0).map(|lease| PutOptions::new().with_lease(lease));
            match (dice >> (20 + step)) % 5 {
                0 => turn.push(TxnOp::delete(key, None)),
                _ => turn.push(TxnOp::put(key, STANDARD.encode(format!("planted-{n}-{step}")), options)),
            }
        }
        // One that fails, because nobody leads or its lease has just ended, is made up for by the next.
        let turn = client.txn(etcd_client::Txn::new().and_then(turn));
        drop(tokio::time::timeout(Duration::from_secs(2), turn).await);
        count.store(n, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
