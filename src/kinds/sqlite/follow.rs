//! Following the log: looks at the file until something was committed, reads what is new, and judges what it sees.
//!
//! Between looks nothing is locked and nothing is open. A read is one short transaction; a batch that stops before the end
//! of the log has no mark, so all that one stretch of commits did stays one unit for the sink (rows are read newer than the
//! event that names them, so a state in the middle would be one that the source never had).
//!
//! Blocking; runs on the tail's thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::events::{self, Page};
use super::log::{Look, Place, Seen, Verdict, judge};
use super::options::Options;
use super::reader::{Reader, View};
use super::source::{Shared, partition};
use super::watch::{FileId, Signature};
use super::writer::now;
use crate::error::{Error, Fault, Result};
use crate::model::{Batch, PartitionId, Position, Steps, Table};

/// How often an idle log's end is written down again, so that a restart finds it fresh.
const REMIND_EVERY: Duration = Duration::from_secs(60);
/// How long a file that cannot be read is tried again before somebody is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// A reader of the log waits this long for a lock within SQLite; after that the loop looks whether it should stop.
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// What the tail's thread drives.
pub(super) trait Feed: Send {
    /// Fills a batch with what comes next; waits for it. `None` when `stop` was raised.
    fn next(&mut self, batch: Batch, stop: &AtomicBool) -> Result<Option<Batch>>;
}

/// The state of one tail.
pub(super) struct Follower {
    reader: Reader,
    shared: Shared,
    table: Arc<Table>,
    fill: usize,
    every: Duration,
    file: FileId,
    generation: u64,
    /// The last event that was read.
    cursor: Place,
    /// The last mark, and how many changes were read behind it.
    boundary: Position,
    behind: u64,
    /// When the cursor was last seen to be the end of the log.
    looked: Option<Instant>,
    /// What the file looked like then.
    signature: Option<Signature>,
    counter: Option<u32>,
    marked: Instant,
    notes: VecDeque<(PartitionId, Position, Position)>,
}

/// What one read transaction gave.
struct Sight {
    verdict: Verdict,
    /// What follows the cursor, if the log goes on.
    page: Option<Page>,
    /// The file's signature, if nothing was committed during the read.
    stable: Option<Signature>,
    counter: u32,
}

impl Follower {
    pub(super) fn new(
        options: &Options,
        shared: Shared,
        file: FileId,
        generation: u64,
        place: Place,
        fill: usize,
    ) -> Self {
        // How long ago the end was seen is known by the wall clock only; a clock that went back makes it unknown.
        let looked = place.seen.and_then(|seen| {
            let ago = u64::try_from(now() - seen.at).ok()?;
            Instant::now().checked_sub(Duration::from_nanos(ago))
        });
        Self {
            reader: Reader::new(&options.file(), LOCK_WAIT.min(options.busy_timeout), false),
            shared,
            table: Arc::default(),
            fill,
            every: options.watch_every,
            file,
            generation,
            cursor: place,
            boundary: Position::at(place.text()),
            behind: 0,
            looked,
            signature: None,
            counter: place.seen.map(|seen| seen.counter),
            marked: Instant::now(),
            notes: VecDeque::new(),
        }
    }

    /// Fails if the log does not prove that nothing was missed since the place.
    pub(super) fn prove(&self, reader: &Reader) -> Result<()> {
        let (_, verdict) = reader.read("look whether the log can be followed", |view| self.judge(view))?;
        if let Verdict::Lost(why) = verdict {
            return Err(self.shared.lose(why));
        }
        let mut known = self.shared.lock();
        known.generation = self.generation;
        known.place = Some((self.cursor, self.looked));
        Ok(())
    }

    fn judge(&self, view: &View<'_>) -> Result<(Look, Verdict)> {
        let elapsed = self.looked.map(|at| at.elapsed().as_nanos().cast_signed());
        let look = events::look(view, &self.cursor, now())?;
        Ok((look, judge(&self.cursor, elapsed, &look)))
    }

    /// One look. True if the batch holds something to hand on.
    fn step(&mut self, batch: &mut Batch) -> Result<bool> {
        let signature = self.reader.look()?;
        if signature.file != self.file {
            return Err(self.shared.lose("the file was replaced by another one while it was followed"));
        }
        if self.signature.as_ref() == Some(&signature) {
            // Not one commit since the end was seen, so it still is the end.
            self.looked = Some(Instant::now());
            self.publish();
            return Ok(self.marked.elapsed() >= REMIND_EVERY && self.remind(batch, signature.counter()));
        }
        let Sight { verdict, page, stable, counter } = self.sight()?;
        if self.counter.is_some_and(|last| counter.wrapping_sub(last).cast_signed() < 0) {
            return Err(self.shared.lose("the file was set back to an older state while it was followed"));
        }
        self.counter = Some(counter);
        match verdict {
            Verdict::Lost(why) => return Err(self.shared.lose(why)),
            Verdict::Emptied if self.behind > 0 => {
                return Err(self.shared.lose("the log was emptied before it was read"));
            }
            Verdict::Emptied => self.begin_generation(counter),
            Verdict::GoesOn => {
                let page = page.ok_or_else(|| Error::bug("follow a SQLite log: a log that goes on was not read"))?;
                return self.take(&page, stable, counter, batch);
            }
        }
        Ok(false)
    }

