//! The real program: started as an operator starts it, stopped, killed, and asked how it is.
//!
//! Everything that it writes goes to a file, which outlives the test where logs are kept (`scale::kept_logs`). There, and
//! on a site that asks for it, it says everything that it can (`-vvv`), and its pages are read all the time and kept beside
//! the log, so that a search for leaked secrets sees the most that it ever tells.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{scale, secrets};

/// A folder with a configuration and a state directory, for one pipeline or several.
pub struct Site {
    folder: tempfile::TempDir,
    log: PathBuf,
    /// Whether the program says everything, and its pages are kept.
    watched: bool,
    /// Words before the program's own.
    within: Vec<String>,
}

/// What a command said and how it ended.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A program that runs. Killed when dropped.
pub struct Running {
    child: Child,
    pages: Option<Pages>,
}

/// Reads a program's pages all the time and keeps what has changed.
struct Pages {
    address: SocketAddr,
    file: PathBuf,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// The variable that tells a watched program where to listen.
const LISTEN: &str = "DRIFTLESS_TEST_LISTEN";

impl Site {
    /// A site with this configuration. `state_dir` is added, and `listen: false` unless the text says where to listen.
    pub fn new(name: &str, yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("driftless-{name}-{}.log", std::process::id());
        let kept = scale::kept_logs();
        let watched = kept.is_some();
        let log = kept.unwrap_or_else(|| folder.path().to_owned()).join(file);
        let site = Self { folder, log, watched, within: Vec::new() };
        site.configure(yaml);
        site
    }

    /// A site whose programs say everything, and whose pages are kept, in any run.
    pub fn watched(name: &str, yaml: &str) -> Self {
        let site = Self { watched: true, ..Self::new(name, "") };
        site.configure(yaml);
        site
    }

    /// Replaces the configuration.
    pub fn configure(&self, yaml: &str) {
        let state = self.folder.path().join("state");
        let listen = match (yaml.contains("listen:"), self.watched) {
            (true, _) => String::new(),
            (false, true) => format!("listen: \"${{{LISTEN}}}\"\n"),
            (false, false) => "listen: false\n".to_owned(),
        };
        std::fs::write(self.config(), format!("{yaml}\nstate_dir: {}\n{listen}", state.display())).unwrap();
    }

    /// Programs are started by these words from now on, as `nsenter` is used.
    pub fn start_within(&mut self, words: Vec<String>) {
        self.within = words;
    }

    /// The site's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("clone.yaml")
    }

    /// Everything that programs of this site have written to stderr so far (and to stdout, where they were started).
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn command(&self, verb: &str, options: &[&str]) -> Command {
        let mut words = self.within.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_driftless")]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(verb.split(' ')).arg("-c").arg(self.config()).args(options);
        if self.watched {
            command.arg("-vvv").env(LISTEN, "127.0.0.1:0");
        }
        command.stdin(Stdio::null()).current_dir(self.folder.path());
        command
    }

    fn log_file(&self) -> File {
        secrets::appended(&self.log)
    }

    fn pages_file(&self) -> PathBuf {
        self.log.with_extension("pages")
    }

    /// What the pages of watched programs have told so far.
    pub fn pages(&self) -> String {
        std::fs::read_to_string(self.pages_file()).unwrap_or_default()
    }

