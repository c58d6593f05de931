//! The one place where changes enter lanes: numbers them, keeps what was routed, and feeds open windows.

use std::sync::Arc;

use crate::engine::frontier::Frontier;
use crate::engine::inbox::Feeder;
use crate::engine::route::{Router, Work};
use crate::engine::window::Window;
use crate::error::Result;
use crate::model::{Batch, Checkpoint, PartitionId, Position};

/// Feeds the lanes of one attempt.
pub struct Dispatcher {
    router: Router,
    inboxes: Vec<Feeder>,
    frontier: Frontier,
    /// How far each partition was handed to the lanes.
    routed: Checkpoint,
    /// What the tail touches while somebody reads a page.
    window: Option<Window>,
    /// The tail's last batch ended within a source transaction.
    open: Option<(PartitionId, Position)>,
}

impl Dispatcher {
    /// A dispatcher for these lanes.
    pub fn new(inboxes: Vec<Feeder>, frontier: Frontier) -> Self {
        let lanes = u16::try_from(inboxes.len()).expect("a stream has fewer than 65 536 lanes");
        let routed = frontier.checkpoint().clone();
        Self { router: Router::new(lanes), inboxes, frontier, routed, window: None, open: None }
    }

    /// Hands a batch to the lanes.
    pub fn batch(&mut self, batch: Batch) -> Result<()> {
        if !batch.partition.is_engine() {
            self.note_open(&batch);
            if let Some(window) = &mut self.window {
                window.note(&batch);
            }
        }
        self.send(batch, None)
    }

    /// Hands some changes of a batch to the lanes.
    pub fn picked(&mut self, batch: Batch, keep: Vec<u32>) -> Result<()> {
        self.send(batch, Some(keep))
    }

    /// Has every lane commit these positions on their own; gives the number to wait for.
    pub fn mark(&mut self, forget: &[PartitionId], upto: &[(PartitionId, Position)]) -> Result<u64> {
        let seq = self.frontier.dispatch(0, forget.to_vec(), upto.to_vec());
        self.routed.retain(|partition| !forget.contains(partition));
        for (partition, position) in upto {
            self.routed.advance(partition, position);
        }
        for inbox in &self.inboxes {
            inbox.give(Work::Mark { seq, forget: forget.to_vec(), upto: upto.to_vec() })?;
        }
        Ok(seq)
    }

    /// Has the lanes write what they keep back.
    pub fn flush(&self) -> Result<()> {
        self.inboxes.iter().try_for_each(|inbox| inbox.give(Work::Flush))
    }

    /// Ends the lanes: they finish what they have and no more is coming.
    pub fn close(&mut self) {
        self.inboxes.clear();
    }

    /// What every lane has passed.
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Moves the frontier over what the lanes have published; true if it moved.
    pub fn advance(&mut self) -> bool {
        self.frontier.advance()
    }

    /// How far each partition was handed to the lanes.
    pub fn routed(&self) -> &Checkpoint {
        &self.routed
    }

    /// Whether the lanes hold the beginning of a source transaction whose rest is still to come. Nothing else may enter
    /// then: it would be committed with half of the transaction.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    fn note_open(&mut self, batch: &Batch) {
        let reached = if batch.is_open() { batch.position(batch.len() - 1) } else { batch.upto().clone() };
        // What lies before the open transaction, told again, does not end it.
        let goes_on = |(name, at): &(PartitionId, Position)| *name == batch.partition && reached <= *at;
        let still = self.open.take().filter(goes_on);
        self.open = still.or_else(|| batch.is_open().then(|| (batch.partition.clone(), reached)));
    }

    /// Begins to remember what the tail touches.
    pub fn open_window(&mut self) {
        self.window = Some(Window::default());
    }

    /// Gives what the tail touched since the window was opened.
    pub fn close_window(&mut self) -> Window {
        self.window.take().unwrap_or_default()
    }

    fn send(&mut self, batch: Batch, keep: Option<Vec<u32>>) -> Result<()> {
        let recorded = !batch.partition.is_unrecorded();
        let upto = batch.upto().clone();
        let moves = recorded && *self.routed.get(&batch.partition) < upto;
        let upto = if moves { vec![(batch.partition.clone(), upto)] } else { Vec::new() };
        let changes = keep.as_ref().map_or(batch.len(), Vec::len);
        for (partition, position) in &upto {
            self.routed.advance(partition, position);
        }
        let seq = self.frontier.dispatch(changes, Vec::new(), upto);
        let batch = Arc::new(batch);
        for (inbox, share) in self.inboxes.iter().zip(self.router.shares(seq, &batch, keep)) {
            inbox.give(Work::Share(share))?;
        }
        Ok(())
    }
}
