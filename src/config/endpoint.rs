//! `src` and `dst`: the keys of Teleport's `storage:` section for each type, and ours beside them.
//!
//! A type that Teleport knows and this version does not do is recognised, its keys are checked, and then it is refused in
//! one sentence. Keys that steer Teleport itself (its cache, its expiry loop, its capacity) are accepted and mean nothing
//! to a replica.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::dynamodb::{self, Dynamodb};
use crate::config::etcd::{self, Etcd};
use crate::config::section::Section;
use crate::error::Result;
use crate::model::{Kind, Layout};

/// One side of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Teleport's `lite` backend.
    Sqlite(Sqlite),
    /// A PostgreSQL database.
    Postgresql(Postgresql),
    /// A prefix of an etcd cluster.
    Etcd(Etcd),
    /// A DynamoDB table.
    Dynamodb(Dynamodb),
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for whoever connects with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The keys of type `sqlite`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sqlite {
    /// The directory that holds `sqlite.db`.
    pub path: PathBuf,
    /// How far each commit of ours goes.
    pub sync: Option<Synchronous>,
    /// Journal mode of a file that we create.
    pub journal: Option<Journaling>,
    /// How long another process' lock is waited for.
    pub busy_timeout: Duration,
    /// Whether Teleport keeps no `events` there.
    pub events_off: bool,
}

/// SQLite's `synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // SQLite's own words.
pub enum Synchronous {
    Off,
    Normal,
    Full,
    Extra,
}

/// SQLite's `journal_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // SQLite's own words.
pub enum Journaling {
    Delete,
    Truncate,
    Persist,
    Memory,
    Wal,
    Off,
}

/// The keys of type `postgresql`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgresql {
    /// URL or `key=value` pairs, as libpq reads them.
    pub conn_string: Secret,
    /// For the change feed, where it differs.
    pub change_feed_conn_string: Option<Secret>,
    /// How connections prove who they are.
    pub auth_mode: AuthMode,
    /// How items lie in the database.
    pub layout: Layout,
    /// Patterns of tables, in the raw layout of a source.
    pub tables: Vec<String>,
}

/// Teleport's `auth_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// As the connection string says.
    ConnString,
    /// An Entra ID access token.
    Azure,
    /// An access token of the machine's service account.
    GcpCloudSql,
}

impl Endpoint {
    /// Family of store.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sqlite(_) => Kind::Sqlite,
            Self::Postgresql(_) => Kind::Postgresql,
            Self::Etcd(_) => Kind::Etcd,
            Self::Dynamodb(_) => Kind::Dynamodb,
        }
    }

    /// How items lie in it.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Sqlite(_) => Layout::Teleport,
            Self::Postgresql(keys) => keys.layout,
            Self::Etcd(keys) => keys.layout,
            Self::Dynamodb(keys) => keys.layout,
        }
    }

    /// What both sides are, if they are the same place as far as their keys tell.
    pub(super) fn same_place(&self, other: &Self) -> Option<&'static str> {
        match (self, other) {
            (Self::Sqlite(a), Self::Sqlite(b)) => (canonical(&a.path) == canonical(&b.path)).then_some("SQLite file"),
            (Self::Postgresql(a), Self::Postgresql(b)) => (a.conn_string == b.conn_string).then_some("database"),
            (Self::Etcd(a), Self::Etcd(b)) => a.overlaps(b).then_some("keys of one cluster"),
            (Self::Dynamodb(a), Self::Dynamodb(b)) => a.is_same(b).then_some("table"),
            _ => None,
        }
    }
}

/// The path with links resolved, as far as it exists.
fn canonical(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(resolved) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).expect("an ancestor is a prefix of its path");
            // `join` of an empty rest would end the path with a slash.
            return if rest.as_os_str().is_empty() { resolved } else { resolved.join(rest) };
        }
    }
    absolute
}

/// Reads `src` or `dst`.
pub(super) fn read(pipeline: &Section<'_>, side: &'static str) -> Result<Endpoint> {
    let Some(node) = pipeline.own(side) else {
        let what = format!(
            "`{side}` is missing; it says where the replica's {}",
            match side {
                "src" => "changes come from",
                _ => "changes go to",
            }
        );
        return Err(pipeline.context.error(pipeline.line, what));
    };
    let keys = Section::new(pipeline.context, side, node)?;
    let kind = keys.required("type", TYPES)?;
    // Teleport keeps these beside the storage keys; a copied section may hold them.
    keys.accept(&["audit_events_uri", "audit_sessions_uri", "audit_retention_period"]);
    match kind.as_str() {
        "sqlite" | "dir" => sqlite(keys),
        "postgresql" | "postgres" => postgresql(keys, side),
        "etcd" => etcd::read(keys, side),
        "dynamodb" => dynamodb::read(keys),
        other => match LATER.iter().find(|(name, _)| *name == other) {
            Some((name, known)) => later(keys, name, known),
            None => Err(keys.wrong("type", format!("is not a type of store that driftless knows; it must be {TYPES}"))),
        },
    }
}

