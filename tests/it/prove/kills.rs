//! kill -9 in every phase, on every route, under a writer with hot keys and an observer of the sink.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
#[cfg(feature = "etcd")]
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sides::{Observer, Side, Writer};
#[cfg(feature = "etcd")]
use crate::support::etcd::{Proxy, Weather};
use crate::support::pg;
use crate::support::program::{Running, Site};
use crate::support::scale::{figure, pick};
use crate::support::teleport::items;

const PATIENCE: Duration = Duration::from_secs(120);

/// How often the program is killed in which phase.
#[derive(Debug, Default)]
struct Histogram {
    snapshot: u32,
    tail: u32,
    commit_in_flight: u32,
    healing: u32,
}

#[test]
fn kills_sqlite_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let all = items(pick(3_000, 100_000));
    let source = Side::sqlite(&folder.path().join("src"), Some(&all));
    let sink = Side::sqlite(&folder.path().join("dst"), None);
    route("sqlite→sqlite", &source, &sink);
}

#[test]
fn kills_sqlite_to_postgresql() {
    let folder = tempfile::tempdir().unwrap();
    let all = items(pick(3_000, 100_000));
    let source = Side::sqlite(&folder.path().join("src"), Some(&all));
    let sink = Side::pg(pg::secondary(), "kills_sp", None);
    route("sqlite→postgresql", &source, &sink);
}

#[test]
fn kills_postgresql_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let all = items(pick(3_000, 100_000));
    let source = Side::pg(pg::primary(), "kills_ps", Some(&all));
    let sink = Side::sqlite(&folder.path().join("dst"), None);
    route("postgresql→sqlite", &source, &sink);
}

#[test]
fn kills_postgresql_to_postgresql() {
    let all = items(pick(3_000, 100_000));
    let source = Side::pg(pg::primary(), "kills_pp", Some(&all));
    let sink = Side::pg(pg::secondary(), "kills_pp", None);
    route("postgresql→postgresql", &source, &sink);
}

#[cfg(feature = "etcd")]
#[test]
fn kills_sqlite_to_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(pick(3_000, 100_000))));
    route("sqlite→etcd", &source, &Side::etcd(crate::support::etcd::old(), "kills_se"));
}

#[cfg(feature = "etcd")]
#[test]
fn kills_postgresql_to_etcd() {
    let source = Side::pg(pg::primary(), "kills_pe", Some(&items(pick(3_000, 100_000))));
    route("postgresql→etcd", &source, &Side::etcd(crate::support::etcd::sink(), "kills_pe"));
}

/// A cluster of its own: others are not to suffer from its compactions.
#[cfg(feature = "etcd")]
fn etcd_source(hint: &str, release: crate::support::etcd::Release) -> Side {
    use crate::support::etcd::{Etcd, Setup};
    let server = Box::leak(Box::new(Etcd::start(hint, release, &Setup::default())));
    Side::etcd_with(server, "kills", &items(pick(3_000, 100_000)))
}

#[cfg(feature = "etcd")]
#[test]
fn kills_etcd_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let sink = Side::sqlite(&folder.path().join("dst"), None);
    route("etcd→sqlite", &etcd_source("kills-es", crate::support::etcd::Release::Old), &sink);
}

#[cfg(feature = "etcd")]
#[test]
fn kills_etcd_to_postgresql() {
    let sink = Side::pg(pg::secondary(), "kills_ep", None);
    route("etcd→postgresql", &etcd_source("kills-ep", crate::support::etcd::Release::New), &sink);
}

#[cfg(feature = "etcd")]
#[test]
fn kills_etcd_to_etcd() {
    use crate::support::etcd::Release::New;
    route("etcd→etcd", &etcd_source("kills-ee", New), &Side::etcd(crate::support::etcd::sink(), "kills_ee"));
}

struct Case {
    site: Site,
    listen: SocketAddr,
    source: Side,
    sink: Side,
    /// A small generator of pauses: the same in every run, different at every kill.
    dice: u64,
}

