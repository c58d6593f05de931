//! Which leases are to be read again, and when. Pure: instants come in.
//!
//! A lease that is kept alive makes no event, so each is read again when half of the time is gone that it had left. A
//! third of its time is then still to come, which is what a busy budget and a slow destination may take. A lease that is not
//! read again by then is overdue, which is told. One that has ended is asked for a few times more, because a new leader
//! gives leases their time again.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::kinds::etcd::lease::Ends;
use crate::model::Micros;

/// LIMIT: leases that are looked after, some 150 bytes each; beyond it they are counted as overdue.
const MOST: usize = 200_000;
/// LIMIT: no lease is read more often than this, however short it is.
const LEAST: Duration = Duration::from_millis(500);
/// How often, and how many times, a lease that has ended is looked for again: elections take less.
const GONE: (Duration, u8) = (Duration::from_secs(2), 8);

/// The leases of a stream.
#[derive(Debug, Default)]
pub struct Due {
    leases: HashMap<i64, Lease>,
    order: BTreeSet<(Instant, i64)>,
    /// Leases that did not fit.
    beyond: usize,
}

#[derive(Debug)]
struct Lease {
    /// When it ends, as the stream last told of all of its keys.
    told: Ends,
    due: Instant,
    /// When a third of the time is left that it had.
    late: Instant,
    gone: u8,
}

impl Due {
    /// The stream tells this of one key of the lease.
    pub fn told(&mut self, lease: i64, ends: Ends, now: Instant, wall: Micros) {
        match self.leases.get(&lease) {
            // Its other keys have not been told yet.
            Some(known) if known.told != ends => self.set(lease, known.told, now, known.late, known.gone),
            Some(_) => {}
            None if self.leases.len() >= MOST => self.beyond += 1,
            None => {
                let (due, late) = plan(ends, now, wall);
                self.set(lease, ends, due, late, 0);
            }
        }
    }

    /// Takes some leases that are due; each must be answered.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<i64> {
        let due: Vec<i64> =
            self.order.iter().take_while(|(at, _)| *at <= now).take(most).map(|(_, lease)| *lease).collect();
        for lease in &due {
            if let Some(known) = self.leases.get(lease) {
                self.order.remove(&(known.due, *lease));
            }
        }
        due
    }

    /// A lease that was taken has said when it ends. True: that is another instant than was told, so that all of its keys
    /// must be told it.
    pub fn answered(&mut self, lease: i64, ends: Ends, now: Instant, wall: Micros) -> bool {
        let Some(known) = self.leases.get(&lease) else { return false };
        let (told, late, gone) = (known.told, known.late, known.gone);
        if ends == Ends::Gone {
            if gone >= GONE.1 {
                self.leases.remove(&lease);
            } else {
                self.set(lease, told, now + GONE.0, late.max(now + 2 * GONE.0), gone + 1);
            }
            return false;
        }
        let (due, late) = plan(ends, now, wall);
        self.set(lease, ends, due, late, 0);
        instant(told) != instant(ends)
    }

    /// A lease that was taken could not be asked.
    pub fn failed(&mut self, lease: i64, now: Instant) {
        if let Some(known) = self.leases.get(&lease) {
            let (told, late, gone) = (known.told, known.late, known.gone);
            self.set(lease, told, now + Duration::from_secs(1), late, gone);
        }
    }

    /// A new leader was elected: every lease may end later than was told.
    pub fn all(&mut self, now: Instant) {
        let leases: Vec<i64> = self.order.iter().map(|(_, lease)| *lease).collect();
        for lease in leases {
            if let Some(known) = self.leases.get(&lease) {
                let (told, late) = (known.told, known.late);
                self.set(lease, told, known.due.min(now), late, 0);
            }
        }
    }

    /// When the next is due.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// How many were not read again in time.
    pub fn overdue(&self, now: Instant) -> usize {
        self.beyond + self.leases.values().filter(|lease| lease.late < now && lease.told != Ends::Gone).count()
    }

    fn set(&mut self, lease: i64, told: Ends, due: Instant, late: Instant, gone: u8) {
        if let Some(before) = self.leases.insert(lease, Lease { told, due, late, gone }) {
            self.order.remove(&(before.due, lease));
        }
        self.order.insert((due, lease));
    }
}

