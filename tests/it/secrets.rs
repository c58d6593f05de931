//! Nothing secret is told: not by a program that says everything that it can, on any route, while things go wrong; not by
//! its pages; and not, because of it, by the logs of the servers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::pgconn;
use crate::prove::sides::Side;
use crate::support::pg::{self, Pg};
use crate::support::program::Site;
use crate::support::secrets::{CANARY, leaks, of_driftless};
use crate::support::teleport::{Item, PgDb, SqliteDb, assert_same, items, now_us, uuid};

const PATIENCE: Duration = Duration::from_secs(120);

/// Fails with what was told, by the programs of a site, by their pages, and by servers because of them.
fn assert_silent(site: &Site, servers: &[&Pg]) {
    let mut told = leaks(&site.log());
    told.extend(leaks(&site.pages()));
    for server in servers {
        let log = std::fs::read(&server.log).unwrap();
        told.extend(leaks(&of_driftless(&String::from_utf8_lossy(&log))));
    }
    told.truncate(5);
    assert_eq!(told, Vec::<String>::new(), "secrets were told");
}

/// Fails unless everything that a site's programs have made on disk is for their user alone.
fn assert_private(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} can be read by others: {mode:o}", entry.path().display());
    }
}

#[test]
fn nothing_secret_is_told_from_sqlite_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(1_500)));
    route("ss", &source, &Side::sqlite(&folder.path().join("dst"), None));
}

#[test]
fn nothing_secret_is_told_from_sqlite_to_postgresql() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(1_500)));
    route("sp", &source, &Side::pg(pg::secondary(), "secrets_sp", None));
}

#[test]
fn nothing_secret_is_told_from_postgresql_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::pg(pg::primary(), "secrets_ps", Some(&items(1_500)));
    route("ps", &source, &Side::sqlite(&folder.path().join("dst"), None));
}

#[test]
fn nothing_secret_is_told_from_postgresql_to_postgresql() {
    let source = Side::pg(pg::primary(), "secrets_pp", Some(&items(1_500)));
    route("pp", &source, &Side::pg(pg::secondary(), "secrets_pp", None));
}

/// A whole life: check, copy, follow, differ, verify, repair, a gap, healing, the end.
fn route(route: &str, source: &Side, sink: &Side) {
    let yaml = format!("name: {CANARY}-{route}\nsrc: {}\ndst: {}\nparallel: 4", source.yaml(), sink.yaml());
    let site = Site::watched(&format!("secrets-{route}"), &yaml);
    site.done("check", &[]);
    let program = site.start("run", &["--log-format", "json"]);
    site.until_caught_up(PATIENCE);
    put(source, "/tokens/planted-new", 1);
    delete(source, "/apps/planted-0000001");
    site.until_caught_up(PATIENCE);
    delete(sink, "/tokens/planted-new");
    put(sink, "/apps/planted-0000002", 2);
    put(sink, "/tokens/planted-extra", 3);
    for options in [&["--json"][..], &["--show", "100"]] {
        let finished = site.run("verify", options);
        assert_eq!(finished.code, Some(4), "{}", finished.stderr);
    }
    assert_eq!(site.done("verify", &["--repair"])["repaired"], 3);
    assert!(program.stop(PATIENCE).success());

    put(source, "/tokens/planted-unseen", 4);
    match source {
        Side::Sqlite(db) => db.run("delete from events;"),
        Side::Pg(_) => drop(site.done("drop-slot", &[])),
        #[cfg(feature = "etcd")]
        Side::Etcd(..) => panic!("not a side of this test"),
    }
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    // Without a log file in it, the site's folder holds nothing of the program but its state.
    assert_private(&site.folder().join("state"));
    assert_private(&site.folder().join(format!("state/{CANARY}-{route}")));
    program.kill();
    drop(site.run("status", &[]));
    drop(site.run("drop-slot", &[]));

    let (log, pages) = (site.log(), site.pages());
    for said in ["TRACE", "commit landed", "gap: the source no longer has"] {
        assert!(log.contains(said), "the log says everything, {said:?} too:\n{log}");
    }
    for page in ["GET /metrics", "GET /status.json", "GET /readyz"] {
        assert!(pages.contains(page), "{page} was kept");
    }
    assert!(pages.contains(&format!("driftless_state{{stream=\"{CANARY}-{route}\"")), "{pages}");
    assert_silent(&site, &[pg::primary(), pg::secondary()]);
}

