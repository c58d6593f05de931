//! Snapshots beside a capture, of a scripted source and its store, on a disk in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};

use super::tests::{LONG, Numbers, at, number, pool, take, until, wanted};
use super::*;
use crate::kinds::journal::faulty::Faulty;
use crate::kinds::journal::{Given, Note, Reader, snapshots};
use crate::model::{Steps, Table};
use crate::store::{Range, Store};

/// What happens before a page is read, by how many were read before: whether it ever comes.
type Event = Box<dyn Fn(u64) -> Result<bool> + Send + Sync>;

/// The numbers' present state, one row to a page.
#[derive(Clone)]
struct Shelf(Arc<Board>);

struct Board {
    numbers: Numbers,
    freezes: bool,
    /// What a view is of.
    frozen: Option<u64>,
    pages: AtomicU64,
    /// Happens before the view is taken.
    before: Box<dyn Fn() + Send + Sync>,
    event: Arc<Event>,
}

impl Shelf {
    fn store(numbers: &Numbers, freezes: bool, before: fn(&Numbers), event: Event) -> Arc<dyn Store> {
        let own = numbers.clone();
        let before = Box::new(move || before(&own));
        let (numbers, pages, event) = (numbers.clone(), AtomicU64::new(0), Arc::new(event));
        Arc::new(Self(Arc::new(Board { numbers, freezes, frozen: None, pages, before, event })))
    }
}

/// What is there once `head` has happened.
fn state(head: u64) -> BTreeMap<String, String> {
    (1..=head).map(|number| (format!("{}", number % 7), format!("value-{number}"))).collect()
}

impl Store for Shelf {
    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async { Ok(vec![Arc::default()]) })
    }

    fn ranges(&self, _: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(async { Ok(vec![Range { name: "all".into(), table: Arc::default() }]) })
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        Box::pin(async { Ok(Range { name: name.to_owned(), table: Arc::default() }) })
    }

    fn scan<'a>(&'a self, range: &'a Range, after: &'a Position, mut batch: Batch, _: usize) -> Fut<'a, Batch> {
        Box::pin(async move {
            if !(self.0.event)(self.0.pages.fetch_add(1, SeqCst))? {
                std::future::pending::<()>().await;
            }
            let head = match self.0.frozen {
                Some(head) => head,
                None => number(&self.0.numbers.head().await?),
            };
            let next = state(head).into_iter().find(|(key, _)| Position::at(key.as_str()) > *after);
            let table = batch.table(&range.table);
            let upto = match next {
                None => Position::End,
                Some((key, value)) => {
                    batch.push(crate::model::Op::Put, false, table, key.as_bytes(), value.as_bytes(), 0);
                    Position::at(key.as_str())
                }
            };
            batch.mark(upto);
            Ok(batch)
        })
    }

    fn get<'a>(&'a self, _: &'a Arc<Table>, _: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        Box::pin(async { Ok(batch) })
    }

    fn frozen(&self) -> Fut<'_, Option<Box<dyn Store>>> {
        Box::pin(async {
            if !self.0.freezes {
                return Ok(None);
            }
            (self.0.before)();
            let head = number(&self.0.numbers.head().await?);
            let (numbers, event) = (self.0.numbers.clone(), Arc::clone(&self.0.event));
            let (pages, before) = (AtomicU64::new(0), Box::new(|| {}) as Box<dyn Fn() + Send + Sync>);
            let board = Board { numbers, freezes: true, frozen: Some(head), pages, before, event };
            Ok(Some(Box::new(Self(Arc::new(board))) as Box<dyn Store>))
        })
    }
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

fn relay(source: &Numbers, disk: &Faulty, store: Arc<dyn Store>, now: fn() -> Micros) -> Arc<Relay> {
    let snapshots = Some(Snapshots { store, every: HOUR });
    Relay::new(Arc::new(source.clone()), Wanted { snapshots, now, ..wanted(disk, Ack::Sink, &["a"]) })
}

fn whole(disk: &Faulty) -> Vec<Snapshot> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    snapshots(&disk, &Keys::default()).unwrap_or_default()
}

