//! One sink's tail of a captured stream: from memory while it keeps up, from the journal while it is behind.
//!
//! Invariant: batches are given in the order in which they were captured, each exactly once, wherever they come from. What
//! is read from the journal ends at a place that is known as a number of the ring, so nothing is skipped and nothing given
//! twice when it changes over.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use super::hub::Hub;
use super::ring::Slot;
use crate::error::{Error, Fault, Result};
use crate::kinds::journal::reader::Aside;
use crate::kinds::journal::{Alias, Cursor, Disk, Given, Keys, Reader, aliases};
use crate::model::{Batch, Checkpoint};
use crate::pool::Pool;
use crate::source::{Fut, Tail};

/// Where the next batch comes from.
enum Place {
    /// The ring, under this number.
    Memory(u64),
    /// The journal.
    Disk(Box<Behind>),
    /// Neither; set while a piece is being read, and after an error.
    Nowhere,
}

/// A reader, how far it may read, and the number that follows in the ring.
struct Behind {
    reader: Reader,
    through: u64,
    then: u64,
}

/// What a follower needs to know of its relay.
pub(super) struct Journal<'r> {
    pub(super) disk: &'r Arc<dyn Disk>,
    pub(super) keys: &'r Keys,
}

/// A piece that is being read from the journal.
type Reading = JoinHandle<(Box<Behind>, Batch, Result<Given>)>;

/// The way back into the journal, which is being looked for.
type Opening = JoinHandle<Result<Box<Behind>>>;

/// A tail that shares its reader with others.
pub(super) struct Follower {
    hub: Arc<Hub>,
    news: watch::Receiver<u64>,
    name: String,
    pool: Pool,
    disk: Arc<dyn Disk>,
    keys: Keys,
    place: Place,
    reading: Option<Reading>,
    /// Stays where whoever asked is interrupted: begun anew each time, it might never come to an end.
    opening: Option<Opening>,
    /// What was given, or had before.
    given: Checkpoint,
    /// What it had before is counted from there, whatever the journal counts from.
    aliases: Vec<Alias>,
    /// Where it last left the journal, so that it finds its way back without reading much.
    aside: Option<Aside>,
}

impl Follower {
    /// A follower that has everything up to `from`.
    ///
    /// # Errors
    /// PositionLost, when the journal does not reach back to there, or not as far.
    pub(super) async fn new(
        hub: &Arc<Hub>,
        name: &str,
        pool: &Pool,
        journal: &Journal<'_>,
        from: &Checkpoint,
    ) -> Result<Self> {
        let mut follower = Self {
            hub: Arc::clone(hub),
            news: hub.news(),
            name: name.to_owned(),
            pool: pool.clone(),
            disk: Arc::clone(journal.disk),
            keys: journal.keys.clone(),
            place: Place::Nowhere,
            reading: None,
            opening: None,
            given: from.clone(),
            aliases: Vec::new(),
            aside: None,
        };
        let (disk, keys, place, through) =
            (Arc::clone(journal.disk), journal.keys.clone(), from.clone(), hub.durable().1);
        let found = tokio::task::spawn_blocking(move || aliases(&disk, &keys, &place, through)).await;
        let found = found.map_err(|_| Error::bug("look around in the journal: it has panicked"))?;
        follower.aliases = found.map_err(lost)?;
        let behind = opened(follower.fall_back().await)?;
        let cursor = Cursor { name: name.to_owned(), sequence: behind.reader.needs(), moved: 0, outrun: false };
        let disk = Arc::clone(journal.disk);
        let registered = tokio::task::spawn_blocking(move || cursor.write(&*disk)).await;
        registered.map_err(|_| Error::bug("register with the journal: it has panicked"))??;
        follower.place = Place::Disk(behind);
        hub.sink(name, from);
        Ok(follower)
    }

    async fn advance(&mut self) -> Result<Batch> {
        loop {
            if self.reading.is_some() {
                if let Some(batch) = self.read().await? {
                    return Ok(batch);
                }
                continue;
            }
            if let Some(opening) = self.opening.as_mut() {
                let ended = opening.await;
                self.opening = None;
                self.place = Place::Disk(opened(ended)?);
            }
            match std::mem::replace(&mut self.place, Place::Nowhere) {
                Place::Memory(number) => {
                    self.place = Place::Memory(number);
                    if let Some(batch) = self.remember(number).await? {
                        return Ok(batch);
                    }
                }
                Place::Disk(behind) => {
                    // Cancelled while it waits for credit, it must still know where it is.
                    self.place = Place::Disk(behind);
                    let batch = self.pool.take().await;
                    self.start(batch);
                }
                Place::Nowhere => return Err(Error::bug("follow a captured stream: it has ended with an error")),
            }
        }
    }

