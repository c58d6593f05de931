//! The PostgreSQL sink against real servers; what it did is read back with psql.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftless::error::Fault;
use driftless::kinds::postgres::catalog::{self, Need};
use driftless::kinds::postgres::shape::{Column, Shape};
use driftless::kinds::postgres::sink::PgSink;
use driftless::kinds::postgres::{Options, kvrow};
use driftless::model::{
    Batch, Changes, Checkpoint, Claim, Commit, LaneRecord, Layout, Op, Owner, PartitionId, Position, Scope, Steps,
    StreamId, Table,
};
use driftless::sink::{Sink, Writer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::pg::{self, Pg};

const STREAM: &str = "s";

fn options(server: &Pg, database: &str, layout: Layout) -> Options {
    let mut options = Options::new(STREAM, server.url(database));
    options.layout = layout;
    options
}

fn raw_sink(server: &Pg, database: &str) -> PgSink {
    PgSink::new(&options(server, database, Layout::Raw)).unwrap()
}

fn claim(lane: u16, lanes: u16, seen: Option<u64>) -> Claim {
    Claim {
        stream: StreamId::new(STREAM),
        lane,
        owner: Owner("owner".into()),
        scope: Scope { layout: "test".into(), extent: "all".into(), lanes },
        seen,
        still: None,
        foreign: false,
    }
}

async fn claimed(sink: &PgSink, seen: Option<u64>) -> (LaneRecord, Box<dyn Writer>) {
    sink.claim(&claim(0, 1, seen)).await.unwrap()
}

/// The shape of a table as psql sees it; bodies are text unless `binary`.
fn shape(server: &Pg, database: &str, name: &str, binary: bool) -> Shape {
    let listed = server.psql(
        database,
        &format!(
            "select a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod), \
             coalesce((select array_position(i.indkey::int[], a.attnum::int) from pg_index i \
               where i.indrelid = a.attrelid and i.indisprimary), -1) \
             from pg_attribute a where attrelid = '{name}'::regclass and attnum > 0 and not attisdropped \
             and attgenerated = '' order by attnum"
        ),
    );
    let mut shape = Shape { schema: "public".into(), name: name.into(), binary, ..Shape::default() };
    let mut key = Vec::new();
    for (index, line) in listed.lines().enumerate() {
        let fields: Vec<&str> = line.split('|').collect();
        shape.columns.push(Column {
            name: fields[0].into(),
            type_oid: fields[1].parse().unwrap(),
            type_name: fields[2].into(),
            binary,
            ..Column::default()
        });
        let place: i32 = fields[3].parse().unwrap();
        if place >= 0 {
            key.push((place, index));
        }
    }
    key.sort_unstable();
    shape.key = key.into_iter().map(|(_, index)| index).collect();
    shape
}

fn text_table(server: &Pg, database: &str, name: &str) -> Arc<Table> {
    shape(server, database, name, false).table()
}

/// A body of text columns: `None` is NULL, `Some("\0")` a hole.
fn body(values: &[Option<&str>]) -> Vec<u8> {
    let mut out = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        match value {
            None => out.push(b'n'),
            Some("\0") => out.push(b'u'),
            Some(text) => {
                out.push(b't');
                out.extend((text.len() as u32).to_be_bytes());
                out.extend(text.as_bytes());
            }
        }
    }
    out
}

fn key(values: &[&str]) -> Vec<u8> {
    values.iter().flat_map(|value| [&(value.len() as u32).to_be_bytes()[..], value.as_bytes()].concat()).collect()
}

/// A change of a test.
struct Do {
    op: Op,
    fresh: bool,
    table: Arc<Table>,
    key: Vec<u8>,
    body: Vec<u8>,
    from: Option<Vec<u8>>,
}

fn act(op: Op, table: &Arc<Table>, key_values: &[&str], values: &[Option<&str>]) -> Do {
    let body = if values.is_empty() { Vec::new() } else { body(values) };
    Do { op, fresh: false, table: Arc::clone(table), key: key(key_values), body, from: None }
}

fn put(table: &Arc<Table>, values: &[Option<&str>]) -> Do {
    act(Op::Put, table, &[values[0].unwrap()], values)
}

fn insert(table: &Arc<Table>, values: &[Option<&str>]) -> Do {
    Do { fresh: true, ..put(table, values) }
}

fn delete(table: &Arc<Table>, key: &str) -> Do {
    act(Op::Delete, table, &[key], &[])
}

fn patch(table: &Arc<Table>, values: &[Option<&str>], from: Option<&str>) -> Do {
    Do { from: from.map(|from| key(&[from])), ..act(Op::Patch, table, &[values[0].unwrap()], values) }
}

fn clear(table: &Arc<Table>) -> Do {
    act(Op::Clear, table, &[], &[])
}

fn partition() -> PartitionId {
    PartitionId::new("pg/1/1/slot")
}

fn changes(all: Vec<Do>) -> Changes {
    let mut batch = Batch::unpooled();
    batch.begin(&partition(), Position::Start, Steps::Ordinal);
    for one in &all {
        let table = batch.table(&one.table);
        batch.push_moved(one.op, one.fresh, table, &one.key, &one.body, one.from.as_deref(), 0);
    }
    let batch = Arc::new(batch);
    let mut changes = Changes::default();
    let held = changes.hold(&batch);
    for index in 0..all.len() {
        changes.pick(held, index as u32);
    }
    changes
}

fn commit(number: u64, all: Vec<Do>) -> Arc<Commit> {
    let upto = [(partition(), Position::at(format!("{number:08}")))].into_iter().collect();
    Arc::new(Commit { number, changes: changes(all), forget: Vec::new(), upto })
}

fn position(server: &Pg, database: &str) -> String {
    server.psql(
        database,
        "select l.number || ' ' || coalesce(string_agg(partition || position, ','), '') from driftless.lane l \
         left join driftless.position p using (stream, lane) where stream = 's' and lane = 0 group by l.number",
    )
}

/// A database with a table of two columns at the secondary server.
fn plain_table() -> (&'static Pg, String, Arc<Table>) {
    let server = pg::secondary();
    let database = server.database("sink");
    server.psql(&database, "create table t (id int primary key, v text)");
    let table = text_table(server, &database, "t");
    (server, database, table)
}

