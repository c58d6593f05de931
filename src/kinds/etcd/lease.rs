//! When leases end. Many keys share one, and each is asked once and remembered for a while.
//!
//! A lease tells only how many whole seconds it has left. The instant that is given here is never early, and up to three
//! seconds late. It stays the same, to the byte, until the lease was renewed, so that a row that did not change looks as it
//! did. A renewal makes no event, so what is remembered is asked again after a while, and before a third of its time is
//! gone. Nothing is ever granted, kept alive or revoked here.
//!
//! No more than `budget` questions a second are asked of the cluster, whose leader alone can answer them.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_client::LeaseTimeToLiveOptions;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;

use super::connect::Cluster;
use crate::error::{Error, Result};
use crate::model::Micros;

/// LIMIT: questions that are on their way at once; a round trip of 10 ms lets 1 600 a second through.
const AT_ONCE: usize = 16;
/// LIMIT: how long an answer is good for. A comparison that takes longer asks again and sees a renewal.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// LIMIT: leases that are remembered, some 60 bytes each; beyond it those that have ended are forgotten, then all.
const REMEMBERED: usize = 100_000;
/// One second, as [`Micros`].
const SECOND: Micros = 1_000_000;

/// Leases of one cluster.
#[derive(Clone)]
pub struct Leases(Cluster);

/// What was asked of the leases of one cluster, for all who ask through the same connection.
pub(super) struct Memory {
    pace: Mutex<Pace>,
    known: Mutex<HashMap<i64, Known>>,
    /// The newest term of a leader that was heard of.
    term: AtomicU64,
}

impl Memory {
    pub(super) fn new(budget: u32) -> Self {
        Self { pace: Mutex::new(Pace::new(budget)), known: Mutex::default(), term: AtomicU64::new(0) }
    }

    /// Nothing that was known is good any more.
    pub(super) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    ends: Ends,
    /// When the answer is to be asked for again.
    stale: Instant,
}

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// It ends at this instant, if nobody renews it, and is granted for so many seconds whenever somebody does.
    At(Micros, u32),
    /// There is no such lease, or it has ended and its keys are about to go.
    Gone,
}

/// What a lease says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When it ends.
    pub ends: Ends,
    /// The whole seconds that it has left, below zero if there is none.
    pub left: i64,
    /// The stored keys that it holds, if they were asked for.
    pub keys: Vec<Vec<u8>>,
}

impl Leases {
    /// Leases of this cluster; nothing is asked yet.
    pub fn new(cluster: &Cluster) -> Self {
        Self(cluster.clone())
    }

    /// A header named this term. A leader that was just elected gives every lease its whole time again, so that nothing
    /// that was known before is good any more.
    pub fn heard_of(&self, term: u64) {
        let memory = self.0.memory();
        // ORDERING: Relaxed: who hears of a term late asks late, which is what happens without a header, too.
        let before = memory.term.fetch_max(term, Ordering::Relaxed);
        if before != 0 && before < term {
            memory.forget();
        }
    }

    /// The newest term of a leader that was heard of; 0 before the first.
    pub fn term(&self) -> u64 {
        // ORDERING: Relaxed, as in `heard_of`.
        self.0.memory().term.load(Ordering::Relaxed)
    }

    /// When each of these leases ends.
    pub async fn ends(&self, leases: &BTreeSet<i64>) -> Result<HashMap<i64, Ends>> {
        let mut answers = HashMap::with_capacity(leases.len());
        let mut open = Vec::new();
        {
            let memory = self.0.memory();
            let (known, now) = (memory.known.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
            for lease in leases {
                match known.get(lease) {
                    Some(known) if now < known.stale => drop(answers.insert(*lease, known.ends)),
                    _ => open.push(*lease),
                }
            }
        }
        let mut open = open.into_iter();
        let mut asked: FuturesUnordered<_> = open.by_ref().take(AT_ONCE).map(|lease| self.ask(lease, false)).collect();
        while let Some(answer) = asked.next().await {
            let (lease, told) = answer?;
            answers.insert(lease, told.ends);
            asked.extend(open.next().map(|lease| self.ask(lease, false)));
        }
        Ok(answers)
    }

    /// Asks about one lease, and for the keys that it holds, and remembers when it ends.
    pub async fn ask(&self, lease: i64, keys: bool) -> Result<(i64, Told)> {
        let memory = self.0.memory();
        let wait = memory.pace.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now());
        tokio::time::sleep_until(wait).await;
        let options = keys.then(|| LeaseTimeToLiveOptions::new().with_keys());
        let mut answer = self
            .0
            .ask("ask when a lease ends", |mut live| {
                let options = options.clone();
                async move { live.client.lease_time_to_live(lease, options).await }
            })
            .await?;
        self.heard_of(answer.header().map_or(0, etcd_client::ResponseHeader::raft_term));
        let left = left(answer.ttl(), answer.granted_ttl());
        let granted = u32::try_from(answer.granted_ttl()).unwrap_or(u32::MAX);
        let ends = if left < 0 { Ends::Gone } else { Ends::At(end(wall()?, left), granted) };
        let mut known = memory.known.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = settle(known.get(&lease).map(|known| known.ends), ends);
        if known.len() >= REMEMBERED {
            make_room(&mut known);
        }
        known.insert(lease, Known { ends, stale: Instant::now() + good_for(left) });
        Ok((lease, Told { ends, left, keys: std::mem::take(&mut answer.0.keys) }))
    }
}

