//! What lies between two kinds.
//!
//! Same kind on both sides: bodies go as they came. Different kinds: through [`Item`], the view that both understand.
//!
//! What is equal across kinds:
//! - *Expiry* in the coarser unit of the two sides; an instant between two units is rounded up, never lost. Where one side
//!   cannot tell an instant exactly (etcd: a lease), as far as it can tell.
//! - *Revision* where the sink can hold the source's as it is. Blank is equal to blank, however a kind writes it.
//! - What has expired is absent on either side: it is never written, and the sink's copy is deleted. So is an item with an
//!   empty value where the sink cannot hold one so that Teleport reads it (etcd).
//!
//! What a stream leaves out, renames or masks is no matter here: [`bodies`] says how a kind's bodies are looked into, and who
//! filters does it before anything comes here. Pure: the clock comes in.

#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "postgresql")]
mod postgresql;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(all(test, feature = "dynamodb", feature = "etcd", feature = "postgresql", feature = "sqlite"))]
mod tests;

use std::sync::Arc;

use crate::bridge::{Bodies, Bridge, Verdict, same_item};
use crate::error::{Error, Result};
use crate::model::{Item, Kind, Layout, Micros, Row};

/// The nil UUID as text, which Teleport shows for a blank revision.
const NIL: &[u8] = b"00000000-0000-0000-0000-000000000000";

/// The bridge from a source of one kind to a sink of another.
///
/// # Errors
/// Config when the layout cannot connect the two, or this build does not hold one of them.
pub fn bridge(source: Kind, sink: Kind, layout: Layout) -> Result<Arc<dyn Bridge>> {
    match (layout, source, sink) {
        #[cfg(feature = "postgresql")]
        (Layout::Raw, Kind::Postgresql, Kind::Postgresql) => Ok(Arc::new(postgresql::Raw::default())),
        #[cfg(feature = "etcd")]
        (Layout::Raw, Kind::Etcd, Kind::Etcd) => Ok(Arc::new(etcd::Raw)),
        #[cfg(feature = "dynamodb")]
        (Layout::Raw, Kind::Dynamodb, Kind::Dynamodb) => Ok(Arc::new(dynamodb::Raw)),
        (Layout::Raw, ..) => {
            let what = "layout raw needs postgresql, etcd or dynamodb on both sides";
            Err(Error::config(format!("connect {source} with {sink}: {what}")))
        }
        (Layout::Teleport, ..) => {
            Ok(Arc::new(Items { source: codec(source)?, sink: codec(sink)?, one_kind: source == sink }))
        }
    }
}

/// How a kind lays Teleport's items into bodies.
///
/// # Errors
/// Config when this build does not hold the kind.
pub fn bodies(kind: Kind) -> Result<Arc<dyn Bodies>> {
    match kind {
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => Ok(Arc::new(sqlite::Sqlite)),
        #[cfg(feature = "postgresql")]
        Kind::Postgresql => Ok(Arc::new(postgresql::Postgresql::new()?)),
        #[cfg(feature = "etcd")]
        Kind::Etcd => Ok(Arc::new(etcd::Etcd)),
        #[cfg(feature = "dynamodb")]
        Kind::Dynamodb => Ok(Arc::new(dynamodb::Dynamodb)),
        Kind::Memory => Err(Error::bug("look into bodies: the memory kind does not hold Teleport's items")),
        #[allow(unreachable_patterns, reason = "reached in builds that leave a kind out")]
        kind => Err(super::left_out(kind)),
    }
}

fn codec(kind: Kind) -> Result<Box<dyn Codec>> {
    match kind {
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => Ok(Box::new(sqlite::Sqlite)),
        #[cfg(feature = "postgresql")]
        Kind::Postgresql => Ok(Box::new(postgresql::Postgresql::new()?)),
        #[cfg(feature = "etcd")]
        Kind::Etcd => Ok(Box::new(etcd::Etcd)),
        #[cfg(feature = "dynamodb")]
        Kind::Dynamodb => Ok(Box::new(dynamodb::Dynamodb)),
        Kind::Memory => Err(Error::bug("make a bridge: the memory kind does not hold Teleport's items")),
        #[allow(unreachable_patterns, reason = "reached in builds that leave a kind out")]
        kind => Err(super::left_out(kind)),
    }
}

/// How a kind encodes Teleport's items.
trait Codec: Send + Sync {
    /// The item in a body.
    fn item(&self, row: Row<'_>) -> Result<Item>;

    /// Appends the body of an item that came as `row` from another kind.
    fn encode(&self, row: Row<'_>, item: &Item, out: &mut Vec<u8>) -> Result<()>;

    /// Whether a row of this kind has expired.
    fn expired(&self, row: Row<'_>, now: Micros) -> Result<bool>;

    /// Whether two rows of this kind are equal.
    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool>;

    /// Fills a patch; see [`Bridge::fill`].
    fn fill(&self, older: Row<'_>, patch: Row<'_>, out: &mut Vec<u8>) -> Result<bool>;

    /// The finest difference of expiry that it can hold, in nanoseconds.
    fn unit(&self) -> i128;

    /// How far two instants may be apart and still be one, in nanoseconds, where it cannot tell them exactly.
    fn slack(&self) -> i128 {
        0
    }

    /// Whether a sink of it leaves items with an empty value out, because Teleport could not read them there.
    fn leaves_empty_out(&self) -> bool {
        false
    }

    /// How much earlier the sink's instant may be, in nanoseconds, because a source moves this row's without saying so.
    fn behind(&self, _row: Row<'_>) -> Result<i128> {
        Ok(0)
    }

    /// Whether it can hold a revision as it is.
    fn holds(&self, revision: &[u8]) -> bool;
}

/// Teleport's items, in the encodings of the two kinds.
struct Items {
    source: Box<dyn Codec>,
    sink: Box<dyn Codec>,
    one_kind: bool,
}

impl Bridge for Items {
    fn translate(&self, row: Row<'_>, now: Micros, out: &mut Vec<u8>) -> Result<Verdict> {
        if self.one_kind {
            return Ok(if self.source.expired(row, now)? { Verdict::Delete } else { Verdict::AsIs });
        }
        let item = self.source.item(row)?;
        if item.expired(now) {
            return Ok(Verdict::Delete);
        }
        self.sink.encode(row, &item, out)?;
        Ok(Verdict::Body)
    }

    fn fill(&self, older: Row<'_>, patch: Row<'_>, out: &mut Vec<u8>) -> Result<bool> {
        self.source.fill(older, patch, out)
    }

    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool> {
        if self.one_kind {
            return self.source.same(source, sink);
        }
        let behind = self.source.behind(source)?;
        let (mut source, mut sink) = (self.source.item(source)?, self.sink.item(sink)?);
        for item in [&mut source, &mut sink] {
            if item.revision == NIL {
                item.revision.clear();
            }
        }
        let revision = self.sink.holds(&source.revision);
        let slack = self.source.slack().max(self.sink.slack());
        if let (Some(a), Some(b)) = (source.expires, sink.expires)
            && (-slack..=slack + behind).contains(&(a - b))
        {
            sink.expires = source.expires;
        }
        Ok(same_item(&source, &sink, self.source.unit().max(self.sink.unit()), revision))
    }

    fn expired(&self, row: Row<'_>, from_sink: bool, now: Micros) -> Result<bool> {
        if from_sink {
            return self.sink.expired(row, now);
        }
        let left_out = || self.source.item(row).map(|item| item.value.is_empty());
        Ok(self.source.expired(row, now)? || (self.sink.leaves_empty_out() && left_out()?))
    }
}
