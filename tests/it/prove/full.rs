//! The journal's disk is full: capturing pauses and says so, nobody is given what the journal does not hold, nothing is lost,
//! and it goes on by itself when there is room.
//!
//! One source, two sinks behind one journal on a disk of 64 MiB. One sink keeps up; the other one is locked from outside, so
//! that retention makes no room. Room is made by letting that sink go on, or by removing something else from the disk.

use std::fs::DirBuilder;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::damage::{hold, let_go};
use super::fanout::resident;
use super::sides::{Side, until_same};
use crate::support::disk::SmallDisk;
use crate::support::pg;
use crate::support::program::{Running, Site, get};
use crate::support::scale::{figure, pick};
use crate::support::teleport::items;

const PATIENCE: Duration = Duration::from_secs(180);
const DISK_MIB: u32 = 64;
/// Rows of one transaction, each of 1 KiB that does not pack.
const ROWS: u64 = 256;
const WAITS: &str = "the journal waits, and reading with it";
const GOES_ON: &str = "the journal goes on";

/// How room is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// The sink goes on for which the journal kept what fills the disk.
    Sink,
    /// Something that is none of the journal's goes.
    Ballast,
}

/// What happens while the disk is full.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// kill -9, and a start.
    Crash,
    /// A clean stop, and a start.
    Stop,
}

#[test]
fn full_disk_of_a_journal_of_sqlite_that_acknowledges_for_its_sinks() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(50)));
    Case::new("full-s1", source, "sink", Room::Sink).prove(Meanwhile::Crash);
}

#[test]
fn full_disk_of_a_journal_of_sqlite_that_acknowledges_itself() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(50)));
    Case::new("full-s2", source, "journal", Room::Ballast).prove(Meanwhile::Stop);
}

#[test]
fn full_disk_of_a_journal_of_postgresql_that_acknowledges_for_its_sinks() {
    let source = Side::pg(pg::primary(), "full_sink", Some(&items(50)));
    Case::new("full-p1", source, "sink", Room::Ballast).prove(Meanwhile::Crash);
}

#[test]
fn full_disk_of_a_journal_of_postgresql_that_acknowledges_itself() {
    let source = Side::pg(pg::primary(), "full_journal", Some(&items(50)));
    Case::new("full-p2", source, "journal", Room::Sink).prove(Meanwhile::Nothing);
}

struct Case {
    name: &'static str,
    ack: &'static str,
    room: Room,
    disk: SmallDisk,
    site: Site,
    listen: SocketAddr,
    source: Side,
    sinks: [Side; 2],
    /// Rows that were written so far.
    rows: u64,
}

impl Case {
    fn new(name: &'static str, source: Side, ack: &'static str, room: Room) -> Self {
        let mut site = Site::new(name, "");
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sinks = ["front", "held"].map(|sink| Side::sqlite(&site.folder().join(sink), None));
        // What is old enough goes as soon as nobody needs it; where room is made otherwise, nothing is.
        let retain = if room == Room::Sink { "1s" } else { "1h" };
        let mut yaml = format!(
            "memory: 32MiB\nlisten: {listen}\njournal: {{ enabled: true, ack: {ack}, max_bytes: {DISK_MIB}MiB, retain: {retain}, snapshot_every: never }}\npipelines:\n"
        );
        for (sink, side) in ["front", "held"].iter().zip(&sinks) {
            // With a rollback journal nobody could look while a transaction is open whose rest the full disk holds up.
            let side = side.yaml().replace("type: sqlite,", "type: sqlite, journal: WAL,");
            yaml += &format!("  - {{ name: {name}-{sink}, src: {}, dst: {side} }}\n", source.yaml());
        }
        site.configure(&yaml);
        let folder: PathBuf = site.folder().join("state").join(format!("{name}-front")).join("journal");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
        let disk = SmallDisk::mount(&folder, DISK_MIB);
        site.start_within(disk.within());
        Self { name, ack, room, disk, site, listen, source, sinks, rows: 0 }
    }

