//! Sessions for reading: a bounded number, used again, all with the same view of the data.
//!
//! A session that was in use when something went wrong is not used again. One whose answer nobody waits for any longer is
//! told to stop from another session, so that a large read does not go on behind our back.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::Client;

use crate::error::{Error, Result};

use super::super::conn::{Endpoint, Session, translate};

/// Sessions of one view.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    /// The exported snapshot that all sessions read in; else each statement sees what is there.
    snapshot: Option<String>,
    idle: Mutex<Vec<Member>>,
    permits: Arc<Semaphore>,
}

struct Member {
    client: Client,
    /// The server process, to stop it.
    pid: i32,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "session {}", self.pid)
    }
}

/// A session in use. Goes back when dropped, unless it is [`Lease::broken`].
#[derive(Debug)]
pub struct Lease {
    member: Option<Member>,
    sessions: Sessions,
    busy: bool,
    _permit: OwnedSemaphorePermit,
}

impl Sessions {
    /// At most `count` sessions at a time.
    pub fn new(endpoint: &Endpoint, count: usize, snapshot: Option<String>) -> Self {
        let permits = Arc::new(Semaphore::new(count));
        Self(Arc::new(Inner { endpoint: endpoint.clone(), snapshot, idle: Mutex::default(), permits }))
    }

    /// The endpoint that they are connected to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Whether they all see one moment.
    pub fn is_frozen(&self) -> bool {
        self.0.snapshot.is_some()
    }

    /// A session, as soon as one is free.
    pub async fn take(&self) -> Result<Lease> {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await;
        let permit = permit.map_err(|_| Error::bug("the sessions of a store are never closed"))?;
        let idle = loop {
            let member = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match member {
                Some(member) if member.client.is_closed() => {}
                member => break member,
            }
        };
        let member = match idle {
            Some(member) => member,
            None => self.connect().await?,
        };
        Ok(Lease { member: Some(member), sessions: self.clone(), busy: false, _permit: permit })
    }

    async fn connect(&self) -> Result<Member> {
        let client = self.0.endpoint.session(&Session::READ).await?;
        let failed = |error| translate(&error, "open a session for reading");
        let row = client.query_one("select pg_catalog.pg_backend_pid()", &[]).await.map_err(failed)?;
        let pid = row.try_get(0).map_err(failed)?;
        if let Some(snapshot) = &self.0.snapshot {
            let begin =
                format!("begin isolation level repeatable read read only; set transaction snapshot '{snapshot}'");
            // Its holder's session is gone if this fails, and with it the moment that was frozen.
            client.batch_execute(&begin).await.map_err(|error| {
                Error::transient("read the store as it was at one moment: the server no longer holds that moment")
                    .because(translate(&error, "use an exported snapshot"))
            })?;
        }
        Ok(Member { client, pid })
    }
}

impl Lease {
    /// The session.
    pub fn client(&self) -> &Client {
        &self.member.as_ref().expect("a lease has its session until it is dropped").client
    }

    /// An answer is being read; until [`Lease::rest`], dropping the lease ends the session and what it runs.
    pub fn busy(&mut self) {
        self.busy = true;
    }

    /// The answer was read to its end.
    pub fn rest(&mut self) {
        self.busy = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(member) = self.member.take() else { return };
        if !self.busy {
            if !member.client.is_closed() {
                self.sessions.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push(member);
            }
            return;
        }
        let (endpoint, pid) = (self.sessions.0.endpoint.clone(), member.pid);
        // Without a runtime the process is about to end, and the server notices at its next write.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Ok(client) = endpoint.session(&Session::ADMIN).await {
                    drop(client.execute("select pg_catalog.pg_terminate_backend($1)", &[&pid]).await);
                }
                drop(member);
            });
        }
    }
}
