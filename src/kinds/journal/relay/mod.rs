//! `journaled(source)`: one reader at a source, a journal behind it, and as many sinks as want to follow.
//!
//! ```text
//!                       ┌─▶ ring ─▶ follower ─▶ the tail of a pipeline that keeps up
//! source's tail ─▶ capture
//!                       └─▶ scribe ─▶ journal ─▶ follower ─▶ … of one that is behind
//! source's store ─▶ snapshot ─┘
//! ```
//!
//! [`Relay::source`] is again a [`Source`], with the positions of the one behind it: a lost journal costs a re-read or a gap,
//! never the stream's identity. Invariants: the source is told to forget only what [`releases`] allows; capturing goes on
//! exactly where the journal ends, or a gap is noted there; a sink that is behind costs the others nothing, because it holds
//! no batch of theirs. What it does not do: decide whether something is tried again. A capture that fails ends every
//! follower with the same fault, and the next tail that is opened begins another one.

mod capture;
mod follower;
mod hub;
mod overflow;
#[cfg(test)]
mod overflow_tests;
mod press;
mod releases;
mod ring;
mod scribe;
mod snapshot;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod tests;
mod trail;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use self::follower::{Follower, Journal};
use self::hub::Hub;
pub use self::overflow::Overflow;
use self::press::Press;
pub use self::releases::Ack;
use self::releases::Releases;
use self::scribe::{Order, Round, Scribe};
pub use self::snapshot::Snapshots;
use self::snapshot::Taker;
use super::{Disk, Keys, Options, Retention, Snapshot, Writer, unbroken};
use crate::error::{Error, Fault, Result};
use crate::model::{Batch, Checkpoint, Micros, PartitionId, Position, Steps};
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};

/// How a source is relayed.
pub struct Wanted {
    /// What the journal is called in metrics.
    pub name: String,
    /// The streams that follow, by name: until each was heard of, a source with `ack: sink` keeps everything.
    pub names: Vec<String>,
    /// When the source may forget a change.
    pub ack: Ack,
    /// Bytes that captured changes on their way may take.
    pub memory: usize,
    /// Opens the place where the journal is; called once, when there is something to write.
    pub disk: Box<dyn Fn() -> Result<Arc<dyn Disk>> + Send + Sync>,
    /// How it is written.
    pub options: Box<dyn Fn() -> Options + Send + Sync>,
    /// What it is read with.
    pub keys: Keys,
    /// How much of the journal is kept.
    pub retention: Retention,
    /// What keeps fresh snapshots in it, if anything does.
    pub snapshots: Option<Snapshots>,
    /// The time, in microseconds since 1970.
    pub now: fn() -> Micros,
}

/// One source, its journal, and who follows.
pub struct Relay {
    source: Arc<dyn Source>,
    wanted: Wanted,
    running: Mutex<Option<Running>>,
    disk: OnceLock<Arc<dyn Disk>>,
}

/// A journal that was opened: where it ends, and the newest snapshot in it with nothing missing behind it.
struct Opened {
    writer: Writer,
    reached: Checkpoint,
    snapshot: Option<Snapshot>,
}

/// A capture that is under way.
struct Running {
    hub: Arc<Hub>,
    capture: JoinHandle<()>,
    snapshots: Option<JoinHandle<()>>,
    written: Receiver<Result<Writer>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.hub.desert();
        self.capture.abort();
        self.snapshots.iter().for_each(JoinHandle::abort);
    }
}

impl Relay {
    /// A relay; reads nothing until a source of it is pinned or followed.
    pub fn new(source: Arc<dyn Source>, wanted: Wanted) -> Arc<Self> {
        Arc::new(Self { source, wanted, running: Mutex::new(None), disk: OnceLock::new() })
    }

    /// The source as one stream sees it.
    pub fn source(self: &Arc<Self>, name: &str) -> Arc<dyn Source> {
        Arc::new(Journaled { relay: Arc::clone(self), name: name.to_owned() })
    }

    /// Captures, for nobody in particular, from where the journal ends or from a new pin: until the capture fails.
    ///
    /// # Errors
    /// Always, in the end: why it failed.
    pub async fn capture(&self) -> Result<Infallible> {
        let hub = self.ensure(None, false).await?;
        let mut news = hub.news();
        loop {
            news.mark_unchanged();
            if let Some(error) = hub.ended() {
                return Err(error);
            }
            news.changed().await.map_err(|_| Error::bug("capture: the hub is gone"))?;
        }
    }

    /// The capture that is under way, if one is.
    async fn current(&self) -> Option<Arc<Hub>> {
        let running = self.running.lock().await;
        running.as_ref().filter(|running| !running.hub.has_ended()).map(|running| Arc::clone(&running.hub))
    }

