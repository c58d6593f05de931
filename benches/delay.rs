//! The delay from commit at the source to visible at the sink, at 1 000 changes a second on loopback.
//!
//! A writer commits 100 transactions of 10 rows a second and notes when each commit returned; a reader asks the sink for its
//! newest row as fast as it can and notes when each row is first there. `DRIFTLESS_BENCH_SECONDS` (default 20) sets how
//! long. The disk's own fsync time is printed beside it, since a commit at either side takes at least that.
#![allow(clippy::unwrap_used, missing_docs, dead_code)] // A bench stops at the first surprise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

mod parts;
#[path = "../tests/it/support/mod.rs"]
mod support;

use parts::{at, fsync_ms};
use support::pg::Pg;
use support::program::Site;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let seconds = std::env::var("DRIFTLESS_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    println!("PROVE 3.7 delay: fsync of this disk takes {:.2} ms (median)", fsync_ms());
    postgresql(seconds);
    sqlite(seconds);
}

fn postgresql(seconds: u64) {
    let settings = ["fsync=on", "shared_buffers=256MB"];
    let (source, sink) = (Pg::start("delay-source", &settings), Pg::start("delay-sink", &settings));
    let (from, to) = (source.database("delay"), sink.database("delay"));
    source.psql(&from, "create table t (id bigint primary key, payload text)");
    let site = Site::new(
        "delay",
        &format!(
            "src: {{ type: postgresql, conn_string: {:?}, layout: raw, tables: [\"public.*\"] }}\n\
             dst: {{ type: postgresql, conn_string: {:?}, layout: raw }}",
            source.url(&from),
            sink.url(&to)
        ),
    );
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (url, stop) = (sink.url(&to), Arc::clone(&stop));
        std::thread::spawn(move || {
            on_runtime(async {
                let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                let newest = client.prepare("select coalesce(max(id), 0) from t").await.unwrap();
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id: i64 = client.query_one(&newest, &[]).await.unwrap().get(0);
                    seen.push((id, Instant::now()));
                }
                seen
            })
        })
    };
    let committed = on_runtime(async {
        let (mut client, connection) =
            tokio_postgres::connect(&source.url(&from), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let insert = client
            .prepare("insert into t select i, repeat('x', 200) from generate_series($1::bigint, $1 + 9) i")
            .await
            .unwrap();
        let mut committed = Vec::new();
        let begun = Instant::now();
        for n in 0..seconds * 100 {
            let due = begun + Duration::from_millis(10) * u32::try_from(n).unwrap();
            tokio::time::sleep_until(due.into()).await;
            let transaction = client.transaction().await.unwrap();
            let first = i64::try_from(n).unwrap() * 10 + 1;
            transaction.execute(&insert, &[&first]).await.unwrap();
            transaction.commit().await.unwrap();
            committed.push((first + 9, Instant::now()));
        }
        committed
    });
    site.until_caught_up(PATIENCE);
    stop.store(true, Ordering::Relaxed);
    report("postgresql → postgresql", &committed, &reader.join().unwrap());
    assert!(program.stop(PATIENCE).success());
}

fn sqlite(seconds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("src"), folder.path().join("dst"));
    let database = support::teleport::SqliteDb::create(&from, &[]);
    database.run("pragma journal_mode=wal;");
    let side =
        |path: &std::path::Path| format!("{{ type: sqlite, path: {:?}, journal: WAL }}", path.display().to_string());
    let site = Site::new("delay", &format!("src: {}\ndst: {}", side(&from), side(&to)));
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (file, stop) = (to.join("sqlite.db"), Arc::clone(&stop));
        std::thread::spawn(move || {
            let connection =
                rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
            connection.busy_timeout(PATIENCE).unwrap();
            let mut newest = connection.prepare("select coalesce(max(modified), 0) from kv").unwrap();
            let mut seen: Vec<(i64, Instant)> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let id = newest.query_row([], |row| row.get(0)).unwrap();
                seen.push((id, Instant::now()));
                std::thread::sleep(Duration::from_micros(300));
            }
            seen
        })
    };
    let mut connection = rusqlite::Connection::open(database.file()).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    let mut committed = Vec::new();
    let begun = Instant::now();
    for n in 0..seconds * 100 {
        let due = begun + Duration::from_millis(10) * u32::try_from(n).unwrap();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
        for i in 0..10 {
            let id = i64::try_from(n * 10 + i + 1).unwrap();
            let key = format!("/nodes/default/{:04}", id % 2_000);
            let put = "insert or replace into kv (key, modified, value, revision) values (?1, ?2, ?3, '')";
            transaction.prepare_cached(put).unwrap().execute((&key, id, [b'x'; 200])).unwrap();
            let event = "insert into events (type, created, kv_key, kv_modified, kv_value) values ('1', strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'), ?1, ?2, ?3)";
            transaction.prepare_cached(event).unwrap().execute((&key, id, [b'x'; 200])).unwrap();
        }
        transaction.commit().unwrap();
        committed.push((i64::try_from(n * 10 + 10).unwrap(), Instant::now()));
    }
    site.until_caught_up(PATIENCE);
    stop.store(true, Ordering::Relaxed);
    report("sqlite → sqlite (WAL)", &committed, &reader.join().unwrap());
    assert!(program.stop(PATIENCE).success());
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// For each commit: from its return to the first look that sees it.
fn report(route: &str, committed: &[(i64, Instant)], seen: &[(i64, Instant)]) {
    let mut delays: Vec<f64> = committed
        .iter()
        .map(|(id, at)| {
            let first = seen.partition_point(|(newest, _)| newest < id);
            // A row can be visible before the writer hears that its own commit is done.
            seen[first].1.saturating_duration_since(*at).as_secs_f64() * 1e3
        })
        .collect();
    delays.sort_by(f64::total_cmp);
    println!(
        "PROVE 3.7 delay {route}, 1 000 changes/s: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms ({} commits, {} looks)",
        at(&delays, 0.5),
        at(&delays, 0.99),
        at(&delays, 1.0),
        delays.len(),
        seen.len()
    );
}
