//! Signs of life of a lane that cannot commit for a while.
//!
//! A lane's record moves with its commits. While a large source transaction is staged, or one commit takes long, it stands
//! still although its owner is at work, and another process would take the stream over. So whoever waits for the sink
//! waits *through* a [`Beat`]. Invariants: a beat comes only when the record has stood still for longer than it does in a
//! lane that is idle; it is driven by the lane's own thread, so that a lane which hangs is not alive; what comes of it
//! decides nothing.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::clock::Clock;
use crate::model::StreamId;
use crate::sink::Sink;
use crate::source::Fut;

/// LIMIT: half a second more than an idle lane takes from commit to commit, so that ordinary work needs no beats; four of
/// them are missed before a claim counts as abandoned. One that is not answered in this time is given up, and the next
/// one begins.
pub const INTERVAL: Duration = Duration::from_millis(2_500);

/// The beats of one lane under one epoch.
pub struct Beat {
    sink: Arc<dyn Sink>,
    stream: StreamId,
    lane: u16,
    epoch: u64,
    clock: Arc<dyn Clock>,
    /// When the record moved last, or was last asked to.
    moved: Duration,
    under_way: Option<Fut<'static, ()>>,
}

impl Beat {
    /// Of a lane that was claimed just now.
    pub fn new(sink: Arc<dyn Sink>, stream: StreamId, lane: u16, epoch: u64, clock: Arc<dyn Clock>) -> Self {
        let moved = clock.now();
        Self { sink, stream, lane, epoch, clock, moved, under_way: None }
    }

    /// A commit has landed.
    pub fn landed(&mut self) {
        self.moved = self.clock.now();
    }

    /// When the next beat is due, if nothing lands before.
    pub fn due(&self) -> Duration {
        self.moved + INTERVAL
    }

    /// Waits for something, and beats meanwhile.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.next() => {}
            }
        }
    }

    /// Beats if it is time; waits no longer than the interval.
    pub async fn catch_up(&mut self) {
        if self.under_way.is_some() || self.due() <= self.clock.now() {
            self.next().await;
        }
    }

    /// Waits until a beat is due and answered. Dropping it loses nothing: what is under way is gone on with.
    async fn next(&mut self) {
        if self.under_way.is_none() {
            self.clock.sleep(self.due().saturating_sub(self.clock.now())).await;
            self.moved = self.clock.now();
            let (sink, stream, lane, epoch) = (Arc::clone(&self.sink), self.stream.clone(), self.lane, self.epoch);
            self.under_way = Some(Box::pin(async move { sink.beat(&stream, lane, epoch).await }));
        }
        let patience = self.clock.sleep(self.due().saturating_sub(self.clock.now()));
        let Some(under_way) = &mut self.under_way else { return };
        tokio::select! {
            biased;
            answer = under_way => if let Err(error) = answer {
                tracing::debug!(lane = self.lane, %error, "a sign of life did not get through");
            },
            () = patience => tracing::debug!(lane = self.lane, "a sign of life is not answered"),
        }
        self.under_way = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::lane::{Action, Lane};
    use crate::engine::route::{Share, Work};
    use crate::kinds::memory;
    use crate::model::{Batch, LaneRecord, PartitionId, Position, Steps};
    use crate::sink::Limits;

    #[test]
    fn an_idle_lane_commits_before_a_beat_is_due_whether_or_not_it_holds_positions() {
        let limits = Limits { changes: 10, bytes: 1 << 20, stage: true, in_flight: 4 };
        let bridge = Arc::from(memory::bridge());
        let mut lane = Lane::new(limits, bridge, &LaneRecord::default(), Duration::ZERO);
        let (mut moved, mut seq) = (Duration::ZERO, 0_u8);
        for tick in 1..10_000_u32 {
            let now = Duration::from_millis(10) * tick;
            // First nothing, then positions late in the time between two commits.
            if tick > 1_000 && tick % 293 == 0 {
                let mut batch = Batch::unpooled();
                let base = if seq == 0 { Position::Start } else { Position::at([seq]) };
                batch.begin(&PartitionId::new("p"), base, Steps::Ordinal);
                seq += 1;
                batch.mark(Position::at([seq]));
                lane.push(Work::Share(Share { seq: u64::from(seq), batch: Arc::new(batch), picks: None }));
            }
            if matches!(lane.next(now, 0).unwrap(), Action::Commit(_)) {
                lane.landed(now);
                moved = now;
            }
            assert!(now < moved + INTERVAL, "nothing moved from {moved:?} to {now:?}");
        }
    }
}
