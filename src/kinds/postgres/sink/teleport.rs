//! Teleport's own schema at a destination, as its first start would make it.
use crate::error::{Error, Result};
use crate::kinds::postgres::conn::translate;
use crate::kinds::postgres::writer::session::{Session, get};

const KV: &str = "\
    create table kv (key bytea not null, value bytea not null, expires timestamptz, revision uuid not null, \
        constraint kv_pkey primary key (key)); \
    create index kv_expires_idx on kv (expires) where expires is not null; \
    alter table kv replica identity full; \
    create table backend_version (version integer primary key check (version > 0), created timestamptz not null default now()); \
    insert into backend_version (version) values (2)";

/// Makes what is missing.
pub async fn make(session: &Session) -> Result<()> {
    if session.schema.is_empty() {
        return Err(Error::config(
            "open the destination: no schema of its search_path exists: create one or set search_path",
        ));
    }
    let broken = |error| translate(&error, "make Teleport's tables in the destination");
    let client = &session.client;
    client.batch_execute("begin").await.map_err(broken)?;
    client.query("select pg_advisory_xact_lock(hashtext('driftless'), hashtext(''))", &[]).await.map_err(broken)?;
    let text = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
        where n.nspname = current_schema() and c.relname = 'kv')";
    if !get::<bool>(&client.query_one(text, &[]).await.map_err(broken)?, 0)? {
        client.batch_execute(KV).await.map_err(broken)?;
    }
    client.batch_execute("commit").await.map_err(broken)
}
