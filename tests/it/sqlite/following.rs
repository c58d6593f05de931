//! Following a live file: what is seen, how soon, what is a lost position, and what the source feels of it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use driftless::error::Fault;
use driftless::kinds::sqlite::SqliteSource;
use driftless::model::{Checkpoint, Op, Position};
use driftless::pool::Pool;
use driftless::source::{Source, Tail};

use super::*;

/// What a tail has given so far.
struct Followed {
    tail: Box<dyn Tail>,
    at: Checkpoint,
    rows: std::collections::BTreeMap<String, Option<Vec<u8>>>,
    changes: usize,
}

impl Followed {
    async fn from(source: &SqliteSource, at: Checkpoint, pool: &Pool) -> Self {
        let tail = source.tail(&at, pool).await.unwrap();
        Self { tail, at, rows: Default::default(), changes: 0 }
    }

    /// Reads until the head is passed.
    async fn reach(&mut self, head: &Checkpoint) {
        let read = async {
            while !self.at.covers(head) {
                self.one().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("the tail reaches the head");
    }

    async fn one(&mut self) -> driftless::error::Result<()> {
        let batch = self.tail.next().await?;
        for row in batch.rows() {
            let key = String::from_utf8(row.key.to_vec()).unwrap();
            self.changes += 1;
            self.rows.insert(key, (row.op == Op::Put).then(|| body::to_item(row.body).unwrap().value));
        }
        if batch.upto() != batch.base() {
            self.at.advance(&batch.partition, batch.upto());
        }
        Ok(())
    }

    /// Reads until it fails; how.
    async fn fault(&mut self) -> Fault {
        let read = async {
            loop {
                if let Err(error) = self.one().await {
                    return error.fault();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("the tail fails")
    }
}

fn source(backend: &Backend) -> SqliteSource {
    SqliteSource::open(&backend.options()).unwrap()
}

fn write(backend: &Backend, key: &str, value: &str) {
    backend.sql(&teleport_writes(&[(key.into(), Some(value.into()))]));
}

fn names(at: &Checkpoint) -> Vec<String> {
    at.iter().map(|(partition, _)| partition.as_str().rsplit('/').next().unwrap().to_owned()).collect()
}

/// Makes everything in the log older, as waiting would.
fn age(backend: &Backend, minutes: u32) {
    backend.sql(&format!(
        "update events set created = strftime('%Y-%m-%d %H:%M:%f+00:00', substr(created, 1, 23), '-{minutes} minutes')"
    ));
}

#[test]
fn the_row_is_the_value_and_the_event_only_a_hint() {
    let backend = Backend::teleport("delete");
    runtime().block_on(async {
        let source = source(&backend);
        let mut followed = Followed::from(&source, source.pin().await.unwrap(), &Pool::new(4, 1 << 16)).await;
        // A keep-alive: the event holds another revision, and here another value too.
        backend.sql(&teleport_writes(&[(b"/k".to_vec(), Some(b"first".to_vec()))]));
        backend.sql(
            "begin immediate; update kv set value = 'row', revision = 'row' where key = '/k'; \
             insert into events (type, created, kv_key, kv_modified, kv_value, kv_revision) \
             values ('1', strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'), '/k', 1, 'event', 'event'); commit;",
        );
        backend.sql("begin; insert into events (type, created, kv_key, kv_modified) values ('1', strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'), '/never', 1); commit;");
        followed.reach(&source.head().await.unwrap()).await;
        assert_eq!(followed.rows["/k"], Some(b"row".to_vec()));
        assert_eq!(followed.rows["/never"], None, "no row is a delete, whatever the event's type");
    });
}

#[test]
fn a_log_emptied_by_idleness_is_a_new_generation_and_no_gap() {
    for seen_empty in [true, false] {
        let backend = Backend::teleport("delete");
        runtime().block_on(async {
            let source = source(&backend);
            let pool = Pool::new(4, 1 << 16);
            let mut followed = Followed::from(&source, source.pin().await.unwrap(), &pool).await;
            for n in 0..20 {
                write(&backend, &format!("/k/{n}"), "1");
            }
            followed.reach(&source.head().await.unwrap()).await;
            // The tail does not look while nobody asks it for a batch, as behind a slow sink. Eleven minutes pass: all that
            // was read was made eleven minutes ago.
            drop(followed.tail);
            let at = aged(&followed.at, 11);
            age(&backend, 11);
            if seen_empty {
                backend.sql("delete from events");
            } else {
                backend.sql(&format!(
                    "delete from events; {}",
                    teleport_writes(&[(b"/new".to_vec(), Some(b"2".to_vec()))])
                ));
            }
            let source = super::SqliteSource::open(&backend.options()).unwrap();
            let mut followed = Followed::from(&source, at, &pool).await;
            if seen_empty {
                followed.one().await.unwrap();
                followed.one().await.unwrap();
                assert_eq!(names(&followed.at), ["1", "2"]);
                write(&backend, "/new", "2");
            }
            followed.reach(&source.head().await.unwrap()).await;
            assert_eq!(followed.rows["/new"], Some(b"2".to_vec()));
            assert_eq!(backend.sql("select max(id) from events"), "1");
            let ends: Vec<_> = followed.at.iter().map(|(_, position)| position.clone()).collect();
            assert_eq!(ends[0], Position::End);
            // A restart goes on in the second generation, and so does its head.
            drop(followed.tail);
            let source = super::SqliteSource::open(&backend.options()).unwrap();
            let mut again = Followed::from(&source, followed.at, &pool).await;
            write(&backend, "/newer", "3");
            again.reach(&source.head().await.unwrap()).await;
            assert_eq!(again.rows.keys().collect::<Vec<_>>(), ["/newer"]);
        });
    }
}

/// The same checkpoint, as it would be had its last event been made that much earlier; the end was seen just now.
fn aged(at: &Checkpoint, minutes: i128) -> Checkpoint {
    use driftless::kinds::sqlite::log::Place;
    at.iter()
        .map(|(partition, position)| {
            let mut place = Place::parse(position.boundary().unwrap()).unwrap();
            place.created -= minutes * 60_000_000_000;
            (partition.clone(), Position::at(place.text()))
        })
        .collect()
}

#[test]
fn a_log_that_may_hide_a_change_is_a_lost_position_and_a_pin_heals_it() {
    let cases: &[(&str, &str)] = &[
        ("emptied although young", "delete from events"),
        ("ids started again although young", "delete from events; {write}"),
        ("trimmed beyond our place", "{write}{write}delete from events where id <= 4"),
        ("a hole", "{write}{write}delete from events where id = 4"),
        ("another change at our place", "update events set created = '2020-01-01 00:00:00+00:00' where id = 3"),
        ("an older log", "delete from events where id = 3"),
    ];
    for (what, sql) in cases {
        let backend = Backend::teleport("delete");
        runtime().block_on(async {
            let source = source(&backend);
            let pool = Pool::new(4, 1 << 16);
            for n in 0..3 {
                write(&backend, &format!("/k/{n}"), "1");
            }
            let mut followed = Followed::from(&source, source.pin().await.unwrap(), &pool).await;
            let damage = sql.replace("{write}", &teleport_writes(&[(b"/x".to_vec(), Some(b"1".to_vec()))]));
            // Within one look: a look in between would see a different story.
            let lock = Locked::by_another_process(&backend.file(), "begin exclusive");
            drop(lock);
            backend.sql(&format!(
                "begin immediate; {} commit;",
                damage.replace("begin immediate;", "").replace("commit;", "") + ";"
            ));
            assert_eq!(followed.fault().await, Fault::PositionLost, "{what}");
            let restarted = super::SqliteSource::open(&backend.options()).unwrap();
            let lost = restarted.tail(&followed.at, &pool).await.map(drop).unwrap_err();
            assert_eq!(lost.fault(), Fault::PositionLost, "{what}, after a restart: {lost}");
            for source in [source, restarted] {
                let pin = source.pin().await.unwrap();
                assert_eq!(names(&pin), ["2"], "{what}");
                let mut healed = Followed::from(&source, pin, &pool).await;
                write(&backend, "/after", "1");
                healed.reach(&source.head().await.unwrap()).await;
                assert_eq!(healed.rows.keys().collect::<Vec<_>>(), ["/after"]);
            }
        });
    }
}

#[test]
fn a_file_that_was_replaced_or_set_back_is_a_lost_position() {
    for in_place in [false, true] {
        let backend = Backend::teleport("delete");
        runtime().block_on(async {
            let source = source(&backend);
            let pool = Pool::new(4, 1 << 16);
            write(&backend, "/k", "1");
            let mut followed = Followed::from(&source, source.pin().await.unwrap(), &pool).await;
            let backup = backend.dir.join("backup.db");
            run("cp", &[&backend.file(), &backup]);
            write(&backend, "/k", "2");
            write(&backend, "/k", "3");
            followed.reach(&source.head().await.unwrap()).await;
            run(if in_place { "cp" } else { "mv" }, &[&backup, &backend.file()]);
            assert_eq!(followed.fault().await, Fault::PositionLost);
            let restarted = super::SqliteSource::open(&backend.options()).unwrap();
            assert_eq!(restarted.tail(&followed.at, &pool).await.map(drop).unwrap_err().fault(), Fault::PositionLost);
        });
    }
}

#[test]
fn a_stretch_larger_than_a_batch_has_one_mark_at_its_end() {
    let backend = Backend::teleport("wal");
    runtime().block_on(async {
        let source = source(&backend);
        let pool = Pool::new(64, 256);
        let pin = source.pin().await.unwrap();
        let all: Vec<_> = (0..40).map(|n| (format!("/k/{n:02}").into_bytes(), Some(vec![b'v'; 50]))).collect();
        backend.sql(&teleport_writes(&all));
        let mut tail = source.tail(&pin, &pool).await.unwrap();
        let mut base = Position::at(pin.iter().next().unwrap().1.boundary().unwrap());
        let mut changes = 0;
        loop {
            let batch = tail.next().await.unwrap();
            assert_eq!(batch.base(), &base, "batches follow each other");
            base = base.plus(batch.len() as u64);
            changes += batch.len();
            assert_eq!(batch.marks().is_empty(), changes < 40);
            if changes == 40 {
                break;
            }
        }
    });
}

#[test]
fn a_log_that_nobody_has_read_yet_is_read_without_a_mark_in_it() {
    let backend = Backend::teleport("wal");
    let _writer = Script::start(&backend.file(), COMMITTED);
    let before = fingerprint(&backend.dir);
    assert_eq!(before.lines().count(), 3, "{before}");
    runtime().block_on(async {
        let store = backend.store();
        let ranges = store.ranges(1).await.unwrap();
        assert_eq!(scan_all(&store, &ranges, 64).await[0].0, "/fresh");
        assert_eq!(fingerprint(&backend.dir), before);
    });
    assert_eq!(fingerprint(&backend.dir), before);
}

#[test]
fn nothing_at_a_source_is_created_or_altered_whatever_is_read() {
    for (journal, open) in [("delete", false), ("delete", true), ("wal", false), ("wal", true)] {
        let backend = Backend::teleport(journal);
        for (key, item) in vectors() {
            backend.sql(&put_sql(key, &item, 1));
        }
        write(&backend, "/logged", "1");
        // A writer that has the file open, as a running Teleport has.
        let writer = open.then(|| Script::start(&backend.file(), OPEN));
        let before = fingerprint(&backend.dir);
        assert_eq!(before.lines().count(), if journal == "wal" && open { 3 } else { 1 }, "{before}");
        runtime().block_on(async {
            let source = source(&backend);
            let pin = source.pin().await.unwrap();
            let mut tail = source.tail(&pin, &Pool::new(4, 1 << 16)).await.unwrap();
            drop(tokio::time::timeout(Duration::from_millis(300), tail.next()).await);
            let store = backend.store();
            let ranges = store.ranges(4).await.unwrap();
            assert_eq!(scan_all(&store, &ranges, 64).await.len(), vectors().len() + 1);
            assert_eq!(source.head().await.unwrap().len(), 1);
            assert_eq!(fingerprint(&backend.dir), before, "while it is read: {journal}, open {open}");
        });
        assert_eq!(fingerprint(&backend.dir), before, "afterwards: {journal}, open {open}");
        drop(writer);
    }
}

/// Names, sizes, times and hashes of what is in a directory, taken by other programs: this process must not close a
/// descriptor of a database that it reads. The wal-index is shared memory; its time moves when a lock slot does.
fn fingerprint(dir: &Path) -> String {
    let script = "cd \"$1\" && for f in $(ls -A); do stat -c '%n %s %i %Y.%y %a' $f; done && sha256sum $(ls -A)";
    let out = Command::new("sh").args(["-c", script, "sh"]).arg(dir).output().unwrap();
    assert!(out.status.success());
    let all = String::from_utf8(out.stdout).unwrap();
    let (stats, sums): (Vec<_>, Vec<_>) = all.lines().partition(|line| line.contains("+0"));
    stats.into_iter().zip(sums).map(|(stat, sum)| format!("{stat} {sum}\n")).collect()
}

fn run(program: &str, paths: &[&Path]) {
    assert!(Command::new(program).args(paths).status().unwrap().success());
}

/// Opens the file, commits once and keeps it open: nobody has read what is in the log.
const COMMITTED: &str = "c.execute(\"insert or replace into kv values ('/fresh', 1, null, 'v', 'r')\")\nprint('ready', flush=True)\ntime.sleep(60)";

/// Keeps the file open, as a running Teleport does.
const OPEN: &str = "c.execute('select 1 from kv').fetchall()\nprint('ready', flush=True)\ntime.sleep(60)";

/// A Python process with the database open as `c`.
struct Script {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Script {
    /// Runs to the first line that the script prints.
    fn start(file: &Path, script: &str) -> Self {
        Self::start_with(file, script, "")
    }

    fn start_with(file: &Path, script: &str, argument: &str) -> Self {
        let head = "import sqlite3, sys, time\nc = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)\n";
        let mut child = Command::new("python3")
            .args(["-c", &format!("{head}{script}")])
            .arg(file)
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn go(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Commits as Teleport does, every 20 ms or so, and prints when each commit was over. It never waits inside SQLite: a commit
/// that finds a reader is tried again every 0.2 ms, and how long that took is added up; the last line says how often and how
/// long at most.
const WRITER: &str = "
import random
c.execute('pragma busy_timeout = 0')
pause = float(sys.argv[2])
print('ready', flush=True)
sys.stdin.readline()
held = []
def patiently(sql):
    began = None
    while True:
        try:
            c.execute(sql)
            break
        except sqlite3.OperationalError:
            began = began or time.time_ns()
            time.sleep(0.0002)
    if began:
        held.append((time.time_ns() - began) / 1e6)
for i in range(300):
    patiently('begin immediate')
    key = '/k/%06d' % i
    c.execute('insert or replace into kv values (?, ?, null, ?, ?)', (key, i, b'x' * 300, 'r'))
    c.execute(\"insert into events (type, created, kv_key, kv_modified, kv_value) values ('1', strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'), ?, ?, ?)\", (key, i, b'x' * 300))
    patiently('commit')
    print(time.time_ns(), flush=True)
    time.sleep(pause * (0.5 + random.random()))
print(len(held), max(held, default=0.0), flush=True)
";

/// The 99th percentile of the delay from the end of a commit to the batch that holds it, and the longest that a commit
/// waited for us, in milliseconds.
fn pick_up(journal: &str, pause: &str) -> (f64, f64) {
    let backend = Backend::teleport(journal);
    let mut writer = Script::start_with(&backend.file(), WRITER, pause);
    let (seen, ended) = runtime().block_on(async {
        let source = source(&backend);
        let pin = source.pin().await.unwrap();
        let mut tail = source.tail(&pin, &Pool::new(8, 1 << 16)).await.unwrap();
        writer.go();
        let mut seen = Vec::new();
        while seen.len() < 300 {
            let batch = tokio::time::timeout(Duration::from_secs(20), tail.next()).await.unwrap().unwrap();
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
            seen.extend(batch.rows().map(|_| now));
        }
        let ended: Vec<u128> = (0..300).map(|_| writer.line().parse().unwrap()).collect();
        (seen, ended)
    });
    let held = writer.line();
    let (times, longest) = held.split_once(' ').unwrap();
    let delay = |(seen, ended): (&u128, &u128)| (*seen as f64 - *ended as f64) / 1e6;
    let mut late: Vec<f64> = seen.iter().zip(&ended).map(delay).collect();
    late.sort_by(f64::total_cmp);
    println!(
        "pick-up {journal}, {pause} s between commits: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; {times} of 600 statements of the writer waited, at most {longest} ms",
        late[150], late[296], late[299]
    );
    (late[296], longest.parse().unwrap())
}

#[test]
fn a_change_is_picked_up_within_20_ms_and_the_writer_hardly_notices() {
    for (journal, pause) in [("delete", "0.02"), ("wal", "0.02")] {
        // Other tests share the machine: what counts is what this code can do, so it may be measured again.
        let rounds = (0..10).map(|_| pick_up(journal, pause));
        let good = |(late, held): &(f64, f64)| *late < 20.0 && *held < 5.0;
        assert!(rounds.into_iter().any(|round| good(&round)), "{journal}: see the figures above");
    }
}

#[test]
fn a_writer_that_never_pauses_is_followed_and_not_starved() {
    for journal in ["delete", "wal"] {
        // How long each waits depends on how busy the machine is; that both get through does not.
        pick_up(journal, "0");
    }
}

#[test]
fn an_idle_source_costs_next_to_nothing() {
    for journal in ["delete", "wal"] {
        let backend = Backend::teleport(journal);
        write(&backend, "/k", "1");
        let _writer = Script::start(&backend.file(), OPEN);
        runtime().block_on(async {
            let source = source(&backend);
            let pin = source.pin().await.unwrap();
            let mut tail = source.tail(&pin, &Pool::new(8, 1 << 16)).await.unwrap();
            drop(tokio::time::timeout(Duration::from_millis(200), tail.next()).await);
            let (before, begun) = (following_threads(), Instant::now());
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (after, span) = (following_threads(), begun.elapsed().as_secs_f64());
            // Other tests may follow files at the same time: the thread that did least is an idle one.
            let used = before.iter().filter_map(|(thread, used)| Some(after.get(thread)? - used));
            let share = used.fold(f64::MAX, f64::min) / span;
            println!("idle {journal}: {:.2} % of a core", share * 100.0);
            assert!(share < 0.03, "{journal}: {:.2} % of a core", share * 100.0);
            drop(tail);
        });
    }
}

/// Seconds of CPU that each thread which follows a file has used, by the scheduler's own count.
fn following_threads() -> std::collections::BTreeMap<std::ffi::OsString, f64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let named = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "sqlite-tail")
    });
    named
        .filter_map(|task| {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            Some((task.file_name(), stat.split(' ').next()?.parse::<f64>().ok()? / 1e9))
        })
        .collect()
}

#[test]
fn a_file_that_its_writer_holds_locked_is_waited_for() {
    let backend = Backend::teleport("delete");
    runtime().block_on(async {
        let source = source(&backend);
        let pin = source.pin().await.unwrap();
        let mut followed = Followed::from(&source, pin, &Pool::new(4, 1 << 16)).await;
        let lock = Locked::by_another_process(&backend.file(), "begin exclusive; insert into kv values ('/k', 1, null, 'v', 'r'); insert into events values (1, '1', '2026-04-01 12:00:00+00:00', '/k', 1, null, 'v', 'r')");
        let waited = tokio::time::timeout(Duration::from_millis(500), followed.one()).await;
        assert!(waited.is_err(), "nothing was committed, so nothing is seen and nothing fails");
        // Killed in the middle of its transaction: what it wrote never was.
        drop(lock);
        write(&backend, "/k", "2");
        followed.reach(&source.head().await.unwrap()).await;
        assert_eq!(followed.rows["/k"], Some(b"2".to_vec()));
        assert_eq!(followed.changes, 1);
    });
}

#[test]
fn a_copy_can_itself_be_followed() {
    let backend = Backend::missing();
    runtime().block_on(async {
        let sink = backend.sink();
        let (_, mut writer) = sink.claim(&claim_of("s", 0, 1, None)).await.unwrap();
        let source = source(&backend);
        let pin = source.pin().await.unwrap();
        let mut followed = Followed::from(&source, pin, &Pool::new(4, 1 << 16)).await;
        writer.commit(commit(1, &[(PUT, "/a", b"1"), (PUT, "/b", b"1")], "10")).await.unwrap();
        writer.commit(commit(2, &[(Op::Delete, "/a", b"")], "20")).await.unwrap();
        writer.commit(commit(3, &[(Op::Clear, "", b""), (PUT, "/c", b"1")], "30")).await.unwrap();
        followed.reach(&source.head().await.unwrap()).await;
        let rows: Vec<_> = followed.rows.iter().map(|(key, value)| (key.as_str(), value.is_some())).collect();
        assert_eq!(rows, [("/a", false), ("/b", false), ("/c", true)]);
    });
}

#[test]
fn a_backend_without_events_is_followed_by_difference() {
    let backend = Backend::teleport("delete");
    let options = Options { events_off: true, ..backend.options() };
    let put = |key: &str, value: &str| format!("insert or replace into kv values ('{key}', 1, null, '{value}', 'r');");
    backend.sql(&(0..500).map(|n| put(&format!("/k/{n:03}"), "old")).collect::<String>());
    runtime().block_on(async {
        let source = SqliteSource::open(&options).unwrap();
        let pool = Pool::new(16, 256);
        let pin = source.pin().await.unwrap();
        assert!(pin.covers(&source.head().await.unwrap()), "nothing was written since the pin");
        backend.sql(&put("/between", "pin and tail"));
        let mut followed = Followed::from(&source, pin, &pool).await;
        backend.sql(&format!(
            "{} {} delete from kv where key = '/k/007' or key = '/k/499';",
            put("/k/003", "new"),
            put("/a", "new")
        ));
        followed.reach(&source.head().await.unwrap()).await;
        let rows: Vec<_> = followed.rows.iter().map(|(key, value)| (key.as_str(), value.is_some())).collect();
        assert_eq!(rows, [("/a", true), ("/between", true), ("/k/003", true), ("/k/007", false), ("/k/499", false)]);
        // More than a batch holds, and the same again: only what differs comes.
        followed.rows.clear();
        let count = followed.changes;
        backend.sql(
            &(0..500).map(|n| put(&format!("/k/{n:03}"), if n % 2 == 0 { "old" } else { "newer" })).collect::<String>(),
        );
        followed.reach(&source.head().await.unwrap()).await;
        assert_eq!(followed.changes - count, 250, "every second");
        // Another process knows nothing of what was: the position is lost, and a new pin heals it.
        let restarted = SqliteSource::open(&options).unwrap();
        let lost = restarted.tail(&followed.at, &pool).await.map(drop).unwrap_err();
        assert_eq!(lost.fault(), Fault::PositionLost, "{lost}");
        let pin = restarted.pin().await.unwrap();
        assert_eq!(names(&pin), ["2"]);
        let mut healed = Followed::from(&restarted, pin, &pool).await;
        backend.sql("delete from kv where key = '/a'");
        healed.reach(&restarted.head().await.unwrap()).await;
        assert_eq!(healed.rows.into_iter().collect::<Vec<_>>(), [("/a".to_owned(), None)]);
    });
}
