//! What a server's version means for somebody who watches it.
//!
//! Each defect is fixed in a release of each line; a line that is not named never had it. From the release notes of etcd.
//! Pure.

use std::fmt;

/// A released version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

/// The oldest that is supported: it has fragments of large watch answers, and leases that can be asked by everybody.
pub const OLDEST: Version = Version::new(3, 4, 0);

impl Version {
    /// This version.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Reads `3.6.16`, with or without something behind it (`3.6.0-rc.1`); `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let mut parts = text.get(..end)?.split('.').map(|part| part.parse().ok());
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next().unwrap_or(Some(0))? };
        parts.next().is_none().then_some(version)
    }

    /// Whether it is at least the release in which its line got something, given as (minor, patch) of lines of version 3;
    /// lines behind the last one have it from the beginning, lines before the first never got it.
    fn has(self, fixed: &[(u16, u16)]) -> bool {
        match fixed.iter().find(|(minor, _)| (self.major, self.minor) == (3, *minor)) {
            Some((_, patch)) => self.patch >= *patch,
            None => fixed.iter().all(|(minor, _)| (self.major, self.minor) > (3, *minor)),
        }
    }

    /// Whether a progress notification is in order with the events of its stream, so that its revision is a place from
    /// which one can go on. Before, it could name revisions that had not been delivered.
    pub fn progress_is_in_order(self) -> bool {
        self.has(PROGRESS)
    }

    /// Whether a watch that was just made is told of progress although nothing happens to its keys.
    pub fn tells_quiet_watches(self) -> bool {
        self.has(QUIET)
    }

    /// Defects of watches that this version has, each as a sentence.
    pub fn defects(self) -> impl Iterator<Item = &'static str> {
        DEFECTS.iter().filter(move |(fixed, _)| !self.has(fixed)).map(|(_, what)| *what)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// etcd#15220.
const PROGRESS: &[(u16, u16)] = &[(4, 25), (5, 8)];
/// etcd#17566, which mends what the mending of #15220 broke.
const QUIET: &[(u16, u16)] = &[(4, 31), (5, 13)];

/// Where each defect was fixed, and what it does. etcd#15220, #15271, #17529 with #17566, #18089, #19179.
const DEFECTS: &[(&[(u16, u16)], &str)] = &[
    (PROGRESS, "a progress notification may run ahead of the events"),
    (&[(4, 25), (5, 8)], "a watch may see old events again after its member was away"),
    (QUIET, "a watch that is slow may lose events at a compaction, and a quiet one is not told of progress"),
    (&[(4, 34), (5, 16)], "a watch may lose a delete that is compacted at once"),
    (&[(4, 36), (5, 18)], "a watch that begins where the history is compacted may miss a delete"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_are_read_and_ordered() {
        assert_eq!(of("3.6.16"), Version::new(3, 6, 16));
        assert_eq!(of("3.6.0-rc.1"), Version::new(3, 6, 0));
        assert_eq!(of("3.7"), Version::new(3, 7, 0));
        assert_eq!(of("3.4.23").to_string(), "3.4.23");
        assert!(of("3.10.0") > of("3.9.9") && of("3.3.27") < OLDEST);
        for broken in ["", "three", "3", "3.", "3.x.1", "3.4.5.6", "99999.1.1"] {
            assert_eq!(Version::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn progress_is_a_place_only_where_it_is_in_order() {
        for (version, safe) in [
            ("3.3.27", false),
            ("3.4.23", false),
            ("3.4.24", false),
            ("3.4.25", true),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.6.0", true),
            ("4.0.0", true),
        ] {
            assert_eq!(of(version).progress_is_in_order(), safe, "{version}");
        }
    }

    #[test]
    fn a_quiet_watch_is_told_of_progress_by_newer_servers() {
        for (version, told) in
            [("3.4.30", false), ("3.4.31", true), ("3.5.12", false), ("3.5.13", true), ("3.6.0", true)]
        {
            assert_eq!(of(version).tells_quiet_watches(), told, "{version}");
        }
    }

    #[test]
    fn each_release_has_the_defects_that_were_fixed_after_it() {
        for (version, count) in
            [("3.4.23", 5), ("3.4.25", 3), ("3.4.36", 0), ("3.5.12", 3), ("3.5.15", 2), ("3.5.17", 1), ("3.6.16", 0)]
        {
            assert_eq!(of(version).defects().count(), count, "{version}");
        }
    }
}
