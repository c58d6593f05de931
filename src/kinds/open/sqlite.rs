//! The kind SQLite from its keys. What Teleport does with its own file is not judged: only a sink's `journal` matters.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use super::{Endpoint, Side, Special, Wanted};
use crate::config::{Journaling, Sqlite, Synchronous};
use crate::error::{Error, Result};
use crate::kinds::sqlite::check;
use crate::kinds::sqlite::{Journal, Options, Role, SqliteSink, SqliteSource, SqliteStore, Sync};
use crate::model::{Kind, Layout, Remark, StreamId};
use crate::sink::Sink;
use crate::source::{Fut, Source};
use crate::store::Store;

pub(super) fn open(wanted: Wanted<'_>, keys: &Sqlite, side: Side) -> Result<Endpoint> {
    let options = options(keys, side)?;
    let role = if side == Side::Source { Role::Source } else { Role::Sink };
    let store: Option<Arc<dyn Store>> = Some(Arc::new(SqliteStore::open(&options, role)?));
    let (source, sink) = match side {
        Side::Source => (Some(Arc::new(SqliteSource::open(&options)?) as Arc<dyn Source>), None),
        Side::Sink => (None, Some(Arc::new(SqliteSink::open(&options)?) as Arc<dyn Sink>)),
    };
    let place = format!("sqlite {}", options.file().display());
    let stream = StreamId::new(wanted.name);
    let special = Box::new(Backend { options, side, stream });
    Ok(Endpoint {
        kind: Kind::Sqlite,
        layout: Layout::Teleport,
        source,
        sink,
        followed: store.clone(),
        store,
        place,
        special,
    })
}

/// One file, for questions that only this kind answers.
struct Backend {
    options: Options,
    side: Side,
    stream: StreamId,
}

impl Special for Backend {
    /// Device and number of the file, which two links to it share.
    fn identity(&self) -> Fut<'_, Option<String>> {
        let metadata = std::fs::metadata(self.options.file()).ok();
        let identity = metadata.map(|metadata| format!("sqlite {}/{}", metadata.dev(), metadata.ino()));
        Box::pin(async { Ok(identity) })
    }

    fn remarks(&self) -> Fut<'_, Vec<Remark>> {
        // Reads a local file for a moment, in a command that has nothing else to do meanwhile.
        Box::pin(async {
            let found = match self.side {
                Side::Source => check::source(&self.options),
                Side::Sink => check::sink(&self.options, &self.stream),
            };
            Ok(found)
        })
    }
}

fn options(keys: &Sqlite, side: Side) -> Result<Options> {
    let mut options = Options::new(&keys.path);
    options.busy_timeout = keys.busy_timeout;
    options.events_off = keys.events_off;
    options.sync = match keys.sync {
        Some(Synchronous::Off) => Sync::Off,
        Some(Synchronous::Normal) => Sync::Normal,
        Some(Synchronous::Extra) => Sync::Extra,
        Some(Synchronous::Full) | None => Sync::Full,
    };
    options.journal = match keys.journal {
        // What Teleport does with its own file is not ours to judge.
        Some(_) if side == Side::Source => None,
        None => None,
        Some(Journaling::Delete) => Some(Journal::Delete),
        Some(Journaling::Truncate) => Some(Journal::Truncate),
        Some(Journaling::Persist) => Some(Journal::Persist),
        Some(Journaling::Wal) => Some(Journal::Wal),
        Some(Journaling::Memory) => Some(Journal::Memory),
        Some(Journaling::Off) => {
            return Err(Error::config(
                "open dst: `journal: OFF` cannot undo a failed commit, on which a replica relies; choose DELETE or WAL",
            ));
        }
    };
    Ok(options)
}
