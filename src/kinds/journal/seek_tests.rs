//! Reading from a place: what is there is found, what is not is never taken for the beginning or the end.

use super::faulty::Faulty;
use super::format::segment_name;
use super::segment::segments;
use super::tests::*;
use super::*;
use crate::error::{Error, Fault};
use crate::model::{Batch, Checkpoint, PartitionId, Position, Steps};

fn lost(result: Result<Reader, Error>) {
    assert_eq!(result.err().unwrap().fault(), Fault::PositionLost);
}

fn at(partition: &str, position: Position) -> Checkpoint {
    [(PartitionId::new(partition), position)].into_iter().collect()
}

/// A batch of some partition with one change.
fn change(name: &str, from: u32, upto: u32) -> Batch {
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new(name), place(from), Steps::Ordinal);
    let table = batch.table(&std::sync::Arc::default());
    batch.push(crate::model::Op::Put, false, table, b"k", b"v", 0);
    batch.mark(place(upto));
    batch
}

#[test]
fn reading_begins_at_a_sequence_a_position_a_checkpoint_or_a_time() {
    let faulty = Faulty::default();
    let wrote = simple(&faulty, 40, options(600, Some(7)));
    for skipped in 0..40u32 {
        let expected = &wrote[skipped as usize..];
        let reader = Reader::at_sequence(disk(&faulty), keys(None), u64::from(skipped) + 1).unwrap();
        assert_eq!(rest(reader).0, expected, "sequence {skipped}");
        let reader = Reader::at_position(disk(&faulty), keys(None), &partition(), &place(skipped)).unwrap();
        assert_eq!(rest(reader).0, expected, "position {skipped}");
        let reader = Reader::at_checkpoint(disk(&faulty), keys(None), &at("pg/7/1/s", place(skipped))).unwrap();
        assert_eq!(rest(reader).0, expected, "checkpoint {skipped}");
        let reader = Reader::at_time(disk(&faulty), keys(None), 1000 + i64::from(skipped)).unwrap();
        assert_eq!(rest(reader).0, expected, "time {skipped}");
    }
    let none: &[Vec<String>] = &[];
    assert_eq!(rest(Reader::at_sequence(disk(&faulty), keys(None), 41).unwrap()).0, none);
    assert_eq!(rest(Reader::at_position(disk(&faulty), keys(None), &partition(), &place(40)).unwrap()).0, none);
    assert_eq!(rest(Reader::at_checkpoint(disk(&faulty), keys(None), &at("pg/7/1/s", place(40))).unwrap()).0, none);
    assert_eq!(rest(Reader::at_time(disk(&faulty), keys(None), 9999).unwrap()).0, none);
    // What is not there is never taken for the beginning or the end.
    faulty.remove(&segment_name(1)).unwrap();
    let oldest = segments(&faulty).unwrap()[0];
    lost(Reader::at_sequence(disk(&faulty), keys(None), oldest - 1));
    lost(Reader::at_sequence(disk(&faulty), keys(None), 42));
    lost(Reader::at_position(disk(&faulty), keys(None), &partition(), &Position::Start));
    lost(Reader::at_position(disk(&faulty), keys(None), &partition(), &place(41)));
    lost(Reader::at_position(disk(&faulty), keys(None), &PartitionId::new("pg/7/1/other"), &place(20)));
    lost(Reader::at_checkpoint(disk(&faulty), keys(None), &at("pg/7/1/s", place(oldest as u32 - 2))));
    lost(Reader::at_checkpoint(disk(&faulty), keys(None), &at("pg/7/1/s", place(41))));
    lost(Reader::at_checkpoint(disk(&faulty), keys(None), &at("pg/7/1/other", place(20))));
    lost(Reader::at_checkpoint(disk(&faulty), keys(None), &Checkpoint::default()));
    lost(Reader::at_time(disk(&faulty), keys(None), 1000));
    Reader::at_sequence(disk(&faulty), keys(None), oldest).unwrap();
    Reader::at_time(disk(&faulty), keys(None), 1000 + oldest as i64).unwrap();
}

