//! The stream of a PostgreSQL source: takes frames, hands on batches.
//!
//! Invariants: a batch is handed on when it is full or when nothing more is there to read, so no change waits for another
//! one; a batch without changes goes out at most a few times a second unless somebody waits for the place that it names.
//! `next` may be dropped wherever it waits: everything that was begun is kept in `self`. It never talks to the server,
//! which is the receiver's work, except that the catalog is asked about tables.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::assemble::Assembler;
use super::link::{End, Link, Supply};
use super::relations::{Definitions, Relations};
use super::sequences::{Reading, read_on};
use super::spool::{BLOCK, Playback, Spool};
use crate::error::{Error, Result};
use crate::kinds::postgres::wire::frames::{self, Frame};
use crate::kinds::postgres::wire::pgoutput::{self, Message};
use crate::kinds::postgres::wire::{Lsn, pgoutput::table_of};
use crate::model::{Batch, Checkpoint, PartitionId, Position};
use crate::pool::Pool;
use crate::source::{Fut, Tail};

/// LIMIT: batches that only say "nothing happened up to here", when nobody waits for them.
const EMPTY_INTERVAL: Duration = Duration::from_millis(200);
/// LIMIT: patience with the receiver when it says that it is about to hand over.
const HANDOVER: Duration = Duration::from_millis(2);
/// What a change takes beside its bytes, when a batch's size is judged.
const CHANGE_COST: usize = 64;
/// LIMIT: what all spools together hold in memory before they write. Beyond 256 streamed transactions at the same time
/// each holds a little nevertheless.
const SPOOLED_IN_MEMORY: usize = 2 << 20;

/// Where a tail lives and what it needs.
pub(super) struct Setup {
    pub(super) link: Arc<Link>,
    pub(super) partition: PartitionId,
    pub(super) from: Position,
    pub(super) pool: Pool,
    pub(super) definitions: Arc<dyn Definitions>,
    pub(super) with_sequences: bool,
    pub(super) state_dir: PathBuf,
}

/// See the module.
pub(super) struct PostgresTail {
    link: Arc<Link>,
    partition: PartitionId,
    pool: Pool,
    definitions: Arc<dyn Definitions>,
    state_dir: PathBuf,
    relations: Relations,
    assembler: Assembler,
    batch: Option<Batch>,
    frames: Vec<u8>,
    /// How much of `frames` was worked off.
    read: usize,
    /// Open streamed transactions by their top xid, and the one whose chunk we are in.
    spools: HashMap<u32, Spool, foldhash::fast::RandomState>,
    chunk: Option<u32>,
    /// A streamed transaction that has committed is being read back.
    playback: Option<(Playback, Lsn)>,
    end: Option<Error>,
    last_empty: Option<Instant>,
    /// What was read of sequences, and the task that reads.
    sequences: Reading,
    reader: Option<JoinHandle<()>>,
}

/// Why working off frames paused.
enum Pause {
    /// The batch is full, and the change at hand belongs into the next one.
    Full,
    /// The batch ends with a transaction and has enough in it.
    Enough,
    /// There are no more frames.
    Dry,
    /// The message at hand describes a table.
    Description,
    /// This spool should write.
    Spill(u32),
    /// This streamed transaction has committed.
    Commit(u32, Lsn),
}

impl PostgresTail {
    pub(super) fn new(setup: Setup) -> Result<Self> {
        let Setup { link, partition, from, pool, definitions, with_sequences, state_dir } = setup;
        let sequences = Reading::default();
        let reader = with_sequences.then(|| read_on(Arc::clone(&definitions), sequences.clone()));
        Ok(Self {
            link,
            assembler: Assembler::new(partition.clone(), &from)?,
            partition,
            pool,
            definitions,
            state_dir,
            relations: Relations::default(),
            batch: None,
            frames: Vec::new(),
            read: 0,
            spools: HashMap::default(),
            chunk: None,
            playback: None,
            end: None,
            last_empty: None,
            sequences,
            reader,
        })
    }

