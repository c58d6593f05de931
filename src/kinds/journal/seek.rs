//! Where reading begins: at a sequence, a position, a checkpoint, or a time.
//!
//! The index is the format itself: segments are named by sequence, the first record of each says how far every partition was
//! and what the latest commit time had been, and frames carry their times in the clear. So there is no index file that could
//! be stale. Invariant: what is not there is never taken for the beginning or the end.

use std::sync::Arc;

use super::codec::Snapshot;
use super::crypt::Keys;
use super::files::Disk;
use super::reader::{Aside, Given, Reader};
use super::records::{self, Note, Standing};
use super::segment::{Found, Segment, segments};
use crate::error::{Error, Result};
use crate::model::{Batch, Checkpoint, Micros, PartitionId, Position};

/// LIMIT: how much is looked at at once.
const FILL: usize = 256 << 10;

impl Reader {
    /// From the frame with this sequence on; 1 is the first that ever was.
    ///
    /// # Errors
    /// PositionLost, when it is no longer there, or there are fewer; Corrupt, when what leads there is damaged.
    pub fn at_sequence(disk: Arc<dyn Disk>, keys: Keys, sequence: u64) -> Result<Self> {
        let all = segments(&*disk)?;
        let first = all.iter().rev().find(|first| **first <= sequence);
        if let (None, Some(oldest)) = (first, all.first()) {
            return Err(Error::position_lost(format!("read the journal from {sequence}: it begins at {oldest}")));
        }
        let mut reader = Self::at_segment(disk, keys, first.copied().unwrap_or(1));
        reader.pass(sequence.saturating_sub(1), |_, _| false)?;
        if reader.sequence() + 1 < sequence {
            let last = reader.sequence();
            return Err(Error::position_lost(format!("read the journal from {sequence}: it ends at {last}")));
        }
        Ok(reader)
    }

    /// From the oldest frame on that is still there.
    ///
    /// # Errors
    /// Config, when the folder cannot be read.
    pub fn at_beginning(disk: Arc<dyn Disk>, keys: Keys) -> Result<Self> {
        let first = segments(&*disk)?.first().copied().unwrap_or(1);
        Ok(Self::at_segment(disk, keys, first))
    }

    /// From the first run on that holds something behind `position`. What of that run lies before it is given too.
    ///
    /// # Errors
    /// PositionLost, when the journal does not hold what follows the position; Corrupt, when what leads there is damaged.
    pub fn at_position(disk: Arc<dyn Disk>, keys: Keys, partition: &PartitionId, position: &Position) -> Result<Self> {
        let lost =
            || Error::position_lost(format!("read the journal from {partition} {position}: it does not hold that"));
        let all = segments(&*disk)?;
        // Positions of a partition grow with sequences, so the last segment that begins before the position has it.
        for first in all.iter().rev() {
            let reaches_back = match standing_of(&disk, &keys, *first)? {
                Some(standing) => standing.reached.names(partition) && standing.reached.get(partition) <= position,
                None => false,
            };
            if !reaches_back && *first != all[0] {
                continue;
            }
            let mut reader = Self::at_segment(disk, keys, *first);
            let mut base = None;
            reader.pass(u64::MAX, |given, run| {
                let found = *given == Given::Run && run.partition == *partition && records::reached(run) > *position;
                if found {
                    base = Some(run.base().clone());
                }
                found
            })?;
            let joins = match base {
                Some(base) => base <= *position,
                // Nothing lies behind it: it must be where the journal ends.
                None => reader.reached().names(partition) && reader.reached().get(partition) == position,
            };
            return if joins { Ok(reader) } else { Err(lost()) };
        }
        Err(lost())
    }

