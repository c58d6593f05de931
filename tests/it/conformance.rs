//! What the contracts say, asked of every kind alike.
//!
//! A kind hands in a [`Rig`]: a source, a sink and their stores, empty and its own, and a way to write to the source by
//! the kind's own means. The macro at the end calls every question for it; nothing here knows a kind but the makers do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use driftless::error::{Fault, Result};
use driftless::kinds::memory;
use driftless::model::{
    Batch, Changes, Checkpoint, Claim, Commit, LaneRecord, Op, Owner, PartitionId, Position, Scope, Steps, StreamId,
    StreamRecord, Table,
};
use driftless::pool::Pool;
use driftless::sink::{Limits, Sink, Writer};
use driftless::source::{Source, Tail};
use driftless::store::Store;

/// One write at a source: a key and its new value, or that it goes.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

/// Commits writes as one transaction.
pub type WriteAtOnce = dyn Fn(&[Write]) + Send + Sync;

/// A source and a sink of one kind, both empty.
pub struct Rig {
    pub source: Arc<dyn Source>,
    pub store: Arc<dyn Store>,
    pub sink: Arc<dyn Sink>,
    pub sink_store: Arc<dyn Store>,
    /// The stream's name: unique where sinks share the place that remembers streams.
    pub stream: StreamId,
    /// Commits these writes as one transaction at the source, by the kind's own means.
    pub write: Box<WriteAtOnce>,
    /// What of a body a sink of the kind can hold: another's revision it may have to do without.
    pub held: fn(&[u8]) -> Vec<u8>,
    /// Whatever must live as long as the rig.
    pub guard: Box<dyn std::any::Any + Send + Sync>,
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

impl Rig {
    fn put(&self, key: &str, value: &[u8]) {
        (self.write)(&[(key.as_bytes().to_vec(), Some(value.to_vec()))]);
    }

    fn delete(&self, key: &str) {
        (self.write)(&[(key.as_bytes().to_vec(), None)]);
    }

    async fn table(&self) -> Arc<Table> {
        self.store.tables().await.unwrap().remove(0)
    }

    /// The present row of a key at the source, as a batch of one.
    async fn row(&self, key: &str) -> Arc<Batch> {
        let table = self.table().await;
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("!row"), Position::Start, Steps::Key);
        let batch = self.store.get(&table, &[key.as_bytes()], batch).await.unwrap();
        assert_eq!(batch.len(), 1, "{key} is at the source");
        Arc::new(batch)
    }

    async fn claim(&self, lanes: u16, lane: u16, seen: Option<u64>) -> Result<(LaneRecord, Box<dyn Writer>)> {
        let scope = Scope { layout: "conformance".into(), extent: "all".into(), lanes };
        let owner = Owner("somebody".into());
        let claim = Claim { stream: self.stream.clone(), lane, owner, scope, seen, still: None, foreign: false };
        let claimed = self.sink.claim(&claim).await?;
        self.sink.prepare(&[self.table().await], false).await?;
        Ok(claimed)
    }

    async fn record(&self) -> StreamRecord {
        self.sink.inspect(&self.stream).await.unwrap().expect("the stream was claimed")
    }

    async fn sink_rows(&self) -> Rows {
        self.held(all(self.sink_store.as_ref()).await)
    }

    /// What a sink that has everything holds.
    async fn source_rows(&self) -> Rows {
        self.held(all(self.store.as_ref()).await)
    }

    fn held(&self, rows: Rows) -> Rows {
        rows.into_iter().map(|(key, body)| (key, (self.held)(&body))).collect()
    }

