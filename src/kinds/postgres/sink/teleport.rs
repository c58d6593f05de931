//! Teleport's own schema at a destination: what its first start would make, in its version 2.
//!
//! Invariant: a `kv` that is there is checked and never altered.

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::translate;
use crate::kinds::postgres::ddl;
use crate::kinds::postgres::kvrow;
use crate::kinds::postgres::writer::session::{Session, get};
use crate::kinds::postgres::writer::target::Target;

/// Version of Teleport's schema that we know.
const VERSION: i32 = 2;
/// The same lock that guards our own records.
const LOCK: &str = "select pg_advisory_xact_lock(hashtext('driftless'), hashtext(''))";

/// Makes what is missing.
///
/// # Errors
/// Config when something else has the name, or Teleport is newer than we know.
pub async fn make(session: &Session) -> Result<()> {
    let schema = &session.schema;
    if schema.is_empty() {
        return Err(Error::config(
            "open the destination: no schema of its search_path exists: create one or set search_path",
        ));
    }
    if is_complete(session).await? {
        return Ok(());
    }
    let broken = |error| translate(&error, "make Teleport's tables in the destination");
    let client = &session.client;
    client.batch_execute("begin").await.map_err(broken)?;
    client.query(LOCK, &[]).await.map_err(broken)?;
    if Target::find(session, schema, "kv").await?.is_none() {
        let shape = kvrow::shape(schema);
        for statement in ddl::before_load(&shape)?.into_iter().chain(ddl::after_load(&shape)) {
            client.batch_execute(&statement).await.map_err(broken)?;
        }
    }
    for statement in ddl::teleport_version(schema) {
        client.batch_execute(&statement).await.map_err(broken)?;
    }
    client.batch_execute("commit").await.map_err(broken)
}

/// Whether there is nothing to be made; refuses what does not fit.
async fn is_complete(session: &Session) -> Result<bool> {
    let schema = &session.schema;
    let Some(kv) = Target::find(session, schema, "kv").await? else { return Ok(false) };
    let mut misfits = kv.misfits(&kvrow::shape(schema));
    if !kv.has_key(&["key"]) {
        misfits.push("has no unique index on key".into());
    }
    if !misfits.is_empty() {
        return Err(Error::config(format!(
            "open the destination: its table {:?} is not Teleport's: it {}: name another database or schema",
            kv.name,
            misfits.join(", ")
        )));
    }
    let broken = |error| translate(&error, "read the version of Teleport's tables in the destination");
    if Target::find(session, schema, "backend_version").await?.is_none() {
        return Ok(false);
    }
    let text = format!("select max(version) from {}", ddl::qualified(schema, "backend_version"));
    let version: Option<i32> = get(&session.client.query_one(&text, &[]).await.map_err(broken)?, 0)?;
    match version {
        Some(version) if version > VERSION => Err(Error::config(format!(
            "open the destination: Teleport's tables there have version {version}, this program knows version {VERSION}: \
             use a newer release of driftless"
        ))),
        // Teleport's first start brings an older version up to date itself.
        version => Ok(version.is_some()),
    }
}
