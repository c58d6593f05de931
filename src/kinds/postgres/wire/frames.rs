//! Walks the messages of a replication connection in a read buffer, without copying them.
//!
//! While a copy runs in both directions the server sends `CopyData` (`d`) whose payload begins with `w` (a piece of the log:
//! for us one pgoutput message) or `k` (keepalive), and between them notices, parameter changes, an error, or the end of
//! the copy (<https://www.postgresql.org/docs/current/protocol-replication.html>, "START_REPLICATION", and
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>). This walker looks at the header first and
//! never consumes a message that it does not know, unlike a general parser, for which `CopyBothResponse` is an error.

use super::Lsn;
use super::read::Reader;
use crate::error::{Error, Result};

/// Bytes before the payload of any message: tag and length.
pub const HEADER: usize = 5;
/// Bytes before the pgoutput message within a `w` frame: header, kind, start, end, clock.
pub const DATA_HEADER: usize = HEADER + 1 + 8 + 8 + 8;
/// Microseconds between the Unix epoch and PostgreSQL's, 2000-01-01.
pub const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// One message of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// `w`: one message of the output plugin.
    Data {
        /// Where in the log it comes from. Not monotonic: a transaction's changes come when it commits.
        start: Lsn,
        /// The message.
        message: &'a [u8],
    },
    /// `k`: everything that ends at or before `end` was sent.
    Keepalive {
        /// How far the server has read its log.
        end: Lsn,
        /// The server wants an answer at once, or it will close the connection.
        reply: bool,
    },
    /// `W`: the copy has begun.
    Began,
    /// `c`: the server will send no more data.
    Done,
    /// `E`: an error; the body holds its fields, see [`ServerError::parse`].
    Error(&'a [u8]),
    /// Anything else (notice, parameter, command completion, ready for query), by its tag.
    Other(u8),
}

/// Length of the message at the beginning of `buf` with its header; `None` if not even that can be told yet.
#[inline]
pub fn length(buf: &[u8]) -> Result<Option<usize>> {
    let Some(&[_, a, b, c, d]) = buf.first_chunk::<HEADER>() else { return Ok(None) };
    let length = i32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(length) if length >= 4 => Ok(Some(length + 1)),
        _ => Err(Error::corrupt("read from PostgreSQL: a message with an impossible length")),
    }
}

/// The first message of `buf` and its length; `None` if it is not there as a whole.
#[inline]
pub fn next(buf: &[u8]) -> Result<Option<(Frame<'_>, usize)>> {
    let Some(length) = length(buf)? else { return Ok(None) };
    let Some(whole) = buf.get(..length) else { return Ok(None) };
    let (Some(&tag), Some(body)) = (whole.first(), whole.get(HEADER..)) else { return Ok(None) };
    let frame = match tag {
        b'd' => data(body).ok_or_else(|| Error::corrupt("read from PostgreSQL: a broken frame of replication data"))?,
        b'W' => Frame::Began,
        b'c' => Frame::Done,
        b'E' => Frame::Error(body),
        other => Frame::Other(other),
    };
    Ok(Some((frame, length)))
}

#[inline]
fn data(body: &[u8]) -> Option<Frame<'_>> {
    let mut body = Reader(body);
    match body.u8()? {
        b'w' => {
            let start = Lsn(body.u64()?);
            body.take(16)?;
            Some(Frame::Data { start, message: body.0 })
        }
        b'k' => {
            let end = Lsn(body.u64()?);
            body.take(8)?;
            Some(Frame::Keepalive { end, reply: body.u8()? != 0 })
        }
        _ => None,
    }
}

/// Standby status update, as a whole `CopyData` message: what was received, what is durable at the sink (which is both
/// flushed and applied), our clock in Unix microseconds, and whether the server shall answer at once.
pub fn status(received: Lsn, durable: Lsn, clock: i64, reply: bool) -> [u8; 39] {
    let mut out = [0; 39];
    out[0] = b'd';
    out[1..5].copy_from_slice(&38u32.to_be_bytes());
    out[5] = b'r';
    out[6..14].copy_from_slice(&received.0.max(durable.0).to_be_bytes());
    out[14..22].copy_from_slice(&durable.0.to_be_bytes());
    out[22..30].copy_from_slice(&durable.0.to_be_bytes());
    out[30..38].copy_from_slice(&(clock - EPOCH_MICROS).to_be_bytes());
    out[38] = u8::from(reply);
    out
}

