//! Where a filter stands: around the source's stream and store, and around the sink's store.
//!
//! Behind it there is only the image. A method that is added to one of these traits must be passed on here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::image::{FAMILIES, Image, Pass};
use super::rules::Rules;
use super::{Filter, Say, Why, cut};
use crate::bridge::Bodies;
use crate::error::Result;
use crate::model::{Batch, Checkpoint, Edit, Position, Table};
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};
use crate::store::{Range, Store};
use crate::telemetry;

/// LIMIT: bytes of a page behind one of which nothing was left.
const PAGE_BYTES: usize = 256 << 10;

/// A stream's filter between its source, its sink and the engine. Cheap to clone.
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

struct Inner {
    stream: String,
    image: Image,
    told: Mutex<BTreeSet<String>>,
}

impl Edge {
    /// A filter for a stream, over the bodies of its two sides.
    ///
    /// # Errors
    /// Config, for rules that cannot be followed all at once.
    pub fn new(stream: &str, rules: &Rules, source: Arc<dyn Bodies>, sink: Arc<dyn Bodies>) -> Result<Self> {
        let image = Image { filter: Filter::new(rules)?, ruled: !rules.is_empty(), source, sink };
        Ok(Self(Arc::new(Inner { stream: stream.to_owned(), image, told: Mutex::default() })))
    }

    /// The image of a source.
    pub fn source(&self, inner: Arc<dyn Source>) -> Arc<dyn Source> {
        Arc::new(FilteredSource { inner, edge: self.clone() })
    }

    /// The image of a source's store.
    pub fn source_store(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(SourceStore { inner: Holder::Shared(inner), edge: self.clone() })
    }

    /// What of a sink can be in the image.
    pub fn sink_store(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(SinkStore { inner, edge: self.clone() })
    }

    fn filter(&self) -> &Filter {
        &self.0.image.filter
    }

    /// Makes a batch of the source one of the image.
    fn take(&self, batch: &mut Batch, follows: bool) -> Result<()> {
        if self.0.image.passes(batch) {
            return Ok(());
        }
        let mut pass = Pass::default();
        let done = batch.edit(|row, draft| self.0.image.of(row, follows, draft, &mut pass));
        self.tell(&pass);
        done
    }

    /// Leaves out what a sink holds beside the image.
    fn look(&self, batch: &mut Batch) -> Result<()> {
        if self.0.image.passes(batch) {
            return Ok(());
        }
        let mut pass = Pass::default();
        batch.edit(|row, _| Ok(if self.0.image.holds(row, &mut pass)? { Edit::Keep } else { Edit::LeaveOut }))
    }

    fn tell(&self, pass: &Pass) {
        let stream = &self.0.stream;
        for (why, count) in &pass.counts {
            telemetry::left_out(stream, why.name(), *count);
        }
        let unreadable = pass.counts.iter().any(|(why, _)| *why == Why::NotJson);
        if !unreadable && pass.families.is_empty() {
            return;
        }
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        if unreadable && told.insert(String::new()) {
            telemetry::not_json(stream);
        }
        for family in &pass.families {
            if told.len() <= FAMILIES && told.insert(family.clone()) {
                telemetry::unknown_family(stream, family);
            }
        }
    }
}

struct FilteredSource {
    inner: Arc<dyn Source>,
    edge: Edge,
}

impl Source for FilteredSource {
    fn head(&self) -> Fut<'_, Checkpoint> {
        self.inner.head()
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        self.inner.pin()
    }

    fn repin(&self) -> Fut<'_, Checkpoint> {
        self.inner.repin()
    }

    fn keep<'a>(&'a self, from: &'a Checkpoint) -> Fut<'a, ()> {
        self.inner.keep(from)
    }

    fn strained(&self) -> bool {
        self.inner.strained()
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async move {
            let inner = self.inner.tail(from, pool).await?;
            Ok(Box::new(FilteredTail { inner, edge: self.edge.clone() }) as Box<dyn Tail>)
        })
    }

    fn concern(&self) -> Option<String> {
        self.inner.concern()
    }
}

struct FilteredTail {
    inner: Box<dyn Tail>,
    edge: Edge,
}

