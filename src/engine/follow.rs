//! Following: the tail into the lanes, the frontier back to the tail, and beside it the one who compares, if there is one.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::engine::attempt::{Attempt, Event};
use crate::engine::desk::Desk;
use crate::engine::heal::{Comparer, Tally};
use crate::engine::pipeline::RepairRequest;
use crate::engine::plan::{self, Plan};
use crate::engine::report;
use crate::engine::status::State;
use crate::error::{Error, Result};
use crate::model::{Batch, Checkpoint, PartitionId, Position};
use crate::source::{Fut, Tail};

/// How far the sink is from being consistent.
enum Settling {
    /// A walk is under way.
    Walking,
    /// The walks have ended; a head taken after that is awaited.
    WantHead,
    /// Consistent once the frontier covers this head.
    Until(Checkpoint),
    /// Consistent.
    Done,
}

/// What the inner select of a turn came to.
enum Came {
    Batch(Batch),
    Compared(Result<Tally>),
    Order,
    Head(Checkpoint),
    Repair(Option<RepairRequest>),
}

/// What goes on beside the tail.
struct Beside<'p> {
    desk: &'p Desk,
    /// The walk that is under way.
    comparer: Option<Fut<'p, Tally>>,
    /// Who asked for it; `None` for the walk that heals.
    asked: Option<RepairRequest>,
    /// The head that decides about consistency.
    target: Option<Fut<'p, Checkpoint>>,
    settling: Settling,
}

/// Follows until told to stop.
pub(crate) async fn run(
    attempt: &mut Attempt<'_>,
    plan: Plan,
    repairs: &mut mpsc::Receiver<RepairRequest>,
    made_progress: &mut bool,
) -> Result<()> {
    let pipeline = attempt.pipeline;
    let checkpoint = attempt.dispatcher.frontier().checkpoint().clone();
    let mut tail = pipeline.source.tail(&checkpoint.tail(), &attempt.pool).await?;
    let desk = Desk::default();
    let mut beside = Beside::new(attempt, &desk, &plan, checkpoint);
    loop {
        turn(attempt, tail.as_mut(), &desk).await?;
        // A head that somebody waits for may still name what has ended.
        if beside.comparer.is_none() && matches!(beside.settling, Settling::Done) {
            forget_ended(attempt)?;
        }
        if matches!(beside.settling, Settling::WantHead) && beside.target.is_none() {
            attempt.signals.clear_ahead();
            beside.target = Some(pipeline.source.head());
        }
        settled(attempt, &mut beside.settling, made_progress)?;
        show(attempt, &beside.settling);
        match attempt.event(beside.next(tail.as_mut(), repairs)).await? {
            Event::Came(Came::Batch(batch)) => {
                if cfg!(mutate = "keepalive_to_slot") && batch.is_empty() {
                    let upto = [(batch.partition.clone(), batch.upto().clone())].into_iter().collect();
                    tail.release(&upto).await?;
                }
                attempt.dispatcher.batch(batch)?;
            }
            Event::Came(came) => beside.take(attempt, came)?,
            Event::Look => {}
            Event::Stop => break,
        }
    }
    drop(beside);
    attempt.drain().await?;
    tail.release(&attempt.dispatcher.frontier().checkpoint().tail()).await
}

impl<'p> Beside<'p> {
    /// Begins the walk that heals, if there is one to be made.
    fn new(attempt: &Attempt<'p>, desk: &'p Desk, plan: &Plan, checkpoint: Checkpoint) -> Self {
        let mut beside = Self { desk, comparer: None, asked: None, target: None, settling: Settling::WantHead };
        if let Plan::Heal { generation } = *plan {
            beside.comparer = Some(Box::pin(compare(attempt, desk).heal(generation, checkpoint)));
            beside.settling = Settling::Walking;
            attempt.state(State::Gap, "healing by difference");
        } else {
            attempt.state(State::CatchingUp, "catching up");
        }
        beside
    }

    /// Waits for whatever comes first. Cancel-safe.
    async fn next(&mut self, tail: &mut dyn Tail, repairs: &mut mpsc::Receiver<RepairRequest>) -> Result<Came> {
        let may_ask = self.asked.is_none() && !matches!(self.settling, Settling::Walking);
        tokio::select! {
            biased;
            tally = wait(&mut self.comparer) => Ok(Came::Compared(tally)),
            () = self.desk.placed() => Ok(Came::Order),
            head = wait(&mut self.target) => Ok(Came::Head(head?)),
            batch = tail.next() => Ok(Came::Batch(batch?)),
            request = repairs.recv(), if may_ask => Ok(Came::Repair(request)),
        }
    }

    /// Takes note of what came and is no batch.
    fn take(&mut self, attempt: &Attempt<'p>, came: Came) -> Result<()> {
        match came {
            Came::Head(head) => {
                self.target = None;
                self.settling = Settling::Until(head.tail());
            }
            Came::Compared(tally) => {
                self.comparer = None;
                if matches!(self.settling, Settling::Walking) {
                    self.settling = Settling::WantHead;
                }
                compared(attempt, tally, self.asked.take())?;
            }
            Came::Repair(Some(request)) => {
                self.asked = Some(request);
                self.comparer = Some(Box::pin(compare(attempt, self.desk).repair()));
            }
            // Nobody is left who could ask; an answer that nobody waits for keeps the question from being asked again.
            Came::Repair(None) => self.asked = Some(oneshot::channel().0),
            Came::Batch(_) | Came::Order => {}
        }
        Ok(())
    }
}

