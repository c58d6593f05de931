//! The control side of a source: where its history stands, and the stream that follows it.

use std::sync::Arc;

use super::connect::Cluster;
use super::place;
use super::read::Reader;
use super::watch::{EtcdTail, Shared};
use crate::model::Checkpoint;
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};

/// A cluster that is read.
pub struct EtcdSource {
    reader: Reader,
    shared: Arc<Shared>,
}

impl EtcdSource {
    /// Of a cluster; connects to nothing yet.
    pub fn new(cluster: &Cluster) -> Self {
        Self { reader: Reader::new(cluster), shared: Arc::default() }
    }
}

impl Source for EtcdSource {
    /// While a stream runs that has not read all leases since its start, this waits for it: what leases tell is part of what
    /// was there when the question was asked.
    fn head(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async {
            let (cluster, revision) = self.reader.newest().await?;
            self.shared.want(revision);
            self.shared.settled().await;
            let newest = place::position(revision);
            let head = self.shared.given().filter(|given| *given > newest).unwrap_or(newest);
            Ok([(place::partition(cluster), head)].into_iter().collect())
        })
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async {
            let (cluster, revision) = self.reader.newest().await?;
            Ok([(place::partition(cluster), place::position(revision))].into_iter().collect())
        })
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async move {
            let tail = EtcdTail::open(&self.reader, &self.shared, from, pool).await?;
            Ok(Box::new(tail) as Box<dyn Tail>)
        })
    }

    fn concern(&self) -> Option<String> {
        self.shared.concern(self.reader.cluster.options().lease_budget)
    }
}
