//! What can be wrong with a SQLite backend, found before it matters. Reads only; changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Access, access};

use super::fault::fault;
use super::open::locate;
use super::options::{Journal, Options, Role, Sync};
use super::reader::Reader;
use super::schema;
use super::time;
use super::writer::now;
use crate::error::Result;
use crate::model::{Level, Remark, StreamId};

/// Looks at a source. Blocks.
pub fn source(options: &Options) -> Vec<Remark> {
    let mut found = Vec::new();
    match locate(options, Role::Source) {
        Err(error) => found.push(Remark::new(Level::Error, error.to_string(), "")),
        Ok(None) => {}
        Ok(Some(reader)) => {
            if let Err(error) = look(&reader, options, &mut found) {
                found.push(Remark::new(Level::Error, error.to_string(), ""));
            }
        }
    }
    found
}

fn look(reader: &Reader, options: &Options, found: &mut Vec<Remark>) -> Result<()> {
    const ATTEMPT: &str = "look at the backend";
    let wall = now();
    let (has_kv, has_events, events, newest) = reader.read(ATTEMPT, |view| {
        let failed = |error| fault(ATTEMPT, error);
        let number = |sql: &str| view.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed);
        let events = if view.has_events { number("select exists (select 1 from events)")? == 1 } else { false };
        // The whole table is read for this, so only where nothing else can tell.
        let ask = view.has_kv && view.has_events && !events;
        let newest = if ask {
            number("select coalesce(max(modified), 0) from kv where typeof(modified) = 'integer'")?
        } else {
            0
        };
        Ok((view.has_kv, view.has_events, events, newest))
    })?;
    if !has_kv || !has_events {
        let missing = if has_kv { "events" } else { "kv" };
        found.push(Remark::new(
            Level::Error,
            format!("{} has no table {missing}, so it is not a Teleport backend", reader.file().display()),
            "name the directory of the auth server's backend, usually <data_dir>/backend",
        ));
    }
    let age = wall - i128::from(newest);
    // A row that is younger than events are kept, and no event of it.
    if !options.events_off && !events && newest > 0 && (0..600_000_000_000).contains(&age) {
        found.push(Remark::new(
            Level::Warning,
            format!(
                "the newest item was written at {}, and table events is empty: Teleport seems to run with events_off",
                time::format(i128::from(newest))
            ),
            "set events_off: true here too, or remove it from Teleport's configuration for changes within milliseconds",
        ));
    }
    if options.events_off && events {
        found.push(Remark::new(
            Level::Warning,
            "events_off is set, and table events is not empty",
            "remove events_off: changes are then seen within milliseconds and without reading the whole table",
        ));
    }
    Ok(())
}

/// Looks at a destination for a stream. Blocks.
pub fn sink(options: &Options, stream: &StreamId) -> Vec<Remark> {
    let mut found = Vec::new();
    durability(options, &mut found);
    match locate(options, Role::Sink) {
        Err(error) => found.push(Remark::new(Level::Error, error.to_string(), "")),
        Ok(None) => writable(&options.path, &mut found),
        Ok(Some(reader)) => {
            writable(&options.path, &mut found);
            writable(reader.file(), &mut found);
            let mode = fs::metadata(reader.file()).map_or(0o600, |meta| meta.permissions().mode() & 0o777);
            if mode & 0o077 != 0 {
                found.push(Remark::new(
                    Level::Warning,
                    format!("{} holds private keys and has mode {mode:04o}", reader.file().display()),
                    format!("chmod 0600 {}", reader.file().display()),
                ));
            }
            if let Err(error) = owner(&reader, stream, &mut found) {
                found.push(Remark::new(Level::Error, error.to_string(), ""));
            }
        }
    }
    found
}

fn owner(reader: &Reader, stream: &StreamId, found: &mut Vec<Remark>) -> Result<()> {
    const ATTEMPT: &str = "look for streams in the destination";
    let failed = |error| fault(ATTEMPT, error);
    let others = reader.read(ATTEMPT, |view| {
        if !schema::has_ours(view.connection).map_err(failed)? {
            return Ok(Vec::new());
        }
        let mut names = view
            .connection
            .prepare("select distinct stream from driftless_lane where stream <> ?1 limit 10")
            .map_err(failed)?;
        let names = names.query_map([stream.as_str()], |row| row.get::<_, String>(0)).map_err(failed)?;
        names.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)
    })?;
    for other in others {
        found.push(Remark::new(
            Level::Error,
            format!("{} belongs to stream {other}", reader.file().display()),
            "give this pipeline that name, or another destination",
        ));
    }
    Ok(())
}

fn durability(options: &Options, found: &mut Vec<Remark>) {
    if matches!(options.sync, Sync::Off) {
        found.push(Remark::new(
            Level::Warning,
            "sync is OFF: a power cut can break the copy, and lose changes that the source was told are safe",
            "leave sync out (FULL)",
        ));
    }
    match options.journal {
        Some(Journal::Off) => found.push(Remark::new(
            Level::Error,
            "journal is OFF: a failed commit cannot be undone",
            "leave journal out, or set WAL",
        )),
        Some(Journal::Memory) => found.push(Remark::new(
            Level::Warning,
            "journal is MEMORY: a crash in the middle of a commit can break the copy",
            "leave journal out, or set WAL",
        )),
        _ => {}
    }
}

/// Whether this process may write there, or make it.
fn writable(path: &Path, found: &mut Vec<Remark>) {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    if access(nearest, Access::WRITE_OK).is_err() {
        found.push(Remark::new(
            Level::Error,
            format!("this process may not write to {}", nearest.display()),
            format!("run as its owner, or change the owner of {}", nearest.display()),
        ));
    }
}
