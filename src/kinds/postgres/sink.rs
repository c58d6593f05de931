//! PostgreSQL as a sink.
//!
//! Bookkeeping lies beside the data, in schema `driftless` of the same database, so that a checkpoint commits together with
//! what it vouches for; an operator reads it with psql. Invariant: `inspect` takes and creates nothing; `claim` is the
//! only way to a writer. It never creates a database, and alters a table that
//! it did not make only where the source's table got a column.

pub mod beat;
pub mod build;
pub mod claim;
pub mod forget;
pub mod ledger;
pub mod teleport;

use std::sync::Arc;

use crate::error::Result;
use crate::kinds::postgres::Options;
use crate::kinds::postgres::writer::PgWriter;
use crate::kinds::postgres::writer::destination::Destination;
use crate::kinds::postgres::writer::flights;
use crate::kinds::postgres::writer::session::Session;
use crate::model::{Claim, LaneRecord, StreamId, StreamRecord, Table};
use crate::sink::{Limits, Sink, Writer};
use crate::source::Fut;

/// LIMIT: changes in one commit; what they need beside their bytes stays small against these.
const CHANGES: usize = 32_768;
/// LIMIT: bytes in one commit. Larger ones were not faster, and hold row locks longer; much smaller ones would not hold a
/// hot table of a few thousand rows whole, and write its rows more often.
const BYTES: usize = 12 << 20;
/// LIMIT: a commit exists as rows, as parameters and as bytes on their way to the socket at the same time, a second one may
/// be on its way behind it, and the next one is being collected.
const SHARE: usize = 8;

/// A PostgreSQL database that receives a stream.
pub struct PgSink {
    destination: Arc<Destination>,
    beats: beat::Beats,
}

impl PgSink {
    /// A sink in this database; connects only when asked something.
    ///
    /// # Errors
    /// Config for a connection string that cannot be read.
    pub fn new(options: &Options) -> Result<Self> {
        Ok(Self { destination: Arc::new(Destination::new(options)?), beats: beat::Beats::default() })
    }

    /// Settings that the role may not make for its sessions; `check` says what follows from each.
    ///
    /// # Errors
    /// As of connecting.
    pub async fn refused_settings(&self) -> Result<Vec<&'static str>> {
        Ok(Session::open(&self.destination).await?.refused().to_vec())
    }
}

impl Sink for PgSink {
    fn limits(&self) -> Limits {
        let bytes = (self.destination.memory / SHARE).clamp(64 << 10, BYTES);
        Limits { changes: CHANGES, bytes, stage: true, in_flight: flights::IN_FLIGHT }
    }

    fn inspect<'a>(&'a self, stream: &'a StreamId) -> Fut<'a, Option<StreamRecord>> {
        Box::pin(async move {
            let session = Session::open(&self.destination).await?;
            ledger::inspect(&session.client, stream).await
        })
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Fut<'a, (LaneRecord, Box<dyn Writer>)> {
        Box::pin(async move {
            let (record, lane) = claim::claim(&self.destination, claim).await?;
            Ok((record, Box::new(PgWriter::start(lane)) as Box<dyn Writer>))
        })
    }

    fn beat<'a>(&'a self, stream: &'a StreamId, lane: u16, epoch: u64) -> Fut<'a, ()> {
        Box::pin(self.beats.beat(&self.destination, stream, lane, epoch))
    }

    fn prepare<'a>(&'a self, tables: &'a [Arc<Table>], load: bool) -> Fut<'a, ()> {
        Box::pin(build::prepare(&self.destination, tables, load))
    }

    fn settle<'a>(&'a self, tables: &'a [Arc<Table>]) -> Fut<'a, ()> {
        Box::pin(build::settle(&self.destination, tables))
    }

    fn forget<'a>(&'a self, stream: &'a StreamId, seen: &'a StreamRecord) -> Fut<'a, ()> {
        Box::pin(forget::forget(&self.destination, stream, seen))
    }
}
