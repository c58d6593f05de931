//! Everything that can be wrong with a PostgreSQL endpoint, found before it matters.
//!
//! A list of findings, each with the statement that repairs it where there is one. Nothing is changed at the server: what
//! a role may do is read from the catalog, or tried in a transaction that is rolled back.

use crate::error::Error;
use crate::kinds::postgres::admin::{check_settings, check_sink, check_source};
use crate::kinds::postgres::conn::conninfo::SslMode;
use crate::kinds::postgres::conn::{Endpoint, ReplicationConn, Session};
use crate::kinds::postgres::options::Options;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and may hurt later.
    Warning,
    /// It does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What repairs it: a statement, or a setting of the provider.
    pub fix: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), fix: None }
    }

    /// Something that may hurt later.
    pub fn warning(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, what: what.into(), fix: Some(fix.into()) }
    }

    /// Something that does not work.
    pub fn error(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Error, what: what.into(), fix: Some(fix.into()) }
    }

    fn failed(error: &Error) -> Self {
        Self { level: Level::Error, what: error.to_string(), fix: None }
    }
}

/// Looks at a source.
pub async fn source(options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = try_source(options, &mut findings).await {
        findings.push(Finding::failed(&error));
    }
    findings
}

async fn try_source(options: &Options, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let endpoint = Endpoint::feed(options)?;
    findings.extend(transport(&endpoint));
    let client = endpoint.session(&Session::ADMIN).await?;
    let facts = check_settings::Facts::read(&client, &options.slot()).await?;
    findings.push(check_settings::version(&facts));
    findings.extend(check_settings::logical(&facts));
    findings.extend(check_settings::retention(&facts, options.max_retained));
    findings.push(check_source::replication_right(&endpoint, &facts).await);
    findings.extend(pooler(&endpoint).await);
    findings.extend(check_source::slot(&client, options, &endpoint, &facts).await?);
    findings.extend(check_source::tables(&client, options).await?);
    findings.extend(check_source::open_transactions(&client).await?);
    if options.change_feed_conn_string.is_some() {
        let reading = Endpoint::new(options)?;
        findings.extend(transport(&reading));
        reading.session(&Session::READ).await?;
        findings.push(Finding::ok("conn_string can be connected to, besides change_feed_conn_string"));
    }
    Ok(())
}

/// Looks at a destination.
pub async fn destination(options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = try_destination(options, &mut findings).await {
        findings.push(Finding::failed(&error));
    }
    findings
}

async fn try_destination(options: &Options, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let endpoint = Endpoint::new(options)?;
    findings.extend(transport(&endpoint));
    let client = endpoint.session(&Session::ADMIN).await?;
    let facts = check_settings::Facts::read(&client, &options.slot()).await?;
    findings.push(check_settings::version(&facts));
    findings.push(check_sink::writable(&client).await?);
    findings.extend(pooler(&endpoint).await);
    findings.push(check_sink::bookkeeping(&client).await?);
    findings.extend(check_sink::replica_role(&client, &facts).await?);
    findings.push(check_sink::log_settings(&client, &facts).await?);
    findings.extend(check_sink::rights(&client, options).await?);
    Ok(())
}

/// Whether everybody on the way may read along or answer in the server's place.
fn transport(endpoint: &Endpoint) -> Option<Finding> {
    let info = endpoint.info();
    let target = info.targets.iter().find(|target| !target.is_local())?;
    Some(match info.tls.mode {
        SslMode::VerifyFull => Finding::ok(format!("the connection to {target} is encrypted and the server verified")),
        SslMode::VerifyCa => Finding::warning(
            format!("the connection to {target} verifies who signed the server's certificate, not whose it is"),
            "sslmode=verify-full",
        ),
        SslMode::Require => Finding::warning(
            format!("the connection to {target} is encrypted, and the server is not verified"),
            "sslmode=verify-full, with sslrootcert=<file> or sslrootcert=system",
        ),
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => Finding::warning(
            format!("the connection to {target} may go over the network in clear"),
            "sslmode=verify-full, with sslrootcert=<file> or sslrootcert=system",
        ),
    })
}

/// A pooler gives out its own process numbers, so that they differ from the server's. In transaction mode a second
/// connection is given the server process that the first one has just used, or the first one is given another.
async fn pooler(endpoint: &Endpoint) -> Option<Finding> {
    let mut first = endpoint.plain().await.ok()?;
    let used = backend(&mut first, "select pg_catalog.pg_backend_pid()").await?;
    if used == first.backend_pid {
        return None;
    }
    let mut second = endpoint.plain().await.ok()?;
    let taken = backend(&mut second, "begin; select pg_catalog.pg_backend_pid()").await?;
    let again = backend(&mut first, "select pg_catalog.pg_backend_pid()").await?;
    let itself = "connect to the server itself";
    Some(if taken == used || again != used {
        Finding::error(
            "a connection pooler in transaction mode stands between driftless and the server: settings of a session are \
             lost between its transactions",
            format!("{itself}, or through a pool in session mode"),
        )
    } else {
        Finding::warning("a connection pooler in session mode stands between driftless and the server", itself)
    })
}

async fn backend(conn: &mut ReplicationConn, sql: &str) -> Option<i32> {
    conn.simple_query(sql).await.ok()?.first()?.first()?.as_deref()?.parse().ok()
}
