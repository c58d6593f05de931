//! How long a journal is kept, and who may hold it.

use super::faulty::Faulty;
use super::segment::segments;
use super::tests::*;
use super::*;
use crate::error::Fault;

const HOUR: i64 = 3_600_000_000;

fn cursor(name: &str, sequence: u64) -> Cursor {
    Cursor { name: name.to_owned(), sequence, moved: 0, outrun: false }
}

/// A segment each hour with one frame, `count` of them.
fn hourly(faulty: &Faulty, count: u32) -> Writer {
    let writer = open(faulty, options(1, None));
    for number in 0..count {
        writer.append(&one(number), i64::from(number) * HOUR).unwrap();
        writer.commit().unwrap();
    }
    assert_eq!(segments(faulty).unwrap().len(), count as usize);
    writer
}

fn bytes(faulty: &Faulty) -> u64 {
    list(&disk(faulty)).unwrap().iter().map(|segment| segment.bytes).sum()
}

const ALL: Retention = Retention { bytes: u64::MAX, age: i64::MAX, outrun: false };

#[test]
fn what_is_older_than_the_age_goes_and_the_rest_is_still_read() {
    let faulty = Faulty::default();
    let writer = hourly(&faulty, 10);
    assert_eq!(writer.retain(&ALL, 100 * HOUR).unwrap().removed, 0);
    let done = writer.retain(&Retention { age: 4 * HOUR, ..ALL }, 10 * HOUR).unwrap();
    // The segment of hour 6 ended when that of hour 7 was begun.
    assert_eq!((done.removed, done.oldest, done.held.len()), (5, 6, 0));
    assert_eq!((done.bytes, all(&faulty).0.len()), (bytes(&faulty), 5));
    assert!(done.freed > 0);
    // However old, the newest stays: it says where everything stands.
    let done = writer.retain(&Retention { age: 1, ..ALL }, 1000 * HOUR).unwrap();
    assert_eq!((done.removed, done.oldest, all(&faulty).0.len()), (4, 10, 1));
    writer.append(&one(10), 1000 * HOUR).unwrap();
    writer.commit().unwrap();
    assert_eq!(all(&faulty).0.len(), 2);
    let (_, found) = Writer::open(disk(&faulty), options(1, None)).unwrap();
    assert_eq!((found.oldest, found.last), (10, 11));
}

#[test]
fn what_is_more_than_the_size_goes_from_the_oldest_on() {
    let faulty = Faulty::default();
    let writer = hourly(&faulty, 10);
    let whole = bytes(&faulty);
    faulty.log();
    let done = writer.retain(&Retention { bytes: whole / 2, ..ALL }, 0).unwrap();
    assert!(done.bytes <= whole / 2 && done.bytes > whole / 4, "{done:?}");
    assert_eq!(done.freed + done.bytes, whole);
    let log = faulty.log();
    let removed: Vec<_> = log.iter().step_by(2).collect();
    assert!(removed.is_sorted() && removed.len() == done.removed, "{log:?}");
    assert!(log.iter().skip(1).step_by(2).all(|act| act == "sync names"), "one at a time: {log:?}");
}

#[test]
fn a_segment_stays_until_something_behind_it_is_durable() {
    let faulty = Faulty::default();
    let writer = hourly(&faulty, 3);
    writer.append(&one(3), 3 * HOUR).unwrap();
    faulty.room(Some(200));
    writer.commit().unwrap_err();
    let done = writer.retain(&Retention { bytes: 0, ..ALL }, 0).unwrap();
    assert_eq!((done.removed, done.oldest), (2, 3));
}

#[test]
fn a_registered_reader_holds_what_it_needs_and_that_is_said() {
    let faulty = Faulty::default();
    let writer = hourly(&faulty, 10);
    cursor("behind", 4).write(&faulty).unwrap();
    cursor("ahead", 9).write(&faulty).unwrap();
    let limits = Retention { bytes: 0, age: HOUR, outrun: false };
    let done = writer.retain(&limits, 100 * HOUR).unwrap();
    assert_eq!((done.removed, done.oldest), (3, 4));
    assert_eq!(done.held, [Held { by: Holder::Reader("behind".into()), sequence: 4 }]);
    assert_eq!(rest(Reader::at_sequence(disk(&faulty), keys(None), 4).unwrap()).0.len(), 7);
    // It survives restarts, a damaged file of it holds everything, and it goes on when the reader does.
    drop(writer);
    let writer = open(&faulty, options(1, None));
    let mut damaged = faulty.bytes("behind.reader");
    damaged[13] ^= 1;
    faulty.put("behind.reader", damaged);
    let done = writer.retain(&limits, 100 * HOUR).unwrap();
    assert_eq!((done.removed, done.held[0].sequence), (0, 0));
    cursor("behind", 6).write(&faulty).unwrap();
    assert_eq!(writer.retain(&limits, 100 * HOUR).unwrap().oldest, 6);
    Cursor::remove(&faulty, "behind").unwrap();
    let done = writer.retain(&limits, 100 * HOUR).unwrap();
    assert_eq!((done.oldest, done.held.len()), (9, 1));
}