    fn sight(&self) -> Result<Sight> {
        self.reader.read("follow the log", |view| {
            let (look, verdict) = self.judge(view)?;
            let page = match verdict {
                Verdict::GoesOn => Some(events::page(view, &self.cursor, &look, self.fill)?),
                _ => None,
            };
            let stable = (view.inside == *view.before && view.before.is_settled()).then(|| view.before.clone());
            Ok(Sight { verdict, page, stable, counter: view.inside.counter() })
        })
    }

    /// Takes a page over into the batch. True if there is anything in it.
    fn take(&mut self, page: &Page, stable: Option<Signature>, counter: u32, batch: &mut Batch) -> Result<bool> {
        if page.hole {
            return Err(self.shared.lose("the log has a hole behind the last change that was read"));
        }
        let base = self.boundary.plus(self.behind);
        let news = page.rows.len();
        if news > 0 {
            batch.begin(&partition(self.file, self.generation), base.clone(), Steps::Ordinal);
            let table = batch.table(&self.table);
            page.rows.push_to(batch, table);
            self.cursor = page.upto;
            self.behind += news as u64;
        }
        if page.ended {
            self.looked = Some(Instant::now());
            self.signature = stable;
            if self.behind > 0 {
                if news == 0 {
                    batch.begin(&partition(self.file, self.generation), base, Steps::Ordinal);
                }
                self.mark(batch, counter);
                self.publish();
                return Ok(true);
            }
        }
        self.publish();
        // Commits that bring no event (a trimmed log) must not keep an idle place from being written down.
        let due = page.ended && self.marked.elapsed() >= REMIND_EVERY;
        Ok(news > 0 || due && self.remind(batch, counter))
    }

    /// Marks the cursor as the end of the log, as seen now.
    fn mark(&mut self, batch: &mut Batch, counter: u32) {
        let last = self.cursor.seen.map_or(i128::MIN, |seen| seen.at);
        self.cursor.seen = Some(Seen { at: now().max(last + i128::from(last != i128::MIN)), counter });
        self.boundary = Position::at(self.cursor.text());
        self.behind = 0;
        self.marked = Instant::now();
        batch.mark(self.boundary.clone());
    }

    fn remind(&mut self, batch: &mut Batch, counter: u32) -> bool {
        if self.behind > 0 {
            return false;
        }
        batch.begin(&partition(self.file, self.generation), self.boundary.clone(), Steps::Ordinal);
        self.mark(batch, counter);
        true
    }

    /// The log was emptied by idleness: its partition ends and the next begins. The new one is written down first, so that
    /// a crash between the two finds it.
    fn begin_generation(&mut self, counter: u32) {
        let ended = (partition(self.file, self.generation), self.boundary.clone(), Position::End);
        self.generation += 1;
        self.cursor = Place { seen: Some(Seen { at: now(), counter }), ..Place::BEFORE };
        self.boundary = Position::at(self.cursor.text());
        self.looked = Some(Instant::now());
        self.signature = None;
        self.marked = Instant::now();
        self.notes.push_back((partition(self.file, self.generation), Position::Start, self.boundary.clone()));
        self.notes.push_back(ended);
        self.publish();
    }

    /// Tells the source where the tail stands, for its heads.
    fn publish(&self) {
        let mut known = self.shared.lock();
        known.generation = self.generation;
        known.place = Some((self.cursor, self.looked));
    }
}

impl Feed for Follower {
    fn next(&mut self, mut batch: Batch, stop: &AtomicBool) -> Result<Option<Batch>> {
        let mut troubled: Option<Instant> = None;
        // ORDERING: Relaxed: nothing else is read on the strength of it, and the next look sees it.
        while !stop.load(Ordering::Relaxed) {
            if let Some((partition, base, upto)) = self.notes.pop_front() {
                batch.begin(&partition, base, Steps::Ordinal);
                batch.mark(upto);
                return Ok(Some(batch));
            }
            match self.step(&mut batch) {
                Ok(true) => return Ok(Some(batch)),
                Ok(false) if self.notes.is_empty() => {
                    troubled = None;
                    thread::sleep(self.every);
                }
                Ok(false) => {}
                Err(error) if error.fault() == Fault::Transient => {
                    // A writer in the middle of its commit, or a file that is just being exchanged.
                    if troubled.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return Err(error);
                    }
                    thread::sleep(Duration::from_millis(2).min(self.every));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
