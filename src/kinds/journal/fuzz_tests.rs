//! Histories made by chance, damaged by chance: whatever is given out was written, in order and without a hole, and nothing
//! that was durable is missing without a word. Each case comes from its seed; `DRIFTLESS_JOURNAL_CASES` runs more of them,
//! from a seed on that `DRIFTLESS_JOURNAL_SEED` says.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::faulty::Faulty;
use super::format::{FRAME, segment_name};
use super::segment::segments;
use super::tests::{LINEAGE, disk, keys};
use super::*;
use crate::error::{Error, Fault};
use crate::model::{Batch, Op, PartitionId, Position, Steps, Table};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.roll(all.len()))
    }
}

/// What somebody who reads sees, whatever pieces it comes in: a line for each change, mark and note.
fn lines(out: &mut Vec<String>, given: &Given, batch: &Batch) {
    match given {
        Given::Note(note) => out.push(format!("{note:?}")),
        Given::End | Given::Torn(_) => {}
        Given::Run | Given::Page(_) => {
            for index in 0..=batch.len() {
                for mark in batch.marks().iter().filter(|mark| mark.changes == index) {
                    out.push(format!("{given:?} {} mark {}", batch.partition, mark.upto));
                }
                if index < batch.len() {
                    out.push(format!("{given:?} {} {} {:?}", batch.partition, batch.position(index), batch.row(index)));
                }
            }
        }
    }
}

/// A journal, all that was written to it, and how much of that is durable.
struct History {
    disk: Faulty,
    /// As it was at some time on the way.
    older: Faulty,
    wrote: Vec<String>,
    settled: usize,
    segment_bytes: u64,
    key: Option<u8>,
}

fn options(segment_bytes: u64, key: Option<u8>, salts: u64) -> Options {
    let mut dice = Dice(salts);
    let salt = move || std::array::from_fn(|_| dice.roll(256) as u8);
    Options { segment_bytes, keys: keys(key), salt: Box::new(salt), ..Options::new(LINEAGE) }
}

/// A batch that goes on where its partition is, with any changes and marks.
fn batch(dice: &mut Dice, number: usize, at: Position) -> Batch {
    let mut batch = Batch::unpooled();
    let mut boundary: usize = std::str::from_utf8(at.boundary().unwrap()).unwrap().parse().unwrap_or(0);
    batch.begin(&PartitionId::new(format!("p{number}")), at, Steps::Ordinal);
    for _ in 0..dice.roll(6) {
        let name = format!("t{}", dice.roll(3));
        let table = batch.table(&Arc::new(Table { name, shape: vec![7; dice.roll(3)] }));
        let op = [Op::Put, Op::Patch, Op::Delete, Op::Clear][dice.roll(4)];
        let body: Vec<u8> = vec![dice.roll(256) as u8; dice.roll(60)];
        let time = dice.roll(1000) as i64;
        batch.push_moved(
            op,
            dice.roll(2) == 0,
            table,
            &[dice.roll(9) as u8],
            &body,
            (dice.roll(4) == 0).then_some(b"f"),
            time,
        );
        if dice.roll(3) == 0 {
            boundary += 1 + dice.roll(3);
            batch.mark(Position::at(format!("{boundary:06}")));
        }
    }
    if dice.roll(3) == 0 {
        boundary += 1;
        batch.mark(Position::at(format!("{boundary:06}")));
    }
    batch
}

