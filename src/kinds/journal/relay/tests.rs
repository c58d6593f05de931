//! The relay between a scripted source and followers, on a disk in memory.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::*;
use crate::kinds::journal::faulty::Faulty;
use crate::model::{Op, Table};

/// A source of numbered transactions: number `n` puts `value-n` under the key `n % 7` of one partition.
#[derive(Clone)]
pub(super) struct Numbers(Arc<Inner>);

pub(super) struct Inner {
    state: Mutex<State>,
    head: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct State {
    /// What it was told to forget.
    pub(super) released: u64,
    /// What it forgot by itself.
    pub(super) lost: u64,
    /// Where tails were opened.
    pub(super) opened: Vec<u64>,
    failing: bool,
    pub(super) strained: bool,
    /// What lies behind this is not given out yet.
    pub(super) held: Option<u64>,
    /// Numbers of patches that take the rest of their row from another key.
    pub(super) moves: BTreeSet<u64>,
    /// Numbers that empty the table instead.
    pub(super) clears: BTreeSet<u64>,
}

pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) fn partition() -> PartitionId {
    PartitionId::new("numbers/1")
}

pub(super) fn position(number: u64) -> Position {
    Position::at(format!("{number:08}"))
}

pub(super) fn at(number: u64) -> Checkpoint {
    [(partition(), position(number))].into_iter().collect()
}

pub(super) fn number(checkpoint: &Checkpoint) -> u64 {
    match checkpoint.get(&partition()) {
        Position::At { at, .. } => std::str::from_utf8(at).unwrap().trim_end_matches('~').parse().unwrap(),
        _ => 0,
    }
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), head: watch::Sender::new(0) }))
    }

    pub(super) fn write(&self, count: u64) {
        self.0.head.send_modify(|head| *head += count);
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let done = act(&mut self.0.state.lock().unwrap());
        self.0.head.send_modify(|_| {});
        done
    }
}

impl Source for Numbers {
    fn head(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async { Ok(at(*self.0.head.borrow())) })
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        self.head()
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async move {
            let (from, head) = (number(from), *self.0.head.borrow());
            let lost = self.with(|state| state.lost.max(state.released));
            if from < lost || from > head {
                return Err(Error::position_lost(format!("start at {from}: it has {lost} to {head}")));
            }
            self.with(|state| state.opened.push(from));
            Ok(Box::new(Counting { numbers: self.clone(), at: from, pool: pool.clone() }) as Box<dyn Tail>)
        })
    }

    fn strained(&self) -> bool {
        self.with(|state| state.strained)
    }
}

struct Counting {
    numbers: Numbers,
    at: u64,
    pool: Pool,
}

impl Tail for Counting {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(async {
            let mut head = self.numbers.0.head.subscribe();
            loop {
                if self.numbers.with(|state| state.failing) {
                    return Err(Error::transient("the source is away"));
                }
                let held = self.numbers.with(|state| state.held.is_some_and(|held| self.at >= held));
                if *head.borrow_and_update() > self.at && !held {
                    break;
                }
                head.changed().await.unwrap();
            }
            let mut batch = self.pool.take().await;
            batch.begin(&partition(), position(self.at), Steps::Ordinal);
            let table = batch.table(&Arc::new(Table::default()));
            self.at += 1;
            let (key, value) = (format!("{}", self.at % 7), format!("value-{}", self.at));
            let at = self.at;
            let (moves, clears) = self.numbers.with(|state| (state.moves.contains(&at), state.clears.contains(&at)));
            match (moves, clears) {
                (true, _) => {
                    batch.push_moved(Op::Patch, false, table, key.as_bytes(), value.as_bytes(), Some(b"old"), 1)
                }
                (_, true) => batch.push(Op::Clear, false, table, b"", b"", 1),
                _ => batch.push(Op::Put, false, table, key.as_bytes(), value.as_bytes(), 1),
            }
            batch.mark(position(self.at));
            Ok(batch)
        })
    }

    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()> {
        let upto = number(upto);
        self.numbers.with(|state| state.released = state.released.max(upto));
        Box::pin(async { Ok(()) })
    }
}

fn relay(source: &Numbers, disk: &Faulty, ack: Ack, names: &[&str]) -> Arc<Relay> {
    Relay::new(Arc::new(source.clone()), wanted(disk, ack, names))
}

