//! One lane: takes shares, cuts them into commits, keeps what is under way. Pure: no clock, no I/O; time comes in.
//!
//! Kept here (numbers as in ARCHITECTURE.md):
//! - Invariant 2: commits are numbered without holes, and one that was not answered stays as it is until it is.
//! - Invariant 4: a commit is a prefix of the lane and carries its own `upto`; after a restart, change by change, what the
//!   lane has passed is dropped.
//!
//! A sink with open transactions gets whole source transactions: a group of changes up to a mark is never split over two
//! commits; one that is too large is staged in pieces. Another sink gets groups whole where they fit, and otherwise pieces
//! whose position is refined by an ordinal.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::bridge::{Bridge, Verdict};
use crate::engine::coalesce::{Coalescer, Taken};
use crate::engine::route::{Share, Work};
use crate::error::{Error, Result};
use crate::model::{Changes, Checkpoint, Commit, LaneRecord, Micros, Op, PartitionId, Position};
use crate::sink::Limits;

/// LIMIT: how long positions without changes are kept back before they are written. The source may hold that much more
/// history, and sixteen lanes do not write sixteen times for one change.
const HOLD: Duration = Duration::from_secs(1);

/// LIMIT: a claim counts as abandoned after ten seconds in which nothing moved, so an idle lane commits every two.
const REFRESH: Duration = Duration::from_secs(2);

/// What the lane wants its runner to do.
#[derive(Debug)]
pub enum Action {
    /// Stage this piece of a large source transaction.
    Stage(Arc<Changes>),
    /// Send this commit; it is in flight until [`Lane::landed`].
    Commit(Arc<Commit>),
    /// Nothing to send before this time, unless work arrives.
    Wait(Duration),
}

/// The state of one lane.
pub struct Lane {
    limits: Limits,
    bridge: Arc<dyn Bridge>,
    /// What is in commits that were built, landed or not.
    reached: Checkpoint,
    number: u64,
    queue: VecDeque<Work>,
    /// How many picks of the front share are taken already.
    cursor: usize,
    coalescer: Coalescer,
    /// Positions that go with the commit that is being built.
    upto: BTreeMap<PartitionId, Position>,
    /// Since when `upto` waits without changes.
    held: Option<Duration>,
    flush: bool,
    staged: bool,
    /// Where the last share of a partition ended within a source transaction, so that its next one is known to follow.
    open: BTreeMap<PartitionId, Position>,
    taken_seq: u64,
    in_flight: VecDeque<InFlight>,
    last_commit: Duration,
    scratch: Vec<u8>,
}

struct InFlight {
    commit: Arc<Commit>,
    seq: u64,
}

/// Why taking stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The queue is empty.
    Dry,
    /// A commit must end here.
    Commit,
    /// A piece of an open source transaction must be staged.
    Stage,
}

impl Lane {
    /// A lane that goes on from its record in the sink.
    pub fn new(limits: Limits, bridge: Arc<dyn Bridge>, record: &LaneRecord, now: Duration) -> Self {
        Self {
            limits,
            bridge,
            reached: record.checkpoint.clone(),
            number: record.number,
            queue: VecDeque::new(),
            cursor: 0,
            coalescer: Coalescer::new(),
            upto: BTreeMap::new(),
            held: None,
            flush: false,
            staged: false,
            open: BTreeMap::new(),
            taken_seq: 0,
            in_flight: VecDeque::new(),
            last_commit: now,
            scratch: Vec::new(),
        }
    }

    /// Takes work over; it is done in the order of these calls.
    pub fn push(&mut self, work: Work) {
        self.queue.push_back(work);
    }

    /// The next thing to do. Must not be called while [`Limits::in_flight`] commits are under way.
    pub fn next(&mut self, now: Duration, wall: Micros) -> Result<Action> {
        assert!(self.in_flight.len() < self.limits.in_flight, "the window of unanswered commits is bounded");
        while self.queue.front().is_some_and(|work| matches!(work, Work::Flush)) {
            self.queue.pop_front();
            self.flush = true;
        }
        if let Some(mark) = self.take_mark(now) {
            return Ok(mark);
        }
        match self.take()? {
            Cut::Stage => {
                self.staged = true;
                Ok(Action::Stage(Arc::new(self.changes(wall)?)))
            }
            Cut::Commit => self.commit(now, wall),
            Cut::Dry if self.coalescer.len() > 0 => self.commit(now, wall),
            Cut::Dry => self.idle(now, wall),
        }
    }

