//! Sequences of events that a person should be able to read, each of which once broke a design.
//!
//! The machine is the seeds' own, but nothing happens that is not told here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use driftless::engine::clock::Clock as _;
use driftless::engine::status::State;
use driftless::kinds::memory::{Outcome, Plan, Script, Site, Write};
use driftless::model::{PartitionId, Position, StreamId};

use crate::run::Run;

fn put(run: &Run, key: &str, value: &str) {
    run.world.transact(&[Write::Put(0, key.into(), [value.into(), vec![]])]);
}

fn remove(run: &Run, key: &str) {
    run.world.transact(&[Write::Delete(0, key.into())]);
}

fn has(run: &Run, key: &str) -> bool {
    run.sink.rows().contains_key(&(String::new(), key.as_bytes().to_vec()))
}

fn script(all: &[(Site, Outcome)]) -> Script {
    Script(all.iter().copied().collect())
}

/// Once one door has been passed, the next call at another one is held.
struct HoldAfter(Site, Site, Arc<AtomicBool>);

impl Plan for HoldAfter {
    fn draw(&mut self, site: Site) -> Outcome {
        if site == self.0 {
            self.2.store(true, Ordering::Relaxed);
        }
        if site == self.1 && self.2.load(Ordering::Relaxed) { Outcome::Hold } else { Outcome::Go }
    }
}

/// The answer to a commit does not come, it is sent again and lands, more follows, and then the first one arrives.
#[test]
fn a_late_twin_of_an_unanswered_commit_changes_nothing() {
    let mut run = Run::story(1, 1);
    run.start("first", false);
    run.until_equal();
    run.sink.plan(script(&[(Site::Commit, Outcome::Late)]));
    put(&run, "/k", "older");
    run.until("the commit is on its way for ever", |run| run.sink.late() == 1);
    run.until_equal();
    put(&run, "/k", "newer");
    run.until_equal();
    run.sink.land_late(0);
    assert_eq!((run.sink.late(), run.sink.refused()), (0, 0), "it is answered as what landed long ago");
    run.look().unwrap();
    run.oracle.equal().unwrap();
    run.quiet().unwrap();
}

/// One transaction takes a minute to be staged. Whoever stands by sees that its owner is at work; when the owner is
/// stopped in the middle of it, the other one takes over ten seconds later.
#[test]
fn a_long_stage_is_a_sign_of_life_and_an_owner_that_is_stopped_within_it_is_superseded() {
    let mut run = Run::story(1, 1);
    put(&run, "/k", "older");
    let owner = run.start("first", false);
    run.until_equal();
    let waiting = run.start("second", false);
    run.until("somebody stands by", |run| run.status(waiting).is_some_and(|status| status.state == State::Standby));
    run.sink.plan(script(&[(Site::Stage, Outcome::Hold)]));
    run.world.transact(
        &(0..200).map(|n| Write::Put(0, format!("/much/{n}").into(), [vec![b'v'; 40], vec![]])).collect::<Vec<_>>(),
    );
    let epoch = |run: &Run| run.sink.record(&StreamId::new("simulated")).map(|record| record.lanes[0].epoch);
    let (before, begun) = (epoch(&run), run.machine.clock.now());
    let number = run.sink.record(&StreamId::new("simulated")).unwrap().lanes[0].number;
    run.until("a minute has passed", |run| run.machine.clock.now() >= begun + Duration::from_secs(60));
    let record = run.sink.record(&StreamId::new("simulated")).unwrap();
    assert!(
        record.lanes[0].number <= number + 1 && record.lanes[0].beat > 10,
        "it was staged all the time: {record:?}"
    );
    assert_eq!(epoch(&run), before, "nobody took over");
    run.freeze_one(owner, true);
    let stopped = run.machine.clock.now();
    run.until("the other one has taken over", |run| epoch(run) > before);
    let took = run.machine.clock.now() - stopped;
    // The last beat was up to two and a half seconds old.
    assert!(took > Duration::from_secs(7) && took < Duration::from_secs(13), "{took:?}");
    run.sink.lift();
    run.kill(owner);
    run.quiet().unwrap();
}

