//! The real program with an etcd destination, looked at by `etcdctl` alone: copies, follows, repairs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::etcd::{self, Etcd, Release, Setup};
use crate::support::etcddb::{EtcdDb, Lines, are_near, assert_near, lines};
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
        let yaml = source.yaml();
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
    let yaml = sqlite.yaml();
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
    let site = site(
        &sink,
        &format!("{{ type: postgresql, conn_string: {:?} }}", source.url()),
        &format!("memory: 16MiB\nlisten: {listen}"),
    );
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    put_at_once(&source, 100, &"0".repeat(2_000));
    site.until_caught_up(PATIENCE);
    let (stop, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut all = std::collections::BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                let rows = sink.server.dump(&format!("{}/one/", sink.prefix));
                let values: std::collections::BTreeSet<Vec<u8>> = rows.into_iter().map(|row| row.value).collect();
                assert_eq!(values.len(), 1, "a transaction of a hundred changes is seen in part");
                all.extend(values);
                seen.store(all.len(), Ordering::Relaxed);
            }
        });
        for round in 1.. {
            put_at_once(&source, 100, &format!("{round:04}").repeat(500));
            if seen.load(Ordering::Relaxed) > 10 || watch.is_finished() || round == 1_000 {
                break;
            }
        }
        site.until_caught_up(PATIENCE);
        stop.store(true, Ordering::Relaxed);
        watch.join().unwrap();
    });
    assert!(seen.load(Ordering::Relaxed) > 10, "too few looks to say anything");
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

#[test]
fn a_cluster_is_followed_into_another_one_transaction_by_transaction() {
    let (from, to) = (etcd::source(), etcd::sink());
    let source = EtcdDb::create(from, "pair", &items(500));
    let sink = EtcdDb::empty(to, "pair_of");
    let site = site(&sink, &source.yaml(), "");
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    let at_once = |round: usize| {
        let value = Some(format!("{round:04}").repeat(100).into_bytes());
        let stored =
            |n: usize| (source.stored(&format!("/one/{n:03}")), value.as_ref().map(|v| etcd::base64(v).into()));
        from.write(&(0..100).map(stored).collect::<Vec<_>>());
    };
    at_once(0);
    site.until_caught_up(PATIENCE);
    let (stop, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut all = std::collections::BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                let rows = to.dump(&format!("{}/one/", sink.prefix));
                let values: std::collections::BTreeSet<Vec<u8>> = rows.into_iter().map(|row| row.value).collect();
                assert_eq!(values.len(), 1, "a transaction of a hundred puts is seen in part");
                all.extend(values);
                seen.store(all.len(), Ordering::Relaxed);
            }
        });
        for round in 1..=1_000 {
            at_once(round);
            if seen.load(Ordering::Relaxed) > 10 || watch.is_finished() {
                break;
            }
        }
        site.until_caught_up(PATIENCE);
        stop.store(true, Ordering::Relaxed);
        watch.join().unwrap();
    });
    assert!(seen.load(Ordering::Relaxed) > 10, "too few looks to say anything");
    source.delete("/one/007");
    site.until_caught_up(PATIENCE);
    assert_near(&source.dump(), &sink.dump(), false);
    assert_eq!(site.done("verify", &[])["equal"], true);
    assert!(program.stop(PATIENCE).success(), "{}", site.log());
}