    fn prove(mut self, meanwhile: Meanwhile) {
        // A small run fills what little is left; the full one the whole disk, unless room is to be made by something else. What
        // is written while the disk is full is one look at SQLite's log afterwards, and the journal holds a look as a whole.
        let ballast = if self.room == Room::Ballast { 40 } else { pick(32, 0) };
        self.put_ballast(ballast);
        let mut program = self.site.start("run", &[]);
        self.until_consistent();
        let idle = resident(&program);
        let mut held = Some(hold(&self.sinks[1]));
        self.fill_up();
        let paused = resident(&program);
        self.more(pick(4, 32));
        let from = self.is_said(0);
        self.nobody_gets_more();
        let later = resident(&program);
        let mut peak = program.peak_memory() >> 20;
        if meanwhile != Meanwhile::Nothing {
            if meanwhile == Meanwhile::Stop {
                // A clean stop waits for a sink that is locked.
                let_go(held.take());
            }
            program = self.again(program, meanwhile);
            peak = peak.max(program.peak_memory() >> 20);
        }
        let (program, took) = self.make_room(program, held, from);
        peak = peak.max(program.peak_memory() >> 20);
        until_same(&self.source, &self.sinks, PATIENCE);
        let log = self.log(0);
        assert!(!log.contains("gap"), "nothing was lost, so nothing is a gap:\n{log}");
        assert!(program.stop(PATIENCE).success());
        let how = if self.room == Room::Sink { "the sink behind goes on" } else { "something else is removed" };
        let (ack, mib) = (self.ack, self.rows >> 10);
        figure(
            "4.6",
            "full-disk",
            format!(
                "{}, ack: {ack}, {mib} MiB through a journal on {DISK_MIB} MiB: paused and said, nobody got more, went on {:.1} s \
                 after {how}, equal; resident {idle} MiB idle, {paused} and {later} MiB while it waited, {peak} MiB at most",
                if matches!(self.source, Side::Pg(_)) { "postgresql" } else { "sqlite" },
                took.as_secs_f64()
            ),
        );
        // Beside all the other tests it is first measured before everything that was on its way has come to rest.
        assert!(
            later <= paused + pick(16, 8),
            "resident memory went from {paused} to {later} MiB while nothing could be written"
        );
        // LIMIT: a build for tests takes more for the same.
        assert!(peak <= pick(224, 128), "resident memory was {peak} MiB, with memory: 32MiB");
    }

