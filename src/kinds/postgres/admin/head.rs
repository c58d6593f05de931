//! Who a server is and how far it is.
//!
//! IDENTIFY_SYSTEM and TIMELINE_HISTORY of the replication protocol, so that the right to replicate is all that it
//! takes. The head is the end of the log that is flushed: a server streams nothing beyond it. On a standby it is the end
//! of what was replayed, since only that is visible there.

use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::kinds::postgres::admin::history::{self, Fork};
use crate::kinds::postgres::conn::{ReplicationConn, TextRow, translate};
use crate::kinds::postgres::wire::lsn::Lsn;
use crate::model::{Checkpoint, PartitionId};

/// Who a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// System identifier, made by `initdb` and shared by all standbys.
    pub system: String,
    /// Timeline that it is on.
    pub timeline: u32,
    /// Database that we are connected to.
    pub database: String,
    /// The database's object id.
    pub database_oid: u32,
}

impl Identity {
    /// Name of the partition that a slot of this database is.
    pub fn partition(&self, slot: &str) -> PartitionId {
        PartitionId::new(format!("pg/{}/{}/{slot}", self.system, self.database_oid))
    }
}

/// SQL for the place up to which the log is flushed (or, on a standby, replayed).
pub(super) const FLUSHED: &str = "case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() \
     else pg_catalog.pg_current_wal_flush_lsn() end";

/// Asks a server who it is.
pub async fn identify(conn: &mut ReplicationConn) -> Result<Identity> {
    let attempt = "ask a PostgreSQL server who it is";
    let rows = conn.simple_query("IDENTIFY_SYSTEM").await.map_err(|error| error.during(attempt))?;
    let oid = conn
        .simple_query(
            "select oid::pg_catalog.text from pg_catalog.pg_database where datname = pg_catalog.current_database()",
        )
        .await
        .map_err(|error| error.during(attempt))?;
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    match (column(&rows, 0), number(column(&rows, 1)), column(&rows, 3), number(column(&oid, 0))) {
        (Some(system), Some(timeline), Some(database), Some(database_oid)) => {
            Ok(Identity { system: system.to_owned(), timeline, database: database.to_owned(), database_oid })
        }
        _ => Err(Error::corrupt(format!("{attempt}: the answer to IDENTIFY_SYSTEM is not what the protocol says"))),
    }
}

fn column(rows: &[TextRow], at: usize) -> Option<&str> {
    rows.first()?.get(at)?.as_deref()
}

/// The ancestors of a timeline, oldest first; none for the first timeline.
pub async fn ancestors(conn: &mut ReplicationConn, timeline: u32) -> Result<Vec<Fork>> {
    if timeline <= 1 {
        return Ok(Vec::new());
    }
    let rows = conn
        .simple_query(&format!("TIMELINE_HISTORY {timeline}"))
        .await
        .map_err(|error| error.during("read the timeline history of a PostgreSQL server"))?;
    history::parse(column(&rows, 1).unwrap_or_default())
}

/// How far the server is.
pub async fn flushed(client: &Client) -> Result<Lsn> {
    let attempt = "ask a PostgreSQL server for the end of its log";
    let row = client
        .query_one(&format!("select ({FLUSHED})::pg_catalog.text"), &[])
        .await
        .map_err(|error| translate(&error, attempt))?;
    let text: &str = row.try_get(0).map_err(|error| translate(&error, attempt))?;
    text.parse()
}

/// The head of a slot's partition as a checkpoint.
pub async fn head(client: &Client, identity: &Identity, slot: &str) -> Result<Checkpoint> {
    let at = flushed(client).await?;
    Ok([(identity.partition(slot), at.position())].into_iter().collect())
}
