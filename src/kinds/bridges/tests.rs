//! The routes between two kinds, with the formats' own test vectors.
#![allow(clippy::unwrap_used)] // Tests stop at the first surprise.

use std::sync::Arc;

use rusqlite::types::ValueRef;

use super::{bodies, bridge};
use crate::bridge::{Bridge, Verdict};
use crate::kinds::dynamodb::item as dynamodb;
use crate::kinds::etcd::body as etcd;
use crate::kinds::postgres::kvrow::{self, Kv};
use crate::kinds::postgres::rowcodec::{self, Value};
use crate::kinds::sqlite::body::{self, Body};
use crate::model::{Item, Kind, Layout, Micros, Op, Row, Table};

const R: &str = "6b1d2a5e-4c1f-4a9e-9a55-0f7c2f7d1b42";
const NIL: &str = "00000000-0000-0000-0000-000000000000";
/// 2026-04-01T12:00:00Z.
const T: Micros = 1_775_044_800_000_000;
/// 2026-04-01T12:10:30Z, in nanoseconds.
const E: i128 = 1_775_045_430_000_000_000;

fn items() -> [(&'static str, &'static [u8], Option<i128>); 6] {
    [
        ("/authorities/host/example.com", br#"{"kind":"cert_authority"}"#, None),
        ("/nodes/default/4f1c0f5e-8d3c-4f0a-9b0e-2a6c7f1d9e55", br#"{"kind":"node"}"#, Some(E)),
        ("/web/users/alice/pwd", b"$2a$10$abcdefghijklmnopqrstuv", None),
        ("/semaphores/connection/alice/lock1", b"\x00\xff\x10", Some(E)),
        (".flags/migration", b"hello", Some(E)),
        ("/a?>b/ÿ~", b"{}", None),
    ]
}

fn item(value: &[u8], expires: Option<i128>, revision: &str) -> Item {
    Item { value: value.to_vec(), expires, revision: revision.as_bytes().to_vec() }
}

/// A row as the given kind's store gives it.
struct Stored {
    key: Vec<u8>,
    body: Vec<u8>,
    table: Arc<Table>,
}

impl Stored {
    fn row(&self) -> Row<'_> {
        Row { op: Op::Put, fresh: false, table: &self.table, key: &self.key, body: &self.body, from: None, at: T }
    }
}

fn stored(kind: Kind, key: &str, item: &Item) -> Stored {
    let mut out = Vec::new();
    let table = match kind {
        Kind::Sqlite => {
            body::from_item(item, T, &mut out).unwrap();
            Arc::default()
        }
        Kind::Etcd => {
            etcd::from_item(item, &mut out);
            Arc::default()
        }
        Kind::Dynamodb => {
            dynamodb::from_item(item, T, &mut out).unwrap();
            Arc::default()
        }
        _ => {
            let shape = kvrow::shape("public");
            Kv::of(&shape).unwrap().from_item(key.as_bytes(), item, &mut out);
            shape.table()
        }
    };
    Stored { key: key.into(), body: out, table }
}

/// What the sink holds after the row was carried over.
fn carried(bridge: &dyn Bridge, from: &Stored, sink: Kind) -> Stored {
    let mut out = Vec::new();
    let body = match bridge.translate(from.row(), T, &mut out).unwrap() {
        Verdict::AsIs => from.body.clone(),
        Verdict::Body => out,
        Verdict::Delete => panic!("it has not expired"),
    };
    let table = if sink == Kind::Postgresql { kvrow::shape("public").table() } else { Arc::default() };
    Stored { key: from.key.clone(), body, table }
}

fn route(from: Kind, to: Kind) -> Arc<dyn Bridge> {
    bridge(from, to, Layout::Teleport).unwrap()
}

const ROUTES: [(Kind, Kind); 4] = [
    (Kind::Sqlite, Kind::Sqlite),
    (Kind::Sqlite, Kind::Postgresql),
    (Kind::Postgresql, Kind::Sqlite),
    (Kind::Postgresql, Kind::Postgresql),
];

/// The item in what is stored.
fn read(kind: Kind, body: &[u8]) -> Item {
    match kind {
        Kind::Sqlite => body::to_item(body).unwrap(),
        Kind::Etcd => etcd::to_item(body).unwrap(),
        Kind::Dynamodb => dynamodb::to_item(body).unwrap(),
        _ => Kv::of(&kvrow::shape("public")).unwrap().to_item(body).unwrap(),
    }
}

const WITH_ETCD: [(Kind, Kind); 5] = [
    (Kind::Etcd, Kind::Etcd),
    (Kind::Etcd, Kind::Sqlite),
    (Kind::Etcd, Kind::Postgresql),
    (Kind::Sqlite, Kind::Etcd),
    (Kind::Postgresql, Kind::Etcd),
];

#[test]
fn every_vector_goes_to_etcd_and_comes_from_it_with_value_and_expiry() {
    for (from, to) in WITH_ETCD {
        let bridge = route(from, to);
        for (key, value, expires) in items() {
            let source = stored(from, key, &item(value, expires, if from == Kind::Etcd { "" } else { R }));
            let sink = carried(&*bridge, &source, to);
            let got = read(to, &sink.body);
            assert_eq!((&got.value[..], got.expires), (value, expires), "{from} to {to}: {key}");
            assert!(bridge.same(source.row(), sink.row()).unwrap(), "{from} to {to}: {key}");
            for other in [item(b"other", expires, ""), item(value, Some(E + 16_000_000_000), "")] {
                let other = stored(to, key, &other);
                assert!(!bridge.same(source.row(), other.row()).unwrap(), "{from} to {to}: {key}");
            }
        }
    }
}

/// What a lease tells is late by seconds, and a destination's own leases end a little later still.
#[test]
fn expiries_are_equal_as_far_as_a_lease_can_tell_on_either_side() {
    for (from, to) in WITH_ETCD {
        let bridge = route(from, to);
        for (apart, equal) in [(0, true), (15, true), (-15, true), (16, false), (-16, false)] {
            let source = stored(from, "/k", &item(b"v", Some(E), ""));
            let sink = stored(to, "/k", &item(b"v", Some(E + apart * 1_000_000_000), ""));
            assert_eq!(bridge.same(source.row(), sink.row()).unwrap(), equal, "{from} to {to}: {apart}");
        }
    }
}

#[test]
fn the_revision_of_etcd_goes_where_it_can_be_held_and_is_compared_there_alone() {
    let with_revision = |revision| {
        let mut out = Vec::new();
        etcd::Body { expires: None, revision, granted: 0, value: b"v" }.encode(&mut out);
        Stored { key: b"/k".to_vec(), body: out, table: Arc::default() }
    };
    let (source, newer) = (with_revision(4711), with_revision(4712));
    for (to, compared) in [(Kind::Sqlite, true), (Kind::Postgresql, false), (Kind::Etcd, false)] {
        let bridge = route(Kind::Etcd, to);
        let sink = carried(&*bridge, &source, to);
        assert!(bridge.same(source.row(), sink.row()).unwrap(), "{to}");
        assert_eq!(bridge.same(newer.row(), sink.row()).unwrap(), !compared, "{to}");
        if to == Kind::Sqlite {
            assert_eq!(read(to, &sink.body).revision, b"4711");
        }
    }
}

#[test]
fn raw_keys_of_etcd_go_as_they_are_until_they_have_expired() {
    let bridge = bridge(Kind::Etcd, Kind::Etcd, Layout::Raw).unwrap();
    let at = Micros::try_from(E / 1_000).unwrap();
    let row = stored(Kind::Etcd, "any\0key", &item(b"", Some(E), ""));
    let verdict = |now| bridge.translate(row.row(), now, &mut Vec::new()).unwrap();
    assert_eq!((verdict(at - 1), verdict(at)), (Verdict::AsIs, Verdict::Delete));
    assert!(bridge.expired(row.row(), true, at).unwrap());
    assert!(bridge.same(row.row(), row.row()).unwrap());
}

#[test]
fn every_vector_is_the_same_item_on_the_other_side_of_every_route() {
    for (from, to) in ROUTES {
        let bridge = route(from, to);
        for (key, value, expires) in items() {
            for revision in [R, ""] {
                let source = stored(from, key, &item(value, expires, revision));
                let sink = carried(&*bridge, &source, to);
                assert_eq!(read(to, &sink.body), item(value, expires, revision), "{from} to {to}: {key}");
                assert!(bridge.same(source.row(), sink.row()).unwrap(), "{from} to {to}: {key}");
                let other = stored(to, key, &item(b"other", expires, revision));
                assert!(!bridge.same(source.row(), other.row()).unwrap(), "{from} to {to}: {key}");
            }
        }
    }
}

/// P10: carried as far as the sink can hold it, rounded up, never lost.
#[test]
fn an_expiry_that_the_sink_cannot_hold_is_rounded_up_and_equal() {
    let fine = Some(E + 120_000_001);
    let bridge = route(Kind::Sqlite, Kind::Postgresql);
    let source = stored(Kind::Sqlite, "/k", &item(b"v", fine, R));
    let sink = carried(&*bridge, &source, Kind::Postgresql);
    assert!(bridge.same(source.row(), sink.row()).unwrap());
    let read = Kv::of(&kvrow::shape("public")).unwrap().to_item(&sink.body).unwrap();
    assert_eq!(read.expires, Some(E + 120_001_000));
    // One microsecond further is another instant.
    let other = stored(Kind::Postgresql, "/k", &item(b"v", Some(E + 120_002_000), R));
    assert!(!bridge.same(source.row(), other.row()).unwrap());
    // The same kind on both sides keeps every nanosecond.
    let same = route(Kind::Sqlite, Kind::Sqlite);
    let near = stored(Kind::Sqlite, "/k", &item(b"v", Some(E + 120_000_002), R));
    assert!(!same.same(source.row(), near.row()).unwrap());
}

#[test]
fn the_time_text_of_the_vectors_is_written_into_sqlite() {
    for (expires, text) in [(E, "2026-04-01 12:10:30+00:00"), (E + 120_000_000, "2026-04-01 12:10:30.12+00:00")] {
        let bridge = route(Kind::Postgresql, Kind::Sqlite);
        let source = stored(Kind::Postgresql, "/k", &item(b"v", Some(expires), R));
        let sink = carried(&*bridge, &source, Kind::Sqlite);
        let body = Body::decode(&sink.body).unwrap();
        assert_eq!(body.expires, ValueRef::Text(text.as_bytes()));
        assert_eq!(body.modified, ValueRef::Integer(T * 1_000));
    }
}

#[test]
fn revisions_are_compared_where_the_sink_can_hold_them() {
    let same = |from: Kind, to: Kind, ours: &str, theirs: &str| {
        let source = stored(from, "/k", &item(b"v", None, ours));
        let sink = stored(to, "/k", &item(b"v", None, theirs));
        route(from, to).same(source.row(), sink.row()).unwrap()
    };
    let other = "11111111-4c1f-4a9e-9a55-0f7c2f7d1b42";
    for (from, to) in ROUTES {
        assert!(!same(from, to, R, other), "{from} to {to}");
        assert!(!same(from, to, "", R), "{from} to {to}");
    }
    let (lite, pg) = (Kind::Sqlite, Kind::Postgresql);
    assert!(same(lite, pg, NIL, ""), "the nil UUID is how a blank revision is shown");
    assert!(same(pg, lite, "", NIL));
    assert!(same(lite, pg, "f2:6b1d2a5e", other), "PostgreSQL cannot hold such a revision, so it is not compared");
    assert!(!same(pg, lite, R, "4711"), "SQLite can hold every revision of PostgreSQL");
}

/// P10: what has expired is never brought back.
#[test]
fn what_has_expired_becomes_a_delete() {
    for (from, to) in ROUTES.into_iter().chain(WITH_ETCD) {
        let bridge = route(from, to);
        let row = stored(from, "/k", &item(b"v", Some(E), R));
        let at = Micros::try_from(E / 1_000).unwrap();
        let verdict = |now| bridge.translate(row.row(), now, &mut Vec::new()).unwrap();
        assert_ne!(verdict(at - 1), Verdict::Delete, "{from} to {to}");
        assert_eq!(verdict(at), Verdict::Delete, "{from} to {to}");
        assert!(bridge.expired(row.row(), false, at).unwrap());
        let sink = stored(to, "/k", &item(b"v", Some(E), R));
        assert!(bridge.expired(sink.row(), true, at).unwrap());
        assert!(!bridge.expired(sink.row(), true, at - 1).unwrap());
    }
}

/// What a filter looks into and writes, in both kinds, rows of old servers (text) included.
#[test]
fn a_row_is_rewritten_under_another_key_and_with_another_value_and_keeps_the_rest() {
    for kind in [Kind::Sqlite, Kind::Postgresql, Kind::Etcd] {
        let bodies = bodies(kind).unwrap();
        for expires in [None, Some(E)] {
            let old = stored(kind, "/old", &item(b"old", expires, R));
            assert_eq!(bodies.expires(old.row()).unwrap(), Some(expires.is_some()));
            assert_eq!(bodies.value(old.row()).unwrap().as_deref(), Some(&b"old"[..]));
            for (key, value) in [(None, Some("new")), (Some("/new"), None), (Some("/new"), Some("new"))] {
                let mut out = Vec::new();
                let (key, value) = (key.map(str::as_bytes), value.map(str::as_bytes));
                let changed = bodies.rewrite(old.row(), key, value, &mut out).unwrap();
                let name = String::from_utf8(key.unwrap_or(b"/old").to_vec()).unwrap();
                let wanted = stored(kind, &name, &item(value.unwrap_or(b"old"), expires, R));
                assert_eq!(if changed { &out } else { &old.body }, &wanted.body, "{kind} {key:?} {value:?}");
            }
        }
    }
}

#[test]
fn a_row_in_text_form_stays_in_it_and_a_hole_stays_a_hole() {
    let bodies = bodies(Kind::Postgresql).unwrap();
    let table = kvrow::shape("public").table();
    let body = |key: Value<'_>, value: Value<'_>| {
        let mut out = Vec::new();
        rowcodec::begin(&mut out, 4);
        for value in [key, value, Value::Text(b"infinity"), Value::Text(R.as_bytes())] {
            rowcodec::push(&mut out, value);
        }
        out
    };
    let row = |body: &[u8]| {
        let row = Row { op: Op::Patch, fresh: false, table: &table, key: b"/old", body, from: None, at: T };
        let mut out = Vec::new();
        bodies.rewrite(row, Some(b"/new"), Some(b"new"), &mut out).unwrap();
        (bodies.value(row).unwrap().map(|value| value.into_owned()), bodies.expires(row).unwrap(), out)
    };
    let text = body(Value::Text(b"\\x2f6f6c64"), Value::Text(b"\\x6f6c64"));
    let wanted = body(Value::Text(b"\\x2f6e6577"), Value::Text(b"\\x6e6577"));
    assert_eq!(row(&text), (Some(b"old".to_vec()), Some(false), wanted));
    let holes = body(Value::Unchanged, Value::Unchanged);
    assert_eq!(row(&holes), (None, Some(false), holes.clone()));
}

#[test]
fn raw_connects_postgresql_and_etcd_only_with_themselves() {
    assert!(bridge(Kind::Postgresql, Kind::Postgresql, Layout::Raw).is_ok());
    for (from, to) in ROUTES[..3].iter().chain(&WITH_ETCD[1..]) {
        assert!(bridge(*from, *to, Layout::Raw).is_err());
    }
}

const OTHERS: [Kind; 3] = [Kind::Sqlite, Kind::Postgresql, Kind::Etcd];

#[test]
fn every_vector_goes_to_dynamodb_and_comes_from_it() {
    for other in OTHERS.into_iter().chain([Kind::Dynamodb]) {
        for (from, to) in [(other, Kind::Dynamodb), (Kind::Dynamodb, other)] {
            let bridge = route(from, to);
            for (key, value, expires) in items() {
                let held = !matches!((from, to), (Kind::Etcd, _) | (_, Kind::Etcd));
                let source = stored(from, key, &item(value, expires, if held { R } else { "" }));
                let sink = carried(&*bridge, &source, to);
                let got = read(to, &sink.body);
                assert_eq!((&got.value[..], got.expires), (value, expires), "{from} to {to}: {key}");
                assert!(!held || got.revision == R.as_bytes(), "{from} to {to}: {key}");
                assert!(bridge.same(source.row(), sink.row()).unwrap(), "{from} to {to}: {key}");
            }
        }
    }
}

#[test]
fn an_expiry_is_a_whole_second_at_dynamodb_and_equal_within_it() {
    let bridge = route(Kind::Sqlite, Kind::Dynamodb);
    let source = stored(Kind::Sqlite, "/a", &item(b"v", Some(E + 1), R));
    let sink = carried(&*bridge, &source, Kind::Dynamodb);
    assert_eq!(read(Kind::Dynamodb, &sink.body).expires, Some(E + 1_000_000_000), "rounded up, never lost");
    assert!(bridge.same(source.row(), sink.row()).unwrap());
    let later = stored(Kind::Dynamodb, "/a", &item(b"v", Some(E + 2_000_000_000), R));
    assert!(!bridge.same(source.row(), later.row()).unwrap());
    assert!(!bridge.expired(sink.row(), true, (E / 1_000) as Micros).unwrap());
    assert!(bridge.expired(sink.row(), true, (E / 1_000) as Micros + 1_000_000).unwrap());
    // A revision of etcd is a number, and goes along as text; blank stays blank.
    for (revision, held) in [("4711", "4711"), ("", ""), (NIL, "")] {
        let source = stored(Kind::Sqlite, "/a", &item(b"v", None, revision));
        let sink = carried(&*bridge, &source, Kind::Dynamodb);
        assert_eq!(read(Kind::Dynamodb, &sink.body).revision, held.as_bytes());
        assert!(bridge.same(source.row(), sink.row()).unwrap());
    }
    let renewed = stored(Kind::Dynamodb, "/a", &item(b"v", Some(E + 1), R));
    let one = route(Kind::Dynamodb, Kind::Dynamodb);
    assert!(!one.same(renewed.row(), later.row()).unwrap(), "one revision may have had two expiries");
}

#[test]
fn another_value_of_a_dynamodb_item_leaves_the_rest() {
    let source = stored(Kind::Dynamodb, "/a", &item(b"old", Some(E), R));
    let bodies = bodies(Kind::Dynamodb).unwrap();
    assert_eq!(bodies.value(source.row()).unwrap().unwrap(), &b"old"[..]);
    assert_eq!(bodies.expires(source.row()).unwrap(), Some(true));
    let mut out = Vec::new();
    assert!(bodies.rewrite(source.row(), Some(b"/b"), Some(b"new"), &mut out).unwrap());
    assert_eq!(read(Kind::Dynamodb, &out), item(b"new", Some(E), R));
    assert!(!bodies.rewrite(source.row(), Some(b"/b"), None, &mut Vec::new()).unwrap(), "the key stands beside it");
}
