//! `restore`: the state at an instant, out of the journal, into an empty destination.
//!
//! The newest snapshot that is right at or before the instant, and then the changes up to it, as a first copy and the tail
//! after it. The state is that before the first transaction that was committed later: exact to the commit.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Config, Pipeline};
use crate::engine::status::Shared;
use crate::error::{Error, Result};
use crate::kinds::journal::past::{Pages, Past, Place, Speed, base, survey};
use crate::kinds::journal::{Disk, Keys, Reader, Snapshot, snapshots};
use crate::ops::journal::Bound;
use crate::ops::outcome::Restored;
use crate::ops::past::{Covers, Work, reach, seek, shown};
use crate::ops::view::positions;
use crate::store::Store as _;

/// Restores; `None` if it was told to stop before it was done, after which the same command goes on.
///
/// # Errors
/// Config, for an instant that cannot be restored and a destination that is not empty; Corrupt, for a damaged journal;
/// PositionLost, for a gap.
pub async fn restore(
    config: &Config,
    pipeline: &Pipeline,
    at: &Bound,
    force: bool,
    status: Shared,
    stop: watch::Receiver<bool>,
) -> Result<Option<Restored>> {
    let work = Work::new(config, pipeline, "restore", force)?;
    let request = format!("restore --at {at}");
    let known = work.unfinished(&request, &work.filter()).await?;
    let begins = known.is_none();
    let (covers, later) = match known {
        Some(covers) => (covers, true),
        None => find(&work, at, request).await?,
    };
    if !later {
        tracing::warn!(%at, "the journal holds nothing later; what was committed up to then and not captured is not restored");
    }
    let (span, number) = (work.span(&covers), covers.snapshot);
    let (found, pages, snapshot) = work
        .reading(move |disk, keys| {
            let found = survey(&span)?;
            let snapshot = snapshots(disk, keys)?.into_iter().find(|snapshot| snapshot.id == number);
            let gone = || Error::position_lost(format!("read snapshot {number} of the journal: it is no longer there"));
            let snapshot = snapshot.ok_or_else(gone)?;
            let pages = Pages::open(disk, keys, snapshot, &found.tables)?;
            Ok((found, pages, snapshot))
        })
        .await?;
    let items = pages.items();
    let past = Past::new(work.span(&covers), Speed::Max);
    let tables = pages.tables().await?;
    let route = work.route(Arc::clone(&past), Arc::new(pages), &tables, &covers)?;
    if begins {
        work.refuse_foreign(&route).await?;
    }
    let needs = found.needs.min(snapshot.began);
    if work.over {
        tracing::warn!("what the destination holds beside the restored items stays there");
    }
    let done = work.run(route, &past, needs, status, stop).await?;
    Ok(done.then(|| Restored {
        name: pipeline.name.clone(),
        at: at.to_string(),
        snapshot: snapshot.id,
        snapshot_ended: shown(snapshot.ended_at),
        items,
        changes: found.changes,
        last: shown(found.last),
        place: positions(&covers.end),
        later,
    }))
}

/// The snapshot and the place, in the journal as it is now; and whether that holds something later.
async fn find(work: &Work<'_>, at: &Bound, request: String) -> Result<(Covers, bool)> {
    let at = at.clone();
    let found = work.reading(move |disk, keys| {
        let through = Reader::settled(&**disk);
        let end = seek(&at, disk, keys, through)?;
        let base = end.as_ref().map(|end| base(disk, keys, end)).transpose()?.flatten();
        match (base, end) {
            (Some(base), Some(end)) => Ok((base, end)),
            _ => Err(cannot(disk, keys, &at)?),
        }
    });
    let (base, Place { at: end, goes_on, .. }) = found.await?;
    let (begin, whole) = (base.begin, base.whole);
    Ok((Covers { request, snapshot: base.snapshot.id, begin, whole, end }, goes_on))
}

/// Says which instants can be restored.
fn cannot(disk: &Arc<dyn Disk>, keys: &Keys, at: &Bound) -> Result<Error> {
    let oldest: Option<Snapshot> = snapshots(disk, keys)?.into_iter().next();
    let Some(from) = oldest.and_then(|snapshot| shown(snapshot.ended_at)) else {
        return Ok(Error::config(format!(
            "go back to {at}: the journal holds no whole snapshot, so no instant can be restored; `journal.snapshot_every` \
             says how often `run` takes one"
        )));
    };
    let until = shown(reach(disk)?.1).map_or_else(|| "now".to_owned(), |until| format!("{until} and later"));
    Ok(Error::config(format!("go back to {at}: the journal can restore the instants from {from} to {until}")))
}
