//! How a lane takes shares: which changes join the commit that is being collected, and where it is cut. Pure.
//!
//! A sink with open transactions gets whole source transactions: a group of changes up to a mark is never split over two
//! commits; one that is too large is staged in pieces. Another sink gets groups whole where they fit, even if they come in
//! several batches, and otherwise pieces whose position is refined by an ordinal.

use crate::engine::coalesce::Taken;
use crate::engine::lane::Lane;
use crate::engine::route::{Share, Work};
use crate::error::{Error, Result};
use crate::model::{Batch, PartitionId, Position, Steps};

/// Why taking stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The queue is empty.
    Dry,
    /// A commit must end here.
    Commit,
    /// A piece of an open source transaction must be staged.
    Stage,
}

impl Lane {
    /// Takes the longest prefix of the queue that makes one commit.
    pub(super) fn take(&mut self) -> Result<Cut> {
        loop {
            match self.queue.front() {
                None => return Ok(Cut::Dry),
                Some(Work::Flush) => {
                    self.queue.pop_front();
                    self.flush = true;
                }
                Some(Work::Mark { .. }) => {
                    self.flush = true;
                    return Ok(if self.is_collecting() { Cut::Commit } else { Cut::Dry });
                }
                Some(Work::Share(share)) => {
                    let share = share.clone();
                    if let Some(cut) = self.take_share(&share)? {
                        return Ok(cut);
                    }
                    self.pass(&share);
                    let full = self.is_full();
                    if self.within {
                        if full {
                            return Ok(if self.limits.stage { Cut::Stage } else { Cut::Commit });
                        }
                    } else if full || (self.staged && !self.open.contains_key(&share.batch.partition)) {
                        return Ok(Cut::Commit);
                    }
                }
            }
        }
    }

    /// Takes group after group of a share; `None` when all of it is taken and the commit may grow on.
    fn take_share(&mut self, share: &Share) -> Result<Option<Cut>> {
        let batch = &share.batch;
        if self.cursor == 0 {
            self.prove_no_hole(share)?;
        }
        for mark in batch.marks() {
            let end = share.index_of(mark.changes);
            if end < self.cursor {
                continue;
            }
            if let Some(cut) = self.take_group(share, end, &mark.upto)? {
                return Ok(Some(cut));
            }
            // Whoever changes over to a log may tell a place again that lies before the transaction which is open.
            if self.is_open_behind(&batch.partition, &mark.upto) {
                continue;
            }
            self.within = false;
            self.note(&batch.partition, mark.upto.clone());
            // A large transaction that was staged is a commit of its own.
            if (self.staged || self.is_full()) && self.cursor < share.len() {
                return Ok(Some(Cut::Commit));
            }
        }
        if self.cursor < share.len() { self.take_open(share) } else { Ok(None) }
    }

    /// Takes changes up to the pick `end`, all of which belong to one source transaction, which ends at `upto`.
    fn take_group(&mut self, share: &Share, end: usize, upto: &Position) -> Result<Option<Cut>> {
        if !self.limits.stage && self.coalescer.len() > 0 {
            let changes = end - self.cursor;
            let bytes: usize = (self.cursor..end).map(|pick| share.bytes(pick)).sum();
            let fits = self.coalescer.len() + changes <= self.limits.changes
                && self.coalescer.bytes() + bytes <= self.limits.bytes;
            if !fits && self.cursor == share.group_start(end) {
                return Ok(Some(Cut::Commit));
            }
        }
        self.take_changes(share, end, Some(upto))
    }

    /// Takes what follows the last mark: a part of a source transaction that is still open. It begins a commit of its own, so
    /// that as much of the transaction as the sink takes is in one.
    fn take_open(&mut self, share: &Share) -> Result<Option<Cut>> {
        // A sink that stages knows no place within a transaction, so not even positions may go along with one there.
        let mixes = self.coalescer.len() > 0 || (self.limits.stage && !self.upto.is_empty());
        if !self.within && mixes {
            return Ok(Some(Cut::Commit));
        }
        let cut = self.take_changes(share, share.len(), None)?;
        if cut.is_none() && !self.limits.stage && !cfg!(mutate = "piece_without_position") {
            // What belongs to other lanes is passed too.
            self.note(&share.batch.partition, share.batch.position(share.batch.len() - 1));
        }
        // Nothing is held where all of it was passed before, or is nothing for this sink.
        self.within = self.coalescer.len() > 0 && (self.limits.stage || cut.is_none());
        Ok(cut)
    }

    /// All of the front share is taken.
    fn pass(&mut self, share: &Share) {
        let batch = &share.batch;
        self.queue.pop_front();
        self.cursor = 0;
        self.taken_seq = share.seq;
        if batch.is_open() {
            let reached = batch.position(batch.len() - 1);
            if !self.is_open_behind(&batch.partition, &reached) {
                self.open.insert(batch.partition.clone(), reached);
            }
        } else if !self.open.is_empty() && !self.is_open_behind(&batch.partition, batch.upto()) {
            self.open.remove(&batch.partition);
        }
    }

    /// Whether a source transaction is open that began at this place or further on.
    fn is_open_behind(&self, partition: &PartitionId, place: &Position) -> bool {
        self.open.get(partition).is_some_and(|open| place <= open)
    }

