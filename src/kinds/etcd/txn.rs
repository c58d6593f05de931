//! What a commit's changes become as operations of one transaction. Pure: the clock and the leases come in.
//!
//! Invariant: no key is named twice, which etcd refuses, and none of ours is ever written. What has expired by the time it is
//! written is removed instead: it must neither live for ever nor come back.

use std::collections::{BTreeSet, HashMap};

use etcd_client::{DeleteOptions, PutOptions, TxnOp};

use super::body::Body;
use super::grant::{Bucket, bucket};
use super::layout::{Keys, OURS};
use crate::error::{Error, Result};
use crate::model::{Changes, Layout, Micros, Op, Row};

/// What becomes of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What<'a> {
    Delete,
    Put(&'a [u8], Option<Bucket>),
}

/// A commit's changes, each key once.
pub struct Folded<'a> {
    keys: &'a Keys,
    /// By stored key.
    rows: Vec<(Vec<u8>, What<'a>)>,
    /// Whether everything else of the layout goes.
    pub clears: bool,
    /// What expires needs a lease of each of these.
    pub buckets: BTreeSet<Bucket>,
    /// How many were left out because their value is empty.
    pub empty: u64,
}

impl<'a> Folded<'a> {
    /// Folds changes that are written at `now`.
    pub fn of(changes: &'a Changes, keys: &'a Keys, now: Micros) -> Result<Self> {
        let mut folded = Self { keys, rows: Vec::new(), clears: false, buckets: BTreeSet::new(), empty: 0 };
        let mut index: HashMap<&[u8], usize> = HashMap::with_capacity(changes.len());
        for row in changes.iter() {
            if row.op == Op::Clear {
                if keys.layout() == Layout::Raw {
                    return Err(Error::bug("write changes: a whole prefix of etcd is never cleared"));
                }
                folded.clears = true;
                folded.rows.clear();
                index.clear();
                continue;
            }
            let what = what(row, keys.layout(), now, &mut folded.empty)?;
            match index.get(row.key) {
                Some(&at) => {
                    if let Some((_, last)) = folded.rows.get_mut(at) {
                        *last = what;
                    }
                }
                None => {
                    index.insert(row.key, folded.rows.len());
                    folded.rows.push((stored(row.key, keys)?, what));
                }
            }
        }
        let buckets = folded.rows.iter().filter_map(|(_, what)| match what {
            What::Put(_, bucket) => *bucket,
            What::Delete => None,
        });
        folded.buckets = buckets.collect();
        Ok(folded)
    }

    /// How many operations it takes with the clear in it.
    pub fn len(&self) -> usize {
        let puts = self.rows.iter().filter(|(_, what)| *what != What::Delete).count();
        if self.clears { 2 * puts + 1 } else { self.rows.len() }
    }

    /// The operation that clears everything, to be done before all others.
    pub fn clear(&self) -> TxnOp {
        let (from, end) = (self.keys.first(b""), self.keys.end(b""));
        TxnOp::delete(from, Some(DeleteOptions::new().with_range(end)))
    }

    /// Appends the operations. `leases` holds one for each bucket; `cleared`: everything else of the layout is gone already.
    pub fn operations(mut self, leases: &HashMap<Bucket, i64>, cleared: bool, out: &mut Vec<TxnOp>) -> Result<()> {
        if self.clears {
            self.rows.retain(|(_, what)| *what != What::Delete);
            if !cleared {
                self.clear_around(out);
            }
        }
        for (key, what) in self.rows {
            let options = |bucket: Option<Bucket>| match bucket.map(|bucket| leases.get(&bucket)) {
                None => Ok(PutOptions::new()),
                Some(Some(lease)) => Ok(PutOptions::new().with_lease(*lease)),
                Some(None) => Err(Error::bug("write changes: a key that expires has no lease")),
            };
            out.push(match what {
                What::Delete => TxnOp::delete(key, None),
                What::Put(value, bucket) => {
                    let value = self.keys.stored_value(value);
                    let value = value.ok_or_else(|| Error::bug("write changes: an empty value was not left out"))?;
                    TxnOp::put(key, value, Some(options(bucket)?))
                }
            });
        }
        Ok(())
    }

    /// A range that is removed must not hold a key that is put, so what lies between these keys is removed.
    fn clear_around(&self, out: &mut Vec<TxnOp>) {
        let mut puts: Vec<&[u8]> = self.rows.iter().map(|(key, _)| &key[..]).collect();
        puts.sort_unstable();
        let mut from = self.keys.first(b"");
        for key in puts {
            if from[..] < *key {
                out.push(TxnOp::delete(from, Some(DeleteOptions::new().with_range(key))));
            }
            from = [key, b"\0"].concat();
        }
        out.push(TxnOp::delete(from, Some(DeleteOptions::new().with_range(self.keys.end(b"")))));
    }
}

fn what<'a>(row: Row<'a>, layout: Layout, now: Micros, empty: &mut u64) -> Result<What<'a>> {
    let past = |expires: Option<Micros>| expires.is_some_and(|at| at <= now);
    Ok(match row.op {
        Op::Delete | Op::Clear => What::Delete,
        // A source of this kind gives whole rows, and those of others are made whole on their way here.
        Op::Patch => return Err(Error::bug("write changes: a row with holes reached etcd")),
        Op::Put => {
            let Body { expires, value, .. } = Body::decode(row.body)?;
            let unstorable = layout == Layout::Teleport && value.is_empty();
            *empty += u64::from(unstorable);
            if unstorable || past(expires) { What::Delete } else { What::Put(value, expires.map(bucket)) }
        }
    })
}

