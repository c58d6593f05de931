//! One lane: collects shares, cuts them into commits, keeps what is under way. Pure: no clock, no I/O; time comes in.
//!
//! Kept here (numbers as in ARCHITECTURE.md):
//! - Invariant 2: commits are numbered without holes, and one that was not answered stays as it is until it is.
//! - Invariant 4: a commit is a prefix of the lane and carries its own `upto`; after a restart, change by change, what the
//!   lane has passed is dropped.
//!
//! While the sink is busy, what arrives is collected for the next commit, so commits grow by themselves when the sink is
//! the slower side and stay small when it is not. Where a commit is cut is decided in [`super::take`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::bridge::{Bridge, Verdict};
use crate::engine::coalesce::Coalescer;
use crate::engine::route::Work;
use crate::engine::take::Cut;
use crate::error::Result;
use crate::model::{Changes, Checkpoint, Commit, LaneRecord, Micros, Op, PartitionId, Position};
use crate::sink::Limits;

/// LIMIT: how long positions without changes are kept back before they are written. The source may hold that much more
/// history, and sixteen lanes do not write sixteen times for one change.
const HOLD: Duration = Duration::from_secs(1);

/// LIMIT: a claim counts as abandoned after ten seconds in which nothing moved, so an idle lane commits every two.
const REFRESH: Duration = Duration::from_secs(2);

/// LIMIT: how long a commit waits for more when the stream is behind and most of what comes takes the place of something
/// that was collected before: each hot row is then written twice a second at most. Adds so much to a lag that is longer.
const GATHER: Duration = Duration::from_millis(500);

/// A stream is behind when the newest change that was collected is older than this, by the clocks of both machines. A clock
/// that is wrong costs [`GATHER`] of delay while hot rows flood, and nothing else.
const BEHIND: Micros = 1_000_000;

/// LIMIT: who waits for more stops waiting when nothing has come for so long: the tail hands on what it has at once.
const PAUSE: Duration = Duration::from_millis(20);

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
    pub(super) limits: Limits,
    pub(super) bridge: Arc<dyn Bridge>,
    /// What is in commits that were built, landed or not.
    pub(super) reached: Checkpoint,
    number: u64,
    pub(super) queue: VecDeque<Work>,
    /// How many picks of the front share are taken already.
    pub(super) cursor: usize,
    pub(super) coalescer: Coalescer,
    /// Positions that go with the commit that is being collected.
    pub(super) upto: BTreeMap<PartitionId, Position>,
    /// Since when `upto` waits without changes.
    held: Option<Duration>,
    pub(super) flush: bool,
    /// A part of an open source transaction is at the sink.
    pub(super) staged: bool,
    /// What was collected ends within a source transaction.
    pub(super) within: bool,
    /// Where what is being collected must end, once that is known.
    cut: Option<Cut>,
    /// When the first and the last share of what is being collected were taken.
    begun: Option<Duration>,
    fed: Duration,
    /// Changes that were taken for the commit that is being collected, and the newest commit time among them.
    pub(super) taken: usize,
    pub(super) newest: Micros,
    /// Where the last share of a partition ended within a source transaction, so that its next one is known to follow.
    pub(super) open: BTreeMap<PartitionId, Position>,
    pub(super) taken_seq: u64,
    in_flight: VecDeque<InFlight>,
    last_commit: Duration,
    scratch: Vec<u8>,
}

struct InFlight {
    commit: Arc<Commit>,
    seq: u64,
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
            within: false,
            cut: None,
            begun: None,
            fed: now,
            taken: 0,
            newest: 0,
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

    /// Collects what has arrived for the next commit. To be called while the sink is busy, too.
    pub fn collect(&mut self, now: Duration) -> Result<()> {
        if self.cut.is_some() || self.queue.is_empty() {
            return Ok(());
        }
        let before = self.taken_seq;
        let cut = self.take()?;
        self.cut = (cut != Cut::Dry).then_some(cut);
        if self.taken_seq != before {
            self.fed = now;
        }
        if self.begun.is_none() && self.coalescer.len() > 0 {
            self.begun = Some(now);
        }
        Ok(())
    }

    /// Whether a commit, or a piece of one, is complete: nothing more can join it.
    pub fn is_ready(&self) -> bool {
        self.cut.is_some()
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
        self.collect(now)?;
        match self.cut {
            Some(Cut::Stage) => self.stage(wall),
            Some(Cut::Commit) => self.commit(now, wall),
            Some(Cut::Dry) | None if self.coalescer.len() > 0 => match self.patience(wall).filter(|until| now < *until)
            {
                Some(until) => Ok(Action::Wait(until)),
                None if self.within && self.limits.stage => self.stage(wall),
                None => self.commit(now, wall),
            },
            Some(Cut::Dry) | None => self.idle(now, wall),
        }
    }

    /// How long what was collected may wait for more, if at all.
    fn patience(&self, wall: Micros) -> Option<Duration> {
        if self.within {
            // The rest of the transaction is on its way, and with it this may be a whole commit.
            return Some(self.fed + PAUSE);
        }
        let pays = self.taken >= 2 * self.coalescer.len();
        let behind = self.newest > 0 && self.newest.saturating_add(BEHIND) < wall;
        let waits = pays && behind && !self.flush && !self.staged;
        waits.then(|| (self.begun.unwrap_or(self.fed) + GATHER).min(self.fed + PAUSE))
    }

    fn stage(&mut self, wall: Micros) -> Result<Action> {
        let changes = Arc::new(self.changes(wall)?);
        self.staged = true;
        Ok(Action::Stage(changes))
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
        let clean = !self.is_collecting();
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
        assert!(
            !(self.within && self.limits.stage),
            "a commit ends where a source transaction does, or names its place within one"
        );
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
        self.flush = false;
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
        (self.cut, self.begun, self.within) = (None, None, false);
        (self.taken, self.newest) = (0, 0);
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
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
