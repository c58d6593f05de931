//! A sorted table of prefixes: which of them does a key begin with, the longest first.
//!
//! A look-up is one binary search and as many steps up as the found prefixes are nested; nothing is allocated. It rests on
//! this: what lies between a prefix and a key that begins with it, in the order of bytes, begins with that prefix too. So
//! from the last entry that is not greater than the key, each prefix of the key is reached by going from an entry to the
//! longest other entry that it begins with.

/// Prefixes, each with something that is known of it.
#[derive(Clone, Debug)]
pub struct Prefixes<T> {
    entries: Vec<Entry<T>>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    prefix: Vec<u8>,
    /// The longest other entry that this one begins with.
    within: Option<usize>,
    known: T,
}

impl<T> Prefixes<T> {
    /// A table of these. Of two equal prefixes only one is found.
    pub fn new(all: impl IntoIterator<Item = (Vec<u8>, T)>) -> Self {
        let mut entries: Vec<Entry<T>> =
            all.into_iter().map(|(prefix, known)| Entry { prefix, within: None, known }).collect();
        entries.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        // Those that the present entry begins with, the longest last.
        let mut open: Vec<usize> = Vec::new();
        for index in 0..entries.len() {
            while open.pop_if(|outer| !entries[index].prefix.starts_with(&entries[*outer].prefix)).is_some() {}
            entries[index].within = open.last().copied();
            open.push(index);
        }
        Self { entries }
    }

    /// The prefixes that a key begins with, the longest first, with their lengths.
    pub fn of<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = (usize, &'a T)> {
        let last = self.entries.partition_point(|entry| entry.prefix.as_slice() <= key).checked_sub(1);
        let up = move |entry: &&'a Entry<T>| entry.within.map(|outer| &self.entries[outer]);
        std::iter::successors(last.map(|last| &self.entries[last]), up)
            .filter(move |entry| key.starts_with(&entry.prefix))
            .map(|entry| (entry.prefix.len(), &entry.known))
    }

    /// The longest prefix that a key begins with.
    pub fn longest(&self, key: &[u8]) -> Option<(usize, &T)> {
        self.of(key).next()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the plain way: look at every prefix.
        #[test]
        fn every_prefix_of_a_key_is_found_the_longest_first(
            prefixes in proptest::collection::btree_set("[ab/]{0,4}", 0..12), key in "[ab/]{0,7}")
        {
            let table = Prefixes::new(prefixes.iter().map(|prefix| (prefix.as_bytes().to_vec(), prefix.clone())));
            let found: Vec<String> = table.of(key.as_bytes()).map(|(_, prefix)| prefix.clone()).collect();
            let mut wanted: Vec<String> = prefixes.into_iter().filter(|prefix| key.starts_with(prefix)).collect();
            wanted.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
            prop_assert_eq!(table.longest(key.as_bytes()).map(|(len, _)| len), wanted.first().map(String::len));
            prop_assert_eq!(found, wanted);
        }
    }
}
