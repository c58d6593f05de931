//! Keeps a fresh snapshot of the source in the journal, so that the state of a later instant can be made from it.
//!
//! Invariant: pages, and the changes from the beginning of a snapshot up to the head with which it ends, make the state at that
//! head, and no change up to there is a patch that takes the rest of its row from another key: it would have to be filled
//! from a row that the pages may show at another time. The store is looked at only once it shows all that the journal held at
//! the beginning. Where it is frozen, the pages are of one moment, and the head right behind that is the one that counts;
//! only a table that is emptied shows nothing to a view from before. So if something of all this happens too late, or too
//! early, or the tables change, the snapshot is given up and another one begun.
//!
//! Never harms: one page at a time and in memory, no faster than the journal takes it, and a snapshot that fails ends
//! nothing but itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::oneshot;

use super::hub::Hub;
use super::scribe::{Order, Step};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Micros, PartitionId, Position, Steps};
use crate::pool::Pool;
use crate::source::Source;
use crate::store::Store;

/// LIMIT: bytes of a page. Changes that come meanwhile share its fsync, so it is as small as still reads well.
const PAGE_BYTES: usize = 256 << 10;
/// LIMIT: pauses after a snapshot that failed.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// LIMIT: how often in a row one is begun anew because of what changed meanwhile.
const AT_ONCE: u32 = 5;
/// LIMIT: how often it is looked whether one is due; clocks may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What snapshots are taken of.
pub struct Snapshots {
    /// Present state of what the stream follows, as the source has it.
    pub store: Arc<dyn Store>,
    /// How old the newest one may become.
    pub every: Duration,
}

/// Takes them.
pub(super) struct Taker {
    pub(super) name: String,
    pub(super) source: Arc<dyn Source>,
    pub(super) store: Arc<dyn Store>,
    pub(super) every: Micros,
    pub(super) hub: Arc<Hub>,
    pub(super) orders: Sender<Order>,
    pub(super) now: fn() -> Micros,
}

/// What a snapshot has come to.
#[derive(Clone, Copy, Default)]
struct Taken {
    rows: u64,
    bytes: u64,
}