    /// Ends what is under way, once the journal is durable. Where the disk is full, what is not durable stays at the source,
    /// which was not told to forget it.
    ///
    /// # Errors
    /// What is wrong with the journal.
    pub async fn stop(&self) -> Result<()> {
        let Some(running) = self.running.lock().await.take() else { return Ok(()) };
        match finish(running).await {
            Err(error) if error.fault() == Fault::Transient => {
                tracing::warn!(%error, "stopped before there was room; what is not in the journal is read again");
                Ok(())
            }
            ended => ended,
        }
    }

    /// Whether a capture is under way; clears away one that has ended.
    async fn is_running(&self, running: &mut Option<Running>) -> Result<bool> {
        match running {
            None => Ok(false),
            Some(capture) if !capture.hub.has_ended() => Ok(true),
            Some(_) => {
                if let Some(ended) = running.take() {
                    finish(ended).await?;
                }
                Ok(false)
            }
        }
    }

    /// The journal's folder. It stays ours, lock and all, for as long as the relay lives.
    fn disk(&self) -> Result<Arc<dyn Disk>> {
        if let Some(disk) = self.disk.get() {
            return Ok(Arc::clone(disk));
        }
        // Only called under the lock of `running`, so there is nobody who could be faster.
        let disk = (self.wanted.disk)()?;
        Ok(Arc::clone(self.disk.get_or_init(|| disk)))
    }

