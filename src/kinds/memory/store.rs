//! Reading the rows of a memory source, as they are or as they were at one moment.
//!
//! A reader may lag behind the log (`World::with_lagging_readers`): then `visible` waits until the owner of the world lets
//! readers catch up. A frozen view never moves.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kinds::memory::World;
use crate::kinds::memory::faults::{Site, pass};
use crate::kinds::memory::ranges;
use crate::kinds::memory::world::{State, Version, at};
use crate::model::{Batch, Op, Position, Table};
use crate::source::Fut;
use crate::store::{Range, Store};

impl World {
    /// A reader of this world's rows.
    pub fn store(&self) -> Box<dyn Store> {
        Box::new(Reader { world: self.clone(), moment: None })
    }

    fn table_index(&self, name: &str) -> Result<u16> {
        let index = self.tables.iter().position(|table| table.name == name);
        let index = index.ok_or_else(|| Error::corrupt(format!("read a memory store: it has no table {name:?}")))?;
        Ok(u16::try_from(index).expect("a world has few tables"))
    }
}

struct Reader {
    world: World,
    /// The transaction up to which a frozen view sees.
    moment: Option<u64>,
}

impl Reader {
    async fn pass(&self, site: Site) -> Result<()> {
        pass(&self.world.state, |state| &mut state.doors, site).await
    }

    fn moment(&self, state: &State) -> u64 {
        self.moment.unwrap_or(state.data.visible)
    }
}

fn key_of<'a>(((_, key), _): &(&'a (u16, Vec<u8>), &'a Vec<Version>)) -> &'a [u8] {
    key
}

impl Store for Reader {
    fn tables(&self) -> Fut<'_, Vec<Arc<Table>>> {
        Box::pin(async move { Ok(self.world.tables.to_vec()) })
    }

    fn ranges(&self, count: usize) -> Fut<'_, Vec<Range>> {
        Box::pin(async move {
            self.pass(Site::Scan).await?;
            let state = self.world.lock();
            let each = count.div_ceil(self.world.tables.len());
            let mut all = vec![];
            for (index, table) in (0u16..).zip(self.world.tables.iter()) {
                let rows = state.data.rows.range((index, vec![])..(index + 1, vec![]));
                let keys: Vec<_> = rows.map(|row| key_of(&row)).filter(|key| !key.is_empty()).collect();
                all.extend(ranges::cut(table, &keys, each));
            }
            Ok(all)
        })
    }

    fn range<'a>(&'a self, name: &'a str) -> Fut<'a, Range> {
        Box::pin(async move {
            self.pass(Site::Scan).await?;
            let index = self.world.table_index(&ranges::read(name)?.table)?;
            Ok(Range { name: name.to_owned(), table: Arc::clone(&self.world.tables[usize::from(index)]) })
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
            let index = self.world.table_index(&span.table)?;
            let state = self.world.lock();
            let moment = self.moment(&state);
            let full = fill_bytes.min(state.batch_bytes).max(1);
            let table = batch.table(&range.table);
            for ((_, key), versions) in state.data.rows.range((index, span.first)..(index + 1, vec![])) {
                if span.end.as_ref().is_some_and(|end| key >= end) {
                    break;
                }
                if Position::at(key) <= *after && *after != Position::Start {
                    continue;
                }
                let Some(body) = at(versions, moment) else { continue };
                if batch.bytes() >= full {
                    let last = batch.row(batch.len() - 1).key.to_vec();
                    batch.mark(Position::at(last));
                    return Ok(batch);
                }
                batch.push(Op::Put, false, table, key, body, 0);
            }
            batch.mark(Position::End);
            Ok(batch)
        })
    }

    fn get<'a>(&'a self, table: &'a Arc<Table>, keys: &'a [&'a [u8]], mut batch: Batch) -> Fut<'a, Batch> {
        Box::pin(async move {
            self.pass(Site::Get).await?;
            let index = self.world.table_index(&table.name)?;
            let state = self.world.lock();
            let moment = self.moment(&state);
            let in_batch = batch.table(table);
            for key in keys {
                let versions = state.data.rows.get(&(index, key.to_vec()));
                if let Some(body) = versions.and_then(|versions| at(versions, moment)) {
                    batch.push(Op::Put, false, in_batch, key, body, 0);
                }
            }
            Ok(batch)
        })
    }

    fn visible(&self) -> Fut<'_, ()> {
        Box::pin(async move {
            let told = self.world.lock().told;
            self.world.seen(told).await;
            Ok(())
        })
    }

    fn frozen(&self) -> Fut<'_, Option<Box<dyn Store>>> {
        Box::pin(async move {
            let state = self.world.lock();
            let view = Self { world: self.world.clone(), moment: Some(state.data.visible) };
            Ok(state.freezes.then(|| Box::new(view) as Box<dyn Store>))
        })
    }
}