/// How the pages of a snapshot ended.
enum Read {
    /// With this head.
    Whole(Checkpoint),
    /// With something that makes them useless, and will not happen each time.
    Void(&'static str),
}

/// Takes snapshots until the capture ends.
pub(super) async fn run(taker: Taker) {
    tokio::select! {
        biased;
        () = taker.hub.over() => {}
        () = taker.keep() => {}
        () = taker.watch() => {}
    }
}

impl Taker {
    /// Takes one whenever there is none that is young enough.
    async fn keep(&self) {
        // What one took that found no room: another one is not begun before there is as much.
        let (mut failures, mut needs) = (0, 0);
        loop {
            let due = self.due();
            if !due.is_zero() {
                tokio::time::sleep(due.min(LOOK_EVERY)).await;
                continue;
            }
            let mut taken = Taken::default();
            match self.attempt(&mut taken, needs).await {
                Ok(()) => (failures, needs) = (0, taken.bytes),
                Err(error) => {
                    needs = needs.max(taken.bytes);
                    let pause = (PAUSE.0 * 2_u32.saturating_pow(failures)).min(PAUSE.1);
                    failures = (failures + 1).min(16);
                    let source = &self.name;
                    tracing::warn!(source, %error, ?pause, "no snapshot for the journal; tried again after a pause");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Says it once when there is none for two periods.
    async fn watch(&self) {
        let (begun, mut told) = ((self.now)(), false);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let last = self.hub.snapshot().map_or(begun, |snapshot| snapshot.ended_at);
            let stale = (self.now)().saturating_sub(last) > self.every.saturating_mul(2);
            if stale && !told {
                let source = &self.name;
                tracing::warn!(
                    source,
                    "the journal has had no new snapshot of the source for two periods of `snapshot_every`; what happened \
                     since the last one can be restored, and takes longer the older that is"
                );
            }
            told = stale;
        }
    }

    /// How long the newest snapshot is still young enough.
    fn due(&self) -> Duration {
        let Some(newest) = self.hub.snapshot() else { return Duration::ZERO };
        let left = newest.ended_at.saturating_add(self.every).saturating_sub((self.now)());
        // A clock that was set back does not keep it young for ever.
        Duration::from_micros(left.clamp(0, self.every).unsigned_abs())
    }

    async fn attempt(&self, taken: &mut Taken, needs: u64) -> Result<()> {
        let mut why = "";
        for _ in 0..AT_ONCE {
            let begun = Instant::now();
            *taken = Taken::default();
            match self.take(taken, needs).await? {
                Read::Whole(_) => {
                    let (Taken { rows, bytes }, source) = (*taken, &self.name);
                    tracing::info!(source, rows, bytes, took = ?begun.elapsed(), "the journal has a new snapshot of the source");
                    return Ok(());
                }
                Read::Void(what) => why = what,
            }
            tracing::info!(source = self.name, why, "a snapshot for the journal is begun anew");
        }
        Err(Error::transient(format!("take a snapshot: {why}, {AT_ONCE} times in a row")))
    }

    async fn take(&self, taken: &mut Taken, needs: u64) -> Result<Read> {
        let head = self.source.head().await?;
        self.hub.look_out();
        let snapshot = self.ask(Step::Begin(head, needs)).await?;
        let read = self.read(snapshot, taken).await;
        self.hub.look_away();
        match &read {
            Ok(Read::Whole(head)) => self.ask(Step::End(snapshot, head.clone(), true)).await?,
            // It is in the way of nobody if this cannot be written down.
            _ => self.ask(Step::End(snapshot, Checkpoint::default(), false)).await.unwrap_or(snapshot),
        };
        read
    }

    /// Reads everything; gives the head behind it, which the journal has reached.
    async fn read(&self, snapshot: u64, taken: &mut Taken) -> Result<Read> {
        const MOVED: &str = "keys of rows were changed while it began";
        // What the journal held when the snapshot began lies before this head, and so it is to be seen.
        self.source.head().await?;
        self.store.visible().await?;
        let tables = self.store.tables().await?;
        let frozen = self.store.frozen().await?;
        let mut moment = None;
        if frozen.is_some() {
            let head = self.source.head().await?;
            self.hub.reach(&head).await?;
            if self.hub.has_moved() {
                return Ok(Read::Void(MOVED));
            }
            moment = Some(head);
        }
        self.pages(frozen.as_deref().unwrap_or(&*self.store), snapshot, taken).await?;
        // The server may clean up again.
        drop(frozen);
        if self.store.tables().await? != tables {
            return Ok(Read::Void("tables were changed while they were read"));
        }
        let head = self.source.head().await?;
        self.hub.reach(&head).await?;
        Ok(match moment {
            Some(_) if self.hub.has_cleared() => Read::Void("a table was emptied while it was read"),
            Some(moment) => Read::Whole(moment),
            None if self.hub.has_moved() => Read::Void(MOVED),
            None => Read::Whole(head),
        })
    }

    async fn pages(&self, store: &dyn Store, snapshot: u64, taken: &mut Taken) -> Result<()> {
        let pool = Pool::new(1, PAGE_BYTES);
        for range in store.ranges(1).await? {
            let partition = PartitionId::new(format!("!snapshot/{snapshot}/{}", range.name));
            let mut after = Position::Start;
            while after != Position::End {
                let mut batch = pool.take().await;
                batch.begin(&partition, after.clone(), Steps::Key);
                let mut batch = store.scan(&range, &after, batch, PAGE_BYTES).await?;
                // One that has no rows is made, too, when the state is made again.
                batch.table(&range.table);
                after = batch.upto().clone();
                taken.rows += batch.len() as u64;
                taken.bytes += batch.bytes() as u64;
                self.ask(Step::Page(snapshot, batch)).await?;
            }
        }
        Ok(())
    }

    async fn ask(&self, step: Step) -> Result<u64> {
        let gone = || Error::transient("take a snapshot: the journal takes no more");
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Step(step, answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}
