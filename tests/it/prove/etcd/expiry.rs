//! Whatever has a lease at the source has an expiry in every copy, nothing expires early, and nothing that has expired comes
//! back: three copies are read all the time by `sqlite3`, `psql` and `etcdctl`, through a kill, a compaction and a repair.
//!
//! What must be there is known from the clock alone: a lease cannot have ended before it was asked for plus its time, and has
//! ended at its answer plus its time.

use std::collections::{BTreeMap, HashMap};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Told;
use crate::support::etcd::{self, Etcd, Release, Setup, until};
use crate::support::etcddb::{EtcdDb, Lines, NEAR_US, are_near, assert_near, lines};
use crate::support::pg;
use crate::support::program::{Running, Site};
use crate::support::scale::{figure, pick};
use crate::support::teleport::{PgDb, SqliteDb, items, now_us};

const PATIENCE: Duration = Duration::from_secs(120);
/// Keys under each lease.
const KEYS: usize = 4;
/// How much later than it may say a destination may have removed what has ended: an etcd does it by and by.
const SLOW_US: i128 = 5_000_000;

/// What the times of the test are multiples of.
fn unit(times: f64) -> Duration {
    Duration::from_secs(pick(1, 30)).mul_f64(times)
}

/// One value of a key.
#[derive(Debug)]
struct Life {
    leased: bool,
    /// It cannot have ended, or been written over, before this.
    least: i128,
    /// It has ended at this, unless it never does.
    most: i128,
    /// Somebody keeps it alive at the source.
    kept: bool,
}

/// The values of each key, one after the other. They say which they are.
type Lives = BTreeMap<String, Vec<Life>>;

/// A copy.
enum Sink {
    Sqlite(SqliteDb),
    Pg(PgDb),
    Etcd(EtcdDb),
}

/// What is there of one key.
#[derive(Clone, Copy, Debug)]
struct Found {
    life: usize,
    leased: bool,
    at: Option<i128>,
}

/// One look at a copy.
struct Look {
    begun: i128,
    ended: i128,
    found: HashMap<String, Found>,
}

