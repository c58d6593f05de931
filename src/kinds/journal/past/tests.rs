//! The past of journals that were made up, on a disk in memory, against what was written into them.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::stretch::Stretch;
use super::*;
use crate::kinds::journal::faulty::Faulty;
use crate::kinds::journal::segment::segments;
use crate::kinds::journal::tests::{disk, keys, open, options, partition, place as spot};
use crate::kinds::journal::{Snapshot, Writer, snapshots};
use crate::model::{Batch, Op, PartitionId, Position, Steps, Table};
use crate::store::Store;

const ALL: u64 = u64::MAX;

/// A transaction: when it was committed, and how many changes it has.
type Transaction = (i64, usize);

/// Writes transactions from number `first` on, cut into batches of so many changes, wherever that falls; each of its own
/// frame. A change's key is the number of its transaction.
fn write(writer: &Writer, first: u32, all: &[Transaction], cut: usize) {
    let mut batch = Batch::unpooled();
    batch.begin(&partition(), spot(first), Steps::Ordinal);
    let table = Arc::default();
    for (number, (at, changes)) in (first..).zip(all) {
        for change in 0..*changes {
            if batch.len() >= cut {
                let at = if batch.is_open() { batch.position(batch.len() - 1) } else { batch.upto().clone() };
                append(writer, &batch);
                batch = Batch::unpooled();
                batch.begin(&partition(), at, Steps::Ordinal);
            }
            let table = batch.table(&table);
            batch.push(Op::Put, false, table, number.to_string().as_bytes(), change.to_string().as_bytes(), *at);
        }
        batch.mark(spot(number + 1));
    }
    append(writer, &batch);
}

fn append(writer: &Writer, batch: &Batch) {
    writer.append(batch, 1).unwrap();
    writer.commit().unwrap();
}

fn at(position: Position) -> Checkpoint {
    [(partition(), position)].into_iter().collect()
}

fn find(faulty: &Faulty, bound: &Bound) -> Place {
    place(&disk(faulty), &keys(None), bound, ALL).unwrap()
}

fn span(faulty: &Faulty, begin: Checkpoint, end: Checkpoint) -> Span {
    Span { disk: disk(faulty), keys: keys(None), through: ALL, whole: begin.clone(), begin, end }
}

/// The transactions whose changes a stretch gives, each as often as it has changes.
fn given(faulty: &Faulty, begin: Checkpoint, end: Checkpoint, fill: usize) -> Vec<u32> {
    let mut stretch = Stretch::open(&span(faulty, begin.clone(), end), begin, fill).unwrap();
    let mut all = Vec::new();
    while let Some(batch) = stretch.next().unwrap() {
        all.extend(batch.rows().map(|row| std::str::from_utf8(row.key).unwrap().parse::<u32>().unwrap()));
    }
    all
}

proptest! {
    #[test]
    fn what_lies_between_two_instants_is_given_whole_and_nothing_else(
        all in proptest::collection::vec((1i64..30, 0usize..4), 1..20),
        cut in 1usize..6, from in 0i64..32, until in 0i64..32, fill in 1usize..200,
    ) {
        let faulty = Faulty::default();
        let writer = open(&faulty, options(400, None));
        write(&writer, 0, &all, cut);
        // Before the first transaction that has a change and was committed later.
        let before = |time: i64| {
            all.iter().position(|(at, changes)| *changes > 0 && *at > time).unwrap_or(all.len()) as u32
        };
        let (from, until) = (from.min(until), from.max(until));
        let (begin, end) = (find(&faulty, &Bound::Time(from)), find(&faulty, &Bound::Time(until)));
        prop_assert_eq!(&begin.at, &at(spot(before(from))));
        prop_assert_eq!(&end.at, &at(spot(before(until))));
        prop_assert_eq!(end.goes_on, (before(until) as usize) < all.len());
        // Whether anything was committed before it is known, although each segment begins anew.
        let any = all[..before(until) as usize].iter().any(|(_, changes)| *changes > 0);
        prop_assert!(!any || end.latest > 0);
        let expected: Vec<u32> = (before(from)..before(until))
            .flat_map(|number| std::iter::repeat_n(number, all[number as usize].1))
            .collect();
        prop_assert_eq!(&given(&faulty, begin.at.clone(), end.at.clone(), fill), &expected);
        let found = survey(&span(&faulty, begin.at, end.at)).unwrap();
        prop_assert_eq!(found.changes, expected.len() as u64);
    }

    #[test]
    fn a_position_is_rounded_down_to_where_no_transaction_is_open(
        all in proptest::collection::vec((1i64..9, 1usize..4), 1..12), cut in 1usize..6, pick in any::<proptest::sample::Index>(), within in 0u64..4,
    ) {
        let faulty = Faulty::default();
        let writer = open(&faulty, options(400, None));
        write(&writer, 0, &all, cut);
        let number = pick.index(all.len()) as u32;
        let within = within.min(all[number as usize].1 as u64 - 1);
        let found = find(&faulty, &Bound::Position(partition(), spot(number).plus(within)));
        prop_assert_eq!(found.at, at(spot(number)));
    }
}