/// Makes, from the pages of a snapshot and then the changes behind its beginning, every state from the one on that it ends
/// with, and compares; gives how many there were.
fn states(disk: &Faulty, snapshot: Snapshot) -> u64 {
    let open = || Reader::at_sequence(Arc::new(disk.clone()), Keys::default(), snapshot.began).unwrap();
    let (mut reader, mut map, mut ended) = (open(), BTreeMap::new(), None);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while ended.is_none() {
        let mut batch = Batch::unpooled();
        match reader.next(&mut batch, usize::MAX, u64::MAX).unwrap() {
            Given::Page(id) if id == snapshot.id => {
                map.extend(batch.rows().map(|row| (text(row.key), text(row.body))));
            }
            Given::Note(Note::Ended { snapshot: id, head, whole: true, .. }) if id == snapshot.id => {
                ended = Some(number(&head));
            }
            Given::End => panic!("it does not end"),
            _ => {}
        }
    }
    let (mut reader, mut compared) = (open(), 0);
    loop {
        let mut batch = Batch::unpooled();
        match reader.next(&mut batch, usize::MAX, u64::MAX).unwrap() {
            Given::Run => {
                for row in batch.rows() {
                    map.insert(text(row.key), text(row.body));
                    let at: u64 = text(row.body).strip_prefix("value-").unwrap().parse().unwrap();
                    if Some(at) >= ended {
                        assert_eq!(map, state(at), "at {at}, from a snapshot that ended at {ended:?}");
                        compared += 1;
                    }
                }
            }
            Given::End => return compared,
            _ => {}
        }
    }
}