#[test]
fn an_empty_journal_is_read_from_its_beginning_and_reaches_nothing() {
    let faulty = Faulty::default();
    assert_eq!(all(&faulty).1.unwrap(), Given::End);
    assert_eq!(rest(Reader::at_time(disk(&faulty), keys(None), 5).unwrap()).1.unwrap(), Given::End);
    assert_eq!(rest(Reader::at_sequence(disk(&faulty), keys(None), 1).unwrap()).1.unwrap(), Given::End);
    lost(Reader::at_sequence(disk(&faulty), keys(None), 2));
    lost(Reader::at_checkpoint(disk(&faulty), keys(None), &at("p", place(1))));
    assert_eq!(list(&disk(&faulty)).unwrap(), []);
}

#[test]
fn a_time_is_found_where_clocks_go_back() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(600, None));
    let times = [5, 9, 7, 0, 20, 3, 20, 21, 0, 19, 30];
    for (number, time) in (0..).zip(times) {
        let mut batch = Batch::unpooled();
        batch.begin(&partition(), place(number), Steps::Ordinal);
        let table = batch.table(&std::sync::Arc::default());
        batch.push(crate::model::Op::Put, false, table, b"k", b"v", time);
        batch.mark(place(number + 1));
        writer.append(&batch, 0).unwrap();
        writer.commit().unwrap();
        // One frame to a segment, or two.
        if number % 3 != 0 {
            writer.use_keys(keys(None)).unwrap();
        }
    }
    for time in 1..32 {
        let mut reader = Reader::at_time(disk(&faulty), keys(None), time).unwrap();
        let first = times.iter().position(|at| *at >= time).unwrap_or(times.len());
        assert_eq!(reader.sequence(), first as u64, "time {time}");
        let given = reader.next(&mut Batch::unpooled(), usize::MAX, u64::MAX).unwrap();
        assert_eq!(given == Given::End, first == times.len());
    }
}

/// Two partitions, of which one is far ahead of the other, and a third that begins on the way.
#[test]
fn a_checkpoint_of_several_partitions_is_found_where_the_one_that_is_furthest_behind_was() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(500, None));
    let mut wrote = Vec::new();
    for number in 0..20 {
        for name in ["a", "b"] {
            wrote.push(change(name, number, number + 1));
        }
        if number == 10 {
            let mut child = Batch::unpooled();
            child.begin(&PartitionId::new("c"), Position::Start, Steps::Ordinal);
            child.mark(place(5));
            wrote.push(child);
        }
    }
    for batch in &wrote {
        writer.append(batch, 0).unwrap();
        writer.commit().unwrap();
    }
    let read = |from: &Checkpoint| -> Vec<Vec<String>> {
        rest(Reader::at_checkpoint(disk(&faulty), keys(None), from).unwrap()).0
    };
    for (a, b) in [(0, 0), (3, 9), (9, 3), (10, 10)] {
        let mut from = at("a", place(a));
        from.advance(&PartitionId::new("b"), &place(b));
        // Of the engine's own nothing is asked.
        from.advance(&PartitionId::new("!snapshot/1"), &Position::End);
        let given = read(&from);
        let needed = wrote.iter().position(|batch| *batch.upto() > *from.get(&batch.partition)).unwrap();
        assert!(given.len() >= wrote.len() - needed, "{a} {b}");
        assert_eq!(given[given.len() - (wrote.len() - needed)..], wrote[needed..].iter().map(seen).collect::<Vec<_>>());
        assert!(given.len() < wrote.len() - needed + 8, "hardly more than it needs");
    }
    let mut behind = at("a", place(20));
    behind.advance(&PartitionId::new("b"), &place(20));
    assert_eq!(read(&behind).len(), wrote.len() - 22, "the child was never begun, so it is read from its beginning on");
    behind.advance(&PartitionId::new("c"), &place(5));
    assert_eq!(read(&behind), Vec::<Vec<String>>::new());
    // Somebody who has nothing of one of them needs all of it.
    lost(Reader::at_checkpoint(disk(&faulty), keys(None), &Checkpoint::default()).and_then(|reader| {
        let (_, end) = rest(reader);
        end.map(|_| unreachable!())
    }));
}

