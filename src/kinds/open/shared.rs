//! One reader for every source: which pipelines share it, and the journal behind it.
//!
//! The first pipeline of those that name a source is its leader: slot, publication and journal carry its name. One that has a
//! journal already, or at least state of its own, comes before others, so that a pipeline added to a file changes nothing for
//! those that run.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, Enabled, Endpoint, Lanes, Pipeline};
use crate::error::{Error, Result};
use crate::kinds::journal::relay::{Ack, Overflow, Relay, Snapshots, Wanted};
use crate::kinds::journal::{Disk, Folder, Key, Keys, OnDamage, Options, Retention, check};
use crate::model::{Level, Micros, Remark};
use crate::source::Source;
use crate::store::Store;

/// Folder of the journal within a pipeline's local state.
const FOLDER: &str = "journal";

/// Whether a pipeline's source is read through a journal.
pub fn is_journaled(pipeline: &Pipeline) -> bool {
    match pipeline.journal.enabled {
        Enabled::On => true,
        Enabled::Off => false,
        Enabled::Auto => {
            let forgets = matches!(pipeline.src, Endpoint::Sqlite(_) | Endpoint::Etcd(_) | Endpoint::Dynamodb(_));
            // Lanes stand at different places after a crash, and what is between them must be cut as it was.
            let lanes = matches!(pipeline.lanes, Lanes::Fixed(2..));
            forgets || lanes || pipeline.journal.ack == crate::config::Ack::Journal || pipeline.shares.len() > 1
        }
    }
}

/// Whether a pipeline's source is read through a journal, or may be one day: a PostgreSQL source that nobody shares is read
/// directly until it keeps half of `max_retained` for a sink that is behind.
pub fn is_relayed(pipeline: &Pipeline) -> bool {
    is_journaled(pipeline) || is_in_reserve(pipeline)
}

fn is_in_reserve(pipeline: &Pipeline) -> bool {
    let may = pipeline.journal.enabled == Enabled::Auto && !is_journaled(pipeline);
    may && matches!(pipeline.src, Endpoint::Postgresql(_))
}

/// LIMIT: what a reader in reserve takes beside a pipeline: it only has to outrun a sink that is behind.
const PARTS_IN_RESERVE: u64 = 1;
/// What a pipeline takes, or a reader that is always there: as much as the other.
const PARTS: u64 = 4;

/// Bytes of `memory` that changes may take within one pipeline, and within the reader of its source if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// In the pipeline.
    pub pipeline: usize,
    /// In the reader, which other pipelines may share.
    pub reader: usize,
}

impl Memory {
    /// The shares of a pipeline: together, those of all pipelines and of their readers are `memory`.
    pub fn of(config: &Config, pipeline: &Pipeline) -> Self {
        let leads = |one: &&Pipeline| one.shares.first().is_none_or(|first| *first == one.name);
        let readers: u64 = config.pipelines.iter().filter(leads).map(reader_parts).sum();
        let all = config.pipelines.len() as u64 * PARTS + readers;
        let share = |parts: u64| usize::try_from(config.memory / all * parts).unwrap_or(usize::MAX);
        Self { pipeline: share(PARTS), reader: share(reader_parts(pipeline)) }
    }
}

fn reader_parts(pipeline: &Pipeline) -> u64 {
    match (is_journaled(pipeline), is_in_reserve(pipeline)) {
        (true, _) => PARTS,
        (_, true) => PARTS_IN_RESERVE,
        _ => 0,
    }
}

/// The name under which a pipeline's source is read.
pub fn leader<'c>(config: &Config, pipeline: &'c Pipeline) -> &'c str {
    if !is_journaled(pipeline) {
        return &pipeline.name;
    }
    let has = |path: &str| pipeline.shares.iter().find(|name| config.state_dir.join(name).join(path).is_dir());
    has(FOLDER).or_else(|| has("")).or(pipeline.shares.first()).unwrap_or(&pipeline.name)
}

/// A source, and the present state of what its stream brings, as no filter has changed it.
pub type Followed = (Arc<dyn Source>, Arc<dyn Store>);

/// One reader of a source that several pipelines may follow.
pub struct Reader {
    relay: Arc<Relay>,
    /// For a source that is read directly while that is good enough.
    overflow: Option<Arc<Overflow>>,
}

