//! PostgreSQL as a source of changes: head, pin, tail.
//!
//! Puts together what others do: `catalog` finds the tables, `admin` makes, inspects and proves, `receiver` and `tail`
//! stream. Invariant: a stream is opened only behind a position that was proved against this very server, in the same
//! breath, and only when our own last connection has let go of the slot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::Client;

use super::definitions::{Catalog, Wanted};
use super::newcomers;
use super::receiver::{self, Plan};
use super::tail::{PostgresTail, Setup};
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::kinds::postgres::admin::head::{self, Identity};
use crate::kinds::postgres::admin::{TableName, pin, prove, slot};
use crate::kinds::postgres::catalog::{self, Need, Pattern, Scope};
use crate::kinds::postgres::conn::{Endpoint, ReplicationConn, Session};
use crate::kinds::postgres::options::Options;
use crate::kinds::postgres::shape::Shape;
use crate::model::{Checkpoint, Layout};
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};

/// LIMIT: our own good-bye takes a second at most; beyond this the server is asked in any case, and says so if the slot is
/// still in use.
const LAST_STREAM: Duration = Duration::from_secs(5);
/// LIMIT: what a change may take of `memory`, as promised.
const CHANGE_SHARE: usize = 4;
/// LIMIT: PostgreSQL itself takes no row above 1 GiB; and below 1 MiB `memory` would be of no use.
const FRAME: (usize, usize) = (1 << 20, 1 << 30);

/// A PostgreSQL source. One tail at a time, since a slot has one reader.
pub struct PostgresSource {
    options: Options,
    endpoint: Endpoint,
    feed: Endpoint,
    /// For questions that come often.
    client: tokio::sync::Mutex<Option<Client>>,
    /// The server, as the last connection saw it.
    identity: Mutex<Option<Identity>>,
    watch: Watch,
}

impl PostgresSource {
    /// The source that these options describe. Connects to nothing.
    ///
    /// # Errors
    /// Config, for a connection string or a pattern that cannot be read.
    pub fn new(options: &Options) -> Result<Self> {
        let feed = Endpoint::feed(options)?;
        Ok(Self {
            endpoint: Endpoint::new(options)?,
            watch: Watch::new(options, Scope::of(options)?, feed.clone()),
            feed,
            options: options.clone(),
            client: tokio::sync::Mutex::default(),
            identity: Mutex::default(),
        })
    }

