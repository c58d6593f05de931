//! The shell around one lane: sends what the lane decides, and tells how far it is.
//!
//! A lane runs on a thread of its own ([`run_on_thread`]), so that work on changes and blocking sinks never stand in the
//! way of the runtime that reads the source. The simulation drives the same [`Runner`] step by step instead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, TryRecvError};
use tokio::sync::Notify;

use crate::engine::beat::Beat;
use crate::engine::clock::Clock;
use crate::engine::frontier::Done;
use crate::engine::inbox::Inbox;
use crate::engine::lane::{Action, Lane};
use crate::engine::patches::{Patches, Staged};
use crate::engine::policy::{self, Reaction};
use crate::engine::report;
use crate::engine::route::Work;
use crate::error::{Error, Result};
use crate::model::{Changes, Commit, PartitionId};
use crate::sink::Writer;
use crate::source::Fut;

/// What all lanes of a pipeline share with the one that feeds them.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Woken when a lane got further.
    pub progress: Arc<Notify>,
    /// Set once the sink is consistent: from then on a patch without its row is corruption.
    pub consistent: Arc<AtomicBool>,
    /// Set when a row of the source went into a lane ahead of the tail, in the place of a patch without its row.
    pub ahead: Arc<AtomicBool>,
    /// Changes committed in this attempt.
    pub changes: Arc<AtomicU64>,
    /// Set when the attempt is over: a lane that waits to try again gives up.
    pub over: Arc<AtomicBool>,
}

impl Signals {
    fn is_over(&self) -> bool {
        // ORDERING: Relaxed, a flag that guards no other memory; being late by one look is harmless.
        self.over.load(Ordering::Relaxed)
    }

    /// Ends the attempt for lanes that wait.
    pub fn end(&self) {
        // ORDERING: Relaxed, see `is_over`.
        self.over.store(true, Ordering::Relaxed);
    }

