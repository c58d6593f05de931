//! Walks over both stores that find what differs and write it, through windows: after a gap, and on request.
//!
//! After a gap the walks are part of the checkpoint (`!snapshot/<n>` over the source, then `!sweep/<n>` over the sink), so a
//! crash in the middle resumes them and no delete is forgotten. A repair on request is simply asked for again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::compare::{self, Difference};
use crate::engine::desk::Desk;
use crate::engine::pipeline::Pipeline;
use crate::engine::plan;
use crate::error::Result;
use crate::model::{Batch, Checkpoint, Op, PartitionId, Position, Steps, Table};
use crate::pool::Pool;
use crate::store::{Range, Store};

/// What walks found and wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// Rows of the source that were compared.
    pub compared: u64,
    /// Rows that the sink did not have.
    pub missing: u64,
    /// Rows that were not equal.
    pub different: u64,
    /// Rows that only the sink had.
    pub extra: u64,
    /// Of those, rows that were left because they may be somebody else's (`force` without `prune`).
    pub kept: u64,
}

impl Tally {
    /// Rows that were written or removed.
    pub fn repaired(&self) -> u64 {
        self.missing + self.different + self.extra - self.kept
    }
}

/// Compares and writes.
pub(crate) struct Comparer<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) desk: &'a Desk,
    pub(crate) pool: Pool,
    /// Where the source's rows are read: its store, or a frozen view of it.
    pub(crate) source: Arc<dyn Store>,
    /// Whether the tail runs, so that rows enter at a point of its stream.
    pub(crate) live: bool,
    /// Extra rows may be somebody else's and stay.
    pub(crate) keep_extra: bool,
    pub(crate) tally: Tally,
}

/// One walk: which marks it writes, and where it stands.
pub(crate) struct Walk {
    /// The mark; `None` for a walk that is not recorded.
    pub(crate) name: Option<PartitionId>,
    pub(crate) ranges: Vec<(Range, Position)>,
}

impl<'a> Comparer<'a> {
    /// Heals a generation from where the checkpoint says that it stands.
    pub(crate) async fn heal(mut self, generation: u64, checkpoint: Checkpoint) -> Result<Tally> {
        let snapshot = plan::snapshot(generation);
        if *checkpoint.get(&snapshot) != Position::End {
            let source = Arc::clone(&self.source);
            let ranges = resumed(&source, &checkpoint, &snapshot).await?;
            self.over_source(Walk { name: Some(snapshot.clone()), ranges }).await?;
            self.finish(&snapshot, &checkpoint).await?;
        }
        let sweep = plan::sweep(generation);
        let sink = Arc::clone(&self.pipeline.sink_store);
        let mut ranges = resumed(&sink, &checkpoint, &sweep).await?;
        if plan::ranges(&checkpoint, &sweep).next().is_none() {
            ranges = self.fresh(&sink).await?;
            let marks = ranges.iter().map(|(range, _)| (plan::range(&sweep, &range.name), Position::Start));
            self.desk.mark(Vec::new(), marks.collect()).await?;
        }
        self.over_sink(Walk { name: Some(sweep.clone()), ranges }).await?;
        self.finish(&sweep, &checkpoint).await?;
        Ok(self.tally)
    }

    /// Compares everything once and writes what differs; done when that is durable.
    pub(crate) async fn repair(mut self) -> Result<Tally> {
        let (source, sink) = (Arc::clone(&self.source), Arc::clone(&self.pipeline.sink_store));
        let ranges = self.fresh(&source).await?;
        self.over_source(Walk { name: None, ranges }).await?;
        let ranges = self.fresh(&sink).await?;
        self.over_sink(Walk { name: None, ranges }).await?;
        // Whoever asked looks at the sink next, so what was written is durable before he is told.
        self.desk.mark(Vec::new(), Vec::new()).await?;
        Ok(self.tally)
    }

    async fn fresh(&self, store: &Arc<dyn Store>) -> Result<Vec<(Range, Position)>> {
        Ok(store.ranges(1).await?.into_iter().map(|range| (range, Position::Start)).collect())
    }

    /// Walks over the source: what the sink does not have, or has otherwise, is written.
    pub(crate) async fn over_source(&mut self, walk: Walk) -> Result<()> {
        for (range, mut after) in walk.ranges {
            while after != Position::End {
                let before = after.clone();
                after = self.source_page(&range, &before).await?;
                self.mark(walk.name.as_ref(), &range, &after).await?;
            }
        }
        Ok(())
    }

    /// Walks over the sink: what the source does not have is removed.
    pub(crate) async fn over_sink(&mut self, walk: Walk) -> Result<()> {
        let tables: HashMap<_, _> =
            self.source.tables().await?.into_iter().map(|table| (table.name.clone(), table)).collect();
        for (range, mut after) in walk.ranges {
            // A table that is not within the stream's scope is none of our business.
            let Some(table) = tables.get(&range.table.name) else { continue };
            while after != Position::End {
                let before = after.clone();
                after = self.sink_page(&range, table, &before).await?;
                self.mark(walk.name.as_ref(), &range, &after).await?;
            }
        }
        Ok(())
    }