#[tokio::test]
async fn an_inspection_creates_nothing_and_a_claim_records_what_an_operator_can_read() {
    let server = pg::secondary();
    let database = server.database("sink");
    let sink = raw_sink(server, &database);
    assert_eq!(sink.inspect(&StreamId::new(STREAM)).await.unwrap(), None);
    assert_eq!(server.psql(&database, "select count(*) from pg_namespace where nspname = 'driftless'"), "0");

    let (record, _writer) = claimed(&sink, None).await;
    assert_eq!((record.epoch, record.number, record.checkpoint.len()), (1, 0, 0));
    let row = "select name, format, owner, layout, extent, lanes, foreign_data from driftless.stream";
    assert_eq!(server.psql(&database, row), "s|1|owner|test|all|1|f");
    let row = "select stream, lane, epoch, number, open from driftless.lane";
    assert_eq!(server.psql(&database, row), "s|0|1|0|t");

    let known = sink.inspect(&StreamId::new(STREAM)).await.unwrap().unwrap();
    assert_eq!(known.lanes, [record]);
    assert_eq!(known.owner, Owner("owner".into()));
    assert_eq!(sink.inspect(&StreamId::new("other")).await.unwrap(), None);
}

#[tokio::test]
async fn a_commit_lands_with_its_checkpoint_and_only_once() {
    let (server, database, table) = plain_table();
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let first = commit(1, vec![insert(&table, &[Some("1"), Some("a")]), put(&table, &[Some("2"), None])]);
    writer.commit(Arc::clone(&first)).await.unwrap();
    assert_eq!(server.psql(&database, "select * from t order by id"), "1|a\n2|");
    assert_eq!(position(server, &database), "1 pg/1/1/slot@00000001");

    // Somebody looks at the row between the two sendings; sending it again must not write it again.
    server.psql(&database, "update t set v = 'touched' where id = 1");
    writer.commit(Arc::clone(&first)).await.unwrap();
    assert_eq!(server.psql(&database, "select v from t where id = 1"), "touched");

    let error = writer.commit(commit(3, vec![delete(&table, "1")])).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Bug, "{error}");
    writer.commit(commit(2, vec![delete(&table, "1"), put(&table, &[Some("2"), Some("b")])])).await.unwrap();
    assert_eq!(server.psql(&database, "select * from t"), "2|b");
    assert_eq!(position(server, &database), "2 pg/1/1/slot@00000002");
}

#[tokio::test]
async fn the_server_itself_refuses_the_later_twin_of_a_commit() {
    let (server, database, table) = plain_table();
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    writer.commit(commit(1, vec![put(&table, &[Some("1"), Some("a")])])).await.unwrap();
    // As if the same commit had landed on a way of which the writer knows nothing.
    server.psql(&database, "update driftless.lane set number = 2");
    writer.commit(commit(2, vec![put(&table, &[Some("1"), Some("twin")])])).await.unwrap();
    assert_eq!(server.psql(&database, "select v from t"), "a");
    assert_eq!(position(server, &database), "2 pg/1/1/slot@00000001");

    // Nobody can have brought it further than to what was sent.
    server.psql(&database, "update driftless.lane set number = 4");
    let error = writer.commit(commit(3, vec![put(&table, &[Some("1"), Some("lost")])])).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Bug, "{error}");
    let end = "select count(pg_terminate_backend(backend_pid)) from driftless.lane";
    assert_eq!(server.psql(&database, end), "1");
    let lost = loop {
        // The first one may be the one that finds the session gone.
        let error = writer.commit(commit(3, vec![put(&table, &[Some("1"), Some("lost")])])).await.unwrap_err();
        if error.fault() != Fault::Transient {
            break error;
        }
    };
    assert_eq!(lost.fault(), Fault::Bug, "{lost}");
    assert_eq!(server.psql(&database, "select v from t"), "a");

    server.psql(&database, "update driftless.lane set number = 0");
    let error = writer.commit(commit(3, vec![put(&table, &[Some("1"), Some("lost")])])).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Bug, "{error}");
    assert_eq!(server.psql(&database, "select v from t"), "a");
}

#[tokio::test]
async fn a_commit_that_fails_leaves_neither_rows_nor_a_checkpoint() {
    let (server, database, table) = plain_table();
    server.psql(&database, "alter table t add constraint short check (length(v) < 5)");
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let bad = vec![put(&table, &[Some("1"), Some("a")]), put(&table, &[Some("2"), Some("planted-value-in-a-row")])];
    let error = writer.commit(commit(1, bad)).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Rejected, "{error}");
    assert!(error.to_string().contains("short") && !error.to_string().contains("planted"), "{error}");
    assert_eq!(server.psql(&database, "select count(*) from t"), "0");
    assert_eq!(position(server, &database), "0");

    writer.commit(commit(1, vec![put(&table, &[Some("1"), Some("a")])])).await.unwrap();
    assert_eq!(position(server, &database), "1 pg/1/1/slot@00000001");
    let log = std::fs::read_to_string(&server.log).unwrap();
    assert!(!log.contains("planted-value-in-a-row"), "the server's log shows a value of a failing statement");
}

#[tokio::test]
async fn commits_that_are_under_way_together_land_in_order() {
    let (server, database, table) = plain_table();
    let sink = raw_sink(server, &database);
    assert!(sink.limits().in_flight > 1, "the counter-proof: there is nothing to see here otherwise");
    let (_, mut writer) = claimed(&sink, None).await;
    let answers: Vec<_> = (1..=40u64)
        .map(|number| {
            let (own, text) = ((100 + number).to_string(), number.to_string());
            let rows = vec![put(&table, &[Some("1"), Some(&text)]), put(&table, &[Some(&own), Some("x")])];
            writer.commit(commit(number, rows))
        })
        .collect();
    for answer in answers {
        answer.await.unwrap();
    }
    assert_eq!(server.psql(&database, "select count(*), max(v) filter (where id = 1) from t"), "41|40");
    assert_eq!(position(server, &database), "40 pg/1/1/slot@00000040");
}

#[tokio::test]
async fn what_was_sent_behind_a_commit_that_is_refused_does_not_land_either() {
    let (server, database, table) = plain_table();
    server.psql(&database, "alter table t add constraint short check (length(v) < 5)");
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let first = writer.commit(commit(1, vec![put(&table, &[Some("1"), Some("too long")])]));
    let second = writer.commit(commit(2, vec![put(&table, &[Some("2"), Some("b")])]));
    assert_eq!(first.await.unwrap_err().fault(), Fault::Rejected);
    assert_eq!(second.await.unwrap_err().fault(), Fault::Transient);
    assert_eq!(server.psql(&database, "select count(*) from t"), "0");
    assert_eq!(position(server, &database), "0");
    writer.commit(commit(1, vec![put(&table, &[Some("1"), Some("a")])])).await.unwrap();
    writer.commit(commit(2, vec![put(&table, &[Some("2"), Some("b")])])).await.unwrap();
    assert_eq!(position(server, &database), "2 pg/1/1/slot@00000002");
}

