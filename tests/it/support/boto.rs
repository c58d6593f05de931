//! A real DynamoDB Local, AWS' own emulator, gone with the test run; and boto3, which knows nothing of driftless.
//!
//! What tests write and look at from outside goes through boto3 alone: `boto.py` beside this file makes any call of its
//! client that it is given.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use driftless::kinds::dynamodb::{Options, Role};
use serde_json::{Value, json};

use super::teleport::Item;

/// Secret of the access key that tests use, planted so that leaks of it can be searched for. The server takes any.
pub const SECRET: &str = "planted-dynamodb-secret";

/// A server.
pub struct Dynamo {
    pub port: u16,
    caller: Mutex<Caller>,
}

struct Caller {
    /// Killed by the kernel with whoever runs the tests.
    _child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// The server of all tests.
pub fn server() -> &'static Dynamo {
    static SERVER: OnceLock<Dynamo> = OnceLock::new();
    SERVER.get_or_init(Dynamo::start)
}

/// A table's name that no other test has.
pub fn name(hint: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{hint}.{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn library() -> PathBuf {
    let fixtures = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("fixtures");
    let entries = std::fs::read_dir(&fixtures).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_ours = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("dynamodb-local-");
    let found = entries.filter(is_ours).max();
    found.unwrap_or_else(|| panic!("DynamoDB Local is not in {}: run `make servers`", fixtures.display()))
}

/// A Python that has boto3.
fn python() -> &'static str {
    let has = |python: &&str| {
        Command::new(python).args(["-c", "import boto3"]).output().is_ok_and(|done| done.status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(has).expect("no Python has boto3: run `make servers`")
}

impl Dynamo {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let library = library();
        let folder = library.display();
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dynamodb-{}.log", std::process::id()));
        let log = std::fs::File::create(&log).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig=KILL", "java", "-Xmx512m"]);
        command.arg(format!("-Djava.library.path={folder}")).arg(format!("-Dsqlite4java.library.path={folder}"));
        command.arg("-cp").arg(format!("{folder}/*")).arg("software.amazon.dynamodb.services.local.main.ServerRunner");
        command.args(["-port", &port.to_string(), "-disableTelemetry", "-inMemory", "-sharedDb"]);
        command.env("DDB_LOCAL_TELEMETRY", "0").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // The kernel's promise is bound to the thread that starts the child, and a test's thread ends with its test.
        let (started, starts) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut child = command.spawn().expect("setpriv (util-linux) starts java");
            let mut caller = Command::new("setpriv");
            caller.args(["--pdeathsig=KILL", python()]);
            caller.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/boto.py"));
            caller.arg(format!("http://127.0.0.1:{port}")).stdin(Stdio::piped()).stdout(Stdio::piped());
            started.send(caller.spawn().expect("setpriv (util-linux) starts python3")).unwrap();
            drop(child.wait());
        });
        let mut child = starts.recv().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let patience = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < patience, "DynamoDB Local does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { port, caller: Mutex::new(Caller { _child: child, to, from }) }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes a call of boto3's client; bytes are `{"bytes": "<base64>"}` in both directions.
    pub fn call(&self, name: &str, arguments: &Value) -> Value {
        self.try_call(name, arguments).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// As [`Dynamo::call`], with the error's code as a value.
    pub fn try_call(&self, name: &str, arguments: &Value) -> Result<Value, String> {
        let mut caller = self.caller.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        writeln!(caller.to, "{}", json!({"call": name, "with": arguments})).unwrap();
        caller.to.flush().unwrap();
        let mut line = String::new();
        caller.from.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line).expect("boto3 (python3-boto3) answers");
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["answer"].take()),
        }
    }

    /// Makes a table of Teleport's.
    pub fn teleport(&self, table: &str) {
        self.call("create_table", &json!({
            "TableName": table,
            "AttributeDefinitions": [
                {"AttributeName": "HashKey", "AttributeType": "S"}, {"AttributeName": "FullPath", "AttributeType": "S"}],
            "KeySchema": [
                {"AttributeName": "HashKey", "KeyType": "HASH"}, {"AttributeName": "FullPath", "KeyType": "RANGE"}],
            "BillingMode": "PAY_PER_REQUEST",
        }));
    }

    /// Every item of a table, in boto3's own form.
    pub fn items(&self, table: &str) -> Vec<Value> {
        let (mut all, mut start) = (Vec::new(), None);
        loop {
            let mut with = json!({"TableName": table, "ConsistentRead": true});
            if let Some(start) = &start {
                with["ExclusiveStartKey"] = Value::clone(start);
            }
            let mut page = self.call("scan", &with);
            all.append(page["Items"].as_array_mut().unwrap());
            match page.get("LastEvaluatedKey") {
                Some(key) => start = Some(key.clone()),
                None => return all,
            }
        }
    }

    /// Commits these puts and deletes as one transaction, at most 100.
    pub fn write(&self, table: &str, writes: &[(String, Option<Value>)]) {
        let key = |path: &str| json!({"HashKey": {"S": "teleport"}, "FullPath": {"S": format!("teleport{path}")}});
        let one = |(path, item): &(String, Option<Value>)| match item {
            None => json!({"Delete": {"TableName": table, "Key": key(path)}}),
            Some(attributes) => {
                let mut item = key(path);
                item.as_object_mut().unwrap().extend(attributes.as_object().unwrap().clone());
                json!({"Put": {"TableName": table, "Item": item}})
            }
        };
        let all: Vec<_> = writes.iter().map(one).collect();
        self.call("transact_write_items", &json!({"TransactItems": all}));
    }

    /// The value of `src:` or `dst:`.
    pub fn yaml(&self, table: &str) -> String {
        format!(
            "{{ type: dynamodb, region: us-east-1, table_name: {table:?}, endpoint: {:?}, access_key: test, secret_key: {SECRET:?} }}",
            self.url()
        )
    }

    /// Options for a table.
    pub fn options(&self, role: Role, table: &str) -> Options {
        Options {
            region: Some("us-east-1".into()),
            endpoint: Some(self.url()),
            keys: Some(("test".into(), SECRET.into())),
            ..Options::new("test", role, table)
        }
    }
}