fn put(side: &Side, key: &str, n: u64) {
    let value = Some(format!("planted-{n}").into_bytes());
    let item = Item { key: key.into(), value, expires: None, revision: uuid(n) };
    match side {
        Side::Sqlite(db) => db.put(&item),
        Side::Pg(db) => db.put(&item),
        #[cfg(feature = "etcd")]
        Side::Etcd(..) => panic!("not a side of this test"),
    }
}

fn delete(side: &Side, key: &str) {
    match side {
        Side::Sqlite(db) => db.delete(key),
        Side::Pg(db) => db.delete(key),
        #[cfg(feature = "etcd")]
        Side::Etcd(..) => panic!("not a side of this test"),
    }
}

#[test]
fn rows_that_the_destination_refuses_are_told_without_their_values() {
    let source = PgDb::empty(pg::primary(), "secrets_raw");
    let sink = PgDb::empty(pg::secondary(), "secrets_raw");
    source.run("create table t (id text primary key, mail text not null unique, v text)");
    source
        .run("insert into t select 'planted-' || i, 'planted-mail-' || i, 'planted-v' from generate_series(1, 500) i");
    let site = Site::watched(
        "secrets-raw",
        &format!(
            "name: {CANARY}-raw\nsrc: {{ type: postgresql, conn_string: {:?}, layout: raw, tables: [\"public.*\"] }}\n\
             dst: {{ type: postgresql, conn_string: {:?}, layout: raw }}\n",
            source.url(),
            sink.url()
        ),
    );
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    // A row of somebody else holds a unique value; then two rows exchange theirs.
    sink.run("insert into t values ('planted-foreign', 'planted-taken', null)");
    source.run("insert into t values ('planted-late', 'planted-taken', null)");
    source.run(
        "begin; update t set mail = 'planted-between' where id = 'planted-1';
         update t set mail = 'planted-mail-1' where id = 'planted-2';
         update t set mail = 'planted-mail-2' where id = 'planted-1'; commit",
    );
    site.until_caught_up(PATIENCE);
    let sum = "select count(*), md5(string_agg(t::text, '|' order by t::text)) from t";
    assert_eq!(source.run(sum), sink.run(sum));
    assert!(site.log().contains("rows of the destination hold unique values"), "{}", site.log());
    sink.run("update t set v = 'planted-other' where id = 'planted-7'");
    assert_eq!(site.run("verify", &[]).code, Some(4));
    site.done("verify", &["--repair"]);

    // Each refusal stops the program with a sentence that names what refuses.
    sink.run("alter table t add constraint short check (v <> 'planted-refused')");
    source.run("update t set v = 'planted-refused' where id = 'planted-3'");
    assert_eq!(program.ended(PATIENCE).code(), Some(1), "{}", site.log());
    assert!(site.log().contains("constraint \"short\""), "{}", site.log());
    sink.run(
        "alter table t drop constraint short;
         create function refuse() returns trigger language plpgsql as
           $$ begin raise exception 'no % for %', new.v, new.id using detail = new.mail; end $$;
         create trigger refuse before insert or update on t for each row execute function refuse();
         alter table t enable always trigger refuse",
    );
    let finished = site.run("run", &["--log-format", "json", "--json"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("P0001"), "{}", finished.stderr);
    sink.run("drop trigger refuse on t");
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    assert_eq!(source.run(sum), sink.run(sum));
    assert!(program.stop(PATIENCE).success());
    site.done("drop-slot", &[]);
    assert_silent(&site, &[pg::primary(), pg::secondary()]);
}

/// Connection strings that cannot be used, each with something in it that must not be told.
fn unusable(folder: &Path) -> Vec<String> {
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let garbage = file("garbage.pem", "-----BEGIN PRIVATE KEY-----\nplanted-key\n-----END PRIVATE KEY-----\n");
    let passfile = file("passfile", "*:*:*:*:planted-pass\n");
    let port = pg::primary().port;
    let mut all: Vec<String> = [
        "planted-alone",
        "mysql://u:planted-1@h/d",
        "postgresql://u:planted-2@h:port/d",
        "postgresql://u:planted-3@[::1/d",
        "postgresql://u:planted%zz@h/d",
        "postgresql://u:planted-4@h/d?sslmode=planted-mode",
        "postgresql://u:planted-5@h/d?planted-6",
        "host=h user=u password='planted-7",
        "host=h user=u password=planted-8 planted-9",
        "host=h user=u passwort=planted-10",
        "host=h user=u password=planted-11 connect_timeout=planted-12",
        "host=h user=u password=planted-13 service=nobody-wrote-it",
    ]
    .map(str::to_owned)
    .into();
    all.extend([
        format!("postgresql://postgres:planted-wrong@127.0.0.1:{port}/postgres"),
        format!("postgresql://postgres:planted%2Dwrong@127.0.0.1:{port}/postgres?sslmode=prefer"),
        format!("host=127.0.0.1 port={port} user=postgres dbname=postgres password=planted-wrong"),
        format!("host=127.0.0.1 port={port} user=postgres dbname=postgres passfile={passfile}"),
        format!("host=127.0.0.1 port={port} user=nobody password=planted-wrong dbname=nothing"),
        format!("host=127.0.0.1 port={port} user=postgres password=planted-wrong sslmode=require"),
        format!("host=0.0.0.0 port={port} user=postgres password={} dbname=postgres", pg::PASSWORD),
        pgconn::secured("scram_user", "password=planted-wrong sslmode=require"),
        pgconn::secured("scram_user", "password=planted-wrong sslmode=verify-full"),
        pgconn::secured("scram_user", "password=planted-wrong sslmode=verify-full sslrootcert=CERTS/other.crt"),
        pgconn::secured("scram_user", &format!("password=planted-wrong sslmode=verify-ca sslrootcert={garbage}")),
        pgconn::secured("cert_user", &format!("sslmode=require sslcert=CERTS/client.crt sslkey={garbage}")),
    ]);
    all
}

#[test]
fn a_connection_string_that_cannot_be_used_is_not_repeated() {
    let site = Site::watched("secrets-connections", "");
    let backend = SqliteDb::create(site.folder().join("backend"), &items(30)).folder;
    let other = format!("{{ type: sqlite, path: {:?} }}", backend.display().to_string());
    for conn_string in unusable(site.folder()) {
        let postgresql = format!("{{ type: postgresql, conn_string: {conn_string:?} }}");
        for (src, dst) in [(&postgresql, &other), (&other, &postgresql)] {
            site.configure(&format!("name: {CANARY}\nsrc: {src}\ndst: {dst}\nforce: true"));
            for verb in ["check", "status", "verify", "clone", "run", "drop-slot"] {
                if verb == "drop-slot" && src == &other {
                    continue;
                }
                let finished = site.run(verb, &[]);
                // The status of a source that does not answer is still what the destination says.
                let fine = finished.code == Some(0) && verb == "status" && src == &postgresql;
                assert!(fine || matches!(finished.code, Some(1 | 2)), "{verb} with {conn_string}: {}", finished.stderr);
            }
        }
    }
    assert_silent(&site, &[pg::primary(), &pgconn::secure().pg]);
}

#[test]
fn what_a_person_typed_is_told_so_the_search_sees_what_programs_tell() {
    let site = Site::watched("secrets-canary", "src: {type: sqlite, path: /a}\ndst: {type: sqlite, path: /b}");
    let finished = site.run("status", &["-p", CANARY]);
    assert_eq!(finished.code, Some(2));
    assert!(site.log().contains(CANARY), "{}", site.log());
    assert_silent(&site, &[]);
}
