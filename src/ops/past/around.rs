//! What stands around a source, a sink and its store where the past is what is followed.
//!
//! A method that is added to one of these traits must be passed on here.

use std::sync::Arc;

use crate::error::{Error, Fault};
use crate::model::{Batch, Checkpoint, Claim, LaneRecord, Position, StreamId, StreamRecord, Table};
use crate::pool::Pool;
use crate::sink::{Limits, Sink, Writer};
use crate::source::{Fut, Source, Tail};
use crate::store::{Range, Store};

/// A source whose gaps nobody can heal: there is nothing to compare with.
pub(super) struct Firm(pub(super) Arc<dyn Source>);

impl Source for Firm {
    fn head(&self) -> Fut<'_, Checkpoint> {
        self.0.head()
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        self.0.pin()
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async move {
            let tail = self.0.tail(from, pool).await.map_err(firmly)?;
            Ok(Box::new(FirmTail(tail)) as Box<dyn Tail>)
        })
    }
}

struct FirmTail(Box<dyn Tail>);

impl Tail for FirmTail {
    fn next(&mut self) -> Fut<'_, Batch> {
        let next = self.0.next();
        Box::pin(async move { next.await.map_err(firmly) })
    }

    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()> {
        self.0.release(upto)
    }
}

fn firmly(error: Error) -> Error {
    if error.fault() == Fault::PositionLost { Error::rejected(error.to_string()) } else { error }
}

/// A destination that holds what others wrote, and keeps it: nothing there is ours to remove.
pub(super) struct Guest(pub(super) Arc<dyn Sink>);

impl Sink for Guest {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn inspect<'a>(&'a self, stream: &'a StreamId) -> Fut<'a, Option<StreamRecord>> {
        Box::pin(async move {
            let record = self.0.inspect(stream).await?;
            // For the engine there is nothing to be compared.
            Ok(record.map(|record| StreamRecord { foreign: false, ..record }))
        })
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Fut<'a, (LaneRecord, Box<dyn Writer>)> {
        Box::pin(async move { self.0.claim(&Claim { foreign: true, ..claim.clone() }).await })
    }

    fn beat<'a>(&'a self, stream: &'a StreamId, lane: u16, epoch: u64) -> Fut<'a, ()> {
        self.0.beat(stream, lane, epoch)
    }

    fn prepare<'a>(&'a self, tables: &'a [Arc<Table>], load: bool) -> Fut<'a, ()> {
        self.0.prepare(tables, load)
    }

    fn settle<'a>(&'a self, tables: &'a [Arc<Table>]) -> Fut<'a, ()> {
        self.0.settle(tables)
    }

    fn forget<'a>(&'a self, stream: &'a StreamId, seen: &'a StreamRecord) -> Fut<'a, ()> {
        self.0.forget(stream, seen)
    }
}

/// Present state of a destination in which nobody looks for what is there beside the stream.
pub(super) struct Unwalked(pub(super) Arc<dyn Store>);

impl Store for Unwalked {
    fn begin(&self) -> Fut<'_, ()> {
        self.0.begin()
    }

    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        self.0.tables()
    }

    fn ranges(&self, _count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        self.0.range(name)
    }

    fn scan<'a>(&'a self, range: &'a Range, after: &'a Position, batch: Batch, fill_bytes: usize) -> Fut<'a, Batch> {
        self.0.scan(range, after, batch, fill_bytes)
    }

    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        self.0.get(table, keys, batch)
    }

    fn visible(&self) -> Fut<'_, ()> {
        self.0.visible()
    }
}
