//! The keys of one pipeline, and what must hold between its two sides and between pipelines.

use std::time::Duration;

use crate::config::endpoint::{self, Endpoint, Secret};
use crate::config::rules;
use crate::config::section::Section;
use crate::error::{Error, Result};
use crate::filter::rules::Rules;
use crate::model::Layout;

/// One source to one sink under one stream name.
#[derive(Debug)]
pub struct Pipeline {
    /// Stream name: identifies its checkpoints in the sink.
    pub name: String,
    /// Where changes come from.
    pub src: Endpoint,
    /// Where they go.
    pub dst: Endpoint,
    /// Names of all pipelines of the file that name this source, itself included, in the order of the file.
    pub shares: Vec<String>,
    /// Concurrent requests while copying, at least 1.
    pub parallel: usize,
    /// Whether a destination may hold data that this stream did not write.
    pub force: bool,
    /// With `force`: also remove what only the destination has.
    pub prune: bool,
    /// The local log between source and sink.
    pub journal: Journal,
    /// Bytes of WAL that may be kept at a PostgreSQL source.
    pub max_retained: u64,
    /// What may be created at a source.
    pub manage: Manage,
    /// How many lanes.
    pub lanes: Lanes,
    /// Readiness is off above this delay.
    pub lag_budget: Duration,
    /// What is left out, renamed and replaced. `.locks/` is left out beside that in the teleport layout.
    pub rules: Rules,
}

/// The local log between source and sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Whether it is used.
    pub enabled: Enabled,
    /// Most bytes that it takes on disk.
    pub max_bytes: u64,
    /// How long records that every sink has are kept.
    pub retain: Duration,
    /// How old the newest snapshot in it may become; `None`: none are taken.
    pub snapshot_every: Option<Duration>,
    /// What the source is told that we have.
    pub ack: Ack,
    /// The key that it is encrypted with, if any: 32 bytes as hexadecimal digits or base64.
    pub key: Option<Secret>,
    /// Keys that older parts of it may be encrypted with.
    pub old_keys: Vec<Secret>,
}

/// Whether a journal is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabled {
    /// Where the source cannot keep its history for long.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// When a source may forget a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Once the sink has it.
    Sink,
    /// Once the journal has it.
    Journal,
}

/// What driftless may create at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manage {
    /// PostgreSQL: the replication slot.
    pub slot: bool,
    /// PostgreSQL: the publication.
    pub publication: bool,
    /// DynamoDB: the stream.
    pub stream: bool,
}

/// How many lanes a pipeline has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// As suits the two kinds.
    Auto,
    /// This many.
    Fixed(u16),
}

/// LIMIT: a replication slot's name has 63 characters, of which `driftless_` takes ten.
const MAX_NAME: usize = 50;
/// LIMIT: each is a connection to source and sink while copying; PostgreSQL's default allows 100 in all.
const MAX_PARALLEL: i64 = 1024;

/// Reads the keys of a pipeline. The section is not finished: the caller reads its own keys from it too.
pub(super) fn read(section: &Section<'_>) -> Result<Pipeline> {
    let src = endpoint::read(section, "src")?;
    let dst = endpoint::read(section, "dst")?;
    let name = match section.own("name") {
        Some(_) => section.text("name")?.unwrap_or_default(),
        None => format!("{}-to-{}", src.kind(), dst.kind()),
    };
    valid_name(&name).map_err(|why| section.wrong("name", why))?;
    together(section, &src, &dst)?;
    let (lanes, journal) = (lanes(section)?, journal(section)?);
    if matches!(lanes, Lanes::Fixed(2..)) && journal.enabled == Enabled::Off {
        return Err(section.wrong("lanes", "above 1 needs the journal, and `journal` says `enabled: false`"));
    }
    if matches!(lanes, Lanes::Fixed(2..)) && src.layout() == Layout::Raw && matches!(src, Endpoint::Dynamodb(_)) {
        return Err(
            section.wrong("lanes", "above 1 needs a source that is read in the order of keys; a raw table is not")
        );
    }
    // Teleport reads 0 and less as 1.
    let parallel = section.number("parallel", i64::MIN, MAX_PARALLEL)?.unwrap_or(4).max(1);
    Ok(Pipeline {
        name,
        parallel: usize::try_from(parallel).expect("a number from 1 to 1024 fits"),
        force: section.truth("force")?.unwrap_or(false),
        prune: section.truth("prune")?.unwrap_or(false),
        journal,
        max_retained: section.size("max_retained", 64 << 20)?.unwrap_or(20 << 30),
        manage: manage(section)?,
        lanes,
        lag_budget: section.duration("lag_budget")?.unwrap_or(Duration::from_secs(5)),
        rules: rules::read(section, src.layout())?,
        shares: Vec::new(),
        src,
        dst,
    })
}

fn valid_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && name.len() <= MAX_NAME && name.chars().all(plain) {
        return Ok(());
    }
    Err(format!(
        "must begin with a letter or digit and hold at most {MAX_NAME} of: letters, digits, `-`, `_`, `.`; it names files and slots"
    ))
}