    /// The batch under this number, once it is there; `None` if the journal has to be asked.
    async fn remember(&mut self, number: u64) -> Result<Option<Batch>> {
        self.news.mark_unchanged();
        match self.hub.get(number)? {
            Slot::Here(batch) => {
                let mut own = self.pool.take().await;
                own.copy_from(&batch);
                self.place = Place::Memory(number + 1);
                self.note(&mut own)?;
                Ok(Some(own))
            }
            Slot::Gone => {
                self.opening = Some(self.fall_back());
                Ok(None)
            }
            Slot::Coming => {
                let gone = || Error::bug("follow a captured stream: its capture is gone");
                self.news.changed().await.map_err(|_| gone())?;
                Ok(None)
            }
        }
    }

    /// Has a piece read where waiting for a disk holds up nobody.
    fn start(&mut self, mut batch: Batch) {
        let Place::Disk(mut behind) = std::mem::replace(&mut self.place, Place::Nowhere) else { return };
        let fill = self.pool.batch_bytes();
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let given = behind.reader.next(&mut batch, fill, behind.through);
            (behind, batch, given)
        }));
    }

    /// What was read; `None` if it was nothing to give.
    async fn read(&mut self) -> Result<Option<Batch>> {
        let Some(reading) = self.reading.as_mut() else { return Ok(None) };
        let ended = reading.await;
        self.reading = None;
        let (behind, mut batch, given) = ended.map_err(|_| Error::bug("read the journal: the reader has panicked"))?;
        match given.map_err(lost)? {
            Given::Run => {
                self.hub.read(behind.reader.reached(), behind.reader.needs());
                self.place = Place::Disk(behind);
                self.note(&mut batch)?;
                Ok(Some(batch))
            }
            // Whether a gap is one for this sink shows where the next run begins.
            Given::Page(_) | Given::Note(_) => {
                self.place = Place::Disk(behind);
                Ok(None)
            }
            Given::End => {
                let (last, through) = self.hub.durable();
                self.place = if through > behind.through {
                    Place::Disk(Box::new(Behind { through, then: last + 1, ..*behind }))
                } else {
                    self.aside = behind.reader.aside().or(self.aside.take());
                    Place::Memory(behind.then)
                };
                Ok(None)
            }
            Given::Torn(cut) => Err(lost(Error::corrupt(format!(
                "read the journal: segment {} breaks off at byte {}, before what was made durable",
                cut.segment, cut.at
            )))),
        }
    }

    /// Proves that a batch joins on to what was given, and notes it.
    fn note(&mut self, batch: &mut Batch) -> Result<()> {
        for (partition, old, new) in &self.aliases {
            if *partition == batch.partition {
                batch.recount(old, new);
            }
        }
        let (partition, given) = (&batch.partition, self.given.get(&batch.partition));
        if batch.base() > given {
            self.place = Place::Nowhere;
            let base = batch.base();
            return Err(Error::position_lost(format!(
                "follow a captured stream from {partition} {given}: it goes on at {base}"
            )));
        }
        let reached = if batch.is_open() { batch.position(batch.len() - 1) } else { batch.upto().clone() };
        self.given.advance(partition, &reached);
        Ok(())
    }
}

impl Follower {
    /// Has a place in the journal looked for, behind what was given.
    fn fall_back(&self) -> Opening {
        let (last, through) = self.hub.durable();
        let (disk, keys, given) = (Arc::clone(&self.disk), self.keys.clone(), self.given.clone());
        let aside = self.aside.clone();
        tokio::task::spawn_blocking(move || {
            let reader = Reader::at_checkpoint_near(disk, keys, &given, aside.as_ref())?;
            Ok(Box::new(Behind { reader, through, then: last + 1 }))
        })
    }
}

fn opened(ended: Result<Result<Box<Behind>>, JoinError>) -> Result<Box<Behind>> {
    ended.map_err(|_| Error::bug("open the journal for reading: it has panicked"))?.map_err(lost)
}

/// What is damaged in the journal is lost for those who are not past it, as if the source had forgotten it: it is said, and
/// healed by difference.
fn lost(error: Error) -> Error {
    if error.fault() != Fault::Corrupt {
        return error;
    }
    tracing::error!(%error, "the journal is damaged; nothing of that is applied, the gap is healed by difference");
    Error::position_lost(error.to_string())
}

impl Tail for Follower {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(self.advance())
    }

    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()> {
        self.hub.sink(&self.name, upto);
        Box::pin(async { Ok(()) })
    }
}