fn route(name: &str, source: &Side, sink: &Side) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let stream = name.replace('→', "-to-");
    let yaml = format!(
        "name: kills-{stream}\nsrc: {}\ndst: {}\nmemory: 16MiB\nparallel: 4\nlisten: {listen}",
        source.yaml(),
        sink.yaml()
    );
    let site = Site::new(&format!("kills-{stream}"), &yaml);
    let mut case = Case { site, listen, source: source.clone(), sink: sink.clone(), dice: 7 };
    let writer = Writer::start(source, Duration::from_millis(80));
    let mut histogram = Histogram::default();
    case.snapshot_kills(pick(2, 40), &mut histogram);
    let observer = Observer::start(sink);
    let program = case.start();
    case.wait("first consistent", |status| status["consistent"] == true);
    observer.count();
    let before = writer.versions.load(std::sync::atomic::Ordering::Relaxed);
    program.kill();
    case.tail_kills(pick(3, 60), &mut histogram);
    case.commit_kills(pick(3, 50), &mut histogram);
    case.healing_kills(pick(3, 50), &mut histogram);
    let program = case.start();
    case.wait("consistent after the last kill", |status| status["consistent"] == true);
    let written = writer.finish() - before;
    case.site.until_caught_up(PATIENCE);
    let seen = observer.finish();
    source.assert_in(sink);
    let verdict = case.site.done("verify", &[]);
    assert_eq!(verdict["equal"], true, "{verdict}");
    assert!(program.stop(PATIENCE).success());
    assert_eq!(seen.went_back, Vec::<String>::new(), "keys went back");
    assert_eq!(seen.half_seen, Vec::<String>::new(), "half of a transaction was visible");
    // What was there before counting began is no version of that time.
    let caught = seen.versions.iter().filter(|version| **version > before).count();
    let share = caught as f64 / written as f64;
    figure(
        "3.3",
        "kills",
        format!(
            "{name}: {histogram:?}, sink equals source; {} looks, {} of {written} hot versions seen ({:.0} %), none went back, no half transaction",
            seen.looks,
            caught,
            share * 100.0
        ),
    );
    // Beside all the other tests the observer does not get as many looks.
    assert!(share >= pick(0.2, 0.5), "the observer saw too few versions to say anything: {share}");
}

impl Case {
    fn start(&self) -> Running {
        self.site.start("run", &[])
    }

