//! Several commits of a lane on their way at the same time, over one session.
//!
//! The server works them off in order, and each lands only if the one before it did, because it compares the lane's record
//! with its own number. So the next one may be sent before the last one is answered, which hides the way to the server and
//! back. Invariant: answers are given in the order of commits; after a failure nothing that was sent behind it is believed,
//! and all of it is done again one by one.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::lane::Lane;
use super::pipeline::Trouble;
use super::{Done, Job};
use crate::error::Error;
use crate::model::Commit;
use crate::source::Fut;

/// LIMIT: the second commit is on its way while the first one is made durable; a third would only wait behind it.
pub const IN_FLIGHT: usize = 2;

/// A commit that was sent, or that has to wait for those before it.
struct Flight {
    commit: Arc<Commit>,
    done: Done,
    /// What became of it; `None` if it was not sent.
    answer: Option<Fut<'static, End>>,
    /// Its transaction ends with what was sent, however that goes, so another one may follow.
    whole: bool,
    confused: bool,
}

/// What became of a commit that was sent.
enum End {
    Landed,
    /// It did not land. Why, and whether another way would do, shows when it is done by itself.
    Refused,
    /// The session is gone, and nobody knows.
    Lost(Error),
}

/// Does the jobs of a lane until nobody can send any more.
pub(super) async fn work(mut lane: Lane, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut flights = VecDeque::new();
    loop {
        let job = tokio::select! {
            biased;
            end = oldest(&mut flights) => {
                settle(&mut lane, &mut flights, end).await;
                continue;
            }
            job = jobs.recv(), if flights.len() < IN_FLIGHT => job,
        };
        match job {
            None => {
                // A commit goes on when its caller looks away.
                for answer in flights.iter_mut().filter_map(|flight: &mut Flight| flight.answer.as_mut()) {
                    drop(answer.await);
                }
                return;
            }
            Some(Job::Commit(commit, done)) => {
                // Behind a transaction that was left open, the next one would become a part of it.
                let before = flights.iter().all(|flight| flight.whole).then_some(flights.len());
                let flight = send(&mut lane, commit, done, before).await;
                flights.push_back(flight);
            }
            Some(Job::Stage(changes, done)) => {
                while !flights.is_empty() {
                    let end = oldest(&mut flights).await;
                    settle(&mut lane, &mut flights, end).await;
                }
                drop(done.send(Box::pin(lane.stage(&changes)).await));
            }
        }
    }
}

/// Sends a commit behind so many others, if it may be sent.
async fn send(lane: &mut Lane, commit: Arc<Commit>, done: Done, before: Option<usize>) -> Flight {
    let sent = match before {
        Some(before) => Box::pin(lane.send_behind(&commit, before)).await,
        None => Ok(None),
    };
    // What cannot be sent is tried once more in its turn, and its error told then.
    let Ok(Some(sent)) = sent else { return Flight { commit, done, answer: None, whole: false, confused: false } };
    let (whole, confused) = (sent.is_whole(), sent.confused);
    let answer: Fut<'static, End> = Box::pin(async move {
        Ok(match sent.answer().await {
            Ok(()) => End::Landed,
            Err((Trouble::Lost(error), _)) if !confused => End::Lost(error),
            Err(_) => End::Refused,
        })
    });
    Flight { commit, done, answer: Some(answer), whole, confused }
}

/// Waits for the oldest answer; comes back at once where the commit was not sent, and never when there is none. May be
/// dropped and called again.
async fn oldest(flights: &mut VecDeque<Flight>) -> End {
    match flights.front_mut() {
        None => std::future::pending().await,
        Some(Flight { answer: Some(answer), .. }) => answer.await.unwrap_or_else(End::Lost),
        Some(Flight { answer: None, .. }) => End::Refused,
    }
}

/// The oldest commit was answered.
async fn settle(lane: &mut Lane, flights: &mut VecDeque<Flight>, end: End) {
    if matches!(end, End::Landed) {
        let Some(flight) = flights.pop_front() else { return };
        lane.landed(&flight.commit);
        drop(flight.done.send(Ok(())));
        return;
    }
    let (mut sent, mut confused) = (false, false);
    for (place, flight) in flights.iter_mut().enumerate() {
        sent |= flight.answer.is_some();
        confused |= flight.confused;
        if let (1.., Some(answer)) = (place, &mut flight.answer) {
            drop(answer.await);
        }
    }
    if sent {
        lane.stumbled(confused || matches!(end, End::Lost(_))).await;
    }
    let mut failed = if let End::Lost(error) = end { Some(error) } else { None };
    for flight in flights.drain(..) {
        let result = match failed.take() {
            None => Box::pin(lane.commit(&flight.commit)).await,
            Some(error) => Err(error),
        };
        if result.is_err() {
            failed = Some(Error::transient("write to the destination: the commit before this one did not land"));
        }
        drop(flight.done.send(result));
    }
}
