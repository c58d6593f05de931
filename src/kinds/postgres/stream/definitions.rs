//! What the stream asks of the source's catalog, over a connection of its own that is made when it is first needed.

use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::relations::Definitions;
use crate::error::{Error, Result};
use crate::kinds::postgres::catalog::{self, Need, Pattern, SequenceValue};
use crate::kinds::postgres::conn::{Endpoint, Session, translate};
use crate::kinds::postgres::shape::Shape;
use crate::source::Fut;

/// Which tables of the stream are ours.
pub(super) enum Wanted {
    /// This one, in the teleport layout.
    Teleport {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
    },
    /// Those that match one of the patterns.
    Raw(Vec<Pattern>),
}

/// See the module.
pub(super) struct Catalog {
    endpoint: Endpoint,
    client: Mutex<Option<Client>>,
    wanted: Wanted,
    binary: bool,
    /// The tables whose sequences are carried: none in the teleport layout.
    with_sequences: Vec<Shape>,
}

impl Catalog {
    /// `client`: a session that is there already. `binary`: the form that was decided for all bodies of the source.
    pub(super) fn new(endpoint: Endpoint, client: Client, wanted: Wanted, binary: bool, tables: Vec<Shape>) -> Self {
        let raw = matches!(wanted, Wanted::Raw(_));
        let with_sequences = tables.into_iter().filter(|shape| raw && !shape.sequences.is_empty()).collect();
        Self { endpoint, client: Mutex::new(Some(client)), wanted, binary, with_sequences }
    }

    /// Whether there are sequences to be carried.
    pub(super) fn has_sequences(&self) -> bool {
        !self.with_sequences.is_empty()
    }

    /// Gives the session to `ask`, a fresh one if the old one is gone.
    async fn session(&self) -> Result<tokio::sync::MutexGuard<'_, Option<Client>>> {
        let mut held = self.client.lock().await;
        if held.as_ref().is_none_or(Client::is_closed) {
            *held = Some(self.endpoint.session(&Session::ADMIN).await?);
        }
        Ok(held)
    }
}

impl Definitions for Catalog {
    fn shape(&self, oid: u32) -> Fut<'_, Option<Shape>> {
        Box::pin(async move {
            let held = self.session().await?;
            let Some(client) = held.as_ref() else { return Err(Error::bug("a session that was just made is gone")) };
            let mut shape = catalog::by_oid(client, &[oid], Need::Tail, self.binary).await?.all()?.pop();
            if let (Some(shape), Wanted::Teleport { .. }) = (&mut shape, &self.wanted) {
                shape.flat_key = true;
            }
            Ok(shape)
        })
    }

    fn type_name(&self, oid: u32, typmod: i32) -> Fut<'_, String> {
        Box::pin(async move {
            let held = self.session().await?;
            let Some(client) = held.as_ref() else { return Err(Error::bug("a session that was just made is gone")) };
            let attempt = "ask PostgreSQL for the name of a type";
            let sql = "select pg_catalog.format_type($1, $2)";
            let row = client.query_one(sql, &[&oid, &typmod]).await.map_err(|error| translate(&error, attempt))?;
            let name: Option<String> = row.try_get(0).map_err(|error| translate(&error, attempt))?;
            Ok(name.unwrap_or_else(|| "???".to_owned()))
        })
    }

    fn sequences(&self) -> Fut<'_, Vec<SequenceValue>> {
        Box::pin(async move {
            let held = self.session().await?;
            let Some(client) = held.as_ref() else { return Err(Error::bug("a session that was just made is gone")) };
            catalog::sequence_values(client, &self.with_sequences.iter().collect::<Vec<_>>()).await
        })
    }

    fn takes(&self, schema: &str, name: &str) -> bool {
        match &self.wanted {
            Wanted::Teleport { schema: ours, name: kv } => ours == schema && kv == name,
            Wanted::Raw(patterns) => patterns.iter().any(|pattern| pattern.matches(schema, name)),
        }
    }
}
