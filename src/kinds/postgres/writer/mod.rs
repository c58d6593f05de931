//! The writer of one lane: everything between a commit and the destination's answer.
//!
//! A task owns the lane, so that a commit goes on when its caller looks away, and commits are done in the order of calls.
//! [`lane`] is the protocol, [`apply`] what changes become, [`feed`] how rows travel, [`sql`] and [`arrays`] their text and
//! bytes; [`session`], [`target`] and [`bindings`] know the server; [`fence`] keeps earlier owners out.

pub mod apply;
pub mod arrays;
pub mod bindings;
pub mod destination;
pub mod feed;
pub mod fence;
pub mod flights;
pub mod lane;
pub mod pipeline;
pub mod session;
pub mod sort;
pub mod sql;
pub mod target;
pub mod widen;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::model::{Changes, Commit};
use crate::sink::Writer;
use crate::source::Fut;
use lane::Lane;

/// Who waits for an answer. Nobody listens any more when the pipeline is stopping.
type Done = oneshot::Sender<Result<()>>;

enum Job {
    Commit(Arc<Commit>, Done),
    Stage(Arc<Changes>, Done),
}

/// Handle of a lane's task.
pub struct PgWriter {
    // Not bounded by itself: the caller keeps at most `Limits::in_flight` commits under way.
    jobs: mpsc::UnboundedSender<Job>,
}

impl PgWriter {
    /// Starts the task of a claimed lane. It ends, and its session with it, when the handle is dropped.
    pub fn start(lane: Lane) -> Self {
        let (jobs, inbox) = mpsc::unbounded_channel();
        tokio::spawn(flights::work(lane, inbox));
        Self { jobs }
    }

    fn hand_over(&self, job: Job, answer: oneshot::Receiver<Result<()>>) -> Fut<'static, ()> {
        let stopped = || Error::transient("write to the destination: the writer's task has ended");
        let sent = self.jobs.send(job).map_err(|_| stopped());
        Box::pin(async move {
            sent?;
            answer.await.unwrap_or_else(|_| Err(stopped()))
        })
    }
}

impl Writer for PgWriter {
    fn stage<'a>(&'a mut self, changes: &'a Arc<Changes>) -> Fut<'a, ()> {
        let (done, answer) = oneshot::channel();
        self.hand_over(Job::Stage(Arc::clone(changes), done), answer)
    }

    fn commit(&mut self, commit: Arc<Commit>) -> Fut<'static, ()> {
        let (done, answer) = oneshot::channel();
        self.hand_over(Job::Commit(commit, done), answer)
    }
}
