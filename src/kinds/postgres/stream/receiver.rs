//! The task that owns a replication connection: reads it, answers it, and ends with it.
//!
//! Invariant: answers to the server depend on nothing but time, the server's wishes and the released position; a tail
//! that takes no frames stops the reading, never the answering. It understands frames only as far as it must (whole or
//! not, keepalive, error) and deliberately knows no message of the output plugin. The durable position that it reports
//! is what the tail released, never what it merely received or what a keepalive said.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::link::{CHUNK, End, Link};
use crate::error::{Error, Fault, Result};
use crate::kinds::postgres::wire::frames::{self, Frame, ServerError};
use crate::kinds::postgres::wire::{Lsn, pgoutput};

/// What a connection must be able to do.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// What is asked of the server.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) slot: String,
    pub(super) publication: String,
    /// Where the changes begin: commits that begin at or behind it.
    pub(super) start: Lsn,
    /// `server_version_num`.
    pub(super) version: u32,
    /// Whether values come in binary form.
    pub(super) binary: bool,
    /// The server's `wal_sender_timeout`; zero when it has none.
    pub(super) timeout: Duration,
    /// The largest frame that is taken.
    pub(super) max_frame: usize,
}

/// LIMIT: a third of the server's patience, and often enough for `pg_stat_replication` to be of use.
const MAX_INTERVAL: Duration = Duration::from_secs(10);
/// LIMIT: releases come with every commit of the sink; ten reports a second let the server forget soon enough.
const RELEASE_INTERVAL: Duration = Duration::from_millis(100);
/// LIMIT: a question costs the server one short message.
const ASK_WANTED: Duration = Duration::from_millis(20);
/// LIMIT: as above, for a stream in which nothing happens.
const ASK_IDLE: Duration = Duration::from_millis(500);
/// LIMIT: patience with a server that has no timeout of its own.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// LIMIT: long enough for a server that is not in the middle of decoding to say good-bye.
const GOODBYE: Duration = Duration::from_secs(1);

/// In a flood the server sends each row by itself, and reading each by itself would cost more than all work on it. After
/// this many reads without a pause between them, a pause is made before each, until one brings little.
const DENSE: u32 = 64;
/// LIMIT: the delay that a flood may add; the smallest that the runtime's clock knows.
const GRAIN: Duration = Duration::from_millis(1);
/// LIMIT: a flood brings far more than this in the time of a pause.
const SCANT: usize = 8 << 10;

/// A read that brings this much has left something behind, so the next one needs no pause.
const PLENTY: usize = 48 << 10;

impl Plan {
    /// The statement. Options: <https://www.postgresql.org/docs/current/protocol-logical-replication.html>.
    fn statement(&self) -> String {
        let protocol = match self.version {
            160_000.. => 4,
            150_000.. => 3,
            140_000.. => 2,
            _ => 1,
        };
        // The value is a list of identifiers, so the name is quoted as one first.
        let publication = self.publication.replace('"', "\"\"").replace('\'', "''");
        let mut options = format!("proto_version '{protocol}', publication_names '\"{publication}\"'");
        if self.version >= 140_000 {
            // Not 'parallel': aborts would come with places, and nothing here applies in parallel.
            options.push_str(", streaming 'on'");
            if self.binary {
                options.push_str(", binary 'true'");
            }
        }
        let slot = self.slot.replace('"', "\"\"");
        format!("START_REPLICATION SLOT \"{slot}\" LOGICAL {} ({options})", self.start)
    }

    fn interval(&self) -> Duration {
        match self.timeout.is_zero() {
            true => MAX_INTERVAL,
            false => (self.timeout / 3).clamp(Duration::from_millis(10), MAX_INTERVAL),
        }
    }

    fn patience(&self) -> Duration {
        2 * if self.timeout.is_zero() { DEFAULT_TIMEOUT } else { self.timeout }
    }
}

/// Starts the stream on a connection whose session is idle; `residual` is what was read from it already. The task that
/// follows lives until the connection or the tail is gone.
pub(super) async fn start<T: Io>(io: T, residual: &[u8], plan: Plan) -> Result<Arc<Link>> {
    let attempt = format!("start replication from slot {:?} at {}", plan.slot, plan.start);
    let mut receiver = Receiver::new(io, residual, plan);
    receiver.begin().await.map_err(|error| error.during(attempt))?;
    let link = Arc::clone(&receiver.link);
    tokio::spawn(receiver.run());
    Ok(link)
}

struct Receiver<T> {
    io: T,
    plan: Plan,
    link: Arc<Link>,
    buf: Vec<u8>,
    /// How many bytes of `buf` are whole frames.
    whole: usize,
    /// The furthest place that the server has spoken of.
    received: Lsn,
    /// What was last reported as durable.
    reported: Lsn,
    /// The server waits for an answer.
    answer: bool,
    told: Instant,
    asked: Instant,
    heard: Instant,
}

