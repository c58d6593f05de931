//! One source to one sink under one stream name: what a pipeline is made of, and the loop around its attempts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::bridge::Bridge;
use crate::engine::attempt::Attempt;
use crate::engine::clock::Clock;
use crate::engine::heal::Tally;
use crate::engine::once::Copied;
use crate::engine::policy::{self, Reaction};
use crate::engine::report;
use crate::engine::runner::Runner;
use crate::engine::standby::{Standby, Turn};
use crate::engine::status::{Shared, State};
use crate::error::{Error, Fault, Result};
use crate::model::{Owner, Scope, StreamId, StreamRecord};
use crate::sink::Sink;
use crate::source::{Fut, Source};
use crate::store::Store;

/// LIMIT: tries of a copy that nobody watches over, about a minute with their pauses.
const COPY_TRIES: u32 = 15;

/// Where lanes run: on threads, or in a simulation.
pub trait Host: Send + Sync {
    /// Starts a lane; the future ends with it.
    fn start(&self, name: String, runner: Runner) -> Fut<'static, ()>;
}

/// Asks a running pipeline to compare both sides and to write what differs.
pub type RepairRequest = oneshot::Sender<Result<Tally>>;

/// Settings of a pipeline.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Stream name.
    pub stream: StreamId,
    /// Who we are.
    pub owner: Owner,
    /// What belongs to the stream.
    pub scope: Scope,
    /// Bytes that changes on their way may take.
    pub memory: usize,
    /// Ranges read at the same time during a first copy.
    pub parallel: usize,
    /// Go on although the destination holds data that this stream did not write.
    pub force: bool,
    /// With `force`: remove what only the destination has.
    pub prune: bool,
    /// Claim without waiting for the present owner.
    pub takeover: bool,
}

/// Everything a pipeline needs.
pub struct Pipeline {
    /// Settings.
    pub settings: Settings,
    /// Where changes come from.
    pub source: Arc<dyn Source>,
    /// Present state of the source.
    pub source_store: Arc<dyn Store>,
    /// Where changes go to.
    pub sink: Arc<dyn Sink>,
    /// Present state of the sink.
    pub sink_store: Arc<dyn Store>,
    /// What lies between the two kinds.
    pub bridge: Arc<dyn Bridge>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where lanes run.
    pub host: Arc<dyn Host>,
    /// What others may know.
    pub status: Shared,
    /// Becomes true when the pipeline is to drain and stop.
    pub stop: watch::Receiver<bool>,
}

impl Pipeline {
    /// Runs until it is told to stop (`Ok`) or must (`Err`). `repairs` brings requests to compare and repair.
    pub async fn run(&self, repairs: &mut mpsc::Receiver<RepairRequest>) -> Result<()> {
        let result = self.attempts(repairs).await;
        self.status.update(|status| {
            status.state = State::Stopped;
            status.consistent = false;
            status.reason = match &result {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
        });
        match result {
            Err(error) if error.fault() == Fault::Stopped => Ok(()),
            result => result,
        }
    }

    /// Copies everything once, removes what the source does not have, and ends; `None` if it was told to stop before.
    pub async fn run_once(&self) -> Result<Option<Copied>> {
        let mut failures = 0;
        loop {
            let result = match self.my_turn().await {
                Ok(record) => Attempt::run_once(self, record).await,
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(copied) => return Ok(copied),
                Err(error) if error.fault() == Fault::Stopped => return Ok(None),
                Err(error) => error,
            };
            failures += 1;
            match policy::of_attempt(error.fault(), failures) {
                // A copy has no position to lose; one that fails again and again is somebody's to look at.
                Reaction::Stop | Reaction::Heal => return Err(error),
                Reaction::Retry(_) | Reaction::Restart(_) if failures > COPY_TRIES => return Err(error),
                Reaction::Retry(pause) | Reaction::Restart(pause) => {
                    report::attempt_ended(self.settings.stream.as_str(), &error, pause);
                    if self.pause(pause).await.is_err() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn attempts(&self, repairs: &mut mpsc::Receiver<RepairRequest>) -> Result<()> {
        let stream = self.settings.stream.as_str();
        let mut lost = None;
        let mut failures = 0;
        loop {
            let mut made_progress = false;
            let result = match self.my_turn().await {
                Ok(record) => Attempt::run(self, record, &mut lost, repairs, &mut made_progress).await,
                Err(error) => Err(error),
            };
            let Err(error) = result else { return Ok(()) };
            if self.is_stopping() && error.fault() != Fault::Bug {
                // What would only have been tried again is none of the one who stops.
                let passes = matches!(
                    error.fault(),
                    Fault::Transient | Fault::Throttled(_) | Fault::StageLost | Fault::PositionLost
                );
                return Err(if passes { Error::stopped() } else { error });
            }
            failures = if made_progress { 0 } else { failures + 1 };
            match policy::of_attempt(error.fault(), failures) {
                Reaction::Stop => return Err(error),
                Reaction::Heal => {
                    // Not a gap yet: the next attempt finds out under its own claim whether the stream still stands there.
                    report::attempt_ended(stream, &error, policy::pause(failures));
                    self.status.update(|status| {
                        status.consistent = false;
                        status.reason = error.to_string();
                    });
                    // A source that loses every position at once must not be asked in a tight loop.
                    self.pause(policy::pause(failures)).await?;
                }
                Reaction::Retry(pause) | Reaction::Restart(pause) => {
                    report::attempt_ended(stream, &error, pause);
                    self.status.update(|status| status.reason = error.to_string());
                    self.pause(pause).await?;
                }
            }
        }
    }

    /// Waits until the stream is ours to claim; gives the record that was seen.
    async fn my_turn(&self) -> Result<Option<StreamRecord>> {
        let mut standby = Standby::default();
        let mut told = false;
        loop {
            let record = self.sink.inspect(&self.settings.stream).await?;
            let settings = &self.settings;
            self.refuse_if_superseded(record.as_ref())?;
            let turn = standby.look(record.as_ref(), &settings.owner, settings.takeover, self.clock.now());
            if turn == Turn::Claim {
                return Ok(record);
            }
            if !told {
                told = true;
                let owner = record.as_ref().map(|record| record.owner.0.clone()).unwrap_or_default();
                report::standing_by(settings.stream.as_str(), &owner);
                self.status.update(|status| {
                    status.state = State::Standby;
                    status.reason = format!("owned by {owner}");
                });
            }
            self.pause(Duration::from_secs(1)).await?;
        }
    }

    /// An attempt may end for another reason before one of its commits is refused; that is no way around the fence.
    fn refuse_if_superseded(&self, record: Option<&StreamRecord>) -> Result<()> {
        let (Some(record), ours) = (record, self.status.get().epoch) else { return Ok(()) };
        let epoch = record.lanes.iter().map(|lane| lane.epoch).max().unwrap_or(0);
        if ours == 0 || epoch <= ours || record.owner == self.settings.owner {
            return Ok(());
        }
        Err(Error::fenced(format!("go on with stream {}: another process has claimed it", self.settings.stream)))
    }

    /// Whether the pipeline was told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ends when the pipeline is told to stop.
    pub(crate) async fn stopping(&self) {
        let mut stop = self.stop.clone();
        if stop.wait_for(|stop| *stop).await.is_err() {
            // Nobody is left who could ask.
            std::future::pending::<()>().await;
        }
    }

    async fn pause(&self, pause: Duration) -> Result<()> {
        tokio::select! {
            biased;
            () = self.stopping() => Err(Error::stopped()),
            () = self.clock.sleep(pause) => Ok(()),
        }
    }
}
