//! Real etcd servers: single nodes and clusters of three, in the two versions that are tested, gone with the test run.
//!
//! What is looked at from outside goes through Debian's `etcdctl`, which knows nothing of driftless.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Password of the users that tests make, planted so that leaks of it can be searched for.
pub const PASSWORD: &str = "planted-etcd-password";

/// A put (with the lease that it has, if any) or a delete.
pub type Leased<'a> = (Vec<u8>, Option<Vec<u8>>, Option<&'a str>);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// What `tests/fixtures/etcd/go.mod` names.
    New,
    /// Debian's own: the oldest that is supported.
    Old,
}

impl Release {
    /// The server's program.
    pub fn program(self) -> PathBuf {
        let program = match self {
            Self::Old => PathBuf::from("/usr/bin/etcd"),
            Self::New => match std::env::var_os("DRIFTLESS_TEST_ETCD") {
                Some(program) => program.into(),
                None => {
                    let go_mod = include_str!("../../fixtures/etcd/go.mod");
                    let version = go_mod.lines().find_map(|l| l.strip_prefix("require go.etcd.io/etcd/server/v3 v"));
                    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
                    target.join("fixtures").join(format!("etcd-{}", version.unwrap()))
                }
            },
        };
        assert!(program.is_file(), "{} is not there: run `make servers`", program.display());
        program
    }
}

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Setup<'a> {
    /// Further options of etcd's own.
    pub options: &'a [&'a str],
    /// Certificates for its clients; with `mutual` it asks for theirs.
    pub certificates: Option<&'a Certificates>,
    /// Whether clients must show a certificate.
    pub mutual: bool,
    /// Whether it waits for its disk, as it does unless told otherwise.
    pub durable: bool,
}

/// One member.
pub struct Etcd {
    /// Where clients connect.
    pub port: u16,
    peer: u16,
    pub data: PathBuf,
    pub log: PathBuf,
    release: Release,
    arguments: Vec<String>,
    certificates: Option<Certificates>,
    /// The running process; 0 while there is none.
    process: Arc<AtomicI32>,
}

/// A server that tests replicate from, of the newer version.
pub fn source() -> &'static Etcd {
    static SERVER: OnceLock<Etcd> = OnceLock::new();
    SERVER.get_or_init(|| Etcd::start("source", Release::New, &Setup::default()))
}

/// A server that tests replicate to, of the newer version.
pub fn sink() -> &'static Etcd {
    static SERVER: OnceLock<Etcd> = OnceLock::new();
    SERVER.get_or_init(|| Etcd::start("sink", Release::New, &Setup::default()))
}

/// A server of the old version.
pub fn old() -> &'static Etcd {
    static SERVER: OnceLock<Etcd> = OnceLock::new();
    SERVER.get_or_init(|| Etcd::start("old", Release::Old, &Setup::default()))
}

/// A server of the newer version that takes transactions of a thousand operations.
pub fn wide() -> &'static Etcd {
    static SERVER: OnceLock<Etcd> = OnceLock::new();
    SERVER.get_or_init(|| {
        Etcd::start("wide", Release::New, &Setup { options: &["--max-txn-ops=1000"], ..Setup::default() })
    })
}