/// The whole seconds that a lease has left, below zero if there is none. A leader that has just been elected has not set the
/// end yet, and says a number beyond all that was granted.
pub(super) fn left(told: i64, granted: i64) -> i64 {
    if told < 0 { -1 } else { told.min(granted) }
}

/// The instant at which a lease has certainly ended that had so many whole seconds left before `now`: the second that was
/// cut off, one that [`settle`] may take away, and up to a whole second.
fn end(now: Micros, left: i64) -> Micros {
    let at = now.saturating_add(left.saturating_add(2).saturating_mul(SECOND));
    at.saturating_add(SECOND - 1).div_euclid(SECOND).saturating_mul(SECOND)
}

/// The end of a lease that has ended although its key is still there: in a moment, unless a new leader gives it its time again.
pub(super) fn soon() -> Result<Micros> {
    wall().map(|now| end(now, 0))
}

/// What was remembered, unless the lease was renewed since: two questions about one lease give instants that differ by what
/// was cut off and by how long the answers took.
fn settle(known: Option<Ends>, asked: Ends) -> Ends {
    match (known, asked) {
        // Up to one second later is still not before its end. Much earlier: an answer took long, or came from a leader
        // that had just been elected.
        (Some(Ends::At(known, _)), Ends::At(asked, granted))
            if (known - 3 * SECOND..=known + SECOND).contains(&asked) =>
        {
            Ends::At(known, granted)
        }
        _ => asked,
    }
}

fn good_for(left: i64) -> Duration {
    let third = Duration::from_secs(u64::try_from(left).unwrap_or_default()) / 3;
    third.min(GOOD_FOR)
}

fn make_room(known: &mut HashMap<i64, Known>) {
    let now = Instant::now();
    known.retain(|_, known| now < known.stale);
    if known.len() >= REMEMBERED {
        known.clear();
    }
}

pub(super) fn wall() -> Result<Micros> {
    let since =
        SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|since| Micros::try_from(since.as_micros()).ok());
    since.ok_or_else(|| Error::config("know the time: the clock of this machine is wrong"))
}

/// Spreads questions over time.
struct Pace {
    gap: Duration,
    free: Option<Instant>,
}

impl Pace {
    fn new(budget: u32) -> Self {
        Self { gap: Duration::from_secs(1) / budget.max(1), free: None }
    }

    /// When the next question may go.
    fn next(&mut self, now: Instant) -> Instant {
        // A tenth of a second's questions may go at once after a rest.
        let earliest = now.checked_sub(Duration::from_millis(100)).unwrap_or(now);
        let at = self.free.map_or(earliest, |free| free.max(earliest));
        self.free = Some(at + self.gap);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Micros = 1_775_044_800_000_000;

    #[test]
    fn an_instant_is_never_early_and_at_most_three_seconds_late() {
        for micros in [0, 1, 499_999, 999_999] {
            for cut_off in [0, 1, 999_999] {
                let (now, left) = (T + micros, 600);
                let truth = now + left * SECOND + cut_off;
                let told = end(now, left);
                assert!(told > truth && told - truth <= 3 * SECOND, "{}", told - truth);
                assert_eq!(told % SECOND, 0);
            }
        }
        assert!(end(T, i64::MAX) > T);
    }

    #[test]
    fn no_lease_has_more_left_than_was_granted() {
        for (told, granted, wanted) in
            [(0, 10, 0), (10, 10, 10), (9_223_372_036, 600, 600), (-1, 0, -1), (-1, 600, -1), (-5, 600, -1)]
        {
            assert_eq!(left(told, granted), wanted, "{told} of {granted}");
        }
    }

    #[test]
    fn what_was_told_stays_until_the_lease_is_renewed() {
        let at = |seconds: i64| Ends::At(T + seconds * SECOND, 10);
        assert_eq!(settle(None, at(10)), at(10));
        assert_eq!(settle(Some(at(10)), at(11)), at(10));
        assert_eq!(settle(Some(at(10)), at(7)), at(10));
        assert_eq!(settle(Some(at(10)), at(6)), at(6));
        assert_eq!(settle(Some(at(10)), at(12)), at(12));
        assert_eq!(settle(Some(at(10)), Ends::Gone), Ends::Gone);
        assert_eq!(settle(Some(Ends::Gone), at(10)), at(10));
        // However often it is renewed by a little, and however long answers take, it is never told to end early.
        let mut told = None;
        for step in 0..200 {
            let (now, granted) = (T + step * 300_000, 10 * SECOND);
            let truth = now + granted;
            let asked = end(now, (truth - now) / SECOND);
            let now_told = settle(told, Ends::At(asked, 10));
            let Ends::At(instant, _) = now_told else { panic!("it is there") };
            assert!(instant >= truth, "step {step}: {}", instant - truth);
            told = Some(now_told);
        }
    }

    #[test]
    fn questions_keep_to_their_budget() {
        let mut pace = Pace::new(10);
        let now = Instant::now() + Duration::from_secs(10);
        let waits: Vec<_> = (0..12).map(|_| pace.next(now).saturating_duration_since(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]);
        let later = now + Duration::from_secs(60);
        assert!(pace.next(later) <= later, "a rest is not saved up for more than a moment");
        assert!(pace.next(later) <= later && pace.next(later) > later);
    }

    #[test]
    fn an_answer_is_good_for_a_third_of_what_is_left_and_not_for_long() {
        assert_eq!(good_for(9), Duration::from_secs(3));
        assert_eq!(good_for(600), GOOD_FOR);
        assert_eq!(good_for(-1), Duration::ZERO);
    }
}