/// What happens between two waits.
async fn turn(attempt: &mut Attempt<'_>, tail: &mut dyn Tail, desk: &Desk) -> Result<()> {
    let moved = attempt.dispatcher.advance();
    desk.serve(&mut attempt.dispatcher)?;
    attempt.tick();
    if cfg!(mutate = "release_before_commit") {
        return tail.release(&attempt.dispatcher.routed().tail()).await;
    }
    if moved {
        tail.release(&attempt.dispatcher.frontier().checkpoint().tail()).await?;
    }
    Ok(())
}

/// A partition that has ended and that the source no longer lists is asked for by nobody any more, once the lane knows all
/// partitions that the source does list: then each of its children has begun. Only with one lane: with several, a lane that
/// has forgotten an end and a lane that never knew of it would look the same.
fn forget_ended(attempt: &mut Attempt<'_>) -> Result<()> {
    if attempt.pipeline.settings.scope.lanes != 1 || attempt.dispatcher.is_open() {
        return Ok(());
    }
    let frontier = attempt.dispatcher.frontier().checkpoint();
    if !frontier.iter().any(|(partition, position)| *position == Position::End && !partition.is_engine()) {
        return Ok(());
    }
    let tail = frontier.tail();
    let head = attempt.pipeline.status.update(|status| status.head.clone());
    // A head from before a partition was there does not list it either.
    let is_newer = |(partition, position): (&PartitionId, &Position)| {
        head.get(partition) >= position || (*position == Position::End && !head.names(partition))
    };
    let knows_all = head.iter().all(|(partition, _)| tail.names(partition));
    if head.is_empty() || !knows_all || !tail.iter().all(is_newer) {
        return Ok(());
    }
    let routed = attempt.dispatcher.routed();
    let gone = |(partition, position): &(&PartitionId, &Position)| {
        **position == Position::End && !head.names(partition) && routed.names(partition)
    };
    let forget: Vec<_> = tail.iter().filter(gone).map(|(partition, _)| partition.clone()).collect();
    if !forget.is_empty() {
        attempt.dispatcher.mark(&forget, &[])?;
    }
    Ok(())
}

fn compare<'a>(attempt: &Attempt<'a>, desk: &'a Desk) -> Comparer<'a> {
    Comparer {
        pipeline: attempt.pipeline,
        desk,
        pool: attempt.pool.clone(),
        source: Arc::clone(&attempt.pipeline.source_store),
        live: true,
        keep_extra: attempt.foreign && !attempt.pipeline.settings.prune,
        tally: Tally::default(),
    }
}

/// A walk has ended: somebody may have asked for it.
fn compared(attempt: &Attempt<'_>, tally: Result<Tally>, asked: Option<RepairRequest>) -> Result<()> {
    let stream = attempt.pipeline.settings.stream.as_str();
    if let Ok(tally) = &tally {
        report::healed(stream, tally);
        attempt.pipeline.status.update(|status| status.repaired += tally.repaired());
    }
    match asked {
        // Whoever asked may have gone; the repair itself is done.
        Some(asked) => drop(asked.send(tally)),
        None => drop(tally?),
    }
    Ok(())
}

fn settled(attempt: &mut Attempt<'_>, settling: &mut Settling, made_progress: &mut bool) -> Result<()> {
    let Settling::Until(head) = settling else { return Ok(()) };
    let frontier = attempt.dispatcher.frontier().checkpoint();
    if !frontier.covers(head) || attempt.dispatcher.is_open() {
        return Ok(());
    }
    if attempt.signals.is_ahead() {
        *settling = Settling::WantHead;
        return Ok(());
    }
    // From here on nothing is read ahead of the tail, not by a later attempt either.
    let mark = plan::settled(plan::newest(std::slice::from_ref(frontier), "!snapshot/"));
    if !frontier.names(&mark) {
        attempt.dispatcher.mark(&[], &[(mark, Position::End)])?;
    }
    *settling = Settling::Done;
    *made_progress = true;
    attempt.signals.set_consistent(true);
    report::consistency(attempt.pipeline.settings.stream.as_str(), true);
    attempt.pipeline.status.update(|status| status.consistent = true);
    Ok(())
}

fn show(attempt: &Attempt<'_>, settling: &Settling) {
    attempt.pipeline.status.update(|status| {
        let behind = status.lag.is_none_or(|lag| !lag.is_zero());
        let (state, reason) = match settling {
            Settling::Walking => (State::Gap, "healing by difference"),
            Settling::Done if !behind => (State::Following, ""),
            Settling::Done | Settling::WantHead | Settling::Until(_) => (State::CatchingUp, "catching up"),
        };
        status.state = state;
        if status.reason != reason {
            reason.clone_into(&mut status.reason);
        }
    });
}

/// Waits for a future that may not be there.
async fn wait<T>(future: &mut Option<Fut<'_, T>>) -> Result<T> {
    match future {
        Some(future) => future.await,
        None => Err(std::future::pending::<Error>().await),
    }
}
