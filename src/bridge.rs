//! What lies between two kinds: pure functions over keys and bodies. The engine never names a kind; it is given a bridge.

use std::borrow::Cow;

use crate::error::Result;
use crate::model::{Item, Micros, Row};

/// What a change becomes on its way to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes as it is.
    AsIs,
    /// It goes as a put of the bytes that were appended.
    Body,
    /// Its item has expired: the key is removed from the sink.
    Delete,
}

/// Connects the encodings of a source kind and a sink kind.
pub trait Bridge: Send + Sync {
    /// Turns a put's body into the sink's encoding, appended to `out`. Patches, deletes and clears are never passed here.
    fn translate(&self, row: Row<'_>, now: Micros, out: &mut Vec<u8>) -> Result<Verdict>;

    /// Fills the holes of a patch's body from an older image (source encoding), appended to `out`; true if none is left,
    /// which makes it a put.
    fn fill(&self, older: Row<'_>, patch: Row<'_>, out: &mut Vec<u8>) -> Result<bool>;

    /// Whether a source row and a sink row of the same key are equal in the sense of the design: value and expiry, expiry
    /// in the coarser unit of the two, revision only where both hold it.
    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool>;

    /// Whether a row of the source (`from_sink` false) or sink has expired at `now`, so that it counts as absent; so does a
    /// row of the source that the sink cannot hold and leaves out.
    fn expired(&self, row: Row<'_>, from_sink: bool, now: Micros) -> Result<bool>;
}

/// How a kind lays Teleport's items into bodies, for who looks into one or changes one.
pub trait Bodies: Send + Sync {
    /// Whether the item expires at some time, passed or not; `None` where a patch does not say.
    fn expires(&self, row: Row<'_>) -> Result<Option<bool>>;

    /// The value, empty where there is none; `None` where a patch does not say.
    fn value<'a>(&self, row: Row<'a>) -> Result<Option<Cow<'a, [u8]>>>;

    /// Appends the row's body under another key or with another value, and all else as it was. A hole stays a hole. False,
    /// with nothing appended, if that is the body that it has.
    fn rewrite(&self, row: Row<'_>, key: Option<&[u8]>, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<bool>;
}

/// Helper for bridges between key-value kinds: compares two items with expiry rounded up to `unit` nanoseconds.
pub fn same_item(source: &Item, sink: &Item, unit: i128, revision: bool) -> bool {
    let round = |at: i128| (at + unit - 1).div_euclid(unit);
    source.value == sink.value
        && source.expires.map(round) == sink.expires.map(round)
        && (!revision || source.revision == sink.revision)
}
