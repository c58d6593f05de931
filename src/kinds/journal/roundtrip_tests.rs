//! Nothing that a source gives is lost on the way through the journal: each form of batch, and each note.

use std::sync::Arc;

use proptest::prelude::*;

use super::codec::put;
use super::faulty::Faulty;
use super::pieces::Piece;
use super::records::{Record, Span, Tables, decode, encode_run, reached};
use super::tests::*;
use super::*;
use crate::model::{Batch, Checkpoint, Op, PartitionId, Position, Steps, Table};

/// Begins a batch of a partition.
fn begin(name: &str, base: Position, steps: Steps) -> Batch {
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new(name), base, steps);
    batch
}

fn table(name: &str, shape: &[u8]) -> Arc<Table> {
    Arc::new(Table { name: name.to_owned(), shape: shape.to_vec() })
}

/// A tail's batches, one of each form.
pub(super) fn tail() -> Vec<Batch> {
    let mut all = Vec::new();
    // The pin: nothing happened up to here, without a mark.
    all.push(begin("pg/7/1/s", place(1), Steps::Ordinal));
    // Each operation; a patch under its key and under an older one; times known and not.
    let mut batch = begin("pg/7/1/s", place(1), Steps::Ordinal);
    let accounts = batch.table(&table("public.accounts", b"{\"version\":1}"));
    batch.push(Op::Put, true, accounts, b"a", b"body", 5);
    batch.push(Op::Put, false, accounts, b"", b"", 0);
    batch.push(Op::Patch, false, accounts, b"b", b"\0u\xff", i64::MAX);
    batch.push_moved(Op::Patch, true, accounts, b"c", b"u", Some(b"b"), i64::MIN);
    batch.push_moved(Op::Patch, false, accounts, b"d", b"u", Some(b""), -1);
    batch.mark(place(2));
    batch.push(Op::Delete, false, accounts, b"a", b"", 6);
    // The same table in another shape, and one that is new.
    let newer = batch.table(&table("public.accounts", b"{\"version\":1,\"more\":true}"));
    batch.push(Op::Put, false, newer, b"a", b"wider", 7);
    let newcomer = batch.table(&table("public.newcomer", b""));
    batch.push(Op::Clear, false, newcomer, b"", b"", 7);
    batch.mark(place(3));
    batch.mark(place(4));
    all.push(batch);
    // Nothing happened up to here.
    let mut batch = begin("pg/7/1/s", place(4), Steps::Ordinal);
    batch.mark(place(5));
    all.push(batch);
    // One source transaction over three batches, the last of which has only its end.
    let mut batch = begin("pg/7/1/s", place(5), Steps::Ordinal);
    let accounts = batch.table(&table("public.accounts", b"{\"version\":1}"));
    batch.push(Op::Put, false, accounts, b"x", b"1", 8);
    batch.push(Op::Put, false, accounts, b"y", b"2", 8);
    all.push(batch);
    let mut batch = begin("pg/7/1/s", place(5).plus(2), Steps::Ordinal);
    let accounts = batch.table(&table("public.accounts", b"{\"version\":1}"));
    batch.push(Op::Put, false, accounts, b"z", b"3", 8);
    all.push(batch);
    let mut batch = begin("pg/7/1/s", place(5).plus(3), Steps::Ordinal);
    batch.mark(place(6));
    all.push(batch);
    // A partition splits: it ends, and its children begin at their start; one of them has nothing yet. One table without a
    // name, and positions that are no text.
    let mut batch = begin("arn:x/shard-1", Position::Start, Steps::Ordinal);
    let kv = batch.table(&Arc::default());
    batch.push(Op::Put, false, kv, b"/nodes/default/x", &[0, 1, 2], 9);
    batch.mark(Position::End);
    all.push(batch);
    let mut batch = begin("arn:x/shard-2", Position::Start, Steps::Ordinal);
    let kv = batch.table(&Arc::default());
    batch.push(Op::Delete, false, kv, b"/nodes/default/x", b"", 9);
    batch.mark(Position::at([0, 255, b'#', b'%']));
    all.push(batch);
    all.push(begin("arn:x/shard-3", Position::Start, Steps::Ordinal));
    all
}

