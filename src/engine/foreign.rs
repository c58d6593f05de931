//! Whether a destination holds what the stream that comes to it did not write.

use crate::engine::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::model::{Batch, PartitionId, Position, Steps};
use crate::store::{Range, Store};

/// LIMIT: bytes of a page. Rows that no stream takes may stand before those that one would, and such pages are read on.
const PAGE_BYTES: usize = 256 << 10;

/// Whether the destination holds data although it does not know the stream; refused without `force`.
pub(crate) async fn holds_data(pipeline: &Pipeline) -> Result<bool> {
    let store: &dyn Store = pipeline.sink_store.as_ref();
    for range in store.ranges(1).await? {
        if !has_rows(store, &range).await? {
            continue;
        }
        if pipeline.settings.force {
            return Ok(true);
        }
        if pipeline.sink.inspect(&pipeline.settings.stream).await?.is_some() {
            return Err(Error::transient("open the destination: another process began to fill it in the meantime"));
        }
        let table = &range.table.name;
        let what = if table.is_empty() { "items".to_owned() } else { format!("rows in {table}") };
        return Err(Error::config(format!(
            "open the destination of {}: it already holds {what} that this stream did not write; \
             empty it, or set `force: true` to write over it",
            pipeline.settings.stream
        )));
    }
    Ok(false)
}

/// Whether a range of a store holds a row that is within the stream's scope.
pub async fn has_rows(store: &dyn Store, range: &Range) -> Result<bool> {
    let mut after = Position::Start;
    // One row tells, nearly always.
    let mut fill = 1;
    while after != Position::End {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("!repair"), after.clone(), Steps::Key);
        let page = store.scan(range, &after, batch, fill).await?;
        if !page.is_empty() {
            return Ok(true);
        }
        after = page.upto().clone();
        fill = PAGE_BYTES;
    }
    Ok(false)
}