impl Tail for FilteredTail {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(async {
            let mut batch = self.inner.next().await?;
            // Nothing is awaited from here on, so a batch that was taken is never lost on the way.
            self.edge.take(&mut batch, true)?;
            Ok(batch)
        })
    }

    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()> {
        self.inner.release(upto)
    }
}

/// A store that is shared, or a view that is ours alone.
enum Holder {
    Shared(Arc<dyn Store>),
    Own(Box<dyn Store>),
}

impl Holder {
    fn get(&self) -> &dyn Store {
        match self {
            Self::Shared(store) => store.as_ref(),
            Self::Own(store) => store.as_ref(),
        }
    }
}

struct SourceStore {
    inner: Holder,
    edge: Edge,
}

impl Store for SourceStore {
    fn begin(&self) -> Fut<'_, ()> {
        self.inner.get().begin()
    }

    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        self.inner.get().tables()
    }

    fn ranges(&self, count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(async move {
            let store = self.inner.get();
            let ranges = store.ranges(count).await?;
            if !self.edge.0.image.ruled {
                return Ok(ranges);
            }
            let names: Vec<String> = ranges.into_iter().map(|range| range.name).collect();
            let Some(names) = cut::told(&names, |key| !matches!(self.edge.filter().say(key), Say::Leave(_))) else {
                return store.ranges(1).await;
            };
            let mut ranges = Vec::with_capacity(names.len());
            for name in &names {
                ranges.push(store.range(name).await?);
            }
            Ok(ranges)
        })
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        self.inner.get().range(name)
    }

    fn scan<'a>(&'a self, range: &'a Range, after: &'a Position, batch: Batch, fill_bytes: usize) -> Fut<'a, Batch> {
        Box::pin(async move {
            let (mut page, mut at, mut fill) = (batch, after.clone(), fill_bytes);
            loop {
                page = self.inner.get().scan(range, &at, page, fill).await?;
                self.edge.take(&mut page, false)?;
                let behind = page.forget_left_out();
                at = page.upto().clone();
                if at == Position::End {
                    return Ok(page);
                }
                // Where a page ends is written down at the sink, so it must not be the key of what was left out.
                if !page.is_empty() {
                    page.end_with_last_change(behind);
                    return Ok(page);
                }
                page.unmark();
                fill = fill.max(PAGE_BYTES);
            }
        })
    }

    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        Box::pin(async move {
            let (filter, mut scratch) = (self.edge.filter(), Vec::new());
            let mut rows = if filter.renames() {
                let keys: Vec<Vec<u8>> =
                    keys.iter().filter_map(|key| Some(filter.source_key(key, &mut scratch)?.to_vec())).collect();
                let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                self.inner.get().get(table, &keys, batch).await?
            } else {
                self.inner.get().get(table, keys, batch).await?
            };
            self.edge.take(&mut rows, false)?;
            rows.forget_left_out();
            Ok(rows)
        })
    }

    fn visible(&self) -> Fut<'_, ()> {
        self.inner.get().visible()
    }

    fn frozen(&self) -> Fut<'_, Option<Box<dyn Store>>> {
        Box::pin(async {
            let frozen = self.inner.get().frozen().await?;
            let edge = self.edge.clone();
            Ok(frozen.map(|inner| Box::new(Self { inner: Holder::Own(inner), edge }) as Box<dyn Store>))
        })
    }
}

struct SinkStore {
    inner: Arc<dyn Store>,
    edge: Edge,
}

impl Store for SinkStore {
    fn begin(&self) -> Fut<'_, ()> {
        self.inner.begin()
    }

    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        self.inner.tables()
    }

    fn ranges(&self, count: usize) -> Fut<'_, Vec<Range>> {
        self.inner.ranges(count)
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        self.inner.range(name)
    }

    fn scan<'a>(&'a self, range: &'a Range, after: &'a Position, batch: Batch, fill_bytes: usize) -> Fut<'a, Batch> {
        Box::pin(async move {
            let mut page = self.inner.scan(range, after, batch, fill_bytes).await?;
            self.edge.look(&mut page)?;
            page.forget_left_out();
            Ok(page)
        })
    }

    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        Box::pin(async move {
            let mut rows = self.inner.get(table, keys, batch).await?;
            self.edge.look(&mut rows)?;
            rows.forget_left_out();
            Ok(rows)
        })
    }

    fn visible(&self) -> Fut<'_, ()> {
        self.inner.visible()
    }
}
