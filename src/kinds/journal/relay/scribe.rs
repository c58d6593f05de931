//! Writes what was read into the journal, on a thread of its own, because it waits for disks.
//!
//! Everything that waits is written with one fsync. A full disk only makes it wait: what it was given stays with it, the ring
//! drops nothing, the source's credits run out, and so reading pauses. Any other failure of the disk ends it, and with it
//! the capture.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use metrics::gauge;

use super::hub::Hub;
use crate::error::{Fault, Result};
use crate::kinds::journal::{Cursor, Disk, Held, Holder, Retention, Writer};
use crate::model::{Batch, Checkpoint, Micros};
use crate::telemetry::names;

/// LIMIT: how often a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// LIMIT: how often it is written down what sinks need. Frames of so long are kept for nothing, and read again for nothing
/// after a restart.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// A batch that is to be written, with its number.
pub(super) type Order = (u64, Arc<Batch>);

/// One thread that writes until its orders end or the disk fails.
pub(super) struct Scribe {
    pub(super) name: String,
    pub(super) hub: Arc<Hub>,
    pub(super) writer: Writer,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) orders: Receiver<Order>,
    /// Where the writer goes when the orders have ended, for the next capture.
    pub(super) done: Sender<Result<Writer>>,
    pub(super) retention: Retention,
    pub(super) now: fn() -> Micros,
    /// When it was tidied last, and who needed more then than should be kept.
    pub(super) tidied: Instant,
    pub(super) holders: Vec<Holder>,
}

fn who(held: &Held) -> String {
    match &held.by {
        Holder::Reader(name) => format!("stream {name}"),
        Holder::Snapshot(number) => format!("snapshot {number}"),
    }
}

/// Nothing, where the disk is full.
fn pass_full<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.fault() == Fault::Transient => Ok(None),
        result => result.map(Some),
    }
}

impl Scribe {
    /// Starts the thread.
    pub(super) fn start(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            let done = self.done.clone();
            let hub = Arc::clone(&self.hub);
            let result = self.run();
            if let Err(error) = &result {
                hub.fail(error);
            }
            // Nobody waits for it when the process ends.
            drop(done.send(result));
        })
    }

    fn run(mut self) -> Result<Writer> {
        loop {
            if self.tidied.elapsed() >= TIDY_EVERY {
                self.tidy()?;
            }
            let first = match self.orders.recv_timeout(TIDY_EVERY.saturating_sub(self.tidied.elapsed())) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(self.writer),
            };
            // Whatever has come meanwhile shares one fsync.
            let (mut last, mut closed) = (0, Checkpoint::default());
            for (number, batch) in std::iter::once(first).chain(self.orders.clone().try_iter()) {
                self.append(&batch)?;
                last = number;
                if !batch.marks().is_empty() {
                    closed.advance(&batch.partition, batch.upto());
                }
            }
            self.flush()?;
            self.hub.settle(last, self.writer.durable(), &self.writer.reached(), &closed);
        }
    }

    /// Writes down what each sink still needs, and removes what nobody does. A disk that is full is no reason to stop.
    fn tidy(&mut self) -> Result<()> {
        let now = (self.now)();
        self.tidied = Instant::now();
        for (name, sequence) in self.hub.needs() {
            let known = Cursor::of(&*self.disk, &name)?;
            if known.is_none_or(|known| known.sequence < sequence) {
                pass_full(Cursor { name, sequence, moved: now, outrun: false }.write(&*self.disk))?;
            }
        }
        let Some(done) = pass_full(self.writer.retain(&self.retention, now))? else { return Ok(()) };
        let holders: Vec<Holder> = done.held.iter().map(|held| held.by.clone()).collect();
        // It may stay so for hours, and is said when it begins.
        for held in done.held.iter().filter(|held| !self.holders.contains(&held.by)) {
            tracing::warn!(by = %who(held), bytes = done.bytes, "the journal keeps more than it should, because it is needed");
        }
        self.holders = holders;
        for outrun in &done.outrun {
            tracing::error!(by = %who(outrun), "the journal is at max_bytes and lets go of what is still needed: a gap, healed by difference");
        }
        gauge!(names::JOURNAL_BYTES, "journal" => self.name.clone()).set(done.bytes as f64);
        Ok(())
    }

    /// Takes a batch; when as much waits as may, makes that durable first.
    fn append(&mut self, batch: &Batch) -> Result<()> {
        loop {
            match self.writer.append(batch, (self.now)()) {
                Err(error) if error.fault() == Fault::Transient => self.flush()?,
                result => return result.map(drop),
            }
        }
    }

    /// Makes everything durable, however long a full disk takes.
    fn flush(&mut self) -> Result<()> {
        loop {
            match self.writer.commit() {
                Ok(_) => {
                    self.hub.paused(None);
                    return Ok(());
                }
                Err(error) if error.fault() == Fault::Transient => {
                    self.hub.paused(Some(&error));
                    if self.hub.is_deserted() {
                        return Err(error);
                    }
                    // A sink that gets on meanwhile may be all that it takes to make room.
                    self.tidy()?;
                    std::thread::sleep(FULL_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
