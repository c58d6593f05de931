//! A source that is read directly for as long as it can keep what its sink lacks, and through a journal from then on.
//!
//! A source that keeps half of what it may keep is *strained*. Then the direct stream ends with a transient error, and a relay
//! begins where the sink was known to be last, whether or not anybody asks for a stream: the sink may hang. From then on the
//! journal takes everything and the source is released. Reading is direct again when a stream is opened for a sink that has
//! all that the journal holds; what that holds is dropped then.
//!
//! Invariants: the source is never told to forget what neither sink nor journal has; a journal that holds more than the sink
//! is used, whatever process wrote it; direct stream and relay never read at the same time. A sink that had been given
//! places which the journal does not repeat is served all the same, see [`super::super::aliases`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Relay;
use crate::error::{Error, Fault, Result};
use crate::kinds::journal::{Disk, clear, reached};
use crate::model::{Batch, Checkpoint};
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};

/// LIMIT: how often the source is asked whether it can keep more, from memory.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// LIMIT: how often a capture that failed is begun again while nobody asks for a stream.
const AGAIN_EVERY: u32 = 5;

/// How the source is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Direct,
    Journaled,
}

/// Looks at the journal's folder without making it; `None` if it is not there.
pub type Look = Box<dyn Fn() -> Option<Arc<dyn Disk>> + Send + Sync>;

