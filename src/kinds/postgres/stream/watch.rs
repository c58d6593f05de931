//! The task that keeps a source from harm and from being forgotten in part: looks after our slot, and for new tables.
//!
//! It lives beside the stream, on a session of its own, from the first pin or tail until the source is dropped. So it does
//! its work while the sink is away too, when nobody takes a batch and when no stream is open at all. Invariants: at
//! `max_retained` the slot goes, whoever waits for what; the stream hears of it only when the slot is gone, so that nobody
//! begins again from it; losing the session is never fatal. Where a journal relieves the source, reaching the limit is no
//! reason to give up while the slot moves on, up to twice the limit.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::link::Link;
use super::newcomers::{self, News};
use crate::error::{Error, Fault, Result};
use crate::kinds::postgres::admin::TableName;
use crate::kinds::postgres::admin::slot::{self, Retention, SlotState};
use crate::kinds::postgres::catalog::{self, Found, Need, Scope};
use crate::kinds::postgres::conn::{Endpoint, Session};
use crate::kinds::postgres::options::Options;
use crate::kinds::postgres::wire::Lsn;
use crate::telemetry::names;

/// LIMIT: one short question in this time; at 1 GB/s of log the limit is overrun by 10 GB.
const INTERVAL: Duration = Duration::from_secs(10);
/// LIMIT: the catalog is read at every third look, so a new table is noticed within a minute.
const LOOKS_PER_CENSUS: u32 = 3;
/// LIMIT: our own good-bye takes a second; a server that notices later frees the slot within its wal_sender_timeout, and
/// the next look tries again.
const FREE: (u32, Duration) = (20, Duration::from_millis(500));
/// Every word of `wal_status`.
const WAL_STATUS: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

/// What a look at the slot asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Warn,
    GiveUp,
}

impl Step {
    /// A warning once per crossing; the limit is the limit however it was reached, unless it is `eased`.
    fn of(before: Retention, now: Retention, eased: bool) -> Self {
        match (before, now) {
            (_, Retention::Full) if !eased => Self::GiveUp,
            (Retention::Fine, Retention::Alarm | Retention::Full) => Self::Warn,
            _ => Self::Nothing,
        }
    }
}

/// What the last look saw.
struct Seen {
    retention: Retention,
    confirmed: Option<Lsn>,
}

impl Seen {
    /// Whether somebody is about to relieve the source: he has one look's time to begin, and then the slot has to move on.
    fn eases(&self, state: &SlotState, limit: u64) -> bool {
        let begins = self.retention != Retention::Full || state.confirmed > self.confirmed;
        begins && state.retained.is_none_or(|retained| retained < limit.saturating_mul(2))
    }
}

/// The watch of one source.
pub(super) struct Watch {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    options: Options,
    scope: Scope,
    feed: Endpoint,
    /// The connection of the last tail.
    link: Mutex<Option<Arc<Link>>>,
    /// The tables that were pinned.
    known: tokio::sync::Mutex<Option<BTreeSet<TableName>>>,
    /// What a person must mend.
    concern: Mutex<Option<String>>,
    /// The slot holds half of `max_retained` or more.
    strained: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// A watch that does not look yet.
    pub(super) fn new(options: &Options, scope: Scope, feed: Endpoint) -> Self {
        let (link, known, concern, strained) = Default::default();
        let shared = Arc::new(Shared { options: options.clone(), scope, feed, link, known, concern, strained });
        Self { shared, task: Mutex::default() }
    }

