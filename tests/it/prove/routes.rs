//! Teleport's own `clone.yaml`, unchanged, with `clone` and with `run`, on every route.

use std::time::{Duration, Instant};

use super::sides::Side;
use crate::support::pg;
use crate::support::program::Site;
use crate::support::scale::{figure, pick};
use crate::support::teleport::{Item, items};

const PATIENCE: Duration = Duration::from_secs(300);

fn count() -> usize {
    pick(3_000, 100_000)
}

#[test]
fn routes_sqlite_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(count())));
    let sinks = [folder.path().join("cloned"), folder.path().join("run")].map(|path| Side::sqlite(&path, None));
    route("sqlite→sqlite", &source, &sinks);
}

#[test]
fn routes_sqlite_to_postgresql() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(count())));
    let sinks = ["routes_sp_clone", "routes_sp_run"].map(|hint| Side::pg(pg::secondary(), hint, None));
    route("sqlite→postgresql", &source, &sinks);
}

#[test]
fn routes_postgresql_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::pg(pg::primary(), "routes_ps", Some(&items(count())));
    let sinks = [folder.path().join("cloned"), folder.path().join("run")].map(|path| Side::sqlite(&path, None));
    route("postgresql→sqlite", &source, &sinks);
}

#[test]
fn routes_postgresql_to_postgresql() {
    let source = Side::pg(pg::primary(), "routes_pp", Some(&items(count())));
    let sinks = ["routes_pp_clone", "routes_pp_run"].map(|hint| Side::pg(pg::secondary(), hint, None));
    route("postgresql→postgresql", &source, &sinks);
}

/// Two clusters, because Teleport's file gives a stream no name, and a cluster remembers streams by theirs.
#[cfg(feature = "etcd")]
fn etcd_sinks(hint: &str) -> [Side; 2] {
    use crate::support::etcd::{Etcd, Release, Setup};
    let start = |name: &str| -> &'static Etcd {
        Box::leak(Box::new(Etcd::start(&format!("routes-{hint}-{name}"), Release::New, &Setup::default())))
    };
    ["clone", "run"].map(|name| Side::etcd(start(name), hint))
}

#[cfg(feature = "etcd")]
#[test]
fn routes_sqlite_to_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(count())));
    route("sqlite→etcd", &source, &etcd_sinks("se"));
}

#[cfg(feature = "etcd")]
#[test]
fn routes_postgresql_to_etcd() {
    let source = Side::pg(pg::primary(), "routes_pe", Some(&items(count())));
    route("postgresql→etcd", &source, &etcd_sinks("pe"));
}

#[cfg(feature = "etcd")]
fn etcd_source(hint: &str) -> Side {
    Side::etcd_with(crate::support::etcd::source(), hint, &items(count()))
}

#[cfg(feature = "etcd")]
#[test]
fn routes_etcd_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let sinks = [folder.path().join("cloned"), folder.path().join("run")].map(|path| Side::sqlite(&path, None));
    route("etcd→sqlite", &etcd_source("routes_es"), &sinks);
}

#[cfg(feature = "etcd")]
#[test]
fn routes_etcd_to_postgresql() {
    let sinks = ["routes_ep_clone", "routes_ep_run"].map(|hint| Side::pg(pg::secondary(), hint, None));
    route("etcd→postgresql", &etcd_source("routes_ep"), &sinks);
}

#[cfg(feature = "etcd")]
#[test]
fn routes_etcd_to_etcd() {
    route("etcd→etcd", &etcd_source("routes_ee"), &etcd_sinks("ee"));
}

/// The file as Teleport's documentation has it.
fn published(source: &Side, sink: &Side) -> String {
    format!(
        "# src is the configuration for the backend where data is cloned from.\nsrc: {}\n\
         # dst is the configuration for the backend where data is cloned to.\ndst: {}\n\
         # parallel is the amount of backend data cloned in parallel.\nparallel: 100\n\
         # force, if set to true, will continue cloning data to a destination\n\
         # regardless of whether data is already present.\nforce: false\n",
        source.yaml(),
        sink.yaml()
    )
}

fn route(name: &str, source: &Side, [cloned, followed]: &[Side; 2]) {
    let file = name.replace('→', "-to-");
    let site = Site::new(&format!("clone-{file}"), &published(source, cloned));
    let begun = Instant::now();
    let done = site.done("clone", &[]);
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(done["event"], "done");
    source.assert_in(cloned);
    let expected = source.count(cloned);
    assert_eq!(done["items"].as_u64(), Some(expected as u64), "{done}");
    assert_eq!(site.done("verify", &[])["equal"], true);
    // A second copy into the same place is the same stream's own business and changes nothing.
    site.done("clone", &[]);
    source.assert_in(cloned);

    let site = Site::new(&format!("run-{file}"), &published(source, followed));
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    change(source);
    site.until_caught_up(PATIENCE);
    let verdict = site.done("verify", &[]);
    assert_eq!(verdict["equal"], true, "{verdict}");
    source.assert_in(followed);
    assert!(program.stop(PATIENCE).success(), "{}", site.log());
    figure(
        "3.2",
        "routes",
        format!(
            "{name}: {expected} items cloned in {seconds:.1} s, followed, verify equal ({} compared), dumps by sqlite3/psql/etcdctl equal",
            verdict["compared"]
        ),
    );
}

/// What a cluster does: puts, updates, deletes, a key that comes back.
fn change(source: &Side) {
    let item = |key: &str, value: &str| Item {
        key: key.into(),
        value: Some(value.into()),
        expires: None,
        revision: crate::support::teleport::uuid(value.len() as u64),
    };
    match source {
        Side::Sqlite(db) => {
            db.put(&item("/new/one", "1"));
            db.put(&item("/apps/foo", "changed"));
            db.delete("/apps/foo/bar");
            db.put(&item("/gone/and/back", "first"));
            db.delete("/gone/and/back");
            db.put(&item("/gone/and/back", "second"));
        }
        Side::Pg(db) => {
            db.put(&item("/new/one", "1"));
            db.put(&item("/apps/foo", "changed"));
            db.delete("/apps/foo/bar");
            db.put(&item("/gone/and/back", "first"));
            db.delete("/gone/and/back");
            db.put(&item("/gone/and/back", "second"));
        }
        #[cfg(feature = "etcd")]
        Side::Etcd(db, _) => {
            db.put("/new/one", b"1");
            db.put("/apps/foo", b"changed");
            db.delete("/apps/foo/bar");
            db.put("/gone/and/back", b"first");
            db.delete("/gone/and/back");
            db.put("/gone/and/back", b"second");
        }
    }
}
