//! A snapshot that the journal keeps, as a store that is read once from end to end.
//!
//! A place in it is a frame and a row of that frame, so that reading goes on after a crash where it was, without reading
//! what was read. Invariant: what is not in the snapshot is never said to be absent from the source: a single row cannot be
//! looked up here, and who asks is refused.

use std::sync::{Arc, Mutex, PoisonError};

use super::stretch::enter;
use crate::error::{Error, Result};
use crate::kinds::journal::reader::{Given, Reader};
use crate::kinds::journal::{Disk, Keys, Snapshot};
use crate::model::{Batch, Position, Steps, Table};
use crate::source::Fut;
use crate::store::{Range, Store};

/// The only range: from nothing to nothing, all tables.
const ALL: &str = "..";
/// LIMIT: it is looked at in pieces of about this many bytes.
const FILL: usize = 1 << 20;

/// A snapshot. Cheap to clone.
#[derive(Clone)]
pub struct Pages(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    keys: Keys,
    snapshot: Snapshot,
    tables: Vec<Arc<Table>>,
    items: u64,
    /// Where reading stopped last.
    open: Mutex<Option<(Position, Walk)>>,
}

impl Pages {
    /// Reads all of a snapshot, so that it is known beforehand to be sound. `tables`: others that are to be made, too.
    ///
    /// # Errors
    /// Corrupt, when it is damaged; PositionLost, when it is no longer there.
    pub fn open(disk: &Arc<dyn Disk>, keys: &Keys, snapshot: Snapshot, tables: &[Arc<Table>]) -> Result<Self> {
        let mut walk = Walk::open(disk, keys, snapshot.began)?;
        let (mut all, mut items) = (Vec::new(), 0);
        while let Some((page, _)) = walk.next(&snapshot, FILL)? {
            items += page.len() as u64;
            // A page without rows is of a table that has none.
            let known = if page.is_empty() { walk.reader.tables() } else { page.tables() };
            enter(&mut all, known);
        }
        // What a later change says of a table is what its rows are to become.
        enter(&mut all, tables);
        let (disk, keys) = (Arc::clone(disk), keys.clone());
        Ok(Self(Arc::new(Inner { disk, keys, snapshot, tables: all, items, open: Mutex::default() })))
    }

    /// How many items it holds.
    pub fn items(&self) -> u64 {
        self.0.items
    }

    /// Fills a batch with what follows a place.
    fn fill(&self, after: &Position, mut batch: Batch, fill: usize) -> Result<Batch> {
        let inner = &*self.0;
        let (frame, row) = spot(after)?;
        let left = inner.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut walk = match left {
            Some((at, walk)) if at == *after => walk,
            _ => Walk::open(&inner.disk, &inner.keys, frame.max(inner.snapshot.began))?,
        };
        batch.steps = Steps::Cursor;
        let mut last = None;
        while batch.bytes() < fill {
            let Some((page, first)) = walk.next(&inner.snapshot, fill.min(FILL))? else {
                batch.mark(Position::End);
                return Ok(batch);
            };
            let at = walk.reader.sequence();
            for (index, item) in page.rows().enumerate() {
                let number = first + index as u64;
                if (at, number) <= (frame, row) {
                    continue;
                }
                let table = batch.table(item.table);
                let cursor = cursor(at, number);
                batch.push_scanned(table, item.key, item.body, cursor.as_bytes());
                last = Some(cursor);
            }
        }
        if let Some(last) = last {
            let at = Position::at(last);
            batch.mark(at.clone());
            *inner.open.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, walk));
        }
        Ok(batch)
    }
}

/// A place, in digits whose order is that of reading.
fn cursor(frame: u64, row: u64) -> String {
    format!("{frame:016x}.{row:08x}")
}