#[test]
fn the_end_is_the_last_place_at_which_no_transaction_is_open() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(400, None));
    write(&writer, 0, &[(5, 2), (6, 0), (7, 1)], 2);
    assert_eq!(find(&faulty, &Bound::End).at, at(spot(3)));
    let mut open_one = Batch::unpooled();
    open_one.begin(&partition(), spot(3), Steps::Ordinal);
    let table = open_one.table(&Arc::default());
    open_one.push(Op::Put, false, table, b"3", b"", 8);
    append(&writer, &open_one);
    for bound in [Bound::End, Bound::Time(9)] {
        let found = find(&faulty, &bound);
        assert_eq!((found.at, found.goes_on), (at(spot(3)), false), "{bound:?}");
    }
    drop(writer);
    // A segment that was begun and holds nothing yet.
    drop(open(&faulty, options(400, None)));
    assert_eq!(find(&faulty, &Bound::End).at, at(spot(3)));
}

#[test]
fn a_time_is_refused_where_the_journal_knows_none() {
    let faulty = Faulty::default();
    write(&open(&faulty, options(400, None)), 0, &[(5, 1), (0, 1)], 1);
    let refused = place(&disk(&faulty), &keys(None), &Bound::Time(6), ALL).unwrap_err();
    assert_eq!(refused.fault(), Fault::Config, "{refused}");
}

#[test]
fn what_goes_along_with_changes_has_no_time_and_no_table() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(400, None));
    let mut batch = Batch::unpooled();
    batch.begin(&partition(), spot(0), Steps::Ordinal);
    let (own, beside) =
        (batch.table(&Arc::default()), batch.table(&Arc::new(Table { name: "!beside".into(), shape: vec![] })));
    batch.push(Op::Put, false, own, b"0", b"", 5);
    batch.push(Op::Put, false, beside, b"s", b"7", 0);
    batch.mark(spot(1));
    append(&writer, &batch);
    write(&writer, 1, &[(9, 1)], 1);
    let end = find(&faulty, &Bound::Time(6));
    assert_eq!((&end.at, end.latest), (&at(spot(1)), 5));
    let found = survey(&span(&faulty, at(spot(0)), end.at)).unwrap();
    assert_eq!((found.changes, found.tables), (2, vec![Arc::default()]));
}

