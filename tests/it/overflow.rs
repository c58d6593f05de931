//! A single PostgreSQL pipeline whose sink is away: the journal takes over before the source has kept too much.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::pg::Pg;
use crate::support::program::Site;
use crate::support::scale::figure;
use crate::support::teleport::{PgDb, SqliteDb, assert_same, items, now_us};

const PATIENCE: Duration = Duration::from_secs(180);
const LIMIT: u64 = 64 << 20;

/// Keeps everybody else from writing to a SQLite file until dropped.
struct Locked(Child);

impl Locked {
    fn new(database: &SqliteDb) -> Self {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", "-bail", "-cmd", ".timeout 20000"]).arg(database.file());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.as_mut().unwrap();
        input.write_all(b"begin immediate;\nselect 'locked';\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "locked");
        Self(child)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

struct Setting {
    source: PgDb,
    sink: SqliteDb,
    site: Site,
    written: std::cell::Cell<u32>,
}

impl Setting {
    fn new() -> Self {
        let settings = ["max_wal_size=64MB", "min_wal_size=32MB", "autovacuum=off"];
        let server: &'static Pg = Box::leak(Box::new(Pg::start("overflow", &settings)));
        let source = PgDb::create(server, "overflow", &items(200));
        let site = Site::new("overflow", "");
        let sink = SqliteDb::at(site.folder().join("dst"));
        site.configure(&format!(
            "name: s\nsrc: {{ type: postgresql, conn_string: {:?} }}\ndst: {{ type: sqlite, path: {:?} }}\n\
             max_retained: 64MiB\n",
            source.url(),
            sink.folder
        ));
        Self { source, sink, site, written: 0.into() }
    }

    /// Writes about this many MiB of log, in ten transactions.
    fn write(&self, mib: u32) {
        for _ in 0..10 {
            let (from, rows) = (self.written.get(), mib * 80);
            self.source.run(&format!(
                "insert into kv (key, value, revision) select convert_to('/apps/' || n % 9999, 'UTF8'), \
                 convert_to(repeat('x', 1000) || n, 'UTF8'), gen_random_uuid() from generate_series({from} + 1, {from} + {rows}) n \
                 on conflict (key) do update set value = excluded.value, revision = excluded.revision"
            ));
            self.written.set(from + rows);
        }
    }

    /// Bytes that the slot keeps; nothing without one. The server moves a slot on when it has decoded what a checkpoint logs.
    fn retained(&self) -> Option<u64> {
        self.source.run("checkpoint");
        let sql = "select (pg_current_wal_flush_lsn() - restart_lsn)::int8 from pg_replication_slots";
        self.source.run(sql).parse().ok()
    }

    fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is() {
            assert!(Instant::now() < deadline, "{what}\n{}", self.site.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn journal(&self) -> Option<i32> {
        self.site.run("journal ls", &[]).code
    }
}

#[test]
fn the_slot_of_a_single_pipeline_whose_sink_is_away_is_released_by_a_journal_and_no_gap_is_opened() {
    let setting = Setting::new();
    let (site, source, sink) = (&setting.site, &setting.source, &setting.sink);
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    assert_eq!(setting.journal(), Some(2), "there is none");
    let refused = site.run("journal ls", &[]).stderr;
    assert!(refused.contains("read directly until its sink is far behind"), "{refused}");

    let locked = Locked::new(sink);
    setting.write(40);
    setting.until("the journal takes over", || site.log().contains("the journal takes what comes from here on"));
    setting.until("the source is released", || setting.retained().is_some_and(|bytes| bytes < LIMIT / 4));
    let mut most = 0;
    for _ in 0..5 {
        setting.write(20);
        setting.until("the slot is moved on", || {
            let retained = setting.retained().expect("the slot is there");
            most = most.max(retained);
            retained < LIMIT / 2
        });
    }
    figure("P8", "overflow", format!("140 MiB of log while the sink is away, at most {} MiB kept", most >> 20));
    assert_eq!(setting.journal(), Some(0));
    program.kill();
    let gone = Instant::now();
    drop(locked);
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    figure("P8", "overflow-back", format!("caught up {:.1} s after a kill", gone.elapsed().as_secs_f64()));
    assert_eq!(site.status()["gaps"], 0, "{}", site.log());
    let now = now_us();
    assert_same(&source.dump(now), &sink.dump(now));
    assert_eq!(site.done("journal verify", &[])["sound"], true);
    assert!(program.stop(PATIENCE).success());

    // What the sink has is dropped, and the source is read directly again.
    let program = site.start("run", &[]);
    source.put(&items(1)[0]);
    site.until_caught_up(PATIENCE);
    assert!(site.log().contains("the source is read directly"), "{}", site.log());
    assert_eq!(setting.journal(), Some(2));
    assert_eq!(site.status()["gaps"], 0);
    let now = now_us();
    assert_same(&source.dump(now), &sink.dump(now));
    assert!(program.stop(PATIENCE).success());
    assert!(!site.log().contains("dropping it"), "the slot was dropped: {}", site.log());
    assert!(site.done("drop-slot", &[])["what"].as_str().unwrap().contains("is removed"));
}