    /// Opens the journal; gives where it ends, too, and the newest snapshot in it with nothing missing behind it.
    async fn open(&self) -> Result<Opened> {
        let (disk, options, keys) = (self.disk()?, (self.wanted.options)(), self.wanted.keys.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let (writer, found) = Writer::open(Arc::clone(&disk), options)?;
            let newest = found.snapshots.last().copied();
            let snapshot = newest.filter(|newest| unbroken(&disk, &keys, newest.began).unwrap_or(false));
            Ok((writer, found, snapshot))
        });
        let opened = opened.await.map_err(|_| Error::bug("open the journal: it has panicked"))?;
        let (writer, found, snapshot) = opened?;
        if let Some(cut) = found.cut {
            tracing::warn!(
                segment = cut.segment,
                bytes = cut.bytes,
                "a write to the journal was cut short; what was not whole is gone"
            );
        }
        if let Some(damage) = found.damage {
            tracing::error!(
                damage,
                "the journal is damaged at its end; that is cut off, and read again from the source if it has it"
            );
        }
        Ok(Opened { writer, reached: found.reached, snapshot })
    }

    /// Captures from a place on at which the journal ends.
    async fn begin(&self, writer: Writer, snapshot: Option<Snapshot>, from: &Checkpoint) -> Result<Running> {
        let pool = Pool::for_memory(self.wanted.memory);
        let tail = self.source.tail(from, &pool).await?;
        let names = self.wanted.names.iter().map(String::as_str);
        let releases = Releases::new(self.wanted.ack, names, writer.reached());
        let hub = Hub::new(pool.count() / 2, writer.durable(), &writer.reached(), releases);
        hub.set_snapshot(snapshot);
        let (orders, to_write) = crossbeam_channel::unbounded();
        let (done, written) = crossbeam_channel::bounded(1);
        let failed = |error| Error::transient("start the journal's threads").because(error);
        let scribe = Scribe {
            name: self.wanted.name.clone(),
            hub: Arc::clone(&hub),
            press: Press::start(&writer).map_err(failed)?,
            writer,
            disk: self.disk()?,
            orders: to_write,
            done,
            retention: self.wanted.retention,
            now: self.wanted.now,
            tidied: std::time::Instant::now(),
            told: Vec::new(),
            unseen: 0,
            round: Round::default(),
            under_way: None,
        };
        scribe.start().map_err(failed)?;
        let snapshots = self.taker(&hub, &orders).map(|taker| tokio::spawn(snapshot::run(taker)));
        let capture = tokio::spawn(capture::run(Arc::clone(&self.source), tail, Arc::clone(&hub), orders));
        Ok(Running { hub, capture, snapshots, written })
    }

    /// Who takes snapshots beside a capture.
    fn taker(&self, hub: &Arc<Hub>, orders: &Sender<Order>) -> Option<Taker> {
        let wanted = self.wanted.snapshots.as_ref()?;
        Some(Taker {
            name: self.wanted.name.clone(),
            source: Arc::clone(&self.source),
            store: Arc::clone(&wanted.store),
            every: Micros::try_from(wanted.every.as_micros()).unwrap_or(Micros::MAX),
            hub: Arc::clone(hub),
            orders: orders.clone(),
            now: self.wanted.now,
        })
    }

    /// Makes sure that a capture is under way: from where the journal ends, or else from `from`, or from a new pin.
    async fn ensure(&self, from: Option<&Checkpoint>, again: bool) -> Result<Arc<Hub>> {
        let mut running = self.running.lock().await;
        if self.is_running(&mut running).await?
            && let Some(running) = running.as_ref()
        {
            return Ok(Arc::clone(&running.hub));
        }
        let Opened { mut writer, reached, mut snapshot } = self.open().await?;
        let known = !reached.is_empty();
        if known {
            // A sink is never ahead of its journal, unless that has lost its end; the sink's own place is then the better one.
            let why = match from.is_none_or(|from| reached.covers(from)) {
                true => match self.begin(writer, snapshot, &reached).await {
                    Ok(begun) => return Ok(Arc::clone(&running.insert(begun).hub)),
                    Err(error) if error.fault() == Fault::PositionLost => error.to_string(),
                    Err(error) => return Err(error),
                },
                false => "the journal ends before a sink".to_owned(),
            };
            tracing::error!(why, "a gap in the journal: what was captured before cannot be gone on from");
            writer = self.open().await?.writer;
            let partitions: Vec<PartitionId> = reached.iter().map(|(partition, _)| partition.clone()).collect();
            writer.gap(&partitions, &why, (self.wanted.now)())?;
            // From what lies before it nothing can be restored that lies behind it.
            snapshot = None;
        }
        let from = match from {
            Some(from) => from.clone(),
            None => self.source_pin(again || known).await?,
        };
        let begun = self.begin(self.standing(writer, &from).await?, snapshot, &from).await?;
        Ok(Arc::clone(&running.insert(begun).hub))
    }

    /// Writes down where the partitions stand, so that nobody needs to see a change to know where they begin.
    async fn standing(&self, writer: Writer, from: &Checkpoint) -> Result<Writer> {
        let (from, now) = (from.clone(), (self.wanted.now)());
        let written = tokio::task::spawn_blocking(move || {
            for (partition, position) in from.iter().filter(|(_, position)| **position != Position::End) {
                let mut batch = Batch::unpooled();
                batch.begin(partition, position.clone(), Steps::Ordinal);
                batch.mark(position.clone());
                writer.append(&batch, now)?;
            }
            writer.commit()?;
            Ok(writer)
        });
        written.await.map_err(|_| Error::bug("begin the journal: it has panicked"))?
    }

    async fn source_pin(&self, again: bool) -> Result<Checkpoint> {
        if again { self.source.repin().await } else { self.source.pin().await }
    }

    /// A place of the journal, so that what follows it is cut as everybody gets it; not the source's own head, which lies
    /// somewhere between two transactions of the capture.
    async fn pin(&self, again: bool) -> Result<Checkpoint> {
        let place = self.ensure(None, again).await?.place().await?;
        // When a head that was taken later is visible to a scan, so is the place.
        self.source_pin(again).await?;
        Ok(place)
    }

    async fn tail(&self, name: &str, from: &Checkpoint, pool: &Pool) -> Result<Box<dyn Tail>> {
        let own = from.tail();
        let hub = self.ensure(Some(&own), true).await?;
        let disk = self.disk.get().ok_or_else(|| Error::bug("follow a journal that was not opened"))?;
        let journal = Journal { disk, keys: &self.wanted.keys };
        Ok(Box::new(Follower::new(&hub, name, pool, &journal, &own).await?))
    }

    fn concern(&self) -> Option<String> {
        let paused = match self.running.try_lock() {
            Ok(running) => running.as_ref().and_then(|running| running.hub.concern()),
            Err(_) => None,
        };
        paused.or_else(|| self.source.concern())
    }
}

/// Waits until what was captured is durable and the journal is closed.
async fn finish(running: Running) -> Result<()> {
    let written = running.written.clone();
    // Ends the capture, and with it the scribe's orders.
    drop(running);
    let waited = tokio::task::spawn_blocking(move || written.recv()).await;
    match waited {
        Ok(Ok(result)) => result.map(drop),
        _ => Err(Error::bug("close the journal: its thread has panicked")),
    }
}

/// A relay's source, as one stream sees it.
struct Journaled {
    relay: Arc<Relay>,
    name: String,
}

impl Source for Journaled {
    fn head(&self) -> Fut<'_, Checkpoint> {
        self.relay.source.head()
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(self.relay.pin(false))
    }

    fn repin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(self.relay.pin(true))
    }

    fn keep<'a>(&'a self, from: &'a Checkpoint) -> Fut<'a, ()> {
        Box::pin(async move {
            let hub = self.relay.ensure(Some(from), true).await?;
            hub.sink(&self.name, from);
            Ok(())
        })
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(self.relay.tail(&self.name, from, pool))
    }

    fn concern(&self) -> Option<String> {
        self.relay.concern()
    }
}
