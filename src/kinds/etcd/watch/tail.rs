//! The stream of a cluster, as the engine has it: batches from the task that follows.
//!
//! The task lives as long as the stream, and holds two batches at most beside the one that it fills. It goes on when a
//! reader of the stream stops waiting, so that leases are read again whatever the reader does.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::follow::{Begin, Follower};
use super::link::Link;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::kinds::etcd::place;
use crate::kinds::etcd::read::Reader;
use crate::model::{Batch, Checkpoint, PartitionId, Position};
use crate::pool::Pool;
use crate::source::{Fut, Tail};

/// The stream of a cluster.
pub(crate) struct EtcdTail {
    batches: mpsc::Receiver<Result<Batch>>,
    task: JoinHandle<()>,
    shared: Arc<Shared>,
    number: u64,
}

impl EtcdTail {
    /// Opens the stream behind a checkpoint.
    pub(crate) async fn open(reader: &Reader, shared: &Arc<Shared>, from: &Checkpoint, pool: &Pool) -> Result<Self> {
        let (cluster, newest) = reader.newest().await?;
        let partition = place::partition(cluster);
        let from = standing(from, &partition)?;
        let revision = place::revision(&from)?;
        if revision > newest {
            return Err(Error::position_lost(format!(
                "follow an etcd cluster: it is at revision {newest}, and the stream at {revision}: it was restored from a \
                 backup"
            )));
        }
        let link = Box::pin(Link::open(reader, cluster, revision)).await?;
        let number = shared.begin();
        let (out, batches) = mpsc::channel(1);
        let begin = Begin {
            reader: reader.clone(),
            shared: Arc::clone(shared),
            tail: number,
            pool: pool.clone(),
            cluster,
            from,
            link,
        };
        let task = tokio::spawn(Follower::new(begin, out).run());
        Ok(Self { batches, task, shared: Arc::clone(shared), number })
    }
}

/// Where a checkpoint stands in a partition.
fn standing(from: &Checkpoint, partition: &PartitionId) -> Result<Position> {
    if from.names(partition) {
        // Within a transaction the server cannot begin: it comes again from its beginning, and is counted from there.
        return Ok(from.get(partition).boundary().map_or(Position::End, Position::at));
    }
    let other = from.iter().find(|(named, _)| !named.is_engine());
    match other {
        None => Ok(Position::Start),
        Some((other, _)) => Err(Error::position_lost(format!(
            "follow an etcd cluster: it is another one than before ({partition}, and the stream is of {other})"
        ))),
    }
}

impl Tail for EtcdTail {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(async {
            let ended = || Error::bug("follow an etcd cluster: its task has ended");
            self.batches.recv().await.ok_or_else(ended)?
        })
    }

    /// Nothing to forget: the cluster compacts by its own rules.
    fn release<'a>(&'a mut self, _upto: &'a Checkpoint) -> Fut<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl Drop for EtcdTail {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.end(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    #[test]
    fn a_transaction_that_was_passed_in_part_comes_again_from_its_beginning() {
        let ours = place::partition(1);
        let from = [(ours.clone(), place::position(7).plus(3))].into_iter().collect();
        assert_eq!(standing(&from, &ours).unwrap(), place::position(7));
    }

    #[test]
    fn a_stream_of_another_cluster_is_lost_and_one_that_names_none_begins_at_the_start() {
        let (ours, other) = (place::partition(1), place::partition(2));
        let walk = PartitionId::new("!snapshot/1");
        let stand = |named: &PartitionId| {
            [(named.clone(), place::position(7)), (walk.clone(), Position::End)].into_iter().collect::<Checkpoint>()
        };
        assert_eq!(standing(&stand(&ours), &ours).unwrap(), place::position(7));
        assert_eq!(standing(&stand(&other), &ours).unwrap_err().fault(), Fault::PositionLost);
        assert_eq!(standing(&Checkpoint::default(), &ours).unwrap(), Position::Start);
    }
}
