//! The one reader of a source: what its tail gives goes into the ring and to the scribe, what all are done with back to it.

use std::sync::Arc;

use crossbeam_channel::Sender;

use super::hub::Hub;
use super::scribe::Order;
use crate::error::{Error, Result};
use crate::source::{Source, Tail};

/// LIMIT: how often the source is asked whether it can keep more.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Reads until the source fails, the scribe does, or nobody wants any more. How it ended is told to every follower.
pub(super) async fn run(source: Arc<dyn Source>, tail: Box<dyn Tail>, hub: Arc<Hub>, orders: Sender<Order>) {
    if let Err(error) = follow(&*source, tail, &hub, &orders).await {
        hub.fail(&error);
    }
}

async fn follow(source: &dyn Source, mut tail: Box<dyn Tail>, hub: &Hub, orders: &Sender<Order>) -> Result<()> {
    let mut releases = hub.releases();
    let mut look = tokio::time::interval(LOOK_EVERY);
    releases.mark_changed();
    loop {
        tokio::select! {
            biased;
            changed = releases.changed() => {
                changed.map_err(|_| Error::bug("capture a stream: its hub is gone"))?;
                let upto = releases.borrow_and_update().clone();
                tail.release(&upto).await?;
            }
            _ = look.tick() => {
                hub.strained(source.strained());
                if hub.has_ended() {
                    return Ok(());
                }
            }
            batch = tail.next() => {
                let batch = Arc::new(batch?);
                let number = hub.push(Arc::clone(&batch));
                let gone = |_| Error::transient("capture a stream: the journal takes no more");
                // Never full: what it holds is bounded by the credits of the batches.
                orders.send(Order::Batch(number, batch)).map_err(gone)?;
            }
        }
    }
}
