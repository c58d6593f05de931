//! One lane's writes: each commit is one transaction that compares the lane's epoch and number, and raises the number.
//!
//! A commit lands only on the number before its own, under the epoch that this writer claimed, on the very keys that the
//! claim found. So commits land in the order of their numbers, whatever order they arrive in, and a late twin changes
//! nothing. That is why the next one may be sent before the last one is answered: one that overtakes the other is refused, and
//! sent again when the other has landed. A commit is sent again as it was, but for leases that are gone.
//!
//! What this does not do: decide whether a lost answer is asked for again. Whoever waits does.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use etcd_client::{Compare, CompareOp, Error as ClientError, Txn, TxnOp};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::claim::{Taken, ranges};
use super::connect::Cluster;
use super::fault::{Cause, cause, fault};
use super::grant::{Bucket, Grants};
use super::layout::Keys;
use super::lease::wall;
use super::ledger::{self, Lane, LaneNames};
use super::limits::{IN_FLIGHT, Learned, Takes};
use super::mend::{self, Mended};
use super::txn::Folded;
use crate::error::{Error, Fault, Result};
use crate::model::{Changes, Checkpoint, Claim, Commit, Standing};
use crate::sink::Writer;
use crate::source::Fut;
use crate::telemetry;

/// LIMIT: how often a commit is sent again because a lease was gone; a new one lives for seconds at least.
const LEASE_TRIES: u32 = 3;

/// What all lanes of a destination share.
pub struct Shared {
    pub cluster: Cluster,
    pub keys: Keys,
    pub grants: Grants,
    pub learned: Learned,
    pub mended: Mended,
    /// Whether it was told that empty values are left out.
    pub told: AtomicBool,
}

/// Keys of positions with their new values; `None` is removed.
type Places = Arc<Vec<(Vec<u8>, Option<Vec<u8>>)>>;

/// What becomes of a commit, for the one behind it: whether it landed, once that is known.
type Fate = watch::Receiver<Option<bool>>;

/// The handle of a lane.
pub struct EtcdWriter {
    desk: Arc<Desk>,
    /// The checkpoint after each of the last commits.
    after: VecDeque<(u64, Checkpoint)>,
    /// The commit that was sent last.
    last: Option<(u64, Fate)>,
}

/// What a commit on its way needs.
struct Desk {
    shared: Arc<Shared>,
    stream: String,
    attempt: String,
    names: LaneNames,
    epoch: u64,
    born: i64,
    /// The highest number that was to be committed here.
    given: AtomicU64,
    /// What goes on beside commits as long as this writer is there.
    mending: Mutex<Option<JoinHandle<()>>>,
}

/// What a transaction came to.
enum Sent {
    Landed,
    /// The lane stood otherwise.
    Refused(Lane),
    /// A lease was gone, and is not used again.
    LeaseGone,
}

impl EtcdWriter {
    /// Of a lane that was just claimed.
    pub fn new(shared: &Arc<Shared>, claim: &Claim, taken: Taken) -> Self {
        let Taken { names, lane } = taken;
        let desk = Desk {
            shared: Arc::clone(shared),
            stream: claim.stream.as_str().to_owned(),
            attempt: format!("commit on lane {} of stream {}", claim.lane, claim.stream),
            names,
            epoch: lane.epoch,
            born: lane.born,
            given: AtomicU64::new(lane.number),
            mending: Mutex::default(),
        };
        let after = VecDeque::from([(lane.number, lane.checkpoint)]);
        Self { desk: Arc::new(desk), after, last: None }
    }

    /// What a commit makes of the lane's positions; `None` for one that cannot be the next, because others landed on it.
    fn places(&mut self, commit: &Commit) -> Result<Option<Places>> {
        let Some(at) = self.after.iter().position(|(number, _)| number + 1 == commit.number) else {
            return Ok(None);
        };
        self.after.truncate(at + 1);
        let Some((_, before)) = self.after.back() else { return Ok(None) };
        let mut checkpoint = before.clone();
        checkpoint.retain(|partition| !commit.forget.contains(partition));
        checkpoint.merge(&commit.upto);
        let moved = commit.upto.iter().map(|(partition, _)| partition);
        let place = |slot| Ok((self.desk.names.at(slot), ledger::slot(&checkpoint, slot)?));
        let places = ledger::slots(commit.forget.iter().chain(moved)).into_iter().map(place).collect::<Result<_>>()?;
        self.after.push_back((commit.number, checkpoint));
        // Whatever is on its way follows on one of these.
        while self.after.len() > 2 * IN_FLIGHT + 2 {
            self.after.pop_front();
        }
        Ok(Some(Arc::new(places)))
    }
}

