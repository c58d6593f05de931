//! What the journal's tests are made of, and the ordinary course of things.

use std::sync::Arc;

use proptest::prelude::*;

use super::faulty::Faulty;
use super::format::segment_name;
use super::segment::segments;
use super::*;
use crate::error::{Error, Fault};
use crate::model::{Batch, Checkpoint, Op, PartitionId, Position, Steps, Table};

pub(super) const LINEAGE: &str = "state pg/7/1/s";

pub(super) fn key(number: u8) -> Key {
    Key::new(&[number; KEY])
}

/// Keys 7 and 8, of which one may be the current one.
pub(super) fn keys(current: Option<u8>) -> Keys {
    current.map_or_else(Keys::default, |number| Keys::new(key(number))).with_old(key(7)).with_old(key(8))
}

/// Small segments and frames, and salts that count, so that every run of a test makes the same bytes.
pub(super) fn options(segment_bytes: u64, current: Option<u8>) -> Options {
    let mut count = 0;
    let salt = move || {
        count += 1;
        [count; 16]
    };
    Options { segment_bytes, keys: keys(current), pack: Pack::Always, salt: Box::new(salt), ..Options::new(LINEAGE) }
}

pub(super) fn disk(faulty: &Faulty) -> Arc<dyn Disk> {
    Arc::new(faulty.clone())
}

pub(super) fn open(faulty: &Faulty, options: Options) -> Writer {
    Writer::open(disk(faulty), options).unwrap().0
}

/// The partition of most tests.
pub(super) fn partition() -> PartitionId {
    PartitionId::new("pg/7/1/s")
}

pub(super) fn place(number: u32) -> Position {
    Position::at(format!("{number:08}"))
}

/// A batch of the partition from `number` to the next, with one change.
pub(super) fn one(number: u32) -> Batch {
    let mut batch = Batch::unpooled();
    batch.begin(&partition(), place(number), Steps::Ordinal);
    let table = batch.table(&Arc::new(Table { name: "public.t0".into(), shape: vec![0; 3] }));
    let key = format!("key {number}");
    batch.push(Op::Put, false, table, key.as_bytes(), b"a planted-body", 1000 + i64::from(number));
    batch.mark(place(number + 1));
    batch
}

/// All that can be seen of a batch.
pub(super) fn seen(batch: &Batch) -> Vec<String> {
    let mut out = vec![format!("{} {} {:?} {:?}", batch.partition, batch.base(), batch.steps, batch.marks())];
    for (index, row) in batch.rows().enumerate() {
        let position = batch.position(index);
        out.push(format!("{position} {row:?}"));
    }
    out
}

/// Everything that a reader gives, and how that ended.
pub(super) type Everything = (Vec<Vec<String>>, Result<Given, Error>);

pub(super) fn all(faulty: &Faulty) -> Everything {
    rest(Reader::at_beginning(disk(faulty), keys(None)).unwrap())
}

pub(super) fn rest(mut reader: Reader) -> Everything {
    let mut out = Vec::new();
    loop {
        let mut batch = Batch::unpooled();
        match reader.next(&mut batch, usize::MAX, u64::MAX) {
            Ok(Given::Run) => out.push(seen(&batch)),
            Ok(Given::Page(snapshot)) => {
                let mut page = seen(&batch);
                page.insert(0, format!("page of {snapshot}"));
                out.push(page);
            }
            Ok(Given::Note(note)) => out.push(vec![format!("{note:?}")]),
            end => return (out, end),
        }
    }
}

/// `count` batches of one change, each durable before the next, on from where the journal is.
pub(super) fn simple(faulty: &Faulty, count: u32, options: Options) -> Vec<Vec<String>> {
    let (writer, found) = Writer::open(disk(faulty), options).unwrap();
    let from = found.reached.get(&partition()).boundary().map_or(0, number_of);
    let mut wrote = Vec::new();
    for number in from..from + count {
        let batch = one(number);
        writer.append(&batch, i64::from(number)).unwrap();
        writer.commit().unwrap();
        wrote.push(seen(&batch));
    }
    wrote
}

