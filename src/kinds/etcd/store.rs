//! Present state of one prefix of a cluster, read in key order.
//!
//! A page begins right behind the last key of the one before (that key and a zero byte), so none is skipped, whatever comes
//! and goes. There is a view of one moment: every page at one revision. When the cluster compacts that revision away, the
//! view is lost, and who reads takes another one and goes on behind the last key.

use std::sync::Arc;

use super::connect::Cluster;
use super::cut::cuts;
use super::options::Role;
use super::read::Reader;
use crate::error::{Error, Result};
use crate::model::{Batch, Layout, Position, Table};
use crate::source::Fut;
use crate::store::{Range, Store, between, bounds};

/// LIMIT: more ranges than that help nobody.
const MAX_RANGES: usize = 1024;

/// The rows under one prefix.
pub struct EtcdStore {
    reader: Reader,
    table: Arc<Table>,
}

impl EtcdStore {
    /// Of a cluster; connects to nothing yet.
    pub fn new(cluster: &Cluster) -> Self {
        Self { reader: Reader::new(cluster), table: Arc::default() }
    }

    async fn cut(&self, count: usize) -> Result<Vec<Range>> {
        let keys = &self.reader.keys;
        let whole = (keys.first(b""), keys.end(b""));
        let depth = self.reader.cluster.options().prefix.len();
        let ask = |from, end| self.reader.count(from, end);
        let stored = cuts(whole, depth, count.clamp(1, MAX_RANGES), ask).await?;
        let mut bounds = vec![Vec::new()];
        bounds.extend(
            stored.iter().filter_map(|stored| keys.key(stored)).filter(|key| !key.is_empty()).map(<[u8]>::to_vec),
        );
        let ends = bounds.iter().skip(1).cloned().chain([Vec::new()]);
        let range = |(from, to): (&Vec<u8>, Vec<u8>)| self.named(between(from, &to));
        Ok(bounds.iter().zip(ends).map(range).collect())
    }

    fn named(&self, name: String) -> Range {
        Range { name, table: Arc::clone(&self.table) }
    }

    async fn fill(&self, range: &Range, after: &Position, mut batch: Batch, fill_bytes: usize) -> Result<Batch> {
        let keys = &self.reader.keys;
        let (from, to) = bounds_of(&range.name)?;
        let after = after.boundary().ok_or_else(|| Error::bug("scan keys: nothing follows the end of a range"))?;
        let mut next = keys.first(&from);
        // A place before the range is its beginning; an empty key is no place.
        if !after.is_empty() && *after >= *from {
            next = keys.next(after);
        }
        let end = keys.end(&to);
        let table = batch.table(&self.table);
        loop {
            let wanted = fill_bytes.saturating_sub(batch.bytes());
            let (rows, more) = self.reader.page(&next, &end, wanted).await?;
            if let Some(last) = rows.last() {
                next = [&last.key[..], b"\0"].concat();
            }
            let ended = !more || rows.is_empty();
            self.reader.push(rows, &mut batch, table).await?;
            if ended {
                batch.mark(Position::End);
                return Ok(batch);
            }
            if batch.bytes() >= fill_bytes
                && let Some(last) = batch.len().checked_sub(1)
                && !batch.row(last).key.is_empty()
            {
                let last = Position::at(batch.row(last).key);
                batch.mark(last);
                return Ok(batch);
            }
        }
    }

    async fn find(&self, keys: &[&[u8]], mut batch: Batch) -> Result<Batch> {
        let stored: Vec<Vec<u8>> = keys.iter().map(|key| self.reader.keys.stored(key)).collect();
        let rows = self.reader.rows(&stored).await?;
        let table = batch.table(&self.table);
        self.reader.push(rows, &mut batch, table).await?;
        Ok(batch)
    }
}

impl Store for EtcdStore {
    fn begin(&self) -> Fut<'_, ()> {
        Box::pin(async {
            let options = self.reader.cluster.options();
            if options.role == Role::Sink || options.layout == Layout::Raw {
                return Ok(());
            }
            let (from, end) = (self.reader.keys.first(b""), self.reader.keys.end(b""));
            match self.reader.count(from, end).await? {
                (0, _) => Err(Error::config(format!(
                    "copy the keys under {:?}: there is none; `prefix` must be that of Teleport's own configuration",
                    options.prefix
                ))),
                _ => Ok(()),
            }
        })
    }

    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async {
            self.reader.newest().await?;
            Ok(vec![Arc::clone(&self.table)])
        })
    }

    fn ranges(&self, count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(self.cut(count))
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        Box::pin(async move {
            bounds_of(name)?;
            Ok(self.named(name.to_owned()))
        })
    }

    fn scan<'a>(&'a self, range: &'a Range, after: &'a Position, batch: Batch, fill_bytes: usize) -> Fut<'a, Batch> {
        Box::pin(self.fill(range, after, batch, fill_bytes))
    }

    fn get<'a>(&'a self, _: &'a Arc<Table>, keys: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        Box::pin(self.find(keys, batch))
    }

    fn frozen(&self) -> Fut<'_, Option<Box<dyn Store>>> {
        Box::pin(async {
            let (_, revision) = self.reader.newest().await?;
            let reader = self.reader.at(Some(revision));
            Ok(Some(Box::new(Self { reader, table: Arc::clone(&self.table) }) as Box<dyn Store>))
        })
    }
}

fn bounds_of(name: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    // The name is not repeated: its bounds are keys.
    bounds(name).ok_or_else(|| Error::corrupt("read the range that a checkpoint names: it is not one of etcd's keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_refused_and_not_repeated() {
        for broken in ["", "2f", "2f..3", "xx..yy", "é..", "2f...."] {
            let said = bounds_of(broken).unwrap_err().to_string();
            assert!(broken.is_empty() || !said.contains(broken), "{said}");
        }
    }
}
