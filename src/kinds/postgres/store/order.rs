//! The order in which a table is scanned, and the cursor that says how far a scan is.
//!
//! Cursors are compared as bytes by everybody but this kind, so a cursor has to grow bytewise from row to row of a scan.
//! PostgreSQL's own order of an index does so for some types as they are (`bytea`, `uuid`, text of collation `C`), and for
//! numbers and instants once their sign bit is turned. All others are scanned in the order of their text form's bytes,
//! which no index helps with: the server sorts. A cursor holds nothing but the key's columns, each after the other, so
//! the place of a row depends on its key alone, and an SQL literal of every column can be made from it.
//!
//! In a key of several columns, one of variable length is followed by `00 01` and each zero byte in it by `FF`, unless it
//! is the last; so no value is the beginning of another.

use crate::error::{Error, Result};

use super::super::ddl;
use super::super::shape::{Column, Shape};
use super::time;

/// How a column's values lie in a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The binary form of a signed number, this many bytes, sign bit turned.
    Signed(usize),
    /// The binary form as it is, this many bytes.
    Fixed(usize),
    /// The bytes of a `bytea`.
    Bytes,
    /// The characters of a text whose collation compares by bytes.
    Text,
    /// The text form of any other type, in UTF-8.
    Image,
}

/// A column of the key, as it is scanned by.
#[derive(Clone, Debug)]
struct Part {
    /// Where it stands in the shape.
    column: usize,
    oid: u32,
    form: Form,
    /// What SQL sorts by.
    expression: String,
    /// Selected after the columns, where the body's form will not do.
    extra: bool,
}

/// The order in which a table is scanned.
#[derive(Clone, Debug)]
pub struct Order {
    parts: Vec<Part>,
}

const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;
const DATE: u32 = 1082;
const TIME: u32 = 1083;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const OID: u32 = 26;
const BOOL: u32 = 16;
const UUID: u32 = 2950;
const BYTEA: u32 = 17;
const NAME: u32 = 19;
const TEXT: u32 = 25;
const VARCHAR: u32 = 1043;

fn form(column: &Column) -> Form {
    match column.base_oid {
        INT2 => Form::Signed(2),
        INT4 | DATE => Form::Signed(4),
        INT8 | TIME | TIMESTAMP | TIMESTAMPTZ => Form::Signed(8),
        OID => Form::Fixed(4),
        BOOL => Form::Fixed(1),
        UUID => Form::Fixed(16),
        BYTEA => Form::Bytes,
        TEXT | VARCHAR | NAME if column.bytewise => Form::Text,
        _ => Form::Image,
    }
}

impl Order {
    /// The order of a table's scans.
    pub fn of(shape: &Shape) -> Result<Self> {
        let part = |&index: &usize| {
            let column = shape.columns.get(index).ok_or_else(|| Error::bug("a key names a column of its table"))?;
            let form = form(column);
            let name = ddl::quote(&column.name);
            let expression = match form {
                Form::Image => {
                    format!("pg_catalog.convert_to(pg_catalog.textin({}({name})), 'UTF8')", column.output)
                }
                _ => name,
            };
            // In a text body, characters are what they are and everything else is not in the form that a cursor needs.
            let extra = form == Form::Image || (!column.binary && form != Form::Text);
            Ok(Part { column: index, oid: column.base_oid, form, expression, extra })
        };
        Ok(Self { parts: shape.key.iter().map(part).collect::<Result<_>>()? })
    }

    /// Whether an index can deliver it; else the server sorts.
    pub fn is_indexed(&self) -> bool {
        self.parts.iter().all(|part| part.form != Form::Image)
    }

    /// What follows `order by`; selected, it has every column in the form of the cursor.
    pub fn by(&self) -> String {
        let expressions: Vec<_> = self.parts.iter().map(|part| part.expression.as_str()).collect();
        expressions.join(", ")
    }

    /// What is selected after the columns of the body.
    pub fn extras(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter(|part| part.extra).map(|part| part.expression.as_str())
    }

    /// A condition on the key: `operator` is one of `>`, `<=`.
    ///
    /// # Errors
    /// Corrupt when the cursor is not one of this table.
    pub fn compare(&self, operator: &str, cursor: &[u8]) -> Result<String> {
        let left: Vec<_> = self.parts.iter().map(|part| part.expression.as_str()).collect();
        let right = self.literals(cursor)?;
        Ok(format!("({}) {operator} ({})", left.join(", "), right.join(", ")))
    }

