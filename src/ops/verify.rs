//! `verify`: compares both sides, and with `--repair` has the owner of the lanes write what differs, before the comparison
//! that counts.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Config, Pipeline};
use crate::engine::compare::Difference;
use crate::engine::status::Shared;
use crate::engine::verify;
use crate::error::{Error, Result};
use crate::ops::control::{self, Request};
use crate::ops::outcome::Verified;
use crate::ops::owner;
use crate::ops::route::Route;
use crate::ops::view::positions;
use crate::ops::work;

/// LIMIT: how long a repair may take; it walks over both sides once. A day is longer than any of them.
const REPAIR_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// A key that differs: its table (empty in key-value layouts), the key, and how it differs.
pub type Sample = (String, Vec<u8>, Difference);

/// Compares one pipeline's sides. `show`: at most this many differing keys are given; `progress` hears of rows compared.
///
/// # Errors
/// When a side cannot be read, or the repair could not be done.
pub async fn verify(
    config: &Config,
    pipeline: &Pipeline,
    repair: bool,
    takeover: bool,
    show: usize,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(Verified, Vec<Sample>)> {
    let route = Route::open(config, pipeline)?;
    let begun = Instant::now();
    let repaired = if repair { mend(config, pipeline, &route, takeover).await? } else { 0 };
    let sides = work::sides(&route, pipeline.lag_budget)?;
    let verdict = verify::verify(&sides, show, progress).await?;
    let verified = Verified {
        name: pipeline.name.clone(),
        equal: verdict.equal(),
        live: verdict.live,
        compared: verdict.compared,
        missing: verdict.missing,
        extra: verdict.extra,
        different: verdict.different,
        unsettled: verdict.unsettled,
        repaired,
        head: positions(&verdict.head),
        seconds: begun.elapsed().as_secs_f64(),
    };
    Ok((verified, verdict.samples))
}

/// Has the differences written by whoever owns the lanes: the process that runs, or else this one.
async fn mend(config: &Config, pipeline: &Pipeline, route: &Route, takeover: bool) -> Result<u64> {
    if let Some(answer) = control::ask(&route.local, Request::Repair, REPAIR_PATIENCE).await? {
        return answer["repaired"]
            .as_u64()
            .ok_or_else(|| Error::corrupt("ask the running process to repair: it is of another version of driftless"));
    }
    let Some(ownership) = owner::acquire(&route.local)? else {
        return Err(Error::transient(format!(
            "repair {}: another process of this machine has just taken the stream; try again",
            route.stream
        )));
    };
    let (stop, stopped) = watch::channel(false);
    let (requests, mut repairs) = mpsc::channel(1);
    let owner = ownership.owner().clone();
    let work = work::pipeline(route, config, pipeline, owner, takeover, Shared::new(&pipeline.name), stopped)?;
    let (asked, answer) = oneshot::channel();
    requests.send(asked).await.map_err(|_| Error::bug("ask for a repair"))?;
    let mut running = std::pin::pin!(work.run(&mut repairs));
    let gone = || Error::transient("repair: the pipeline stopped before it was done; try again");
    let tally = tokio::select! {
        result = &mut running => return Err(result.err().unwrap_or_else(gone)),
        answer = answer => answer.map_err(|_| gone())?,
    };
    stop.send(true).map_err(|_| Error::bug("stop the pipeline that repaired"))?;
    running.await?;
    tally.map(|tally| tally.repaired())
}