fn number_of(boundary: &[u8]) -> u32 {
    std::str::from_utf8(boundary).unwrap().parse().unwrap_or(0)
}

/// Changes: op, fresh, table, key, body, older key, time, and whether a mark follows.
pub(super) type Plan = Vec<(u8, bool, u8, Vec<u8>, Vec<u8>, Option<Vec<u8>>, i64, bool)>;

/// Any batch's worth of changes.
pub(super) fn plans() -> impl Strategy<Value = Plan> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
    let row = (0u8..4, any::<bool>(), 0u8..3, bytes(), bytes(), proptest::option::of(bytes()), -5i64..5, any::<bool>());
    proptest::collection::vec(row, 0..12)
}

/// The batch of a plan, whose marks count on from `number`.
pub(super) fn batch_of(plan: &Plan, number: &mut u32) -> Batch {
    let mut batch = Batch::unpooled();
    batch.begin(&partition(), place(*number), Steps::Ordinal);
    let name = |n: u8| Arc::new(Table { name: format!("public.t{n}"), shape: vec![n; 3] });
    let tables: Vec<_> = (0..3).map(name).collect();
    for (op, fresh, table, key, body, from, at, marked) in plan {
        let op = [Op::Put, Op::Patch, Op::Delete, Op::Clear][usize::from(*op)];
        let table = batch.table(&tables[usize::from(*table)]);
        batch.push_moved(op, *fresh, table, key, body, from.as_deref(), *at);
        if *marked {
            *number += 1;
            batch.mark(place(*number));
        }
    }
    *number += 1;
    batch.mark(place(*number));
    batch
}

#[test]
fn one_fsync_makes_all_that_waits_durable() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    writer.append(&one(0), 0).unwrap();
    writer.commit().unwrap();
    let before = faulty.syncs();
    for number in 1..101 {
        writer.append(&one(number), 0).unwrap();
    }
    writer.commit().unwrap();
    assert_eq!(faulty.syncs(), before + 1);
    writer.commit().unwrap();
    assert_eq!(faulty.syncs(), before + 1, "nothing waits");
    assert_eq!(all(&faulty).0.len(), 101);
}

/// Four threads at one journal, each with a partition of its own, while the first is held at the disk.
#[test]
fn who_waits_for_the_disk_is_taken_along_by_the_next_who_goes() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    let batch = |name: u32| {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new(format!("p{name}")), Position::Start, Steps::Ordinal);
        let table = batch.table(&Arc::default());
        batch.push(Op::Put, true, table, b"k", b"v", 0);
        batch.mark(place(1));
        batch
    };
    writer.append(&batch(100), 0).unwrap();
    writer.commit().unwrap();
    let before = faulty.syncs();
    faulty.hold(true);
    std::thread::scope(|scope| {
        let first = writer.append(&batch(0), 0).unwrap();
        let settle = |sequence| {
            let writer = writer.clone();
            scope.spawn(move || writer.settle(sequence).unwrap())
        };
        let leader = settle(first);
        faulty.wait_for_sync();
        // Taken while the first is at the disk.
        let taken: Vec<u64> = (1..20).map(|name| writer.append(&batch(name), 0).unwrap()).collect();
        let followers: Vec<_> = taken.iter().map(|sequence| settle(*sequence)).collect();
        assert_eq!(writer.durable(), 1);
        faulty.hold(false);
        assert!(leader.join().unwrap() >= first);
        for (sequence, follower) in taken.iter().zip(followers) {
            assert!(follower.join().unwrap() >= *sequence);
        }
    });
    assert_eq!(faulty.syncs(), before + 2, "one for the first, one for all the others");
    let (read, end) = all(&faulty);
    assert_eq!((read.len(), end.unwrap()), (21, Given::End));
}

