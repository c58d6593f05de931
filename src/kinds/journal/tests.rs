//! The journal under faults: what went in comes out, or the place where it does not is named.

use std::sync::Arc;

use proptest::prelude::*;

use super::crypt::{KEY, Key, Keys};
use super::faulty::Faulty;
use super::format::segment_name;
use super::reader::{Given, Reader};
use super::records::tests::{Plan, batch_of, plans, seen};
use super::segment::segments;
use super::writer::{Options, Writer};
use super::{Disk, Folder};
use crate::error::{Error, Fault};
use crate::model::{Batch, Op, PartitionId, Position, Steps};

const LINEAGE: &str = "state pg/7/1/s";

fn keys() -> Keys {
    Keys::default().with(Key::new(1, &[7; KEY])).with(Key::new(2, &[8; KEY]))
}

/// Small segments, and salts that count, so that every run of a test makes the same bytes.
fn options(segment_bytes: u64, key: Option<u64>) -> Options {
    let mut count = 0;
    let salt = move || {
        count += 1;
        [count; 16]
    };
    Options { segment_bytes, key, keys: keys(), salt: Box::new(salt), ..Options::new(LINEAGE) }
}

fn disk(faulty: &Faulty) -> Arc<dyn Disk> {
    Arc::new(faulty.clone())
}

/// Everything a reader gives from the beginning, and how that ended.
fn all(faulty: &Faulty) -> (Vec<Vec<String>>, Result<Given, Error>) {
    let first = segments(faulty).unwrap().first().copied().unwrap_or(1);
    match Reader::at_sequence(disk(faulty), keys(), first) {
        Ok(reader) => rest(reader),
        Err(error) => (Vec::new(), Err(error)),
    }
}

fn rest(mut reader: Reader) -> (Vec<Vec<String>>, Result<Given, Error>) {
    let mut out = Vec::new();
    loop {
        let mut batch = Batch::unpooled();
        match reader.next(&mut batch, u64::MAX) {
            Ok(Given::Run(_)) => out.push(seen(&batch)),
            end => return (out, end),
        }
    }
}

/// One change per batch, each durable before the next.
fn simple(faulty: &Faulty, count: u32, options: Options) -> Vec<Vec<String>> {
    let (mut writer, found) = Writer::open(disk(faulty), options).unwrap();
    let mut number = found.reached.get(&PartitionId::new("pg/7/1/s")).boundary().map_or(0, number_of);
    let mut wrote = Vec::new();
    for _ in 0..count {
        let batch = batch_of(&one(number), &mut number);
        writer.append(&batch, i64::from(number)).unwrap();
        writer.commit().unwrap();
        wrote.push(seen(&batch));
    }
    wrote
}

fn number_of(boundary: &[u8]) -> u32 {
    std::str::from_utf8(boundary).unwrap().parse().unwrap_or(0)
}

fn one(number: u32) -> Plan {
    vec![(
        0,
        false,
        0,
        format!("key {number}").into(),
        b"a planted body".to_vec(),
        None,
        1000 + i64::from(number),
        false,
    )]
}

#[test]
fn a_cut_anywhere_in_the_newest_segment_leaves_a_prefix_and_is_said() {
    for key in [None, Some(1)] {
        let faulty = Faulty::default();
        let wrote = simple(&faulty, 6, options(1 << 20, key));
        let name = segment_name(1);
        let whole = faulty.bytes(&name);
        let mut most = 0;
        for length in 0..=whole.len() {
            faulty.put(&name, whole[..length].to_vec());
            let (read, end) = all(&faulty);
            assert_eq!(read, wrote[..read.len()], "cut at {length}");
            match end.unwrap() {
                Given::Torn(cut) => {
                    assert_eq!((cut.segment.as_str(), cut.at + cut.bytes), (name.as_str(), length as u64))
                }
                other => assert_eq!(other, Given::End),
            }
            most = most.max(read.len());
            // A writer that opens it goes on from there, and nothing of the torn piece comes back.
            let (_, found) = Writer::open(disk(&faulty), options(1 << 20, key)).unwrap();
            assert_eq!(found.last as usize, read.len());
            let more = simple(&faulty, 1, options(1 << 20, key));
            let (again, end) = all(&faulty);
            assert_eq!(again, [&read[..], &more[..]].concat(), "cut at {length}");
            assert_eq!(end.unwrap(), Given::End);
            if let Some(newer) = segments(&faulty).unwrap().last().filter(|first| **first > 1) {
                faulty.remove(&segment_name(*newer)).unwrap();
            }
        }
        assert_eq!(most, wrote.len());
    }
}

