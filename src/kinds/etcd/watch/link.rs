//! One watch at one member: made behind a place from which it can start, or not at all.
//!
//! Of a server that keeps its progress in order with events the prefix alone is watched. Of another one all keys are, so that
//! every revision is an event: a place is never taken from what such a server says of its progress, and what it loses is seen.

use std::time::Duration;

use etcd_client::proto::PbWatchResponse;
use etcd_client::{GetOptions, WatchOptions, WatchRequestSender, WatchResponseStream};
use tokio::time::timeout;

use super::assemble::{Assembler, Came};
use crate::error::{Error, Result};
use crate::kinds::etcd::connect::{Live, MAX_ANSWER};
use crate::kinds::etcd::fault::{Cause, cause, fault};
use crate::kinds::etcd::read::Reader;

const ATTEMPT: &str = "follow an etcd cluster";
/// LIMIT: a member that has a leader makes a watch within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A watch.
pub(super) struct Link {
    pub(super) live: Live,
    pub(super) requests: WatchRequestSender,
    answers: WatchResponseStream,
    pub(super) assembler: Assembler,
    /// Whether a quiet watch of this server answers when it is asked.
    pub(super) answering: bool,
    /// Whether the watch comes to every revision of the cluster, by an event or by the server's word.
    pub(super) reaching: bool,
    /// What is wrong with a watch that had to be made so.
    pub(super) complaint: Option<String>,
}

/// How a try to make a watch ended.
enum Made {
    Link(Box<Link>),
    Refused(String),
}

impl Link {
    /// Makes a watch behind a revision of this cluster.
    ///
    /// # Errors
    /// PositionLost when it cannot start there; Transient when no member answers.
    pub(super) async fn open(reader: &Reader, cluster: u64, place: i64) -> Result<Self> {
        prove(reader, place).await?;
        let mut refusals = 0;
        loop {
            let live = reader.cluster.live().await?;
            if live.cluster != cluster {
                return Err(Error::position_lost(format!(
                    "{ATTEMPT}: the cluster that answers is {:016x}, and the stream is of {cluster:016x}",
                    live.cluster
                )));
            }
            let safe = live.version.progress_is_in_order() && live.version.tells_quiet_watches();
            // Once more after a new log-in, and then without the keys that may be somebody else's.
            let wide = !safe && refusals < 2;
            match Self::make(reader, &live, place, wide).await {
                Ok(Made::Link(mut link)) => {
                    if !safe && !wide {
                        link.complaint = Some(format!(
                            "etcd {} says nothing reliable about its progress, and the user may not watch all keys: how far \
                             the stream is can be told only when keys under its prefix change; move to a newer release, or \
                             let the user read all keys",
                            live.version
                        ));
                    }
                    return Ok(*link);
                }
                Ok(Made::Refused(why)) => {
                    refusals += 1;
                    reader.cluster.forget(&live);
                    if refusals > if safe { 1 } else { 2 } {
                        return Err(refused(&why));
                    }
                }
                Err(error) => {
                    reader.cluster.forget(&live);
                    return Err(error);
                }
            }
        }
    }

    async fn make(reader: &Reader, live: &Live, place: i64, wide: bool) -> Result<Made> {
        let options = WatchOptions::new().with_start_revision(place + 1).with_progress_notify().with_fragment();
        let (key, options) = match wide {
            true => (vec![0], options.with_range(vec![0])),
            false => (reader.keys.first(b""), options.with_range(reader.keys.end(b""))),
        };
        let mut client = live.client.watch_client().max_decoding_message_size(MAX_ANSWER);
        let silent = |_| Error::transient(format!("{ATTEMPT}: the member did not answer in {} s", PATIENCE.as_secs()));
        let made = match timeout(PATIENCE, client.watch(key, Some(options))).await.map_err(silent)? {
            Ok(stream) => stream,
            Err(error) if matches!(cause(&error), Cause::Denied | Cause::TokenExpired) => {
                return Ok(Made::Refused("etcdserver: permission denied".into()));
            }
            Err(error) => return Err(fault(ATTEMPT, &error)),
        };
        let (requests, answers) = made.split();
        let in_order = live.version.progress_is_in_order() && !wide;
        let answering = !live.version.progress_is_in_order() || live.version.tells_quiet_watches();
        let mut link = Self {
            live: live.clone(),
            requests,
            answers,
            assembler: Assembler::new(place, in_order, wide),
            answering,
            reaching: in_order || wide,
            complaint: None,
        };
        loop {
            let answer = timeout(PATIENCE, link.next()).await.map_err(silent)??;
            match link.assembler.take(answer)? {
                Came::Created => return Ok(Made::Link(Box::new(link))),
                Came::Refused(why) => return Ok(Made::Refused(why)),
                Came::Compacted(revision) => return Err(compacted(place, revision)),
                Came::Alive => {}
                _ => return Err(Error::transient(format!("{ATTEMPT}: events came before the watch was there"))),
            }
        }
    }

    /// The next answer. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<PbWatchResponse> {
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answer.0),
            Ok(None) => Err(Error::transient(format!("{ATTEMPT}: the member has ended the watch"))),
            Err(error) => Err(fault(ATTEMPT, &error)),
        }
    }
}

/// What the server says when it ends a watch; only its own fixed sentences are repeated.
pub(super) fn refused(why: &str) -> Error {
    let why = why.find("etcdserver: ").and_then(|at| why.get(at..)).unwrap_or("it does not say why");
    if why.contains("permission denied") {
        return Error::config(format!("{ATTEMPT}: the user may not read the keys under `prefix`: {why}"));
    }
    Error::transient(format!("{ATTEMPT}: the member has refused the watch: {why}"))
}

/// What follows a place is gone.
pub(super) fn compacted(place: i64, revision: i64) -> Error {
    Error::position_lost(format!(
        "{ATTEMPT}: what follows revision {place} is compacted away, up to revision {revision}"
    ))
}

/// Proves that a watch can start behind a revision: that revision can still be read, so nothing behind it is gone, and the
/// cluster has been there.
async fn prove(reader: &Reader, place: i64) -> Result<()> {
    if place == 0 {
        return Ok(());
    }
    let key = reader.keys.first(b"");
    let answer = reader
        .cluster
        .try_ask(ATTEMPT, |mut live| {
            let (key, options) = (key.clone(), GetOptions::new().with_count_only().with_revision(place));
            async move { live.kv.get(key, Some(options)).await }
        })
        .await?;
    match answer {
        Ok(_) => Ok(()),
        Err(error) if cause(&error) == Cause::Compacted => Err(Error::position_lost(format!(
            "{ATTEMPT}: the cluster has compacted what follows revision {place}, where the stream stands"
        ))),
        Err(error) if cause(&error) == Cause::Future => Err(Error::position_lost(format!(
            "{ATTEMPT}: the cluster has not come to revision {place}, where the stream stands: it was restored from a backup"
        ))),
        Err(error) => Err(fault(ATTEMPT, &error)),
    }
}