/// One source of one stream, with a journal in reserve.
pub struct Overflow {
    source: Arc<dyn Source>,
    relay: Arc<Relay>,
    name: String,
    look: Look,
    mode: tokio::sync::Mutex<Mode>,
    /// How far the sink is known to be.
    place: Mutex<Option<Checkpoint>>,
    /// The direct stream that was opened last.
    direct: Mutex<Weak<Cell>>,
    watcher: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Overflow {
    /// A source that reads directly, for the stream of this name; `relay` is of the same source.
    pub fn new(relay: Arc<Relay>, name: &str, look: Look) -> Arc<Self> {
        Arc::new(Self {
            source: Arc::clone(&relay.source),
            relay,
            name: name.to_owned(),
            look,
            mode: tokio::sync::Mutex::new(Mode::Direct),
            place: Mutex::default(),
            direct: Mutex::default(),
            watcher: Mutex::default(),
        })
    }

    /// The source as its stream sees it.
    pub fn source(self: &Arc<Self>) -> Arc<dyn Source> {
        Arc::new(Overflowing(Arc::clone(self)))
    }

    /// Ends what is under way, once the journal is durable.
    ///
    /// # Errors
    /// What is wrong with the journal.
    pub async fn stop(&self) -> Result<()> {
        if let Some(watcher) = lock(&self.watcher).take() {
            watcher.abort();
        }
        self.relay.stop().await
    }

    /// Begins to look whether the source is strained, if nobody does yet.
    fn watch(self: &Arc<Self>) {
        let mut watcher = lock(&self.watcher);
        if watcher.is_none() {
            *watcher = Some(tokio::spawn(look_on(Arc::downgrade(self))));
        }
    }

    fn place(&self) -> Option<Checkpoint> {
        lock(&self.place).clone()
    }

    /// The journal that an earlier process left, if it holds anything.
    fn left(&self) -> Result<Option<Arc<dyn Disk>>> {
        let Some(disk) = (self.look)() else { return Ok(None) };
        let names = disk.names().map_err(|error| Error::config("look for a journal").because(error))?;
        Ok(names.iter().any(|name| name.ends_with(".segment")).then_some(disk))
    }

    /// Ends the direct stream, if one is open.
    fn end_direct(&self) {
        if let Some(cell) = lock(&self.direct).upgrade() {
            cell.end();
        }
    }

    /// Decides how to read for a sink that has everything up to `own`.
    async fn decide(&self, mode: &mut Mode, own: &Checkpoint) -> Result<()> {
        *lock(&self.place) = Some(own.clone());
        if *mode == Mode::Direct && self.left()?.is_some() {
            *mode = Mode::Journaled;
        }
        let strained = self.source.strained();
        let goes_on = strained && self.relay.current().await.is_some();
        if *mode == Mode::Journaled && !goes_on && self.has_all(own).await? {
            self.drop_journal().await?;
            *mode = Mode::Direct;
            tracing::info!(stream = self.name, "the sink has all that the journal held: the source is read directly");
        }
        if *mode == Mode::Direct && strained {
            self.take_over(mode);
        }
        Ok(())
    }

    /// Whether a sink has all that the journal holds. A capture that is under way is ended where that seems so.
    async fn has_all(&self, own: &Checkpoint) -> Result<bool> {
        if self.relay.current().await.is_some_and(|hub| !own.covers(&hub.reached())) {
            return Ok(false);
        }
        self.relay.stop().await?;
        let Some(disk) = self.left()? else { return Ok(true) };
        let keys = self.relay.wanted.keys.clone();
        let end = tokio::task::spawn_blocking(move || reached(&disk, &keys)).await;
        match end.map_err(|_| Error::bug("look where the journal ends: it has panicked"))? {
            Ok(end) => Ok(own.covers(&end)),
            // It is cut where it is opened to be written.
            Err(error) if error.fault() == Fault::Corrupt => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn drop_journal(&self) -> Result<()> {
        if self.left()?.is_none() {
            return Ok(());
        }
        let disk = self.relay.disk()?;
        let cleared = tokio::task::spawn_blocking(move || clear(&*disk)).await;
        cleared.map_err(|_| Error::bug("drop the journal: it has panicked"))?
    }

    fn take_over(&self, mode: &mut Mode) {
        *mode = Mode::Journaled;
        tracing::warn!(
            stream = self.name,
            "the source keeps half of what it may keep for us: the journal takes what comes from here on, and the sink \
             goes on from there"
        );
        self.end_direct();
    }

    async fn tail(self: &Arc<Self>, from: &Checkpoint, pool: &Pool) -> Result<Box<dyn Tail>> {
        self.watch();
        let own = from.tail();
        let mut mode = self.mode.lock().await;
        self.end_direct();
        self.decide(&mut mode, &own).await?;
        if *mode == Mode::Direct {
            let tail = self.source.tail(from, pool).await?;
            let cell = Arc::new(Cell { tail: Mutex::new(Some(tail)), over: watch::Sender::new(false) });
            *lock(&self.direct) = Arc::downgrade(&cell);
            return Ok(Box::new(Direct { cell, source: Arc::clone(self) }));
        }
        let hub = self.relay.ensure(Some(&own), true).await?;
        drop(mode);
        // What was on its way when the journal took over may have reached the sink, and is read again; a source that is
        // asked where it is tells that to its stream.
        self.source.head().await?;
        hub.reach(&own).await?;
        self.relay.tail(&self.name, from, pool).await
    }

    async fn keep(self: &Arc<Self>, from: &Checkpoint) -> Result<()> {
        self.watch();
        let own = from.tail();
        let mut mode = self.mode.lock().await;
        self.decide(&mut mode, &own).await?;
        match *mode {
            Mode::Direct => self.source.keep(from).await,
            Mode::Journaled => {
                self.relay.ensure(Some(&own), true).await?.sink(&self.name, &own);
                Ok(())
            }
        }
    }

    /// A stream that begins anew needs nothing of what came before.
    async fn pin(self: &Arc<Self>, again: bool) -> Result<Checkpoint> {
        let mut mode = self.mode.lock().await;
        self.end_direct();
        self.relay.stop().await?;
        self.drop_journal().await?;
        *mode = Mode::Direct;
        let pin = if again { self.source.repin().await? } else { self.source.pin().await? };
        *lock(&self.place) = Some(pin.tail());
        self.watch();
        Ok(pin)
    }

    /// Takes over from a direct stream, and keeps the relay going while nobody asks for a stream. True if it is.
    async fn look(&self) -> Result<()> {
        let mut mode = self.mode.lock().await;
        let Some(place) = self.place() else { return Ok(()) };
        if *mode == Mode::Direct && self.source.strained() {
            self.take_over(&mut mode);
        }
        if *mode == Mode::Journaled && self.relay.current().await.is_none() {
            self.relay.ensure(Some(&place), true).await?.sink(&self.name, &place);
        }
        Ok(())
    }
}

impl Drop for Overflow {
    fn drop(&mut self) {
        if let Some(watcher) = lock(&self.watcher).take() {
            watcher.abort();
        }
    }
}

async fn look_on(source: Weak<Overflow>) {
    let (mut wait, mut told) = (0, String::new());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(source) = source.upgrade() else { return };
        if wait > 0 {
            wait -= 1;
            continue;
        }
        match source.look().await {
            Ok(()) => told.clear(),
            Err(error) => {
                wait = AGAIN_EVERY;
                let text = error.to_string();
                if text != told {
                    tracing::warn!(stream = source.name, %error, "capturing into the journal; tried again every few seconds");
                    told = text;
                }
            }
        }
    }
}

/// A direct stream, which may be taken away from whoever follows it.
struct Cell {
    tail: Mutex<Option<Box<dyn Tail>>>,
    over: watch::Sender<bool>,
}

impl Cell {
    fn end(&self) {
        self.over.send_replace(true);
        // If somebody waits for it right now, he drops it.
        drop(lock(&self.tail).take());
    }

    fn is_over(&self) -> bool {
        *self.over.borrow()
    }
}

/// The stream while it is in use; goes back when that is over.
struct InUse<'c> {
    cell: &'c Cell,
    tail: Option<Box<dyn Tail>>,
}

impl<'c> InUse<'c> {
    fn take(cell: &'c Cell) -> Result<Self> {
        let tail = lock(&cell.tail).take();
        match tail {
            Some(tail) if !cell.is_over() => Ok(Self { cell, tail: Some(tail) }),
            _ => Err(ended()),
        }
    }

