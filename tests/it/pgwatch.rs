//! A source is not harmed: what a slot holds is bounded, also while nobody reads.

use std::time::{Duration, Instant};

use driftless::error::Fault;
use driftless::kinds::postgres::Options;
use driftless::kinds::postgres::stream::PostgresSource;
use driftless::model::{Batch, Checkpoint, Layout};
use driftless::pool::Pool;
use driftless::source::{Source, Tail};

use crate::support::pg::{self, Pg};
use crate::support::scale::figure;

const LIMIT: u64 = 16 << 20;
/// Longer than it takes from one look of the watch to the next, and to end the stream.
const PATIENCE: Duration = Duration::from_secs(60);

struct Watched {
    server: Pg,
    database: String,
    options: Options,
    source: PostgresSource,
    pool: Pool,
    _state: tempfile::TempDir,
}

impl Watched {
    fn new(name: &str) -> Self {
        let server = Pg::start(name, &["max_wal_size=32MB", "min_wal_size=32MB", "autovacuum=off"]);
        let database = server.database(name);
        server.psql(&database, "create table t (id bigserial primary key, v text not null)");
        let state = tempfile::tempdir().unwrap();
        let mut options = Options::new(&database, server.url(&database));
        options.layout = Layout::Raw;
        options.tables = vec!["public.*".into()];
        options.state_dir = state.path().to_owned();
        options.memory = 64 << 20;
        options.max_retained = LIMIT;
        let source = PostgresSource::new(&options).unwrap();
        Self { server, database, options, source, pool: Pool::new(4, 16 << 10), _state: state }
    }

    fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql)
    }

    /// Writes about this many MiB of log.
    fn write(&self, mib: u32) {
        self.sql(&format!("insert into t (v) select repeat('x', 1000) from generate_series(1, {mib} * 900)"));
    }

    fn slots(&self) -> String {
        self.sql(&format!("select count(*) from pg_replication_slots where slot_name = '{}'", self.options.slot()))
    }

    fn retained(&self) -> u64 {
        let sql = "select (pg_current_wal_flush_lsn() - restart_lsn)::int8 from pg_replication_slots";
        self.sql(sql).parse().unwrap()
    }
}

