//! Present state of one table.
//!
//! *Teleport*: everything lies under one partition key, which a parallel scan would leave in one segment; so ranges are cut
//! between sort keys and read by query, in the order of keys. *Raw*: ranges are segments of a parallel scan, whose order is
//! the service's own; a row's place is how many rows were given before it, and its key, from which a scan goes on. Such
//! places of two scans cannot be compared, so a stream of such a table has one lane.
//!
//! Pages begin right behind the last key of the one before, and are strongly consistent. There is no view of one moment.

use std::sync::Arc;

use super::connect::Access;
use super::describe;
use super::layout::{self, Keys};
use super::options::Role;
use super::read::Reader;
use super::shape::Shape;
use crate::error::{Error, Result};
use crate::model::{Batch, Layout, Position, Steps, Table};
use crate::source::Fut;
use crate::store::{Range, Store, between, bounds};

/// LIMIT: more ranges than that help nobody.
const MAX_RANGES: usize = 1024;
/// Digits of the number of a row in a scan.
const DIGITS: usize = 16;

/// The items of one table.
pub struct DynamoStore {
    reader: Reader,
    /// Teleport's table.
    teleport: Arc<Table>,
}

impl DynamoStore {
    /// Of a table; connects to nothing yet.
    pub fn new(access: &Access) -> Self {
        Self { reader: Reader::new(access), teleport: Arc::default() }
    }

    fn layout(&self) -> Layout {
        self.reader.access.options().layout
    }

    /// The table, if it is there. Only its description is asked for.
    async fn table(&self) -> Result<Option<Arc<Table>>> {
        let access = &self.reader.access;
        let found = match access.options().role {
            Role::Source => Some(describe::present(access, access.table()).await?),
            Role::Sink => describe::describe(access, access.table()).await?,
        };
        let Some(found) = found else { return Ok(None) };
        match self.layout() {
            Layout::Teleport => {
                is_teleport(access.table(), &found)?;
                Ok(Some(Arc::clone(&self.teleport)))
            }
            Layout::Raw => {
                let expiry = describe::expiry(access, access.table()).await?;
                let shape = Shape { expiry, ..found.shape }.encode()?;
                Ok(Some(Arc::new(Table { name: String::new(), shape })))
            }
        }
    }

    async fn cut(&self, count: usize) -> Result<Vec<Range>> {
        let Some(table) = self.table().await? else { return Ok(Vec::new()) };
        let count = count.clamp(1, MAX_RANGES);
        if self.layout() == Layout::Raw {
            let name = |segment: usize| format!("segment/{segment}/{count}");
            return Ok((0..count).map(|segment| Range { name: name(segment), table: Arc::clone(&table) }).collect());
        }
        let (from, to) = layout::between(b"", b"").ok_or_else(|| Error::bug("cut keys: no bound is none"))?;
        let paths = self.reader.cuts(&from, &to, count).await?;
        let mut begins = vec![Vec::new()];
        begins.extend(
            paths.iter().filter_map(|path| path.strip_prefix(layout::TELEPORT)).map(|key| key.as_bytes().to_vec()),
        );
        let ends = begins.iter().skip(1).cloned().chain([Vec::new()]);
        let range = |(from, to): (&Vec<u8>, Vec<u8>)| Range { name: between(from, &to), table: Arc::clone(&table) };
        Ok(begins.iter().zip(ends).map(range).collect())
    }

    async fn fill(&self, range: &Range, after: &Position, mut batch: Batch, fill_bytes: usize) -> Result<Batch> {
        let index = batch.table(&range.table);
        let after = after.boundary().ok_or_else(|| Error::bug("scan items: nothing follows the end of a range"))?;
        let last = match self.layout() {
            Layout::Teleport => self.fill_keys(range, after, &mut batch, index, fill_bytes).await?,
            Layout::Raw => self.fill_segment(range, after, &mut batch, index, fill_bytes).await?,
        };
        batch.mark(last);
        Ok(batch)
    }

    async fn fill_keys(
        &self,
        range: &Range,
        after: &[u8],
        batch: &mut Batch,
        index: u16,
        fill_bytes: usize,
    ) -> Result<Position> {
        let (from, to) = bounds(&range.name).and_then(|(from, to)| layout::between(&from, &to)).ok_or_else(not_ours)?;
        let (behind, _) = layout::between(after, b"").ok_or_else(not_ours)?;
        // A place before the range is its beginning; an empty key is no place.
        let mut behind = Some(behind).filter(|behind| !after.is_empty() && *behind >= from);
        if behind.as_ref().is_some_and(|behind| *behind >= to) {
            return Ok(Position::End);
        }
        loop {
            let wanted = fill_bytes.saturating_sub(batch.bytes());
            let (items, more) = self.reader.query(&from, &to, behind.as_deref(), wanted).await?;
            let mut last = None;
            for item in &items {
                let path = item.get(layout::PATH).and_then(|path| path.as_s().ok());
                // A query's bounds are both included, a range's second is not.
                if path.is_some_and(|path| *path >= to) {
                    return Ok(Position::End);
                }
                if let Some(key) = self.reader.push(&Keys::Teleport, item, batch, index, |_| None)? {
                    last = Some(key);
                }
                behind = path.cloned();
            }
            if more.is_none() {
                return Ok(Position::End);
            }
            if let Some(last) = last.filter(|_| batch.bytes() >= fill_bytes) {
                return Ok(Position::at(last));
            }
        }
    }

