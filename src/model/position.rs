//! Places in ordered sequences of changes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Names one totally ordered sequence of changes in a source.
///
/// The name carries the *lineage* of the sequence (PostgreSQL system identifier and slot, SQLite file identity and log
/// generation, ...), so that positions of two lineages can never be compared by accident. Names that start with `!`
/// belong to the engine; `engine::plan` lists them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(Arc<str>);

impl PartitionId {
    /// A partition of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether positions in this partition are never recorded: `!repair`, whose changes are the result of a comparison
    /// that is simply made again after a restart.
    pub fn is_unrecorded(&self) -> bool {
        self.0.starts_with("!repair")
    }

    /// Whether the name is one of the engine's own.
    pub fn is_engine(&self) -> bool {
        self.0.starts_with('!')
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in a partition. The derived order is the order of the partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Position {
    /// Before the first change.
    #[default]
    Start,
    /// After the boundary `at`, and after `ordinal` further changes of the source transaction that follows it.
    At {
        /// The boundary, in bytes whose order is the order of the partition. Kinds choose bytes that a person can
        /// read (`00000000/0153B248`), since status shows them as they are. Empty means the start of the partition.
        at: Arc<[u8]>,
        /// How many changes after the boundary are passed; 0 at the boundary itself. Only a sink that cannot take a
        /// source transaction whole ever sees another number.
        ordinal: u64,
    },
    /// After the last change of a partition that has ended.
    End,
}

impl Position {
    /// The boundary `at`.
    pub fn at(at: impl AsRef<[u8]>) -> Self {
        Self::At { at: Arc::from(at.as_ref()), ordinal: 0 }
    }

    /// The boundary bytes: empty at the start, `None` at the end.
    pub fn boundary(&self) -> Option<&[u8]> {
        match self {
            Self::Start => Some(&[]),
            Self::At { at, .. } => Some(at),
            Self::End => None,
        }
    }

    /// How many changes past the boundary.
    pub fn ordinal(&self) -> u64 {
        match self {
            Self::At { ordinal, .. } => *ordinal,
            Self::Start | Self::End => 0,
        }
    }

    /// The place `n` changes further on in the transaction that follows the same boundary.
    ///
    /// # Panics
    /// At the end of a partition, where nothing follows.
    #[must_use]
    pub fn plus(&self, n: u64) -> Self {
        match self {
            Self::Start => Self::At { at: Arc::from(&[][..]), ordinal: n },
            Self::At { at, ordinal } => Self::At { at: Arc::clone(at), ordinal: ordinal + n },
            Self::End => panic!("no change follows the end of a partition"),
        }
    }
}

/// The one text form, used in every sink, in status and in logs: `start`, `end`, or `@` and the boundary with everything
/// outside printable ASCII (and `%`, `#`) as `%XX`, then `#` and the ordinal where it is not 0. Lossless.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::End => f.write_str("end"),
            Self::At { at, ordinal } => {
                f.write_str("@")?;
                for &byte in at.iter() {
                    match byte {
                        b'%' | b'#' => write!(f, "%{byte:02X}")?,
                        0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                        _ => write!(f, "%{byte:02X}")?,
                    }
                }
                if *ordinal > 0 { write!(f, "#{ordinal}") } else { Ok(()) }
            }
        }
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let broken = || Error::corrupt(format!("read position {text:?}: not a position in this version's text form"));
        let rest = match text {
            "start" => return Ok(Self::Start),
            "end" => return Ok(Self::End),
            _ => text.strip_prefix('@').ok_or_else(broken)?,
        };
        let (place, ordinal) = match rest.split_once('#') {
            Some((place, ordinal)) => (place, ordinal.parse().map_err(|_| broken())?),
            None => (rest, 0),
        };
        let mut at = Vec::with_capacity(place.len());
        let mut bytes = place.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let mut digit = || bytes.next().and_then(|d| char::from(d).to_digit(16)).ok_or_else(broken);
                let (high, low) = (digit()?, digit()?);
                at.push(u8::try_from(high * 16 + low).map_err(|_| broken())?);
            } else {
                at.push(byte);
            }
        }
        Ok(Self::At { at: at.into(), ordinal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_order_is_start_then_boundaries_then_ordinals_then_end() {
        let order = [
            Position::Start,
            Position::Start.plus(1),
            Position::at("a"),
            Position::at("a").plus(1),
            Position::at("a").plus(2),
            Position::at("b"),
            Position::End,
        ];
        assert!(order.is_sorted(), "{order:?}");
    }

    proptest! {
        #[test]
        fn text_form_is_lossless(at in proptest::collection::vec(any::<u8>(), 0..40), ordinal in 0u64..9) {
            let position = Position::At { at: at.into(), ordinal };
            prop_assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        }
    }
}
