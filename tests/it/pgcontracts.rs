//! The kind PostgreSQL, asked what the contracts say: Teleport's layout between two real servers, written to with psql.

use std::process::{Command, Stdio};
use std::sync::Arc;

use driftless::kinds::postgres::catalog::{Need, Scope};
use driftless::kinds::postgres::store::PgStore;
use driftless::kinds::postgres::{Endpoint, Options, PgSink, PostgresSource};

use crate::conformance::{Rig, Write};
use crate::support::pg::{self, Pg};

const TELEPORT: &str = "
create table kv (key bytea not null, value bytea not null, expires timestamptz, revision uuid not null,
  constraint kv_pkey primary key (key));
create index kv_expires_idx on kv (expires) where expires is not null;
alter table kv replica identity full;
create table backend_version (version integer primary key check (version > 0), created timestamptz not null default now());
insert into backend_version (version) values (2);
";

/// Runs SQL that is too long for an argument.
fn run(server: &Pg, database: &str, sql: &str) {
    use std::io::Write as _;
    let mut psql = Command::new(server.psql_program())
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", &server.url(database)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    assert!(psql.wait().unwrap().success(), "psql did not take the writes");
}

/// The writes as Teleport's backend does them, in one transaction.
fn writes(all: &[Write]) -> String {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let one = |(key, value): &Write| match value {
        Some(value) => format!(
            "insert into kv (key, value, revision) values ('\\x{}', '\\x{}', gen_random_uuid()) \
             on conflict (key) do update set value = excluded.value, revision = excluded.revision;\n",
            hex(key),
            hex(value)
        ),
        None => format!("delete from kv where key = '\\x{}';\n", hex(key)),
    };
    format!("begin;\n{}commit;\n", all.iter().map(one).collect::<String>())
}

async fn rig() -> Rig {
    let (source, sink) = (pg::primary(), pg::secondary());
    let (from, to) = (source.database("contracts_from"), sink.database("contracts_to"));
    source.psql(&from, TELEPORT);
    let state = tempfile::tempdir().unwrap();
    let options = |server: &Pg, database: &str| {
        let mut options = Options::new(&from, server.url(database));
        options.state_dir = state.path().to_owned();
        options
    };
    let (source_options, sink_options) = (options(source, &from), options(sink, &to));
    let endpoint = Endpoint::new(&source_options).unwrap();
    let scope = Scope::of(&source_options).unwrap();
    Rig {
        stream: crate::conformance::stream(),
        source: Arc::new(PostgresSource::new(&source_options).unwrap()),
        store: Arc::new(PgStore::source(&endpoint, scope, Need::Scan)),
        sink: Arc::new(PgSink::new(&sink_options).unwrap()),
        sink_store: Arc::new(PgStore::teleport_sink(&Endpoint::new(&sink_options).unwrap())),
        write: Box::new(move |all| run(source, &from, &writes(all))),
        held: <[u8]>::to_vec,
        guard: Box::new(state),
    }
}

conformance!(rig);
