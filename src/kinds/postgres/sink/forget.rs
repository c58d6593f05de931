//! Removing what is remembered of a stream that is done for good.
//!
//! Invariant: under the same locks as a claim, and only while every lane stands as it was seen, so that nobody's lane goes.
//! The schema goes with the last stream, but only where this role could make it again: somebody may have made it for us.

use tokio_postgres::Client;

use super::{claim, ledger};
use crate::error::Result;
use crate::kinds::postgres::conn::translate;
use crate::kinds::postgres::writer::destination::Destination;
use crate::kinds::postgres::writer::session::{Session, get};
use crate::model::{StreamId, StreamRecord};

const ROWS: [&str; 4] = [
    "delete from driftless.position where stream = $1",
    "delete from driftless.beat where stream = $1",
    "delete from driftless.lane where stream = $1",
    "delete from driftless.stream where name = $1",
];
const IS_OURS_TO_DROP: &str = "\
    select not exists (select from driftless.stream) and not exists (select from driftless.lane) \
    and not exists (select from driftless.made_table where not settled) \
    and has_database_privilege(current_database(), 'create') \
    and exists (select from pg_namespace where nspname = 'driftless' and pg_has_role(nspowner, 'usage'))";

/// See [`crate::sink::Sink::forget`].
pub async fn forget(destination: &Destination, stream: &StreamId, seen: &StreamRecord) -> Result<()> {
    let session = Session::open(destination).await?;
    let client = &session.client;
    if !ledger::present(client).await?.complete() {
        return Ok(());
    }
    let broken = |error| translate(&error, format!("forget stream {stream}"));
    client.batch_execute(claim::BEGIN).await.map_err(broken)?;
    let removed = remove(client, stream, seen).await;
    let end = if removed.is_ok() { "commit" } else { "rollback" };
    client.batch_execute(end).await.map_err(broken)?;
    removed
}

async fn remove(client: &Client, stream: &StreamId, seen: &StreamRecord) -> Result<()> {
    let broken = |error| translate(&error, format!("forget stream {stream}"));
    // In this order whoever makes the records anew waits for us, and we for nobody who waits for that.
    for name in [stream.as_str(), ""] {
        client.query(claim::LOCK, &[&name]).await.map_err(broken)?;
    }
    if let Some(known) = ledger::read(client, stream).await? {
        seen.refuse_if_claimed(stream, &known)?;
    }
    for text in ROWS {
        client.execute(text, &[&stream.as_str()]).await.map_err(broken)?;
    }
    let row = client.query_one(IS_OURS_TO_DROP, &[]).await.map_err(broken)?;
    if get::<bool>(&row, 0)? {
        client.batch_execute("drop schema driftless cascade").await.map_err(broken)?;
    }
    Ok(())
}
