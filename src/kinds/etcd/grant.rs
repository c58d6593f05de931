//! Leases at a destination: one for all keys that expire at about the same time.
//!
//! Instants are collected in buckets of five seconds, and the lease of a bucket is granted so that it ends at the bucket's
//! end or up to a second later. So no key expires early, and with what asking a source's lease adds none more than ten seconds
//! late. A new leader gives every lease its whole time again and tells nobody; so a lease is used for new keys for a short
//! while only, and under one leader, and [`super::mend`] puts keys right. None is ever kept alive, nor revoked: a late commit
//! may still put keys under it, and a lease that nobody uses ends by itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;

use super::connect::Cluster;
use super::lease::wall;
use crate::error::Result;
use crate::model::Micros;

/// LIMIT: how much later than its instant a key may go, in seconds: a handful of leases for all heartbeats of a minute.
const BUCKET: i64 = 5;
/// LIMIT: how long a lease is used for new keys. Heartbeats fill a bucket within its own length; a first copy uses the few
/// leases of each instant again and again while it lasts.
const USED_FOR: Duration = Duration::from_secs(60);
/// LIMIT: leases that are remembered for new keys, some 50 bytes each; beyond it all are forgotten, and granted again where
/// they are needed.
const REMEMBERED: usize = 20_000;
/// LIMIT: leases that are remembered until they end, some 50 bytes each; what is beyond it lives longer after an election.
const KEPT: usize = 100_000;
/// LIMIT: grants that are on their way at once. Each is a write at the cluster, which writes many of them together.
const AT_ONCE: usize = 32;
/// The longest that etcd grants, in seconds.
const LONGEST: i64 = 9_000_000_000;
/// One second, as [`Micros`].
const SECOND: Micros = 1_000_000;

/// The end of a bucket, in seconds since the Unix epoch.
pub type Bucket = i64;

/// The bucket of an instant: it ends at or after it, by less than [`BUCKET`].
pub fn bucket(expires: Micros) -> Bucket {
    let whole = expires.div_euclid(BUCKET * SECOND);
    let whole = if expires.rem_euclid(BUCKET * SECOND) > 0 { whole + 1 } else { whole };
    whole * BUCKET
}

/// The seconds to ask for, so that a lease that is granted later than `now` ends at the bucket's end or after it.
fn seconds(bucket: Bucket, now: Micros) -> i64 {
    let begun = now.div_euclid(SECOND);
    bucket.saturating_sub(begun).clamp(1, LONGEST)
}

/// Leases that were granted.
pub struct Grants {
    cluster: Cluster,
    known: Mutex<HashMap<Bucket, Granted>>,
    /// Each lease with the end that it should have, and the term in which it was last seen to have it.
    kept: Mutex<HashMap<i64, (Bucket, u64)>>,
    /// The newest term of the cluster's leaders that was seen.
    term: AtomicU64,
}

#[derive(Clone, Copy)]
struct Granted {
    lease: i64,
    at: Instant,
    term: u64,
}

impl Grants {
    /// At this cluster; nothing is granted yet.
    pub fn new(cluster: &Cluster) -> Self {
        Self { cluster: cluster.clone(), known: Mutex::default(), kept: Mutex::default(), term: AtomicU64::new(0) }
    }

    /// An answer is of this term.
    pub fn saw(&self, term: u64) {
        // ORDERING: Relaxed, a number that only grows and guards nothing.
        self.term.fetch_max(term, Ordering::Relaxed);
    }

