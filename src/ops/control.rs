//! The control socket of a running process: `state_dir/<name>/control.sock`, for its owner only.
//!
//! One JSON object per line in both directions: `{"op":"status"}`, `{"op":"repair"}`; the answer is `{"ok":…}` or
//! `{"error":"…"}`. It is how `status` asks a running `run`, and how `verify --repair` has the process that owns the lanes
//! do the writing. Whoever holds the owner's lock serves it, so a socket that is already there is left over.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::error::{Error, Fault, Result};
use crate::ops::local::Local;
use crate::source::Fut;

/// Name of the socket.
const SOCKET: &str = "control.sock";
/// LIMIT: a request is one of a few words; an answer is a status of at most a few hundred partitions.
const MAX_REQUEST: u64 = 4 << 10;
const MAX_ANSWER: u64 = 1 << 20;
/// LIMIT: connections at a time; more wait for one of them to end.
const MAX_CLIENTS: usize = 8;
/// LIMIT: how long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// LIMIT: what a socket's path may have in Linux, less one for the terminating zero.
const MAX_PATH: usize = 107;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// The pipeline's [`View`](crate::ops::view::View).
    Status,
    /// Compare both sides and write what differs; answered when it is done.
    Repair,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ok(Value),
    Error(String),
}

/// Who answers.
pub trait Handler: Send + Sync {
    /// Does what was asked for.
    fn handle(&self, request: Request) -> Fut<'_, Value>;
}

/// A socket that is being listened on. Removed when dropped.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A socket that stays behind is removed by the next owner.
        drop(std::fs::remove_file(&self.path));
    }
}

impl Server {
    /// Listens. The caller holds the owner's lock of this directory.
    ///
    /// # Errors
    /// Config when the socket cannot be made.
    pub fn bind(local: &Local) -> Result<Self> {
        let path = local.file(SOCKET);
        let failed = |error: std::io::Error| {
            Error::config(format!("listen on {}: {}; choose another `state_dir`", path.display(), error.kind()))
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let reached = Reached::new(local).map_err(failed)?;
        let listener = UnixListener::bind(&reached.path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path })
    }

    /// Answers until told to stop.
    pub async fn serve(self, handler: Arc<dyn Handler>, mut stop: watch::Receiver<bool>) {
        let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
            let stream = tokio::select! {
                biased;
                () = told(&mut stop) => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, most likely: others need the time to give some back.
                        tracing::warn!(%error, "the control socket did not take a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let handler = Arc::clone(&handler);
            tokio::spawn(async move {
                if let Err(error) = answer(stream, &*handler).await {
                    tracing::debug!(%error, "a client of the control socket went away");
                }
                drop(permit);
            });
        }
    }
}

/// Ends when the server is told to stop, or nobody is left who could tell it.
async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

async fn answer(mut stream: UnixStream, handler: &dyn Handler) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let Ok(line) = tokio::time::timeout(PATIENCE, read_line(&mut reader, MAX_REQUEST)).await else { return Ok(()) };
        let Some(line) = line? else { return Ok(()) };
        let answer = match serde_json::from_str(&line) {
            Err(_) => Answer::Error("not a request that this version knows".into()),
            Ok(request) => match handler.handle(request).await {
                Ok(value) => Answer::Ok(value),
                Err(error) => Answer::Error(error.to_string()),
            },
        };
        let mut line = serde_json::to_string(&answer)?;
        line.push('\n');
        writer.write_all(line.as_bytes()).await?;
    }
}

/// A line without its end; `None` at the end of the stream.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), most: u64) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    let read = reader.take(most).read_line(&mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some('\n') => Ok(Some(line)),
        Some(_) if read as u64 == most => Err(std::io::Error::other("a line is too long")),
        Some(_) => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Asks the process that runs this stream; `None` if there is none.
