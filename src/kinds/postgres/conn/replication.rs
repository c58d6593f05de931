//! A connection in replication mode, authenticated and idle.
//!
//! PostgreSQL frontend/backend protocol 3.0, "Simple Query" and "Streaming Replication Protocol". It runs commands whose
//! answers are rows of text (IDENTIFY_SYSTEM, CREATE_REPLICATION_SLOT, plain SQL); after START_REPLICATION the stream and
//! the bytes already read belong to the walreceiver. Invariant: after an error of a command the connection has been read
//! up to ReadyForQuery and may be used again; after any other error it is of no use.

use std::collections::BTreeMap;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::errors::{ServerError, lost};
use crate::kinds::postgres::conn::stream::Stream;

/// LIMIT: no answer to a command or a start-up comes near it; a longer one is not a PostgreSQL server.
const MESSAGE_MAX: i32 = 64 << 20;

/// A row of an answer; `None` is NULL.
pub type TextRow = Vec<Option<String>>;

/// Why a command failed.
#[derive(Debug)]
pub enum QueryError {
    /// The server refused it; the connection may be used again.
    Server(ServerError),
    /// The connection is of no use any more.
    Lost(Error),
}

impl QueryError {
    /// The error for a person.
    pub fn during(self, attempt: impl std::fmt::Display) -> Error {
        match self {
            Self::Server(error) => error.during(attempt),
            Self::Lost(error) => error.during(attempt),
        }
    }

    /// SQLSTATE, if the server said one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.code),
            Self::Lost(_) => None,
        }
    }
}

/// See the module.
pub struct ReplicationConn {
    /// The stream; nothing is buffered in it for writing.
    pub stream: Stream,
    /// What was read and not yet used.
    pub buf: BytesMut,
    /// `server_version_num`: 150020 is 15.20.
    pub server_version: u32,
    /// What the server reported about itself.
    pub parameters: BTreeMap<String, String>,
    /// Process that the server says it has for us.
    pub backend_pid: i32,
}

impl ReplicationConn {
    /// Wraps a fresh stream, before any start-up message.
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            buf: BytesMut::with_capacity(16 << 10),
            server_version: 0,
            parameters: BTreeMap::new(),
            backend_pid: 0,
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| lost(&error, "send to PostgreSQL"))
    }

    /// The next message of the server, other than a notice or a parameter, which are taken note of. Cancel-safe.
    pub async fn receive(&mut self) -> Result<Message> {
        loop {
            let header = Header::parse(&self.buf).map_err(|_| garbled())?;
            if header.is_some_and(|h| h.len() > MESSAGE_MAX) {
                return Err(garbled());
            }
            match Message::parse(&mut self.buf).map_err(|_| garbled())? {
                Some(Message::ParameterStatus(body)) => {
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        self.note(name, value);
                    }
                }
                Some(Message::NoticeResponse(_) | Message::NotificationResponse(_)) => {}
                Some(message) => return Ok(message),
                None => {
                    let read = self.stream.read_buf(&mut self.buf).await;
                    if read.map_err(|error| lost(&error, "read from PostgreSQL"))? == 0 {
                        return Err(Error::transient("read from PostgreSQL: the server closed the connection"));
                    }
                }
            }
        }
    }

    fn note(&mut self, name: &str, value: &str) {
        if name == "server_version" {
            self.server_version = version_num(value);
        }
        self.parameters.insert(name.to_owned(), value.to_owned());
    }

    /// Runs one command, or several statements of SQL, and gives all rows. The answer should be small.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<TextRow>, QueryError> {
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message)
            .map_err(|_| QueryError::Lost(Error::bug("send a command to PostgreSQL: it holds a zero byte")))?;
        self.send(&message).await.map_err(QueryError::Lost)?;
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            match self.receive().await.map_err(QueryError::Lost)? {
                Message::DataRow(body) => rows.push(text_row(&body).map_err(QueryError::Lost)?),
                Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                Message::ErrorResponse(body) => {
                    let error = ServerError::from_fields(body.fields());
                    // After FATAL nothing more comes, not even ReadyForQuery.
                    if error.fatal {
                        return Err(QueryError::Server(error));
                    }
                    refused.get_or_insert(error);
                }
                Message::ReadyForQuery(_) => return refused.map_or(Ok(rows), |error| Err(QueryError::Server(error))),
                _ => return Err(QueryError::Lost(garbled())),
            }
        }
    }
}

fn text_row(body: &DataRowBody) -> Result<TextRow> {
    let mut ranges = body.ranges();
    let mut row = TextRow::new();
    while let Some(range) = ranges.next().map_err(|_| garbled())? {
        row.push(match range {
            Some(range) => {
                let bytes = body.buffer().get(range).ok_or_else(garbled)?;
                Some(String::from_utf8(bytes.to_vec()).map_err(|_| garbled())?)
            }
            None => None,
        });
    }
    Ok(row)
}

pub(super) fn garbled() -> Error {
    Error::transient("read from PostgreSQL: the server's answer is not what the protocol allows here")
}

/// `server_version` as a number; versions before 10, which are not supported, come out small.
pub(super) fn version_num(text: &str) -> u32 {
    let number = |text: &str| {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        text.get(..digits).and_then(|d| d.parse::<u32>().ok()).filter(|n| *n < 10_000).unwrap_or(0)
    };
    let (major, minor) = text.split_once('.').unwrap_or((text, ""));
    number(major) * 10_000 + number(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_server_counts_them() {
        for (text, num) in [
            ("15.20 (Debian 15.20-0+deb12u1)", 150_020),
            ("17beta1", 170_000),
            ("18.6", 180_006),
            ("13.4.0", 130_004),
            ("", 0),
            ("99999999999", 0),
        ] {
            assert_eq!(version_num(text), num, "{text}");
        }
    }
}
