//! Cuts, flipped bits, missing files, full and failing disks, power losses: what is given out was written, and what is not
//! is named.

use std::sync::Arc;

use proptest::prelude::*;

use super::faulty::Faulty;
use super::format::segment_name;
use super::mark::{Mark, MarkFile};
use super::segment::segments;
use super::tests::*;
use super::*;
use crate::error::Fault;

#[test]
fn a_cut_anywhere_in_what_was_durable_is_damage_while_the_mark_is_there() {
    for current in [None, Some(7)] {
        let faulty = Faulty::default();
        let wrote = simple(&faulty, 6, options(1 << 20, current));
        let name = segment_name(1);
        let whole = faulty.bytes(&name);
        for length in 0..whole.len() {
            faulty.put(&name, whole[..length].to_vec());
            let (read, end) = all(&faulty);
            assert_eq!(read, wrote[..read.len()], "cut at {length}");
            let error = end.unwrap_err();
            assert!(error.fault() == Fault::Corrupt && error.to_string().contains(&name), "cut at {length}: {error}");
            let refused = Writer::open(disk(&faulty), options(1 << 20, current)).err().unwrap();
            assert_eq!(refused.fault(), Fault::Corrupt, "cut at {length}");
        }
    }
}

/// Without the mark, as after a power loss, a cut looks like a write that was under way.
#[test]
fn a_cut_anywhere_in_the_newest_segment_leaves_a_prefix_and_is_said() {
    for current in [None, Some(7)] {
        let faulty = Faulty::default();
        let wrote = simple(&faulty, 6, options(1 << 20, current));
        let name = segment_name(1);
        let whole = faulty.bytes(&name);
        let mut most = 0;
        for length in 0..=whole.len() {
            faulty.put(&name, whole[..length].to_vec());
            mark::Mark::remove(&faulty).unwrap();
            let (read, end) = all(&faulty);
            assert_eq!(read, wrote[..read.len()], "cut at {length}");
            let torn = match end.unwrap() {
                Given::Torn(cut) => {
                    assert_eq!((cut.segment.as_str(), cut.at + cut.bytes), (name.as_str(), length as u64));
                    Some(cut)
                }
                other => {
                    assert_eq!(other, Given::End);
                    None
                }
            };
            most = most.max(read.len());
            // A writer that opens it says the same, goes on from there, and nothing of the torn piece comes back.
            let (_, found) = Writer::open(disk(&faulty), options(1 << 20, current)).unwrap();
            assert_eq!((found.last as usize, found.cut), (read.len(), torn));
            let more = simple(&faulty, 1, options(1 << 20, current));
            let (again, end) = all(&faulty);
            assert_eq!(again, [&read[..], &more[..]].concat(), "cut at {length}");
            assert_eq!(end.unwrap(), Given::End);
            for newer in segments(&faulty).unwrap().iter().filter(|first| **first > 1) {
                faulty.remove(&segment_name(*newer)).unwrap();
            }
        }
        assert_eq!(most, wrote.len());
    }
}

#[test]
fn each_flipped_bit_is_found_and_never_given_out() {
    for current in [None, Some(7)] {
        let faulty = Faulty::default();
        let wrote = simple(&faulty, 6, options(500, current));
        let firsts = segments(&faulty).unwrap();
        assert!(firsts.len() > 1, "{firsts:?}");
        for first in &firsts {
            let name = segment_name(*first);
            let whole = faulty.bytes(&name);
            for bit in 0..whole.len() * 8 {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                faulty.put(&name, flipped);
                let (read, end) = all(&faulty);
                assert_eq!(read, wrote[..read.len()], "bit {bit} of {name}");
                let error = end.unwrap_err();
                assert!(error.to_string().contains(&name), "bit {bit} of {name}: {error}");
            }
            faulty.put(&name, whole);
        }
        assert_eq!(all(&faulty).0, wrote);
    }
}

/// After a power loss that took the mark: what a later frame calls settled is damage, not a torn tail.
#[test]
fn a_flipped_bit_is_found_without_the_mark_wherever_a_later_frame_was_made() {
    let faulty = Faulty::default();
    let wrote = simple(&faulty, 6, options(1 << 20, None));
    mark::Mark::remove(&faulty).unwrap();
    let name = segment_name(1);
    let whole = faulty.bytes(&name);
    let frames: Vec<usize> = (0..whole.len()).filter(|at| whole[*at..].starts_with(b"dlf1")).collect();
    assert_eq!(frames.len(), 6);
    for at in frames[0]..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 8;
        faulty.put(&name, flipped);
        let (read, end) = all(&faulty);
        assert_eq!(read, wrote[..read.len()], "byte {at}");
        match end {
            Err(error) => assert!(at < frames[5] && error.fault() == Fault::Corrupt, "byte {at}: {error}"),
            Ok(end) => assert!(at >= frames[5] && matches!(end, Given::Torn(_)), "byte {at}: {end:?}"),
        }
    }
}

