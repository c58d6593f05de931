//! Bodies and raw keys: rows as the stream sends them, read in place.
//!
//! A body is the `TupleData` of pgoutput: number of columns (u16), then for each column a tag: `n` null, `u` unchanged
//! (a hole, in patches only), `t` text or `b` binary followed by a length (u32) and as many bytes. All numbers are big
//! endian. A raw key is the key columns in key order, each as a length (u32) and the bytes that it has in the body; in
//! the teleport layout it is the bytes of its only column.
//!
//! Nothing here interprets a value, and no bytes from outside make it panic: they are Corrupt.

use crate::error::{Error, Result};

use super::shape::Shape;

/// One column of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A hole: the value that the older image of the row has.
    Unchanged,
    /// In text form, in the server's encoding (UTF-8).
    Text(&'a [u8]),
    /// In binary form.
    Binary(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes, whatever their form.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) => Some(bytes),
            Self::Null | Self::Unchanged => None,
        }
    }
}

fn broken(what: &str) -> Error {
    Error::corrupt(format!("read a row: {what}"))
}

/// The columns of a body, in order. After an error it is at its end.
#[derive(Clone, Debug)]
pub struct Columns<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> Columns<'a> {
    /// Opens a body.
    ///
    /// # Errors
    /// Corrupt when there is no column count.
    pub fn of(body: &'a [u8]) -> Result<Self> {
        let (count, rest) = body.split_first_chunk().ok_or_else(|| broken("it has no column count"))?;
        Ok(Self { left: u16::from_be_bytes(*count), rest })
    }

    /// Opens a body that must have this many columns.
    ///
    /// # Errors
    /// Corrupt when it has another number.
    pub fn expect(body: &'a [u8], count: usize) -> Result<Self> {
        let columns = Self::of(body)?;
        if usize::from(columns.left) == count {
            return Ok(columns);
        }
        Err(broken(&format!("it has {} columns, its table has {count}", columns.left)))
    }

    /// What lies behind the columns read so far.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn step(&mut self) -> Result<Value<'a>> {
        let (&tag, rest) = self.rest.split_first().ok_or_else(|| broken("it ends within its columns"))?;
        self.rest = rest;
        match tag {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b't' => take(&mut self.rest).map(Value::Text),
            b'b' => take(&mut self.rest).map(Value::Binary),
            _ => Err(broken("a column has an unknown tag")),
        }
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = Result<Value<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let value = self.step();
        if value.is_err() {
            self.left = 0;
        }
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Columns<'_> {}

/// Takes a length and as many bytes.
fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (len, tail) = rest.split_first_chunk().ok_or_else(|| broken("it ends within a length"))?;
    let (bytes, tail) =
        tail.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or_else(|| broken("it ends within a value"))?;
    *rest = tail;
    Ok(bytes)
}

/// Begins a body of `count` columns; as many calls of [`push`] follow.
///
/// # Panics
/// Beyond 65 535 columns; PostgreSQL has at most 1 600.
pub fn begin(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("a table has fewer than 65 536 columns");
    out.extend_from_slice(&count.to_be_bytes());
}

/// Appends a column to a body.
pub fn push(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Null => out.push(b'n'),
        Value::Unchanged => out.push(b'u'),
        Value::Text(bytes) => {
            out.push(b't');
            push_bytes(out, bytes);
        }
        Value::Binary(bytes) => {
            out.push(b'b');
            push_bytes(out, bytes);
        }
    }
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a value of PostgreSQL stays under 1 GiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Reads a body to its end.
///
/// # Errors
/// Corrupt when it is not a body of this table or something follows it.
pub fn check(shape: &Shape, body: &[u8]) -> Result<()> {
    let mut columns = Columns::expect(body, shape.columns.len())?;
    for value in columns.by_ref() {
        value?;
    }
    if columns.rest().is_empty() { Ok(()) } else { Err(broken("something follows its last column")) }
}

/// The length of the body at the beginning of `bytes`, read to its end.
///
/// # Errors
/// Corrupt when there is none.
pub fn body_len(bytes: &[u8]) -> Result<usize> {
    let mut columns = Columns::of(bytes)?;
    for value in columns.by_ref() {
        value?;
    }
    Ok(bytes.len() - columns.rest().len())
}

