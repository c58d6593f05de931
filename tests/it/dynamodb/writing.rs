//! What a lane of a DynamoDB destination writes, and what others may do meanwhile; looked at with boto3.

use std::sync::Arc;

use driftless::error::Fault;
use driftless::kinds::dynamodb::item::from_item;
use driftless::kinds::dynamodb::{Access, DynamoSink, Role};
use driftless::model::{
    Batch, Changes, Checkpoint, Claim, Commit, Item, Op, Owner, PartitionId, Position, Scope, StreamId,
};
use driftless::sink::Sink as _;
use serde_json::json;

use crate::support::boto::{name, server, value};
use crate::support::teleport::now_us;

fn claim(stream: &str, seen: Option<u64>) -> Claim {
    let scope = Scope { layout: "teleport".into(), extent: String::new(), lanes: 1 };
    let (stream, owner) = (StreamId::new(stream), Owner("somebody".into()));
    Claim { stream, lane: 0, owner, scope, seen, still: None, foreign: false }
}

fn sink(table: &str) -> DynamoSink {
    DynamoSink::new(&Access::new(&server().options(Role::Sink, table)))
}

fn row(value: &[u8], expires_us: Option<i128>) -> Vec<u8> {
    let mut out = Vec::new();
    let item = Item { value: value.to_vec(), expires: expires_us.map(|at| at * 1_000), revision: b"r".to_vec() };
    from_item(&item, 0, &mut out).unwrap();
    out
}

