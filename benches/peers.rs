//! PostgreSQL → PostgreSQL beside what a user would pick instead, in one run on one machine.
//!
//! For each work the same backlog is drained by native logical replication (default, and `binary = true`), by
//! `pg_recvlogical` into /dev/null (the server's decoding alone), and by driftless, each from a slot of its own; a first
//! copy is made by `pg_dump | psql`, by native table synchronisation, and by driftless. Three repetitions, medians.
//!
//! `DRIFTLESS_BENCH_ROWS` (default 1 000 000) and `DRIFTLESS_BENCH_REPEAT` (default 3) make it smaller.
//! `DRIFTLESS_BENCH_ONLY` picks works by a part of their name.
#![allow(clippy::unwrap_used, missing_docs, dead_code)] // A bench stops at the first surprise.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../tests/it/support/mod.rs"]
mod support;

use support::pg::{PASSWORD, Pg};
use support::program::Site;

const PATIENCE: Duration = Duration::from_secs(900);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Servers {
    source: Pg,
    sink: Pg,
}

impl Servers {
    /// Lets everybody begin with nothing left to be written by those before.
    fn settle(&self) {
        for server in [&self.source, &self.sink] {
            server.psql("postgres", "checkpoint");
        }
        assert!(Command::new("sync").status().unwrap().success());
    }
}

/// What is written while nobody reads.
struct Work {
    name: &'static str,
    rows: u64,
    /// Statement that writes everything; `{rows}` is replaced.
    sql: &'static str,
    /// Rows that must be there before.
    seed: u64,
    full: bool,
}

const TABLE: &str =
    "create table t (id bigint primary key, a uuid not null, b timestamptz not null, payload bytea not null)";
const ROW: &str = "gen_random_uuid(), now(), decode(repeat(md5(i::text), 32), 'hex')";

fn main() {
    let rows = number("DRIFTLESS_BENCH_ROWS", 1_000_000);
    let repeat = number("DRIFTLESS_BENCH_REPEAT", 3);
    let only = std::env::var("DRIFTLESS_BENCH_ONLY").unwrap_or_default();
    let settings = ["fsync=on", "shared_buffers=1GB", "max_wal_size=16GB", "checkpoint_timeout=1h"];
    // The server starts one subscription per interval, five seconds by default, which says nothing about its speed.
    let sink = [&settings[..], &["wal_retrieve_retry_interval=50ms"]].concat();
    let servers = Servers { source: Pg::start("bench-source", &settings), sink: Pg::start("bench-sink", &sink) };
    let works = [
        Work {
            name: "inserts, 100 rows a transaction",
            rows,
            sql: "do $$ begin for n in 0..{rows}/100-1 loop
                  insert into t select i, {row} from generate_series(n*100+1, n*100+100) i; commit; end loop; end $$",
            seed: 0,
            full: false,
        },
        Work {
            name: "inserts, 10 000 rows a transaction",
            rows,
            sql: "do $$ begin for n in 0..{rows}/10000-1 loop
                  insert into t select i, {row} from generate_series(n*10000+1, n*10000+10000) i; commit; end loop; end $$",
            seed: 0,
            full: false,
        },
        Work {
            name: "inserts, 1 row a transaction",
            rows: rows / 4,
            sql: "do $$ begin set local synchronous_commit = off; for i in 1..{rows} loop
                  insert into t select i, {row}; commit; set local synchronous_commit = off; end loop; end $$",
            seed: 0,
            full: false,
        },
        Work {
            name: "updates of 10 000 hot rows, replica identity full",
            rows: rows / 2,
            sql: "do $$ begin for n in 0..{rows}/100-1 loop
                  update t set b = now() where id in (select (n*100+k) % 10000 + 1 from generate_series(0, 99) k); commit; end loop; end $$",
            seed: 10_000,
            full: true,
        },
    ];
    for work in works.iter().filter(|work| work.name.contains(&only)) {
        drain(&servers, work, repeat);
    }
    if "first copy".contains(&only) {
        first_copy(&servers, rows, repeat);
    }
}

/// Prints the median of each peer's rates.
fn table(name: &str, rows: u64, results: &[(&str, Vec<f64>)]) {
    let median = |times: &[f64]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let ours = results.iter().find(|(peer, _)| *peer == "driftless").map(|(_, times)| median(times)).unwrap();
    for (peer, times) in results {
        let time = median(times);
        println!(
            "PROVE 3.6 {name}: {peer}: {:.1} k rows/s (median {time:.2} s of {times:.2?}); driftless is {:.2} x as fast",
            rows as f64 / time / 1e3,
            time / ours
        );
    }
}

