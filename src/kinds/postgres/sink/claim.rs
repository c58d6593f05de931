//! Taking over one lane of a stream.
//!
//! In order: refuse what does not fit, before anything is changed; make our records and the layout's schema where they are
//! missing; end the backend of the lane's earlier owner; raise the epoch. Invariants: a claim that is refused disturbs
//! nobody; when a claim returns, the earlier owner's last commit has either landed and is in the record, or never will.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{beat, ledger};
use crate::error::{Error, Result};
use crate::kinds::postgres::conn::translate;
use crate::kinds::postgres::writer::destination::Destination;
use crate::kinds::postgres::writer::fence::{expel, fenced};
use crate::kinds::postgres::writer::lane::Lane;
use crate::kinds::postgres::writer::session::Session;
use crate::model::{Checkpoint, Claim, LaneRecord, Layout, StreamRecord};

/// Serializes whoever makes our records, and claims of one stream.
pub(super) const LOCK: &str = "select pg_advisory_xact_lock(hashtext('driftless'), hashtext($1))";
/// LIMIT: a claim works while it holds the locks; one that was stopped there frees them long before an ordinary session.
pub(super) const BEGIN: &str =
    "begin; set local lock_timeout = '2s'; set local idle_in_transaction_session_timeout = '20s'";
/// LIMIT: how long a claim tries to get past an owner that keeps coming back.
const PATIENCE: Duration = Duration::from_secs(60);

/// See [`crate::sink::Sink::claim`].
pub async fn claim(destination: &Arc<Destination>, claim: &Claim) -> Result<(LaneRecord, Lane)> {
    if claim.lane >= claim.scope.lanes {
        return Err(Error::bug(format!("claim lane {} of {} lanes", claim.lane, claim.scope.lanes)));
    }
    let session = Session::open(destination).await?;
    if let Some(record) = ledger::inspect(&session.client, &claim.stream).await? {
        refuse(claim, &record)?;
    }
    make(&session, destination.layout).await?;
    let (record, foreign) = take(&session.client, claim).await?;
    tracing::debug!(stream = %claim.stream, lane = claim.lane, epoch = record.epoch, "claimed");
    if !session.refused().is_empty() {
        tracing::warn!(
            settings = ?session.refused(),
            "the destination's role may not make these settings: triggers and foreign keys may fire, and the server's log \
             may show values of failing statements"
        );
    }
    let epoch = i64::try_from(record.epoch).map_err(|_| Error::corrupt("claim: the lane's epoch is beyond 2^63"))?;
    let lane = Lane::new(
        Arc::clone(destination),
        claim.stream.as_str().to_owned(),
        i32::from(claim.lane),
        epoch,
        foreign,
        session,
        record.number,
    );
    Ok((record, lane))
}

/// Refuses a claim that the stream's records do not allow.
fn refuse(claim: &Claim, record: &StreamRecord) -> Result<()> {
    if record.scope.layout != claim.scope.layout {
        return Err(Error::config(format!(
            "claim stream {}: the destination was filled with layout {:?}, this configuration says {:?}: give the stream \
             another name, or set the layout back",
            claim.stream, record.scope.layout, claim.scope.layout
        )));
    }
    Ok(())
}

/// Makes our records and what the layout itself needs, where missing.
async fn make(session: &Session, layout: Layout) -> Result<()> {
    let client = &session.client;
    let broken = |error| translate(&error, "make driftless' records in the destination (schema driftless)");
    if !ledger::present(client).await?.complete() {
        client.batch_execute("begin").await.map_err(broken)?;
        client.query(LOCK, &[&""]).await.map_err(broken)?;
        client.batch_execute(ledger::CREATE).await.map_err(broken)?;
        client.batch_execute("commit").await.map_err(broken)?;
    }
    if layout == Layout::Teleport {
        super::teleport::make(session).await?;
    }
    Ok(())
}

/// What a claim found under the lane's lock.
struct Standing {
    epoch: i64,
    number: i64,
    open: bool,
    backend: Option<(i32, String)>,
}

async fn take(client: &Client, claim: &Claim) -> Result<(LaneRecord, bool)> {
    let (stream, lane) = (claim.stream.as_str(), i32::from(claim.lane));
    let broken = |error| translate(&error, format!("claim lane {lane} of stream {stream}"));
    let begun = Instant::now();
    loop {
        let found = standing(client, claim, false).await.map_err(broken)?;
        admit(claim, found.as_ref())?;
        // Before the lock: the earlier owner may hold it in a transaction that would never end.
        expel(client, stream, Some(lane)).await?;
        client.batch_execute(BEGIN).await.map_err(broken)?;
        match locked(client, claim).await {
            Ok(Some(taken)) => {
                client.batch_execute("commit").await.map_err(broken)?;
                beat::forget_older(client, stream, lane).await.map_err(broken)?;
                return Ok(taken);
            }
            Ok(None) => client.batch_execute("rollback").await.map_err(broken)?,
            Err(error) => {
                client.batch_execute("rollback").await.map_err(broken)?;
                return Err(error);
            }
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::transient(format!("claim lane {lane} of stream {stream}: its record stays locked")));
        }
    }
}

