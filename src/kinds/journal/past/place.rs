//! From a time or a position to a place of the journal: the last one before it at which no source transaction is open.
//!
//! A place for a time lies before the first transaction, in the order of the log, that was committed later: what PostgreSQL
//! calls the target of a recovery. So commit times need not grow. Of several partitions each is cut for itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::part;
use crate::error::{Error, Result};
use crate::kinds::journal::reader::{Given, Reader};
use crate::kinds::journal::records::Note;
use crate::kinds::journal::segment::segments;
use crate::kinds::journal::{Disk, Keys};
use crate::model::{Batch, Checkpoint, Micros, PartitionId, Position};

/// Where a place is sought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Before the first transaction that was committed later.
    Time(Micros),
    /// Not behind this position.
    Position(PartitionId, Position),
    /// At the end.
    End,
}

/// A place of a journal at which no transaction is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// How far each partition is.
    pub at: Checkpoint,
    /// The frame in which the first thing behind it stands; one more than was read where nothing is.
    pub frame: u64,
    /// Whether there is something behind it.
    pub goes_on: bool,
    /// Where a time was sought: the latest known commit time up to it, 0 where none is.
    pub latest: Micros,
}

/// Finds a place. Reads no frame behind `through`.
///
/// # Errors
/// PositionLost, when the journal does not reach back so far, or does not reach the position; Corrupt, when what leads there
/// is damaged; Config, for a time where the journal knows none.
pub fn place(disk: &Arc<dyn Disk>, keys: &Keys, bound: &Bound, through: u64) -> Result<Place> {
    let at_segment = |first| Reader::at_segment(Arc::clone(disk), keys.clone(), first);
    match bound {
        Bound::Time(time) => {
            let all = segments(&**disk)?;
            for first in all.iter().rev() {
                let Some(standing) = at_segment(*first).prologue()? else { continue };
                // All of it is read: a frame that holds no times would be passed over otherwise.
                if standing.latest <= *time {
                    return seek(at_segment(*first), bound, standing.latest, through);
                }
            }
            Err(match all.first() {
                Some(first) => {
                    let text = format!("read the journal from a time: it begins at frame {first}, which is later");
                    Error::position_lost(text)
                }
                None => nothing(),
            })
        }
        Bound::Position(partition, position) => {
            seek(Reader::at_position(Arc::clone(disk), keys.clone(), partition, position)?, bound, 0, through)
        }
        Bound::End => {
            // The newest may hold nothing yet.
            for first in segments(&**disk)?.into_iter().rev().take(2) {
                let found = seek(at_segment(first), bound, 0, through)?;
                if found.frame > first {
                    return Ok(found);
                }
            }
            Err(nothing())
        }
    }
}

fn nothing() -> Error {
    Error::config("look for a place in the journal: it holds nothing yet")
}

/// `latest`: the latest commit time before where the reader is, if it does not know that yet.
fn seek(mut reader: Reader, bound: &Bound, latest: Micros, through: u64) -> Result<Place> {
    let mut seeker =
        Seeker { bound, at: Checkpoint::default(), cut: BTreeSet::new(), began: false, frame: 0, latest: 0 };
    seeker.latest = reader.latest().max(latest);
    if !reader.reached().is_empty() {
        seeker.begin(reader.reached(), None);
    }
    loop {
        let mut batch = Batch::unpooled();
        let latest = reader.latest().max(latest);
        match reader.next(&mut batch, usize::MAX, through)? {
            Given::Run => {
                if !seeker.began {
                    seeker.begin(reader.reached(), Some(&batch));
                }
                let cut = seeker.take(&batch)?;
                if cut && seeker.frame == 0 {
                    seeker.frame = reader.sequence();
                } else if !cut {
                    seeker.latest = seeker.latest.max(latest);
                }
                if seeker.is_over() {
                    break;
                }
            }
            Given::Note(Note::Gap { lost, .. }) => seeker.forget(&lost),
            Given::Note(_) | Given::Page(_) => {}
            Given::End => break,
            Given::Torn(cut) => {
                return Err(Error::corrupt(format!(
                    "read the journal: segment {} breaks off at byte {}, before what was made durable",
                    cut.segment, cut.at
                )));
            }
        }
    }
    if !seeker.began {
        seeker.begin(reader.reached(), None);
    }
    let goes_on = seeker.frame != 0;
    let frame = if goes_on { seeker.frame } else { reader.sequence() + 1 };
    Ok(Place { at: seeker.at, frame, goes_on, latest: seeker.latest })
}

struct Seeker<'b> {
    bound: &'b Bound,
    at: Checkpoint,
    cut: BTreeSet<PartitionId>,
    began: bool,
    frame: u64,
    latest: Micros,
}

impl Seeker<'_> {
    /// Where partitions stand; that of the first batch, where one was read, stands where it begins.
    fn begin(&mut self, reached: &Checkpoint, first: Option<&Batch>) {
        self.began = true;
        for (partition, position) in reached.iter() {
            let at = first.filter(|batch| batch.partition == *partition).map_or(position, |batch| batch.base());
            self.at.advance(partition, &part::closed(at));
        }
    }

    fn forget(&mut self, lost: &Checkpoint) {
        self.at.retain(|partition| !lost.names(partition) || self.cut.contains(partition));
    }

    /// Takes a batch into account; true when the place lies before its end.
    fn take(&mut self, batch: &Batch) -> Result<bool> {
        let partition = &batch.partition;
        if self.cut.contains(partition) {
            return Ok(true);
        }
        if !self.at.names(partition) {
            self.at.advance(partition, &part::closed(batch.base()));
        }
        let mut marks = batch.marks().iter().peekable();
        for index in 0..=batch.len() {
            while let Some(mark) = marks.next_if(|mark| mark.changes <= index) {
                if matches!(self.bound, Bound::Position(own, at) if own == partition && mark.upto > *at) {
                    return Ok(self.cut.insert(partition.clone()));
                }
                self.at.advance(partition, &mark.upto);
            }
            let Bound::Time(time) = self.bound else { continue };
            let Some(row) = (index < batch.len()).then(|| batch.row(index)) else { continue };
            let at = row.at;
            // What goes along with changes and is none, as values of sequences do, was not committed at some time.
            if row.table.goes_along() {
                continue;
            }
            if at == 0 {
                return Err(Error::config(
                    "look for a time in the journal: it does not say when changes were committed, because its source \
                     keeps no log of them; use positions instead",
                ));
            }
            if at > *time {
                return Ok(self.cut.insert(partition.clone()));
            }
            self.latest = self.latest.max(at);
        }
        Ok(false)
    }

    /// Whether nothing more can move.
    fn is_over(&self) -> bool {
        match self.bound {
            Bound::End => false,
            Bound::Position(..) => !self.cut.is_empty(),
            Bound::Time(_) => {
                let done =
                    |(partition, at): (&PartitionId, &Position)| *at == Position::End || self.cut.contains(partition);
                !self.cut.is_empty() && self.at.iter().all(done)
            }
        }
    }
}
