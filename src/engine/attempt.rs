//! One attempt of a pipeline: claim, plan, pin, copy, follow; ends with a clean stop or an error that says how to go on.
//!
//! Invariant 1 is kept here: *pin before you scan*. The head and the names of the ranges are committed in every lane before
//! the first page is read, so the tail will bring whatever the scan raced with.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::engine::beat::Beat;
use crate::engine::dispatch::Dispatcher;
use crate::engine::foreign;
use crate::engine::frontier::{Done, Frontier};
use crate::engine::inbox::{Inbox, inbox};
use crate::engine::lane::Lane;
use crate::engine::once::{self, Copied};
use crate::engine::patches::Patches;
use crate::engine::pipeline::{Pipeline, RepairRequest};
use crate::engine::plan::{self, Plan};
use crate::engine::report;
use crate::engine::runner::{Runner, Signals};
use crate::engine::status::{Lag, State};
use crate::engine::{follow, load};
use crate::error::{Error, Fault, Result};
use crate::model::{Batch, Checkpoint, Claim, PartitionId, Position, Steps, StreamRecord};
use crate::pool::Pool;
use crate::sink::Writer;
use crate::source::Fut;

/// How often heads are asked for and the status is written.
const TICK: Duration = Duration::from_secs(1);

/// LIMIT: ranges of one walk. Each is a name in every lane's checkpoint until the walk is finished.
const RANGES_MAX: usize = 64;

/// What the parts of an attempt share.
pub(crate) struct Attempt<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) lanes: FuturesUnordered<Fut<'static, ()>>,
    pub(crate) signals: Signals,
    pub(crate) pool: Pool,
    pub(crate) foreign: bool,
    pub(crate) lag: Lag,
    pub(crate) gauges: report::Gauges,
    /// Changes that earlier attempts have committed.
    changes_before: u64,
    next_tick: Duration,
    head: Option<Fut<'a, Checkpoint>>,
}

/// A position that the source refused. A process that was superseded may be refused what it alone still stands at, so this
/// is a gap only if the stream stands there under the next claim too.
#[derive(Debug)]
pub(crate) struct Lost {
    at: Checkpoint,
    why: String,
}

/// Something that happened to an attempt.
pub(crate) enum Event<T> {
    /// What was waited for.
    Came(T),
    /// The frontier may have moved, or time has passed.
    Look,
    /// The pipeline is to stop.
    Stop,
}

impl<'a> Attempt<'a> {
    /// Runs one attempt. `made_progress` becomes true once the tail follows.
    pub(crate) async fn run(
        pipeline: &'a Pipeline,
        record: Option<StreamRecord>,
        lost: &mut Option<Lost>,
        repairs: &mut mpsc::Receiver<RepairRequest>,
        made_progress: &mut bool,
    ) -> Result<()> {
        let foreign = match &record {
            Some(record) => record.foreign,
            None => foreign::holds_data(pipeline).await?,
        };
        let (mut attempt, lanes) = Self::claim(pipeline, record, foreign).await?;
        let signals = attempt.signals.clone();
        let stands = Checkpoint::meet(&lanes).tail();
        let is_lost = lost.take().filter(|lost| lost.at == stands).map(|lost| attempt.gap(&lost)).is_some();
        let result = attempt.go(&lanes, is_lost, repairs, made_progress).await;
        // Lanes that wait to try again must not outlive the attempt: the next one claims the same lanes.
        signals.end();
        attempt.dispatcher.close();
        while attempt.lanes.next().await.is_some() {}
        if let Err(error) = &result
            && error.fault() == Fault::PositionLost
        {
            attempt.dispatcher.advance();
            let at = attempt.dispatcher.frontier().checkpoint().tail();
            *lost = Some(Lost { at, why: error.to_string() });
        }
        result
    }

