//! What table `events` proves, as pure rules over ids and times.
//!
//! Teleport gives each change the next id (`max + 1`) and removes rows that are older than ten minutes. So:
//! - as long as the row at our place is there, nothing behind it was removed;
//! - a row is given the id after ours only while ours is there, so the next row proves itself if it is younger than ours by
//!   less than ten minutes;
//! - whoever had read to the end of the log and looks again within five minutes will find everything since. For him an
//!   emptied log, or ids that start again at 1, is idleness: the log goes on in a new generation, and nothing was missed.
//!
//! Anything else is a lost position: better a difference over the whole table than a change that nobody saw. The last moment at
//! which the end was seen is part of the position, so that a restart can prove the same as a tail that never stopped.
//! Times come in as arguments: no clock here.

use super::time;

const SECOND: i128 = 1_000_000_000;

/// LIMIT: half of the ten minutes for which rows are kept, so that clocks may be somewhat apart.
pub const FRESH: i128 = 300 * SECOND;

/// LIMIT: ten minutes, less half a minute for clocks and for the pace at which the log is trimmed.
pub const IDLE: i128 = 570 * SECOND;

/// A moment at which the end of the log was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// By our clock, in nanoseconds.
    pub at: i128,
    /// The file change counter then.
    pub counter: u32,
}

/// A place in the log. Its text has a fixed width per part, so that byte order is the order of places:
/// `<id>/<created>`, and where the end was seen there `/<when>/<counter>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Id of the row; 0 before the first.
    pub id: u64,
    /// When that row was created, in nanoseconds.
    pub created: i128,
    /// When it was last known to be the end of the log.
    pub seen: Option<Seen>,
}

impl Place {
    /// Before the first row of a generation.
    pub const BEFORE: Self = Self { id: 0, created: time::FIRST, seen: None };

    /// The boundary bytes of a position.
    pub fn text(&self) -> String {
        let place = format!("{:020}/{}", self.id, time::fixed(self.created));
        match self.seen {
            Some(seen) => format!("{place}/{}/{:08x}", time::fixed(seen.at), seen.counter),
            None => place,
        }
    }

    /// Reads the boundary bytes of a position.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut parts = text.split('/');
        let (id, created) = (parts.next()?, parts.next()?);
        let seen = match (parts.next(), parts.next(), parts.next()) {
            (None, None, None) => None,
            (Some(at), Some(counter), None) => {
                Some(Seen { at: time::parse(at.as_bytes())?, counter: u32::from_str_radix(counter, 16).ok()? })
            }
            _ => return None,
        };
        let place = Self { id: id.parse().ok()?, created: time::parse(created.as_bytes())?, seen };
        (place.text() == text).then_some(place)
    }
}

/// One row of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id.
    pub id: u64,
    /// When it was created, in nanoseconds.
    pub created: i128,
}

/// What one read transaction saw of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The oldest row and the newest, if there is any.
    pub ends: Option<(Event, Event)>,
    /// When the row at our place was created, if it is there.
    pub at_place: Option<i128>,
    /// The first row behind our place.
    pub next: Option<u64>,
    /// The file change counter. Not every commit raises it in WAL mode, but nothing but a restore lowers it.
    pub counter: u32,
    /// Our clock, in nanoseconds.
    pub now: i128,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was missed: what follows our place is what the log holds behind it.
    GoesOn,
    /// The log was emptied by idleness after we had read all of it: it goes on in a new generation from its first row.
    Emptied,
    /// Changes may have been missed.
    Lost(&'static str),
}

