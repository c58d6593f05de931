//! Cutting Teleport's keys into parts of about the same number of keys, by looking at few of them.
//!
//! DynamoDB counts no keys without reading their items. So the keys are looked at as a tree of their characters, and a branch
//! is *heavy* if it holds more keys than one look shows. Heavy branches are split, those with the shortest beginning in
//! common first, until there are several for each part; all that are left count the same. No item is read whole.

use std::collections::VecDeque;
use std::future::Future;

use crate::error::Result;

/// LIMIT: keys of one look, which costs what a small page does.
pub const LOOK: usize = 200;
/// Branches for each part: the more there are, the less they differ.
const BRANCHES: usize = 8;
/// LIMIT: looks for one cut, some seconds in all.
const LOOKS: usize = 1_000;

/// Keys that begin with the same characters.
struct Branch {
    first: String,
    /// What they all lie before.
    end: String,
    /// Characters that they have in common.
    depth: usize,
    /// How many were seen.
    count: usize,
}

impl Branch {
    fn heavy(&self) -> bool {
        self.count >= LOOK
    }
}

/// The first keys of the second and each later part of the keys from `from` up to `end`. `ask` gives the first keys of a
/// range, at most so many.
pub async fn cuts<F>(
    from: &str,
    end: &str,
    parts: usize,
    ask: impl Fn(String, String, usize) -> F,
) -> Result<Vec<String>>
where
    F: Future<Output = Result<Vec<String>>>,
{
    let seen = if parts > 1 { ask(from.to_owned(), end.to_owned(), LOOK).await? } else { Vec::new() };
    let Some(first) = seen.first() else { return Ok(Vec::new()) };
    let mut left = LOOKS;
    let whole = Branch { first: first.clone(), end: end.to_owned(), depth: 0, count: seen.len() };
    let (mut open, mut closed) = (VecDeque::from([whole]), Vec::new());
    while let Some(branch) = open.pop_front() {
        if branch.heavy() && left > 0 && open.len() < parts.saturating_mul(BRANCHES) {
            for inner in branches(branch, &mut left, &ask).await? {
                if inner.heavy() { open.push_back(inner) } else { closed.push(inner) }
            }
        } else {
            closed.push(branch);
        }
    }
    closed.sort_unstable_by(|a, b| a.first.cmp(&b.first));
    let total: usize = closed.iter().map(|branch| branch.count).sum();
    let part = total.div_ceil(parts).max(1);
    let (mut cuts, mut passed) = (Vec::new(), 0);
    for branch in closed {
        if passed >= part * (cuts.len() + 1) && cuts.len() + 1 < parts {
            cuts.push(branch.first);
        }
        passed += branch.count;
    }
    Ok(cuts)
}

/// The branches of a branch, by the character behind what its keys have in common, in order.
async fn branches<F>(whole: Branch, left: &mut usize, ask: &impl Fn(String, String, usize) -> F) -> Result<Vec<Branch>>
where
    F: Future<Output = Result<Vec<String>>>,
{
    let mut found = Vec::new();
    let mut first = whole.first;
    loop {
        let next = behind(&first, whole.depth);
        let ended = next >= whole.end || *left == 0;
        let beyond = if ended {
            None
        } else {
            *left -= 1;
            ask(next.clone(), whole.end.clone(), 1).await?.into_iter().next()
        };
        let end = if beyond.is_some() { next } else { whole.end.clone() };
        let count = if *left == 0 {
            LOOK
        } else {
            *left -= 1;
            ask(first.clone(), end.clone(), LOOK).await?.len()
        };
        found.push(Branch { first, end, depth: whole.depth + 1, count });
        let Some(beyond) = beyond else { return Ok(found) };
        first = beyond;
    }
}

/// What every key that begins with the first characters of this one, up to and with that at `depth`, lies before.
fn behind(key: &str, depth: usize) -> String {
    let Some((at, last)) = key.char_indices().nth(depth) else {
        // The key that all others of its branch begin with.
        return format!("{key}\0");
    };
    let head = key.get(..at).unwrap_or_default();
    // Surrogates are no characters.
    let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
    next.map_or_else(|| format!("{head}{last}{}", char::MAX), |next| format!("{head}{next}"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use super::*;

    fn cut(keys: &BTreeSet<String>, parts: usize) -> (Vec<usize>, usize) {
        let asked = Cell::new(0);
        let ask = |from: String, end: String, most: usize| {
            asked.set(asked.get() + 1);
            let found: Vec<_> = keys.range(from..end).take(most).cloned().collect();
            async move { Ok(found) }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cuts = runtime.block_on(cuts("t", "u", parts, ask)).unwrap();
        assert!(cuts.is_sorted() && cuts.len() < parts.max(1));
        let begins = std::iter::once("t".to_owned()).chain(cuts.iter().cloned());
        let ends = cuts.iter().cloned().chain(["u".to_owned()]);
        let sizes: Vec<_> = begins.zip(ends).map(|(from, end)| keys.range(from..end).count()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), keys.len(), "together they hold every key");
        (sizes, asked.get())
    }

    #[test]
    fn parts_are_of_similar_size_and_few_looks_are_taken() {
        let nodes = (0..40_000u32).map(|n| format!("t/nodes/default/{:08x}", n.wrapping_mul(2_654_435_761)));
        let rest = (0..300).map(|n| format!("t/web/users/user-{n}/pwd"));
        let keys: BTreeSet<_> = nodes.chain(rest).collect();
        for parts in [2, 4, 16] {
            let (sizes, asked) = cut(&keys, parts);
            assert_eq!(sizes.len(), parts);
            let most = *sizes.iter().max().unwrap();
            assert!(most <= 2 * 40_300 / parts, "{parts}: {sizes:?}");
            assert!(asked <= LOOKS + 1, "{parts}: {asked}");
        }
    }

    #[test]
    fn odd_sets_of_keys_are_cut_without_losing_one() {
        let max = char::MAX;
        for keys in [
            vec![],
            vec!["t".to_owned()],
            vec!["t".into(), "t\0".into(), "t\0\0".into()],
            vec![format!("t{max}"), format!("t{max}{max}"), "t\u{d7ff}".into(), "t\u{e000}".into()],
        ] {
            let keys: BTreeSet<_> = keys.into_iter().collect();
            for parts in 1..5 {
                cut(&keys, parts);
            }
        }
        let many: BTreeSet<_> = (0..999).map(|n| format!("t{}", "x".repeat(n))).collect();
        cut(&many, 8);
        assert_eq!(cut(&many, 1).1, 0);
    }
}