    fn until_consistent(&self) {
        let deadline = Instant::now() + PATIENCE;
        let all = || self.site.done("status", &[])["pipelines"].as_array().unwrap().clone();
        while !all().iter().all(|status| status["consistent"] == true) {
            assert!(Instant::now() < deadline, "not consistent\n{}", self.log(0));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn put_ballast(&self, mib: usize) {
        use std::io::Write as _;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create_new(true).write(true).mode(0o600).open(self.ballast()).unwrap();
        for _ in 0..mib {
            file.write_all(&[1; 1 << 20]).unwrap();
        }
    }

    fn ballast(&self) -> PathBuf {
        self.disk.path().join("ballast")
    }

    /// Commits one transaction of new rows.
    fn write(&mut self) {
        let (from, to) = (self.rows, self.rows + ROWS);
        self.rows = to;
        match &self.source {
            Side::Sqlite(db) => db.run(&format!(
                "begin immediate;
                 with recursive c(n) as (select {from} union all select n + 1 from c where n + 1 < {to})
                 insert into kv (key, modified, expires, value, revision)
                   select printf('/bulk/%07d', n), n, null, randomblob(1000), '' from c;
                 insert into events (type, created, kv_key, kv_modified, kv_expires, kv_value, kv_revision)
                   select '1', strftime('%Y-%m-%d %H:%M:%f+00:00','now'), key, modified, expires, value, revision from kv
                   where key >= printf('/bulk/%07d', {from}) and key < printf('/bulk/%07d', {to});
                 commit;"
            )),
            Side::Pg(db) => {
                let value: Vec<String> = (0..16).map(|piece| format!("sha512(('{piece}-' || n)::bytea)")).collect();
                db.run(&format!(
                    "insert into kv (key, value, expires, revision)
                     select ('/bulk/' || lpad(n::text, 7, '0'))::bytea, {}, null, gen_random_uuid()
                     from generate_series({from}, {to} - 1) n",
                    value.join(" || ")
                ));
            }
            #[cfg(feature = "etcd")]
            Side::Etcd(..) => panic!("not a side of this test"),
        }
    }

    fn more(&mut self, mib: u64) {
        for _ in 0..(mib << 10) / ROWS {
            self.write();
        }
    }

    /// What the program has said, without what it was asked.
    fn log(&self, from: usize) -> String {
        let log = self.site.log();
        log[from..].lines().filter(|line| !line.starts_with('{')).flat_map(|line| [line, "\n"]).collect()
    }

    fn unready(&self) -> Option<String> {
        get(self.listen, "/readyz").filter(|page| page.starts_with("HTTP/1.1 503"))
    }

    fn is_paused(&self) -> bool {
        self.unready().is_some_and(|page| page.contains("paused, no room"))
    }

    /// Writes until there is no room, as is said at once in the log, and within a second or two by both pipelines.
    fn fill_up(&mut self) {
        while !self.site.log().contains(WAITS) {
            assert!(self.rows >> 10 < 4 * u64::from(DISK_MIB), "the disk is never full\n{}", self.log(0));
            self.write();
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.is_paused() {
            assert!(Instant::now() < deadline, "not paused: {:?}\n{}", self.unready(), self.log(0));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// It is said once in the log, and in the status of each who follows; gives how long the log is.
    fn is_said(&self, from: usize) -> usize {
        let log = self.log(from);
        assert_eq!(log.matches(WAITS).count(), 1, "{log}");
        assert!(!log.contains(GOES_ON), "{log}");
        let status = self.site.done("status", &[]);
        // One is locked and may have something of its own to say.
        let front = &status["pipelines"][0];
        assert!(front["reason"].as_str().unwrap().contains("paused, no room"), "{status}");
        self.site.log().len()
    }

    fn front(&self) -> Value {
        self.site.status()
    }

    /// How many rows the sink has that keeps up.
    fn given(&self) -> u64 {
        let Side::Sqlite(db) = &self.sinks[0] else { unreachable!("sinks are SQLite") };
        db.query("select count(*) from kv where key >= '/bulk/' and key < '/bulk0'").parse().unwrap()
    }

    /// The sink that keeps up has what the journal holds, and gets nothing of what it does not.
    fn nobody_gets_more(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut given = self.given();
        loop {
            let heads = self.front()["heads"].as_u64().unwrap();
            while self.front()["heads"].as_u64().unwrap() < heads + 2 {
                assert!(Instant::now() < deadline, "the head is not asked for\n{}", self.log(0));
                std::thread::sleep(Duration::from_millis(50));
            }
            let now = self.given();
            if now == given {
                break;
            }
            given = now;
            assert!(Instant::now() < deadline, "it gets more and more\n{}", self.log(0));
        }
        assert!(
            given < self.rows,
            "{given} of {} rows are in the sink although the journal has no room for them",
            self.rows
        );
        self.write();
        assert!(self.is_paused(), "{:?}", self.unready());
        assert_eq!(self.given(), given, "a sink was given what the journal does not hold");
    }

    /// Ends the program while the disk is full, and starts it again: it finds itself where it was.
    fn again(&mut self, program: Running, meanwhile: Meanwhile) -> Running {
        let before = self.given();
        if meanwhile == Meanwhile::Crash {
            program.kill();
        } else {
            let status = program.stop(PATIENCE);
            assert!(status.success(), "a clean stop ends with {status}\n{}", self.log(0));
        }
        let from = self.site.log().len();
        let program = self.site.start("run", &[]);
        let deadline = Instant::now() + PATIENCE;
        while !self.is_paused() {
            assert!(Instant::now() < deadline, "not paused again: {:?}\n{}", self.unready(), self.log(0));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.log(from).matches(WAITS).count(), 1, "{}", self.log(from));
        assert!(self.given() >= before && self.given() < self.rows);
        program
    }

    /// Makes room, and waits until everybody is ready; gives how long that took.
    fn make_room(&self, program: Running, held: Option<Child>, from: usize) -> (Running, Duration) {
        let begun = Instant::now();
        let waiting = match self.room {
            Room::Sink => {
                let_go(held);
                None
            }
            Room::Ballast => {
                std::fs::remove_file(self.ballast()).unwrap();
                held
            }
        };
        let deadline = begun + PATIENCE;
        while !self.log(from).contains(GOES_ON) || self.is_paused() {
            assert!(Instant::now() < deadline, "it does not go on: {:?}\n{}", self.unready(), self.log(0));
            std::thread::sleep(Duration::from_millis(20));
        }
        let took = begun.elapsed();
        let_go(waiting);
        (program, took)
    }
}
