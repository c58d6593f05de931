//! `restore`: the state at an instant, out of a journal, compared with what the source's own tools said at that instant.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::pg;
use crate::support::program::{Running, Site};
use crate::support::scale::{PLANTED, pick};
use crate::support::teleport::{Item, PgDb, SqliteDb, assert_same, items, now_us, uuid};

pub const PATIENCE: Duration = Duration::from_secs(120);

/// A backend of either kind.
pub enum Db {
    Sqlite(SqliteDb),
    Pg(PgDb),
}

impl Db {
    pub fn yaml(&self) -> String {
        match self {
            Self::Sqlite(db) => db.yaml(),
            Self::Pg(db) => format!("{{ type: postgresql, conn_string: {:?} }}", db.url()),
        }
    }

    /// The same source for whoever may ask it nothing: a place where nothing is.
    fn gone(&self) -> String {
        match self {
            Self::Sqlite(_) => "{ type: sqlite, path: /nowhere/at/all }".to_owned(),
            Self::Pg(_) => "{ type: postgresql, conn_string: \"postgresql://nobody@127.0.0.1:1/none\" }".to_owned(),
        }
    }

    pub fn dump(&self, now_us: i128) -> Vec<String> {
        match self {
            Self::Sqlite(db) => db.dump(now_us),
            Self::Pg(db) => db.dump(now_us),
        }
    }

    pub fn put(&self, item: &Item) {
        match self {
            Self::Sqlite(db) => db.put(item),
            Self::Pg(db) => db.put(item),
        }
    }

    pub fn delete(&self, key: &str) {
        match self {
            Self::Sqlite(db) => db.delete(key),
            Self::Pg(db) => db.delete(key),
        }
    }

    /// Hot keys, new ones, and deletes; gives how many changes that were.
    pub fn write(&self, round: u64) -> u64 {
        for n in round * 6..round * 6 + 6 {
            let key = match n % 3 {
                0 => format!("/apps/{PLANTED}{:07}", n % 12),
                1 => format!("/apps/{PLANTED}{n:07}-new"),
                _ => format!("/tokens/{PLANTED}{:07}", n % 30),
            };
            let value = Some(format!("planted-{n}").into_bytes());
            self.put(&Item { key, value, expires: None, revision: uuid(n) });
        }
        let Some(last) = round.checked_sub(1) else { return 6 };
        self.delete(&format!("/apps/{PLANTED}{:07}-new", last * 6 + 1));
        7
    }

    /// Rolls back what a killed process had not committed; who only reads may not.
    pub fn recover(&self) {
        if let Self::Sqlite(db) = self {
            db.run("select count(*) from sqlite_schema;");
        }
    }

    /// What our own bookkeeping left there.
    pub fn residue(&self) -> String {
        match self {
            Self::Sqlite(db) => db.query("select group_concat(name) from sqlite_schema where name like 'driftless%'"),
            Self::Pg(db) => db.run("select nspname from pg_namespace where nspname = 'driftless'"),
        }
    }
}

/// What a source held at an instant.
pub struct Moment {
    pub at: String,
    pub lines: Vec<String>,
}

/// A source and the journal of its changes, which nobody writes any more; the source cannot be reached either.
pub struct Past {
    pub site: Site,
    pub source: Db,
    pub moments: Vec<Moment>,
    folder: tempfile::TempDir,
    gone: String,
}

pub fn rfc3339(now_us: i128) -> String {
    jiff::Timestamp::from_microsecond(i64::try_from(now_us).unwrap()).unwrap().to_string()
}

pub fn until(what: &str, site: &Site, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}\n{}", site.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn snapshots(site: &Site) -> Vec<Value> {
    site.done("journal ls", &[])["snapshots"].as_array().unwrap().clone()
}

impl Past {
    /// Copies a source while it is written to, and remembers what it held in between.
    pub fn made(name: &str, source: Db, count: u64, work: impl Fn(&Db, u64) -> u64) -> Self {
        Self::made_by("run", name, source, count, work)
    }