    async fn tail(&self, from: &Checkpoint, pool: &Pool) -> Box<dyn Tail> {
        // A source that has one reader needs a moment to notice that the last one is gone.
        let patience = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            match self.source.tail(from, pool).await {
                Ok(tail) => return tail,
                Err(error) if error.fault() == Fault::Transient && std::time::Instant::now() < patience => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A name for a sink that nobody else uses.
pub fn stream() -> StreamId {
    StreamId::new("conformance")
}

/// Everything in a store, read range by range in small pages; every key must come once and in order.
async fn all(store: &dyn Store) -> Rows {
    let mut rows = Rows::new();
    for cut in store.ranges(3).await.unwrap() {
        let range = store.range(&cut.name).await.unwrap();
        let (mut after, mut last) = (Position::Start, Vec::new());
        while after != Position::End {
            let mut page = Batch::unpooled();
            page.begin(&PartitionId::new("!scan"), after.clone(), Steps::Key);
            let page = store.scan(&range, &after, page, 512).await.unwrap();
            for row in page.rows() {
                assert_eq!(row.op, Op::Put);
                assert!(last.is_empty() || last[..] < *row.key, "a range is scanned in key order");
                last = row.key.to_vec();
                assert!(rows.insert(row.key.to_vec(), row.body.to_vec()).is_none(), "a key is scanned once");
            }
            assert!(*page.upto() > after, "a page moves");
            after = page.upto().clone();
        }
    }
    rows
}

fn changes_of(batches: &[&Arc<Batch>]) -> Changes {
    let mut changes = Changes::default();
    for batch in batches {
        let held = changes.hold(batch);
        for index in 0..batch.len() {
            changes.pick(held, index as u32);
        }
    }
    changes
}

fn removal(table: &Arc<Table>, key: &str) -> Arc<Batch> {
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("!row"), Position::Start, Steps::Key);
    let index = batch.table(table);
    batch.push(Op::Delete, false, index, key.as_bytes(), b"", 0);
    Arc::new(batch)
}

fn at(n: u32) -> Checkpoint {
    [(PartitionId::new("somewhere/1"), Position::at(format!("{n:08}")))].into_iter().collect()
}

fn commit(number: u64, batches: &[&Arc<Batch>], upto: Checkpoint) -> Arc<Commit> {
    Arc::new(Commit { number, changes: changes_of(batches), forget: vec![], upto })
}

/// Reads a tail until it has passed a head, and gives its batches.
async fn follow(tail: &mut dyn Tail, from: &Checkpoint, head: &Checkpoint) -> Vec<Batch> {
    let mut reached = from.clone();
    let mut batches = vec![];
    let read = async {
        while !reached.covers(head) {
            let batch = tail.next().await.unwrap();
            assert!(batch.base() >= reached.get(&batch.partition), "a tail does not go back");
            reached.advance(&batch.partition, batch.upto());
            batches.push(batch);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("the tail reaches the head");
    batches
}

pub async fn tail_is_ordered(rig: Rig) {
    rig.put("/before", b"not in the tail");
    let pool = Pool::new(64, 1 << 10);
    let pin = rig.source.pin().await.unwrap();
    let mut tail = rig.tail(&pin, &pool).await;
    for n in 0..40 {
        rig.put(&format!("/key/{}", n % 7), format!("value {n}").as_bytes());
    }
    rig.delete("/key/3");
    let head = rig.source.head().await.unwrap();
    let mut seen = Rows::new();
    for batch in follow(tail.as_mut(), &pin, &head).await {
        for row in batch.rows() {
            assert_ne!(row.key, b"/before", "nothing from before the pin comes out of the tail");
            match row.op {
                Op::Put => drop(seen.insert(row.key.to_vec(), row.body.to_vec())),
                Op::Delete => drop(seen.remove(row.key)),
                op => panic!("{op:?} was not asked for"),
            }
        }
    }
    let mut rows = all(rig.store.as_ref()).await;
    rows.remove(&b"/before"[..]);
    assert_eq!(seen.keys().collect::<Vec<_>>(), rows.keys().collect::<Vec<_>>());
    assert_eq!(seen, rows, "the tail and the store give a row in the same bytes");
}

pub async fn tail_resumes_exactly(rig: Rig) {
    let pool = Pool::new(64, 64);
    let pin = rig.source.pin().await.unwrap();
    let mut tail = rig.tail(&pin, &pool).await;
    for n in 0..12 {
        rig.put(&format!("/key/{n:02}"), b"value");
    }
    let head = rig.source.head().await.unwrap();
    let batches = follow(tail.as_mut(), &pin, &head).await;
    drop(tail);
    let keys = |batches: &[Batch]| -> Vec<Vec<u8>> {
        batches.iter().flat_map(|batch| batch.rows().map(|row| row.key.to_vec()).collect::<Vec<_>>()).collect()
    };
    let everything = keys(&batches);
    assert_eq!(everything.len(), 12);
    let (mut from, mut passed) = (pin.clone(), 0);
    for batch in &batches {
        let upto = batch.marks().last().map(|mark| mark.upto.clone());
        let Some(upto) = upto else { continue };
        from.advance(&batch.partition, &upto);
        // A mark may also say that nothing happened up to there.
        if let Some(last) = batch.closed().checked_sub(1) {
            passed = everything.iter().position(|key| *key == batch.row(last).key).unwrap() + 1;
        }
        let mut again = rig.tail(&from, &pool).await;
        let rest = follow(again.as_mut(), &from, &head).await;
        assert_eq!(keys(&rest), everything[passed..], "exactly what follows {from}");
    }
}

pub async fn a_dropped_read_loses_nothing(rig: Rig) {
    let pool = Pool::new(8, 64);
    let pin = rig.source.pin().await.unwrap();
    let mut tail = rig.tail(&pin, &pool).await;
    rig.put("/one", b"1");
    rig.put("/two", b"2");
    let head = rig.source.head().await.unwrap();
    for _ in 0..50 {
        let looked = tokio::time::timeout(Duration::ZERO, tail.next()).await;
        if let Ok(batch) = looked {
            let batch = batch.unwrap();
            let mut from = pin.clone();
            from.advance(&batch.partition, batch.upto());
            if from.covers(&head) {
                assert_eq!(batch.rows().last().map(|row| row.key.to_vec()), Some(b"/two".to_vec()));
                return;
            }
            let rest = follow(tail.as_mut(), &from, &head).await;
            let last =
                rest.iter().flat_map(|batch| batch.rows().map(|row| row.key.to_vec()).collect::<Vec<_>>()).last();
            assert!(last == Some(b"/two".to_vec()) || batch.rows().any(|row| row.key == b"/two"));
            return;
        }
    }
    let rest = follow(tail.as_mut(), &pin, &head).await;
    assert_eq!(rest.iter().map(Batch::len).sum::<usize>(), 2);
}

pub async fn an_idle_source_reaches_its_head(rig: Rig) {
    let pool = Pool::new(8, 1 << 10);
    let pin = rig.source.pin().await.unwrap();
    let head = rig.source.head().await.unwrap();
    let mut tail = rig.tail(&pin, &pool).await;
    let mut reached = pin.clone();
    for batch in follow(tail.as_mut(), &pin, &head).await {
        reached.advance(&batch.partition, batch.upto());
    }
    rig.put("/key", b"value");
    let head = rig.source.head().await.unwrap();
    let batches = follow(tail.as_mut(), &reached, &head).await;
    assert_eq!(batches.iter().map(Batch::len).sum::<usize>(), 1);
    tail.release(&head).await.unwrap();
    drop(tail);
    let head = rig.source.head().await.unwrap();
    let mut tail = rig.tail(&head, &pool).await;
    follow(tail.as_mut(), &head, &head).await;
    tail.release(&head).await.unwrap();
}

pub async fn another_lineage_is_a_lost_position(rig: Rig) {
    rig.source.pin().await.unwrap();
    let elsewhere: Checkpoint = [(PartitionId::new("elsewhere/1"), Position::at("5"))].into_iter().collect();
    let lost = rig.source.tail(&elsewhere, &Pool::new(4, 64)).await.map(drop).unwrap_err();
    assert_eq!(lost.fault(), Fault::PositionLost, "{lost}");
}

pub async fn scan_sees_every_key_once(rig: Rig) {
    let expected: Vec<Vec<u8>> = (0..300).map(|n| format!("/key/{n:04}").into_bytes()).collect();
    (rig.write)(&expected.iter().rev().map(|key| (key.clone(), Some(b"value".to_vec()))).collect::<Vec<_>>());
    let rows = all(rig.store.as_ref()).await;
    assert_eq!(rows.into_keys().collect::<Vec<_>>(), expected);
}

pub async fn a_scan_goes_on_after_any_key(rig: Rig) {
    (rig.write)(&(0..20).map(|n| (format!("/key/{n:02}").into_bytes(), Some(vec![n]))).collect::<Vec<_>>());
    let range = rig.store.ranges(1).await.unwrap().remove(0);
    // A key that is gone, or never was, is as good a place as any other.
    for (after, first) in [("/key/07", "/key/08"), ("/key/07x", "/key/08"), ("", "/key/00")] {
        let mut page = Batch::unpooled();
        let after = Position::at(after);
        page.begin(&PartitionId::new("!scan"), after.clone(), Steps::Key);
        let page = rig.store.scan(&range, &after, page, 1 << 20).await.unwrap();
        assert_eq!(page.row(0).key, first.as_bytes(), "after {after}");
        assert_eq!(page.upto(), &Position::End);
    }
}

pub async fn get_finds_what_is_there(rig: Rig) {
    rig.put("/a", b"1");
    rig.put("/b", b"2");
    let table = rig.table().await;
    let keys: [&[u8]; 3] = [b"/b", b"/missing", b"/a"];
    let found = rig.store.get(&table, &keys, Batch::unpooled()).await.unwrap();
    let mut names: Vec<_> = found.rows().map(|row| row.key.to_vec()).collect();
    names.sort();
    assert_eq!(names, [b"/a".to_vec(), b"/b".to_vec()]);
    let scanned = all(rig.store.as_ref()).await;
    assert!(found.rows().all(|row| scanned[row.key] == row.body), "get and scan give the same bytes");
}

pub async fn body_roundtrips_bit_for_bit(rig: Rig) {
    let values: [&[u8]; 6] = [b"", b"\0", b"plain", &[0xff; 3], b"two\0parts", &[7; 100_000]];
    for (n, value) in values.iter().enumerate() {
        rig.put(&format!("/value/{n}"), value);
    }
    rig.put("/key/\u{1F511} with % and \u{e9}", b"key");
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    let mut rows = vec![];
    for range in rig.store.ranges(2).await.unwrap() {
        let mut page = Batch::unpooled();
        page.begin(&PartitionId::new("!scan"), Position::Start, Steps::Key);
        rows.push(Arc::new(rig.store.scan(&range, &Position::Start, page, usize::MAX).await.unwrap()));
    }
    writer.commit(commit(1, &rows.iter().collect::<Vec<_>>(), at(1))).await.unwrap();
    let (source, sink) = (rig.source_rows().await, rig.sink_rows().await);
    assert_eq!(source.len(), 7);
    assert!(source == sink, "what was written is what was read");
}

pub async fn inspect_takes_nothing(rig: Rig) {
    assert!(rig.sink.inspect(&rig.stream).await.unwrap().is_none());
    let (_, mut writer) = rig.claim(2, 0, None).await.unwrap();
    for n in 1..4 {
        assert_eq!(rig.record().await.lanes[0].epoch, 1);
        assert_eq!(rig.record().await.lanes[1].epoch, 0, "a lane that was never claimed");
        writer.commit(commit(n, &[], at(n as u32))).await.unwrap();
    }
    assert_eq!(rig.record().await.owner, Owner("somebody".into()));
    assert!(rig.sink.inspect(&StreamId::new("another")).await.unwrap().is_none());
}

pub async fn commit_is_atomic(rig: Rig) {
    rig.put("/a", b"1");
    rig.put("/b", b"2");
    let (a, b) = (rig.row("/a").await, rig.row("/b").await);
    let (record, mut writer) = rig.claim(1, 0, None).await.unwrap();
    assert_eq!((record.epoch, record.number, record.checkpoint), (1, 0, Checkpoint::default()));
    writer.commit(commit(1, &[&a, &b], at(1))).await.unwrap();
    assert_eq!(rig.sink_rows().await.len(), 2);
    let lane = rig.record().await.lanes.remove(0);
    assert_eq!((lane.number, lane.checkpoint), (1, at(1)));
    let gone = removal(&rig.table().await, "/a");
    writer.commit(commit(2, &[&gone], at(2))).await.unwrap();
    assert_eq!(rig.sink_rows().await.into_keys().collect::<Vec<_>>(), [b"/b".to_vec()]);
    writer.commit(commit(3, &[&gone], at(3))).await.unwrap();
    assert_eq!(rig.record().await.lanes[0].checkpoint, at(3), "removing what is not there is harmless");
}

pub async fn what_is_staged_appears_with_its_commit(rig: Rig) {
    rig.put("/a", b"1");
    rig.put("/b", b"2");
    let (a, b) = (rig.row("/a").await, rig.row("/b").await);
    if !rig.sink.limits().stage {
        return;
    }
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    writer.stage(&Arc::new(changes_of(&[&a]))).await.unwrap();
    assert!(rig.sink_rows().await.is_empty(), "staged is not visible");
    writer.commit(commit(1, &[&b], at(1))).await.unwrap();
    assert_eq!(rig.sink_rows().await.len(), 2);
    writer.stage(&Arc::new(changes_of(&[&removal(&rig.table().await, "/a")]))).await.unwrap();
    drop(writer);
    let seen = rig.record().await.lanes[0].epoch;
    let (record, _writer) = rig.claim(1, 0, Some(seen)).await.unwrap();
    assert_eq!((record.number, record.checkpoint), (1, at(1)));
    assert_eq!(rig.sink_rows().await.len(), 2, "what was staged is gone with its writer");
}

pub async fn commits_in_flight_land_in_order(rig: Rig) {
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    let mut rows = vec![];
    for n in 0..rig.sink.limits().in_flight.min(8) {
        rig.put("/hot", format!("{n}").as_bytes());
        rows.push(rig.row("/hot").await);
    }
    let sent: Vec<_> = (1u32..).zip(&rows).map(|(n, row)| writer.commit(commit(u64::from(n), &[row], at(n)))).collect();
    for answer in sent {
        answer.await.unwrap();
    }
    assert_eq!(rig.sink_rows().await, rig.source_rows().await);
    assert_eq!(rig.record().await.lanes[0].number, rows.len() as u64);
}

pub async fn commit_twice_is_once(rig: Rig) {
    rig.put("/a", b"1");
    let a = rig.row("/a").await;
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    let once = commit(1, &[&a], at(1));
    writer.commit(Arc::clone(&once)).await.unwrap();
    writer.commit(once).await.unwrap();
    let lane = rig.record().await.lanes.remove(0);
    assert_eq!((lane.number, lane.checkpoint), (1, at(1)));
    writer.commit(commit(2, &[], at(2))).await.unwrap();
}

pub async fn a_late_twin_changes_nothing(rig: Rig) {
    rig.put("/a", b"older");
    let older = commit(1, &[&rig.row("/a").await], at(1));
    rig.put("/a", b"newer");
    let newer = rig.row("/a").await;
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    writer.commit(Arc::clone(&older)).await.unwrap();
    writer.commit(commit(2, &[&newer], at(2))).await.unwrap();
    writer.commit(commit(3, &[], at(3))).await.unwrap();
    writer.commit(older).await.unwrap();
    assert_eq!(rig.sink_rows().await, rig.source_rows().await);
    let lane = rig.record().await.lanes.remove(0);
    assert_eq!((lane.number, lane.checkpoint), (3, at(3)));
}

pub async fn a_commit_out_of_turn_is_refused(rig: Rig) {
    rig.put("/a", b"1");
    let a = rig.row("/a").await;
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    let refused = writer.commit(commit(2, &[&a], at(2))).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Bug, "{refused}");
    assert!(rig.sink_rows().await.is_empty());
    assert_eq!(rig.record().await.lanes[0].number, 0);
}

pub async fn older_epoch_is_fenced(rig: Rig) {
    rig.put("/a", b"1");
    let a = rig.row("/a").await;
    let (_, mut old) = rig.claim(1, 0, None).await.unwrap();
    old.commit(commit(1, &[], at(1))).await.unwrap();
    let (record, mut new) = rig.claim(1, 0, Some(1)).await.unwrap();
    assert_eq!((record.epoch, record.number, record.checkpoint), (2, 1, at(1)));
    let fenced = old.commit(commit(2, &[&a], at(2))).await.unwrap_err();
    assert_eq!(fenced.fault(), Fault::Fenced, "{fenced}");
    assert!(rig.sink_rows().await.is_empty());
    new.commit(commit(2, &[&a], at(5))).await.unwrap();
    let twin = old.commit(commit(2, &[], at(9))).await.unwrap_err();
    assert_eq!(twin.fault(), Fault::Fenced, "a number of another epoch says nothing: {twin}");
    assert_eq!(rig.record().await.lanes[0].checkpoint, at(5));
}

pub async fn a_claim_needs_what_was_seen(rig: Rig) {
    let (_, _first) = rig.claim(1, 0, None).await.unwrap();
    for stale in [None, Some(0), Some(2)] {
        let refused = rig.claim(1, 0, stale).await.map(drop).unwrap_err();
        assert_eq!(refused.fault(), Fault::Fenced, "seen {stale:?}: {refused}");
    }
    assert_eq!(rig.record().await.lanes[0].epoch, 1);
    rig.claim(1, 0, Some(1)).await.unwrap();
}

pub async fn checkpoint_never_moves_back(rig: Rig) {
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    let other: Checkpoint = [(PartitionId::new("somewhere/2"), Position::End)].into_iter().collect();
    writer.commit(commit(1, &[], at(5))).await.unwrap();
    writer.commit(commit(2, &[], other.clone())).await.unwrap();
    writer.commit(commit(3, &[], Checkpoint::default())).await.unwrap();
    let mut both = at(5);
    both.merge(&other);
    assert_eq!(rig.record().await.lanes[0].checkpoint, both, "what a commit does not name stays");
    let (record, _) = rig.claim(1, 0, Some(1)).await.unwrap();
    assert_eq!((record.number, record.checkpoint), (3, both));
}

pub async fn positions_come_back_as_they_were(rig: Rig) {
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    let positions = [
        Position::Start,
        Position::Start.plus(3),
        Position::at([0, 255, b'%', b'#', b' ', b'\'']),
        Position::at("0/15").plus(1 << 40),
        Position::End,
    ];
    let named = (0..).zip(positions).map(|(n, position)| (PartitionId::new(format!("p/\u{e9}'{n}")), position));
    let upto: Checkpoint = named.collect();
    writer.commit(commit(1, &[], upto.clone())).await.unwrap();
    assert_eq!(rig.record().await.lanes[0].checkpoint, upto);
}

pub async fn what_is_forgotten_goes_before_what_is_named(rig: Rig) {
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    let (kept, lost) = (PartitionId::new("kept"), PartitionId::new("lost"));
    let both = [(kept.clone(), Position::at("9")), (lost.clone(), Position::at("9"))].into_iter().collect();
    writer.commit(commit(1, &[], both)).await.unwrap();
    let upto: Checkpoint = [(kept.clone(), Position::at("3"))].into_iter().collect();
    let (changes, forget) = (Changes::default(), vec![kept, lost]);
    writer.commit(Arc::new(Commit { number: 2, changes, forget, upto: upto.clone() })).await.unwrap();
    assert_eq!(rig.record().await.lanes[0].checkpoint, upto);
}

pub async fn lanes_have_records_of_their_own(rig: Rig) {
    rig.put("/a", b"1");
    rig.put("/b", b"2");
    let (_, mut first) = rig.claim(2, 0, None).await.unwrap();
    let (_, mut second) = rig.claim(2, 1, None).await.unwrap();
    first.commit(commit(1, &[&rig.row("/a").await], at(5))).await.unwrap();
    second.commit(commit(1, &[&rig.row("/b").await], at(3))).await.unwrap();
    let before = rig.record().await.pulse();
    assert_eq!(rig.record().await.pulse(), before, "nothing has happened in between");
    second.commit(commit(2, &[], at(4))).await.unwrap();
    let record = rig.record().await;
    assert_ne!(record.pulse(), before, "a commit is a sign of life");
    assert_eq!(record.lanes.iter().map(|lane| lane.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(record.frontier(), at(4));
    assert_eq!(rig.sink_rows().await.len(), 2);
}

pub async fn a_lane_that_has_staged_can_show_that_it_is_alive_or_nobody_gets_past_it(rig: Rig) {
    if !rig.sink.limits().stage {
        return;
    }
    rig.put("/a", b"1");
    let a = rig.row("/a").await;
    let (taken, mut writer) = rig.claim(1, 0, None).await.unwrap();
    writer.stage(&Arc::new(changes_of(&[&a]))).await.unwrap();
    let before = rig.record().await;
    let (rig, name) = (&rig, &rig.stream);
    let beat = |epoch| async move {
        let beat = rig.sink.beat(name, 0, epoch);
        tokio::time::timeout(Duration::from_secs(10), beat).await.expect("a beat waits for nothing").unwrap();
        rig.record().await
    };
    for other in [0, taken.epoch + 1] {
        assert_eq!(beat(other).await, before, "epoch {other} is not the lane's");
    }
    let after = beat(taken.epoch).await;
    if after.pulse() == before.pulse() {
        let refused = rig.claim(1, 0, Some(taken.epoch)).await.map(drop).unwrap_err();
        assert_eq!(refused.fault(), Fault::Transient, "{refused}");
    } else {
        assert_ne!(beat(taken.epoch).await.pulse(), after.pulse(), "each of them counts");
    }
    writer.commit(commit(1, &[], at(1))).await.unwrap();
    assert_eq!(rig.sink_rows().await, rig.source_rows().await, "what was staged has landed");
}

pub async fn a_beat_of_an_older_epoch_changes_nothing(rig: Rig) {
    let (old, _older) = rig.claim(1, 0, None).await.unwrap();
    rig.sink.beat(&rig.stream, 0, old.epoch).await.unwrap();
    let before = rig.record().await.pulse();
    let (new, mut writer) = rig.claim(1, 0, Some(old.epoch)).await.unwrap();
    assert_ne!(rig.record().await.pulse(), before, "a claim is a sign of life");
    let before = rig.record().await;
    rig.sink.beat(&rig.stream, 0, old.epoch).await.unwrap();
    rig.sink.beat(&StreamId::new("another"), 0, new.epoch).await.unwrap();
    rig.sink.beat(&rig.stream, 7, new.epoch).await.unwrap();
    assert_eq!(rig.record().await, before);
    writer.commit(commit(1, &[], at(1))).await.unwrap();
}

pub async fn who_takes_over_a_lane_that_stood_still_is_refused_when_it_moves_again(rig: Rig) {
    let (taken, mut writer) = rig.claim(1, 0, None).await.unwrap();
    let scope = Scope { layout: "conformance".into(), extent: "all".into(), lanes: 1 };
    let (owner, seen, still) = (Owner("another".into()), Some(taken.epoch), Some(taken.number));
    let mut claim = Claim { stream: rig.stream.clone(), lane: 0, owner, scope, seen, still, foreign: false };
    writer.commit(commit(1, &[], at(1))).await.unwrap();
    let refused = rig.sink.claim(&claim).await.map(drop).unwrap_err();
    assert_eq!(refused.fault(), Fault::Transient, "{refused}");
    assert_eq!(rig.record().await.lanes[0].epoch, taken.epoch);
    writer.commit(commit(2, &[], at(2))).await.expect("the owner was not disturbed");
    claim.still = Some(2);
    let (record, _) = rig.sink.claim(&claim).await.unwrap();
    assert_eq!((record.epoch, record.number), (taken.epoch + 1, 2));
}

pub async fn another_number_of_lanes_starts_from_what_all_had_passed(rig: Rig) {
    let (_, mut first) = rig.claim(2, 0, None).await.unwrap();
    let (_, mut second) = rig.claim(2, 1, None).await.unwrap();
    first.commit(commit(1, &[], at(5))).await.unwrap();
    second.commit(commit(1, &[], at(3))).await.unwrap();
    let (record, mut writer) = rig.claim(1, 0, Some(1)).await.unwrap();
    assert_eq!(record.checkpoint, at(3));
    writer.commit(commit(record.number + 1, &[], at(6))).await.unwrap();
    for old in [first.commit(commit(2, &[], at(9))), second.commit(commit(2, &[], at(9)))] {
        let refused = old.await.unwrap_err();
        assert!(matches!(refused.fault(), Fault::Fenced | Fault::Bug), "{refused}");
    }
    let record = rig.record().await;
    assert_eq!((record.scope.lanes, record.lanes.len(), record.frontier()), (1, 1, at(6)));
}

pub async fn a_forgotten_stream_leaves_its_data_and_nothing_else(rig: Rig) {
    rig.put("/a", b"1");
    let a = rig.row("/a").await;
    let (_, mut writer) = rig.claim(1, 0, None).await.unwrap();
    writer.commit(commit(1, &[&a], at(1))).await.unwrap();
    let old = rig.record().await;
    let (_, mut writer) = rig.claim(1, 0, Some(1)).await.unwrap();
    let refused = rig.sink.forget(&rig.stream, &old).await.unwrap_err();
    assert_eq!(refused.fault(), Fault::Fenced, "somebody has claimed it since: {refused}");
    writer.commit(commit(2, &[], at(2))).await.unwrap();
    drop(writer);
    let rows = rig.sink_rows().await;
    for _ in 0..2 {
        rig.sink.forget(&rig.stream, &StreamRecord { ..rig_record(&rig).await.unwrap_or(old.clone()) }).await.unwrap();
        assert_eq!(rig_record(&rig).await, None);
        assert_eq!(rig.sink_rows().await, rows);
    }
    let (record, mut writer) = rig.claim(1, 0, None).await.unwrap();
    assert_eq!(record.checkpoint, Checkpoint::default(), "nothing of the forgotten stream comes back");
    writer.commit(commit(record.number + 1, &[], at(1))).await.unwrap();
}

async fn rig_record(rig: &Rig) -> Option<StreamRecord> {
    rig.sink.inspect(&rig.stream).await.unwrap()
}

/// Calls every question for the rig that `$maker` (an async function without arguments) builds.
#[macro_export]
macro_rules! conformance {
    ($maker:path) => {
        $crate::conformance!(@each $maker,
            tail_is_ordered, tail_resumes_exactly, a_dropped_read_loses_nothing, an_idle_source_reaches_its_head,
            another_lineage_is_a_lost_position, scan_sees_every_key_once, a_scan_goes_on_after_any_key,
            get_finds_what_is_there, body_roundtrips_bit_for_bit);
        $crate::conformance!(@sink $maker);
    };
    (@sink $maker:path) => {
        $crate::conformance!(@each $maker,
            inspect_takes_nothing, commit_is_atomic,
            what_is_staged_appears_with_its_commit, commits_in_flight_land_in_order, commit_twice_is_once,
            a_late_twin_changes_nothing, a_commit_out_of_turn_is_refused, older_epoch_is_fenced,
            a_claim_needs_what_was_seen, checkpoint_never_moves_back, positions_come_back_as_they_were,
            what_is_forgotten_goes_before_what_is_named, lanes_have_records_of_their_own,
            a_lane_that_has_staged_can_show_that_it_is_alive_or_nobody_gets_past_it,
            a_beat_of_an_older_epoch_changes_nothing,
            who_takes_over_a_lane_that_stood_still_is_refused_when_it_moves_again,
            another_number_of_lanes_starts_from_what_all_had_passed,
            a_forgotten_stream_leaves_its_data_and_nothing_else);
    };
    (@each $maker:path, $($question:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $question() {
                $crate::conformance::$question($maker().await).await;
            }
        )*
    };
}

mod memory_keeps_the_contracts {
    use super::*;

    async fn rig() -> Rig {
        let world = memory::World::new(&[""], 1);
        let limits = Limits { changes: 1000, bytes: 1 << 20, stage: true, in_flight: 4 };
        let sink = memory::MemorySink::new(limits);
        let writes = world.clone();
        let write = move |all: &[Write]| {
            let write = |(key, value): &Write| match value {
                Some(value) => memory::Write::Put(0, key.clone(), [value.clone(), b"second".to_vec()]),
                None => memory::Write::Delete(0, key.clone()),
            };
            writes.transact(&all.iter().map(write).collect::<Vec<_>>());
        };
        Rig {
            store: Arc::from(world.store()),
            sink_store: Arc::from(sink.store()),
            source: Arc::new(world),
            sink: Arc::new(sink),
            stream: stream(),
            write: Box::new(write),
            held: <[u8]>::to_vec,
            guard: Box::new(()),
        }
    }

    conformance!(rig);
}