impl Writer for EtcdWriter {
    fn stage<'a>(&'a mut self, _: &'a Arc<Changes>) -> Fut<'a, ()> {
        Box::pin(async { Err(Error::bug("stage changes: a transaction of etcd cannot be left open")) })
    }

    fn commit(&mut self, commit: Arc<Commit>) -> Fut<'static, ()> {
        // ORDERING: Relaxed; whoever reads it was handed what was sent, which came later.
        self.desk.given.fetch_max(commit.number, Ordering::Relaxed);
        let places = match self.places(&commit) {
            Ok(places) => places,
            Err(error) => return Box::pin(async { Err(error) }),
        };
        let before = self.last.take().filter(|(number, _)| number + 1 == commit.number).map(|(_, fate)| fate);
        let (tell, fate) = watch::channel(None);
        self.last = Some((commit.number, fate));
        let desk = Arc::clone(&self.desk);
        let task = tokio::spawn(async move {
            let result = desk.land(&commit, places.as_ref(), before).await;
            tell.send_replace(Some(result.is_ok()));
            result
        });
        Box::pin(UnderWay(task))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some(mending) = self.mending.get_mut().unwrap_or_else(PoisonError::into_inner) {
            mending.abort();
        }
    }
}

/// A commit on its way, which is given up with whoever waits for it: its changes must not be held any longer.
struct UnderWay(JoinHandle<Result<()>>);