#[tokio::test]
async fn nothing_of_a_commit_that_could_not_be_sent_whole_lands_with_the_one_behind_it() {
    let (server, database, table) = plain_table();
    server.psql(&database, "create table u (id int primary key, v text)");
    let other = text_table(server, &database, "u");
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    // Rows of the first table are on their way when it shows that a row of the second one is broken.
    let mut broken = put(&other, &[Some("7"), Some("x")]);
    broken.body.truncate(broken.body.len() - 1);
    let first = writer.commit(commit(1, vec![put(&table, &[Some("1"), Some("half")]), broken]));
    let second = writer.commit(commit(2, vec![put(&table, &[Some("2"), Some("b")])]));
    assert_eq!(first.await.unwrap_err().fault(), Fault::Corrupt);
    assert!(second.await.is_err());
    assert_eq!(server.psql(&database, "select count(*) from t"), "0");
    assert_eq!(position(server, &database), "0");
}

#[tokio::test]
async fn a_commit_that_needs_another_way_is_done_again_with_what_was_sent_behind_it() {
    let (server, database, _) = plain_table();
    server
        .psql(&database, "create table w (id int primary key, v text unique); insert into w values (1, 'a'), (2, 'b')");
    let table = text_table(server, &database, "w");
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let swapped = vec![put(&table, &[Some("1"), Some("b")]), put(&table, &[Some("2"), Some("a")])];
    let first = writer.commit(commit(1, swapped));
    let rows: Vec<String> = (10..1_500).map(|n| n.to_string()).collect();
    let second = writer.commit(commit(2, rows.iter().map(|n| insert(&table, &[Some(n), Some(n)])).collect()));
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(server.psql(&database, "select string_agg(v, '' order by id) from w where id < 3"), "ba");
    assert_eq!(server.psql(&database, "select count(*) from w"), "1492");
    assert_eq!(position(server, &database), "2 pg/1/1/slot@00000002");
}

#[tokio::test]
async fn partitions_are_forgotten_before_positions_are_written() {
    let (server, database, _) = plain_table();
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let (a, b, c) = (PartitionId::new("a"), PartitionId::new("b"), PartitionId::new("c"));
    let to = |all: &[(&PartitionId, &str)]| -> Checkpoint {
        all.iter().map(|(partition, at)| ((*partition).clone(), Position::at(at))).collect()
    };
    let send = |number, forget, upto| Arc::new(Commit { number, changes: Changes::default(), forget, upto });
    writer.commit(send(1, vec![], to(&[(&a, "1"), (&b, "1")]))).await.unwrap();
    writer.commit(send(2, vec![a.clone(), b.clone()], to(&[(&b, "0"), (&c, "7#%")]))).await.unwrap();
    let record = sink.inspect(&StreamId::new(STREAM)).await.unwrap().unwrap();
    assert_eq!(record.lanes[0].checkpoint, to(&[(&b, "0"), (&c, "7#%")]));
}

#[tokio::test]
async fn an_older_epoch_is_fenced_and_a_stale_claim_disturbs_nobody() {
    let (server, database, table) = plain_table();
    let sink = raw_sink(server, &database);
    let (_, mut old) = claimed(&sink, None).await;
    old.commit(commit(1, vec![put(&table, &[Some("1"), Some("old")])])).await.unwrap();

    let error = sink.claim(&claim(0, 1, None)).await.err().unwrap();
    assert_eq!(error.fault(), Fault::Fenced, "{error}");
    old.commit(commit(2, vec![put(&table, &[Some("1"), Some("still")])])).await.unwrap();

    let (record, mut new) = claimed(&sink, Some(1)).await;
    assert_eq!((record.epoch, record.number), (2, 2));
    assert_eq!(record.checkpoint.get(&partition()), &Position::at("00000002"));
    let error = old.commit(commit(3, vec![put(&table, &[Some("1"), Some("zombie")])])).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Fenced, "{error}");
    new.commit(commit(3, vec![put(&table, &[Some("2"), Some("new")])])).await.unwrap();
    assert_eq!(server.psql(&database, "select * from t order by id"), "1|still\n2|new");
}

#[tokio::test]
async fn a_claim_ends_an_owner_that_sits_in_an_open_transaction_with_row_locks() {
    let (server, database, table) = plain_table();
    server.psql(&database, "insert into t values (1, 'first')");
    let sink = raw_sink(server, &database);
    let (_, mut old) = claimed(&sink, None).await;
    old.stage(&Arc::new(changes(vec![put(&table, &[Some("1"), Some("staged")])]))).await.unwrap();

    let (record, mut new) = claimed(&sink, Some(1)).await;
    assert_eq!((record.epoch, record.number), (2, 0));
    new.commit(commit(1, vec![put(&table, &[Some("1"), Some("new")])])).await.unwrap();
    let error = old.commit(commit(1, vec![])).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Fenced, "{error}");
    assert_eq!(server.psql(&database, "select v from t"), "new");
}

#[tokio::test]
async fn two_claimers_at_once_make_the_records_together_and_one_of_them_wins() {
    let server = pg::secondary();
    let database = server.database("sink");
    let (one, two) = (raw_sink(server, &database), raw_sink(server, &database));
    let asked = claim(0, 1, None);
    let (a, b) = tokio::join!(one.claim(&asked), two.claim(&asked));
    let faults: Vec<Option<Fault>> = [a.err(), b.err()].iter().map(|e| e.as_ref().map(|e| e.fault())).collect();
    assert!(faults.contains(&None) && faults.contains(&Some(Fault::Fenced)), "{faults:?}");
}

#[tokio::test]
async fn a_changed_layout_and_an_unknown_format_are_refused() {
    let (server, database, _) = plain_table();
    let sink = raw_sink(server, &database);
    let (_, _writer) = claimed(&sink, None).await;
    let mut other = claim(0, 1, Some(1));
    other.scope.layout = "another".into();
    let error = sink.claim(&other).await.err().unwrap();
    assert_eq!(error.fault(), Fault::Config, "{error}");
    server.psql(&database, "update driftless.stream set format = 9");
    let error = sink.inspect(&StreamId::new(STREAM)).await.unwrap_err();
    assert!(error.fault() == Fault::Config && error.to_string().contains("format 9"), "{error}");
    assert_eq!(sink.claim(&claim(0, 1, Some(1))).await.err().unwrap().fault(), Fault::Config);
}

