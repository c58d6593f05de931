//! From an opened route to a pipeline that runs: what `run`, `clone` and `verify --repair` have in common.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::{Config, Pipeline as Configured};
use crate::engine::clock::RealClock;
use crate::engine::host::ThreadHost;
use crate::engine::pipeline::{Pipeline, Settings};
use crate::engine::status::Shared;
use crate::engine::verify::Sides;
use crate::error::{Error, Result};
use crate::kinds::open::shared::Memory;
use crate::model::Owner;
use crate::ops::owner::{self, Ownership};
use crate::ops::route::Route;

/// How often a held lock is looked at again.
const LOCK_LOOK: Duration = Duration::from_millis(500);

/// A pipeline of an opened route that follows its source.
///
/// # Errors
/// Bug, if a side was opened without what its role needs.
pub(super) fn pipeline(
    route: &Route,
    config: &Config,
    configured: &Configured,
    owner: Owner,
    takeover: bool,
    status: Shared,
    stop: watch::Receiver<bool>,
) -> Result<Pipeline> {
    let sides = sides(route, configured.lag_budget)?;
    let missing = |what| Error::bug(format!("open {}: no {what}", route.stream));
    Ok(Pipeline {
        settings: Settings {
            stream: route.stream.clone(),
            owner,
            scope: route.scope.clone(),
            memory: Memory::of(config, configured).pipeline,
            parallel: configured.parallel,
            force: configured.force,
            prune: configured.prune,
            takeover,
        },
        source: sides.source,
        source_store: route.source.followed.clone().ok_or_else(|| missing("store of the source"))?,
        sink: sides.sink,
        sink_store: route.sink.followed.clone().ok_or_else(|| missing("store of the sink"))?,
        bridge: sides.bridge,
        clock: sides.clock,
        host: Arc::new(ThreadHost::new(tokio::runtime::Handle::current())),
        status,
        stop,
    })
}

/// Both sides of an opened route, for reading.
///
/// # Errors
/// Bug, if a side was opened without what its role needs.
pub(super) fn sides(route: &Route, patience: Duration) -> Result<Sides> {
    let missing = |what| Error::bug(format!("open {}: no {what}", route.stream));
    Ok(Sides {
        stream: route.stream.clone(),
        source: route.source.source.clone().ok_or_else(|| missing("source"))?,
        source_store: route.source.store.clone().ok_or_else(|| missing("store of the source"))?,
        sink: route.sink.sink.clone().ok_or_else(|| missing("sink"))?,
        sink_store: route.sink.store.clone().ok_or_else(|| missing("store of the sink"))?,
        bridge: Arc::clone(&route.bridge),
        clock: Arc::new(RealClock::default()),
        patience,
    })
}

/// Becomes the owner; waits while another process of this machine is. `told` is called once if it has to wait.
///
/// # Errors
/// Stopped, if told to stop while waiting; Config, if the state directory cannot be used.
pub(super) async fn own(route: &Route, stop: &watch::Receiver<bool>, mut told: impl FnMut()) -> Result<Ownership> {
    let mut waits = false;
    loop {
        if let Some(ownership) = owner::acquire(&route.local)? {
            return Ok(ownership);
        }
        if !waits {
            waits = true;
            told();
        }
        let mut stop = stop.clone();
        tokio::select! {
            biased;
            told = stop.wait_for(|stop| *stop) => {
                drop(told);
                return Err(Error::stopped());
            }
            () = tokio::time::sleep(LOCK_LOOK) => {}
        }
    }
}