#[test]
fn who_waits_in_another_task_is_told_when_something_is_durable() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    let mut watch = writer.watch();
    let sequence = writer.append(&one(0), 0).unwrap();
    assert!(!watch.has_changed().unwrap());
    writer.commit().unwrap();
    assert_eq!(*watch.borrow_and_update(), sequence);
}

#[test]
fn what_waits_is_bounded_and_nothing_is_taken_beyond_it() {
    let faulty = Faulty::default();
    let writer = open(&faulty, Options { waiting_bytes: 2000, pack: Pack::Never, ..options(1 << 20, None) });
    let mut number = 0;
    let error = loop {
        match writer.append(&one(number), 0) {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.fault(), Fault::Transient);
    assert!((5..40).contains(&number), "{number}");
    assert_eq!(writer.reached().get(&partition()), &place(number), "nothing of the last one was taken");
    writer.commit().unwrap();
    writer.append(&one(number), 0).unwrap();
    writer.commit().unwrap();
    assert_eq!(all(&faulty).0.len(), number as usize + 1);
}

#[test]
fn a_reader_beside_the_writer_sees_what_is_durable_and_no_more() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(700, Some(8)));
    let mut reader = Reader::at_beginning(disk(&faulty), keys(None)).unwrap();
    for number in 0..30 {
        let batch = one(number);
        let sequence = writer.append(&batch, 0).unwrap();
        let mut given = Batch::unpooled();
        assert_eq!(reader.next(&mut given, usize::MAX, writer.durable()).unwrap(), Given::End);
        assert_eq!(reader.needs(), sequence);
        writer.commit().unwrap();
        assert_eq!(Reader::settled(&faulty), writer.durable(), "what another process is told");
        assert_eq!(reader.next(&mut given, usize::MAX, writer.durable()).unwrap(), Given::Run);
        assert_eq!(seen(&given), seen(&batch));
    }
    assert!(segments(&faulty).unwrap().len() > 3);
}

#[test]
fn what_the_source_gives_again_is_not_written_again() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    let mut number = 0;
    let plan: Plan = (0..4).map(|n| (0, false, 0, vec![n], vec![n], None, 5, n == 1)).collect();
    let batch = batch_of(&plan, &mut number);
    writer.append(&batch, 0).unwrap();
    writer.append(&batch, 0).unwrap();
    drop(writer);
    let writer = open(&faulty, options(1 << 20, None));
    writer.append(&batch, 0).unwrap();
    writer.append(&one(number), 0).unwrap();
    writer.append(&batch, 0).unwrap();
    writer.commit().unwrap();
    assert_eq!(all(&faulty).0, [seen(&batch), seen(&one(number))]);
}

#[test]
fn a_change_behind_the_end_of_its_partition_is_refused() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    let mut batch = Batch::unpooled();
    batch.begin(&partition(), Position::Start, Steps::Ordinal);
    batch.mark(Position::End);
    let table = batch.table(&Arc::default());
    batch.push(Op::Put, false, table, b"k", b"", 0);
    assert_eq!(writer.append(&batch, 0).unwrap_err().fault(), Fault::Bug);
    assert_eq!(writer.reached(), Checkpoint::default());
}

#[test]
fn another_history_a_missing_key_and_another_version_are_refused() {
    let faulty = Faulty::default();
    simple(&faulty, 1, options(1 << 20, Some(7)));
    let refused = |options: Options| Writer::open(disk(&faulty), options).err().unwrap();
    let other = refused(Options { lineage: "state pg/8/1/s".into(), ..options(1, None) });
    assert_eq!(other.fault(), Fault::Config);
    assert!(other.to_string().contains("pg/7/1/s, not of state pg/8/1/s"), "{other}");
    let missing = refused(Options { keys: Keys::new(key(8)), ..options(1, None) });
    assert!(missing.to_string().contains(&format!("{:016x}", key(7).id())), "{missing}");
    let mut bytes = faulty.bytes(&segment_name(1));
    bytes[8] = 2;
    let sum = crc32c::crc32c(&bytes[..72]).to_le_bytes();
    bytes[72..76].copy_from_slice(&sum);
    faulty.put(&segment_name(1), bytes);
    let version = refused(options(1, None));
    assert!(version.fault() == Fault::Config && version.to_string().contains("format 2"), "{version}");
}

