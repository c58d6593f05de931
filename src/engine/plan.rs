//! From what the lanes remember to what has to be done. Pure.
//!
//! The engine keeps its own progress in the same checkpoints as the data, under names that begin with `!`:
//!
//! | partition | means |
//! |---|---|
//! | `!snapshot/<n>` | generation *n* is pinned in this lane; `End`: its walk over the source is finished |
//! | `!snapshot/<n>/<range>` | how far that walk has come in a range; dropped when the walk is finished |
//! | `!sweep/<n>`, `!sweep/<n>/<range>` | the same for the walk over the sink that removes what the source does not have; only in generations that heal |
//! | `!settled/<n>` | `End`: the sink was consistent once in this generation, so from there on it is what the source was at the checkpoint |
//! | `!loaded` | `End`: a whole copy was made once, so a new generation heals by difference |
//! | `!scope/<hash>` | `End`: the tables and exclusions that the copy covers |
//! | `!clone/<n>`, `!clone/<n>/<range>` | the same as `!snapshot` for a copy without a pin |
//!
//! "Pinned" is a mark of its own, in every lane, because `Start` is a legal pin.

use crate::model::{Checkpoint, PartitionId, Position};

/// What an attempt has to do first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing is pinned in all lanes, or what was pinned is lost: pin this generation.
    Pin {
        /// Number of the new generation.
        generation: u64,
        /// Whether it heals by difference, because the sink may hold something already.
        heal: bool,
    },
    /// The first copy is under way.
    Load {
        /// Number of the generation.
        generation: u64,
    },
    /// The tail runs, and a difference is being healed.
    Heal {
        /// Number of the generation.
        generation: u64,
    },
    /// The copy is whole: follow.
    Follow,
}

/// Name of the mark of a walk over the source.
pub fn snapshot(generation: u64) -> PartitionId {
    PartitionId::new(format!("!snapshot/{generation}"))
}

/// Name of the mark of a walk over the sink.
pub fn sweep(generation: u64) -> PartitionId {
    PartitionId::new(format!("!sweep/{generation}"))
}

/// Name of the mark that the sink was consistent once in a generation.
pub fn settled(generation: u64) -> PartitionId {
    PartitionId::new(format!("!settled/{generation}"))
}

/// Name of the mark of a copy without a pin.
pub fn clone(generation: u64) -> PartitionId {
    PartitionId::new(format!("!clone/{generation}"))
}

/// Name of a range of a walk.
pub fn range(walk: &PartitionId, name: &str) -> PartitionId {
    PartitionId::new(format!("{walk}/{name}"))
}

/// Name of the mark that a whole copy was made once.
pub fn loaded() -> PartitionId {
    PartitionId::new("!loaded")
}

/// Name of the mark of what the copy covers.
pub fn scope(extent: &str) -> PartitionId {
    // The extent can be long; its name in the v5 sense is as good as itself.
    PartitionId::new(format!("!scope/{}", uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, extent.as_bytes())))
}

/// What has to be done, given every lane's checkpoint, what the configuration covers, and whether the position was found
/// to be lost or the destination holds somebody else's data.
pub fn plan(lanes: &[Checkpoint], extent: &str, lost: bool, foreign: bool) -> Plan {
    let met = Checkpoint::meet(lanes);
    let newest = newest(lanes, "!snapshot/");
    let in_all = |partition: &PartitionId| lanes.iter().all(|lane| lane.names(partition));
    let pinned = newest > 0 && in_all(&snapshot(newest));
    let covered = in_all(&scope(extent));
    if !pinned || lost || !covered {
        return Plan::Pin { generation: newest + 1, heal: foreign || lanes.iter().any(has_data) };
    }
    let heals = in_all(&sweep(newest));
    let ended = |partition: &PartitionId| *met.get(partition) == Position::End;
    match (heals, ended(&snapshot(newest)), ended(&sweep(newest))) {
        (false, true, _) | (true, true, true) => Plan::Follow,
        (false, false, _) => Plan::Load { generation: newest },
        (true, _, _) => Plan::Heal { generation: newest },
    }
}

/// The largest number `n` for which any lane names `<prefix><n>`; 0 if none does.
pub fn newest(lanes: &[Checkpoint], prefix: &str) -> u64 {
    let names = lanes.iter().flat_map(|lane| lane.iter().map(|(partition, _)| partition));
    names.filter_map(|partition| partition.as_str().strip_prefix(prefix)?.parse().ok()).max().unwrap_or(0)
}

/// Names of the ranges of a walk that a lane remembers, with how far they are.
pub fn ranges<'a>(
    checkpoint: &'a Checkpoint,
    walk: &PartitionId,
) -> impl Iterator<Item = (&'a str, &'a Position)> + use<'a> {
    let prefix = format!("{walk}/");
    checkpoint
        .iter()
        .filter_map(move |(partition, position)| partition.as_str().strip_prefix(&prefix).map(|name| (name, position)))
}

/// Whether a copy was ever begun under this checkpoint, so that the sink may hold rows the source no longer has.
fn has_data(checkpoint: &Checkpoint) -> bool {
    checkpoint.iter().any(|(partition, position)| {
        let name = partition.as_str();
        let walk = name.strip_prefix("!snapshot/").or_else(|| name.strip_prefix("!clone/"));
        let moved = *position != Position::Start;
        moved && (name == "!loaded" || walk.is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(all: &[(&str, Position)]) -> Checkpoint {
        all.iter().map(|(name, position)| (PartitionId::new(*name), position.clone())).collect()
    }

    fn scoped(all: &[(&str, Position)]) -> Checkpoint {
        let mut lane = lane(all);
        lane.advance(&scope("x"), &Position::End);
        lane
    }

    #[test]
    fn a_new_stream_pins_and_a_pinned_one_loads() {
        assert_eq!(plan(&[lane(&[])], "x", false, false), Plan::Pin { generation: 1, heal: false });
        let pinned = scoped(&[("!snapshot/1", Position::Start), ("p", Position::Start)]);
        assert_eq!(plan(&[pinned], "x", false, false), Plan::Load { generation: 1 });
    }

    #[test]
    fn a_pin_counts_only_in_every_lane() {
        let pinned = scoped(&[("!snapshot/1", Position::Start)]);
        let lanes = [pinned, scoped(&[])];
        assert_eq!(plan(&lanes, "x", false, false), Plan::Pin { generation: 2, heal: false });
    }

    #[test]
    fn a_lost_position_after_the_first_page_heals_by_difference() {
        let half = scoped(&[("!snapshot/1", Position::Start), ("!snapshot/1/r", Position::at("k"))]);
        assert_eq!(plan(&[half], "x", true, false), Plan::Pin { generation: 2, heal: true });
    }

    #[test]
    fn healing_goes_on_until_both_walks_have_ended() {
        let mut healing =
            scoped(&[("!snapshot/2", Position::Start), ("!sweep/2", Position::Start), ("!loaded", Position::End)]);
        assert_eq!(plan(&[healing.clone()], "x", false, false), Plan::Heal { generation: 2 });
        healing.advance(&snapshot(2), &Position::End);
        assert_eq!(plan(&[healing.clone()], "x", false, false), Plan::Heal { generation: 2 });
        healing.advance(&sweep(2), &Position::End);
        assert_eq!(plan(&[healing.clone()], "x", false, false), Plan::Follow);
        assert_eq!(plan(&[healing], "another scope", false, false), Plan::Pin { generation: 3, heal: true });
    }
}
