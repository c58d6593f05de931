//! The lineage by itself, over seeds.

use std::collections::BTreeMap;

use super::super::chance::Chance;
use super::super::options::Options;
use super::super::table::{Key, Scalar, Schema};
use super::*;

fn schema() -> Schema {
    super::super::table::tests_schema("id")
}

fn stream(options: &Options, chance: &mut Chance) -> Stream {
    Stream::new("arn:aws:dynamodb:x:0:table/t/stream/s".into(), "t", schema(), "NEW_IMAGE", 1_000_000, options, chance)
}

fn change(n: u64) -> Change {
    let key = Key { hash: Scalar::S(format!("k{n}")), range: None };
    let item = schema().item(&key);
    Change { token: key.shard_token(), keys: item.clone(), old: None, new: Some(Arc::new(item)), by_service: false }
}

#[test]
fn open_shards_cover_every_hash_once_whatever_was_split() {
    for seed in 0..50 {
        let options = Options { shards: 3, rotate_every_seconds: 60, split_permille: 400, seed, ..Options::default() };
        let mut chance = Chance::new(seed);
        let mut stream = stream(&options, &mut chance);
        for minute in 1..30 {
            stream.rotate_due(1_000_000 + minute * 60_000, &options, &mut chance);
            let mut open: Vec<(u64, u64)> = stream.shards.iter().filter(|s| s.is_open()).map(|s| s.range).collect();
            open.sort_unstable();
            assert_eq!((open[0].0, open[open.len() - 1].1), (0, u64::MAX));
            assert!(open.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "seed {seed}");
        }
    }
}

#[test]
fn a_key_is_in_order_along_the_lineage() {
    let options = Options { shards: 2, rotate_every_seconds: 60, split_permille: 300, ..Options::default() };
    let mut chance = Chance::new(7);
    let mut stream = stream(&options, &mut chance);
    let mut written: BTreeMap<String, u64> = BTreeMap::new();
    for step in 0..3000 {
        let now = 1_000_000 + step * 1000;
        stream.rotate_due(now, &options, &mut chance);
        *written.entry(format!("k{}", step % 17)).or_default() += 1;
        stream.append(change(step % 17), now, &options, &mut chance);
    }
    for shard in &stream.shards {
        assert!(shard.records.iter().all(|record| shard.covers(record.sequence)));
        let parent = shard.parent.as_ref().map(|id| stream.shard(id).unwrap());
        assert!(
            parent.is_none_or(|p| p.closed.unwrap().sequence < shard.start && p.closed.unwrap().at <= shard.opened)
        );
    }
    assert_eq!(stream.shards.iter().map(|s| s.records.len()).sum::<usize>(), 3000);
    assert_eq!(written.values().sum::<u64>(), stream.written);
}

#[test]
fn records_are_seen_late_but_never_out_of_order() {
    let options = Options { late_milliseconds: 5000, ..Options::default() };
    let mut chance = Chance::new(3);
    let mut stream = stream(&options, &mut chance);
    for n in 0..500 {
        stream.append(change(n), 1_000_000 + n, &options, &mut chance);
    }
    let shard = &stream.shards[0];
    assert!(shard.records.iter().zip(shard.records.iter().skip(1)).all(|(a, b)| a.visible <= b.visible));
    assert!(shard.records.iter().any(|record| record.visible > record.at + 1000));
}

#[test]
fn what_is_older_than_the_retention_is_gone() {
    let options = Options { rotate_every_seconds: 3600, ..Options::default() };
    let mut chance = Chance::new(1);
    let mut stream = stream(&options, &mut chance);
    let hour = 3_600_000;
    stream.append(change(1), 1_000_000, &options, &mut chance);
    stream.rotate_due(1_000_000 + hour, &options, &mut chance);
    stream.append(change(2), 1_000_000 + hour, &options, &mut chance);
    stream.trim(1_000_000 + 24 * hour, &options);
    assert_eq!((stream.shards.len(), stream.shards[0].records.len()), (2, 0));
    assert!(stream.shards[0].trimmed.is_some());
    stream.trim(1_000_000 + 25 * hour, &options);
    assert_eq!((stream.shards.len(), stream.shards[0].records.len()), (1, 0));
    assert!(stream.shards[0].parent.is_some(), "a parent that is gone is still named");
}

#[test]
fn a_listing_may_be_wrong_for_a_while_and_is_right_after_the_lag() {
    let (mut childless, mut parentless, mut open_parent) = (0, 0, 0);
    for seed in 0..200 {
        let options = Options { tree_lag_milliseconds: 10_000, seed, ..Options::default() };
        let mut chance = Chance::new(seed);
        let mut stream = stream(&options, &mut chance);
        let first = stream.shards[0].id.clone();
        stream.succeed(&first, seed % 2 == 0, 2_000_000, &options, &mut chance);
        let early = listing(&stream, None, None, 2_003_000, &options);
        let parent = early.iter().find(|view| view.id == first);
        let child = early.iter().any(|view| view.parent.is_some());
        childless += usize::from(parent.is_some_and(|p| p.end.is_some()) && !child);
        parentless += usize::from(parent.is_none() && child);
        open_parent += usize::from(parent.is_some_and(|p| p.end.is_none()) && child);
        let late = listing(&stream, None, None, 2_010_001, &options);
        assert_eq!(late.len(), stream.shards.len());
        assert!(late.iter().find(|view| view.id == first).unwrap().end.is_some());
        let children = listing(&stream, Some(&first), None, 2_010_001, &options);
        assert_eq!(children.len(), stream.shards.len() - 1);
    }
    assert!(childless > 0 && parentless > 0 && open_parent > 0, "{childless} {parentless} {open_parent}");
}

#[test]
fn an_iterator_comes_back_as_it_went_and_an_invented_one_does_not() {
    let token = Token {
        stream: "arn:aws:x/stream/2026-01-01T00:00:00.000".into(),
        shard: "s".into(),
        from: From::After(7),
        issued: 9,
        reader: 3,
    };
    let text = token.text();
    assert_eq!(Token::parse(&text), Some(token));
    assert_eq!(Token::parse(&text.replace("2026", "2027")), None);
    assert_eq!(Token::parse("x"), None);
}

#[test]
fn a_third_reader_within_a_second_is_refused() {
    let mut readers = shard::Readers::default();
    assert!(readers.call(1, 0, 2, 5).is_ok() && readers.call(2, 10, 2, 5).is_ok());
    assert!(readers.call(3, 20, 2, 5).is_err());
    assert!(readers.call(3, 1000, 2, 5).is_ok(), "the first one has not read for a second");
    for n in 0..3 {
        assert!(readers.call(2, 1000 + n, 2, 5).is_ok());
    }
    assert!(readers.call(2, 1005, 2, 5).is_err(), "five calls in a second");
}
