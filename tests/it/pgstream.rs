//! The stream of a PostgreSQL source, from real servers.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use driftless::error::{Fault, Result};
use driftless::kinds::postgres::Options;
use driftless::kinds::postgres::rowcodec::{self, Columns, Value};
use driftless::kinds::postgres::shape::Shape;
use driftless::kinds::postgres::stream::PostgresSource;
use driftless::model::{Batch, Checkpoint, Layout, Op, PartitionId, Position, Row};
use driftless::pool::Pool;
use driftless::source::{Source, Tail};

use crate::support::pg::{self, Pg};

/// Longest wait for anything that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that streams transactions early.
fn streaming() -> &'static Pg {
    static SERVER: OnceLock<Pg> = OnceLock::new();
    SERVER.get_or_init(|| Pg::start("streaming", &["logical_decoding_work_mem=64kB", "wal_sender_timeout=2s"]))
}

/// A database of its own, a source on it, and what came out so far.
struct Stream {
    server: &'static Pg,
    database: String,
    options: Options,
    source: PostgresSource,
    pool: Pool,
    pinned: Checkpoint,
    tail: Option<Box<dyn Tail>>,
    /// One line per change, with its position.
    lines: Vec<String>,
    /// Every place at which the stream could be resumed, and how many lines lie before it.
    marks: Vec<(Position, usize)>,
    /// The tables as the changes make them.
    mirror: BTreeMap<String, BTreeMap<Vec<u8>, Vec<String>>>,
    /// Values of sequences.
    seen: BTreeMap<String, String>,
    _state: tempfile::TempDir,
}

impl Stream {
    /// Runs `schema`, pins, and opens the tail there.
    async fn begin(server: &'static Pg, hint: &str, schema: &str) -> Self {
        let mut stream = Self::closed(server, hint, schema);
        stream.pinned = stream.source.pin().await.unwrap();
        stream.reopen(&stream.pinned.clone()).await.unwrap();
        stream
    }

    fn closed(server: &'static Pg, hint: &str, schema: &str) -> Self {
        let database = server.database(hint);
        server.psql(&database, schema);
        let state = tempfile::tempdir().unwrap();
        let mut options = Options::new(&database, server.url(&database));
        options.layout = Layout::Raw;
        options.tables = vec!["public.*".into()];
        options.state_dir = state.path().to_owned();
        options.memory = 64 << 20;
        Self {
            server,
            source: PostgresSource::new(&options).unwrap(),
            options,
            database,
            pool: Pool::for_memory(64 << 20),
            pinned: Checkpoint::default(),
            tail: None,
            lines: Vec::new(),
            marks: Vec::new(),
            mirror: BTreeMap::new(),
            seen: BTreeMap::new(),
            _state: state,
        }
    }

    fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql)
    }

    async fn reopen(&mut self, from: &Checkpoint) -> Result<()> {
        self.tail = None;
        self.tail = Some(self.source.tail(from, &self.pool).await?);
        Ok(())
    }

    async fn next(&mut self) -> Result<Batch> {
        let tail = self.tail.as_mut().expect("the tail is open");
        let batch = tokio::time::timeout(PATIENCE, tail.next()).await.expect("a batch comes in time")?;
        self.take(&batch);
        Ok(batch)
    }

    fn take(&mut self, batch: &Batch) {
        let mut marks = batch.marks().iter().peekable();
        for index in 0..=batch.len() {
            while let Some(mark) = marks.next_if(|mark| mark.changes == index) {
                self.marks.push((mark.upto.clone(), self.lines.len()));
            }
            if index < batch.len() {
                let row = batch.row(index);
                if row.table.name == "!sequences" {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    self.seen.insert(text(row.key), text(row.body));
                    continue;
                }
                self.lines.push(format!("{} {}", batch.position(index), line(&row)));
                self.apply(&row);
            }
        }
    }

    fn apply(&mut self, row: &Row<'_>) {
        let table = self.mirror.entry(row.table.name.clone()).or_default();
        match row.op {
            Op::Clear => table.clear(),
            Op::Delete => drop(table.remove(row.key)),
            Op::Put | Op::Patch => {
                let mut values = values(row);
                if row.op == Op::Patch {
                    // The mirror executes one change after the other, so a moved row's older image is gone by now.
                    let older = table.get(row.key).cloned().unwrap_or_default();
                    for (value, older) in values.iter_mut().zip(older) {
                        if value == "?" {
                            *value = older;
                        }
                    }
                }
                table.insert(row.key.to_vec(), values);
            }
        }
    }

    /// Reads until the head of this moment.
    async fn catch_up(&mut self) -> Position {
        let head = self.source.head().await.unwrap();
        let (_, goal) = head.iter().next().unwrap();
        loop {
            let batch = self.next().await.unwrap();
            if batch.upto() >= goal {
                return batch.upto().clone();
            }
        }
    }

    fn partition(&self) -> PartitionId {
        self.pinned.iter().next().unwrap().0.clone()
    }

    fn checkpoint(&self, position: &Position) -> Checkpoint {
        [(self.partition(), position.clone())].into_iter().collect()
    }

    /// What the changes said, without positions.
    fn said(&self) -> Vec<&str> {
        self.lines.iter().map(|line| line.split_once(' ').unwrap().1).collect()
    }

    /// The mirror of a table, as psql prints it with `select * from table order by 1`.
    fn mirrored(&self, table: &str) -> String {
        let mut rows: Vec<_> =
            self.mirror.get(table).into_iter().flat_map(BTreeMap::values).map(|row| row.join("|")).collect();
        rows.sort();
        rows.join("\n")
    }

    /// The table, as psql sees it.
    fn actual(&self, table: &str) -> String {
        let text = self.sql(&format!("select * from {table}"));
        let mut rows: Vec<_> = text.lines().collect();
        rows.sort_unstable();
        rows.join("\n")
    }

    fn slot(&self, column: &str) -> String {
        self.sql(&format!("select {column} from pg_replication_slots where slot_name = '{}'", self.options.slot()))
    }
}