/// The notes about snapshots, as words.
fn notes(disk: &Faulty) -> Vec<String> {
    let mut reader = Reader::at_beginning(Arc::new(disk.clone()), Keys::default()).unwrap();
    let mut words = Vec::new();
    loop {
        let mut batch = Batch::unpooled();
        match reader.next(&mut batch, usize::MAX, u64::MAX).unwrap() {
            Given::Note(Note::Began { snapshot, .. }) => words.push(format!("began {snapshot}")),
            Given::Note(Note::Ended { snapshot, whole, .. }) => words.push(format!("ended {snapshot} {whole}")),
            Given::Note(Note::Gap { .. }) => words.push("gap".into()),
            Given::End => return words,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_the_changes_since_the_snapshot_began_make_every_later_state() {
    for freezes in [false, true] {
        let (source, disk) = (Numbers::new(), Faulty::default());
        source.write(30);
        let own = source.clone();
        // While it is read, keys change before and behind where it is.
        let event: Event = Box::new(move |page| {
            own.write(if page < 8 { 3 } else { 0 });
            Ok(true)
        });
        let store = Shelf::store(&source, freezes, |source| source.write(5), event);
        let relay = relay(&source, &disk, store, || 1);
        let mut a = relay.source("a").tail(&at(10), &pool()).await.unwrap();
        until("there is a whole snapshot", || !whole(&disk).is_empty()).await;
        source.write(20);
        let head = number(&source.head().await.unwrap());
        take(a.as_mut(), 10, head).await;
        relay.stop().await.unwrap();
        assert!(states(&disk, whole(&disk)[0]) > 20);
        assert_eq!(notes(&disk), ["began 1", "ended 1 true"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_one_is_taken_when_the_last_one_is_old_and_not_before_whoever_asks() {
    static NOW: AtomicI64 = AtomicI64::new(1);
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(5);
    let begin = || {
        let store = Shelf::store(&source, false, |_| {}, Box::new(|_| Ok(true)));
        relay(&source, &disk, store, || NOW.load(SeqCst))
    };
    let first = begin();
    drop(first.source("a").tail(&at(5), &pool()).await.unwrap());
    until("there is one", || whole(&disk).len() == 1).await;
    first.stop().await.unwrap();
    // A start does not take another one; time does.
    NOW.store(3_599_000_000, SeqCst);
    let second = begin();
    drop(second.source("a").tail(&at(5), &pool()).await.unwrap());
    source.write(1);
    until("it is captured", || second.running.try_lock().is_ok_and(|r| r.as_ref().unwrap().hub.durable().0 > 0)).await;
    second.stop().await.unwrap();
    assert_eq!(notes(&disk), ["began 1", "ended 1 true"]);
    NOW.store(3_601_000_001, SeqCst);
    let third = begin();
    drop(third.source("a").tail(&at(5), &pool()).await.unwrap());
    until("there is another one", || whole(&disk).len() == 2).await;
    third.stop().await.unwrap();
    assert_eq!(whole(&disk)[1].ended_at, 3_601_000_001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_cannot_be_read_ends_the_snapshot_and_nothing_else() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(5);
    let broken = Arc::new(AtomicBool::new(true));
    let is = Arc::clone(&broken);
    let event: Event = Box::new(move |page| match page == 2 && is.swap(false, SeqCst) {
        true => Err(Error::config("the table is locked away")),
        false => Ok(true),
    });
    let relay = relay(&source, &disk, Shelf::store(&source, false, |_| {}, event), || 1);
    let mut a = relay.source("a").tail(&at(5), &pool()).await.unwrap();
    until("it fails", || !broken.load(SeqCst)).await;
    source.write(50);
    take(a.as_mut(), 5, 55).await;
    until("it is tried again", || whole(&disk).len() == 1).await;
    assert_eq!(notes(&disk), ["began 1", "ended 1 false", "began 2", "ended 2 true"]);
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_that_moves_a_key_before_the_view_voids_the_snapshot_and_one_behind_it_does_not() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(5);
    // The sixth happens between the beginning and the first view, the ninth behind the second one.
    source.with(|state| state.moves = [6, 9].into());
    let own = source.clone();
    let event: Event = Box::new(move |page| {
        own.write(if page == 3 { 2 } else { 0 });
        Ok(true)
    });
    let before = |source: &Numbers| source.write(1);
    let relay = relay(&source, &disk, Shelf::store(&source, true, before, event), || 1);
    let mut a = relay.source("a").tail(&at(5), &pool()).await.unwrap();
    until("one is whole", || whole(&disk).len() == 1).await;
    assert_eq!(notes(&disk), ["began 1", "ended 1 false", "began 2", "ended 2 true"]);
    take(a.as_mut(), 5, 9).await;
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_emptied_while_a_view_of_it_is_read_voids_the_snapshot() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(5);
    source.with(|state| state.clears = [6].into());
    let own = source.clone();
    let event: Event = Box::new(move |page| {
        own.write(if page == 2 { 1 } else { 0 });
        Ok(true)
    });
    let relay = relay(&source, &disk, Shelf::store(&source, true, |_| {}, event), || 1);
    let a = relay.source("a").tail(&at(5), &pool()).await.unwrap();
    until("one is whole", || whole(&disk).len() == 1).await;
    assert_eq!(notes(&disk)[..4], ["began 1", "ended 1 false", "began 2", "ended 2 true"]);
    drop(a);
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_a_view_counts_from_that_moment_on_whatever_happens_while_it_is_read() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(5);
    let own = source.clone();
    let event: Event = Box::new(move |_| {
        own.write(1);
        Ok(true)
    });
    let relay = relay(&source, &disk, Shelf::store(&source, true, |_| {}, event), || 1);
    let a = relay.source("a").tail(&at(5), &pool()).await.unwrap();
    until("one is whole", || whole(&disk).len() == 1).await;
    let folder: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut reader = crate::kinds::journal::Reader::at_beginning(folder, Keys::default()).unwrap();
    let ended = loop {
        match reader.next(&mut Batch::unpooled(), usize::MAX, u64::MAX).unwrap() {
            Given::Note(Note::Ended { head, .. }) => break number(&head),
            Given::End => panic!("it ended"),
            _ => {}
        }
    };
    assert_eq!(ended, 5);
    drop(a);
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_it_wait_and_a_stop_does_not_wait_for_it() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(20);
    let (reached, full) = (Arc::new(AtomicBool::new(false)), disk.clone());
    let told = Arc::clone(&reached);
    let event: Event = Box::new(move |page| {
        if page == 3 && !told.swap(true, SeqCst) {
            full.room(Some(0));
        }
        Ok(true)
    });
    let first = relay(&source, &disk, Shelf::store(&source, false, |_| {}, event), || 1);
    let a = first.source("a");
    // The snapshot may have filled the disk before this reader's place could be written there.
    match a.tail(&at(20), &pool()).await {
        Ok(tail) => drop(tail),
        Err(error) => assert!(error.fault() == Fault::Transient && reached.load(SeqCst), "{error}"),
    }
    until("it is said", || a.concern().is_some()).await;
    disk.room(None);
    until("it goes on", || a.concern().is_none() && whole(&disk).len() == 1).await;
    first.stop().await.unwrap();
    assert_eq!(notes(&disk), ["began 1", "ended 1 true"]);
    // Another one is due, and its first page never comes.
    let reading = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&reading);
    let event: Event = Box::new(move |_| {
        told.store(true, SeqCst);
        Ok(false)
    });
    let second = relay(&source, &disk, Shelf::store(&source, false, |_| {}, event), || 9_000_000_000);
    drop(second.source("a").tail(&at(20), &pool()).await.unwrap());
    until("it is read", || reading.load(SeqCst)).await;
    tokio::time::timeout(LONG, second.stop()).await.expect("it stops").unwrap();
    let unfinished = notes(&disk);
    assert_eq!(unfinished[2], "began 2", "{unfinished:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_gap_there_is_a_new_one_at_once_even_if_nobody_saw_the_gap() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(5);
    let store = |broken: bool| {
        let event: Event = Box::new(move |_| if broken { Err(Error::transient("away")) } else { Ok(true) });
        Shelf::store(&source, false, |_| {}, event)
    };
    let first = relay(&source, &disk, store(false), || 1);
    drop(first.source("a").tail(&at(5), &pool()).await.unwrap());
    until("there is one", || whole(&disk).len() == 1).await;
    first.stop().await.unwrap();
    source.write(10);
    source.with(|state| state.lost = 10);
    let second = relay(&source, &disk, store(true), || 2);
    drop(second.source("a").pin().await.unwrap());
    until("it is tried", || notes(&disk).contains(&"ended 2 false".to_owned())).await;
    second.stop().await.unwrap();
    let third = relay(&source, &disk, store(false), || 3);
    drop(third.source("a").pin().await.unwrap());
    until("there is another one", || whole(&disk).len() == 2).await;
    third.stop().await.unwrap();
    assert_eq!(notes(&disk), ["began 1", "ended 1 true", "gap", "began 2", "ended 2 false", "began 3", "ended 3 true"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_would_cost_a_sink_what_it_needs_is_not_taken() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let snapshots =
        Some(Snapshots { store: Shelf::store(&source, false, |_| {}, Box::new(|_| Ok(true))), every: HOUR });
    let retention = Retention { bytes: 5000, age: 1_000_000, outrun: true };
    let wanted = Wanted { snapshots, retention, ..wanted(&disk, Ack::Sink, &["a"]) };
    // What a sink that is away needs is most of what the journal may take.
    crate::kinds::journal::Cursor { name: "a".into(), sequence: 1, moved: 1, outrun: false }.write(&disk).unwrap();
    let before = Writer::open(Arc::new(disk.clone()), Options::new("numbers")).unwrap().0;
    for number in 0..100u64 {
        let mut batch = Batch::unpooled();
        batch.begin(&super::tests::partition(), super::tests::position(number), Steps::Ordinal);
        let table = batch.table(&Arc::default());
        batch.push(crate::model::Op::Put, false, table, b"key", format!("{number:0>90}").as_bytes(), 1);
        batch.mark(super::tests::position(number + 1));
        before.append(&batch, 1).unwrap();
        before.commit().unwrap();
    }
    drop(before);
    source.write(100);
    let relay = Relay::new(Arc::new(source.clone()), wanted);
    let mut a = relay.source("a").tail(&at(100), &pool()).await.unwrap();
    source.write(3);
    take(a.as_mut(), 100, 103).await;
    relay.stop().await.unwrap();
    assert_eq!(notes(&disk), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_several_periods_the_old_ones_are_gone_and_what_the_last_ones_need_is_kept() {
    static NOW: AtomicI64 = AtomicI64::new(1);
    const PERIOD: i64 = 3_600_000_000;
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(5);
    let store = Shelf::store(&source, false, |_| {}, Box::new(|_| Ok(true)));
    let wanted = Wanted {
        snapshots: Some(Snapshots { store, every: HOUR }),
        now: || NOW.load(SeqCst),
        retention: Retention { bytes: u64::MAX, age: PERIOD + PERIOD / 2, outrun: true },
        options: Box::new(|| Options { segment_bytes: 1, ..Options::new("numbers") }),
        ..wanted(&disk, Ack::Sink, &["a"])
    };
    let relay = Relay::new(Arc::new(source.clone()), wanted);
    let mut from = 5;
    for period in 0..5 {
        NOW.store(1 + period * (PERIOD + 1), SeqCst);
        // A look at what is due comes once a minute; a stream that begins anew looks at once.
        let mut a = relay.source("a").tail(&at(from), &pool()).await.unwrap();
        source.write(3);
        take(a.as_mut(), from, from + 3).await;
        from += 3;
        a.release(&at(from)).await.unwrap();
        until("there is a young one", || whole(&disk).last().is_some_and(|last| last.ended_at == NOW.load(SeqCst)))
            .await;
        drop(a);
        relay.stop().await.unwrap();
    }
    let mut a = relay.source("a").tail(&at(from), &pool()).await.unwrap();
    a.release(&at(from)).await.unwrap();
    // The last one, the one before it, and the one from which the state of a period and a half ago is made.
    until("the oldest are gone", || whole(&disk).len() == 3).await;
    let oldest = whole(&disk)[0];
    assert!(oldest.ended_at <= NOW.load(SeqCst) - PERIOD - PERIOD / 2);
    states(&disk, oldest);
    drop(a);
    relay.stop().await.unwrap();
}