/// A segment that no writer of ours makes, with these records in a frame each.
fn crafted(faulty: &Faulty, first: u64, previous: format::Salt, frames: &[Vec<u8>]) {
    let head =
        format::SegmentHead { lineage: LINEAGE.into(), first, made: 0, key: None, salt: [first as u8; 16], previous };
    let mut bytes = head.encode().unwrap();
    let mut sealer = frame::Sealer::new(&head, &bytes, &keys(None)).unwrap();
    for (number, records) in (0..).zip(frames) {
        let head = format::FrameHead { sequence: first + number, ..format::FrameHead::default() };
        sealer.seal(records, head, false, &mut bytes);
    }
    faulty.put(&segment_name(first), bytes);
}

fn standing(reached: &[(crate::model::PartitionId, crate::model::Position)]) -> Vec<u8> {
    let reached = reached.iter().cloned().collect();
    let mut out = Vec::new();
    records::encode_standing(&mut out, &records::Standing { reached, ..records::Standing::default() });
    out
}

fn run(batch: &crate::model::Batch) -> Vec<u8> {
    let (mut out, mut tables) = (Vec::new(), records::Tables::default());
    let piece = pieces::Piece::whole(batch);
    records::encode_run(&mut out, &mut tables, &mut records::Span::default(), None, batch, &piece).unwrap();
    out
}

#[test]
fn records_that_do_not_follow_from_each_other_are_damage_whatever_their_checksums_say() {
    let both = |a: Vec<u8>, b: Vec<u8>| [a, b].concat();
    let end = |faulty: &Faulty| all(faulty).1.unwrap_err().to_string();
    let faulty = Faulty::default();
    crafted(&faulty, 1, [0; 16], &[both(standing(&[]), run(&one(0))), run(&one(5))]);
    assert!(end(&faulty).contains("no gap is noted") && end(&faulty).contains("frame 2"), "{}", end(&faulty));
    let faulty = Faulty::default();
    crafted(&faulty, 1, [0; 16], &[both(standing(&[]), run(&one(0)))]);
    crafted(&faulty, 2, [1; 16], &[both(standing(&[(partition(), place(2))]), run(&one(2)))]);
    assert!(end(&faulty).contains("partitions stand elsewhere"), "{}", end(&faulty));
    crafted(&faulty, 2, [1; 16], &[both(standing(&[(partition(), place(1))]), run(&one(1)))]);
    assert_eq!(all(&faulty).1.unwrap(), Given::End, "so it would be right");
    // A segment that does not say where everything stands, and one that says it twice.
    crafted(&faulty, 2, [1; 16], &[run(&one(1))]);
    assert!(end(&faulty).contains("none of its kind"), "{}", end(&faulty));
    crafted(&faulty, 2, [1; 16], &[standing(&[(partition(), place(1))]), standing(&[(partition(), place(1))])]);
    assert!(end(&faulty).contains("none of its kind"), "{}", end(&faulty));
    assert_eq!(verify(&disk(&faulty), &keys(None), u64::MAX).unwrap().damage.len(), 1);
}

#[test]
fn damage_is_told_with_segment_offset_and_sequence_and_again_at_each_call() {
    let faulty = Faulty::default();
    simple(&faulty, 6, options(1 << 20, None));
    let name = segment_name(1);
    let mut bytes = faulty.bytes(&name);
    let second = bytes.windows(5).position(|window| window == b"key 1").unwrap();
    bytes[second] ^= 1;
    faulty.put(&name, bytes);
    let mut reader = Reader::at_beginning(disk(&faulty), keys(None)).unwrap();
    let mut next = || reader.next(&mut crate::model::Batch::unpooled(), usize::MAX, u64::MAX);
    assert_eq!(next().unwrap(), Given::Run);
    let text = next().unwrap_err().to_string();
    assert!(text.contains(&name) && text.contains("at byte ") && text.contains("frame 2 is not"), "{text}");
    assert!(!text.contains("planted"), "{text}");
    assert_eq!(next().unwrap_err().to_string(), text);
}