    /// For a consumer that has everything up to `from`, as [`crate::source::Source::tail`] means it: from a place on before
    /// which it has everything. Runs that it has as a whole and that come first are left out; it drops what else it has, as
    /// a lane does. A partition that it does not name must begin here at its start. Partitions of the engine do not count.
    ///
    /// # Errors
    /// PositionLost, when the journal does not reach back to `from`, or ends before it; Corrupt, when what leads there is
    /// damaged.
    pub fn at_checkpoint(disk: Arc<dyn Disk>, keys: Keys, from: &Checkpoint) -> Result<Self> {
        let from = from.tail();
        let lost = |what: &str| Error::position_lost(format!("read the journal from {from}: it {what}"));
        let end = end_of(&disk, &keys)?;
        let beyond = |(partition, position): &(&PartitionId, &Position)| {
            let forgotten = **position == Position::End && !end.reached.names(partition);
            !forgotten && end.reached.get(partition) < *position
        };
        if let Some((partition, position)) = from.iter().find(beyond) {
            return Err(lost(&format!("does not reach {partition} {position}")));
        }
        for first in segments(&*disk)?.into_iter().rev() {
            let Some(standing) = standing_of(&disk, &keys, first)? else { continue };
            if standing.reached.iter().any(|(partition, position)| position > from.get(partition)) {
                continue;
            }
            let mut reader = Self::at_segment(disk, keys, first);
            reader.pass_what_is_had(&from)?;
            return Ok(reader);
        }
        Err(lost("begins later"))
    }

    /// As [`Reader::at_checkpoint`], for a consumer that was given everything up to `from` by this journal: begins at a
    /// place where a reader was before, if that is not too far.
    ///
    /// # Errors
    /// As [`Reader::at_checkpoint`].
    pub(super) fn at_checkpoint_near(
        disk: Arc<dyn Disk>,
        keys: Keys,
        from: &Checkpoint,
        mark: Option<&Aside>,
    ) -> Result<Self> {
        if let Some(mark) = mark.filter(|mark| mark.standing.reached.iter().all(|(p, at)| at <= from.get(p)))
            && let Ok(mut reader) = Self::resume(Arc::clone(&disk), keys.clone(), mark)
        {
            reader.pass_what_is_had(from)?;
            return Ok(reader);
        }
        Self::at_checkpoint(disk, keys, from)
    }

    /// Goes on to what a consumer that has everything up to `from` has not.
    fn pass_what_is_had(&mut self, from: &Checkpoint) -> Result<()> {
        self.from = Some(from.clone());
        self.pass(u64::MAX, |given, run| match given {
            Given::Run => !has(from, run),
            Given::Note(note) => matches!(note, Note::Gap { .. }),
            _ => false,
        })?;
        Ok(())
    }

    /// From the first frame on that holds a change committed at `time` or later; every change before it is older.
    ///
    /// # Errors
    /// PositionLost, when such a change may have been removed; Corrupt, when what leads there is damaged.
    pub fn at_time(disk: Arc<dyn Disk>, keys: Keys, time: Micros) -> Result<Self> {
        let all = segments(&*disk)?;
        for first in all.iter().rev() {
            let Some(standing) = standing_of(&disk, &keys, *first)? else { continue };
            if standing.latest >= time {
                if *first == all[0] {
                    let text = format!("read the journal from a time: it begins at frame {first}, which may be later");
                    return Err(Error::position_lost(text));
                }
                continue;
            }
            let Some(mut segment) = Segment::open(&*disk, *first, &keys)? else { continue };
            let mut sequence = *first;
            while let Found::Frame(head) = segment.skim(&*disk)? {
                if head.latest >= time {
                    break;
                }
                sequence = head.sequence + 1;
            }
            return Self::at_sequence(disk, keys, sequence);
        }
        Self::at_beginning(disk, keys)
    }

    /// Goes on to what `wanted` says yes to, and stops before it; behind frame `through` or at the end where there is
    /// none. Gives how it ended there.
    pub(super) fn pass(
        &mut self,
        through: u64,
        mut wanted: impl FnMut(&Given, &Batch) -> bool,
    ) -> Result<Option<Given>> {
        loop {
            let mut batch = Batch::unpooled();
            match self.next(&mut batch, usize::MAX, through)? {
                end @ (Given::End | Given::Torn(_)) => return Ok(Some(end)),
                given if wanted(&given, &batch) => {
                    self.rewind();
                    return Ok(None);
                }
                _ => {}
            }
        }
    }
}

/// Whether a consumer that has everything up to `from` surely has all of a run.
fn has(from: &Checkpoint, run: &Batch) -> bool {
    let (at, end) = (from.get(&run.partition), records::reached(run));
    // Of an open transaction only the same boundary tells whether it was passed.
    from.names(&run.partition) && end <= *at && (!run.is_open() || end.boundary() == at.boundary())
}

/// Where the journal stood when the segment that begins with `first` was begun; `None` when that has no sound frame yet.
fn standing_of(disk: &Arc<dyn Disk>, keys: &Keys, first: u64) -> Result<Option<Standing>> {
    Reader::at_segment(Arc::clone(disk), keys.clone(), first).prologue()
}

