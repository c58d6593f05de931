//! The past of a cluster, out of its journal: captured while its sink is away, restored at an instant, the cluster gone.

use std::time::Duration;

use crate::restore::{rfc3339, shown, snapshots, until};
use crate::support::etcd::{Etcd, Release, Setup};
use crate::support::etcddb::{EtcdDb, Lines, assert_near, lines};
use crate::support::program::Site;
use crate::support::teleport::{SqliteDb, items, now_us};

const PATIENCE: Duration = Duration::from_secs(120);

fn own(name: &str) -> &'static Etcd {
    Box::leak(Box::new(Etcd::start(name, Release::New, &Setup::default())))
}

/// Seven changes; the last removes what the round before has put.
fn change(db: &EtcdDb, round: usize, lease: &str) -> u64 {
    db.put(&format!("/apps/new-{round}"), format!("planted-{round}").as_bytes());
    db.put("/hot/key", format!("planted-{round}").as_bytes());
    let value = || Some(crate::support::etcd::base64(format!("planted-{round}").as_bytes()).into_bytes());
    let leased: Vec<_> = (0..4).map(|n| (db.stored(&format!("/leased/{n}")), value(), Some(lease))).collect();
    db.server.write_leased(&leased);
    db.delete(&format!("/apps/new-{}", round.saturating_sub(1)));
    7
}

#[test]
fn what_was_captured_reaches_a_sink_that_was_away_although_the_cluster_has_compacted_it() {
    let server = own("captured");
    let source = EtcdDb::create(server, "captured", &items(100));
    source.put("/apps/new-0", b"0");
    let folder = tempfile::tempdir().unwrap();
    let sink = SqliteDb::at(folder.path().join("dst"));
    let dst = sink.yaml();
    let site = Site::new("etcd-capture", &format!("name: away\nsrc: {}\ndst: {dst}\n", source.yaml()));
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    assert!(program.stop(PATIENCE).success());
    let before = shown(&site);
    let capture = site.start("capture", &[]);
    until("capturing begins", &site, || site.log().contains("capturing into the journal"));
    let lease = server.grant(3_600);
    let changes: u64 = (1..20).map(|round| change(&source, round, &lease)).sum();
    until("the journal has it", &site, || shown(&site) >= before + changes);
    assert!(capture.stop(PATIENCE).success());
    server.compact();
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    assert_eq!(site.status()["gaps"], 0, "{}", site.log());
    assert_near(&source.dump(), &lines(&sink.dump(now_us())), true);
    assert!(program.stop(PATIENCE).success());
    server.stop();
}

#[test]
fn every_instant_of_a_cluster_can_be_restored_when_it_is_gone() {
    let server = own("restored");
    let source = EtcdDb::create(server, "restored", &items(100));
    source.put("/apps/new-0", b"0");
    let folder = tempfile::tempdir().unwrap();
    let yaml = |src: &str, dst: &str| {
        format!(
            "name: s\nsrc: {src}\ndst: {{ type: sqlite, path: {:?} }}\njournal: {{ enabled: true, snapshot_every: 2s }}\n",
            folder.path().join(dst).display().to_string()
        )
    };
    let site = Site::new("etcd-restore", &yaml(&source.yaml(), "live"));
    let program = site.start("run", &[]);
    let journal = site.folder().join("state/s/journal");
    until("there is a snapshot", &site, || journal.is_dir() && !snapshots(&site).is_empty());
    site.until_caught_up(PATIENCE);
    let lease = server.grant(3_600);
    let mut changes = shown(&site);
    let mut moments: Vec<(String, Lines)> = Vec::new();
    for round in 1..6 {
        changes += change(&source, round, &lease);
        until("the changes are captured", &site, || shown(&site) >= changes);
        moments.push((rfc3339(now_us()), source.dump()));
    }
    change(&source, 6, &lease);
    site.until_caught_up(PATIENCE);
    assert!(program.stop(PATIENCE).success());
    server.kill();
    for (number, (at, expected)) in moments.iter().enumerate() {
        site.configure(&yaml(&source.yaml(), &format!("restored-{number}")));
        let done = site.done("restore", &["--at", at]);
        assert_eq!(done["event"], "done", "{done}");
        let restored = SqliteDb::at(folder.path().join(format!("restored-{number}")));
        assert_near(expected, &lines(&restored.dump(now_us())), true);
    }
}
