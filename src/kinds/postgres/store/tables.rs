//! Which tables of a source a store shows.
//!
//! Invariant: beside a stream that follows, no table is shown that the stream does not bring: what is copied once and not
//! followed would be old from the next change on, and look like the rest. Tables that cannot be shown are given along, for
//! whoever has to say so.

use tokio_postgres::Client;

use crate::error::Result;
use crate::kinds::postgres::admin::publication;
use crate::kinds::postgres::catalog::{self, Found, Need, Scope};

/// The tables of a scope; with the name of a publication, those that it has, or could have while it is not there yet.
///
/// # Errors
/// As of [`catalog::find`]; in the teleport layout also for a table that cannot be shown.
pub(super) async fn shown(client: &Client, scope: &Scope, need: Need, following: Option<&str>) -> Result<Found> {
    let need = if following.is_some() { Need::Tail } else { need };
    let mut found = catalog::find(client, scope, need).await?;
    if *scope == Scope::Teleport {
        return Ok(Found { tables: found.all()?, refused: Vec::new() });
    }
    let Some(name) = following else { return Ok(found) };
    if let Some(state) = publication::inspect(client, name).await? {
        found.tables.retain(|shape| state.publishes(&shape.schema, &shape.name));
    }
    Ok(found)
}
