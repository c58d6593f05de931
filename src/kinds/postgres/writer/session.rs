//! One session at the sink's server: its settings, and the one way in which statements are sent.
//!
//! Statements are *started* in order and answered later, so that a commit costs one round trip. Invariants: what was
//! started reaches the server in that order; the first error in that order is the one that is reported, since all later
//! ones only say that the transaction is aborted.
//!
//! Settings keep values out of the server's log where the role may set them (a failing statement would otherwise appear
//! there with its row), keep foreign keys and triggers from firing, and bound how long a session that lost its owner can
//! hold locks. What the role may not set is reported by [`Session::refused`], not an error.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{MaybeDone, maybe_done};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use super::destination::Destination;
use crate::error::{Error, Result};
use crate::kinds::postgres::conn::{self, translate};

/// Settings that every role may make.
///
/// Row lookups must use the key's index whatever the statistics say (a table that was just filled has none), and a plan
/// is made once: there is only one sensible way to run each of our statements. The compiler is off because the cost that
/// disabled ways of scanning are given would always start it.
///
/// LIMIT: `idle_in_transaction_session_timeout` is longer than a source should ever pause within one transaction: while
/// it is being staged, every pause is idleness here. The next claim does not wait for it.
const PLAIN: &str = "\
    set idle_in_transaction_session_timeout = '5min'; set synchronous_commit = on; \
    set default_transaction_isolation = 'read committed'; set xmloption = content; \
    set log_parameter_max_length_on_error = 0; set plan_cache_mode = force_generic_plan; \
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off; \
    set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; set tcp_user_timeout = '30s'";

/// Settings that need a superuser or a grant (`GRANT SET ON PARAMETER`, since version 15), with the value that is wanted.
/// Errors are kept out of the log altogether, since even a primary message can quote a value; we report them ourselves.
const GUARDED: [(&str, &str); 7] = [
    ("session_replication_role", "replica"),
    ("log_min_messages", "fatal"),
    ("log_min_error_statement", "panic"),
    ("log_error_verbosity", "terse"),
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("log_parameter_max_length", "0"),
];

/// A statement that was started.
pub type Pending = Pin<Box<MaybeDone<Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send>>>>>;

/// A session.
pub struct Session {
    /// The driver's handle. Shared, because a started statement outlives the call that started it.
    pub client: Arc<Client>,
    statements: HashMap<String, Statement>,
    refused: Vec<&'static str>,
    /// Schema of unqualified names.
    pub schema: String,
}

impl Session {
    /// LIMIT: statements are few per table and shape; beyond this many the cache starts again.
    const STATEMENTS: usize = 512;

    /// Connects and makes the settings.
    ///
    /// # Errors
    /// Config for a server that is a standby, else as the server says.
    pub async fn open(destination: &Destination) -> Result<Self> {
        let client = destination.endpoint.session(&conn::Session::WRITE).await?;
        let broken = |error| translate(&error, "set up a session at the destination");
        client.batch_execute(PLAIN).await.map_err(broken)?;
        client.batch_execute(&guarded()).await.map_err(broken)?;
        let row = client
            .query_one("select pg_is_in_recovery(), coalesce(current_schema(), '')", &[])
            .await
            .map_err(broken)?;
        let (standby, schema): (bool, String) = (get(&row, 0)?, get(&row, 1)?);
        if standby {
            return Err(Error::config(
                "open the destination: its server is a standby that replays another one: name its primary",
            ));
        }
        let names: Vec<&str> = GUARDED.iter().map(|(name, _)| *name).collect();
        let rows = client
            .query("select name, setting from pg_settings where name = any($1)", &[&names])
            .await
            .map_err(broken)?;
        let mut set = HashMap::new();
        for row in &rows {
            let (name, setting): (String, String) = (get(row, 0)?, get(row, 1)?);
            set.insert(name, setting);
        }
        // Reading log settings may itself be reserved to members of pg_read_all_settings; not seen counts as not set.
        let refused = GUARDED.iter().filter(|(name, value)| set.get(*name).map(String::as_str) != Some(*value));
        let refused = refused.map(|(name, _)| *name).collect();
        Ok(Self { client: Arc::new(client), statements: HashMap::new(), refused, schema })
    }

    /// Settings that the role may not make.
    pub fn refused(&self) -> &[&'static str] {
        &self.refused
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// A prepared statement, made once per session.
    pub async fn prepare(&mut self, text: &str) -> Result<Statement, tokio_postgres::Error> {
        self.prepare_typed(text, &[]).await
    }

    /// As [`Session::prepare`], with the types of the first parameters.
    pub async fn prepare_typed(&mut self, text: &str, types: &[Type]) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.statements.get(text) {
            return Ok(known.clone());
        }
        let made = self.client.prepare_typed(text, types).await?;
        if self.statements.len() == Self::STATEMENTS {
            self.statements.clear();
        }
        self.statements.insert(text.to_owned(), made.clone());
        Ok(made)
    }

    /// Drops prepared statements: tables may have changed.
    pub fn forget_statements(&mut self) {
        self.statements.clear();
    }

    /// Starts commands without parameters.
    pub async fn start_batch(&self, text: &'static str) -> Pending {
        let client = Arc::clone(&self.client);
        start(async move { client.batch_execute(text).await.map(|()| 0) }).await
    }
}

/// Sends a statement and comes back without its answer.
pub async fn start(future: impl Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'static) -> Pending {
    let boxed: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(future);
    let mut pending = Box::pin(maybe_done(boxed));
    // The driver encodes and queues a request when its future is polled for the first time.
    std::future::poll_fn(|cx| {
        let _ = pending.as_mut().poll(cx).is_ready();
        Poll::Ready(())
    })
    .await;
    pending
}

/// Waits for the answer of a statement that was started.
pub async fn answer(mut pending: Pending) -> Result<u64, tokio_postgres::Error> {
    pending.as_mut().await;
    pending.as_mut().take_output().expect("a future that is done has its output")
}

/// A column of a row of our own queries.
pub fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a tokio_postgres::Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(|_| {
        Error::corrupt("read the destination's records: a column has another type than this version writes")
    })
}

/// One statement that makes each guarded setting the role may make and leaves no trace of the others.
fn guarded() -> String {
    let pairs: Vec<String> = GUARDED.iter().map(|(name, value)| format!("['{name}', '{value}']")).collect();
    format!(
        "do $guarded$ declare pair text[]; begin \
         foreach pair slice 1 in array array[{}] loop \
         begin perform set_config(pair[1], pair[2], false); exception when others then null; end; \
         end loop; end $guarded$",
        pairs.join(", ")
    )
}
