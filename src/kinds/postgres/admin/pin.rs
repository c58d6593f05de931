//! A head from which on the source keeps everything.
//!
//! Publication first, slot second, pin last: so the log behind the pin names the publication, and the slot has confirmed
//! nothing beyond the pin. A transaction becomes visible a moment after its commit is in the log, or long after if it waits
//! for a synchronous standby; so the pin is given only when every transaction that was open when it was taken has ended.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::error::{Error, Result};
use crate::kinds::postgres::admin::head::{self, Identity};
use crate::kinds::postgres::admin::slot::{self, SlotState};
use crate::kinds::postgres::admin::{TableName, publication};
use crate::kinds::postgres::conn::{Endpoint, Session, translate};
use crate::kinds::postgres::options::Options;
use crate::kinds::postgres::wire::lsn::Lsn;
use crate::model::Checkpoint;

/// LIMIT: how often a wait is said aloud.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// LIMIT: how often the oldest open transaction is asked for; a commit takes milliseconds to become visible.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a pin is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The server.
    pub identity: Identity,
    /// Everything up to here is visible; everything behind it comes out of the slot.
    pub at: Lsn,
    /// Whether the slot was made for it.
    pub made_slot: bool,
}

impl Pin {
    /// The pin as a checkpoint.
    pub fn checkpoint(&self, slot: &str) -> Checkpoint {
        [(self.identity.partition(slot), self.at.position())].into_iter().collect()
    }
}

/// Makes publication and slot, if they are missing or of no use, and takes a pin. `tables` are the replicated tables, each
/// of which has a usable key. `followed`: a tail of this very source reads the slot, as it may.
pub async fn pin(endpoint: &Endpoint, options: &Options, tables: &[TableName], followed: bool) -> Result<Pin> {
    let client = endpoint.session(&Session::ADMIN).await?;
    publication::ensure(&client, &options.publication(), tables, options.manage_publication).await?;
    let mut conn = endpoint.replication().await?;
    let identity = head::identify(&mut conn).await?;
    let name = options.slot();
    let mut state = slot::inspect(&client, &name).await?;
    if let Some(state) = state.as_mut().filter(|_| followed) {
        state.user = state.user.take().filter(|(_, user)| user.as_deref() != Some(endpoint.application_name()));
    }
    let keep = usable(state.as_ref(), &name, &identity, endpoint)?;
    if !keep {
        if !options.manage_slot {
            return Err(Error::config(format!(
                "pin a position of PostgreSQL: there is no replication slot {name} that can be used, and manage.slot is \
                 off; run: {}{}",
                state.map_or_else(String::new, |_| format!("select pg_drop_replication_slot('{name}'); ")),
                slot::statement(&name)
            )));
        }
        if let Some(why) = state.as_ref().and_then(SlotState::dead) {
            tracing::warn!(slot = name, why, "dropping a replication slot of which nothing can be read");
            slot::drop(&client, &name).await?;
        }
        slot::create(&mut conn, &client, &name, SAY_EVERY).await?;
    }
    let at = head::flushed(&client).await?;
    wait_until_visible(&client).await?;
    Ok(Pin { identity, at, made_slot: !keep })
}

/// Whether the slot can be kept; `false` if one has to be made.
fn usable(state: Option<&SlotState>, name: &str, identity: &Identity, endpoint: &Endpoint) -> Result<bool> {
    let Some(state) = state else { return Ok(false) };
    state.usable_by(name, endpoint.application_name())?;
    if state.database.as_deref() != Some(&identity.database) {
        let database = state.database.as_deref().unwrap_or_default();
        return Err(Error::config(format!(
            "use replication slot {name}: it belongs to database {database:?}; choose another `name` for this stream"
        )));
    }
    if state.synced {
        return Err(Error::config(format!(
            "use replication slot {name}: this server is a standby and the slot a copy of the primary's; name the primary"
        )));
    }
    Ok(state.dead().is_none() && state.confirmed.is_some())
}

/// Waits until every transaction has ended that is open now.
async fn wait_until_visible(client: &Client) -> Result<()> {
    let attempt = "wait for open transactions to end";
    let number = |sql: &'static str| async move {
        let row = client.query_one(sql, &[]).await.map_err(|error| translate(&error, attempt))?;
        row.try_get::<_, Option<i64>>(0).map_err(|error| translate(&error, attempt))
    };
    // A number of our own is above those of all open transactions. The upper end of a snapshot is not: it is the first
    // number behind the newest transaction that has *ended*. A standby shows what it has replayed at once, and gives none.
    let sql =
        "select case when not pg_catalog.pg_is_in_recovery() then pg_catalog.pg_current_xact_id()::text::int8 end";
    let Some(next) = number(sql).await? else { return Ok(()) };
    let mut said = Instant::now();
    loop {
        let oldest =
            number("select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.text::int8")
                .await?;
        if oldest.is_some_and(|oldest| oldest >= next) {
            return Ok(());
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let who = open_transactions(client).await.unwrap_or_default().join(", ");
            tracing::warn!(waits_for = who, "waiting for transactions that are open; end them to go on");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The longest open transactions that have written something, as far as we may see them.
pub(super) async fn open_transactions(client: &Client) -> Result<Vec<String>> {
    let sql = "select 'process ' || pid || ' (open for ' || extract(epoch from now() - xact_start)::int8 || ' s)' \
           from pg_catalog.pg_stat_activity where backend_xid is not null and pid <> pg_catalog.pg_backend_pid() \
         union all select 'prepared transaction in ' || database || ' (open for ' || \
           extract(epoch from now() - prepared)::int8 || ' s)' from pg_catalog.pg_prepared_xacts limit 20";
    let rows = client.query(sql, &[]).await.map_err(|error| translate(&error, "ask for open transactions"))?;
    Ok(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())
}
