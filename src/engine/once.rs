//! A copy without a tail: one pass, then the sweep, then out.
//!
//! Needs nothing from the source but reading. Where the source has a view of one moment, the copy is that moment; a copy
//! that was interrupted is finished, and then compared once more, because its earlier part is of an earlier moment.

use std::sync::Arc;

use crate::bridge::Bridge;
use crate::engine::attempt::{Attempt, Event};
use crate::engine::desk::Desk;
use crate::engine::heal::{Comparer, Tally, Walk};
use crate::engine::load;
use crate::engine::plan;
use crate::engine::report;
use crate::engine::status::State;
use crate::error::{Error, Result};
use crate::model::{Batch, Checkpoint, Micros, PartitionId, Position};
use crate::store::Store;

/// What a copy came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Copied {
    /// Items in the destination because of it.
    pub items: u64,
    /// Bytes of their keys and bodies.
    pub bytes: u64,
    /// Items left out because they had expired.
    pub skipped_expired: u64,
    /// Items left out because the configuration excludes them.
    pub skipped_excluded: u64,
    /// Items removed from the destination because the source does not have them.
    pub removed: u64,
    /// Items that only the destination has and that were left there (`force` without `prune`).
    pub kept: u64,
}

/// Copies; `None` if the pipeline was told to stop on the way.
pub(crate) async fn run(attempt: &mut Attempt<'_>, lanes: &[Checkpoint]) -> Result<Option<Copied>> {
    let pipeline = attempt.pipeline;
    attempt.state(State::Snapshot, "copying");
    let newest = plan::newest(lanes, "!clone/");
    let (name, unfinished) = (plan::clone(newest), newest > 0);
    let begun = unfinished && lanes.iter().all(|lane| lane.names(&name) && *lane.get(&name) == Position::Start);
    if !begun {
        pipeline.source_store.begin().await?;
    }
    let tables = pipeline.source_store.tables().await?;
    let first = !lanes.iter().any(|lane| lane.names(&plan::loaded())) && !attempt.foreign;
    pipeline.sink.prepare(&tables, first).await?;
    let (store, one_moment) = load::view(pipeline).await?;
    let walk = if begun { name } else { begin(attempt, lanes, newest + 1).await? };
    let mut copied = Copied::default();
    let (bridge, now) = (pipeline.bridge.as_ref(), pipeline.clock.wall());
    if !load::copy(attempt, &walk, &store, &mut |page| count(bridge, now, page, &mut copied)).await? {
        attempt.drain().await?;
        return Ok(None);
    }
    pipeline.sink.settle(&tables).await?;
    // What one pass over one moment brought to an empty destination is that moment, and nothing can be there beside it.
    if !(one_moment && first && !begun) {
        let tally = compare(attempt, &store, begun).await?;
        copied.removed = tally.extra - tally.kept;
        copied.kept = tally.kept;
    }
    load::finish(attempt, &[(walk, Position::End), (plan::loaded(), Position::End)]).await?;
    attempt.drain().await?;
    Ok(Some(copied))
}

fn count(bridge: &dyn Bridge, now: Micros, page: &Batch, copied: &mut Copied) -> Result<()> {
    copied.skipped_excluded += page.forgotten();
    for row in page.rows() {
        if bridge.expired(row, false, now)? {
            copied.skipped_expired += 1;
        } else {
            copied.items += 1;
            copied.bytes += (row.key.len() + row.body.len()) as u64;
        }
    }
    Ok(())
}

/// Names the ranges of a new copy in every lane before the first page is read.
async fn begin(attempt: &mut Attempt<'_>, lanes: &[Checkpoint], number: u64) -> Result<PartitionId> {
    let walk = plan::clone(number);
    let mut upto = vec![(walk.clone(), Position::Start)];
    for range in attempt.pipeline.source_store.ranges(attempt.pipeline.settings.parallel.clamp(1, 64)).await? {
        upto.push((plan::range(&walk, &range.name), Position::Start));
    }
    // A copy without a pin ends whatever followed a pin before: a later `run` pins again and heals by difference.
    let names = lanes.iter().flat_map(|lane| lane.iter().map(|(partition, _)| partition));
    let forget: Vec<_> = names.filter(|name| **name != plan::loaded()).cloned().collect();
    let seq = attempt.dispatcher.mark(&forget, &upto)?;
    attempt.passed(seq).await?;
    Ok(walk)
}

/// The sweep, and the comparison of a copy that was interrupted. There is no tail, so every window is empty.
async fn compare(attempt: &mut Attempt<'_>, store: &Arc<dyn Store>, again: bool) -> Result<Tally> {
    let pipeline = attempt.pipeline;
    let desk = Desk::default();
    let mut comparer = Comparer {
        pipeline,
        desk: &desk,
        pool: attempt.pool.clone(),
        source: Arc::clone(store),
        live: false,
        keep_extra: attempt.foreign && !pipeline.settings.prune,
        tally: Tally::default(),
    };
    let work = async {
        if again {
            let ranges = store.ranges(1).await?.into_iter().map(|range| (range, Position::Start)).collect();
            comparer.over_source(Walk { name: None, ranges }).await?;
        }
        let ranges = pipeline.sink_store.ranges(1).await?.into_iter().map(|range| (range, Position::Start)).collect();
        comparer.over_sink(Walk { name: None, ranges }).await?;
        Ok(comparer.tally)
    };
    let mut work = std::pin::pin!(work);
    let tally = loop {
        attempt.dispatcher.advance();
        desk.serve(&mut attempt.dispatcher)?;
        attempt.tick();
        let came = async {
            tokio::select! {
                biased;
                tally = &mut work => tally.map(Some),
                () = desk.placed() => Ok(None),
            }
        };
        if let Event::Came(Some(tally)) = attempt.event(came).await? {
            break tally;
        }
        if pipeline.is_stopping() {
            return Err(Error::stopped());
        }
    };
    report::healed(pipeline.settings.stream.as_str(), &tally);
    let last = attempt.dispatcher.frontier().last_seq();
    attempt.dispatcher.flush()?;
    attempt.passed(last).await?;
    Ok(tally)
}