/// The columns of a body: integers and texts.
fn values(row: &Row<'_>) -> Vec<String> {
    let shape = Shape::of(row.table).unwrap();
    let columns = Columns::expect(row.body, shape.columns.len()).unwrap().zip(&shape.columns);
    columns
        .map(|(value, column)| match value.unwrap() {
            Value::Null => String::new(),
            Value::Unchanged => "?".into(),
            Value::Binary(bytes) if column.type_oid == 23 => i32::from_be_bytes(bytes.try_into().unwrap()).to_string(),
            Value::Text(bytes) | Value::Binary(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        })
        .collect()
}

fn key(row: &Row<'_>, key: &[u8]) -> String {
    let shape = Shape::of(row.table).unwrap();
    let column = |(bytes, index): (Result<&[u8]>, &usize)| match (bytes.unwrap(), shape.columns[*index].type_oid) {
        (bytes, 23) => i32::from_be_bytes(bytes.try_into().unwrap()).to_string(),
        (bytes, _) => String::from_utf8(bytes.to_vec()).unwrap(),
    };
    rowcodec::key_columns(&shape, key).zip(&shape.key).map(column).collect::<Vec<_>>().join("/")
}

/// `op table key body from`, with long values shortened.
fn line(row: &Row<'_>) -> String {
    let short = |value: String| if value.len() > 20 { format!("{}*{}", &value[..1], value.len()) } else { value };
    let fresh = if row.fresh { "!" } else { "" };
    let mut line = format!("{:?}{fresh} {}", row.op, row.table.name);
    if row.op != Op::Clear {
        line += &format!(" {}", key(row, row.key));
    }
    if matches!(row.op, Op::Put | Op::Patch) {
        let body: Vec<_> = values(row).into_iter().map(short).collect();
        line += &format!(" [{}]", body.join("|"));
    }
    if let Some(from) = row.from {
        line += &format!(" from {}", key(row, from));
    }
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_resumed_anywhere_goes_on_exactly_there() {
    let mut stream =
        Stream::begin(pg::primary(), "resume", "create table t (id int primary key, v text, w text)").await;
    for n in 0..40 {
        let rows = 1 + n * 7 % 23;
        stream.sql(&format!(
            "begin; insert into t select {n} * 100 + g, 'v' || g, repeat('w', 300) from generate_series(1, {rows}) g; \
             update t set v = v || '+' where id % 7 = {n} % 7; delete from t where id % 31 = {n}; commit"
        ));
    }
    stream.catch_up().await;
    assert_eq!(stream.mirrored("public.t"), stream.actual("t"));
    let lines: Vec<String> = stream.said().into_iter().map(str::to_owned).collect();
    let positions: Vec<String> =
        stream.lines.drain(..).map(|line| line.split_once(' ').unwrap().0.to_owned()).collect();
    let marks = std::mem::take(&mut stream.marks);
    assert!(lines.len() > 400 && marks.len() >= 40, "{} changes, {} marks", lines.len(), marks.len());
    assert!(marks.windows(2).all(|pair| pair[0].0 < pair[1].0), "marks grow");

    // At a boundary nothing comes twice and nothing is missing. (Marks may be others: keepalives come when they come.)
    for (mark, before) in marks.iter().step_by(9) {
        stream.reopen(&stream.checkpoint(mark)).await.unwrap();
        stream.catch_up().await;
        assert!(stream.said() == lines[*before..], "resumed at {mark}");
        stream.lines.clear();
    }
    // Within a transaction it comes again as a whole, under the same positions, so that the engine can drop the part
    // that it has passed; and no mark stands before its end.
    for pair in marks.windows(2).filter(|pair| pair[1].1 - pair[0].1 > 4).step_by(7) {
        let ((mark, before), (_, after)) = (&pair[0], &pair[1]);
        stream.marks.clear();
        stream.reopen(&stream.checkpoint(&mark.plus(3))).await.unwrap();
        stream.catch_up().await;
        assert!(stream.said() == lines[*before..], "resumed at {mark}#3");
        let again: Vec<_> = stream.lines.iter().map(|line| line.split_once(' ').unwrap().0).collect();
        assert_eq!(again[..after - before], positions[*before..*after]);
        assert_eq!(stream.marks[0].1, after - before, "the first mark is the end of that transaction");
        stream.lines.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_long_values_are_holes_unless_the_old_row_tells_them() {
    let schema = "create table d (id int primary key, n int, big text); alter table d alter big set storage external; \
                  create table f (id int primary key, n int, big text); alter table f alter big set storage external; \
                  alter table f replica identity full";
    let mut stream = Stream::begin(pg::primary(), "toast", schema).await;
    for table in ["d", "f"] {
        stream.sql(&format!("insert into {table} values (1, 1, repeat('x', 9000)), (2, 2, repeat('y', 9000))"));
        stream.sql(&format!("update {table} set n = 10 where id = 1"));
        stream.sql(&format!("update {table} set id = 3 where id = 2"));
        stream.sql(&format!("delete from {table} where id = 1"));
    }
    stream.catch_up().await;
    let expected = [
        "Put! public.d 1 [1|1|x*9000]",
        "Put! public.d 2 [2|2|y*9000]",
        "Patch public.d 1 [1|10|?]",
        "Delete public.d 2",
        "Patch public.d 3 [3|2|?] from 2",
        "Delete public.d 1",
        "Put! public.f 1 [1|1|x*9000]",
        "Put! public.f 2 [2|2|y*9000]",
        "Put public.f 1 [1|10|x*9000]",
        "Delete public.f 2",
        "Put public.f 3 [3|2|y*9000]",
        "Delete public.f 1",
    ];
    assert_eq!(stream.said(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_those_of_the_replica_identity() {
    let schema = "create table i (id int primary key, code text not null, n int); create unique index i_code on i (code); \
                  alter table i replica identity using index i_code; \
                  create table p (b text, n int, a int, primary key (a, b)); \
                  create table f (n int, id int primary key); alter table f replica identity full";
    let mut stream = Stream::begin(pg::primary(), "identity", schema).await;
    stream.sql(
        "insert into i values (1, 'one', 0); update i set id = 5; update i set code = 'five'; delete from i; \
         insert into p values ('b', 0, 1); update p set n = 1; update p set b = 'c'; delete from p; \
         insert into f values (7, 1); update f set n = 8; update f set id = 2; delete from f",
    );
    stream.catch_up().await;
    let expected = [
        "Put! public.i one [1|one|0]",
        "Put public.i one [5|one|0]",
        "Delete public.i one",
        "Put public.i five [5|five|0]",
        "Delete public.i five",
        "Put! public.p 1/b [b|0|1]",
        "Put public.p 1/b [b|1|1]",
        "Delete public.p 1/b",
        "Put public.p 1/c [c|1|1]",
        "Delete public.p 1/c",
        "Put! public.f 1 [7|1]",
        "Put public.f 1 [8|1]",
        "Delete public.f 1",
        "Put public.f 2 [8|2]",
        "Delete public.f 2",
    ];
    assert_eq!(stream.said(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_tables_are_cleared_at_their_place_in_the_stream() {
    let schema = "create table a (id int primary key); create table b (id int primary key references a)";
    let mut stream = Stream::begin(pg::primary(), "truncate", schema).await;
    stream.sql("begin; insert into a values (1); truncate a cascade; insert into a values (2); commit");
    stream.catch_up().await;
    let said = stream.said();
    assert_eq!((said[0], said[3]), ("Put! public.a 1 [1]", "Put! public.a 2 [2]"));
    let mut cleared = said[1..3].to_vec();
    cleared.sort_unstable();
    assert_eq!(cleared, ["Clear public.a", "Clear public.b"]);
    assert_eq!(stream.mirrored("public.a"), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_of_the_tables_are_carried() {
    let schema = "create table s (id int generated always as identity primary key); insert into s select from generate_series(1, 40)";
    let mut stream = Stream::begin(pg::primary(), "sequences", schema).await;
    let deadline = Instant::now() + PATIENCE;
    // The first reading is made beside the stream, so the place at which it enters is not known.
    while !stream.seen.contains_key("public.s_id_seq") {
        assert!(Instant::now() < deadline, "the sequence came");
        stream.sql("create table if not exists other (id int primary key); comment on table other is 'moves the log'");
        stream.catch_up().await;
    }
    assert_eq!(stream.seen["public.s_id_seq"], stream.sql("select last_value from s_id_seq"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_teleport_layout_has_flat_keys_and_a_table_without_a_name() {
    let schema = "create table kv (key bytea not null primary key, value bytea not null, expires timestamptz, \
                  revision uuid not null); create table other (id int primary key)";
    let mut stream = Stream::closed(pg::primary(), "teleport", schema);
    stream.options.layout = Layout::Teleport;
    stream.options.tables.clear();
    stream.source = PostgresSource::new(&stream.options).unwrap();
    stream.pinned = stream.source.pin().await.unwrap();
    stream.reopen(&stream.pinned.clone()).await.unwrap();
    stream.sql("insert into kv values ('/nodes/a', 'x', null, gen_random_uuid()); insert into other values (1)");
    stream.sql("update kv set key = '/nodes/b', value = 'y'; delete from kv");
    let tail = stream.tail.as_mut().unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let batch = tokio::time::timeout(PATIENCE, tail.next()).await.unwrap().unwrap();
        for row in batch.rows() {
            assert_eq!(row.table.name, "");
            assert!(Shape::of(row.table).unwrap().flat_key);
            seen.push((row.op, String::from_utf8(row.key.to_vec()).unwrap()));
        }
    }
    let expected = [(Op::Put, "/nodes/a"), (Op::Delete, "/nodes/a"), (Op::Put, "/nodes/b"), (Op::Delete, "/nodes/b")];
    assert_eq!(seen, expected.map(|(op, key)| (op, key.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn types_whose_binary_form_is_bound_to_one_server_come_as_text() {
    let schema = "create type mood as enum ('sad', 'fine'); create table e (id int primary key, m mood[], n numeric)";
    let mut stream = Stream::begin(pg::primary(), "text", schema).await;
    stream.sql("insert into e values (1, '{sad,fine}', 1.50)");
    let batch = loop {
        let tail = stream.tail.as_mut().unwrap();
        let batch = tokio::time::timeout(PATIENCE, tail.next()).await.unwrap().unwrap();
        if !batch.is_empty() {
            break batch;
        }
    };
    let values: Vec<_> = Columns::of(batch.row(0).body).unwrap().map(Result::unwrap).collect();
    assert_eq!(values, [Value::Text(b"1"), Value::Text(b"{sad,fine}"), Value::Text(b"1.50")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_under_the_name_of_their_root() {
    let schema = "create table m (id int, day int, v text, primary key (id, day)) partition by range (day); \
                  create table m1 partition of m for values from (0) to (10); \
                  create table m2 partition of m for values from (10) to (20)";
    let mut stream = Stream::begin(pg::primary(), "partition", schema).await;
    stream.sql("insert into m values (1, 1, 'a'), (2, 15, 'b'); update m set day = 16 where id = 1; delete from m2 where id = 2");
    stream.catch_up().await;
    assert!(stream.said().iter().all(|line| line.split(' ').nth(1) == Some("public.m")), "{:?}", stream.said());
    assert_eq!(stream.mirrored("public.m"), stream.actual("m"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_column_is_followed_and_a_dropped_one_stops_behind_what_came_before() {
    let mut stream = Stream::begin(pg::primary(), "ddl", "create table t (id int primary key, v text)").await;
    // The catalog is ahead of the stream: the first rows are of the table as it was.
    stream.sql("insert into t values (1, 'a')");
    stream.sql("alter table t add column w text default 'd'; insert into t values (2, 'b', 'c')");
    stream.catch_up().await;
    assert_eq!(stream.said(), ["Put! public.t 1 [1|a]", "Put! public.t 2 [2|b|c]"]);

    stream.sql("insert into t values (3, 'x', 'y')");
    stream.sql("alter table t rename column v to u; insert into t values (4, 'p', 'q')");
    let error = loop {
        match stream.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.fault(), Fault::Config);
    let text = error.to_string();
    assert!(text.contains("\"public.t\"") && text.contains("\"v\"") && text.contains("start again"), "{text}");
    assert_eq!(stream.said().last(), Some(&"Put! public.t 3 [3|x|y]"), "what came before was handed on");
    // When a person has acted, it goes on behind that.
    let last = stream.marks.last().unwrap().0.clone();
    stream.lines.clear();
    stream.reopen(&stream.checkpoint(&last)).await.unwrap();
    stream.catch_up().await;
    assert_eq!(stream.said(), ["Put! public.t 4 [4|p|q]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_transactions_come_whole_at_their_commit_without_what_was_rolled_back() {
    let mut stream = Stream::begin(streaming(), "streamed", "create table t (id int primary key, v text)").await;
    let insert =
        |from: u32, to: u32| format!("insert into t select g, repeat('v', 500) from generate_series({from}, {to}) g;");
    // Rolled back in the middle, nested, with changes after it, and a table that changes inside.
    stream.sql(&format!(
        "begin; {} savepoint a; {} savepoint b; {} rollback to b; {} release a; savepoint c; update t set v = 'no'; \
         rollback to c; {} alter table t add column w int default 7; {} savepoint d; alter table t add column x int; {} \
         rollback to d; {} commit",
        insert(1, 1000),
        insert(1001, 2000),
        insert(2001, 3000),
        insert(3001, 4000),
        insert(4001, 5000),
        insert(5001, 6000),
        insert(6001, 7000),
        insert(7001, 8000),
    ));
    stream.sql(&format!("begin; {} rollback", insert(10_001, 15_000)));
    stream.sql("insert into t values (0, 'last')");
    stream.catch_up().await;
    let spilled = stream.sql("select stream_txns > 0 from pg_stat_replication_slots where slot_name like '%streamed%'");
    assert_eq!(stream.lines.len(), 6001, "savepoints that were rolled back left nothing");
    let first: Vec<_> = stream.lines.iter().take(6000).map(|line| line.split('#').next().unwrap()).collect();
    assert!(first.iter().all(|boundary| *boundary == first[0]), "one transaction, counted from one boundary");
    let ordinals =
        stream.lines.iter().take(6000).map(|line| line.split(['#', ' ']).nth(1).unwrap().parse::<u64>().unwrap());
    assert!(ordinals.eq(1..=6000));
    let keys = "select string_agg(id::text, ',' order by id) from t";
    let ours: std::collections::BTreeSet<i32> =
        stream.mirror["public.t"].values().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(ours.iter().map(i32::to_string).collect::<Vec<_>>().join(","), stream.sql(keys));
    // The server tells of it late, so it is only looked at when the rest is right.
    let deadline = Instant::now() + PATIENCE;
    let mut spilled = spilled;
    while spilled != "t" {
        assert!(Instant::now() < deadline, "the server did stream the transaction");
        tokio::time::sleep(Duration::from_millis(50)).await;
        spilled = stream.sql("select stream_txns > 0 from pg_stat_replication_slots where slot_name like '%streamed%'");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_transactions_that_run_side_by_side_come_one_after_the_other() {
    let mut stream = Stream::begin(streaming(), "sidebyside", "create table t (id int primary key, v text)").await;
    let (client, connection) =
        tokio_postgres::connect(&stream.server.url(&stream.database), tokio_postgres::NoTls).await.unwrap();
    let (other, other_connection) =
        tokio_postgres::connect(&stream.server.url(&stream.database), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    tokio::spawn(other_connection);
    let insert = |from: u32| {
        let to = from + 999;
        format!("insert into t select g, repeat('v', 400) from generate_series({from}, {to}) g")
    };
    client.batch_execute("begin").await.unwrap();
    other.batch_execute("begin").await.unwrap();
    for round in 0..5 {
        client.batch_execute(&insert(round * 1000)).await.unwrap();
        other.batch_execute(&insert(100_000 + round * 1000)).await.unwrap();
        stream.sql(&format!("insert into t values ({}, 'between')", 900_000 + round));
    }
    other.batch_execute("commit").await.unwrap();
    client.batch_execute("commit").await.unwrap();
    stream.catch_up().await;
    let keys: Vec<u32> = stream.said().iter().map(|line| line.split(' ').nth(2).unwrap().parse().unwrap()).collect();
    let expected: Vec<u32> = (900_000..900_005).chain(100_000..105_000).chain(0..5000).collect();
    assert!(keys == expected, "commits are in order and whole");
    assert_eq!(stream.mirrored("public.t"), stream.actual("t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_released_is_forgotten_and_an_idle_slot_still_advances() {
    let mut stream = Stream::begin(pg::primary(), "idle", "create table t (id int primary key)").await;
    let before = stream.slot("confirmed_flush_lsn");
    stream.sql("insert into t values (1)");
    stream.catch_up().await;
    // Log that is none of ours, in another database.
    let elsewhere = stream.server.database("elsewhere");
    stream.server.psql(&elsewhere, "create table x as select g from generate_series(1, 1000) g");
    let reached = stream.catch_up().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(stream.slot("confirmed_flush_lsn"), before, "nothing was released, so nothing was confirmed");

    let upto = stream.checkpoint(&reached);
    stream.tail.as_mut().unwrap().release(&upto).await.unwrap();
    let goal = reached.to_string().replace('@', "");
    let confirmed = format!(
        "select confirmed_flush_lsn = '{goal}' from pg_replication_slots where slot_name = '{}'",
        stream.options.slot()
    );
    let deadline = Instant::now() + PATIENCE;
    while stream.sql(&confirmed) != "t" {
        assert!(Instant::now() < deadline, "confirmed {}, released {goal}", stream.slot("confirmed_flush_lsn"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // An older place cannot be asked for any more; the newest one can.
    let pinned = stream.pinned.clone();
    assert_eq!(stream.reopen(&pinned).await.unwrap_err().fault(), Fault::PositionLost);
    stream.reopen(&upto).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_takes_nothing_for_long_keeps_its_connection() {
    let mut stream = Stream::begin(streaming(), "stall", "create table t (id int primary key, v text)").await;
    let rows = "insert into t select g, repeat(md5(g::text), 30) from generate_series";
    for n in 0..60 {
        stream.sql(&format!("{rows}({n} * 1000 + 1, {n} * 1000 + 1000) g"));
    }
    stream.next().await.unwrap();
    let sender = "select pid from pg_stat_replication where application_name like '%stall%'";
    let pid = stream.sql(sender);
    // Three times the server's patience; much more is waiting than fits between the two.
    tokio::time::sleep(Duration::from_secs(6)).await;
    stream.catch_up().await;
    assert_eq!(stream.lines.len(), 60_000);
    assert_eq!(stream.sql(sender), pid, "it is still the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_transient_and_the_next_tail_goes_on() {
    let mut stream = Stream::begin(pg::primary(), "lost", "create table t (id int primary key)").await;
    stream.sql("insert into t values (1)");
    let at = stream.catch_up().await;
    stream.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name like '%lost%'");
    let error = loop {
        match stream.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.fault(), Fault::Transient, "{error}");
    stream.sql("insert into t values (2)");
    stream.reopen(&stream.checkpoint(&at)).await.unwrap();
    stream.catch_up().await;
    assert_eq!(stream.said(), ["Put! public.t 1 [1]", "Put! public.t 2 [2]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_above_its_share_of_memory_stops_with_table_and_size() {
    let mut stream = Stream::closed(pg::primary(), "large", "create table t (id int primary key, v text)");
    stream.options.memory = 8 << 20;
    stream.source = PostgresSource::new(&stream.options).unwrap();
    stream.pinned = stream.source.pin().await.unwrap();
    stream.reopen(&stream.pinned.clone()).await.unwrap();
    stream.sql("insert into t values (1, repeat('x', 1 << 20))");
    stream.sql("insert into t values (2, repeat('x', 3 << 20))");
    let error = loop {
        match stream.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.fault(), Fault::Rejected);
    let text = error.to_string();
    assert!(text.contains("\"public.t\"") && text.contains("3145") && text.contains("memory"), "{text}");
    assert_eq!(stream.lines.len(), 1, "the row before it came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_leaves_at_once() {
    let mut stream = Stream::begin(pg::primary(), "delay", "create table t (id int primary key)").await;
    stream.sql("insert into t values (0)");
    stream.catch_up().await;
    let (client, connection) =
        tokio_postgres::connect(&stream.server.url(&stream.database), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut delays = Vec::new();
    for id in 1..200 {
        let lines = stream.lines.len();
        client.execute("insert into t values ($1)", &[&id]).await.unwrap();
        let committed = Instant::now();
        while stream.lines.len() == lines {
            stream.next().await.unwrap();
        }
        delays.push(committed.elapsed());
    }
    delays.sort_unstable();
    // A median, since the machine may do something else in between. Each would take 200 ms if it waited for anything.
    assert!(delays[100] < Duration::from_millis(20), "median {:?}, longest {:?}", delays[100], delays[198]);
}