///
/// # Errors
/// Transient when the process went away before it answered; its own sentence when it could not do it.
pub async fn ask(local: &Local, request: Request, patience: Duration) -> Result<Option<Value>> {
    let Ok(reached) = Reached::new(local) else { return Ok(None) };
    let Ok(mut stream) = UnixStream::connect(&reached.path).await else { return Ok(None) };
    let attempt = format!("ask the process that runs {}", local.dir().display());
    let broken = |error: std::io::Error| Error::transient(format!("{attempt}: {}", error.kind()));
    let mut line = serde_json::to_string(&request).map_err(|_| Error::bug("write a control request"))?;
    line.push('\n');
    let (reader, mut writer) = stream.split();
    let exchange = async {
        writer.write_all(line.as_bytes()).await.map_err(broken)?;
        read_line(&mut BufReader::new(reader), MAX_ANSWER).await.map_err(broken)
    };
    let line = tokio::time::timeout(patience, exchange)
        .await
        .map_err(|_| Error::transient(format!("{attempt}: no answer within {} s", patience.as_secs())))??;
    let line = line.ok_or_else(|| Error::transient(format!("{attempt}: it ended without an answer")))?;
    match serde_json::from_str(&line) {
        Ok(Answer::Ok(value)) => Ok(Some(value)),
        Ok(Answer::Error(error)) => Err(Error::new(Fault::Rejected, error)),
        Err(_) => Err(Error::corrupt(format!("{attempt}: the answer is not one that this version knows"))),
    }
}

/// A path to the socket that is short enough for the kernel, whatever the directory's own length: through an open
/// directory. Valid while this lives.
struct Reached {
    path: PathBuf,
    _dir: Option<std::fs::File>,
}

impl Reached {
    fn new(local: &Local) -> std::io::Result<Self> {
        let path = local.file(SOCKET);
        if path.as_os_str().len() <= MAX_PATH {
            return Ok(Self { path, _dir: None });
        }
        let dir = std::fs::File::open(local.dir())?;
        let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(SOCKET);
        Ok(Self { path, _dir: Some(dir) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Handler for Echo {
        fn handle(&self, request: Request) -> Fut<'_, Value> {
            Box::pin(async move {
                match request {
                    Request::Status => Ok(serde_json::json!({ "state": "following" })),
                    Request::Repair => Err(Error::transient("repair: the source is away")),
                }
            })
        }
    }

    async fn exchange(dir: &Path) {
        let local = Local::new(dir, "stream");
        assert_eq!(ask(&local, Request::Status, PATIENCE).await.unwrap(), None, "nobody runs");
        local.make().unwrap();
        std::fs::write(local.file(SOCKET), "left over").unwrap();
        let server = Server::bind(&local).unwrap();
        assert_eq!(local.file(SOCKET).metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(server.serve(Arc::new(Echo), stopped));
        let answer = ask(&local, Request::Status, PATIENCE).await.unwrap().unwrap();
        assert_eq!(answer["state"], "following");
        let error = ask(&local, Request::Repair, PATIENCE).await.unwrap_err();
        assert_eq!(error.to_string(), "repair: the source is away");
        let reached = Reached::new(&local).unwrap();
        let mut stream = UnixStream::connect(&reached.path).await.unwrap();
        stream.write_all(b"{\"op\":\"sing\"}\n").await.unwrap();
        let mut said = String::new();
        BufReader::new(&mut stream).read_line(&mut said).await.unwrap();
        assert_eq!(said, "{\"error\":\"not a request that this version knows\"}\n");
        stop.send(true).unwrap();
        serving.await.unwrap();
        assert!(!local.file(SOCKET).try_exists().unwrap(), "the socket goes with its server");
        assert_eq!(ask(&local, Request::Status, PATIENCE).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_running_process_answers_and_a_socket_that_was_left_over_is_no_process() {
        let dir = tempfile::tempdir().unwrap();
        exchange(dir.path()).await;
    }

    #[tokio::test]
    async fn a_directory_with_a_long_name_does_as_well() {
        let dir = tempfile::tempdir().unwrap();
        exchange(&dir.path().join("d".repeat(120)).join("e".repeat(120))).await;
    }
}