    /// Takes changes up to the pick `end`. `upto`: where their source transaction ends, if that is known.
    fn take_changes(&mut self, share: &Share, end: usize, upto: Option<&Position>) -> Result<Option<Cut>> {
        let batch = &share.batch;
        let reached = self.reached.get(&batch.partition);
        let again = (reached > batch.base() && !batch.partition.is_unrecorded()).then(|| reached.clone());
        let mut held = None;
        while self.cursor < end {
            let at = share.change(self.cursor);
            let row = batch.row(at);
            let passed = again.as_ref().is_some_and(|reached| has_passed(reached, batch, at, upto));
            if !passed && !row.is_left_out() {
                if !self.limits.stage && !self.fits(row.key.len() + row.body.len()) {
                    self.note_piece(share);
                    return Ok(Some(Cut::Commit));
                }
                let held = *held.get_or_insert_with(|| self.coalescer.hold(batch));
                if self.coalescer.add(batch, held, at, self.bridge.as_ref())? == Taken::NotHere {
                    return self.split_before(share);
                }
                self.taken += 1;
                self.newest = self.newest.max(row.at);
            }
            self.cursor += 1;
        }
        Ok(None)
    }

    /// A change that needs what stands before it to be in the sink first.
    fn split_before(&mut self, share: &Share) -> Result<Option<Cut>> {
        if self.coalescer.len() == 0 {
            return Err(Error::corrupt(format!(
                "collect changes of {}: a partial update follows the removal of its own row",
                share.batch.partition
            )));
        }
        if self.limits.stage {
            self.within = true;
            return Ok(Some(Cut::Stage));
        }
        self.note_piece(share);
        Ok(Some(Cut::Commit))
    }

    /// Notes the place within a source transaction that a piece of it ends at.
    fn note_piece(&mut self, share: &Share) {
        let taken = self.cursor.checked_sub(1).map(|pick| share.change(pick));
        if let Some(taken) = taken.filter(|_| !cfg!(mutate = "piece_without_position")) {
            self.note(&share.batch.partition, share.batch.position(taken));
        }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.coalescer.len() == 0
            || (self.coalescer.len() < self.limits.changes && self.coalescer.bytes() + bytes <= self.limits.bytes)
    }

    /// Whether the commit has all that it may hold. Bytes whose place later changes have taken do not count, if leaving
    /// them behind makes enough room to pay for it.
    fn is_full(&mut self) -> bool {
        if self.coalescer.bytes() < self.limits.bytes || self.coalescer.len() >= self.limits.changes {
            return self.coalescer.len() >= self.limits.changes;
        }
        if self.taken < 2 * self.coalescer.len() {
            return true;
        }
        self.coalescer.compact();
        self.coalescer.bytes() > self.limits.bytes / 3 * 2
    }

    pub(super) fn is_collecting(&self) -> bool {
        self.coalescer.len() > 0 || !self.upto.is_empty() || self.staged
    }

    fn note(&mut self, partition: &PartitionId, position: Position) {
        if !partition.is_unrecorded() && position > *self.reached.get(partition) {
            let noted = self.upto.entry(partition.clone()).or_default();
            if position > *noted {
                *noted = position;
            }
        }
    }

    /// A share must begin where the lane stands or before; a hole would be a loss.
    fn prove_no_hole(&self, share: &Share) -> Result<()> {
        let batch = &share.batch;
        let reached = self.upto.get(&batch.partition).unwrap_or_else(|| self.reached.get(&batch.partition));
        let follows = |open: &Position| batch.base() <= open;
        let passed = batch.base() <= reached || self.open.get(&batch.partition).is_some_and(follows);
        if batch.partition.is_unrecorded() || passed {
            return Ok(());
        }
        Err(Error::bug(format!(
            "take changes of {} from {}: the lane stands at {reached}, and what lies between is missing",
            batch.partition,
            batch.base()
        )))
    }
}

/// Whether a lane that stands at `reached` has a change.
///
/// A place at which nothing had happened may lie between the place where this batch begins and the end of the transaction,
/// when the stream was read again and such places were not met again. A lane that stands there has nothing of it.
fn has_passed(reached: &Position, batch: &Batch, at: usize, upto: Option<&Position>) -> bool {
    let position = batch.position(at);
    let between = || batch.steps == Steps::Ordinal && position.boundary() != reached.boundary();
    position <= *reached && !upto.is_some_and(|upto| upto > reached && between())
}

impl Share {
    /// Number of changes in this share.
    fn len(&self) -> usize {
        self.picks.as_ref().map_or(self.batch.len(), |picks| picks.len())
    }

    /// The batch's index of a change of this share.
    fn change(&self, pick: usize) -> usize {
        self.picks.as_ref().map_or(pick, |picks| picks[pick] as usize)
    }

    /// How many changes of this share lie among the batch's first `changes`.
    fn index_of(&self, changes: usize) -> usize {
        self.picks.as_ref().map_or(changes, |picks| picks.partition_point(|&pick| (pick as usize) < changes))
    }

    /// Where in this share the group begins that ends at `end`.
    fn group_start(&self, end: usize) -> usize {
        let marks = self.batch.marks().iter().rev().map(|mark| self.index_of(mark.changes));
        marks.into_iter().find(|&start| start < end).unwrap_or(0)
    }

    fn bytes(&self, pick: usize) -> usize {
        let row = self.batch.row(self.change(pick));
        row.key.len() + row.body.len()
    }
}