/// Pages of a scan, by key and by cursor, the last of each at its end.
pub(super) fn pages() -> Vec<Batch> {
    let mut by_key = begin("!snapshot/1//..", Position::Start, Steps::Key);
    let kv = by_key.table(&Arc::default());
    by_key.push(Op::Put, false, kv, b"/a", b"1", 0);
    by_key.push(Op::Put, false, kv, b"/b", b"2", 0);
    by_key.mark(Position::at(b"/b"));
    let mut last = begin("!snapshot/1//..", Position::at(b"/b"), Steps::Key);
    last.mark(Position::End);
    let mut by_cursor = begin("!snapshot/1/public.t/..", Position::Start, Steps::Cursor);
    let t = by_cursor.table(&table("public.t", b"shape"));
    by_cursor.push_scanned(t, b"-1", b"body", b"7f");
    by_cursor.push_scanned(t, b"1", b"", b"81");
    by_cursor.mark(Position::End);
    vec![by_key, last, by_cursor]
}

#[test]
fn nothing_that_a_tail_or_a_scan_gives_is_lost() {
    for (frame_bytes, fill) in [(1, usize::MAX), (1 << 20, usize::MAX)] {
        let faulty = Faulty::default();
        let writer = open(&faulty, Options { frame_bytes, ..options(1 << 20, Some(7)) });
        let mut wrote = Vec::new();
        for batch in tail() {
            writer.append(&batch, 0).unwrap();
            wrote.push(batch);
        }
        let snapshot = writer.begin_snapshot(&writer.reached(), 77).unwrap();
        for batch in pages() {
            writer.append_page(snapshot, &batch, 0).unwrap();
            wrote.push(batch);
        }
        writer.end_snapshot(snapshot, &writer.reached(), true, 78).unwrap();
        writer.commit().unwrap();
        let mut reader = Reader::at_beginning(disk(&faulty), keys(None)).unwrap();
        let mut got = Vec::new();
        loop {
            let mut batch = Batch::unpooled();
            match reader.next(&mut batch, fill, u64::MAX).unwrap() {
                Given::Run | Given::Page(1) => got.push(batch),
                Given::Note(_) => {}
                end => {
                    assert_eq!(end, Given::End);
                    break;
                }
            }
        }
        let rows = |all: &[Batch]| all.iter().flat_map(|batch| seen(batch).split_off(1)).collect::<Vec<_>>();
        assert_eq!(rows(&got), rows(&wrote));
        let marks = |all: &[Batch]| {
            let mark = |batch: &Batch| {
                let partition = batch.partition.clone();
                batch.marks().iter().map(move |mark| (partition.clone(), mark.upto.clone())).collect::<Vec<_>>()
            };
            all.iter().flat_map(mark).collect::<Vec<_>>()
        };
        assert_eq!(marks(&got), marks(&wrote));
        if frame_bytes > 1 {
            assert!(got.iter().map(seen).eq(wrote.iter().map(seen)), "batches are cut as they were");
        }
        assert_eq!(*reader.reached(), writer.reached());
        let ends = |name: &str| reader.reached().get(&PartitionId::new(name)).clone();
        assert_eq!((ends("arn:x/shard-1"), ends("arn:x/shard-3")), (Position::End, Position::Start));
        assert!(reader.reached().names(&PartitionId::new("arn:x/shard-3")), "a child that has nothing yet is known");
    }
}

