//! Slot, publication, pin and proof against a real PostgreSQL server, looked at with psql.

use std::time::{Duration, Instant};

use driftless::error::{Error, Fault};
use driftless::kinds::postgres::admin::{TableName, head, pin, prove, publication, slot};
use driftless::kinds::postgres::wire::lsn::Lsn;
use driftless::kinds::postgres::{Endpoint, Options, ReplicationConn, Session};
use driftless::model::Checkpoint;
use tokio_postgres::Client;

use crate::support::pg;

/// A database of its own with a table, and the options of a stream that reads it.
struct Fixture {
    database: String,
    options: Options,
    endpoint: Endpoint,
}

impl Fixture {
    fn new(hint: &str) -> Self {
        let database = pg::primary().database(hint);
        let options = Options::new(database.clone(), pg::primary().url(&database));
        let endpoint = Endpoint::new(&options).unwrap();
        let this = Self { database, options, endpoint };
        this.psql("create table a (id int primary key, v text); insert into a values (1, 'x')");
        this
    }

    fn psql(&self, sql: &str) -> String {
        pg::primary().psql(&self.database, sql)
    }

    fn slot(&self, column: &str) -> String {
        self.psql(&format!("select {column} from pg_replication_slots where slot_name = '{}'", self.options.slot()))
    }

    async fn pin(&self) -> Result<pin::Pin, Error> {
        pin::pin(&self.endpoint, &self.options, &names(&["a"]), false).await
    }

    async fn client(&self) -> Client {
        self.endpoint.session(&Session::ADMIN).await.unwrap()
    }

    async fn prove(&self, from: &Checkpoint) -> Result<Lsn, Error> {
        let (client, mut conn) = (self.client().await, self.endpoint.replication().await.unwrap());
        let identity = head::identify(&mut conn).await.unwrap();
        let ancestors = head::ancestors(&mut conn, identity.timeline).await.unwrap();
        let server = prove::Server {
            identity: &identity,
            flushed: head::flushed(&client).await.unwrap(),
            ancestors: &ancestors,
        };
        let state = slot::inspect(&client, &self.options.slot()).await.unwrap();
        prove::prove(&server, &self.options.slot(), state.as_ref(), from)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let sql = format!(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{}' and not active",
            self.options.slot()
        );
        drop(pg::primary().try_psql("postgres", &sql));
    }
}