fn commit(number: u64, rows: &[(Op, &str, Vec<u8>)]) -> Arc<Commit> {
    let (mut batch, mut changes) = (Batch::unpooled(), Changes::default());
    let table = batch.table(&Arc::default());
    for (op, key, body) in rows {
        batch.push(*op, false, table, key.as_bytes(), body, 0);
    }
    let batch = Arc::new(batch);
    let held = changes.hold(&batch);
    for index in 0..rows.len() {
        changes.pick(held, u32::try_from(index).unwrap());
    }
    let upto = [(PartitionId::new("p"), Position::at(format!("{number:04}")))].into_iter().collect();
    Arc::new(Commit { number, changes, forget: vec![], upto })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn paths(table: &str) -> Vec<String> {
    let table = table.to_owned();
    blocking(move || {
        let mut all: Vec<String> =
            server().items(&table).iter().map(|item| item["FullPath"]["S"].as_str().unwrap().to_owned()).collect();
        all.sort();
        all
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clear_removes_everything_of_teleports_and_nothing_else() {
    let table = name("cleared");
    blocking({
        let table = table.clone();
        move || {
            server().teleport(&table);
            for part in (0..250).collect::<Vec<_>>().chunks(100) {
                let puts: Vec<_> = part.iter().map(|n| (format!("/old/{n}"), Some(value(b"x")))).collect();
                server().write(&table, &puts);
            }
            let other = json!({"HashKey": {"S": "other"}, "FullPath": {"S": "teleport/mine"}});
            server().call("put_item", &json!({"TableName": table, "Item": other}));
        }
    })
    .await;
    let sink = sink(&table);
    let (_, mut writer) = sink.claim(&claim("cleared", None)).await.unwrap();
    writer.commit(commit(1, &[(Op::Clear, "", vec![]), (Op::Put, "/new", row(b"1", None))])).await.unwrap();
    assert_eq!(paths(&table).await, ["teleport/mine", "teleport/new"]);
    // Whoever was superseded removes nothing.
    let (_, _newer) = sink.claim(&claim("cleared", Some(1))).await.unwrap();
    let fenced = writer.commit(commit(2, &[(Op::Clear, "", vec![])])).await.unwrap_err();
    assert_eq!(fenced.fault(), Fault::Fenced, "{fenced}");
    assert_eq!(paths(&table).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_when_it_is_written_is_removed() {
    let table = name("expired");
    let sink = sink(&table);
    let (_, mut writer) = sink.claim(&claim("expired", None)).await.unwrap();
    let at = now_us() / 1_000_000 * 1_000_000;
    let rows = [
        (Op::Put, "/past", row(b"1", Some(at - 5_000_000))),
        (Op::Put, "/future", row(b"1", Some(at + 3_600_000_001))),
        (Op::Put, "/never", row(b"", None)),
    ];
    writer.commit(commit(1, &rows)).await.unwrap();
    assert_eq!(paths(&table).await, ["teleport/future", "teleport/never"]);
    let items = blocking(move || server().items(&table)).await;
    let future = items.iter().find(|item| item["FullPath"]["S"] == "teleport/future").unwrap();
    assert_eq!(future["Expires"]["N"], (at / 1_000_000 + 3_601).to_string(), "to the second, rounded up");
    let never = items.iter().find(|item| item["FullPath"]["S"] == "teleport/never").unwrap();
    assert!(never["Expires"].is_null() && never["Value"]["B"]["bytes"] == "", "{never}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_many_partitions_is_one_transaction() {
    let table = name("many");
    let sink = sink(&table);
    let (_, mut writer) = sink.claim(&claim("many", None)).await.unwrap();
    let shard = |n: u32| PartitionId::new(format!("ddb/arn:aws:dynamodb:us-east-1:1:table/t/stream/s/shardId-{n:020}"));
    let all: Checkpoint = (0..700).map(|n| (shard(n), Position::at(format!("{n:021}")))).collect();
    let rows: Vec<String> = (0..sink.limits().changes).map(|n| format!("/k/{n}")).collect();
    let rows: Vec<_> = rows.iter().map(|key| (Op::Put, key.as_str(), row(b"x", None))).collect();
    let first = commit(1, &rows);
    let commit = Commit { number: 1, changes: first.changes.clone(), forget: vec![], upto: all.clone() };
    writer.commit(Arc::new(commit)).await.unwrap();
    let record = sink.inspect(&StreamId::new("many")).await.unwrap().unwrap();
    assert_eq!(record.lanes[0].checkpoint, all);
    assert_eq!(paths(&table).await.len(), sink.limits().changes);
    // What ended is forgotten again, all at once.
    let forget = (0..699).map(shard).collect();
    let commit = Commit { number: 2, changes: Changes::default(), forget, upto: Checkpoint::default() };
    writer.commit(Arc::new(commit)).await.unwrap();
    drop(writer);
    let (record, _) = sink.claim(&claim("many", Some(1))).await.unwrap();
    assert_eq!(record.checkpoint.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), [shard(699)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_too_large_is_refused_by_name_and_nothing_of_its_commit_lands() {
    let table = name("large");
    let sink = sink(&table);
    let (_, mut writer) = sink.claim(&claim("large", None)).await.unwrap();
    let rows = [(Op::Put, "/a", row(b"1", None)), (Op::Put, "/b/c/planted", row(&[7; 420_000], None))];
    let refused = writer.commit(commit(1, &rows)).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Rejected, "{refused}");
    assert!(refused.to_string().contains("/b/c/… #") && !refused.to_string().contains("planted"), "{refused}");
    assert!(paths(&table).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_belongs_to_one_stream_and_a_stream_to_one_table() {
    let table = name("owned");
    let one = sink(&table);
    one.claim(&claim("one", None)).await.unwrap();
    let refused = one.claim(&claim("two", None)).await.map(drop).unwrap_err();
    assert_eq!(refused.fault(), Fault::Config, "{refused}");
    assert!(refused.to_string().contains("belongs to stream one"), "{refused}");
    let mut options = server().options(Role::Sink, &name("another"));
    options.checkpoints = format!("{table}_driftless");
    let other = DynamoSink::new(&Access::new(&options));
    let refused = other.claim(&claim("one", Some(1))).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("was begun in table"), "{refused}");
    other.claim(&claim("two", None)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_claim_at_once_are_never_both_the_owner() {
    let table = name("raced");
    let first = sink(&table);
    first.claim(&claim("raced", None)).await.unwrap();
    for seen in 1..6 {
        let (one, two) = (sink(&table), sink(&table));
        let wanted = claim("raced", Some(seen));
        let (a, b) = tokio::join!(one.claim(&wanted), two.claim(&wanted));
        let taken = [a.map(|claimed| claimed.0), b.map(|claimed| claimed.0)];
        let won = taken.iter().filter(|taken| taken.is_ok()).count();
        assert_eq!(won, 1, "{taken:?}");
        let lost = taken.iter().find_map(|taken| taken.as_ref().err()).unwrap();
        assert_eq!(lost.fault(), Fault::Fenced, "{lost}");
        let record = first.inspect(&StreamId::new("raced")).await.unwrap().unwrap();
        assert_eq!(record.lanes[0].epoch, seen + 1);
    }
}
