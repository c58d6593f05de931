//! Rows of Teleport's table `kv`, as items.
//!
//! The table has `key bytea`, `value bytea`, `expires timestamptz` (NULL = never) and `revision uuid`, in whatever order.
//! Items are read from both forms and always written in binary. Instants that are finer than a microsecond are rounded
//! up, never down: nothing expires earlier at the sink than at the source.
//!
//! **Revisions.** The column holds a UUID and nothing else. A blank revision is the nil UUID, in both directions. A
//! canonical UUID is kept. Any other revision (etcd's numbers) becomes the version 5 UUID of its bytes in a namespace of
//! our own: equal revisions stay equal and different ones stay different, at every run and on every machine, which is
//! all that a revision is compared for.

use std::borrow::Cow;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::model::{Item, Micros};

use super::ddl::qualified;
use super::rowcodec::{self, Columns, Value};
use super::shape::{Column, Constraint, Identity, Index, Shape};

/// Namespace of revisions that are no UUIDs.
const REVISIONS: Uuid = Uuid::from_u128(0x9d1c_1f5e_70c6_4f3b_9a56_5a0e_6d2f_b3c1);
/// 2000-01-01T00:00:00Z, from which PostgreSQL counts, in microseconds of the Unix epoch.
const EPOCH: i64 = 946_684_800_000_000;
/// The earliest finite instant of PostgreSQL (4714-11-24 BC), and the first that is too late (294277-01-01), as it counts.
const EARLIEST: i64 = -211_813_488_000_000_000;
const TOO_LATE: i64 = 9_223_371_331_200_000_000;

const BYTEA: u32 = 17;
const TIMESTAMPTZ: u32 = 1184;
const UUID: u32 = 2950;

/// Where the columns of `kv` stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kv {
    key: usize,
    value: usize,
    expires: usize,
    revision: usize,
}

/// The four columns of a row.
struct Fields<'a> {
    key: Value<'a>,
    value: Value<'a>,
    expires: Value<'a>,
    revision: Value<'a>,
}

/// The shape of the table `kv` in its version 2, as Teleport makes it.
pub fn shape(schema: &str) -> Shape {
    let column = |(number, (name, type_oid, type_name, not_null)): (i16, (&str, u32, &str, bool))| Column {
        name: name.into(),
        number,
        type_oid,
        typmod: -1,
        type_name: type_name.into(),
        not_null,
        binary: true,
        sendable: true,
        output: format!("pg_catalog.{}", type_oid_output(type_oid)),
        base_oid: type_oid,
        ..Column::default()
    };
    let columns = [
        ("key", BYTEA, "bytea", true),
        ("value", BYTEA, "bytea", true),
        ("expires", TIMESTAMPTZ, "timestamp with time zone", false),
        ("revision", UUID, "uuid", true),
    ];
    Shape {
        schema: schema.into(),
        name: "kv".into(),
        binary: true,
        flat_key: true,
        columns: (1..).zip(columns).map(column).collect(),
        key: vec![0],
        key_index: "kv_pkey".into(),
        portable: true,
        identity: Identity::Full,
        constraints: vec![Constraint { name: "kv_pkey".into(), kind: 'p', definition: "PRIMARY KEY (key)".into() }],
        indexes: vec![Index {
            name: "kv_expires_idx".into(),
            unique: false,
            definition: format!(
                "CREATE INDEX kv_expires_idx ON {} USING btree (expires) WHERE (expires IS NOT NULL)",
                qualified(schema, "kv")
            ),
        }],
        ..Shape::default()
    }
}

fn type_oid_output(oid: u32) -> &'static str {
    match oid {
        BYTEA => "byteaout",
        UUID => "uuid_out",
        _ => "timestamptz_out",
    }
}

