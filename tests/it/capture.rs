//! `capture`: a source is read into its journal, and a sink that was away goes on from there.

use std::time::{Duration, Instant};

use crate::support::pg;
use crate::support::program::Site;
use crate::support::teleport::{Item, PgDb, SqliteDb, assert_same, items, now_us};

const PATIENCE: Duration = Duration::from_secs(60);

/// What `status` says of the first pipeline's gaps.
fn gaps(site: &Site) -> u64 {
    site.status()["gaps"].as_u64().unwrap()
}

fn until(what: &str, site: &Site, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}\n{}", site.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn item(key: &str, value: &str) -> Item {
    Item { key: key.into(), value: Some(value.as_bytes().to_vec()), ..items(1)[0].clone() }
}

#[test]
fn what_was_captured_reaches_a_sink_that_was_away_although_the_source_has_forgotten_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = SqliteDb::create(folder.path().join("src"), &items(300));
    let sink = SqliteDb::at(folder.path().join("dst"));
    let yaml = format!(
        "name: away\nsrc: {{ type: sqlite, path: {:?} }}\ndst: {{ type: sqlite, path: {:?} }}\njournal: {{ snapshot_every: never }}\n",
        source.folder, sink.folder
    );
    let site = Site::new("capture", &yaml);
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    assert!(program.stop(PATIENCE).success());

    let capture = site.start("capture", &[]);
    until("capturing begins", &site, || site.log().contains("capturing into the journal"));
    for n in 0..200 {
        source.put(&item(&format!("/apps/captured-{}", n % 50), &format!("planted-{n}")));
    }
    source.delete("/apps/captured-7");
    until("the journal has it", &site, || {
        let shown = site.run("journal show", &["--json"]).stdout;
        shown.lines().filter(|line| line.contains("\"op\"")).count() == 201
    });
    assert!(capture.stop(PATIENCE).success());
    // Teleport trims its log; what is left does not reach back to where the sink stands.
    source.run("delete from events where id < (select max(id) from events)");

    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    assert_eq!(gaps(&site), 0, "{}", site.log());
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    assert!(program.stop(PATIENCE).success());
}

#[test]
fn a_capture_releases_the_source_goes_on_after_a_kill_and_excludes_a_second_one() {
    let source = PgDb::create(pg::primary(), "capture", &items(50));
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "name: captured\nsrc: {{ type: postgresql, conn_string: {:?} }}\ndst: {{ type: sqlite, path: {:?} }}\n",
        source.url(),
        folder.path().join("dst")
    );
    let site = Site::new("capture-pg", &yaml);
    let confirmed = |at: &str| {
        let sql = format!(
            "select coalesce(bool_and(confirmed_flush_lsn >= '{at}'), false) from pg_replication_slots where database = current_database()"
        );
        source.run(&sql) == "t"
    };
    let capture = site.start("capture", &[]);
    until("the slot is made", &site, || {
        source.run("select count(*) from pg_replication_slots where database = current_database()") == "1"
    });
    source.put(&item("/apps/one", "planted-one"));
    let at = source.run("select pg_current_wal_lsn()");
    until("the source may forget it", &site, || confirmed(&at));
    let second = site.run("capture", &[]);
    assert_eq!(second.code, Some(2), "{}", second.stderr);
    assert!(second.stderr.contains("another process"), "{}", second.stderr);
    capture.kill();
    source.put(&item("/apps/two", "planted-two"));
    let at = source.run("select pg_current_wal_lsn()");
    let capture = site.start("capture", &[]);
    until("the source may forget that, too", &site, || confirmed(&at));
    assert!(capture.stop(PATIENCE).success());
    assert!(!folder.path().join("dst").exists(), "no destination is touched");
    site.done("drop-slot", &[]);
}

#[test]
fn a_capture_without_a_journal_is_refused() {
    let site = Site::new(
        "capture-off",
        "src: { type: sqlite, path: /nowhere }\ndst: { type: sqlite, path: /elsewhere }\njournal: { enabled: false }\n",
    );
    let refused = site.run("capture", &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("enabled: false"), "{}", refused.stderr);
}