impl Reader {
    /// The reader of this pipeline's source, which was opened under this name; snapshots are taken of what the stream
    /// follows. Touches nothing yet.
    ///
    /// # Errors
    /// Config, for a key that is none.
    pub fn new(config: &Config, pipeline: &Pipeline, name: &str, source: Followed) -> Result<Self> {
        let ack = match pipeline.journal.ack {
            crate::config::Ack::Sink => Ack::Sink,
            crate::config::Ack::Journal => Ack::Journal,
        };
        let in_reserve = is_in_reserve(pipeline);
        // One that takes over for a while keeps no past, and a source that is strained is not read twice.
        let relay = Self::open(config, pipeline, name, ack, source, !in_reserve)?;
        let folder = config.state_dir.join(name).join(FOLDER);
        let look = move || folder.is_dir().then(|| Arc::new(Folder::at(&folder)) as Arc<dyn Disk>);
        let overflow = in_reserve.then(|| Overflow::new(Arc::clone(&relay), &pipeline.name, Box::new(look)));
        Ok(Self { relay, overflow })
    }

    fn open(
        config: &Config,
        pipeline: &Pipeline,
        name: &str,
        ack: Ack,
        source: Followed,
        snapshots: bool,
    ) -> Result<Arc<Relay>> {
        let (source, store) = source;
        let keys = keys(pipeline)?;
        let folder = config.state_dir.join(name).join(FOLDER);
        let (lineage, own) = (pipeline.src.kind().to_string(), keys.clone());
        // LIMIT: room is made by whole segments that are closed, so that of a small journal a sixteenth is one.
        let segment_bytes = (pipeline.journal.max_bytes / 16).clamp(4 << 20, 64 << 20);
        // A capture that feeds no pipeline may be of a source that is read directly otherwise.
        let memory = Memory::of(config, pipeline);
        let memory = if memory.reader == 0 { memory.pipeline } else { memory.reader };
        // LIMIT: batches take half of it. As much that waits for the disk may take twice its bytes, as buffers grow.
        let waiting_bytes = (memory / 4).clamp(1 << 20, 32 << 20);
        let wanted = Wanted {
            name: name.to_owned(),
            names: pipeline.shares.clone(),
            ack,
            memory,
            disk: Box::new(move || Folder::own(&folder).map(|folder| Arc::new(folder) as Arc<dyn Disk>)),
            options: Box::new(move || Options {
                keys: own.clone(),
                on_damage: OnDamage::Cut,
                segment_bytes,
                waiting_bytes,
                ..Options::new(lineage.clone())
            }),
            keys,
            retention: Retention {
                bytes: pipeline.journal.max_bytes,
                age: micros(pipeline.journal.retain),
                outrun: true,
            },
            snapshots: pipeline.journal.snapshot_every.filter(|_| snapshots).map(|every| Snapshots { store, every }),
            now,
        };
        Ok(Relay::new(source, wanted))
    }

    /// The source as one of the pipelines sees it.
    pub fn source(&self, name: &str) -> Arc<dyn Source> {
        self.overflow.as_ref().map_or_else(|| self.relay.source(name), Overflow::source)
    }

    /// A reader that captures for nobody in particular: the source may forget what the journal has.
    ///
    /// # Errors
    /// As [`Reader::new`].
    pub fn alone(config: &Config, pipeline: &Pipeline, name: &str, source: Followed) -> Result<Self> {
        let relay = Self::open(config, pipeline, name, Ack::Journal, source, true)?;
        Ok(Self { relay, overflow: None })
    }

    /// Captures until that fails, or the future is dropped.
    ///
    /// # Errors
    /// Always, in the end: why it failed.
    pub async fn capture(&self) -> Result<Infallible> {
        self.relay.capture().await
    }

    /// Stops reading, once what was read is durable.
    ///
    /// # Errors
    /// What is wrong with the journal.
    pub async fn stop(&self) -> Result<()> {
        match &self.overflow {
            Some(overflow) => overflow.stop().await,
            None => self.relay.stop().await,
        }
    }
}

/// A journal as it lies on the disk, to read beside whoever writes it.
pub struct Log {
    /// The name that it carries: that of the first pipeline of those which follow.
    pub name: String,
    /// The pipelines that follow.
    pub pipelines: Vec<String>,
    /// Its folder.
    pub folder: PathBuf,
    /// The same, to read; no lock is taken.
    pub disk: Arc<dyn Disk>,
    /// What it is read with.
    pub keys: Keys,
}

