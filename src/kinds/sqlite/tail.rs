//! The tail: hands empty batches to the thread that looks at the file, and gets them back filled.
//!
//! The thread works only while it holds a batch, which is the backpressure: a slow sink means that nobody looks. Whether
//! nothing was missed meanwhile is then proved as after any other pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::mpsc;

use super::follow::Feed;
use super::source::Shared;
use crate::error::{Error, Result};
use crate::model::{Batch, Checkpoint};
use crate::pool::Pool;
use crate::source::{Fut, Tail};

/// The stream of a SQLite backend.
pub struct SqliteTail {
    pool: Pool,
    empty: Sender<Batch>,
    filled: mpsc::Receiver<Result<Batch>>,
    /// The thread holds a batch.
    asked: bool,
    stop: Arc<AtomicBool>,
    shared: Shared,
}

impl SqliteTail {
    pub(super) fn start(feed: Box<dyn Feed>, shared: Shared, pool: &Pool) -> Result<Self> {
        let (empty, asks) = crossbeam_channel::bounded(1);
        let (answers, filled) = mpsc::channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::Builder::new()
            .name("sqlite-tail".into())
            .spawn(move || run(feed, &asks, &answers, &stopped))
            .map_err(|error| Error::transient("start the thread that follows a SQLite backend").because(error))?;
        Ok(Self { pool: pool.clone(), empty, filled, asked: false, stop, shared })
    }
}

fn run(mut feed: Box<dyn Feed>, asks: &Receiver<Batch>, answers: &mpsc::Sender<Result<Batch>>, stop: &AtomicBool) {
    for batch in asks {
        let answer = match feed.next(batch, stop) {
            Ok(Some(batch)) => Ok(batch),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}

impl Tail for SqliteTail {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(async move {
            let ended = || Error::bug("follow a SQLite backend: its thread has ended");
            if !self.asked {
                let batch = self.pool.take().await;
                // The thread is idle and the channel has room for one: this never waits.
                self.empty.try_send(batch).map_err(|_| ended())?;
                self.asked = true;
            }
            let answer = self.filled.recv().await.ok_or_else(ended)?;
            self.asked = false;
            answer
        })
    }

    /// Nothing to forget: the log is trimmed by its own rules.
    fn release<'a>(&'a mut self, _upto: &'a Checkpoint) -> Fut<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl Drop for SqliteTail {
    fn drop(&mut self) {
        // ORDERING: Relaxed: nothing else is handed over with it.
        self.stop.store(true, Ordering::Relaxed);
        // Nobody looks any more, so what the place proves for heads would only grow old.
        self.shared.lock().place = None;
    }
}
