//! Columns of rows as array parameters in PostgreSQL's binary form, and COPY data. Pure.
//!
//! An array is: dimensions (i32), whether it has nulls (i32), the elements' type (u32), number of elements (i32), lower
//! bound (i32), then each element as a length (i32, -1 for NULL) and its bytes (`array_send` in PostgreSQL's
//! `arrayfuncs.c`). COPY's two forms are described in its reference page.
//!
//! Invariant: nothing is allocated per row. Buffers go back to their [`Shelf`] when the driver has copied them out.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::sql::Form;
use crate::error::{Error, Result};
use crate::kinds::postgres::rowcodec::Value;

/// Bytes before the first element.
const HEADER: usize = 20;
/// Type of the elements of text arrays.
pub const TEXT_OID: u32 = 25;

/// Buffers that wait for their next use.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<Vec<Vec<u8>>>>);

impl Shelf {
    /// LIMIT: as many buffers as a wide table has columns; more are simply freed.
    const KEPT: usize = 64;
    /// LIMIT: a buffer that one large value blew up is not kept.
    const LARGEST: usize = 4 << 20;

    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, mut buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Self::KEPT && buffer.capacity() <= Self::LARGEST {
            buffer.clear();
            kept.push(buffer);
        }
    }
}

/// One column of a run of rows.
pub struct Array {
    bytes: Vec<u8>,
    rows: u32,
    nulls: bool,
    form: Option<Form>,
    shelf: Shelf,
}

impl Array {
    /// An empty column.
    pub fn new(shelf: &Shelf) -> Self {
        let mut bytes = shelf.take();
        bytes.resize(HEADER, 0);
        Self { bytes, rows: 0, nulls: false, form: None, shelf: shelf.clone() }
    }

    /// Appends a value.
    ///
    /// # Errors
    /// Corrupt for a hole, and for a value in another form than those before it.
    pub fn push(&mut self, value: Value<'_>) -> Result<()> {
        self.rows += 1;
        let (form, bytes) = match value {
            Value::Binary(bytes) => (Form::Binary, bytes),
            Value::Text(bytes) => (Form::Text, bytes),
            Value::Null => {
                self.nulls = true;
                self.bytes.put_i32(-1);
                return Ok(());
            }
            Value::Unchanged => return Err(Error::corrupt("write a row: a whole row has a hole")),
        };
        if *self.form.get_or_insert(form) != form {
            return Err(Error::corrupt("write rows: a column is text in one and binary in another"));
        }
        put_bytes(&mut self.bytes, bytes)
    }

    /// The form of its values; `unknown` where all are NULL.
    pub fn form(&self, unknown: Form) -> Form {
        self.form.unwrap_or(unknown)
    }

    /// The parameter. `element` is the type of binary values; text goes as an array of text.
    pub fn finish(mut self, element: u32, unknown: Form) -> Parameter {
        if self.rows == 0 {
            // An array without elements has no dimensions.
            self.bytes.truncate(HEADER - 8);
            self.bytes[8..].copy_from_slice(&element.to_be_bytes());
            return Parameter { bytes: std::mem::take(&mut self.bytes), shelf: self.shelf.clone() };
        }
        let element = if self.form(unknown) == Form::Binary { element } else { TEXT_OID };
        let mut header = &mut self.bytes[..HEADER];
        header.put_i32(1);
        header.put_i32(i32::from(self.nulls));
        header.put_u32(element);
        header.put_u32(self.rows);
        header.put_i32(1);
        Parameter { bytes: std::mem::take(&mut self.bytes), shelf: self.shelf.clone() }
    }
}

fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) -> Result<()> {
    let len = i32::try_from(bytes.len()).map_err(|_| Error::corrupt("write a row: a value has more than 2 GiB"))?;
    out.put_i32(len);
    out.put_slice(bytes);
    Ok(())
}

/// A parameter whose bytes are ready, for whatever type the statement has at its place.
pub struct Parameter {
    bytes: Vec<u8>,
    shelf: Shelf,
}

impl Parameter {
    /// A parameter of these bytes.
    pub fn raw(bytes: &[u8], shelf: &Shelf) -> Self {
        let mut taken = shelf.take();
        taken.extend_from_slice(bytes);
        Self { bytes: taken, shelf: shelf.clone() }
    }

    /// A text.
    pub fn text(text: &str, shelf: &Shelf) -> Self {
        Self::raw(text.as_bytes(), shelf)
    }