#[test]
fn notes_come_back_where_they_were_written() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    for batch in tail() {
        writer.append(&batch, 0).unwrap();
    }
    let head = writer.reached();
    let ended = PartitionId::new("arn:x/shard-1");
    writer.released(&head, 1).unwrap();
    writer.forget(std::slice::from_ref(&ended), 2).unwrap();
    assert_eq!(writer.begin_snapshot(&head, 3).unwrap(), 1);
    assert_eq!(writer.begin_snapshot(&head, 4).unwrap(), 2);
    assert!(writer.append_page(1, &pages()[0], 4).is_err(), "it was given up");
    writer.append_page(2, &pages()[0], 4).unwrap();
    writer.end_snapshot(2, &Checkpoint::default(), false, 5).unwrap();
    assert!(writer.append_page(2, &pages()[0], 5).is_err(), "it has ended");
    writer.gap(&[partition()], "the slot was dropped", 6).unwrap();
    writer.commit().unwrap();
    let mut reader = Reader::at_beginning(disk(&faulty), keys(None)).unwrap();
    let mut notes = Vec::new();
    loop {
        match reader.next(&mut Batch::unpooled(), usize::MAX, u64::MAX).unwrap() {
            Given::Note(note) => notes.push(note),
            Given::End => break,
            _ => {}
        }
    }
    let only = |partition: &PartitionId| -> Checkpoint {
        [(partition.clone(), head.get(partition).clone())].into_iter().collect()
    };
    let expected = [
        Note::Released(head.clone()),
        Note::Forgot(only(&ended)),
        Note::Began { snapshot: 1, at: 3, head: head.clone() },
        Note::Began { snapshot: 2, at: 4, head: head.clone() },
        Note::Ended { snapshot: 2, at: 5, whole: false, head: Checkpoint::default() },
        Note::Gap { at: 6, why: "the slot was dropped".into(), lost: only(&partition()) },
    ];
    assert_eq!(notes, expected);
    assert!(!reader.reached().names(&partition()) && !reader.reached().names(&ended));
    assert_eq!(*reader.reached(), writer.reached());
    assert!(snapshots(&disk(&faulty), &keys(None)).unwrap().is_empty(), "none of them is whole");
}

#[test]
fn a_gap_is_refused_until_it_is_known() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    writer.append(&one(0), 0).unwrap();
    let error = writer.append(&one(8), 0).unwrap_err();
    assert_eq!(error.fault(), crate::error::Fault::PositionLost);
    writer.gap(&[partition()], "why", 5).unwrap();
    writer.append(&one(8), 0).unwrap();
    writer.commit().unwrap();
    let (read, _) = all(&faulty);
    assert_eq!((&read[0], &read[2]), (&seen(&one(0)), &seen(&one(8))));
    assert!(read[1][0].contains("Gap") && read[1][0].contains("why"), "{:?}", read[1]);
}

#[test]
fn a_snapshot_is_whole_when_its_end_is_reached_and_the_writer_did_not_change() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(400, None));
    writer.append(&one(0), 0).unwrap();
    let snapshot = writer.begin_snapshot(&writer.reached(), 10).unwrap();
    for number in 1..9 {
        writer.append_page(snapshot, &pages()[0], 11).unwrap();
        writer.append(&one(number), 11).unwrap();
        writer.commit().unwrap();
    }
    let ahead: Checkpoint = [(partition(), place(10))].into_iter().collect();
    let early = writer.end_snapshot(snapshot, &ahead, true, 12).unwrap_err();
    assert_eq!(early.fault(), crate::error::Fault::Transient, "changes that its items may hold are still to come");
    writer.append(&one(9), 12).unwrap();
    let ended = writer.end_snapshot(snapshot, &ahead, true, 13).unwrap();
    writer.commit().unwrap();
    let expected = Snapshot { id: 1, began: 2, began_at: 10, ended, ended_at: 13 };
    assert_eq!(snapshots(&disk(&faulty), &keys(None)).unwrap(), [expected], "known segments later");
    let mut reader = Reader::at_sequence(disk(&faulty), keys(None), expected.began).unwrap();
    let first = reader.next(&mut Batch::unpooled(), usize::MAX, u64::MAX).unwrap();
    assert!(matches!(first, Given::Note(Note::Began { snapshot: 1, .. })), "{first:?}");
    // Another one is not finished by the next process.
    let unfinished = writer.begin_snapshot(&ahead, 14).unwrap();
    writer.commit().unwrap();
    drop(writer);
    let (writer, found) = Writer::open(disk(&faulty), options(400, None)).unwrap();
    assert_eq!(found.snapshots, [expected]);
    assert!(writer.end_snapshot(unfinished, &ahead, true, 15).is_err());
    assert_eq!(writer.begin_snapshot(&ahead, 16).unwrap(), 3, "numbers are not used again");
    // A gap leaves no snapshot whole that it fell into.
    writer.gap(&[], "why", 17).unwrap();
    assert!(writer.end_snapshot(3, &Checkpoint::default(), true, 18).is_err());
}

