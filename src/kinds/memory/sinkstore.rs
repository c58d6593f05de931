//! Reading the rows of a memory sink.

use std::sync::Arc;

use crate::error::Result;
use crate::kinds::memory::MemorySink;
use crate::kinds::memory::faults::{Site, pass};
use crate::kinds::memory::ranges;
use crate::model::{Batch, Op, Position, Table};
use crate::source::Fut;
use crate::store::{Range, Store};

impl MemorySink {
    /// A reader of this sink's rows.
    pub fn store(&self) -> Box<dyn Store> {
        Box::new(Reader { sink: self.clone() })
    }
}

struct Reader {
    sink: MemorySink,
}

impl Reader {
    async fn pass(&self, site: Site) -> Result<()> {
        pass(&self.sink.state, |state| &mut state.doors, site).await
    }

    fn table(&self, name: &str) -> Arc<Table> {
        let known = self.sink.with_data(|_, tables| tables.iter().find(|table| table.name == name).cloned());
        known.unwrap_or_else(|| Arc::new(Table { name: name.to_owned(), shape: vec![] }))
    }

    fn all(&self) -> Vec<Arc<Table>> {
        let mut names: Vec<String> = self.sink.with_data(|rows, tables| {
            rows.keys().map(|(name, _)| name.clone()).chain(tables.iter().map(|table| table.name.clone())).collect()
        });
        names.sort();
        names.dedup();
        names.iter().map(|name| self.table(name)).collect()
    }
}

impl Store for Reader {
    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async move { Ok(self.all()) })
    }

    fn ranges(&self, count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(async move {
            self.pass(Site::Scan).await?;
            let tables = self.all();
            let each = count.div_ceil(tables.len().max(1));
            let cut = |table: &Arc<Table>| {
                self.sink.with_data(|rows, _| {
                    let keys = rows.keys().filter(|(name, _)| *name == table.name).map(|(_, key)| &key[..]);
                    ranges::cut(table, &keys.collect::<Vec<_>>(), each)
                })
            };
            Ok(tables.iter().flat_map(cut).collect())
        })
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        Box::pin(async move {
            self.pass(Site::Scan).await?;
            Ok(Range { name: name.to_owned(), table: self.table(&ranges::read(name)?.table) })
        })
    }

    fn scan<'a>(
        &'a self,
        range: &'a Range,
        after: &'a Position,
        mut batch: Batch,
        fill_bytes: usize,
    ) -> Fut<'a, Batch> {
        Box::pin(async move {
            self.pass(Site::Scan).await?;
            let span = ranges::read(&range.name)?;
            let full = fill_bytes.min(self.sink.lock().page_bytes).max(1);
            let table = batch.table(&range.table);
            self.sink.with_data(|rows, _| {
                let first = (span.table.clone(), span.first.clone());
                for ((name, key), body) in rows.range(first..) {
                    if *name != span.table || span.end.as_ref().is_some_and(|end| key >= end) {
                        break;
                    }
                    if *after != Position::Start && Position::at(key) <= *after {
                        continue;
                    }
                    if batch.bytes() >= full {
                        let last = batch.row(batch.len() - 1).key.to_vec();
                        batch.mark(Position::at(last));
                        return;
                    }
                    batch.push(Op::Put, false, table, key, body, 0);
                }
                batch.mark(Position::End);
            });
            Ok(batch)
        })
    }

    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], mut batch: Batch) -> Fut<'a, Batch> {
        Box::pin(async move {
            self.pass(Site::Get).await?;
            let index = batch.table(table);
            self.sink.with_data(|rows, _| {
                for key in keys {
                    if let Some(body) = rows.get(&(table.name.clone(), key.to_vec())) {
                        batch.push(Op::Put, false, index, key, body, 0);
                    }
                }
            });
            Ok(batch)
        })
    }
}
