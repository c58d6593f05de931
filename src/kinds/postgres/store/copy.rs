//! Rows out of `COPY … TO STDOUT (FORMAT binary)`.
//!
//! The format of the manual's page on COPY: a signature, flags and an extension, then rows of a field count (i16) and
//! fields of a length (i32, -1 for null) and as many bytes, then a count of -1. Messages need not end where rows end.

use std::pin::Pin;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio_postgres::CopyOutStream;

use crate::error::{Error, Result};

use super::super::conn::translate;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Rows, one after the other.
pub struct Rows {
    stream: Pin<Box<CopyOutStream>>,
    /// What came and was not read yet; begins with a row.
    chunk: Bytes,
    parser: Parser,
    /// Length of the row that was read last.
    passed: usize,
}

impl Rows {
    /// Reads what a COPY sends.
    pub fn new(stream: CopyOutStream) -> Self {
        Self { stream: Box::pin(stream), chunk: Bytes::new(), parser: Parser::default(), passed: 0 }
    }

    /// Waits for the next row and shows its fields; `None` at the end.
    pub async fn next<T>(&mut self, see: impl FnOnce(Fields<'_>) -> Result<T>) -> Result<Option<T>> {
        loop {
            match self.parser.parse(&self.chunk)? {
                Step::Row(len) => {
                    let seen = see(Fields { bytes: &self.chunk, places: &self.parser.fields })?;
                    self.chunk.advance(len);
                    self.passed = len;
                    return Ok(Some(seen));
                }
                Step::End => {
                    // The server's last word comes after the last row.
                    while let Some(more) = self.stream.next().await {
                        more.map_err(|error| translate(&error, "read a table"))?;
                    }
                    return Ok(None);
                }
                Step::More => {
                    let more = self.stream.next().await.ok_or_else(|| broken("it ends within a row"))?;
                    let more = more.map_err(|error| translate(&error, "read a table"))?;
                    self.chunk = if self.chunk.is_empty() { more } else { [&self.chunk[..], &more].concat().into() };
                }
            }
        }
    }
}

impl Rows {
    /// Reads over what is left, if that is not more than about `bytes`; true at the end.
    pub async fn drain(&mut self, bytes: usize) -> Result<bool> {
        let mut passed = 0;
        while passed < bytes {
            match self.next(|_| Ok(())).await? {
                Some(()) => passed += self.passed,
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}

/// The fields of a row.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    places: &'a [Option<(usize, usize)>],
}

impl<'a> Fields<'a> {
    /// The bytes of one; `None` when it is null or there are not so many.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let (start, len) = self.places.get(index).copied().flatten()?;
        self.bytes.get(start..start + len)
    }
}

/// What lies at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A row of this many bytes, its fields are in the parser.
    Row(usize),
    /// The end of all rows.
    End,
    /// Not enough.
    More,
}

/// Finds rows. Keeps the places of the fields of the row that it found last.
#[derive(Default)]
struct Parser {
    started: bool,
    fields: Vec<Option<(usize, usize)>>,
}

impl Parser {
    fn parse(&mut self, bytes: &[u8]) -> Result<Step> {
        let mut at = 0;
        if !self.started {
            let Some(header) = bytes.first_chunk::<19>() else { return Ok(Step::More) };
            let extension = u32::from_be_bytes([header[15], header[16], header[17], header[18]]);
            if !header.starts_with(SIGNATURE) || extension != 0 {
                return Err(broken("it does not begin as the format says"));
            }
            at = header.len();
        }
        let Some(count) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else { return Ok(Step::More) };
        at += count.len();
        let count = i16::from_be_bytes(*count);
        if count == -1 {
            self.started = true;
            return Ok(Step::End);
        }
        self.fields.clear();
        for _ in 0..count {
            let Some(len) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else { return Ok(Step::More) };
            at += len.len();
            match i32::from_be_bytes(*len) {
                -1 => self.fields.push(None),
                len => {
                    let len = usize::try_from(len).map_err(|_| broken("a field has a negative length"))?;
                    if bytes.len() - at < len {
                        return Ok(Step::More);
                    }
                    self.fields.push(Some((at, len)));
                    at += len;
                }
            }
        }
        self.started = true;
        Ok(Step::Row(at))
    }
}

fn broken(what: &str) -> Error {
    Error::corrupt(format!("read a table in the binary form of COPY: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
        let mut out = [&SIGNATURE[..], &[0; 8]].concat();
        for row in rows {
            out.extend((row.len() as i16).to_be_bytes());
            for field in row {
                match field {
                    None => out.extend((-1i32).to_be_bytes()),
                    Some(bytes) => {
                        out.extend((bytes.len() as i32).to_be_bytes());
                        out.extend(bytes);
                    }
                }
            }
        }
        out.extend((-1i16).to_be_bytes());
        out
    }

    proptest! {
        #[test]
        fn rows_are_found_wherever_messages_end(
            rows in proptest::collection::vec(proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)), 0..4), 0..5),
            piece in 1usize..20,
        ) {
            let bytes = stream(&rows);
            let (mut parser, mut held, mut found, mut ended) = (Parser::default(), Vec::new(), Vec::new(), false);
            for piece in bytes.chunks(piece) {
                held.extend_from_slice(piece);
                loop {
                    match parser.parse(&held).unwrap() {
                        Step::Row(len) => {
                            found.push(parser.fields.iter().map(|f| f.map(|(s, l)| held[s..s + l].to_vec())).collect::<Vec<_>>());
                            held.drain(..len);
                        }
                        Step::End => { ended = true; break }
                        Step::More => break,
                    }
                }
            }
            prop_assert!(ended);
            prop_assert_eq!(found, rows);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(Parser::default().parse(&bytes));
            drop(Parser { started: true, ..Parser::default() }.parse(&bytes));
        }
    }
}