    /// The same by `run` or `capture`.
    pub fn made_by(verb: &str, name: &str, source: Db, count: u64, work: impl Fn(&Db, u64) -> u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::new(name, "");
        let sink = SqliteDb::at(folder.path().join("live"));
        let dst = Db::Sqlite(SqliteDb::at(&sink.folder)).yaml();
        let journal = "{ enabled: true, snapshot_every: 2s }";
        site.configure(&format!("name: s\nsrc: {}\ndst: {dst}\njournal: {journal}\n", source.yaml()));
        let program = site.start(verb, &[]);
        let journal = site.folder().join("state/s/journal");
        until("there is a snapshot", &site, || journal.is_dir() && !snapshots(&site).is_empty());
        let mut moments = Vec::new();
        let mut changes = shown(&site);
        for round in 0..count {
            changes += work(&source, round);
            // A look at SQLite's log is one transaction, so that one must end here.
            until("the changes are captured", &site, || shown(&site) >= changes);
            moments.push(Moment { lines: source.dump(now_us()), at: rfc3339(now_us()) });
        }
        changes += work(&source, count);
        until("the last changes are captured", &site, || shown(&site) >= changes);
        if verb == "run" {
            site.until_caught_up(PATIENCE);
        }
        assert!(program.stop(PATIENCE).success());
        let gone = source.gone();
        let past = Self { site, source, moments, folder, gone };
        if let Db::Pg(_) = past.source {
            past.site.done("drop-slot", &[]);
        }
        past
    }

    /// A destination that is not there yet.
    pub fn empty(&self, name: &str) -> Db {
        Db::Sqlite(SqliteDb::at(self.folder.path().join(name)))
    }

    /// Aims at a destination; more keys may follow.
    pub fn aim(&self, dst: &Db, rest: &str) {
        self.aim_at(&dst.yaml(), rest);
    }

    /// The same at a value of `dst:`.
    pub fn aim_at(&self, dst: &str, rest: &str) {
        let journal = "{ enabled: true, snapshot_every: 2s }";
        let yaml = format!("name: s\nsrc: {}\ndst: {dst}\njournal: {journal}\n{rest}\n", self.gone);
        self.site.configure(&yaml);
    }

    /// What must hold of a destination that has the state of a moment.
    pub fn assert_is(&self, dst: &Db, moment: &Moment) {
        assert_same(&moment.lines, &dst.dump(now_us()));
        assert_eq!(dst.residue(), "", "nothing reminds of it");
    }
}

/// Changes that the journal shows.
pub fn shown(site: &Site) -> u64 {
    site.done("journal verify", &[])["changes"].as_u64().unwrap()
}

fn every_instant(past: &Past, to_pg: bool) {
    for (number, moment) in past.moments.iter().enumerate() {
        let dst = match to_pg && number % 2 == 0 {
            true => Db::Pg(PgDb::empty(pg::secondary(), "restored")),
            false => past.empty(&format!("restored-{number}")),
        };
        past.aim(&dst, "");
        let done = past.site.done("restore", &["--at", &moment.at]);
        assert_eq!((done["event"].as_str(), done["at"].as_str()), (Some("done"), Some(moment.at.as_str())), "{done}");
        assert_eq!(done["later"], true, "{done}");
        assert!(done["items"].as_u64() > Some(0), "{done}");
        past.assert_is(&dst, moment);
    }
}

#[test]
fn every_instant_of_a_sqlite_source_can_be_restored_and_the_source_is_asked_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = Db::Sqlite(SqliteDb::create(folder.path().join("src"), &items(200)));
    let past = Past::made("restore-sqlite", source, 8, Db::write);
    every_instant(&past, false);
    assert!(snapshots(&past.site).len() > 1, "some instants have a snapshot behind them that does not serve");
}

#[test]
fn every_instant_of_a_postgresql_source_can_be_restored_in_either_kind() {
    let source = Db::Pg(PgDb::create(pg::primary(), "restore", &items(200)));
    every_instant(&Past::made("restore-pg", source, 6, Db::write), true);
}