#[test]
fn each_flipped_bit_is_found_and_never_given_out() {
    for key in [None, Some(1)] {
        let faulty = Faulty::default();
        let wrote = simple(&faulty, 6, options(400, key));
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
                match end {
                    Err(error) => assert!(error.to_string().contains(&name), "{error}"),
                    // Only the last frame that was made durable has nothing behind it that says so.
                    Ok(Given::Torn(cut)) => {
                        assert_eq!((cut.segment.as_str(), read.len()), (name.as_str(), wrote.len() - 1), "bit {bit}");
                        assert_eq!(first, firsts.last().unwrap());
                    }
                    Ok(other) => panic!("bit {bit} of {name}: {other:?}"),
                }
            }
            faulty.put(&name, whole);
        }
        assert_eq!(all(&faulty).0, wrote);
    }
}

#[test]
fn a_missing_or_shortened_segment_in_the_middle_is_found() {
    let faulty = Faulty::default();
    simple(&faulty, 12, options(400, None));
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
}

#[test]
fn a_full_disk_pauses_and_nothing_is_lost() {
    let faulty = Faulty::default();
    let (mut writer, _) = Writer::open(disk(&faulty), options(600, Some(1))).unwrap();
    let (mut number, mut wrote) = (0, Vec::new());
    for round in 0..30 {
        faulty.room(Some(round * 7));
        let batch = batch_of(&one(number), &mut number);
        let sequence = loop {
            match writer.append(&batch, 0) {
                Ok(sequence) => break sequence,
                Err(error) => assert_eq!(error.fault(), Fault::Transient, "{error}"),
            }
            faulty.room(None);
        };
        wrote.push(seen(&batch));
        if let Err(error) = writer.commit() {
            assert_eq!(error.fault(), Fault::Transient, "{error}");
            assert!(writer.is_paused() && writer.durable() < sequence);
            // What is on the disk meanwhile is sound.
            assert_eq!(all(&faulty).1.unwrap(), Given::End);
        }
        faulty.room(None);
        assert_eq!(writer.commit().unwrap(), sequence);
        assert!(!writer.is_paused());
    }
    let (read, end) = all(&faulty);
    assert_eq!((read, end.unwrap()), (wrote, Given::End));
}

#[test]
fn a_failed_fsync_ends_the_writer_for_good() {
    let faulty = Faulty::default();
    let (mut writer, _) = Writer::open(disk(&faulty), options(1 << 20, None)).unwrap();
    let mut number = 0;
    writer.append(&batch_of(&one(0), &mut number), 0).unwrap();
    writer.commit().unwrap();
    writer.append(&batch_of(&one(1), &mut number), 0).unwrap();
    faulty.fail(true);
    assert_eq!(writer.commit().unwrap_err().fault(), Fault::Config);
    faulty.fail(false);
    let syncs = faulty.syncs();
    assert_eq!(writer.commit().unwrap_err().fault(), Fault::Config);
    assert_eq!(writer.append(&batch_of(&one(2), &mut number), 0).unwrap_err().fault(), Fault::Config);
    assert_eq!((faulty.syncs(), writer.durable()), (syncs, 1), "nothing is tried over it");
}

#[test]
fn one_fsync_makes_all_that_waits_durable() {
    let faulty = Faulty::default();
    let (mut writer, _) = Writer::open(disk(&faulty), options(1 << 20, None)).unwrap();
    let mut number = 0;
    writer.append(&batch_of(&one(0), &mut number), 0).unwrap();
    writer.commit().unwrap();
    let before = faulty.syncs();
    for _ in 0..100 {
        writer.append(&batch_of(&one(number), &mut number), 0).unwrap();
    }
    writer.commit().unwrap();
    assert_eq!(faulty.syncs(), before + 1);
    assert_eq!(all(&faulty).0.len(), 101);
}

