//! Keys of the source to keys of the image, and back. Pure.
//!
//! Two keys of the source never become one. The rules see to that among the keys that are renamed; a key that keeps its name
//! and could be what another one becomes is an error when it comes.

use super::prefixes::Prefixes;
use super::rules::Rename;
use crate::error::{Error, Result};

/// Renamings of prefixes; the longest that a key begins with counts.
#[derive(Debug)]
pub(super) struct Renaming {
    rules: Vec<Rename>,
    /// To the index of a rule.
    from: Prefixes<usize>,
    to: Prefixes<usize>,
}

impl Renaming {
    pub(super) fn new(rules: &[Rename]) -> Self {
        let table = |side: fn(&Rename) -> &String| {
            Prefixes::new(rules.iter().enumerate().map(|(index, rule)| (side(rule).clone().into_bytes(), index)))
        };
        Self { rules: rules.to_vec(), from: table(|rule| &rule.from), to: table(|rule| &rule.to) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.from.is_empty()
    }

    /// See [`super::Filter::rename`].
    pub(super) fn forth(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        if let Some((len, &index)) = self.from.longest(key) {
            out.extend_from_slice(self.rules[index].to.as_bytes());
            out.extend_from_slice(&key[len..]);
            return Ok(true);
        }
        match self.origin(key, &mut Vec::new()) {
            None => Ok(false),
            Some(index) => {
                let Rename { from, to } = &self.rules[index];
                Err(Error::config(format!(
                    "rename keys: the source has a key under {to:?} already, and what lies under {from:?} is renamed to \
                     that, so two keys could become one; leave such keys out with `exclude`, or rename them too"
                )))
            }
        }
    }

    /// See [`super::Filter::source_key`].
    pub(super) fn back<'a>(&self, image: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        if self.is_empty() {
            return Some(image);
        }
        if self.origin(image, scratch).is_some() {
            return Some(scratch);
        }
        // A key that begins with what is renamed does not keep its name, and nothing else becomes this one.
        self.from.longest(image).is_none().then_some(image)
    }

    /// The rule by which another key becomes this one, and that key.
    fn origin(&self, image: &[u8], key: &mut Vec<u8>) -> Option<usize> {
        let (len, &index) = self.to.longest(image)?;
        key.clear();
        key.extend_from_slice(self.rules[index].from.as_bytes());
        key.extend_from_slice(&image[len..]);
        // A longer rule may take it elsewhere.
        let (_, &goes) = self.from.longest(key)?;
        (goes == index).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use proptest::prelude::*;

    fn renaming(all: &[(&str, &str)]) -> Renaming {
        let rules: Vec<_> = all.iter().map(|(from, to)| Rename { from: (*from).into(), to: (*to).into() }).collect();
        let renaming = Renaming::new(&rules);
        super::super::rules::Rules { rename: rules, ..Default::default() }.check().unwrap();
        renaming
    }

    fn image(renaming: &Renaming, key: &str) -> Result<String> {
        let mut out = Vec::new();
        let renamed = renaming.forth(key.as_bytes(), &mut out)?;
        Ok(if renamed { String::from_utf8(out).unwrap() } else { key.to_owned() })
    }

    fn origin(renaming: &Renaming, image: &str) -> Option<String> {
        let mut scratch = Vec::new();
        renaming.back(image.as_bytes(), &mut scratch).map(|key| String::from_utf8(key.to_vec()).unwrap())
    }

    #[test]
    fn the_longest_prefix_counts_and_the_way_back_is_known() {
        let renaming = renaming(&[("/a/", "/x/"), ("/a/b/", "/y/")]);
        for (key, wanted) in [("/a/k", "/x/k"), ("/a/b/k", "/y/k"), ("/a/b", "/x/b"), ("/c", "/c"), ("/a", "/a")] {
            assert_eq!(image(&renaming, key).unwrap(), wanted);
            assert_eq!(origin(&renaming, wanted).as_deref(), Some(key));
        }
        assert_eq!(origin(&renaming, "/a/k"), None, "it was renamed away");
        assert_eq!(origin(&renaming, "/x/b/k").as_deref(), Some("/x/b/k"), "a longer rule takes `/a/b/k` elsewhere");
        assert_eq!(image(&renaming, "/x/b/k").unwrap(), "/x/b/k", "nothing else becomes that");
    }

    #[test]
    fn a_key_that_another_could_become_is_refused_without_telling_it() {
        let renaming = renaming(&[("/a/", "/b/")]);
        let error = image(&renaming, "/b/secret").unwrap_err();
        assert_eq!(error.fault(), Fault::Config);
        assert!(error.to_string().contains("\"/b/\"") && !error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn two_prefixes_may_change_places() {
        let renaming = renaming(&[("/a/", "/b/"), ("/b/", "/a/")]);
        assert_eq!(image(&renaming, "/a/k").unwrap(), "/b/k");
        assert_eq!(image(&renaming, "/b/k").unwrap(), "/a/k");
        assert_eq!(origin(&renaming, "/b/k").as_deref(), Some("/a/k"));
    }

    proptest! {
        /// Whatever the rules: two keys that are let through are two keys, and each is found again.
        #[test]
        fn no_two_keys_become_one(
            rules in proptest::collection::vec(("[ab]{1,3}", "[ab]{1,3}"), 0..4),
            keys in proptest::collection::btree_set("[ab]{0,5}", 0..30))
        {
            let rename: Vec<_> = rules.iter().map(|(from, to)| Rename { from: from.clone(), to: to.clone() }).collect();
            let rules = super::super::rules::Rules { rename: rename.clone(), ..Default::default() };
            prop_assume!(rules.check().is_ok());
            let renaming = Renaming::new(&rename);
            let mut images = std::collections::BTreeSet::new();
            for key in &keys {
                if let Ok(image) = image(&renaming, key) {
                    prop_assert!(images.insert(image.clone()), "{key} becomes what another one is");
                    let found = origin(&renaming, &image);
                    prop_assert_eq!(found.as_ref(), Some(key));
                }
            }
        }
    }
}
