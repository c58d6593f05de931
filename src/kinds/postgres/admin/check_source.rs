//! Rights, slot and tables of a source.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::error::{Error, Fault, Result};
use crate::kinds::postgres::admin::check::Finding;
use crate::kinds::postgres::admin::check_settings::{Facts, Provider};
use crate::kinds::postgres::admin::slot::{self, Retention};
use crate::kinds::postgres::admin::{TableName, pin, publication, quoted};
use crate::kinds::postgres::catalog::{self, Need, Pattern, Scope};
use crate::kinds::postgres::conn::{Endpoint, translate};
use crate::kinds::postgres::options::Options;
use crate::model::Layout;

/// Whether the role may replicate, found by trying.
pub async fn replication_right(endpoint: &Endpoint, facts: &Facts) -> Finding {
    let role = quoted(&facts.role);
    let fix = match facts.provider() {
        Provider::Rds => format!("grant rds_replication to {role}"),
        Provider::Own | Provider::Azure | Provider::Google => format!("alter role {role} replication"),
    };
    let pooled = |error: &Error| error.to_string().contains("08P01");
    match endpoint.replication().await {
        Ok(_) => Finding::ok(format!("role {role} may replicate")),
        Err(error) if pooled(&error) => Finding::error(error.to_string(), "connect to the server itself"),
        Err(error) if error.fault() == Fault::Config => {
            Finding::error(format!("role {role} cannot open a replication connection: {error}"), fix)
        }
        Err(error) => {
            Finding::error(format!("a replication connection cannot be opened: {error}"), "see max_wal_senders")
        }
    }
}

/// The slot, if it is there; else whether it may be made.
pub async fn slot(client: &Client, options: &Options, endpoint: &Endpoint, facts: &Facts) -> Result<Vec<Finding>> {
    let name = options.slot();
    let Some(state) = slot::inspect(client, &name).await? else {
        return Ok(vec![match options.manage_slot {
            true => Finding::ok(format!("replication slot {name} is not there yet and will be made")),
            false => Finding::error(
                format!("replication slot {name} is not there, and manage.slot is off"),
                slot::statement(&name),
            ),
        }]);
    };
    let mut findings = Vec::new();
    let drop = format!("select pg_drop_replication_slot('{name}')");
    match (state.usable_by(&name, endpoint.application_name()), state.dead()) {
        (Err(error), _) if error.fault() == Fault::Config => findings.push(Finding::error(error.to_string(), drop)),
        (_, Some(why)) => {
            findings.push(Finding::warning(format!("replication slot {name}: {why}; a gap will be opened"), drop))
        }
        _ => findings.push(Finding::ok(format!("replication slot {name} is usable"))),
    }
    if let Some(retained) = state.retained {
        let size = format!("the server keeps {} MiB of log for slot {name}", retained >> 20);
        findings.push(match Retention::of(retained, options.max_retained) {
            Retention::Fine => Finding::ok(size),
            Retention::Alarm | Retention::Full => {
                Finding::warning(format!("{size}, half of max_retained or more"), "let driftless run, or drop the slot")
            }
        });
    }
    if !state.failover && facts.provider() == Provider::Own && has_standbys(client).await? {
        findings.push(Finding::warning(
            format!("slot {name} is not copied to standbys: after a failover a gap will be opened"),
            "from PostgreSQL 17 on, drop the slot and let driftless make it again",
        ));
    }
    Ok(findings)
}

async fn has_standbys(client: &Client) -> Result<bool> {
    let sql = "select exists(select from pg_catalog.pg_replication_slots where slot_type = 'physical')";
    let row = client.query_one(sql, &[]).await.map_err(|error| translate(&error, "ask for standbys"))?;
    row.try_get(0).map_err(|error| translate(&error, "ask for standbys"))
}