/// Bytes as boto3's helper takes them.
pub fn bytes(bytes: &[u8]) -> Value {
    json!({"B": {"bytes": STANDARD.encode(bytes)}})
}

/// Teleport's attributes of a value.
pub fn value(value: &[u8]) -> Value {
    json!({"Value": bytes(value), "Timestamp": {"N": "1775044800"}})
}

/// A table as Teleport leaves it, and a dump of it by boto3 alone.
pub struct DynamoDb {
    pub table: String,
}

impl DynamoDb {
    /// A name under which there is no table.
    pub fn absent(hint: &str) -> Self {
        Self { table: name(hint) }
    }

    /// A table that holds these items, expiry rounded up to a second.
    pub fn create(hint: &str, items: &[Item]) -> Self {
        let db = Self::absent(hint);
        server().teleport(&db.table);
        for part in items.chunks(100) {
            let one = |item: &Item| {
                let mut all = value(item.value.as_deref().unwrap_or_default());
                if let Some(at) = item.expires {
                    all["Expires"] = json!({"N": (at + 999_999_999).div_euclid(1_000_000_000).to_string()});
                }
                if !item.revision.is_empty() {
                    all["Revision"] = json!({"S": item.revision});
                }
                (item.key.clone(), Some(all))
            };
            server().write(&db.table, &part.iter().map(one).collect::<Vec<_>>());
        }
        db
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        server().write(&self.table, &[(key.to_owned(), Some(value(bytes)))]);
    }

    pub fn delete(&self, key: &str) {
        server().write(&self.table, &[(key.to_owned(), None)]);
    }

    pub fn yaml(&self) -> String {
        server().yaml(&self.table)
    }

    /// What Teleport sees at a time in microseconds: hexadecimal key to hexadecimal value, expiry in seconds, revision.
    pub fn dump(&self, now_us: i128) -> BTreeMap<String, (String, Option<i128>, String)> {
        let mut all = BTreeMap::new();
        for item in server().items(&self.table) {
            assert_eq!(item["HashKey"]["S"], "teleport");
            let key = item["FullPath"]["S"].as_str().unwrap().strip_prefix("teleport").unwrap();
            let expires: Option<i128> = item["Expires"]["N"].as_str().map(|at| at.parse().unwrap());
            if key.starts_with(".locks/") || expires.is_some_and(|at| at * 1_000_000 <= now_us) {
                continue;
            }
            let value = STANDARD.decode(item["Value"]["B"]["bytes"].as_str().unwrap()).unwrap();
            let revision = item["Revision"]["S"].as_str().unwrap_or(super::teleport::BLANK).to_owned();
            all.insert(hex(key.as_bytes()), (hex(&value), expires, revision));
        }
        all
    }
}

/// The canonical lines of another store's dump in the coarser unit: microseconds become whole seconds, rounded up.
pub fn lines(dump: &[String]) -> BTreeMap<String, (String, Option<i128>, String)> {
    let line = |line: &String| {
        let parts: Vec<&str> = line.split(' ').collect();
        let [key, value, expires, revision] = parts[..] else { panic!("four words: {line}") };
        let seconds = expires.parse().ok().map(|us: i128| (us + 999_999).div_euclid(1_000_000));
        (key.to_owned(), (value.to_owned(), seconds, revision.to_owned()))
    };
    dump.iter().map(line).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
