//! Which frames of the journal a sink still needs, from how far it is. Pure.
//!
//! Remembers where the journal stood at some of its frames. A sink that has all of that needs only what follows. Invariant:
//! what it says is never later than what the sink needs; it may be earlier by as much as lies between two remembered places.

use std::collections::VecDeque;

use crate::model::Checkpoint;

/// LIMIT: places that are remembered; when there are as many, every other one is forgotten.
const MOST: usize = 512;

/// Places of a journal, oldest first.
#[derive(Debug, Default)]
pub struct Trail(VecDeque<(Checkpoint, u64)>);

impl Trail {
    /// The journal stands here at the end of frame `sequence`.
    pub fn note(&mut self, reached: &Checkpoint, sequence: u64) {
        let at = self.0.partition_point(|(_, known)| *known < sequence);
        if self.0.get(at).is_some_and(|(_, known)| *known == sequence) {
            return;
        }
        self.0.insert(at, (reached.clone(), sequence));
        if self.0.len() > MOST {
            let mut odd = false;
            self.0.retain(|_| {
                odd = !odd;
                odd
            });
        }
    }

    /// The first frame that a sink needs which has everything up to `upto`; `None` if it has less than what is remembered.
    pub fn needs(&self, upto: &Checkpoint) -> Option<u64> {
        self.0.iter().rev().find(|(reached, _)| upto.covers(reached)).map(|(_, sequence)| sequence + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, Position};

    fn at(place: usize) -> Checkpoint {
        [(PartitionId::new("p"), Position::at(format!("{place:08}")))].into_iter().collect()
    }

    #[test]
    fn a_sink_needs_what_follows_the_last_place_that_it_has_passed() {
        let mut trail = Trail::default();
        assert_eq!(trail.needs(&at(9)), None);
        trail.note(&at(3), 10);
        trail.note(&at(6), 20);
        assert_eq!(trail.needs(&at(2)), None);
        assert_eq!(trail.needs(&at(3)), Some(11));
        assert_eq!(trail.needs(&at(5)), Some(11));
        assert_eq!(trail.needs(&at(7)), Some(21));
        // Somebody who is behind has read past an older place.
        trail.note(&at(5), 15);
        assert_eq!(trail.needs(&at(4)), Some(11));
        assert_eq!(trail.needs(&at(5)), Some(16));
        assert_eq!(trail.needs(&at(7)), Some(21));
    }

    #[test]
    fn however_long_it_is_it_never_says_too_much_and_stays_small() {
        let mut trail = Trail::default();
        for place in 0..10_000 {
            trail.note(&at(place), place as u64);
        }
        assert!(trail.0.len() <= MOST);
        for place in [0, 17, 4000, 9999] {
            let needs = trail.needs(&at(place)).unwrap();
            assert!(needs <= place as u64 + 1, "{needs} for {place}");
        }
        assert_eq!(trail.needs(&at(9999)), Some(10_000));
        let before = trail.needs(&at(17));
        for _ in 0..10_000 {
            trail.note(&at(9999), 9999);
        }
        assert_eq!(trail.needs(&at(17)), before, "standing still makes it forget nothing");
    }
}
