//! Whose turn it is. Pure: time comes in.
//!
//! A record in the sink names the owner of a stream and moves with every commit, at least every two seconds; while a commit
//! takes longer, with every beat. Only the *change* of the record is measured with our own clock; its time stamps, if any,
//! are never trusted.

use std::time::Duration;

use crate::model::{Owner, Pulse, StreamRecord};

/// LIMIT: how long a record must stand still before somebody else may claim. Five missed refreshes, or four
/// missed beats.
pub const STILL: Duration = Duration::from_secs(10);

/// What to do about a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Claim now.
    Claim,
    /// Look again later; somebody is at work.
    Wait,
}

/// Watches one stream's record.
#[derive(Debug, Default)]
pub struct Standby {
    seen: Option<(Pulse, Duration)>,
}

impl Standby {
    /// Looks at the record as it is `now`.
    pub fn look(&mut self, record: Option<&StreamRecord>, owner: &Owner, takeover: bool, now: Duration) -> Turn {
        let Some(record) = record else { return Turn::Claim };
        if record.owner == *owner || takeover {
            return Turn::Claim;
        }
        let pulse = record.pulse();
        match &self.seen {
            Some((seen, since)) if *seen == pulse => {
                if now.saturating_sub(*since) >= STILL {
                    Turn::Claim
                } else {
                    Turn::Wait
                }
            }
            _ => {
                self.seen = Some((pulse, now));
                Turn::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LaneRecord, Scope};

    fn record(owner: &str, number: u64) -> StreamRecord {
        StreamRecord {
            format: StreamRecord::FORMAT,
            owner: Owner(owner.into()),
            scope: Scope { layout: String::new(), extent: String::new(), lanes: 1 },
            foreign: false,
            lanes: vec![LaneRecord { number, ..LaneRecord::default() }],
        }
    }

    #[test]
    fn a_beat_or_a_claim_is_a_sign_of_life() {
        let (us, seconds) = (Owner("us".into()), Duration::from_secs);
        let lane = |epoch, number, beat| StreamRecord {
            lanes: vec![LaneRecord { epoch, number, beat, ..LaneRecord::default() }],
            ..record("them", 0)
        };
        let mut standby = Standby::default();
        // The last one is a claim: its sums are those of the look before.
        for (at, record) in [(0, lane(1, 5, 0)), (9, lane(1, 5, 1)), (18, lane(1, 5, 2)), (27, lane(2, 5, 1))] {
            assert_eq!(standby.look(Some(&record), &us, false, seconds(at)), Turn::Wait, "{record:?}");
        }
        assert_eq!(standby.look(Some(&lane(2, 5, 1)), &us, false, seconds(36)), Turn::Wait);
        assert_eq!(standby.look(Some(&lane(2, 5, 1)), &us, false, seconds(37)), Turn::Claim);
    }

    #[test]
    fn the_same_owner_claims_at_once_and_another_waits_until_the_record_stands_still() {
        let (us, seconds) = (Owner("us".into()), Duration::from_secs);
        let mut standby = Standby::default();
        assert_eq!(standby.look(None, &us, false, seconds(0)), Turn::Claim);
        assert_eq!(standby.look(Some(&record("us", 1)), &us, false, seconds(0)), Turn::Claim);
        assert_eq!(standby.look(Some(&record("them", 1)), &us, true, seconds(0)), Turn::Claim);
        assert_eq!(standby.look(Some(&record("them", 1)), &us, false, seconds(1)), Turn::Wait);
        assert_eq!(standby.look(Some(&record("them", 2)), &us, false, seconds(9)), Turn::Wait);
        assert_eq!(standby.look(Some(&record("them", 2)), &us, false, seconds(18)), Turn::Wait);
        assert_eq!(standby.look(Some(&record("them", 2)), &us, false, seconds(19)), Turn::Claim);
    }
}
