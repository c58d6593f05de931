//! Rows out of a cluster: pages of a range, and single keys; at the newest revision, or all at one.
//!
//! A page has no limit in bytes at etcd, only one in keys, so how many keys are asked for follows from how large the last
//! ones were. What is read at the newest revision is never older than the question. A row under a lease that has ended
//! meanwhile is looked at once more: its key may have got a newer lease, and would otherwise be taken for expired.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::proto::{PbKeyValue, PbTxnOpResponse};
use etcd_client::{Error as ClientError, GetOptions, GetResponse, Txn, TxnOp};

use super::body;
use super::connect::{Cluster, MAX_ANSWER};
use super::fault::{Cause, cause, fault};
use super::layout::Keys;
use super::lease::{self, Ends, Leases};
use crate::error::{Error, Result};
use crate::model::{Batch, Op};
use crate::telemetry;

/// LIMIT: keys of one page. The server makes the whole answer before anybody can say that it is too large: behind many
/// small values, as many of the largest that etcd takes by default are 750 MiB of its memory for a moment.
const MAX_KEYS: usize = 500;
/// LIMIT: bytes of one page, so that an answer whose values turn out large stays far below [`MAX_ANSWER`].
const PAGE_BYTES: usize = 1 << 20;
/// LIMIT: what etcd takes in one transaction unless somebody says otherwise; a server that takes less is asked for less.
const MAX_OPS: usize = 128;

/// Reads rows of one prefix.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) cluster: Cluster,
    pub(super) keys: Arc<Keys>,
    pub(super) leases: Leases,
    /// The revision that everything is read at; `None` is the newest.
    at: Option<i64>,
    guess: Arc<Mutex<Guess>>,
}

/// What is known of sizes.
#[derive(Clone, Copy, Debug)]
struct Guess {
    /// Bytes of a row.
    row: usize,
    /// Operations that the server takes in one transaction.
    ops: usize,
    /// Whether it was told that values cannot be read.
    told: bool,
}