fn write(dice: &mut Dice) -> History {
    let (disk, mut older) = (Faulty::default(), Faulty::default());
    let key = [None, Some(7), Some(8)][dice.roll(3)];
    let segment_bytes = 200 + dice.roll(3000) as u64;
    let frame_bytes = 1 + dice.roll(500);
    let pack = [Pack::Never, Pack::Always, Pack::WherePays][dice.roll(3)];
    let salts = dice.roll(usize::MAX) as u64;
    let opens = |n: u64| Options { frame_bytes, pack, ..options(segment_bytes, key, salts.wrapping_add(n)) };
    let mut writer = Writer::open(Arc::new(disk.clone()), opens(0)).unwrap().0;
    let (mut wrote, mut settled, mut snapshot) = (Vec::new(), 0, None);
    let until = 10 + dice.roll(40);
    for step in 0..until as u64 {
        let number = dice.roll(3);
        let partition = PartitionId::new(format!("p{number}"));
        match dice.roll(20) {
            0..10 => {
                let batch = batch(dice, number, writer.reached().get(&partition).clone());
                writer.append(&batch, 0).unwrap();
                lines(&mut wrote, &Given::Run, &batch);
            }
            10 => {
                let head = writer.reached();
                let id = writer.begin_snapshot(&head, 5).unwrap();
                snapshot = Some(id);
                lines(&mut wrote, &Given::Note(Note::Began { snapshot: id, at: 5, head }), &Batch::unpooled());
            }
            11 | 12 if snapshot.is_some() => {
                let id = snapshot.unwrap();
                let mut batch = batch(dice, 9, Position::Start);
                batch.steps = Steps::Key;
                writer.append_page(id, &batch, 0).unwrap();
                lines(&mut wrote, &Given::Page(id), &batch);
            }
            13 if snapshot.is_some() => {
                let (id, head) = (snapshot.take().unwrap(), writer.reached());
                writer.end_snapshot(id, &head, true, 6).unwrap();
                let note = Note::Ended { snapshot: id, at: 6, whole: true, head };
                lines(&mut wrote, &Given::Note(note), &Batch::unpooled());
            }
            14 => {
                let lost = [(partition.clone(), writer.reached().get(&partition).clone())].into_iter().collect();
                writer.gap(&[partition], "by chance", 7).unwrap();
                snapshot = None;
                let note = Note::Gap { at: 7, why: "by chance".into(), lost };
                lines(&mut wrote, &Given::Note(note), &Batch::unpooled());
            }
            15 => {
                writer.commit().unwrap();
                drop(writer);
                writer = Writer::open(Arc::new(disk.clone()), opens(step + 1)).unwrap().0;
                snapshot = None;
                older = disk.copy();
                settled = wrote.len();
            }
            _ => {
                writer.commit().unwrap();
                settled = wrote.len();
            }
        }
    }
    if dice.roll(4) > 0 {
        writer.commit().unwrap();
        settled = wrote.len();
    } else {
        // Written, but no fsync says that it is durable.
        disk.fail(true);
        drop(writer.commit());
        disk.fail(false);
    }
    History { disk, older, wrote, settled, segment_bytes, key }
}

/// Everything from a reader on, and how it ended.
fn read(mut reader: Reader, dice: &mut Dice) -> (Vec<String>, Result<Given, Error>) {
    let mut out = Vec::new();
    loop {
        let mut batch = Batch::unpooled();
        match reader.next(&mut batch, dice.roll(200), u64::MAX) {
            Ok(given) if !matches!(given, Given::End | Given::Torn(_)) => lines(&mut out, &given, &batch),
            end => return (out, end),
        }
    }
}

/// How many lines stand before each frame.
fn starts(history: &History) -> BTreeMap<u64, usize> {
    let mut reader = Reader::at_beginning(disk(&history.disk), keys(None)).unwrap();
    let (mut out, mut starts) = (Vec::new(), BTreeMap::from([(1, 0)]));
    loop {
        let mut batch = Batch::unpooled();
        match reader.next(&mut batch, usize::MAX, u64::MAX).unwrap() {
            Given::End | Given::Torn(_) => break,
            given => {
                let before = out.len();
                lines(&mut out, &given, &batch);
                starts.entry(reader.sequence()).or_insert(before);
                starts.insert(reader.sequence() + 1, out.len());
            }
        }
    }
    // What no fsync came back for is there or not.
    assert!(out.len() >= history.settled && history.wrote.starts_with(&out), "nothing is damaged yet");
    starts
}