    /// The stream stands where the source no longer has what follows.
    fn gap(&self, lost: &Lost) {
        report::gap_opened(self.pipeline.settings.stream.as_str(), &lost.why);
        self.pipeline.status.update(|status| {
            status.gaps += 1;
            status.state = State::Gap;
            status.consistent = false;
            status.reason.clone_from(&lost.why);
        });
    }

    async fn go(
        &mut self,
        lanes: &[Checkpoint],
        lost: bool,
        repairs: &mut mpsc::Receiver<RepairRequest>,
        made_progress: &mut bool,
    ) -> Result<()> {
        let pipeline = self.pipeline;
        let mut plan = plan::plan(lanes, &pipeline.settings.scope.extent, lost, self.foreign);
        let first = matches!(plan, Plan::Pin { heal: false, .. } | Plan::Load { .. });
        let settled = plan::settled(plan::newest(lanes, "!snapshot/"));
        self.signals.set_consistent(plan == Plan::Follow && lanes.iter().all(|lane| lane.names(&settled)));
        if matches!(plan, Plan::Pin { generation: 1, .. }) {
            pipeline.source_store.begin().await?;
        }
        let mut tables = pipeline.source_store.tables().await?;
        pipeline.sink.prepare(&tables, first).await?;
        if let Plan::Pin { generation, heal } = plan {
            self.pin(generation, heal, lanes).await?;
            // The pin may have taken in tables that are new.
            tables = pipeline.source_store.tables().await?;
            pipeline.sink.prepare(&tables, first).await?;
            plan = if heal { Plan::Heal { generation } } else { Plan::Load { generation } };
        }
        if let Plan::Load { generation } = plan {
            pipeline.source.keep(&self.dispatcher.frontier().checkpoint().tail()).await?;
            self.state(State::Snapshot, "the first copy is under way");
            if !load::run(self, generation).await? {
                return self.drain().await;
            }
        }
        pipeline.sink.settle(&tables).await?;
        follow::run(self, plan, repairs, made_progress).await
    }

    /// One attempt of a copy without a tail.
    pub(crate) async fn run_once(pipeline: &'a Pipeline, record: Option<StreamRecord>) -> Result<Option<Copied>> {
        let foreign = match &record {
            Some(record) => record.foreign,
            None => foreign::holds_data(pipeline).await?,
        };
        let (mut attempt, lanes) = Self::claim(pipeline, record, foreign).await?;
        let signals = attempt.signals.clone();
        let result = once::run(&mut attempt, &lanes).await;
        signals.end();
        attempt.dispatcher.close();
        while attempt.lanes.next().await.is_some() {}
        result
    }