#[test]
fn a_consumer_within_a_transaction_gets_the_rest_of_it() {
    let faulty = Faulty::default();
    let writer = open(&faulty, Options { frame_bytes: 1, ..options(1 << 20, None) });
    let mut batch = Batch::unpooled();
    batch.begin(&partition(), place(1), Steps::Ordinal);
    let table = batch.table(&std::sync::Arc::default());
    for key in [b"a", b"b", b"c", b"d"] {
        batch.push(crate::model::Op::Put, false, table, key, b"v", 0);
    }
    batch.mark(place(2));
    writer.append(&batch, 0).unwrap();
    writer.commit().unwrap();
    for passed in 0..4 {
        let from = at("pg/7/1/s", place(1).plus(passed));
        let (given, end) = rest(Reader::at_checkpoint(disk(&faulty), keys(None), &from).unwrap());
        let rows: Vec<_> = given.iter().flat_map(|run| run[1..].to_vec()).collect();
        assert_eq!(rows, seen(&batch)[1 + passed as usize..]);
        assert_eq!(end.unwrap(), Given::End);
    }
    // A place that this journal does not know lies on one side of the transaction or the other: it is given.
    let from = at("pg/7/1/s", Position::at("000000015"));
    let (given, _) = rest(Reader::at_checkpoint(disk(&faulty), keys(None), &from).unwrap());
    assert_eq!(given.len(), 4);
}

#[test]
fn nobody_crosses_a_gap_without_being_told() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    for batch in [change("a", 0, 1), change("b", 0, 1), change("a", 1, 2)] {
        writer.append(&batch, 0).unwrap();
    }
    writer.gap(&[PartitionId::new("a")], "why", 0).unwrap();
    for batch in [change("a", 7, 8), change("b", 1, 2), change("a", 8, 9)] {
        writer.append(&batch, 0).unwrap();
    }
    writer.commit().unwrap();
    let from = |a: Option<u32>, b: u32| {
        let mut from = at("b", place(b));
        if let Some(a) = a {
            from.advance(&PartitionId::new("a"), &place(a));
        }
        from
    };
    let read = |from: &Checkpoint| match Reader::at_checkpoint(disk(&faulty), keys(None), from) {
        Ok(reader) => rest(reader),
        Err(error) => (Vec::new(), Err(error)),
    };
    // Before it: PositionLost, or the note comes first.
    for before in [from(Some(0), 0), from(Some(1), 1), from(Some(2), 1), from(Some(2), 0), from(None, 1)] {
        let (given, end) = read(&before);
        let told = given.iter().position(|run| run[0].contains("Gap"));
        let crossed = given.iter().position(|run| run[0].starts_with("a @00000007"));
        match end {
            Err(error) => assert_eq!((error.fault(), crossed), (Fault::PositionLost, None), "{before}"),
            Ok(_) => assert!(told.unwrap() < crossed.unwrap(), "{before}"),
        }
    }
    // Behind it: nothing to tell, even where another partition needs what lies before it.
    for (behind, runs) in [(from(Some(8), 1), 2), (from(Some(9), 2), 0), (from(Some(8), 0), 5), (from(Some(7), 1), 3)] {
        let (given, end) = read(&behind);
        assert!(!given.iter().any(|run| run[0].contains("Gap")), "{behind}: {given:?}");
        assert_eq!((given.len(), end.unwrap()), (runs, Given::End), "{behind}: {given:?}");
    }
}

#[test]
fn a_gap_behind_which_everything_begins_at_its_start_is_told_too() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    writer.append(&change("a", 0, 1), 0).unwrap();
    writer.append(&change("a", 1, 2), 0).unwrap();
    writer.gap(&[PartitionId::new("a")], "why", 0).unwrap();
    let mut other = Batch::unpooled();
    other.begin(&PartitionId::new("z"), Position::Start, Steps::Ordinal);
    other.mark(place(1));
    writer.append(&other, 0).unwrap();
    writer.commit().unwrap();
    for passed in 1..3 {
        match Reader::at_checkpoint(disk(&faulty), keys(None), &at("a", place(passed))) {
            Ok(reader) => {
                let (given, _) = rest(reader);
                let told = given.iter().position(|run| run[0].contains("Gap"));
                let crossed = given.iter().position(|run| run[0].starts_with("z"));
                assert!(told.unwrap() < crossed.unwrap(), "{given:?}");
            }
            Err(error) => assert_eq!(error.fault(), Fault::PositionLost),
        }
    }
}

