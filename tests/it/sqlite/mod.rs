//! SQLite as store and sink, against real files that the `sqlite3` program checks.

mod following;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use driftless::error::Fault;
use driftless::kinds::sqlite::{Journal, Options, Role, SqliteSink, SqliteSource, SqliteStore, body};
use driftless::model::{
    Batch, Changes, Checkpoint, Claim, Commit, Item, Op, Owner, PartitionId, Position, Scope, Steps, StreamId, Table,
};
use driftless::sink::Sink;
use driftless::store::{Range, Store};

/// Teleport's schema, as its own release makes it, written down independently of our code.
const SCHEMA: &str = r#"
CREATE TABLE kv (key TEXT NOT NULL PRIMARY KEY, modified INTEGER NOT NULL, expires DATETIME, value BLOB, revision TEXT NOT NULL DEFAULT "");
CREATE INDEX kv_expires ON kv (expires);
CREATE TABLE events (id INTEGER PRIMARY KEY, type TEXT NOT NULL, created INTEGER NOT NULL, kv_key TEXT NOT NULL, kv_modified INTEGER NOT NULL, kv_expires DATETIME, kv_value BLOB, kv_revision TEXT NOT NULL DEFAULT "");
CREATE INDEX events_created ON events (created);
"#;

struct Backend {
    _keep: tempfile::TempDir,
    dir: PathBuf,
}

impl Backend {
    /// A directory without a database.
    fn missing() -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("backend");
        Self { _keep: keep, dir }
    }

    /// A backend as Teleport makes it, in this journal mode.
    fn teleport(journal: &str) -> Self {
        let backend = Self::missing();
        std::fs::create_dir(&backend.dir).unwrap();
        backend.sql(&format!("pragma journal_mode={journal}; {SCHEMA}"));
        backend
    }

    fn file(&self) -> PathBuf {
        self.dir.join("sqlite.db")
    }

    fn options(&self) -> Options {
        Options { busy_timeout: Duration::from_secs(2), ..Options::new(&self.dir) }
    }

    /// Runs SQL with the `sqlite3` program.
    fn sql(&self, sql: &str) -> String {
        sqlite3(&self.file(), sql)
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.options(), Role::Source).unwrap()
    }

    fn sink(&self) -> SqliteSink {
        SqliteSink::open(&self.options()).unwrap()
    }
}

