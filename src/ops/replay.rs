//! `replay`: a piece of the past, out of the journal, into the destination.
//!
//! Goes through the configured filters like everything else. What the destination holds is built upon and never looked
//! through: it has to be the state at the beginning, and a change that finds it is not stops the replay.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Config, Pipeline};
use crate::engine::status::Shared;
use crate::error::{Error, Result};
use crate::filter::classes;
use crate::kinds::journal::past::{Bound as Sought, Nothing, Past, Place, Speed, Survey, place, survey};
use crate::kinds::journal::{Disk, Keys, Reader};
use crate::model::{Batch, Layout, Op, Row};
use crate::ops::journal::Bound;
use crate::ops::outcome::{Foreseen, Replayed};
use crate::ops::past::{Covers, Work, reach, seek, shown, speed};
use crate::ops::view::positions;
use crate::pool::Pool;

/// What is replayed.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it begins: behind what was committed up to a time, or behind a position.
    pub from: Bound,
    /// Where it ends; without it, where the journal ends now.
    pub until: Option<Bound>,
    /// How fast, by commit times.
    pub speed: Option<String>,
    /// Write although the destination is somebody else's.
    pub force: bool,
}

impl Wanted {
    fn request(&self) -> String {
        match &self.until {
            Some(until) => format!("replay --from {} --until {until}", self.from),
            None => format!("replay --from {}", self.from),
        }
    }
}

/// Replays; `None` if it was told to stop before it was done, after which the same replay goes on.
///
/// # Errors
/// Config, for what cannot be replayed and for a destination that must not get it; Corrupt, for a damaged journal, and for a
/// change that does not find its row; PositionLost, for a gap.
pub async fn replay(
    config: &Config,
    pipeline: &Pipeline,
    wanted: &Wanted,
    status: Shared,
    stop: watch::Receiver<bool>,
) -> Result<Option<Replayed>> {
    let speed = wanted.speed.as_deref().map_or(Ok(Speed::Max), speed)?;
    let work = Work::new(config, pipeline, "replay", wanted.force)?;
    let request = wanted.request();
    let known = work.unfinished(&request, &work.filter()).await?;
    let begins = known.is_none();
    let covers = match known {
        Some(covers) => covers,
        None => find(&work, wanted, request).await?,
    };
    let span = work.span(&covers);
    let found = work.reading({
        let span = span.clone();
        move |_, _| survey(&span)
    });
    let found = found.await?;
    let past = Past::new(span, speed);
    let route = work.route(Arc::clone(&past), Arc::new(Nothing), &found.tables, &covers)?;
    if begins {
        work.refuse_foreign(&route).await?;
    }
    let done = work.run(route, &past, found.needs, status, stop).await?;
    Ok(done.then(|| replayed(pipeline, &covers, &found)))
}

/// What a replay would bring; touches no destination.
///
/// # Errors
/// As [`replay`].
pub async fn foresee(config: &Config, pipeline: &Pipeline, wanted: &Wanted) -> Result<(Replayed, Vec<Foreseen>)> {
    let work = Work::new(config, pipeline, "replay", wanted.force)?;
    let covers = find(&work, wanted, wanted.request()).await?;
    let span = work.span(&covers);
    let found = work.reading({
        let span = span.clone();
        move |_, _| survey(&span)
    });
    let found = found.await?;
    let past = Past::new(span, Speed::Max);
    let route = work.route(Arc::clone(&past), Arc::new(Nothing), &found.tables, &covers)?;
    let source = route.source.source.as_ref().ok_or_else(|| Error::bug("replay: no source"))?;
    let pool = Pool::for_memory(config.memory_of_one());
    let mut tail = source.tail(&covers.begin, &pool).await?;
    let mut sorts = Vec::new();
    let done = past.done();
    while !*done.borrow() {
        let batch = tail.next().await?;
        count(&batch, route.source.layout, &mut sorts);
        let upto = [(batch.partition.clone(), batch.upto().clone())].into_iter().collect();
        tail.release(&upto).await?;
    }
    sorts.sort_by(|a, b| a.what.cmp(&b.what));
    Ok((replayed(pipeline, &covers, &found), sorts))
}