/// The frame and the row of a place; rows are counted from 1.
fn spot(at: &Position) -> Result<(u64, u64)> {
    let broken = || Error::corrupt("read a snapshot of the journal: the place that was reached in it is none");
    let text = std::str::from_utf8(at.boundary().ok_or_else(broken)?).map_err(|_| broken())?;
    if text.is_empty() {
        return Ok((0, 0));
    }
    let (frame, row) = text.split_once('.').ok_or_else(broken)?;
    let number = |digits| u64::from_str_radix(digits, 16).map_err(|_| broken());
    Ok((number(frame)?, number(row)?))
}

/// A reader within a snapshot.
struct Walk {
    reader: Reader,
    frame: u64,
    /// Rows of the frame that were given.
    rows: u64,
}

impl Walk {
    fn open(disk: &Arc<dyn Disk>, keys: &Keys, frame: u64) -> Result<Self> {
        let reader = Reader::at_sequence(Arc::clone(disk), keys.clone(), frame)?;
        Ok(Self { reader, frame: 0, rows: 0 })
    }

    /// The next items of the snapshot, and the number of the first of them in its frame; `None` at its end.
    fn next(&mut self, snapshot: &Snapshot, fill: usize) -> Result<Option<(Batch, u64)>> {
        loop {
            let mut page = Batch::unpooled();
            match self.reader.next(&mut page, fill, snapshot.ended)? {
                Given::Page(id) if id == snapshot.id => {
                    let frame = self.reader.sequence();
                    if frame != self.frame {
                        (self.frame, self.rows) = (frame, 0);
                    }
                    let first = self.rows + 1;
                    self.rows += page.len() as u64;
                    return Ok(Some((page, first)));
                }
                Given::Run | Given::Page(_) | Given::Note(_) => {}
                Given::End => return Ok(None),
                Given::Torn(cut) => {
                    let text = format!(
                        "read a snapshot of the journal: segment {} breaks off at byte {}",
                        cut.segment, cut.at
                    );
                    return Err(Error::corrupt(text));
                }
            }
        }
    }
}

impl Store for Pages {
    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async { Ok(self.0.tables.clone()) })
    }

    fn ranges(&self, _count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(async { Ok(vec![Range { name: ALL.to_owned(), table: Arc::default() }]) })
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        Box::pin(async move {
            if name != ALL {
                return Err(Error::corrupt("read a snapshot of the journal: it has no such range"));
            }
            Ok(Range { name: ALL.to_owned(), table: Arc::default() })
        })
    }

    fn scan<'a>(&'a self, _: &'a Range, after: &'a Position, batch: Batch, fill_bytes: usize) -> Fut<'a, Batch> {
        let (pages, after) = (self.clone(), after.clone());
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || pages.fill(&after, batch, fill_bytes)).await;
            read.map_err(|_| Error::bug("read a snapshot of the journal: the reader has panicked"))?
        })
    }

    fn get<'a>(&'a self, _: &'a Arc<Table>, _: &'a [&'a [u8]], _: Batch) -> Fut<'a, Batch> {
        Box::pin(async {
            Err(Error::corrupt(
                "make a state of the past: a row got another key while the snapshot was taken, and what it held is not \
                 known; take an instant for which there is another snapshot",
            ))
        })
    }

    fn frozen(&self) -> Fut<'_, Option<Box<dyn Store>>> {
        Box::pin(async { Ok(Some(Box::new(self.clone()) as Box<dyn Store>)) })
    }
}

/// A store of nothing: beside a past that goes on from what somebody has already.
pub struct Nothing;

impl Store for Nothing {
    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn ranges(&self, _count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn range<'a>(&'a self, _name: &'a str) -> Fut<'a, Range> {
        Box::pin(async { Err(Error::bug("find a range of a store that holds nothing")) })
    }

    fn scan<'a>(&'a self, _: &'a Range, _: &'a Position, _: Batch, _: usize) -> Fut<'a, Batch> {
        Box::pin(async { Err(Error::bug("scan a store that holds nothing")) })
    }

    fn get<'a>(&'a self, _: &'a Arc<Table>, _: &'a [&'a [u8]], _: Batch) -> Fut<'a, Batch> {
        Box::pin(async { Err(Error::bug("look up a row in a store that holds nothing")) })
    }
}
