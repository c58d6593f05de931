//! The replication slot of a stream: what it is like, making it, removing it.
//!
//! `pg_replication_slots` and CREATE_REPLICATION_SLOT. A slot is permanent, logical, of pgoutput, and synchronised to
//! standbys from PostgreSQL 17 on. Invariants: a slot is made only through the replication protocol, with nothing
//! exported; somebody else's slot is refused, never taken over; waiting for old transactions is said aloud.

use std::time::Duration;

use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::kinds::postgres::admin::head::FLUSHED;
use crate::kinds::postgres::admin::{literal, quoted};
use crate::kinds::postgres::conn::{QueryError, ReplicationConn, translate};
use crate::kinds::postgres::wire::lsn::Lsn;

/// The only output plugin that we read.
pub const PLUGIN: &str = "pgoutput";

/// A slot as the server shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    /// Output plugin; none for a physical slot.
    pub plugin: Option<String>,
    /// Database that it belongs to.
    pub database: Option<String>,
    /// Whether it ends with its session.
    pub temporary: bool,
    /// Process that uses it, with its application name where we may see it.
    pub user: Option<(i32, Option<String>)>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// From where the log is kept.
    pub restart: Option<Lsn>,
    /// Up to where the reader has confirmed.
    pub confirmed: Option<Lsn>,
    /// Why the server has invalidated it.
    pub invalidation: Option<String>,
    /// Bytes of log that the server keeps for it.
    pub retained: Option<u64>,
    /// Bytes that may still be written before it is in danger; none without a limit.
    pub safe: Option<i64>,
    /// Whether standbys get a copy of it.
    pub failover: bool,
    /// Whether it is such a copy.
    pub synced: bool,
}

impl SlotState {
    /// Why nothing can be read from it any more, if so.
    pub fn dead(&self) -> Option<String> {
        match (&self.invalidation, self.wal_status.as_deref()) {
            (Some(why), _) => Some(format!("the server has invalidated it ({why})")),
            (None, Some("lost")) => Some("the server has removed log that it needed".to_owned()),
            _ => None,
        }
    }

    /// Refuses a slot that cannot be ours, or that another process uses.
    pub fn usable_by(&self, name: &str, application_name: &str) -> Result<()> {
        let attempt = format!("use replication slot {name}");
        let advice = "choose another `name` for this stream, or drop the slot";
        match (&self.plugin, self.temporary) {
            (None, _) => return Err(Error::config(format!("{attempt}: it is a physical slot; {advice}"))),
            (Some(plugin), _) if plugin != PLUGIN => {
                return Err(Error::config(format!("{attempt}: its output plugin is {plugin}, not {PLUGIN}; {advice}")));
            }
            (_, true) => return Err(Error::config(format!("{attempt}: it is temporary; {advice}"))),
            _ => {}
        }
        match &self.user {
            None => Ok(()),
            // Our own last session may live on at the server for a while.
            Some((pid, Some(name))) if name == application_name => Err(Error::transient(format!(
                "{attempt}: process {pid} of this stream still uses it; the server ends it within wal_sender_timeout"
            ))),
            Some((pid, name)) => {
                let name = name.as_deref().unwrap_or("unknown application");
                Err(Error::config(format!("{attempt}: process {pid} ({name:?}) uses it; {advice}")))
            }
        }
    }
}