fn sqlite3(file: &Path, sql: &str) -> String {
    use std::io::Write;
    let mut child = Command::new("sqlite3")
        .args(["-bail", "-cmd", ".timeout 5000"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "sqlite3: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The vectors of the format: key, value, expiry in nanoseconds, revision.
fn vectors() -> Vec<(&'static str, Item)> {
    const E: i128 = 1_775_045_430_000_000_000;
    const R: &[u8] = b"6b1d2a5e-4c1f-4a9e-9a55-0f7c2f7d1b42";
    let item = |value: &[u8], expires| Item { value: value.to_vec(), expires, revision: R.to_vec() };
    vec![
        ("/authorities/host/example.com", item(br#"{"kind":"cert_authority"}"#, None)),
        ("/nodes/default/4f1c0f5e-8d3c-4f0a-9b0e-2a6c7f1d9e55", item(br#"{"kind":"node"}"#, Some(E))),
        ("/web/users/alice/pwd", item(b"$2a$10$abcdefghijklmnopqrstuv", None)),
        ("/semaphores/connection/alice/lock1", item(&[0x00, 0xff, 0x10], Some(E + 120_000_000))),
        (".locks/athena_lock", item(b"hello", Some(E))),
        ("/a?>b/ÿ~", item(b"{}", None)),
        ("/apps/foo", item(b"1", None)),
        ("/apps/foo-bar", item(b"2", None)),
        ("/apps/foo/bar", item(b"3", None)),
        ("/apps/foo0", item(b"4", None)),
        ("/apps/fop", item(b"5", None)),
    ]
}

fn put_sql(key: &str, item: &Item, modified: i64) -> String {
    let expires =
        item.expires.map_or("null".to_owned(), |at| format!("'{}'", driftless::kinds::sqlite::time::format(at)));
    let hex: String = item.value.iter().map(|byte| format!("{byte:02x}")).collect();
    let revision = String::from_utf8(item.revision.clone()).unwrap();
    format!(
        "insert or replace into kv (key, modified, expires, value, revision) values ('{key}', {modified}, {expires}, x'{hex}', '{revision}');"
    )
}

async fn scan_all(store: &dyn Store, ranges: &[Range], fill: usize) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for range in ranges {
        let mut after = Position::Start;
        while after != Position::End {
            let mut batch = Batch::unpooled();
            batch.begin(&PartitionId::new(format!("!snapshot/1/{}", range.name)), after.clone(), Steps::Key);
            let batch = store.scan(range, &after, batch, fill).await.unwrap();
            all.extend(batch.rows().map(|row| (String::from_utf8(row.key.to_vec()).unwrap(), row.body.to_vec())));
            assert_ne!(batch.upto(), &after, "a scan that does not move never ends");
            after = batch.upto().clone();
        }
    }
    all
}

fn claim_of(stream: &str, lane: u16, lanes: u16, seen: Option<u64>) -> Claim {
    Claim {
        stream: StreamId::new(stream),
        lane,
        owner: Owner("tester".into()),
        scope: Scope { layout: "sqlite teleport".into(), extent: "all".into(), lanes },
        seen,
        still: None,
        foreign: false,
    }
}

fn changes(all: &[(Op, &str, &[u8])]) -> Changes {
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("p"), Position::Start, Steps::Ordinal);
    let table = batch.table(&Arc::<Table>::default());
    for (op, key, value) in all {
        let mut bytes = Vec::new();
        if *op == Op::Put {
            let item = Item { value: value.to_vec(), expires: None, revision: b"r".to_vec() };
            body::from_item(&item, 7, &mut bytes).unwrap();
        }
        batch.push(*op, false, table, key.as_bytes(), &bytes, 7);
    }
    batch.mark(Position::at("1"));
    let batch = Arc::new(batch);
    let mut changes = Changes::default();
    let held = changes.hold(&batch);
    for index in 0..all.len() {
        changes.pick(held, index as u32);
    }
    changes
}

fn upto(position: &str) -> Checkpoint {
    [(PartitionId::new("sqlite/x/1"), Position::at(position))].into_iter().collect()
}

fn commit(number: u64, all: &[(Op, &str, &[u8])], position: &str) -> Arc<Commit> {
    Arc::new(Commit { number, changes: changes(all), forget: Vec::new(), upto: upto(position) })
}

const PUT: Op = Op::Put;

#[test]
fn every_vector_of_the_format_is_read_and_no_key_is_skipped_at_any_page_size() {
    for journal in ["delete", "wal"] {
        let backend = Backend::teleport(journal);
        for (key, item) in vectors() {
            backend.sql(&put_sql(key, &item, 1_775_044_800_000_000_000));
        }
        runtime().block_on(async {
            let store = backend.store();
            for (count, fill) in [(1, 1), (1, 100), (1, 1 << 20), (4, 1), (100, 60)] {
                let ranges = store.ranges(count).await.unwrap();
                let found = scan_all(&store, &ranges, fill).await;
                let mut expected = vectors();
                expected.sort_by_key(|(key, _)| *key);
                assert_eq!(found.len(), expected.len());
                for ((key, body), (wanted_key, wanted)) in found.iter().zip(&expected) {
                    assert_eq!(key, wanted_key);
                    assert_eq!(&body::to_item(body).unwrap(), wanted, "{key}");
                    assert_eq!(body::Body::decode(body).unwrap().modified_at(), 1_775_044_800_000_000);
                }
                for range in &ranges {
                    assert_eq!(&store.range(&range.name).await.unwrap(), range);
                }
            }
            let table = store.tables().await.unwrap().remove(0);
            let keys: Vec<&[u8]> = vec![b"/apps/foo", b"/nowhere", b".locks/athena_lock"];
            let got = store.get(&table, &keys, Batch::unpooled()).await.unwrap();
            let got: Vec<_> = got.rows().map(|row| row.key.to_vec()).collect();
            assert_eq!(got, [b"/apps/foo".to_vec(), b".locks/athena_lock".to_vec()]);
        });
    }
}

#[test]
fn a_copy_is_the_same_bit_for_bit_odd_rows_included() {
    let source = Backend::teleport("delete");
    for (key, item) in vectors() {
        source.sql(&put_sql(key, &item, 1_775_044_800_000_000_001));
    }
    source.sql(
        "insert into kv values ('/null', 1, null, null, ''), ('/empty', 2, null, x'', 'r'), \
         ('/odd-time', 3, '2026-04-01T14:10:30.5+02:00', 'text', 'r'), ('/int-time', 4, 1775044800, x'00', 'r')",
    );
    let sink = Backend::missing();
    runtime().block_on(async {
        let store = source.store();
        let (_, mut writer) = sink.sink().claim(&claim_of("s", 0, 1, None)).await.unwrap();
        let ranges = store.ranges(1).await.unwrap();
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("!snapshot/1/x"), Position::Start, Steps::Key);
        let batch = Arc::new(store.scan(&ranges[0], &Position::Start, batch, 1 << 20).await.unwrap());
        let mut changes = Changes::default();
        let held = changes.hold(&batch);
        for index in 0..batch.len() {
            changes.pick(held, index as u32);
        }
        writer.commit(Arc::new(Commit { number: 1, changes, forget: vec![], upto: upto("1") })).await.unwrap();
    });
    let dump =
        "select key, modified, typeof(expires), expires, typeof(value), hex(value), revision from kv order by key";
    assert_eq!(source.sql(dump), sink.sql(dump));
}

#[test]
fn the_sink_makes_precisely_the_schema_and_modes_that_teleport_makes() {
    use std::os::unix::fs::PermissionsExt;
    let (wanted, ours) = (Backend::teleport("delete"), Backend::missing());
    runtime().block_on(async {
        let sink = ours.sink();
        assert!(sink.inspect(&StreamId::new("s")).await.unwrap().is_none());
        assert!(!ours.dir.exists(), "looking creates nothing");
        let store = SqliteStore::open(&ours.options(), Role::Sink).unwrap();
        assert!(store.tables().await.unwrap().is_empty() && store.ranges(4).await.unwrap().is_empty());
        sink.claim(&claim_of("s", 0, 1, None)).await.unwrap();
        assert_eq!(store.tables().await.unwrap().len(), 1, "the store finds a destination that was made later");
    });
    for sql in [
        "select * from pragma_table_info('kv')",
        "select * from pragma_table_info('events')",
        "select name, tbl_name from sqlite_schema where type = 'index' and tbl_name in ('kv', 'events') order by name",
        "select * from pragma_index_info('kv_expires')",
        "select * from pragma_index_info('events_created')",
        "select * from pragma_index_list('kv')",
        "pragma journal_mode",
        "pragma encoding",
    ] {
        assert_eq!(ours.sql(sql), wanted.sql(sql), "{sql}");
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&ours.dir), mode(&ours.file())), (0o700, 0o600));
}

#[test]
fn a_commit_is_atomic_lands_once_and_never_moves_a_checkpoint_back() {
    for journal in [None, Some(Journal::Wal)] {
        let backend = Backend::missing();
        runtime().block_on(async {
            let sink = SqliteSink::open(&Options { journal, ..backend.options() }).unwrap();
            let (taken, mut writer) = sink.claim(&claim_of("s", 0, 1, None)).await.unwrap();
            assert_eq!((taken.epoch, taken.number), (1, 0));
            let first = commit(1, &[(PUT, "/a", b"1"), (PUT, "/b", b"1")], "10");
            writer.commit(Arc::clone(&first)).await.unwrap();
            writer
                .commit(commit(2, &[(PUT, "/a", b"2"), (Op::Delete, "/b", b""), (Op::Delete, "/none", b"")], "20"))
                .await
                .unwrap();
            // A late twin: the same commit again, after a later one.
            writer.commit(Arc::clone(&first)).await.unwrap();
            // The same commit again, directly after itself: it landed before, so nothing happens.
            writer.commit(commit(2, &[(PUT, "/a", b"wrong")], "30")).await.unwrap();
            assert_eq!(backend.sql("select key, value from kv"), "/a|2");
            // A number that is not the next one.
            assert_eq!(writer.commit(commit(4, &[(PUT, "/a", b"4")], "40")).await.unwrap_err().fault(), Fault::Bug);
            // A position below what is recorded stays where it is.
            writer.commit(commit(3, &[], "15")).await.unwrap();
            let record = sink.inspect(&StreamId::new("s")).await.unwrap().unwrap();
            assert_eq!((record.lanes[0].number, record.frontier()), (3, upto("20")));
            assert_eq!((record.owner.0.as_str(), record.scope.lanes, record.foreign), ("tester", 1, false));
            // A row that the table refuses takes the whole commit with it.
            let bad = changes(&[(PUT, "/c", b"1"), (Op::Patch, "/d", b"")]);
            let bad = Arc::new(Commit { number: 4, changes: bad, forget: vec![], upto: upto("50") });
            assert!(writer.commit(bad).await.is_err());
            assert_eq!(backend.sql("select key, value from kv"), "/a|2");
            let gone = Commit {
                number: 4,
                changes: changes(&[]),
                forget: vec![PartitionId::new("sqlite/x/1")],
                upto: Checkpoint::default(),
            };
            writer.commit(Arc::new(gone)).await.unwrap();
            assert!(sink.inspect(&StreamId::new("s")).await.unwrap().unwrap().frontier().is_empty());
        });
        assert_eq!(
            backend.sql("select group_concat(type || kv_key || coalesce(kv_value, '-'), ' ') from (select * from events order by id)"),
            "1/a1 1/b1 2/b- 1/a2"
        );
        assert_eq!(backend.sql("select typeof(type), typeof(created) from events limit 1"), "text|text");
        assert_eq!(backend.sql("select count(*) from events where created not like '____-__-__ __:__:__%+00:00'"), "0");
        assert_eq!(backend.sql("pragma integrity_check"), "ok");
    }
}

#[test]
fn what_is_staged_is_invisible_until_the_commit_and_gone_without_it() {
    let backend = Backend::missing();
    runtime().block_on(async {
        let sink = backend.sink();
        let (_, mut writer) = sink.claim(&claim_of("s", 0, 1, None)).await.unwrap();
        for part in 0..20 {
            let key = format!("/staged/{part}");
            writer.stage(&Arc::new(changes(&[(PUT, &key, b"1"), (PUT, "/over", b"1")]))).await.unwrap();
        }
        assert_eq!(backend.sql("select count(*) from kv"), "0");
        writer.commit(commit(1, &[(PUT, "/over", b"2")], "10")).await.unwrap();
        assert_eq!(backend.sql("select count(*) from kv"), "21");
        assert_eq!(backend.sql("select value from kv where key = '/over'"), "2");
        writer.stage(&Arc::new(changes(&[(PUT, "/lost", b"1")]))).await.unwrap();
        drop(writer);
        let (taken, mut writer) = sink.claim(&claim_of("s", 0, 1, Some(1))).await.unwrap();
        assert_eq!((taken.epoch, taken.number, taken.checkpoint), (2, 1, upto("10")));
        writer.commit(commit(2, &[], "11")).await.unwrap();
        assert_eq!(backend.sql("select count(*) from kv where key = '/lost'"), "0");
    });
}

#[test]
fn a_superseded_writer_is_fenced_and_a_stale_claim_too() {
    let backend = Backend::missing();
    runtime().block_on(async {
        let sink = backend.sink();
        let (_, mut old) = sink.claim(&claim_of("s", 0, 1, None)).await.unwrap();
        old.commit(commit(1, &[(PUT, "/k", b"old")], "10")).await.unwrap();
        let fault = |claim: Claim| {
            let sink = &sink;
            async move { sink.claim(&claim).await.err().map(|error| error.fault()) }
        };
        assert_eq!(fault(claim_of("s", 0, 1, None)).await, Some(Fault::Fenced));
        assert_eq!(fault(claim_of("s", 0, 1, Some(7))).await, Some(Fault::Fenced));
        assert_eq!(fault(claim_of("other", 0, 1, None)).await, Some(Fault::Config));
        let mut layout = claim_of("s", 0, 1, Some(1));
        layout.scope.layout = "sqlite raw".into();
        assert_eq!(fault(layout).await, Some(Fault::Config));
        // An owner that holds a transaction open blocks the claim for no longer than the busy timeout, and it says so.
        old.stage(&Arc::new(changes(&[(PUT, "/k", b"zombie")]))).await.unwrap();
        let refused = sink.claim(&claim_of("s", 0, 1, Some(1))).await.err().unwrap();
        assert_eq!(refused.fault(), Fault::Transient);
        assert!(refused.to_string().contains("another process holds its lock"), "{refused}");
        old.commit(commit(2, &[], "20")).await.unwrap();
        let (taken, mut new) = sink.claim(&claim_of("s", 0, 1, Some(1))).await.unwrap();
        assert_eq!((taken.epoch, taken.number), (2, 2));
        assert_eq!(old.commit(commit(3, &[(PUT, "/k", b"late")], "30")).await.unwrap_err().fault(), Fault::Fenced);
        assert_eq!(old.stage(&Arc::new(changes(&[(PUT, "/k", b"late")]))).await.unwrap_err().fault(), Fault::Fenced);
        new.commit(commit(3, &[(PUT, "/k", b"new")], "30")).await.unwrap();
        assert_eq!(backend.sql("select value from kv"), "new");
    });
}

#[test]
fn another_number_of_lanes_starts_from_what_all_lanes_had_passed() {
    let backend = Backend::missing();
    runtime().block_on(async {
        let sink = backend.sink();
        let (_, mut a) = sink.claim(&claim_of("s", 0, 2, None)).await.unwrap();
        let (_, mut b) = sink.claim(&claim_of("s", 1, 2, None)).await.unwrap();
        a.commit(commit(1, &[], "10")).await.unwrap();
        b.commit(commit(1, &[], "30")).await.unwrap();
        let (one, mut writer) = sink.claim(&claim_of("s", 0, 1, Some(1))).await.unwrap();
        assert_eq!(one.checkpoint, upto("10"));
        assert_eq!(b.commit(commit(2, &[], "40")).await.unwrap_err().fault(), Fault::Fenced);
        writer.commit(commit(one.number + 1, &[], "50")).await.unwrap();
        let seen = sink.inspect(&StreamId::new("s")).await.unwrap().unwrap();
        assert_eq!(seen.lanes.len(), 1);
        for lane in 0..3 {
            let epoch = seen.lanes.get(usize::from(lane)).map(|lane| lane.epoch);
            let (taken, _) = sink.claim(&claim_of("s", lane, 3, epoch)).await.unwrap();
            assert_eq!(taken.checkpoint, upto("50"));
        }
        assert_eq!(b.commit(commit(2, &[], "60")).await.unwrap_err().fault(), Fault::Fenced);
    });
}

#[test]
fn a_record_beyond_everything_that_was_sent_is_no_success() {
    let backend = Backend::missing();
    runtime().block_on(async {
        let (_, mut writer) = backend.sink().claim(&claim_of("s", 0, 1, None)).await.unwrap();
        writer.commit(commit(1, &[(PUT, "/k", b"1")], "10")).await.unwrap();
        // As far as a try of which no answer came can have brought it.
        backend.sql("update driftless_lane set number = 2");
        writer.commit(commit(2, &[(PUT, "/k", b"2")], "20")).await.unwrap();
        backend.sql("update driftless_lane set number = 9");
        let error = writer.commit(commit(3, &[(PUT, "/k", b"3")], "30")).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Bug, "{error}");
        assert_eq!(backend.sql("select value from kv"), "1");
    });
}

#[test]
fn a_commit_that_finds_the_file_locked_is_transient_and_the_later_one_waits_for_it() {
    let backend = Backend::missing();
    runtime().block_on(async {
        let options = Options { busy_timeout: Duration::from_millis(100), ..backend.options() };
        let sink = SqliteSink::open(&options).unwrap();
        let (_, mut writer) = sink.claim(&claim_of("s", 0, 1, None)).await.unwrap();
        let lock = Locked::by_another_process(&backend.file(), "begin immediate");
        let one = writer.commit(commit(1, &[(PUT, "/k", b"1")], "10"));
        let two = writer.commit(commit(2, &[(PUT, "/k", b"2")], "20"));
        assert_eq!(one.await.unwrap_err().fault(), Fault::Transient);
        assert_eq!(two.await.unwrap_err().fault(), Fault::Transient);
        drop(lock);
        writer.commit(commit(1, &[(PUT, "/k", b"1")], "10")).await.unwrap();
        writer.commit(commit(2, &[(PUT, "/k", b"2")], "20")).await.unwrap();
        assert_eq!(backend.sql("select value from kv"), "2");
    });
}

#[test]
fn a_commit_that_was_killed_half_way_is_rolled_back_in_a_destination_and_left_alone_in_a_source() {
    let backend = Backend::teleport("delete");
    backend.sql("insert into kv (key, modified, value) values ('/stays', 1, 'v');");
    // More pages than the cache holds are written to the file before the commit, so the journal that is left is needed.
    let half = "pragma cache_size=2; pragma cache_spill=1; begin immediate;
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
        insert into kv (key, modified, value) select '/half/' || i, 1, randomblob(500) from n";
    drop(Locked::by_another_process(&backend.file(), half));
    let journal = backend.dir.join("sqlite.db-journal");
    assert!(journal.metadata().unwrap().len() > 0, "no journal was left");
    let before = listing(&backend.dir);
    let error = runtime().block_on(backend.store().ranges(1)).unwrap_err();
    assert_eq!(error.fault(), Fault::Transient, "{error}");
    assert!(error.to_string().contains("rolled back when Teleport starts"), "{error}");
    assert!(listing(&backend.dir) == before, "a source was altered");
    let sink = backend.sink();
    assert_eq!(runtime().block_on(sink.inspect(&StreamId::new("s"))).unwrap(), None);
    assert_eq!(backend.sql("select group_concat(key) from kv"), "/stays");
}

#[test]
fn a_destination_file_that_was_exchanged_is_not_written_past_its_name() {
    let backend = Backend::missing();
    runtime().block_on(async {
        let sink = backend.sink();
        let (_, mut writer) = sink.claim(&claim_of("s", 0, 1, None)).await.unwrap();
        writer.commit(commit(1, &[(PUT, "/k", b"1")], "10")).await.unwrap();
        let backup = backend.dir.join("backup.db");
        std::fs::copy(backend.file(), &backup).unwrap();
        writer.commit(commit(2, &[(PUT, "/k", b"2")], "20")).await.unwrap();
        std::fs::rename(&backup, backend.file()).unwrap();
        // The restored file stands at commit 1: going on from 2 would leave a hole, so it is refused.
        assert_eq!(writer.commit(commit(3, &[(PUT, "/k", b"3")], "30")).await.unwrap_err().fault(), Fault::Bug);
        std::fs::remove_file(backend.file()).unwrap();
        assert_eq!(writer.commit(commit(3, &[], "30")).await.unwrap_err().fault(), Fault::Transient);
        assert!(!backend.file().exists());
    });
}

#[test]
fn events_of_the_copy_are_kept_for_ten_minutes_and_ids_never_start_again() {
    let backend = Backend::missing();
    runtime().block_on(async {
        let sink = backend.sink();
        sink.claim(&claim_of("s", 0, 1, None)).await.unwrap();
        backend.sql(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 500) \
             insert into events (id, type, created, kv_key, kv_modified) \
             select i, '1', strftime('%Y-%m-%d %H:%M:%S+00:00', 'now', '-11 minutes'), '/k', 1 from n",
        );
        let (_, mut writer) = sink.claim(&claim_of("s", 0, 1, Some(1))).await.unwrap();
        writer.commit(commit(1, &[], "10")).await.unwrap();
        assert_eq!(backend.sql("select count(*), max(id) from events"), "1|500");
        writer.commit(commit(2, &[(PUT, "/k", b"1")], "20")).await.unwrap();
        assert_eq!(backend.sql("select max(id) from events"), "501");
    });
}

