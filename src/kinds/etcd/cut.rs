//! Cutting a range of keys into parts of about the same number of keys, by counting alone.
//!
//! One question gives the number of keys of a range and the first of them. So the keys are looked at as a tree of their
//! bytes: a branch that holds more than a part should is asked for its branches. No value is read, and few keys.

use std::future::Future;

use super::layout::after_all;
use crate::error::Result;

/// LIMIT: questions for one cut. Each costs the server a walk over its index in memory, never its disk.
const QUESTIONS: usize = 2_000;

/// Keys that begin with the same bytes.
struct Branch {
    /// The first of them.
    first: Vec<u8>,
    /// What they all lie before.
    end: Vec<u8>,
    /// How many there are.
    count: u64,
    /// How many of their first bytes are the same.
    depth: usize,
}

/// The first keys of the second and each later part of the keys from `from` to `end` (a zero byte: to the last), all of
/// which have their first `depth` bytes in common. `ask` gives the number of keys of a range, and the first one.
pub async fn cuts<F>(
    (from, end): (Vec<u8>, Vec<u8>),
    depth: usize,
    parts: usize,
    ask: impl Fn(Vec<u8>, Vec<u8>) -> F,
) -> Result<Vec<Vec<u8>>>
where
    F: Future<Output = Result<(u64, Option<Vec<u8>>)>>,
{
    let (total, first) = ask(from, end.clone()).await?;
    let (Some(first), true) = (first, parts > 1) else { return Ok(Vec::new()) };
    let part = total.div_ceil(parts as u64).max(1);
    let mut left = QUESTIONS;
    let mut open = vec![Branch { first, end, count: total, depth }];
    let (mut cuts, mut passed) = (Vec::new(), 0);
    while let Some(branch) = open.pop() {
        if branch.count > part.div_ceil(2) && branch.count > 1 && left > 0 {
            let mut inner = branches(branch, &mut left, &ask).await?;
            inner.reverse();
            open.extend(inner);
            continue;
        }
        if passed >= part * (cuts.len() as u64 + 1) && cuts.len() + 1 < parts {
            cuts.push(branch.first);
        }
        passed += branch.count;
    }
    Ok(cuts)
}

/// The branches of a branch, by the byte behind what its keys have in common, in order.
async fn branches<F>(whole: Branch, left: &mut usize, ask: &impl Fn(Vec<u8>, Vec<u8>) -> F) -> Result<Vec<Branch>>
where
    F: Future<Output = Result<(u64, Option<Vec<u8>>)>>,
{
    let mut found = Vec::new();
    let (mut first, mut remaining) = (whole.first, whole.count);
    loop {
        let next = match first.get(..=whole.depth) {
            Some(head) => after_all(head),
            // The key that all others begin with.
            None => [&first[..], b"\0"].concat(),
        };
        let ended = next == b"\0" || (whole.end != b"\0" && next >= whole.end);
        let (behind, key) = if ended || *left == 0 {
            (0, None)
        } else {
            *left -= 1;
            ask(next.clone(), whole.end.clone()).await?
        };
        let end = if key.is_some() { next } else { whole.end.clone() };
        // Keys come and go while they are counted.
        let count = remaining.saturating_sub(behind);
        found.push(Branch { first, end, count, depth: whole.depth + 1 });
        let Some(key) = key else { return Ok(found) };
        (first, remaining) = (key, behind);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use super::*;

    /// The cuts of a set of keys, the sizes of the parts, and how many questions it took.
    fn cut(keys: &BTreeSet<Vec<u8>>, from: &[u8], end: &[u8], parts: usize) -> (Vec<Vec<u8>>, Vec<usize>, usize) {
        let asked = Cell::new(0);
        let range = |from: &[u8], end: &[u8]| {
            let end = if end == b"\0" { Bound::Unbounded } else { Bound::Excluded(end.to_vec()) };
            keys.range((Bound::Included(from.to_vec()), end)).cloned().collect::<Vec<_>>()
        };
        let ask = |from: Vec<u8>, end: Vec<u8>| {
            asked.set(asked.get() + 1);
            let found = range(&from, &end);
            async move { Ok((found.len() as u64, found.first().cloned())) }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cuts = runtime.block_on(cuts((from.to_vec(), end.to_vec()), 0, parts, ask)).unwrap();
        assert!(cuts.is_sorted() && cuts.len() < parts.max(1));
        let begins = std::iter::once(from.to_vec()).chain(cuts.iter().cloned());
        let ends = cuts.iter().cloned().chain([end.to_vec()]);
        let sizes: Vec<_> = begins.zip(ends).map(|(from, end)| range(&from, &end).len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), range(from, end).len(), "together they hold every key");
        (cuts, sizes, asked.get())
    }

    #[test]
    fn parts_are_of_similar_size_and_few_questions_are_asked() {
        let nodes =
            (0..20_000u32).map(|n| format!("/t//nodes/default/{:08x}", n.wrapping_mul(2_654_435_761)).into_bytes());
        let rest = (0..5_000).map(|n| format!("/t//web/users/user-{n}/pwd").into_bytes());
        let keys: BTreeSet<_> = nodes.chain(rest).collect();
        for parts in [2, 4, 16, 64] {
            let (_, sizes, asked) = cut(&keys, b"/t/.", b"/t/0", parts);
            assert_eq!(sizes.len(), parts);
            let most = *sizes.iter().max().unwrap();
            assert!(most <= 2 * 25_000 / parts, "{parts}: {sizes:?}");
            assert!(asked < 120 * parts, "{parts}: {asked} questions");
        }
    }

    #[test]
    fn odd_sets_of_keys_are_cut_without_losing_one() {
        let set = |keys: &[&[u8]]| -> BTreeSet<Vec<u8>> { keys.iter().map(|key| key.to_vec()).collect() };
        for keys in [
            set(&[]),
            set(&[b"a"]),
            set(&[b"a", b"a\0", b"a\0\0"]),
            set(&[b"\xff", b"\xff\xff", b"\xff\xff\xff"]),
            set(&[b"k", b"ka", b"kb", b"kba", b"kbb", b"l"]),
        ] {
            for parts in 1..6 {
                let (cuts, ..) = cut(&keys, b"\0", b"\0", parts);
                assert!(cuts.len() < keys.len().max(1));
            }
        }
        let (cuts, sizes, _) = cut(&set(&[b"k", b"ka", b"kb", b"kc"]), b"\0", b"\0", 2);
        assert_eq!((cuts, sizes), (vec![b"kb".to_vec()], vec![2, 2]));
        let (cuts, _, asked) = cut(&set(&[b"k", b"ka", b"kb", b"kc"]), b"\0", b"\0", 1);
        assert_eq!((cuts.len(), asked), (0, 1));
    }
}
