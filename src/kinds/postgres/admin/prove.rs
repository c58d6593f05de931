//! Whether a stream can go on from a position, or the position is lost.
//!
//! Pure. A server asked for less than a slot has confirmed skips the difference and says nothing, and one asked for more
//! than it has waits for ever, so both are decided here before anything is asked for. A position holds no timeline:
//! behind a fork it is believed only if the slot has been confirmed behind it too, which only a reader of the new
//! timeline can have done.

use crate::error::{Error, Result};
use crate::kinds::postgres::admin::head::Identity;
use crate::kinds::postgres::admin::history::Fork;
use crate::kinds::postgres::admin::slot::SlotState;
use crate::kinds::postgres::wire::lsn::Lsn;
use crate::model::{Checkpoint, Position};

/// What is known of a server when a stream is opened.
#[derive(Clone, Debug)]
pub struct Server<'a> {
    /// Who it is.
    pub identity: &'a Identity,
    /// The end of its log.
    pub flushed: Lsn,
    /// Ancestors of its timeline, oldest first.
    pub ancestors: &'a [Fork],
}

/// Gives the place to start from, if the stream can go on from `from`; else says with `PositionLost` why not.
pub fn prove(server: &Server<'_>, name: &str, slot: Option<&SlotState>, from: &Checkpoint) -> Result<Lsn> {
    let lost = |why: String| Err(Error::position_lost(format!("follow PostgreSQL with slot {name}: {why}")));
    let partition = server.identity.partition(name);
    if !from.names(&partition) {
        let others = from.iter().filter(|(other, _)| !other.is_engine()).map(|(other, _)| other.as_str());
        let others: Vec<_> = others.collect();
        return lost(format!(
            "the checkpoint is of another server, database or slot ({}), and this one is {partition}",
            others.join(", ")
        ));
    }
    let position = from.get(&partition);
    if *position == Position::End {
        return lost("the position is an end, which the log of a server does not have".into());
    }
    let from = Lsn::of(position)?.unwrap_or(Lsn::INVALID);
    let Some(slot) = slot else { return lost("the slot is missing".into()) };
    if let Some(why) = slot.dead() {
        return lost(format!("of the slot nothing can be read: {why}"));
    }
    let Some(confirmed) = slot.confirmed else { return lost("the slot has never been ready".into()) };
    if confirmed > from {
        return lost(format!(
            "the slot was confirmed up to {confirmed}, which is beyond our position {from}: it was made anew or read by \
             somebody else, or the sink went back in time"
        ));
    }
    if server.flushed < from {
        return lost(format!(
            "the server's log ends at {}, before our position {from}: the server went back in time",
            server.flushed
        ));
    }
    // The newest such fork is named; any of them will do for the verdict.
    match server.ancestors.iter().rev().find(|fork| confirmed <= fork.at && from > fork.at) {
        Some(fork) => lost(format!(
            "timeline {} was left at {}, before our position {from}: what we read behind it is not in this server's \
             history",
            fork.timeline, fork.at
        )),
        None => Ok(from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use crate::model::PartitionId;

    fn identity() -> Identity {
        Identity { system: "7".into(), timeline: 3, database: "d".into(), database_oid: 5 }
    }

    fn slot(confirmed: u64) -> SlotState {
        SlotState { plugin: Some("pgoutput".into()), confirmed: Some(Lsn(confirmed)), ..SlotState::default() }
    }

    struct Case {
        what: &'static str,
        slot: Option<SlotState>,
        flushed: u64,
        forks: &'static [(u32, u64)],
        from: u64,
        goes_on: bool,
    }

    const NEW: &[(u32, u64)] = &[];
    const FORKED: &[(u32, u64)] = &[(1, 50), (2, 90)];

    fn case(
        what: &'static str,
        slot: Option<SlotState>,
        forks: &'static [(u32, u64)],
        from: u64,
        goes_on: bool,
    ) -> Case {
        Case { what, slot, flushed: 200, forks, from, goes_on }
    }

    #[test]
    fn each_state_of_slot_and_server_has_its_verdict() {
        let invalidated = SlotState { invalidation: Some("wal_removed".into()), ..slot(100) };
        let removed = SlotState { wal_status: Some("lost".into()), ..slot(100) };
        let endangered = SlotState { wal_status: Some("unreserved".into()), ..slot(100) };
        let unready = SlotState { confirmed: None, ..slot(0) };
        for case in [
            case("confirmed up to our position", Some(slot(100)), NEW, 100, true),
            case("confirmed before our position", Some(slot(80)), NEW, 100, true),
            case("confirmed beyond our position", Some(slot(101)), NEW, 100, false),
            case("no slot", None, NEW, 100, false),
            case("invalidated", Some(invalidated), NEW, 100, false),
            case("log removed", Some(removed), NEW, 100, false),
            case("log in danger", Some(endangered), NEW, 100, true),
            case("never ready", Some(unready), NEW, 100, false),
            case("server at our position", Some(slot(80)), NEW, 200, true),
            case("server behind our position", Some(slot(80)), NEW, 201, false),
            case("failover before the fork", Some(slot(80)), FORKED, 89, true),
            case("failover at the fork", Some(slot(80)), FORKED, 90, true),
            case("failover beyond the fork", Some(slot(80)), FORKED, 91, false),
            case("followed the new timeline already", Some(slot(91)), FORKED, 100, true),
            case("two failovers, beyond the first fork", Some(slot(40)), FORKED, 60, false),
            case("two failovers, followed the second timeline", Some(slot(51)), FORKED, 60, true),
        ] {
            let identity = identity();
            let ancestors: Vec<_> = case.forks.iter().map(|&(timeline, at)| Fork { timeline, at: Lsn(at) }).collect();
            let server = Server { identity: &identity, flushed: Lsn(case.flushed), ancestors: &ancestors };
            let from = [(identity.partition("s"), Lsn(case.from).position())].into_iter().collect();
            let verdict = prove(&server, "s", case.slot.as_ref(), &from);
            match verdict {
                Ok(at) => assert!(case.goes_on && at == Lsn(case.from), "{}", case.what),
                Err(error) => {
                    assert!(!case.goes_on, "{}: {error}", case.what);
                    assert_eq!(error.fault(), Fault::PositionLost, "{}", case.what);
                }
            }
        }
    }

    #[test]
    fn a_position_of_another_server_or_database_or_slot_is_lost() {
        let identity = identity();
        let server = Server { identity: &identity, flushed: Lsn(200), ancestors: &[] };
        for other in ["pg/8/5/s", "pg/7/6/s", "pg/7/5/t", "!pin"] {
            let from = [(PartitionId::new(other), Lsn(100).position())].into_iter().collect();
            let error = prove(&server, "s", Some(&slot(80)), &from).unwrap_err();
            assert_eq!(error.fault(), Fault::PositionLost, "{other}");
        }
    }

    #[test]
    fn a_position_that_is_not_ours_to_read_is_corrupt() {
        let identity = identity();
        let server = Server { identity: &identity, flushed: Lsn(200), ancestors: &[] };
        let from = [(identity.partition("s"), Position::at("what is this"))].into_iter().collect();
        assert_eq!(prove(&server, "s", Some(&slot(80)), &from).unwrap_err().fault(), Fault::Corrupt);
    }
}