    async fn identify(&self, conn: &mut ReplicationConn) -> Result<Identity> {
        let identity = head::identify(conn).await?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity.clone());
        Ok(identity)
    }

    async fn known_identity(&self) -> Result<Identity> {
        let known = self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(identity) => Ok(identity),
            None => self.identify(&mut self.feed.replication().await?).await,
        }
    }

    async fn ask_head(&self) -> Result<Checkpoint> {
        let identity = self.known_identity().await?;
        let mut held = self.client.lock().await;
        if held.as_ref().is_none_or(Client::is_closed) {
            *held = Some(self.feed.session(&Session::ADMIN).await?);
        }
        let Some(client) = held.as_ref() else { return Err(Error::bug("a session that was just made is gone")) };
        let at = head::flushed(client).await?;
        // Whoever asks will wait for it.
        if let Some(link) = self.watch.link() {
            link.want(at);
        }
        Ok([(identity.partition(&self.options.slot()), at.position())].into_iter().collect())
    }

    async fn make_pin(&self, again: bool) -> Result<Checkpoint> {
        let client = self.endpoint.session(&Session::ADMIN).await?;
        let found = catalog::find(&client, &Scope::of(&self.options)?, Need::Tail).await?;
        let names: Vec<TableName> = if again && self.options.layout == Layout::Raw {
            let publication = (&*self.options.publication(), self.options.manage_publication);
            newcomers::pinnable(&client, publication, &found).await?.into_iter().collect()
        } else {
            found.all()?.into_iter().map(|shape| TableName::new(shape.schema, shape.name)).collect()
        };
        drop(client);
        let followed = self.watch.link().is_some_and(|link| link.is_followed());
        let pin = pin::pin(&self.feed, &self.options, &names, followed).await?;
        self.watch.pinned(&names).await;
        let checkpoint = pin.checkpoint(&self.options.slot());
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin.identity);
        Ok(checkpoint)
    }

    async fn open(&self, from: &Checkpoint, pool: &Pool) -> Result<PostgresTail> {
        if let Some(last) = self.watch.link() {
            // If it does not come in time, the slot is found in use, which is said below.
            drop(tokio::time::timeout(LAST_STREAM, last.closed()).await);
        }
        let name = self.options.slot();
        let mut conn = self.feed.replication().await?;
        let client = self.feed.session(&Session::ADMIN).await?;
        let found = catalog::find(&client, &Scope::of(&self.options)?, Need::Tail).await?;
        self.watch.admit(&client, &found).await?;
        // New tables that cannot be followed were told; the others go on.
        let tables = if self.options.layout == Layout::Raw { found.tables } else { found.all()? };
        let identity = self.identify(&mut conn).await?;
        let ancestors = head::ancestors(&mut conn, identity.timeline).await?;
        let state = slot::inspect(&client, &name).await?;
        if let Some(state) = &state {
            state.usable_by(&name, self.feed.application_name())?;
        }
        let server =
            prove::Server { identity: &identity, flushed: head::flushed(&client).await?, ancestors: &ancestors };
        let start = prove::prove(&server, &name, state.as_ref(), from)?;

        let binary = tables.first().is_some_and(|table| table.binary) && conn.server_version >= 140_000;
        let plan = Plan {
            slot: name.clone(),
            publication: self.options.publication(),
            start,
            version: conn.server_version,
            binary,
            timeout: sender_timeout(&mut conn).await?,
            max_frame: (self.options.memory / CHANGE_SHARE).clamp(FRAME.0, FRAME.1),
        };
        let ReplicationConn { stream, buf, .. } = conn;
        let link = receiver::start(stream, &buf, plan).await?;
        self.watch.follows(&link);
        let partition = identity.partition(&name);
        let wanted = wanted(&self.options, &tables)?;
        let definitions = Arc::new(Catalog::new(self.feed.clone(), client, wanted, binary, tables));
        PostgresTail::new(Setup {
            link,
            from: from.get(&partition).clone(),
            partition,
            pool: pool.clone(),
            with_sequences: definitions.has_sequences(),
            definitions,
            state_dir: self.options.state_dir.clone(),
        })
    }
}

impl Source for PostgresSource {
    fn head(&self) -> Fut<'_, Checkpoint> {
        Box::pin(self.ask_head())
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(self.make_pin(false))
    }

    fn repin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(self.make_pin(true))
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async move { Ok(Box::new(self.open(from, pool).await?) as Box<dyn Tail>) })
    }

    fn concern(&self) -> Option<String> {
        self.watch.concern()
    }

    fn strained(&self) -> bool {
        self.watch.strained()
    }
}

fn patterns(options: &Options) -> Result<Vec<Pattern>> {
    options.tables.iter().map(|pattern| pattern.parse()).collect()
}

fn wanted(options: &Options, tables: &[Shape]) -> Result<Wanted> {
    match (options.layout, tables) {
        (Layout::Teleport, [kv, ..]) => Ok(Wanted::Teleport { schema: kv.schema.clone(), name: kv.name.clone() }),
        (Layout::Teleport, []) => Err(Error::bug("the catalog gives no table for the teleport layout")),
        (Layout::Raw, _) => patterns(options).map(Wanted::Raw),
    }
}

/// The server's `wal_sender_timeout`; zero if it has none.
async fn sender_timeout(conn: &mut ReplicationConn) -> Result<Duration> {
    let sql = "select setting from pg_catalog.pg_settings where name = 'wal_sender_timeout'";
    let attempt = "ask PostgreSQL for wal_sender_timeout";
    let rows = conn.simple_query(sql).await.map_err(|error| error.during(attempt))?;
    let millis = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
    millis.map(Duration::from_millis).ok_or_else(|| Error::corrupt(format!("{attempt}: the answer is no number")))
}
