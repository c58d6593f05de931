//! The real program with an etcd destination, looked at by `etcdctl` alone: copies, follows, repairs.

use std::time::Duration;

use crate::support::etcd::{self, Etcd, Release, Setup};
use crate::support::etcddb::{EtcdDb, Lines, assert_near, lines};
use crate::support::pg;
use crate::support::program::Site;
use crate::support::scale::{figure, pick};
use crate::support::teleport::{Item, PgDb, SqliteDb, items, now_us};

const PATIENCE: Duration = Duration::from_secs(120);

fn count() -> usize {
    pick(2_000, 50_000)
}

/// A pipeline of a name of its own: all destinations in one cluster are remembered side by side.
fn site(sink: &EtcdDb, src: &str, rest: &str) -> Site {
    let name = format!("into-{}", sink.prefix.trim_matches('/').replace('_', "-"));
    let yaml = format!("name: {name}\nsrc: {src}\ndst: {}\nparallel: 4\nlag_budget: 500ms\n{rest}", sink.yaml());
    Site::new(&name, &yaml)
}

/// What a Teleport on etcd could read of these: an item without a value is none.
fn readable(dump: &[String]) -> Lines {
    lines(dump).into_iter().filter(|(_, line)| !line.0.is_empty()).collect()
}

fn item(key: &str, value: &str, expires: Option<i128>) -> Item {
    Item {
        key: key.into(),
        value: Some(value.into()),
        expires: expires.map(|us| us * 1_000),
        revision: crate::support::teleport::uuid(value.len() as u64),
    }
}

/// Copies, compares, copies what changed, repairs what somebody else did to the destination.
fn copy(what: &str, src: &str, expected: &dyn Fn() -> Lines, change: &dyn Fn(), sink: &EtcdDb) {
    let site = site(sink, src, "");
    let begun = std::time::Instant::now();
    let done = site.done("clone", &[]);
    let seconds = begun.elapsed().as_secs_f64();
    let wanted = expected();
    assert!(wanted.values().any(|line| line.1.is_some()), "some expire");
    assert_near(&wanted, &sink.dump(), false);
    assert_eq!(done["items"].as_u64(), Some(wanted.len() as u64), "{done}");
    assert_eq!(site.done("verify", &[])["equal"], true);
    figure("5", "etcd-fill", format!("{what}: {} items in {seconds:.1} s", wanted.len()));

    change();
    let differs = site.run("verify", &[]);
    assert_eq!(differs.code, Some(4), "{}", differs.stderr);
    site.done("clone", &[]);
    assert_near(&expected(), &sink.dump(), false);
    sink.put("/stray", b"somebody else's");
    sink.delete("/apps/foo0");
    sink.put("/apps/fop", b"meddled with");
    assert_eq!(site.run("verify", &[]).code, Some(4));
    let repaired = site.done("verify", &["--repair"]);
    assert_eq!(repaired["equal"], true, "{repaired}");
    assert_near(&expected(), &sink.dump(), false);
    let status = site.status();
    assert_eq!(status["state"], "stopped", "{status}");
}

#[test]
fn a_sqlite_backend_is_copied_into_etcd_with_every_expiry() {
    for (name, server) in [("from_sqlite", etcd::sink()), ("from_sqlite_old", etcd::old())] {
        let folder = tempfile::tempdir().unwrap();
        let source = SqliteDb::create(folder.path().join("src"), &items(count()));
        let sink = EtcdDb::empty(server, name);
        let yaml = format!("{{ type: sqlite, path: {:?} }}", source.folder.display().to_string());
        let change = || {
            source.put(&item("/new/one", "1", Some(now_us() + 3_600_000_000)));
            source.put(&item("/apps/foo", "changed", None));
            source.delete("/apps/foo-bar");
        };
        copy(name, &yaml, &|| readable(&source.dump(now_us())), &change, &sink);
    }
}