    async fn advance(&mut self) -> Result<Batch> {
        loop {
            // What came before a failure is handed on before it.
            if let Some(error) = self.end.take() {
                if !self.has_news() {
                    return Err(error);
                }
                self.end = Some(error);
                return Ok(self.hand_on());
            }
            match self.step().await {
                Ok(Some(batch)) => return Ok(batch),
                Ok(None) => {}
                Err(error) => self.end = Some(error),
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Batch>> {
        if self.playback.is_none() && self.read == self.frames.len() {
            return self.supply().await;
        }
        if self.batch.is_none() {
            let mut batch = self.pool.take().await;
            self.assembler.begin(&mut batch);
            self.batch = Some(batch);
        }
        if self.reader.is_some() {
            self.assembler.carry(self.sequences.take());
        }
        let pause = match self.playback {
            Some(_) => self.play()?,
            None => self.work()?,
        };
        match pause {
            Pause::Full | Pause::Enough => return Ok(Some(self.hand_on())),
            Pause::Dry => {
                if let Some((playback, end)) = &mut self.playback {
                    let end = *end;
                    if !playback.refill().await? {
                        self.playback = None;
                        self.close(end)?;
                    }
                }
            }
            Pause::Description => self.describe().await?,
            Pause::Spill(xid) => {
                if let Some(spool) = self.spools.get_mut(&xid) {
                    spool.spill().await?;
                }
            }
            Pause::Commit(xid, end) => {
                if let Some(spool) = self.spools.get_mut(&xid) {
                    self.playback = Some((spool.read_back().await?, end));
                    self.spools.remove(&xid);
                }
            }
        }
        Ok(None)
    }

    /// Gets more frames; gives the batch out when there are none.
    async fn supply(&mut self) -> Result<Option<Batch>> {
        if self.read > 0 {
            self.read = 0;
            self.link.give_back(std::mem::take(&mut self.frames));
        }
        match self.link.take() {
            Supply::Frames(frames) => self.frames = frames,
            Supply::End(End::Failed(error)) => return Err(error),
            Supply::End(End::Oversize { head, size }) => return Err(self.oversize(&head, size)),
            Supply::Nothing if !self.has_news() => {
                // An empty batch is a credit that somebody else may need.
                self.batch = None;
                self.link.supplied().await;
            }
            // The rest of a transaction is on its way: the server sends it as fast as it can.
            Supply::Nothing if self.batch.as_ref().is_some_and(Batch::is_open) => self.link.supplied().await,
            Supply::Nothing if self.batch.as_ref().is_some_and(|batch| !batch.is_empty()) => {
                let coming = self.link.has_more();
                if !coming || tokio::time::timeout(HANDOVER, self.link.supplied()).await.is_err() {
                    return Ok(Some(self.hand_on()));
                }
            }
            Supply::Nothing => {
                let now = Instant::now();
                let due = self.last_empty.map_or(now, |last| last + EMPTY_INTERVAL);
                if due <= now || self.link.is_wanted() {
                    self.last_empty = Some(now);
                    return Ok(Some(self.hand_on()));
                }
                tokio::select! {
                    () = self.link.supplied() => {}
                    () = tokio::time::sleep_until(due) => {}
                }
            }
        }
        Ok(None)
    }

    /// Whether the batch says anything.
    fn has_news(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| !batch.is_empty() || !batch.marks().is_empty())
    }

    fn hand_on(&mut self) -> Batch {
        self.link.reach(self.assembler.place());
        self.batch.take().expect("a batch is handed on after it was filled")
    }

    /// Works off frames until something has to be waited for.
    fn work(&mut self) -> Result<Pause> {
        let frames = std::mem::take(&mut self.frames);
        let paused = self.work_through(&frames);
        self.frames = frames;
        paused
    }

    fn work_through(&mut self, frames: &[u8]) -> Result<Pause> {
        loop {
            let Some((frame, length)) = frames::next(frames.get(self.read..).unwrap_or_default())? else {
                self.read = frames.len();
                return Ok(Pause::Dry);
            };
            let pause = match frame {
                Frame::Data { message, .. } => self.message(message)?,
                Frame::Keepalive { end, .. } => {
                    if let (None, Some(batch)) = (self.chunk, &mut self.batch) {
                        self.assembler.quiet(end, batch);
                    }
                    None
                }
                _ => None,
            };
            if !matches!(pause, Some(Pause::Full | Pause::Description)) {
                self.read += length;
            }
            if let Some(pause) = pause {
                return Ok(pause);
            }
        }
    }

    fn message(&mut self, bytes: &[u8]) -> Result<Option<Pause>> {
        let (xid, message) = pgoutput::parse(bytes, self.chunk.is_some())?;
        if let Some(top) = self.chunk {
            return Ok(self.streamed(top, xid, &message, bytes));
        }
        match message {
            Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } | Message::Truncate(_) => {
                return self.change(&message, bytes.len());
            }
            Message::Begin { at, .. } => self.assembler.open(at)?,
            Message::Commit { end } => {
                self.close(end)?;
                // A batch that ended within a small transaction would be a commit of its own at the sink, and the rest of
                // that transaction another one.
                return Ok(self.has_enough().then_some(Pause::Enough));
            }
            Message::Relation(_) => return Ok(Some(Pause::Description)),
            Message::StreamStart { xid, .. } => {
                self.chunk = Some(xid);
                self.spools.entry(xid).or_insert_with(|| Spool::new(&self.state_dir));
            }
            Message::StreamCommit { xid, end, at } => {
                self.assembler.open(at)?;
                if self.spools.contains_key(&xid) {
                    return Ok(Some(Pause::Commit(xid, end)));
                }
                self.close(end)?;
            }
            Message::StreamAbort { xid, sub } if xid == sub => drop(self.spools.remove(&xid)),
            Message::StreamAbort { xid, sub } => {
                if let Some(spool) = self.spools.get_mut(&xid) {
                    spool.abort(sub);
                }
            }
            Message::TwoPhase => {
                return Err(Error::config(
                    "read the PostgreSQL stream: the slot decodes prepared transactions (two_phase), which driftless does \
                     not ask for: drop the slot, it is made again",
                ));
            }
            Message::StreamStop | Message::Origin | Message::Type { .. } | Message::Logical => {}
        }
        Ok(None)
    }

    /// A message within a chunk of the streamed transaction `top`.
    fn streamed(&mut self, top: u32, xid: u32, message: &Message<'_>, bytes: &[u8]) -> Option<Pause> {
        match message {
            Message::StreamStop => self.chunk = None,
            Message::Logical | Message::Type { .. } | Message::Origin => {}
            _ => {
                let enough = (SPOOLED_IN_MEMORY / self.spools.len().max(1)).clamp(BLOCK / 16, BLOCK);
                let spool = self.spools.entry(top).or_insert_with(|| Spool::new(&self.state_dir));
                spool.push(xid, bytes);
                return (spool.held() >= enough).then_some(Pause::Spill(top));
            }
        }
        None
    }

    #[inline]
    fn change(&mut self, message: &Message<'_>, bytes: usize) -> Result<Option<Pause>> {
        let batch = self.batch.as_mut().expect("a batch was taken before any frame is looked at");
        if !batch.is_empty() && filled(batch) + CHANGE_COST + bytes > self.pool.batch_bytes() {
            return Ok(Some(Pause::Full));
        }
        self.assembler.change(message, &self.relations, batch)?;
        Ok(None)
    }

    /// Whether the batch is more than half full.
    fn has_enough(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| filled(batch) > self.pool.batch_bytes() / 2)
    }