/// A prefix that no other test has: Teleport's, with its two slashes to come.
pub fn prefix(hint: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("/{hint}{}/", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    /// Starts a server of its own and waits until it answers.
    pub fn start(name: &str, release: Release, setup: &Setup<'_>) -> Self {
        let (port, peer) = (free_port(), free_port());
        let member = Self::member(name, release, setup, (port, peer), &format!("m=http://127.0.0.1:{peer}"), "m");
        member.spawn();
        member.wait_ready();
        member
    }

    /// Starts three members of one cluster and waits until each of them answers.
    pub fn cluster(name: &str, release: Release, setup: &Setup<'_>) -> Vec<Self> {
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let peers: Vec<String> =
            (0..).zip(&ports).map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}")).collect();
        let members: Vec<Self> = (0..)
            .zip(ports)
            .map(|(n, ports)| {
                Self::member(&format!("{name}-{n}"), release, setup, ports, &peers.join(","), &format!("m{n}"))
            })
            .collect();
        members.iter().for_each(Self::spawn);
        members.iter().for_each(Self::wait_ready);
        members
    }

    fn member(
        name: &str,
        release: Release,
        setup: &Setup<'_>,
        (port, peer): (u16, u16),
        cluster: &str,
        member: &str,
    ) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("etcd-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&root));
        remove_forgotten(root.parent().unwrap());
        std::fs::create_dir_all(&root).unwrap();
        // Not kept beside others' logs: etcd names the keys of requests that took long, whoever sent them.
        let log = root.join("log");
        let scheme = if setup.certificates.is_some() { "https" } else { "http" };
        let (clients, peers) = (format!("{scheme}://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let data = root.join("data");
        let mut arguments: Vec<String> = ["--name", member, "--data-dir", data.to_str().unwrap()]
            .into_iter()
            .chain(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .chain(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .chain(["--initial-cluster", cluster, "--logger", "zap", "--log-level", "warn"])
            .chain((!setup.durable).then_some("--unsafe-no-fsync"))
            .map(str::to_owned)
            .collect();
        if let Some(certificates) = setup.certificates {
            let file = |name: &str| certificates.folder.join(name).display().to_string();
            arguments.extend(["--cert-file".into(), file("server.crt"), "--key-file".into(), file("server.key")]);
            if setup.mutual {
                arguments.extend(["--trusted-ca-file".into(), file("ca.crt"), "--client-cert-auth".into()]);
            }
        }
        arguments.extend(setup.options.iter().map(|&option| option.to_owned()));
        let certificates = setup.certificates.cloned();
        Self { port, peer, data, log, release, arguments, certificates, process: Arc::default() }
    }

    /// Starts the process on its data again; [`Etcd::wait_ready`] waits for it.
    pub fn spawn(&self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        // setpriv makes the kernel stop the server when the test process is gone, whatever ended it.
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg(self.release.program()).args(&self.arguments);
        // etcd takes options from its environment too.
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let (process, begun) = (Arc::clone(&self.process), Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&begun);
        // The kernel's promise is bound to the thread that started the child, and a test's thread ends with its test.
        std::thread::spawn(move || {
            let mut child = command.spawn().expect("setpriv (util-linux) starts etcd");
            let id = i32::try_from(child.id()).unwrap();
            process.store(id, Ordering::SeqCst);
            told.store(true, Ordering::SeqCst);
            drop(child.wait());
            process.store(0, Ordering::SeqCst);
        });
        until("etcd's process starts", || begun.load(Ordering::SeqCst));
    }

    /// Another option in the place of one, from the next start on.
    pub fn replace(&mut self, option: &str, by: &str) {
        self.arguments.iter_mut().filter(|one| *one == option).for_each(|one| by.clone_into(one));
    }

    /// Waits until the member answers a read that needs its cluster.
    pub fn wait_ready(&self) {
        until(&format!("etcd answers, see {}", self.log.display()), || self.is_ready());
    }

    fn is_ready(&self) -> bool {
        // A server that asks for a user is ready too.
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            && match self.try_ctl(&["get", "/", "--keys-only", "--limit=1", "--command-timeout=2s"]) {
                Ok(_) => true,
                Err(error) => error.contains("user name is empty") || error.contains("permission denied"),
            }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.process.load(Ordering::SeqCst)).expect("the server runs");
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Kills the process, as a power cut would, and waits until it is gone.
    pub fn kill(&self) {
        self.signal(rustix::process::Signal::KILL);
        self.wait_gone();
    }

    /// Stops it in order.
    pub fn stop(&self) {
        self.signal(rustix::process::Signal::TERM);
        self.wait_gone();
    }

    fn wait_gone(&self) {
        until("etcd stops", || self.process.load(Ordering::SeqCst) == 0);
    }

    /// Stops it in order and starts it again.
    pub fn restart(&self) {
        self.stop();
        self.spawn();
        self.wait_ready();
    }

    /// Makes it silent: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets a silent one go on.
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// What `peers` names.
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// An `etcdctl` that talks to this member.
    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env_clear().env("PATH", "/usr/bin:/bin").env("ETCDCTL_API", "3");
        command.arg("--endpoints").arg(self.url());
        if let Some(certificates) = &self.certificates {
            let file = |name: &str| certificates.folder.join(name);
            command.arg("--cacert").arg(file("ca.crt"));
            if self.arguments.iter().any(|argument| argument == "--client-cert-auth") {
                command.arg("--cert").arg(file("root.crt")).arg("--key").arg(file("root.key"));
            }
        }
        command.args(arguments);
        command
    }

    /// Runs `etcdctl` and gives what it prints.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    /// As [`Etcd::ctl`], with the error as a value.
    pub fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        run(self.ctl_command(arguments), b"")
    }

    /// Commits puts and deletes as one transaction, through `etcdctl txn`. Keys and values are whatever bytes they are.
    pub fn write(&self, writes: &[(Vec<u8>, Option<Vec<u8>>)]) {
        let unleased = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| (key.clone(), value.clone(), None);
        self.write_leased(&writes.iter().map(unleased).collect::<Vec<_>>());
    }

    /// As [`Etcd::write`], puts under leases.
    pub fn write_leased(&self, writes: &[Leased<'_>]) {
        let mut text = String::from("\n");
        for (key, value, lease) in writes {
            let lease = lease.map(|lease| format!("--lease={lease} ")).unwrap_or_default();
            match value {
                Some(value) => text += &format!("put {lease}{} {}\n", quoted(key), quoted(value)),
                None => text += &format!("del {}\n", quoted(key)),
            }
        }
        text += "\n\n";
        run(self.ctl_command(&["txn"]), text.as_bytes()).unwrap_or_else(|error| panic!("etcdctl txn: {error}"));
    }

    /// Puts a key.
    pub fn put(&self, key: &str, value: &str) {
        self.write(&[(key.into(), Some(value.into()))]);
    }

    /// Puts a key under a lease.
    pub fn put_leased(&self, key: &str, value: &str, lease: &str) {
        self.ctl(&["put", key, value, "--lease", lease]);
    }

    /// Grants a lease of so many seconds; gives its name.
    pub fn grant(&self, seconds: u32) -> String {
        let said = self.ctl(&["lease", "grant", &seconds.to_string()]);
        said.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// The seconds that a lease has left; `None` if there is no such lease.
    pub fn left(&self, lease: i64) -> Option<i64> {
        let said = self.ctl(&["lease", "timetolive", &format!("{lease:x}"), "-w", "json"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        said["ttl"].as_i64().filter(|ttl| *ttl >= 0)
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        let said = self.ctl(&["get", "/no-such-key", "-w", "json"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        said["header"]["revision"].as_i64().unwrap()
    }

    /// Forgets every revision before the newest.
    pub fn compact(&self) {
        // Another test may have compacted further meanwhile, which is as good.
        drop(self.try_ctl(&["compaction", &self.revision().to_string(), "--physical"]));
    }

    /// All keys under a prefix, as they are stored.
    pub fn dump(&self, prefix: &str) -> Vec<Stored> {
        let said = self.ctl(&["get", "--prefix", prefix, "-w", "json"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        let bytes = |value: &Value| STANDARD.decode(value.as_str().unwrap_or_default()).unwrap();
        let stored = |kv: &Value| Stored {
            key: bytes(&kv["key"]),
            value: bytes(&kv["value"]),
            lease: kv["lease"].as_i64().unwrap_or(0),
            mod_revision: kv["mod_revision"].as_i64().unwrap(),
        };
        said["kvs"].as_array().map(|kvs| kvs.iter().map(stored).collect()).unwrap_or_default()
    }

    /// Makes a user who may read (and, with `write`, write) keys under a prefix, beside a root, and asks for names from
    /// now on. Both have [`PASSWORD`].
    pub fn ask_for_users(&self, name: &str, prefix: &str, write: bool) {
        let user = |name: &str| format!("{name}:{PASSWORD}");
        self.ctl(&["user", "add", &user("root")]);
        self.ctl(&["role", "add", "root"]);
        self.ctl(&["user", "grant-role", "root", "root"]);
        self.ctl(&["user", "add", &user(name)]);
        self.ctl(&["role", "add", name]);
        let kind = if write { "readwrite" } else { "read" };
        self.ctl(&["role", "grant-permission", name, "--prefix=true", kind, prefix]);
        self.ctl(&["user", "grant-role", name, name]);
        self.ctl(&["auth", "enable"]);
    }

    /// The port on which other members talk to it.
    pub fn peer_port(&self) -> u16 {
        self.peer
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(id) = rustix::process::Pid::from_raw(self.process.load(Ordering::SeqCst)) {
            rustix::process::kill_process(id, rustix::process::Signal::KILL).ok();
        }
        if let Some(root) = self.data.parent().filter(|_| !std::thread::panicking()) {
            drop(std::fs::remove_dir_all(root));
        }
    }
}

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// 0: none.
    pub lease: i64,
    pub mod_revision: i64,
}

/// What a value is stored as in Teleport's layout.
pub fn base64(value: &[u8]) -> String {
    STANDARD.encode(value)
}

/// As `etcdctl txn` reads words: between double quotes, with Go's escapes.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b' '..=b'~' if !matches!(byte, b'"' | b'\\') => text.push(char::from(byte)),
            _ => text += &format!("\\x{byte:02x}"),
        }
    }
    text + "\""
}

fn run(mut command: Command, input: &[u8]) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcdctl is installed: run `make servers`");
    let mut to = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that stops early closes its end: the message that counts is the one it wrote.
    let feeder = std::thread::spawn(move || drop(to.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Which of them leads.
pub fn leader(members: &[Etcd]) -> usize {
    let mut found = None;
    until("somebody leads", || {
        found = members.iter().position(|member| {
            let said = member.try_ctl(&["endpoint", "status", "-w", "json", "--command-timeout=2s"]);
            let said: Option<Value> = said.ok().and_then(|said| serde_json::from_str(&said).ok());
            said.is_some_and(|said| {
                let status = &said[0]["Status"];
                status["leader"].as_u64() == status["header"]["member_id"].as_u64()
            })
        });
        found.is_some()
    });
    found.unwrap()
}

/// Waits for something that comes soon.
pub fn until(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !there() {
        assert!(Instant::now() < deadline, "it did not happen that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes what test runs have left that ended, whatever ended them: the data of each at once, since a log of etcd's takes
/// 64 MiB at least, and the rest after an hour, until when somebody may look for the reason of a failure.
fn remove_forgotten(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process =
            name.to_str().and_then(|name| name.strip_prefix("etcd-")?.rsplit_once('-')?.1.parse::<u32>().ok());
        if process.is_none_or(|process| Path::new("/proc").join(process.to_string()).is_dir()) {
            continue;
        }
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > Duration::from_secs(3600)));
        drop(std::fs::remove_dir_all(if old { entry.path() } else { entry.path().join("data") }));
    }
}

/// An authority of our own, a server's certificate for this machine, and clients' certificates: of `root`, and of somebody
/// whom no server knows (`stranger`), signed by another authority.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub folder: PathBuf,
    _kept: Arc<tempfile::TempDir>,
}

impl Certificates {
    /// Makes them, with `openssl`.
    pub fn new() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let made = Self { folder: kept.path().to_owned(), _kept: Arc::new(kept) };
        for authority in ["ca", "other"] {
            made.openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={authority} \
                 -addext basicConstraints=critical,CA:TRUE -keyout {authority}.key -out {authority}.crt"
            ));
        }
        std::fs::write(made.folder.join("ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
        for (name, authority) in [("server", "ca"), ("root", "ca"), ("stranger", "other")] {
            made.openssl(&format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            made.openssl(&format!(
                "x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 30 \
                 -extfile ext -out {name}.crt"
            ));
        }
        made
    }

    /// One of the files, as configuration names it.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(&self.folder).output().unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What a [`Proxy`] does to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Bytes go through.
    Fair,
    /// Connections are taken and stay open, and nothing goes through.
    Silent,
    /// Connections end, and new ones end at once.
    Cut,
}

/// A way to a server on which things go wrong.
pub struct Proxy {
    pub port: u16,
    weather: Arc<Mutex<Weather>>,
    target: Arc<Mutex<u16>>,
}

impl Proxy {
    /// A way to this port of this machine.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let weather = Arc::new(Mutex::new(Weather::Fair));
        let shared = Arc::clone(&weather);
        let target = Arc::new(Mutex::new(target));
        let aim = Arc::clone(&target);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if *shared.lock().unwrap() == Weather::Cut {
                    continue;
                }
                let there = *aim.lock().unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", there)) else { continue };
                // A way that is not there on purpose must not wait for more bytes.
                drop((client.set_nodelay(true), server.set_nodelay(true)));
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let weather = Arc::clone(&shared);
                    std::thread::spawn(move || pump(from, to, &weather));
                }
            }
        });
        Self { port, weather, target }
    }

    /// From now on the way leads to another port; open connections end.
    pub fn lead_to(&self, target: u16) {
        *self.target.lock().unwrap() = target;
        self.set(Weather::Cut);
        // As long as each end of a connection needs to notice.
        std::thread::sleep(Duration::from_millis(200));
        self.set(Weather::Fair);
    }

    /// Changes the weather, for open connections too.
    pub fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    /// What `peers` names.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, weather: &Mutex<Weather>) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = vec![0; 64 << 10];
    loop {
        let now = *weather.lock().unwrap();
        match now {
            Weather::Cut => break,
            Weather::Silent => std::thread::sleep(Duration::from_millis(5)),
            Weather::Fair => match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => {
                    // It may have gone silent while they were waited for.
                    while *weather.lock().unwrap() == Weather::Silent {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    if to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(_) => break,
            },
        }
    }
    for side in [from, to] {
        drop(side.shutdown(Shutdown::Both));
    }
}

#[test]
fn both_versions_run_and_are_looked_at_by_etcdctl() {
    for (server, version) in [(source(), "3.6."), (old(), "3.4.")] {
        let prefix = prefix("support");
        let key = |name: &[u8]| [prefix.as_bytes(), name].concat();
        server.write(&[(key(b"\0odd\xff\" "), Some(vec![7; 100_000])), (key(b"empty"), Some(vec![]))]);
        let lease = server.grant(600);
        server.put_leased(&format!("{prefix}leased"), "v", &lease);
        let found = server.dump(&prefix);
        assert_eq!(found.len(), 3);
        assert_eq!((&found[0].key, &found[0].value), (&key(b"\0odd\xff\" "), &vec![7; 100_000]));
        assert!(server.left(found[2].lease).unwrap() > 590);
        assert_eq!(server.left(4711), None);
        server.write(&[(key(b"empty"), None)]);
        assert_eq!(server.dump(&prefix).len(), 2);
        server.compact();
        let status = server.ctl(&["endpoint", "status"]);
        assert!(status.contains(version), "{status}");
    }
}

#[test]
fn three_members_agree_and_one_of_them_may_be_killed() {
    let members = Etcd::cluster("support", Release::New, &Setup::default());
    members[0].put("/k", "1");
    assert_eq!(members[2].dump("/k")[0].value, b"1");
    members[0].kill();
    until("the other two agree", || members[1].try_ctl(&["put", "/k", "2"]).is_ok());
    members[0].spawn();
    members[0].wait_ready();
    assert_eq!(members[0].dump("/k")[0].value, b"2");
    members[1].restart();
}

#[test]
fn certificates_users_and_a_broken_way_are_what_they_say() {
    let certificates = Certificates::new();
    let setup = Setup { certificates: Some(&certificates), mutual: true, ..Setup::default() };
    let server = Etcd::start("certificates", Release::New, &setup);
    server.put("/k", "v");
    let server = Etcd::start("users", Release::Old, &Setup::default());
    server.ask_for_users("reader", "/app/", false);
    let user = format!("reader:{PASSWORD}");
    assert!(server.try_ctl(&["get", "/app/k"]).unwrap_err().contains("user name is empty"));
    server.ctl(&["--user", &user, "get", "/app/k"]);
    assert!(server.try_ctl(&["--user", &user, "put", "/app/k", "v"]).unwrap_err().contains("permission denied"));
    let proxy = Proxy::to(server.port);
    let through = |weather| {
        proxy.set(weather);
        let mut command = Command::new("etcdctl");
        command.env_clear().env("ETCDCTL_API", "3").env("PATH", "/usr/bin:/bin");
        command.args(["--endpoints", &proxy.url(), "--command-timeout=2s", "--dial-timeout=2s", "--user", &user]);
        command.args(["get", "/app/k"]);
        run(command, b"").is_ok()
    };
    assert!(through(Weather::Fair) && !through(Weather::Cut) && !through(Weather::Silent) && through(Weather::Fair));
}
