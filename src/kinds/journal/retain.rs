//! How long a journal is kept: by size and by age, never what is still needed without saying so.
//!
//! Invariant: segments go from the oldest on, whole, one at a time, so that what is left is always one piece. What a
//! registered reader needs stays, and so does the snapshot from which the oldest instant within the age can be restored, or,
//! where the size is the matter, the newest one; that somebody holds more than the limits allow is said in [`Retained`], which
//! is an alarm (not that a snapshot is older than the age: from it the oldest instant within is restored). Only with [`Retention::outrun`] the size wins, and then who was outrun is written down before anything goes.

use super::codec::Snapshot;
use super::cursors::Cursor;
use super::files::Disk;
use super::format::segment_name;
use super::segment::{head_of, segments, unreadable};
use super::writer::Writer;
use crate::error::Result;
use crate::model::Micros;

/// How much of a journal is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// As much as this, in bytes.
    pub bytes: u64,
    /// And for as long as this, in microseconds.
    pub age: Micros,
    /// Whether more than `bytes` is removed even if somebody still needs it: the disk is worth more than a reader that is
    /// behind.
    pub outrun: bool,
}

/// Who needs what lies beyond the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The registered reader of this name.
    Reader(String),
    /// A snapshot: without it nothing could be restored as far back as the age says.
    Snapshot(u64),
}

/// Somebody who holds, or held, more than the limits allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who.
    pub by: Holder,
    /// The first frame that it needs.
    pub sequence: u64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Retained {
    /// Segments that were removed, and how many bytes they had.
    pub removed: usize,
    /// Bytes that were removed.
    pub freed: u64,
    /// Bytes that are left.
    pub bytes: u64,
    /// The oldest frame that is left.
    pub oldest: u64,
    /// Since when any instant can be restored: when the oldest whole snapshot that is left ended.
    pub restorable: Option<Micros>,
    /// Who keeps more than the limits allow from being removed. An alarm.
    pub held: Vec<Held>,
    /// Who was outrun: what it needed is gone. An alarm, louder.
    pub outrun: Vec<Held>,
}

/// A segment that could go.
struct Closed {
    first: u64,
    bytes: u64,
    /// The first frame behind it, and when that segment was begun.
    next: u64,
    ended: Micros,
}

impl Writer {
    /// Removes what is beyond the limits and needed by nobody.
    ///
    /// # Errors
    /// Config, when the disk fails; Transient, when it is so full that not even the place of an outrun reader could be
    /// written down.
    pub fn retain(&self, retention: &Retention, now: Micros) -> Result<Retained> {
        // Nobody begins a segment meanwhile.
        let back = self.back();
        let disk = &*back.disk;
        let horizon = now.saturating_sub(retention.age);
        let (all, mut left) = closed(disk, self.durable())?;
        let mut snapshots = self.front().standing().snapshots.clone();
        let mut readers = Cursor::all(disk)?;
        readers.retain(|reader| !reader.outrun);
        let mut done = Retained::default();
        for segment in all {
            let (too_old, too_much) = (segment.ended < horizon, left > retention.bytes);
            if !too_old && !too_much {
                break;
            }
            snapshots.retain(|snapshot| snapshot.began >= segment.first);
            let needed = if too_much { newest(&snapshots) } else { as_of(&snapshots, horizon) };
            let holders = holders(&readers, needed, segment.next);
            let outruns = too_much && retention.outrun;
            if !holders.is_empty() && !outruns {
                done.held = holders;
                done.held.retain(|held| too_much || matches!(held.by, Holder::Reader(_)));
                break;
            }
            // The age asks for it, and the size does not let it be.
            let lost = as_of(&snapshots, horizon).filter(|lost| {
                too_much && lost.ended != 0 && lost.began < segment.next && needed.is_none_or(|n| n.id != lost.id)
            });
            done.outrun.extend(lost.map(|lost| Held { by: Holder::Snapshot(lost.id), sequence: lost.began }));
            for reader in readers.extract_if(.., |reader| reader.sequence < segment.next) {
                Cursor { outrun: true, ..reader }.write(disk)?;
            }
            done.outrun.extend(holders);
            let name = segment_name(segment.first);
            let gone = disk.remove(&name).and_then(|()| disk.sync_names());
            gone.map_err(|error| unreadable(&name, error))?;
            left -= segment.bytes;
            done.removed += 1;
            done.freed += segment.bytes;
        }
        done.bytes = left;
        done.oldest = segments(disk)?.first().copied().unwrap_or(self.durable() + 1);
        let restorable = snapshots.iter().find(|snapshot| snapshot.ended != 0 && snapshot.began >= done.oldest);
        done.restorable = restorable.map(|snapshot| snapshot.ended_at);
        Ok(done)
    }
}