    fn tail(&mut self) -> &mut dyn Tail {
        self.tail.as_mut().expect("it is there until this is dropped").as_mut()
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut tail = lock(&self.cell.tail);
        if !self.cell.is_over() {
            *tail = self.tail.take();
        }
    }
}

fn ended() -> Error {
    Error::transient(
        "follow the source directly: it keeps half of what it may keep for us; going on through the journal",
    )
}

/// A direct stream, as it is followed.
struct Direct {
    cell: Arc<Cell>,
    source: Arc<Overflow>,
}

impl Tail for Direct {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(async {
            let mut over = self.cell.over.subscribe();
            let mut used = InUse::take(&self.cell)?;
            tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => Err(ended()),
                batch = used.tail().next() => batch,
            }
        })
    }

    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()> {
        Box::pin(async {
            // What was taken away was taken over from where this was last.
            let Ok(mut used) = InUse::take(&self.cell) else { return Ok(()) };
            *lock(&self.source.place) = Some(upto.tail());
            used.tail().release(upto).await
        })
    }
}

/// A source with a journal in reserve, as its stream sees it.
struct Overflowing(Arc<Overflow>);

impl Source for Overflowing {
    fn head(&self) -> Fut<'_, Checkpoint> {
        self.0.source.head()
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(self.0.pin(false))
    }

    fn repin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(self.0.pin(true))
    }

    fn keep<'a>(&'a self, from: &'a Checkpoint) -> Fut<'a, ()> {
        Box::pin(self.0.keep(from))
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(self.0.tail(from, pool))
    }

    fn concern(&self) -> Option<String> {
        self.0.relay.concern()
    }

    fn strained(&self) -> bool {
        self.0.source.strained()
    }
}