#[tokio::test]
async fn another_number_of_lanes_starts_from_what_all_lanes_had_passed() {
    let (server, database, table) = plain_table();
    let sink = raw_sink(server, &database);
    let (_, mut first) = sink.claim(&claim(0, 2, None)).await.unwrap();
    let (_, mut second) = sink.claim(&claim(1, 2, None)).await.unwrap();
    first.commit(commit(1, vec![])).await.unwrap();
    first.commit(commit(2, vec![])).await.unwrap();
    second.commit(commit(1, vec![])).await.unwrap();

    let (one, _writer) = sink.claim(&claim(0, 3, Some(1))).await.unwrap();
    assert_eq!(one.checkpoint.get(&partition()), &Position::at("00000001"));
    // The old second lane was not claimed again yet, and must not write under the old routing any more.
    let error = second.commit(commit(2, vec![put(&table, &[Some("1"), Some("stray")])])).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Fenced, "{error}");
    for (lane, seen) in [(1, Some(1)), (2, None)] {
        let (record, _writer) = sink.claim(&claim(lane, 3, seen)).await.unwrap();
        assert_eq!(record.checkpoint.get(&partition()), &Position::at("00000001"), "lane {lane}");
    }
    assert_eq!(server.psql(&database, "select count(*) from t"), "0");

    // Fewer lanes, then more again: the epoch of a lane that was away goes on.
    let (_, _writer) = sink.claim(&claim(0, 1, Some(2))).await.unwrap();
    let (_, _writer) = sink.claim(&claim(0, 2, Some(3))).await.unwrap();
    let (record, _writer) = sink.claim(&claim(1, 2, None)).await.unwrap();
    assert_eq!(record.epoch, 3);
}

#[tokio::test]
async fn clears_deletes_patches_and_puts_of_one_commit_leave_what_their_order_would() {
    let (server, database, table) = plain_table();
    server.psql(
        &database,
        "create table w (id int primary key, big text, n int); insert into w values (1, 'large one', 1), (2, 'large two', 2); \
         insert into t values (1, 'goes'), (2, 'goes')",
    );
    let wide = text_table(server, &database, "w");
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    // The rows of `w` change places by their keys while their large column stays where it is.
    let all = vec![
        clear(&table),
        insert(&table, &[Some("1"), Some("after")]),
        patch(&wide, &[Some("2"), Some("\0"), Some("11")], Some("1")),
        patch(&wide, &[Some("1"), Some("\0"), Some("22")], Some("2")),
    ];
    writer.commit(commit(1, all)).await.unwrap();
    assert_eq!(server.psql(&database, "select * from t order by id"), "1|after");
    assert_eq!(server.psql(&database, "select * from w order by id"), "1|large two|22\n2|large one|11");

    let all = vec![
        patch(&wide, &[Some("1"), Some("\0"), Some("5")], None),
        patch(&wide, &[Some("9"), Some("\0"), None], Some("2")),
        delete(&wide, "2"),
    ];
    writer.commit(commit(2, all)).await.unwrap();
    assert_eq!(server.psql(&database, "select * from w order by id"), "1|large two|5\n9|large one|");

    for (from, id) in [(None, "77"), (Some("77"), "78")] {
        let lost = vec![patch(&wide, &[Some(id), Some("\0"), Some("5")], from)];
        let error = writer.commit(commit(3, lost)).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Corrupt, "{error}");
    }
    assert_eq!(position(server, &database), "2 pg/1/1/slot@00000002");
}

#[tokio::test]
async fn a_unique_value_that_wanders_through_rows_is_no_obstacle() {
    let server = pg::secondary();
    let database = server.database("sink");
    server.psql(
        &database,
        "create table u (id int primary key, email text unique, big text); \
         insert into u select i, 'mail' || i, 'big' || i from generate_series(1, 3) i",
    );
    let table = text_table(server, &database, "u");
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let swap = vec![
        put(&table, &[Some("1"), Some("mail2"), Some("one")]),
        patch(&table, &[Some("2"), Some("mail3"), Some("\0")], None),
        put(&table, &[Some("3"), Some("mail1"), Some("three")]),
    ];
    writer.commit(commit(1, swap)).await.unwrap();
    assert_eq!(server.psql(&database, "select * from u order by id"), "1|mail2|one\n2|mail3|big2\n3|mail1|three");

    // The same in an open transaction, which must not lose what was staged before.
    writer.stage(&Arc::new(changes(vec![insert(&table, &[Some("4"), Some("mail4"), None])]))).await.unwrap();
    let swap = vec![put(&table, &[Some("1"), Some("mail3"), None]), put(&table, &[Some("2"), Some("mail2"), None])];
    writer.stage(&Arc::new(changes(swap))).await.unwrap();
    writer.commit(commit(2, vec![delete(&table, "3")])).await.unwrap();
    assert_eq!(server.psql(&database, "select id, email from u order by id"), "1|mail3\n2|mail2\n4|mail4");

    // A first copy reads row 5 after it took over the value of row 4, whose own change is still to come.
    writer.commit(commit(3, vec![put(&table, &[Some("5"), Some("mail4"), None])])).await.unwrap();
    assert_eq!(server.psql(&database, "select id, email from u where id > 3 order by id"), "5|mail4");
}

#[tokio::test]
async fn what_is_staged_is_invisible_until_the_commit_and_gone_with_its_connection() {
    let (server, database, table) = plain_table();
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let rows = |from: i32| -> Vec<Do> {
        (from..from + 1000).map(|i| insert(&table, &[Some(&i.to_string()), Some("x")])).collect()
    };
    writer.stage(&Arc::new(changes(rows(0)))).await.unwrap();
    writer.stage(&Arc::new(changes(rows(1000)))).await.unwrap();
    assert_eq!(server.psql(&database, "select count(*) from t"), "0");
    writer.commit(commit(1, vec![delete(&table, "7")])).await.unwrap();
    assert_eq!(server.psql(&database, "select count(*) from t"), "1999");

    writer.stage(&Arc::new(changes(vec![clear(&table)]))).await.unwrap();
    let end = "select count(pg_terminate_backend(backend_pid)) from driftless.lane";
    assert_eq!(server.psql(&database, end), "1");
    let error = writer.commit(commit(2, vec![put(&table, &[Some("5"), Some("y")])])).await.unwrap_err();
    assert_eq!(error.fault(), Fault::StageLost, "{error}");
    assert_eq!(server.psql(&database, "select count(*) from t"), "1999");
    writer.commit(commit(2, vec![put(&table, &[Some("5"), Some("y")])])).await.unwrap();
    assert_eq!(server.psql(&database, "select count(*), max(v) from t"), "1999|y");
}

#[tokio::test]
async fn rows_that_are_called_new_but_are_there_are_overwritten() {
    let (server, database, table) = plain_table();
    server.psql(&database, "insert into t select i, 'old' from generate_series(1, 2000) i");
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let rows =
        |tag: &str| -> Vec<Do> { (1000..3000).map(|i| insert(&table, &[Some(&i.to_string()), Some(tag)])).collect() };
    for number in 1..4 {
        writer.commit(commit(number, rows(&format!("new{number}")))).await.unwrap();
    }
    assert_eq!(server.psql(&database, "select v, count(*) from t group by v order by v"), "new3|2000\nold|999");
}