    async fn fill_segment(
        &self,
        range: &Range,
        after: &[u8],
        batch: &mut Batch,
        index: u16,
        fill_bytes: usize,
    ) -> Result<Position> {
        batch.steps = Steps::Cursor;
        let (segment, of) = segment_of(&range.name).ok_or_else(not_ours)?;
        let keys = Keys::of(Layout::Raw, &range.table)?;
        let (mut number, mut behind) = match place(after)? {
            Some((number, key)) => (number, Some(keys.attributes(key)?)),
            None => (0, None),
        };
        loop {
            let wanted = fill_bytes.saturating_sub(batch.bytes());
            let (items, more) = self.reader.scan(segment, of, behind.take(), wanted).await?;
            let mut last = None;
            for item in &items {
                number += 1;
                self.reader.push(&keys, item, batch, index, |key| {
                    let cursor = cursor(number, key);
                    last = Some(cursor.clone());
                    Some(cursor)
                })?;
            }
            let Some(more) = more else { return Ok(Position::End) };
            if let Some(last) = last.filter(|_| batch.bytes() >= fill_bytes) {
                return Ok(Position::at(last));
            }
            behind = Some(more);
        }
    }

    async fn find(&self, table: &Arc<Table>, wanted: &[&[u8]], mut batch: Batch) -> Result<Batch> {
        let keys = Keys::of(self.layout(), table)?;
        let items = match self.reader.items(&keys, wanted).await {
            // What was not made yet holds nothing.
            Err(_) if self.reader.access.options().role == Role::Sink && self.table().await?.is_none() => Vec::new(),
            found => found?,
        };
        let index = batch.table(table);
        for item in &items {
            self.reader.push(&keys, item, &mut batch, index, |_| None)?;
        }
        Ok(batch)
    }
}

impl Store for DynamoStore {
    fn begin(&self) -> Fut<'_, ()> {
        Box::pin(async {
            let options = self.reader.access.options();
            if options.role == Role::Sink || options.layout == Layout::Raw {
                return Ok(());
            }
            self.table().await?;
            let (from, to) = layout::between(b"", b"").ok_or_else(|| Error::bug("look at keys: no bound is none"))?;
            match self.reader.paths(&from, &to, 1).await?.is_empty() {
                true => Err(Error::config(format!(
                    "copy table {}: it holds no item of Teleport's; `table_name` must be that of its own configuration",
                    options.table
                ))),
                false => Ok(()),
            }
        })
    }

    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async { Ok(self.table().await?.into_iter().collect()) })
    }

    fn ranges(&self, count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(self.cut(count))
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        Box::pin(async move {
            let known = match self.layout() {
                Layout::Teleport => bounds(name).is_some(),
                Layout::Raw => segment_of(name).is_some(),
            };
            let table = self.table().await?.filter(|_| known).ok_or_else(not_ours)?;
            Ok(Range { name: name.to_owned(), table })
        })
    }

    fn scan<'a>(&'a self, range: &'a Range, after: &'a Position, batch: Batch, fill_bytes: usize) -> Fut<'a, Batch> {
        Box::pin(self.fill(range, after, batch, fill_bytes))
    }

    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        Box::pin(self.find(table, keys, batch))
    }
}

/// Fails unless a table is one of Teleport's.
pub fn is_teleport(name: &str, found: &describe::Described) -> Result<()> {
    if found.ancient {
        return Err(Error::config(format!(
            "look at table {name}: it is of the layout before 2018, which Teleport refuses too; start the newest Teleport \
             that still converts it once"
        )));
    }
    if !found.shape.has_key_of(&Shape::teleport(None)) {
        return Err(Error::config(format!(
            "look at table {name}: its key is {}, and that of Teleport's is {}; `layout: raw` copies any table",
            found.shape.key(),
            Shape::teleport(None).key()
        )));
    }
    Ok(())
}

fn segment_of(name: &str) -> Option<(i32, i32)> {
    let (segment, of) = name.strip_prefix("segment/")?.split_once('/')?;
    let (segment, of) = (segment.parse().ok()?, of.parse().ok()?);
    (0..of).contains(&segment).then_some((segment, of))
}

fn cursor(number: u64, key: &[u8]) -> Vec<u8> {
    [format!("{number:0DIGITS$}").as_bytes(), key].concat()
}

/// The number and the key of a cursor; `None` at the start.
fn place(cursor: &[u8]) -> Result<Option<(u64, &[u8])>> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let (number, key) = cursor.split_at_checked(DIGITS).ok_or_else(not_ours)?;
    let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()).ok_or_else(not_ours)?;
    Ok(Some((number, key)))
}

fn not_ours() -> Error {
    // The name is not repeated: its bounds are keys.
    Error::corrupt("read the range that a checkpoint names: it is not one of this table's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_segment_grow_with_every_row_and_come_back() {
        let all = [cursor(1, b"S\0\0\0\x01z"), cursor(2, b"S\0\0\0\x01a"), cursor(10, b"S\0\0\0\x01b")];
        assert!(all.is_sorted());
        assert_eq!(place(&all[2]).unwrap(), Some((10, &b"S\0\0\0\x01b"[..])));
        assert_eq!(place(b"").unwrap(), None);
        for broken in [&b"1"[..], b"0000000000planted"] {
            assert!(place(broken).is_err());
        }
    }

    #[test]
    fn names_of_segments_are_read_back_and_others_refused() {
        assert_eq!(segment_of("segment/3/16"), Some((3, 16)));
        for broken in ["", "segment", "segment/16/16", "segment/-1/4", "segment/0/0", "2f..30", "segment/1"] {
            assert_eq!(segment_of(broken), None, "{broken}");
        }
    }
}
