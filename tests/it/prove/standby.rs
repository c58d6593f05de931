//! Two processes on one stream, and destinations that are somebody else's.

use std::time::{Duration, Instant};

use super::sides::Side;
use crate::support::pg;
use crate::support::program::Site;
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
