//! What may go wrong at the doors of the reference kind, and who decides it.
//!
//! Every call draws one [`Outcome`] from a [`Plan`] that was handed in from outside: a seeded one in the simulation, a
//! [`Script`] in a test that tells a story. The kind itself has no chance, clock or thread in it, so a plan that answers
//! the same way replays the same run. A plan may be harsh but not dishonest: an outcome says what really happened to the
//! call, and only the caller is left in the dark.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};

/// A door: the call that is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// `Source::head`.
    Head,
    /// `Source::pin`.
    Pin,
    /// `Source::tail`.
    Tail,
    /// `Tail::next`.
    Next,
    /// `Tail::release`.
    Release,
    /// `Store::scan`, `ranges` and `range`.
    Scan,
    /// `Store::get`.
    Get,
    /// `Sink::inspect`.
    Inspect,
    /// `Sink::claim`.
    Claim,
    /// `Sink::beat`.
    Beat,
    /// `Writer::stage`.
    Stage,
    /// `Writer::commit`.
    Commit,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeds at once.
    Go,
    /// It succeeds after this many polls.
    Slow(u32),
    /// It waits until the holds are lifted, then succeeds.
    Hold,
    /// Nothing happens, and the caller is told so. A connection with open or unanswered work breaks.
    Reject,
    /// It happens, but the connection breaks before the answer, and before the answers of commits sent after it, which
    /// happen too. Where a call changes nothing this is as [`Outcome::Reject`].
    AnswerLost,
    /// The caller is told that it failed; it happens later, whenever the owner of the sink says so
    /// ([`super::MemorySink::land_late`]). Only commits: elsewhere as [`Outcome::Reject`].
    Late,
}

/// Decides what happens at each door, call by call.
pub trait Plan: Send {
    /// The outcome of the call that is about to happen.
    fn draw(&mut self, site: Site) -> Outcome;
}

/// Nothing goes wrong.
pub struct Smooth;

impl Plan for Smooth {
    fn draw(&mut self, _: Site) -> Outcome {
        Outcome::Go
    }
}

/// A list of outcomes: a call takes the first one that is meant for its door, and succeeds when none is.
#[derive(Default)]
pub struct Script(pub VecDeque<(Site, Outcome)>);

impl Plan for Script {
    fn draw(&mut self, site: Site) -> Outcome {
        let next = self.0.iter().position(|(for_site, _)| *for_site == site);
        next.and_then(|index| self.0.remove(index)).map_or(Outcome::Go, |(_, outcome)| outcome)
    }
}

/// The part of a state that every door shares: plan, holds, and who waits for a change.
pub(super) struct Doors {
    pub(super) plan: Box<dyn Plan>,
    /// Raised when the holds are lifted.
    lifted: u64,
    wakers: Vec<Waker>,
}

impl Default for Doors {
    fn default() -> Self {
        Self { plan: Box::new(Smooth), lifted: 0, wakers: Vec::new() }
    }
}

impl Doors {
    /// Registers a waiter for the next change.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        if !self.wakers.iter().any(|known| known.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
    }

    /// Wakes everybody who waits for a change.
    pub(super) fn changed(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// Lets all held calls go.
    pub(super) fn lift(&mut self) {
        self.lifted += 1;
        self.changed();
    }

    /// Begins a call.
    pub(super) fn knock(&mut self, site: Site) -> Call {
        Call { outcome: self.plan.draw(site), since: self.lifted }
    }
}

/// A call that has drawn its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) outcome: Outcome,
    since: u64,
}

impl Call {
    /// Whether its time has come. Counts one poll, and sees to being polled again.
    pub(super) fn poll(&mut self, doors: &mut Doors, cx: &Context<'_>) -> Poll<()> {
        match &mut self.outcome {
            Outcome::Slow(polls) if *polls > 0 => {
                *polls -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Outcome::Hold if doors.lifted == self.since => {
                doors.wait(cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// The error that the caller of a call without effect is given, if any.
    pub(super) fn refused(self, attempt: &str) -> Result<()> {
        match self.outcome {
            Outcome::Go | Outcome::Slow(_) | Outcome::Hold => Ok(()),
            Outcome::Reject | Outcome::AnswerLost | Outcome::Late => {
                Err(Error::transient(format!("{attempt}: the connection was lost")))
            }
        }
    }
}

/// Passes a door at which a call without effect may be slow, held or refused.
pub(super) async fn pass<S>(state: &std::sync::Mutex<S>, doors: fn(&mut S) -> &mut Doors, site: Site) -> Result<()> {
    let mut call = doors(&mut lock(state)).knock(site);
    poll_fn(|cx| call.poll(doors(&mut lock(state)), cx)).await;
    call.refused(match site {
        Site::Head => "read the head of a memory source",
        Site::Pin => "pin a memory source",
        Site::Tail => "open the tail of a memory source",
        Site::Next => "follow a memory source",
        Site::Release => "release a memory source",
        Site::Scan => "scan a memory store",
        Site::Get => "read rows of a memory store",
        Site::Inspect => "inspect a memory sink",
        Site::Claim => "claim a lane of a memory sink",
        Site::Beat => "show a memory sink that a lane is at work",
        Site::Stage => "stage changes in a memory sink",
        Site::Commit => "commit to a memory sink",
    })
}

/// Locks a state, whatever a panicking test left behind.
pub(super) fn lock<S>(state: &std::sync::Mutex<S>) -> std::sync::MutexGuard<'_, S> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