fn instant(ends: Ends) -> Option<Micros> {
    match ends {
        Ends::At(at, _) => Some(at),
        Ends::Gone => None,
    }
}

/// When a lease is to be read again, and from when on that is late.
fn plan(ends: Ends, now: Instant, wall: Micros) -> (Instant, Instant) {
    let left = match ends {
        Ends::At(at, _) => Duration::from_micros(u64::try_from(at.saturating_sub(wall)).unwrap_or(0)),
        Ends::Gone => return (now + GONE.0, now + 2 * GONE.0),
    };
    // LIMIT: a lease of years is looked at once a day, so that its instant is one that a clock can say.
    let left = left.min(Duration::from_secs(2 * 86_400));
    (now + (left / 2).max(LEAST), now + (left / 3 * 2).max(2 * LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Micros = 1_775_044_800_000_000;

    fn at(seconds: i64) -> Ends {
        Ends::At(T + seconds * 1_000_000, 60)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_is_read_again_before_a_third_of_its_time_is_left() {
        let (mut due, begin) = (Due::default(), Instant::now());
        due.told(7, at(60), begin, T);
        assert!(due.take(begin + secs(29), 9).is_empty());
        assert_eq!(due.next(), Some(begin + secs(30)));
        assert_eq!(due.take(begin + secs(30), 9), [7]);
        assert!(due.take(begin + secs(31), 9).is_empty(), "it is being asked");
        assert!(!due.answered(7, at(60), begin + secs(30), T + 30_000_000), "it was not renewed");
        assert_eq!(due.next(), Some(begin + secs(45)));
        assert_eq!(due.take(begin + secs(45), 9), [7]);
        assert!(due.answered(7, at(95), begin + secs(45), T + 45_000_000), "it was renewed");
        assert_eq!(due.next(), Some(begin + secs(70)));
        assert_eq!(due.overdue(begin + secs(78)), 0);
        assert_eq!(due.overdue(begin + secs(79)), 1);
    }

    #[test]
    fn a_lease_that_one_key_was_told_anew_is_read_for_all_of_them() {
        let (mut due, begin) = (Due::default(), Instant::now());
        due.told(7, at(60), begin, T);
        due.told(7, at(60), begin, T);
        assert_eq!(due.next(), Some(begin + secs(30)));
        due.told(7, at(90), begin + secs(1), T);
        assert_eq!(due.take(begin + secs(1), 9), [7]);
        assert!(due.answered(7, at(90), begin + secs(1), T), "the others were told another instant");
        assert!(!due.answered(8, at(90), begin, T), "it was never told");
    }

    #[test]
    fn a_lease_that_has_ended_is_looked_for_again_for_a_while() {
        let (mut due, begin) = (Due::default(), Instant::now());
        due.told(7, at(1), begin, T);
        let mut now = begin + secs(5);
        for _ in 0..GONE.1 {
            assert_eq!(due.take(now, 9), [7]);
            assert!(!due.answered(7, Ends::Gone, now, T));
            now += GONE.0;
        }
        assert_eq!(due.take(now, 9), [7]);
        due.answered(7, Ends::Gone, now, T);
        assert_eq!(due.next(), None, "it is forgotten");
        // One that a new leader gave its time again is told.
        due.told(8, Ends::Gone, begin, T);
        assert_eq!(due.take(begin + GONE.0, 9), [8]);
        assert!(due.answered(8, at(60), begin + GONE.0, T));
    }

    #[test]
    fn after_an_election_all_are_due_and_a_budget_takes_them_one_after_the_other() {
        let (mut due, begin) = (Due::default(), Instant::now());
        for lease in 0..10 {
            due.told(lease, at(600), begin, T);
        }
        assert!(due.take(begin, 99).is_empty());
        due.all(begin);
        let first = due.take(begin, 4);
        assert_eq!((first.len(), due.take(begin, 99).len()), (4, 6));
        due.failed(first[0], begin);
        assert_eq!(due.next(), Some(begin + secs(1)));
    }
}
