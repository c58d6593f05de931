//! For people: which segments there are, and whether all that they hold is sound.
//!
//! Deliberately unlike a reader it does not stop at damage: each segment is judged for itself, and then how they join.

use std::sync::Arc;

use super::crypt::Keys;
use super::files::Disk;
use super::format::segment_name;
use super::reader::{Given, Reader};
use super::segment::{Found, Segment, head_of, segments, unreadable};
use crate::error::{Error, Fault, Result};
use crate::model::{Batch, Micros};

/// LIMIT: a run is looked at in pieces of about this many bytes.
const FILL: usize = 1 << 20;

/// A segment, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The file.
    pub name: String,
    /// Which history it is a piece of.
    pub lineage: String,
    /// Its first frame.
    pub first: u64,
    /// Its last frame; one less than `first` when it holds none.
    pub last: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of its records when unpacked.
    pub unpacked: u64,
    /// When it was begun, by the writer's clock.
    pub made: Micros,
    /// The earliest known commit time in it, 0 when none is.
    pub earliest: Micros,
    /// The latest.
    pub latest: Micros,
    /// The key that it is encrypted with, if it is.
    pub key: Option<u64>,
    /// What is wrong with it, in one sentence.
    pub damage: Option<String>,
}

/// What was found when all of a journal was read.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Verified {
    /// Frames that are sound.
    pub frames: u64,
    /// Changes in them.
    pub changes: u64,
    /// Items of snapshots in them.
    pub items: u64,
    /// What is damaged or missing, a sentence each.
    pub damage: Vec<String>,
    /// A write that was under way, or that a crash cut short: no damage.
    pub torn: bool,
}

/// The segments of a journal, oldest first. Reads the heads of segments and frames only, and needs no key where `keys` holds
/// none: then sizes and times of encrypted segments are still known.
///
/// # Errors
/// Config, when the folder cannot be read.
pub fn list(disk: &Arc<dyn Disk>) -> Result<Vec<SegmentInfo>> {
    let disk = &**disk;
    segments(disk)?.into_iter().map(|first| info(disk, first)).collect()
}

fn info(disk: &dyn Disk, first: u64) -> Result<SegmentInfo> {
    let name = segment_name(first);
    let length = disk.open(&name).and_then(|file| file.length());
    let bytes = length.map_err(|error| unreadable(&name, error))?;
    let mut info = SegmentInfo {
        name,
        lineage: String::new(),
        first,
        last: first - 1,
        bytes,
        unpacked: 0,
        made: 0,
        earliest: 0,
        latest: 0,
        key: None,
        damage: None,
    };
    if let Err(error) = skim(disk, &mut info) {
        info.damage = Some(error.to_string());
    }
    Ok(info)
}

fn skim(disk: &dyn Disk, info: &mut SegmentInfo) -> Result<()> {
    let Some(head) = head_of(disk, info.first)? else { return Err(Error::corrupt("its head is cut short")) };
    (info.lineage, info.made, info.key) = (head.lineage, head.made, head.key);
    let Some(mut segment) = Segment::open_heads(disk, info.first)? else { return Ok(()) };
    while let Found::Frame(frame) = segment.skim(disk)? {
        info.last = frame.sequence;
        info.unpacked += u64::from(frame.records);
        if frame.earliest != 0 {
            info.earliest = if info.earliest == 0 { frame.earliest } else { info.earliest.min(frame.earliest) };
        }
        info.latest = info.latest.max(frame.latest);
    }
    Ok(())
}

/// Reads all of a journal, up to frame `through` (see [`Reader::next`]), and says all that is wrong with it.
///
/// # Errors
/// Config, when the folder cannot be read or a key is missing.
#[cfg(test)]
pub fn verify(disk: &Arc<dyn Disk>, keys: &Keys, through: u64) -> Result<Verified> {
    judge(disk, keys, through, false)
}

/// Reads all of a journal beside its writer, which may be another process, and says all that is wrong: with what was durable
/// when it began; and with what lies behind that, if no writer is at work.
///
/// # Errors
/// Config, when the folder cannot be read or a key is missing.
pub fn verify_beside(disk: &Arc<dyn Disk>, keys: &Keys) -> Result<Verified> {
    judge(disk, keys, Reader::settled(&**disk), true)
}

fn judge(disk: &Arc<dyn Disk>, keys: &Keys, through: u64, behind: bool) -> Result<Verified> {
    let mut found = Verified::default();
    let mut at = segments(&**disk)?.first().copied().unwrap_or(1);
    loop {
        let mut reader = Reader::at_segment(Arc::clone(disk), keys.clone(), at);
        let mut end = read(&mut reader, &mut found, through);
        // Of a writer that is at work, what lies behind is half written by right.
        let still = || Reader::settled(&**disk) == through;
        if behind && matches!(end, Ok(Given::End)) && still() {
            let more = read(&mut reader, &mut found, u64::MAX);
            end = if more.is_err() && !still() { Ok(Given::End) } else { more };
        }
        found.frames += (reader.sequence() + 1).saturating_sub(at);
        match end {
            Ok(Given::Torn(_)) => found.torn = true,
            Ok(_) => {}
            Err(error) if matches!(error.fault(), Fault::Corrupt | Fault::PositionLost) => {
                let all = segments(&**disk)?;
                // Retention goes by age and leaves the newest: had it removed anything, then what was read first of all. What
                // it removed is no damage.
                let removed = all.first().is_some_and(|first| *first > at);
                if !removed && error.fault() == Fault::Corrupt {
                    found.damage.push(error.to_string());
                }
                // On with the next segment that there is.
                let place = reader.place().0;
                if let Some(next) = all.into_iter().find(|first| *first > place || (removed && *first == place)) {
                    at = next;
                    continue;
                }
            }
            Err(error) => return Err(error),
        }
        return Ok(found);
    }
}

fn read(reader: &mut Reader, found: &mut Verified, through: u64) -> Result<Given> {
    loop {
        let mut batch = Batch::unpooled();
        match reader.next(&mut batch, FILL, through)? {
            Given::Run => found.changes += batch.len() as u64,
            Given::Page(_) => found.items += batch.len() as u64,
            Given::Note(_) => {}
            end @ (Given::End | Given::Torn(_)) => return Ok(end),
        }
    }
}
