//! Where one is in a cluster's history: the partition's name carries the cluster's identity, a position is a revision.
//!
//! A revision is a whole transaction, so a position is always the end of one. Behind it there may be a time: what leases told
//! until then is passed, too, which no revision says. Fixed width, so that byte order is the order of what happened. Pure.

use crate::error::{Error, Result};
use crate::model::{Micros, PartitionId, Position};

/// The partition of a cluster.
pub fn partition(cluster: u64) -> PartitionId {
    PartitionId::new(format!("etcd/{cluster:016x}"))
}

/// The position behind a revision.
pub fn position(revision: i64) -> Position {
    Position::at(format!("{revision:019}"))
}

/// The position behind what leases told at this time, which stands between a revision and the next.
pub fn between(revision: i64, at: Micros) -> Position {
    Position::at(format!("{revision:019}+{at:019}"))
}

/// The time of a position behind what leases told; 0 of any other.
pub fn time(position: &Position) -> Micros {
    let text = position.boundary().and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| text.split_once('+')).and_then(|(_, at)| at.parse().ok()).unwrap_or(0)
}

/// The revision of a position; 0 at the start.
pub fn revision(position: &Position) -> Result<i64> {
    let broken = || Error::corrupt("read a position of an etcd cluster: it is not a revision");
    let text = position.boundary().ok_or_else(broken)?;
    if text.is_empty() {
        return Ok(0);
    }
    let text = std::str::from_utf8(text).map_err(|_| broken())?;
    let revision = text.split_once('+').map_or(text, |(revision, _)| revision);
    revision.parse().ok().filter(|n| *n >= 0).ok_or_else(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_positions_do_not_change() {
        assert_eq!(partition(0xcdf8_1818_e32f_9c6d).as_str(), "etcd/cdf81818e32f9c6d");
        assert_eq!(position(4711).to_string(), "@0000000000000004711");
        assert_eq!(between(4711, 5).to_string(), "@0000000000000004711+0000000000000000005");
        assert_eq!(revision(&between(4711, 5)).unwrap(), 4711);
        assert_eq!([time(&between(4711, 5)), time(&position(4711)), time(&Position::Start)], [5, 0, 0]);
        assert_eq!(revision(&Position::Start).unwrap(), 0);
        assert!(revision(&Position::End).is_err());
        assert!(revision(&Position::at("x")).is_err());
        assert!(revision(&Position::at("-1")).is_err());
    }

    proptest! {
        #[test]
        fn positions_have_the_order_of_revisions(a in 0..i64::MAX, b in 0..i64::MAX) {
            prop_assert_eq!(position(a).cmp(&position(b)), a.cmp(&b));
            prop_assert_eq!(revision(&position(a)).unwrap(), a);
            prop_assert!(position(a) < between(a, b) && between(a, b) < position(a.saturating_add(1)));
            prop_assert_eq!(between(7, a).cmp(&between(7, b)), a.cmp(&b));
        }
    }
}