#[test]
fn an_encrypted_segment_shows_no_key_and_no_body() {
    for (current, visible) in [(None, true), (Some(7), false)] {
        let faulty = Faulty::default();
        simple(&faulty, 3, Options { pack: Pack::Never, ..options(1 << 20, current) });
        let bytes = faulty.bytes(&segment_name(1));
        for planted in [&b"a planted-body"[..], b"key 1", b"public.t0", b"pg/7/1/s", &[7; 16]] {
            // The lineage is in the head.
            let found = bytes[200..].windows(planted.len()).any(|window| window == planted);
            assert_eq!(found, visible && planted != [7; 16]);
        }
    }
}

#[test]
fn a_new_key_begins_a_segment_and_old_ones_are_read_while_their_key_is_given() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    let mut wrote = Vec::new();
    for (number, current) in [(0, None), (1, Some(7)), (2, Some(8)), (3, Some(8))] {
        writer.use_keys(keys(current)).unwrap();
        let batch = one(number);
        writer.append(&batch, 0).unwrap();
        writer.commit().unwrap();
        wrote.push(seen(&batch));
    }
    let used: Vec<_> = list(&disk(&faulty)).unwrap().into_iter().map(|segment| segment.key).collect();
    assert_eq!(used, [None, Some(key(7).id()), Some(key(8).id()), Some(key(8).id())]);
    assert_eq!(all(&faulty).0, wrote);
    let reader = Reader::at_beginning(disk(&faulty), Keys::new(key(8))).unwrap();
    let (read, end) = rest(reader);
    assert_eq!((read.len(), end.unwrap_err().fault()), (1, Fault::Config), "the first was not encrypted");
}

#[test]
fn no_segment_is_encrypted_under_the_same_key_as_another() {
    let faulty = Faulty::default();
    // The same frames with the same sequences, twice, as after a damaged end was cut off: salts are random.
    let random = || Options { salt: Options::new("").salt, pack: Pack::Never, ..options(1 << 20, Some(7)) };
    simple(&faulty, 2, random());
    let first = faulty.bytes(&segment_name(1));
    let again = Faulty::default();
    simple(&again, 2, random());
    let second = again.bytes(&segment_name(1));
    assert_eq!(first.len(), second.len());
    let same = first[100..].iter().zip(&second[100..]).filter(|(a, b)| a == b).count();
    assert!(same < first.len() / 2, "{same} of {}", first.len());
}

#[test]
fn a_large_batch_is_cut_into_frames_and_read_in_pieces() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 30, None));
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("p"), Position::Start, Steps::Ordinal);
    let table = batch.table(&Arc::default());
    for number in 0..5000u32 {
        batch.push(Op::Put, true, table, &number.to_be_bytes(), &[b'x'; 1000], 5);
        if number % 7 == 6 && number < 4000 {
            batch.mark(place(number));
        }
    }
    batch.mark(place(5000));
    writer.append(&batch, 0).unwrap();
    assert!(writer.commit().unwrap() >= 5_000_000 / (256 << 10));
    assert!(faulty.bytes(&segment_name(1)).len() < 500_000, "it packs well");
    for fill in [0, 3000, 100_000, usize::MAX] {
        let mut reader = Reader::at_beginning(disk(&faulty), keys(None)).unwrap();
        let (mut rows, mut marks, mut base) = (Vec::new(), Vec::new(), Position::Start);
        let mut piece = Batch::unpooled();
        while reader.next(&mut piece, fill, u64::MAX).unwrap() == Given::Run {
            assert_eq!(*piece.base(), base, "pieces join");
            assert!(piece.bytes() <= fill.saturating_add(1004));
            base = if piece.is_open() { piece.position(piece.len() - 1) } else { piece.upto().clone() };
            rows.extend(seen(&piece).split_off(1));
            marks.extend(piece.marks().iter().map(|mark| mark.upto.clone()));
            piece = Batch::unpooled();
        }
        assert!(rows == seen(&batch)[1..], "fill {fill}");
        assert_eq!(marks, batch.marks().iter().map(|mark| mark.upto.clone()).collect::<Vec<_>>());
    }
}

