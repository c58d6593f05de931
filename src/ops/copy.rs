//! `clone`: one complete copy of every configured pipeline, one after the other, then out.

use std::time::Instant;

use tokio::sync::watch;

use crate::config::{Config, Pipeline};
use crate::engine::status::Shared;
use crate::error::{Error, Result};
use crate::ops::outcome::Copied;
use crate::ops::owner;
use crate::ops::route::Route;
use crate::ops::work;

/// Copies one pipeline; `None` if it was told to stop before it was done, after which the next copy resumes.
///
/// # Errors
/// What ended it, with what to do where somebody must.
pub async fn copy(
    config: &Config,
    pipeline: &Pipeline,
    takeover: bool,
    status: Shared,
    stop: watch::Receiver<bool>,
) -> Result<Option<Copied>> {
    let route = Route::open(config, pipeline)?;
    let begun = Instant::now();
    let Some(ownership) = owner::acquire(&route.local)? else {
        return Err(Error::config(format!(
            "copy {}: another process of this machine runs this stream; stop it first, or copy into another place",
            route.stream
        )));
    };
    route.meet().await?;
    let owner = ownership.owner().clone();
    let mut work = work::pipeline(&route, config, pipeline, owner, takeover, status, stop)?;
    // A copy brings what can be read, whether or not it could be followed.
    let sides = work::sides(&route, pipeline.lag_budget)?;
    (work.source_store, work.sink_store) = (sides.source_store, sides.sink_store);
    let Some(copied) = work.run_once().await? else { return Ok(None) };
    if copied.kept > 0 {
        tracing::warn!(
            stream = %route.stream,
            kept = copied.kept,
            "items that only the destination has were left there; `prune: true` removes them"
        );
    }
    Ok(Some(Copied {
        name: pipeline.name.clone(),
        items: copied.items,
        bytes: copied.bytes,
        seconds: begun.elapsed().as_secs_f64(),
        skipped_expired: copied.skipped_expired,
        skipped_excluded: copied.skipped_excluded,
    }))
}