#[test]
fn a_postgresql_backend_is_copied_into_etcd_with_every_expiry() {
    let source = PgDb::create(pg::primary(), "into_etcd", &items(count()));
    let sink = EtcdDb::empty(etcd::sink(), "from_pg");
    let yaml = format!("{{ type: postgresql, conn_string: {:?} }}", source.url());
    let change = || {
        source.put(&item("/new/one", "1", Some(now_us() + 3_600_000_000)));
        source.put(&item("/apps/foo", "changed", None));
        source.delete("/apps/foo-bar");
    };
    copy("postgresql", &yaml, &|| readable(&source.dump(now_us())), &change, &sink);
}

#[test]
fn an_etcd_backend_is_copied_into_another_one_with_every_expiry() {
    for (name, from, to) in
        [("new_to_old", etcd::source(), etcd::old()), ("old_to_new", etcd::old(), etcd::sink() as &'static Etcd)]
    {
        let source = EtcdDb::create(from, name, &items(count()));
        let sink = EtcdDb::empty(to, &format!("of_{name}"));
        let change = || {
            source.put("/new/one", b"1");
            source.put("/apps/foo", b"changed");
            source.delete("/apps/foo-bar");
        };
        copy(name, &source.yaml(), &|| source.dump(), &change, &sink);
    }
}

#[test]
fn any_keys_of_one_cluster_are_copied_under_another_prefix_of_another_byte_for_byte() {
    let (from, to) = (etcd::source(), etcd::sink());
    let (source, sink) = (etcd::prefix("raw"), etcd::prefix("copy"));
    let odd: Vec<(Vec<u8>, Vec<u8>)> = [&b"plain"[..], b"\0\xff\" ", b"", b"deep/er/key", b"empty"]
        .iter()
        .map(|key| (key.to_vec(), if *key == b"empty" { vec![] } else { [key, &b"\0value\xff"[..]].concat() }))
        .collect();
    let stored = |prefix: &str, key: &[u8]| [prefix.as_bytes(), key].concat();
    from.write(&odd.iter().map(|(key, value)| (stored(&source, key), Some(value.clone()))).collect::<Vec<_>>());
    let lease = from.grant(600);
    from.put_leased(&format!("{source}leased"), "v", &lease);
    let side = |server: &Etcd, prefix: &str| {
        format!("{{ type: etcd, peers: [{:?}], layout: raw, prefix: {prefix:?} }}", server.url())
    };
    let name = sink.trim_matches('/');
    let site = Site::new(name, &format!("name: {name}\nsrc: {}\ndst: {}\n", side(from, &source), side(to, &sink)));
    site.done("clone", &[]);
    assert_eq!(site.done("verify", &[])["equal"], true);
    let found = to.dump(&sink);
    assert_eq!(found.len(), odd.len() + 1);
    for row in found {
        let key = row.key.strip_prefix(sink.as_bytes()).unwrap();
        if key == b"leased" {
            assert!((590..=610).contains(&to.left(row.lease).unwrap()));
            continue;
        }
        let (_, value) = odd.iter().find(|(odd, _)| odd == key).unwrap();
        assert_eq!((&row.value, row.lease), (value, 0));
    }
}

#[test]
fn a_backend_is_followed_into_etcd_and_what_expires_never_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteDb::create(folder.path().join("src"), &items(500));
    let sink = EtcdDb::empty(etcd::sink(), "followed");
    let yaml = format!("{{ type: sqlite, path: {:?} }}", sqlite.folder.display().to_string());
    let site = site(&sink, &yaml, "");
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    assert_near(&readable(&sqlite.dump(now_us())), &sink.dump(), false);
    let soon = now_us() + 4_000_000;
    sqlite.put(&item("/soon", "goes", Some(soon)));
    sqlite.put(&item("/renewed", "stays", Some(soon)));
    site.until_caught_up(PATIENCE);
    assert!(now_us() > soon || sink.dump().contains_key(&hex("/soon")), "nothing expires early");
    sqlite.put(&item("/renewed", "stays", Some(now_us() + 600_000_000)));
    site.until_caught_up(PATIENCE);
    etcd::until("what has expired is gone", || !sink.dump().contains_key(&hex("/soon")));
    assert!(now_us() > soon, "nothing expires early");
    assert!(sink.dump().contains_key(&hex("/renewed")), "its older lease does not erase a key that was renewed");
    // A whole transaction of a hundred changes fits and is seen at once; nobody sees a part of it.
    let status = site.status();
    assert_eq!((status["consistent"].as_bool(), status["state"].as_str()), (Some(true), Some("following")), "{status}");
    assert!(program.stop(PATIENCE).success(), "{}", site.log());
    let checked = site.run("check", &[]);
    assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);
}

