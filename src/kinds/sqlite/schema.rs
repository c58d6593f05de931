//! The tables that Teleport's `lite` backend makes, and ours beside them.
//!
//! A destination is created with exactly Teleport's tables, columns, defaults and indexes, so that a standby started on it
//! finds what it would have made itself. A table from before the revision columns gets them, as Teleport does at its start.
//! Our own tables begin with `driftless_`; Teleport never looks at them.

use rusqlite::Connection;

const TELEPORT: &str = r#"
create table if not exists kv (
  key TEXT NOT NULL PRIMARY KEY,
  modified INTEGER NOT NULL,
  expires DATETIME,
  value BLOB,
  revision TEXT NOT NULL DEFAULT ""
);
create index if not exists kv_expires on kv (expires);
create table if not exists events (
  id INTEGER PRIMARY KEY,
  type TEXT NOT NULL,
  created INTEGER NOT NULL,
  kv_key TEXT NOT NULL,
  kv_modified INTEGER NOT NULL,
  kv_expires DATETIME,
  kv_value BLOB,
  kv_revision TEXT NOT NULL DEFAULT ""
);
create index if not exists events_created on events (created);
"#;

/// One row per lane, and one per lane and partition.
const OURS: &str = "
create table if not exists driftless_lane (
  stream text not null,
  lane integer not null,
  format integer not null,
  owner text not null,
  layout text not null,
  extent text not null,
  lanes integer not null,
  is_foreign integer not null,
  epoch integer not null,
  number integer not null,
  primary key (stream, lane)
) without rowid;
create table if not exists driftless_checkpoint (
  stream text not null,
  lane integer not null,
  partition text not null,
  position text not null,
  primary key (stream, lane, partition)
) without rowid;
";

/// Makes what is missing. Runs inside the caller's transaction.
pub fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(TELEPORT)?;
    for (table, column) in [("kv", "revision"), ("events", "kv_revision")] {
        let there: bool = connection.query_row(
            "select exists (select 1 from pragma_table_info(?1) where name = ?2)",
            [table, column],
            |row| row.get(0),
        )?;
        if !there {
            connection
                .execute_batch(&format!(r#"alter table {table} add column {column} TEXT NOT NULL DEFAULT """#))?;
        }
    }
    connection.execute_batch(OURS)
}

/// Removes the rows of a stream, and our tables where none are left. Runs inside the caller's transaction.
pub fn forget(connection: &Connection, stream: &str) -> rusqlite::Result<()> {
    connection.execute("delete from driftless_checkpoint where stream = ?1", [stream])?;
    connection.execute("delete from driftless_lane where stream = ?1", [stream])?;
    let left: bool = connection.query_row("select exists (select 1 from driftless_lane)", [], |row| row.get(0))?;
    if left { Ok(()) } else { connection.execute_batch("drop table driftless_checkpoint; drop table driftless_lane") }
}

/// Whether our own tables are there.
pub fn has_ours(connection: &Connection) -> rusqlite::Result<bool> {
    let tables: i64 = connection.query_row(
        "select count(*) from sqlite_schema where type = 'table' and name in ('driftless_lane', 'driftless_checkpoint')",
        [],
        |row| row.get(0),
    )?;
    Ok(tables == 2)
}