#[test]
fn a_wrong_path_is_one_clear_sentence_and_nothing_is_created() {
    let keep = tempfile::tempdir().unwrap();
    let data = keep.path().join("teleport");
    let backend = data.join("backend");
    std::fs::create_dir_all(&backend).unwrap();
    sqlite3(&backend.join("sqlite.db"), SCHEMA);
    std::fs::create_dir_all(data.join("proc")).unwrap();
    sqlite3(&data.join("proc/sqlite.db"), SCHEMA);
    std::fs::create_dir_all(keep.path().join("text")).unwrap();
    std::fs::write(keep.path().join("text/sqlite.db"), "this is not a database, only a text of some length").unwrap();
    let before = listing(keep.path());
    for (path, says) in [
        (data.clone(), format!("{} , which is probably the path that was meant", backend.display()).replace(" ,", ",")),
        (data.join("proc"), "must never be copied".into()),
        (data.join("elsewhere"), "there is no such file".into()),
        (backend.join("sqlite.db"), "path names a directory".into()),
        (keep.path().join("text"), "not a SQLite database".into()),
    ] {
        let error = SqliteStore::open(&Options::new(&path), Role::Source).err().unwrap();
        assert_eq!(error.fault(), Fault::Config, "{error}");
        assert!(error.to_string().contains(&says), "{error}");
    }
    let error = SqliteSink::open(&Options::new(&data)).err().unwrap();
    assert_eq!(error.fault(), Fault::Config);
    let empty = keep.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(empty.join("sqlite.db"), "").unwrap();
    let error = runtime()
        .block_on(async { SqliteStore::open(&Options::new(&empty), Role::Source).unwrap().tables().await })
        .unwrap_err();
    assert!(error.to_string().contains("no table kv"), "{error}");
    std::fs::remove_dir_all(&empty).unwrap();
    assert_eq!(listing(keep.path()), before);
}

