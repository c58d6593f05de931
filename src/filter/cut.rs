//! Names of ranges, joined where a name would tell a key that is left out. Pure.
//!
//! A range is called `<from>..<to>`, both in hexadecimal, after whatever says its table; and its name is written down at the
//! sink. Ranges come in order, and one begins where the one before it ends.

use crate::store::{between, bounds};

/// The same ranges, those that meet at a key which may not be told made one. `None` if they are not called as expected.
pub(super) fn told(names: &[String], may_tell: impl Fn(&[u8]) -> bool) -> Option<Vec<String>> {
    let mut joined: Vec<Name<'_>> = Vec::with_capacity(names.len());
    for name in names {
        let name = Name::read(name)?;
        match joined.last_mut().filter(|last| last.table == name.table && last.to == name.from && !name.from.is_empty())
        {
            Some(last) if !may_tell(&name.from) => last.to = name.to,
            _ => joined.push(name),
        }
    }
    let silent = |bound: &[u8]| bound.is_empty() || may_tell(bound);
    let all = joined.iter().all(|name| silent(&name.from) && silent(&name.to));
    all.then(|| joined.iter().map(|name| format!("{}{}", name.table, between(&name.from, &name.to))).collect())
}

struct Name<'a> {
    table: &'a str,
    from: Vec<u8>,
    to: Vec<u8>,
}

impl<'a> Name<'a> {
    fn read(name: &'a str) -> Option<Self> {
        let (table, keys) = name.split_at(name.rfind('/').map_or(0, |slash| slash + 1));
        let (from, to) = bounds(keys)?;
        Some(Self { table, from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(names: &[&str]) -> Option<Vec<String>> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        told(&names, |key| !key.starts_with(b"s"))
    }

    #[test]
    fn ranges_that_meet_at_a_key_that_may_not_be_told_are_one() {
        // 61 is `a`, 73 is `s`.
        assert_eq!(joined(&["..61", "61..7374", "7374..75", "75.."]).unwrap(), ["..61", "61..75", "75.."]);
        assert_eq!(joined(&["t/..73", "t/73..74", "t/74..7375", "t/7375.."]).unwrap(), ["t/..74", "t/74.."]);
        assert_eq!(joined(&["a/..73", "a/73..", "b/..61", "b/61.."]).unwrap(), ["a/..", "b/..61", "b/61.."]);
        assert_eq!(joined(&[".."]).unwrap(), [".."]);
        assert_eq!(joined(&[]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn names_of_another_form_are_not_taken_for_silent() {
        for names in [&["whole"][..], &["..7", "7.."], &["..zz", "zz.."], &["..73", "74.."]] {
            assert_eq!(joined(names), None, "{names:?}");
        }
    }
}
