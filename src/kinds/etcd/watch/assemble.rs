//! From answers of a watch to whole revisions. Pure.
//!
//! A revision is a transaction, and only its end is a place from which one can go on. An answer holds whole revisions, unless
//! it says that it is a fragment: then its last revision goes on in the next one, and is held until it is whole. An answer
//! without events says how far the server is: a place where servers keep that in order with events, a sign of life elsewhere.
//! What was delivered before is dropped: a member that was away may tell it again (etcd#15271, #20221). Where all keys are
//! watched, each revision follows the one before it, and one that is left out was lost on the way (etcd#17529).

use etcd_client::proto::{PbEvent, PbWatchResponse};

use crate::error::{Error, Result};

/// LIMIT: bytes of one revision that are held until it is whole. The server's `max-request-bytes` is the bound of a
/// transaction, 1.5 MiB unless somebody raised it; who raised it beyond this is told.
const HELD_MAX: usize = 128 << 20;

/// What an answer came to.
#[derive(Debug, PartialEq)]
pub enum Came {
    /// The watch is there.
    Created,
    /// Nothing but a sign of life.
    Alive,
    /// Whole revisions in order, and the last of them.
    Revisions(Vec<PbEvent>, i64),
    /// Nothing happened to the watched keys up to this revision.
    Quiet(i64),
    /// What follows the place is compacted away, up to this revision.
    Compacted(i64),
    /// The server ends the watch, with its own reason.
    Refused(String),
}

/// Puts answers together.
#[derive(Debug)]
pub struct Assembler {
    /// The last revision that was delivered whole.
    place: i64,
    /// Whether an answer without events is a place.
    in_order: bool,
    /// Whether all keys are watched, so that no revision is left out.
    dense: bool,
    held: Vec<PbEvent>,
    bytes: usize,
}

impl Assembler {
    /// Goes on behind `place`.
    pub fn new(place: i64, in_order: bool, dense: bool) -> Self {
        Self { place, in_order, dense, held: Vec::new(), bytes: 0 }
    }

    /// The last revision that was delivered whole.
    pub fn place(&self) -> i64 {
        self.place
    }

    /// Takes the next answer.
    ///
    /// # Errors
    /// Transient when answers are not in order: the watch must be made anew. Rejected for a revision that is too large.
    pub fn take(&mut self, answer: PbWatchResponse) -> Result<Came> {
        if answer.compact_revision > 0 {
            return Ok(Came::Compacted(answer.compact_revision));
        }
        if answer.canceled {
            return Ok(Came::Refused(answer.cancel_reason));
        }
        if answer.created {
            return Ok(Came::Created);
        }
        if answer.events.is_empty() {
            let at = answer.header.map_or(0, |header| header.revision);
            if self.in_order && self.held.is_empty() && !answer.fragment && at > self.place {
                self.place = at;
                return Ok(Came::Quiet(at));
            }
            return Ok(Came::Alive);
        }
        for event in answer.events {
            self.hold(event)?;
        }
        let whole = match answer.fragment {
            false => self.held.len(),
            true => {
                let last = self.held.last().map_or(0, revision);
                self.held.partition_point(|event| revision(event) < last)
            }
        };
        let rest = self.held.split_off(whole);
        let events = std::mem::replace(&mut self.held, rest);
        self.bytes = self.held.iter().map(size).sum();
        Ok(match events.last().map(revision) {
            Some(last) => {
                self.place = last;
                Came::Revisions(events, last)
            }
            None => Came::Alive,
        })
    }

    fn hold(&mut self, event: PbEvent) -> Result<()> {
        let at = revision(&event);
        if at <= self.place {
            return Ok(());
        }
        if self.held.last().is_some_and(|last| revision(last) > at) {
            return Err(Error::transient("follow an etcd cluster: its answers are not in the order of revisions"));
        }
        if self.dense && at > self.held.last().map_or(self.place, revision) + 1 {
            return Err(Error::transient(format!(
                "follow an etcd cluster: the watch left out what lies before revision {at}"
            )));
        }
        self.bytes += size(&event);
        if self.bytes > HELD_MAX && self.held.first().is_some_and(|first| revision(first) == at) {
            return Err(Error::rejected(format!(
                "follow an etcd cluster: the transaction of revision {at} has more than {} MiB",
                HELD_MAX >> 20
            )));
        }
        self.held.push(event);
        Ok(())
    }
}

