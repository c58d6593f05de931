//! Ending the backends of a lane's earlier owner, and being the recorded one.
//!
//! A lane's record names the backend that may have a commit under way. Invariant: a session does nothing for a lane before
//! it is recorded there, and it is recorded only after the one before it is gone. A stopped process would otherwise keep
//! its row locks until its connection times out, hours later.

use std::time::Duration;

use tokio_postgres::{Client, Row};

use super::session::get;
use crate::error::{Error, Result};
use crate::kinds::postgres::conn::translate;

/// LIMIT: a backend that was told to end does so at its next wait, within milliseconds; one that does not in this time
/// hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(30);
/// LIMIT: between two looks whether it is gone.
const PAUSE: Duration = Duration::from_millis(10);

/// A role without rights over another role's backends sees that they exist but not when they started; asking to end one
/// then fails, which is better than to think it gone.
const END: &str = "\
    select pg_terminate_backend(a.pid) from driftless.lane l \
    join pg_stat_activity a on a.pid = l.backend_pid and (a.backend_start = l.backend_start or a.backend_start is null) \
    where l.stream = $1 and ($2::int is null or l.lane = $2) and a.pid <> pg_backend_pid()";

/// Records this session's own backend; gives the lane's number. Parameters: stream, lane, epoch.
const RECORD: &str = "\
    update driftless.lane set backend_pid = pg_backend_pid(), refreshed = now(), \
        backend_start = (select backend_start from pg_stat_activity where pid = pg_backend_pid()) \
    where stream = $1 and lane = $2 and epoch = $3 and open returning number";

/// Ends the recorded backends of one lane, or of all lanes of a stream, and waits until they are gone.
///
/// # Errors
/// Config when the role may not do that; Transient when a backend does not go.
pub async fn expel(client: &Client, stream: &str, lane: Option<i32>) -> Result<()> {
    let attempt = || format!("end the earlier owner's session of stream {stream}");
    let end = async {
        loop {
            // Within a transaction the server would show the same picture again and again.
            client
                .batch_execute("select pg_stat_clear_snapshot()")
                .await
                .map_err(|error| translate(&error, attempt()))?;
            let left = client.query(END, &[&stream, &lane]).await.map_err(|error| translate(&error, attempt()))?;
            if left.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(PATIENCE, end).await {
        Ok(ended) => ended,
        Err(_) => Err(Error::transient(format!("{}: it does not go away", attempt()))),
    }
}

/// Takes the place of a lane's recorded backend under the same epoch; gives the number at which the lane stands.
///
/// # Errors
/// Fenced when another epoch has begun.
pub async fn rejoin(client: &Client, stream: &str, lane: i32, epoch: i64) -> Result<u64> {
    expel(client, stream, Some(lane)).await?;
    let row = client
        .query_opt(RECORD, &[&stream, &lane, &epoch])
        .await
        .map_err(|error| translate(&error, format!("take up lane {lane} of stream {stream} again")))?;
    number(&row.ok_or_else(|| fenced(stream, lane))?)
}

/// A commit number of our records.
///
/// # Errors
/// Corrupt for one below 0.
pub fn number(row: &Row) -> Result<u64> {
    let number: i64 = get(row, 0)?;
    u64::try_from(number).map_err(|_| Error::corrupt(format!("read a lane's record: its number is {number}")))
}

/// The error for a lane that belongs to somebody else.
pub fn fenced(stream: &str, lane: i32) -> Error {
    Error::fenced(format!(
        "write to the destination: lane {lane} of stream {stream} has been claimed by another process"
    ))
}
