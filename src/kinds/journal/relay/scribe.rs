//! Writes what was read into the journal, on a thread of its own, because it waits for disks.
//!
//! Everything that waits is written with one fsync. A full disk only makes it wait: what it was given stays with it, the ring
//! drops nothing, the source's credits run out, and so reading pauses. Any other failure of the disk ends it, and with it
//! the capture.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::hub::Hub;
use crate::error::{Fault, Result};
use crate::kinds::journal::Writer;
use crate::model::{Batch, Micros};

/// LIMIT: how often a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// A batch that is to be written, with its number.
pub(super) type Order = (u64, Arc<Batch>);

/// One thread that writes until its orders end or the disk fails.
pub(super) struct Scribe {
    pub(super) hub: Arc<Hub>,
    pub(super) writer: Writer,
    pub(super) orders: Receiver<Order>,
    /// Where the writer goes when the orders have ended, for the next capture.
    pub(super) done: Sender<Result<Writer>>,
    /// How long what was written may wait for its fsync, so that more comes together.
    pub(super) gather: Duration,
    pub(super) now: fn() -> Micros,
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
        // When the oldest batch came that has not been made durable.
        let mut since: Option<Instant> = None;
        let mut last = None;
        loop {
            let order = match since {
                None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => self.orders.recv_timeout(self.gather.saturating_sub(since.elapsed())),
            };
            match order {
                Ok((number, batch)) => {
                    self.append(&batch)?;
                    last = Some(number);
                    since = since.or_else(|| Some(Instant::now()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.commit(last.take())?;
                    since = None;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.commit(last.take())?;
                    return Ok(self.writer);
                }
            }
            if since.is_some_and(|since| since.elapsed() >= self.gather) {
                self.commit(last.take())?;
                since = None;
            }
        }
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

    fn commit(&mut self, last: Option<u64>) -> Result<()> {
        let Some(last) = last else { return Ok(()) };
        self.flush()?;
        self.hub.settle(last, self.writer.durable(), &self.writer.reached());
        Ok(())
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
                    if self.hub.is_closed() {
                        return Err(error);
                    }
                    std::thread::sleep(FULL_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
