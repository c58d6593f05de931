//! What a destination lets us do.

use tokio_postgres::Client;

use crate::error::Result;
use crate::kinds::postgres::admin::check::Finding;
use crate::kinds::postgres::admin::check_settings::{Facts, Provider};
use crate::kinds::postgres::admin::{TableName, quoted};
use crate::kinds::postgres::catalog::Pattern;
use crate::kinds::postgres::conn::translate;
use crate::kinds::postgres::options::Options;
use crate::model::Layout;

const ATTEMPT: &str = "ask what a PostgreSQL destination allows";

async fn truth(client: &Client, sql: &str) -> Result<bool> {
    let row = client.query_one(sql, &[]).await.map_err(|error| translate(&error, ATTEMPT))?;
    row.try_get(0).map_err(|error| translate(&error, ATTEMPT))
}

/// Whether the server takes writes at all.
pub async fn writable(client: &Client) -> Result<Finding> {
    Ok(match truth(client, "select pg_catalog.pg_is_in_recovery()").await? {
        true => Finding::error("the server is a standby and takes no writes", "name the primary"),
        false => Finding::ok("the server takes writes"),
    })
}

/// Whether our own schema is there or can be made.
pub async fn bookkeeping(client: &Client) -> Result<Finding> {
    let there = "select coalesce(pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace('driftless'), 'usage, create'), false)";
    if truth(client, there).await? {
        return Ok(Finding::ok("schema driftless is there and may be used"));
    }
    let may = "select pg_catalog.to_regnamespace('driftless') is null \
         and pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create')";
    if truth(client, may).await? {
        return Ok(Finding::ok("schema driftless will be made for the checkpoints"));
    }
    Ok(Finding::error(
        "schema driftless, for the checkpoints, may not be made or used by the role",
        "create schema if not exists driftless; grant usage, create on schema driftless to <role>",
    ))
}

/// Whether the role can keep rows out of the server's log, where statements that fail appear by default.
pub async fn log_settings(client: &Client, facts: &Facts) -> Result<Finding> {
    let tried = "begin; set local log_min_messages = fatal; set local log_min_error_statement = panic; \
         set local log_error_verbosity = terse";
    let tried = client.batch_execute(tried).await;
    client.batch_execute("rollback").await.map_err(|error| translate(&error, ATTEMPT))?;
    Ok(match tried {
        Ok(()) => Finding::ok("log settings may be made: the server's log shows no rows because of us"),
        Err(_) => Finding::warning(
            "log settings may not be made: a row that the destination refuses can appear in its server's log",
            format!(
                "grant set on parameter log_min_messages, log_min_error_statement, log_error_verbosity to {} (PostgreSQL 15 \
                 or later)",
                quoted(&facts.role)
            ),
        ),
    })
}

/// Whether triggers and foreign keys can be kept quiet; else which there are.
pub async fn replica_role(client: &Client, facts: &Facts) -> Result<Vec<Finding>> {
    let tried = client.batch_execute("begin; set local session_replication_role = replica").await;
    client.batch_execute("rollback").await.map_err(|error| translate(&error, ATTEMPT))?;
    if tried.is_ok() {
        return Ok(vec![Finding::ok("session_replication_role may be set: triggers and foreign keys stay quiet")]);
    }
    let role = quoted(&facts.role);
    let fix = match facts.provider() {
        Provider::Rds => format!("grant rds_superuser to {role}"),
        Provider::Own | Provider::Azure | Provider::Google => {
            format!("grant set on parameter session_replication_role to {role} (PostgreSQL 15 or later)")
        }
    };
    let sql = "select c.oid::regclass::text, t.tgname::text, t.tgisinternal from pg_catalog.pg_trigger t \
           join pg_catalog.pg_class c on c.oid = t.tgrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
         where t.tgenabled in ('O', 'A') and n.nspname not in ('pg_catalog', 'information_schema', 'driftless') \
         order by 1, 2";
    let rows = client.query(sql, &[]).await.map_err(|error| translate(&error, ATTEMPT))?;
    let mut tables: Vec<String> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
    tables.dedup();
    if tables.is_empty() {
        return Ok(vec![Finding::ok(
            "session_replication_role may not be set; there are no triggers and foreign keys to fire",
        )]);
    }
    Ok(vec![Finding::warning(
        format!(
            "session_replication_role may not be set, so triggers and foreign keys will act on replicated rows: {}",
            tables.join(", ")
        ),
        fix,
    )])
}

/// Whether the tables that are there can be written, and those that are not can be made.
pub async fn rights(client: &Client, options: &Options) -> Result<Vec<Finding>> {
    let patterns = match options.layout {
        Layout::Teleport => Vec::new(),
        Layout::Raw => options.tables.iter().map(|text| text.parse::<Pattern>()).collect::<Result<_>>()?,
    };
    // Teleport finds its table through the search path.
    let sql = "select n.nspname::text, c.relname::text, \
           pg_catalog.has_table_privilege(c.oid, 'select') and pg_catalog.has_table_privilege(c.oid, 'insert') \
           and pg_catalog.has_table_privilege(c.oid, 'update') and pg_catalog.has_table_privilege(c.oid, 'delete'), \
           n.nspname = any(pg_catalog.current_schemas(false)) and c.relname in ('kv', 'backend_version'), \
           pg_catalog.has_schema_privilege(n.oid, 'usage') \
         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
         where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' \
           and n.nspname not in ('information_schema', 'driftless') order by 1, 2";
    let mut findings = Vec::new();
    for row in client.query(sql, &[]).await.map_err(|error| translate(&error, ATTEMPT))? {
        let read = || {
            let name = TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?);
            Ok((name, row.try_get::<_, bool>(2)?, row.try_get::<_, bool>(3)?, row.try_get::<_, bool>(4)?))
        };
        let (table, may, teleport, usage) =
            read().map_err(|error: tokio_postgres::Error| translate(&error, ATTEMPT))?;
        let meant = match options.layout {
            Layout::Teleport => teleport,
            Layout::Raw => patterns.is_empty() || patterns.iter().any(|p| p.matches(&table.schema, &table.name)),
        };
        if meant && !(may && usage) {
            findings.push(Finding::error(
                format!("table {table}: the role may not write it"),
                format!(
                    "grant usage on schema {} to <role>; grant select, insert, update, delete, truncate on {table} to <role>",
                    quoted(&table.schema)
                ),
            ));
        }
    }
    let schema = "select coalesce(pg_catalog.has_schema_privilege(pg_catalog.current_schema(), 'create'), false)";
    let kv = "select pg_catalog.to_regclass('kv') is not null";
    if options.layout == Layout::Teleport && !truth(client, kv).await? && !truth(client, schema).await? {
        findings.push(Finding::error(
            "table kv is to be made, and the role may not create in the first schema of the search path",
            "grant create on schema public to <role>",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("the tables can be written or made"));
    }
    Ok(findings)
}