    /// Appends the cursor of a row: `columns` columns of the body, then the extras.
    ///
    /// # Errors
    /// Corrupt when a column of the key is null, missing, or not of its length.
    pub fn cursor<'f>(
        &self,
        columns: usize,
        field: impl Fn(usize) -> Option<&'f [u8]>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut extras = columns..;
        self.write(out, |part| field(if part.extra { extras.next().unwrap_or_default() } else { part.column }))
    }

    /// Appends the cursor of a row that was selected by [`Order::by`].
    ///
    /// # Errors
    /// As [`Order::cursor`].
    pub fn cursor_of_all<'f>(&self, field: impl Fn(usize) -> Option<&'f [u8]>, out: &mut Vec<u8>) -> Result<()> {
        let mut index = 0..;
        self.write(out, |_| index.next().and_then(&field))
    }

    fn write<'f>(&self, out: &mut Vec<u8>, mut field: impl FnMut(&Part) -> Option<&'f [u8]>) -> Result<()> {
        let last = self.parts.len().saturating_sub(1);
        for (index, part) in self.parts.iter().enumerate() {
            let bytes = field(part).ok_or_else(|| Error::corrupt("scan a table: a column of a key is null"))?;
            match part.form {
                Form::Signed(width) | Form::Fixed(width) if bytes.len() != width => {
                    return Err(Error::corrupt("scan a table: a column of a key is not as long as its type"));
                }
                Form::Signed(_) => {
                    let start = out.len();
                    out.extend_from_slice(bytes);
                    out[start] ^= 0x80;
                }
                Form::Fixed(_) => out.extend_from_slice(bytes),
                Form::Bytes | Form::Text | Form::Image if index == last => out.extend_from_slice(bytes),
                Form::Bytes | Form::Text | Form::Image => {
                    for &byte in bytes {
                        out.push(byte);
                        if byte == 0 {
                            out.push(0xff);
                        }
                    }
                    out.extend_from_slice(&[0, 1]);
                }
            }
        }
        Ok(())
    }

    fn literals(&self, cursor: &[u8]) -> Result<Vec<String>> {
        let broken = || Error::corrupt("resume a scan: the position is not a cursor of this table");
        let mut rest = cursor;
        let mut literals = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            let (value, tail) = match part.form {
                Form::Signed(width) | Form::Fixed(width) => {
                    let (value, tail) = rest.split_at_checked(width).ok_or_else(broken)?;
                    (value.to_vec(), tail)
                }
                _ if index + 1 == self.parts.len() => (rest.to_vec(), &[][..]),
                _ => unescape(rest).ok_or_else(broken)?,
            };
            rest = tail;
            literals.push(part.literal(&value).ok_or_else(broken)?);
        }
        if rest.is_empty() { Ok(literals) } else { Err(broken()) }
    }
}

/// Takes a value up to its end mark.
fn unescape(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, 1, tail @ ..] => return Some((value, tail)),
            [0, 0xff, tail @ ..] => {
                value.push(0);
                rest = tail;
            }
            [0, ..] | [] => return None,
            [byte, tail @ ..] => {
                value.push(*byte);
                rest = tail;
            }
        }
    }
}

