//! PostgreSQL tables as they are: pgbench while it runs, and one transaction larger than any memory.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::pg::{self, Pg};
use crate::support::program::Site;
use crate::support::scale::{figure, pick};
use crate::support::teleport::PgDb;

const PATIENCE: Duration = Duration::from_secs(600);

fn site(name: &str, source: &PgDb, sink: &PgDb, more: &str) -> Site {
    Site::new(
        name,
        &format!(
            "name: {name}\nsrc: {{ type: postgresql, conn_string: {:?}, layout: raw, tables: [\"public.*\"] }}\n\
             dst: {{ type: postgresql, conn_string: {:?}, layout: raw }}\n{more}",
            source.url(),
            sink.url()
        ),
    )
}

fn pgbench(server: &Pg, database: &str, args: &[&str]) {
    let output = Command::new(server.bin.join("pgbench"))
        .args(["-h", "127.0.0.1", "-p", &server.port.to_string(), "-U", "postgres"])
        .args(args)
        .arg(database)
        .env("PGPASSWORD", pg::PASSWORD)
        .output()
        .unwrap();
    assert!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pgbench_is_replicated_while_it_runs() {
    let source = PgDb::empty(pg::primary(), "bench");
    let sink = PgDb::empty(pg::secondary(), "bench");
    pgbench(source.server, &source.name, &["-i", "-q", "-s", pick("2", "10")]);
    source.run("alter table pgbench_history add id bigserial primary key");
    let site = site("pgbench", &source, &sink, "");
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    // In every state that the source ever had, the three tables' balances and the history's deltas have one sum.
    let stop = Arc::new(AtomicBool::new(false));
    let (told, name) = (Arc::clone(&stop), sink.name.clone());
    let observer = std::thread::spawn(move || {
        let (mut looks, mut states) = (0u64, std::collections::HashSet::new());
        let sql = "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
                   (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)";
        while !told.load(Ordering::Relaxed) {
            let sums = pg::secondary().psql(&name, sql);
            let sums: Vec<&str> = sums.split('|').collect();
            assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "a state that the source never had: {sums:?}");
            states.insert(sums[0].to_owned());
            looks += 1;
        }
        (looks, states.len())
    });
    pgbench(source.server, &source.name, &["-c", "4", "-j", "2", "-T", pick("3", "60"), "-n"]);
    site.until_caught_up(PATIENCE);
    stop.store(true, Ordering::Relaxed);
    let (looks, states) = observer.join().unwrap();
    let transactions = source.run("select count(*) from pgbench_history");
    for table in ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"] {
        let sum = format!("select count(*), md5(string_agg(t::text, '|' order by t::text)) from {table} t");
        assert_eq!(source.run(&sum), sink.run(&sum), "{table}");
    }
    assert_eq!(site.done("verify", &[])["equal"], true);
    assert!(program.stop(PATIENCE).success());
    figure(
        "3.4",
        "pgbench",
        format!("{transactions} transactions, checksums equal, {looks} looks at {states} different consistent states"),
    );
    assert!(states > 2, "the observer saw the replica move");
}

