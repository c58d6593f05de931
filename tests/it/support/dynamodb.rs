//! DynamoDB for tests: our simulator as the real program, and Amazon's own DynamoDB Local. Both gone with the test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use serde_json::{Value, json};

/// A service that listens on the loopback. Killed when dropped.
pub struct Service {
    /// Where.
    pub port: u16,
    process: Child,
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A simulator with these options, whose virtual time stands still.
pub fn simulator(options: &Value) -> Service {
    let arguments = ["dynamodb-simulator", "--json", "--listen", "127.0.0.1:0", "--speed", "0x", "--options"];
    let mut process = Command::new(env!("CARGO_BIN_EXE_driftless"))
        .args(arguments)
        .arg(options.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let address: std::net::SocketAddr = said["address"].as_str().unwrap().parse().unwrap();
    Service { port: address.port(), process }
}

/// DynamoDB Local, or nothing where `DYNAMODB_LOCAL=off` says to do without.
pub fn local() -> Option<Service> {
    if std::env::var("DYNAMODB_LOCAL").is_ok_and(|wanted| wanted == "off") {
        return None;
    }
    let pom = include_str!("../../fixtures/dynamodb/pom.xml");
    let version =
        pom.split("<artifactId>DynamoDBLocal</artifactId><version>").nth(1).unwrap().split('<').next().unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let library: PathBuf = target.join("fixtures").join(format!("dynamodb-local-{version}"));
    assert!(library.is_dir(), "{} is not there: run `make servers`", library.display());
    let library = library.display();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = Command::new("java")
        .args([
            &format!("-Djava.library.path={library}"),
            &format!("-Dsqlite4java.library.path={library}"),
            "-Xmx512m",
            "-cp",
        ])
        .args([&format!("{library}/*"), "software.amazon.dynamodb.services.local.main.ServerRunner"])
        .args(["-inMemory", "-sharedDb", "-disableTelemetry", "-port", &port.to_string()])
        .env("DDB_LOCAL_TELEMETRY", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let service = Service { port, process };
    let patience = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < patience, "DynamoDB Local does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(service)
}

/// A Python that has boto3.
pub fn python() -> &'static str {
    let has = |python: &str| {
        Command::new(python).args(["-c", "import boto3"]).output().is_ok_and(|done| done.status.success())
    };
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| has(python))
        .expect("no Python has boto3: run `make servers`")
}

/// An answer: status, headers in lower case, body.
pub struct Said {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Service {
    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Posts a text; nothing if the connection is closed without an answer.
    pub fn post(&self, path: &str, headers: &str, body: &str) -> Option<Said> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().unwrap();
        Some(Said { status, head: head.to_lowercase(), body: serde_json::from_str(body).unwrap_or(Value::Null) })
    }

    /// A call of the protocol, without a client.
    pub fn call(&self, operation: &str, body: &Value) -> Said {
        let streams = ["DescribeStream", "GetRecords", "GetShardIterator", "ListStreams"].contains(&operation);
        let service = if streams { "DynamoDBStreams_20120810" } else { "DynamoDB_20120810" };
        let headers = format!(
            "Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: {service}.{operation}\r\nX-Amz-Date: 20260401T120000Z\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260401/us-east-1/dynamodb/aws4_request, \
             SignedHeaders=host, Signature=0\r\n"
        );
        self.post("/", &headers, &body.to_string()).unwrap()
    }

    /// A call of the simulator's own.
    pub fn simulate(&self, name: &str, body: &Value) -> Value {
        let said = self.post(&format!("/_simulator/{name}"), "", &body.to_string()).unwrap();
        assert_eq!(said.status, 200, "{name} {body}: {}", said.body);
        said.body
    }

    /// Lets virtual time pass.
    pub fn advance(&self, seconds: u64) {
        self.simulate("advance", &json!({ "seconds": seconds }));
    }

    /// The SDK's client for tables, which tries each call once.
    pub fn tables(&self) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(self.url())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "planted-secret", None, None, "test"))
            .retry_config(aws_sdk_dynamodb::config::retry::RetryConfig::disabled());
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    /// The SDK's client for streams, which tries each call once.
    pub fn streams(&self) -> aws_sdk_dynamodbstreams::Client {
        let config = aws_sdk_dynamodbstreams::Config::builder()
            .behavior_version(aws_sdk_dynamodbstreams::config::BehaviorVersion::v2026_01_12())
            .endpoint_url(self.url())
            .region(aws_sdk_dynamodbstreams::config::Region::new("us-east-1"))
            .credentials_provider(aws_sdk_dynamodbstreams::config::Credentials::new(
                "test",
                "planted-secret",
                None,
                None,
                "test",
            ))
            .retry_config(aws_sdk_dynamodbstreams::config::retry::RetryConfig::disabled());
        aws_sdk_dynamodbstreams::Client::from_conf(config.build())
    }
}