#[test]
fn what_cannot_be_restored_is_refused_and_says_what_can() {
    let folder = tempfile::tempdir().unwrap();
    let source = Db::Sqlite(SqliteDb::create(folder.path().join("src"), &items(30)));
    let before = rfc3339(now_us());
    let past = Past::made("restore-refused", source, 2, Db::write);
    let dst = past.empty("dst");
    past.aim(&dst, "");
    let refused = |options: &[&str], says: &[&str]| {
        let finished = past.site.run("restore", options);
        assert_eq!(finished.code, Some(2), "{options:?}: {}", finished.stderr);
        for words in says {
            assert!(finished.stderr.contains(words), "{options:?}: {}", finished.stderr);
        }
        assert!(!folder.path().join("dst").exists());
    };
    let oldest = snapshots(&past.site)[0]["ended"].as_str().unwrap().to_owned();
    refused(&["--at", &before], &["can restore the instants from", &oldest]);
    refused(&["--at", "2999-01-01T00:00:00Z"], &["still to come"]);
    refused(&["--at", "yesterday"], &["neither a time"]);

    // A destination that holds something is not written over, unless somebody insists.
    let at = &past.moments[0];
    past.site.done("restore", &["--at", &at.at]);
    past.assert_is(&dst, at);
    dst.put(&Item { key: "/apps/somebody-else".into(), ..items(1)[0].clone() });
    let held = dst.dump(now_us());
    let finished = past.site.run("restore", &["--at", &at.at]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert_same(&held, &dst.dump(now_us()));
    let readers = past.site.done("journal ls", &[])["readers"].clone();
    assert_eq!(readers.as_array().unwrap().len(), 1, "nothing is kept for what was refused: {readers}");
    past.site.done("restore", &["--at", &past.moments[1].at, "--force"]);
    let now = dst.dump(now_us());
    assert!(past.moments[1].lines.iter().all(|line| now.contains(line)));
    assert_eq!(dst.residue(), "");
}

#[test]
fn a_restore_that_was_killed_goes_on_to_the_very_same_instant_and_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let source = Db::Sqlite(SqliteDb::create(folder.path().join("src"), &items(pick(20_000, 100_000))));
    let past = Past::made("restore-killed", source, 2, Db::write);
    let (first, second) = (&past.moments[0], &past.moments[1]);
    let mut number = 0;
    let dst = loop {
        number += 1;
        assert!(number < 30, "it is never killed on its way\n{}", past.site.log());
        let dst = past.empty(&format!("dst-{number}"));
        past.aim(&dst, "");
        let program: Running = past.site.start("restore", &["--at", &first.at]);
        let Db::Sqlite(db) = &dst else { unreachable!() };
        let sql = "select count(*) from sqlite_schema where name = 'driftless_lane'";
        until("it writes", &past.site, || {
            db.file().exists() && db.query(sql) == "1" && db.query("select count(*) from kv") != "0"
        });
        program.kill();
        dst.recover();
        if dst.residue() != "" {
            break dst;
        }
    };
    let refused = past.site.run("restore", &["--at", &second.at]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("restore --at {}", first.at)), "{}", refused.stderr);
    past.site.done("restore", &["--at", &first.at]);
    past.assert_is(&dst, first);
    assert_eq!(past.site.done("journal ls", &[])["readers"].as_array().unwrap().len(), 1, "only the one that follows");
}

/// Everything in the tables of a raw database, as the server prints it.
fn raw(db: &PgDb) -> String {
    db.run(
        "select 'account ' || a::text from accounts a union all select 'pair ' || p::text from pairs p \
         union all select 'none ' || n::text from none n \
         union all select 'counted ' || c::text from counted c order by 1",
    )
}