#[test]
fn a_missing_or_shortened_segment_in_the_middle_is_found() {
    let faulty = Faulty::default();
    simple(&faulty, 12, options(500, None));
    let firsts = segments(&faulty).unwrap();
    assert!(firsts.len() >= 3, "{firsts:?}");
    let name = segment_name(firsts[1]);
    let whole = faulty.bytes(&name);
    for length in 0..whole.len() {
        faulty.put(&name, whole[..length].to_vec());
        assert_eq!(all(&faulty).1.unwrap_err().fault(), Fault::Corrupt, "cut at {length}");
    }
    faulty.remove(&name).unwrap();
    let error = all(&faulty).1.unwrap_err();
    assert!(error.to_string().contains(&format!("frames {} to {}", firsts[1], firsts[2] - 1)), "{error}");
    let verified = verify(&disk(&faulty), &keys(None), u64::MAX).unwrap();
    assert_eq!(verified.damage.len(), 1, "{:?}", verified.damage);
    assert_eq!(verified.changes as usize, 12 - (firsts[2] - firsts[1]) as usize, "what is sound behind it is read");
}

#[test]
fn what_lies_behind_an_old_mark_is_verified_too_and_an_empty_folder_with_a_mark_is_damaged() {
    let faulty = Faulty::default();
    simple(&faulty, 6, options(1 << 20, None));
    let end = Mark::read(&faulty).unwrap();
    MarkFile::default().write(&faulty, Mark { sequence: 2, ..end });
    let (handle, name) = (disk(&faulty), segment_name(1));
    assert_eq!(verify(&handle, &keys(None), 2).unwrap().frames, 2);
    let all = verify_beside(&handle, &keys(None)).unwrap();
    assert_eq!((all.frames, all.changes, all.torn, all.damage.len()), (6, 6, false, 0), "{:?}", all.damage);
    let mut bytes = faulty.bytes(&name);
    let third = bytes.windows(5).position(|window| window == b"key 3").unwrap();
    bytes[third] ^= 1;
    faulty.put(&name, bytes);
    assert_eq!(verify_beside(&handle, &keys(None)).unwrap().damage.len(), 1);
    faulty.remove(&name).unwrap();
    assert_eq!(verify_beside(&handle, &keys(None)).unwrap().damage.len(), 1);
}

#[test]
fn newest_segments_that_are_gone_are_missed() {
    let faulty = Faulty::default();
    simple(&faulty, 12, options(500, None));
    let mut firsts = segments(&faulty).unwrap();
    while let Some(first) = firsts.pop() {
        faulty.remove(&segment_name(first)).unwrap();
        assert_eq!(all(&faulty).1.unwrap_err().fault(), Fault::Corrupt);
        let refused = Writer::open(disk(&faulty), options(500, None)).err().unwrap();
        assert!(refused.to_string().contains("12"), "{refused}");
    }
}

#[test]
fn a_segment_of_an_older_copy_is_not_taken_for_the_one_that_was_there() {
    let options = || Options { salt: Options::new("").salt, ..options(500, None) };
    let faulty = Faulty::default();
    simple(&faulty, 4, options());
    let before = faulty.copy();
    // Two histories from here on, with the same sequences and the same lineage.
    simple(&faulty, 8, options());
    simple(&before, 8, options());
    let firsts = segments(&faulty).unwrap();
    assert_eq!(firsts, segments(&before).unwrap());
    let other = segment_name(firsts[firsts.len() - 2]);
    faulty.put(&other, before.bytes(&other));
    let error = all(&faulty).1.unwrap_err();
    assert!(error.to_string().contains("not the one that was written"), "{error}");
}

#[test]
fn damage_at_the_end_is_cut_off_only_by_whoever_asks_for_it() {
    let faulty = Faulty::default();
    let wrote = simple(&faulty, 12, options(500, None));
    let newest = *segments(&faulty).unwrap().last().unwrap();
    let name = segment_name(newest);
    let whole = faulty.bytes(&name);
    for at in (0..whole.len()).step_by(7) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        let copy = faulty.copy();
        copy.put(&name, flipped);
        assert_eq!(Writer::open(disk(&copy), options(500, None)).err().unwrap().fault(), Fault::Corrupt, "byte {at}");
        let cut = || Options { on_damage: OnDamage::Cut, ..options(500, None) };
        let (_, found) = Writer::open(disk(&copy), cut()).unwrap();
        let damage = found.damage.unwrap();
        assert!(damage.contains(&name), "{damage}");
        assert!(found.last < 12 && found.last >= newest - 1);
        assert_eq!(found.reached.get(&partition()), &place(found.last as u32));
        // What was cut off is read from the source again.
        let again = simple(&copy, 12 - found.last as u32, cut());
        let (read, end) = all(&copy);
        assert_eq!((read, end.unwrap()), (wrote.clone(), Given::End), "byte {at}");
        assert_eq!(again, wrote[found.last as usize..]);
    }
}