pub(super) fn wanted(disk: &Faulty, ack: Ack, names: &[&str]) -> Wanted {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Wanted {
        name: "numbers".into(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ack,
        memory: 1 << 20,
        disk: Box::new(move || Ok(Arc::clone(&disk))),
        options: Box::new(|| Options::new("numbers")),
        keys: Keys::default(),
        retention: Retention { bytes: u64::MAX, age: 1_000_000, outrun: true },
        snapshots: None,
        now: || 1,
    }
}

pub(super) fn pool() -> Pool {
    Pool::new(4, 64 << 10)
}

/// Takes from a tail until it has given the change `upto`; every change is the one that has to come.
pub(super) async fn take(tail: &mut dyn Tail, mut from: u64, upto: u64) {
    while from < upto {
        let batch = tokio::time::timeout(LONG, tail.next()).await.expect("it goes on").unwrap();
        for row in batch.rows() {
            from += 1;
            assert_eq!(std::str::from_utf8(row.body).unwrap(), format!("value-{from}"));
            assert_eq!(std::str::from_utf8(row.key).unwrap(), format!("{}", from % 7));
        }
        assert_eq!(*batch.upto(), position(from));
    }
    assert_eq!(from, upto);
}

pub(super) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(LONG, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

pub(super) async fn fault(tail: &mut dyn Tail) -> Fault {
    loop {
        if let Err(error) = tokio::time::timeout(LONG, tail.next()).await.expect("it ends") {
            return error.fault();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_streams_share_one_reader_and_the_source_keeps_what_the_slower_one_lacks() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(3);
    let relay = relay(&source, &disk, Ack::Sink, &["a", "b"]);
    let (a, b) = (relay.source("a"), relay.source("b"));
    assert_eq!(a.pin().await.unwrap(), at(3));
    source.write(2);
    let pin = b.pin().await.unwrap();
    assert!((3..=5).contains(&number(&pin)), "a place that the journal holds: {pin}");
    let (mut a, mut b) = (a.tail(&at(3), &pool()).await.unwrap(), b.tail(&pin, &pool()).await.unwrap());
    source.write(5);
    take(a.as_mut(), 3, 10).await;
    take(b.as_mut(), number(&pin), 10).await;
    a.release(&at(10)).await.unwrap();
    b.release(&at(7)).await.unwrap();
    until("the slower one's place is released", || source.with(|state| state.released == 7)).await;
    b.release(&at(10)).await.unwrap();
    until("all is released", || source.with(|state| state.released == 10)).await;
    assert_eq!(source.with(|state| state.opened.clone()), [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_stands_still_for_long_costs_the_other_nothing_and_reads_on_from_the_journal() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let relay = relay(&source, &disk, Ack::Sink, &["a", "b"]);
    let mut a = relay.source("a").tail(&at(0), &pool()).await.unwrap();
    let mut b = relay.source("b").tail(&at(0), &pool()).await.unwrap();
    source.write(10);
    take(b.as_mut(), 0, 10).await;
    // Far more than the ring keeps.
    for step in 0..20 {
        source.write(100);
        take(a.as_mut(), if step == 0 { 0 } else { 10 + step * 100 }, 10 + (step + 1) * 100).await;
    }
    take(b.as_mut(), 10, 2010).await;
    source.write(5);
    take(b.as_mut(), 2010, 2015).await;
    take(a.as_mut(), 2010, 2015).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capturing_goes_on_where_the_journal_ends_whatever_the_streams_have() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let first = relay(&source, &disk, Ack::Journal, &["a"]);
    let mut a = first.source("a").tail(&at(0), &pool()).await.unwrap();
    source.write(50);
    take(a.as_mut(), 0, 50).await;
    until("the journal has it", || source.with(|state| state.released == 50)).await;
    drop(a);
    first.stop().await.unwrap();
    source.write(10);
    let second = relay(&source, &disk, Ack::Journal, &["a", "b"]);
    let mut a = second.source("a").tail(&at(20), &pool()).await.unwrap();
    take(a.as_mut(), 20, 60).await;
    assert_eq!(source.with(|state| state.opened.clone()), [0, 50]);
    // A stream that has less than the source still keeps has it from the journal.
    let mut b = second.source("b").tail(&at(1), &pool()).await.unwrap();
    take(b.as_mut(), 1, 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_ahead_of_a_journal_which_lost_its_end_goes_on_from_its_own_place() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(5);
    let first = relay(&source, &disk, Ack::Sink, &["a", "b"]);
    drop(first.source("a").tail(&at(5), &pool()).await.unwrap());
    first.stop().await.unwrap();
    source.write(5);
    let second = relay(&source, &disk, Ack::Sink, &["a", "b"]);
    // Nobody has what the source itself does not have.
    let refused = second.source("a").tail(&at(11), &pool()).await.map(drop);
    assert_eq!(refused.unwrap_err().fault(), Fault::PositionLost);
    let mut a = second.source("a").tail(&at(8), &pool()).await.unwrap();
    source.write(1);
    take(a.as_mut(), 8, 11).await;
    let lost = second.source("b").tail(&at(5), &pool()).await.map(drop);
    assert_eq!(lost.unwrap_err().fault(), Fault::PositionLost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_has_forgotten_what_follows_the_journal_is_a_gap_for_everybody_behind_it() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let first = relay(&source, &disk, Ack::Sink, &["a", "b"]);
    let mut a = first.source("a").tail(&at(0), &pool()).await.unwrap();
    source.write(10);
    take(a.as_mut(), 0, 10).await;
    drop(a);
    first.stop().await.unwrap();
    source.write(10);
    source.with(|state| state.lost = 15);
    let second = relay(&source, &disk, Ack::Sink, &["a", "b"]);
    let lost = second.source("a").tail(&at(10), &pool()).await.map(drop);
    assert_eq!(lost.unwrap_err().fault(), Fault::PositionLost);
    let pin = second.source("a").pin().await.unwrap();
    assert_eq!(pin, at(20));
    let mut a = second.source("a").tail(&pin, &pool()).await.unwrap();
    let lost = second.source("b").tail(&at(5), &pool()).await.map(drop);
    assert_eq!(lost.unwrap_err().fault(), Fault::PositionLost);
    source.write(5);
    take(a.as_mut(), 20, 25).await;
    let pin = second.source("b").pin().await.unwrap();
    let mut b = second.source("b").tail(&pin, &pool()).await.unwrap();
    source.write(5);
    take(b.as_mut(), number(&pin), 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_that_fails_ends_every_follower_and_the_next_tail_begins_another_one() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let relay = relay(&source, &disk, Ack::Sink, &["a", "b"]);
    let mut a = relay.source("a").tail(&at(0), &pool()).await.unwrap();
    let mut b = relay.source("b").tail(&at(0), &pool()).await.unwrap();
    source.write(3);
    take(a.as_mut(), 0, 3).await;
    source.with(|state| state.failing = true);
    assert_eq!(fault(a.as_mut()).await, Fault::Transient);
    // What came before is given first.
    take(b.as_mut(), 0, 3).await;
    assert_eq!(fault(b.as_mut()).await, Fault::Transient);
    source.with(|state| state.failing = false);
    source.write(2);
    let mut a = relay.source("a").tail(&at(3), &pool()).await.unwrap();
    let mut b = relay.source("b").tail(&at(1), &pool()).await.unwrap();
    take(a.as_mut(), 3, 5).await;
    take(b.as_mut(), 1, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_pauses_reading_is_said_and_goes_on_by_itself() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let relay = relay(&source, &disk, Ack::Sink, &["a"]);
    let a = relay.source("a");
    let mut tail = a.tail(&at(0), &pool()).await.unwrap();
    source.write(1);
    take(tail.as_mut(), 0, 1).await;
    disk.room(Some(0));
    source.write(1000);
    until("it is said", || a.concern().is_some()).await;
    let more = tokio::time::timeout(Duration::from_millis(300), take(tail.as_mut(), 1, 1001)).await;
    assert!(more.is_err(), "it is given although nothing can be written");
    tail.release(&at(1)).await.unwrap();
    assert!(source.with(|state| state.released) <= 1);
    disk.room(None);
    until("it goes on", || a.concern().is_none()).await;
    drop(tail);
    let mut tail = a.tail(&at(1), &pool()).await.unwrap();
    take(tail.as_mut(), 1, 1001).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_can_keep_no_more_is_released_by_the_journal() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let relay = relay(&source, &disk, Ack::Sink, &["a", "away"]);
    let mut a = relay.source("a").tail(&at(0), &pool()).await.unwrap();
    source.write(20);
    take(a.as_mut(), 0, 20).await;
    a.release(&at(20)).await.unwrap();
    assert_eq!(source.with(|state| state.released), 0, "one of them was not heard of yet");
    source.with(|state| state.strained = true);
    until("the journal took over", || source.with(|state| state.released == 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_fsync_that_failed_ends_the_stream_and_is_not_tried_over() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let relay = relay(&source, &disk, Ack::Sink, &["a"]);
    let mut a = relay.source("a").tail(&at(0), &pool()).await.unwrap();
    source.write(1);
    take(a.as_mut(), 0, 1).await;
    disk.fail(true);
    source.write(1);
    assert_eq!(fault(a.as_mut()).await, Fault::Config);
    assert!(source.with(|state| state.released) <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_given_what_the_journal_does_not_hold() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let relay = relay(&source, &disk, Ack::Sink, &["a"]);
    let mut a = relay.source("a").tail(&at(0), &pool()).await.unwrap();
    source.write(3);
    take(a.as_mut(), 0, 3).await;
    disk.room(Some(0));
    source.write(1);
    let early = tokio::time::timeout(Duration::from_millis(300), a.next()).await;
    assert!(early.is_err(), "it was given although the journal does not have it");
    disk.room(None);
    take(a.as_mut(), 3, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_while_a_group_is_on_its_way_to_the_disk_is_given_once_and_in_order() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    // Frames of a few changes, and no room for many of them, so that all roads are taken.
    let options = || Options { frame_bytes: 300, waiting_bytes: 4000, ..Options::new("numbers") };
    let wanted = Wanted { options: Box::new(options), ..wanted(&disk, Ack::Sink, &["a", "b"]) };
    let relay = Relay::new(Arc::new(source.clone()), wanted);
    let mut a = relay.source("a").tail(&at(0), &pool()).await.unwrap();
    let mut b = relay.source("b").tail(&at(0), &pool()).await.unwrap();
    let (mut a_has, mut b_has) = (0, 0);
    for round in 1..=20 {
        disk.hold(true);
        source.write(3);
        let waits = disk.clone();
        tokio::task::spawn_blocking(move || waits.wait_for_sync()).await.unwrap();
        source.write(50 * round);
        let early = tokio::time::timeout(Duration::from_millis(20), a.next()).await;
        assert!(early.is_err(), "it was given before it was durable");
        disk.hold(false);
        let head = a_has + 3 + 50 * round;
        take(a.as_mut(), a_has, head).await;
        a_has = head;
        a.release(&at(a_has)).await.unwrap();
        if round % 4 == 0 {
            take(b.as_mut(), b_has, head).await;
            b_has = head;
        }
    }
    relay.stop().await.unwrap();
    let reached = crate::kinds::journal::reached(&(Arc::new(disk) as Arc<dyn Disk>), &Keys::default()).unwrap();
    assert_eq!(number(&reached), a_has);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_falls_back_on_a_slow_disk_gets_on_although_he_is_interrupted_all_the_time() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let relay = Relay::new(Arc::new(source.clone()), wanted(&disk, Ack::Sink, &["a", "b"]));
    let mut a = relay.source("a").tail(&at(0), &pool()).await.unwrap();
    let mut b = relay.source("b").tail(&at(0), &pool()).await.unwrap();
    source.write(3);
    take(a.as_mut(), 0, 3).await;
    take(b.as_mut(), 0, 3).await;
    // It waits in memory, for what is dropped from there before it comes again.
    assert!(tokio::time::timeout(Duration::from_millis(20), b.next()).await.is_err(), "nothing follows");
    source.write(1000);
    take(a.as_mut(), 3, 1003).await;
    disk.slow(Duration::from_millis(5));
    let until = tokio::time::Instant::now() + LONG;
    let batch = loop {
        if let Ok(batch) = tokio::time::timeout(Duration::from_millis(1), b.next()).await {
            break batch.unwrap();
        }
        assert!(tokio::time::Instant::now() < until, "it begins anew each time");
    };
    assert_eq!(std::str::from_utf8(batch.row(0).body).unwrap(), "value-4");
    disk.slow(Duration::ZERO);
    let given = number(&[(partition(), batch.upto().clone())].into_iter().collect());
    take(b.as_mut(), given, 1003).await;
}