#[test]
fn lanes_are_divided_anew_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteDb::create(folder.path().join("src"), &items(500));
    let sink = EtcdDb::empty(etcd::sink(), "lanes");
    let src = sqlite.yaml();
    let site = site(&sink, &src, "lanes: 3\n");
    for (round, lanes) in [3, 1, 4].into_iter().enumerate() {
        let name = format!("into-{}", sink.prefix.trim_matches('/'));
        site.configure(&format!("name: {name}\nsrc: {src}\ndst: {}\nlag_budget: 500ms\nlanes: {lanes}\n", sink.yaml()));
        let program = site.start("run", &[]);
        site.until_caught_up(PATIENCE);
        for n in 0..60 {
            sqlite.put(&item(&format!("/lane/{n}"), &format!("{round}"), None));
        }
        sqlite.delete(&format!("/lane/{round}"));
        site.until_caught_up(PATIENCE);
        assert_near(&readable(&sqlite.dump(now_us())), &sink.dump(), false);
        assert!(program.stop(PATIENCE).success(), "{}", site.log());
    }
    let lanes = sink.server.dump(&format!("/driftless/lane/into-{}/", sink.prefix.trim_matches('/')));
    let epochs = lanes.iter().filter(|row| row.key.ends_with(b"epoch")).count();
    assert_eq!(epochs, 4, "nothing is left of earlier divisions");
}

#[test]
fn a_check_says_what_a_destination_lacks_and_what_it_takes_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteDb::create(folder.path().join("src"), &items(50));
    let server = Etcd::start("checked", Release::New, &Setup::default());
    server.ask_for_users("writer", "/checked/", true);
    let password = folder.path().join("password");
    std::fs::write(&password, etcd::PASSWORD).unwrap();
    let site = Site::new(
        "etcd-check",
        &format!(
            "name: checked\nsrc: {{ type: sqlite, path: {:?} }}\n\
             dst: {{ type: etcd, peers: [{:?}], prefix: /checked/, username: writer, password_file: {password:?} }}\n",
            sqlite.folder.display().to_string(),
            server.url()
        ),
    );
    let said = |code: i32| {
        let checked = site.run("check", &[]);
        let said = format!("{}{}", checked.stdout, checked.stderr);
        assert_eq!(checked.code, Some(code), "{said}");
        said
    };
    let root = format!("root:{}", etcd::PASSWORD);
    let revision = || server.ctl(&["--user", &root, "get", "/", "-w", "json"]);
    let before = revision();
    let lacks = said(1);
    assert!(lacks.contains("driftless' own records") && lacks.contains("/driftless/"), "{lacks}");
    assert!(!lacks.contains(etcd::PASSWORD));
    assert_eq!(site.run("clone", &[]).code, Some(2), "a missing permission is for a person to mend");
    server.ctl(&["--user", &root, "role", "grant-permission", "writer", "--prefix=true", "readwrite", "/driftless/"]);
    let fine = said(0);
    assert!(fine.contains("128 operations and 1536 KiB"), "{fine}");
    let revision_of = |said: &str| said.split("\"revision\":").nth(1).map(|rest| rest[..3].to_owned());
    assert_eq!(revision_of(&before), revision_of(&revision()), "nothing was written");
    site.done("clone", &[]);
}

#[test]
fn members_of_a_destination_die_and_come_back_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteDb::create(folder.path().join("src"), &items(500));
    let members: &'static Vec<Etcd> = Box::leak(Box::new(Etcd::cluster("members", Release::New, &Setup::default())));
    let peers: Vec<String> = members.iter().map(Etcd::url).collect();
    let yaml = format!(
        "name: members\nsrc: {{ type: sqlite, path: {:?} }}\ndst: {{ type: etcd, peers: {peers:?}, prefix: /m/ }}\n",
        sqlite.folder.display().to_string()
    );
    let site = Site::new("etcd-members", &yaml);
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    for round in 0..6usize {
        let member = &members[round % 3];
        for n in 0..20 {
            sqlite.put(&item(&format!("/hot/{n}"), &format!("{round}-{n}"), Some(now_us() + 600_000_000)));
        }
        member.kill();
        sqlite.put(&item("/hot/1", &format!("{round} while one is away"), None));
        site.until_caught_up(PATIENCE);
        member.spawn();
        member.wait_ready();
    }
    let sink = EtcdDb { server: &members[1], prefix: "/m/".into() };
    // Each death was an election, which gave leases more time.
    etcd::until("each key has its own end", || are_near(&readable(&sqlite.dump(now_us())), &sink.dump()));
    assert!(program.stop(PATIENCE).success(), "{}", site.log());
    members.iter().for_each(Etcd::stop);
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
