//! The format as files of an earlier day have it. What breaks these tests breaks every journal that is out there: then the
//! version in `format` must go up, and this one must still be read.

use super::faulty::Faulty;
use super::roundtrip_tests::{pages, tail};
use super::tests::*;
use super::*;
use crate::model::Checkpoint;

const PLAIN: &str = include_str!("../../../tests/golden/journal-v1.txt");
const ENCRYPTED: &str = include_str!("../../../tests/golden/journal-v1-encrypted.txt");
const PACKED: &str = include_str!("../../../tests/golden/journal-v1-packed.txt");

/// A journal with a record of each kind, over three segments; what was written to it, as a reader sees it.
fn sample(faulty: &Faulty, options: Options) {
    let writer = open(faulty, options);
    for (number, batch) in (0..).zip(tail()) {
        writer.append(&batch, 1_700_000_000_000_000).unwrap();
        if number % 3 == 1 {
            writer.commit().unwrap();
        }
    }
    let head = writer.reached();
    let snapshot = writer.begin_snapshot(&head, 11).unwrap();
    for page in pages() {
        writer.append_page(snapshot, &page, 12).unwrap();
    }
    writer.commit().unwrap();
    writer.end_snapshot(snapshot, &head, true, 13).unwrap();
    writer.released(&head, 14).unwrap();
    writer.forget(&[crate::model::PartitionId::new("arn:x/shard-1")], 15).unwrap();
    writer.gap(&[partition()], "the slot was dropped", 16).unwrap();
    writer.append(&one(90), 17).unwrap();
    writer.begin_snapshot(&Checkpoint::default(), 18).unwrap();
    writer.use_keys(keys(None)).unwrap();
    writer.append(&one(91), 19).unwrap();
    writer.commit().unwrap();
    Cursor { name: "sink/one".into(), sequence: 3, moved: 20, outrun: false }.write(faulty).unwrap();
}

/// All files, in lines of 32 bytes.
fn text(faulty: &Faulty) -> String {
    let mut out = String::new();
    for name in faulty.names().unwrap() {
        out += &format!("{name}\n");
        for line in faulty.bytes(&name).chunks(32) {
            out.push_str("  ");
            line.iter().for_each(|byte| out += &format!("{byte:02x}"));
            out.push('\n');
        }
    }
    out
}

/// The disk that a text shows.
fn files(text: &str) -> Faulty {
    let faulty = Faulty::default();
    let (mut name, mut bytes) = ("", Vec::new());
    for line in text.lines().chain(["end"]) {
        match line.strip_prefix("  ") {
            Some(digits) => {
                bytes.extend(
                    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()),
                );
            }
            None => {
                if !name.is_empty() {
                    faulty.put(name, std::mem::take(&mut bytes));
                }
                name = line;
            }
        }
    }
    faulty
}

fn judge(golden: &str, made: &Faulty) {
    let old = files(golden);
    let (wrote, end) = all(made);
    assert_eq!(end.unwrap(), Given::End);
    let (read, end) = all(&old);
    assert_eq!((read, end.unwrap()), (wrote, Given::End));
    assert_eq!(verify(&disk(&old), &keys(None), Reader::settled(&old)).unwrap().damage, Vec::<String>::new());
    assert_eq!(Cursor::all(&old).unwrap(), Cursor::all(made).unwrap());
    // And it is written on.
    let more = simple(&old, 1, options(1 << 20, Some(7)));
    assert_eq!(all(&old).0.last(), more.last());
}

#[test]
fn a_journal_is_what_it_always_was() {
    for (golden, current) in [(PLAIN, None), (ENCRYPTED, Some(7))] {
        let faulty = Faulty::default();
        sample(&faulty, Options { pack: Pack::Never, ..options(1 << 20, current) });
        let made = text(&faulty);
        assert!(made == golden, "it is written as\n{made}");
        judge(golden, &faulty);
    }
}

/// What zstd makes of the same bytes may change with its version; what it made once must be read for ever.
#[test]
fn a_packed_journal_of_old_is_still_read() {
    let faulty = Faulty::default();
    sample(&faulty, Options { pack: Pack::Always, ..options(1 << 20, Some(8)) });
    assert!(PACKED.len() < ENCRYPTED.len());
    judge(PACKED, &faulty);
}