impl Kv {
    /// Finds the columns.
    ///
    /// # Errors
    /// Config when the table is not Teleport's: a column is missing, has another type, or there is one more.
    pub fn of(shape: &Shape) -> Result<Self> {
        let find = |name: &str, oid: u32| {
            shape.columns.iter().position(|column| column.name == name && column.type_oid == oid).ok_or_else(|| {
                Error::config(format!(
                    "read table {:?}: it has no column {name} of the type that Teleport gives it, so it is not a \
                     Teleport backend of schema version 2; for other tables use layout: raw",
                    shape.full_name()
                ))
            })
        };
        let kv = Self {
            key: find("key", BYTEA)?,
            value: find("value", BYTEA)?,
            expires: find("expires", TIMESTAMPTZ)?,
            revision: find("revision", UUID)?,
        };
        match shape.columns.len() {
            4 => Ok(kv),
            count => Err(Error::config(format!(
                "read table {:?}: it has {count} columns where Teleport's schema version 2 has 4; for other tables use \
                 layout: raw",
                shape.full_name()
            ))),
        }
    }

    fn fields<'a>(&self, body: &'a [u8]) -> Result<Fields<'a>> {
        let mut values = [Value::Null; 4];
        for (slot, value) in values.iter_mut().zip(Columns::expect(body, 4)?) {
            *slot = value?;
        }
        let at = |index: usize| values.get(index).copied().unwrap_or(Value::Null);
        Ok(Fields { key: at(self.key), value: at(self.value), expires: at(self.expires), revision: at(self.revision) })
    }

    /// The item in a body without holes.
    ///
    /// # Errors
    /// Corrupt when it is not a row of `kv`.
    pub fn to_item(&self, body: &[u8]) -> Result<Item> {
        let fields = self.fields(body)?;
        let revision = revision_of(fields.revision)?;
        Ok(Item {
            value: bytea(fields.value)?.into_owned(),
            expires: nanos(expires_of(fields.expires)?),
            revision: if revision.is_nil() { Vec::new() } else { revision.hyphenated().to_string().into_bytes() },
        })
    }

    /// Appends the body of an item.
    pub fn from_item(&self, key: &[u8], item: &Item, out: &mut Vec<u8>) {
        self.write(key, &item.value, item.expires.map(to_postgres), parse_revision(&item.revision), out);
    }

    /// Appends the same row in binary form, whichever form it has: what servers before version 14 stream is text.
    /// Bodies with holes keep them.
    ///
    /// # Errors
    /// Corrupt when it is not a row of `kv`.
    pub fn to_binary(&self, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let kept = |index: usize, value: Value<'_>, out: &mut Vec<u8>| -> Result<()> {
            match value {
                Value::Text(_) if index == self.expires => {
                    let at = expires_of(value)?.unwrap_or(i64::MAX);
                    rowcodec::push(out, Value::Binary(&at.to_be_bytes()));
                }
                Value::Text(_) if index == self.revision => {
                    rowcodec::push(out, Value::Binary(revision_of(value)?.as_bytes()));
                }
                Value::Text(_) => rowcodec::push(out, Value::Binary(&bytea(value)?)),
                value => rowcodec::push(out, value),
            }
            Ok(())
        };
        rowcodec::begin(out, 4);
        Columns::expect(body, 4)?.enumerate().try_for_each(|(index, value)| kept(index, value?, out))
    }

    /// The logical key of a row.
    ///
    /// # Errors
    /// Corrupt when it is not a row of `kv`.
    pub fn key<'a>(&self, body: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        bytea(self.fields(body)?.key)
    }

    /// Whether the row has expired at `now`. A row whose expiry is a hole has not.
    ///
    /// # Errors
    /// Corrupt when it is not a row of `kv`.
    pub fn expired(&self, body: &[u8], now: Micros) -> Result<bool> {
        let expires = self.fields(body)?.expires;
        Ok(expires != Value::Unchanged && expires_of(expires)?.is_some_and(|at| at <= now.saturating_sub(EPOCH)))
    }

    /// Whether the row expires at some time; `None` if that is a hole.
    ///
    /// # Errors
    /// Corrupt when it is not a row of `kv`.
    pub fn expires(&self, body: &[u8]) -> Result<Option<bool>> {
        match self.fields(body)?.expires {
            Value::Unchanged => Ok(None),
            value => Ok(Some(expires_of(value)?.is_some())),
        }
    }

    /// The value of a row; `None` if it is a hole.
    ///
    /// # Errors
    /// Corrupt when it is not a row of `kv`.
    pub fn value<'a>(&self, body: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>> {
        match self.fields(body)?.value {
            Value::Unchanged => Ok(None),
            value => bytea(value).map(Some),
        }
    }

    /// Appends the same row, each column in the form that it has, under another key or with another value. Holes stay.
    ///
    /// # Errors
    /// Corrupt when it is not a row of `kv`.
    pub fn rewrite(&self, body: &[u8], key: Option<&[u8]>, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<()> {
        rowcodec::begin(out, 4);
        for (index, column) in Columns::expect(body, 4)?.enumerate() {
            let other = if index == self.key { key } else { value.filter(|_| index == self.value) };
            match (column?, other) {
                (Value::Text(_), Some(bytes)) => rowcodec::push(out, Value::Text(&hex(bytes))),
                (Value::Binary(_) | Value::Null, Some(bytes)) => rowcodec::push(out, Value::Binary(bytes)),
                (column, _) => rowcodec::push(out, column),
            }
        }
        Ok(())
    }

    fn write(&self, key: &[u8], value: &[u8], expires: Option<i64>, revision: Uuid, out: &mut Vec<u8>) {
        let instant = expires.map(i64::to_be_bytes);
        let expires = instant.as_ref().map_or(Value::Null, |bytes| Value::Binary(bytes));
        let mut values = [Value::Null; 4];
        for (index, field) in [
            (self.key, Value::Binary(key)),
            (self.value, Value::Binary(value)),
            (self.expires, expires),
            (self.revision, Value::Binary(revision.as_bytes())),
        ] {
            if let Some(slot) = values.get_mut(index) {
                *slot = field;
            }
        }
        rowcodec::begin(out, 4);
        values.into_iter().for_each(|value| rowcodec::push(out, value));
    }
}

