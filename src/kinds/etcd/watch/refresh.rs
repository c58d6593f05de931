//! Reads leases again beside the stream, and the rows of those that have moved.
//!
//! One thing is read at a time, while the stream goes on. A row that was read was written at a revision; it is the newest of
//! its key at every place behind that revision at which the stream has not brought the key again. So a row enters once the
//! stream has passed its revision, unless the key was touched meanwhile; where the stream has yet to come to the revision, it
//! brings the row itself. Nothing is read twice for it, and nothing goes back (decision 0015).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use etcd_client::proto::PbKeyValue;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::due::Due;
use crate::error::{Fault, Result};
use crate::kinds::etcd::lease::{self, Ends, Told};
use crate::kinds::etcd::read::Reader;
use crate::source::Fut;

/// LIMIT: leases asked at once; the budget spreads them over time.
const AT_ONCE: usize = 16;
/// LIMIT: keys of several leases that are read one after the other, so that few round trips serve many leases.
const TOGETHER: usize = 1_000;
/// LIMIT: bytes of rows that are read at once.
const PAGE_BYTES: usize = 1 << 20;
/// How long nothing is read after the cluster was away.
const REST: Duration = Duration::from_millis(500);
/// LIMIT: keys that the stream may touch while one thing is read; beyond it that is read again.
const TOUCHED_MAX: usize = 100_000;

/// What is to be read.
enum Errand {
    /// All keys from this stored one on: those under one of these leases, or under any.
    Walk(Vec<u8>, Option<BTreeSet<i64>>),
    /// These stored keys of leases, and when those end.
    Keys(HashMap<i64, Ends>, Vec<Vec<u8>>),
}

/// What came of it.
pub(super) enum Found {
    Asked(Vec<(i64, Result<Told>)>),
    /// Rows, when their leases end, and how far the errand is.
    Rows(Rows, Left),
}

/// What is left of an errand.
pub(super) enum Left {
    Nothing,
    /// A walk goes on at this stored key.
    From(Vec<u8>),
    /// So many keys are done.
    Behind(usize),
}

/// Rows, and when their leases end.
pub(super) struct Rows {
    pub(super) rows: Vec<PbKeyValue>,
    pub(super) ends: HashMap<i64, Ends>,
}

/// Looks after the leases of one stream.
pub(super) struct Refresh {
    reader: Reader,
    pub(super) due: Due,
    errands: VecDeque<Errand>,
    reading: Option<Fut<'static, Found>>,
    /// Nothing is read before this, because the cluster was away.
    rest: Option<Instant>,
    /// What the stream brought while something is read, with the revision; `None` when that was too much.
    touched: Option<HashMap<Vec<u8>, i64>>,
    /// Whether the walk that begins a stream is still to end.
    first: bool,
    /// Whether the server refuses to name the keys of leases, because some of them are somebody else's.
    nameless: bool,
    /// Whose turn it is: a long walk must not keep leases waiting.
    ask_next: bool,
}

impl Refresh {
    /// Begins with all keys that have a lease.
    pub(super) fn new(reader: &Reader) -> Self {
        let walk = Errand::Walk(reader.keys.first(b""), None);
        Self {
            reader: reader.clone(),
            due: Due::default(),
            errands: VecDeque::from([walk]),
            reading: None,
            rest: None,
            touched: None,
            first: true,
            nameless: false,
            ask_next: false,
        }
    }

    /// Whether all leases were read since the start.
    pub(super) fn is_settled(&self) -> bool {
        !self.first
    }

    /// The stream brings a key.
    pub(super) fn touch(&mut self, key: &[u8], revision: i64) {
        if self.reading.is_none() {
            return;
        }
        if self.touched.as_ref().is_some_and(|touched| touched.len() >= TOUCHED_MAX) {
            self.touched = None;
        } else if let Some(touched) = &mut self.touched {
            touched.insert(key.to_vec(), revision);
        }
    }