    /// Where the next program listens: as the configuration says, else at an address of its own, so that programs of one
    /// site and of tests beside it do not meet.
    fn listens(&self) -> Option<SocketAddr> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let text = std::fs::read_to_string(self.config()).unwrap_or_default();
        let named = text.lines().find_map(|line| line.strip_prefix("listen:"))?.trim();
        if !named.contains(LISTEN) {
            return named.parse().ok();
        }
        let (run, n) = (std::process::id() % 250, COUNT.fetch_add(1, Ordering::Relaxed));
        let address = [127, 1 + run, 1 + n / 250 % 250, 1 + n % 250].map(|part| u8::try_from(part).unwrap());
        Some(SocketAddr::from((Ipv4Addr::from(address), 9464)))
    }

    /// Starts a verb and goes on.
    pub fn start(&self, verb: &str, options: &[&str]) -> Running {
        let mut command = self.command(verb, options);
        let listens = self.listens().filter(|_| self.watched);
        if let Some(address) = listens {
            command.env(LISTEN, address.to_string());
        }
        command.stdout(self.log_file()).stderr(self.log_file());
        let child = command.spawn().unwrap();
        Running { child, pages: listens.map(|address| Pages::read(address, self.pages_file())) }
    }

    /// Runs a verb to its end. What it says is also kept in the log.
    pub fn run(&self, verb: &str, options: &[&str]) -> Finished {
        let output = self.command(verb, options).output().unwrap();
        let mut log = self.log_file();
        log.write_all(&output.stdout).and_then(|()| log.write_all(&output.stderr)).unwrap();
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a verb to its end and fails unless it ends with 0; gives its last line of JSON.
    pub fn done(&self, verb: &str, options: &[&str]) -> Value {
        let options: Vec<&str> = options.iter().copied().chain(["--json"]).collect();
        let finished = self.run(verb, &options);
        assert_eq!(finished.code, Some(0), "{verb}: {}\n{}", finished.stdout, finished.stderr);
        finished.json()
    }

    /// The first pipeline of `status --json`.
    pub fn status(&self) -> Value {
        self.done("status", &[])["pipelines"][0].clone()
    }

    /// Waits until the status of the first pipeline is as wanted; gives it. `what` is said when that takes too long.
    pub fn until(&self, what: &str, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: not within {patience:?}; {status}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the sink is consistent and has everything that the source had when this was called.
    pub fn until_caught_up(&self, patience: Duration) -> Value {
        // The lag is against a head that may have been taken before the call; the second one after it was not.
        let fresh = self.until("a status", patience, |_| true)["heads"].as_u64().unwrap_or(0) + 2;
        self.until("caught up", patience, |status| {
            status["consistent"] == true
                && status["state"] == "following"
                && status["lag_seconds"] == 0.0
                && status["heads"].as_u64() >= Some(fresh)
        })
    }
}

impl Finished {
    /// The last line of stdout, as JSON.
    pub fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {:?}\n{}", self.stdout, self.stderr))
    }
}

impl Running {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The largest resident set that it has had so far, in bytes (`VmHWM`).
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGKILL, as a crash.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGSTOP: it stands still and does not know.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(self, patience: Duration) -> ExitStatus {
        if let Some(pages) = &self.pages {
            Pages::keep(pages.address, &pages.file, &mut Default::default());
        }
        self.signal(rustix::process::Signal::TERM);
        self.ended(patience)
    }

    /// Waits until it ends by itself.
    pub fn ended(mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "process {} has not ended within {patience:?}", self.pid());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Pages {
    const PATHS: [&str; 4] = ["/metrics", "/status.json", "/readyz", "/livez"];

    fn read(address: SocketAddr, file: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, path) = (Arc::clone(&stop), file.clone());
        let reader = std::thread::spawn(move || {
            let mut last = [const { String::new() }; 4];
            while !told.load(Ordering::Relaxed) {
                Self::keep(address, &path, &mut last);
                std::thread::park_timeout(Duration::from_millis(200));
            }
        });
        Self { address, file, stop, reader: Some(reader) }
    }

    /// Appends those pages that are not as they were last time.
    fn keep(address: SocketAddr, file: &Path, last: &mut [String; 4]) {
        for (path, last) in Self::PATHS.into_iter().zip(last) {
            let Some(page) = get(address, path).filter(|page| page != last) else { continue };
            secrets::appended(file).write_all(format!("GET {path}\n{page}\n").as_bytes()).unwrap();
            *last = page;
        }
    }
}

/// A page, if it is served.
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            reader.thread().unpark();
            drop(reader.join());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Harmless when it has ended: its id is ours until it was waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_configuration_that_nobody_can_run_ends_with_its_exit_code_and_one_sentence() {
    let site = Site::new("refused", "src: {type: sqlite}\ndst: {type: sqlite, path: /b}");
    let finished = site.run("check", &[]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("path") && finished.stderr.lines().count() == 1, "{}", finished.stderr);
    let status = site.start("run", &[]).ended(Duration::from_secs(10));
    assert_eq!(status.code(), Some(2));
    assert!(site.log().matches("path").count() == 2, "both have gone to the log: {}", site.log());
}
