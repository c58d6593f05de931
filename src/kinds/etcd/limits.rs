//! What one transaction of a cluster can hold. It tells nobody, so it is asked for more than it takes.
//!
//! Both questions change nothing: a transaction that only compares, with more comparisons than the server takes operations;
//! and one that is larger than any message it takes, whose refusal says how large one may be. What cannot be found out is
//! taken to be what etcd does by default.

use std::sync::{Mutex, PoisonError};

use etcd_client::{Compare, CompareOp, Error as ClientError, Txn};

use super::connect::Cluster;
use super::fault::{Cause, cause, fault};
use super::ledger::{self, SLOTS};
use crate::error::{Error, Result};
use crate::model::Layout;
use crate::sink::Limits;

/// What etcd takes by default.
const ORDINARY: Takes = Takes { ops: 128, bytes: 1_572_864 };
/// LIMIT: a commit of so many operations holds others up for some ten milliseconds; more would not make a copy faster.
const MOST: Takes = Takes { ops: 2_048, bytes: 3 << 20 };
/// Operations of a commit beside its changes: the lane's number and its positions.
const OURS: usize = 1 + SLOTS;
/// LIMIT: a server that takes fewer leaves no room for changes.
const LEAST_OPS: usize = 16;
/// What etcd adds to its own limit for what carries a request.
const CARRIER: usize = 512 << 10;
/// LIMIT: bytes of a request that are kept for the lane's record and what stands around it.
const RECORD: usize = 96 << 10;
/// LIMIT: bytes around an operation's key and value.
const AROUND: usize = 40;
/// LIMIT: commits of a lane that are on their way at once: while one is made durable the next one is already there.
pub const IN_FLIGHT: usize = 2;

/// What a transaction may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takes {
    /// Operations.
    pub ops: usize,
    /// Bytes of the request.
    pub bytes: usize,
}

/// What is known of it.
#[derive(Debug, Default)]
pub struct Learned(Mutex<Option<Takes>>);

impl Learned {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Takes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As far as it is known.
    pub fn takes(&self) -> Takes {
        self.lock().unwrap_or(ORDINARY)
    }

    /// Asks the cluster, if that was not done.
    pub async fn learn(&self, cluster: &Cluster) -> Result<()> {
        if self.lock().is_some() {
            return Ok(());
        }
        let takes = Takes { ops: ops(cluster).await?, bytes: bytes(cluster).await? };
        if takes.ops < LEAST_OPS {
            return Err(Error::config(format!(
                "write to the cluster: it takes only {} operations in one transaction; {LEAST_OPS} are needed \
                 (--max-txn-ops)",
                takes.ops
            )));
        }
        self.lock().get_or_insert(takes);
        Ok(())
    }

    /// A commit was refused that kept to what is known, so the server was started with less: it is asked again, and told less.
    pub fn shrink(&self, too_many: bool, took: Takes) {
        let known = self.takes();
        *self.lock() = match too_many {
            true => None,
            false => Some(Takes { bytes: known.bytes.min(took.bytes / 2).max(64 << 10), ..known }),
        };
    }
}

/// What a commit can take of the source's changes.
pub fn limits(takes: Takes, layout: Layout, prefix: usize, most_bytes: Option<usize>) -> Limits {
    let changes = takes.ops.saturating_sub(OURS).max(1);
    let bytes = most_bytes.map_or(takes.bytes, |most| takes.bytes.min(most));
    let bytes = bytes.saturating_sub(RECORD + changes * (prefix + AROUND));
    // Base64 makes four bytes of three.
    let bytes = if layout == Layout::Teleport { bytes / 4 * 3 } else { bytes };
    Limits { changes, bytes: bytes.max(4 << 10), stage: false, in_flight: IN_FLIGHT }
}

