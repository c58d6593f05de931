//! Names of ranges: `<table>/<first key in hexadecimal>..<first key after it>`, an empty side being open.
//!
//! Pure. A name is all that is needed to find the range again after a restart.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::Table;
use crate::store::{Range, between, bounds};

/// The keys of one range: from `first` on, and before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) table: String,
    pub(super) first: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
}

/// Cuts the keys of a table, which are given in order, into at most `count` ranges.
pub(super) fn cut(table: &Arc<Table>, keys: &[&[u8]], count: usize) -> Vec<Range> {
    let count = count.clamp(1, keys.len().max(1));
    let cuts: Vec<_> = (1..count).map(|i| keys[i * keys.len() / count]).collect();
    let firsts = std::iter::once(&[][..]).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain(std::iter::once(&[][..]));
    let name = |(first, end): (&[u8], &[u8])| format!("{}/{}", table.name, between(first, end));
    firsts.zip(ends).map(|bounds| Range { name: name(bounds), table: Arc::clone(table) }).collect()
}

/// Reads a range's name.
pub(super) fn read(name: &str) -> Result<Span> {
    let broken = || Error::corrupt(format!("read range {name:?} of a memory store: not a table and two keys"));
    let (table, keys) = name.rsplit_once('/').ok_or_else(broken)?;
    let (first, end) = bounds(keys).ok_or_else(broken)?;
    Ok(Span { table: table.to_owned(), first, end: Some(end).filter(|end| !end.is_empty()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_touch_and_cover_everything() {
        let table = Arc::new(Table { name: "t".into(), shape: vec![] });
        let keys: Vec<&[u8]> = vec![b"a", b"b", b"c", b"d", b"e"];
        let spans: Vec<_> = cut(&table, &keys, 3).iter().map(|range| read(&range.name).unwrap()).collect();
        assert_eq!(spans.len(), 3);
        assert_eq!(spans[0].first, b"");
        assert!(spans.windows(2).all(|pair| pair[0].end.as_ref() == Some(&pair[1].first)));
        assert_eq!(spans[2].end, None);
        assert_eq!(cut(&table, &[], 9).len(), 1);
    }
}