    /// The oldest commit under way.
    pub fn oldest(&self) -> Option<&Arc<Commit>> {
        self.in_flight.front().map(|flight| &flight.commit)
    }

    /// All commits under way, in order: after a transient failure they are sent again, exactly as they are.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = &Arc<Commit>> {
        self.in_flight.iter().map(|flight| &flight.commit)
    }

    /// The newest commit was completed from the stores before it was sent; from here on it stays as it is.
    pub fn resolved(&mut self, commit: Arc<Commit>) {
        let newest = self.in_flight.back_mut().expect("only a commit that is under way can be completed");
        assert!(newest.commit.number == commit.number, "a commit keeps its number");
        newest.commit = commit;
    }

    /// The oldest commit under way has landed; gives the sequence number up to which the lane is done.
    pub fn landed(&mut self, now: Duration) -> u64 {
        let flight = self.in_flight.pop_front().expect("only a commit that is under way can land");
        self.last_commit = now;
        flight.seq
    }

    /// The sequence number up to which everything is durable, if nothing is under way or kept back.
    pub fn idle_seq(&self) -> Option<u64> {
        let idle = self.in_flight.is_empty() && self.upto.is_empty() && self.coalescer.len() == 0 && !self.staged;
        idle.then_some(self.taken_seq)
    }

    /// A source transaction is staged and its rest is still to come, so nothing can land before that.
    pub fn is_staged(&self) -> bool {
        self.staged
    }

    /// A mark is a commit of its own: it must not be mixed with changes, because what it forgets is dropped first.
    fn take_mark(&mut self, now: Duration) -> Option<Action> {
        let clean = self.coalescer.len() == 0 && self.upto.is_empty() && !self.staged;
        if !clean || !matches!(self.queue.front(), Some(Work::Mark { .. })) {
            return None;
        }
        let Some(Work::Mark { seq, forget, upto }) = self.queue.pop_front() else { return None };
        self.taken_seq = seq;
        self.reached.retain(|partition| !forget.contains(partition));
        // A walk is resumed where the slowest lane stood; the others may be further.
        let further = |partition: &PartitionId, position: &Position| {
            !self.reached.names(partition) || *position > *self.reached.get(partition)
        };
        let upto: Vec<_> = upto.into_iter().filter(|(partition, position)| further(partition, position)).collect();
        Some(self.send(Changes::default(), forget, upto.into_iter().collect(), now))
    }

    fn idle(&mut self, now: Duration, wall: Micros) -> Result<Action> {
        let flush = std::mem::take(&mut self.flush);
        if self.staged {
            // The rest of an open transaction is still to come.
            return Ok(Action::Wait(now + HOLD));
        }
        if self.upto.is_empty() {
            self.held = None;
            let due = self.last_commit + REFRESH;
            return if due <= now && self.in_flight.is_empty() {
                self.commit(now, wall)
            } else {
                Ok(Action::Wait(due))
            };
        }
        // A commit that is due in any case takes along what is held.
        let due = (*self.held.get_or_insert(now) + HOLD).min(self.last_commit + REFRESH);
        if flush || due <= now { self.commit(now, wall) } else { Ok(Action::Wait(due)) }
    }

    fn commit(&mut self, now: Duration, wall: Micros) -> Result<Action> {
        let changes = self.changes(wall)?;
        let upto = std::mem::take(&mut self.upto);
        Ok(self.send(changes, Vec::new(), upto, now))
    }

    fn send(
        &mut self,
        changes: Changes,
        forget: Vec<PartitionId>,
        upto: BTreeMap<PartitionId, Position>,
        now: Duration,
    ) -> Action {
        self.number += 1;
        self.staged = false;
        self.held = None;
        self.last_commit = now;
        let upto: Checkpoint = upto.into_iter().collect();
        self.reached.merge(&upto);
        let commit = Arc::new(Commit { number: self.number, changes, forget, upto });
        self.in_flight.push_back(InFlight { commit: Arc::clone(&commit), seq: self.taken_seq });
        Action::Commit(commit)
    }

    /// What was collected, in the sink's encoding.
    fn changes(&mut self, wall: Micros) -> Result<Changes> {
        let mut changes = self.coalescer.finish();
        for index in 0..changes.len() {
            let row = changes.row(index);
            if row.op != Op::Put {
                continue;
            }
            self.scratch.clear();
            match self.bridge.translate(row, wall, &mut self.scratch)? {
                Verdict::AsIs => {}
                Verdict::Body => changes.rewrite(index, Op::Put, &self.scratch),
                Verdict::Delete => changes.rewrite(index, Op::Delete, &[]),
            }
        }
        Ok(changes)
    }

    /// Takes the longest prefix of the queue that makes one commit.
    fn take(&mut self) -> Result<Cut> {
        loop {
            match self.queue.front() {
                None => return Ok(Cut::Dry),
                Some(Work::Flush) => {
                    self.queue.pop_front();
                    self.flush = true;
                }
                Some(Work::Mark { .. }) => {
                    self.flush = true;
                    return Ok(if self.is_collecting() { Cut::Commit } else { Cut::Dry });
                }
                Some(Work::Share(share)) => {
                    let share = share.clone();
                    if let Some(cut) = self.take_share(&share)? {
                        return Ok(cut);
                    }
                    self.pass(&share);
                    if self.is_full() || (self.staged && !share.batch.is_open()) {
                        return Ok(Cut::Commit);
                    }
                }
            }
        }
    }

    /// Takes group after group of a share; `None` when all of it is taken and the commit may grow on.
    fn take_share(&mut self, share: &Share) -> Result<Option<Cut>> {
        let batch = &share.batch;
        if self.cursor == 0 {
            self.prove_no_hole(share)?;
        }
        for mark in batch.marks() {
            let end = share.index_of(mark.changes);
            if end < self.cursor {
                continue;
            }
            if let Some(cut) = self.take_group(share, end)? {
                return Ok(Some(cut));
            }
            self.note(&batch.partition, mark.upto.clone());
            // A large transaction that was staged is a commit of its own.
            if (self.staged || self.is_full()) && self.cursor < share.len() {
                return Ok(Some(Cut::Commit));
            }
        }
        if self.cursor < share.len() { self.take_open(share) } else { Ok(None) }
    }

    /// Takes changes up to the pick `end`, all of which belong to one source transaction.
    fn take_group(&mut self, share: &Share, end: usize) -> Result<Option<Cut>> {
        if !self.limits.stage && self.coalescer.len() > 0 {
            let changes = end - self.cursor;
            let bytes: usize = (self.cursor..end).map(|pick| share.bytes(pick)).sum();
            let fits = self.coalescer.len() + changes <= self.limits.changes
                && self.coalescer.bytes() + bytes <= self.limits.bytes;
            if !fits && self.cursor == share.group_start(end) {
                return Ok(Some(Cut::Commit));
            }
        }
        self.take_changes(share, end)
    }

    /// Takes what follows the last mark: a part of a source transaction that is still open.
    fn take_open(&mut self, share: &Share) -> Result<Option<Cut>> {
        if !self.limits.stage {
            let cut = self.take_changes(share, share.len())?;
            if cut.is_none() && !cfg!(mutate = "piece_without_position") {
                // What belongs to other lanes is passed too.
                self.note(&share.batch.partition, share.batch.position(share.batch.len() - 1));
            }
            return Ok(cut);
        }
        if self.is_collecting() && !self.staged_alone() {
            return Ok(Some(Cut::Commit));
        }
        if let Some(cut) = self.take_changes(share, share.len())? {
            return Ok(Some(cut));
        }
        self.pass(share);
        Ok(Some(Cut::Stage))
    }

    /// All of the front share is taken.
    fn pass(&mut self, share: &Share) {
        let batch = &share.batch;
        self.queue.pop_front();
        self.cursor = 0;
        self.taken_seq = share.seq;
        if batch.is_open() {
            self.open.insert(batch.partition.clone(), batch.position(batch.len() - 1));
        } else if !self.open.is_empty() {
            self.open.remove(&batch.partition);
        }
    }

    fn take_changes(&mut self, share: &Share, end: usize) -> Result<Option<Cut>> {
        let batch = &share.batch;
        let reached = self.reached.get(&batch.partition);
        let again = (reached > batch.base() && !batch.partition.is_unrecorded()).then(|| reached.clone());
        let mut held = None;
        while self.cursor < end {
            let at = share.change(self.cursor);
            let row = batch.row(at);
            let passed = again.as_ref().is_some_and(|reached| batch.position(at) <= *reached);
            if !passed && self.bridge.takes(row) {
                if !self.limits.stage && !self.fits(row.key.len() + row.body.len()) {
                    self.note_piece(share);
                    return Ok(Some(Cut::Commit));
                }
                let held = *held.get_or_insert_with(|| self.coalescer.hold(batch));
                if self.coalescer.add(batch, held, at, self.bridge.as_ref())? == Taken::NotHere {
                    return self.split_before(share);
                }
            }
            self.cursor += 1;
        }
        Ok(None)
    }

    /// A change that needs what stands before it to be in the sink first.
    fn split_before(&mut self, share: &Share) -> Result<Option<Cut>> {
        if self.coalescer.len() == 0 {
            return Err(Error::corrupt(format!(
                "collect changes of {}: a partial update follows the removal of its own row",
                share.batch.partition
            )));
        }
        if self.limits.stage {
            return Ok(Some(Cut::Stage));
        }
        self.note_piece(share);
        Ok(Some(Cut::Commit))
    }

    /// Notes the place within a source transaction that a piece of it ends at.
    fn note_piece(&mut self, share: &Share) {
        let taken = self.cursor.checked_sub(1).map(|pick| share.change(pick));
        if let Some(taken) = taken.filter(|_| !cfg!(mutate = "piece_without_position")) {
            self.note(&share.batch.partition, share.batch.position(taken));
        }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.coalescer.len() == 0
            || (self.coalescer.len() < self.limits.changes && self.coalescer.bytes() + bytes <= self.limits.bytes)
    }

    fn is_full(&self) -> bool {
        self.coalescer.len() >= self.limits.changes || self.coalescer.bytes() >= self.limits.bytes
    }

    fn is_collecting(&self) -> bool {
        self.coalescer.len() > 0 || !self.upto.is_empty() || self.staged
    }

    fn staged_alone(&self) -> bool {
        self.staged && self.coalescer.len() == 0 && self.upto.is_empty()
    }

    fn note(&mut self, partition: &PartitionId, position: Position) {
        if !partition.is_unrecorded() && position > *self.reached.get(partition) {
            let noted = self.upto.entry(partition.clone()).or_default();
            if position > *noted {
                *noted = position;
            }
        }
    }

    /// A share must begin where the lane stands or before; a hole would be a loss.
    fn prove_no_hole(&self, share: &Share) -> Result<()> {
        let batch = &share.batch;
        let reached = self.upto.get(&batch.partition).unwrap_or_else(|| self.reached.get(&batch.partition));
        let follows = |open: &Position| batch.base() <= open;
        let passed = batch.base() <= reached || self.open.get(&batch.partition).is_some_and(follows);
        if batch.partition.is_unrecorded() || passed {
            return Ok(());
        }
        Err(Error::bug(format!(
            "take changes of {} from {}: the lane stands at {reached}, and what lies between is missing",
            batch.partition,
            batch.base()
        )))
    }
}

