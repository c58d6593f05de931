//! Where the one who compares stores and the one who feeds the lanes meet.
//!
//! The comparer opens a window and later places an order: rows that were read, and the head up to which the tail has to be
//! routed before they may enter. The feeder closes the window at that point of the stream, lets in what the tail did not
//! touch, and answers which keys must be read again.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot};

use crate::engine::dispatch::Dispatcher;
use crate::engine::window::Fate;
use crate::error::{Error, Result};
use crate::model::{Batch, Checkpoint, PartitionId, Position};

/// What the comparer wants.
enum Order {
    /// Remember what the tail touches from here on.
    Open(oneshot::Sender<()>),
    /// Let these rows in once the tail is routed up to `until`; answers the indices to be read again.
    Write { until: Checkpoint, rows: Batch, answer: oneshot::Sender<Vec<u32>> },
    /// Commit these positions behind everything that was let in before; answered when they are durable in every lane.
    Mark { forget: Vec<PartitionId>, upto: Vec<(PartitionId, Position)>, answer: oneshot::Sender<()> },
    /// A mark that is on its way.
    Marked { seq: u64, answer: oneshot::Sender<()> },
}

/// The desk. One order at a time lies on it.
#[derive(Default)]
pub(crate) struct Desk {
    order: Mutex<Option<Order>>,
    placed: Notify,
}

impl Desk {
    /// Opens a window.
    pub(crate) async fn open(&self) -> Result<()> {
        let (sender, answer) = oneshot::channel();
        self.place(Order::Open(sender));
        answer.await.map_err(|_| Error::stopped())
    }

    /// Writes rows at a point of the stream.
    pub(crate) async fn write(&self, until: Checkpoint, rows: Batch) -> Result<Vec<u32>> {
        let (sender, answer) = oneshot::channel();
        self.place(Order::Write { until, rows, answer: sender });
        answer.await.map_err(|_| Error::stopped())
    }

    /// Marks a place of a walk, durably.
    pub(crate) async fn mark(&self, forget: Vec<PartitionId>, upto: Vec<(PartitionId, Position)>) -> Result<()> {
        let (sender, answer) = oneshot::channel();
        self.place(Order::Mark { forget, upto, answer: sender });
        answer.await.map_err(|_| Error::stopped())
    }

    /// Ends when an order was placed.
    pub(crate) async fn placed(&self) {
        self.placed.notified().await;
    }

    /// Does what can be done now.
    pub(crate) fn serve(&self, dispatcher: &mut Dispatcher) -> Result<()> {
        let mut slot = self.lock();
        let due = match slot.as_ref() {
            None => false,
            Some(Order::Write { until, .. }) => {
                let reached = cfg!(mutate = "repair_without_window") || dispatcher.routed().covers(&until.tail());
                reached && !dispatcher.is_open()
            }
            Some(Order::Marked { seq, .. }) => dispatcher.frontier().has_passed(*seq),
            Some(Order::Open(_)) => true,
            Some(Order::Mark { .. }) => !dispatcher.is_open(),
        };
        let Some(order) = slot.take_if(|_| due) else { return Ok(()) };
        drop(slot);
        // An answer that nobody waits for any more is no loss: the comparer has ended.
        match order {
            Order::Open(answer) => {
                dispatcher.open_window();
                answer.send(()).unwrap_or_default();
            }
            Order::Write { rows, answer, .. } => {
                let again = let_in(dispatcher, rows)?;
                drop(answer.send(again));
            }
            Order::Mark { forget, upto, answer } => {
                let seq = dispatcher.mark(&forget, &upto)?;
                *self.lock() = Some(Order::Marked { seq, answer });
            }
            Order::Marked { answer, .. } => answer.send(()).unwrap_or_default(),
        }
        Ok(())
    }

    fn place(&self, order: Order) {
        let before = self.lock().replace(order);
        assert!(before.is_none(), "the comparer waits for the answer to one order before it places the next");
        self.placed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Order>> {
        self.order.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn let_in(dispatcher: &mut Dispatcher, rows: Batch) -> Result<Vec<u32>> {
    let window = dispatcher.close_window();
    let (mut keep, mut again) = (Vec::new(), Vec::new());
    for (index, row) in rows.rows().enumerate() {
        match window.fate(&row.table.name, row.key) {
            Fate::Clean => keep.push(index as u32),
            Fate::Settled => {}
            Fate::Again => again.push(index as u32),
        }
    }
    if !keep.is_empty() {
        dispatcher.picked(rows, keep)?;
    }
    Ok(again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::frontier::{Done, Frontier};
    use crate::engine::inbox::inbox;
    use crate::engine::route::Work;
    use crate::model::{Op, Steps};
    use std::sync::Arc;

    fn tail_batch(key: &str, to: u8) -> Batch {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("p"), Position::at([to - 1]), Steps::Ordinal);
        let table = batch.table(&Arc::default());
        batch.push(Op::Delete, false, table, key.as_bytes(), b"", 0);
        batch.mark(Position::at([to]));
        batch
    }

    #[tokio::test]
    async fn rows_enter_when_the_tail_is_routed_up_to_the_head_and_only_if_it_did_not_touch_them() {
        let (feeder, work) = inbox(8);
        let frontier = Frontier::new(vec![Done::default()], Checkpoint::default());
        let mut dispatcher = Dispatcher::new(vec![feeder], frontier);
        let desk = Desk::default();
        let comparer = async {
            desk.open().await.unwrap();
            let mut rows = Batch::unpooled();
            rows.begin(&PartitionId::new("!repair"), Position::Start, Steps::Key);
            let table = rows.table(&Arc::default());
            rows.push(Op::Put, false, table, b"a", b"old", 0);
            rows.push(Op::Put, false, table, b"b", b"value", 0);
            rows.mark(Position::End);
            let until = [(PartitionId::new("p"), Position::at([2]))].into_iter().collect();
            desk.write(until, rows).await.unwrap()
        };
        let feeder = async {
            desk.placed().await;
            desk.serve(&mut dispatcher).unwrap();
            desk.placed().await;
            desk.serve(&mut dispatcher).unwrap();
            dispatcher.batch(tail_batch("a", 1)).unwrap();
            desk.serve(&mut dispatcher).unwrap();
            assert_eq!(std::iter::from_fn(|| work.try_take().ok()).count(), 1, "the head is not reached");
            dispatcher.batch(tail_batch("c", 2)).unwrap();
            desk.serve(&mut dispatcher).unwrap();
        };
        let (again, ()) = tokio::join!(comparer, feeder);
        assert!(again.is_empty());
        let Some(Work::Share(share)) = std::iter::from_fn(|| work.try_take().ok()).last() else {
            panic!("the row was let in")
        };
        assert_eq!(share.picks.as_deref(), Some(&[1u32][..]));
    }
}