impl Future for UnderWay {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let ended = |_| Err(Error::transient("write to the destination: the commit's task has ended"));
        Pin::new(&mut self.0).poll(cx).map(|result| result.unwrap_or_else(ended))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Desk {
    /// Brings a commit to its end.
    async fn land(&self, commit: &Commit, places: Option<&Places>, mut before: Option<Fate>) -> Result<()> {
        let named = |error: Error| error.during(format!("commit {}", commit.number));
        let mut tries = 0;
        loop {
            match self.send(commit, places).await.map_err(named)? {
                Sent::Landed => return Ok(()),
                Sent::LeaseGone if tries < LEASE_TRIES => tries += 1,
                Sent::LeaseGone => {
                    return Err(named(Error::transient(format!("{}: leases end at once", self.attempt))));
                }
                Sent::Refused(lane) => {
                    if (lane.epoch, lane.born) != (self.epoch, self.born) {
                        let what = format!("{}: another process has claimed the lane", self.attempt);
                        return Err(named(Error::fenced(what)));
                    }
                    // It has overtaken the one before it.
                    let early = lane.number.checked_add(1).is_some_and(|next| next < commit.number);
                    if let Some(fate) = before.take_if(|_| early) {
                        if landed(fate).await {
                            continue;
                        }
                        return Err(Error::transient(format!("{}: the one before it did not land", self.attempt)));
                    }
                    // ORDERING: Relaxed, see `EtcdWriter::commit`.
                    let given = self.given.load(Ordering::Relaxed);
                    return match Standing::of(lane.number, commit.number, given).map_err(named)? {
                        Standing::Landed => Ok(()),
                        Standing::Next => Err(named(Error::bug("the lane stood where it should, and was refused"))),
                    };
                }
            }
        }
    }

    /// Sends a commit once.
    async fn send(&self, commit: &Commit, places: Option<&Places>) -> Result<Sent> {
        let shared = &self.shared;
        let Some(places) = places else { return self.compare(commit.number, Vec::new()).await.and_then(not_landed) };
        let folded = Folded::of(&commit.changes, &shared.keys, wall()?)?;
        let leases = shared.grants.leases(&folded.buckets).await?;
        let (empty, takes) = (folded.empty, shared.learned.takes());
        let mut ops = vec![TxnOp::put(self.names.number(), ledger::text(commit.number), None)];
        for (key, value) in places.iter() {
            ops.push(match value {
                Some(value) => TxnOp::put(key.clone(), value.clone(), None),
                None => TxnOp::delete(key.clone(), None),
            });
        }
        let apart = folded.clears && folded.len() + ops.len() > takes.ops;
        if apart {
            // It does not fit into one transaction together with what follows it.
            match self.compare(commit.number, vec![folded.clear()]).await? {
                Ok(Sent::Landed) => tracing::warn!(stream = self.stream, "everything is cleared in a step of its own"),
                Ok(other) => return Ok(other),
                Err(error) => return Err(fault(&self.attempt, &error)),
            }
        }
        folded.operations(&leases, apart, &mut ops)?;
        let count = ops.len();
        match self.compare(commit.number, ops).await? {
            Ok(sent) => {
                if matches!(sent, Sent::Landed) && empty > 0 {
                    // ORDERING: Relaxed, a flag that guards nothing.
                    let first = !shared.told.swap(true, Ordering::Relaxed);
                    telemetry::unstorable(&self.stream, empty, first);
                }
                Ok(sent)
            }
            Err(error) => {
                self.refused(commit, &error, &leases, Takes { ops: count, bytes: size(commit, &shared.keys) })
            }
        }
    }

    /// Makes one transaction of operations, which lands only if the lane stands before this number.
    async fn compare(&self, number: u64, ops: Vec<TxnOp>) -> Result<Result<Sent, ClientError>> {
        let before = number.checked_sub(1).ok_or_else(|| Error::bug("commits are counted from 1"))?;
        let [epoch, born] = self.fence();
        let compares = [epoch, born, Compare::value(self.names.number(), CompareOp::Equal, ledger::text(before))];
        let looks = [TxnOp::get(self.names.epoch(), None), TxnOp::get(self.names.number(), None)];
        let txn = Txn::new().when(compares).and_then(ops).or_else(looks);
        let answer = self.shared.cluster.once(&self.attempt, |mut live| async move { live.kv.txn(txn).await }).await?;
        if let Some(header) = answer.as_ref().ok().and_then(|answer| answer.header()) {
            self.mend(header.raft_term());
        }
        Ok(match answer {
            Ok(answer) if answer.succeeded() => Ok(Sent::Landed),
            Ok(answer) => {
                let rows: Vec<_> = ranges(answer).into_iter().flatten().collect();
                // Keys that are gone were those of a lane that somebody has divided anew, or forgotten.
                let lane = if rows.is_empty() { Lane::default() } else { Lane::read(&self.names, &rows)? };
                Ok(Sent::Refused(lane))
            }
            Err(error) => Err(error),
        })
    }

    /// Holds while nobody else has claimed the lane.
    fn fence(&self) -> [Compare; 2] {
        [
            Compare::value(self.names.epoch(), CompareOp::Equal, ledger::text(self.epoch)),
            Compare::create_revision(self.names.epoch(), CompareOp::Equal, self.born),
        ]
    }

    /// Another leader may have given leases more time.
    fn mend(&self, term: u64) {
        self.shared.grants.saw(term);
        if !self.shared.mended.begin(term) {
            return;
        }
        let (shared, fence) = (Arc::clone(&self.shared), self.fence());
        let mend = async move { mend::all(&shared.cluster, &shared.grants, &shared.mended, &fence, term).await };
        let mut mending = self.mending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = mending.replace(tokio::spawn(mend)) {
            before.abort();
        }
    }

    /// The cluster did not take a transaction as such.
    fn refused(
        &self,
        commit: &Commit,
        error: &ClientError,
        leases: &HashMap<Bucket, i64>,
        took: Takes,
    ) -> Result<Sent> {
        let told = fault(&self.attempt, error);
        match cause(error) {
            Cause::NoLease => {
                self.shared.grants.forget(leases);
                Ok(Sent::LeaseGone)
            }
            cause @ (Cause::TooManyOps | Cause::RequestTooLarge) if commit.changes.len() > 1 => {
                self.shared.learned.shrink(cause == Cause::TooManyOps, took);
                // The lane collects smaller commits from its checkpoint on.
                Err(Error::new(Fault::StageLost, "the destination takes less at once than it did").because(told))
            }
            Cause::RequestTooLarge => {
                let what = format!("{}: one change of {} bytes is too large", self.attempt, took.bytes);
                Err(Error::rejected(what).because(told))
            }
            _ => Err(told),
        }
    }
}

/// A transaction without operations can only show where the lane stands.
fn not_landed(answer: Result<Sent, ClientError>) -> Result<Sent> {
    match answer {
        Ok(Sent::Landed) => Err(Error::bug("the lane stands where nothing that was sent can have brought it")),
        Ok(sent) => Ok(sent),
        Err(error) => Err(fault("ask where a lane stands", &error)),
    }
}

/// Bytes of the changes, as they are stored.
fn size(commit: &Commit, keys: &Keys) -> usize {
    let one = |row: crate::model::Row<'_>| keys.stored(row.key).len() + row.body.len() / 3 * 4;
    commit.changes.iter().map(one).sum()
}

/// Waits until it is known whether a commit landed.
async fn landed(mut fate: Fate) -> bool {
    // Whoever was given up has not said anything.
    fate.wait_for(Option::is_some).await.is_ok_and(|fate| *fate == Some(true))
}
