//! `replay`: a piece of the past into a destination, against what the source's own tools said at its end.

use std::time::Duration;

use serde_json::Value;

use crate::restore::{Db, Past, until};
use crate::support::pg;
use crate::support::scale::PLANTED;
use crate::support::teleport::{Item, PgDb, SqliteDb, items, now_us, uuid};

/// A destination that has the state of a moment.
fn restored(past: &Past, name: &str, moment: usize) -> Db {
    let dst = past.empty(name);
    past.aim(&dst, "");
    past.site.done("restore", &["--at", &past.moments[moment].at]);
    dst
}

fn from_place_to_place(past: &Past) {
    let at = |moment: usize| past.moments[moment].at.as_str();
    // Restored from the same cluster, so it holds its authorities, and nobody remembers from where.
    let dst = restored(past, "times", 0);
    let refused = past.site.run("replay", &["--from", at(0), "--until", at(2)]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("authorities") && refused.stderr.contains("--force"), "{}", refused.stderr);
    past.assert_is(&dst, &past.moments[0]);

    let done = past.site.done("replay", &["--from", at(0), "--until", at(2), "--force"]);
    past.assert_is(&dst, &past.moments[2]);
    assert!(done["changes"].as_u64() > Some(0), "{done}");
    for (time, low, high) in [("first", at(0), at(1)), ("last", at(1), at(2))] {
        let time = done[time].as_str().unwrap();
        assert!((low..=high).contains(&time), "{low} {time} {high}");
    }
    // By position, and with no end: to where the journal ends.
    let behind = done["until"].as_str().unwrap();
    past.site.done("replay", &["--from", behind, "--until", at(3), "--force"]);
    past.assert_is(&dst, &past.moments[3]);
    past.site.done("replay", &["--from", at(3), "--force"]);
    let now = now_us();
    assert_eq!(past.source.dump(now), dst.dump(now));

    // Nothing is left of the first one, so another goes the same way again.
    let dst = restored(past, "again", 0);
    for _ in 0..2 {
        let again = past.site.done("replay", &["--from", at(0), "--until", at(2), "--force"]);
        assert_eq!(again["changes"], done["changes"]);
        past.assert_is(&dst, &past.moments[2]);
    }
    let backwards = past.site.run("replay", &["--from", at(2), "--until", at(0), "--force"]);
    assert_eq!(backwards.code, Some(2), "{}", backwards.stderr);
    assert!(backwards.stderr.contains("before"), "{}", backwards.stderr);
}

#[test]
fn the_past_of_sqlite_is_replayed_between_times_and_positions() {
    let folder = tempfile::tempdir().unwrap();
    let source = Db::Sqlite(SqliteDb::create(folder.path().join("src"), &items(100)));
    from_place_to_place(&Past::made("replay-sqlite", source, 4, Db::write));
}

#[test]
fn the_past_of_postgresql_is_replayed_between_times_and_positions() {
    let source = Db::Pg(PgDb::create(pg::primary(), "replay", &items(100)));
    from_place_to_place(&Past::made("replay-pg", source, 4, Db::write));
}

#[test]
fn a_dry_run_counts_what_would_come_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = Db::Sqlite(SqliteDb::create(folder.path().join("src"), &items(30)));
    let past = Past::made("replay-dry", source, 3, Db::write);
    let dst = past.empty("dst");
    past.aim(&dst, "exclude: [\"/tokens/\"]");
    let (from, until) = (past.moments[0].at.as_str(), past.moments[1].at.as_str());
    let told = past.site.done("replay", &["--from", from, "--until", until, "--dry-run"]);
    let Db::Sqlite(db) = &dst else { unreachable!() };
    assert!(!db.folder.exists());
    assert_eq!((told["event"].as_str(), told["changes"].as_u64()), (Some("dry_run"), Some(7)), "{told}");
    // Of six puts two are of tokens; one delete.
    assert_eq!(
        told["sorts"],
        serde_json::json!([{ "what": "/apps/", "puts": 4, "patches": 0, "deletes": 1, "clears": 0 }]),
        "{told}"
    );
    let shown = past.site.run("replay", &["--from", from, "--until", until, "--dry-run"]).stdout;
    assert!(shown.contains("/apps/") && !shown.contains(PLANTED), "{shown}");
    assert!(!db.folder.exists());
}

