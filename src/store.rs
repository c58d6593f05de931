//! Reading present state: snapshot, verify, repair.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::model::{Batch, Position, Table};
use crate::source::Fut;

/// A piece of a store that is scanned from one end to the other in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Part of the name of the partition that scans it (`!snapshot/1/<name>`): says table and bounds (keys in
    /// hexadecimal). The store finds its way back from it after a restart, so it holds all that is needed.
    pub name: String,
    /// Its table.
    pub table: Arc<Table>,
}

/// How ranges of keys are called: `<first key>..<first key after it>` in hexadecimal, an empty side being open.
pub fn between(from: &[u8], to: &[u8]) -> String {
    format!("{}..{}", hex(from), hex(to))
}

/// The two keys of a name that [`between`] made; `None` for any other.
pub fn bounds(name: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (from, to) = name.split_once("..")?;
    Some((unhex(from)?, unhex(to)?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<u8>>>()?;
    rest.is_empty().then_some(bytes)
}

/// Present state of a store.
pub trait Store: Send + Sync {
    /// Asked before anything of a stream is copied for the first time: whether all of what configuration means can be.
    /// Else [`crate::error::Fault::Config`], naming all that cannot. Later such a table is left out of everything here.
    fn begin(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// The tables of the store that are within scope (key-value layouts: one without a name). A destination that does not
    /// exist yet has none; a source that does not exist is an error.
    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>>;

    /// Cuts everything into about `count` ranges of similar size, at least one per table. Together they hold every key
    /// once, those that do not exist yet included.
    fn ranges(&self, count: usize) -> Fut<'_, Vec<Range>>;

    /// The range of this name, as `ranges` once cut it.
    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range>;

    /// Fills the batch with puts of the rows of a range that lie after `after`, in the order of the scan, up to about
    /// `fill_bytes` bytes. The caller has called [`Batch::begin`] (steps by key; the store may change
    /// [`Batch::steps`] to steps by cursor). The store marks the last row's position, or [`Position::End`] when nothing
    /// is left. Every row that did not change between two scans is seen by them together exactly once. What is read is
    /// never older than the call, so that windows hold; only a frozen store reads on where its last page ended without
    /// looking again, and is therefore the faster one for a first copy.
    fn scan<'a>(&'a self, range: &'a Range, after: &'a Position, batch: Batch, fill_bytes: usize) -> Fut<'a, Batch>;

    /// Fills the batch with a put for each of these keys that is there, in any order.
    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch>;

    /// Waits until every change at or before the head that was last given is visible to `scan` and `get`. Sources whose
    /// log runs ahead of what readers see (PostgreSQL: a commit is in the log before other sessions see it) wait here for
    /// the transactions in between.
    fn visible(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// The same store as it was at one moment, for as long as the result lives; `None` where the kind has no such view.
    fn frozen(&self) -> Fut<'_, Option<Box<dyn Store>>> {
        Box::pin(async { Ok(None) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ranges_are_read_back_and_others_refused() {
        for (from, to) in [(&b""[..], &b""[..]), (b"/a", b""), (b"", b"b"), (b"/a\0\xff", b"/b")] {
            assert_eq!(bounds(&between(from, to)), Some((from.to_vec(), to.to_vec())));
        }
        for broken in ["", "2f", "2f..3", "xx..yy", "é..", "2f....", "+1..", "2f."] {
            assert_eq!(bounds(broken), None, "{broken}");
        }
    }
}
