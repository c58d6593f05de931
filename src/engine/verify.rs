//! Proof that two stores are equal, while both may change: reads only, in constant memory.
//!
//! A difference counts when the source gave the same answer before and after the frontier passed a fresh head, and the sink
//! still differs. A key that moves at every look is *unsettled*, not different. When nobody advances the frontier, the looks
//! are judged as they are, and the answer says so (`live: false`).

use std::sync::Arc;
use std::time::Duration;

use crate::bridge::Bridge;
use crate::engine::clock::Clock;
use crate::engine::compare::{self, Difference};
use crate::error::{Error, Result};
use crate::model::{Batch, Checkpoint, PartitionId, Position, Steps, StreamId, Table};
use crate::sink::Sink;
use crate::source::Source;
use crate::store::{Range, Store};

/// LIMIT: looks at a key that moves. A key that changes ten times between ten looks is hot; it is counted, not judged.
const LOOKS: u32 = 10;

/// LIMIT: bytes of a page. Four pages are held at a time.
const PAGE_BYTES: usize = 256 << 10;

/// Both sides of what is compared.
pub struct Sides {
    /// The stream whose frontier tells how far the sink is.
    pub stream: StreamId,
    /// The source's control side, for heads.
    pub source: Arc<dyn Source>,
    /// The source's present state.
    pub source_store: Arc<dyn Store>,
    /// The sink's control side, for the frontier.
    pub sink: Arc<dyn Sink>,
    /// The sink's present state.
    pub sink_store: Arc<dyn Store>,
    /// What lies between.
    pub bridge: Arc<dyn Bridge>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How long the frontier may stand still before nobody is taken to advance it.
    pub patience: Duration,
}

/// What a comparison came to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Whether somebody advanced the frontier meanwhile.
    pub live: bool,
    /// Rows of the source that were compared.
    pub compared: u64,
    /// Rows that the sink does not have.
    pub missing: u64,
    /// Rows that only the sink has.
    pub extra: u64,
    /// Rows that are not equal.
    pub different: u64,
    /// Rows that moved at every look.
    pub unsettled: u64,
    /// The source's head at the end.
    pub head: Checkpoint,
    /// Some of the keys that differ, each with its table.
    pub samples: Vec<(String, Vec<u8>, Difference)>,
}

impl Verdict {
    /// Nothing missing, extra or different.
    pub fn equal(&self) -> bool {
        self.missing + self.extra + self.different == 0
    }
}

