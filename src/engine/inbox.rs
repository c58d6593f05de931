//! The way into a lane: a crossbeam channel, and a bell for a lane that waits for its sink at the same time.
//!
//! A lane without anything under way waits on the channel itself. One with a commit under way waits for the answer and
//! for the bell, so that it collects what comes meanwhile.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError};
use tokio::sync::Notify;

use crate::engine::route::Work;
use crate::error::{Error, Result};

/// The dispatcher's end.
#[derive(Debug)]
pub struct Feeder {
    sender: Sender<Work>,
    bell: Arc<Notify>,
}

/// The lane's end.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Work>,
    bell: Arc<Notify>,
}

/// A way into a lane with room for this much work.
pub fn inbox(capacity: usize) -> (Feeder, Inbox) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let bell = Arc::new(Notify::new());
    (Feeder { sender, bell: Arc::clone(&bell) }, Inbox { receiver, bell })
}

impl Feeder {
    /// Gives the lane work.
    ///
    /// # Errors
    /// Stopped when the lane has ended, whose own error is on its way. Bug when there is no room: the channel has room for
    /// every batch of the pool and the few marks beside them.
    pub fn give(&self, work: Work) -> Result<()> {
        match self.sender.try_send(work) {
            Ok(()) => {
                self.bell.notify_one();
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(Error::stopped()),
            Err(TrySendError::Full(_)) => {
                Err(Error::bug("hand a batch to a lane: more is on its way than there are credits"))
            }
        }
    }
}

impl Inbox {
    /// What has come, if anything.
    pub fn try_take(&self) -> Result<Work, TryRecvError> {
        self.receiver.try_recv()
    }

    /// Waits on the calling thread.
    pub fn take_within(&self, pause: Duration) -> Result<Work, RecvTimeoutError> {
        self.receiver.recv_timeout(pause)
    }

    /// Waits until something may have come.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }
}