impl Writer {
    /// How many bytes may be added before something has to go that a registered reader or the newest whole snapshot needs.
    ///
    /// # Errors
    /// Config, when the disk fails.
    pub fn room(&self, retention: &Retention) -> Result<u64> {
        let back = self.back();
        let disk = &*back.disk;
        let newest = self.front().standing().whole().next_back().map(|snapshot| snapshot.began);
        let readers = Cursor::all(disk)?.into_iter().filter(|reader| !reader.outrun).map(|reader| reader.sequence);
        let needed = readers.chain(newest).min().unwrap_or(u64::MAX);
        let all = segments(disk)?;
        let mut bytes = 0;
        for first in &all[all.partition_point(|first| *first <= needed).saturating_sub(1)..] {
            let name = segment_name(*first);
            let length = disk.open(&name).and_then(|file| file.length());
            bytes += length.map_err(|error| unreadable(&name, error))?;
        }
        Ok(retention.bytes.saturating_sub(bytes))
    }
}

/// Removes everything that a journal consists of, when nobody writes to it or reads it. Cut short, it leaves the end of the
/// journal, which says how far that reached.
///
/// # Errors
/// Config, when the disk fails.
pub fn clear(disk: &dyn Disk) -> Result<()> {
    let failed = |error| unreadable("folder", error);
    for first in segments(disk)? {
        disk.remove(&segment_name(first)).and_then(|()| disk.sync_names()).map_err(failed)?;
    }
    for name in disk.names().map_err(failed)?.iter().filter(|name| *name != "lock") {
        disk.remove(name).map_err(failed)?;
    }
    disk.sync_names().map_err(failed)
}

/// The segments that another one follows of which something is durable, and the bytes of all.
fn closed(disk: &dyn Disk, durable: u64) -> Result<(Vec<Closed>, u64)> {
    let all = segments(disk)?;
    let (mut found, mut sum) = (Vec::new(), 0);
    for (index, first) in all.iter().enumerate() {
        let name = segment_name(*first);
        let length = disk.open(&name).and_then(|file| file.length());
        let bytes = length.map_err(|error| unreadable(&name, error))?;
        sum += bytes;
        if let Some(next) = all.get(index + 1).filter(|next| **next <= durable) {
            // Where its head is damaged nobody knows; then the segment before is kept as if it were new.
            let ended = head_of(disk, *next).ok().flatten().map_or(Micros::MAX, |head| head.made);
            found.push(Closed { first: *first, bytes, next: *next, ended });
        }
    }
    Ok((found, sum))
}

/// The snapshot without which nothing at all could be restored: the newest whole one, or the one that is being written.
fn newest(snapshots: &[Snapshot]) -> Option<&Snapshot> {
    snapshots.iter().rev().find(|snapshot| snapshot.ended != 0).or(snapshots.last())
}

/// The snapshot from which the state at an instant is restored; where none is old enough, the oldest.
fn as_of(snapshots: &[Snapshot], instant: Micros) -> Option<&Snapshot> {
    let old = |snapshot: &&Snapshot| snapshot.ended != 0 && snapshot.ended_at <= instant;
    snapshots.iter().rev().find(old).or(snapshots.first())
}

/// Who needs a frame before `next`.
fn holders(readers: &[Cursor], snapshot: Option<&Snapshot>, next: u64) -> Vec<Held> {
    let readers = readers.iter().map(|reader| (Holder::Reader(reader.name.clone()), reader.sequence));
    let snapshot = snapshot.map(|snapshot| (Holder::Snapshot(snapshot.id), snapshot.began));
    let all = readers.chain(snapshot).filter(|(_, sequence)| *sequence < next);
    all.map(|(by, sequence)| Held { by, sequence }).collect()
}