/// One of two lanes has its pin when the process dies. What is written until the next one starts must not be lost to the
/// other lane, so the pin of one lane alone counts for nothing.
#[test]
fn a_crash_between_the_pins_of_two_lanes_pins_again() {
    let mut run = Run::story(2, 1);
    (0..20).for_each(|n| put(&run, &format!("/old/{n}"), "v"));
    run.sink.plan(script(&[(Site::Commit, Outcome::Go), (Site::Commit, Outcome::Hold)]));
    let pid = run.start("first", false);
    let pin = PartitionId::new("!snapshot/1");
    run.until("one lane is pinned and the other is not", |run| {
        let record = run.sink.record(&StreamId::new("simulated"));
        record.is_some_and(|record| record.lanes.iter().filter(|lane| lane.checkpoint.names(&pin)).count() == 1)
    });
    run.kill(pid);
    run.sink.plan(script(&[]));
    (0..20).for_each(|n| put(&run, &format!("/new/{n}"), "v"));
    (0..10).for_each(|n| remove(&run, &format!("/old/{n}")));
    run.start("first", false);
    run.quiet().unwrap();
    assert_eq!(run.oracle.generation(), 2);
}

/// A shard ends and its children begin while the first copy is under way.
#[test]
fn a_split_while_scanning_keeps_the_order_of_each_key() {
    let mut run = Run::story(2, 1);
    (0..30).for_each(|n| put(&run, &format!("/k/{n}"), "before"));
    // Cutting ranges, finding two of them again and reading one page go well.
    let mut scans = [(Site::Scan, Outcome::Go); 5];
    scans[4].1 = Outcome::Hold;
    run.world.plan(script(&scans));
    run.start("first", false);
    run.until("some rows are there and not all", |run| (1..30).contains(&run.sink.rows().len()));
    (0..30).for_each(|n| put(&run, &format!("/k/{n}"), "in the parent"));
    assert!(run.world.split(0));
    (0..30).for_each(|n| put(&run, &format!("/k/{n}"), "in a child"));
    assert!(run.world.split(1) && run.world.merge());
    (0..15).for_each(|n| remove(&run, &format!("/k/{n}")));
    run.world.lift();
    run.quiet().unwrap();
    assert_eq!(run.sink.rows().len(), 15);
}

/// After a gap the sweep finds a key that the source does not have. Before its delete is written the key is created again.
#[test]
fn a_sweep_leaves_a_key_that_is_created_again() {
    let mut run = Run::story(1, 1);
    put(&run, "/k", "first life");
    put(&run, "/other", "v");
    let pid = run.start("first", false);
    run.until_equal();
    run.kill(pid);
    remove(&run, "/k");
    run.trim();
    let looked = Arc::new(AtomicBool::new(false));
    run.world.plan(HoldAfter(Site::Get, Site::Head, Arc::clone(&looked)));
    run.start("first", false);
    run.until("the sweep has looked for the key at the source", |_| looked.load(Ordering::Relaxed));
    assert!(has(&run, "/k"), "its delete was lost with the history");
    put(&run, "/k", "second life");
    run.world.plan(script(&[]));
    run.world.lift();
    run.quiet().unwrap();
    assert!(has(&run, "/k"));
    assert_eq!(run.report.gaps, 1);
}