/// Full at every place of every write.
#[test]
fn a_full_disk_pauses_and_nothing_is_lost() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(600, Some(7)));
    let mut wrote = Vec::new();
    for round in 0..100 {
        faulty.room(Some(round as usize * 7));
        let batch = one(round);
        let sequence = loop {
            match writer.append(&batch, 0) {
                Ok(sequence) => break sequence,
                Err(error) => assert_eq!(error.fault(), Fault::Transient, "{error}"),
            }
            faulty.room(None);
        };
        wrote.push(seen(&batch));
        for _ in 0..3 {
            if let Err(error) = writer.commit() {
                assert_eq!(error.fault(), Fault::Transient, "{error}");
                assert!(error.to_string().contains("no room"), "{error}");
                assert!(writer.is_paused() && writer.durable() < sequence);
                // What is on the disk meanwhile is sound, and taking goes on.
                assert_eq!(all(&faulty).1.unwrap(), Given::End);
            }
        }
        faulty.room(None);
        assert_eq!(writer.commit().unwrap(), sequence);
        assert!(!writer.is_paused());
    }
    let (read, end) = all(&faulty);
    assert_eq!((read, end.unwrap()), (wrote, Given::End));
}

#[test]
fn a_full_disk_in_the_middle_of_a_group_over_several_segments_writes_nothing_twice() {
    for room in (0..3000).step_by(13) {
        let faulty = Faulty::default();
        let writer = open(&faulty, options(600, None));
        let mut wrote = Vec::new();
        for number in 0..9 {
            writer.append(&one(number), 0).unwrap();
            wrote.push(seen(&one(number)));
            // Frames of their own, so that segments fill.
            if number % 2 == 1 {
                writer.use_keys(keys(None)).unwrap();
            }
        }
        faulty.room(Some(room));
        let first = writer.commit();
        writer.append(&one(9), 0).unwrap();
        wrote.push(seen(&one(9)));
        faulty.room(None);
        writer.commit().unwrap();
        let (read, end) = all(&faulty);
        assert_eq!((read, end.unwrap()), (wrote, Given::End), "room {room}, {first:?}");
        assert_eq!(verify(&disk(&faulty), &keys(None), u64::MAX).unwrap().damage, Vec::<String>::new());
    }
}

#[test]
fn a_failed_fsync_or_write_ends_the_writer_for_good() {
    for fsync in [true, false] {
        let faulty = Faulty::default();
        let writer = open(&faulty, options(1 << 20, None));
        writer.append(&one(0), 0).unwrap();
        writer.commit().unwrap();
        writer.append(&one(1), 0).unwrap();
        if fsync {
            faulty.fail(true)
        } else {
            faulty.break_writes(true)
        }
        assert_eq!(writer.commit().unwrap_err().fault(), Fault::Config);
        faulty.fail(false);
        faulty.break_writes(false);
        let syncs = faulty.syncs();
        assert_eq!(writer.commit().unwrap_err().fault(), Fault::Config);
        let error = writer.append(&one(2), 0).unwrap_err();
        assert!(error.fault() == Fault::Config && error.to_string().contains("start again"), "{error}");
        assert_eq!((faulty.syncs(), writer.durable()), (syncs, 1), "nothing is tried over it");
        assert_eq!(Reader::settled(&faulty), 1);
    }
}

#[test]
fn a_segment_is_named_when_its_head_and_all_before_it_are_durable() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    writer.append(&one(0), 0).unwrap();
    writer.use_keys(keys(None)).unwrap();
    writer.append(&one(1), 0).unwrap();
    writer.commit().unwrap();
    let (first, second) = (segment_name(1), segment_name(2));
    let expected = [
        format!("sync {first}.new"),
        format!("rename {first}"),
        "sync names".to_owned(),
        format!("sync {first}.new"),
        format!("sync {second}.new"),
        format!("rename {second}"),
        "sync names".to_owned(),
        format!("sync {second}.new"),
    ];
    assert_eq!(faulty.log(), expected, "files keep the name under which they were made in this list");
}

