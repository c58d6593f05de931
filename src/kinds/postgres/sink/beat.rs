//! Signs of life of a lane whose own record stands still: one huge transaction is staged, or a commit takes long.
//!
//! The lane's row cannot move, because its next state is part of the transaction that is open. So there is a row beside
//! it, moved on a session of its own. Invariant: a beat waits for nobody and nobody waits for a beat. That is why the
//! epoch is part of the row's key: a claim *adds* the row of the new epoch and leaves the old one alone, on which the
//! older owner may beat as it likes, since it is only read under the epoch that the lane has. A commit, staged or not,
//! never touches these rows.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::error::Result;
use crate::kinds::postgres::conn::{Session, translate};
use crate::kinds::postgres::writer::destination::Destination;
use crate::model::StreamId;

/// LIMIT: a beat that takes longer comes too late to be one.
const PATIENCE: Duration = Duration::from_secs(2);
const SESSION: Session =
    Session { statement: Some(PATIENCE), lock: Some(PATIENCE), idle_in_transaction: Some(PATIENCE), read_only: false };

/// Nothing is lost with a beat, so neither the disk nor a synchronous standby is waited for.
const SETTINGS: &str = "set synchronous_commit = off";
const MOVE: &str = "update driftless.beat set beat = beat + 1 where stream = $1 and lane = $2 and epoch = $3";
const BEGIN: &str = "insert into driftless.beat (stream, lane, epoch) values ($1, $2, $3) on conflict do nothing";
/// A row that an earlier owner holds at this moment goes with a later claim.
const FORGET_OLDER: &str = "\
    delete from driftless.beat where ctid = any (array(select b.ctid from driftless.beat b \
        join driftless.lane l on l.stream = b.stream and l.lane = b.lane and l.epoch > b.epoch \
        where b.stream = $1 and b.lane = $2 for update of b skip locked))";

/// The session on which lanes beat: made with the first beat, and again after each that failed or was given up.
#[derive(Default)]
pub struct Beats(Mutex<Option<Client>>);

impl Beats {
    /// See [`crate::sink::Sink::beat`].
    pub async fn beat(&self, destination: &Destination, stream: &StreamId, lane: u16, epoch: u64) -> Result<()> {
        let attempt = || format!("show that lane {lane} of stream {stream} is at work");
        let mut held = self.0.lock().await;
        // Taken out until it has answered: a beat that is dropped half way takes its session along.
        let client = match held.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let client = destination.endpoint.session(&SESSION).await?;
                client.batch_execute(SETTINGS).await.map_err(|error| translate(&error, attempt()))?;
                client
            }
        };
        let (name, lane, epoch) = (stream.as_str(), i32::from(lane), epoch.cast_signed());
        client
            .query_typed(MOVE, &[(&name, Type::TEXT), (&lane, Type::INT4), (&epoch, Type::INT8)])
            .await
            .map_err(|error| translate(&error, attempt()))?;
        *held = Some(client);
        Ok(())
    }
}

/// The row of a new epoch, inside the claim's transaction.
pub(super) async fn begin(client: &Client, stream: &str, lane: i32, epoch: i64) -> Result<(), tokio_postgres::Error> {
    client.execute(BEGIN, &[&stream, &lane, &epoch]).await.map(drop)
}

/// Removes the rows of earlier epochs, once the claim is committed.
pub(super) async fn forget_older(client: &Client, stream: &str, lane: i32) -> Result<(), tokio_postgres::Error> {
    client.execute(FORGET_OLDER, &[&stream, &lane]).await.map(drop)
}