/// `CopyDone`, as a whole message.
pub const COPY_DONE: [u8; 5] = [b'c', 0, 0, 0, 4];

/// The fields of an error that may be shown: never detail, where or query, which can hold row values.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerError {
    /// SQLSTATE.
    pub code: String,
    /// Severity and primary message.
    pub message: String,
}

impl ServerError {
    /// Reads the fields of an `ErrorResponse` body; what is missing stays empty.
    pub fn parse(body: &[u8]) -> Self {
        let mut error = Self::default();
        for field in body.split(|&byte| byte == 0) {
            if let Some((kind, text)) = field.split_first() {
                match kind {
                    b'C' => error.code = String::from_utf8_lossy(text).into_owned(),
                    b'M' => error.message = String::from_utf8_lossy(text).into_owned(),
                    _ => {}
                }
            }
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn stream() -> Vec<u8> {
        let mut data = vec![b'w'];
        data.extend_from_slice(&0x10u64.to_be_bytes());
        data.extend_from_slice(&[0; 16]);
        data.extend_from_slice(b"message");
        let mut alive = vec![b'k'];
        alive.extend_from_slice(&0x20u64.to_be_bytes());
        alive.extend_from_slice(&[0; 8]);
        alive.push(1);
        let error = b"SERROR\0C55006\0Mslot is active\0Da secret\0\0";
        [
            frame(b'W', &[0, 0, 0]),
            frame(b'd', &data),
            frame(b'N', b"SNOTICE\0\0"),
            frame(b'd', &alive),
            frame(b'E', error),
            frame(b'c', b""),
            frame(b'Z', b"I"),
        ]
        .concat()
    }

    #[test]
    fn every_message_of_a_copy_is_told_apart() {
        let stream = stream();
        let (mut rest, mut seen) = (&stream[..], Vec::new());
        while let Some((frame, length)) = next(rest).unwrap() {
            seen.push(frame);
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        let [began, data, notice, alive, error, done, ready] = seen[..] else { panic!("{seen:?}") };
        assert_eq!((began, notice, done, ready), (Frame::Began, Frame::Other(b'N'), Frame::Done, Frame::Other(b'Z')));
        assert_eq!(data, Frame::Data { start: Lsn(0x10), message: b"message" });
        assert_eq!(alive, Frame::Keepalive { end: Lsn(0x20), reply: true });
        let Frame::Error(body) = error else { panic!("{error:?}") };
        let error = ServerError::parse(body);
        assert_eq!((error.code.as_str(), error.message.as_str()), ("55006", "slot is active"));
    }

    #[test]
    fn a_status_never_claims_less_received_than_durable() {
        let bytes = status(Lsn(1), Lsn(0x0102), EPOCH_MICROS + 5, true);
        assert_eq!(length(&bytes).unwrap(), Some(bytes.len()));
        assert_eq!(bytes[6..14], bytes[14..22]);
        assert_eq!((bytes[37], bytes[38]), (5, 1));
    }

    proptest! {
        #[test]
        fn a_message_that_is_cut_anywhere_is_waited_for(cut in 0usize..1000) {
            let stream = stream();
            let cut = cut % stream.len();
            let (mut rest, mut whole) = (&stream[..cut], 0);
            while let Some((_, length)) = next(rest).unwrap() {
                rest = &rest[length..];
                whole += length;
            }
            prop_assert!(whole <= cut);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), tag in 0usize..6) {
            drop(next(&bytes));
            drop(next(&frame(b"dWcEkw"[tag], &bytes)));
            ServerError::parse(&bytes);
        }

        #[test]
        fn a_changed_byte_panics_nowhere(at in 0usize..1000, byte: u8) {
            let mut stream = stream();
            let at = at % stream.len();
            stream[at] = byte;
            let mut rest = &stream[..];
            while let Ok(Some((_, length))) = next(rest) {
                rest = &rest[length..];
            }
        }
    }
}
