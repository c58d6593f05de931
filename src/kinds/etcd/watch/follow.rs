//! The task that follows: answers of the watch and rows of leases into batches, and another watch when one is lost.
//!
//! Invariants: a mark stands only behind a whole revision, behind a place that the server keeps in order, and behind each row
//! that a lease brought. A batch is begun only when there is something to say, and handed on before anything is waited for, so
//! backpressure is the one thing that holds the task up; a watch is not blamed for the time in which nobody listened.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{PbEvent, PbKeyValue};
use futures_util::FutureExt as _;
use metrics::gauge;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::assemble::Came;
use super::health::{Health, Say};
use super::link::{Link, compacted, refused};
use super::refresh::{Found, Refresh, Rows};
use super::shared::Shared;
use crate::error::{Error, Fault, Result};
use crate::kinds::etcd::lease::{self, Ends, Leases};
use crate::kinds::etcd::place;
use crate::kinds::etcd::read::Reader;
use crate::model::{Batch, Micros, Op, PartitionId, Position, Steps, Table};
use crate::pool::Pool;
use crate::source::Fut;
use crate::telemetry::{self, names};

/// LIMIT: how long another watch is tried for before whoever follows is told that the cluster is away.
const AWAY: Duration = Duration::from_secs(15);
/// How long is waited before leases are asked for again that nobody answered for.
const AGAIN: Duration = Duration::from_millis(200);
/// How often what is overdue is counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Follows one cluster from a place on.
pub(super) struct Follower {
    reader: Reader,
    shared: Arc<Shared>,
    tail: u64,
    pool: Pool,
    out: mpsc::Sender<Result<Batch>>,
    cluster: u64,
    partition: PartitionId,
    table: Arc<Table>,
    link: Link,
    health: Health,
    wanted: watch::Receiver<i64>,
    looking: Option<Fut<'static, (u64, i64)>>,
    refresh: Refresh,
    /// The leader's term when leases were last all due.
    term: u64,
    batch: Option<Batch>,
    /// Where the next batch begins.
    base: Position,
    /// The time of the last row that a lease brought.
    stamp: Micros,
    counted: Instant,
}

/// What ends the task although nothing is wrong: nobody listens any more.
struct Deserted;

/// Why a step ended.
enum Stop {
    Deserted,
    Failed(Error),
}