#[test]
fn reading_begins_at_a_sequence_a_position_or_a_time() {
    let faulty = Faulty::default();
    let wrote = simple(&faulty, 40, options(600, None));
    let partition = PartitionId::new("pg/7/1/s");
    for skipped in 0..40u32 {
        let expected = &wrote[skipped as usize..];
        let reader = Reader::at_sequence(disk(&faulty), keys(), u64::from(skipped) + 1).unwrap();
        assert_eq!(rest(reader).0, expected, "sequence {skipped}");
        let position = Position::at(format!("{skipped:08}"));
        let reader = Reader::at_position(disk(&faulty), keys(), &partition, &position).unwrap();
        assert_eq!(rest(reader).0, expected, "position {skipped}");
        let reader = Reader::at_time(disk(&faulty), keys(), 1000 + i64::from(skipped)).unwrap();
        assert_eq!(rest(reader).0, expected, "time {skipped}");
    }
    let at_end = Position::at("00000040");
    assert_eq!(rest(Reader::at_position(disk(&faulty), keys(), &partition, &at_end).unwrap()).0.len(), 0);
    assert_eq!(rest(Reader::at_time(disk(&faulty), keys(), 9999).unwrap()).0.len(), 0);
    // What is not there is never taken for the beginning or the end.
    faulty.remove(&segment_name(1)).unwrap();
    let lost = |result: Result<Reader, Error>| assert_eq!(result.err().unwrap().fault(), Fault::PositionLost);
    lost(Reader::at_sequence(disk(&faulty), keys(), 1));
    lost(Reader::at_sequence(disk(&faulty), keys(), 42));
    lost(Reader::at_position(disk(&faulty), keys(), &partition, &Position::Start));
    lost(Reader::at_position(disk(&faulty), keys(), &partition, &Position::at("00000041")));
    lost(Reader::at_position(disk(&faulty), keys(), &PartitionId::new("pg/7/1/other"), &Position::at("00000020")));
}

#[test]
fn a_gap_is_refused_until_it_is_known_and_then_found_by_readers() {
    let faulty = Faulty::default();
    let (mut writer, _) = Writer::open(disk(&faulty), options(1 << 20, None)).unwrap();
    writer.append(&batch_of(&one(0), &mut 0), 0).unwrap();
    let later = batch_of(&one(8), &mut 8);
    assert_eq!(writer.append(&later, 0).unwrap_err().fault(), Fault::PositionLost);
    writer.forget(&later.partition);
    writer.append(&later, 0).unwrap();
    writer.commit().unwrap();
    let mut reader = Reader::at_sequence(disk(&faulty), keys(), 1).unwrap();
    let mut next = || reader.next(&mut Batch::unpooled(), u64::MAX);
    assert_eq!(next().unwrap(), Given::Run(1));
    assert_eq!(next().unwrap_err().fault(), Fault::PositionLost);
    assert_eq!(next().unwrap(), Given::Run(1));
    let inside = Reader::at_position(disk(&faulty), keys(), &later.partition, &Position::at("00000004"));
    assert_eq!(inside.err().unwrap().fault(), Fault::PositionLost);
}

#[test]
fn a_reader_beside_the_writer_sees_what_is_durable_and_no_more() {
    let faulty = Faulty::default();
    let (mut writer, _) = Writer::open(disk(&faulty), options(500, Some(2))).unwrap();
    let mut reader = Reader::at_sequence(disk(&faulty), keys(), 1).unwrap();
    let mut number = 0;
    for _ in 0..30 {
        let batch = batch_of(&one(number), &mut number);
        let sequence = writer.append(&batch, 0).unwrap();
        let mut given = Batch::unpooled();
        assert_eq!(reader.next(&mut given, writer.durable()).unwrap(), Given::End);
        writer.commit().unwrap();
        assert_eq!(reader.next(&mut given, writer.durable()).unwrap(), Given::Run(sequence));
        assert_eq!(seen(&given), seen(&batch));
    }
}