fn names(tables: &[&str]) -> Vec<TableName> {
    tables.iter().map(|table| TableName::new("public", *table)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_makes_publication_and_slot_and_keeps_them_the_next_time() {
    let f = Fixture::new("pinned");
    let first = f.pin().await.unwrap();
    assert!(first.made_slot);
    assert_eq!(f.slot("plugin || ' ' || temporary || ' ' || active"), "pgoutput false false");
    assert_eq!(f.psql("select tablename from pg_publication_tables"), "a");
    assert_eq!(f.psql("select pubviaroot from pg_publication"), "t");
    let before: Lsn = f.slot("confirmed_flush_lsn").parse().unwrap();
    assert!(before <= first.at, "{before} {}", first.at);
    f.psql("insert into a values (2, 'y')");
    let second = f.pin().await.unwrap();
    assert!(!second.made_slot && second.at > first.at);
    assert_eq!(f.slot("confirmed_flush_lsn"), before.to_string());
    let id = f.psql("select system_identifier from pg_control_system()");
    let oid = f.psql("select oid from pg_database where datname = current_database()");
    let expected = format!("pg/{id}/{oid}/{}", f.options.slot());
    let checkpoint = second.checkpoint(&f.options.slot());
    let (partition, position) = checkpoint.iter().next().unwrap();
    assert_eq!((partition.as_str(), position), (expected.as_str(), &second.at.position()));
    assert_eq!(f.prove(&checkpoint).await.unwrap(), second.at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_waits_for_the_transactions_that_were_open_and_for_no_other() {
    let f = Fixture::new("waiting");
    f.pin().await.unwrap();
    let writer = f.endpoint.session(&Session::WRITE).await.unwrap();
    writer.batch_execute("begin; insert into a values (7, 'open')").await.unwrap();
    let pin = f.pin();
    tokio::pin!(pin);
    assert!(tokio::time::timeout(Duration::from_millis(600), pin.as_mut()).await.is_err(), "it did not wait");
    let other = f.endpoint.session(&Session::WRITE).await.unwrap();
    other.batch_execute("begin; insert into a values (8, 'later')").await.unwrap();
    writer.batch_execute("commit").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), pin).await.expect("it waited for a later transaction").unwrap();
    other.batch_execute("rollback").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_slot_waits_for_an_old_transaction_and_names_it() {
    let f = Fixture::new("blocked");
    let writer = f.endpoint.session(&Session::WRITE).await.unwrap();
    writer.batch_execute("begin; insert into a values (7, 'open')").await.unwrap();
    let pid: i32 = writer.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let (client, mut conn) = (f.client().await, f.endpoint.replication().await.unwrap());
    let lines = crate::support::log::Lines::default();
    let made = lines.during(async {
        let create = slot::create(&mut conn, &client, "blocked_slot", Duration::from_millis(200));
        tokio::pin!(create);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !lines.text().contains(&format!("process {pid} (open for")) {
            assert!(Instant::now() < deadline, "nobody was named: {}", lines.text());
            assert!(tokio::time::timeout(Duration::from_millis(100), create.as_mut()).await.is_err());
        }
        writer.batch_execute("commit").await.unwrap();
        create.await.unwrap()
    });
    let point = made.await;
    assert_eq!(
        f.psql("select confirmed_flush_lsn from pg_replication_slots where slot_name = 'blocked_slot'"),
        point.to_string()
    );
    assert!(slot::drop(&client, "blocked_slot").await.unwrap());
    assert!(!slot::drop(&client, "blocked_slot").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_somebody_else_is_refused() {
    let f = Fixture::new("foreign");
    let name = f.options.slot();
    f.psql(&format!("select pg_create_logical_replication_slot('{name}', 'test_decoding')"));
    let error = f.pin().await.unwrap_err();
    assert!(error.fault() == Fault::Config && error.to_string().contains("test_decoding"), "{error}");
    f.psql(&format!("select pg_drop_replication_slot('{name}')"));
    f.pin().await.unwrap();
    // Another reader, under another application name, then one of our own name.
    for (stream, fault) in [("somebody", Fault::Config), (f.options.stream.as_str(), Fault::Transient)] {
        let options = Options::new(stream, f.options.conn_string.clone());
        let mut reader = Endpoint::new(&options).unwrap().replication().await.unwrap();
        start(&mut reader, &f.options).await;
        let error = f.pin().await.unwrap_err();
        assert_eq!(error.fault(), fault, "{error}");
        assert!(error.to_string().contains("process"), "{error}");
        drop(reader);
        let deadline = Instant::now() + Duration::from_secs(20);
        while f.slot("active") == "t" {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Starts streaming and waits for the server to say so.
async fn start(conn: &mut ReplicationConn, options: &Options) {
    let sql = format!(
        "START_REPLICATION SLOT \"{}\" LOGICAL 0/0 (proto_version '1', publication_names '\"{}\"')",
        options.slot(),
        options.publication()
    );
    let mut message = bytes::BytesMut::new();
    postgres_protocol::message::frontend::query(&sql, &mut message).unwrap();
    conn.send(&message).await.unwrap();
    let mut first = [0];
    tokio::io::AsyncReadExt::read_exact(&mut conn.stream, &mut first).await.unwrap();
    assert_eq!(first[0], b'W');
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_made_anew_or_is_gone_loses_the_position() {
    let f = Fixture::new("lost");
    let checkpoint = f.pin().await.unwrap().checkpoint(&f.options.slot());
    let client = f.client().await;
    slot::drop(&client, &f.options.slot()).await.unwrap();
    let error = f.prove(&checkpoint).await.unwrap_err();
    assert_eq!(error.fault(), Fault::PositionLost, "{error}");
    f.psql("insert into a select g, 'x' from generate_series(10, 20) g");
    f.pin().await.unwrap();
    let error = f.prove(&checkpoint).await.unwrap_err();
    assert_eq!(error.fault(), Fault::PositionLost, "{error}");
    assert!(error.to_string().contains("made anew"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_log_was_removed_is_seen_and_replaced_by_the_next_pin() {
    let server = pg::Pg::start("small-wal", &["max_slot_wal_keep_size=1MB", "min_wal_size=32MB", "max_wal_size=32MB"]);
    let options = Options::new("small", server.url("postgres"));
    let endpoint = Endpoint::new(&options).unwrap();
    server.psql("postgres", "create table a (id int primary key, v text)");
    let first = pin::pin(&endpoint, &options, &names(&["a"]), false).await.unwrap();
    let client = endpoint.session(&Session::ADMIN).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let state = loop {
        server.psql("postgres", "insert into a values (1, '') on conflict do nothing");
        server.psql("postgres", "select pg_switch_wal()");
        server.psql("postgres", "checkpoint");
        let state = slot::inspect(&client, &options.slot()).await.unwrap().unwrap();
        if state.dead().is_some() {
            break state;
        }
        assert!(Instant::now() < deadline, "{state:?}");
    };
    assert_eq!(state.wal_status.as_deref(), Some("lost"));
    let second = pin::pin(&endpoint, &options, &names(&["a"]), false).await.unwrap();
    assert!(second.made_slot && second.at > first.at);
    let state = slot::inspect(&client, &options.slot()).await.unwrap().unwrap();
    assert!(state.dead().is_none() && state.retained.is_some(), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_follows_the_wanted_tables_and_never_breaks_an_update() {
    let f = Fixture::new("published");
    let client = f.client().await;
    let name = f.options.publication();
    f.psql("create table b (id int primary key); create table nokey (v int); create table late (id int primary key deferrable)");
    f.psql("create table parts (id int primary key) partition by range (id)");
    f.psql("create table parts_1 partition of parts for values from (0) to (10)");
    let published = || f.psql("select string_agg(tablename, ',' order by tablename) from pg_publication_tables");
    assert!(publication::ensure(&client, &name, &names(&["a", "parts"]), true).await.unwrap());
    assert_eq!(published(), "a,parts");
    assert!(!publication::ensure(&client, &name, &names(&["parts", "a"]), true).await.unwrap());
    assert!(publication::ensure(&client, &name, &names(&["b", "a"]), true).await.unwrap());
    assert_eq!(published(), "a,b");
    for (bad, fix) in [("nokey", "full"), ("late", "full")] {
        let error = publication::ensure(&client, &name, &names(&["a", bad]), true).await.unwrap_err();
        assert!(error.fault() == Fault::Config && error.to_string().contains(bad), "{error}");
        assert_eq!(published(), "a,b", "a refused change was kept");
        f.psql(&format!("alter table {bad} replica identity {fix}"));
        assert!(publication::ensure(&client, &name, &names(&["a", bad]), true).await.unwrap());
        assert!(publication::ensure(&client, &name, &names(&["a", "b"]), true).await.unwrap());
    }
    f.psql("alter table parts_1 replica identity nothing");
    let error = publication::ensure(&client, &name, &names(&["parts"]), true).await.unwrap_err();
    assert!(error.to_string().contains("parts_1"), "{error}");
    f.psql("update nokey set v = 1; update parts set id = 1");
    assert!(publication::drop(&client, &name).await.unwrap());
    assert!(!publication::drop(&client, &name).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_made_is_printed_as_statements_that_work() {
    let f = Fixture::new("by_hand");
    let client = f.client().await;
    let (name, tables) = (f.options.publication(), names(&["a"]));
    let error = publication::ensure(&client, &name, &tables, false).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Config);
    let unmanaged = Options { manage_slot: false, manage_publication: false, ..f.options.clone() };
    assert!(pin::pin(&f.endpoint, &unmanaged, &tables, false).await.is_err());
    assert_eq!(f.psql("select count(*) from pg_publication"), "0", "P8: nothing may have been made");
    let role = format!("{}_weak", f.database);
    f.psql(&format!("create role {role} login replication password 'planted-weak'; grant select on a to {role}"));
    let conn_string =
        format!("host=127.0.0.1 port={} dbname={} user={role} password=planted-weak", pg::primary().port, f.database);
    let weak = Options::new(f.options.stream.clone(), conn_string);
    let endpoint = Endpoint::new(&weak).unwrap();
    let error = pin::pin(&endpoint, &weak, &tables, false).await.unwrap_err().to_string();
    let statement = error.split("run as the owner of the tables: ").nth(1).expect(&error);
    f.psql(statement);
    pin::pin(&endpoint, &weak, &tables, false).await.unwrap();
    let slot_statement = slot::statement(&f.options.slot());
    slot::drop(&client, &f.options.slot()).await.unwrap();
    f.psql(&slot_statement);
    assert!(!pin::pin(&f.endpoint, &unmanaged, &tables, false).await.unwrap().made_slot);
    f.psql(&format!("drop owned by {role}; drop role {role}"));
}

/// Runs `pg_ctl` as the server's user.
fn pg_ctl(server: &pg::Pg, args: &[&str]) {
    let mut command = std::process::Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    let status =
        command.arg(server.bin.join("pg_ctl")).arg("-D").arg(&server.data).args(args).current_dir("/").output();
    assert!(status.unwrap().status.success(), "pg_ctl {args:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_a_position_before_the_fork_goes_on_and_one_beyond_it_is_lost() {
    let server = pg::Pg::start("failover", &[]);
    let options = Options::new("failover", server.url("postgres"));
    let f = Fixture { database: "postgres".into(), endpoint: Endpoint::new(&options).unwrap(), options };
    server.psql("postgres", "create table a (id int primary key, v text)");
    let before = f.pin().await.unwrap();
    assert_eq!(before.identity.timeline, 1);
    // What a promoted standby is: the same history up to a fork, and a new timeline behind it.
    pg_ctl(&server, &["stop", "-m", "fast"]);
    let signal = server.data.join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&signal, Some(65534), Some(65534)).unwrap();
    }
    server.spawn(&[]);
    server.wait_ready();
    assert_eq!(server.psql("postgres", "select pg_promote()"), "t");
    server.psql("postgres", "insert into a select g, 'x' from generate_series(1, 1000) g; checkpoint");
    let mut conn = f.endpoint.replication().await.unwrap();
    let identity = head::identify(&mut conn).await.unwrap();
    assert_eq!((identity.timeline, &identity.system), (2, &before.identity.system));
    let ancestors = head::ancestors(&mut conn, 2).await.unwrap();
    assert_eq!((ancestors.len(), ancestors[0].timeline), (1, 1));
    let fork = ancestors[0].at;
    assert!(before.at <= fork);
    assert_eq!(f.prove(&before.checkpoint(&f.options.slot())).await.unwrap(), before.at);
    let beyond = pin::Pin { at: Lsn(fork.0 + 8), ..before.clone() };
    let error = f.prove(&beyond.checkpoint(&f.options.slot())).await.unwrap_err();
    assert!(error.fault() == Fault::PositionLost && error.to_string().contains("timeline 1"), "{error}");
    let ahead = pin::Pin { at: Lsn(fork.0 + (1 << 40)), ..before };
    let error = f.prove(&ahead.checkpoint(&f.options.slot())).await.unwrap_err();
    assert!(error.to_string().contains("went back in time"), "{error}");
    assert!(f.pin().await.unwrap().at > fork);
}