#[tokio::test]
async fn columns_are_found_by_name_and_generated_ones_left_to_the_server() {
    let server = pg::secondary();
    let database = server.database("sink");
    server.psql(
        &database,
        "create table g (id int generated always as identity primary key, a text, double_id int generated always as (id * 2) stored); \
         create table h (id int primary key, n int generated always as identity, a text)",
    );
    let table = text_table(server, &database, "g");
    let never_updated = text_table(server, &database, "h");
    server.psql(
        &database,
        "drop table g; create table g (extra int default 5, a text, double_id int generated always as (id * 2) stored, \
         id int generated always as identity primary key)",
    );
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    writer.commit(commit(1, vec![put(&table, &[Some("7"), Some("x")])])).await.unwrap();
    writer.commit(commit(2, vec![put(&table, &[Some("7"), Some("y")])])).await.unwrap();
    assert_eq!(server.psql(&database, "select id, a, double_id, extra from g"), "7|y|14|5");
    for (number, a) in [(3, "x"), (4, "y")] {
        writer.commit(commit(number, vec![put(&never_updated, &[Some("7"), Some("70"), Some(a)])])).await.unwrap();
    }
    assert_eq!(server.psql(&database, "select * from h"), "7|70|y");
}

#[tokio::test]
async fn a_table_that_does_not_fit_is_refused_with_everything_that_is_wrong() {
    let server = pg::secondary();
    let database = server.database("sink");
    server.psql(&database, "create table f (id int primary key, a text, b int)");
    let table = text_table(server, &database, "f");
    server.psql(&database, "drop table f; create table f (id bigint primary key, b int, c int not null)");
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let error = writer.commit(commit(1, vec![put(&table, &[Some("1"), None, None])])).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Config, "{error}");
    for wrong in ["\"id\"", "\"a\"", "\"c\""] {
        assert!(error.to_string().contains(wrong), "{error}");
    }
}

#[tokio::test]
async fn a_column_that_the_source_got_in_mid_stream_is_added() {
    let (server, database, table) = plain_table();
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    writer.commit(commit(1, vec![put(&table, &[Some("1"), Some("a")])])).await.unwrap();
    let mut wider = shape(server, &database, "t", false);
    let column = |name: &str, type_name: &str, default: Option<&str>| Column {
        name: name.into(),
        type_name: type_name.into(),
        default: default.map(str::to_owned),
        not_null: default.is_some(),
        ..Column::default()
    };
    wider.columns.push(column("w", "text", None));
    wider.columns.push(column("n", "integer", Some("5")));
    let table = wider.table();
    writer.stage(&Arc::new(changes(vec![put(&table, &[Some("2"), None, Some("b"), Some("7")])]))).await.unwrap();
    writer.commit(commit(2, vec![patch(&table, &[Some("1"), Some("\0"), Some("c"), Some("5")], None)])).await.unwrap();
    assert_eq!(server.psql(&database, "select * from t order by id"), "1|a|c|5\n2||b|7");

    wider.columns.push(column("at", "timestamp with time zone", Some("now()")));
    let error = writer.commit(commit(3, vec![put(&wider.table(), &[Some("3"), None, None, Some("1"), None])])).await;
    assert_eq!(error.unwrap_err().fault(), Fault::Config);
    sink.prepare(&[table], false).await.unwrap();
}

#[tokio::test]
async fn sequences_are_set_to_what_they_had() {
    let server = pg::secondary();
    let database = server.database("sink");
    server.psql(&database, "create sequence q; create schema \"Odd.name\"; create sequence \"Odd.name\".\"Q\"");
    let table = Arc::new(Table { name: "!sequences".into(), shape: Vec::new() });
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let set = |name: &str, value: &str| Do {
        op: Op::Put,
        fresh: false,
        table: Arc::clone(&table),
        key: name.into(),
        body: value.into(),
        from: None,
    };
    let all = vec![set("public.q", "41"), set("Odd.name.Q", "9"), set("public.not_there", "1")];
    writer.commit(commit(1, all)).await.unwrap();
    assert_eq!(server.psql(&database, "select nextval('q'), nextval('\"Odd.name\".\"Q\"')"), "42|10");
}