#[cfg(feature = "journal")]
#[test]
fn the_past_is_restored_and_replayed_into_etcd_and_nothing_reminds_of_it() {
    use crate::restore::{Db, Past};
    let folder = tempfile::tempdir().unwrap();
    let source = Db::Sqlite(SqliteDb::create(folder.path().join("src"), &items(200)));
    let past = Past::made("restore-into-etcd", source, 3, Db::write);
    let server: &'static Etcd = Box::leak(Box::new(Etcd::start("past", Release::New, &Setup::default())));
    let sink = EtcdDb::empty(server, "past");
    past.aim_at(&sink.yaml(), "");
    let (first, last) = (&past.moments[0], &past.moments[2]);
    past.site.done("restore", &["--at", &first.at]);
    assert_near(&readable(&first.lines), &sink.dump(), false);
    assert_eq!(server.dump("/driftless/"), [], "nothing reminds of it");
    past.site.done("replay", &["--from", &first.at, "--until", &last.at, "--force"]);
    assert_near(&readable(&last.lines), &sink.dump(), false);
    assert_eq!(server.dump("/driftless/"), []);
    // A destination that holds something is not written over, unless somebody insists.
    let refused = past.site.run("restore", &["--at", &first.at]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert_near(&readable(&last.lines), &sink.dump(), false);
}

/// Puts so many items in one transaction.
fn put_at_once(source: &PgDb, count: usize, value: &str) {
    source.run(&format!(
        "insert into kv (key, value, expires, revision) select ('/one/' || n)::bytea, '{value}'::bytea, null, gen_random_uuid() \
         from generate_series(1, {count}) n on conflict (key) do update set value = excluded.value"
    ));
}

#[test]
fn a_transaction_that_fits_is_never_seen_in_part_and_one_that_does_not_is_counted_and_told() {
    let source = PgDb::create(pg::primary(), "whole_into_etcd", &items(30));
    let sink = EtcdDb::empty(etcd::sink(), "whole");
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Little memory: a transaction comes in several batches.
    let site =
        site(&sink, &format!("{{ type: postgresql, conn_string: {:?} }}", source.url()), &format!("listen: {listen}"));
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    put_at_once(&source, 100, &"0".repeat(500));
    site.until_caught_up(PATIENCE);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let values: std::collections::BTreeSet<Vec<u8>> =
                    sink.server.dump(&format!("{}/one/", sink.prefix)).into_iter().map(|row| row.value).collect();
                assert_eq!(values.len(), 1, "a transaction of a hundred changes is seen in part");
                seen.extend(values);
            }
            seen.len()
        });
        for round in 1..30 {
            put_at_once(&source, 100, &round.to_string().repeat(500));
        }
        site.until_caught_up(PATIENCE);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        watch.join().unwrap()
    });
    assert!(seen > 5, "{seen}");
    let split = || {
        let page = crate::support::program::get(listen, "/metrics").unwrap();
        let line = page.lines().find(|line| line.starts_with("driftless_split_transactions_total")).map(str::to_owned);
        line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
    };
    assert_eq!(split(), 0);
    put_at_once(&source, 1_000, "many");
    site.until_caught_up(PATIENCE);
    assert_eq!(sink.server.dump(&format!("{}/one/", sink.prefix)).len(), 1_000);
    assert_eq!(split(), 1);
    assert_eq!(site.log().matches("larger than the sink takes at once").count(), 1, "{}", site.log());
    assert!(program.stop(PATIENCE).success());
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