    /// Begins to look, if it does not already.
    pub(super) fn start(&self) {
        let mut task = lock(&self.task);
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(tokio::spawn(look_on(Arc::clone(&self.shared))));
        }
    }

    /// The connection of the last tail.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        lock(&self.shared.link).clone()
    }

    /// A tail was opened.
    pub(super) fn follows(&self, link: &Arc<Link>) {
        *lock(&self.shared.link) = Some(Arc::clone(link));
        self.start();
    }

    /// These tables were pinned.
    pub(super) async fn pinned(&self, tables: &[TableName]) {
        *self.shared.known.lock().await = Some(tables.iter().cloned().collect());
        self.start();
    }

    /// Refuses to open a stream that lacks a table which the next pin would bring, or that has one which it cannot bring.
    pub(super) async fn admit(&self, client: &Client, found: &Found) -> Result<()> {
        let news = self.shared.census(client, found).await?;
        newcomers::refuse(&news.lost)?;
        match &news.added[..] {
            [] => Ok(()),
            added => Err(Error::position_lost(newcomers::sentence(added))),
        }
    }

    /// What a person must mend, if anything.
    pub(super) fn concern(&self) -> Option<String> {
        lock(&self.shared.concern).clone()
    }

    /// Whether the slot holds half of `max_retained` or more.
    pub(super) fn strained(&self) -> bool {
        // ORDERING: Relaxed, a flag that guards no other memory; being late by one look is harmless.
        self.shared.strained.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

async fn look_on(shared: Arc<Shared>) {
    let (mut held, mut failing) = (None, false);
    let mut before = Seen { retention: Retention::Fine, confirmed: None };
    for look in 0_u32.. {
        match shared.look(&mut held, &mut before, look % LOOKS_PER_CENSUS == 0).await {
            Ok(()) => failing = false,
            Err(error) => {
                held = None;
                let stream = &shared.options.stream;
                // A source that is away for an hour is told once.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(stream, %error, "could not look after the source; trying again every ten seconds");
                }
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

impl Shared {
    async fn look(&self, held: &mut Option<Client>, before: &mut Seen, census: bool) -> Result<()> {
        if held.as_ref().is_none_or(Client::is_closed) {
            *held = Some(self.feed.session(&Session::ADMIN).await?);
        }
        let Some(client) = held.as_ref() else { return Err(Error::bug("a session that was just made is gone")) };
        let state = slot::inspect(client, &self.options.slot()).await?.unwrap_or_default();
        self.show(&state);
        let retained = state.retained.unwrap_or(0);
        let now = Retention::of(retained, self.options.max_retained);
        // ORDERING: Relaxed, see `Watch::strained`.
        self.strained.store(now != Retention::Fine, Ordering::Relaxed);
        let eased = self.options.relieved && before.eases(&state, self.options.max_retained);
        let step = Step::of(before.retention, now, eased);
        *before = Seen { retention: now, confirmed: state.confirmed };
        match step {
            Step::Nothing => {}
            Step::Warn => tracing::warn!(
                stream = self.options.stream,
                retained_mib = retained >> 20,
                limit_mib = self.options.max_retained >> 20,
                "the source keeps log for us, half of max_retained or more: is the sink slow or away?"
            ),
            Step::GiveUp => return self.give_up(client, retained).await,
        }
        if census && matches!(self.scope, Scope::Raw(_)) {
            let found = catalog::find(client, &self.scope, Need::Tail).await?;
            let news = self.census(client, &found).await?;
            if !news.added.is_empty() {
                self.end(Fault::PositionLost, &newcomers::sentence(&news.added));
            }
        }
        Ok(())
    }

    fn show(&self, state: &SlotState) {
        let stream = &self.options.stream;
        gauge!(names::RETAINED, "stream" => stream.clone()).set(state.retained.unwrap_or(0) as f64);
        gauge!(names::RETAINED_SAFE, "stream" => stream.clone()).set(state.safe.map_or(f64::NAN, |bytes| bytes as f64));
        for word in WAL_STATUS {
            let is = if state.wal_status.as_deref() == Some(word) { 1.0 } else { 0.0 };
            gauge!(names::WAL_STATUS, "stream" => stream.clone(), "status" => word).set(is);
        }
    }

    /// Ends the stream and drops the slot, in this order; the stream hears of it afterwards.
    async fn give_up(&self, client: &Client, retained: u64) -> Result<()> {
        let (slot, stream) = (self.options.slot(), &self.options.stream);
        let (held, limit) = (retained >> 20, self.options.max_retained >> 20);
        if !self.options.manage_slot {
            tracing::error!(
                stream,
                "slot {slot} holds {held} MiB of WAL, max_retained is {limit} MiB, and manage.slot is off; run: \
                 select pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name) \
                 from pg_replication_slots where slot_name = '{slot}'"
            );
            return Ok(());
        }
        tracing::error!(stream, slot, held, limit, "the slot holds max_retained: dropping it, so that no disk fills");
        let link = lock(&self.link).clone();
        if let Some(link) = &link {
            link.desert();
        }
        let mut dropped = Ok(false);
        for _ in 0..FREE.0 {
            dropped = slot::drop(client, &slot).await;
            match &dropped {
                Err(error) if error.fault() == Fault::Transient && !client.is_closed() => {
                    tokio::time::sleep(FREE.1).await;
                }
                _ => break,
            }
        }
        match dropped {
            Ok(_) => self.end(
                Fault::PositionLost,
                &format!(
                    "follow PostgreSQL with slot {slot}: the slot held more WAL than max_retained ({held} MiB, the limit is \
                     {limit} MiB); it was dropped so that the source's disk does not fill; healing by difference when the \
                     sink is back"
                ),
            ),
            Err(error) => {
                // The stream was ended already and has to begin again; the next look tries again.
                self.end(Fault::Transient, &error.to_string());
                return Err(error);
            }
        }
        self.show(&SlotState::default());
        Ok(())
    }

    fn end(&self, fault: Fault, why: &str) {
        let link = lock(&self.link).clone();
        if let Some(link) = link {
            link.condemn(fault, why);
        }
    }

    /// Looks for tables that the stream lacks, and tells those that need a person.
    async fn census(&self, client: &Client, found: &Found) -> Result<News> {
        if !matches!(self.scope, Scope::Raw(_)) {
            return Ok(News::default());
        }
        let (publication, stream) = (self.options.publication(), &self.options.stream);
        let mut known = self.known.lock().await;
        let news = newcomers::look(client, (&publication, self.options.manage_publication), found, &mut known).await?;
        let concern = (news.stuck > 0)
            .then(|| format!("tables of the source that match `tables` are not replicated: {}", news.why));
        gauge!(names::UNREPLICATED, "stream" => stream.clone()).set((news.stuck + news.added.len()) as f64);
        let before = std::mem::replace(&mut *lock(&self.concern), concern.clone());
        if let Some(what) = concern.filter(|what| before.as_ref() != Some(what)) {
            tracing::error!(stream, "{what}");
        }
        Ok(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_told_once_per_crossing_and_the_limit_is_final() {
        let limit = 100;
        for (looks, steps) in [
            (&[0, 49, 50, 99, 60][..], &[Step::Nothing, Step::Nothing, Step::Warn, Step::Nothing, Step::Nothing][..]),
            (&[50, 10, 50], &[Step::Warn, Step::Nothing, Step::Warn]),
            (&[0, 100], &[Step::Nothing, Step::GiveUp]),
            (&[99, 100, 101], &[Step::Warn, Step::GiveUp, Step::GiveUp]),
            (&[100, 60, 10, 60], &[Step::GiveUp, Step::Nothing, Step::Nothing, Step::Warn]),
        ] {
            let mut before = Retention::Fine;
            let made = looks.iter().map(|&retained| {
                let now = Retention::of(retained, limit);
                Step::of(std::mem::replace(&mut before, now), now, false)
            });
            assert_eq!(made.collect::<Vec<_>>(), steps, "{looks:?}");
        }
    }

    #[test]
    fn a_source_that_is_relieved_gives_up_only_when_the_slot_stands_still_or_far_too_much_is_held() {
        let limit = 100;
        for (looks, steps) in [
            (&[(120, 1)][..], &[Step::Warn][..]),
            (
                &[(60, 1), (120, 1), (110, 2), (105, 3), (40, 4)],
                &[Step::Warn, Step::Nothing, Step::Nothing, Step::Nothing, Step::Nothing],
            ),
            (&[(60, 1), (120, 1), (120, 1)], &[Step::Warn, Step::Nothing, Step::GiveUp]),
            (&[(60, 1), (120, 2), (200, 3)], &[Step::Warn, Step::Nothing, Step::GiveUp]),
        ] {
            let mut before = Seen { retention: Retention::Fine, confirmed: None };
            let made = looks.iter().map(|&(retained, confirmed)| {
                let confirmed = Some(Lsn(confirmed));
                let state = SlotState { retained: Some(retained), confirmed, ..SlotState::default() };
                let (now, eased) = (Retention::of(retained, limit), before.eases(&state, limit));
                let step = Step::of(before.retention, now, eased);
                before = Seen { retention: now, confirmed };
                step
            });
            assert_eq!(made.collect::<Vec<_>>(), steps, "{looks:?}");
        }
    }
}
