//! The HTTP edge: a socket and a clock around a [`World`].
//!
//! Each request is answered under one lock, in the order of arrival. A connection that the world cuts is closed without an answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value as Json, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::options::Options;
use super::world::{Answer, Request, World};
use crate::error::{Error, Result};

/// LIMIT: a request's body: 16 MB of items as base64 in JSON, and some room.
const LARGEST_BODY: usize = 32 << 20;
/// LIMIT: connections at a time; the clients of a test have some hundreds.
const MAX_CONNECTIONS: usize = 4096;

/// How virtual time goes: so many seconds of it in a real one. 0 stands still but for `advance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Milliseconds since 1970 to begin with; the present if there is none.
    pub start: Option<u64>,
    /// The factor.
    pub speed: u32,
}

/// Virtual time.
#[derive(Debug)]
struct Clock {
    base: u64,
    since: Instant,
    speed: u32,
    ahead: u64,
}

impl Clock {
    fn new(pace: Pace) -> Self {
        let present = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, milliseconds);
        Self { base: pace.start.unwrap_or_else(present), since: Instant::now(), speed: pace.speed, ahead: 0 }
    }

    fn now(&self) -> u64 {
        self.base + self.ahead + milliseconds(self.since.elapsed() * self.speed)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Shared {
    world: Mutex<(World, Clock)>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (World, Clock)> {
        // A request that panicked leaves a world that others can still look at.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listening simulator.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// Config when the address cannot be had.
    pub async fn bind(address: SocketAddr, options: Options, pace: Pace) -> Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Error::config(format!("listen on {address}: {}; choose another with --listen", error.kind()))
        })?;
        let world = Mutex::new((World::new(options), Clock::new(pace)));
        Ok(Self { listener, shared: Arc::new(Shared { world }) })
    }

    /// Where it listens; differs from what was asked for when that was port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until told to stop. Connections that are open then are cut.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) {
        let mut connections = tokio::task::JoinSet::new();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        tokio::pin!(stopped);
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            let stream = tokio::select! {
                biased;
                () = &mut stopped => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, most likely: others need the time to give some back.
                        tracing::warn!(%error, "the simulator did not take a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let shared = Arc::clone(&self.shared);
            connections.spawn(async move {
                converse(stream, shared).await;
                drop(place);
            });
        }
    }
}

/// The world closes a connection.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut, as asked for")
    }
}

impl std::error::Error for Cut {}

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client of the simulator is answered with delay");
    }
    let service = service_fn(|request: HttpRequest<Incoming>| answer(&shared, request));
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a client of the simulator went away");
    }
}

async fn answer(shared: &Shared, request: HttpRequest<Incoming>) -> std::result::Result<Response<Full<Bytes>>, Cut> {
    let path = request.uri().path().to_owned();
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let target = header("x-amz-target").unwrap_or_default();
    let signed = request.headers().contains_key(AUTHORIZATION);
    let Ok(body) = Limited::new(request.into_body(), LARGEST_BODY).collect().await.map(|body| body.to_bytes()) else {
        return Ok(plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            &json!({ "error": "read the request: it is too large, or was cut" }),
        ));
    };
    if let Some(name) = path.strip_prefix("/_simulator/") {
        let done = control(&mut shared.lock(), name, &body);
        return Ok(match done {
            Ok(json) => plain(StatusCode::OK, &json),
            Err(why) => plain(StatusCode::BAD_REQUEST, &json!({ "error": why })),
        });
    }
    let said = {
        let (world, clock) = &mut *shared.lock();
        world.handle(clock.now(), &Request { target: &target, signed, body: &body })
    };
    match said {
        Answer::Cut => Err(Cut),
        Answer::Said { status, body, id } => Ok(spoken(status, body, &id)),
    }
}

fn control(state: &mut (World, Clock), name: &str, body: &[u8]) -> std::result::Result<Json, String> {
    let (world, clock) = state;
    if name == "advance" {
        let asked: Json = serde_json::from_slice(body).map_err(|error| format!("read the request: {error}"))?;
        let part = |name: &str| match &asked[name] {
            Json::Null => Ok(0),
            number => number.as_u64().ok_or_else(|| format!("{name} is a number of 0 or more")),
        };
        clock.ahead =
            clock.ahead.saturating_add(part("seconds")?.saturating_mul(1000)).saturating_add(part("milliseconds")?);
        return world.control(clock.now(), name, b"");
    }
    world.control(clock.now(), name, body)
}

fn plain(status: StatusCode, json: &Json) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{json}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn spoken(status: u16, body: Vec<u8>, id: &str) -> Response<Full<Bytes>> {
    let sum = crc32(&body);
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
    headers.insert(HeaderName::from_static("x-amz-crc32"), HeaderValue::from(sum));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(HeaderName::from_static("x-amzn-requestid"), id);
    }
    response
}

/// The checksum of the header `x-amz-crc32`: CRC-32 as in zip files.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut n = 0;
        while n < 256 {
            let mut sum = n as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 };
                bit += 1;
            }
            table[n] = sum;
            n += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |sum, byte| TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_zip_files() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