    fn status(&self) -> Option<Value> {
        let mut stream = TcpStream::connect_timeout(&self.listen, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /status.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        Some(status["pipelines"][0].clone())
    }

    fn wait(&self, what: &str, wished: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if let Some(status) = status.as_ref().filter(|status| wished(status)) {
                return status.clone();
            }
            assert!(Instant::now() < deadline, "no {what}: {status:?}\n{}", tail_of(&self.site.log()));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn pause(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(least_ms + (self.dice >> 33) % (most_ms - least_ms))
    }

    /// Kills while the first copy runs, as soon as this run of it has read something.
    fn snapshot_kills(&mut self, count: u32, histogram: &mut Histogram) {
        while histogram.snapshot < count {
            let program = self.start();
            let status = self.wait("a first copy that reads", |status| {
                status["consistent"] == true
                    || status["state"] == "catching_up"
                    || (status["state"] == "snapshot" && status["rows"].as_u64() > Some(0))
            });
            program.kill();
            if status["state"] != "snapshot" {
                // The copy came to its end: there is no more to kill in it.
                assert!(histogram.snapshot >= count.min(2), "the copy was over before it could be killed");
                break;
            }
            histogram.snapshot += 1;
        }
    }

    /// Kills while it follows, after a while that is never the same.
    fn tail_kills(&mut self, count: u32, histogram: &mut Histogram) {
        while histogram.tail < count {
            let program = self.start();
            self.wait("following", |status| status["consistent"] == true);
            std::thread::sleep(self.pause(300, 1200));
            program.kill();
            histogram.tail += 1;
        }
    }

    /// Kills while the sink holds a commit back.
    fn commit_kills(&mut self, count: u32, histogram: &mut Histogram) {
        while histogram.commit_in_flight < count {
            let program = self.start();
            self.wait("following", |status| status["consistent"] == true);
            let held = Held::by(&self.sink);
            self.wait_for_held_commit();
            program.kill();
            held.let_go();
            histogram.commit_in_flight += 1;
        }
    }

    /// Ends when a commit of driftless waits for what the test holds.
    fn wait_for_held_commit(&self) {
        let deadline = Instant::now() + PATIENCE;
        match &self.sink {
            Side::Pg(db) => {
                let sql = "select count(*) from pg_stat_activity where datname = current_database()
                           and application_name like 'driftless%' and wait_event_type = 'Lock'";
                while db.run(sql) == "0" {
                    assert!(Instant::now() < deadline, "no commit waits for the lock");
                }
            }
            _ => {
                // Nothing tells from outside that a process waits for this one; that nothing lands while the source is
                // written to does.
                let landed = |status: &Option<Value>| status.as_ref().and_then(|status| status["changes"].as_u64());
                let mut last = landed(&self.status());
                let mut still = Instant::now();
                while still.elapsed() < Duration::from_millis(150) {
                    assert!(Instant::now() < deadline, "commits land although the sink is held");
                    let now = landed(&self.status());
                    if now != last {
                        (last, still) = (now, Instant::now());
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// Kills while a gap is being healed; makes a new one when it was healed in between.
    fn healing_kills(&mut self, count: u32, histogram: &mut Histogram) {
        self.make_gap();
        while histogram.healing < count {
            let program = self.start();
            let status = self.wait("healing", |status| {
                status["consistent"] == true || (status["state"] == "gap" && status["epoch"].as_u64() > Some(0))
            });
            if status["consistent"] == true {
                program.kill();
                self.make_gap();
                continue;
            }
            std::thread::sleep(self.pause(5, 250));
            let healing = self.status().is_some_and(|status| status["state"] == "gap");
            program.kill();
            if healing {
                histogram.healing += 1;
            } else {
                self.make_gap();
            }
        }
    }

    /// Makes the source forget what the sink does not have yet. Nothing of ours runs.
    fn make_gap(&self) {
        std::thread::sleep(Duration::from_millis(200));
        match &self.source {
            Side::Sqlite(db) => db.run("delete from events;"),
            Side::Pg(db) => {
                let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()";
                let deadline = Instant::now() + PATIENCE;
                // The server needs a moment to notice that the reader of the slot is dead.
                while db.server.try_psql(&db.name, drop).is_err() {
                    assert!(Instant::now() < deadline, "the slot stays in use");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            #[cfg(feature = "etcd")]
            Side::Etcd(db, _) => {
                db.server.put("/somebody/else", "1");
                db.server.compact();
            }
        }
    }
}

/// What keeps a sink from taking commits.
enum Held {
    Client(std::process::Child, std::process::ChildStdin),
    #[cfg(feature = "etcd")]
    OnTheWay(Arc<Proxy>),
}

impl Held {
    fn by(sink: &Side) -> Self {
        let hold = match sink {
            Side::Sqlite(_) => "begin immediate;\n",
            Side::Pg(_) => "begin; select number from driftless.lane for update;\n",
            #[cfg(feature = "etcd")]
            Side::Etcd(_, proxy) => {
                proxy.set(Weather::Silent);
                return Self::OnTheWay(Arc::clone(proxy));
            }
        };
        let mut client = sink.client();
        let mut input = client.stdin.take().unwrap();
        input.write_all(hold.as_bytes()).unwrap();
        input.flush().unwrap();
        Self::Client(client, input)
    }

    fn let_go(self) {
        match self {
            Self::Client(mut client, mut input) => {
                input.write_all(b"rollback;\n").unwrap();
                drop(input);
                assert!(client.wait().unwrap().success());
            }
            #[cfg(feature = "etcd")]
            // What the killed process had sent arrives now, when nobody waits for it any more.
            Self::OnTheWay(proxy) => proxy.set(Weather::Fair),
        }
    }
}

fn tail_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
