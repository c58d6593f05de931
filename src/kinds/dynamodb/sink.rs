//! The control side of a destination: one table for the data, and one of our own beside it.
//!
//! Data and position are one transaction, and so is a claim; see [`super::ledger`] for what they compare. There is no open
//! transaction: a source's that is larger than one of DynamoDB's is split, at places that are known. Tables are made where
//! they are missing, with the first claim (Teleport's, and ours) or from the source's description (any other).

use std::sync::Arc;

use super::claim;
use super::connect::Access;
use super::create;
use super::ledger::{Known, SLOTS};
use super::look;
use super::shape::Shape;
use super::writer::DynamoWriter;
use crate::model::{Claim, LaneRecord, Layout, StreamId, StreamRecord, Table};
use crate::sink::{Limits, Sink, Writer};
use crate::source::Fut;

/// LIMIT: actions of a transaction, set by DynamoDB.
const ACTIONS: usize = 100;
/// LIMIT: bytes of a commit's changes. A transaction holds 4 MB of items; the rest is for positions, and for what DynamoDB
/// counts beside keys and bodies.
const BYTES: usize = 3 << 20;

/// A table that is written.
pub struct DynamoSink {
    access: Access,
}

impl DynamoSink {
    /// Of a table; connects to nothing yet.
    pub fn new(access: &Access) -> Self {
        Self { access: access.clone() }
    }
}

impl Sink for DynamoSink {
    fn limits(&self) -> Limits {
        // The lane, and each of its slots.
        Limits { changes: ACTIONS - 1 - SLOTS, bytes: BYTES, stage: false, in_flight: 1 }
    }

    fn inspect<'a>(&'a self, stream: &'a StreamId) -> Fut<'a, Option<StreamRecord>> {
        Box::pin(async { Ok(look::read(&self.access, stream).await?.as_ref().map(Known::record)) })
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Fut<'a, (LaneRecord, Box<dyn Writer>)> {
        Box::pin(async move {
            let taken = claim::claim(&self.access, claim).await?;
            let record = taken.lane.record(&taken.base);
            let writer = DynamoWriter::new(&self.access, claim, &taken);
            Ok((record, Box::new(writer) as Box<dyn Writer>))
        })
    }

    fn beat<'a>(&'a self, stream: &'a StreamId, lane: u16, epoch: u64) -> Fut<'a, ()> {
        Box::pin(claim::beat(&self.access, stream, lane, epoch))
    }

    fn prepare<'a>(&'a self, tables: &'a [Arc<Table>], _load: bool) -> Fut<'a, ()> {
        Box::pin(async move {
            if self.access.options().layout == Layout::Raw {
                for table in tables {
                    create::data(&self.access, &Shape::decode(&table.shape)?).await?;
                }
            }
            Ok(())
        })
    }

    fn forget<'a>(&'a self, stream: &'a StreamId, seen: &'a StreamRecord) -> Fut<'a, ()> {
        Box::pin(claim::forget(&self.access, stream, seen))
    }
}