impl Part {
    /// An SQL literal of a value in the form of the cursor.
    fn literal(&self, value: &[u8]) -> Option<String> {
        let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        Some(match self.form {
            Form::Signed(width) => {
                let mut wide = [0; 8];
                wide[..width].copy_from_slice(value.get(..width)?);
                wide[0] ^= 0x80;
                let number = i64::from_be_bytes(wide) >> (64 - 8 * width);
                match self.oid {
                    DATE => format!("'{}'::pg_catalog.date", time::date(number)),
                    TIME => format!("'{}'::pg_catalog.time", time::time(number)),
                    TIMESTAMP => format!("'{}'::pg_catalog.timestamp", time::timestamp(number)),
                    TIMESTAMPTZ => format!("'{}'::pg_catalog.timestamptz", time::timestamp(number)),
                    INT2 => format!("'{number}'::pg_catalog.int2"),
                    INT4 => format!("'{number}'::pg_catalog.int4"),
                    _ => format!("'{number}'::pg_catalog.int8"),
                }
            }
            Form::Fixed(_) => match self.oid {
                BOOL => format!("'{}'::pg_catalog.bool", if value == [0] { 'f' } else { 't' }),
                OID => format!("'{}'::pg_catalog.oid", u32::from_be_bytes(value.try_into().ok()?)),
                _ => format!("'{}'::pg_catalog.uuid", hex(value)),
            },
            Form::Bytes | Form::Image => format!("'\\x{}'::pg_catalog.bytea", hex(value)),
            Form::Text => {
                let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'))?;
                format!("{}::pg_catalog.text", ddl::literal(text))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(oids: &[u32]) -> Order {
        let column = |oid: &u32| Column { base_oid: *oid, bytewise: true, binary: true, ..Column::default() };
        Order::of(&Shape {
            columns: oids.iter().map(column).collect(),
            key: (0..oids.len()).collect(),
            ..Shape::default()
        })
        .unwrap()
    }

    fn cursor(order: &Order, fields: &[&[u8]]) -> Vec<u8> {
        let fields: Vec<_> = fields.iter().map(|field| Some(*field)).collect();
        let mut out = Vec::new();
        order.cursor(fields.len(), |index| fields[index], &mut out).unwrap();
        out
    }

    #[test]
    fn a_cursor_becomes_the_literals_of_its_key() {
        let order = order(&[INT8, TEXT, BYTEA, UUID, BOOL, TIMESTAMPTZ, DATE, INT2]);
        let fields: [&[u8]; 8] = [
            &(-5i64).to_be_bytes(),
            "it's \\ ü".as_bytes(),
            b"a\0\xff",
            &[0xab; 16],
            &[1],
            &(-1i64).to_be_bytes(),
            &0i32.to_be_bytes(),
            &i16::MIN.to_be_bytes(),
        ];
        let literals = order.literals(&cursor(&order, &fields)).unwrap();
        assert_eq!(
            literals,
            [
                "'-5'::pg_catalog.int8",
                "E'it''s \\\\ ü'::pg_catalog.text",
                "'\\x6100ff'::pg_catalog.bytea",
                "'abababababababababababababababab'::pg_catalog.uuid",
                "'t'::pg_catalog.bool",
                "'1999-12-31 23:59:59.999999'::pg_catalog.timestamptz",
                "'2000-01-01'::pg_catalog.date",
                "'-32768'::pg_catalog.int2"
            ]
        );
    }

    #[test]
    fn what_is_no_cursor_is_corrupt() {
        for bytes in [&b""[..], b"\0", b"1234567", b"\0\0\0\0\0\0\0\0a\0", b"\0\0\0\0\0\0\0\0a\0\x02\0\x01"] {
            assert!(order(&[INT8, TEXT, TEXT]).compare(">", bytes).is_err(), "{bytes:?}");
        }
        let mut out = Vec::new();
        assert!(order(&[INT8]).cursor(1, |_| None, &mut out).is_err());
        assert!(order(&[INT8]).cursor(1, |_| Some(b"123"), &mut out).is_err());
    }

    proptest! {
        #[test]
        fn numbers_grow_as_their_cursors_do(a: (i64, i32, i16), b: (i64, i32, i16)) {
            let order = order(&[INT8, INT4, INT2]);
            let cursor = |(x, y, z): (i64, i32, i16)| cursor(&order, &[&x.to_be_bytes(), &y.to_be_bytes(), &z.to_be_bytes()]);
            prop_assert_eq!(cursor(a).cmp(&cursor(b)), a.cmp(&b));
        }

        #[test]
        fn bytes_grow_as_their_cursors_do(
            a in (proptest::collection::vec(0u8..3, 0..4), proptest::collection::vec(0u8..3, 0..4)),
            b in (proptest::collection::vec(0u8..3, 0..4), proptest::collection::vec(0u8..3, 0..4)),
        ) {
            let order = order(&[BYTEA, BYTEA]);
            let (ca, cb) = (cursor(&order, &[&a.0, &a.1]), cursor(&order, &[&b.0, &b.1]));
            prop_assert_eq!(ca.cmp(&cb), a.cmp(&b));
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let literals = [&a.0, &a.1].map(|part| format!("'\\x{}'::pg_catalog.bytea", hex(part)));
            prop_assert_eq!(order.literals(&ca).unwrap(), literals);
        }

        #[test]
        fn no_cursor_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for oids in [&[INT8, TEXT][..], &[TEXT, DATE], &[BYTEA, BOOL], &[TIMESTAMPTZ], &[TIME, OID], &[1700]] {
                drop(order(oids).compare(">", &bytes));
            }
        }
    }
}