#[test]
fn a_forgotten_partition_is_asked_for_by_nobody() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    let mut parent = Batch::unpooled();
    parent.begin(&PartitionId::new("a"), Position::Start, Steps::Ordinal);
    parent.mark(Position::End);
    writer.append(&parent, 0).unwrap();
    writer.append(&change("b", 0, 1), 0).unwrap();
    let a = PartitionId::new("a");
    // While the journal knows the end, a consumer that does not name it could have missed it.
    writer.use_keys(keys(None)).unwrap();
    writer.append(&change("b", 1, 2), 0).unwrap();
    writer.commit().unwrap();
    let from = at("b", place(1));
    assert_eq!(rest(Reader::at_checkpoint(disk(&faulty), keys(None), &from).unwrap()).0.len(), 3);
    writer.forget(std::slice::from_ref(&a), 0).unwrap();
    writer.use_keys(keys(None)).unwrap();
    writer.append(&change("b", 2, 3), 0).unwrap();
    writer.commit().unwrap();
    let from = at("b", place(2));
    assert_eq!(rest(Reader::at_checkpoint(disk(&faulty), keys(None), &from).unwrap()).0.len(), 1);
    let mut from = at("b", place(2));
    from.advance(&a, &Position::End);
    assert_eq!(rest(Reader::at_checkpoint(disk(&faulty), keys(None), &from).unwrap()).0.len(), 1, "it may still know");
}

#[test]
fn who_has_been_there_finds_his_way_back_and_reads_nothing_of_what_lies_before() {
    let faulty = Faulty::default();
    for segment_bytes in [600, 1 << 20] {
        let wrote = simple(&faulty, 40, options(segment_bytes, Some(7)));
        let all = Reader::at_beginning(disk(&faulty), keys(None)).unwrap();
        let count = rest(all).0.len() as u32;
        for left in (0..count).step_by(3) {
            let mut reader = Reader::at_sequence(disk(&faulty), keys(None), u64::from(left) + 1).unwrap();
            reader.next(&mut Batch::unpooled(), usize::MAX, u64::MAX).unwrap();
            let mark = reader.aside().unwrap();
            for skipped in 0..count {
                let from = at("pg/7/1/s", place(skipped));
                let near = Reader::at_checkpoint_near(disk(&faulty), keys(None), &from, Some(&mark)).unwrap();
                let far = Reader::at_checkpoint(disk(&faulty), keys(None), &from).unwrap();
                assert_eq!(rest(near).0, rest(far).0, "left at {left}, back at {skipped}");
            }
        }
        assert!(wrote.len() == 40);
    }
    let mut reader = Reader::at_beginning(disk(&faulty), keys(None)).unwrap();
    assert!(reader.aside().is_none(), "it was nowhere yet");
    while reader.sequence() < 75 {
        reader.next(&mut Batch::unpooled(), usize::MAX, u64::MAX).unwrap();
    }
    let mark = reader.aside().unwrap();
    let name = segment_name(*segments(&faulty).unwrap().last().unwrap());
    let mut bytes = faulty.bytes(&name);
    let early = bytes.len() / 4;
    bytes[early] ^= 1;
    faulty.put(&name, bytes);
    let from = at("pg/7/1/s", place(78));
    let near = Reader::at_checkpoint_near(disk(&faulty), keys(None), &from, Some(&mark)).unwrap();
    assert_eq!(rest(near).0.len(), 2);
    assert_eq!(Reader::at_checkpoint(disk(&faulty), keys(None), &from).err().unwrap().fault(), Fault::Corrupt);
}
