//! The two logins: through the driver, and over messages that we read ourselves.
//!
//! The stream is ready, encrypted or not, when it comes here; neither login opens one. The driver is told that our stream
//! *is* its TLS stream, so that it takes the channel binding from it.

use std::future::{Future, Ready, ready};
use std::io;

use tokio_postgres::config::{self, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::{Error, Fault, Result};
use crate::kinds::postgres::conn::auth::{self, Identity};
use crate::kinds::postgres::conn::conninfo::{self, ConnInfo, Target};
use crate::kinds::postgres::conn::dial::Failure;
use crate::kinds::postgres::conn::errors;
use crate::kinds::postgres::conn::replication::{QueryError, ReplicationConn, version_num};
use crate::kinds::postgres::conn::stream::Stream;

/// What a server is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// Transactions are read-only by default.
    pub read_only: bool,
    /// It follows another server.
    pub standby: bool,
}

const ROLE: &str =
    "select pg_catalog.current_setting('transaction_read_only'), pg_catalog.pg_is_in_recovery()::pg_catalog.text";

/// A way to turn a stream into a connection.
pub trait Login: Sync {
    /// The connection.
    type Conn: Send;

    /// Sends the start-up message and goes on until the server is ready.
    fn login(
        &self,
        stream: Stream,
        identity: &Identity<'_>,
        target: &Target,
    ) -> impl Future<Output = Result<Self::Conn, Failure>> + Send;

    /// What the server is.
    fn role(&self, conn: &mut Self::Conn) -> impl Future<Output = Result<Role>> + Send;
}

/// Whether another way of encryption, another server, or nothing is to be tried after a refused login.
fn refused(code: Option<&str>, error: Error) -> Failure {
    match code {
        Some("28000") => Failure::NotThisWay(error),
        _ if error.fault() == Fault::Transient => Failure::Unreachable(error),
        _ => Failure::Final(error),
    }
}

fn role_of(first: Option<&str>, second: Option<&str>) -> Role {
    Role { read_only: first == Some("on"), standby: second == Some("true") }
}

/// Through the driver; gives `server_version_num` with the client.
pub struct DriverLogin<'a> {
    /// The connection string.
    pub info: &'a ConnInfo,
    /// Application name.
    pub application_name: &'a str,
}

impl Login for DriverLogin<'_> {
    type Conn = (Client, u32);

    async fn login(&self, stream: Stream, identity: &Identity<'_>, target: &Target) -> Result<Self::Conn, Failure> {
        let mut config = tokio_postgres::Config::new();
        config.user(identity.user).dbname(&self.info.dbname).application_name(self.application_name);
        if let Some(options) = &self.info.options {
            config.options(options);
        }
        if let Some(password) = identity.password {
            config.password(password.reveal());
        }
        config.channel_binding(match identity.binding {
            conninfo::ChannelBinding::Disable => config::ChannelBinding::Disable,
            conninfo::ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            conninfo::ChannelBinding::Require => config::ChannelBinding::Require,
        });
        if stream.is_encrypted() {
            config.ssl_mode(config::SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        } else {
            config.ssl_mode(config::SslMode::Disable);
        }
        let attempt = format!("connect to PostgreSQL at {target}");
        let (client, connection) = config.connect_raw(stream, AlreadyEncrypted).await.map_err(|error| {
            let code = error.code().map(|code| code.code().to_owned());
            refused(code.as_deref(), errors::translate(&error, &attempt))
        })?;
        let version = version_num(connection.parameter("server_version").unwrap_or_default());
        tokio::spawn(async move {
            // Whoever uses the client sees that it is closed; what the server said last is worth a line.
            if let Err(error) = connection.await {
                let error = errors::translate(&error, "keep a session with PostgreSQL");
                tracing::debug!(%error, "a PostgreSQL session ended");
            }
        });
        Ok((client, version))
    }

    async fn role(&self, (client, _): &mut Self::Conn) -> Result<Role> {
        if self.info.session == conninfo::TargetSession::Any {
            return Ok(role_of(None, None));
        }
        let attempt = "ask a PostgreSQL server whether it takes writes";
        let rows = client.simple_query(ROLE).await.map_err(|error| errors::translate(&error, attempt))?;
        let row = rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(role_of(row.get(0), row.get(1))),
            _ => None,
        });
        row.ok_or_else(|| Error::transient(format!("{attempt}: no answer")))
    }
}

/// Over our own messages.
pub struct WireLogin<'a> {
    /// The connection string.
    pub info: &'a ConnInfo,
    /// Application name.
    pub application_name: &'a str,
    /// Whether the replication commands are wanted.
    pub replication: bool,
}

impl Login for WireLogin<'_> {
    type Conn = ReplicationConn;

    async fn login(&self, stream: Stream, identity: &Identity<'_>, target: &Target) -> Result<Self::Conn, Failure> {
        let mut conn = ReplicationConn::new(stream);
        let mut parameters = vec![
            ("user", identity.user),
            ("database", self.info.dbname.as_str()),
            ("client_encoding", "UTF8"),
            ("application_name", self.application_name),
        ];
        if let Some(options) = &self.info.options {
            parameters.push(("options", options));
        }
        if self.replication {
            parameters.push(("replication", "database"));
        }
        match auth::start(&mut conn, &parameters, identity).await {
            Ok(()) => Ok(conn),
            Err(error) => {
                let code = error.code().map(str::to_owned);
                Err(refused(code.as_deref(), error.during(format!("connect to PostgreSQL at {target}"))))
            }
        }
    }

    async fn role(&self, conn: &mut Self::Conn) -> Result<Role> {
        if self.info.session == conninfo::TargetSession::Any {
            return Ok(role_of(None, None));
        }
        let attempt = "ask a PostgreSQL server whether it takes writes";
        let rows = conn.simple_query(ROLE).await.map_err(|error: QueryError| error.during(attempt))?;
        let text = |column: usize| rows.first().and_then(|row| row.get(column)).and_then(Option::as_deref);
        Ok(role_of(text(0), text(1)))
    }
}

/// Tells the driver that its TLS handshake is done.
struct AlreadyEncrypted;

impl TlsConnect<Stream> for AlreadyEncrypted {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Ready<io::Result<Stream>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point().map_or_else(ChannelBinding::none, |hash| ChannelBinding::tls_server_end_point(hash.to_vec()))
    }
}
