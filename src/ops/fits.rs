//! What a first copy into DynamoDB will cost, and what cannot be written there, found before anything is.
//!
//! A table takes no item of more than 400 KiB and no key of more than 1016 bytes, and a copy that finds that out at its
//! millionth item has cost a day. So the source is read once more before its first copy, unless it is such a table itself.

use std::sync::Arc;

use crate::bridge::{Bridge, Verdict};
use crate::engine::clock::{Clock as _, RealClock};
use crate::error::{Error, Result};
use crate::kinds::dynamodb::units;
use crate::model::{Batch, Kind, Layout, Micros, PartitionId, Position, Steps, Table, shown};
use crate::source::Fut;
use crate::store::{Range, Store};

/// LIMIT: bytes of a page.
const PAGE_BYTES: usize = 256 << 10;
/// LIMIT: keys that are named.
const NAMED: usize = 10;

/// What a walk over a source has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Items that would be written.
    pub items: u64,
    /// Write units that this takes.
    pub units: u64,
    /// Items that cannot be written.
    pub unfit: u64,
    /// Some of them, as they are called before people.
    pub named: Vec<String>,
}

/// Whether the first copy between two kinds is to be reckoned up.
pub fn concerns(source: Kind, sink: Kind, layout: Layout) -> bool {
    sink == Kind::Dynamodb && source != Kind::Dynamodb && layout == Layout::Teleport
}

/// Walks over a source.
///
/// # Errors
/// When it cannot be read.
pub async fn cost(store: &dyn Store, bridge: &dyn Bridge) -> Result<Cost> {
    let (mut cost, mut body) = (Cost::default(), Vec::new());
    let now = RealClock::default().wall();
    for range in store.ranges(1).await? {
        let mut after = Position::Start;
        while after != Position::End {
            let mut page = Batch::unpooled();
            page.begin(&PartitionId::new("!repair"), after.clone(), Steps::Key);
            let page = store.scan(&range, &after, page, PAGE_BYTES).await?;
            add(&mut cost, &page, bridge, now, &mut body)?;
            after = page.upto().clone();
        }
    }
    Ok(cost)
}

fn add(cost: &mut Cost, page: &Batch, bridge: &dyn Bridge, now: Micros, body: &mut Vec<u8>) -> Result<()> {
    for row in page.rows() {
        body.clear();
        if bridge.translate(row, now, body)? != Verdict::Body {
            continue;
        }
        cost.items += 1;
        match units::size(row.key, body)?.filter(|size| units::fits(*size)) {
            Some(size) => cost.units += units::of_item(size as u64),
            None => {
                cost.unfit += 1;
                if cost.named.len() < NAMED {
                    cost.named.push(shown(&row.table.name, row.key));
                }
            }
        }
    }
    Ok(())
}

impl Cost {
    /// What cannot be written, in one sentence; `None` if everything can.
    pub fn refusal(&self) -> Option<String> {
        (self.unfit > 0).then(|| {
            format!(
                "{} items are larger than the 400 KiB that DynamoDB takes, or their keys than 1016 bytes of UTF-8: {}",
                self.unfit,
                self.named.join(", ")
            )
        })
    }
}

/// A source whose first copy begins only when all of it can be written.
pub struct Fitting {
    inner: Arc<dyn Store>,
    bridge: Arc<dyn Bridge>,
}

impl Fitting {
    /// Of a source, and what lies between it and the table.
    pub fn new(inner: Arc<dyn Store>, bridge: Arc<dyn Bridge>) -> Self {
        Self { inner, bridge }
    }
}

impl Store for Fitting {
    fn begin(&self) -> Fut<'_, ()> {
        Box::pin(async {
            self.inner.begin().await?;
            match cost(self.inner.as_ref(), self.bridge.as_ref()).await?.refusal() {
                None => Ok(()),
                Some(what) => Err(Error::config(format!("begin the copy: {what}; leave them out with `exclude`"))),
            }
        })
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
        self.inner.scan(range, after, batch, fill_bytes)
    }

    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], batch: Batch) -> Fut<'a, Batch> {
        self.inner.get(table, keys, batch)
    }

    fn visible(&self) -> Fut<'_, ()> {
        self.inner.visible()
    }

    fn frozen(&self) -> Fut<'_, Option<Box<dyn Store>>> {
        self.inner.frozen()
    }
}
