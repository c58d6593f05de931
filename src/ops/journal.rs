//! `journal`: what was captured of a source, for people.
//!
//! Reads beside the process that writes: takes no lock, makes nothing, changes nothing. A journal that several pipelines
//! follow is read once. Memory: one frame and one batch, however long the journal is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::config::{Config, Pipeline};
use crate::error::{Error, Fault, Result};
use crate::kinds::journal::{
    self, Cursor, Disk, Given, Keys, Note, Reader, SegmentInfo, Snapshot, list as segments, snapshots, verify_beside,
};
use crate::kinds::open::shared::{Log, is_begun, is_journaled};
use crate::model::{Batch, Checkpoint, Micros, Op, PartitionId, Position, Steps};

/// LIMIT: changes are shown in pieces of about this many bytes.
const FILL: usize = 256 << 10;

/// What a journal consists of.
pub struct Listing {
    /// The journal's name.
    pub name: String,
    /// The pipelines that follow.
    pub pipelines: Vec<String>,
    /// Its folder.
    pub folder: String,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// Registered readers, with the bytes that are kept for each.
    pub readers: Vec<(Cursor, u64)>,
    /// Whole snapshots, oldest first; or why they are not known.
    pub snapshots: Result<Vec<Snapshot>>,
}

/// What a journal was found to be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The journal's name.
    pub name: String,
    /// Nothing is damaged or missing.
    pub sound: bool,
    /// Segments that were there at the beginning.
    pub segments: u64,
    /// Frames that are sound.
    pub frames: u64,
    /// Changes in them.
    pub changes: u64,
    /// Items of snapshots in them.
    pub items: u64,
    /// What is damaged or missing, one sentence each, with segment, byte and frame.
    pub damage: Vec<String>,
    /// A write was under way, or was cut short by a crash: no damage.
    pub torn: bool,
    /// How long it took.
    pub seconds: f64,
}

/// One end of what is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A commit time.
    Time(Micros),
    /// A position: of this partition, or of the only one that the journal has.
    Position(Option<PartitionId>, Position),
}

/// As it is read again.
impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Time(time) => match jiff::Timestamp::from_microsecond(*time) {
                Ok(time) => write!(f, "{time}"),
                Err(_) => write!(f, "{time} microseconds since 1970"),
            },
            Self::Position(Some(partition), position) => write!(f, "{partition}{position}"),
            Self::Position(None, position) => write!(f, "{position}"),
        }
    }
}

impl std::str::FromStr for Bound {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(Self::Time(time.as_microsecond()));
        }
        let (partition, position) = match text.rfind('@') {
            Some(at) => text.split_at(at),
            None => ("", text),
        };
        // As `status` writes it, there is a space between the two.
        let partition = partition.trim_end();
        let position = position.parse().map_err(|_| {
            Error::config(format!(
                "read {text:?}: it is neither a time such as 2026-04-01T12:10:30Z nor a position such as @42"
            ))
        })?;
        Ok(Self::Position((!partition.is_empty()).then(|| PartitionId::new(partition)), position))
    }
}

/// What is shown of a journal.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Where it begins: at the time, or behind the position.
    pub from: Option<Bound>,
    /// Where it ends: with the time, or with the position.
    pub until: Option<Bound>,
}

/// Something that a journal holds.
pub enum Entry<'a> {
    /// A change, or an item of a snapshot.
    Change(Change<'a>),
    /// Something that has to be known.
    Note(&'a Note),
}

/// A change. Key and body are secret.
pub struct Change<'a> {
    /// In which partition.
    pub partition: &'a PartitionId,
    /// The place right behind it; none where places are keys.
    pub position: Option<Position>,
    /// The snapshot that it is an item of, if it is one.
    pub snapshot: Option<u64>,
    /// Commit time, 0 when unknown.
    pub at: Micros,
    /// What it does.
    pub op: Op,
    /// Its table, empty in key-value layouts.
    pub table: &'a str,
    /// Its key.
    pub key: &'a [u8],
    /// The key that it had before, where that is another one.
    pub before: Option<&'a [u8]>,
    /// Its body, in the source kind's own encoding.
    pub body: &'a [u8],
}

/// The journals of the configured pipelines, each once. `named`: somebody asked for just these pipelines, so that each must
/// have one.
///
/// # Errors
/// Config, when a pipeline has none.
pub fn journals(config: &Config, named: bool) -> Result<Vec<Log>> {
    let has = |pipeline: &&Pipeline| is_journaled(pipeline) || is_begun(config, pipeline);
    let any = config.pipelines.iter().any(|pipeline| has(&pipeline));
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for pipeline in config.pipelines.iter().filter(|pipeline| named || !any || has(pipeline)) {
        let log = Log::of(config, pipeline)?;
        if seen.insert(log.name.clone()) {
            found.push(log);
        }
    }
    Ok(found)
}

