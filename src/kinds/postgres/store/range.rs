//! Ranges: what part of a table one scan covers, and how its name says so.
//!
//! A name is `<table>/<from>..<to>`, the bounds being cursors in hexadecimal, `from` outside and `to` inside the range;
//! an empty bound is open. Cursors depend on keys alone, so a name means the same as long as the key has its types.

use crate::error::{Error, Result};
use crate::kinds::postgres::kvrow::unhex;

/// The name of Teleport's table in names of ranges; the table itself has none in this layout.
const TELEPORT: &str = "kv";

/// What part of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Behind this cursor.
    pub from: Option<Vec<u8>>,
    /// Up to this cursor.
    pub to: Option<Vec<u8>>,
}

impl Bounds {
    /// The name of the range.
    pub fn name(&self, table: &str) -> String {
        let hex = |bound: &Option<Vec<u8>>| {
            bound.iter().flatten().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
        };
        let table = if table.is_empty() { TELEPORT } else { table };
        format!("{table}/{}..{}", hex(&self.from), hex(&self.to))
    }

    /// Table and bounds of a name.
    ///
    /// # Errors
    /// Corrupt when it is not a name that we made.
    pub fn parse<'n>(name: &'n str, teleport: bool) -> Result<(&'n str, Self)> {
        // The name is not repeated: its bounds are keys.
        let broken = || Error::corrupt("resume a scan: what the checkpoint names is not the name of a range");
        let (table, bounds) = name.rsplit_once('/').ok_or_else(broken)?;
        let (from, to) = bounds.split_once("..").ok_or_else(broken)?;
        let bound = |hex: &'n str| match hex {
            "" => Some(None),
            hex => unhex(hex.as_bytes()).map(Some),
        };
        let bounds = Self { from: bound(from).ok_or_else(broken)?, to: bound(to).ok_or_else(broken)? };
        match (teleport, table) {
            (true, TELEPORT) => Ok(("", bounds)),
            (true, _) | (false, "") => Err(broken()),
            (false, table) => Ok((table, bounds)),
        }
    }

    /// Cuts everything at some of these cursors, which are in order, into about `count` pieces.
    pub fn cut(cursors: &[Vec<u8>], count: usize) -> Vec<Self> {
        let mut bounds = vec![Self::default()];
        for piece in 1..count {
            let Some(cursor) = cursors.get(cursors.len() * piece / count).filter(|cursor| !cursor.is_empty()) else {
                continue;
            };
            let last = bounds.last_mut().expect("there is always a last range");
            if last.from.as_ref().is_none_or(|from| from < cursor) {
                last.to = Some(cursor.clone());
                bounds.push(Self { from: Some(cursor.clone()), to: None });
            }
        }
        bounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_says_table_and_bounds() {
        let bounds = Bounds { from: Some(vec![0, 0xff]), to: None };
        for (table, teleport, name) in [("", true, "kv/00ff.."), ("a/b..c.d", false, "a/b..c.d/00ff..")] {
            assert_eq!(bounds.name(table), name);
            assert_eq!(Bounds::parse(name, teleport).unwrap(), (table, bounds.clone()));
        }
        for name in ["", "kv", "kv/", "kv/0..", "kv/zz..", "t/..", "/.."] {
            assert!(Bounds::parse(name, true).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn ranges_hold_every_cursor_once(mut cursors: Vec<Vec<u8>>, count in 1usize..9, probe: Vec<u8>) {
            cursors.sort();
            let ranges = Bounds::cut(&cursors, count);
            prop_assert!(ranges.len() <= count);
            let holds = |range: &&Bounds| {
                range.from.as_ref().is_none_or(|from| probe > *from) && range.to.as_ref().is_none_or(|to| probe <= *to)
            };
            prop_assert_eq!(ranges.iter().filter(holds).count(), 1);
        }
    }
}