/// Everything below a directory: names, sizes, times, contents.
fn listing(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::metadata(&path).unwrap();
        if meta.is_dir() {
            all.extend(listing(&path));
        } else {
            all.push((path.clone(), meta.len(), meta.modified().unwrap(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

/// Another process that holds a transaction open until it is dropped.
struct Locked(std::process::Child);

impl Locked {
    fn by_another_process(file: &Path, begin: &str) -> Self {
        use std::io::{BufRead, BufReader, Write};
        let mut child = Command::new("sqlite3").arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.as_mut().unwrap();
        writeln!(stdin, "{begin};\nselect 'locked';").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "locked");
        Self(child)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A write as Teleport does it: the row and its event in one transaction.
fn teleport_writes(writes: &[crate::conformance::Write]) -> String {
    let mut sql = String::from("begin immediate;");
    for (key, value) in writes {
        let key = String::from_utf8(key.clone()).unwrap().replace('\'', "''");
        let now = "strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')";
        match value {
            Some(value) => {
                let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                sql.push_str(&format!(
                    "insert or replace into kv values ('{key}', 1, null, x'{hex}', lower(hex(randomblob(16))));\
                     insert into events (type, created, kv_key, kv_modified, kv_expires, kv_value, kv_revision) \
                     values (1, {now}, '{key}', 1, null, x'{hex}', lower(hex(randomblob(16))));"
                ));
            }
            None => sql.push_str(&format!(
                "delete from kv where key = '{key}';\
                 insert into events (type, created, kv_key, kv_modified) values (2, {now}, '{key}', 1);"
            )),
        }
    }
    sql + "commit;"
}

fn rig(journal: &str) -> crate::conformance::Rig {
    let (source, sink) = (Backend::teleport(journal), Backend::missing());
    let file = source.file();
    let mode = Journal::parse(journal).unwrap();
    crate::conformance::Rig {
        stream: crate::conformance::stream(),
        source: Arc::new(SqliteSource::open(&source.options()).unwrap()),
        store: Arc::new(source.store()),
        sink: Arc::new(SqliteSink::open(&Options { journal: Some(mode), ..sink.options() }).unwrap()),
        sink_store: Arc::new(SqliteStore::open(&sink.options(), Role::Sink).unwrap()),
        write: Box::new(move |writes| drop(sqlite3(&file, &teleport_writes(writes)))),
        held: <[u8]>::to_vec,
        guard: Box::new((source, sink)),
    }
}

mod rollback_journals_keep_the_contracts {
    async fn rig() -> crate::conformance::Rig {
        super::rig("DELETE")
    }

    crate::conformance!(rig);
}

mod write_ahead_logs_keep_the_contracts {
    async fn rig() -> crate::conformance::Rig {
        super::rig("WAL")
    }

    crate::conformance!(rig);
}

#[test]
fn check_names_what_is_wrong_before_it_matters() {
    use driftless::kinds::sqlite::check;
    use driftless::model::{Level, Remark};
    let levels = |found: Vec<Remark>| found.into_iter().map(|one| (one.level, one.what)).collect::<Vec<_>>();
    let backend = Backend::teleport("delete");
    assert_eq!(levels(check::source(&backend.options())), []);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    backend.sql(&format!("insert into kv values ('/k', {now}, null, x'', 'r')"));
    let found = check::source(&backend.options()).remove(0);
    assert_eq!(found.level, Level::Warning);
    assert!(found.what.contains("events_off") && found.mend.contains("events_off: true"), "{found:?}");
    backend.sql(&teleport_writes(&[(b"/k".to_vec(), Some(b"v".to_vec()))]));
    assert_eq!(levels(check::source(&backend.options())), []);
    let off = Options { events_off: true, ..backend.options() };
    assert!(check::source(&off)[0].what.contains("not empty"));
    backend.sql("drop table events");
    assert!(check::source(&backend.options())[0].what.contains("no table events"));
    assert!(check::source(&Options::new("/nowhere/at/all"))[0].what.contains("no such file"));

    let sink = Backend::missing();
    let stream = StreamId::new("s");
    assert_eq!(levels(check::sink(&sink.options(), &stream)), []);
    assert!(!sink.dir.exists());
    runtime().block_on(async { drop(sink.sink().claim(&claim_of("s", 0, 1, None)).await.unwrap()) });
    assert_eq!(levels(check::sink(&sink.options(), &stream)), []);
    assert!(check::sink(&sink.options(), &StreamId::new("t"))[0].what.contains("belongs to stream s"));
    let risky = Options { sync: driftless::kinds::sqlite::Sync::Off, journal: Some(Journal::Off), ..sink.options() };
    let found = levels(check::sink(&risky, &stream));
    assert_eq!(found.iter().map(|(level, _)| *level).collect::<Vec<_>>(), [Level::Warning, Level::Error]);
    Command::new("chmod").arg("0644").arg(sink.file()).status().unwrap();
    assert!(check::sink(&sink.options(), &stream)[0].mend.starts_with("chmod 0600"));
}
