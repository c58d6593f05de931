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

/// Follows until told to stop.
pub(crate) async fn run(
    attempt: &mut Attempt<'_>,
    plan: Plan,
    repairs: &mut mpsc::Receiver<RepairRequest>,
    made_progress: &mut bool,
) -> Result<()> {
    let pipeline = attempt.pipeline;
    let checkpoint = attempt.dispatcher.frontier().checkpoint().clone();
    let mut tail = pipeline.source.tail(&plan::tail(&checkpoint), &attempt.pool).await?;
    let desk = Desk::default();
    let healing = matches!(plan, Plan::Heal { .. });
    let mut comparer: Option<Fut<'_, Tally>> = None;
    let mut asked: Option<RepairRequest> = None;
    let mut settling = Settling::WantHead;
    if let Plan::Heal { generation } = plan {
        comparer = Some(Box::pin(compare(attempt, &desk).heal(generation, checkpoint)));
        settling = Settling::Walking;
        attempt.state(State::Gap, "healing by difference");
    } else {
        attempt.state(State::CatchingUp, "catching up");
    }
    let mut target: Option<Fut<'_, Checkpoint>> = None;
    loop {
        turn(attempt, tail.as_mut(), &desk).await?;
        // A head that somebody waits for may still name what has ended.
        if comparer.is_none() && matches!(settling, Settling::Done) {
            forget_ended(attempt)?;
        }
        if matches!(settling, Settling::WantHead) && target.is_none() {
            target = Some(pipeline.source.head());
        }
        settled(attempt, &mut settling, made_progress);
        show(attempt, &settling);
        let came = async {
            tokio::select! {
                biased;
                tally = wait(&mut comparer) => Ok(Came::Compared(tally)),
                () = desk.placed() => Ok(Came::Order),
                head = wait(&mut target) => Ok(Came::Head(head?)),
                batch = tail.next() => Ok(Came::Batch(batch?)),
                request = repairs.recv(), if asked.is_none() && !healing_now(&settling) => Ok(Came::Repair(request)),
            }
        };
        match attempt.event(came).await? {
            Event::Came(Came::Batch(batch)) => arrived(attempt, tail.as_mut(), batch).await?,
            Event::Came(Came::Head(head)) => {
                target = None;
                settling = Settling::Until(plan::tail(&head));
            }
            Event::Came(Came::Compared(tally)) => {
                comparer = None;
                settling = if healing && asked.is_none() { Settling::WantHead } else { settling };
                compared(attempt, tally, asked.take())?;
            }
            Event::Came(Came::Repair(Some(request))) => {
                asked = Some(request);
                comparer = Some(Box::pin(compare(attempt, &desk).repair()));
            }
            Event::Came(Came::Repair(None)) => asked = Some(oneshot::channel().0),
            Event::Came(Came::Order) | Event::Look => {}
            Event::Stop => break,
        }
    }
    drop(comparer);
    attempt.drain().await?;
    tail.release(&plan::tail(attempt.dispatcher.frontier().checkpoint())).await
}

/// A batch of the tail, be it empty, goes the one way there is.
async fn arrived(attempt: &mut Attempt<'_>, tail: &mut dyn Tail, batch: Batch) -> Result<()> {
    if cfg!(mutate = "keepalive_to_slot") && batch.is_empty() {
        let upto = [(batch.partition.clone(), batch.upto().clone())].into_iter().collect();
        tail.release(&upto).await?;
    }
    attempt.dispatcher.batch(batch)
}

/// What happens between two waits.
async fn turn(attempt: &mut Attempt<'_>, tail: &mut dyn Tail, desk: &Desk) -> Result<()> {
    let moved = attempt.dispatcher.advance();
    desk.serve(&mut attempt.dispatcher)?;
    attempt.tick();
    if cfg!(mutate = "release_before_commit") {
        return tail.release(&plan::tail(attempt.dispatcher.routed())).await;
    }
    if moved {
        tail.release(&plan::tail(attempt.dispatcher.frontier().checkpoint())).await?;
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
    let tail = plan::tail(frontier);
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

fn settled(attempt: &Attempt<'_>, settling: &mut Settling, made_progress: &mut bool) {
    let Settling::Until(head) = settling else { return };
    if !attempt.dispatcher.frontier().checkpoint().covers(head) {
        return;
    }
    *settling = Settling::Done;
    *made_progress = true;
    attempt.signals.set_consistent(true);
    report::consistency(attempt.pipeline.settings.stream.as_str(), true);
    attempt.pipeline.status.update(|status| status.consistent = true);
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

fn healing_now(settling: &Settling) -> bool {
    matches!(settling, Settling::Walking)
}

/// Waits for a future that may not be there.
async fn wait<T>(future: &mut Option<Fut<'_, T>>) -> Result<T> {
    match future {
        Some(future) => future.await,
        None => Err(std::future::pending::<Error>().await),
    }
}
