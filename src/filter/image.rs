//! One row at a time: what it is in the image of a source, and whether a row of the sink can be in it. Pure.
//!
//! A change that the tail brings and that is left out for what it holds, not for its key, may follow one that was not: so it
//! becomes a removal. In a walk it is simply not there.
//!
//! A patch says less than the row. What must be known and is not in it cannot be decided without guessing, so it is refused:
//! Teleport's own schema logs whole rows, and then no patch comes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Filter, Masked, Needs, Say, Why};
use crate::bridge::Bodies;
use crate::error::{Error, Result};
use crate::model::{Batch, Draft, Edit, Op, Row};

/// LIMIT: names of what has no known class that are remembered, so that they can be told. Teleport has about a hundred.
pub(super) const FAMILIES: usize = 64;

/// A filter over the bodies of two kinds.
pub(super) struct Image {
    pub(super) filter: Filter,
    /// Whether there is any rule.
    pub(super) ruled: bool,
    pub(super) source: Arc<dyn Bodies>,
    pub(super) sink: Arc<dyn Bodies>,
}

/// What was left out, and space to work in.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) counts: Vec<(Why, u64)>,
    pub(super) families: BTreeSet<String>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Pass {
    fn count(&mut self, why: Why, key: &[u8]) {
        match self.counts.iter_mut().find(|(known, _)| *known == why) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((why, 1)),
        }
        if why == Why::Unknown
            && let Some(family) = family(key)
            && self.families.len() < FAMILIES
            && !self.families.contains(family)
        {
            self.families.insert(family.to_owned());
        }
    }
}

/// The first component of a key that has more of them, with its slashes: what kind of item it is, if it is one of
/// Teleport's, and nothing of which one.
fn family(key: &[u8]) -> Option<&str> {
    let rest = key.strip_prefix(b"/")?;
    let len = rest.iter().position(|&byte| byte == b'/')?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let named = (1..=40).contains(&len) && rest[..len].iter().all(plain);
    if named { std::str::from_utf8(&key[..len + 2]).ok() } else { None }
}

impl Image {
    /// Whether there is nothing to do: without a rule only what no stream takes is left out.
    pub(super) fn passes(&self, batch: &Batch) -> bool {
        let never = |row: Row<'_>| row.op != Op::Clear && self.filter.say(row.key) != Say::Take;
        !self.ruled && !batch.rows().any(never)
    }

    /// What becomes of a change that the tail brings (`follows`), or of a row that was found.
    pub(super) fn of(&self, row: Row<'_>, follows: bool, draft: &mut Draft, pass: &mut Pass) -> Result<Edit> {
        if row.op == Op::Clear {
            return if self.ruled { Err(cleared()) } else { Ok(Edit::Keep) };
        }
        let said = self.filter.say(row.key);
        if let Say::Leave(why) = said {
            pass.count(why, row.key);
            return Ok(Edit::LeaveOut);
        }
        pass.key.clear();
        let renamed = self.filter.rename(row.key, &mut pass.key)?;
        if renamed {
            draft.key(&pass.key);
        }
        if row.op != Op::Delete {
            let gone = match self.in_image(row, said, pass)? {
                Ok(masked) => {
                    let drafted = self.draft(row, renamed, masked == Masked::Written, draft, pass)?;
                    return Ok(if drafted { Edit::Draft } else { Edit::Keep });
                }
                Err(why) => why,
            };
            pass.count(gone, row.key);
            return Ok(if follows { Edit::Remove } else { Edit::LeaveOut });
        }
        Ok(if renamed { Edit::Draft } else { Edit::Keep })
    }

    /// Whether a row whose key is taken is in the image, or why not; its other value is then in `pass`.
    fn in_image(&self, row: Row<'_>, said: Say, pass: &mut Pass) -> Result<Result<Masked, Why>> {
        let needs = self.filter.needs(row.key);
        if let Some(from) = row.from {
            let plain = |key: &[u8]| self.filter.say(key) == Say::Take && self.filter.needs(key) == Needs::Nothing;
            if !(plain(row.key) && plain(from)) {
                return Err(unknown_row());
            }
        }
        if said == Say::TakeUnlessItExpires {
            match self.source.expires(row)? {
                None => return Err(unknown_row()),
                Some(true) => return Ok(Err(Why::Class(super::classes::Class::Presence))),
                Some(false) => {}
            }
        }
        if needs == Needs::Nothing {
            return Ok(Ok(Masked::Same));
        }
        match self.source.value(row)? {
            Some(value) => Ok(self.filter.mask(row.key, &value, &mut pass.value)),
            // The sink's row has the other value already.
            None if needs == Needs::Presence => Ok(Ok(Masked::Same)),
            None => Err(unknown_row()),
        }
    }

    /// Drafts what follows from another key, whose name is in `pass`, and another value; false if nothing does.
    fn draft(&self, row: Row<'_>, renamed: bool, masked: bool, draft: &mut Draft, pass: &mut Pass) -> Result<bool> {
        let mut drafted = renamed || masked;
        if drafted {
            let (key, value) = (renamed.then_some(&pass.key[..]), masked.then_some(&pass.value[..]));
            draft.body(|out| self.source.rewrite(row, key, value, out))?;
        }
        if let Some(from) = row.from {
            pass.key.clear();
            if self.filter.rename(from, &mut pass.key)? {
                draft.from(&pass.key);
                drafted = true;
            }
        }
        Ok(drafted)
    }

    /// Whether a row of the sink can be in the image.
    pub(super) fn holds(&self, row: Row<'_>, pass: &mut Pass) -> Result<bool> {
        match self.filter.say_of_image(row.key, &mut pass.key) {
            None | Some(Say::Leave(_)) => Ok(false),
            Some(Say::Take) => Ok(true),
            Some(Say::TakeUnlessItExpires) => Ok(self.sink.expires(row)? != Some(true)),
        }
    }
}

fn cleared() -> Error {
    Error::position_lost(
        "follow the source: it was emptied at one stroke (TRUNCATE), and a filter leaves things at the sink that are not \
         to be removed with it",
    )
}

fn unknown_row() -> Error {
    Error::rejected(
        "filter a change of the source: it does not say what a rule must know of the row; have the source log whole rows \
         (alter table kv replica identity full) and make the copy anew",
    )
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