    /// Claims every lane and starts it.
    async fn claim(
        pipeline: &'a Pipeline,
        record: Option<StreamRecord>,
        foreign: bool,
    ) -> Result<(Attempt<'a>, Vec<Checkpoint>)> {
        let settings = &pipeline.settings;
        let signals = Signals::default();
        let pool = Pool::for_memory(settings.memory);
        let mut claimed = Vec::new();
        for lane in 0..settings.scope.lanes {
            let seen = record.as_ref().map(|r| r.lanes.get(usize::from(lane)).map_or(0, |lane| lane.epoch));
            let (stream, owner, scope) = (settings.stream.clone(), settings.owner.clone(), settings.scope.clone());
            let lanes = record.as_ref().filter(|r| r.owner != settings.owner && !settings.takeover).map(|r| &r.lanes);
            let still = lanes.and_then(|lanes| lanes.get(usize::from(lane))).map(|lane| lane.number);
            let claim = Claim { stream, lane, owner, scope, seen, still, foreign };
            claimed.push(pipeline.sink.claim(&claim).await?);
        }
        let checkpoints: Vec<_> = claimed.iter().map(|(record, _)| record.checkpoint.clone()).collect();
        let epoch = claimed.iter().map(|(record, _)| record.epoch).max().unwrap_or(0);
        report::claimed(settings.stream.as_str(), epoch);
        let before = record.iter().flat_map(|record| &record.lanes).map(|lane| lane.epoch).max();
        pipeline.status.update(|status| {
            // Whoever had the stream in between may have left it in the middle of healing.
            status.consistent &= before == Some(status.epoch);
            status.epoch = epoch;
        });
        let limits = pipeline.sink.limits();
        let running = FuturesUnordered::new();
        let (mut inboxes, mut done) = (Vec::new(), Vec::new());
        for (number, (record, writer)) in claimed.into_iter().enumerate() {
            let number = u16::try_from(number).expect("lanes are counted in 16 bits");
            // LIMIT: room for every batch of the pool, which bounds what can be on its way, and for marks beside them.
            let (feeder, work) = inbox(2 * pool.count() + 64);
            let published = Done::default();
            let lane = Lane::new(limits, Arc::clone(&pipeline.bridge), &record, pipeline.clock.now());
            let runner =
                Self::runner(pipeline, (number, record.epoch), lane, writer, work, published.clone(), &signals);
            running.push(pipeline.host.start(format!("lane-{number}"), runner));
            inboxes.push(feeder);
            done.push(published);
        }
        let frontier = Frontier::new(done, Checkpoint::meet(&checkpoints));
        let attempt = Attempt {
            pipeline,
            dispatcher: Dispatcher::new(inboxes, frontier),
            lanes: running,
            signals,
            pool,
            foreign,
            lag: Lag::default(),
            gauges: report::Gauges::new(settings.stream.as_str()),
            changes_before: pipeline.status.get().changes,
            next_tick: pipeline.clock.now(),
            head: None,
        };
        Ok((attempt, checkpoints))
    }

    fn runner(
        pipeline: &Pipeline,
        (number, epoch): (u16, u64),
        lane: Lane,
        writer: Box<dyn Writer>,
        work: Inbox,
        done: Done,
        signals: &Signals,
    ) -> Runner {
        let patches = Patches::new(
            Arc::clone(&pipeline.source),
            Arc::clone(&pipeline.source_store),
            Arc::clone(&pipeline.sink_store),
        );
        let in_flight = pipeline.sink.limits().in_flight;
        let (clock, sink) = (Arc::clone(&pipeline.clock), Arc::clone(&pipeline.sink));
        let beat = Beat::new(sink, pipeline.settings.stream.clone(), number, epoch, Arc::clone(&clock));
        Runner::new(number, lane, writer, work, in_flight, Some(patches), done, signals.clone(), beat, clock)
    }

    /// Pins a new generation in every lane, and forgets what came before it.
    async fn pin(&mut self, generation: u64, heal: bool, lanes: &[Checkpoint]) -> Result<()> {
        let pipeline = self.pipeline;
        self.state(if heal { State::Gap } else { State::Snapshot }, "pinning the source");
        let pin = match generation {
            1 => pipeline.source.pin().await?,
            _ => pipeline.source.repin().await?,
        };
        let walk = plan::snapshot(generation);
        let mut upto = vec![(walk.clone(), Position::Start)];
        let extent = &pipeline.settings.scope.extent;
        upto.push((plan::scope(extent), Position::End));
        upto.extend(pin.iter().map(|(partition, position)| (partition.clone(), position.clone())));
        let count = pipeline.settings.parallel.clamp(1, RANGES_MAX);
        for range in pipeline.source_store.ranges(count).await? {
            upto.push((plan::range(&walk, &range.name), Position::Start));
        }
        if heal && !cfg!(mutate = "sweep_not_durable") {
            upto.push((plan::sweep(generation), Position::Start));
        }
        let names = lanes.iter().flat_map(|lane| lane.iter().map(|(partition, _)| partition));
        let forget: Vec<PartitionId> = names.filter(|name| **name != plan::loaded()).cloned().collect();
        let seq = self.dispatcher.mark(&forget, &upto)?;
        self.passed(seq).await?;
        report::pinned(pipeline.settings.stream.as_str(), generation, heal, &pin);
        Ok(())
    }