#[test]
fn a_replay_goes_by_as_fast_as_it_is_told_and_one_that_was_killed_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let source = Db::Sqlite(SqliteDb::create(folder.path().join("src"), &items(30)));
    let past = Past::made("replay-speed", source, 5, |db, round| {
        std::thread::sleep(Duration::from_millis(700));
        db.write(round)
    });
    let at = |moment: usize| past.moments[moment].at.as_str();
    let dst = restored(&past, "dst", 0);
    let range = ["--from", at(0), "--until", at(4), "--force"];
    let span = |done: &Value| {
        let time = |name: &str| done[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        (time("last") - time("first")).total(jiff::Unit::Second).unwrap()
    };
    let fast = past.site.done("replay", &[&range[..], &["--speed", "10x"]].concat());
    assert!(span(&fast) > 2.0, "{fast}");
    assert!(fast["seconds"].as_f64().unwrap() >= span(&fast) / 10.0, "{fast}");
    past.assert_is(&dst, &past.moments[4]);

    let dst = restored(&past, "killed", 0);
    let before = dst.dump(now_us());
    let program = past.site.start("replay", &[&range[..], &["--speed", "1x"]].concat());
    until("something of it is there", &past.site, || dst.dump(now_us()) != before);
    program.kill();
    dst.recover();
    assert_ne!(dst.residue(), "", "it was killed on its way");
    let refused = past.site.run("replay", &["--from", at(0), "--until", at(3)]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("is not finished"), "{}", refused.stderr);
    let filters = past.site.run("replay", &range[..4]);
    assert_eq!(filters.code, Some(0), "one that goes on was admitted before: {}", filters.stderr);
    past.assert_is(&dst, &past.moments[4]);

    // One that is given up for another.
    let dst = restored(&past, "given-up", 0);
    let program = past.site.start("replay", &[&range[..], &["--speed", "1x"]].concat());
    until("something of it is there", &past.site, || dst.dump(now_us()) == past.moments[1].lines);
    program.kill();
    dst.recover();
    let other = ["--from", at(1), "--until", at(3)];
    assert_eq!(past.site.run("replay", &other).code, Some(2));
    past.site.done("replay", &[&other[..], &["--force"]].concat());
    past.assert_is(&dst, &past.moments[3]);
    past.site.done("replay", &["--from", at(3), "--until", at(4), "--force"]);
    past.assert_is(&dst, &past.moments[4]);
    let readers = past.site.done("journal ls", &[])["readers"].clone();
    assert_eq!(readers.as_array().unwrap().len(), 1, "only the one that follows: {readers}");

    let dst = restored(&past, "slow", 0);
    let slow = past.site.done("replay", &[&range[..], &["--speed", "1x"]].concat());
    assert!(slow["seconds"].as_f64().unwrap() >= span(&slow), "{slow}");
    past.assert_is(&dst, &past.moments[4]);
}

/// A value that the server keeps apart from its row, so that a change of something else does not bring it.
fn large(n: u64) -> Vec<u8> {
    (0..400).flat_map(|part| uuid(n * 1000 + part).into_bytes()).collect()
}

#[test]
fn a_change_that_says_less_than_its_row_needs_the_state_before_it() {
    let source = PgDb::create(pg::primary(), "replay_toast", &items(30));
    source.run("alter table kv replica identity default");
    source.run("alter table kv alter column value set storage external");
    let key = |n: u64| format!("/apps/{PLANTED}large-{n}");
    for n in 0..4 {
        source.put(&Item { key: key(n), value: Some(large(n)), expires: None, revision: uuid(n) });
    }
    let past = Past::made_by("capture", "replay-toast", Db::Pg(source), 3, |db, round| {
        let Db::Pg(pg) = db else { unreachable!() };
        let hex: String = key(round).bytes().map(|byte| format!("{byte:02x}")).collect();
        pg.run(&format!("update kv set revision = '{}' where key = '\\x{hex}'", uuid(900 + round)));
        1
    });
    let at = |moment: usize| past.moments[moment].at.as_str();
    let told = past.site.done("replay", &["--from", at(0), "--until", at(2), "--dry-run"]);
    assert_eq!(told["sorts"][0]["patches"], 2, "{told}");
    let pg = Db::Pg(PgDb::empty(pg::secondary(), "replay_toast"));
    past.aim(&pg, "");
    let stopped = past.site.run("replay", &["--from", at(0), "--until", at(2)]);
    assert_eq!(stopped.code, Some(1), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("restore --at"), "{}", stopped.stderr);

    let pg = Db::Pg(PgDb::empty(pg::secondary(), "replay_toast"));
    past.aim(&pg, "");
    past.site.done("restore", &["--at", at(0)]);
    past.assert_is(&pg, &past.moments[0]);
    past.site.done("replay", &["--from", at(0), "--until", at(2), "--force"]);
    past.assert_is(&pg, &past.moments[2]);
}

#[test]
fn a_destination_that_follows_its_source_is_not_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let source = SqliteDb::create(folder.path().join("src"), &items(30));
    let past = Past::made("replay-live", Db::Sqlite(source), 2, Db::write);
    let dst = past.empty("live");
    past.aim(&dst, "");
    let now = now_us();
    assert_eq!(dst.dump(now), past.source.dump(now), "the copy that was run beside it");
    let refused = past.site.run("replay", &["--from", &past.moments[0].at, "--until", &past.moments[1].at]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("follows its source"), "{}", refused.stderr);
    assert_eq!(dst.dump(now), past.source.dump(now));
}