proptest! {
    #[test]
    fn a_power_loss_takes_nothing_that_was_durable(
        plans in proptest::collection::vec((plans(), 0u8..4), 1..12),
        segment_bytes in 200u64..2000, mut dice in any::<u64>(), current in proptest::option::of(7u8..9),
        frame_bytes in 1usize..600,
    ) {
        let options = |segment_bytes, current| Options { frame_bytes, ..options(segment_bytes, current) };
        let rows = |runs: &[Vec<String>]| runs.iter().flat_map(|run| run[1..].to_vec()).collect::<Vec<_>>();
        let faulty = Faulty::default();
        let writer = open(&faulty, options(segment_bytes, current));
        let (mut number, mut wrote, mut safe) = (0, Vec::new(), 0);
        for (plan, what) in &plans {
            let batch = batch_of(plan, &mut number);
            writer.append(&batch, 0).unwrap();
            wrote.extend(rows(&[seen(&batch)]));
            if *what == 0 {
                writer.commit().unwrap();
                safe = wrote.len();
            }
        }
        // The last group is written, and its fsync never comes back.
        faulty.fail(true);
        drop(writer.commit());
        faulty.fail(false);
        drop(writer);
        faulty.power_loss(|sides| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33) as usize % sides
        });
        let (read, end) = all(&faulty);
        prop_assert!(end.is_ok(), "{:?}", end);
        let read = rows(&read);
        prop_assert!(read.len() >= safe, "{} of {safe}", read.len());
        prop_assert_eq!(&read[..], &wrote[..read.len()]);
        let (writer, found) = Writer::open(disk(&faulty), options(segment_bytes, current)).unwrap();
        prop_assert_eq!(found.cut.is_some(), matches!(end, Ok(Given::Torn(_))));
        prop_assert_eq!(found.damage, None);
        let (again, end) = all(&faulty);
        prop_assert_eq!(&rows(&again), &read);
        prop_assert!(end.is_ok());
        // And it goes on.
        let at = writer.reached().get(&partition()).clone();
        let mut batch = crate::model::Batch::unpooled();
        batch.begin(&partition(), at, crate::model::Steps::Ordinal);
        batch.mark(place(9999));
        writer.append(&batch, 0).unwrap();
        writer.commit().unwrap();
        prop_assert_eq!(all(&faulty).0.len(), again.len() + 1);
    }

    #[test]
    fn any_bytes_as_a_segment_give_no_run_and_no_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..400), keep in 0usize..400, cut in any::<bool>(),
    ) {
        let faulty = Faulty::default();
        simple(&faulty, 2, options(1 << 20, None));
        let name = segment_name(1);
        let mut bytes = faulty.bytes(&name);
        bytes.truncate(keep);
        bytes.extend(noise);
        faulty.put(&name, bytes);
        prop_assert!(all(&faulty).0.len() <= 2);
        prop_assert!(list(&disk(&faulty)).is_ok());
        let on_damage = if cut { OnDamage::Cut } else { OnDamage::Refuse };
        let opened = Writer::open(disk(&faulty), Options { on_damage, ..options(1 << 20, None) });
        prop_assert!(opened.is_ok() || opened.is_err_and(|error| error.fault() != Fault::Bug));
    }
}

/// Something that happens once, after the names of files were asked for, or after the mark was.
struct Meanwhile {
    disk: Faulty,
    at: &'static str,
    act: std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Meanwhile {
    fn happens<T>(&self, at: &str, result: T) -> T {
        let act = if at == self.at { self.act.lock().unwrap().take() } else { None };
        if let Some(act) = act {
            act();
        }
        result
    }
}

impl Disk for Meanwhile {
    fn names(&self) -> std::io::Result<Vec<String>> {
        self.happens("names", self.disk.names())
    }

    fn create(&self, name: &str) -> std::io::Result<Box<dyn DiskFile>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> std::io::Result<Box<dyn DiskFile>> {
        self.happens(name, self.disk.open(name))
    }

    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_names(&self) -> std::io::Result<()> {
        self.disk.sync_names()
    }
}

#[test]
fn a_segment_that_is_begun_while_somebody_looks_whether_there_is_one_is_no_damage() {
    for at in ["names", "mark"] {
        let faulty = Faulty::default();
        let writer = open(&faulty, options(1, None));
        let write = move |number: u32| {
            writer.append(&one(number), 0).unwrap();
            writer.commit().unwrap();
        };
        write(0);
        let meanwhile = Arc::new(Meanwhile { disk: faulty, at, act: std::sync::Mutex::default() });
        let mut reader = Reader::at_beginning(Arc::clone(&meanwhile) as Arc<dyn Disk>, keys(None)).unwrap();
        let mut next = || {
            let mut batch = crate::model::Batch::unpooled();
            reader.next(&mut batch, usize::MAX, u64::MAX).unwrap()
        };
        assert_eq!(next(), Given::Run, "{at}");
        *meanwhile.act.lock().unwrap() = Some(Box::new(move || write(1)));
        if next() == Given::End {
            assert_eq!(next(), Given::Run, "{at}");
        }
        assert!(meanwhile.act.lock().unwrap().is_none(), "{at}: it happened");
        assert_eq!(next(), Given::End, "{at}");
    }
}