    async fn source_page(&mut self, range: &Range, after: &Position) -> Result<Position> {
        self.open().await?;
        let page = self.scan(&Arc::clone(&self.source), range, after).await?;
        let keys: Vec<&[u8]> = page.rows().map(|row| row.key).collect();
        let held = self.pipeline.sink_store.get(&range.table, &keys, Batch::unpooled()).await?;
        let now = self.pipeline.clock.wall();
        let found = compare::against_sink(&page, &held, self.pipeline.bridge.as_ref(), now)?;
        self.tally.compared += page.len() as u64;
        for (_, difference) in &found {
            match difference {
                Difference::Missing => self.tally.missing += 1,
                Difference::Different => self.tally.different += 1,
                Difference::Extra => self.tally.extra += 1,
            }
        }
        let mut rows = self.repair_batch().await;
        let table = rows.table(&range.table);
        for (index, difference) in found {
            let row = page.row(index);
            match difference {
                Difference::Extra => rows.push(Op::Delete, false, table, row.key, &[], row.at),
                _ => rows.push(Op::Put, false, table, row.key, row.body, row.at),
            }
        }
        let upto = page.upto().clone();
        self.write(rows, &range.table).await?;
        Ok(upto)
    }

    async fn sink_page(&mut self, range: &Range, table: &Arc<Table>, after: &Position) -> Result<Position> {
        self.open().await?;
        let sink = Arc::clone(&self.pipeline.sink_store);
        let page = self.scan(&sink, range, after).await?;
        let keys: Vec<&[u8]> = page.rows().map(|row| row.key).collect();
        let held = self.source.get(table, &keys, Batch::unpooled()).await?;
        let now = self.pipeline.clock.wall();
        let found = compare::extras(&page, &held, self.pipeline.bridge.as_ref(), now)?;
        let counted = found.iter().filter(|(_, expired)| !expired).count() as u64;
        self.tally.extra += counted;
        let mut rows = self.repair_batch().await;
        if self.keep_extra {
            self.tally.kept += counted;
        } else {
            let number = rows.table(table);
            for (index, _) in found {
                rows.push(Op::Delete, false, number, page.row(index).key, &[], 0);
            }
        }
        let upto = page.upto().clone();
        self.write(rows, table).await?;
        Ok(upto)
    }

    /// Lets rows in at a point of the stream; those that the tail patched meanwhile are read again until they hold still.
    async fn write(&self, mut rows: Batch, table: &Arc<Table>) -> Result<()> {
        while !rows.is_empty() {
            let keys: Vec<Vec<u8>> = rows.rows().map(|row| row.key.to_vec()).collect();
            let until = if self.live { self.pipeline.source.head().await? } else { Checkpoint::default() };
            // Rows that enter together are a whole.
            rows.mark(Position::End);
            let again = self.desk.write(until, rows).await?;
            rows = self.repair_batch().await;
            if again.is_empty() {
                break;
            }
            self.open().await?;
            let keys: Vec<&[u8]> = again.iter().map(|&index| keys[index as usize].as_slice()).collect();
            let images = self.source.get(table, &keys, Batch::unpooled()).await?;
            let images_by_key = compare::by_key(&images);
            let number = rows.table(table);
            for key in keys {
                match images_by_key.get(key) {
                    Some(&image) => rows.push(Op::Put, false, number, key, images.row(image).body, 0),
                    None => rows.push(Op::Delete, false, number, key, &[], 0),
                }
            }
        }
        Ok(())
    }

    /// Opens a window, and makes sure that what was routed before it can be seen by the reads that follow.
    async fn open(&self) -> Result<()> {
        if self.live {
            self.desk.open().await?;
            self.pipeline.source.head().await?;
            self.source.visible().await?;
        }
        Ok(())
    }

    async fn scan(&self, store: &Arc<dyn Store>, range: &Range, after: &Position) -> Result<Batch> {
        let mut page = Batch::unpooled();
        page.begin(&PartitionId::new("!repair"), after.clone(), Steps::Key);
        store.scan(range, after, page, self.pool.batch_bytes() / 2).await
    }

    async fn repair_batch(&self) -> Batch {
        let mut rows = self.pool.take().await;
        rows.begin(&PartitionId::new("!repair"), Position::Start, Steps::Ordinal);
        rows
    }

    async fn mark(&self, walk: Option<&PartitionId>, range: &Range, upto: &Position) -> Result<()> {
        match walk {
            Some(walk) => self.desk.mark(Vec::new(), vec![(plan::range(walk, &range.name), upto.clone())]).await,
            None => Ok(()),
        }
    }

    async fn finish(&self, walk: &PartitionId, checkpoint: &Checkpoint) -> Result<()> {
        let names = plan::ranges(checkpoint, walk).map(|(name, _)| plan::range(walk, name)).collect();
        self.desk.mark(names, vec![(walk.clone(), Position::End)]).await
    }
}

/// The ranges of a walk that the checkpoint names, with how far they are.
async fn resumed(
    store: &Arc<dyn Store>,
    checkpoint: &Checkpoint,
    walk: &PartitionId,
) -> Result<Vec<(Range, Position)>> {
    let mut ranges = Vec::new();
    for (name, position) in plan::ranges(checkpoint, walk) {
        if *position != Position::End {
            ranges.push((store.range(name).await?, position.clone()));
        }
    }
    Ok(ranges)
}
