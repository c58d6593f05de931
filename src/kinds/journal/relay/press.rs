//! Takes frames to the disk while the scribe makes the next ones.
//!
//! Invariant: it writes what was taken before it was told to, and nothing that came later, so that the journal's durable end
//! is always the end of a batch that the scribe knows by its number.

use std::io;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::{Error, Result};
use crate::kinds::journal::Writer;

/// LIMIT: what a core packs a second, in bytes. A disk that takes more is not waited for any shorter when frames are packed.
const PACKING: f64 = 400e6;
/// LIMIT: bytes of a group that says how quick the disk is; of fewer it is the fsync that takes the time.
const TELLING: usize = 1 << 20;

/// A thread that waits for disks.
pub(super) struct Press {
    go: Option<Sender<()>>,
    went: Receiver<Result<u64>>,
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Press {
    fn drop(&mut self) {
        self.go = None;
        // What it was doing is done then, and a panic there was told by the missing answer.
        self.thread.take().map(JoinHandle::join).transpose().map_or_else(drop, drop);
    }
}

impl Press {
    /// Starts the thread.
    pub(super) fn start(writer: &Writer) -> io::Result<Self> {
        let (go, told) = bounded::<()>(1);
        let (answer, went) = bounded(1);
        let writer = writer.clone();
        let work = move || {
            while told.recv().is_ok() && answer.send(put(&writer)).is_ok() {}
        };
        let thread = std::thread::Builder::new().name("journal-disk".into()).spawn(work)?;
        Ok(Self { go: Some(go), went, busy: false, thread: Some(thread) })
    }

    /// Has what was taken written.
    pub(super) fn begin(&mut self) {
        assert!(!self.busy, "one group is on its way to the disk at a time");
        self.busy = true;
        // A thread that is gone is noticed by the answer that does not come.
        self.go.iter().for_each(|go| go.send(()).unwrap_or_default());
    }

    /// Whether something is on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Where it says how it went, to be given to [`Press::ended`].
    pub(super) fn went(&self) -> &Receiver<Result<u64>> {
        &self.went
    }

    /// What it said.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub(super) fn ended(&mut self, said: Result<Result<u64>, crossbeam_channel::RecvError>) -> Result<()> {
        self.busy = false;
        said.map_err(|_| Error::bug("write to the journal: the thread at the disk has panicked"))?.map(drop)
    }

    /// Waits until nothing is on its way.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub(super) fn wait(&mut self) -> Result<()> {
        if !self.busy {
            return Ok(());
        }
        let said = self.went.recv();
        self.ended(said)
    }
}

/// Writes what was taken, and notes how quick the disk is.
fn put(writer: &Writer) -> Result<u64> {
    let (bytes, began) = (writer.under_way(), Instant::now());
    let last = writer.put()?;
    if bytes >= TELLING {
        writer.disk_is_quick(bytes as f64 / began.elapsed().as_secs_f64() > PACKING);
    }
    Ok(last)
}
