//! The first copy: every range of the source from its cursor to its end, several at a time, while the tail waits.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::engine::attempt::{Attempt, Event};
use crate::engine::pipeline::Pipeline;
use crate::engine::plan;
use crate::engine::report;
use crate::error::Result;
use crate::model::{Batch, PartitionId, Position};
use crate::pool::Pool;
use crate::source::Fut;
use crate::store::{Range, Store};

/// LIMIT: ranges read at the same time. One sink connection is saturated by less, and each holds a batch of the pool.
pub(crate) const AT_ONCE_MAX: usize = 8;

/// Copies what is missing of a generation; false if the pipeline was told to stop on the way.
pub(crate) async fn run(attempt: &mut Attempt<'_>, generation: u64) -> Result<bool> {
    let walk = plan::snapshot(generation);
    let (store, _) = view(attempt.pipeline).await?;
    if !copy(attempt, &walk, &store, &mut |_| Ok(())).await? {
        return Ok(false);
    }
    let finished = [(walk, Position::End), (plan::loaded(), Position::End)];
    finish(attempt, &finished).await?;
    let walk = attempt.pipeline.status.get().walk;
    report::loaded(attempt.pipeline.settings.stream.as_str(), walk.rows, walk.bytes);
    Ok(true)
}

/// The source as it is at one moment, where it has such a view: then a range is one stream instead of many looks. The view
/// is taken after the pin, so that whatever it does not show will come out of the tail. True: it is of one moment.
pub(crate) async fn view(pipeline: &Pipeline) -> Result<(Arc<dyn Store>, bool)> {
    let store = &pipeline.source_store;
    Ok(match store.frozen().await? {
        Some(frozen) => (Arc::from(frozen), true),
        None => (Arc::clone(store), false),
    })
}

/// Marks a walk as finished in every lane, and drops the names of its ranges.
pub(crate) async fn finish(attempt: &mut Attempt<'_>, finished: &[(PartitionId, Position)]) -> Result<()> {
    let frontier = attempt.dispatcher.frontier().checkpoint().clone();
    let mut forget = Vec::new();
    for (walk, _) in finished {
        forget.extend(plan::ranges(&frontier, walk).map(|(name, _)| plan::range(walk, name)));
    }
    let seq = attempt.dispatcher.mark(&forget, finished)?;
    attempt.passed(seq).await
}

/// Copies every range that the lanes remember of a walk, from where it stands; `look` sees each page.
pub(crate) async fn copy(
    attempt: &mut Attempt<'_>,
    walk: &PartitionId,
    store: &Arc<dyn Store>,
    look: &mut (dyn FnMut(&Batch) -> Result<()> + Send),
) -> Result<bool> {
    let mut waiting = Vec::new();
    let frontier = attempt.dispatcher.frontier().checkpoint().clone();
    let mut done = 0;
    for (name, position) in plan::ranges(&frontier, walk) {
        if *position == Position::End {
            done += 1;
        } else {
            waiting.push((store.range(name).await?, position.clone()));
        }
    }
    attempt.pipeline.status.update(|status| {
        status.walk.ranges = waiting.len() + done;
        status.walk.ranges_done = done;
    });
    waiting.reverse();
    let at_once = attempt.pipeline.settings.parallel.clamp(1, AT_ONCE_MAX).min(attempt.pool.count() / 2).max(1);
    let mut pages = FuturesUnordered::new();
    loop {
        while pages.len() < at_once {
            let Some((range, after)) = waiting.pop() else { break };
            pages.push(page(Arc::clone(store), attempt.pool.clone(), walk.clone(), range, after));
        }
        if pages.is_empty() {
            break;
        }
        attempt.dispatcher.advance();
        attempt.tick();
        let next = async { pages.next().await.transpose() };
        let (range, batch) = match attempt.event(next).await? {
            Event::Came(Some(page)) => page,
            Event::Came(None) | Event::Look => continue,
            Event::Stop => return Ok(false),
        };
        let upto = batch.upto().clone();
        attempt.pipeline.status.update(|status| {
            status.walk.rows += batch.len() as u64;
            status.walk.bytes += batch.bytes() as u64;
            status.walk.ranges_done += usize::from(upto == Position::End);
        });
        look(&batch)?;
        attempt.dispatcher.batch(batch)?;
        if upto != Position::End {
            pages.push(page(Arc::clone(store), attempt.pool.clone(), walk.clone(), range, upto));
        }
    }
    attempt.dispatcher.flush()?;
    let last = attempt.dispatcher.frontier().last_seq();
    attempt.passed(last).await?;
    Ok(true)
}

/// Reads one page.
fn page(
    store: Arc<dyn Store>,
    pool: Pool,
    walk: PartitionId,
    range: Range,
    after: Position,
) -> Fut<'static, (Range, Batch)> {
    Box::pin(async move {
        let partition = plan::range(&walk, &range.name);
        let batch = Attempt::page(&pool, &partition, &after, crate::model::Steps::Key).await;
        let batch = store.scan(&range, &after, batch, pool.batch_bytes()).await?;
        Ok((range, batch))
    })
}