#[test]
fn another_history_a_missing_key_and_another_version_are_refused() {
    let faulty = Faulty::default();
    simple(&faulty, 1, options(1 << 20, Some(1)));
    let open = |options: Options| Writer::open(disk(&faulty), options).err().unwrap();
    let other = open(Options { lineage: "state pg/8/1/s".into(), ..options(1, None) });
    assert_eq!(other.fault(), Fault::Config);
    let missing = open(Options { keys: Keys::default(), ..options(1, None) });
    assert!(missing.to_string().contains("key 1"), "{missing}");
    let mut bytes = faulty.bytes(&segment_name(1));
    bytes[8] = 2;
    faulty.put(&segment_name(1), bytes);
    assert_eq!(open(options(1, None)).fault(), Fault::Config);
}

#[test]
fn an_encrypted_segment_shows_no_key_and_no_body() {
    for (key, visible) in [(None, true), (Some(1), false)] {
        let faulty = Faulty::default();
        simple(&faulty, 3, options(1 << 20, key));
        let bytes = faulty.bytes(&segment_name(1));
        for planted in [&b"a planted body"[..], b"key 1", b"public.t0"] {
            assert_eq!(bytes.windows(planted.len()).any(|window| window == planted), visible);
        }
    }
}

#[test]
fn a_large_batch_is_cut_into_frames_and_packed() {
    let faulty = Faulty::default();
    let (mut writer, _) = Writer::open(disk(&faulty), options(1 << 30, None)).unwrap();
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("p"), Position::Start, Steps::Ordinal);
    let table = batch.table(&Arc::default());
    for number in 0..5000u32 {
        batch.push(Op::Put, true, table, &number.to_be_bytes(), &[b'x'; 1000], 5);
    }
    batch.mark(Position::at("1"));
    writer.append(&batch, 0).unwrap();
    assert!(writer.commit().unwrap() >= 5);
    assert!(faulty.bytes(&segment_name(1)).len() < 500_000, "it packs well");
    let (read, _) = all(&faulty);
    assert_eq!(read.iter().flat_map(|run| run[1..].to_vec()).collect::<Vec<_>>(), seen(&batch)[1..]);
}

#[test]
fn a_real_folder_is_closed_to_others_and_to_a_second_writer() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("journal");
    let folder: Arc<dyn Disk> = Arc::new(Folder::own(&path).unwrap());
    assert_eq!(Folder::own(&path).err().unwrap().fault(), Fault::Config);
    let (mut writer, _) = Writer::open(Arc::clone(&folder), options(500, None)).unwrap();
    let (mut number, mut wrote) = (0, Vec::new());
    for _ in 0..20 {
        let batch = batch_of(&one(number), &mut number);
        writer.append(&batch, 0).unwrap();
        writer.commit().unwrap();
        wrote.push(seen(&batch));
    }
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in std::fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let reader = Reader::at_sequence(Arc::new(Folder::at(&path)), keys(), 1).unwrap();
    assert_eq!(rest(reader).0, wrote);
}

/// A segment as this version writes it, byte for byte. What breaks this test breaks every journal that is out there.
#[test]
fn a_segment_is_what_it_always_was() {
    let golden = include_str!("../../../tests/golden/journal-v1.hex").split_whitespace().collect::<String>();
    let faulty = Faulty::default();
    let options = Options { pack: false, ..options(1 << 20, None) };
    let wrote = simple(&faulty, 2, options);
    let hex: String = faulty.bytes(&segment_name(1)).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
    let bytes = (0..golden.len()).step_by(2).map(|at| u8::from_str_radix(&golden[at..at + 2], 16).unwrap()).collect();
    let other = Faulty::default();
    other.put(&segment_name(1), bytes);
    assert_eq!(all(&other).0, wrote);
}