impl From<Deserted> for Stop {
    fn from(_: Deserted) -> Self {
        Self::Deserted
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What the task woke up for.
enum Woke {
    Answer(Result<Came>),
    Found(Result<Found>),
    Newest(Result<(u64, i64)>),
    Wanted,
    Time,
}

/// What a follower begins with.
pub(super) struct Begin {
    pub(super) reader: Reader,
    pub(super) shared: Arc<Shared>,
    pub(super) tail: u64,
    pub(super) pool: Pool,
    pub(super) cluster: u64,
    pub(super) from: Position,
    pub(super) link: Link,
}

impl Follower {
    pub(super) fn new(begin: Begin, out: mpsc::Sender<Result<Batch>>) -> Self {
        let Begin { reader, shared, tail, pool, cluster, from, link } = begin;
        let now = Instant::now();
        shared.complain(link.complaint.clone());
        Self {
            health: Health::new(now, link.assembler.place(), link.answering, link.reaching),
            wanted: shared.wanted(),
            refresh: Refresh::new(&reader),
            term: reader.leases.term(),
            partition: place::partition(cluster),
            table: Arc::default(),
            looking: None,
            batch: None,
            // A clock that was set back does not take the stream back.
            stamp: place::time(&from),
            base: from,
            counted: now,
            reader,
            shared,
            tail,
            pool,
            out,
            cluster,
            link,
        }
    }

    /// Follows until nobody listens; what went wrong is given to who does.
    pub(super) async fn run(mut self) {
        let ended = self.follow().await;
        self.shared.end(self.tail);
        if let Stop::Failed(error) = ended {
            // Nobody may be there to hear it.
            drop(self.out.send(Err(error)).await);
        }
    }

    async fn follow(&mut self) -> Stop {
        // A cluster may be quiet for ever, and whoever waits for a place must not wait with it.
        let stands = self.base.clone();
        self.begun().await.mark(stands);
        loop {
            if let Err(stop) = self.step().await {
                return stop;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Stop> {
        self.hand_on().await?;
        let now = Instant::now();
        if now >= self.counted {
            self.counted = now + COUNT_EVERY;
            let overdue = self.refresh.due.overdue(now);
            self.shared.overdue(overdue);
            gauge!(names::LEASES_OVERDUE, "stream" => self.reader.cluster.options().stream.clone()).set(overdue as f64);
        }
        self.look_at_term(now);
        if self.refresh.next(now).is_some_and(|due| due <= now) {
            self.refresh.begin(now);
        }
        let mut until = self.refresh.next(now).map_or(self.counted, |due| due.min(self.counted));
        match self.health.say(now) {
            Say::Wait(due) => until = until.min(due),
            Say::Ask => self.ask(now).await,
            Say::GiveUp(why) => return self.reconnect(&Error::transient(why)).await,
        }
        let woke = tokio::select! {
            answer = self.link.next() => Woke::Answer(answer.and_then(|answer| self.hear(answer))),
            found = self.refresh.found() => Woke::Found(found),
            newest = poll(&mut self.looking) => Woke::Newest(newest),
            changed = self.wanted.changed() => { drop(changed); Woke::Wanted }
            () = sleep_until(until) => Woke::Time,
            () = self.out.closed() => return Err(Stop::Deserted),
        };
        self.wake(woke).await
    }

    async fn wake(&mut self, woke: Woke) -> Result<(), Stop> {
        match woke {
            Woke::Answer(came) => {
                let mut next = Some(came);
                // What is there already goes into the same batch.
                while let Some(came) = next.take() {
                    match came {
                        Ok(came) => self.take(came).await?,
                        Err(error) => return self.lost(error).await,
                    }
                    if self.batch.as_ref().is_some_and(|batch| batch.bytes() < self.pool.batch_bytes()) {
                        next =
                            self.link.next().now_or_never().map(|answer| answer.and_then(|answer| self.hear(answer)));
                    }
                }
            }
            Woke::Found(found) => {
                if let Some(rows) = self.refresh.take(found, self.link.assembler.place())? {
                    self.enter(rows).await?;
                }
                if self.refresh.is_settled() {
                    self.hand_on().await?;
                    self.shared.settle(self.tail);
                }
            }
            Woke::Newest(Ok((cluster, revision))) => {
                self.looking = None;
                if cluster == self.cluster {
                    self.health.want(Instant::now(), revision);
                }
            }
            // The watch is judged by what it says itself.
            Woke::Newest(Err(_)) => self.looking = None,
            Woke::Wanted => {
                let revision = *self.wanted.borrow_and_update();
                self.health.want(Instant::now(), revision);
            }
            Woke::Time => {}
        }
        Ok(())
    }

    /// Puts an answer together with those before it.
    fn hear(&mut self, answer: etcd_client::proto::PbWatchResponse) -> Result<Came> {
        self.reader.leases.heard_of(answer.header.as_ref().map_or(0, |header| header.raft_term));
        let came = self.link.assembler.take(answer)?;
        self.health.heard(Instant::now(), self.link.assembler.place());
        Ok(came)
    }

    async fn take(&mut self, came: Came) -> Result<(), Stop> {
        match came {
            Came::Created | Came::Alive => Ok(()),
            Came::Quiet(revision) => {
                self.begun().await.mark(place::position(revision));
                Ok(())
            }
            Came::Revisions(events, _) => self.events(events).await,
            Came::Compacted(revision) => Err(compacted(self.link.assembler.place(), revision).into()),
            Came::Refused(why) => self.lost(refused(&why)).await,
        }
    }

    /// Asks the watch how far it is, and the cluster, where it is not known that something is missing.
    async fn ask(&mut self, now: Instant) {
        // A watch that cannot be asked any more has ended, which is heard next.
        drop(self.link.requests.request_progress().await);
        self.health.asked(now);
        if !self.health.is_behind() && self.looking.is_none() {
            let reader = self.reader.clone();
            self.looking = Some(Box::pin(async move { reader.newest().await }));
        }
    }

    /// A leader that was just elected has given every lease its time again.
    fn look_at_term(&mut self, now: Instant) {
        let term = self.reader.leases.term();
        if term > self.term {
            if self.term > 0 {
                self.refresh.due.all(now);
            }
            self.term = term;
        }
    }

    async fn lost(&mut self, error: Error) -> Result<(), Stop> {
        match error.fault() {
            Fault::Transient | Fault::Throttled(_) => self.reconnect(&error).await,
            // A log-in that ran out looks like this, too; the next watch comes after a new one.
            Fault::Config => self.reconnect(&error).await,
            _ => Err(error.into()),
        }
    }

    /// Makes another watch, at another peer if there is one.
    async fn reconnect(&mut self, why: &Error) -> Result<(), Stop> {
        telemetry::watch_lost(&self.reader.cluster.options().stream, why);
        self.hand_on().await?;
        self.reader.cluster.forget(&self.link.live);
        let (begun, place) = (Instant::now(), self.link.assembler.place());
        let mut pause = Duration::from_millis(50);
        loop {
            match Box::pin(Link::open(&self.reader, self.cluster, place)).await {
                Ok(link) => {
                    self.shared.complain(link.complaint.clone());
                    let now = Instant::now();
                    self.health = Health::new(now, place, link.answering, link.reaching);
                    self.health.want(now, *self.wanted.borrow());
                    self.link = link;
                    return Ok(());
                }
                Err(error) if error.fault() == Fault::Transient && begun.elapsed() < AWAY => {
                    if self.out.is_closed() {
                        return Err(Stop::Deserted);
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whole revisions enter the stream.
    async fn events(&mut self, events: Vec<PbEvent>) -> Result<(), Stop> {
        let keys = Arc::clone(&self.reader.keys);
        let leased = |event: &PbEvent| {
            let kv = event.kv.as_ref().filter(|kv| kv.lease != 0 && keys.key(&kv.key).is_some());
            kv.map(|kv| kv.lease)
        };
        let leases: BTreeSet<i64> = events.iter().filter_map(leased).collect();
        let ends = ends_of(&self.reader.leases, &leases).await?;
        let (now, at) = (Instant::now(), lease::wall()?);
        for (lease, ends) in &ends {
            self.refresh.due.told(*lease, *ends, now, at);
        }
        let mut unreadable = 0;
        let mut events = events.into_iter().peekable();
        while let Some(event) = events.next() {
            let Some(kv) = &event.kv else { continue };
            let revision = kv.mod_revision;
            if self.reader.keys.key(&kv.key).is_some() {
                unreadable += self.event(event.r#type, kv, &ends, at).await?;
            }
            let whole = events.peek().and_then(|next| next.kv.as_ref()).is_none_or(|next| next.mod_revision > revision);
            if whole {
                self.begun().await.mark(place::position(revision));
            }
            if self.is_full() {
                self.hand_on().await?;
            }
        }
        self.reader.left_out(unreadable);
        Ok(())
    }

    /// One change; 1 if it is a value that cannot be read, which is as good as none.
    async fn event(&mut self, kind: i32, kv: &PbKeyValue, ends: &HashMap<i64, Ends>, at: Micros) -> Result<u64, Stop> {
        self.refresh.touch(&kv.key, kv.mod_revision);
        let mut body = Vec::new();
        let readable = match kind {
            0 => self.reader.body(kv, ends, &mut body)?,
            1 => false,
            _ => return Err(Error::corrupt("follow an etcd cluster: an event is neither a put nor a delete").into()),
        };
        let (keys, table) = (Arc::clone(&self.reader.keys), Arc::clone(&self.table));
        let Some(key) = keys.key(&kv.key) else { return Ok(0) };
        let batch = self.begun().await;
        let table = batch.table(&table);
        match readable {
            true => batch.push(Op::Put, kv.version == 1, table, key, &body, at),
            false => batch.push(Op::Delete, false, table, key, &[], at),
        }
        Ok(u64::from(kind == 0 && !readable))
    }

    /// Rows whose leases have moved enter the stream where it is: each is a unit of its own, so that none is ever counted
    /// among the changes of the transaction that follows.
    async fn enter(&mut self, found: Rows) -> Result<(), Stop> {
        let (at, revision) = (lease::wall()?, self.link.assembler.place());
        for row in &found.rows {
            let mut body = Vec::new();
            if !self.reader.body(row, &found.ends, &mut body)? {
                continue;
            }
            let (keys, table) = (Arc::clone(&self.reader.keys), Arc::clone(&self.table));
            let Some(key) = keys.key(&row.key) else { continue };
            self.stamp = at.max(self.stamp + 1);
            let upto = place::between(revision, self.stamp);
            let batch = self.begun().await;
            let table = batch.table(&table);
            batch.push(Op::Put, false, table, key, &body, at);
            batch.mark(upto);
            if self.is_full() {
                self.hand_on().await?;
            }
        }
        Ok(())
    }

    /// The batch that is being filled.
    async fn begun(&mut self) -> &mut Batch {
        if self.batch.is_none() {
            let waits = Instant::now();
            let mut batch = self.pool.take().await;
            batch.begin(&self.partition, self.base.clone(), Steps::Ordinal);
            self.batch = Some(batch);
            self.listened(waits);
        }
        self.batch.as_mut().expect("it was just put there")
    }

    fn is_full(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.bytes() >= self.pool.batch_bytes())
    }

    /// Hands on what is there.
    async fn hand_on(&mut self) -> Result<(), Deserted> {
        let Some(batch) = self.batch.take() else { return Ok(()) };
        self.base = match batch.len().checked_sub(1).filter(|_| batch.is_open()) {
            Some(last) => batch.position(last),
            None => batch.upto().clone(),
        };
        self.shared.give(batch.upto());
        let waits = Instant::now();
        self.out.send(Ok(batch)).await.map_err(|_| Deserted)?;
        self.listened(waits);
        Ok(())
    }

    /// Somebody was waited for since then.
    fn listened(&mut self, since: Instant) {
        if since.elapsed() > Duration::from_millis(100) {
            self.health.resume(Instant::now());
        }
    }
}

/// When leases end; asked until the cluster answers, because the events that name them are given once.
async fn ends_of(leases: &Leases, named: &BTreeSet<i64>) -> Result<HashMap<i64, Ends>> {
    let begun = Instant::now();
    loop {
        match leases.ends(named).await {
            Err(error) if error.fault() == Fault::Transient && begun.elapsed() < AWAY => sleep(AGAIN).await,
            ends => return ends,
        }
    }
}

/// Waits for a future that may not be there. Cancel-safe.
async fn poll<T>(future: &mut Option<Fut<'static, T>>) -> Result<T> {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