#[test]
fn huge_transaction_passes_as_one_in_little_memory() {
    let rows: u64 = pick(200_000, 5_000_000);
    let server = Pg::start("huge", &["wal_sender_timeout=10s", "logical_decoding_work_mem=64MB"]);
    let server: &'static Pg = Box::leak(Box::new(server));
    let source = PgDb::empty(server, "huge");
    let sink = PgDb::empty(pg::secondary(), "huge");
    source.run("create table big (id bigint primary key, payload text not null, n int)");
    source.run("insert into big values (0, 'planted-before', 0)");
    let site = site("huge", &source, &sink, "memory: 64MiB");
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    let stop = Arc::new(AtomicBool::new(false));
    let (told, name) = (Arc::clone(&stop), sink.name.clone());
    let observer = std::thread::spawn(move || {
        let (mut looks, mut counts) = (0u64, std::collections::BTreeSet::new());
        while !told.load(Ordering::Relaxed) {
            counts.insert(pg::secondary().psql(&name, "select count(*) from big"));
            looks += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        (looks, counts)
    });
    let (third, lost) = (rows / 3, rows / 5);
    let begun = Instant::now();
    source.run(&format!(
        "begin;
         insert into big select i, 'planted-' || md5(i::text), i % 7 from generate_series(1, {third}) i;
         savepoint undone;
         insert into big select i, 'planted-undone', 0 from generate_series({rows} + 1, {rows} + {lost}) i;
         update big set payload = 'planted-undone' where id <= 1000;
         rollback to savepoint undone;
         insert into big select i, 'planted-' || md5(i::text), i % 7 from generate_series({third} + 1, {rows}) i;
         commit"
    ));
    let written = begun.elapsed();
    site.until_caught_up(PATIENCE);
    let passed = begun.elapsed();
    let peak = program.peak_memory();
    stop.store(true, Ordering::Relaxed);
    let (looks, counts) = observer.join().unwrap();
    let expected: std::collections::BTreeSet<String> = ["1".to_owned(), (rows + 1).to_string()].into();
    assert!(counts.is_subset(&expected), "a part of the transaction was visible: {counts:?}");
    let sum = "select count(*), sum(hashtextextended(t::text, 0)) from big t";
    assert_eq!(source.run(sum), sink.run(sum));
    let log = std::fs::read_to_string(&server.log).unwrap_or_default();
    assert!(!log.contains("terminating walsender"), "the walsender timed out:\n{log}");
    assert!(program.stop(PATIENCE).success());
    figure(
        "3.5",
        "huge",
        format!(
            "{rows} rows in one transaction, a savepoint of {lost} rows rolled back in the middle: seen whole at once \
             ({looks} looks), peak resident {} MiB with memory: 64MiB, written in {:.0} s, equal after {:.0} s, no walsender timeout",
            peak >> 20,
            written.as_secs_f64(),
            passed.as_secs_f64()
        ),
    );
    assert!(peak < 128 << 20, "resident memory reached {} MiB", peak >> 20);
}

#[test]
fn table_made_later_is_taken_within_a_minute_and_one_without_a_key_is_told() {
    const MINUTE: Duration = Duration::from_secs(60);
    let source = PgDb::empty(pg::primary(), "later");
    let sink = PgDb::empty(pg::secondary(), "later");
    pgbench(source.server, &source.name, &["-i", "-q", "-s", "1"]);
    source.run("alter table pgbench_history add id bigserial primary key");
    let site = site("later", &source, &sink, "");
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    let (bench, name) = (source.server, source.name.clone());
    let load = std::thread::spawn(move || pgbench(bench, &name, &["-c", "2", "-T", "40", "-R", "50", "-n"]));
    source.run("create table public.added (id int primary key, v text)");
    source.run("insert into added select i, 'planted-before' from generate_series(1, 1000) i");
    let made = Instant::now();
    let mut rows = 1000;
    let has = |sql: &str| sink.server.try_psql(&sink.name, sql).unwrap_or_default();
    while has("select count(*) from added where id = 1") != "1" {
        assert!(made.elapsed() < MINUTE, "the table is there within a minute\n{}", site.log());
        rows += 1;
        source.run(&format!("insert into added values ({rows}, 'planted-meanwhile')"));
    }
    let noticed = made.elapsed();
    source.run("update added set v = 'planted-after' where id % 3 = 0; delete from added where id % 7 = 0");
    load.join().unwrap();
    site.until_caught_up(PATIENCE);
    let sum = "select count(*), md5(string_agg(t::text, '|' order by t::text)) from added t";
    assert_eq!(source.run(sum), sink.run(sum));
    assert_eq!(site.done("verify", &[])["equal"], true);

    // One that cannot be published stops nobody, and is told until somebody mends it.
    source.run("create table public.keyless (v text); insert into keyless values ('planted-keyless')");
    site.until("the keyless table is told", MINUTE, |status| {
        status["state"] == "following" && status["reason"].as_str().is_some_and(|why| why.contains("keyless"))
    });
    source.run("insert into added values (-1, 'planted-beside')");
    site.until("the others go on", PATIENCE, |_| has("select count(*) from added where id = -1") == "1");
    source.run("alter table keyless add id bigserial primary key");
    let mended = Instant::now();
    site.until("the mended table is copied", MINUTE, |_| has("select count(*) from keyless") == "1");
    let taken = mended.elapsed();
    let status = site.until_caught_up(PATIENCE);
    assert_eq!(status["reason"], "");
    assert_eq!(site.done("verify", &[])["equal"], true);
    assert!(program.stop(PATIENCE).success());
    figure(
        "3.10",
        "later",
        format!(
            "a new table in the sink after {:.0} s beside pgbench, one that got its key after {:.0} s; verify equal",
            noticed.as_secs_f64(),
            taken.as_secs_f64()
        ),
    );
}

#[test]
fn a_stream_that_runs_goes_on_without_new_tables_that_need_a_person_and_only_a_first_start_refuses_them() {
    const MINUTE: Duration = Duration::from_secs(60);
    let source = PgDb::empty(pg::primary(), "blocked");
    let (sink, other) = (PgDb::empty(pg::secondary(), "blocked"), PgDb::empty(pg::secondary(), "refused"));
    source.run("create table public.old (id int primary key); insert into old values (1)");
    let running = site("blocked", &source, &sink, "");
    let program = running.start("run", &[]);
    running.until_caught_up(PATIENCE);
    assert!(program.stop(PATIENCE).success());

    // While nobody looks: one table that can be taken, one without a key, one whose changes the log would not identify.
    source.run(
        "create table public.good (id int primary key); insert into good values (1);
         create table public.keyless (v text); insert into keyless values ('planted-keyless');
         create table public.silent (id int primary key); alter table silent replica identity nothing;
         insert into silent values (1); insert into old values (2)",
    );
    let has = |sql: &str| sink.server.try_psql(&sink.name, sql).unwrap_or_default();
    let told = |status: &serde_json::Value| {
        let why = status["reason"].as_str().unwrap_or_default();
        status["consistent"] == true && why.contains("public.keyless") && why.contains("public.silent")
    };
    for _ in 0..2 {
        let program = running.start("run", &[]);
        running.until("it follows, and tells of both", MINUTE, told);
        assert_eq!(has("select count(*) from old") + &has("select count(*) from good"), "21", "{}", running.log());
        source.run("insert into good values (-1)");
        running.until("a new table is followed", PATIENCE, |_| has("select count(*) from good where id = -1") == "1");
        source.run("delete from good where id = -1");
        running.until("a new table is followed", PATIENCE, |_| has("select count(*) from good where id = -1") == "0");
        assert_eq!(has("select count(*) from pg_class where relname in ('keyless', 'silent')"), "0");
        assert!(program.stop(PATIENCE).success());
    }

    // A first start names all of them at once, and leaves nothing behind.
    let first = site("refused", &source, &other, "");
    for verb in ["run", "run", "clone"] {
        let finished = first.run(verb, &[]);
        assert_eq!(finished.code, Some(2), "{verb}: {}", finished.stderr);
        let last = finished.stderr.lines().last().unwrap();
        assert!(last.contains("public.keyless"), "{last}");
        // A copy needs no log, so it could take this one.
        assert_eq!(last.contains("public.silent"), verb == "run", "{last}");
    }
    assert_eq!(source.run("select count(*) from pg_replication_slots where slot_name ~ 'refused'"), "0");
    assert_eq!(other.run("select count(*) from pg_tables where schemaname = 'public'"), "0");

    // Beside the two that wait for somebody, another one is taken; then they are, one by one.
    let program = running.start("run", &[]);
    running.until("it follows, and tells of both", MINUTE, told);
    source.run("create table public.later (id int primary key); insert into later values (7)");
    running.until("what can be taken is taken", MINUTE, |_| has("select id from later") == "7");
    running.until("the others are still told", MINUTE, told);
    source.run("alter table keyless add id bigserial primary key");
    running.until("the first one that is mended is copied", MINUTE, |_| has("select count(*) from keyless") == "1");
    assert_eq!(has("select count(*) from pg_class where relname = 'silent'"), "0");
    source.run("alter table silent replica identity default");
    running.until("the last one too", MINUTE, |_| has("select count(*) from silent") == "1");
    let status = running.until_caught_up(PATIENCE);
    assert_eq!(status["reason"], "");
    assert_eq!(running.done("verify", &[])["equal"], true);
    assert!(program.stop(PATIENCE).success());

    // A table that *was* replicated and has lost its key is no newcomer: its changes would come, and could not be applied.
    source.run("alter table later drop constraint later_pkey");
    let finished = running.run("run", &[]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    let last = finished.stderr.lines().last().unwrap();
    assert!(last.contains("were replicated") && last.contains("public.later"), "{last}");
}