#[test]
fn a_frame_is_packed_where_that_costs_nothing() {
    let sizes = |pack: Pack, rows: usize| {
        let faulty = Faulty::default();
        let writer = open(&faulty, Options { pack, frame_bytes: 4096, ..options(1 << 20, None) });
        let mut batch = Batch::unpooled();
        batch.begin(&partition(), place(0), Steps::Ordinal);
        let table = batch.table(&Arc::default());
        for _ in 0..rows {
            batch.push(Op::Put, false, table, b"k", &[b'x'; 1000], 0);
        }
        batch.mark(place(1));
        writer.append(&batch, 0).unwrap();
        writer.commit().unwrap();
        faulty.bytes(&segment_name(1)).len()
    };
    assert!(sizes(Pack::Never, 2) > 2000);
    assert!(sizes(Pack::WherePays, 2) < 600, "nobody waits for a frame that is not full");
    assert!(sizes(Pack::WherePays, 40) > 36_000, "full frames come one after the other, and the disk is idle");
    assert!(sizes(Pack::Always, 40) < 3000);
}

#[test]
fn one_large_change_is_not_held_for_ever() {
    const LARGE: usize = 20 << 20;
    let faulty = Faulty::default();
    let writer = open(&faulty, Options { waiting_bytes: 1 << 20, pack: Pack::Never, ..options(1 << 30, Some(7)) });
    let change = |number: u32, bytes: usize| {
        let mut batch = Batch::unpooled();
        batch.begin(&partition(), place(number), Steps::Ordinal);
        let table = batch.table(&Arc::default());
        batch.push(Op::Put, false, table, b"k", &vec![7; bytes], 0);
        batch.mark(place(number + 1));
        batch
    };
    for (number, bytes) in [(0, 100), (1, LARGE), (2, 100), (3, 100)] {
        writer.append(&change(number, bytes), 0).unwrap();
        writer.commit().unwrap();
    }
    assert!(writer.held() < 5 << 20, "{}", writer.held());
    let mut reader = Reader::at_beginning(disk(&faulty), keys(None)).unwrap();
    for number in 0..4 {
        assert_eq!(reader.next(&mut Batch::unpooled(), 1 << 20, u64::MAX).unwrap(), Given::Run);
        assert_eq!(reader.held() > LARGE, number == 1, "{number}: {}", reader.held());
    }
    assert!(reader.held() < 3 << 20, "{}", reader.held());
}

/// Beside a writer that begins segment after segment, on a real disk, while old ones are removed behind a registered reader.
#[test]
fn a_reader_is_never_misled_by_a_writer_at_work() {
    const BATCHES: u32 = 600;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("journal");
    let folder: Arc<dyn Disk> = Arc::new(Folder::own(&path).unwrap());
    let (writer, _) = Writer::open(folder, options(2000, Some(7))).unwrap();
    let cursor = |sequence| Cursor { name: "reader".into(), sequence, moved: 0, outrun: false };
    cursor(1).write(&Folder::at(&path)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..BATCHES {
                writer.append(&one(number), 0).unwrap();
                if number % 3 == 2 {
                    writer.commit().unwrap();
                }
                if number % 50 == 49 {
                    writer.retain(&Retention { bytes: 0, age: i64::MAX, outrun: false }, 0).unwrap();
                }
            }
            writer.commit().unwrap();
        });
        // As another process does it.
        let disk: Arc<dyn Disk> = Arc::new(Folder::at(&path));
        let mut reader = Reader::at_sequence(Arc::clone(&disk), keys(None), 1).unwrap();
        let mut number = 0;
        while number < BATCHES {
            let mut batch = Batch::unpooled();
            let settled = Some(Reader::settled(&*disk)).filter(|sequence| *sequence != u64::MAX);
            match reader.next(&mut batch, usize::MAX, settled.unwrap_or(0)).unwrap() {
                Given::Run => {
                    assert_eq!(seen(&batch), seen(&one(number)));
                    number += 1;
                    if number % 70 == 0 {
                        cursor(reader.needs()).write(&*disk).unwrap();
                    }
                }
                given => assert_eq!(given, Given::End),
            }
        }
    });
    assert!(Reader::at_sequence(Arc::new(Folder::at(&path)), keys(None), 1).is_err(), "the beginning is gone");
}

