//! What a lane makes of shares: when a commit is sent, what it holds, and what is staged.

use super::*;
use crate::engine::route::Share;
use crate::kinds::memory;
use crate::model::{Batch, Steps};

fn lane() -> Lane {
    let limits = Limits { changes: 10, bytes: 1 << 20, stage: true, in_flight: 4 };
    Lane::new(limits, Arc::from(memory::bridge()), &LaneRecord::default(), Duration::ZERO)
}

fn share(seq: u64, from: u8, to: u8) -> Work {
    let mut batch = Batch::unpooled();
    let base = if from == 0 { Position::Start } else { Position::at([from]) };
    batch.begin(&PartitionId::new("p"), base, Steps::Ordinal);
    batch.mark(Position::at([to]));
    Work::Share(Share { seq, batch: Arc::new(batch), picks: None })
}

fn sent(lane: &mut Lane, now: Duration) -> Option<Arc<Commit>> {
    match lane.next(now, 0).unwrap() {
        Action::Commit(commit) => Some(commit),
        Action::Wait(_) => None,
        Action::Stage(_) => panic!("nothing here is large"),
    }
}

#[test]
fn positions_without_changes_are_kept_back_for_a_second_and_written_in_one_commit() {
    let mut lane = lane();
    lane.push(share(1, 0, 1));
    assert!(sent(&mut lane, Duration::ZERO).is_none());
    lane.push(share(2, 1, 2));
    assert!(sent(&mut lane, Duration::from_millis(500)).is_none());
    let commit = sent(&mut lane, Duration::from_millis(1_000)).expect("a second has passed");
    assert_eq!(commit.upto.get(&PartitionId::new("p")), &Position::at([2]));
    assert_eq!(lane.landed(Duration::from_secs(1)), 2);
}

#[test]
fn a_mark_behind_a_flush_is_sent_at_once() {
    let mut lane = lane();
    lane.push(Work::Flush);
    lane.push(Work::Mark { seq: 1, forget: vec![], upto: vec![(PartitionId::new("!loaded"), Position::End)] });
    assert!(sent(&mut lane, Duration::ZERO).is_some_and(|commit| commit.upto.len() == 1));
}

#[test]
fn a_hole_between_two_shares_stops_the_lane() {
    let mut lane = lane();
    lane.push(share(1, 3, 4));
    let error = lane.next(Duration::ZERO, 0).expect_err("what lies before 3 is missing");
    assert_eq!(error.fault(), crate::error::Fault::Bug);
}

#[test]
fn a_lane_that_stood_at_a_quiet_place_takes_a_transaction_that_is_read_again_from_before_it() {
    let record = LaneRecord {
        checkpoint: [(PartitionId::new("p"), Position::at([3]))].into_iter().collect(),
        ..LaneRecord::default()
    };
    let limits = Limits { changes: 10, bytes: 1 << 20, stage: true, in_flight: 4 };
    let mut lane = Lane::new(limits, Arc::from(memory::bridge()), &record, Duration::ZERO);
    // Another lane stood at 1, so the stream was opened there; the transaction ends at 5, and the place 3 is not met again.
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("p"), Position::at([1]), Steps::Ordinal);
    let table = batch.table(&Arc::default());
    batch.push(Op::Put, false, table, b"old", b"v", NOW);
    batch.mark(Position::at([2]));
    for key in [b"a", b"b"] {
        batch.push(Op::Put, false, table, key, b"v", NOW);
    }
    batch.mark(Position::at([5]));
    lane.push(Work::Share(Share { seq: 1, batch: Arc::new(batch), picks: None }));
    let commit = sent(&mut lane, MS).expect("the second transaction is new to this lane");
    assert_eq!(keys(&commit.changes), ["a", "b"]);
}

/// A share whose changes put these keys, committed at the source at `at`; `closed`: its transaction ends with it.
fn puts(seq: u64, from: u8, keys: &[&str], at: Micros, closed: bool) -> Work {
    let mut batch = Batch::unpooled();
    let base = if from == 0 { Position::Start } else { Position::at([from]) };
    batch.begin(&PartitionId::new("p"), base, Steps::Ordinal);
    let table = batch.table(&Arc::default());
    for key in keys {
        batch.push(Op::Put, false, table, key.as_bytes(), &[b'v'; 100], at);
    }
    if closed {
        batch.mark(Position::at([from + 1]));
    }
    Work::Share(Share { seq, batch: Arc::new(batch), picks: None })
}

