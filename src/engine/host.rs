//! Lanes on threads of their own.

use crate::engine::pipeline::Host;
use crate::engine::runner::{Runner, run_on_thread};
use crate::error::Error;
use crate::source::Fut;

/// Starts each lane on an operating-system thread; its I/O is driven by the runtime that this was made on.
#[derive(Debug)]
pub struct ThreadHost(tokio::runtime::Handle);

impl ThreadHost {
    /// A host whose lanes use this runtime for their I/O.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self(runtime)
    }
}

impl Host for ThreadHost {
    fn start(&self, name: String, runner: Runner) -> Fut<'static, ()> {
        let runtime = self.0.clone();
        let (sender, ended) = tokio::sync::oneshot::channel();
        let started = std::thread::Builder::new().name(name).spawn(move || {
            // Nobody listens only when the attempt was dropped.
            drop(sender.send(run_on_thread(runner, &runtime)));
        });
        Box::pin(async move {
            started.map_err(|error| Error::transient("start a lane's thread").because(error))?;
            ended.await.unwrap_or_else(|_| Err(Error::bug("run a lane: its thread has panicked")))
        })
    }
}