#[test]
fn a_closed_journal_can_be_checked_after_a_power_loss() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1 << 20, None));
    writer.append(&one(0), 0).unwrap();
    assert_eq!(writer.close().unwrap(), 1);
    faulty.power_loss(|_| 0);
    assert_eq!(Reader::settled(&faulty), 1);
}

#[test]
fn a_real_folder_is_closed_to_others_and_to_a_second_writer() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("state/journal");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let allow = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let folder: Arc<dyn Disk> = Arc::new(Folder::own(&path).unwrap());
    let second = Folder::own(&path).err().unwrap();
    assert_eq!(second.fault(), Fault::Config);
    assert!(second.to_string().contains("another process writes there"), "{second}");
    let (writer, _) = Writer::open(Arc::clone(&folder), options(700, None)).unwrap();
    let mut wrote = Vec::new();
    for number in 0..20 {
        writer.append(&one(number), 0).unwrap();
        writer.commit().unwrap();
        wrote.push(seen(&one(number)));
    }
    Cursor { name: "a/b".into(), sequence: 1, moved: 0, outrun: false }.write(&*folder).unwrap();
    assert_eq!(mode(&path), 0o700);
    for entry in std::fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let reader = Reader::at_beginning(Arc::new(Folder::at(&path)), keys(None)).unwrap();
    assert_eq!(rest(reader).0, wrote);
    drop((writer, folder));
    // What somebody has opened is not used, and the sentence says what to do.
    let first = path.join(segment_name(1));
    allow(&first, 0o640);
    let error = Folder::own(&path).err().unwrap();
    assert!(error.to_string().contains("chmod 600") && error.to_string().contains(&segment_name(1)), "{error}");
    allow(&first, 0o600);
    allow(&path, 0o750);
    let error = Folder::own(&path).err().unwrap();
    assert!(error.fault() == Fault::Config && error.to_string().contains("chmod 700"), "{error}");
    assert_eq!(mode(&path), 0o750, "it may be the wrong folder");
    allow(&path, 0o700);
    Folder::own(&path).unwrap();
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        plans in proptest::collection::vec((plans(), any::<bool>(), any::<bool>()), 0..12),
        segment_bytes in 200u64..3000, current in proptest::option::of(7u8..9), frame_bytes in 1usize..400,
    ) {
        let faulty = Faulty::default();
        let options = || Options { frame_bytes, ..options(segment_bytes, current) };
        let mut writer = open(&faulty, options());
        let (mut number, mut wrote) = (0, Vec::new());
        for (plan, commits, reopens) in &plans {
            let batch = batch_of(plan, &mut number);
            writer.append(&batch, 0).unwrap();
            wrote.extend(seen(&batch).split_off(1));
            if *commits || *reopens {
                writer.commit().unwrap();
            }
            if *reopens {
                drop(writer);
                writer = open(&faulty, options());
            }
        }
        writer.commit().unwrap();
        let (read, end) = all(&faulty);
        prop_assert_eq!(end.unwrap(), Given::End);
        let rows: Vec<_> = read.into_iter().flat_map(|mut run| run.split_off(1)).collect();
        prop_assert_eq!(rows, wrote);
        prop_assert_eq!(verify(&disk(&faulty), &keys(None), u64::MAX).unwrap().damage, Vec::<String>::new());
    }
}