/// Judges a look from a place. `elapsed`: nanoseconds since the place was known to be the end of the log, if it ever was.
pub fn judge(place: &Place, elapsed: Option<i128>, look: &Look) -> Verdict {
    if let Some(seen) = place.seen {
        // The counter wraps; half of its range is nearer behind than before.
        if look.counter.wrapping_sub(seen.counter).cast_signed() < 0 {
            return Verdict::Lost("the file was set back to an older state");
        }
    }
    let fresh = elapsed.is_some_and(|elapsed| (0..FRESH).contains(&elapsed));
    let Some((first, last)) = look.ends else {
        return match fresh {
            true if place.id == 0 => Verdict::GoesOn,
            true if look.now - place.created >= IDLE => Verdict::Emptied,
            true => Verdict::Lost("the log was emptied although its rows were young"),
            false => Verdict::Lost("the log is empty, and nobody was looking when it was emptied"),
        };
    };
    if place.id > 0 && look.at_place == Some(place.created) {
        return match look.next {
            Some(next) if next != place.id + 1 => {
                Verdict::Lost("the log has a hole behind the last change that was read")
            }
            _ => Verdict::GoesOn,
        };
    }
    if look.at_place.is_none() && first.id == place.id + 1 {
        return if fresh || (place.id > 0 && first.created - place.created < IDLE) {
            Verdict::GoesOn
        } else {
            Verdict::Lost("the log may have been emptied and begun again while nobody was looking")
        };
    }
    if fresh && first.id == 1 && first.created - place.created >= IDLE {
        return Verdict::Emptied;
    }
    Verdict::Lost(if first.id > place.id {
        "the log no longer holds what follows the last change that was read"
    } else if last.created < place.created {
        "the log is older than the last change that was read: the file was restored"
    } else if look.at_place.is_some() {
        "another change stands where the last one that was read stood"
    } else {
        "the log began again before its end was read"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: i128 = 1_775_044_800 * SECOND;
    const MINUTE: i128 = 60 * SECOND;

    fn place(id: u64, created: i128) -> Place {
        Place { id, created, seen: None }
    }

    /// A log with these rows (id, created), looked at from a place at a time.
    fn look(from: &Place, rows: &[(u64, i128)], now: i128) -> Look {
        let event = |&(id, created): &(u64, i128)| Event { id, created };
        Look {
            ends: rows.first().zip(rows.last()).map(|(first, last)| (event(first), event(last))),
            at_place: rows.iter().find(|row| row.0 == from.id).map(|row| row.1),
            next: rows.iter().map(|row| row.0).find(|id| *id > from.id),
            counter: 9,
            now,
        }
    }

    const SOON: Option<i128> = Some(SECOND);
    const LATE: Option<i128> = Some(6 * MINUTE);

    #[test]
    fn the_table_of_what_a_log_proves() {
        use Verdict::{Emptied, GoesOn};
        let lost = Verdict::Lost("");
        let at = place(120, T);
        let start = Place::BEFORE;
        type Case<'a> = (Place, Option<i128>, &'a [(u64, i128)], i128, Verdict, &'a str);
        let rows: &[Case<'_>] = &[
            (at, SOON, &[(119, T - 1), (120, T)], T, GoesOn, "idle at the end"),
            (at, None, &[(119, T - 1), (120, T), (121, T + 1)], T, GoesOn, "our row proves the next, however long ago"),
            (at, LATE, &[(120, T)], T + 9 * MINUTE, GoesOn, "our row is the last"),
            (at, SOON, &[(120, T), (122, T + 1)], T, lost, "a hole"),
            (
                at,
                LATE,
                &[(121, T + 9 * MINUTE)],
                T + 11 * MINUTE,
                GoesOn,
                "our row trimmed, the next one made while it was there",
            ),
            (at, LATE, &[(121, T + 10 * MINUTE)], T + 12 * MINUTE, lost, "the log may have been empty in between"),
            (
                at,
                SOON,
                &[(121, T + 10 * MINUTE)],
                T + 12 * MINUTE,
                GoesOn,
                "looked all the time: id 121 cannot be a new log's",
            ),
            (at, SOON, &[(125, T + MINUTE)], T + 12 * MINUTE, lost, "trimmed beyond our place"),
            (at, SOON, &[], T + 11 * MINUTE, Emptied, "ten idle minutes"),
            (at, LATE, &[], T + 11 * MINUTE, lost, "ten minutes that nobody watched"),
            (at, None, &[], T + 11 * MINUTE, lost, "never read to its end"),
            (at, SOON, &[], T + MINUTE, lost, "emptied by hand"),
            (at, SOON, &[(1, T + 11 * MINUTE)], T + 11 * MINUTE, Emptied, "ids started again, seen at once"),
            (
                at,
                SOON,
                &[(1, T + 11 * MINUTE), (300, T + 11 * MINUTE)],
                T + 11 * MINUTE,
                Emptied,
                "began again and outgrew our place",
            ),
            (at, LATE, &[(1, T + 11 * MINUTE)], T + 11 * MINUTE, lost, "ids started again, not watched"),
            (at, SOON, &[(1, T + MINUTE)], T + 2 * MINUTE, lost, "ids started again although rows were young"),
            (at, SOON, &[(119, T - MINUTE)], T, lost, "restored: max(id) below ours"),
            (at, SOON, &[(119, T - 1), (120, T + 5)], T + MINUTE, lost, "another row with our id"),
            (start, SOON, &[], T, GoesOn, "nothing has happened yet"),
            (start, SOON, &[(1, T)], T, GoesOn, "the first change"),
            (start, LATE, &[], T, lost, "who knows"),
            (start, LATE, &[(1, T)], T, lost, "who knows how often it began"),
            (start, SOON, &[(7, T)], T, lost, "the beginning is trimmed"),
        ];
        for (place, elapsed, log, now, wanted, what) in rows {
            let got = judge(place, *elapsed, &look(place, log, *now));
            let same = matches!((got, wanted), (Verdict::Lost(_), Verdict::Lost(_))) || got == *wanted;
            assert!(same, "{what}: {got:?}");
        }
    }

    #[test]
    fn a_counter_that_went_back_betrays_a_restore() {
        let seen = |counter| Place { seen: Some(Seen { at: T, counter }), ..place(120, T) };
        let at = |counter, now| judge(&seen(counter), SOON, &look(&seen(counter), &[(120, T)], now));
        assert!(matches!(at(10, T), Verdict::Lost(_)), "the row is the same and the file is older");
        assert_eq!(at(9, T), Verdict::GoesOn);
        assert_eq!(at(8, T), Verdict::GoesOn);
        assert_eq!(at(u32::MAX, T), Verdict::GoesOn, "the counter wraps");
    }

    fn any_place() -> impl Strategy<Value = Place> {
        let seen = proptest::option::of((T..T + MINUTE, any::<u32>()).prop_map(|(at, counter)| Seen { at, counter }));
        (0u64..1 << 40, T - MINUTE..T + MINUTE, seen).prop_map(|(id, created, seen)| Place { id, created, seen })
    }

    proptest! {
        #[test]
        fn the_text_of_a_place_is_lossless(place in any_place()) {
            prop_assert_eq!(Place::parse(place.text().as_bytes()), Some(place));
        }

        #[test]
        fn byte_order_is_the_order_of_the_log(a in any_place(), b in any_place()) {
            let key = |place: &Place| (place.id, place.created, place.seen.map(|seen| (seen.at, seen.counter)));
            prop_assert_eq!(a.text().cmp(&b.text()), key(&a).cmp(&key(&b)));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
            Place::parse(&bytes);
        }

        /// A log that is written, trimmed and watched: what is judged to go on never hides a change.
        #[test]
        fn a_change_is_never_missed(steps in proptest::collection::vec((0i128..700, 0u8..4), 1..60)) {
            let (mut now, mut log, mut made) = (T, Vec::<(u64, i128)>::new(), 0u64);
            let (mut at, mut looked, mut read) = (Place::BEFORE, T, 0u64);
            for (pause, step) in steps {
                now += pause * SECOND;
                // Teleport trims every second, so before anything else happens.
                log.retain(|row| row.1 > now - 10 * MINUTE);
                if step > 0 {
                    for _ in 0..step {
                        log.push((log.last().map_or(1, |row| row.0 + 1), now));
                        made += 1;
                    }
                    continue;
                }
                let verdict = judge(&at, Some(now - looked), &look(&at, &log, now));
                if verdict == Verdict::Emptied {
                    at = Place::BEFORE;
                }
                match verdict {
                    Verdict::Lost(_) => {
                        // Healed by difference: everything so far is known.
                        read = made;
                    }
                    Verdict::GoesOn | Verdict::Emptied => {
                        read += log.iter().filter(|row| row.0 > at.id).count() as u64;
                    }
                }
                prop_assert_eq!(read, made, "at {:?} from {:?}: {:?}", now, at, verdict);
                if let Some(last) = log.last() {
                    at = place(last.0, last.1);
                } else if verdict != Verdict::GoesOn {
                    at = Place::BEFORE;
                }
                looked = now;
            }
        }
    }
}