fn together(section: &Section<'_>, src: &Endpoint, dst: &Endpoint) -> Result<()> {
    if src.layout() != dst.layout() {
        return Err(section.wrong("layout", "must be the same in `src` and `dst`"));
    }
    if src.layout() == Layout::Raw && src.kind() != dst.kind() {
        let what = format!(
            "are of different kinds ({} and {}), which `layout: raw` cannot connect; leave `layout` out to copy Teleport's items",
            src.kind(),
            dst.kind()
        );
        return Err(section.context.error(section.line_of("src"), format!("`src` and `dst` {what}")));
    }
    if let Some(place) = src.same_place(dst) {
        let what = format!("`src` and `dst` are the same {place}; a replica needs a place of its own");
        return Err(section.context.error(section.line_of("dst"), what));
    }
    Ok(())
}

fn journal(section: &Section<'_>) -> Result<Journal> {
    let mut journal = Journal {
        enabled: Enabled::Auto,
        max_bytes: 50 << 30,
        retain: Duration::from_secs(86_400),
        snapshot_every: Some(Duration::from_secs(86_400)),
        ack: Ack::Sink,
        key: None,
        old_keys: Vec::new(),
    };
    let Some(keys) = section.section("journal")? else {
        return Ok(journal);
    };
    match keys.word("enabled", &["auto", "true", "false", "on", "off"])? {
        None | Some(0) => {}
        Some(1 | 3) => journal.enabled = Enabled::On,
        Some(_) => journal.enabled = Enabled::Off,
    }
    journal.max_bytes = keys.size("max_bytes", 64 << 20)?.unwrap_or(journal.max_bytes);
    journal.retain = keys.duration("retain")?.unwrap_or(journal.retain);
    journal.snapshot_every = match keys.node("snapshot_every") {
        Some(node) if node.is_text("never") || node.is_zero() => None,
        None => journal.snapshot_every,
        Some(_) => keys.duration("snapshot_every")?.filter(|every| !every.is_zero()),
    };
    if keys.word("ack", &["sink", "journal"])? == Some(1) {
        journal.ack = Ack::Journal;
    }
    journal.key = keys.text("key")?.map(Secret::new);
    journal.old_keys = keys.texts("old_keys")?.unwrap_or_default().into_iter().map(Secret::new).collect();
    if journal.ack == Ack::Journal && journal.enabled == Enabled::Off {
        return Err(keys.wrong("ack", "is `journal`, and `enabled` says that there is none"));
    }
    if cfg!(not(feature = "journal")) && (journal.enabled == Enabled::On || journal.ack == Ack::Journal) {
        let key = if journal.enabled == Enabled::On { "enabled" } else { "ack" };
        return Err(keys.wrong(key, "asks for a journal, which was left out of this build"));
    }
    keys.finish()?;
    Ok(journal)
}

fn manage(section: &Section<'_>) -> Result<Manage> {
    let mut manage = Manage { slot: true, publication: true, stream: false };
    let Some(keys) = section.section("manage")? else {
        return Ok(manage);
    };
    manage.slot = keys.truth("slot")?.unwrap_or(manage.slot);
    manage.publication = keys.truth("publication")?.unwrap_or(manage.publication);
    manage.stream = keys.truth("stream")?.unwrap_or(manage.stream);
    keys.finish()?;
    Ok(manage)
}

fn lanes(section: &Section<'_>) -> Result<Lanes> {
    match section.node("lanes") {
        Some(node) if node.is_text("auto") => Ok(Lanes::Auto),
        None => Ok(Lanes::Auto),
        // LIMIT: every lane is a connection and a thread; beyond 64 a sink's own locks are the wall.
        Some(_) => match section.number("lanes", 1, 64) {
            Ok(lanes) => Ok(lanes.and_then(|n| u16::try_from(n).ok()).map_or(Lanes::Auto, Lanes::Fixed)),
            Err(_) => Err(section.wrong("lanes", "must be `auto` or a whole number from 1 to 64")),
        },
    }
}

/// Writes down which pipelines name the same source.
pub(super) fn shared(pipelines: &mut [Pipeline]) {
    let shares = |pipeline: &Pipeline| {
        let mates = pipelines.iter().filter(|other| other.src == pipeline.src);
        mates.map(|mate| mate.name.clone()).collect::<Vec<_>>()
    };
    let all: Vec<_> = pipelines.iter().map(shares).collect();
    for (pipeline, shares) in pipelines.iter_mut().zip(all) {
        pipeline.shares = shares;
    }
}

/// Refuses two pipelines of one name, and those of one source that do not agree on its journal.
pub(super) fn distinct(file: &str, pipelines: &[Pipeline]) -> Result<()> {
    for (i, later) in pipelines.iter().enumerate() {
        if let Some(earlier) = pipelines[..i].iter().find(|one| one.src == later.src && one.journal != later.journal) {
            let (one, other) = (&earlier.name, &later.name);
            let what = format!(
                "`{one}` and `{other}` read the same source and share its journal, but say different things about \
                 `journal`; put it at the top, or make the two equal"
            );
            return Err(Error::config(format!("read {file}: {what}")));
        }
        if pipelines[..i].iter().any(|earlier| earlier.name == later.name) {
            let what = format!("two pipelines are called `{}`; give each a `name` of its own", later.name);
            return Err(Error::config(format!("read {file}: {what}")));
        }
    }
    Ok(())
}
