//! How far things are.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{PartitionId, Position};

/// Partition → position: everything at or before it is durable (in a sink), or exists (a head). A partition that is not
/// named is at its start.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Checkpoint(BTreeMap<PartitionId, Position>);

impl Checkpoint {
    /// The place reached in a partition.
    pub fn get(&self, partition: &PartitionId) -> &Position {
        self.0.get(partition).unwrap_or(&Position::Start)
    }

    /// Whether the partition is named at all, which `Start` alone does not tell.
    pub fn names(&self, partition: &PartitionId) -> bool {
        self.0.contains_key(partition)
    }

    /// Moves one partition forward; never back.
    pub fn advance(&mut self, partition: &PartitionId, to: &Position) {
        match self.0.get_mut(partition) {
            Some(at) if *at < *to => at.clone_from(to),
            Some(_) => {}
            None => drop(self.0.insert(partition.clone(), to.clone())),
        }
    }

    /// Moves every partition of `other` forward.
    pub fn merge(&mut self, other: &Self) {
        for (partition, position) in &other.0 {
            self.advance(partition, position);
        }
    }

    /// Forgets partitions for which `keep` says no.
    pub fn retain(&mut self, mut keep: impl FnMut(&PartitionId) -> bool) {
        self.0.retain(|partition, _| keep(partition));
    }

    /// The partitions of the source's own stream alone.
    pub fn tail(&self) -> Self {
        self.iter()
            .filter(|(partition, _)| !partition.is_engine())
            .map(|(name, at)| (name.clone(), at.clone()))
            .collect()
    }

    /// Whether everything at or before `other` is also at or before `self`.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(partition, position)| self.get(partition) >= position)
    }

    /// What all of them have passed: the smallest position of each partition that any of them names.
    pub fn meet<'a>(all: impl IntoIterator<Item = &'a Self> + Clone) -> Self {
        let mut met = Self::default();
        for one in all.clone() {
            for partition in one.0.keys() {
                if !met.names(partition) {
                    let least = all.clone().into_iter().map(|c| c.get(partition)).min();
                    met.0.insert(partition.clone(), least.cloned().unwrap_or_default());
                }
            }
        }
        met
    }

    /// All partitions with their positions, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&PartitionId, &Position)> {
        self.0.iter()
    }

    /// Whether no partition is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many partitions are named.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<(PartitionId, Position)> for Checkpoint {
    fn from_iter<I: IntoIterator<Item = (PartitionId, Position)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

/// For people: `partition@position, …`.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (partition, position)) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{partition} {position}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checkpoint() -> impl Strategy<Value = Checkpoint> {
        proptest::collection::btree_map(0u8..4, 0u8..5, 0..4).prop_map(|map| {
            map.into_iter()
                .map(|(p, n)| {
                    let position = match n {
                        0 => Position::Start,
                        4 => Position::End,
                        n => Position::at([n]),
                    };
                    (PartitionId::new(p.to_string()), position)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn meet_is_commutative_idempotent_and_below_both(a in checkpoint(), b in checkpoint()) {
            let met = Checkpoint::meet([&a, &b]);
            prop_assert_eq!(&met, &Checkpoint::meet([&b, &a]));
            prop_assert!(a.covers(&met) && b.covers(&met));
            prop_assert_eq!(Checkpoint::meet([&a, &a]), a.clone());
        }

        #[test]
        fn a_checkpoint_never_moves_back(mut a in checkpoint(), b in checkpoint()) {
            let before = a.clone();
            a.merge(&b);
            prop_assert!(a.covers(&before) && a.covers(&b));
        }
    }
}