/// What the server says about a slot, or `None` if there is none of this name.
pub async fn inspect(client: &Client, name: &str) -> Result<Option<SlotState>> {
    let attempt = "look at a replication slot";
    // Columns that came with later versions are read through JSON, where a missing one is null.
    let sql = format!(
        "select s.plugin::text, s.database::text, s.temporary, s.active_pid, a.application_name, s.wal_status, \
           s.restart_lsn::text, s.confirmed_flush_lsn::text, \
           coalesce(j->>'invalidation_reason', case when j->>'conflicting' = 'true' then 'conflicting' end), \
           pg_catalog.pg_wal_lsn_diff({FLUSHED}, s.restart_lsn)::int8, s.safe_wal_size, \
           coalesce((j->>'failover')::bool, false), coalesce((j->>'synced')::bool, false) \
         from pg_catalog.pg_replication_slots s left join pg_catalog.pg_stat_activity a on a.pid = s.active_pid, \
           lateral pg_catalog.to_jsonb(s) j where s.slot_name = $1"
    );
    let read = async {
        let Some(row) = client.query_opt(&sql, &[&name]).await? else { return Ok(None) };
        let user: Option<i32> = row.try_get(3)?;
        let application: Option<String> = row.try_get(4)?;
        let lsn = |at| row.try_get::<_, Option<&str>>(at).map(|text| text.and_then(|text| text.parse().ok()));
        Ok(Some(SlotState {
            plugin: row.try_get(0)?,
            database: row.try_get(1)?,
            temporary: row.try_get(2)?,
            user: user.map(|pid| (pid, application)),
            wal_status: row.try_get(5)?,
            restart: lsn(6)?,
            confirmed: lsn(7)?,
            invalidation: row.try_get(8)?,
            retained: row.try_get::<_, Option<i64>>(9)?.and_then(|bytes| u64::try_from(bytes).ok()),
            safe: row.try_get(10)?,
            failover: row.try_get(11)?,
            synced: row.try_get(12)?,
        }))
    };
    read.await.map_err(|error: tokio_postgres::Error| translate(&error, attempt))
}

/// The statement that makes the slot, for a person.
pub fn statement(name: &str) -> String {
    format!("select pg_create_logical_replication_slot({}, '{PLUGIN}')", literal(name))
}

/// Makes the slot and gives the place from which on it keeps everything. `side` asks, every `every`, whom the server is
/// waiting for: it cannot finish before all transactions have ended that were running when it began.
pub async fn create(conn: &mut ReplicationConn, side: &Client, name: &str, every: Duration) -> Result<Lsn> {
    let attempt = format!("make replication slot {name}");
    let rows = conn.simple_query("select pg_catalog.pg_backend_pid()").await.map_err(|e| e.during(&attempt))?;
    let pid: i32 = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok()).unwrap_or(conn.backend_pid);
    let (version, quoted) = (conn.server_version, quoted(name));
    let plain = if version >= 150_000 {
        format!("CREATE_REPLICATION_SLOT {quoted} LOGICAL {PLUGIN} (SNAPSHOT 'nothing')")
    } else {
        format!("CREATE_REPLICATION_SLOT {quoted} LOGICAL {PLUGIN} NOEXPORT_SNAPSHOT")
    };
    let mut result = Err(None);
    if version >= 170_000 {
        let failover = format!("CREATE_REPLICATION_SLOT {quoted} LOGICAL {PLUGIN} (SNAPSHOT 'nothing', FAILOVER)");
        result = patiently(conn.simple_query(&failover), side, pid, (&attempt, every)).await.map_err(Some);
        if let Err(Some(QueryError::Server(error))) = &result
            && !matches!(error.code.as_str(), "42710" | "53400")
        {
            tracing::warn!(slot = name, code = error.code, "the server makes no failover slot; making an ordinary one");
            result = Err(None);
        }
    }
    let rows = match result {
        Ok(rows) => rows,
        Err(Some(error)) => return Err(explained(error, &attempt)),
        Err(None) => patiently(conn.simple_query(&plain), side, pid, (&attempt, every))
            .await
            .map_err(|error| explained(error, &attempt))?,
    };
    let point = rows.first().and_then(|row| row.get(1)?.as_deref()?.parse().ok());
    point.ok_or_else(|| Error::corrupt(format!("{attempt}: the answer is not what the protocol says")))
}

fn explained(error: QueryError, attempt: &str) -> Error {
    let advice = match error.code() {
        Some("53400") => {
            "all replication slots are in use: raise max_replication_slots, or drop a slot that nobody needs"
        }
        Some("55000") => "set wal_level = logical and restart the server",
        Some("42501") => {
            "let the role replicate: alter role <role> replication (Amazon RDS: grant rds_replication to <role>)"
        }
        Some("58P01" | "0A000" | "42704") => "let output_plugin_libraries, if the server has it, contain pgoutput",
        _ => return error.during(attempt),
    };
    let fault = error.during(attempt);
    Error::config(format!("{fault}; {advice}"))
}

