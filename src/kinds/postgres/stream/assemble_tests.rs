//! Messages in, batches out.

use super::*;
use crate::kinds::postgres::kvrow;
use crate::kinds::postgres::shape::{Column, Shape};
use crate::kinds::postgres::stream::relations::Followed;
use crate::kinds::postgres::wire::pgoutput;

/// Oid of the table that the tests write to: key `a`, values `b` and `c`.
const TABLE: u32 = 7;

fn relations() -> Relations {
    let column = |name: &str| Column { name: name.into(), ..Column::default() };
    let shape = Shape {
        schema: "public".into(),
        name: "t".into(),
        columns: vec![column("a"), column("b"), column("c")],
        key: vec![0],
        flat_key: true,
        ..Shape::default()
    };
    let mut relations = Relations::default();
    relations.insert(TABLE, Some(Followed { table: shape.table(), shape, text: None }));
    relations.insert(TABLE + 1, None);
    relations
}

/// A tuple in the stream's form: `~` null, `?` unchanged, else text.
fn tuple(values: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    rowcodec::begin(&mut out, values.len());
    for value in values {
        rowcodec::push(
            &mut out,
            match *value {
                "~" => Value::Null,
                "?" => Value::Unchanged,
                text => Value::Text(text.as_bytes()),
            },
        );
    }
    out
}

fn message(kind: u8, table: u32, tuples: &[(u8, &[&str])]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&table.to_be_bytes());
    for (kind, values) in tuples {
        out.push(*kind);
        out.extend(tuple(values));
    }
    out
}

struct Bench {
    assembler: Assembler,
    relations: Relations,
    batch: Batch,
}

impl Bench {
    fn from(position: &Position) -> Self {
        let mut bench = Self {
            assembler: Assembler::new(PartitionId::new("pg"), position).unwrap(),
            relations: relations(),
            batch: Batch::unpooled(),
        };
        bench.assembler.begin(&mut bench.batch);
        bench
    }

    fn next_batch(&mut self) -> Batch {
        let mut batch = Batch::unpooled();
        self.assembler.begin(&mut batch);
        std::mem::replace(&mut self.batch, batch)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let (_, message) = pgoutput::parse(bytes, false)?;
        self.assembler.change(&message, &self.relations, &mut self.batch)
    }

    fn insert(&mut self, key: &str) {
        self.send(&message(b'I', TABLE, &[(b'N', &[key, "b", "c"])])).unwrap();
    }

    fn close(&mut self, end: u64) -> Result<()> {
        self.assembler.close(Lsn(end), &mut self.batch)
    }

    fn quiet(&mut self, end: u64) {
        self.assembler.quiet(Lsn(end), &mut self.batch);
    }

    /// `operation key body from` of each change, bodies as the tests write them.
    fn rows(&self) -> Vec<String> {
        let rows = self.batch.rows().map(|row| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let body: Vec<_> = match row.body {
                [] => Vec::new(),
                body => Columns::of(body)
                    .unwrap()
                    .map(|value| match value.unwrap() {
                        Value::Null => "~".to_owned(),
                        Value::Unchanged => "?".to_owned(),
                        Value::Text(bytes) | Value::Binary(bytes) => text(bytes),
                    })
                    .collect(),
            };
            let from = row.from.map_or_else(String::new, |from| format!(" from {}", text(from)));
            format!("{:?} {} {}{from}", row.op, text(row.key), body.join(",")).trim_end().to_owned()
        });
        rows.collect()
    }
}

fn position(text: &str) -> Position {
    text.parse().unwrap()
}

#[test]
fn marks_stand_at_the_ends_of_transactions_and_a_large_one_is_counted_on_over_batches() {
    let mut bench = Bench::from(&position("@00000000/00000010"));
    bench.assembler.open(5).unwrap();
    bench.insert("1");
    bench.close(0x20).unwrap();
    bench.assembler.open(6).unwrap();
    bench.insert("2");
    bench.insert("3");
    let first = bench.next_batch();
    bench.insert("4");
    bench.close(0x30).unwrap();
    let second = bench.next_batch();

    let positions = |batch: &Batch| (0..batch.len()).map(|i| batch.position(i).to_string()).collect::<Vec<_>>();
    assert_eq!(positions(&first), ["@00000000/00000010#1", "@00000000/00000020#1", "@00000000/00000020#2"]);
    assert_eq!((first.closed(), first.upto().to_string().as_str()), (1, "@00000000/00000020"));
    assert_eq!(first.rows().map(|row| row.at).collect::<Vec<_>>(), [5, 6, 6]);
    assert_eq!(second.base().to_string(), "@00000000/00000020#2");
    assert_eq!(positions(&second), ["@00000000/00000020#3"]);
    assert_eq!(second.upto().to_string(), "@00000000/00000030");
    assert_eq!(bench.batch.base().to_string(), "@00000000/00000030");
}

