//! `run`: every configured pipeline until told to stop, each with its control socket. One that must stop stops only itself.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::engine::heal::Tally;
use crate::engine::pipeline::RepairRequest;
use crate::engine::status::{Shared, State};
use crate::error::{Error, Fault, Result};
use crate::kinds::open::shared::{Reader, is_relayed, leader};
use crate::model::Kind;
use crate::ops::control::{Handler, Request, Server};
use crate::ops::route::Route;
use crate::ops::view::View;
use crate::ops::work;
use crate::source::Fut;

/// Pipelines that are about to run.
pub struct Work {
    routes: Vec<Route>,
    readers: Vec<Reader>,
    /// By pipeline: its reader, if it has one.
    follows: Vec<Option<usize>>,
    statuses: Vec<(Shared, Duration)>,
}

impl Work {
    /// Opens all of them, or none.
    ///
    /// # Errors
    /// Config, for the first one that cannot be opened.
    pub fn open(config: &Config) -> Result<Self> {
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut routes, mut readers, mut follows): (Vec<_>, Vec<Reader>, Vec<_>) = Default::default();
        for pipeline in &config.pipelines {
            let mut follow = None;
            routes.push(Route::open_through(config, pipeline, &mut |source| {
                if !is_relayed(pipeline) {
                    return Ok(source.0);
                }
                let name = leader(config, pipeline);
                let index = match known.entry(name) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        readers.push(Reader::new(config, pipeline, name, source)?);
                        *new.insert(readers.len() - 1)
                    }
                };
                follow = Some(index);
                Ok(readers[index].source(&pipeline.name))
            })?);
            follows.push(follow);
        }
        let statuses = config.pipelines.iter().map(|p| (Shared::new(&p.name), p.lag_budget)).collect();
        Ok(Self { routes, readers, follows, statuses })
    }

    /// What each of them says of itself, with its `lag_budget`.
    pub fn statuses(&self) -> &[(Shared, Duration)] {
        &self.statuses
    }

    /// Runs them until all have ended.
    ///
    /// # Errors
    /// The first error that ended one of them, once none is left.
    pub async fn run(self, config: Arc<Config>, takeover: bool, stop: watch::Receiver<bool>) -> Result<()> {
        if let Some(pipeline) = config.pipelines.iter().find(|pipeline| pipeline.src.kind() == Kind::Dynamodb) {
            return Err(Error::config(format!(
                "run {}: this version of driftless copies a DynamoDB table (`clone`) and compares it (`verify`), and \
                 cannot follow one",
                pipeline.name
            )));
        }
        let mut running = JoinSet::new();
        for (index, (route, (status, _))) in self.routes.into_iter().zip(self.statuses).enumerate() {
            let (config, stop) = (Arc::clone(&config), stop.clone());
            running.spawn(async move { (index, one(&config, index, route, takeover, status, stop).await) });
        }
        let mut follows = self.follows;
        let mut first = Ok(());
        while let Some(ended) = running.join_next().await {
            let (index, mut result) = match ended {
                Ok((index, result)) => (Some(index), result),
                Err(_) => (None, Err(Error::bug("run a pipeline: its task has panicked"))),
            };
            // Whoever takes the stream over somewhere else finds the source free, whatever goes on here.
            let reader = index.and_then(|index| follows[index].take());
            if let Some(reader) = reader.filter(|reader| !follows.contains(&Some(*reader))) {
                let stopped = self.readers[reader].stop().await;
                result = result.and(stopped);
            }
            let Err(error) = result else { continue };
            if !running.is_empty() {
                tracing::error!(%error, "a pipeline has stopped; the others go on");
            }
            if first.is_ok() {
                first = Err(error);
            }
        }
        for reader in &self.readers {
            let stopped = reader.stop().await;
            first = first.and(stopped);
        }
        first
    }
}

async fn one(
    config: &Config,
    index: usize,
    route: Route,
    takeover: bool,
    status: Shared,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let named = |error: Error| if config.pipelines.len() > 1 { error.during(&route.stream) } else { error };
    let waits = || {
        tracing::warn!(stream = %route.stream, "another process of this machine runs this stream; standing by");
        status.update(|status| {
            status.state = State::Standby;
            status.reason = "another process of this machine runs this stream".into();
        });
    };
    let ownership = match work::own(&route, &stop, waits).await {
        Ok(ownership) => ownership,
        Err(error) if error.fault() == Fault::Stopped => return Ok(()),
        Err(error) => return Err(named(error)),
    };
    route.meet().await.map_err(named)?;
    let (requests, mut repairs) = mpsc::channel(1);
    let control = Server::bind(&route.local)?;
    let (over, ended) = watch::channel(false);
    let serving = tokio::spawn(control.serve(Arc::new(Answers { status: status.clone(), requests }), ended));
    let owner = ownership.owner().clone();
    let pipeline = work::pipeline(&route, config, &config.pipelines[index], owner, takeover, status, stop)?;
    let result = pipeline.run(&mut repairs).await;
    // Nobody listens only if the socket has ended by itself.
    over.send(true).unwrap_or_default();
    drop(serving.await);
    result.map_err(named)
}

/// Answers on the control socket.
struct Answers {
    status: Shared,
    requests: mpsc::Sender<RepairRequest>,
}

impl Handler for Answers {
    fn handle(&self, request: Request) -> Fut<'_, Value> {
        Box::pin(async move {
            let value = match request {
                Request::Status => serde_json::to_value(View::from(&self.status.get())),
                Request::Repair => serde_json::to_value(repaired(&self.repair().await?)),
            };
            value.map_err(|_| Error::bug("write an answer on the control socket"))
        })
    }
}

impl Answers {
    async fn repair(&self) -> Result<Tally> {
        let (asked, answer) = oneshot::channel();
        let gone = || Error::transient("repair: the pipeline stopped before it was done; try again");
        self.requests.send(asked).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// What the control socket says of a repair.
fn repaired(tally: &Tally) -> serde_json::Value {
    serde_json::json!({ "repaired": tally.repaired() })
}
