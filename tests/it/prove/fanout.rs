//! One reader at a source, several destinations: one of them away for long, the others none the wiser.

use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::sides::{Side, Writer};
use crate::support::pg::{self, Pg};
use crate::support::program::{Running, Site};
use crate::support::scale::{figure, pick};
use crate::support::teleport::{assert_same, items, now_us};

const PATIENCE: Duration = Duration::from_secs(120);
/// `memory` of the configuration.
const MEMORY_MIB: u64 = 96;
/// The key whose value is the time at which it was written, in microseconds.
pub(super) const CLOCK: &str = "/clock/now";

/// Writes the time into the source, all the time.
pub(super) struct Clock {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Clock {
    /// A test that has failed leaves nobody behind who writes.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Clock {
    pub(super) fn start(source: &Side) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (side, told) = (source.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut client = side.client();
            let mut input = client.stdin.take().unwrap();
            while !told.load(Ordering::Relaxed) {
                let sql = format!("{}\n", side.put(CLOCK, &now_us().to_string(), 1));
                input.write_all(sql.as_bytes()).unwrap();
                input.flush().unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(input);
            assert!(client.wait().unwrap().success());
        });
        Self { stop, thread: Some(thread) }
    }

    pub(super) fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// How long it took from the clock's writing until a sink showed it, in microseconds, over `span`: the 99th percentile.
pub(super) fn delay(sink: &Side, span: Duration) -> i128 {
    let mut client = sink.client();
    let mut input = client.stdin.take().unwrap();
    let mut answers = BufReader::new(client.stdout.take().unwrap()).lines();
    let query = match sink {
        Side::Sqlite(_) => format!("select cast(value as text) from kv where key = '{CLOCK}';\n"),
        Side::Pg(_) => format!("select convert_from(value, 'UTF8') from kv where key = '{CLOCK}'::bytea;\n"),
        #[cfg(feature = "etcd")]
        Side::Etcd(..) => panic!("not a side of this test"),
    };
    let (begun, mut last, mut delays) = (Instant::now(), 0, Vec::new());
    while begun.elapsed() < span {
        input.write_all(query.as_bytes()).unwrap();
        input.flush().unwrap();
        let shown: i128 = answers.next().unwrap().unwrap().trim().parse().unwrap();
        if shown != last {
            delays.push(now_us() - shown);
            last = shown;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(input);
    assert!(client.wait().unwrap().success());
    assert!(delays.len() > 50, "the clock was seen to move {} times only", delays.len());
    delays.sort_unstable();
    delays[delays.len() * 99 / 100]
}

/// Resident memory now, in MiB.
pub(super) fn resident(program: &Running) -> u64 {
    resident_of(program.pid())
}

fn resident_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Looks at a program's resident memory all the time, and keeps what it saw.
struct Memory(Arc<AtomicBool>, JoinHandle<Vec<u64>>);

impl Memory {
    fn watch(program: &Running) -> Self {
        let (ends, pid) = (Arc::new(AtomicBool::new(false)), program.pid());
        let told = Arc::clone(&ends);
        let watching = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !told.load(Ordering::Relaxed) {
                seen.push(resident_of(pid));
                std::thread::sleep(Duration::from_millis(100));
            }
            seen
        });
        Self(ends, watching)
    }

    /// The least and the most of the first half of the time, and of the second one, in MiB.
    fn seen(self) -> [(u64, u64); 2] {
        self.0.store(true, Ordering::Relaxed);
        let seen = self.1.join().unwrap();
        let (early, late) = seen.split_at(seen.len() / 2);
        [early, late].map(|half| (*half.iter().min().unwrap(), *half.iter().max().unwrap()))
    }
}

/// Every pipeline is consistent, whatever is written meanwhile.
fn until_all_consistent(site: &Site, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = site.done("status", &[])["pipelines"].as_array().unwrap().clone();
        if now.iter().filter(|status| status["consistent"] == true).count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {now:?}\n{}", site.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Every pipeline is consistent and has what the source has.
fn until_all_caught_up(site: &Site, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    let all = |site: &Site| site.done("status", &[])["pipelines"].as_array().unwrap().clone();
    let heads: Vec<u64> = all(site).iter().map(|status| status["heads"].as_u64().unwrap_or(0) + 2).collect();
    loop {
        let now = all(site);
        let caught_up = now.iter().zip(&heads).filter(|(status, fresh)| {
            status["consistent"] == true && status["lag_seconds"] == 0.0 && status["heads"].as_u64() >= Some(**fresh)
        });
        if caught_up.count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {now:?}\n{}", site.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// MiB of WAL that the slots of a database hold, and how many slots there are.
fn retained(source: &Side) -> (u64, u64) {
    let Side::Pg(db) = source else { unreachable!("the source is PostgreSQL") };
    let sql =
        "select coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)), 0)::int8 / 1048576, count(*)
               from pg_replication_slots where database = current_database()";
    let answer = db.run(sql);
    let (mib, count) = answer.split_once('|').unwrap();
    (mib.parse().unwrap(), count.parse().unwrap())
}

fn stop_server(server: &Pg) {
    let file = server.data.join("postmaster.pid");
    let pid = std::fs::read_to_string(&file).unwrap().lines().next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::INT).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while file.exists() {
        assert!(Instant::now() < deadline, "the server does not stop");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn fanout_one_slot_feeds_three_destinations_and_one_that_is_away_costs_the_others_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let away: &'static Pg = Box::leak(Box::new(Pg::start("fanout", &[])));
    let source = Side::pg(pg::primary(), "fanout", Some(&items(2_000)));
    let sinks = [
        Side::sqlite(&folder.path().join("one"), None),
        Side::sqlite(&folder.path().join("two"), None),
        Side::pg(away, "fanout", None),
    ];
    let mut yaml = format!("memory: {MEMORY_MIB}MiB\njournal: {{ ack: journal }}\npipelines:\n");
    for (name, sink) in ["one", "two", "away"].iter().zip(&sinks) {
        // Readers that look all the time hold up no commit in this mode.
        let sink = sink.yaml().replace("type: sqlite,", "type: sqlite, journal: WAL,");
        yaml += &format!("  - {{ name: {name}, src: {}, dst: {sink} }}\n", source.yaml());
    }
    let site = Site::new("fanout", &yaml);
    let program = site.start("run", &[]);
    let (clock, writer) = (Clock::start(&source), Writer::start(&source, Duration::from_millis(2)));
    until_all_consistent(&site, 3);
    assert_eq!(retained(&source).1, 1, "one slot serves all of them");
    let both = |span| {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| delay(&sinks[1], span));
            delay(&sinks[0], span).max(other.join().unwrap())
        })
    };
    let before = (both(pick(Duration::from_secs(3), Duration::from_secs(60))), resident(&program));
    stop_server(away);
    let memory = Memory::watch(&program);
    let during = (both(pick(Duration::from_secs(6), Duration::from_secs(600))), memory.seen());
    let held = retained(&source);
    away.spawn(&[]);
    away.wait_ready();
    clock.stop();
    let written = writer.finish();
    let begun = Instant::now();
    until_all_caught_up(&site, 3);
    let caught_up = begun.elapsed();
    // A crash in the middle changes nothing.
    program.kill();
    let program = site.start("run", &[]);
    until_all_caught_up(&site, 3);
    for sink in &sinks {
        assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    }
    assert!(program.stop(PATIENCE).success());
    figure(
        "4.2",
        "fanout",
        format!(
            "postgresql → sqlite, sqlite, postgresql from one slot, {written} transactions; the third away for {} s: p99 of the \
             others {:.1} ms before and {:.1} ms meanwhile, resident {} MiB before, {} to {} MiB in the first half of that and {} \
             to {} MiB in the second, WAL held {} MiB; caught up in {:.1} s, all equal",
            pick(6, 600),
            before.0 as f64 / 1000.0,
            during.0 as f64 / 1000.0,
            before.1,
            during.1[0].0,
            during.1[0].1,
            during.1[1].0,
            during.1[1].1,
            held.0,
            caught_up.as_secs_f64(),
        ),
    );
    assert!(held.0 <= 32, "the slot holds {} MiB", held.0);
    let [early, late] = during.1;
    // Beside all the other tests, and for seconds alone, buffers are still being filled for the first time.
    assert!(late.1 <= early.1 + pick(48, 8), "memory goes on growing: {early:?} and then {late:?} MiB");
    // LIMIT: a build for tests takes more for the same.
    assert!(late.1 <= MEMORY_MIB + pick(96, 32), "resident memory was {} MiB, with memory: {MEMORY_MIB}MiB", late.1);
    let most = pick(before.0 * 3 + 20_000, before.0 * 12 / 10 + 1_000);
    assert!(during.0 <= most, "the others' delay grew from {} to {} µs", before.0, during.0);
}