    /// The leases that may have got more time than they should since `term` began, with the end that each should have.
    pub fn suspects(&self, term: u64) -> Vec<(i64, Bucket)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|(_, (_, seen))| *seen < term).map(|(lease, (bucket, _))| (*lease, *bucket)).collect()
    }

    /// A lease ends when it should, as far as `term` goes.
    pub fn is_right(&self, lease: i64, term: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, seen)) = kept.get_mut(&lease) {
            *seen = (*seen).max(term);
        }
    }

    /// No key is under a lease any more.
    pub fn is_empty(&self, lease: i64) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
    }

    fn keep(&self, lease: i64, bucket: Bucket, term: u64, now: Micros) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.retain(|_, (bucket, _)| *bucket > now / SECOND);
        }
        if kept.len() < KEPT {
            kept.insert(lease, (bucket, term));
        }
    }

    /// A lease for each of these buckets.
    pub async fn leases(&self, buckets: &BTreeSet<Bucket>) -> Result<HashMap<Bucket, i64>> {
        let mut leases = HashMap::with_capacity(buckets.len());
        if buckets.is_empty() {
            return Ok(leases);
        }
        let mut missing = Vec::new();
        {
            // ORDERING: Relaxed, see `saw`.
            let (known, now, term) = (self.lock(), Instant::now(), self.term.load(Ordering::Relaxed));
            let usable = |granted: &&Granted| now.duration_since(granted.at) < USED_FOR && granted.term >= term;
            for bucket in buckets {
                match known.get(bucket).filter(usable) {
                    Some(granted) => drop(leases.insert(*bucket, granted.lease)),
                    None => missing.push(*bucket),
                }
            }
        }
        let mut missing = missing.into_iter();
        let mut asked: FuturesUnordered<_> = missing.by_ref().take(AT_ONCE).map(|bucket| self.grant(bucket)).collect();
        while let Some(granted) = asked.next().await {
            let (bucket, lease) = granted?;
            leases.insert(bucket, lease);
            asked.extend(missing.next().map(|bucket| self.grant(bucket)));
        }
        Ok(leases)
    }

    /// A grant whose answer is lost is asked for again: the first one ends by itself.
    async fn grant(&self, bucket: Bucket) -> Result<(Bucket, i64)> {
        let (at, now) = (Instant::now(), wall()?);
        let seconds = seconds(bucket, now);
        let answer = self
            .cluster
            .ask("grant a lease", |mut live| async move { live.client.lease_grant(seconds, None).await })
            .await?;
        let (lease, term) = (answer.id(), answer.header().map_or(0, etcd_client::ResponseHeader::raft_term));
        self.saw(term);
        self.keep(lease, bucket, term, now);
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, granted| at.duration_since(granted.at) < USED_FOR);
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(bucket, Granted { lease, at, term });
        Ok((bucket, lease))
    }

    /// One of these leases is not there any more: none of them is used again.
    pub fn forget(&self, leases: &HashMap<Bucket, i64>) {
        let mut known = self.lock();
        known.retain(|bucket, granted| leases.get(bucket) != Some(&granted.lease));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Bucket, Granted>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Micros = 1_775_044_800_000_000;

    #[test]
    fn a_bucket_ends_at_or_after_each_of_its_instants_and_less_than_five_seconds_later() {
        for after in [0, 1, 999_999, 1_000_000, 4_999_999, 5_000_000, 5_000_001] {
            let late = bucket(T + after) * SECOND - (T + after);
            assert!((0..BUCKET * SECOND).contains(&late), "{after}: {late}");
        }
        assert_eq!((bucket(T), bucket(T + 1), bucket(T + 5 * SECOND)), (T / SECOND, T / SECOND + 5, T / SECOND + 5));
        assert!(bucket(Micros::MAX - 1) > T / SECOND);
    }

    #[test]
    fn a_lease_never_ends_before_its_bucket_and_at_most_a_second_after_it() {
        let end = bucket(T + 600 * SECOND);
        for micros in [0, 1, 500_000, 999_999] {
            let now = T + micros;
            let late = now + seconds(end, now) * SECOND - end * SECOND;
            assert!((0..=SECOND).contains(&late), "{micros}: {late}");
        }
        assert_eq!(seconds(end, T + 700 * SECOND), 1, "what is past is over at once");
        assert_eq!(seconds(bucket(Micros::MAX - 1), T), LONGEST);
    }
}