#[test]
fn a_keepalive_marks_a_place_only_where_no_transaction_is_open_and_never_an_older_one() {
    let mut bench = Bench::from(&position("@00000000/00000010"));
    bench.quiet(0x08);
    assert!(bench.batch.marks().is_empty());
    bench.quiet(0x18);
    assert_eq!(bench.batch.upto().to_string(), "@00000000/00000018");
    bench.assembler.open(1).unwrap();
    bench.insert("1");
    bench.quiet(0x40);
    assert_eq!(bench.batch.upto().to_string(), "@00000000/00000018");
    bench.close(0x30).unwrap();
    assert_eq!(bench.batch.upto().to_string(), "@00000000/00000030");
}

#[test]
fn a_stream_that_begins_within_a_transaction_marks_nothing_before_its_end() {
    let mut bench = Bench::from(&position("@00000000/00000010#2"));
    // Were this a mark, the two changes that were passed would be counted from it and come again.
    bench.quiet(0x18);
    bench.assembler.open(1).unwrap();
    bench.close(0x1C).unwrap();
    assert!(bench.batch.marks().is_empty());
    bench.assembler.open(1).unwrap();
    for key in ["1", "2", "3"] {
        bench.insert(key);
    }
    bench.close(0x20).unwrap();
    assert_eq!(bench.batch.position(1).to_string(), "@00000000/00000010#2");
    assert_eq!(bench.batch.upto().to_string(), "@00000000/00000020");
    bench.quiet(0x28);
    assert_eq!(bench.batch.upto().to_string(), "@00000000/00000028");
}

#[test]
fn values_of_sequences_travel_at_the_end_of_a_transaction_or_with_a_place() {
    let mut bench = Bench::from(&position("@00000000/00000010"));
    bench.assembler.open(1).unwrap();
    bench.insert("1");
    bench.assembler.carry(vec![("public.s".into(), 7)]);
    bench.quiet(0x18);
    bench.insert("2");
    bench.close(0x20).unwrap();
    bench.assembler.carry(vec![("public.s".into(), 8)]);
    bench.quiet(0x18);
    bench.quiet(0x28);
    let rows: Vec<_> = bench.batch.rows().map(|row| (row.table.name.as_str(), row.key, row.body.len())).collect();
    assert_eq!(rows[2..], [("!sequences", &b"public.s"[..], 1), ("!sequences", b"public.s", 1)]);
    assert_eq!((rows.len(), bench.batch.closed()), (4, 4));
    let marks: Vec<_> = bench.batch.marks().iter().map(|mark| (mark.changes, mark.upto.to_string())).collect();
    assert_eq!(marks, [(3, "@00000000/00000020".into()), (4, "@00000000/00000028".into())]);
}

#[test]
fn rows_become_changes_whatever_the_old_row_tells() {
    let mut bench = Bench::from(&Position::Start);
    bench.assembler.open(1).unwrap();
    for bytes in [
        message(b'U', TABLE, &[(b'N', &["k", "1", "~"])]),
        message(b'U', TABLE, &[(b'N', &["k", "?", "2"])]),
        // FULL, the key stays: the old row fills the hole.
        message(b'U', TABLE, &[(b'O', &["k", "old", "x"]), (b'N', &["k", "?", "3"])]),
        // The key changes.
        message(b'U', TABLE, &[(b'K', &["k", "~", "~"]), (b'N', &["l", "4", "4"])]),
        message(b'U', TABLE, &[(b'K', &["l", "~", "~"]), (b'N', &["m", "?", "5"])]),
        message(b'U', TABLE, &[(b'O', &["m", "old", "x"]), (b'N', &["n", "?", "6"])]),
        // A long key that did not change is a hole as well.
        message(b'U', TABLE, &[(b'K', &["n", "~", "~"]), (b'N', &["?", "?", "7"])]),
        message(b'D', TABLE, &[(b'K', &["n", "~", "~"])]),
        message(b'D', TABLE, &[(b'O', &["o", "1", "2"])]),
        message(b'I', TABLE + 1, &[(b'N', &["not ours"])]),
        [&b"T"[..], &3u32.to_be_bytes(), &[0], &TABLE.to_be_bytes(), &(TABLE + 1).to_be_bytes(), &TABLE.to_be_bytes()]
            .concat(),
    ] {
        bench.send(&bytes).unwrap();
    }
    let expected = [
        "Put k k,1,~",
        "Patch k k,?,2",
        "Put k k,old,3",
        "Delete k",
        "Put l l,4,4",
        "Delete l",
        "Patch m m,?,5 from l",
        "Delete m",
        "Put n n,old,6",
        "Patch n n,?,7",
        "Delete n",
        "Delete o",
        "Clear",
        "Clear",
    ];
    assert_eq!(bench.rows(), expected);
    bench.close(0x10).unwrap();
    assert!(Arc::ptr_eq(bench.batch.row(0).table, bench.batch.row(13).table));
    assert_eq!(bench.batch.tables().len(), 1);
}