/// The part of a claim that holds the locks; `None` if somebody else holds the lane's.
async fn locked(client: &Client, claim: &Claim) -> Result<Option<(LaneRecord, bool)>> {
    let (stream, lane) = (claim.stream.as_str(), i32::from(claim.lane));
    let broken = |error| translate(&error, format!("claim lane {lane} of stream {stream}"));
    match client.query(LOCK, &[&stream]).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok(None),
        other => drop(other.map_err(broken)?),
    }
    let record = ledger::read(client, &claim.stream).await?;
    if let Some(record) = &record {
        refuse(claim, record)?;
    }
    let relaid = record.as_ref().filter(|record| record.scope.lanes != claim.scope.lanes);
    client
        .execute(
            "insert into driftless.lane (stream, lane) select $1, l from generate_series(0, $2::int - 1) l on conflict do nothing",
            &[&stream, &i32::from(claim.scope.lanes)],
        )
        .await
        .map_err(broken)?;
    if relaid.is_some() {
        expel(client, stream, None).await?;
    }
    let found = match standing(client, claim, true).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok(None),
        other => other.map_err(broken)?,
    };
    let found = admit(claim, found.as_ref())?.ok_or_else(|| Error::bug("claim: the lane's row was just made"))?;
    if found.backend.is_some() {
        // A session that was recorded since the first look.
        expel(client, stream, Some(lane)).await?;
    }
    let (epoch, number) = (ledger::whole(found.epoch + 1)?, ledger::whole(found.number)?);
    let checkpoint = match (&record, relaid) {
        (_, Some(record)) => relay(client, claim, record).await?,
        (Some(record), None) => {
            record.lanes.get(usize::from(claim.lane)).map(|lane| lane.checkpoint.clone()).unwrap_or_default()
        }
        (None, None) => Checkpoint::default(),
    };
    let foreign = write(client, claim, found.epoch + 1).await.map_err(broken)?;
    Ok(Some((LaneRecord { epoch, number, beat: 0, checkpoint }, foreign)))
}

async fn standing(client: &Client, claim: &Claim, lock: bool) -> Result<Option<Standing>, tokio_postgres::Error> {
    let text = "select epoch, number, open, backend_pid, backend_start::text from driftless.lane where stream = $1 and lane = $2";
    let text = if lock { format!("{text} for update") } else { text.to_owned() };
    let row = client.query_opt(&text, &[&claim.stream.as_str(), &i32::from(claim.lane)]).await?;
    row.map(|row| {
        let backend: (Option<i32>, Option<String>) = (row.try_get(3)?, row.try_get(4)?);
        Ok(Standing {
            epoch: row.try_get(0)?,
            number: row.try_get(1)?,
            open: row.try_get(2)?,
            backend: backend.0.zip(backend.1),
        })
    })
    .transpose()
}

/// Whether the lane is still as the claimer saw it.
fn admit<'s>(claim: &Claim, found: Option<&'s Standing>) -> Result<Option<&'s Standing>> {
    let seen = claim.seen.unwrap_or(0);
    let Some(found) = found else {
        return if seen == 0 { Ok(None) } else { Err(fenced(claim.stream.as_str(), i32::from(claim.lane))) };
    };
    // A lane that nobody has claimed since the number of lanes changed was not there for who looked before.
    let unseen = !found.open && seen == 0;
    if unseen {
        return Ok(Some(found));
    }
    if i64::try_from(seen) == Ok(found.epoch) {
        claim.refuse_if_moved(ledger::whole(found.number)?)?;
        return Ok(Some(found));
    }
    Err(fenced(claim.stream.as_str(), i32::from(claim.lane)))
}

/// Starts all lanes of another number of lanes from what all old ones had passed. No lane is open until it is claimed.
async fn relay(client: &Client, claim: &Claim, record: &StreamRecord) -> Result<Checkpoint> {
    let broken = |error| translate(&error, format!("change the number of lanes of stream {}", claim.stream));
    let frontier = record.frontier();
    client
        .execute("update driftless.lane set open = false where stream = $1", &[&claim.stream.as_str()])
        .await
        .map_err(broken)?;
    ledger::reset_positions(client, &claim.stream, claim.scope.lanes, &frontier).await?;
    Ok(frontier)
}

/// Writes the claim; gives whether the destination held foreign data at the first one.
async fn write(client: &Client, claim: &Claim, epoch: i64) -> Result<bool, tokio_postgres::Error> {
    let (stream, scope) = (claim.stream.as_str(), &claim.scope);
    beat::begin(client, stream, i32::from(claim.lane), epoch).await?;
    client
        .execute(
            "update driftless.lane set epoch = epoch + 1, open = true, refreshed = now(), backend_pid = pg_backend_pid(), \
             backend_start = (select backend_start from pg_stat_activity where pid = pg_backend_pid()) \
             where stream = $1 and lane = $2",
            &[&stream, &i32::from(claim.lane)],
        )
        .await?;
    let text = "insert into driftless.stream (name, format, owner, layout, extent, lanes, foreign_data) \
        values ($1, $2, $3, $4, $5, $6, $7) on conflict (name) do update set owner = excluded.owner, \
        extent = excluded.extent, lanes = excluded.lanes, refreshed = now() returning foreign_data";
    let format = i32::try_from(StreamRecord::FORMAT).unwrap_or_default();
    let row = client
        .query_one(
            text,
            &[&stream, &format, &claim.owner.0, &scope.layout, &scope.extent, &i32::from(scope.lanes), &claim.foreign],
        )
        .await?;
    row.try_get(0)
}
