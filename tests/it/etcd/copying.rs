//! `clone` and `verify` from etcd into the other kinds, by the real program, looked at by others' programs alone.

use crate::support::etcd::{self, Etcd};
use crate::support::etcddb::{EtcdDb, Lines, assert_near, lines};
use crate::support::pg;
use crate::support::program::Site;
use crate::support::scale::{figure, pick};
use crate::support::teleport::{PgDb, SqliteDb, items, now_us};

fn count() -> usize {
    pick(2_000, 50_000)
}

fn copy(name: &str, server: &'static Etcd, dst: &str, sink: impl Fn() -> Lines, revisions: bool) {
    let source = EtcdDb::create(server, name, &items(count()));
    let site = Site::new(&format!("etcd-{name}"), &format!("src: {}\ndst: {dst}\nparallel: 4\n", source.yaml()));
    let begun = std::time::Instant::now();
    let done = site.done("clone", &[]);
    let seconds = begun.elapsed().as_secs_f64();
    let expected = source.dump();
    assert!(expected.values().any(|line| line.1.is_some()), "some expire");
    assert_near(&expected, &sink(), revisions);
    assert_eq!(done["items"].as_u64(), Some(expected.len() as u64), "{done}");
    assert_eq!(site.done("verify", &[])["equal"], true);
    figure("5", "etcd-copy", format!("{name}: {} items in {seconds:.1} s", expected.len()));

    // The source goes on; the next copy brings what changed, deletes included.
    source.put("/new/one", b"1");
    source.put("/apps/foo", b"changed");
    source.delete("/apps/foo-bar");
    let differs = site.run("verify", &[]);
    assert_eq!(differs.code, Some(4), "{}", differs.stderr);
    site.done("clone", &[]);
    assert_near(&source.dump(), &sink(), revisions);
    assert_eq!(site.done("verify", &[])["equal"], true);
}

#[test]
fn an_etcd_cluster_is_copied_into_sqlite_with_every_expiry() {
    for (name, server) in [("to_sqlite", etcd::source()), ("old_to_sqlite", etcd::old())] {
        let folder = tempfile::tempdir().unwrap();
        let sink = SqliteDb::at(folder.path().join("dst"));
        let yaml = sink.yaml();
        copy(name, server, &yaml, || lines(&sink.dump(now_us())), true);
    }
}

#[test]
fn an_etcd_cluster_is_copied_into_postgresql_with_every_expiry() {
    let sink = PgDb::empty(pg::secondary(), "from_etcd");
    let yaml = format!("{{ type: postgresql, conn_string: {:?} }}", sink.url());
    copy("to_postgresql", etcd::source(), &yaml, || lines(&sink.dump(now_us())), false);
}

#[test]
fn a_wrong_prefix_and_a_missing_server_are_errors_and_create_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dst = folder.path().join("dst");
    let yaml = |src: &str| format!("src: {src}\ndst: {{ type: sqlite, path: {:?} }}\n", dst.display().to_string());
    let site = Site::new("etcd-wrong", &yaml(&EtcdDb::empty(etcd::source(), "wrong").yaml()));
    let failed = site.run("clone", &[]);
    assert_eq!(failed.code, Some(2), "{}", failed.stderr);
    assert!(failed.stderr.contains("there is none"), "{}", failed.stderr);
    let checked = site.run("check", &[]);
    assert_eq!(checked.code, Some(1), "{}{}", checked.stdout, checked.stderr);
    assert!(format!("{}{}", checked.stdout, checked.stderr).contains("there is no key under"), "{}", checked.stdout);
    site.configure(&yaml("{ type: etcd, peers: ['http://127.0.0.1:1'], prefix: /t/ }"));
    let failed = site.run("clone", &[]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("connect to etcd at 127.0.0.1:1"), "{}", failed.stderr);
}