fn broken(what: &str) -> Error {
    Error::corrupt(format!("read a row of kv: {what}"))
}

fn bytea(value: Value<'_>) -> Result<Cow<'_, [u8]>> {
    match value {
        Value::Binary(bytes) => Ok(Cow::Borrowed(bytes)),
        Value::Text(text) => {
            let hex = text.strip_prefix(b"\\x").ok_or_else(|| broken("a bytea is not in hexadecimal"))?;
            unhex(hex).map(Cow::Owned).ok_or_else(|| broken("a bytea is not in hexadecimal"))
        }
        Value::Null | Value::Unchanged => Err(broken("key or value is missing")),
    }
}

/// Bytes as a server prints them.
fn hex(bytes: &[u8]) -> Vec<u8> {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).map_or(b'?', |digit| digit as u8);
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    b"\\x".iter().copied().chain(digits).collect()
}

/// Bytes from their hexadecimal digits.
pub(super) fn unhex(hex: &[u8]) -> Option<Vec<u8>> {
    let digit = |d: u8| char::from(d).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = hex.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

fn revision_of(value: Value<'_>) -> Result<Uuid> {
    match value {
        Value::Binary(bytes) => Uuid::from_slice(bytes).map_err(|_| broken("its revision does not have 16 bytes")),
        Value::Text(text) => Uuid::try_parse_ascii(text).map_err(|_| broken("its revision is not a UUID")),
        Value::Null | Value::Unchanged => Err(broken("its revision is missing")),
    }
}

fn parse_revision(revision: &[u8]) -> Uuid {
    if revision.is_empty() {
        return Uuid::nil();
    }
    match Uuid::try_parse_ascii(revision) {
        Ok(uuid) if uuid.hyphenated().to_string().as_bytes() == revision => uuid,
        _ => Uuid::new_v5(&REVISIONS, revision),
    }
}

/// Microseconds since 2000, as stored. `infinity` is never; `-infinity` is the earliest instant.
fn expires_of(value: Value<'_>) -> Result<Option<i64>> {
    let at = match value {
        Value::Null => return Ok(None),
        Value::Unchanged => return Err(broken("its expiry is missing")),
        Value::Binary(bytes) => {
            i64::from_be_bytes(bytes.try_into().map_err(|_| broken("its expiry does not have 8 bytes"))?)
        }
        Value::Text(b"infinity") => i64::MAX,
        Value::Text(b"-infinity") => i64::MIN,
        Value::Text(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
            .map(|at| at.as_microsecond() - EPOCH)
            .ok_or_else(|| broken("its expiry is not an instant in the years 1 to 9999"))?,
    };
    Ok((at != i64::MAX).then_some(at.max(EARLIEST)))
}

fn nanos(expires: Option<i64>) -> Option<i128> {
    expires.map(|at| (i128::from(at) + i128::from(EPOCH)) * 1_000)
}

/// Nanoseconds since 1970 to microseconds since 2000, rounded up. What PostgreSQL cannot hold becomes its `infinity` or
/// its earliest instant.
fn to_postgres(nanos: i128) -> i64 {
    let micros = nanos.div_euclid(1_000) + i128::from(nanos.rem_euclid(1_000) != 0) - i128::from(EPOCH);
    match i64::try_from(micros) {
        Ok(at) if at < TOO_LATE => at.max(EARLIEST),
        _ if micros > 0 => i64::MAX,
        _ => EARLIEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REVISION: &str = "6b1d2a5e-4c1f-4a9e-9a55-0f7c2f7d1b42";
    /// 2026-04-01T12:10:30Z.
    const E: i128 = 1_775_045_430_000_000_000;

    fn kv() -> Kv {
        Kv::of(&shape("public")).unwrap()
    }

    fn body(key: &[u8], item: &Item) -> Vec<u8> {
        let mut out = Vec::new();
        kv().from_item(key, item, &mut out);
        rowcodec::check(&shape("public"), &out).unwrap();
        out
    }

    fn item(expires: Option<i128>, revision: &str) -> Item {
        Item { value: b"{}".to_vec(), expires, revision: revision.as_bytes().to_vec() }
    }

    fn text(values: [Value<'_>; 4]) -> Vec<u8> {
        let mut out = Vec::new();
        rowcodec::begin(&mut out, 4);
        values.into_iter().for_each(|value| rowcodec::push(&mut out, value));
        out
    }

    #[test]
    fn the_vectors_of_the_format_come_out_byte_for_byte() {
        type Vector<'a> = (&'a [u8], &'a [u8], Option<i128>, &'a str, &'a str);
        let cases: [Vector<'_>; 4] = [
            (
                b"/authorities/host/example.com",
                br#"{"kind":"cert_authority"}"#,
                None,
                "2f617574686f7269746965732f686f73742f6578616d706c652e636f6d",
                "7b226b696e64223a22636572745f617574686f72697479227d",
            ),
            (
                b"/nodes/default/4f1c0f5e-8d3c-4f0a-9b0e-2a6c7f1d9e55",
                br#"{"kind":"node"}"#,
                Some(E),
                "2f6e6f6465732f64656661756c742f34663163306635652d386433632d346630612d396230652d326136633766316439653535",
                "7b226b696e64223a226e6f6465227d",
            ),
            (
                b"/semaphores/connection/alice/lock1",
                b"\x00\xff\x10",
                Some(E),
                "2f73656d6170686f7265732f636f6e6e656374696f6e2f616c6963652f6c6f636b31",
                "00ff10",
            ),
            (b".locks/athena_lock", b"hello", Some(E), "2e6c6f636b732f617468656e615f6c6f636b", "68656c6c6f"),
        ];
        for (key, value, expires, key_hex, value_hex) in cases {
            let item = Item { value: value.to_vec(), expires, revision: REVISION.into() };
            let made = body(key, &item);
            let (key_text, value_text) = (format!("\\x{key_hex}"), format!("\\x{value_hex}"));
            let streamed = text([
                Value::Text(key_text.as_bytes()),
                Value::Text(value_text.as_bytes()),
                expires.map_or(Value::Null, |_| Value::Text(b"2026-04-01 12:10:30+00")),
                Value::Text(REVISION.as_bytes()),
            ]);
            assert_eq!(kv().to_item(&made).unwrap(), item);
            assert_eq!(kv().to_item(&streamed).unwrap(), item);
            assert_eq!(kv().key(&streamed).unwrap(), key);
            let mut binary = Vec::new();
            kv().to_binary(&streamed, &mut binary).unwrap();
            assert_eq!(binary, made);
        }
    }

    #[test]
    fn an_expiry_between_two_microseconds_is_rounded_up() {
        for (nanos, expected) in [(E + 1, E + 1_000), (E, E), (E + 999, E + 1_000), (-1, 0), (-1_000, -1_000)] {
            let read = kv().to_item(&body(b"k", &item(Some(nanos), ""))).unwrap();
            assert_eq!(read.expires, Some(expected), "{nanos}");
        }
    }

    #[test]
    fn instants_that_do_not_fit_become_never_or_long_ago() {
        assert_eq!(kv().to_item(&body(b"k", &item(Some(i128::MAX), ""))).unwrap().expires, None);
        let early = kv().to_item(&body(b"k", &item(Some(i128::MIN), ""))).unwrap().expires.unwrap();
        assert!(early < -200_000_000_000_000_000_000);
        let infinite =
            text([Value::Text(b"\\x6b"), Value::Text(b"\\x"), Value::Text(b"infinity"), Value::Binary(&[0; 16])]);
        assert_eq!(kv().to_item(&infinite).unwrap().expires, None);
    }

    #[test]
    fn a_row_expires_at_its_instant() {
        let row = body(b"k", &item(Some(E), ""));
        let at = i64::try_from(E / 1_000).unwrap();
        assert!(!kv().expired(&row, at - 1).unwrap());
        assert!(kv().expired(&row, at).unwrap());
        assert!(!kv().expired(&body(b"k", &item(None, "")), i64::MAX).unwrap());
    }

    #[test]
    fn revisions_that_are_no_uuids_get_one_that_is_always_the_same() {
        let revision = |text: &str| {
            let read = kv().to_item(&body(b"k", &item(None, text))).unwrap();
            String::from_utf8(read.revision).unwrap()
        };
        assert_eq!(revision(""), "");
        assert_eq!(revision(REVISION), REVISION);
        assert_eq!(revision("4711"), revision("4711"));
        assert_ne!(revision("4711"), revision("4712"));
        assert_ne!(revision(&REVISION.to_uppercase()), REVISION, "another text is another revision");
        assert_eq!(revision("4711"), "916ed100-9279-53b7-9ced-b951f0a9c5ba");
        assert_eq!(revision(&Uuid::nil().to_string()), "", "the nil UUID is blank");
    }

    #[test]
    fn another_table_is_refused_by_name() {
        let mut other = shape("public");
        other.columns[3].type_oid = 25;
        let error = Kv::of(&other).unwrap_err();
        assert_eq!(error.fault(), crate::error::Fault::Config);
        assert!(error.to_string().contains("revision"), "{error}");
    }

    proptest! {
        #[test]
        fn items_come_back(key: Vec<u8>, value: Vec<u8>, expires: Option<i32>, uuid: u128) {
            let revision = Uuid::from_u128(uuid | 1).hyphenated().to_string();
            let item = Item { value, expires: expires.map(|s| i128::from(s) * 1_000_000_000), revision: revision.into() };
            let body = body(&key, &item);
            prop_assert_eq!(kv().to_item(&body).unwrap(), item);
            let mut cut = Vec::new();
            rowcodec::key_of(&shape("public"), &body, &mut cut).unwrap();
            prop_assert_eq!(cut, key);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 4)) {
            let row = text([Value::Text(&texts[0]), Value::Text(&texts[1]), Value::Text(&texts[2]), Value::Text(&texts[3])]);
            for body in [&bytes[..], &row] {
                drop((kv().to_item(body), kv().expired(body, 0), kv().to_binary(body, &mut Vec::new())));
            }
        }
    }
}
