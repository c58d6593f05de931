//! A source that is read directly until it is strained, on a disk in memory.

use super::tests::{LONG, Numbers, at, fault, partition, pool, take, until, wanted};
use super::*;
use crate::kinds::journal::faulty::Faulty;

/// An overflow over these, as a process that has just started makes it.
fn overflow(source: &Numbers, disk: &Faulty) -> Arc<Overflow> {
    let relay = Relay::new(Arc::new(source.clone()), wanted(disk, Ack::Sink, &["a"]));
    let disk = disk.clone();
    Overflow::new(relay, "a", Box::new(move || Some(Arc::new(disk.clone()))))
}

fn is_empty(disk: &Faulty) -> bool {
    disk.names().unwrap().iter().all(|name| !name.contains("segment"))
}

fn strain(source: &Numbers, strained: bool) {
    source.with(|state| state.strained = strained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_keeps_little_is_read_directly_and_no_journal_is_begun() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let a = overflow(&source, &disk);
    source.write(3);
    assert_eq!(a.source().pin().await.unwrap(), at(3));
    a.source().keep(&at(3)).await.unwrap();
    let mut tail = a.source().tail(&at(3), &pool()).await.unwrap();
    source.write(7);
    take(tail.as_mut(), 3, 10).await;
    tail.release(&at(8)).await.unwrap();
    assert_eq!(source.with(|state| (state.released, state.opened.clone())), (8, vec![3]));
    drop(tail);
    let mut tail = a.source().tail(&at(9), &pool()).await.unwrap();
    take(tail.as_mut(), 9, 10).await;
    a.stop().await.unwrap();
    assert!(is_empty(&disk) && disk.names().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strained_source_is_taken_over_although_the_sink_hangs_and_read_directly_when_that_has_all() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let a = overflow(&source, &disk);
    let mut tail = a.source().tail(&at(0), &pool()).await.unwrap();
    source.write(20);
    take(tail.as_mut(), 0, 20).await;
    tail.release(&at(7)).await.unwrap();
    strain(&source, true);
    // Nobody asks for anything: the journal takes all that comes, and the source may forget it.
    source.write(30);
    until("the source is released", || source.with(|state| state.released == 50)).await;
    assert_eq!(source.with(|state| state.opened.clone()), [0, 7]);
    let ended = tokio::time::timeout(LONG, tail.next()).await.unwrap().map(drop).unwrap_err();
    assert_eq!(ended.fault(), Fault::Transient);
    assert!(ended.to_string().contains("going on through the journal"), "{ended}");
    tail.release(&at(20)).await.unwrap();
    drop(tail);
    // What was on its way has reached the sink meanwhile.
    let mut tail = a.source().tail(&at(13), &pool()).await.unwrap();
    take(tail.as_mut(), 13, 50).await;
    strain(&source, false);
    drop(tail);
    let mut tail = a.source().tail(&at(40), &pool()).await.unwrap();
    take(tail.as_mut(), 40, 50).await;
    assert!(!is_empty(&disk), "the sink lacked something");
    drop(tail);
    strain(&source, true);
    drop(a.source().tail(&at(50), &pool()).await.unwrap());
    assert!(!is_empty(&disk), "it is still strained");
    strain(&source, false);
    let mut tail = a.source().tail(&at(50), &pool()).await.unwrap();
    assert!(is_empty(&disk));
    source.write(5);
    take(tail.as_mut(), 50, 55).await;
    assert_eq!(source.with(|state| state.opened.clone()), [0, 7, 50]);
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_waited_for_is_ended_when_the_journal_takes_over() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let a = overflow(&source, &disk);
    let mut tail = a.source().tail(&at(0), &pool()).await.unwrap();
    let waiting = tokio::spawn(async move { fault(tail.as_mut()).await });
    strain(&source, true);
    assert_eq!(tokio::time::timeout(LONG, waiting).await.unwrap().unwrap(), Fault::Transient);
    // A stream that is opened while the source is strained goes through the journal at once.
    let mut tail = a.source().tail(&at(0), &pool()).await.unwrap();
    source.write(3);
    take(tail.as_mut(), 0, 3).await;
    until("the journal has it", || source.with(|state| state.released == 3)).await;
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_a_killed_process_left_is_used_and_one_that_says_nothing_new_is_dropped() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(10);
    let first = overflow(&source, &disk);
    strain(&source, true);
    let tail = first.source().tail(&at(4), &pool()).await.unwrap();
    until("the source is released", || source.with(|state| state.released == 10)).await;
    drop(tail);
    drop(first);
    disk.power_loss(|_| 0);
    strain(&source, false);
    source.write(5);
    let second = overflow(&source, &disk);
    let mut tail = second.source().tail(&at(4), &pool()).await.unwrap();
    take(tail.as_mut(), 4, 15).await;
    drop(tail);
    second.stop().await.unwrap();
    let third = overflow(&source, &disk);
    drop(third.source().tail(&at(15), &pool()).await.unwrap());
    assert!(is_empty(&disk));
    assert_eq!(source.with(|state| state.opened.clone()), [4, 10, 15]);
    third.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_begins_anew_does_not_keep_the_journal() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(10);
    strain(&source, true);
    let first = overflow(&source, &disk);
    drop(first.source().tail(&at(4), &pool()).await.unwrap());
    strain(&source, false);
    source.write(1);
    assert_eq!(first.source().repin().await.unwrap(), at(11));
    assert!(is_empty(&disk));
    let mut tail = first.source().tail(&at(11), &pool()).await.unwrap();
    source.write(1);
    take(tail.as_mut(), 11, 12).await;
    first.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_takes_long_is_kept_up_with_by_the_journal() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(10);
    let a = overflow(&source, &disk);
    let pin = a.source().pin().await.unwrap();
    a.source().keep(&pin).await.unwrap();
    source.write(10);
    strain(&source, true);
    until("the source is released", || source.with(|state| state.released == 20)).await;
    let mut tail = a.source().tail(&pin, &pool()).await.unwrap();
    take(tail.as_mut(), 10, 20).await;
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_at_a_place_that_the_journal_does_not_have_is_given_what_follows_counted_from_there() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    source.write(10);
    strain(&source, true);
    let a = overflow(&source, &disk);
    drop(a.source().tail(&at(2), &pool()).await.unwrap());
    until("the source is released", || source.with(|state| state.released == 10)).await;
    // Nothing was committed between 5 and this, and the source said so once.
    for (quiet, ordinal) in [(Position::at("00000005~"), 0), (Position::at("00000005~").plus(1), 1)] {
        let from: Checkpoint = [(partition(), quiet.clone())].into_iter().collect();
        let mut tail = a.source().tail(&from, &pool()).await.unwrap();
        let mut positions = Vec::new();
        while positions.len() < 3 {
            let batch = tokio::time::timeout(LONG, tail.next()).await.unwrap().unwrap();
            let given = (0..batch.len()).map(|index| batch.position(index)).filter(|position| *position > quiet);
            positions.extend(given);
        }
        let sixth = Position::at("00000005~").plus(1);
        assert_eq!(positions.contains(&sixth), ordinal == 0, "{positions:?}");
        assert!(positions.contains(&super::tests::position(6).plus(1)), "{positions:?}");
        assert!(positions.is_sorted());
    }
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_ahead_of_the_journal_waits_for_it_and_no_gap_is_opened() {
    let (source, disk) = (Numbers::new(), Faulty::default());
    let a = overflow(&source, &disk);
    let mut tail = a.source().tail(&at(0), &pool()).await.unwrap();
    source.write(20);
    take(tail.as_mut(), 0, 20).await;
    tail.release(&at(7)).await.unwrap();
    source.with(|state| state.held = Some(9));
    strain(&source, true);
    until("the journal took over", || source.with(|state| state.released == 9)).await;
    let (again, credit) = (a.source(), pool());
    let mut waiting = tokio::spawn(async move { again.tail(&at(13), &credit).await });
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "it was opened although the journal is not there");
    source.with(|state| state.held = None);
    let mut tail = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
    take(tail.as_mut(), 13, 20).await;
    a.stop().await.unwrap();
}