/// Rows of a table through `COPY … (format binary)`, as bodies.
fn binary_rows(server: &Pg, database: &str, name: &str) -> Vec<Vec<u8>> {
    let output = Command::new("psql")
        .args(["-X", "-q", "-h"])
        .arg(server.data.parent().unwrap())
        .args(["-p", &server.port.to_string(), "-U", "postgres", "-d", database, "-c"])
        .arg(format!("copy {name} to stdout (format binary)"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let mut rest = &output.stdout[19..];
    let mut rows = Vec::new();
    let mut take = |len: usize| {
        let (taken, tail) = rest.split_at(len);
        rest = tail;
        taken
    };
    loop {
        let columns = i16::from_be_bytes(take(2).try_into().unwrap());
        if columns < 0 {
            return rows;
        }
        let mut row = (columns as u16).to_be_bytes().to_vec();
        for _ in 0..columns {
            match i32::from_be_bytes(take(4).try_into().unwrap()) {
                -1 => row.push(b'n'),
                len => {
                    row.push(b'b');
                    row.extend(len.to_be_bytes());
                    row.extend(take(len as usize));
                }
            }
        }
        rows.push(row);
    }
}

const ALL_TYPES: &str = "\
    create type mood as enum ('sad', 'glad'); create domain positive as int check (value > 0); \
    create table a (id bigint primary key, b boolean, by bytea, c char(5), vc varchar(9), tx text, ch \"char\", nm name, \
        i2 smallint, i4 int, f4 real, f8 double precision, nu numeric(20,5), mo money, da date, ti time, tz timetz, \
        ts timestamp, tstz timestamptz(3), iv interval, u uuid, j json, jb jsonb, x xml, ip inet, ci cidr, ma mac_t, \
        bi bit(5), vb bit varying(9), pt point, bx box, m mood, p positive, ia int[], ta text[], r int4range, tv tsvector, \
        o oid)";
const ALL_VALUES: &str = "\
    insert into a select i, i % 2 = 0, decode(md5(i::text), 'hex'), 'c' || i, 'v' || i, E'tab\\there\\\\N\\nline ' || i, 'x', \
        'n' || i, i, i, i / 3.0, i / 7.0, i * 1.5, i::money, date '2026-01-01' + i, '12:30:00.5', '12:30:00+02', \
        timestamp '2026-01-01' + i * interval '1 hour', timestamptz '2026-01-01 00:00:00.123+00' + i * interval '1 day', \
        make_interval(months => i, days => -i, secs => i), md5(i::text)::uuid, '{\"a\": 1}', '{\"b\": [1, null]}', \
        '<a/>', '10.0.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', B'10101', B'101', point(i, -i), box(point(0, 0), point(i, i)), \
        'glad', 5, array[1, null, i], array['a,b', 'quote\"', null], int4range(i, i + 5), to_tsvector('cat sat'), i::oid \
    from generate_series(1, ROWS) i; insert into a (id) values (0)";

/// Copies the table of all types by bodies of one form; both sides must print the same.
async fn all_types(binary: bool, rows: usize) {
    let server = pg::secondary();
    let (from, to) = (server.database("types"), server.database("types"));
    for database in [&from, &to] {
        server.psql(database, &ALL_TYPES.replace("mac_t", "macaddr"));
    }
    server.psql(&from, &ALL_VALUES.replace("ROWS", &rows.to_string()));
    let table = shape(server, &from, "a", binary).table();
    let bodies: Vec<Vec<u8>> = match binary {
        true => binary_rows(server, &from, "a"),
        false => text_rows(server, &from, "a"),
    };
    let ids: Vec<Vec<u8>> = bodies.iter().map(|body| first_column(body)).collect();
    let all = |fresh: bool| -> Vec<Do> {
        let one = |(body, id): (&Vec<u8>, &Vec<u8>)| Do {
            op: Op::Put,
            fresh,
            table: Arc::clone(&table),
            key: [&(id.len() as u32).to_be_bytes()[..], id].concat(),
            body: body.clone(),
            from: None,
        };
        bodies.iter().zip(&ids).map(one).collect()
    };
    let sink = raw_sink(server, &to);
    let (_, mut writer) = claimed(&sink, None).await;
    writer.commit(commit(1, all(true))).await.unwrap();
    let look = "select a::text from a order by id";
    assert_eq!(server.psql(&to, look), server.psql(&from, look));
    server.psql(&to, "update a set tx = 'changed', ia = null");
    writer.commit(commit(2, all(false))).await.unwrap();
    assert_eq!(server.psql(&to, look), server.psql(&from, look));
    let gone: Vec<Do> = all(false).into_iter().map(|put| Do { op: Op::Delete, body: Vec::new(), ..put }).collect();
    writer.commit(commit(3, gone)).await.unwrap();
    assert_eq!(server.psql(&to, "select count(*) from a"), "0");
}

fn first_column(body: &[u8]) -> Vec<u8> {
    let len = u32::from_be_bytes(body[3..7].try_into().unwrap()) as usize;
    body[7..7 + len].to_vec()
}

fn text_rows(server: &Pg, database: &str, name: &str) -> Vec<Vec<u8>> {
    // The fields are asked for one by one in hexadecimal, so that no separator can stand in a value.
    let columns = shape(server, database, name, false).columns;
    let fields: Vec<String> = columns
        .iter()
        .map(|column| {
            format!(
                "coalesce(encode(convert_to({0}::text, 'UTF8'), 'hex'), 'null')",
                format_args!("\"{}\"", column.name)
            )
        })
        .collect();
    let listed = server.psql(database, &format!("select {} from {name}", fields.join(", ")));
    let unhex = |hex: &str| -> String {
        let bytes = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        String::from_utf8(bytes).unwrap()
    };
    let row = |line: &str| {
        let values: Vec<Option<String>> =
            line.split('|').map(|hex| if hex == "null" { None } else { Some(unhex(hex)) }).collect();
        body(&values.iter().map(Option::as_deref).collect::<Vec<_>>())
    };
    listed.lines().map(row).collect()
}

#[tokio::test]
async fn values_of_all_types_arrive_in_binary_form() {
    all_types(true, 3).await;
    all_types(true, 1200).await;
}

#[tokio::test]
async fn values_of_all_types_arrive_in_text_form() {
    all_types(false, 3).await;
    all_types(false, 1200).await;
}

/// A row of `kv` as the writer gets it from another kind.
fn kv_row(key: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let item =
        driftless::model::Item { value: value.to_vec(), expires: Some(1_775_045_430_000_000_000), revision: vec![] };
    let mut body = Vec::new();
    kvrow::Kv::of(&kvrow::shape("public")).unwrap().from_item(key.as_bytes(), &item, &mut body);
    (key.as_bytes().to_vec(), body)
}

#[tokio::test]
async fn a_new_teleport_destination_is_what_teleport_itself_makes() {
    let server = pg::secondary();
    let (ours, theirs) = (server.database("teleport"), server.database("teleport"));
    server.psql(
        &theirs,
        "CREATE TABLE backend_version (version integer PRIMARY KEY CHECK (version > 0), created timestamptz NOT NULL DEFAULT now()); \
         CREATE TABLE kv (key bytea NOT NULL, value bytea NOT NULL, expires timestamptz, revision uuid NOT NULL, \
         CONSTRAINT kv_pkey PRIMARY KEY (key)); \
         CREATE INDEX kv_expires_idx ON kv (expires) WHERE expires IS NOT NULL; \
         ALTER TABLE kv REPLICA IDENTITY FULL",
    );
    let sink = PgSink::new(&options(server, &ours, Layout::Teleport)).unwrap();
    let (_, mut writer) = claimed(&sink, None).await;
    let dump = |database: &str| {
        let output = Command::new(server.bin.join("pg_dump"))
            .args(["--schema-only", "--no-owner", "--schema=public", "-h"])
            .arg(server.data.parent().unwrap())
            .args(["-p", &server.port.to_string(), "-U", "postgres", database])
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| !line.starts_with("\\")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(dump(&ours), dump(&theirs));
    assert_eq!(server.psql(&ours, "select version from backend_version"), "2");

    let other_kind = Arc::new(Table { name: String::new(), shape: b"another kind's".to_vec() });
    let put = |key: &str, value: &[u8]| {
        let (key, body) = kv_row(key, value);
        Do { op: Op::Put, fresh: false, table: Arc::clone(&other_kind), key, body, from: None }
    };
    writer.commit(commit(1, vec![put("/a", b"\0\xff"), put("/b", b"2"), put("/c", b"3")])).await.unwrap();
    let before = server.psql(&ours, "select xmin from kv where key = '/a'");
    let gone = Do { op: Op::Delete, body: Vec::new(), ..put("/b", b"") };
    writer.commit(commit(2, vec![gone, put("/a", b"\0\xff"), put("/c", b"4")])).await.unwrap();
    let listed = server.psql(&ours, "select convert_from(key, 'UTF8'), value, expires, revision from kv order by key");
    let tail = "2026-04-01 12:10:30+00|00000000-0000-0000-0000-000000000000";
    assert_eq!(listed, format!("/a|\\x00ff|{tail}\n/c|\\x34|{tail}"));
    assert_eq!(server.psql(&ours, "select xmin from kv where key = '/a'"), before, "an equal row is written again");

    let (_, _writer) = claimed(&sink, Some(1)).await;
    assert_eq!(server.psql(&ours, "select count(*) from backend_version"), "1");
}

#[tokio::test]
async fn a_server_that_dies_amid_commits_gets_each_of_them_once() {
    let server = Pg::start("sink-crash", &["fsync=on"]);
    let database = server.database("crash");
    server.psql(&database, "create table t (id int primary key, v text, hits int); create table log (n int)");
    let table = text_table(&server, &database, "t");
    // Each commit bumps its row's counter in a trigger that fires although triggers are off for replicas.
    server.psql(
        &database,
        "create function hit() returns trigger language plpgsql as $$ begin insert into log values (new.id); return new; end $$; \
         create trigger hit after insert or update on t for each row execute function hit(); \
         alter table t enable always trigger hit",
    );
    let sink = raw_sink(&server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    let mut lost = 0;
    for number in 1..=60u64 {
        let id = number.to_string();
        let one = commit(number, vec![put(&table, &[Some(&id), Some("v"), Some("0")])]);
        let mut sent = writer.commit(Arc::clone(&one));
        if number % 20 == 10 {
            // The postmaster goes while a commit is under way; its children follow it.
            let pid = std::fs::read_to_string(server.data.join("postmaster.pid")).unwrap();
            let pid = pid.lines().next().unwrap().to_owned();
            assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            while Command::new("kill").args(["-0", &pid]).status().unwrap().success() {
                tokio::task::yield_now().await;
            }
            let again = server.data.join("postmaster.pid");
            drop(std::fs::remove_file(&again));
            // A postmaster that starts before the last child of the other one has gone ends at once.
            let deadline = Instant::now() + Duration::from_secs(60);
            while server.try_psql("postgres", "select 1").is_err() {
                assert!(Instant::now() < deadline, "PostgreSQL did not start, see {}", server.log.display());
                if !again.exists() {
                    server.spawn(&["fsync=on"]);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
        loop {
            match sent.await {
                Ok(()) => break,
                Err(error) => {
                    assert_eq!(error.fault(), Fault::Transient, "{error}");
                    lost += 1;
                    server.wait_ready();
                    sent = writer.commit(Arc::clone(&one));
                }
            }
        }
    }
    assert!(lost >= 1, "no commit was ever disturbed");
    assert_eq!(server.psql(&database, "select count(*), count(distinct n) from log"), "60|60");
    assert_eq!(position(&server, &database), "60 pg/1/1/slot@00000060");
}

/// A proxy whose connections to the client end when `cut` changes; the server's side of them stays open.
async fn proxy(server: &Pg) -> (u16, watch::Sender<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, to) = (listener.local_addr().unwrap().port(), server.port);
    let (cut, watched) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut watched = watched.clone();
            watched.mark_unchanged();
            tokio::spawn(async move {
                let mut behind = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut behind) => {}
                    _ = watched.changed() => {
                        drop(client);
                        // As after a partition of the network: the server learns nothing.
                        std::future::pending::<()>().await;
                    }
                }
            });
        }
    });
    (port, cut)
}

#[tokio::test]
async fn a_commit_that_hangs_behind_a_lost_connection_is_ended_before_it_is_sent_again() {
    let (server, database, table) = plain_table();
    server.psql(
        &database,
        "insert into t values (1, 'first'); create table log (v text); \
         create function hit() returns trigger language plpgsql as $$ begin insert into log values (new.v); return new; end $$; \
         create trigger hit after insert or update on t for each row execute function hit(); \
         alter table t enable always trigger hit",
    );
    let (port, cut) = proxy(server).await;
    let mut through = options(server, &database, Layout::Raw);
    through.conn_string = through.conn_string.replace(&format!(":{}/", server.port), &format!(":{port}/"));
    let sink = PgSink::new(&through).unwrap();
    let (_, mut writer) = claimed(&sink, None).await;
    writer.commit(commit(1, vec![])).await.unwrap();
    let old = server.psql(&database, "select backend_pid from driftless.lane");

    // Somebody's transaction holds the row, so the commit stays under way at the server.
    let (holder, connection) = tokio_postgres::connect(&server.url(&database), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    holder.batch_execute("begin; select from t where id = 1 for update").await.unwrap();
    let one = commit(2, vec![put(&table, &[Some("1"), Some("second")])]);
    let sent = writer.commit(Arc::clone(&one));
    let waits = format!("select count(*) from pg_stat_activity where pid = {old} and wait_event_type = 'Lock'");
    while server.psql(&database, &waits) != "1" {
        tokio::task::yield_now().await;
    }
    cut.send_modify(|count| *count += 1);
    let error = sent.await.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient, "{error}");

    let again = writer.commit(Arc::clone(&one));
    let gone = format!("select count(*) from pg_stat_activity where pid = {old}");
    while server.psql(&database, &gone) != "0" {
        tokio::task::yield_now().await;
    }
    holder.batch_execute("rollback").await.unwrap();
    again.await.unwrap();
    assert_eq!(server.psql(&database, "select * from t, log"), "1|second|second");
    assert_ne!(server.psql(&database, "select backend_pid from driftless.lane"), old);
    writer.commit(commit(3, vec![delete(&table, "1")])).await.unwrap();
    assert_eq!(position(server, &database), "3 pg/1/1/slot@00000003");
}

fn schema_of(server: &Pg, database: &str) -> String {
    let output = Command::new(server.bin.join("pg_dump"))
        .args(["--schema-only", "--no-owner", "--exclude-schema=driftless", "-d", &server.url(database)])
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with("\\")).map(|line| format!("{line}\n")).collect()
}

