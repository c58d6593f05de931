//! Places in PostgreSQL's write-ahead log.
//!
//! Two text forms: the server's own (`0/16B3748`, no fixed width) for statements and messages, and ours
//! (`00000000/016B3748`) for positions, whose byte order is the order of the log. A position of the stream is always the
//! *end* of a commit record or a place where nothing was open, never the beginning of one: two commits never share it.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::model::Position;

/// A byte position in the write-ahead log. 0 is the server's "invalid".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// Length of the fixed-width form.
const WIDTH: usize = 17;

impl Lsn {
    /// Not a place.
    pub const INVALID: Self = Self(0);

    /// The fixed-width form `XXXXXXXX/XXXXXXXX`, upper-case hexadecimal: byte order is log order.
    pub fn fixed(self) -> [u8; WIDTH] {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let mut text = [b'/'; WIDTH];
        for digit in 0..16 {
            let nibble = (self.0 >> (60 - 4 * digit)) & 0xF;
            text[digit + usize::from(digit >= 8)] = DIGITS[nibble as usize];
        }
        text
    }

    /// The position at this place.
    pub fn position(self) -> Position {
        Position::at(self.fixed())
    }

    /// The boundary of a position of the stream; `None` at `Start`.
    pub fn of(position: &Position) -> Result<Option<Self>> {
        let broken = || {
            Error::corrupt(format!(
                "read position {position} of the PostgreSQL stream: expected a place like @00000000/016B3748"
            ))
        };
        match position {
            Position::Start => Ok(None),
            Position::End => Err(broken()),
            Position::At { at, .. } => Self::parse_fixed(at).map(Some).ok_or_else(broken),
        }
    }

    fn parse_fixed(text: &[u8]) -> Option<Self> {
        if text.len() != WIDTH || text.get(8) != Some(&b'/') {
            return None;
        }
        let mut value = 0u64;
        for (index, &byte) in text.iter().enumerate() {
            if index != 8 {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'A'..=b'F' => byte - b'A' + 10,
                    _ => return None,
                };
                value = value << 4 | u64::from(digit);
            }
        }
        Some(Self(value))
    }
}

/// The server's form.
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The server's form: one to eight hexadecimal digits on either side of a slash (`pg_lsn`).
impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let half = |digits: &str| {
            let hex = !digits.is_empty() && digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| Error::corrupt("read a log position of PostgreSQL: expected something like 0/16B3748"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_the_documented_ones() {
        let lsn: Lsn = "0/16B3748".parse().unwrap();
        assert_eq!(lsn, Lsn(0x016B_3748));
        assert_eq!(lsn.to_string(), "0/16B3748");
        assert_eq!(lsn.position().to_string(), "@00000000/016B3748");
        assert_eq!(Lsn::of(&lsn.position().plus(7)).unwrap(), Some(lsn));
        assert_eq!(Lsn::of(&Position::Start).unwrap(), None);
        for wrong in ["", "/", "0", "0/", "/0", "+1/0", "1/123456789", "g/0", "0/0/0"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
        for wrong in ["", "00000000-016B3748", "00000000/016b3748", "0/16B3748"] {
            assert!(Lsn::of(&Position::at(wrong)).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn both_forms_are_lossless_and_the_fixed_one_keeps_the_order(a: u64, b: u64) {
            let (a, b) = (Lsn(a), Lsn(b));
            prop_assert_eq!(a.to_string().parse::<Lsn>().unwrap(), a);
            prop_assert_eq!(Lsn::of(&a.position()).unwrap(), Some(a));
            prop_assert_eq!(a.cmp(&b), a.position().cmp(&b.position()));
        }
    }
}