/// Compares everything. `show`: how many differing keys are named; `progress` hears of rows compared.
pub async fn verify(sides: &Sides, show: usize, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Verdict> {
    let mut verdict = Verdict { live: sides.sink.inspect(&sides.stream).await?.is_some(), ..Verdict::default() };
    for range in sides.source_store.ranges(1).await? {
        let mut after = Position::Start;
        while after != Position::End {
            let page = scan(&sides.source_store, &range, &after).await?;
            let suspects = suspects_of_source(sides, &range.table, &page).await?;
            verdict.compared += page.len() as u64;
            progress(verdict.compared);
            judge(sides, &range.table, suspects, show, &mut verdict).await?;
            after = page.upto().clone();
        }
    }
    let tables = sides.source_store.tables().await?;
    for range in sides.sink_store.ranges(1).await? {
        let Some(table) = tables.iter().find(|table| table.name == range.table.name) else { continue };
        let mut after = Position::Start;
        while after != Position::End {
            let page = scan(&sides.sink_store, &range, &after).await?;
            let suspects = suspects_of_sink(sides, table, &page).await?;
            judge(sides, table, suspects, show, &mut verdict).await?;
            after = page.upto().clone();
        }
    }
    verdict.head = sides.source.head().await?;
    Ok(verdict)
}

async fn scan(store: &Arc<dyn Store>, range: &Range, after: &Position) -> Result<Batch> {
    let mut page = Batch::unpooled();
    page.begin(&PartitionId::new("!repair"), after.clone(), Steps::Key);
    store.scan(range, after, page, PAGE_BYTES).await
}

async fn suspects_of_source(sides: &Sides, table: &Arc<Table>, page: &Batch) -> Result<Vec<Vec<u8>>> {
    let keys: Vec<&[u8]> = page.rows().map(|row| row.key).collect();
    let held = sides.sink_store.get(table, &keys, Batch::unpooled()).await?;
    let found = compare::against_sink(page, &held, sides.bridge.as_ref(), sides.clock.wall())?;
    Ok(found.into_iter().map(|(index, _)| page.row(index).key.to_vec()).collect())
}

async fn suspects_of_sink(sides: &Sides, table: &Arc<Table>, page: &Batch) -> Result<Vec<Vec<u8>>> {
    let keys: Vec<&[u8]> = page.rows().map(|row| row.key).collect();
    let held = sides.source_store.get(table, &keys, Batch::unpooled()).await?;
    let found = compare::extras(page, &held, sides.bridge.as_ref(), sides.clock.wall())?;
    // What has expired counts as absent on both sides.
    Ok(found.into_iter().filter(|(_, expired)| !expired).map(|(index, _)| page.row(index).key.to_vec()).collect())
}

/// Looks at suspects until each is equal, different, or has moved at every look.
async fn judge(
    sides: &Sides,
    table: &Arc<Table>,
    mut suspects: Vec<Vec<u8>>,
    show: usize,
    verdict: &mut Verdict,
) -> Result<()> {
    for _ in 0..LOOKS {
        if suspects.is_empty() {
            return Ok(());
        }
        let keys: Vec<&[u8]> = suspects.iter().map(Vec::as_slice).collect();
        let before = sides.source_store.get(table, &keys, Batch::unpooled()).await?;
        let head = sides.source.head().await?.tail();
        if verdict.live {
            verdict.live = frontier_passes(sides, &head).await?;
        }
        let held = sides.sink_store.get(table, &keys, Batch::unpooled()).await?;
        let after = sides.source_store.get(table, &keys, Batch::unpooled()).await?;
        let moved = look(sides, table, &keys, [&before, &after, &held], show, verdict)?;
        suspects = moved;
    }
    verdict.unsettled += suspects.len() as u64;
    Ok(())
}

/// One look at keys; gives those that moved meanwhile.
fn look(
    sides: &Sides,
    table: &Arc<Table>,
    keys: &[&[u8]],
    [before, after, held]: [&Batch; 3],
    show: usize,
    verdict: &mut Verdict,
) -> Result<Vec<Vec<u8>>> {
    let bridge = sides.bridge.as_ref();
    let now = sides.clock.wall();
    let (was, is, there) = (compare::by_key(before), compare::by_key(after), compare::by_key(held));
    let mut moved = Vec::new();
    for &key in keys {
        let old = was.get(key).map(|&at| before.row(at));
        let new = is.get(key).map(|&at| after.row(at));
        let same_twice = old.map(|row| row.body) == new.map(|row| row.body);
        // Without somebody who advances the frontier, what is seen is what is judged.
        if !same_twice && verdict.live {
            moved.push(key.to_vec());
            continue;
        }
        let new = match new {
            Some(row) if !bridge.expired(row, false, now)? => Some(row),
            _ => None,
        };
        let there = match there.get(key).map(|&at| held.row(at)) {
            Some(row) if !bridge.expired(row, true, now)? => Some(row),
            _ => None,
        };
        let difference = match (new, there) {
            (None, None) => continue,
            (Some(_), None) => Difference::Missing,
            (None, Some(_)) => Difference::Extra,
            (Some(row), Some(held)) if bridge.same(row, held)? => continue,
            (Some(_), Some(_)) => Difference::Different,
        };
        match difference {
            Difference::Missing => verdict.missing += 1,
            Difference::Extra => verdict.extra += 1,
            Difference::Different => verdict.different += 1,
        }
        if verdict.samples.len() < show {
            verdict.samples.push((table.name.clone(), key.to_vec(), difference));
        }
    }
    Ok(moved)
}

/// Waits until the frontier covers a head; false if it stands still for longer than the sides' patience.
async fn frontier_passes(sides: &Sides, head: &Checkpoint) -> Result<bool> {
    let mut seen = Checkpoint::default();
    let mut still_since = sides.clock.now();
    loop {
        let Some(record) = sides.sink.inspect(&sides.stream).await? else { return Ok(false) };
        let frontier = record.frontier();
        if frontier.covers(head) {
            return Ok(true);
        }
        if record.format > crate::model::StreamRecord::FORMAT {
            return Err(Error::config(format!(
                "read the record of {}: it was written by a newer driftless; use that version to verify",
                sides.stream
            )));
        }
        let now = sides.clock.now();
        if frontier != seen {
            seen = frontier;
            still_since = now;
        } else if now.saturating_sub(still_since) > sides.patience {
            return Ok(false);
        }
        sides.clock.sleep(Duration::from_millis(20)).await;
    }
}