impl Share {
    /// Number of changes in this share.
    fn len(&self) -> usize {
        self.picks.as_ref().map_or(self.batch.len(), |picks| picks.len())
    }

    /// The batch's index of a change of this share.
    fn change(&self, pick: usize) -> usize {
        self.picks.as_ref().map_or(pick, |picks| picks[pick] as usize)
    }

    /// How many changes of this share lie among the batch's first `changes`.
    fn index_of(&self, changes: usize) -> usize {
        self.picks.as_ref().map_or(changes, |picks| picks.partition_point(|&pick| (pick as usize) < changes))
    }

    /// Where in this share the group begins that ends at `end`.
    fn group_start(&self, end: usize) -> usize {
        let marks = self.batch.marks().iter().rev().map(|mark| self.index_of(mark.changes));
        marks.into_iter().find(|&start| start < end).unwrap_or(0)
    }

    fn bytes(&self, pick: usize) -> usize {
        let row = self.batch.row(self.change(pick));
        row.key.len() + row.body.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::memory;
    use crate::model::Batch;
    use crate::model::Steps;

    fn lane() -> Lane {
        let limits = Limits { changes: 10, bytes: 1 << 20, stage: true, in_flight: 4 };
        Lane::new(limits, Arc::from(memory::bridge(Vec::new())), &LaneRecord::default(), Duration::ZERO)
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
    fn an_idle_lane_commits_every_two_seconds_whether_or_not_it_holds_positions() {
        let mut lane = lane();
        for (seq, at) in [(1_u8, 2_000), (2, 4_000), (3, 6_000)] {
            let at = Duration::from_millis(at);
            if seq > 1 {
                lane.push(share(u64::from(seq), seq - 2, seq - 1));
                assert!(sent(&mut lane, at - Duration::from_millis(100)).is_none());
            }
            assert!(sent(&mut lane, at).is_some(), "at {at:?}");
            lane.landed(at);
        }
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
}
