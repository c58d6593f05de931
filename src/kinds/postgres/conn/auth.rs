//! Start-up and authentication of a connection whose messages we read ourselves.
//!
//! PostgreSQL protocol 3.0, "Start-up": in clear, MD5, SCRAM-SHA-256, and SCRAM-SHA-256-PLUS bound to the certificate
//! (RFC 5802, RFC 5929 `tls-server-end-point`). Invariants: with `channel_binding=require` nothing but
//! SCRAM-SHA-256-PLUS counts, not even a server that asks for no password; a server that offers PLUS over TLS gets it, so
//! that a man in the middle cannot talk us down.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::conninfo::ChannelBinding;
use crate::kinds::postgres::conn::errors::ServerError;
use crate::kinds::postgres::conn::replication::{QueryError, ReplicationConn, garbled};
use crate::kinds::postgres::conn::secret::Secret;

/// Who we say we are.
pub struct Identity<'a> {
    /// Role.
    pub user: &'a str,
    /// Password or token, if there is one.
    pub password: Option<&'a Secret>,
    /// Whether SCRAM is bound to the channel.
    pub binding: ChannelBinding,
}

/// Sends the start-up message and goes on until the server is ready for a query.
pub async fn start(
    conn: &mut ReplicationConn,
    parameters: &[(&str, &str)],
    identity: &Identity<'_>,
) -> Result<(), QueryError> {
    let mut message = BytesMut::new();
    frontend::startup_message(parameters.iter().copied(), &mut message).map_err(|_| {
        QueryError::Lost(Error::config("connect to PostgreSQL: user, database or an option holds a zero byte"))
    })?;
    conn.send(&message).await.map_err(QueryError::Lost)?;
    authenticate(conn, identity).await?;
    loop {
        match conn.receive().await.map_err(QueryError::Lost)? {
            Message::BackendKeyData(body) => conn.backend_pid = body.process_id(),
            Message::ReadyForQuery(_) => return Ok(()),
            Message::ErrorResponse(body) => return Err(QueryError::Server(ServerError::from_fields(body.fields()))),
            _ => return Err(QueryError::Lost(garbled())),
        }
    }
}

async fn authenticate(conn: &mut ReplicationConn, identity: &Identity<'_>) -> Result<(), QueryError> {
    let unbound = |how: &str| match identity.binding {
        ChannelBinding::Require => Err(QueryError::Lost(Error::config(format!(
            "connect to PostgreSQL: channel_binding=require cannot be met: {how}"
        )))),
        ChannelBinding::Disable | ChannelBinding::Prefer => Ok(()),
    };
    match next(conn).await? {
        Message::AuthenticationOk => return unbound("the server asks for no SCRAM authentication"),
        Message::AuthenticationCleartextPassword => {
            unbound("the server asks for the password itself")?;
            send_password(conn, password(identity)?.reveal().as_bytes()).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            unbound("the server asks for an MD5 hash")?;
            let secret = password(identity)?.reveal().as_bytes();
            let hash = md5_hash(identity.user.as_bytes(), secret, body.salt());
            send_password(conn, hash.as_bytes()).await?;
        }
        Message::AuthenticationSasl(body) => scram(conn, &body, identity).await?,
        _ => {
            return Err(QueryError::Lost(Error::config(
                "connect to PostgreSQL: the server asks for an authentication method other than a password \
                 (GSSAPI, SSPI, …); let pg_hba.conf ask for scram-sha-256 or a client certificate",
            )));
        }
    }
    match next(conn).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(QueryError::Lost(garbled())),
    }
}

async fn next(conn: &mut ReplicationConn) -> Result<Message, QueryError> {
    match conn.receive().await.map_err(QueryError::Lost)? {
        Message::ErrorResponse(body) => Err(QueryError::Server(ServerError::from_fields(body.fields()))),
        message => Ok(message),
    }
}

fn password<'a>(identity: &Identity<'a>) -> Result<&'a Secret, QueryError> {
    identity.password.ok_or_else(|| QueryError::Lost(no_password()))
}

/// The server wants a password and there is none.
pub(super) fn no_password() -> Error {
    Error::config(
        "connect to PostgreSQL: the server asks for a password; put it into PGPASSWORD, a passfile or the connection string",
    )
}

async fn send_password(conn: &mut ReplicationConn, password: &[u8]) -> Result<(), QueryError> {
    let mut message = BytesMut::new();
    frontend::password_message(password, &mut message)
        .map_err(|_| QueryError::Lost(Error::config("connect to PostgreSQL: the password holds a zero byte")))?;
    conn.send(&message).await.map_err(QueryError::Lost)
}

async fn scram(
    conn: &mut ReplicationConn,
    offered: &AuthenticationSaslBody,
    identity: &Identity<'_>,
) -> Result<(), QueryError> {
    let (mut plain, mut plus) = (false, false);
    let mut mechanisms = offered.mechanisms();
    while let Some(mechanism) = mechanisms.next().map_err(|_| QueryError::Lost(garbled()))? {
        plain |= mechanism == sasl::SCRAM_SHA_256;
        plus |= mechanism == sasl::SCRAM_SHA_256_PLUS;
    }
    let end_point = conn.stream.end_point().filter(|_| identity.binding != ChannelBinding::Disable);
    let (mechanism, binding) = match (end_point, plus, plain) {
        (Some(hash), true, _) => (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash.to_vec())),
        _ if identity.binding == ChannelBinding::Require => {
            return Err(QueryError::Lost(Error::config(
                "connect to PostgreSQL: channel_binding=require cannot be met: it takes TLS, a server that offers \
                 SCRAM-SHA-256-PLUS, and a certificate whose signature names a hash",
            )));
        }
        (Some(_), false, true) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        (None, _, true) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        _ => {
            return Err(QueryError::Lost(Error::config(
                "connect to PostgreSQL: the server offers no SASL mechanism that driftless knows; \
                 let pg_hba.conf ask for scram-sha-256",
            )));
        }
    };
    let mut exchange = ScramSha256::new(password(identity)?.reveal().as_bytes(), binding);
    let mut message = BytesMut::new();
    frontend::sasl_initial_response(mechanism, exchange.message(), &mut message)
        .map_err(|_| QueryError::Lost(garbled()))?;
    conn.send(&message).await.map_err(QueryError::Lost)?;
    let Message::AuthenticationSaslContinue(body) = next(conn).await? else {
        return Err(QueryError::Lost(garbled()));
    };
    exchange.update(body.data()).map_err(|_| QueryError::Lost(not_proved()))?;
    message.clear();
    frontend::sasl_response(exchange.message(), &mut message).map_err(|_| QueryError::Lost(garbled()))?;
    conn.send(&message).await.map_err(QueryError::Lost)?;
    let Message::AuthenticationSaslFinal(body) = next(conn).await? else {
        return Err(QueryError::Lost(garbled()));
    };
    exchange.finish(body.data()).map_err(|_| QueryError::Lost(not_proved()))
}

/// In SCRAM the server too proves that it knows the password.
fn not_proved() -> Error {
    Error::config("connect to PostgreSQL: the server could not prove that it knows the password; it may be an impostor")
}