/// Types that can be replicated, for people.
const TYPES: &str = "sqlite, postgresql, etcd or dynamodb";

/// Types that are recognised and refused, with their keys.
const LATER: &[(&str, &[&str])] = &[
    (
        "firestore",
        &[
            "project_id",
            "collection_name",
            "credentials_path",
            "database_id",
            "endpoint",
            "retry_period",
            "purge_expired_documents_poll_interval",
            "disable_expired_document_purge",
            "buffer_size",
            "limit_watch_query",
        ],
    ),
    ("kafka", &["brokers", "topic", "layout"]),
    ("journal", &["path"]),
];

fn later(keys: Section<'_>, name: &str, known: &[&'static str]) -> Result<Endpoint> {
    keys.accept(known);
    let refused =
        keys.wrong("type", format!("is {name}, which this version of driftless cannot replicate; it must be {TYPES}"));
    keys.finish()?;
    Err(refused)
}

fn sqlite(keys: Section<'_>) -> Result<Endpoint> {
    // What Teleport's own poller and cache do with them has no meaning here.
    keys.accept(&["buffer_size", "poll_stream_period"]);
    let sync = keys.word("sync", &["OFF", "NORMAL", "FULL", "EXTRA"])?;
    let journal = keys.word("journal", &["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL", "OFF"])?;
    let endpoint = Sqlite {
        path: keys.required("path", "the directory that holds sqlite.db, such as /var/lib/teleport/backend")?.into(),
        sync: sync.map(|i| [Synchronous::Off, Synchronous::Normal, Synchronous::Full, Synchronous::Extra][i]),
        journal: journal.map(|i| {
            use Journaling::{Delete, Memory, Off, Persist, Truncate, Wal};
            [Delete, Truncate, Persist, Memory, Wal, Off][i]
        }),
        // Teleport's unit and default.
        busy_timeout: Duration::from_millis(
            keys.number("busy_timeout", 0, 3_600_000)?.unwrap_or(10_000).unsigned_abs(),
        ),
        events_off: keys.truth("events_off")?.unwrap_or(false),
    };
    if layout(&keys)? == Layout::Raw {
        return Err(keys.wrong(
            "layout",
            "must be teleport for a SQLite file; raw copies PostgreSQL tables, etcd prefixes and DynamoDB tables",
        ));
    }
    keys.finish()?;
    Ok(Endpoint::Sqlite(endpoint))
}

fn postgresql(keys: Section<'_>, side: &str) -> Result<Endpoint> {
    keys.accept(&[
        "change_feed_poll_interval",
        "change_feed_batch_size",
        "disable_expiry",
        "expiry_interval",
        "expiry_batch_size",
        "gcp_connection_name",
        "gcp_ip_type",
        "azure_client_id",
    ]);
    let auth_mode = match keys.word("auth_mode", &["", "azure", "gcp-cloudsql"])? {
        Some(1) => AuthMode::Azure,
        Some(2) => AuthMode::GcpCloudSql,
        _ => AuthMode::ConnString,
    };
    let layout = layout(&keys)?;
    let endpoint = Postgresql {
        conn_string: Secret(
            keys.required("conn_string", "a PostgreSQL connection string such as postgresql://user@host/database")?,
        ),
        change_feed_conn_string: keys.text("change_feed_conn_string")?.filter(|text| !text.is_empty()).map(Secret),
        auth_mode,
        layout,
        tables: tables(&keys, layout, side)?,
    };
    keys.finish()?;
    Ok(Endpoint::Postgresql(endpoint))
}

pub(super) fn layout(keys: &Section<'_>) -> Result<Layout> {
    Ok(if keys.word("layout", &["teleport", "raw"])? == Some(1) { Layout::Raw } else { Layout::Teleport })
}

fn tables(keys: &Section<'_>, layout: Layout, side: &str) -> Result<Vec<String>> {
    let tables = keys.texts("tables")?.unwrap_or_default();
    match (layout, side) {
        (Layout::Teleport, _) if !tables.is_empty() => {
            return Err(keys.wrong("tables", "has a meaning only with `layout: raw`"));
        }
        (Layout::Raw, "src") if tables.is_empty() => {
            let what = "`layout: raw` in `src` needs `tables`, such as [\"public.*\"]";
            return Err(keys.context.error(keys.line_of("layout"), what));
        }
        (Layout::Raw, "dst") if !tables.is_empty() => {
            return Err(
                keys.wrong("tables", "belongs to `src`; the destination takes the tables that the source names")
            );
        }
        _ => {}
    }
    if tables.iter().any(|table| !table.contains('.') || table.starts_with('.') || table.ends_with('.')) {
        return Err(
            keys.wrong("tables", "must name tables with their schema, such as \"public.accounts\" or \"public.*\"")
        );
    }
    Ok(tables)
}
