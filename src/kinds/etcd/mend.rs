//! Keys at a destination whose leases a new leader has given more time than they should have.
//!
//! A leader that was elected gives each lease the whole time again that it was once granted for. What this process has put
//! under one of its leases is then put under a new one with the right end: by the key alone, with its value as it is, and only
//! while the key is still under that very lease and the lane is still ours. So it neither overtakes a commit nor takes one
//! back, and no reader sees another value. What an earlier process put there is not known, and ends too late.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{Compare, CompareOp, LeaseTimeToLiveOptions, PutOptions, Txn, TxnOp};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::connect::Cluster;
use super::fault::fault;
use super::grant::{Bucket, Grants};
use super::lease::{left, wall};
use crate::error::Result;

/// LIMIT: leases that are looked at at once; this must not keep the cluster from anything else.
const AT_ONCE: usize = 8;
/// LIMIT: keys of one transaction; each costs a comparison, too, and fits into what the smallest server takes.
const TOGETHER: usize = 12;
/// Seconds that a lease may end after its bucket and still be right: one that was cut off and one that was rounded up.
const LATE: i64 = 2;

/// Which term's elections have been made good.
#[derive(Debug, Default)]
pub struct Mended(AtomicU64);

impl Mended {
    /// Whether that is to be done for a term, by whoever asks first.
    pub fn begin(&self, term: u64) -> bool {
        // ORDERING: Relaxed, it only chooses one of many.
        self.0.fetch_max(term, Ordering::Relaxed) < term
    }
}

/// Does it again at the next answer, unless it was done.
struct Unless<'a>(&'a Mended, bool);

impl Drop for Unless<'_> {
    fn drop(&mut self) {
        if !self.1 {
            // ORDERING: Relaxed, see `Mended::begin`.
            self.0.0.store(0, Ordering::Relaxed);
        }
    }
}

/// Puts right what an election before or at `term` has moved, while `fence` holds.
pub async fn all(cluster: &Cluster, grants: &Grants, mended: &Mended, fence: &[Compare], term: u64) {
    let mut unless = Unless(mended, false);
    let suspects = stream::iter(grants.suspects(term));
    let looked = suspects.map(|suspect| one(cluster, grants, fence, term, suspect)).buffer_unordered(AT_ONCE);
    match looked.try_fold(0, |sum, moved| async move { Ok(sum + moved) }).await {
        Ok(moved) => {
            unless.1 = true;
            if moved > 0 {
                tracing::info!(
                    keys = moved,
                    "the destination has another leader; keys with longer lives got their own back"
                );
            }
        }
        Err(error) => tracing::debug!(%error, "keys that live longer after an election are looked at again"),
    }
}

/// One lease; gives how many of its keys were moved.
async fn one(
    cluster: &Cluster,
    grants: &Grants,
    fence: &[Compare],
    term: u64,
    (lease, bucket): (i64, Bucket),
) -> Result<usize> {
    const ATTEMPT: &str = "ask when a lease ends that was granted before an election";
    let keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    let answer = cluster
        .ask(ATTEMPT, |mut live| {
            let keys = keys.clone();
            async move { live.client.lease_time_to_live(lease, keys).await }
        })
        .await?;
    let left = left(answer.ttl(), answer.granted_ttl());
    if left < 0 || answer.keys().is_empty() {
        grants.is_empty(lease);
        return Ok(0);
    }
    if wall()? / 1_000_000 + left <= bucket + LATE {
        grants.is_right(lease, term);
        return Ok(0);
    }
    let better = grants.leases(&BTreeSet::from([bucket])).await?;
    let Some(better) = better.get(&bucket).copied().filter(|better| *better != lease) else { return Ok(0) };
    let mut moved = 0;
    for keys in answer.keys().chunks(TOGETHER) {
        if put_under(cluster, fence, keys, lease, better).await? {
            moved += keys.len();
            continue;
        }
        // One of them has been written since.
        for key in keys {
            moved += usize::from(put_under(cluster, fence, std::slice::from_ref(key), lease, better).await?);
        }
    }
    grants.is_empty(lease);
    Ok(moved)
}

/// Puts keys under another lease, if all of them are under this one.
async fn put_under(cluster: &Cluster, fence: &[Compare], keys: &[Vec<u8>], lease: i64, better: i64) -> Result<bool> {
    const ATTEMPT: &str = "put keys under a lease that ends when they should";
    let same = keys.iter().map(|key| Compare::lease(key.clone(), CompareOp::Equal, lease));
    let compares: Vec<_> = fence.iter().cloned().chain(same).collect();
    let options = PutOptions::new().with_lease(better).with_ignore_value();
    let puts: Vec<_> = keys.iter().map(|key| TxnOp::put(key.clone(), "", Some(options.clone()))).collect();
    let txn = Txn::new().when(compares).and_then(puts);
    let answer = cluster.once(ATTEMPT, |mut live| async move { live.kv.txn(txn).await }).await?;
    answer.map(|answer| answer.succeeded()).map_err(|error| fault(ATTEMPT, &error))
}