/// Keys and replica identities, the right to read, and the publication.
pub async fn tables(client: &Client, options: &Options) -> Result<Vec<Finding>> {
    let scope = match options.layout {
        Layout::Teleport => Scope::Teleport,
        Layout::Raw => Scope::Raw(options.tables.iter().map(|text| text.parse::<Pattern>()).collect::<Result<_>>()?),
    };
    let found = catalog::find(client, &scope, Need::Tail).await?;
    let mut findings: Vec<_> = found
        .refused
        .iter()
        .map(|refusal| {
            Finding::error(format!("table {}: {}", refusal.table, refusal.why), "or leave it out of `tables`")
        })
        .collect();
    let wanted: BTreeSet<_> = found.tables.iter().map(|shape| TableName::new(&*shape.schema, &*shape.name)).collect();
    if wanted.is_empty() {
        return Ok(findings);
    }
    findings.push(Finding::ok(format!("{} tables have a usable key and replica identity", wanted.len())));
    let rights = rights(client, &wanted).await?;
    findings.extend(rights.iter().filter(|r| !r.select).map(|r| {
        Finding::error(
            format!("table {}: the role may not read it", r.table),
            format!(
                "grant usage on schema {} to current_user; grant select on {} to current_user",
                quoted(&r.table.schema),
                r.table
            ),
        )
    }));
    findings.extend(rights.iter().filter(|r| r.hides_rows).map(|r| {
        Finding::error(
            format!("table {}: row level security hides rows from the role", r.table),
            "alter role <role> bypassrls, or read as the table's owner",
        )
    }));
    findings.push(published(client, options, &wanted, &rights).await?);
    Ok(findings)
}

struct Rights {
    table: TableName,
    select: bool,
    hides_rows: bool,
    owned: bool,
}

async fn rights(client: &Client, wanted: &BTreeSet<TableName>) -> Result<Vec<Rights>> {
    let (schemas, names): (Vec<_>, Vec<_>) = wanted.iter().map(|t| (t.schema.as_str(), t.name.as_str())).unzip();
    let sql = "select n.nspname::text, c.relname::text, \
           pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(c.oid, 'select'), \
           pg_catalog.row_security_active(c.oid), pg_catalog.pg_has_role(c.relowner, 'usage') \
         from unnest($1::text[], $2::text[]) w(s, t) join pg_catalog.pg_namespace n on n.nspname = w.s \
           join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = w.t order by 1, 2";
    let read = async {
        let mut rights = Vec::new();
        for row in client.query(sql, &[&schemas, &names]).await? {
            rights.push(Rights {
                table: TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?),
                select: row.try_get(2)?,
                hides_rows: row.try_get(3)?,
                owned: row.try_get(4)?,
            });
        }
        Ok(rights)
    };
    read.await.map_err(|error: tokio_postgres::Error| translate(&error, "ask for the rights on tables"))
}

async fn published(
    client: &Client,
    options: &Options,
    wanted: &BTreeSet<TableName>,
    rights: &[Rights],
) -> Result<Finding> {
    let name = options.publication();
    let state = publication::inspect(client, &name).await?;
    let statements = publication::plan(&name, state.as_ref(), wanted)?;
    if statements.is_empty() {
        return Ok(Finding::ok(format!("publication {name} publishes exactly the replicated tables")));
    }
    let by_hand = statements.join("; ");
    if !options.manage_publication {
        return Ok(Finding::error(format!("publication {name} does not fit, and manage.publication is off"), by_hand));
    }
    let sql = "select pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create')";
    let row =
        client.query_one(sql, &[]).await.map_err(|error| translate(&error, "ask for the rights on a database"))?;
    let create: bool = row.try_get(0).map_err(|error| translate(&error, "ask for the rights on a database"))?;
    let foreign = rights.iter().find(|r| !r.owned);
    Ok(match (create, foreign) {
        (true, None) => Finding::ok(format!("publication {name} will be made for the replicated tables")),
        (false, _) => Finding::error(
            format!("publication {name} is to be made, and the role may not create in the database"),
            by_hand,
        ),
        (true, Some(r)) => Finding::error(
            format!("publication {name} is to be made, and the role does not own table {}", r.table),
            by_hand,
        ),
    })
}

/// Transactions that would hold up the making of a slot.
pub async fn open_transactions(client: &Client) -> Result<Vec<Finding>> {
    let sql = "select count(*) from pg_catalog.pg_stat_activity where backend_xid is not null \
         and xact_start < pg_catalog.now() - interval '1 minute'";
    let row = client.query_one(sql, &[]).await.map_err(|error| translate(&error, "ask for open transactions"))?;
    let old: i64 = row.try_get(0).map_err(|error| translate(&error, "ask for open transactions"))?;
    if old == 0 {
        return Ok(Vec::new());
    }
    let who = pin::open_transactions(client).await?.join(", ");
    Ok(vec![Finding::warning(
        format!("{old} transactions are open for more than a minute ({who}); making a slot waits for them"),
        "end them, or wait",
    )])
}
