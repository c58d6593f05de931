//! What a running process tells over HTTP: `/metrics`, `/livez`, `/readyz`, `/status.json`.
//!
//! `/livez` says that the process answers. `/readyz` says that the replica can be relied on: every pipeline is consistent,
//! has no gap and is within its `lag_budget`; otherwise it is 503 with one line per pipeline that is not. Nothing here
//! changes anything, and nothing that is served is a secret; it still listens on the loopback unless told otherwise.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::engine::status::Shared;
use crate::error::{Error, Result};
use crate::ops::view::{View, Views, unready};
use crate::telemetry;

/// LIMIT: connections at a time; a few scrapers and probes, and somebody who leaves connections open cannot take more.
const MAX_CONNECTIONS: usize = 64;
/// LIMIT: how long a client may take to say what it wants, and stay silent between two requests.
const PATIENCE: Duration = Duration::from_secs(10);
/// LIMIT: a request's head; what browsers and scrapers send is below 4 KiB.
const MAX_HEAD: usize = 16 << 10;

/// What is served.
pub struct Board {
    /// Each pipeline with its `lag_budget`.
    pub pipelines: Vec<(Shared, Duration)>,
    /// What was counted.
    pub metrics: PrometheusHandle,
}

impl Board {
    /// The content of `/status.json`.
    pub fn views(&self) -> Views {
        Views { pipelines: self.pipelines.iter().map(|(shared, _)| View::from(&shared.get())).collect() }
    }

    /// Why the process is not ready, one line for each pipeline that is not.
    pub fn unready(&self) -> Vec<String> {
        let reason = |(shared, budget): &(Shared, Duration)| {
            let status = shared.get();
            unready(&status, *budget).map(|why| format!("{}: {}", status.name, why))
        };
        self.pipelines.iter().filter_map(reason).collect()
    }

    fn metrics(&self) -> String {
        for (shared, budget) in &self.pipelines {
            let status = shared.get();
            telemetry::pipeline(
                &status.name,
                status.state.word(),
                status.lag_changes,
                unready(&status, *budget).is_none(),
            );
        }
        self.metrics.render()
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// Config when the address cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "the port is in use, perhaps by another driftless; set `listen` to a free one".to_owned()
                }
                std::io::ErrorKind::AddrNotAvailable => {
                    "this machine does not have that address; change `listen`".to_owned()
                }
                kind => format!("{kind}; change `listen`"),
            };
            Error::config(format!("listen on {address}: {why}"))
        })?;
        Ok(Self { listener })
    }

    /// Where it listens; differs from what was asked for when that was port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until told to stop. Connections that are open then are cut.
    pub async fn serve(self, board: Arc<Board>, mut stop: watch::Receiver<bool>) {
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
                        tracing::warn!(%error, "the status server did not take a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let board = Arc::clone(&board);
            connections.spawn(async move {
                converse(stream, board).await;
                drop(place);
            });
        }
    }
}

async fn converse(stream: TcpStream, board: Arc<Board>) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(&board, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a client of the status server went away");
    }
}

fn answer(board: &Board, method: &Method, path: &str) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = content(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => content(StatusCode::OK, TEXT, "ok\n".into()),
        "/readyz" => match board.unready() {
            lines if lines.is_empty() => content(StatusCode::OK, TEXT, "ok\n".into()),
            lines => content(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines.join("\n") + "\n"),
        },
        "/metrics" => content(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", board.metrics()),
        "/status.json" => {
            let json = serde_json::to_string(&board.views()).expect("a view is plain data with text keys");
            content(StatusCode::OK, "application/json", json + "\n")
        }
        "/" => content(StatusCode::OK, TEXT, "/metrics /livez /readyz /status.json\n".into()),
        _ => content(StatusCode::NOT_FOUND, TEXT, "there is /metrics, /livez, /readyz and /status.json\n".into()),
    }
}

fn content(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::status::State;
    use std::io::{Read as _, Write as _};

    fn board(state: State, consistent: bool) -> Arc<Board> {
        let shared = Shared::new("cluster-state");
        shared.update(|status| {
            status.state = state;
            status.consistent = consistent;
            status.lag = Some(Duration::ZERO);
            status.epoch = 3;
        });
        let metrics = telemetry::start_metrics().unwrap();
        Arc::new(Board { pipelines: vec![(shared, Duration::from_secs(5))], metrics })
    }

    fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    async fn ask(board: Arc<Board>, requests: &'static [&'static str]) -> Vec<String> {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address().unwrap();
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(server.serve(board, stopped));
        let asking = tokio::task::spawn_blocking(move || requests.iter().map(|r| get(address, r)).collect());
        let answers = asking.await.unwrap();
        stop.send(true).unwrap();
        serving.await.unwrap();
        answers
    }

    #[tokio::test]
    async fn a_consistent_pipeline_is_ready_and_explains_itself() {
        let requests = &["GET /livez", "GET /readyz", "GET /status.json", "GET /metrics", "GET /x", "POST /metrics"];
        let answers = ask(board(State::Following, true), requests).await;
        for (answer, line) in answers.iter().zip(["200 OK", "200 OK", "200 OK", "200 OK", "404 Not", "405 Method"]) {
            assert!(answer.starts_with(&format!("HTTP/1.1 {line}")), "{answer}");
        }
        let json = answers[2].split("\r\n\r\n").nth(1).unwrap();
        let views: Views = serde_json::from_str(json).unwrap();
        assert_eq!((views.pipelines[0].state.as_str(), views.pipelines[0].epoch), ("following", 3));
        let metrics = &answers[3];
        assert!(metrics.contains("driftless_state{stream=\"cluster-state\",state=\"following\"} 1"), "{metrics}");
        assert!(metrics.contains("driftless_state{stream=\"cluster-state\",state=\"gap\"} 0"), "{metrics}");
    }

    #[tokio::test]
    async fn a_gap_is_503_with_one_line_that_says_so() {
        let answers = ask(board(State::Gap, false), &["GET /readyz", "GET /livez"]).await;
        assert!(answers[0].starts_with("HTTP/1.1 503"), "{}", answers[0]);
        assert!(answers[0].ends_with("\r\n\r\ncluster-state: a gap is being healed\n"), "{}", answers[0]);
        assert!(answers[1].starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_port_in_use_is_a_mistake_in_the_configuration() {
        let first = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = Server::bind(first.address().unwrap()).await.unwrap_err();
        assert_eq!(error.fault(), crate::error::Fault::Config);
        assert!(error.to_string().contains("the port is in use"), "{error}");
    }
}