#[test]
fn nothing_is_given_across_a_gap_or_damage_and_what_lies_before_it_is_whole() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(300, None));
    write(&writer, 0, &[(1, 1), (2, 1), (3, 1)], 1);
    writer.gap(&[partition()], "the slot was dropped", 1_775_045_430_000_000).unwrap();
    write(&writer, 10, &[(11, 1), (12, 1)], 1);
    let error = survey(&span(&faulty, at(spot(0)), at(spot(12)))).unwrap_err();
    assert_eq!(error.fault(), Fault::PositionLost);
    assert!(error.to_string().contains("2026-04-01T12:10:30Z"), "{error}");
    assert!(error.to_string().contains("the slot was dropped"), "{error}");
    assert_eq!(given(&faulty, at(spot(1)), at(spot(3)), 9), [1, 2]);
    assert_eq!(given(&faulty, at(spot(10)), at(spot(12)), 9), [10, 11]);
    // A bit of the frame in which the second transaction lies.
    let name = crate::kinds::journal::format::segment_name(segments(&faulty).unwrap()[0]);
    let mut file = disk(&faulty).open(&name).unwrap();
    let end = file.length().unwrap() - 3;
    let mut byte = [0];
    file.read(end, &mut byte).unwrap();
    file.write(end, &[byte[0] ^ 4]).unwrap();
    let error = survey(&span(&faulty, at(spot(0)), at(spot(3)))).unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt, "{error}");
}

#[test]
fn partitions_are_cut_each_for_itself_and_one_that_begins_behind_the_end_is_only_named() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(4000, None));
    let other = PartitionId::new("pg/7/1/other");
    let one = |partition: &PartitionId, number: u32, at: i64| {
        let mut batch = Batch::unpooled();
        batch.begin(partition, if number == 0 { Position::Start } else { spot(number) }, Steps::Ordinal);
        let table = batch.table(&Arc::default());
        batch.push(Op::Put, false, table, number.to_string().as_bytes(), b"", at);
        batch.mark(spot(number + 1));
        append(&writer, &batch);
    };
    one(&partition(), 0, 5);
    one(&other, 0, 9);
    one(&partition(), 1, 5);
    one(&partition(), 2, 9);
    let end = find(&faulty, &Bound::Time(6));
    let expected: Checkpoint = [(partition(), spot(2)), (other, Position::Start)].into_iter().collect();
    assert_eq!(end.at, expected);
    assert_eq!(given(&faulty, Checkpoint::default(), end.at, 9), [0, 1]);
}

/// A journal with a snapshot of two tables between changes; gives the snapshot.
fn with_pages(faulty: &Faulty) -> Snapshot {
    let writer = open(faulty, options(500, None));
    write(&writer, 0, &[(1, 1), (2, 1)], 1);
    let snapshot = writer.begin_snapshot(&at(spot(2)), 5).unwrap();
    let name = |n: usize| Arc::new(Table { name: format!("public.t{n}"), shape: vec![] });
    for page in 0..6u32 {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new(format!("!snapshot/1/t{}", page / 3)), Position::Start, Steps::Key);
        let table = batch.table(&name(page as usize / 3));
        for row in 0..5 {
            batch.push(Op::Put, false, table, format!("{page}-{row}").as_bytes(), b"body", 0);
        }
        batch.mark(Position::End);
        writer.append_page(snapshot, &batch, 6).unwrap();
        write(&writer, page + 2, &[(10 + i64::from(page), 2)], 1);
    }
    writer.end_snapshot(snapshot, &at(spot(7)), true, 7).unwrap();
    writer.commit().unwrap();
    write(&writer, 8, &[(30, 1), (31, 1)], 1);
    snapshots(&disk(faulty), &keys(None)).unwrap()[0]
}

async fn page(pages: &Pages, after: &Position, fill: usize) -> Batch {
    let range = pages.ranges(1).await.unwrap().remove(0);
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("!snapshot/1/.."), after.clone(), Steps::Key);
    pages.scan(&range, after, batch, fill).await.unwrap()
}

#[tokio::test]
async fn a_snapshot_is_read_on_from_any_of_its_rows() {
    let faulty = Faulty::default();
    let snapshot = with_pages(&faulty);
    let own = || Pages::open(&disk(&faulty), &keys(None), snapshot, &[]).unwrap();
    let pages = own();
    assert_eq!(pages.items(), 30);
    let names: Vec<String> = pages.tables().await.unwrap().iter().map(|table| table.name.clone()).collect();
    assert_eq!(names, ["public.t0", "public.t1"]);
    let whole = page(&pages, &Position::Start, usize::MAX).await;
    assert_eq!((whole.len(), whole.upto()), (30, &Position::End));
    let keys_of = |batch: &Batch| batch.rows().map(|row| row.key.to_vec()).collect::<Vec<_>>();
    let all = keys_of(&whole);
    assert!(all.is_sorted());
    for index in 0..30 {
        let rest = page(&own(), &whole.position(index), usize::MAX).await;
        assert_eq!(keys_of(&rest), all[index + 1..], "behind row {index}");
        assert_eq!(rest.upto(), &Position::End);
    }
    for fill in [1, 60, 1000] {
        let (mut after, mut found) = (Position::Start, Vec::new());
        while after != Position::End {
            let next = page(&pages, &after, fill).await;
            found.extend(keys_of(&next));
            after = next.upto().clone();
        }
        assert_eq!(found, all, "in pieces of {fill}");
    }
}

