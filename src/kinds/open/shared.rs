//! One reader for every source: which pipelines share it, and the journal behind it.
//!
//! The first pipeline of those that name a source is its leader: slot, publication and journal carry its name. One that has a
//! journal already, or at least state of its own, comes before others, so that a pipeline added to a file changes nothing for
//! those that run.

use std::sync::Arc;

use crate::config::{Config, Enabled, Endpoint, Pipeline};
use crate::error::Result;
use crate::kinds::journal::relay::{Ack, Relay, Wanted};
use crate::kinds::journal::{Disk, Folder, Key, Keys, OnDamage, Options, Retention};
use crate::source::Source;

/// Folder of the journal within a pipeline's local state.
const FOLDER: &str = "journal";

/// Whether a pipeline's source is read through a journal.
pub fn is_journaled(config: &Config, pipeline: &Pipeline) -> bool {
    match pipeline.journal.enabled {
        Enabled::On => true,
        Enabled::Off => false,
        Enabled::Auto => {
            let forgets = matches!(pipeline.src, Endpoint::Sqlite(_));
            forgets || pipeline.journal.ack == crate::config::Ack::Journal || mates(config, pipeline).count() > 1
        }
    }
}

/// The pipeline under whose name a pipeline's source is read.
pub fn leader<'c>(config: &'c Config, pipeline: &'c Pipeline) -> &'c Pipeline {
    if !is_journaled(config, pipeline) {
        return pipeline;
    }
    let has = |path: &str| {
        let mut mates = mates(config, pipeline);
        mates.find(|mate| config.state_dir.join(&mate.name).join(path).is_dir())
    };
    has(FOLDER).or_else(|| has("")).or_else(|| mates(config, pipeline).next()).unwrap_or(pipeline)
}

fn mates<'c>(config: &'c Config, pipeline: &'c Pipeline) -> impl Iterator<Item = &'c Pipeline> {
    config.pipelines.iter().filter(|other| other.src == pipeline.src)
}

/// One reader of a source that several pipelines may follow.
pub struct Reader(Arc<Relay>);

impl Reader {
    /// The reader of this pipeline's source, which was opened under the leader's name. Touches nothing yet.
    ///
    /// # Errors
    /// Config, for a key that is none.
    pub fn new(config: &Config, pipeline: &Pipeline, source: Arc<dyn Source>) -> Result<Self> {
        let leader = leader(config, pipeline);
        let keys = keys(leader)?;
        let folder = config.state_dir.join(&leader.name).join(FOLDER);
        let (lineage, own) = (leader.src.kind().to_string(), keys.clone());
        let wanted = Wanted {
            name: leader.name.clone(),
            names: mates(config, pipeline).map(|mate| mate.name.clone()).collect(),
            ack: match leader.journal.ack {
                crate::config::Ack::Sink => Ack::Sink,
                crate::config::Ack::Journal => Ack::Journal,
            },
            memory: config.memory_of_one() / 2,
            disk: Box::new(move || Folder::own(&folder).map(|folder| Arc::new(folder) as Arc<dyn Disk>)),
            options: Box::new(move || Options {
                keys: own.clone(),
                on_damage: OnDamage::Cut,
                ..Options::new(lineage.clone())
            }),
            keys,
            retention: Retention {
                bytes: leader.journal.max_bytes,
                age: i64::try_from(leader.journal.retain.as_micros()).unwrap_or(i64::MAX),
                outrun: true,
            },
            now,
        };
        Ok(Self(Relay::new(source, wanted)))
    }

    /// The source as one of the pipelines sees it.
    pub fn source(&self, name: &str) -> Arc<dyn Source> {
        self.0.source(name)
    }

    /// Stops reading, once what was read is durable.
    ///
    /// # Errors
    /// What is wrong with the journal.
    pub async fn stop(&self) -> Result<()> {
        self.0.stop().await
    }
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