/// An encrypted and packed one, written once: it must be readable for ever, whatever the packer writes today.
#[test]
fn an_encrypted_segment_of_old_is_still_read() {
    let golden = include_str!("../../../tests/golden/journal-v1-encrypted.hex").split_whitespace().collect::<String>();
    let bytes = (0..golden.len()).step_by(2).map(|at| u8::from_str_radix(&golden[at..at + 2], 16).unwrap()).collect();
    let faulty = Faulty::default();
    faulty.put(&segment_name(1), bytes);
    let (read, end) = all(&faulty);
    assert_eq!(end.unwrap(), Given::End);
    let mut number = 0;
    let plan: Plan = (0..20).flat_map(one).collect();
    assert_eq!(read, [seen(&batch_of(&plan, &mut number))]);
}

#[test]
fn zz_make() {
    let faulty = Faulty::default();
    let (mut writer, _) = Writer::open(disk(&faulty), options(1 << 20, Some(1))).unwrap();
    let plan: Plan = (0..20).flat_map(one).collect();
    writer.append(&batch_of(&plan, &mut 0), 0).unwrap();
    writer.commit().unwrap();
    let hex: String = faulty.bytes(&segment_name(1)).iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write("/tmp/journal-enc.hex", hex).unwrap();
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        plans in proptest::collection::vec((plans(), any::<bool>(), any::<bool>()), 0..12),
        segment_bytes in 200u64..3000, key in proptest::option::of(1u64..3),
    ) {
        let faulty = Faulty::default();
        let (mut writer, _) = Writer::open(disk(&faulty), options(segment_bytes, key)).unwrap();
        let (mut number, mut wrote) = (0, Vec::new());
        for (plan, commits, reopens) in &plans {
            let batch = batch_of(plan, &mut number);
            writer.append(&batch, 0).unwrap();
            wrote.push(seen(&batch));
            if *commits {
                writer.commit().unwrap();
            }
            if *reopens {
                writer.commit().unwrap();
                writer = Writer::open(disk(&faulty), options(segment_bytes, key)).unwrap().0;
            }
        }
        writer.commit().unwrap();
        let (read, end) = all(&faulty);
        prop_assert_eq!(end.unwrap(), Given::End);
        prop_assert_eq!(read, wrote);
    }

    #[test]
    fn a_power_loss_takes_nothing_that_was_durable(
        plans in proptest::collection::vec((plans(), 0u8..4), 1..12),
        segment_bytes in 200u64..2000, mut dice in any::<u64>(), key in proptest::option::of(1u64..3),
    ) {
        let faulty = Faulty::default();
        let (mut writer, _) = Writer::open(disk(&faulty), options(segment_bytes, key)).unwrap();
        let (mut number, mut wrote, mut safe) = (0, Vec::new(), 0);
        for (plan, what) in &plans {
            let batch = batch_of(plan, &mut number);
            writer.append(&batch, 0).unwrap();
            wrote.push(seen(&batch));
            if *what == 0 {
                writer.commit().unwrap();
                safe = wrote.len();
            }
        }
        // The last group is written, and its fsync never comes back.
        faulty.fail(true);
        drop(writer.commit());
        faulty.fail(false);
        faulty.power_loss(|sides| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33) as usize % sides
        });
        let (read, end) = all(&faulty);
        prop_assert!(end.is_ok(), "{:?}", end);
        prop_assert!(read.len() >= safe, "{} of {safe}", read.len());
        prop_assert_eq!(&read[..], &wrote[..read.len()]);
        let (_, found) = Writer::open(disk(&faulty), options(segment_bytes, key)).unwrap();
        prop_assert_eq!(found.cut.is_some(), matches!(end, Ok(Given::Torn(_))));
        let (again, end) = all(&faulty);
        prop_assert_eq!(again, read);
        prop_assert!(end.is_ok());
    }

    #[test]
    fn any_bytes_as_a_segment_give_no_run_and_no_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..400), keep in 0usize..400,
    ) {
        let faulty = Faulty::default();
        simple(&faulty, 2, options(1 << 20, None));
        let name = segment_name(1);
        let mut bytes = faulty.bytes(&name);
        bytes.truncate(keep);
        bytes.extend(noise);
        faulty.put(&name, bytes);
        prop_assert!(all(&faulty).0.len() <= 2);
        let opened = Writer::open(disk(&faulty), options(1 << 20, None));
        prop_assert!(opened.is_ok() || opened.is_err_and(|error| error.fault() != Fault::Bug));
    }
}
