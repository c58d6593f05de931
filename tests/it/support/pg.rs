//! Real PostgreSQL servers: two instances, started once per test run, gone with it.
//!
//! The newest installed major version of 13 or later is used, or the one in `DRIFTLESS_TEST_PG_BIN`. PostgreSQL refuses
//! to run as root, so a root test run starts it as `nobody`.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// `nobody`.
const UNPRIVILEGED: u32 = 65534;
/// Password of the superuser `postgres`, planted so that leaks of it can be searched for.
pub const PASSWORD: &str = "planted-password-7f3a";

/// A running PostgreSQL server.
pub struct Pg {
    pub port: u16,
    pub data: PathBuf,
    pub bin: PathBuf,
    pub log: PathBuf,
}

/// The instance that tests replicate from.
pub fn primary() -> &'static Pg {
    static SERVER: OnceLock<Pg> = OnceLock::new();
    SERVER.get_or_init(|| Pg::start("primary", &[]))
}

/// The instance that tests replicate to.
pub fn secondary() -> &'static Pg {
    static SERVER: OnceLock<Pg> = OnceLock::new();
    SERVER.get_or_init(|| Pg::start("secondary", &[]))
}

/// The directory of the server's programs.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("DRIFTLESS_TEST_PG_BIN") {
        return dir.into();
    }
    let newest = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is not installed: run `make servers`")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("PostgreSQL is not installed: run `make servers`");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

impl Pg {
    /// Starts a server of its own with extra settings (`-c` pairs), for tests that stop or configure it.
    pub fn start(name: &str, settings: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pg-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&root));
        // The server's user must reach its data through every parent, and a checkout may lie under a private home.
        let root = if is_root() { std::env::temp_dir().join(root.file_name().unwrap()) } else { root };
        drop(std::fs::remove_dir_all(&root));
        remove_forgotten(root.parent().unwrap());
        std::fs::create_dir_all(&root).unwrap();
        let (data, log, password) = (root.join("data"), root.join("log"), root.join("password"));
        let log =
            super::scale::kept_logs().map_or(log, |kept| kept.join(format!("server-{name}-{}", std::process::id())));
        std::fs::write(&password, PASSWORD).unwrap();
        if is_root() {
            for path in [&root, &password] {
                std::os::unix::fs::chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
            }
        }
        let bin = bin_dir();
        let made = unprivileged(&bin.join("initdb"))
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .arg(format!("--pwfile={}", password.display()))
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let server = Self { port, data, bin, log };
        server.spawn(settings);
        server.wait_ready();
        if super::scale::kept_logs().is_some() {
            server.sing();
        }
        server
    }

    /// Makes the server log a word, as it would log a secret of a statement that fails.
    fn sing(&self) {
        super::secrets::hear_the_library();
        let sql = format!("select '{}'::int", super::secrets::CANARY);
        assert!(self.try_psql("postgres", &sql).is_err(), "{sql}");
    }

    /// Starts the server process on its data directory again; the caller waits for it to be ready.
    pub fn spawn(&self, settings: &[&str]) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        // setpriv makes the kernel stop the server when the test process is gone, whatever ended it.
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=QUIT");
        if is_root() {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        command.arg(self.bin.join("postgres")).arg("-D").arg(&self.data).arg("-p").arg(self.port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "wal_level=logical",
            "max_wal_senders=40",
            // All tests share two servers, and a stream that a test leaves behind keeps its slot.
            "max_replication_slots=400",
            "max_connections=200",
            "shared_buffers=128MB",
            "fsync=off",
            "wal_sender_timeout=10s",
            "log_statement=none",
            // The name in brackets tells what driftless made the server write from what a test's own psql did.
            "log_line_prefix=%m [%p] %q[%a] ",
        ]
        .iter()
        .chain(settings)
        {
            command.arg("-c").arg(setting);
        }
        command.arg("-c").arg(format!("unix_socket_directories={}", self.data.parent().unwrap().display()));
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // The kernel's promise is bound to the thread that started the child, and a test's thread ends with its test.
        std::thread::spawn(move || {
            let mut child = command.spawn().expect("setpriv (util-linux) starts PostgreSQL");
            drop(child.wait());
        });
    }

    /// Waits until the server takes connections.
    pub fn wait_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.try_psql("postgres", "select 1").is_ok_and(|answer| answer == "1") {
            assert!(Instant::now() < deadline, "PostgreSQL did not start, see {}", self.log.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A connection string for a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres:{PASSWORD}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Creates a database with a name that no other test has.
    pub fn database(&self, hint: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{hint}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("create database {name}"));
        name
    }

    /// The server's own `psql`, where it has one: the one in the path is a wrapper on Debian, which takes longer than most
    /// statements.
    pub fn psql_program(&self) -> PathBuf {
        let own = self.bin.join("psql");
        if own.is_file() { own } else { PathBuf::from("psql") }
    }

    /// Runs SQL through `psql` and gives its unaligned, tuples-only output.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|error| panic!("psql {database}: {error}\n{sql}"))
    }

    /// As [`Pg::psql`], with the error as a value.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(self.psql_program())
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h"])
            .arg(self.data.parent().unwrap())
            .args(["-p", &self.port.to_string(), "-U", "postgres", "-d", database, "-c", sql])
            .output()
            .expect("psql is installed: run `make servers`");
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// Removes the folders of test runs that ended more than an hour ago, whatever ended them. Younger ones may still be read
/// by whoever looks for the reason of a failure.
fn remove_forgotten(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix("pg-")?.rsplit_once('-')?.1.parse::<u32>().ok());
        let gone = process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).is_dir());
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > Duration::from_secs(3600)));
        if gone && old {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