/// The most operations of a transaction, up to [`MOST`].
async fn ops(cluster: &Cluster) -> Result<usize> {
    if takes_ops(cluster, MOST.ops).await? {
        return Ok(MOST.ops);
    }
    // What is known to be taken, and what is known to be refused; nearly every server takes what is ordinary.
    let (mut least, mut most) = (0, MOST.ops);
    for next in [ORDINARY.ops, ORDINARY.ops + 1] {
        if most > next {
            if takes_ops(cluster, next).await? { least = next } else { most = next }
        }
    }
    while most - least > 1 {
        let next = usize::midpoint(least, most);
        if takes_ops(cluster, next).await? { least = next } else { most = next }
    }
    Ok(least)
}

async fn takes_ops(cluster: &Cluster, count: usize) -> Result<bool> {
    const ATTEMPT: &str = "ask how many operations a transaction may have";
    let answer = cluster
        .try_ask(ATTEMPT, |mut live| async move {
            let compare = Compare::version(ledger::streams(), CompareOp::Equal, 0);
            live.kv.txn(Txn::new().when(vec![compare; count])).await
        })
        .await?;
    match answer {
        Ok(_) => Ok(true),
        Err(error) if matches!(cause(&error), Cause::TooManyOps | Cause::RequestTooLarge) => Ok(false),
        Err(error) => Err(fault(ATTEMPT, &error)),
    }
}

/// The most bytes of a request, up to [`MOST`].
async fn bytes(cluster: &Cluster) -> Result<usize> {
    const ATTEMPT: &str = "ask how large a transaction may be";
    let answer = cluster.once(ATTEMPT, |mut live| async move {
        let compare = Compare::value(ledger::streams(), CompareOp::Equal, vec![0; MOST.bytes + CARRIER]);
        live.kv.txn(Txn::new().when([compare])).await
    });
    Ok(match answer.await {
        Ok(Ok(_)) => MOST.bytes,
        Ok(Err(ClientError::GRpcStatus(status))) => {
            told(status.message()).map_or(ORDINARY.bytes, |bytes| bytes.saturating_sub(CARRIER).min(MOST.bytes))
        }
        // Something on the way did not carry it. What is taken by default is nearly always taken.
        Ok(Err(_)) | Err(_) => ORDINARY.bytes,
    })
}

/// What a server says of the largest message that it takes: `grpc: received message larger than max (4 vs. 2)`.
fn told(message: &str) -> Option<usize> {
    let (_, numbers) = message.split_once("larger than max (")?;
    numbers.split_once(" vs. ")?.1.strip_suffix(')')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_tells_its_limit_when_it_refuses() {
        assert_eq!(told("grpc: received message larger than max (3670064 vs. 2097152)"), Some(2_097_152));
        for other in ["", "larger than max (", "larger than max (1 vs. )", "larger than max (1 vs. 2"] {
            assert_eq!(told(other), None);
        }
    }

    #[test]
    fn a_full_commit_fits_into_what_the_server_takes() {
        for takes in [ORDINARY, MOST, Takes { ops: 16, bytes: 300_000 }] {
            for (layout, prefix) in [(Layout::Raw, 1), (Layout::Teleport, 200)] {
                let limits = limits(takes, layout, prefix, None);
                assert!(limits.changes + OURS <= takes.ops && !limits.stage);
                let values = if layout == Layout::Raw { limits.bytes } else { limits.bytes.div_ceil(3) * 4 };
                let request = values + limits.changes * (prefix + AROUND) + RECORD;
                assert!(request <= takes.bytes + 4, "{takes:?}: {request}");
            }
        }
        let less = limits(ORDINARY, Layout::Raw, 1, Some(500_000));
        assert!(less.bytes < 500_000 && less.changes == 119);
    }

    #[test]
    fn what_is_refused_is_learned() {
        let learned = Learned::default();
        assert_eq!(learned.takes(), ORDINARY);
        learned.shrink(false, Takes { ops: 9, bytes: 1_000_000 });
        assert_eq!(learned.takes(), Takes { bytes: 500_000, ..ORDINARY });
        learned.shrink(true, ORDINARY);
        assert_eq!(learned.takes(), ORDINARY);
    }
}