async fn pass(tail: &mut dyn Tail, batch: Batch) {
    let upto: Checkpoint = [(batch.partition.clone(), batch.upto().clone())].into_iter().collect();
    tail.release(&upto).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_at_its_limit_is_dropped_although_nobody_takes_a_batch() {
    let site = Watched::new("limited");
    let pinned = site.source.pin().await.unwrap();
    let mut tail = site.source.tail(&pinned, &site.pool).await.unwrap();
    let oldest = site.sql("select pg_walfile_name(restart_lsn) from pg_replication_slots");
    site.write(64);
    let written = Instant::now();
    // The batches are held, so the last call waits for a credit that nobody gives back.
    let mut held = Vec::new();
    let error = loop {
        match tokio::time::timeout(PATIENCE, tail.next()).await.expect("the stream is ended in time") {
            Ok(batch) => held.push(batch),
            Err(error) => break error,
        }
    };
    let ended = written.elapsed();
    assert_eq!(site.pool.free(), 0, "it waited for a credit");
    assert_eq!(error.fault(), Fault::PositionLost, "{error}");
    assert!(error.to_string().contains("held more WAL than max_retained"), "{error}");
    assert_eq!(site.slots(), "0");
    let size = "select (sum(size) / 1048576)::int8 from pg_ls_waldir()";
    let before = site.sql(size);
    site.sql("checkpoint");
    let there = site.sql(&format!("select count(*) from pg_ls_waldir() where name = '{oldest}'"));
    assert_eq!(there, "0", "the log that the slot held is freed");
    figure(
        "P8",
        "retained",
        format!(
            "slot dropped {:.1} s after 64 MiB were written; WAL {before} MiB, {} MiB after a checkpoint",
            ended.as_secs_f64(),
            site.sql(size)
        ),
    );
    // From where it stood the stream does not go on; from a new pin it does.
    drop((tail, held));
    let again = site.source.tail(&pinned, &site.pool).await.err().unwrap();
    assert_eq!(again.fault(), Fault::PositionLost, "{again}");
    let pinned = site.source.pin().await.unwrap();
    let mut tail = site.source.tail(&pinned, &site.pool).await.unwrap();
    assert!(tail.next().await.is_ok());
    // The sink may be away for so long that no stream is open at all.
    drop(tail);
    site.write(64);
    let deadline = Instant::now() + PATIENCE;
    while site.slots() != "0" {
        assert!(Instant::now() < deadline, "the slot is dropped without a stream too");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_the_role_may_not_publish_is_told_with_its_statement_and_copied_once_somebody_ran_it() {
    let server = pg::primary();
    let database = server.database("foreign");
    let role = format!("reader_of_{database}");
    let sql = |text: &str| server.psql(&database, text);
    sql(&format!(
        "create role {role} login replication password '{0}'; grant create on database {database} to {role};
         create table ours (id int primary key); alter table ours owner to {role}",
        pg::PASSWORD
    ));
    let state = tempfile::tempdir().unwrap();
    let url = server.url(&database).replace("//postgres:", &format!("//{role}:"));
    let mut options = Options::new(&database, url);
    options.layout = Layout::Raw;
    options.tables = vec!["public.*".into()];
    options.state_dir = state.path().to_owned();
    let source = PostgresSource::new(&options).unwrap();
    let pool = Pool::new(4, 16 << 10);
    let pinned = source.pin().await.unwrap();
    sql(&format!("create table theirs (id int primary key); grant select on theirs to {role}"));
    let tail = source.tail(&pinned, &pool).await.expect("the others are streamed");
    // One of our own is not held back by it.
    drop(tail);
    sql(&format!("create table beside (id int primary key); alter table beside owner to {role}"));
    let error = source.tail(&pinned, &pool).await.err().expect("the next pin brings it");
    assert_eq!(error.fault(), Fault::PositionLost, "{error}");
    assert!(error.to_string().contains("beside") && !error.to_string().contains("theirs"), "{error}");
    let refused = source.pin().await.expect_err("a first pin takes all or nothing");
    assert!(refused.to_string().contains("theirs"), "{refused}");
    let pinned = source.repin().await.unwrap();
    assert_eq!(sql("select count(*) from pg_publication_tables where tablename in ('beside', 'theirs')"), "1");
    let tail = source.tail(&pinned, &pool).await.expect("the others are streamed");
    let concern = source.concern().expect("it is told");
    let (_, statement) = concern.split_once("run: ").unwrap();
    assert!(statement.starts_with("alter publication") && statement.contains("theirs"), "{concern}");
    drop(tail);
    sql(statement);
    let error = source.tail(&pinned, &pool).await.err().expect("what it held was never copied");
    assert_eq!(error.fault(), Fault::PositionLost, "{error}");
    assert!(error.to_string().contains("theirs") && source.concern().is_none(), "{error}");
    let pinned = source.pin().await.unwrap();
    drop(source.tail(&pinned, &pool).await.unwrap());
    // One of our own is added without a word.
    sql(&format!("create table later (id int primary key); alter table later owner to {role}"));
    let error = source.tail(&pinned, &pool).await.err().expect("the next pin brings it");
    assert_eq!(error.fault(), Fault::PositionLost, "{error}");
    source.pin().await.unwrap();
    assert_eq!(sql("select count(*) from pg_publication_tables where tablename = 'later'"), "1");
    drop(source);
    let slot = options.slot();
    sql(&format!("select pg_drop_replication_slot('{slot}')"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_releases_is_left_alone_whatever_is_written() {
    let site = Watched::new("released");
    let pinned = site.source.pin().await.unwrap();
    let mut tail = site.source.tail(&pinned, &site.pool).await.unwrap();
    let begun = Instant::now();
    let mut rounds = 0;
    // 64 MiB, and three looks of the watch.
    while rounds < 32 || begun.elapsed() < Duration::from_secs(25) {
        site.write(2);
        rounds += 1;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(50), tail.next()).await {
                pass(tail.as_mut(), batch.expect("the reader is left alone")).await;
                continue_while_there(tail.as_mut()).await;
            }
            // The server moves the slot on when it has decoded what a checkpoint logs.
            site.sql("checkpoint");
            if site.retained() < LIMIT / 4 {
                break;
            }
            assert!(Instant::now() < deadline, "the slot moves on");
        }
    }
    assert_eq!(site.slots(), "1");
}

/// Takes and releases what comes at once.
async fn continue_while_there(tail: &mut dyn Tail) {
    while let Ok(batch) = tokio::time::timeout(Duration::from_millis(20), tail.next()).await {
        let batch = batch.expect("the reader is left alone");
        let empty = batch.is_empty();
        pass(tail, batch).await;
        if empty {
            return;
        }
    }
}