impl<T: Io> Receiver<T> {
    fn new(io: T, residual: &[u8], plan: Plan) -> Self {
        let mut buf = Vec::with_capacity(CHUNK.max(residual.len()));
        buf.extend_from_slice(residual);
        let now = Instant::now();
        Self {
            io,
            received: plan.start,
            plan,
            link: Arc::default(),
            buf,
            whole: 0,
            reported: Lsn::INVALID,
            answer: false,
            told: now,
            asked: now,
            heard: now,
        }
    }

    /// Sends the statement and waits until the copy has begun.
    async fn begin(&mut self) -> Result<()> {
        let mut query = bytes::BytesMut::new();
        postgres_protocol::message::frontend::query(&self.plan.statement(), &mut query)
            .map_err(|_| Error::config("the name of the slot or the publication holds a zero byte"))?;
        self.send(&query).await?;
        loop {
            while let Some((frame, length)) = frames::next(&self.buf)? {
                let began = match frame {
                    Frame::Began => true,
                    Frame::Error(body) => return Err(refused(&ServerError::parse(body))),
                    _ => false,
                };
                self.buf.drain(..length);
                if began {
                    return Ok(());
                }
            }
            tokio::time::timeout(self.plan.patience(), self.read())
                .await
                .map_err(|_| Error::transient("the server does not answer"))??;
        }
    }

    async fn run(mut self) {
        let end = match self.walk() {
            Ok(()) => self.follow().await,
            Err(end) => Err(end),
        };
        match end {
            Err(end) => self.link.finish(std::mem::take(&mut self.buf), self.whole, end),
            // The tail is gone. Whether the server hears of it changes nothing for us.
            Ok(()) => drop(tokio::time::timeout(GOODBYE, self.goodbye()).await),
        }
        let Self { io, link, .. } = self;
        drop(io);
        link.close();
    }