fn stored(key: &[u8], keys: &Keys) -> Result<Vec<u8>> {
    let stored = keys.stored(key);
    if stored.starts_with(OURS) {
        return Err(Error::rejected(
            "write changes: a key would lie under /driftless/, where our own records are; choose another `prefix`",
        ));
    }
    if stored.is_empty() {
        return Err(Error::rejected(
            "write changes: the key that the source's `prefix` itself is has no name under an empty one; choose another \
             `prefix` for `dst`",
        ));
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Batch;

    const NOW: Micros = 1_775_044_800_000_000;

    fn put(expires: Option<Micros>, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Body { expires, revision: 0, granted: 0, value }.encode(&mut out);
        out
    }

    fn changes(rows: &[(Op, &str, Vec<u8>)]) -> Changes {
        let mut batch = Batch::unpooled();
        let table = batch.table(&Arc::default());
        for (op, key, body) in rows {
            batch.push(*op, false, table, key.as_bytes(), body, 0);
        }
        let (batch, mut changes) = (Arc::new(batch), Changes::default());
        let held = changes.hold(&batch);
        for index in 0..rows.len() {
            changes.pick(held, u32::try_from(index).unwrap());
        }
        changes
    }

    fn teleport() -> Keys {
        Keys::new(Layout::Teleport, b"/t/")
    }

    fn rows(rows: &[(Op, &str, Vec<u8>)]) -> Vec<String> {
        let (changes, keys) = (changes(rows), teleport());
        let folded = Folded::of(&changes, &keys, NOW).unwrap();
        folded.rows.iter().map(|(key, what)| format!("{} {what:?}", String::from_utf8_lossy(key))).collect()
    }

    #[test]
    fn each_key_is_named_once_and_the_last_change_counts() {
        let later = Some(NOW + 7_000_000);
        let all = [
            (Op::Put, "/a", put(None, b"1")),
            (Op::Put, "/b", put(None, b"1")),
            (Op::Delete, "/a", vec![]),
            (Op::Put, "/b", put(later, b"2")),
            (Op::Delete, "/c", vec![]),
            (Op::Put, "/c", put(None, b"3")),
        ];
        let end = bucket(NOW + 7_000_000);
        assert_eq!(
            rows(&all),
            ["/t//a Delete".into(), format!("/t//b Put([50], Some({end}))"), "/t//c Put([51], None)".into()]
        );
    }

    #[test]
    fn what_has_expired_or_is_empty_is_removed() {
        let all = [
            (Op::Put, "/past", put(Some(NOW), b"1")),
            (Op::Put, "/empty", put(None, b"")),
            (Op::Put, "/lives", put(Some(NOW + 1), b"1")),
        ];
        let end = bucket(NOW + 1);
        let live = format!("/t//lives Put([49], Some({end}))");
        assert_eq!(rows(&all), ["/t//past Delete", "/t//empty Delete", &live]);
        let (changes, keys) = (changes(&all), teleport());
        let folded = Folded::of(&changes, &keys, NOW).unwrap();
        assert_eq!((folded.empty, folded.buckets.len()), (1, 1));
        let mut out = Vec::new();
        assert!(folded.operations(&HashMap::new(), false, &mut out).is_err(), "nothing that expires lives for ever");
        let raw = Keys::new(Layout::Raw, b"/r/");
        assert_eq!(Folded::of(&changes, &raw, NOW).unwrap().empty, 0);
        let holes = self::changes(&[(Op::Patch, "/a", vec![])]);
        assert!(Folded::of(&holes, &keys, NOW).is_err());
    }

    #[test]
    fn a_clear_removes_all_but_what_is_put_behind_it() {
        let all = [
            (Op::Put, "/old", put(None, b"1")),
            (Op::Clear, "", vec![]),
            (Op::Put, "/b", put(None, b"2")),
            (Op::Put, "/a", put(None, b"1")),
            (Op::Delete, "/c", vec![]),
        ];
        let (changes, keys) = (changes(&all), teleport());
        let folded = Folded::of(&changes, &keys, NOW).unwrap();
        assert_eq!(folded.len(), 5);
        let mut out = Vec::new();
        folded.operations(&HashMap::new(), false, &mut out).unwrap();
        let text = format!("{out:?}");
        assert_eq!(out.len(), 5, "{text}");
        let bytes = |key: &[u8]| format!("key: {key:?}, range_end: ");
        for from in [&b"/t/."[..], b"/t//a\0", b"/t//b\0"] {
            assert!(text.contains(&bytes(from)), "{from:?} of {text}");
        }
        let folded = Folded::of(&changes, &keys, NOW).unwrap();
        let mut out = Vec::new();
        folded.operations(&HashMap::new(), true, &mut out).unwrap();
        assert_eq!(out.len(), 2);
        let raw = Keys::new(Layout::Raw, b"");
        assert!(Folded::of(&changes, &raw, NOW).is_err());
    }

    #[test]
    fn our_own_records_are_never_written_over() {
        let near = Keys::new(Layout::Raw, b"/drift");
        for (key, refused) in [("less/lane/s/0/0/epoch", true), ("wood", false)] {
            let changes = changes(&[(Op::Put, key, put(None, b"1"))]);
            assert_eq!(Folded::of(&changes, &near, NOW).is_err(), refused);
        }
        let changes = changes(&[(Op::Put, "", put(None, b"1"))]);
        assert!(Folded::of(&changes, &Keys::new(Layout::Raw, b""), NOW).is_err());
    }
}