/// Cuts the raw key out of a body and appends it to `out`. Key tuples of the stream, where all other columns are null,
/// will do.
///
/// # Errors
/// Corrupt when it is not a body of this table, or a key column is null or a hole.
pub fn key_of(shape: &Shape, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let columns = Columns::expect(body, shape.columns.len())?;
    // Keys that stand in column order, which is nearly all, are found in one pass; else one pass per key column.
    if shape.key.is_sorted() {
        let mut wanted = shape.key.iter().copied().peekable();
        for (index, value) in columns.enumerate() {
            let value = value?;
            while wanted.next_if_eq(&index).is_some() {
                push_key(shape, value, out)?;
            }
            if wanted.peek().is_none() {
                break;
            }
        }
        return Ok(());
    }
    for &index in &shape.key {
        let value = columns.clone().nth(index).ok_or_else(|| broken("its key lies behind its last column"))??;
        push_key(shape, value, out)?;
    }
    Ok(())
}

fn push_key(shape: &Shape, value: Value<'_>, out: &mut Vec<u8>) -> Result<()> {
    let bytes = value
        .bytes()
        .ok_or_else(|| broken(&format!("a key column is {}", if value == Value::Null { "null" } else { "missing" })))?;
    if shape.flat_key {
        out.extend_from_slice(bytes);
    } else {
        push_bytes(out, bytes);
    }
    Ok(())
}

/// Appends one column to a raw key with lengths.
pub fn push_key_column(out: &mut Vec<u8>, bytes: &[u8]) {
    push_bytes(out, bytes);
}

/// The columns of a raw key, in key order.
///
/// # Errors
/// Each item; Corrupt when it is not a key of this table.
pub fn key_columns<'a>(shape: &Shape, key: &'a [u8]) -> impl Iterator<Item = Result<&'a [u8]>> + use<'a> {
    let (flat, count) = (shape.flat_key, shape.key.len());
    let mut rest = key;
    let mut index = 0;
    std::iter::from_fn(move || {
        if flat && index == 0 {
            index = count;
            return Some(Ok(rest));
        }
        if index == count {
            return None;
        }
        index += 1;
        let column = take(&mut rest).and_then(|bytes| {
            if index < count || rest.is_empty() { Ok(bytes) } else { Err(broken("something follows its key")) }
        });
        if column.is_err() {
            index = count;
        }
        Some(column)
    })
}

/// Appends the patch with its holes filled from the older image of the row; true when no hole is left. Columns are
/// found by name where the shapes differ.
///
/// # Errors
/// Corrupt when one of them is not a body of its shape.
pub fn fill(older: (&Shape, &[u8]), patch: (&Shape, &[u8]), out: &mut Vec<u8>) -> Result<bool> {
    let (older_shape, older_body) = older;
    let (shape, body) = patch;
    let columns = Columns::expect(body, shape.columns.len())?;
    let older_columns = Columns::expect(older_body, older_shape.columns.len())?;
    let mut whole = true;
    begin(out, shape.columns.len());
    if std::ptr::eq(shape, older_shape) || shape.aligned(older_shape) {
        for (value, older) in columns.zip(older_columns) {
            let (value, older) = (value?, older?);
            let value = if value == Value::Unchanged { older } else { value };
            whole &= value != Value::Unchanged;
            push(out, value);
        }
        return Ok(whole);
    }
    for (value, column) in columns.zip(&shape.columns) {
        let mut value = value?;
        if value == Value::Unchanged
            && let Some(index) = older_shape.column(&column.name)
        {
            value = older_columns.clone().nth(index).ok_or_else(|| broken("it ends within its columns"))??;
        }
        whole &= value != Value::Unchanged;
        push(out, value);
    }
    Ok(whole)
}