    async fn follow(&mut self) -> Result<(), End> {
        let (mut flow, mut more) = (0, false);
        let mut alarm = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            if self.link.deserted() {
                return Ok(());
            }
            let room = self.make_room();
            let now = Instant::now();
            self.report(now, room).await.map_err(End::Failed)?;
            if flow == DENSE && room && !more {
                tokio::time::sleep(GRAIN).await;
            }
            alarm.as_mut().reset(self.next_alarm(room));
            let link = Arc::clone(&self.link);
            tokio::select! {
                read = self.read(), if room => {
                    let read = read.map_err(End::Failed)?;
                    self.walk()?;
                    more = read >= PLENTY;
                    flow = match flow {
                        // Less than this after a pause: the flood is over.
                        DENSE.. if read < SCANT => 0,
                        DENSE.. => DENSE,
                        _ if now.elapsed() < GRAIN => flow + 1,
                        _ => 0,
                    };
                }
                () = link.stirred() => {}
                () = alarm.as_mut() => {}
            }
        }
    }

    /// Hands whole frames over and says whether more can be read.
    fn make_room(&mut self) -> bool {
        let full = self.buf.len() == self.buf.capacity();
        if self.whole > 0 && self.link.offer(&mut self.buf, self.whole, full) {
            self.whole = 0;
        }
        if self.buf.len() < self.buf.capacity() {
            return true;
        }
        if self.whole > 0 {
            return false;
        }
        // One frame fills the buffer and is not there as a whole; its length is known and was checked.
        let length = frames::length(&self.buf).ok().flatten().unwrap_or(CHUNK);
        self.buf.reserve_exact(length.saturating_sub(self.buf.len()).max(CHUNK));
        true
    }

    async fn read(&mut self) -> Result<usize> {
        match self.io.read_buf(&mut self.buf).await {
            Ok(0) => Err(Error::transient("read the PostgreSQL stream: the server has closed the connection")),
            Ok(read) => {
                self.heard = Instant::now();
                Ok(read)
            }
            Err(error) => Err(Error::transient("read the PostgreSQL stream: the connection is lost").because(error)),
        }
    }

    /// Looks at the frames that have become whole.
    fn walk(&mut self) -> Result<(), End> {
        loop {
            let rest = self.buf.get(self.whole..).unwrap_or_default();
            let Some((frame, length)) = frames::next(rest).map_err(End::Failed)? else { break };
            match frame {
                Frame::Data { start, .. } => self.received = self.received.max(start),
                Frame::Keepalive { end, reply } => {
                    self.received = self.received.max(end);
                    self.answer |= reply;
                }
                Frame::Error(body) => {
                    let error = refused(&ServerError::parse(body));
                    return Err(End::Failed(error.during("read the PostgreSQL stream")));
                }
                Frame::Done | Frame::Other(b'C' | b'Z') => {
                    let why = "read the PostgreSQL stream: the server has ended it, as it does when it shuts down";
                    return Err(End::Failed(Error::transient(why)));
                }
                Frame::Began | Frame::Other(_) => {}
            }
            self.whole += length;
        }
        let rest = self.buf.get(self.whole..).unwrap_or_default();
        match frames::length(rest).map_err(End::Failed)? {
            // What is needed to name the table follows the header at once.
            Some(size) if size > self.plan.max_frame && rest.len() >= frames::DATA_HEADER + pgoutput::TABLE_WITHIN => {
                let head = &rest[frames::DATA_HEADER..frames::DATA_HEADER + pgoutput::TABLE_WITHIN];
                Err(End::Oversize { head: head.to_vec(), size })
            }
            _ => Ok(()),
        }
    }

    /// Tells the server what it wants to know or what has changed, if it is time.
    async fn report(&mut self, now: Instant, reading: bool) -> Result<()> {
        if reading && now.duration_since(self.heard) > self.plan.patience() {
            return Err(Error::transient(format!(
                "read the PostgreSQL stream: the server has been silent for {} s although it was asked to answer",
                self.plan.patience().as_secs_f32()
            )));
        }
        if !reading {
            // Bytes that we do not take cannot be missed.
            self.heard = now;
        }
        let durable = self.link.released();
        let ask = now >= self.next_question();
        let quiet = now.duration_since(self.told);
        let moved = durable > self.reported && quiet >= RELEASE_INTERVAL;
        if !(self.answer || ask || moved || quiet >= self.plan.interval()) {
            return Ok(());
        }
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = i64::try_from(clock.as_micros()).unwrap_or(i64::MAX);
        self.send(&frames::status(self.received, durable, clock, ask)).await?;
        self.answer = false;
        self.reported = durable;
        self.told = now;
        if ask {
            self.asked = now;
        }
        Ok(())
    }

    fn next_question(&self) -> Instant {
        let idle = self.heard.max(self.asked) + ASK_IDLE;
        match self.link.is_wanted() && self.link.is_idle() {
            true => idle.min(self.asked + ASK_WANTED),
            false => idle,
        }
    }

    fn next_alarm(&self, reading: bool) -> Instant {
        let mut at = (self.told + self.plan.interval()).min(self.next_question());
        if self.link.released() > self.reported {
            at = at.min(self.told + RELEASE_INTERVAL);
        }
        if reading { at.min(self.heard + self.plan.patience() + Duration::from_millis(1)) } else { at }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        };
        match tokio::time::timeout(self.plan.patience(), sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(Error::transient("answer the PostgreSQL server: the connection is lost").because(error))
            }
            Err(_) => Err(Error::transient("answer the PostgreSQL server: it does not read what we send")),
        }
    }

    /// Reports what was released last and ends the copy in order, so that the slot is free when this returns.
    async fn goodbye(&mut self) -> Result<()> {
        self.send(&frames::status(self.received, self.link.released(), frames::EPOCH_MICROS, false)).await?;
        self.send(&frames::COPY_DONE).await?;
        // The walk ends at the server's own end of the copy. Nobody takes what comes before it.
        while self.walk().is_ok() {
            self.buf.drain(..self.whole);
            self.whole = 0;
            self.buf.reserve(CHUNK);
            self.read().await?;
        }
        let mut bye = bytes::BytesMut::new();
        postgres_protocol::message::frontend::terminate(&mut bye);
        self.send(&bye).await?;
        drop(self.io.shutdown().await);
        while self.read().await.is_ok() {
            self.buf.clear();
        }
        Ok(())
    }
}

/// How to react to what the server says about a stream. Codes: the manual's Appendix A.
fn refused(error: &ServerError) -> Error {
    let about_slot = error.message.contains("slot");
    let (fault, advice) = match error.code.as_str() {
        // WAL that was removed; a slot that was invalidated or dropped.
        "58P01" => (Fault::PositionLost, ""),
        "55000" | "42704" if about_slot => (Fault::PositionLost, ""),
        // Our previous connection, which the server has not given up yet, or somebody else's.
        "55006" => (Fault::Transient, ""),
        "42704" | "42P01" => (Fault::Config, ""),
        "42501" | "28000" | "28P01" => (Fault::Config, "; the role needs REPLICATION and SELECT on the tables"),
        "22023" | "0A000" | "42601" => (Fault::Config, ""),
        _ => (Fault::Transient, ""),
    };
    Error::new(fault, format!("the server says: {} (SQLSTATE {}){advice}", error.message, error.code))
}

#[cfg(test)]
#[path = "receiver_tests.rs"]
mod tests;