impl Reader {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let options = cluster.options();
        Self {
            cluster: cluster.clone(),
            keys: Arc::new(Keys::new(options.layout, options.prefix.as_bytes())),
            leases: Leases::new(cluster),
            at: None,
            // LIMIT: a guess on the large side: the first page is a small one, and the next knows better.
            guess: Arc::new(Mutex::new(Guess { row: 8 << 10, ops: MAX_OPS, told: false })),
        }
    }

    /// The same at one revision, or (`None`) at the newest.
    pub(super) fn at(&self, revision: Option<i64>) -> Self {
        Self { at: revision, ..self.clone() }
    }

    fn guess<T>(&self, f: impl FnOnce(&mut Guess) -> T) -> T {
        f(&mut self.guess.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest revision.
    pub(super) async fn newest(&self) -> Result<(u64, i64)> {
        let key = self.keys.first(b"");
        let answer = self
            .cluster
            .ask("ask for the newest revision", |mut live| {
                let key = key.clone();
                async move { live.kv.get(key, Some(GetOptions::new().with_count_only())).await }
            })
            .await?;
        let header = answer.header().ok_or_else(|| no_header("ask for the newest revision"))?;
        Ok((header.cluster_id(), header.revision()))
    }

    /// How many stored keys lie from `from` to `end`, and the first of them.
    pub(super) async fn count(&self, from: Vec<u8>, end: Vec<u8>) -> Result<(u64, Option<Vec<u8>>)> {
        let options = self.options().with_keys_only().with_limit(1).with_range(end);
        let mut answer =
            self.get_once("count keys", &from, &options).await?.map_err(|e| self.failed("count keys", &e))?;
        let count = u64::try_from(answer.count()).unwrap_or_default();
        Ok((count, answer.0.kvs.pop().map(|row| row.key)))
    }

    /// Rows from the stored key `from` on, up to about `bytes`; and whether there are more before `end`.
    pub(super) async fn page(&self, from: &[u8], end: &[u8], bytes: usize) -> Result<(Vec<PbKeyValue>, bool)> {
        const ATTEMPT: &str = "scan keys";
        loop {
            let limit = self.guess(|guess| (bytes.min(PAGE_BYTES) / guess.row).clamp(1, MAX_KEYS));
            let options = self.options().with_limit(i64::try_from(limit).unwrap_or(1)).with_range(end);
            match self.get_once(ATTEMPT, from, &options).await? {
                Ok(answer) => {
                    let (more, rows) = (answer.more(), answer.0.kvs);
                    self.learn(&rows);
                    return Ok((rows, more));
                }
                Err(error) if cause(&error) == Cause::AnswerTooLarge && limit > 1 => {
                    self.guess(|guess| guess.row = (MAX_ANSWER / limit).max(guess.row) * 2);
                }
                Err(error) => return Err(self.failed(ATTEMPT, &error)),
            }
        }
    }

    /// The rows of these stored keys that are there, in any order.
    pub(super) async fn rows(&self, stored: &[Vec<u8>]) -> Result<Vec<PbKeyValue>> {
        const ATTEMPT: &str = "read keys";
        let mut found = Vec::new();
        let mut left = stored;
        while !left.is_empty() {
            let count = self.guess(|guess| (MAX_ANSWER / 4 / guess.row).clamp(1, guess.ops)).min(left.len());
            let (now, later) = left.split_at(count);
            let gets: Vec<TxnOp> = now.iter().map(|key| TxnOp::get(key.clone(), Some(self.options()))).collect();
            let answer = self
                .cluster
                .try_ask(ATTEMPT, |mut live| {
                    let question = Txn::new().and_then(gets.clone());
                    async move { live.kv.txn(question).await }
                })
                .await?;
            match answer {
                Ok(answer) => {
                    for part in answer.0.responses {
                        if let Some(PbTxnOpResponse::ResponseRange(range)) = part.response {
                            found.extend(range.kvs);
                        }
                    }
                    left = later;
                }
                Err(error) if count > 1 => match cause(&error) {
                    Cause::TooManyOps | Cause::RequestTooLarge => self.guess(|guess| guess.ops = count / 2),
                    Cause::AnswerTooLarge => self.guess(|guess| guess.row = (MAX_ANSWER / count).max(guess.row) * 2),
                    _ => return Err(self.failed(ATTEMPT, &error)),
                },
                Err(error) => return Err(self.failed(ATTEMPT, &error)),
            }
        }
        self.learn(&found);
        Ok(found)
    }

    /// Appends rows to a batch, in their order, as puts.
    pub(super) async fn push(&self, mut rows: Vec<PbKeyValue>, batch: &mut Batch, table: u16) -> Result<()> {
        // What belongs to somebody else has no expiry that matters.
        rows.retain(|row| self.keys.key(&row.key).is_some());
        let mut ends = self.leases.ends(&leases_of(&rows)).await?;
        let gone = |row: &PbKeyValue, ends: &HashMap<i64, Ends>| ends.get(&row.lease) == Some(&Ends::Gone);
        let again: Vec<Vec<u8>> = rows.iter().filter(|row| gone(row, &ends)).map(|row| row.key.clone()).collect();
        if !again.is_empty() {
            let present = self.at(None);
            let mut newer: HashMap<_, _> =
                present.rows(&again).await?.into_iter().map(|row| (row.key.clone(), row)).collect();
            ends.extend(self.leases.ends(&newer.values().map(|row| row.lease).filter(|id| *id != 0).collect()).await?);
            let settled = rows.into_iter().filter_map(|row| match gone(&row, &ends) {
                true => newer.remove(&row.key),
                false => Some(row),
            });
            rows = settled.collect();
        }
        let (mut bytes, mut unreadable) = (Vec::new(), 0);
        for row in &rows {
            let Some(key) = self.keys.key(&row.key) else { continue };
            bytes.clear();
            if self.body(row, &ends, &mut bytes)? {
                batch.push(Op::Put, false, table, key, &bytes, 0);
            } else {
                unreadable += 1;
            }
        }
        self.left_out(unreadable);
        Ok(())
    }

    /// Appends the body of a row; false if its value cannot be read.
    pub(super) fn body(&self, row: &PbKeyValue, ends: &HashMap<i64, Ends>, out: &mut Vec<u8>) -> Result<bool> {
        let (expires, granted) = match ends.get(&row.lease) {
            _ if row.lease == 0 => (None, 0),
            Some(Ends::At(at, granted)) => (Some(*at), *granted),
            Some(Ends::Gone) | None => (Some(lease::soon()?), 0),
        };
        body::begin(expires, row.mod_revision, granted, out);
        Ok(self.keys.value(&row.value, out))
    }

    /// So many rows could not be read.
    pub(super) fn left_out(&self, unreadable: u64) {
        if unreadable > 0 {
            let first = self.guess(|guess| !std::mem::replace(&mut guess.told, true));
            telemetry::unreadable(&self.cluster.options().stream, unreadable, first);
        }
    }

    /// How many rows have about so many bytes.
    pub(super) fn at_once(&self, bytes: usize) -> usize {
        self.guess(|guess| (bytes / guess.row).clamp(1, guess.ops))
    }

    fn options(&self) -> GetOptions {
        // Revision 0 is the newest.
        GetOptions::new().with_revision(self.at.unwrap_or(0))
    }

    async fn get_once(
        &self,
        attempt: &str,
        from: &[u8],
        options: &GetOptions,
    ) -> Result<Result<GetResponse, ClientError>> {
        self.cluster
            .try_ask(attempt, |mut live| {
                let (from, options) = (from.to_vec(), options.clone());
                async move { live.kv.get(from, Some(options)).await }
            })
            .await
    }

    /// A view whose revision is compacted away is taken again: what was read of it stays right, and what changed since
    /// comes from the stream.
    fn failed(&self, attempt: &str, error: &ClientError) -> Error {
        match (cause(error), self.at) {
            (Cause::Compacted, Some(revision)) => Error::transient(format!(
                "{attempt}: the cluster has compacted revision {revision} away while it was read; a newer one is taken"
            )),
            _ => fault(attempt, error),
        }
    }

    fn learn(&self, rows: &[PbKeyValue]) {
        let bytes: usize = rows.iter().map(|row| row.key.len() + row.value.len() + 64).sum();
        if let Some(row) = bytes.checked_div(rows.len()) {
            // Large at once, small by and by: a page of large rows behind small ones costs memory, the other way only time.
            self.guess(|guess| guess.row = row.max((guess.row * 3 + row) / 4));
        }
    }
}

fn leases_of(rows: &[PbKeyValue]) -> BTreeSet<i64> {
    rows.iter().map(|row| row.lease).filter(|lease| *lease != 0).collect()
}

fn no_header(attempt: &str) -> Error {
    Error::corrupt(format!("{attempt}: the answer has no header"))
}