/// Whether the sink's row holds what the source's row holds: every column of the source, found by name. Columns that
/// only the sink has do not count.
///
/// # Errors
/// Corrupt when one of them is not a body of its shape, has a hole, or the same column is text in one and binary in the
/// other.
pub fn same(source: (&Shape, &[u8]), sink: (&Shape, &[u8])) -> Result<bool> {
    let (shape, body) = source;
    let (other_shape, other_body) = sink;
    let columns = Columns::expect(body, shape.columns.len())?;
    let others = Columns::expect(other_body, other_shape.columns.len())?;
    if std::ptr::eq(shape, other_shape) || shape.aligned(other_shape) {
        if body == other_body {
            return Ok(true);
        }
        for (value, other) in columns.zip(others) {
            if !same_value(value?, other?)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for (value, column) in columns.zip(&shape.columns) {
        let Some(index) = other_shape.column(&column.name) else { return Ok(false) };
        let other = others.clone().nth(index).ok_or_else(|| broken("it ends within its columns"))??;
        if !same_value(value?, other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_value(value: Value<'_>, other: Value<'_>) -> Result<bool> {
    match (value, other) {
        (Value::Null, Value::Null) => Ok(true),
        (Value::Unchanged, _) | (_, Value::Unchanged) => Err(broken("a row that is compared has a hole")),
        (Value::Null, _) | (_, Value::Null) => Ok(false),
        (Value::Text(a), Value::Text(b)) | (Value::Binary(a), Value::Binary(b)) => Ok(a == b),
        (Value::Text(_), Value::Binary(_)) | (Value::Binary(_), Value::Text(_)) => {
            Err(broken("a column is text on one side and binary on the other"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use crate::kinds::postgres::shape::Column;
    use proptest::prelude::*;

    fn shape(names: &[&str], key: &[usize]) -> Shape {
        let column = |name: &&str| Column { name: (*name).to_owned(), ..Column::default() };
        Shape { columns: names.iter().map(column).collect(), key: key.to_vec(), binary: true, ..Shape::default() }
    }

    fn body(values: &[Value<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out, values.len());
        values.iter().for_each(|value| push(&mut out, *value));
        out
    }

    fn key(shape: &Shape, body: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        key_of(shape, body, &mut out).map(|()| out)
    }

    #[derive(Clone, Debug)]
    enum Owned {
        Null,
        Unchanged,
        Text(Vec<u8>),
        Binary(Vec<u8>),
    }

    impl Owned {
        fn value(&self) -> Value<'_> {
            match self {
                Self::Null => Value::Null,
                Self::Unchanged => Value::Unchanged,
                Self::Text(bytes) => Value::Text(bytes),
                Self::Binary(bytes) => Value::Binary(bytes),
            }
        }
    }

    fn values() -> impl Strategy<Value = Vec<Owned>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let value = prop_oneof![
            Just(Owned::Null),
            Just(Owned::Unchanged),
            bytes().prop_map(Owned::Text),
            bytes().prop_map(Owned::Binary)
        ];
        proptest::collection::vec(value, 0..12)
    }

    proptest! {
        #[test]
        fn columns_come_back_as_they_were_written(values in values(), trailer in proptest::collection::vec(any::<u8>(), 0..3)) {
            let values: Vec<_> = values.iter().map(Owned::value).collect();
            let mut bytes = body(&values);
            let len = bytes.len();
            bytes.extend_from_slice(&trailer);
            prop_assert_eq!(body_len(&bytes).unwrap(), len);
            let read: Vec<_> = Columns::of(&bytes).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), columns in 0usize..5, flat: bool) {
            let mut shape = shape(&["a", "b", "c", "d", "e"][..columns], &(0..columns).rev().collect::<Vec<_>>());
            shape.flat_key = flat;
            let mut bodies = vec![bytes.clone()];
            // Most random bytes fail at the count, so also try them with the right one.
            bodies.push([&(columns as u16).to_be_bytes()[..], &bytes].concat());
            for bytes in bodies {
                let mut out = Vec::new();
                drop((check(&shape, &bytes), body_len(&bytes), key_of(&shape, &bytes, &mut out)));
                drop(key_columns(&shape, &bytes).take(9).collect::<Vec<_>>());
                drop((fill((&shape, &bytes), (&shape, &bytes), &mut out), same((&shape, &bytes), (&shape, &bytes))));
            }
        }

        #[test]
        fn a_key_splits_into_the_columns_it_was_cut_from(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 3), order in Just(vec![0usize, 1, 2]).prop_shuffle()) {
            let shape = shape(&["a", "b", "c"], &order);
            let values: Vec<_> = parts.iter().map(|part| Value::Binary(part)).collect();
            let key = key(&shape, &body(&values)).unwrap();
            let columns: Vec<_> = key_columns(&shape, &key).map(Result::unwrap).collect();
            prop_assert_eq!(columns, order.iter().map(|&i| &parts[i][..]).collect::<Vec<_>>());
        }

        #[test]
        fn a_filled_patch_has_its_own_values_and_those_of_the_older_row_in_its_holes(patch in values(), older in values()) {
            let count = patch.len().min(older.len());
            let names: Vec<_> = (0..count).map(|i| i.to_string()).collect();
            let shape = shape(&names.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
            let patch: Vec<_> = patch[..count].iter().map(Owned::value).collect();
            let older: Vec<_> = older[..count].iter().map(Owned::value).collect();
            let expected: Vec<_> = patch.iter().zip(&older).map(|(p, o)| if *p == Value::Unchanged { *o } else { *p }).collect();
            let mut out = Vec::new();
            let whole = fill((&shape, &body(&older)), (&shape, &body(&patch)), &mut out).unwrap();
            prop_assert_eq!(whole, !expected.contains(&Value::Unchanged));
            prop_assert_eq!(out, body(&expected));
        }
    }

    #[test]
    fn a_flat_key_is_the_bytes_of_its_column() {
        let mut shape = shape(&["value", "key"], &[1]);
        shape.flat_key = true;
        let key = key(&shape, &body(&[Value::Null, Value::Binary(b"/a")])).unwrap();
        assert_eq!(key, b"/a");
        assert_eq!(key_columns(&shape, &key).map(Result::unwrap).collect::<Vec<_>>(), [b"/a"]);
    }

    #[test]
    fn a_key_that_is_null_or_missing_is_corrupt() {
        let shape = shape(&["a", "b"], &[1]);
        for value in [Value::Null, Value::Unchanged] {
            assert_eq!(key(&shape, &body(&[Value::Null, value])).unwrap_err().fault(), Fault::Corrupt);
        }
        assert_eq!(key(&shape, &body(&[Value::Null])).unwrap_err().fault(), Fault::Corrupt);
    }

    #[test]
    fn a_new_column_is_filled_and_compared_by_name() {
        let (old, new) = (shape(&["b", "a"], &[1]), shape(&["a", "b", "c"], &[0]));
        let older = body(&[Value::Binary(b"B"), Value::Binary(b"A")]);
        let patch = body(&[Value::Binary(b"A"), Value::Unchanged, Value::Null]);
        let mut out = Vec::new();
        assert!(fill((&old, &older), (&new, &patch), &mut out).unwrap());
        assert_eq!(out, body(&[Value::Binary(b"A"), Value::Binary(b"B"), Value::Null]));
        assert!(same((&old, &older), (&new, &out)).unwrap(), "a column that only the sink has does not count");
        assert!(!same((&new, &out), (&old, &older)).unwrap(), "the sink lacks a column of the source");

        let hole = body(&[Value::Binary(b"A"), Value::Null, Value::Unchanged]);
        assert!(!fill((&old, &older), (&new, &hole), &mut Vec::new()).unwrap(), "the older row has no such column");
    }

    #[test]
    fn text_and_binary_are_never_compared() {
        let shape = shape(&["a"], &[0]);
        let (text, binary) = (body(&[Value::Text(b"1")]), body(&[Value::Binary(b"1")]));
        assert_eq!(same((&shape, &text), (&shape, &binary)).unwrap_err().fault(), Fault::Corrupt);
        assert!(same((&shape, &text), (&shape, &text)).unwrap());
        assert!(!same((&shape, &text), (&shape, &body(&[Value::Null]))).unwrap());
        assert!(!same((&shape, &text), (&shape, &body(&[Value::Text(b"2")]))).unwrap());
    }
}