#[test]
fn a_reader_is_outrun_only_when_that_is_asked_for_and_then_it_is_written_down_first() {
    let faulty = Faulty::default();
    let writer = hourly(&faulty, 10);
    cursor("behind", 4).write(&faulty).unwrap();
    let limits = Retention { bytes: 0, age: i64::MAX, outrun: true };
    faulty.log();
    let done = writer.retain(&limits, 0).unwrap();
    assert_eq!(done.oldest, 10);
    assert_eq!(done.outrun, [Held { by: Holder::Reader("behind".into()), sequence: 4 }]);
    assert!(Cursor::of(&faulty, "behind").unwrap().unwrap().outrun);
    let log = faulty.log();
    let written = log.iter().position(|act| act == "rename behind.reader").unwrap();
    let gone = log.iter().position(|act| act.contains("remove 00000000000000000004")).unwrap();
    assert!(written < gone, "{log:?}");
    assert_eq!(Reader::at_sequence(disk(&faulty), keys(None), 4).err().unwrap().fault(), Fault::PositionLost);
    // It holds nothing any more, and is not outrun again.
    writer.append(&one(10), 0).unwrap();
    writer.commit().unwrap();
    let done = writer.retain(&limits, 0).unwrap();
    assert_eq!((done.oldest, done.outrun.len(), done.held.len()), (11, 0, 0));
    // By age alone nobody is outrun: the disk has room.
    cursor("late", 11).write(&faulty).unwrap();
    writer.append(&one(11), 0).unwrap();
    writer.commit().unwrap();
    let done = writer.retain(&Retention { age: 1, bytes: u64::MAX, outrun: true }, 100 * HOUR).unwrap();
    assert_eq!((done.oldest, done.held.len()), (11, 1));
}

#[test]
fn a_reader_that_is_outrun_while_it_reads_is_told_so() {
    let faulty = Faulty::default();
    let writer = hourly(&faulty, 5);
    let mut reader = Reader::at_beginning(disk(&faulty), keys(None)).unwrap();
    let mut next = || reader.next(&mut crate::model::Batch::unpooled(), usize::MAX, u64::MAX);
    assert_eq!(next().unwrap(), Given::Run);
    writer.retain(&Retention { bytes: 0, ..ALL }, 0).unwrap();
    let error = next().unwrap_err();
    assert!(error.fault() == Fault::PositionLost && error.to_string().contains("retention"), "{error}");
    assert_eq!(next().unwrap_err().fault(), Fault::PositionLost);
}

#[test]
fn the_snapshot_that_an_instant_within_the_age_needs_is_kept() {
    let faulty = Faulty::default();
    let writer = open(&faulty, options(1, None));
    let mut took = Vec::new();
    for number in 0..20u32 {
        let now = i64::from(number) * HOUR;
        writer.append(&one(number), now).unwrap();
        // One every five hours, over two segments.
        match number % 5 {
            1 => took.push((writer.begin_snapshot(&writer.reached(), now).unwrap(), number)),
            2 => drop(writer.end_snapshot(took.last().unwrap().0, &writer.reached(), true, now).unwrap()),
            _ => {}
        }
        writer.commit().unwrap();
    }
    let whole = snapshots(&disk(&faulty), &keys(None)).unwrap();
    let times: Vec<_> = whole.iter().map(|snapshot| snapshot.ended_at / HOUR).collect();
    assert_eq!(times, [2, 7, 12, 17]);
    // At hour 20, what was 10 hours ago is restored from the snapshot of hour 7.
    let done = writer.retain(&Retention { age: 10 * HOUR, ..ALL }, 20 * HOUR).unwrap();
    // That is what the age means, and no alarm.
    assert_eq!(done.held, []);
    assert!(done.oldest <= whole[1].began && done.removed > 0);
    assert_eq!(done.restorable, Some(7 * HOUR));
    assert_eq!(snapshots(&disk(&faulty), &keys(None)).unwrap(), whole[1..]);
    // Size takes all but the newest.
    let done = writer.retain(&Retention { bytes: 0, ..ALL }, 20 * HOUR).unwrap();
    assert_eq!((done.held.len(), done.restorable), (1, Some(17 * HOUR)));
    // What the age asks for and the size does not let be is said.
    assert_eq!(
        done.outrun.iter().map(|lost| &lost.by).collect::<Vec<_>>(),
        [&Holder::Snapshot(2), &Holder::Snapshot(3)]
    );
    assert_eq!(snapshots(&disk(&faulty), &keys(None)).unwrap(), whole[3..]);
    let done = writer.retain(&Retention { bytes: 0, age: i64::MAX, outrun: true }, 20 * HOUR).unwrap();
    assert_eq!((done.outrun.len(), done.restorable), (1, None));
    assert!(snapshots(&disk(&faulty), &keys(None)).unwrap().is_empty());
}

#[test]
fn a_list_says_what_each_segment_holds_without_a_key() {
    let faulty = Faulty::default();
    simple(&faulty, 6, options(500, Some(7)));
    let all = list(&disk(&faulty)).unwrap();
    assert_eq!(all.first().map(|segment| (segment.first, segment.earliest)), Some((1, 1000)));
    assert_eq!(all.last().map(|segment| (segment.last, segment.latest)), Some((6, 1005)));
    assert!(all.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
    for segment in &all {
        assert_eq!((segment.lineage.as_str(), segment.key, &segment.damage), (LINEAGE, Some(key(7).id()), &None));
        assert!(segment.bytes > 0 && segment.unpacked > 0);
    }
    let mut bytes = faulty.bytes(&all[0].name);
    bytes[120] ^= 1;
    faulty.put(&all[0].name, bytes);
    let damaged = list(&disk(&faulty)).unwrap();
    assert!(damaged[0].damage.is_some() && damaged[1].damage.is_none(), "{damaged:?}");
}
