//! The credit that gives backpressure: a fixed number of batch buffers.
//!
//! Whoever wants to read further from a source needs an empty batch; all of them together are the memory that changes on
//! their way may take. A batch comes back when the last lane has committed its share of it. Waiting for a batch is the one
//! place where a source feels that its sink is slow.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::Semaphore;

use crate::model::{Batch, Buffers, Home};

/// Hands out empty batches. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    credits: Semaphore,
    spare_in: Sender<Buffers>,
    spare_out: Receiver<Buffers>,
    batch_bytes: usize,
    count: usize,
}

impl Pool {
    /// A pool of `count` batches that are to be filled up to about `batch_bytes`.
    pub fn new(count: usize, batch_bytes: usize) -> Self {
        let (spare_in, spare_out) = crossbeam_channel::bounded(count);
        Self(Arc::new(Inner { credits: Semaphore::new(count), spare_in, spare_out, batch_bytes, count }))
    }

    /// A pool that keeps changes on their way within `memory` bytes. Half of it is for batches, the other half for what
    /// sinks make of them; one batch is at most 1 MiB, so that a batch is a small part of a commit's work. Buffers grow by
    /// doubling, so a batch may take twice what it is filled with.
    pub fn for_memory(memory: usize) -> Self {
        let half = memory / 2;
        let batch_bytes = (half / 16).clamp(16 << 10, 1 << 20);
        Self::new((half / (2 * batch_bytes)).clamp(4, 64), batch_bytes)
    }

    /// How many bytes a batch should hold when it is handed on. One change that is larger goes into a batch of its own.
    pub fn batch_bytes(&self) -> usize {
        self.0.batch_bytes
    }

    /// Waits for an empty batch.
    pub async fn take(&self) -> Batch {
        let permit = self.0.credits.acquire().await.expect("the pool's semaphore is never closed");
        permit.forget();
        let buffers = self.0.spare_out.try_recv().unwrap_or_default();
        Batch::with_buffers(buffers, Some(Arc::clone(&self.0) as Arc<dyn Home>))
    }

    /// How many batches there are.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// How many batches are free.
    pub fn free(&self) -> usize {
        self.0.credits.available_permits()
    }
}

impl Home for Inner {
    fn welcome(&self, buffers: Buffers) {
        // A buffer that one large change blew up is not kept, or the largest change ever seen would be held `count`
        // times for ever.
        let buffers = if buffers.capacity() > 2 * self.batch_bytes { Buffers::default() } else { buffers };
        // A full channel only means that buffers were made beside it; the credit goes back in any case.
        drop(self.spare_in.try_send(buffers));
        self.credits.add_permits(1);
    }
}