fn count(batch: &Batch, layout: Layout, sorts: &mut Vec<Foreseen>) {
    for row in batch.rows().filter(|row| !row.is_left_out()) {
        let what = sort(row, layout);
        let index = sorts.iter().position(|known| known.what == what).unwrap_or_else(|| {
            sorts.push(Foreseen { what: what.into_owned(), ..Foreseen::default() });
            sorts.len() - 1
        });
        let counts = &mut sorts[index];
        match row.op {
            Op::Put => counts.puts += 1,
            Op::Patch => counts.patches += 1,
            Op::Delete => counts.deletes += 1,
            Op::Clear => counts.clears += 1,
        }
    }
}

/// Of which sort a change is, without anything that may be secret.
fn sort(row: Row<'_>, layout: Layout) -> std::borrow::Cow<'_, str> {
    if layout == Layout::Raw {
        return row.table.name.trim_start_matches('!').into();
    }
    match (row.op, classes::of(row.key)) {
        (Op::Clear, _) => "all".into(),
        (_, Some(known)) => known.class.name().into(),
        (_, None) => family(row.key).unwrap_or("other").into(),
    }
}

/// The first part of a key that has more of them: what sort of item it is, if it looks like the name of one.
fn family(key: &[u8]) -> Option<&str> {
    let end = 1 + key.strip_prefix(b"/")?.iter().position(|byte| *byte == b'/')?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let named = (2..=40).contains(&end) && key[1..end].iter().all(plain);
    if named { std::str::from_utf8(&key[..=end]).ok() } else { None }
}

fn replayed(pipeline: &Pipeline, covers: &Covers, found: &Survey) -> Replayed {
    Replayed {
        name: pipeline.name.clone(),
        from: positions(&covers.begin),
        until: positions(&covers.end),
        changes: found.changes,
        first: shown(found.first),
        last: shown(found.last),
    }
}

/// The two ends, in the journal as it is now.
async fn find(work: &Work<'_>, wanted: &Wanted, request: String) -> Result<Covers> {
    let (from, until) = (wanted.from.clone(), wanted.until.clone());
    let ends = work.reading(move |disk, keys| {
        let through = Reader::settled(&**disk);
        let begin = reached(disk, keys, &from, through)?;
        let end = match until {
            Some(until) => reached(disk, keys, &until, through)?,
            None => place(disk, keys, &Sought::End, through)?,
        };
        if !end.at.covers(&begin.at) {
            return Err(Error::config("find what to replay: `--until` lies before `--from`"));
        }
        Ok((begin.at, end.at))
    });
    let (begin, end) = ends.await?;
    Ok(Covers { request, snapshot: 0, whole: begin.clone(), begin, end })
}

/// A place of the journal.
fn reached(disk: &Arc<dyn Disk>, keys: &Keys, bound: &Bound, through: u64) -> Result<Place> {
    if let Some(found) = seek(bound, disk, keys, through)? {
        return Ok(found);
    }
    let (made, latest) = reach(disk)?;
    let (made, latest) = (shown(made).unwrap_or_default(), shown(latest).unwrap_or_default());
    Err(Error::config(format!(
        "find {bound}: the journal holds what happened from {made} to {latest}, as far as it was kept"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, Position, Steps};

    #[test]
    fn a_change_is_counted_under_its_class_and_nothing_else_of_its_key() {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("p"), Position::Start, Steps::Ordinal);
        let table = batch.table(&Arc::default());
        for key in ["/tokens/planted", "/nobody/knows/planted", "planted", "/plan ted/x"] {
            batch.push(Op::Put, false, table, key.as_bytes(), b"", 0);
        }
        batch.push(Op::Delete, false, table, b"/tokens/planted", b"", 0);
        batch.push(Op::Delete, false, table, b"", b"", 0);
        let mut sorts = Vec::new();
        count(&batch, Layout::Teleport, &mut sorts);
        let told: Vec<_> = sorts.iter().map(|sort| (sort.what.as_str(), sort.puts, sort.deletes)).collect();
        assert_eq!(told, [("tokens", 1, 1), ("/nobody/", 1, 0), ("other", 2, 0)]);
    }
}
