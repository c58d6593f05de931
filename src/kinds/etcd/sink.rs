//! The control side of a destination: keys under one prefix of a cluster, and our records beside them.
//!
//! Nothing is created before the first claim: a prefix needs no preparation, and what a table is does not exist here. Data and
//! position are one transaction, and so is a claim; see [`super::ledger`] for what they compare. There is no open
//! transaction: a source's that is larger than what one of the cluster's holds is split, at places that are known.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::claim;
use super::connect::Cluster;
use super::grant::Grants;
use super::layout::Keys;
use super::ledger::Known;
use super::limits::{Learned, limits};
use super::mend::Mended;
use super::writer::{EtcdWriter, Shared};
use crate::model::{Claim, LaneRecord, StreamId, StreamRecord};
use crate::sink::{Limits, Sink, Writer};
use crate::source::Fut;

/// A prefix that is written.
pub struct EtcdSink {
    shared: Arc<Shared>,
}

impl EtcdSink {
    /// Of a cluster; connects to nothing yet.
    pub fn new(cluster: &Cluster) -> Self {
        let options = cluster.options();
        let shared = Shared {
            cluster: cluster.clone(),
            keys: Keys::new(options.layout, options.prefix.as_bytes()),
            grants: Grants::new(cluster),
            learned: Learned::default(),
            mended: Mended::default(),
            told: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Sink for EtcdSink {
    fn limits(&self) -> Limits {
        let options = self.shared.cluster.options();
        limits(self.shared.learned.takes(), options.layout, options.prefix.len(), options.max_message)
    }

    fn inspect<'a>(&'a self, stream: &'a StreamId) -> Fut<'a, Option<StreamRecord>> {
        Box::pin(async { Ok(claim::read(&self.shared.cluster, stream).await?.as_ref().map(Known::record)) })
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Fut<'a, (LaneRecord, Box<dyn Writer>)> {
        Box::pin(async move {
            self.shared.learned.learn(&self.shared.cluster).await?;
            let taken = claim::claim(&self.shared.cluster, claim).await?;
            let record = taken.lane.record();
            let writer = EtcdWriter::new(&self.shared, claim, taken);
            Ok((record, Box::new(writer) as Box<dyn Writer>))
        })
    }

    fn beat<'a>(&'a self, stream: &'a StreamId, lane: u16, epoch: u64) -> Fut<'a, ()> {
        Box::pin(claim::beat(&self.shared.cluster, stream, lane, epoch))
    }

    fn forget<'a>(&'a self, stream: &'a StreamId, seen: &'a StreamRecord) -> Fut<'a, ()> {
        Box::pin(claim::forget(&self.shared.cluster, stream, seen))
    }
}
