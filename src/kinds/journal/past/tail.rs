//! The stream of a piece of the past: as fast as it is taken, or as fast as it happened.
//!
//! Two waits lie in it. Where the past becomes whole it waits until the sink has it durably, because from there on a change
//! without its row is an error and before it is not. And at its end it waits for ever: whoever runs the pipeline stops it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::stretch::Stretch;
use super::{Shared, Speed, part};
use crate::error::{Error, Result};
use crate::model::{Batch, Checkpoint, Micros};
use crate::pool::Pool;
use crate::source::{Fut, Tail};

/// LIMIT: transactions that happened within so much of each other are given together.
const GRAIN: Duration = Duration::from_millis(5);

/// A piece that is being read.
type Reading = JoinHandle<(Box<Stretch>, Result<Option<Batch>>)>;

/// See the file's documentation.
pub(super) struct PastTail {
    shared: Arc<Shared>,
    pool: Pool,
    stretch: Option<Box<Stretch>>,
    reading: Option<Reading>,
    /// What was read and is still to be given.
    next: Option<Batch>,
    /// How far things were given, and are durable in the sink.
    given: Checkpoint,
    durable: Checkpoint,
    clock: Option<Clock>,
}

/// When the past that goes by began, then and now.
#[derive(Clone, Copy)]
struct Clock {
    then: Micros,
    now: Instant,
    times: f64,
}

impl Clock {
    /// When something that was committed then is due.
    fn due(&self, at: Micros) -> Instant {
        let passed = u64::try_from(at.saturating_sub(self.then)).unwrap_or(0);
        self.now + Duration::from_secs_f64((passed as f64 / 1e6 / self.times).min(1e9))
    }
}

impl PastTail {
    pub(super) fn new(shared: Arc<Shared>, stretch: Stretch, pool: &Pool, from: Checkpoint) -> Self {
        let (pool, stretch) = (pool.clone(), Some(Box::new(stretch)));
        Self { shared, pool, stretch, reading: None, next: None, durable: from.clone(), given: from, clock: None }
    }

    /// Every point where this waits can be left: what was read stays.
    async fn advance(&mut self) -> Result<Batch> {
        // ORDERING: Relaxed, see `head`.
        self.shared.flows.store(true, Ordering::Relaxed);
        loop {
            let whole = &self.shared.span.whole;
            if self.given.covers(whole) && !self.durable.covers(whole) {
                // What becomes durable comes with a call of `release`, and this one is left for it.
                return std::future::pending().await;
            }
            if self.next.is_none() {
                self.read().await?;
            }
            self.pace().await;
            let mut batch = self.pool.take().await;
            let Some(next) = self.next.take() else { continue };
            let (now, later) = self.cut(next);
            self.next = later;
            batch.copy_from(&now);
            self.given.advance(&batch.partition, batch.upto());
            return Ok(batch);
        }
    }

    /// Has a piece read where waiting for a disk holds up nobody.
    async fn read(&mut self) -> Result<()> {
        if self.reading.is_none() {
            let gone = || Error::bug("read the journal: it has ended with an error");
            let mut stretch = self.stretch.take().ok_or_else(gone)?;
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let piece = stretch.next();
                (stretch, piece)
            }));
        }
        let Some(reading) = self.reading.as_mut() else { return Ok(()) };
        let ended = reading.await;
        self.reading = None;
        let (stretch, piece) = ended.map_err(|_| Error::bug("read the journal: the reader has panicked"))?;
        match piece {
            Ok(Some(piece)) => {
                self.stretch = Some(stretch);
                self.next = Some(piece);
                Ok(())
            }
            Ok(None) => {
                self.stretch = Some(stretch);
                std::future::pending().await
            }
            Err(error) => Err(self.shared.note(error)),
        }
    }

    /// Waits until the first transaction of what comes next is due.
    async fn pace(&mut self) {
        let (Speed::Times(times), Some(next)) = (self.shared.speed, &self.next) else { return };
        let Some(at) = time_of(next, 0) else { return };
        let clock = *self.clock.get_or_insert_with(|| Clock { then: at, now: Instant::now(), times });
        let due = clock.due(at);
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
    }

    /// What may be given now, and what is left of it: up to where the past becomes whole, and to what is due.
    fn cut(&self, batch: Batch) -> (Batch, Option<Batch>) {
        let whole = &self.shared.span.whole;
        let mut marks = batch.marks().len();
        if whole.names(&batch.partition) && self.given.get(&batch.partition) < whole.get(&batch.partition) {
            let at = whole.get(&batch.partition);
            marks = marks.min(batch.marks().partition_point(|mark| mark.upto < *at) + 1);
        }
        if let Some(clock) = &self.clock {
            let soon = Instant::now() + GRAIN;
            let is_due = |mark: usize| time_of(&batch, mark).is_none_or(|at| clock.due(at) <= soon);
            marks = (1..marks).find(|mark| !is_due(*mark)).unwrap_or(marks);
        }
        match part::behind(&batch, marks) {
            Some(later) => (part::front(&batch, marks), Some(later)),
            None => (batch, None),
        }
    }
}

/// When the transaction that ends with a mark was committed, or the one that follows the last mark; `None` where nothing
/// happened, or nobody knows.
fn time_of(batch: &Batch, mark: usize) -> Option<Micros> {
    let begin = mark.checked_sub(1).map_or(0, |before| batch.marks()[before].changes);
    let end = batch.marks().get(mark).map_or(batch.len(), |mark| mark.changes);
    (begin..end).map(|index| batch.row(index).at).max().filter(|at| *at != 0)
}

impl Tail for PastTail {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(self.advance())
    }

    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()> {
        self.durable.merge(upto);
        self.shared.passed(&self.durable);
        Box::pin(async { Ok(()) })
    }
}
