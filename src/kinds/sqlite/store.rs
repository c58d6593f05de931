//! Present state of a SQLite backend: table `kv`, read in key order.
//!
//! A page is one short read transaction, and the next one begins behind the last key (keyset, never an offset and never
//! the end of the last key's prefix), so no key is skipped and no writer waits for longer than a page takes. There is no
//! frozen view: in the rollback modes a long read transaction would stop the writer.

use std::sync::Arc;

use rusqlite::types::ValueRef;

use super::fault::fault;
use super::open::locate;
use super::options::{Options, Role};
use super::reader::{Reader, View};
use super::rows::{Key, Rows};
use crate::error::{Error, Result};
use crate::model::{Batch, Position, Table};
use crate::source::Fut;
use crate::store::{Range, Store, between, bounds};

/// LIMIT: samples per range when a store is cut; enough for ranges within some tens of percent of each other.
const SAMPLES: i64 = 32;

/// The rows of `kv`.
pub struct SqliteStore {
    options: Arc<Options>,
    role: Role,
    table: Arc<Table>,
    reader: Option<Arc<Reader>>,
}

impl SqliteStore {
    /// Of the backend in `options.path`. A source must be there and look like a backend; a sink may be missing.
    pub fn open(options: &Options, role: Role) -> Result<Self> {
        let reader = locate(options, role)?.map(Arc::new);
        Ok(Self { options: Arc::new(options.clone()), role, table: Arc::default(), reader })
    }

    /// The reader, found again if the file was not there when the store was opened.
    fn reader(&self) -> Result<Option<Arc<Reader>>> {
        match &self.reader {
            Some(reader) => Ok(Some(Arc::clone(reader))),
            None => Ok(locate(&self.options, self.role)?.map(Arc::new)),
        }
    }

    /// Runs `f` in a read transaction, away from the async runtime; `None` if there is no table (sinks only).
    fn read<T: Send + 'static>(
        &self,
        attempt: &'static str,
        mut f: impl FnMut(&View<'_>) -> Result<T> + Send + 'static,
    ) -> Fut<'_, Option<T>> {
        Box::pin(async move {
            let Some(reader) = self.reader()? else { return Ok(None) };
            let role = self.role;
            blocking(move || {
                reader.read(attempt, |view| match (view.has_kv, role) {
                    (true, _) => f(view).map(Some),
                    (false, Role::Sink) => Ok(None),
                    (false, Role::Source) => Err(no_table(&reader)),
                })
            })
            .await
        })
    }
}

/// Runs blocking work on the runtime's own threads for that.
pub(super) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(Error::stopped()),
        Err(error) => Err(Error::bug("run a statement on its own thread: it panicked").because(error)),
    }
}

pub(super) fn no_table(reader: &Reader) -> Error {
    Error::config(format!("read {}: it has no table kv, so it is not a Teleport backend", reader.file().display()))
}

impl Store for SqliteStore {
    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async {
            let there = self.read("look for table kv", |_| Ok(())).await?;
            Ok(there.map(|()| Arc::clone(&self.table)).into_iter().collect())
        })
    }

    fn ranges(&self, count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(async move {
            let cuts = self.read("cut table kv into ranges", move |view| cuts(view, count)).await?;
            let Some(cuts) = cuts else { return Ok(Vec::new()) };
            let mut bounds = vec![Vec::new()];
            bounds.extend(cuts);
            let ends = bounds.iter().skip(1).cloned().chain([Vec::new()]);
            Ok(bounds
                .iter()
                .zip(ends)
                .map(|(from, to)| Range { name: between(from, &to), table: Arc::clone(&self.table) })
                .collect())
        })
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        Box::pin(async move {
            bounds_of(name)?;
            Ok(Range { name: name.to_owned(), table: Arc::clone(&self.table) })
        })
    }

    fn scan<'a>(&'a self, range: &'a Range, after: &'a Position, batch: Batch, fill_bytes: usize) -> Fut<'a, Batch> {
        Box::pin(async move {
            let page = Page::new(range, after)?;
            let table = Arc::clone(&range.table);
            // The batch waits outside of the transaction's closure, which may run more than once.
            let rows = self.read("scan table kv", move |view| page.read(view, fill_bytes)).await?;
            let mut batch = batch;
            let index = batch.table(&table);
            let Some((rows, ended)) = rows else {
                batch.mark(Position::End);
                return Ok(batch);
            };
            rows.push_to(&mut batch, index);
            match batch.len().checked_sub(1) {
                Some(last) if !ended => {
                    let last = Position::at(batch.row(last).key);
                    batch.mark(last);
                }
                _ => batch.mark(Position::End),
            }
            Ok(batch)
        })
    }

    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        Box::pin(async move {
            let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
            let rows = self.read("read rows of table kv", move |view| get(view, &keys)).await?;
            let mut batch = batch;
            let index = batch.table(table);
            if let Some(rows) = rows {
                rows.push_to(&mut batch, index);
            }
            Ok(batch)
        })
    }
}