/// A page of a first copy.
fn page(number: u64, all: Vec<Do>) -> Arc<Commit> {
    let upto = [(PartitionId::new("!snapshot/1/t"), Position::at(format!("{number:08}")))].into_iter().collect();
    Arc::new(Commit { number, changes: changes(all), forget: Vec::new(), upto })
}

#[tokio::test]
async fn missing_tables_are_made_loaded_without_keys_and_then_given_them() {
    let (source, server) = (pg::primary(), pg::secondary());
    let (from, to) = (source.database("made"), server.database("made"));
    source.psql(
        &from,
        "create type mood as enum ('sad', 'glad'); \
         create table m (id int generated always as identity primary key, email text unique, m mood default 'sad', \
           n numeric(9,2) check (n > 0), upper_email text generated always as (upper(email)) stored); \
         create index on m (n) where n > 5; \
         insert into m (email, n) select 'mail' || i, i from generate_series(1, 3000) i",
    );
    let (client, connection) = tokio_postgres::connect(&source.url(&from), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let scope = catalog::Scope::Raw(vec!["public.*".parse().unwrap()]);
    let shapes = catalog::find(&client, &scope, Need::Scan).await.unwrap().all().unwrap();
    assert!(shapes[0].binary);
    let table = shapes[0].table();
    let rows = |condition: &str| -> Vec<Do> {
        source.psql(&from, "drop view if exists v; create view v as select id, email, m, n from m");
        binary_rows(source, &from, &format!("(select * from v where {condition} order by id)"))
            .into_iter()
            .map(|body| {
                let id = first_column(&body);
                let key = [&(id.len() as u32).to_be_bytes()[..], &id].concat();
                Do { op: Op::Put, fresh: false, table: Arc::clone(&table), key, body, from: None }
            })
            .collect()
    };
    let sink = raw_sink(server, &to);
    let (_, mut writer) = claimed(&sink, None).await;
    let tables = [Arc::clone(&table)];
    sink.prepare(&tables, true).await.unwrap();
    sink.prepare(&tables, true).await.unwrap();
    assert_eq!(server.psql(&to, "select count(*) from pg_index where indrelid = 'm'::regclass"), "0");
    writer.commit(page(1, rows("id <= 1500"))).await.unwrap();
    // Row 7 gives its address to row 2000 before that one is read; its own change is still to come.
    source.psql(&from, "update m set email = 'other' where id = 7; update m set email = 'mail7' where id = 2000");
    writer.commit(page(2, rows("id > 1500"))).await.unwrap();
    sink.settle(&tables).await.unwrap();
    sink.settle(&tables).await.unwrap();
    source.psql(&from, "drop view v");
    assert_eq!(schema_of(server, &to), schema_of(source, &from));
    assert_eq!(server.psql(&to, "select count(*), count(*) filter (where id = 7) from m"), "2999|0");

    writer.commit(commit(3, rows("id in (7, 8)"))).await.unwrap();
    source.psql(&from, "drop view v");
    let look = "select md5(string_agg(m::text, ',' order by id)) from m";
    assert_eq!(server.psql(&to, look), source.psql(&from, look));
}

#[tokio::test]
async fn tables_that_do_not_fit_are_all_named_before_anything_is_made() {
    let (source, server) = (pg::primary(), pg::secondary());
    let (from, to) = (source.database("misfit"), server.database("misfit"));
    source.psql(&from, "create table a (id int primary key, v text); create table b (id int primary key); create table c (id int primary key)");
    server.psql(&to, "create table a (id int primary key); create table b (id int)");
    let (client, connection) = tokio_postgres::connect(&source.url(&from), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let scope = catalog::Scope::Raw(vec!["public.*".parse().unwrap()]);
    let shapes = catalog::find(&client, &scope, Need::Scan).await.unwrap().all().unwrap();
    let tables: Vec<_> = shapes.iter().map(Shape::table).collect();
    let sink = raw_sink(server, &to);
    let (_, _writer) = claimed(&sink, None).await;
    let error = sink.prepare(&tables, true).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Config, "{error}");
    assert!(error.to_string().contains("\"v\"") && error.to_string().contains("\"public.b\""), "{error}");
    assert_eq!(server.psql(&to, "select to_regclass('c') is null"), "t");
}

async fn beats(sink: &PgSink, epoch: u64) {
    let (stream, patience) = (StreamId::new(STREAM), std::time::Duration::from_secs(5));
    let beat = tokio::time::timeout(patience, sink.beat(&stream, 0, epoch));
    beat.await.expect("a beat waits for no lock").unwrap();
}

#[tokio::test]
async fn a_beat_waits_for_no_lock_of_a_claim_and_a_claim_for_none_of_a_beat() {
    let server = pg::secondary();
    let database = server.database("beat");
    let sink = raw_sink(server, &database);
    let (_, _older) = claimed(&sink, None).await;
    let (holder, connection) = tokio_postgres::connect(&server.url(&database), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // What a claim and a commit lock, held for as long as it takes.
    let locks = "begin; select from driftless.lane for update; select from driftless.stream for update; \
        select pg_advisory_xact_lock(hashtext('driftless'), hashtext('s'))";
    holder.batch_execute(locks).await.unwrap();
    beats(&sink, 1).await;
    assert_eq!(server.psql(&database, "select epoch, beat from driftless.beat"), "1|1");
    // A beat that never ends.
    holder.batch_execute("rollback; begin; update driftless.beat set beat = 100").await.unwrap();
    let begun = std::time::Instant::now();
    let (record, _newer) = claimed(&sink, Some(1)).await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!((record.epoch, record.beat), (2, 0));
    beats(&sink, 2).await;
    holder.batch_execute("commit").await.unwrap();
    beats(&sink, 1).await;
    let known = sink.inspect(&StreamId::new(STREAM)).await.unwrap().unwrap();
    assert_eq!((known.lanes[0].epoch, known.lanes[0].beat), (2, 1), "what was the older owner's counts for nothing");
    let (_, _newest) = claimed(&sink, Some(2)).await;
    assert_eq!(server.psql(&database, "select epoch, beat from driftless.beat"), "3|0", "what is old is removed");
}

#[tokio::test]
async fn records_of_an_earlier_shape_are_known_and_get_what_they_lack_with_the_next_claim() {
    let (server, database, table) = plain_table();
    let sink = raw_sink(server, &database);
    let (_, mut writer) = claimed(&sink, None).await;
    writer.commit(commit(1, vec![put(&table, &[Some("1"), Some("a")])])).await.unwrap();
    server.psql(&database, "drop table driftless.beat");
    let known = sink.inspect(&StreamId::new(STREAM)).await.unwrap().expect("the stream is known");
    assert_eq!((known.lanes[0].epoch, known.lanes[0].number, known.lanes[0].beat), (1, 1, 0));
    let stream = StreamId::new(STREAM);
    assert!(sink.beat(&stream, 0, 1).await.is_err(), "nobody is told so more than in the log");
    writer.commit(commit(2, vec![put(&table, &[Some("1"), Some("b")])])).await.unwrap();
    let (record, mut writer) = claimed(&sink, Some(1)).await;
    assert_eq!((record.epoch, record.number), (2, 2));
    beats(&sink, 2).await;
    let known = sink.inspect(&StreamId::new(STREAM)).await.unwrap().unwrap();
    assert_eq!(known.lanes[0].beat, 1);
    writer.commit(commit(3, vec![put(&table, &[Some("1"), Some("c")])])).await.unwrap();
    assert_eq!(server.psql(&database, "select v from t"), "c");
}