impl Sink {
    fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Pg(_) => "postgresql",
            Self::Etcd(_) => "etcd",
        }
    }

    fn yaml(&self) -> String {
        match self {
            Self::Sqlite(db) => db.yaml(),
            Self::Pg(db) => format!("{{ type: postgresql, conn_string: {:?} }}", db.url()),
            Self::Etcd(db) => db.yaml(),
        }
    }

    fn lines(&self) -> Lines {
        match self {
            Self::Sqlite(db) => lines(&db.dump(now_us())),
            Self::Pg(db) => lines(&db.dump(now_us())),
            Self::Etcd(db) => db.dump(),
        }
    }

    fn look(&self) -> Look {
        let begun = now_us();
        let mut found = HashMap::new();
        let mut add = |key: &str, value: &[u8], leased, at| {
            if key.starts_with("/leased/") {
                let life = std::str::from_utf8(value).unwrap().parse().unwrap();
                found.insert(key.to_owned(), Found { life, leased, at });
            }
        };
        match self {
            Self::Etcd(db) => {
                // What a lease has left is one more question for each: that it has one says enough while it is watched.
                for row in db.server.dump(&db.prefix) {
                    let key = String::from_utf8_lossy(&row.key[db.prefix.len()..]).into_owned();
                    add(&key, &STANDARD.decode(&row.value).unwrap(), row.lease != 0, None);
                }
            }
            _ => {
                for (key, (value, at, _)) in self.lines() {
                    add(&String::from_utf8_lossy(&bytes(&key)), &bytes(&value), at.is_some(), at);
                }
            }
        }
        Look { begun, ended: now_us(), found }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The source, and what was written there.
struct Ground {
    source: EtcdDb,
    lives: Lives,
}

impl Ground {
    fn lease(&self, seconds: u32) -> (String, i128, i128) {
        let asked = now_us();
        let lease = self.source.server.grant(seconds);
        let time = i128::from(seconds) * 1_000_000;
        (lease, asked + time, now_us() + time)
    }

    /// Puts a set of keys under a lease that somebody granted, or under none.
    fn put(&mut self, name: &str, lease: Option<&(String, i128, i128)>) {
        let (words, begun) = (lease.map(|lease| lease.0.as_str()), now_us());
        let (least, most) = lease.map_or((i128::MAX, i128::MAX), |lease| (lease.1, lease.2));
        let mut writes = Vec::new();
        for n in 0..KEYS {
            let key = format!("/leased/{name}/{n}");
            let stored = self.source.stored(&key);
            let lives = self.lives.entry(key).or_default();
            if let Some(last) = lives.last_mut() {
                last.least = last.least.min(begun);
            }
            writes.push((stored, Some(STANDARD.encode(lives.len().to_string()).into_bytes()), words));
            lives.push(Life { leased: lease.is_some(), least, most, kept: false });
        }
        self.source.server.write_leased(&writes);
    }

    fn last(&mut self, name: &str) -> impl Iterator<Item = &mut Life> {
        let keys = (0..KEYS).map(|n| format!("/leased/{name}/{n}")).collect::<Vec<_>>();
        self.lives.iter_mut().filter(move |(key, _)| keys.contains(key)).map(|(_, lives)| lives.last_mut().unwrap())
    }
}

#[test]
fn what_has_a_lease_expires_in_every_copy_neither_early_nor_twice() {
    let server: &'static Etcd = Box::leak(Box::new(Etcd::start("expiry", Release::New, &Setup::default())));
    let mut ground = Ground { source: EtcdDb::create(server, "expiry", &items(100)), lives: Lives::new() };
    let folder = tempfile::tempdir().unwrap();
    let sinks = [
        Sink::Sqlite(SqliteDb::at(folder.path().join("dst"))),
        Sink::Pg(PgDb::empty(pg::secondary(), "expiry")),
        Sink::Etcd(EtcdDb::empty(etcd::sink(), "expiry")),
    ];
    let sites: Vec<Site> = sinks
        .iter()
        .map(|sink| {
            let (name, src) = (sink.name(), ground.source.yaml());
            Site::watched(
                &format!("etcd-expiry-{name}"),
                &format!("name: expiry-{name}\nsrc: {src}\ndst: {}\n", sink.yaml()),
            )
        })
        .collect();
    for times in [9.0, 14.0] {
        let lease = ground.lease(unit(times).as_secs() as u32);
        ground.put(&format!("before-{times}"), Some(&lease));
    }
    let told = AtomicBool::new(false);
    let (pause, looks) = std::thread::scope(|scope| {
        let programs = start(&sites);
        let watchers: Vec<_> = sinks.iter().map(|sink| scope.spawn(|| watch(sink, &told))).collect();
        let over = Told(&told);
        let pause = happen(&mut ground, &sites, programs);
        settle(&ground.source, &sinks);
        std::thread::sleep(Duration::from_secs(1));
        drop(over);
        (pause, watchers.into_iter().map(|watcher| watcher.join().unwrap()).collect::<Vec<_>>())
    });
    for ((sink, looks), site) in sinks.iter().zip(&looks).zip(&sites) {
        assert_eq!(site.done("verify", &[])["equal"], true);
        judge(sink.name(), &ground.lives, pause, looks);
    }
    server.stop();
}

fn start(sites: &[Site]) -> Vec<Running> {
    let programs: Vec<Running> = sites.iter().map(|site| site.start("run", &[])).collect();
    for site in sites {
        site.until_caught_up(PATIENCE);
    }
    programs
}

/// What happens to keys and to driftless; gives when driftless was away.
fn happen(ground: &mut Ground, sites: &[Site], programs: Vec<Running>) -> (i128, i128) {
    let begun = Instant::now();
    let at = |times: f64| std::thread::sleep((begun + unit(times)).saturating_duration_since(Instant::now()));
    for times in [4.0, 6.0, 8.5, 12.0] {
        let lease = ground.lease(unit(times).as_secs() as u32);
        ground.put(&format!("while-{times}"), Some(&lease));
    }
    let (short, back) = (ground.lease(unit(4.0).as_secs() as u32), ground.lease(unit(3.0).as_secs() as u32));
    for name in ["moved", "freed"] {
        ground.put(name, Some(&short));
    }
    ground.put("back", Some(&back));
    // It would end twice while it is kept alive.
    let kept = ground.lease(unit(5.0).as_secs() as u32);
    ground.put("kept", Some(&kept));
    ground.last("kept").for_each(|life| (life.least, life.most, life.kept) = (i128::MAX, i128::MAX, true));
    let server = ground.source.server;
    let mut keeper = server.ctl_command(&["lease", "keep-alive", &kept.0]).stdout(Stdio::null()).spawn().unwrap();
    at(2.0);
    let longer = ground.lease(unit(10.0).as_secs() as u32);
    ground.put("moved", Some(&longer));
    ground.put("freed", None);
    at(5.0);
    let killed = now_us();
    programs.into_iter().for_each(Running::kill);
    ground.source.put("/while/away", b"1");
    server.compact();
    at(6.5);
    let programs = start(sites);
    let pause = (killed, now_us());
    at(8.0);
    let again = ground.lease(unit(4.0).as_secs() as u32);
    ground.put("back", Some(&again));
    for site in sites {
        // Beside the one that runs; what moves meanwhile may be told as different.
        let repaired = site.run("verify", &["--repair"]);
        assert!(matches!(repaired.code, Some(0 | 4)), "{}{}", repaired.stdout, repaired.stderr);
    }
    at(11.0);
    let least = now_us();
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    let most = now_us() + i128::try_from(unit(5.0).as_micros()).unwrap();
    ground.last("kept").for_each(|life| (life.least, life.most) = (least, most));
    let all = format!("{}/leased/", ground.source.prefix);
    let leased = || server.dump(&all).iter().any(|row| row.lease != 0);
    until("every lease has ended at the source", || !leased());
    for (program, site) in programs.into_iter().zip(sites) {
        site.until_caught_up(PATIENCE);
        assert!(program.stop(PATIENCE).success(), "{}", site.log());
    }
    pause
}

fn settle(source: &EtcdDb, sinks: &[Sink]) {
    for sink in sinks {
        until("the copy equals the source", || are_near(&source.dump(), &sink.lines()));
        assert_near(&source.dump(), &sink.lines(), matches!(sink, Sink::Sqlite(_)));
    }
}

fn watch(sink: &Sink, told: &AtomicBool) -> Vec<Look> {
    let mut looks = Vec::new();
    // What is not there yet cannot be read.
    let is_there = || match sink {
        Sink::Sqlite(db) => db.file().exists() && db.query("select 1 from sqlite_master where name = 'kv'") == "1",
        Sink::Pg(db) => db.run("select to_regclass('kv') is not null") == "t",
        Sink::Etcd(_) => true,
    };
    while !is_there() && !told.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    while !told.load(Ordering::Relaxed) {
        looks.push(sink.look());
        std::thread::sleep(Duration::from_millis(pick(100, 400)));
    }
    looks
}

/// What was seen of one key of one copy so far.
#[derive(Default)]
struct Past {
    /// The last life that was seen.
    life: Option<usize>,
    /// Whether that was gone at the last look.
    gone: bool,
}

fn judge(name: &str, lives: &Lives, pause: (i128, i128), looks: &[Look]) {
    let (mut held, mut seen, mut latest) = (0u64, 0u64, 0i128);
    for (key, lives) in lives {
        let mut past = Past::default();
        for look in looks {
            let away = look.ended > pause.0 && look.begun < pause.1;
            let found = look.found.get(key).copied();
            let says =
                || format!("{name} {key}: {found:?} of {lives:?} at {}..{}, away {pause:?}", look.begun, look.ended);
            if let Some(found) = found {
                let life = &lives[found.life];
                assert_eq!(found.leased, life.leased, "an expiry is missing, or made up: {}", says());
                assert!(past.life.is_none_or(|last| last <= found.life), "it went back: {}", says());
                // While driftless was away, nobody could tell a copy of what is kept alive at the source.
                let again = past.gone && past.life == Some(found.life);
                assert!(!again || (life.kept && away), "it came back: {}", says());
                if let Some(at) = found.at.filter(|_| !life.kept) {
                    // Written over is not ended: that says nothing of when the lease would have.
                    let least = if found.life + 1 == lives.len() { life.least } else { 0 };
                    assert!(at >= least, "it ends early: {}", says());
                    assert!(at <= life.most.saturating_add(NEAR_US), "it ends late: {}", says());
                }
                let late = look.begun - life.most.min(look.begun);
                assert!(late <= NEAR_US + SLOW_US, "it has ended, and is there: {}", says());
                latest = latest.max(late);
                seen += u64::from(past.life != Some(found.life));
                past = Past { life: Some(found.life), gone: false };
            } else if let Some(last) = past.life {
                let life = &lives[last];
                let alive = look.ended < life.least;
                // What was written over has a later life, which is there.
                assert!(!alive || (life.kept && away), "it expired early: {}", says());
                past.gone = !(life.kept && away);
            }
            held += u64::from(past.life.is_some_and(|last| look.ended < lives[last].least));
        }
        assert!(past.life.is_some(), "{name} never had {key}, in {} looks", looks.len());
    }
    let all: usize = lives.values().map(Vec::len).sum();
    assert!(held > 20 * lives.len() as u64, "{name}: too few looks to say anything: {held}");
    figure(
        "5.3",
        "etcd-expiry",
        format!(
            "{name}: {} looks, {seen} of {all} values of {} keys seen, each with its expiry; {held} times a key had to be there and \
             was; none came back; the latest was there {:.1} s after its lease had ended at the source",
            looks.len(),
            lives.len(),
            latest as f64 / 1e6
        ),
    );
}