/// Waits for `work`, and names in the log whom the server process `pid` waits for.
async fn patiently<T>(work: impl Future<Output = T>, side: &Client, pid: i32, (attempt, every): (&str, Duration)) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(every, work.as_mut()).await {
            return done;
        }
        match blockers(side, pid).await {
            Ok(who) if !who.is_empty() => tracing::warn!(
                waits_for = who.join(", "),
                "{attempt}: waiting for transactions that were open before; end them to go on"
            ),
            Ok(_) => tracing::warn!("{attempt}: waiting for the server"),
            Err(error) => tracing::debug!(%error, "could not ask whom the server waits for"),
        }
    }
}

/// Who holds up a server process: `process 4711 (open for 12 s)`.
pub(super) async fn blockers(side: &Client, pid: i32) -> Result<Vec<String>> {
    let sql = "select b.pid, extract(epoch from pg_catalog.now() - a.xact_start)::int8 \
         from pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) b(pid) \
         left join pg_catalog.pg_stat_activity a on a.pid = b.pid";
    let rows = side.query(sql, &[&pid]).await.map_err(|error| translate(&error, "ask whom a process waits for"))?;
    Ok(rows
        .iter()
        .map(|row| match (row.try_get::<_, i32>(0).unwrap_or(0), row.try_get::<_, Option<i64>>(1).ok().flatten()) {
            (0, _) => "a prepared transaction (see pg_prepared_xacts)".to_owned(),
            (pid, Some(seconds)) => format!("process {pid} (open for {seconds} s)"),
            (pid, None) => format!("process {pid}"),
        })
        .collect())
}

/// Removes the slot, if it is there; whether it was.
pub async fn drop(client: &Client, name: &str) -> Result<bool> {
    let attempt = format!("drop replication slot {name}");
    let sql = "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots where slot_name = $1";
    let rows = client.query(sql, &[&name]).await.map_err(|error| {
        let ours = translate(&error, &attempt);
        match error.code().map(|code| code.code()) {
            Some("55006") => Error::transient(format!("{ours}; stop the process that uses it first")),
            _ => ours,
        }
    })?;
    Ok(!rows.is_empty())
}

/// How near the log that a source keeps for us is to what it may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retention {
    /// Below half.
    Fine,
    /// At half or above.
    Alarm,
    /// At the limit.
    Full,
}

impl Retention {
    /// Judges what is kept by the limit of the configuration.
    pub fn of(retained: u64, limit: u64) -> Self {
        if retained >= limit {
            Self::Full
        } else if retained >= limit.div_ceil(2) {
            Self::Alarm
        } else {
            Self::Fine
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> SlotState {
        SlotState { plugin: Some(PLUGIN.into()), ..SlotState::default() }
    }

    #[test]
    fn a_slot_that_cannot_be_ours_is_refused() {
        use crate::error::Fault;
        assert!(ours().usable_by("s", "driftless s").is_ok());
        for (slot, fault) in [
            (SlotState { plugin: None, ..ours() }, Fault::Config),
            (SlotState { plugin: Some("wal2json".into()), ..ours() }, Fault::Config),
            (SlotState { temporary: true, ..ours() }, Fault::Config),
            (SlotState { user: Some((7, Some("driftless t".into()))), ..ours() }, Fault::Config),
            (SlotState { user: Some((7, None)), ..ours() }, Fault::Config),
            (SlotState { user: Some((7, Some("driftless s".into()))), ..ours() }, Fault::Transient),
        ] {
            assert_eq!(slot.usable_by("s", "driftless s").unwrap_err().fault(), fault, "{slot:?}");
        }
    }

    #[test]
    fn retention_is_judged_by_halves() {
        assert_eq!(Retention::of(0, 1), Retention::Fine);
        assert_eq!(Retention::of(9, 20), Retention::Fine);
        assert_eq!(Retention::of(10, 20), Retention::Alarm);
        assert_eq!(Retention::of(20, 20), Retention::Full);
    }
}