/// The sink comes back from last night's backup. The source was told to forget what it is missing: a gap, said aloud, and
/// healed with its deletes.
#[test]
fn a_sink_that_was_restored_is_a_gap_and_heals() {
    let mut run = Run::story(2, 1);
    (0..10).for_each(|n| put(&run, &format!("/k/{n}"), "v"));
    run.start("first", false);
    run.until_equal();
    let backup = run.sink.backup();
    (5..10).for_each(|n| remove(&run, &format!("/k/{n}")));
    (10..20).for_each(|n| put(&run, &format!("/k/{n}"), "v"));
    run.until_equal();
    let newest = run.world.newest();
    run.until("the source may forget all of it", |run| run.world.released().is_some_and(|at| at.covers(&newest)));
    run.restore_sink(&backup);
    assert_eq!(run.sink.rows().len(), 10);
    run.start("first", false);
    run.quiet().unwrap();
    assert_eq!((run.report.gaps, run.sink.rows().len()), (1, 15));
}

/// The source comes back from a backup under its old name: our position lies after its head. Waiting there would be silence.
#[test]
fn a_source_that_was_restored_is_a_gap_and_heals() {
    let mut run = Run::story(1, 1);
    (0..10).for_each(|n| put(&run, &format!("/k/{n}"), "v"));
    let pid = run.start("first", false);
    run.until_equal();
    let backup = run.world.backup();
    (10..20).for_each(|n| put(&run, &format!("/k/{n}"), "v"));
    run.until_equal();
    run.kill(pid);
    run.restore_source(&backup, false);
    let pid = run.start("first", false);
    run.until("the gap is reported", |run| run.report.gaps == 1);
    run.until("it is healed", |run| run.status(pid).is_some_and(|status| status.consistent));
    put(&run, "/k/new", "v");
    run.quiet().unwrap();
    assert_eq!(run.sink.rows().len(), 11);
}

/// A process is stopped (SIGSTOP) with a commit on its way; another one waits its ten seconds and takes over. Then the
/// first one wakes up.
#[test]
fn a_stopped_owner_wakes_up_fenced() {
    let mut run = Run::story(2, 1);
    let first = run.start("first", false);
    run.until_equal();
    run.sink.plan(script(&[(Site::Commit, Outcome::Hold)]));
    put(&run, "/k", "older");
    for _ in 0..30 {
        run.machine.step(&mut run.rng);
    }
    run.freeze_one(first, true);
    let second = run.start("second", false);
    let stands_by = |run: &mut Run| run.status(second).is_some_and(|status| status.state == State::Standby);
    run.until("the second one stands by", stands_by);
    run.until("it takes over", |run| run.status(second).is_some_and(|status| status.consistent));
    put(&run, "/k", "newer");
    run.until_equal();
    run.sink.lift();
    run.freeze_one(first, false);
    run.until("the first one has stopped", |run| run.status(first).is_none());
    assert!(run.status(second).is_some());
    run.quiet().unwrap();
}

/// Two pods are started by mistake: one works, the other waits, and they do not fence each other for ever.
#[test]
fn of_two_processes_one_stands_by_until_the_other_dies() {
    let mut run = Run::story(1, 1);
    let first = run.start("first", false);
    run.until_equal();
    let second = run.start("second", false);
    let begun = run.now();
    run.until("a minute has passed", |run| run.now() > begun + Duration::from_secs(60));
    assert_eq!(run.status(second).map(|status| status.state), Some(State::Standby));
    assert!(run.status(first).is_some_and(|status| status.consistent));
    run.kill(first);
    let died = run.now();
    run.until("the second one works", |run| run.status(second).is_some_and(|status| status.consistent));
    assert!(run.now() < died + Duration::from_secs(15));
    put(&run, "/k", "v");
    run.quiet().unwrap();
}

/// A database without changes to the replicated tables: nothing but keepalives, and the source must still be released.
#[test]
fn an_idle_source_is_released_and_not_before_it_is_written() {
    let mut run = Run::story(1, 1);
    run.start("first", false);
    run.until_equal();
    for _ in 0..5 {
        run.world.transact(&[]);
    }
    let newest = run.world.newest();
    assert!(newest.iter().all(|(_, position)| *position != Position::Start));
    run.until("the keepalives are released", |run| run.world.released().is_some_and(|at| at.covers(&newest)));
    assert!(run.oracle.frontier().covers(&newest));
}
