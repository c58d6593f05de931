//! From one server's address to a stream, encrypted as `sslmode` says.
//!
//! libpq, "SSL Session Encryption" and "Direct TLS". A mode is a list of ways to try; whether the next way is tried is
//! decided by what the server says to the previous one. Invariants: after the server has agreed to TLS not a byte in
//! clear is believed; a mode of `require` or stronger has no way in clear.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::error::{Error, Fault, Result};
use crate::kinds::postgres::conn::conninfo::{Host, SslMode, Target, TcpOptions};
use crate::kinds::postgres::conn::stream::Stream;
use crate::kinds::postgres::conn::tls::TlsSetup;

/// How one attempt treats encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nobody asks for TLS.
    Clear,
    /// TLS if the server has it, else in clear.
    TlsIfOffered,
    /// TLS or nothing.
    Tls,
}

/// Why an attempt failed, which decides what is tried next.
#[derive(Debug)]
pub enum Failure {
    /// Nobody answers, or not now: the next server may.
    Unreachable(Error),
    /// Not with (or without) encryption: the same server may take the other way.
    NotThisWay(Error),
    /// The server was reached and said no: nothing else is tried.
    Final(Error),
}

/// The ways of a mode, in order.
pub fn ways(mode: SslMode, host: &Host) -> &'static [Way] {
    match (host, mode) {
        // libpq never encrypts a Unix-domain socket.
        (Host::Unix(_), _) | (_, SslMode::Disable) => &[Way::Clear],
        (_, SslMode::Allow) => &[Way::Clear, Way::Tls],
        (_, SslMode::Prefer) => &[Way::TlsIfOffered, Way::Clear],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Way::Tls],
    }
}

/// Where a target can be reached; `None` stands for its Unix-domain socket.
pub async fn addresses(target: &Target) -> Result<Vec<Option<SocketAddr>>, Failure> {
    if let Some(ip) = target.address {
        return Ok(vec![Some(SocketAddr::new(ip, target.port))]);
    }
    let Host::Tcp(name) = &target.host else { return Ok(vec![None]) };
    let found = tokio::net::lookup_host((name.as_str(), target.port)).await.map_err(|error| {
        Failure::Unreachable(Error::transient(format!("look up the PostgreSQL server {name}: {error}")))
    })?;
    Ok(found.map(Some).collect())
}

/// Opens a stream. `direct` skips the question whether the server speaks TLS.
pub async fn open(
    target: &Target,
    address: Option<SocketAddr>,
    way: Way,
    tls: Option<&TlsSetup>,
    (tcp, direct): (&TcpOptions, bool),
) -> Result<Stream, Failure> {
    let unreachable = |error: std::io::Error| {
        Failure::Unreachable(Error::transient(format!("reach the PostgreSQL server at {target}: {error}")))
    };
    let Some(address) = address else {
        let Host::Unix(dir) = &target.host else {
            return Err(Failure::Final(Error::bug(format!("reach {target}: it has no address and is no socket"))));
        };
        let path = dir.join(format!(".s.PGSQL.{}", target.port));
        return UnixStream::connect(path).await.map(Stream::Unix).map_err(unreachable);
    };
    let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
    configure(&stream, tcp).map_err(unreachable)?;
    let (Some(tls), false) = (tls, way == Way::Clear) else { return Ok(Stream::Tcp(stream)) };
    if !direct && !ask_for_tls(&mut stream, target).await? {
        return match way {
            Way::TlsIfOffered | Way::Clear => Ok(Stream::Tcp(stream)),
            Way::Tls => {
                Err(Failure::Final(Error::config(format!("connect to PostgreSQL at {target}: {}", tls.missing()))))
            }
        };
    }
    let name = match &target.host {
        Host::Tcp(name) => name.as_str(),
        Host::Unix(_) => "localhost",
    };
    let tls = tls.handshake(stream, name).await.map_err(|error| match (way, error.fault()) {
        (Way::TlsIfOffered, _) => Failure::NotThisWay(error),
        (_, Fault::Transient) if direct => Failure::Unreachable(Error::transient(format!(
            "{error}; sslnegotiation=direct takes PostgreSQL 17 or later"
        ))),
        (_, Fault::Transient) => Failure::Unreachable(error),
        _ => Failure::Final(error),
    })?;
    if direct && !TlsSetup::spoke_postgresql(&tls) {
        return Err(Failure::Final(Error::config(format!(
            "connect to PostgreSQL at {target}: the server did not agree to sslnegotiation=direct (it takes \
             PostgreSQL 17 or later)"
        ))));
    }
    Ok(Stream::Tls(Box::new(tls)))
}

async fn ask_for_tls(stream: &mut TcpStream, target: &Target) -> Result<bool, Failure> {
    let broken = |why: String| {
        Failure::Unreachable(Error::transient(format!("ask the PostgreSQL server at {target} for TLS: {why}")))
    };
    let mut question = BytesMut::new();
    frontend::ssl_request(&mut question);
    stream.write_all(&question).await.map_err(|error| broken(error.to_string()))?;
    // One byte and no more: whatever came behind it in clear would have been put there by somebody on the way.
    match stream.read_u8().await {
        Ok(b'S') => Ok(true),
        Ok(b'N') => Ok(false),
        Ok(b'E') => Err(broken("the server reports an error before authentication, often too many connections".into())),
        Ok(_) => Err(broken("this is not a PostgreSQL server".into())),
        Err(error) => Err(broken(error.to_string())),
    }
}

/// LIMIT: with the system's two hours, a standby that lost its peer would hold locks and slots for two hours. A dead peer
/// is noticed within about a minute when idle, and half a minute when data is on its way.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);
const USER_TIMEOUT: Duration = Duration::from_secs(30);

fn configure(stream: &TcpStream, tcp: &TcpOptions) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, tcp.keepalives)?;
    if tcp.keepalives {
        let (idle, interval, count) = KEEPALIVE;
        sockopt::set_tcp_keepidle(stream, tcp.idle.unwrap_or(idle))?;
        sockopt::set_tcp_keepintvl(stream, tcp.interval.unwrap_or(interval))?;
        sockopt::set_tcp_keepcnt(stream, tcp.count.unwrap_or(count))?;
    }
    let timeout = tcp.user_timeout.unwrap_or(USER_TIMEOUT).as_millis();
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, u32::try_from(timeout).unwrap_or(u32::MAX))?;
    Ok(())
}