impl Log {
    /// The journal of a pipeline's source.
    ///
    /// # Errors
    /// Config, when the source is read without one, when none was begun yet, or for a key that is none.
    pub fn of(config: &Config, pipeline: &Pipeline) -> Result<Self> {
        let name = leader(config, pipeline);
        let folder = config.state_dir.join(name).join(FOLDER);
        // `capture` begins one wherever that is not forbidden; where one was dropped, its folder is left.
        let is = |folder: &PathBuf| is_journaled(pipeline) || holds_any(folder);
        let has = pipeline.journal.enabled != Enabled::Off && folder.is_dir() && is(&folder);
        if !has && !is_journaled(pipeline) {
            let until = if is_in_reserve(pipeline) { " until its sink is far behind" } else { "" };
            return Err(Error::config(format!(
                "open the journal of {name}: it has none, because its source is read directly{until}; \
                 set `enabled: true` in `journal` to have one"
            )));
        }
        if !has {
            let place = folder.display();
            return Err(Error::config(format!("open the journal of {name}: {place} is not there; `run` begins one")));
        }
        let disk = Arc::new(Folder::at(&folder)) as Arc<dyn Disk>;
        let shares = pipeline.shares.clone();
        let pipelines = if shares.is_empty() { vec![pipeline.name.clone()] } else { shares };
        Ok(Self { name: name.to_owned(), pipelines, folder, disk, keys: keys(pipeline)? })
    }
}

/// What is wrong with the journal of a pipeline, or will be when it has one.
pub fn remarks(config: &Config, pipeline: &Pipeline) -> Vec<Remark> {
    if !is_relayed(pipeline) {
        return Vec::new();
    }
    let keys = match keys(pipeline) {
        Ok(keys) => keys,
        Err(error) => return vec![Remark::new(Level::Error, error.to_string(), "")],
    };
    let expected = check::Expected {
        max_bytes: pipeline.journal.max_bytes,
        snapshot_every: pipeline.journal.snapshot_every.filter(|_| is_journaled(pipeline)).map(micros),
        now: now(),
    };
    let folder = config.state_dir.join(leader(config, pipeline)).join(FOLDER);
    check::check(&folder, &keys, expected)
}

fn micros(duration: std::time::Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

/// Whether a pipeline has a journal that holds something, although its source may be read directly.
pub fn is_begun(config: &Config, pipeline: &Pipeline) -> bool {
    pipeline.journal.enabled != Enabled::Off && holds_any(&config.state_dir.join(leader(config, pipeline)).join(FOLDER))
}

/// Whether a journal's folder holds anything of one.
fn holds_any(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|ending| ending == "segment"))
}

fn keys(pipeline: &Pipeline) -> Result<Keys> {
    let parse = |text: &crate::config::Secret| {
        Key::parse(text.reveal())
            .map_err(|error| error.during(format!("read the keys of `journal` of {}", pipeline.name)))
    };
    let mut keys = match &pipeline.journal.key {
        Some(key) => Keys::new(parse(key)?),
        None => Keys::default(),
    };
    for old in &pipeline.journal.old_keys {
        keys = keys.with_old(parse(old)?);
    }
    Ok(keys)
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each pipeline of this file takes, and its reader.
    fn memory(pipelines: &str) -> Vec<Memory> {
        let text = format!("memory: 120MiB\npipelines:\n{pipelines}");
        let config = crate::config::parse("f", &text, &crate::config::Process).unwrap();
        config.pipelines.iter().map(|pipeline| Memory::of(&config, pipeline)).collect()
    }

    #[test]
    fn pipelines_and_their_readers_share_what_there_is() {
        let shares = |pipeline: u64, reader: u64| Memory {
            pipeline: (pipeline << 20) as usize,
            reader: (reader << 20) as usize,
        };
        let to = |name: &str| format!("dst: {{ type: sqlite, path: /nowhere/{name} }}");
        let file = format!("  - {{ name: a, src: {{ type: sqlite, path: /nowhere/src }}, {} }}\n", to("a"));
        assert_eq!(memory(&file), [shares(60, 60)], "a journal is always there");
        let database = "src: { type: postgresql, conn_string: 'postgresql://h/d' }";
        let alone = format!("  - {{ name: a, {database}, {} }}\n", to("a"));
        assert_eq!(memory(&alone), [shares(96, 24)], "one in reserve");
        let off = format!("  - {{ name: a, journal: {{ enabled: false }}, {database}, {} }}\n", to("a"));
        assert_eq!(memory(&off), [shares(120, 0)]);
        let two = format!("{alone}  - {{ name: b, {database}, {} }}\n", to("b"));
        assert_eq!(memory(&two), [shares(40, 40); 2], "two that share one reader");
    }
}
