//! One HTTP request, its answer in memory: what it takes to ask a metadata server for a token.
//!
//! HTTP/1.1, one request per connection, no redirects, no proxies. `https` is verified with the operating system's
//! roots; `http` is meant for link-local metadata servers, which have nothing else.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::error::{Error, Result};

/// LIMIT: a token is a few KiB; a longer answer is something else.
const ANSWER_MAX: usize = 256 << 10;

/// A request; neither shown nor logged.
pub struct Request {
    secure: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
}

impl Request {
    /// GET of a URL (`http://host:port/path`) with more path or query behind it.
    pub fn get(url: &str, more: &str) -> Result<Self> {
        let broken =
            || Error::config("fetch an access token: the URL of a metadata server is not http://… or https://…");
        let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(broken()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| broken())?),
            None => (authority, if secure { 443 } else { 80 }),
        };
        let path = format!("{path}{more}");
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        if host.is_empty() {
            Err(broken())
        } else {
            Ok(Self { secure, host: host.into(), port, path, headers: Vec::new(), body: None })
        }
    }

    /// POST of a form; secrets in it make `https` a must.
    pub fn post(url: &str, more: &str, form: String) -> Result<Self> {
        let request = Self::get(url, more)?;
        if !request.secure {
            return Err(Error::config("fetch an access token: a secret is sent only to a https:// URL"));
        }
        let form_type = "application/x-www-form-urlencoded";
        Ok(Self { body: Some(form), ..request }.with_header("Content-Type", form_type))
    }

    /// With one more header.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    #[cfg(test)]
    pub fn url(&self) -> String {
        let (scheme, usual) = if self.secure { ("https", 443) } else { ("http", 80) };
        let port = if self.port == usual { String::new() } else { format!(":{}", self.port) };
        format!("{scheme}://{}{port}{}", self.host, self.path)
    }

    #[cfg(test)]
    pub fn body(&self) -> &str {
        self.body.as_deref().unwrap_or_default()
    }
}

/// Sends a request; gives status and body.
pub async fn send(request: &Request, attempt: &str) -> Result<(u16, Bytes)> {
    let unreachable = |error: std::io::Error| {
        Error::transient(format!("{attempt}: {}:{} cannot be reached: {error}", request.host, request.port))
    };
    let stream = TcpStream::connect((request.host.as_str(), request.port)).await.map_err(unreachable)?;
    if !request.secure {
        return over(stream, request, attempt).await;
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|error| Error::config(format!("{attempt}: the system's root certificates")).because(error))?
        .with_no_client_auth();
    let name = ServerName::try_from(request.host.clone())
        .map_err(|_| Error::config(format!("{attempt}: {} is not a host name", request.host)))?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(unreachable)?;
    over(stream, request, attempt).await
}

async fn over<S>(stream: S, request: &Request, attempt: &str) -> Result<(u16, Bytes)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |_: hyper::Error| Error::transient(format!("{attempt}: the HTTP exchange broke off"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let method = if request.body.is_some() { "POST" } else { "GET" };
    let mut wire = hyper::Request::builder().method(method).uri(&request.path).header("Host", &request.host);
    for (name, value) in &request.headers {
        wire = wire.header(name, value);
    }
    let body = Full::new(Bytes::from(request.body.clone().unwrap_or_default()));
    let wire = wire.body(body).map_err(|_| Error::config(format!("{attempt}: a header or path is not HTTP")))?;
    let exchange = async {
        let answer = sender.send_request(wire).await.map_err(broken)?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|_| Error::transient(format!("{attempt}: the answer is cut or too long")))?;
        Ok((status, body.to_bytes()))
    };
    // Both halves run in this task: the connection moves the bytes while the exchange waits for them.
    match select(pin!(exchange), pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, exchange)) => exchange.await,
    }
}
