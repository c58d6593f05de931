//! Timeline history files: where a server's history left another one's.
//!
//! The format is that of `backend/access/transam/timeline.c`: a line per ancestor with its number, the place where it was
//! left, and a reason. Pure.

use crate::error::{Error, Result};
use crate::kinds::postgres::wire::lsn::Lsn;

/// An ancestor of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The ancestor.
    pub timeline: u32,
    /// Where it was left: what the ancestor has behind it is no part of this history.
    pub at: Lsn,
}

/// Reads a history file. Ancestors come oldest first.
pub fn parse(text: &str) -> Result<Vec<Fork>> {
    let broken =
        || Error::corrupt("read the timeline history of a PostgreSQL server: a line is not what its format says");
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut words = line.split_whitespace();
            let timeline = words.next().and_then(|word| word.parse().ok()).ok_or_else(broken)?;
            let at = words.next().and_then(|word| word.parse().ok()).ok_or_else(broken)?;
            Ok(Fork { timeline, at })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ancestors_are_read_in_order() {
        let text = "1\t0/3000000\tno recovery target specified\n\n# comment\n2\t1/A0\tbefore 2026-01-01\n";
        let forks = parse(text).unwrap();
        assert_eq!(forks, [Fork { timeline: 1, at: Lsn(0x300_0000) }, Fork { timeline: 2, at: Lsn(0x1_0000_00A0) }]);
        assert!(parse("1 nowhere").is_err());
        assert!(parse("one 0/1").is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "[0-9/A-F#\t\n x]{0,60}") {
            drop(parse(&text));
        }
    }
}