    /// When there is something to read that is not being read; `None` while something is.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let next = match (&self.reading, self.errands.is_empty()) {
            (Some(_), _) => None,
            (None, false) => Some(now),
            (None, true) => self.due.next(),
        };
        next.map(|next| self.rest.map_or(next, |rest| next.max(rest)))
    }

    /// Begins to read what is to be read now.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.reading.is_some() {
            return;
        }
        let due = if self.ask_next || self.errands.is_empty() { self.due.take(now, AT_ONCE) } else { Vec::new() };
        self.ask_next = !self.ask_next;
        self.touched = Some(HashMap::new());
        if !due.is_empty() {
            let (reader, keys) = (self.reader.clone(), !self.nameless);
            self.reading = Some(Box::pin(async move { Ok(ask(&reader, due, keys).await) }));
            return;
        }
        let reader = self.reader.clone();
        self.reading = match self.errands.front() {
            None => None,
            Some(Errand::Walk(from, only)) => {
                let (from, only) = (from.clone(), only.clone());
                Some(Box::pin(async move { walk(&reader, &from, only.as_ref()).await }))
            }
            Some(Errand::Keys(ends, keys)) => {
                let ends = ends.clone();
                let count = reader.at_once(PAGE_BYTES).min(keys.len());
                let now: Vec<Vec<u8>> = keys.iter().take(count).cloned().collect();
                Some(Box::pin(async move {
                    let mut rows = reader.rows(&now).await?;
                    // A key that has another lease by now comes out of the stream.
                    rows.retain(|row| ends.contains_key(&row.lease));
                    Ok(Found::Rows(Rows { rows, ends }, Left::Behind(count)))
                }))
            }
        };
    }

    /// Waits for what is being read. Cancel-safe.
    pub(super) async fn found(&mut self) -> Result<Found> {
        match &mut self.reading {
            Some(reading) => {
                let found = reading.await;
                self.reading = None;
                found
            }
            None => std::future::pending().await,
        }
    }

    /// Takes note of what was found; gives rows that may enter the stream where it is, behind `place`.
    pub(super) fn take(&mut self, found: Result<Found>, place: i64) -> Result<Option<Rows>> {
        let (now, wall) = (Instant::now(), lease::wall()?);
        match found {
            Ok(Found::Asked(answers)) => {
                for (lease, told) in answers {
                    self.answered(lease, told, now, wall)?;
                }
                Ok(None)
            }
            Ok(Found::Rows(Rows { rows, ends }, left)) => {
                // The stream brought more than can be remembered: the same again.
                let Some(touched) = self.touched.take() else { return Ok(None) };
                self.advance(left);
                for (lease, ends) in &ends {
                    self.due.told(*lease, *ends, now, wall);
                }
                let told = |row: &PbKeyValue| matches!(ends.get(&row.lease), Some(Ends::At(..)));
                let rows = rows.into_iter().filter(|row| is_newest(row, place, &touched) && told(row)).collect();
                Ok(Some(Rows { rows, ends }))
            }
            // The errand is still there.
            Err(error) if matches!(error.fault(), Fault::Transient | Fault::Throttled(_)) => {
                self.rest = Some(now + REST);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn answered(&mut self, lease: i64, told: Result<Told>, now: Instant, wall: i64) -> Result<()> {
        let told = match told {
            Ok(told) => told,
            // Some of its keys are somebody else's, or there are more than one answer holds.
            Err(error) if matches!(error.fault(), Fault::Config | Fault::Rejected) && !self.nameless => {
                self.nameless = true;
                self.due.failed(lease, now);
                return Ok(());
            }
            Err(error) if matches!(error.fault(), Fault::Transient | Fault::Throttled(_) | Fault::Config) => {
                self.due.failed(lease, now);
                return if error.fault() == Fault::Config { Err(error) } else { Ok(()) };
            }
            Err(error) => return Err(error),
        };
        if !self.due.answered(lease, told.ends, now, wall) {
            return Ok(());
        }
        if !self.nameless {
            let keys: Vec<Vec<u8>> = told.keys.into_iter().filter(|key| self.reader.keys.key(key).is_some()).collect();
            match self.errands.back_mut() {
                _ if keys.is_empty() => {}
                // What is being read of it stands at its beginning.
                Some(Errand::Keys(ends, others)) if others.len() < TOGETHER => {
                    ends.insert(lease, told.ends);
                    others.extend(keys);
                }
                _ => self.errands.push_back(Errand::Keys(HashMap::from([(lease, told.ends)]), keys)),
            }
            return Ok(());
        }
        // Found by a walk: one that waits to begin takes it along.
        let first = self.reader.keys.first(b"");
        match self.errands.back_mut() {
            Some(Errand::Walk(from, Some(only))) if *from == first => drop(only.insert(lease)),
            _ => self.errands.push_back(Errand::Walk(first, Some(BTreeSet::from([lease])))),
        }
        Ok(())
    }

    /// A piece of the errand at the front is done.
    fn advance(&mut self, left: Left) {
        let ended = match (self.errands.front_mut(), left) {
            (Some(Errand::Walk(from, _)), Left::From(next)) => {
                *from = next;
                false
            }
            (Some(Errand::Keys(_, keys)), Left::Behind(count)) => {
                keys.drain(..count.min(keys.len()));
                keys.is_empty()
            }
            _ => true,
        };
        if ended && let Some(Errand::Walk(_, None)) = self.errands.pop_front() {
            self.first = false;
        }
    }
}

/// Whether a row that was read is the newest of its key where the stream is: `touched` is what the stream brought since the
/// reading began.
fn is_newest(row: &PbKeyValue, place: i64, touched: &HashMap<Vec<u8>, i64>) -> bool {
    row.mod_revision <= place && touched.get(&row.key).is_none_or(|at| *at <= row.mod_revision)
}

async fn ask(reader: &Reader, leases: Vec<i64>, keys: bool) -> Found {
    let asked = leases.into_iter().map(|lease| async move {
        let told = reader.leases.ask(lease, keys).await.map(|(_, told)| told);
        (lease, told)
    });
    Found::Asked(join_all(asked).await)
}

/// A page of a walk: the rows with a lease.
async fn walk(reader: &Reader, from: &[u8], only: Option<&BTreeSet<i64>>) -> Result<Found> {
    let (mut rows, more) = reader.page(from, &reader.keys.end(b""), PAGE_BYTES).await?;
    let left = match rows.last() {
        Some(last) if more => Left::From([&last.key[..], b"\0"].concat()),
        _ => Left::Nothing,
    };
    rows.retain(|row| {
        row.lease != 0 && reader.keys.key(&row.key).is_some() && only.is_none_or(|only| only.contains(&row.lease))
    });
    let ends = reader.leases.ends(&rows.iter().map(|row| row.lease).collect()).await?;
    Ok(Found::Rows(Rows { rows, ends }, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_enters_only_where_it_is_the_newest_of_its_key() {
        let row = |mod_revision| PbKeyValue { key: b"k".to_vec(), mod_revision, ..PbKeyValue::default() };
        let touched = |at: i64| HashMap::from([(b"k".to_vec(), at)]);
        let none = HashMap::new();
        assert!(is_newest(&row(7), 7, &none) && is_newest(&row(7), 9, &none));
        assert!(!is_newest(&row(7), 6, &none), "the stream has yet to bring it");
        assert!(!is_newest(&row(7), 9, &touched(8)), "it was written, or removed, since");
        assert!(is_newest(&row(7), 9, &touched(7)), "the stream has just brought it");
        assert!(is_newest(&row(7), 9, &touched(5)), "the stream has brought what came before it");
        assert!(is_newest(&row(7), 9, &HashMap::from([(b"other".to_vec(), 9)])));
    }
}
