//! The control side of a source: where its history stands.

use super::connect::Cluster;
use super::place;
use super::read::Reader;
use crate::error::{Error, Result};
use crate::model::Checkpoint;
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};

/// A cluster that is read.
pub struct EtcdSource {
    reader: Reader,
}

impl EtcdSource {
    /// Of a cluster; connects to nothing yet.
    pub fn new(cluster: &Cluster) -> Self {
        Self { reader: Reader::new(cluster) }
    }

    async fn newest(&self) -> Result<Checkpoint> {
        let (cluster, revision) = self.reader.newest().await?;
        Ok([(place::partition(cluster), place::position(revision))].into_iter().collect())
    }
}

impl Source for EtcdSource {
    fn head(&self) -> Fut<'_, Checkpoint> {
        Box::pin(self.newest())
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(self.newest())
    }

    fn tail<'a>(&'a self, _: &'a Checkpoint, _: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async {
            Err(Error::config(
                "follow an etcd cluster: this build can copy one with `clone`, and compare it with `verify`",
            ))
        })
    }
}
