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
        // LIMIT: what is being written, and as much that is made meanwhile.
        let waiting_bytes = (config.memory_of_one() / 8).clamp(1 << 20, 32 << 20);
        let wanted = Wanted {
            name: name.to_owned(),
            names: pipeline.shares.clone(),
            ack,
            memory: config.memory_of_one() / 2,
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