fn encoded(batch: &Batch, bytes: usize) -> Vec<u8> {
    let (mut out, mut tables, mut rest) = (Vec::new(), Tables::default(), Piece::whole(batch));
    loop {
        let piece = rest.split_off(batch, bytes);
        encode_run(&mut out, &mut tables, &mut Span::default(), None, batch, &piece).unwrap();
        if rest.is_empty() {
            return out;
        }
    }
}

fn decoded(records: &[u8], fill: usize) -> crate::error::Result<Vec<Batch>> {
    let (mut used, mut tables, mut all) = (0, Tables::default(), Vec::new());
    while used < records.len() {
        let Record::Run(mut run) = decode(records, &mut used, &mut tables)? else { continue };
        loop {
            let mut batch = Batch::unpooled();
            let done = run.fill(records, &mut used, &tables, &mut batch, fill)?;
            all.push(batch);
            if done {
                break;
            }
        }
    }
    Ok(all)
}

#[test]
fn a_count_that_the_bytes_merely_claim_is_an_error_and_takes_no_memory() {
    let mut records = Vec::new();
    put(&mut records, (2u8, u32::MAX));
    assert!(decoded(&records, 0).is_err());
    let mut records = Vec::new();
    put(&mut records, (0u8, u64::MAX));
    assert!(decoded(&records, 0).is_err());
}

proptest! {
    #[test]
    fn a_batch_comes_back_as_it_went(plan in plans()) {
        let batch = batch_of(&plan, &mut 0);
        let back = decoded(&encoded(&batch, usize::MAX), usize::MAX).unwrap();
        prop_assert_eq!(back.len(), 1);
        prop_assert_eq!(seen(&back[0]), seen(&batch));
    }

    #[test]
    fn pieces_of_a_batch_have_its_changes_at_their_positions(plan in plans(), bytes in 0usize..300, fill in 0usize..60) {
        let batch = batch_of(&plan, &mut 0);
        let back = decoded(&encoded(&batch, bytes), fill).unwrap();
        let rows: Vec<_> = back.iter().flat_map(|b| seen(b).split_off(1)).collect();
        prop_assert_eq!(rows, seen(&batch).split_off(1));
        prop_assert_eq!(reached(back.last().unwrap()), reached(&batch));
        let marks: Vec<_> = back.iter().flat_map(|b| b.marks().iter().map(|m| m.upto.clone())).collect();
        prop_assert_eq!(marks, batch.marks().iter().map(|m| m.upto.clone()).collect::<Vec<_>>());
        prop_assert!(back.windows(2).all(|pair| reached(&pair[0]) == *pair[1].base()));
    }

    #[test]
    fn any_bytes_are_an_error_or_a_run_and_never_a_panic(
        plan in plans(), noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut records = encoded(&batch_of(&plan, &mut 0), 100);
        for (at, byte) in noise {
            let at = at.index(records.len());
            records[at] = byte;
        }
        for batch in decoded(&records, 10).unwrap_or_default() {
            reached(&batch);
        }
    }
}