/// A page to be read.
pub(super) struct Page {
    after: Option<Vec<u8>>,
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Page {
    fn new(range: &Range, after: &Position) -> Result<Self> {
        let (from, to) = bounds_of(&range.name)?;
        let after = match after {
            Position::Start => None,
            Position::At { at, .. } => Some(at.to_vec()),
            Position::End => return Err(Error::bug("scan table kv: nothing follows the end of a range")),
        };
        Ok(Self { after, from, to })
    }

    /// Of the whole table, behind a key.
    pub(super) fn behind(after: Option<Vec<u8>>) -> Self {
        Self { after, from: Vec::new(), to: Vec::new() }
    }

    /// Reads up to about `fill_bytes`; true if the range ends there.
    pub(super) fn read(&self, view: &View<'_>, fill_bytes: usize) -> Result<(Rows, bool)> {
        const ATTEMPT: &str = "scan table kv";
        let (low, bound) = match &self.after {
            Some(after) => ("key > ?1", after),
            None => ("key >= ?1", &self.from),
        };
        let high = if self.to.is_empty() { "?2 = ''" } else { "key < ?2" };
        let sql = format!(
            "select key, modified, expires, value, {} from kv where {low} and {high} order by key",
            view.revision
        );
        let failed = |error| fault(ATTEMPT, error);
        let mut statement = view.connection.prepare_cached(&sql).map_err(failed)?;
        let mut found = statement.query((Key(bound), Key(&self.to))).map_err(failed)?;
        let mut rows = Rows::default();
        while let Some(row) = found.next().map_err(failed)? {
            rows.add(ATTEMPT, row)?;
            if rows.bytes() >= fill_bytes {
                return Ok((rows, false));
            }
        }
        Ok((rows, true))
    }
}

fn get(view: &View<'_>, keys: &[Vec<u8>]) -> Result<Rows> {
    const ATTEMPT: &str = "read rows of table kv";
    let failed = |error| fault(ATTEMPT, error);
    let sql = format!("select key, modified, expires, value, {} from kv where key = ?1", view.revision);
    let mut statement = view.connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = Rows::default();
    for key in keys {
        let mut found = statement.query([Key(key)]).map_err(failed)?;
        if let Some(row) = found.next().map_err(failed)? {
            rows.add(ATTEMPT, row)?;
        }
    }
    Ok(rows)
}

/// Keys that cut the table into `count` parts of about the same number of rows. Rows are sampled by rowid, so that a
/// large table is not walked while its writer waits.
fn cuts(view: &View<'_>, count: usize) -> Result<Vec<Vec<u8>>> {
    let failed = |error| fault("cut table kv into ranges", error);
    let parts = i64::try_from(count.max(1)).unwrap_or(i64::MAX).min(1024); // LIMIT: more ranges than that help nobody.
    let mut ends = view.connection.prepare_cached("select min(rowid), max(rowid) from kv").map_err(failed)?;
    let (low, high): (Option<i64>, Option<i64>) =
        ends.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    let (Some(low), Some(high)) = (low, high) else { return Ok(Vec::new()) };
    let wanted = parts * SAMPLES;
    let step = (i128::from(high) - i128::from(low)) / i128::from(wanted) + 1;
    let mut next = view
        .connection
        .prepare_cached("select key from kv where rowid >= ?1 order by rowid limit 1")
        .map_err(failed)?;
    let mut samples: Vec<Vec<u8>> = Vec::new();
    for i in 0..wanted {
        let Ok(rowid) = i64::try_from(i128::from(low) + step * i128::from(i)) else { break };
        let mut found = next.query([rowid]).map_err(failed)?;
        let Some(row) = found.next().map_err(failed)? else { break };
        if let ValueRef::Text(key) = row.get_ref(0).map_err(failed)? {
            samples.push(key.to_vec());
        }
    }
    samples.sort_unstable();
    samples.dedup();
    let parts = usize::try_from(parts).unwrap_or(1).min(samples.len());
    Ok((1..parts).filter_map(|part| samples.get(part * samples.len() / parts).cloned()).collect())
}

fn bounds_of(name: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    // The name is not repeated: its bounds are keys.
    bounds(name)
        .ok_or_else(|| Error::corrupt("read the range that a checkpoint names: it is not one of a SQLite table"))
}