/// The revision of an event; 0 for one that names no key, which is dropped.
fn revision(event: &PbEvent) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn size(event: &PbEvent) -> usize {
    event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd_client::proto::{PbKeyValue, PbResponseHeader};
    use proptest::prelude::*;

    fn event(key: usize, mod_revision: i64) -> PbEvent {
        let kv = PbKeyValue { key: key.to_string().into_bytes(), mod_revision, ..PbKeyValue::default() };
        PbEvent { kv: Some(kv), ..PbEvent::default() }
    }

    fn answer(revisions: &[i64], fragment: bool) -> PbWatchResponse {
        let events = revisions.iter().enumerate().map(|(key, at)| event(key, *at)).collect();
        PbWatchResponse { events, fragment, ..PbWatchResponse::default() }
    }

    fn quiet(revision: i64) -> PbWatchResponse {
        let header = PbResponseHeader { revision, ..PbResponseHeader::default() };
        PbWatchResponse { header: Some(header), watch_id: -1, ..PbWatchResponse::default() }
    }

    fn given(came: &Came) -> Vec<i64> {
        match came {
            Came::Revisions(events, last) => {
                assert_eq!(events.last().map(revision), Some(*last));
                events.iter().map(revision).collect()
            }
            _ => vec![],
        }
    }

    #[test]
    fn a_revision_is_held_until_it_is_whole() {
        let mut assembler = Assembler::new(3, true, false);
        assert_eq!(given(&assembler.take(answer(&[4, 4, 5], true)).unwrap()), [4, 4]);
        assert_eq!(assembler.place(), 4);
        assert!(given(&assembler.take(answer(&[5, 5], true)).unwrap()).is_empty());
        assert_eq!(assembler.take(quiet(9)).unwrap(), Came::Alive, "not while a revision is open");
        assert_eq!(given(&assembler.take(answer(&[5, 6], false)).unwrap()), [5, 5, 5, 5, 6]);
        assert_eq!(assembler.take(quiet(9)).unwrap(), Came::Quiet(9));
        assert_eq!(assembler.place(), 9);
    }

    #[test]
    fn an_answer_without_events_is_a_place_only_where_it_is_in_order() {
        let mut unsafe_server = Assembler::new(3, false, false);
        assert_eq!(unsafe_server.take(quiet(9)).unwrap(), Came::Alive);
        assert_eq!(given(&unsafe_server.take(answer(&[5], false)).unwrap()), [5]);
        let mut safe = Assembler::new(3, true, false);
        assert_eq!(safe.take(quiet(3)).unwrap(), Came::Alive);
        assert_eq!(safe.take(quiet(2)).unwrap(), Came::Alive, "a member that is behind");
        assert_eq!(safe.take(PbWatchResponse { created: true, ..quiet(8) }).unwrap(), Came::Created);
        assert_eq!(safe.place(), 3);
    }

    #[test]
    fn what_was_delivered_before_is_dropped() {
        let mut assembler = Assembler::new(5, true, false);
        assert_eq!(assembler.take(answer(&[3, 4, 5], false)).unwrap(), Came::Alive);
        assert_eq!(given(&assembler.take(answer(&[5, 6], false)).unwrap()), [6]);
        assert_eq!(assembler.take(answer(&[8, 7], false)).unwrap_err().fault(), crate::error::Fault::Transient);
    }

    #[test]
    fn where_all_keys_are_watched_no_revision_may_be_left_out() {
        let mut assembler = Assembler::new(5, false, true);
        assert_eq!(given(&assembler.take(answer(&[6, 6, 7], false)).unwrap()), [6, 6, 7]);
        assert!(given(&assembler.take(answer(&[7, 8, 8], true)).unwrap()).is_empty());
        assert_eq!(given(&assembler.take(answer(&[8, 9], false)).unwrap()), [8, 8, 8, 9]);
        assert_eq!(assembler.take(answer(&[11], false)).unwrap_err().fault(), crate::error::Fault::Transient);
        assert_eq!(assembler.place(), 9, "it is gone on from there");
    }

    #[test]
    fn the_end_of_a_watch_says_why() {
        let mut assembler = Assembler::new(5, true, false);
        let compacted = PbWatchResponse { canceled: true, compact_revision: 9, ..PbWatchResponse::default() };
        assert_eq!(assembler.take(compacted).unwrap(), Came::Compacted(9));
        let denied = PbWatchResponse { canceled: true, created: true, cancel_reason: "no".into(), ..quiet(1) };
        assert_eq!(assembler.take(denied).unwrap(), Came::Refused("no".into()));
    }

    proptest! {
        /// However answers are cut into fragments, every revision comes whole, once and in order.
        #[test]
        fn fragments_never_split_a_revision(sizes in proptest::collection::vec(1usize..6, 1..12),
            cuts in proptest::collection::vec((1usize..5, any::<bool>()), 1..60))
        {
            let all: Vec<i64> = (1..).zip(&sizes).flat_map(|(at, size)| vec![at; *size]).collect();
            let (mut assembler, mut from, mut got) = (Assembler::new(0, true, false), 0, Vec::new());
            let mut cuts = cuts.into_iter();
            while from < all.len() {
                let (size, _) = cuts.next().unwrap_or((all.len(), true));
                let to = (from + size).min(all.len());
                // The server says that an answer is a fragment where it ends within a revision.
                let within = all.get(to).is_some_and(|next| *next == all[to - 1]);
                let came = assembler.take(answer(&all[from..to], within)).unwrap();
                let part = given(&came);
                if let Some(last) = part.last() {
                    let whole = got.len() + part.len();
                    prop_assert!(all.get(whole).is_none_or(|next| next > last), "a revision was split");
                }
                got.extend(part);
                from = to;
            }
            prop_assert_eq!(got, all);
        }
    }
}
