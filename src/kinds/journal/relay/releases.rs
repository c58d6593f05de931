//! What the source may be told to forget. Pure.
//!
//! Invariant: nothing that the journal does not hold durably, because it goes on from its own end after a restart; and, with
//! `ack: sink`, nothing that a sink lacks, because then the journal is a cache that may be lost. A source that can keep no
//! more is the exception: the journal takes over for the sinks that are behind.

use std::collections::BTreeMap;

use crate::model::Checkpoint;

/// When a source may forget a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Once every sink has it.
    Sink,
    /// Once the journal has it.
    Journal,
}

/// Who has what.
#[derive(Debug)]
pub struct Releases {
    ack: Ack,
    /// How far each sink is; `None` for one that was not heard of yet.
    sinks: BTreeMap<String, Option<Checkpoint>>,
    /// How far the journal is.
    durable: Checkpoint,
    /// The source keeps about as much as it may.
    strained: bool,
}

impl Releases {
    /// For these sinks, none of which was heard of.
    pub fn new<'n>(ack: Ack, sinks: impl IntoIterator<Item = &'n str>, durable: Checkpoint) -> Self {
        let sinks = sinks.into_iter().map(|name| (name.to_owned(), None)).collect();
        Self { ack, sinks, durable, strained: false }
    }

    /// A sink is here now.
    pub fn sink(&mut self, name: &str, upto: &Checkpoint) {
        let known = self.sinks.entry(name.to_owned()).or_default();
        // What is not named any more has ended, and a generation that begins anew names other partitions.
        *known = Some(upto.clone());
    }

    /// Sinks that were heard of, and how far they are.
    pub fn sinks(&self) -> impl Iterator<Item = (&str, &Checkpoint)> {
        self.sinks.iter().filter_map(|(name, upto)| Some((name.as_str(), upto.as_ref()?)))
    }

    /// The journal is here now.
    pub fn durable(&mut self, upto: &Checkpoint) {
        self.durable.clone_from(upto);
    }

    /// Whether the source keeps about as much as it may.
    pub fn strained(&mut self, strained: bool) {
        self.strained = strained;
    }

    /// What the source may forget: a partition that it does not name must stay whole.
    pub fn upto(&self) -> Checkpoint {
        if self.ack == Ack::Journal || self.strained {
            return self.durable.clone();
        }
        let Some(sinks) = self.sinks.values().map(Option::as_ref).collect::<Option<Vec<_>>>() else {
            return Checkpoint::default();
        };
        Checkpoint::meet(sinks.into_iter().chain([&self.durable]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, Position};

    fn at(place: &str) -> Checkpoint {
        [(PartitionId::new("p"), Position::at(place))].into_iter().collect()
    }

    #[test]
    fn a_source_keeps_what_the_slowest_sink_and_the_journal_lack() {
        let mut releases = Releases::new(Ack::Sink, ["a", "b"], at("5"));
        releases.sink("a", &at("9"));
        assert_eq!(releases.upto(), Checkpoint::default(), "nobody has heard of b yet");
        releases.sink("b", &at("3"));
        assert_eq!(releases.upto(), at("3"));
        releases.sink("b", &at("9"));
        assert_eq!(releases.upto(), at("5"), "the journal goes on from its own end after a restart");
    }

    #[test]
    fn the_journal_takes_over_when_it_is_asked_to_or_the_source_can_keep_no_more() {
        let mut releases = Releases::new(Ack::Journal, ["a"], at("5"));
        assert_eq!(releases.upto(), at("5"));
        releases = Releases::new(Ack::Sink, ["a"], at("5"));
        releases.sink("a", &at("3"));
        releases.strained(true);
        assert_eq!(releases.upto(), at("5"));
        releases.strained(false);
        assert_eq!(releases.upto(), at("3"));
    }
}