/// Where frames begin in a segment.
fn borders(bytes: &[u8]) -> Vec<usize> {
    bytes.windows(4).enumerate().filter(|(_, window)| *window == b"dlf1").map(|(at, _)| at).collect()
}

/// Does one thing to the files that nobody should; says what.
fn damage(disk: &Faulty, older: &Faulty, dice: &mut Dice) -> String {
    let firsts = segments(disk).unwrap();
    let Some(first) = dice.pick(&firsts) else { return "nothing is left".into() };
    let name = segment_name(*first);
    let mut bytes = disk.bytes(&name);
    if bytes.is_empty() {
        return "nothing is left in it".into();
    }
    let at = dice.roll(bytes.len());
    let to = at + dice.roll(bytes.len() - at) + usize::from(at < bytes.len());
    let frames = borders(&bytes);
    let what = dice.roll(12);
    match what {
        0 => bytes.truncate(at),
        1 => bytes.truncate(dice.pick(&frames).copied().unwrap_or(at)),
        2 => bytes[at] ^= 1 << dice.roll(8),
        3 => bytes[at..to].fill(dice.roll(2) as u8),
        4 => move_frame(&mut bytes, &frames, dice),
        5 => {
            let garbage: Vec<u8> = (0..1 + dice.roll(3 * FRAME)).map(|_| dice.roll(256) as u8).collect();
            bytes.extend(garbage);
        }
        6 => {
            let other = segment_name(*dice.pick(&firsts).unwrap());
            let theirs = disk.bytes(&other);
            disk.put(&other, bytes);
            bytes = theirs;
        }
        7 => {
            // A segment under a name that it does not have.
            let wrong = segment_name(1 + dice.roll(30) as u64);
            disk.put(&wrong, bytes.clone());
        }
        8 => {
            disk.remove(&name).unwrap();
            return format!("{what} {name}");
        }
        9 => match dice.pick(&segments(older).unwrap()).map(|first| segment_name(*first)) {
            Some(old) => {
                disk.put(&old, older.bytes(&old));
                return format!("{what} {old}");
            }
            None => return "there is nothing older".into(),
        },
        10 => {
            let piece = bytes[at..to].to_vec();
            let place = dice.roll(bytes.len());
            bytes.splice(place..place, piece);
        }
        _ => return damage_mark(disk, older, dice),
    }
    disk.put(&name, bytes);
    format!("{what} {name} {at}..{to}")
}

/// A frame is gone, or stands twice.
fn move_frame(bytes: &mut Vec<u8>, frames: &[usize], dice: &mut Dice) {
    let index = dice.roll(frames.len());
    let Some(begin) = frames.get(index).copied() else { return };
    let end = frames.get(index + 1).copied().unwrap_or(bytes.len());
    let frame: Vec<u8> = bytes.drain(begin..end).collect();
    if dice.roll(2) == 0 {
        bytes.splice(begin..begin, frame.repeat(2));
    }
}

fn damage_mark(disk: &Faulty, older: &Faulty, dice: &mut Dice) -> String {
    let has = |disk: &Faulty| disk.names().unwrap().contains(&"mark".to_owned());
    if !has(disk) {
        return "no mark".into();
    }
    match dice.roll(3) {
        0 => disk.remove("mark").unwrap(),
        1 if has(older) => disk.put("mark", older.bytes("mark")),
        _ => {
            let mut mark = disk.bytes("mark");
            mark[dice.roll(36)] ^= 1 << dice.roll(8);
            disk.put("mark", mark);
        }
    }
    "mark".into()
}