    /// An array of texts.
    pub fn texts<'t>(texts: impl IntoIterator<Item = &'t str>, shelf: &Shelf) -> Result<Self> {
        let mut array = Array::new(shelf);
        texts.into_iter().try_for_each(|text| array.push(Value::Text(text.as_bytes())))?;
        Ok(array.finish(TEXT_OID, Form::Text))
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        self.shelf.give(std::mem::take(&mut self.bytes));
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The driver prints parameters into its debug log; they are somebody's data.
        write!(f, "Parameter({} bytes)", self.bytes.len())
    }
}

impl ToSql for Parameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Binary
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        self.to_sql(ty, out)
    }
}

/// Begins COPY data.
pub fn copy_header(out: &mut BytesMut, form: Form) {
    if form == Form::Binary {
        out.put_slice(b"PGCOPY\n\xff\r\n\0");
        out.put_u64(0);
    }
}

/// Ends COPY data.
pub fn copy_trailer(out: &mut BytesMut, form: Form) {
    if form == Form::Binary {
        out.put_i16(-1);
    }
}

/// Begins a row of COPY data.
pub fn copy_row(out: &mut BytesMut, form: Form, columns: usize) -> Result<()> {
    if form == Form::Binary {
        out.put_i16(
            i16::try_from(columns).map_err(|_| Error::corrupt("write a row: it has more than 32 767 columns"))?,
        );
    }
    Ok(())
}

/// Appends a value to a row of COPY data of a form, for a column whose values must have form `own`; `last` is the row's
/// last one. Text in binary COPY data is for a column of type text.
///
/// # Errors
/// Corrupt for a hole, and for a value in the other form.
pub fn copy_value(out: &mut BytesMut, form: Form, own: Option<Form>, value: Value<'_>, last: bool) -> Result<()> {
    match (form, own, value) {
        (Form::Binary, _, Value::Null) => out.put_i32(-1),
        (Form::Text, _, Value::Null) => out.put_slice(b"\\N"),
        (Form::Binary, Some(Form::Binary), Value::Binary(bytes)) => put_bytes(out, bytes)?,
        (Form::Binary, Some(Form::Text), Value::Text(bytes)) => put_bytes(out, bytes)?,
        (Form::Text, Some(Form::Text), Value::Text(bytes)) => escape(out, bytes),
        (_, _, Value::Unchanged) => return Err(Error::corrupt("write a row: a whole row has a hole")),
        _ => return Err(Error::corrupt("write rows: a column is text in one and binary in another")),
    }
    if form == Form::Text {
        out.put_u8(if last { b'\n' } else { b'\t' });
    }
    Ok(())
}

fn escape(out: &mut BytesMut, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(place) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t')) {
        let (plain, special) = rest.split_at(place);
        out.put_slice(plain);
        out.put_u8(b'\\');
        out.put_u8(match special.first() {
            Some(b'\n') => b'n',
            Some(b'\r') => b'r',
            Some(b'\t') => b't',
            _ => b'\\',
        });
        rest = special.get(1..).unwrap_or_default();
    }
    out.put_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_laid_out_as_the_server_reads_it() {
        let shelf = Shelf::default();
        let mut array = Array::new(&shelf);
        array.push(Value::Binary(&7i32.to_be_bytes())).unwrap();
        array.push(Value::Null).unwrap();
        let mut out = BytesMut::new();
        array.finish(23, Form::Text).to_sql(&Type::INT4_ARRAY, &mut out).unwrap();
        let mut wanted = vec![];
        for number in [1, 1, 23, 2, 1, 4, 7, -1] {
            wanted.put_i32(number);
        }
        assert_eq!(&out[..], &wanted[..]);
        assert_eq!(Array::new(&shelf).bytes.len(), HEADER, "a buffer that comes back is empty");
    }

    #[test]
    fn two_forms_in_one_column_and_holes_are_corrupt() {
        let mut array = Array::new(&Shelf::default());
        array.push(Value::Text(b"7")).unwrap();
        assert!(array.push(Value::Binary(b"7")).is_err());
        assert!(array.push(Value::Unchanged).is_err());
        assert!(copy_value(&mut BytesMut::new(), Form::Binary, Some(Form::Binary), Value::Text(b"7"), false).is_err());
    }

    #[test]
    fn text_for_copy_escapes_what_ends_fields_and_rows() {
        let mut out = BytesMut::new();
        copy_value(&mut out, Form::Text, Some(Form::Text), Value::Text(b"a\tb\\N\r\n"), false).unwrap();
        copy_value(&mut out, Form::Text, Some(Form::Text), Value::Null, true).unwrap();
        assert_eq!(&out[..], b"a\\tb\\\\N\\r\\n\t\\N\n");
    }
}
