//! One type for the three ways in which bytes reach a server.
//!
//! Adds nothing to the streams beneath but the channel binding that SCRAM-SHA-256-PLUS needs.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// A connected stream, encrypted if that was asked for.
pub enum Stream {
    /// TCP, in clear.
    Tcp(TcpStream),
    /// A Unix-domain socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<Tls>),
}

/// An encrypted stream.
pub struct Tls {
    /// The stream.
    pub stream: TlsStream<TcpStream>,
    /// `tls-server-end-point` of RFC 5929; none where the certificate's signature names no hash.
    pub end_point: Option<Vec<u8>>,
}

impl Stream {
    /// Whether nobody on the way can read along.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// What SCRAM can be bound to.
    pub fn end_point(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(tls) => tls.end_point.as_deref(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls(tls) => {
                let $stream = &mut tls.stream;
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