/// What must hold of a damaged journal. `marked`: the mark is as it was.
fn judge(history: &History, disk: &Faulty, starts: &BTreeMap<u64, usize>, marked: bool, dice: &mut Dice) {
    let wrote = &history.wrote;
    let handle: Arc<dyn Disk> = Arc::new(disk.clone());
    let oldest = segments(disk).unwrap().first().copied().unwrap_or(1);
    let start = starts.get(&oldest).copied();
    let (given, end) = read(Reader::at_beginning(Arc::clone(&handle), keys(None)).unwrap(), dice);
    let expected = start.map_or(&[][..], |start| &wrote[start..]);
    assert!(given.len() <= expected.len() && given == expected[..given.len()], "what is given was written");
    if let Ok(end) = &end {
        let reached = start.map_or(0, |start| start + given.len());
        assert!(reached >= history.settled || !marked, "{reached} of {} were read, then {end:?}", history.settled);
    }
    let verified = verify(&handle, &keys(None), u64::MAX).unwrap();
    assert_eq!(verified.damage.is_empty(), end.is_ok(), "{:?}, {end:?}", verified.damage);
    let from = 1 + dice.roll(starts.len()) as u64;
    if let Ok(reader) = Reader::at_sequence(Arc::clone(&handle), keys(None), from) {
        let (given, _) = read(reader, dice);
        let start = starts.get(&from).copied().unwrap_or(wrote.len());
        assert!(wrote[start..].starts_with(&given), "from {from}");
    }
    reopen(history, disk, starts, dice);
}

/// A writer goes on with what is sound at the end, or refuses.
fn reopen(history: &History, disk: &Faulty, starts: &BTreeMap<u64, usize>, dice: &mut Dice) {
    let options = || options(history.segment_bytes, history.key, 4711);
    let handle: Arc<dyn Disk> = Arc::new(disk.clone());
    if let Err(error) = Writer::open(Arc::clone(&handle), options()) {
        assert_eq!(error.fault(), Fault::Corrupt, "{error}");
    }
    let cut = Options { on_damage: OnDamage::Cut, ..options() };
    let (writer, found) = Writer::open(Arc::clone(&handle), cut).unwrap();
    let mut more = Batch::unpooled();
    more.begin(&PartitionId::new("p77"), Position::Start, Steps::Ordinal);
    more.mark(Position::at("1"));
    writer.append(&more, 0).unwrap();
    writer.commit().unwrap();
    let mut added = Vec::new();
    lines(&mut added, &Given::Run, &more);
    let oldest = segments(disk).unwrap()[0];
    let (given, end) = read(Reader::at_beginning(handle, keys(None)).unwrap(), dice);
    let Some(start) = starts.get(&oldest).copied() else {
        assert!(end.is_err() || given == added, "{given:?}");
        return;
    };
    match end {
        Ok(end) => {
            let last = starts.get(&(found.last + 1)).copied().unwrap_or(start);
            assert_eq!(end, Given::End);
            assert!(given == [&history.wrote[start..last.max(start)], &added[..]].concat(), "up to {}", found.last);
        }
        Err(error) => {
            assert_eq!(error.fault(), Fault::Corrupt, "{error}");
            assert!(history.wrote[start..].starts_with(&given));
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn whatever_is_done_to_the_files_nothing_wrong_is_given_out_and_nothing_durable_is_missing_in_silence() {
    /// LIMIT: histories, and damages to each; a few seconds in a debug build.
    const HISTORIES: u64 = 150;
    const DAMAGES: u64 = 25;
    let first = number("DRIFTLESS_JOURNAL_SEED").unwrap_or(1);
    let histories = number("DRIFTLESS_JOURNAL_CASES").map_or(HISTORIES, |cases| cases.div_ceil(DAMAGES));
    for seed in first..first + histories {
        let mut dice = Dice(seed);
        let history = write(&mut dice);
        let starts = starts(&history);
        for case in 0..DAMAGES {
            let disk = history.disk.copy();
            let done: Vec<String> = (0..1 + dice.roll(3)).map(|_| damage(&disk, &history.older, &mut dice)).collect();
            let marked = !done.iter().any(|what| what == "mark");
            let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                judge(&history, &disk, &starts, marked, &mut dice);
            }));
            assert!(judged.is_ok(), "DRIFTLESS_JOURNAL_SEED={seed} case {case}: {done:?}");
        }
    }
}