    fn close(&mut self, end: Lsn) -> Result<()> {
        let batch = self.batch.as_mut().expect("a batch was taken before any frame is looked at");
        self.assembler.close(end, batch)
    }

    /// Works off a streamed transaction that has committed.
    fn play(&mut self) -> Result<Pause> {
        let Some((mut playback, end)) = self.playback.take() else { return Ok(Pause::Dry) };
        let paused = self.play_through(&mut playback);
        self.playback = Some((playback, end));
        paused
    }

    fn play_through(&mut self, playback: &mut Playback) -> Result<Pause> {
        while let Some(bytes) = playback.peek() {
            let (_, message) = pgoutput::parse(bytes, true)?;
            let pause = match message {
                Message::Relation(_) => Some(Pause::Description),
                _ => self.change(&message, bytes.len())?,
            };
            match pause {
                None => playback.pass(),
                Some(pause) => return Ok(pause),
            }
        }
        Ok(Pause::Dry)
    }

    /// Takes note of the description at hand and goes on behind it.
    async fn describe(&mut self) -> Result<()> {
        let Self { playback, frames, read, relations, definitions, .. } = self;
        let mut length = 0;
        let message = match playback {
            Some((playback, _)) => playback.peek().map(|bytes| pgoutput::parse(bytes, true)),
            None => match frames::next(frames.get(*read..).unwrap_or_default())? {
                Some((Frame::Data { message, .. }, whole)) => {
                    length = whole;
                    Some(pgoutput::parse(message, false))
                }
                _ => None,
            },
        };
        let Some(Ok((_, Message::Relation(relation)))) = message else {
            return Err(Error::bug("read the PostgreSQL stream: the description of a table is gone"));
        };
        relations.describe(&relation, definitions.as_ref()).await?;
        match playback {
            Some((playback, _)) => playback.pass(),
            None => *read += length,
        }
        Ok(())
    }

    fn oversize(&self, head: &[u8], size: usize) -> Error {
        let table =
            table_of(head, self.chunk.is_some()).map_or_else(|| "a table".to_owned(), |oid| self.relations.name(oid));
        Error::rejected(format!(
            "read a change of {table}: it has {size} bytes, more than a quarter of `memory`: raise `memory` or leave the \
             table out"
        ))
    }
}

impl Tail for PostgresTail {
    fn next(&mut self) -> Fut<'_, Batch> {
        let link = Arc::clone(&self.link);
        Box::pin(async move {
            tokio::select! {
                biased;
                // Also where no credit comes because nothing is taken from us.
                error = link.condemned() => Err(error),
                batch = self.advance() => batch,
            }
        })
    }

    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()> {
        Box::pin(async move {
            if let Some(place) = Lsn::of(upto.get(&self.partition))? {
                self.link.release(place);
            }
            Ok(())
        })
    }
}

impl Drop for PostgresTail {
    fn drop(&mut self) {
        self.link.desert();
        if let Some(reader) = self.reader.take() {
            reader.abort();
        }
    }
}

/// How much of a batch's room is taken.
fn filled(batch: &Batch) -> usize {
    batch.bytes() + CHANGE_COST * batch.len()
}