#[test]
fn what_no_server_sends_is_corrupt_and_names_the_table_but_no_value() {
    let mut bench = Bench::from(&position("@00000000/00000010"));
    let put = message(b'I', TABLE, &[(b'N', &["k", "1", "2"])]);
    assert!(bench.send(&put).is_err(), "a change without a transaction");
    assert!(bench.close(0x20).is_err(), "a commit without a transaction");
    bench.assembler.open(1).unwrap();
    for bytes in [
        message(b'I', TABLE, &[(b'N', &["secret", "?", "2"])]),
        message(b'I', TABLE, &[(b'N', &["secret", "2"])]),
        message(b'I', TABLE, &[(b'N', &["~", "secret", "2"])]),
        message(b'U', TABLE, &[(b'N', &["?", "secret", "2"])]),
        message(b'D', TABLE, &[(b'K', &["~", "secret", "~"])]),
        message(b'I', 99, &[(b'N', &["secret"])]),
    ] {
        let error = bench.send(&bytes).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.fault(), crate::error::Fault::Corrupt, "{text}");
        assert!(!text.contains("secret") && (text.contains("public.t") || text.contains("not described")), "{text}");
    }
    bench.send(&put).unwrap();
    assert!(bench.assembler.open(1).is_err(), "a transaction within another");
    assert!(bench.close(0x10).is_err(), "a commit that was passed before");
}

#[test]
fn text_of_a_server_that_streams_nothing_else_becomes_the_binary_row_of_kv() {
    let mut bench = Bench::from(&Position::Start);
    let shape = kvrow::shape("public");
    let text = Some(kvrow::Kv::of(&shape).unwrap());
    bench.relations.insert(TABLE, Some(Followed { table: shape.table(), shape, text }));
    let revision = "6b1d2a5e-4c1f-4a9e-9a55-0f7c2f7d1b42";
    let row: &[&str] = &["\\x2f61", "\\x00ff", "2026-04-01 12:10:30+00", revision];
    let moved: &[&str] = &["\\x2f62", "?", "~", revision];
    let messages = [
        message(b'I', TABLE, &[(b'N', row)]),
        message(b'U', TABLE, &[(b'O', row), (b'N', moved)]),
        message(b'D', TABLE, &[(b'O', moved)]),
    ];
    bench.assembler.open(5).unwrap();
    messages.iter().for_each(|message| bench.send(message).unwrap());
    bench.close(0x20).unwrap();
    let batch = bench.next_batch();
    let keys: Vec<_> = batch.rows().map(|row| (row.op, row.key)).collect();
    assert_eq!(keys, [(Op::Put, &b"/a"[..]), (Op::Delete, b"/a"), (Op::Put, b"/b"), (Op::Delete, b"/b")]);
    let kv = kvrow::Kv::of(&kvrow::shape("public")).unwrap();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut item = kv.to_item(batch.row(0).body).unwrap();
    assert_eq!((item.value.as_slice(), item.expires), (&b"\x00\xff"[..], Some(1_775_045_430_000_000_000)));
    kv.from_item(b"/a", &item, &mut first);
    item.expires = None;
    kv.from_item(b"/b", &item, &mut second);
    assert_eq!([batch.row(0).body, batch.row(2).body], [&first[..], &second]);
}