    /// Waits until everything up to this dispatch is durable in every lane.
    pub(crate) async fn passed(&mut self, seq: u64) -> Result<()> {
        loop {
            self.dispatcher.advance();
            if self.dispatcher.frontier().has_passed(seq) {
                return Ok(());
            }
            // A stop is honoured by the caller; what was promised is waited for.
            self.lane_event().await?;
        }
    }

    /// Waits for a lane to get further, or to fail.
    async fn lane_event(&mut self) -> Result<()> {
        tokio::select! {
            biased;
            ended = self.lanes.next() => Err(lane_ended(ended)),
            () = self.signals.progress.notified() => Ok(()),
        }
    }

    /// Waits for `other`, and for everything that an attempt must not miss meanwhile. `other` must be cancel-safe.
    pub(crate) async fn event<T>(&mut self, other: impl Future<Output = Result<T>>) -> Result<Event<T>> {
        let pipeline = self.pipeline;
        let pause = self.next_tick.saturating_sub(pipeline.clock.now());
        let head = async {
            match &mut self.head {
                Some(head) => head.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = self.lanes.next() => Err(lane_ended(ended)),
            () = pipeline.stopping() => Ok(Event::Stop),
            came = other => Ok(Event::Came(came?)),
            head = head => {
                self.head = None;
                self.heard_of(head?);
                Ok(Event::Look)
            }
            () = self.signals.progress.notified() => Ok(Event::Look),
            () = pipeline.clock.sleep(pause) => Ok(Event::Look),
        }
    }

    /// Once a second: asks for a head, and publishes the status.
    pub(crate) fn tick(&mut self) {
        let pipeline = self.pipeline;
        let now = pipeline.clock.now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        if self.head.is_none() {
            self.head = Some(pipeline.source.head());
        }
        self.publish(now);
    }

    /// Writes the status.
    pub(crate) fn publish(&mut self, now: Duration) {
        let frontier = self.dispatcher.frontier();
        let lag = self.lag.lag(now, frontier.checkpoint());
        let (checkpoint, open) = (frontier.checkpoint().clone(), frontier.changes_open());
        let routed = self.dispatcher.routed();
        let changes = self.changes_before + self.signals.committed();
        let status = self.pipeline.status.update(|status| {
            status.changes = changes;
            status.concern = self.pipeline.source.concern();
            status.lag_changes = routed.covers(&status.head).then_some(open);
            status.frontier = checkpoint;
            status.lag = (!status.head.is_empty()).then_some(lag);
            status.clone()
        });
        report::status(&self.gauges, &status);
    }

    fn heard_of(&mut self, head: Checkpoint) {
        self.lag.head(self.pipeline.clock.now(), head.clone());
        self.pipeline.status.update(|status| {
            status.head = head;
            status.heads += 1;
        });
        self.publish(self.pipeline.clock.now());
    }

    /// Says what the pipeline is doing.
    pub(crate) fn state(&self, state: State, reason: &str) {
        self.pipeline.status.update(|status| {
            status.state = state;
            status.consistent &= !matches!(state, State::Snapshot | State::Gap);
            reason.clone_into(&mut status.reason);
        });
    }

    /// Finishes what is in flight and ends the lanes.
    pub(crate) async fn drain(&mut self) -> Result<()> {
        self.dispatcher.close();
        while let Some(ended) = self.lanes.next().await {
            ended?;
        }
        self.dispatcher.advance();
        self.publish(self.pipeline.clock.now());
        Ok(())
    }

    /// An empty batch that begins at a place of a walk.
    pub(crate) async fn page(pool: &Pool, partition: &PartitionId, after: &Position, steps: Steps) -> Batch {
        let mut batch = pool.take().await;
        batch.begin(partition, after.clone(), steps);
        batch
    }
}

/// A lane never ends by itself while it is fed.
fn lane_ended(ended: Option<Result<()>>) -> Error {
    match ended {
        Some(Err(error)) => error,
        Some(Ok(())) | None => Error::bug("run the lanes: one has ended although more was to come"),
    }
}