fn keys(changes: &Changes) -> Vec<String> {
    changes.iter().map(|row| String::from_utf8_lossy(row.key).into_owned()).collect()
}

const MS: Duration = Duration::from_millis(1);
const NOW: Micros = 1_000_000_000;

#[test]
fn what_comes_while_the_sink_is_busy_becomes_one_commit() {
    let mut lane = lane();
    lane.push(puts(1, 0, &["a"], NOW, true));
    assert_eq!(keys(&sent(&mut lane, MS).unwrap().changes), ["a"]);
    for (seq, key) in [(2, "b"), (3, "c"), (4, "b")] {
        lane.push(puts(seq, seq as u8 - 1, &[key], NOW, true));
        lane.collect(MS * 2).unwrap();
        assert!(!lane.is_ready(), "more may join");
    }
    assert_eq!(lane.landed(MS * 3), 1, "what is only collected is not durable");
    let commit = sent(&mut lane, MS * 3).unwrap();
    assert_eq!(keys(&commit.changes), ["b", "c"]);
    assert_eq!(commit.upto.get(&PartitionId::new("p")), &Position::at([4]));
    assert_eq!(lane.landed(MS * 4), 4);
}

#[test]
fn a_commit_that_is_full_is_ready_and_takes_no_more() {
    let mut lane = lane();
    let many: Vec<String> = (0..12).map(|n| format!("{n:02}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    lane.push(puts(1, 0, &many, NOW, true));
    lane.push(puts(2, 1, &["x"], NOW, true));
    lane.collect(MS).unwrap();
    assert!(lane.is_ready());
    assert_eq!(sent(&mut lane, MS).unwrap().changes.len(), 12);
}

#[test]
fn hot_rows_of_a_stream_that_is_behind_are_gathered_for_half_a_second_while_they_keep_coming() {
    let mut lane = lane();
    let (old, wall) = (NOW, NOW + 10_000_000);
    let mut at = |n: u64, now: Duration| {
        lane.push(puts(n, n as u8 - 1, &["a", "a", "a"], old, true));
        lane.next(now, wall).unwrap()
    };
    for n in 1..=50 {
        let action = at(n, MS * 10 * n as u32);
        assert!(matches!(action, Action::Wait(_)), "{n}: {action:?}");
    }
    let Action::Commit(commit) = at(51, MS * 510) else { panic!("half a second is over") };
    assert_eq!(keys(&commit.changes), ["a"]);
    assert_eq!(commit.upto.get(&PartitionId::new("p")), &Position::at([51]));
}

#[test]
fn nothing_is_gathered_when_the_stream_is_not_behind_or_has_paused_or_rows_are_not_hot() {
    let now = |keys: &[&str], at, wall, pause: Duration| {
        let mut lane = lane();
        lane.push(puts(1, 0, keys, at, true));
        let first = lane.next(MS, wall).unwrap();
        match first {
            Action::Wait(_) => matches!(lane.next(MS + pause, wall).unwrap(), Action::Commit(_)),
            _ => true,
        }
    };
    let late = NOW + 10_000_000;
    assert!(!now(&["a", "a"], NOW, late, MS), "the counter-proof");
    assert!(now(&["a", "a"], NOW, NOW + 1_000, MS), "not behind");
    assert!(now(&["a", "a"], 0, late, MS), "nobody knows how old it is");
    assert!(now(&["a", "b"], NOW, late, MS), "not hot");
    assert!(now(&["a", "a"], NOW, late, MS * 20), "nothing more comes");
}

#[test]
fn a_transaction_that_comes_in_pieces_is_one_commit_if_it_fits_and_staged_only_where_it_does_not() {
    let mut lane = lane();
    lane.push(puts(1, 0, &["a"], NOW, false));
    let Action::Wait(until) = lane.next(MS, NOW).unwrap() else { panic!("its end is on its way") };
    lane.push(Work::Flush);
    assert!(matches!(lane.next(MS * 2, NOW).unwrap(), Action::Wait(_)), "half a transaction is never flushed");
    // The rest of it, which counts on from the first piece.
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("p"), Position::Start.plus(1), Steps::Ordinal);
    let table = batch.table(&Arc::default());
    batch.push(Op::Put, false, table, b"b", b"", NOW);
    batch.mark(Position::at([1]));
    lane.push(Work::Share(Share { seq: 2, batch: Arc::new(batch), picks: None }));
    assert_eq!(keys(&sent(&mut lane, MS * 3).unwrap().changes), ["a", "b"]);
    lane.push(puts(3, 1, &["c"], NOW, false));
    assert!(matches!(lane.next(until, NOW).unwrap(), Action::Wait(_)));
    assert!(matches!(lane.next(until + PAUSE, NOW).unwrap(), Action::Stage(_)), "the rest keeps us waiting");
}

#[test]
fn what_later_changes_have_replaced_does_not_fill_a_commit() {
    let mut lane = lane();
    lane.limits.bytes = 1_000;
    for n in 1..=100 {
        lane.push(puts(n, n as u8 - 1, &["a", "b"], NOW, true));
    }
    let commit = sent(&mut lane, MS).unwrap();
    assert_eq!(keys(&commit.changes), ["a", "b"]);
    assert_eq!(commit.upto.get(&PartitionId::new("p")), &Position::at([100]));
    assert!(commit.changes.iter().all(|row| row.body == [b'v'; 100] && row.at == NOW));
}

#[test]
fn a_sink_that_cannot_stage_gets_a_transaction_whole_if_it_fits_and_else_in_pieces_that_say_where_they_end() {
    let limits = Limits { changes: 4, bytes: 1 << 20, stage: false, in_flight: 1 };
    let lane = || Lane::new(limits, Arc::from(memory::bridge()), &LaneRecord::default(), Duration::ZERO);
    let upto = |commit: &Commit| commit.upto.get(&PartitionId::new("p")).clone();

    // It comes in two batches, behind another one that does not become a part of its commit.
    let mut whole = lane();
    whole.push(puts(1, 0, &["before"], NOW, true));
    whole.push(puts(2, 1, &["a", "b"], NOW, false));
    let commit = sent(&mut whole, MS).unwrap();
    assert_eq!((keys(&commit.changes), upto(&commit)), (vec!["before".to_owned()], Position::at([1])));
    whole.landed(MS);
    assert!(sent(&mut whole, MS * 2).is_none(), "the rest of it is on its way");
    let mut rest = Batch::unpooled();
    rest.begin(&PartitionId::new("p"), Position::at([1]).plus(2), Steps::Ordinal);
    let table = rest.table(&Arc::default());
    rest.push(Op::Put, false, table, b"c", b"v", NOW);
    rest.mark(Position::at([2]));
    whole.push(Work::Share(Share { seq: 3, batch: Arc::new(rest), picks: None }));
    let commit = sent(&mut whole, MS * 3).unwrap();
    assert_eq!((keys(&commit.changes).len(), upto(&commit)), (3, Position::at([2])));

    // More than fits, and a rest that does not come.
    let mut split = lane();
    split.push(puts(1, 0, &["a", "b", "c", "d", "e"], NOW, false));
    let commit = sent(&mut split, MS).unwrap();
    assert_eq!((keys(&commit.changes).len(), upto(&commit)), (4, Position::Start.plus(4)));
    split.landed(MS);
    assert!(sent(&mut split, MS * 2).is_none());
    let commit = sent(&mut split, MS * 2 + PAUSE).unwrap();
    assert_eq!((keys(&commit.changes).len(), upto(&commit)), (1, Position::Start.plus(5)));
}

#[test]
fn an_old_place_told_again_within_a_transaction_does_not_end_it() {
    let limits = Limits { changes: 100, bytes: 1 << 20, stage: true, in_flight: 1 };
    let name = PartitionId::new("p");
    let told = |from: u8, upto: u8| {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("p"), Position::at([from]), Steps::Ordinal);
        batch.mark(Position::at([upto]));
        Work::Share(Share { seq: 9, batch: Arc::new(batch), picks: None })
    };
    let mut lane = Lane::new(limits, Arc::from(memory::bridge()), &LaneRecord::default(), Duration::ZERO);
    lane.push(puts(1, 0, &["before"], NOW, true));
    assert_eq!(sent(&mut lane, MS).unwrap().upto.get(&name), &Position::at([1]));
    lane.landed(MS);
    // Half of the next one, the place before it once more, and then all of it, as whoever changes over to a log gives it.
    lane.push(puts(2, 1, &["a", "b"], NOW, false));
    lane.push(puts(3, 0, &["before"], NOW, false));
    lane.push(told(0, 1));
    assert!(sent(&mut lane, MS * 2).is_none(), "half of a transaction is committed");
    lane.push(puts(5, 1, &["a", "b", "c"], NOW, true));
    let commit = sent(&mut lane, MS * 3).unwrap();
    assert_eq!((keys(&commit.changes).len(), commit.upto.get(&name)), (3, &Position::at([2])));
}