#[allow(clippy::too_many_lines)] // One experiment, told in the order in which it happens.
fn drain(servers: &Servers, work: &Work, repeat: u64) {
    let mut results = [
        ("native", Vec::new()),
        ("native binary", Vec::new()),
        ("pg_recvlogical", Vec::new()),
        ("driftless", Vec::new()),
    ];
    let mut written = (0.0, 0.0);
    for round in 0..repeat {
        let source = servers.source.database("drain");
        let run = |sql: &str| servers.source.psql(&source, sql);
        run(TABLE);
        let row = |sql: &str| sql.replace("{rows}", &work.rows.to_string()).replace("{row}", ROW);
        run(&row(&format!("insert into t select i, {{row}} from generate_series(1, {}) i", work.seed)));
        if work.full {
            run("alter table t replica identity full");
        }
        run("create publication peers for table t");
        let native: Vec<String> = ["n", "b"].iter().map(|hint| subscriber(servers, &source, hint)).collect();
        run("select pg_create_logical_replication_slot('raw', 'pgoutput')");
        let ours = servers.sink.database("drain_ours");
        let site = site(servers, &source, &ours);
        let program = site.start("run", &[]);
        site.until_caught_up(PATIENCE);
        assert!(program.stop(PATIENCE).success());
        run(&row(work.sql));
        run("update t set b = 'epoch' where id = (select max(id) from t)");
        let last = run("select max(id) from t");
        for place in 0..results.len() {
            // Whoever comes first finds emptier caches and quieter disks, so everybody does once.
            let peer = (place + round as usize) % results.len();
            servers.settle();
            let time = match peer {
                0 | 1 => {
                    let (database, binary) = (&native[peer], peer == 1);
                    let before = written_rows(&servers.sink, database);
                    let begun = Instant::now();
                    servers.sink.psql(database, &format!("alter subscription {database} set (binary = {binary})"));
                    servers.sink.psql(database, &format!("alter subscription {database} enable"));
                    arrived(&servers.sink, database, &last);
                    let time = begun.elapsed();
                    written.0 = written_rows(&servers.sink, database) - before;
                    servers.sink.psql(database, &format!("drop subscription {database}"));
                    time
                }
                2 => recvlogical(servers, &source),
                _ => {
                    let before = written_rows(&servers.sink, &ours);
                    let begun = Instant::now();
                    let program = site.start("run", &[]);
                    arrived(&servers.sink, &ours, &last);
                    let time = begun.elapsed();
                    written.1 = written_rows(&servers.sink, &ours) - before;
                    assert!(program.stop(PATIENCE).success());
                    time
                }
            };
            results[peer].1.push(time.as_secs_f64());
        }
        let sum = "select count(*), sum(hashtextextended(t::text, 0)) from t";
        assert_eq!(servers.source.psql(&source, sum), servers.sink.psql(&ours, sum));
        site.done("drop-slot", &[]);
        for database in native.iter().chain([&ours]) {
            servers.sink.psql("postgres", &format!("drop database {database}"));
        }
        servers.source.psql(&source, "select pg_drop_replication_slot('raw')");
        servers.source.psql("postgres", &format!("drop database {source}"));
    }
    table(work.name, work.rows, &results);
    if work.full {
        println!(
            "PROVE 3.6 {}: rows written at the sink: native {:.0}, driftless {:.0} ({:.2} of native's)",
            work.name,
            written.0,
            written.1,
            written.1 / written.0
        );
    }
}

/// Inserted and updated rows so far, by the server's own count.
fn written_rows(server: &Pg, database: &str) -> f64 {
    let sql = "select coalesce(sum(n_tup_ins + n_tup_upd), 0) from pg_stat_user_tables where relname = 't'";
    // Sessions report their counts at the end of a transaction, at most once a second.
    std::thread::sleep(Duration::from_millis(1_200));
    server.psql(database, sql).parse().unwrap()
}

fn site(servers: &Servers, source: &str, sink: &str) -> Site {
    Site::new(
        "peers",
        &format!(
            "name: {source}\nsrc: {{ type: postgresql, conn_string: {:?}, layout: raw, tables: [\"public.*\"] }}\n\
             dst: {{ type: postgresql, conn_string: {:?}, layout: raw }}\nforce: true",
            servers.source.url(source),
            servers.sink.url(sink)
        ),
    )
}