#[test]
fn any_tables_can_be_restored_and_replayed_with_values_that_changes_do_not_bring() {
    let source = PgDb::empty(pg::primary(), "raw_past");
    source.run(
        "create table accounts (id bigint primary key, name text not null, large text, at timestamptz default now());
         alter table accounts alter column large set storage external;
         create table pairs (a int, b text, c numeric, primary key (a, b));
         create table none (id uuid primary key);
         create table counted (id bigserial primary key, n int);
         insert into accounts select n, 'name ' || n, repeat(md5(n::text), 400) from generate_series(1, 60) n;
         insert into pairs select n, 'b' || n, n / 7.0 from generate_series(1, 40) n;",
    );
    let site = Site::new("restore-raw", "");
    let yaml = |src: &str, dst: &str| {
        let side = |url: &str, rest: &str| format!("{{ type: postgresql, conn_string: {url:?}, layout: raw{rest} }}");
        let (src, dst) = (side(src, ", tables: [\"public.*\"]"), side(dst, ""));
        format!("name: r\nsrc: {src}\ndst: {dst}\njournal: {{ enabled: true, snapshot_every: 1s }}\n")
    };
    site.configure(&yaml(&source.url(), "postgresql://nobody@127.0.0.1:1/none"));
    let capture = site.start("capture", &[]);
    let journal = site.folder().join("state/r/journal");
    until("there is a snapshot", &site, || journal.is_dir() && !snapshots(&site).is_empty());
    let mut moments = Vec::new();
    for round in 0..6 {
        // The large value of an account stays, and is in no change; keys of pairs move.
        source.run(&format!(
            "begin; update accounts set name = name || '.' where id % 5 = {m}; delete from accounts where id = {id}; commit;
             insert into accounts (id, name, large) values ({new}, 'new', repeat('x', 9000));
             update pairs set b = b || 'm' where a % 6 = {round}; delete from pairs where a = {id};
             update accounts set large = repeat(md5('{round}'), 300) where id = {large};
             insert into counted (n) select {round} from generate_series(1, 3);",
            m = round % 5,
            id = 10 + round,
            new = 100 + round,
            large = 30 + round
        ));
        moments.push(Moment { lines: vec![raw(&source)], at: rfc3339(now_us()) });
        let taken = snapshots(&site).len();
        until("there is another snapshot", &site, || round % 2 == 0 || snapshots(&site).len() > taken);
    }
    source.run("delete from pairs");
    until("the end is captured", &site, || {
        shown(&site) > 0
            && {
                let at = source.run("select pg_current_wal_lsn()");
                let sql = format!(
                    "select bool_and(confirmed_flush_lsn >= '{at}') from pg_replication_slots where database = current_database()"
                );
                source.run(&sql) == "t"
            }
    });
    assert!(capture.stop(PATIENCE).success());
    site.done("drop-slot", &[]);
    let mut first = None;
    for moment in &moments {
        let dst = PgDb::empty(pg::secondary(), "raw_restored");
        site.configure(&yaml("postgresql://nobody@127.0.0.1:1/none", &dst.url()));
        let done = site.done("restore", &["--at", &moment.at]);
        assert_eq!(raw(&dst), moment.lines[0], "at {}: {done}", moment.at);
        assert_eq!(dst.run("select count(*) from pg_indexes where schemaname = 'public'"), "4", "keys are built");
        assert_eq!(Db::Pg(PgDb { server: dst.server, name: dst.name.clone() }).residue(), "");
        first.get_or_insert(dst);
    }
    let dst = first.unwrap();
    site.configure(&yaml("postgresql://nobody@127.0.0.1:1/none", &dst.url()));
    for (from, until) in [(0, 3), (3, 5)] {
        let done = site.done("replay", &["--from", &moments[from].at, "--until", &moments[until].at]);
        assert_eq!(raw(&dst), moments[until].lines[0], "{done}");
    }
}

#[test]
fn a_bit_that_flipped_in_the_journal_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let source = Db::Sqlite(SqliteDb::create(folder.path().join("src"), &items(100)));
    let past = Past::made("restore-damaged", source, 3, Db::write);
    let segments = past.site.done("journal ls", &[])["segments"].clone();
    let file = segments[0]["file"].as_str().unwrap();
    let path = past.site.folder().join("state/s/journal").join(file);
    let sound = std::fs::read(&path).unwrap();
    let at = past.moments[2].at.as_str();
    let mut refused = 0;
    for place in (0..sound.len()).step_by(sound.len() / 12) {
        let mut damaged = sound.clone();
        damaged[place] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        let dst = past.empty(&format!("dst-{place}"));
        past.aim(&dst, "");
        let finished = past.site.run("restore", &["--at", at]);
        let Db::Sqlite(db) = &dst else { unreachable!() };
        if finished.code == Some(0) {
            // What is not needed for this instant is not read.
            past.assert_is(&dst, &past.moments[2]);
            continue;
        }
        assert_eq!(finished.code, Some(1), "byte {place}: {}", finished.stderr);
        assert!(finished.stderr.contains(file.trim_start_matches('0')), "byte {place}: {}", finished.stderr);
        assert!(!db.folder.exists(), "byte {place}");
        refused += 1;
    }
    assert!(refused > 0);
    std::fs::write(&path, &sound).unwrap();
    let dst = past.empty("sound");
    past.aim(&dst, "");
    past.site.done("restore", &["--at", at]);
    past.assert_is(&dst, &past.moments[2]);
}
