//! Two processes on one stream, and destinations that are somebody else's.

use std::time::{Duration, Instant};

use super::sides::Side;
use crate::support::pg;
use crate::support::program::{Running, Site};
use crate::support::scale::figure;
use crate::support::teleport::{assert_same, items, now_us};

const PATIENCE: Duration = Duration::from_secs(60);

fn yaml(source: &Side, sink: &Side) -> String {
    format!("name: shared\nsrc: {}\ndst: {}", source.yaml(), sink.yaml())
}

#[test]
fn a_second_process_stands_by_takes_over_within_fifteen_seconds_and_the_first_one_is_fenced() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(500)));
    let sink = Side::pg(pg::secondary(), "standby", None);
    let (first, second) = (Site::new("first", &yaml(&source, &sink)), Site::new("second", &yaml(&source, &sink)));
    let owner = first.start("run", &[]);
    first.until_caught_up(PATIENCE);
    let waiting = second.start("run", &[]);
    second.until("standing by", PATIENCE, |status| status["state"] == "standby");
    // The owner stands still without knowing: a machine that was suspended, or cut off.
    owner.freeze();
    let begun = Instant::now();
    second.until("taken over", PATIENCE, |status| status["consistent"] == true);
    let took = begun.elapsed();
    owner.thaw();
    let ended = owner.ended(PATIENCE);
    assert_eq!(ended.code(), Some(3), "{}", first.log());
    assert!(first.log().lines().last().unwrap().contains("driftless:"), "{}", first.log());
    let Side::Sqlite(database) = &source else { unreachable!("made above") };
    database.delete("/apps/foo");
    second.until_caught_up(PATIENCE);
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    assert!(waiting.stop(PATIENCE).success());
    figure(
        "3.9",
        "standby",
        format!("took over {:.1} s after the owner stood still; the owner ended with 3", took.as_secs_f64()),
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// A client that keeps a row of the sink locked until it is dropped.
struct RowLock(std::process::Child);

impl RowLock {
    fn take(sink: &Side, key: &str) -> Self {
        use std::io::{BufRead as _, BufReader, Write as _};
        let mut client = sink.client();
        let sql = format!("begin;\nselect 'locked' from kv where key = '{key}'::bytea for update;\n");
        client.stdin.as_mut().unwrap().write_all(sql.as_bytes()).unwrap();
        let answers = BufReader::new(client.stdout.take().unwrap());
        assert!(answers.lines().any(|line| line.unwrap().contains("locked")), "the row is there");
        Self(client)
    }
}

impl Drop for RowLock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// A stream from PostgreSQL or SQLite to PostgreSQL in the middle of one transaction of the source of 20 MB. Half of it is
/// staged; the other half waits for a row that somebody has locked.
struct Staging {
    source: Side,
    sink: Side,
    first: Site,
    second: Site,
    owner: Running,
    waiting: Running,
    lock: RowLock,
    epoch: u64,
    _folder: tempfile::TempDir,
}

impl Staging {
    fn begin(from_postgresql: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = match from_postgresql {
            true => Side::pg(pg::primary(), "staging", Some(&items(500))),
            false => Side::sqlite(&folder.path().join("src"), Some(&items(500))),
        };
        let sink = Side::pg(pg::secondary(), "staging", None);
        let yaml = format!("{}\nmemory: 16MiB", yaml(&source, &sink));
        let (first, second) = (Site::new("staging-first", &yaml), Site::new("staging-second", &yaml));
        let owner = first.start("run", &[]);
        first.until_caught_up(PATIENCE);
        let waiting = second.start("run", &[]);
        let status = second.until("standing by", PATIENCE, |status| status["state"] == "standby");
        assert_eq!(status["consistent"], false);
        let epoch = first.status()["epoch"].as_u64().unwrap();
        let lock = RowLock::take(&sink, "/apps/foo");
        let rows = items(500).len();
        source.put_much(20_000, "/apps/foo");
        let staging = Self { source, sink, first, second, owner, waiting, lock, epoch, _folder: folder };
        let deadline = Instant::now() + PATIENCE;
        let blocked =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while staging.ask(blocked) != "1" {
            assert!(Instant::now() < deadline, "the lane waits for the row; {}", staging.first.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let size: u64 = staging.ask("select pg_total_relation_size('kv')").parse().unwrap();
        assert!(size > 5 << 20, "half of it is staged: {size}");
        let seen: usize = staging.ask("select count(*) from kv").parse().unwrap();
        assert!(seen <= rows, "and nobody sees it: {seen}");
        staging
    }

    fn ask(&self, sql: &str) -> String {
        let Side::Pg(database) = &self.sink else { unreachable!("made above") };
        database.run(sql)
    }

    fn epoch_now(&self) -> u64 {
        self.ask("select max(epoch) from driftless.lane").parse().unwrap()
    }
}

#[test]
fn a_process_that_stages_one_transaction_for_longer_than_ten_seconds_is_not_taken_for_dead() {
    let mut staging = Staging::begin(true);
    let number = staging.ask("select sum(number) from driftless.lane");
    // The time after which a standby claims, and half of it again.
    let until = Instant::now() + Duration::from_secs(16);
    while Instant::now() < until {
        assert_eq!(staging.epoch_now(), staging.epoch, "taken over in mid-transaction: {}", staging.second.log());
        assert!(staging.owner.is_running(), "{}", staging.first.log());
        assert_eq!(staging.second.status()["state"], "standby");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(staging.ask("select sum(number) from driftless.lane"), number, "nothing was committed meanwhile");
    let Staging { source, sink, first, second, owner, waiting, lock, epoch, _folder } = staging;
    drop(lock);
    let status = first.until_caught_up(PATIENCE);
    assert_eq!(status["epoch"].as_u64(), Some(epoch));
    assert_eq!(second.status()["state"], "standby");
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    assert!(waiting.stop(PATIENCE).success());
    assert!(owner.stop(PATIENCE).success());
}

#[test]
fn a_process_that_is_stopped_while_it_stages_is_taken_over_within_fifteen_seconds() {
    let staging = Staging::begin(false);
    let beating = Instant::now() + PATIENCE;
    while staging.ask("select sum(beat) from driftless.beat") == "0" {
        assert!(Instant::now() < beating, "it shows that it is alive");
        std::thread::sleep(Duration::from_millis(50));
    }
    staging.owner.freeze();
    let begun = Instant::now();
    while staging.epoch_now() == staging.epoch {
        assert!(begun.elapsed() < PATIENCE, "{}", staging.second.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = begun.elapsed();
    let Staging { source, sink, first, second, owner, waiting, lock, .. } = staging;
    drop(lock);
    second.until_caught_up(PATIENCE);
    owner.thaw();
    let ended = owner.ended(PATIENCE);
    assert_eq!(ended.code(), Some(3), "{}", first.log());
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    assert!(waiting.stop(PATIENCE).success());
    figure("3", "standby while staging", format!("took over {:.1} s after the owner stood still", took.as_secs_f64()));
    // The last beat was up to two and a half seconds old.
    assert!(took > Duration::from_secs(7) && took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn a_second_process_of_the_same_machine_takes_over_at_once_when_the_first_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(500)));
    let sink = Side::sqlite(&folder.path().join("dst"), None);
    let site = Site::new("same-machine", &yaml(&source, &sink));
    let owner = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    let waiting = site.start("run", &[]);
    let deadline = Instant::now() + PATIENCE;
    while !site.log().contains("standing by") {
        assert!(Instant::now() < deadline, "{}", site.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let epoch = site.status()["epoch"].as_u64();
    let begun = Instant::now();
    owner.kill();
    site.until("taken over", Duration::from_secs(15), |status| {
        status["consistent"] == true && status["epoch"].as_u64() > epoch
    });
    let took = begun.elapsed().as_secs_f64();
    figure("3.9", "standby", format!("on the same machine: consistent {took:.1} s after the owner was killed"));
    assert!(waiting.stop(PATIENCE).success());
}

#[test]
fn a_destination_with_somebody_elses_data_is_refused_without_force_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(50)));
    for sink in [
        Side::sqlite(&folder.path().join("dst"), Some(&items(30))),
        Side::pg(pg::secondary(), "foreign", Some(&items(30))),
    ] {
        let before = sink.dump(now_us());
        for verb in ["clone", "run"] {
            let site = Site::new("foreign", &yaml(&source, &sink));
            let finished = site.run(verb, &[]);
            assert_eq!(finished.code, Some(2), "{}", finished.stderr);
            let last = finished.stderr.lines().last().unwrap();
            assert!(last.contains("already holds") && last.contains("force: true"), "{last}");
        }
        assert_same(&before, &sink.dump(now_us()));
        if let Side::Pg(database) = &sink {
            assert_eq!(database.run("select count(*) from pg_namespace where nspname = 'driftless'"), "0");
        }
        // With force it is written over; what only the destination has stays until `prune`.
        let site = Site::new("foreign", &format!("{}\nforce: true\nprune: true", yaml(&source, &sink)));
        site.done("clone", &[]);
        assert_same(&source.dump(now_us()), &sink.dump(now_us()));
        // Another stream finds the same place taken.
        let other = Site::new("other", &yaml(&source, &sink).replace("name: shared", "name: other"));
        let finished = other.run("clone", &[]);
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    }
    figure(
        "3.9",
        "standby",
        "SQLite and PostgreSQL with somebody else's data: refused and untouched, equal with force",
    );
}

#[test]
fn verify_finds_what_differs_and_repairs_it_beside_a_running_process_and_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(300)));
    let sink = Side::pg(pg::secondary(), "repair", None);
    let Side::Pg(database) = &sink else { unreachable!("made above") };
    let site = Site::new("repair", &yaml(&source, &sink));
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    let damage = || {
        database.run("delete from kv where key = '/apps/foo'::bytea");
        database.run("update kv set value = 'planted-damage' where key = '/apps/foo-bar'::bytea");
        database.run("insert into kv values ('/extra/key', 'planted-extra', null, gen_random_uuid())");
        let finished = site.run("verify", &["--json"]);
        assert_eq!(finished.code, Some(4), "{}", finished.stderr);
        let verdict = finished.json();
        let found = [&verdict["missing"], &verdict["different"], &verdict["extra"]].map(|n| n.as_u64().unwrap());
        assert_eq!(found, [1, 1, 1], "{verdict}");
        assert!(!finished.stdout.contains("planted"), "{}", finished.stdout);
    };
    damage();
    let verdict = site.done("verify", &["--repair"]);
    assert_eq!((&verdict["equal"], verdict["repaired"].as_u64()), (&true.into(), Some(3)), "{verdict}");
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    assert!(program.stop(PATIENCE).success());
    damage();
    let verdict = site.done("verify", &["--repair"]);
    assert_eq!((&verdict["equal"], verdict["repaired"].as_u64()), (&true.into(), Some(3)), "{verdict}");
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    figure("3.9", "standby", "verify found and repaired each kind of difference, beside a running process and alone");
}