/// A database that subscribes, disabled, with the rows that are there already.
fn subscriber(servers: &Servers, source: &str, hint: &str) -> String {
    let database = servers.sink.database(&format!("sub_{hint}"));
    servers.sink.psql(&database, TABLE);
    let copied = servers.source.psql(source, "select count(*) from t");
    let connection =
        format!("host=127.0.0.1 port={} user=postgres password={PASSWORD} dbname={source}", servers.source.port);
    servers.sink.psql(
        &database,
        &format!("create subscription {database} connection '{connection}' publication peers with (copy_data = true)"),
    );
    wait(&servers.sink, &database, "select 1 from pg_subscription_rel having bool_and(srsubstate = 'r')");
    assert_eq!(servers.sink.psql(&database, "select count(*) from t"), copied);
    servers.sink.psql(&database, &format!("alter subscription {database} disable"));
    database
}

fn wait(server: &Pg, database: &str, sql: &str) {
    let deadline = Instant::now() + PATIENCE;
    while server.psql(database, sql).is_empty() {
        assert!(Instant::now() < deadline, "it never came: {sql}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Waits for the last change. One session that asks by key every 10 ms: starting a client, or reading the table, for each
/// look would take a good part of the machine from whoever is measured.
fn arrived(server: &Pg, database: &str, last: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&server.url(database), tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let look = client.prepare(&format!("select from t where id = {last} and b = 'epoch'")).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while client.query(&look, &[]).await.unwrap().is_empty() {
            assert!(Instant::now() < deadline, "the last change never came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(client);
        connection.await.unwrap().unwrap();
    });
}

/// What the server's decoding alone takes.
fn recvlogical(servers: &Servers, source: &str) -> Duration {
    let end = servers.source.psql(source, "select pg_current_wal_flush_lsn()");
    let begun = Instant::now();
    let status = Command::new(servers.source.bin.join("pg_recvlogical"))
        .args(["-h", "127.0.0.1", "-p", &servers.source.port.to_string(), "-U", "postgres", "-d", source])
        .args(["--slot", "raw", "--start", "-f", "/dev/null", "--endpos", &end, "--no-loop"])
        .args(["-o", "proto_version=1", "-o", "publication_names=peers"])
        .env("PGPASSWORD", PASSWORD)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "pg_recvlogical failed");
    begun.elapsed()
}

fn first_copy(servers: &Servers, rows: u64, repeat: u64) {
    let source = servers.source.database("copy");
    servers.source.psql(&source, TABLE);
    servers.source.psql(&source, &format!("insert into t select i, {ROW} from generate_series(1, {rows}) i"));
    servers.source.psql(&source, "create publication peers for table t");
    servers.source.psql(&source, "vacuum analyze t");
    let mut results = [("pg_dump | psql", Vec::new()), ("native table sync", Vec::new()), ("driftless", Vec::new())];
    for _ in 0..repeat {
        let database = servers.sink.database("copy_dump");
        servers.settle();
        let begun = Instant::now();
        let dump = |server: &Pg, name: &str| {
            format!("{}/{name} -h 127.0.0.1 -p {} -U postgres", server.bin.display(), server.port)
        };
        let pipe =
            format!("{} {source} | {} -q -X {database}", dump(&servers.source, "pg_dump"), dump(&servers.sink, "psql"));
        let status = Command::new("sh").args(["-c", &pipe]).env("PGPASSWORD", PASSWORD).stdout(Stdio::null()).status();
        assert!(status.unwrap().success());
        results[0].1.push(begun.elapsed().as_secs_f64());
        servers.sink.psql("postgres", &format!("drop database {database}"));

        servers.settle();
        let begun = Instant::now();
        let database = subscriber(servers, &source, "copy");
        results[1].1.push(begun.elapsed().as_secs_f64());
        servers.sink.psql(&database, &format!("drop subscription {database}"));
        servers.sink.psql("postgres", &format!("drop database {database}"));

        let database = servers.sink.database("copy_ours");
        let site = site(servers, &source, &database);
        servers.settle();
        let begun = Instant::now();
        site.done("clone", &[]);
        results[2].1.push(begun.elapsed().as_secs_f64());
        let sum = "select count(*), sum(hashtextextended(t::text, 0)) from t";
        assert_eq!(servers.source.psql(&source, sum), servers.sink.psql(&database, sum));
        servers.sink.psql("postgres", &format!("drop database {database}"));
    }
    table("first copy", rows, &results);
    servers.source.psql("postgres", &format!("drop database {source}"));
}