/// Where the journal ends: what the newest segment that holds something adds up to.
fn end_of(disk: &Arc<dyn Disk>, keys: &Keys) -> Result<Standing> {
    for first in segments(&**disk)?.into_iter().rev().take(2) {
        let mut reader = Reader::at_segment(Arc::clone(disk), keys.clone(), first);
        reader.pass(u64::MAX, |_, _| false)?;
        if reader.sequence() >= first {
            return Ok(reader.standing);
        }
    }
    Ok(Standing::default())
}

/// The whole snapshots that the journal holds, oldest first.
///
/// # Errors
/// Corrupt, when the newest segment is damaged.
pub fn snapshots(disk: &Arc<dyn Disk>, keys: &Keys) -> Result<Vec<Snapshot>> {
    let oldest = segments(&**disk)?.first().copied().unwrap_or(1);
    let standing = end_of(disk, keys)?;
    Ok(standing.whole().filter(|snapshot| snapshot.began >= oldest).copied().collect())
}

/// A place of a consumer that is none of the journal's: its partition, the last place of the journal before it, and itself.
/// Nothing was committed in between.
pub type Alias = (PartitionId, Position, Position);

/// The places of a consumer that has everything up to `from` which are none of the journal's, because the source gave it
/// other marks of "nothing happened up to here" when it read that itself. Changes behind them are counted from other
/// boundaries by the two. Reads no frame behind `through`, and no further than the first mark behind each place.
///
/// # Errors
/// As [`Reader::at_checkpoint`].
pub fn aliases(disk: &Arc<dyn Disk>, keys: &Keys, from: &Checkpoint, through: u64) -> Result<Vec<Alias>> {
    let boundary = |position: &Position| position.boundary().map(Position::at);
    let mut open: Vec<(PartitionId, Position, Option<Position>)> = Vec::new();
    for (partition, position) in from.iter().filter(|(partition, _)| !partition.is_engine()) {
        // Nothing lies before the start, and nothing behind the end.
        if let (Position::At { .. }, Some(at)) = (position, boundary(position)) {
            open.push((partition.clone(), at, None));
        }
    }
    let mut found = Vec::new();
    let mut reader = Reader::at_checkpoint(Arc::clone(disk), keys.clone(), from)?;
    while !open.is_empty() {
        let mut batch = Batch::unpooled();
        match reader.next(&mut batch, FILL, through)? {
            Given::Run => {}
            Given::End | Given::Torn(_) => break,
            Given::Page(_) | Given::Note(_) => continue,
        }
        let Some(index) = open.iter().position(|(partition, ..)| *partition == batch.partition) else { continue };
        let (_, at, before) = &mut open[index];
        before.get_or_insert(boundary(batch.base()).unwrap_or(Position::Start));
        let passed = batch.marks().partition_point(|mark| mark.upto <= *at);
        if let Some(mark) = passed.checked_sub(1).map(|last| &batch.marks()[last]) {
            *before = Some(mark.upto.clone());
        }
        if passed < batch.marks().len() {
            let (partition, at, before) = open.swap_remove(index);
            found.extend(before.filter(|before| *before < at).map(|before| (partition, before, at)));
        }
    }
    Ok(found)
}

/// Whether no gap was noted behind a frame: what was restored from there on is right up to the journal's end. A partition
/// that was forgotten counts as one.
///
/// # Errors
/// Corrupt, when the beginning of a segment is damaged; Config, when the folder cannot be read.
pub fn unbroken(disk: &Arc<dyn Disk>, keys: &Keys, from: u64) -> Result<bool> {
    let all = segments(&**disk)?;
    let begin = all.partition_point(|first| *first <= from).saturating_sub(1);
    let mut before = Checkpoint::default();
    // A gap ends its segment, and the next one begins without the partitions that are lost.
    for first in &all[begin..] {
        let Some(standing) = standing_of(disk, keys, *first)? else { continue };
        if before.iter().any(|(partition, _)| !standing.reached.names(partition)) {
            return Ok(false);
        }
        before = standing.reached;
    }
    Ok(true)
}

/// How far each partition is at the journal's end.
///
/// # Errors
/// Corrupt, when the newest segment is damaged.
pub fn reached(disk: &Arc<dyn Disk>, keys: &Keys) -> Result<Checkpoint> {
    Ok(end_of(disk, keys)?.reached)
}