/// Segments, readers and snapshots. Reads heads only, but for the newest segment.
///
/// # Errors
/// Config, when the folder cannot be read.
pub fn ls(log: &Log) -> Result<Listing> {
    let segments = segments(&log.disk)?;
    let kept = |cursor: &Cursor| segments.iter().filter(|s| s.last >= cursor.sequence).map(|s| s.bytes).sum();
    let readers = Cursor::all(&*log.disk)?.into_iter().map(|cursor| (kept(&cursor), cursor));
    Ok(Listing {
        name: log.name.clone(),
        pipelines: log.pipelines.clone(),
        folder: log.folder.display().to_string(),
        readers: readers.map(|(bytes, cursor)| (cursor, bytes)).collect(),
        snapshots: snapshots(&log.disk, &log.keys),
        segments,
    })
}

/// Reads all of a journal and checks every frame.
///
/// # Errors
/// Config, when the folder cannot be read or a key is missing; damage is no error.
pub fn verify(log: &Log) -> Result<Checked> {
    let begun = Instant::now();
    let segments = segments(&log.disk)?.len() as u64;
    let found = verify_beside(&log.disk, &log.keys)?;
    Ok(Checked {
        name: log.name.clone(),
        sound: found.damage.is_empty(),
        segments,
        frames: found.frames,
        changes: found.changes,
        items: found.items,
        damage: found.damage,
        torn: found.torn,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Gives what a journal holds to `take`, in its order, until that says no. What a writer adds meanwhile is not waited for.
///
/// # Errors
/// PositionLost, when the journal does not hold the position to begin with; Corrupt, when it is damaged; Config, for a
/// position without a partition where there are several, or a missing key.
pub fn show(log: &Log, range: &Range, take: &mut dyn FnMut(Entry<'_>) -> Result<bool>) -> Result<()> {
    let (disk, keys) = (&log.disk, &log.keys);
    let through = Reader::settled(&**disk);
    let (from, until) = (Edge::of(range.from.as_ref(), disk, keys)?, Edge::of(range.until.as_ref(), disk, keys)?);
    let mut window = Window { from, until, latest: 0 };
    let mut reader = window.begin(disk, keys)?;
    loop {
        let mut batch = Batch::unpooled();
        let goes_on = match reader.next(&mut batch, FILL, through)? {
            Given::Run => changes(&batch, None, &mut window, take)?,
            Given::Page(snapshot) => changes(&batch, Some(snapshot), &mut window, take)?,
            Given::Note(note) => !window.shows(&note) || take(Entry::Note(&note))?,
            Given::End | Given::Torn(_) => false,
        };
        if !goes_on {
            return Ok(());
        }
    }
}

fn changes(
    batch: &Batch,
    snapshot: Option<u64>,
    window: &mut Window,
    take: &mut dyn FnMut(Entry<'_>) -> Result<bool>,
) -> Result<bool> {
    for (index, row) in batch.rows().enumerate() {
        // A place that the source knows, where one stands behind the change, says more than a count from the last one.
        let mark = batch.marks().get(batch.marks().partition_point(|mark| mark.changes <= index));
        let mark = mark.filter(|mark| mark.changes == index + 1);
        let position = mark.map_or_else(|| batch.position(index), |mark| mark.upto.clone());
        if snapshot.is_none() {
            if window.until.is_behind(&batch.partition, &position) {
                return Ok(false);
            }
            window.latest = window.latest.max(row.at);
            if !window.from.is_behind(&batch.partition, &position) && matches!(window.from, Edge::Position(..)) {
                continue;
            }
        }
        if !window.spans(if snapshot.is_some() { window.latest } else { row.at }) {
            continue;
        }
        let entry = Change {
            partition: &batch.partition,
            position: (batch.steps == Steps::Ordinal && snapshot.is_none()).then_some(position),
            snapshot,
            at: row.at,
            op: row.op,
            table: &row.table.name,
            key: row.key,
            before: row.from,
            body: row.body,
        };
        if !take(Entry::Change(entry))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One end, with its partition.
enum Edge {
    Open,
    Time(Micros),
    Position(PartitionId, Position),
}

impl Edge {
    fn of(bound: Option<&Bound>, disk: &Arc<dyn Disk>, keys: &Keys) -> Result<Self> {
        Ok(match bound {
            None => Self::Open,
            Some(Bound::Time(time)) => Self::Time(*time),
            Some(Bound::Position(Some(partition), position)) => Self::Position(partition.clone(), position.clone()),
            Some(Bound::Position(None, position)) => Self::Position(only(disk, keys)?, position.clone()),
        })
    }

    /// Whether a change of this partition lies behind it, as a position.
    fn is_behind(&self, partition: &PartitionId, at: &Position) -> bool {
        matches!(self, Self::Position(own, position) if own == partition && at > position)
    }
}

/// The partition of a journal that has only one.
pub(super) fn only(disk: &Arc<dyn Disk>, keys: &Keys) -> Result<PartitionId> {
    let reached = journal::reached(disk, keys)?;
    let mut all = reached.iter().map(|(partition, _)| partition).filter(|partition| !partition.is_engine());
    match (all.next(), all.next()) {
        (Some(partition), None) => Ok(partition.clone()),
        (None, _) => Err(Error::config("find a position in the journal: it holds no partition yet")),
        _ => Err(Error::config(format!(
            "find a position in the journal: it holds several partitions, so write which one; it is at {reached}"
        ))),
    }
}

/// What is shown.
struct Window {
    from: Edge,
    until: Edge,
    /// The latest commit time that was met: when those things happened that have no time of their own.
    latest: Micros,
}

impl Window {
    fn begin(&self, disk: &Arc<dyn Disk>, keys: &Keys) -> Result<Reader> {
        let (disk, keys) = (Arc::clone(disk), keys.clone());
        match &self.from {
            Edge::Open => Reader::at_beginning(disk, keys),
            Edge::Position(partition, position) => Reader::at_position(disk, keys, partition, position),
            Edge::Time(time) => match Reader::at_time(Arc::clone(&disk), keys.clone(), *time) {
                Err(error) if error.fault() == Fault::PositionLost => {
                    tracing::warn!("the journal may begin later than that; what it holds is shown from its beginning");
                    Reader::at_beginning(disk, keys)
                }
                other => other,
            },
        }
    }

    /// Whether a time, where one is known, lies within.
    fn spans(&self, at: Micros) -> bool {
        let early = matches!(self.from, Edge::Time(from) if at < from);
        let late = matches!(self.until, Edge::Time(until) if at > until);
        at == 0 || (!early && !late)
    }

    fn shows(&self, note: &Note) -> bool {
        self.spans(match note {
            Note::Gap { at, .. } | Note::Began { at, .. } | Note::Ended { at, .. } => *at,
            Note::Forgot(_) | Note::Released(_) => self.latest,
        })
    }
}

/// What a note says: its name, its time (0 when it has none), the snapshot it is about, a sentence, and the places it names.
pub fn told(note: &Note) -> (&'static str, Micros, Option<u64>, &str, &Checkpoint) {
    match note {
        Note::Gap { at, why, lost } => ("gap", *at, None, why, lost),
        Note::Forgot(places) => ("forgot", 0, None, "", places),
        Note::Began { snapshot, at, head } => ("snapshot_began", *at, Some(*snapshot), "", head),
        Note::Ended { snapshot, at, whole: true, head } => ("snapshot_ended", *at, Some(*snapshot), "", head),
        Note::Ended { snapshot, at, whole: false, head } => ("snapshot_given_up", *at, Some(*snapshot), "", head),
        Note::Released(places) => ("released", 0, None, "", places),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_time_or_a_position_with_or_without_its_partition() {
        let at = |text: &str| text.parse::<Bound>();
        assert_eq!(at("2026-04-01T12:10:30Z").unwrap(), Bound::Time(1_775_045_430_000_000));
        assert_eq!(at("2026-04-01T14:10:30.5+02:00").unwrap(), Bound::Time(1_775_045_430_500_000));
        assert_eq!(at("@42").unwrap(), Bound::Position(None, Position::at("42")));
        assert_eq!(at("start").unwrap(), Bound::Position(None, Position::Start));
        let named = Bound::Position(Some(PartitionId::new("pg/1/2/slot")), Position::at("00/01").plus(3));
        for text in ["pg/1/2/slot@00/01#3", "pg/1/2/slot @00/01#3"] {
            assert_eq!(at(text).unwrap(), named);
            assert_eq!(at(&named.to_string()).unwrap(), named);
        }
        for wrong in ["", "yesterday", "2026-04-01", "@1#x"] {
            assert_eq!(at(wrong).unwrap_err().fault(), Fault::Config, "{wrong}");
        }
    }
}