    /// Changes committed in this attempt.
    pub fn committed(&self) -> u64 {
        // ORDERING: Relaxed, a count for people.
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether a row may stand ahead of the tail since [`Signals::clear_ahead`]: only a head that is taken after that says
    /// when the tail has caught up with it.
    pub fn is_ahead(&self) -> bool {
        // ORDERING: Relaxed; the lane sets it before it sends the commit, whose landing is published with Release.
        self.ahead.load(Ordering::Relaxed)
    }

    /// A head is about to be taken.
    pub fn clear_ahead(&self) {
        // ORDERING: Relaxed, see `is_ahead`.
        self.ahead.store(false, Ordering::Relaxed);
    }

    /// Whether the sink is consistent.
    pub fn is_consistent(&self) -> bool {
        // ORDERING: Relaxed, a lane that learns of it late only reads a row of the source that it need not have read.
        self.consistent.load(Ordering::Relaxed)
    }

    /// Says whether the sink is consistent.
    pub fn set_consistent(&self, consistent: bool) {
        // ORDERING: Relaxed, see `is_consistent`.
        self.consistent.store(consistent, Ordering::Relaxed);
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something was done; another turn may find more.
    Worked,
    /// Nothing to do before this time, unless work arrives.
    Idle(Duration),
}

/// A lane with its writer.
pub struct Runner {
    number: u16,
    lane: Lane,
    writer: Box<dyn Writer>,
    inbox: Inbox,
    answers: VecDeque<Fut<'static, ()>>,
    in_flight_max: usize,
    patches: Option<Patches>,
    staged: Staged,
    done: Done,
    signals: Signals,
    beat: Beat,
    clock: Arc<dyn Clock>,
    published: u64,
    /// The source transaction of which a piece landed last, by the boundary before it.
    split: Option<(PartitionId, Vec<u8>)>,
}

impl Runner {
    /// A runner that takes its work from `inbox`.
    #[allow(clippy::too_many_arguments)] // The parts that a lane is made of; only the pipeline puts them together.
    pub fn new(
        number: u16,
        lane: Lane,
        writer: Box<dyn Writer>,
        inbox: Inbox,
        in_flight_max: usize,
        patches: Option<Patches>,
        done: Done,
        signals: Signals,
        beat: Beat,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let answers = VecDeque::new();
        let (published, staged) = (0, Staged::default());
        Self {
            number,
            lane,
            writer,
            inbox,
            answers,
            in_flight_max,
            patches,
            staged,
            done,
            signals,
            beat,
            clock,
            published,
            split: None,
        }
    }

    /// Takes over what has arrived; false when nobody will ever send more.
    pub fn receive(&mut self) -> bool {
        receive(&mut self.lane, &self.inbox)
    }

    /// Does the next thing.
    pub async fn turn(&mut self) -> Result<Turn> {
        if !self.answers.is_empty() {
            // While the sink is busy, only what cannot grow any more is sent behind what is under way.
            self.lane.collect(self.clock.now())?;
            if !self.lane.is_ready() || self.answers.len() >= self.in_flight_max.max(1) {
                self.settle_oldest().await?;
                return Ok(Turn::Worked);
            }
        }
        match self.lane.next(self.clock.now(), self.clock.wall())? {
            Action::Commit(commit) => {
                let commit = self.resolve(commit).await?;
                report::lane_commits(self.number, &commit);
                self.answers.push_back(self.writer.commit(commit));
                Ok(Turn::Worked)
            }
            Action::Stage(changes) => {
                while !self.answers.is_empty() {
                    self.settle_oldest().await?;
                }
                let changes = self.resolve_staged(changes).await?;
                let stage = self.writer.stage(&changes);
                let staged = meanwhile(&mut self.lane, &self.inbox, self.clock.as_ref(), stage);
                self.beat.during(staged).await??;
                Ok(Turn::Worked)
            }
            Action::Wait(_) if !self.answers.is_empty() => {
                self.settle_oldest().await?;
                Ok(Turn::Worked)
            }
            Action::Wait(until) if self.lane.is_staged() => {
                self.beat.catch_up().await;
                Ok(Turn::Idle(until.min(self.beat.due())))
            }
            Action::Wait(until) => {
                if let Some(seq) = self.lane.idle_seq() {
                    self.publish(seq);
                }
                Ok(Turn::Idle(until))
            }
        }
    }

    /// Before the sink is consistent, a patch may meet no row; then the row is read from the source.
    async fn resolve(&mut self, commit: Arc<Commit>) -> Result<Arc<Commit>> {
        let patches = self.patches.as_ref().filter(|_| !self.signals.is_consistent() && Patches::any(&commit.changes));
        let Some(patches) = patches.cloned() else {
            self.staged.clear();
            return Ok(commit);
        };
        while !self.answers.is_empty() {
            self.settle(1).await?;
        }
        let changes = patches.resolve(&commit.changes, &self.staged, &self.signals.ahead);
        let changes = self.beat.during(changes).await?;
        self.staged.clear();
        let (number, forget, upto) = (commit.number, commit.forget.clone(), commit.upto.clone());
        let resolved = Arc::new(Commit { number, changes, forget, upto });
        self.lane.resolved(Arc::clone(&resolved));
        Ok(resolved)
    }

    /// The same for a piece of a large source transaction. Everything before it has landed or is staged.
    async fn resolve_staged(&mut self, changes: Arc<Changes>) -> Result<Arc<Changes>> {
        let Some(patches) = self.patches.as_ref().filter(|_| !self.signals.is_consistent()) else {
            return Ok(changes);
        };
        let resolved = match Patches::any(&changes) {
            true => {
                let resolved = patches.resolve(&changes, &self.staged, &self.signals.ahead);
                Arc::new(self.beat.during(resolved).await?)
            }
            false => changes,
        };
        self.staged.note(&resolved);
        Ok(resolved)
    }

    /// Waits for the oldest answer.
    async fn settle_oldest(&mut self) -> Result<()> {
        self.settle(0).await
    }

    /// Waits for the oldest answer. After a failure that can pass, everything in flight is sent again as it was, but for
    /// the newest `unsent` commits, which were built and never sent.
    async fn settle(&mut self, unsent: usize) -> Result<()> {
        let mut attempt = 0;
        while let Some(answer) = self.answers.pop_front() {
            let answer = meanwhile(&mut self.lane, &self.inbox, self.clock.as_ref(), answer);
            let Err(error) = self.beat.during(answer).await? else {
                self.landed();
                return Ok(());
            };
            let Reaction::Retry(pause) = policy::of_commit(error.fault(), attempt) else { return Err(error) };
            attempt += 1;
            report::commit_is_tried_again(self.number, &error, attempt, pause);
            // What was sent after it goes again too; one that has landed meanwhile answers as if it landed now.
            self.answers.clear();
            if self.signals.is_over() {
                return Err(error);
            }
            self.beat.during(self.clock.sleep(pause)).await;
            if self.signals.is_over() {
                return Err(error);
            }
            let sent = self.lane.in_flight().len() - unsent;
            let again: Vec<_> = self.lane.in_flight().take(sent).map(Arc::clone).collect();
            self.answers.extend(again.into_iter().map(|commit| self.writer.commit(commit)));
        }
        Ok(())
    }

    fn landed(&mut self) {
        let now = self.clock.now();
        self.beat.landed();
        if let Some(commit) = self.lane.oldest() {
            report::lane_committed(self.number, commit);
            for (partition, at) in commit.upto.iter().filter(|(name, at)| at.ordinal() > 0 && !name.is_engine()) {
                let of = (partition.clone(), at.boundary().unwrap_or_default().to_vec());
                // Each of its pieces but the last names a place within it.
                if self.split.as_ref() != Some(&of) {
                    report::transaction_is_split(self.number, partition, at);
                    self.split = Some(of);
                }
            }
            // ORDERING: Relaxed, a count for people.
            self.signals.changes.fetch_add(commit.changes.len() as u64, Ordering::Relaxed);
        }
        let seq = self.lane.landed(now);
        self.publish(seq);
    }

    fn publish(&mut self, seq: u64) {
        if seq > self.published {
            self.published = seq;
            self.done.publish(seq);
            self.signals.progress.notify_one();
        }
    }

    /// Makes everything durable that arrived and is not part of an open source transaction.
    pub async fn drain(&mut self) -> Result<()> {
        self.lane.push(Work::Flush);
        while self.turn().await? == Turn::Worked {}
        Ok(())
    }

    /// Whether the attempt is over, so that what is in flight no longer matters.
    pub fn is_over(&self) -> bool {
        self.signals.is_over()
    }
}

/// Takes over what has arrived; false when nobody will ever send more.
fn receive(lane: &mut Lane, inbox: &Inbox) -> bool {
    loop {
        match inbox.try_take() {
            Ok(work) => lane.push(work),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
}

/// Collects what comes until the sink answers.
async fn meanwhile<T>(lane: &mut Lane, inbox: &Inbox, clock: &dyn Clock, answer: Fut<'_, T>) -> Result<Result<T>> {
    let mut answer = answer;
    loop {
        receive(lane, inbox);
        lane.collect(clock.now())?;
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            () = inbox.rung() => {}
        }
    }
}

/// Runs a lane on the calling thread until nobody feeds it any more, it fails, or the attempt is over.
pub fn run_on_thread(mut runner: Runner, runtime: &tokio::runtime::Handle) -> Result<()> {
    loop {
        let fed = runner.receive();
        if runner.is_over() {
            return Err(Error::stopped());
        }
        if !fed {
            return runtime.block_on(runner.drain());
        }
        let Turn::Idle(until) = runtime.block_on(runner.turn())? else { continue };
        let pause = until.saturating_sub(runner.clock.now()).max(Duration::from_millis(1));
        match runner.inbox.take_within(pause) {
            Ok(work) => runner.lane.push(work),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}
