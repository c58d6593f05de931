//! From a YAML file to a [`Config`] in which nothing is left to be found wrong without a connection.
//!
//! Teleport's `clone.yaml` is a valid configuration, unchanged. Every error is one sentence that names the file, the line
//! and the key, and never a value: connection strings hold passwords. `docs/configuration.md` describes every key.

mod dynamodb;
mod endpoint;
mod etcd;
mod expand;
mod pipeline;
mod rules;
mod section;
mod tree;
mod units;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use dynamodb::Dynamodb;
pub use endpoint::{AuthMode, Endpoint, Journaling, Postgresql, Secret, Sqlite, Synchronous};
pub use etcd::Etcd;
pub use expand::{Outside, Process};
pub use pipeline::{Ack, Enabled, Journal, Lanes, Manage, Pipeline};

use crate::error::{Error, Result};
use section::{Context, Section};
use tree::Value;

/// Everything that a configuration file says.
#[derive(Debug)]
pub struct Config {
    /// At least one; names differ.
    pub pipelines: Vec<Pipeline>,
    /// Where journal and local state lie.
    pub state_dir: PathBuf,
    /// Bytes that changes on their way may take, all pipelines together.
    pub memory: u64,
    /// Where `/metrics`, `/livez`, `/readyz` and `/status.json` are served while `run` runs; `None` if switched off.
    pub listen: Option<SocketAddr>,
    /// What the user should hear although it is no error.
    pub notes: Vec<String>,
}

impl Config {
    /// Bytes that one pipeline's changes may take.
    pub fn memory_of_one(&self) -> usize {
        usize::try_from(self.memory / self.pipelines.len().max(1) as u64).unwrap_or(usize::MAX)
    }
}

/// LIMIT: below this the fixed costs of a pipeline (connections, buffers of 16 KiB) leave no room for changes.
const LEAST_MEMORY: u64 = 16 << 20;

/// A duration as configuration writes it: `5s`, `4h`.
///
/// # Errors
/// What one looks like.
pub fn duration(text: &str) -> std::result::Result<std::time::Duration, String> {
    units::duration(text).ok_or_else(|| units::DURATION.to_owned())
}

/// Reads and checks a configuration file.
pub fn load(path: &Path) -> Result<Config> {
    let text = expand::read_text(path)
        .map_err(|why| Error::config(format!("read configuration {}: {why}", path.display())))?;
    parse(&path.display().to_string(), &text, &Process)
}

/// As [`load`], from text; `file` names it in errors.
pub fn parse(file: &str, text: &str, outside: &dyn Outside) -> Result<Config> {
    let context = Context { file, outside, notes: RefCell::default() };
    let tree = tree::parse(file, text)?;
    let top = Section::new(&context, "", &tree)?;
    let mut whole = Whole::default();
    whole.read(&top)?;
    let mut pipelines = match top.own("pipelines") {
        None => vec![pipeline::read(&top)?],
        Some(list) => several(&context, &top, list, &mut whole)?,
    };
    top.finish()?;
    pipeline::distinct(file, &pipelines)?;
    pipeline::shared(&mut pipelines);
    Ok(Config {
        pipelines,
        state_dir: whole.state_dir.unwrap_or_else(|| "driftless-state".into()),
        memory: whole.memory.unwrap_or(256 << 20),
        listen: whole.listen.unwrap_or(Some(SocketAddr::from(([127, 0, 0, 1], 9464)))),
        notes: context.notes.into_inner(),
    })
}

fn several(context: &Context<'_>, top: &Section<'_>, list: &tree::Node, whole: &mut Whole) -> Result<Vec<Pipeline>> {
    let Value::List(nodes) = &list.value else {
        return Err(top.wrong("pipelines", format!("must be a list of pipelines, found {}", list.value.name())));
    };
    if nodes.is_empty() {
        return Err(top.wrong("pipelines", "is empty; each pipeline has at least `src` and `dst`"));
    }
    for key in ["name", "src", "dst"] {
        if top.has(key) {
            return Err(top.wrong(key, "stands beside `pipelines`; move it into one of them"));
        }
    }
    let mut pipelines = Vec::with_capacity(nodes.len());
    for node in nodes {
        let section = Section::new(context, "pipelines", node)?.or_else(top);
        whole.read(&section)?;
        pipelines.push(pipeline::read(&section)?);
        section.finish()?;
    }
    Ok(pipelines)
}

/// Keys that belong to the process and not to one pipeline. They may stand at the top or within a pipeline, but there is
/// only one process, so two that differ are an error.
#[derive(Default)]
struct Whole {
    state_dir: Option<PathBuf>,
    memory: Option<u64>,
    listen: Option<Option<SocketAddr>>,
}

impl Whole {
    fn read(&mut self, section: &Section<'_>) -> Result<()> {
        let state_dir = section.text("state_dir")?.map(PathBuf::from);
        if state_dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            return Err(section.wrong("state_dir", "is empty; it must be a directory"));
        }
        agree(section, "state_dir", &mut self.state_dir, state_dir)?;
        agree(section, "memory", &mut self.memory, section.size("memory", LEAST_MEMORY)?)?;
        agree(section, "listen", &mut self.listen, listen(section)?)
    }
}

fn agree<T: PartialEq>(section: &Section<'_>, key: &str, all: &mut Option<T>, one: Option<T>) -> Result<()> {
    match (&all, one) {
        (_, None) => Ok(()),
        (Some(known), Some(one)) if *known != one => Err(section
            .wrong(key, "differs from what another pipeline says; the process has only one, so put it at the top")),
        (_, Some(one)) => {
            *all = Some(one);
            Ok(())
        }
    }
}

fn listen(section: &Section<'_>) -> Result<Option<Option<SocketAddr>>> {
    if let Some(tree::Node { value: Value::Bool(false), .. }) = section.node("listen") {
        return Ok(Some(None));
    }
    match section.text("listen")? {
        None => Ok(None),
        Some(text) => {
            let address = text.replace("localhost:", "127.0.0.1:");
            let expected = "must be an address and a port such as 127.0.0.1:9464, or false to serve nothing";
            address.parse().map(|address| Some(Some(address))).map_err(|_| section.wrong("listen", expected))
        }
    }
}