#[test]
fn a_snapshot_serves_every_place_from_its_end_on_and_none_before() {
    let faulty = Faulty::default();
    let snapshot = with_pages(&faulty);
    let serves = |bound: Bound| base(&disk(&faulty), &keys(None), &find(&faulty, &bound)).unwrap();
    let expected = Base { snapshot, begin: at(spot(2)), whole: at(spot(7)) };
    for number in 0..=10 {
        let found = serves(Bound::Position(partition(), spot(number)));
        assert_eq!(found, (number >= 7).then(|| expected.clone()), "at {number}");
    }
    assert_eq!(serves(Bound::Time(13)), None, "its changes up to then do not reach its end");
    assert_eq!(serves(Bound::Time(30)), Some(expected));
}

fn pool() -> Pool {
    Pool::new(4, 64 << 10)
}

#[tokio::test]
async fn a_tail_waits_where_the_past_becomes_whole_until_that_is_durable_and_says_when_all_is() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(4000, None));
    write(&writer, 0, &[(1, 1), (2, 1), (3, 1), (4, 1)], 100);
    let past = Past::new(Span { whole: at(spot(2)), ..span(&faulty, at(spot(0)), at(spot(3))) }, Speed::Max);
    assert_eq!(past.pin().await.unwrap(), at(spot(0)));
    let mut tail = past.tail(&at(spot(0)), &pool()).await.unwrap();
    assert_eq!(past.head().await.unwrap(), at(spot(2)), "where it is whole");
    let first = tail.next().await.unwrap();
    assert_eq!((first.len(), first.upto()), (2, &spot(2)));
    assert_eq!(past.head().await.unwrap(), at(spot(3)), "and then the end");
    let waits = tokio::time::timeout(Duration::from_millis(50), tail.next()).await;
    assert!(waits.is_err());
    tail.release(&at(spot(2))).await.unwrap();
    let last = tail.next().await.unwrap();
    assert_eq!((last.len(), last.base(), last.upto()), (1, &spot(2), &spot(3)));
    assert!(tokio::time::timeout(Duration::from_millis(50), tail.next()).await.is_err(), "nothing behind the end");
    assert!(!*past.done().borrow());
    tail.release(&at(spot(3))).await.unwrap();
    assert!(*past.done().borrow());
}

#[tokio::test]
async fn the_past_goes_by_as_fast_as_it_happened_or_so_many_times_as_fast() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(4000, None));
    // Three commits, 400 ms apart.
    write(&writer, 0, &[(1_000_000, 1), (1_400_000, 2), (1_800_000, 1)], 100);
    for (times, expected) in [(1.0, Duration::from_millis(800)), (10.0, Duration::from_millis(80))] {
        let past = Past::new(span(&faulty, at(spot(0)), at(spot(3))), Speed::Times(times));
        let mut tail = past.tail(&at(spot(0)), &pool()).await.unwrap();
        let begun = tokio::time::Instant::now();
        for number in 0..3 {
            let batch = tail.next().await.unwrap();
            assert_eq!(batch.upto(), &spot(number + 1), "{times}x");
            // A wait that is given up loses nothing.
            assert!(number == 2 || tokio::time::timeout(Duration::from_millis(1), tail.next()).await.is_err());
        }
        assert!(begun.elapsed() >= expected, "{times}x took {:?}", begun.elapsed());
    }
}
