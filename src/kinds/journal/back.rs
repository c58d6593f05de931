//! The side of a writer that goes to the disk: groups of frames, each made durable with one fsync.
//!
//! Invariant: a group is done only when an fsync said so. A failed fsync ends it for good: what the kernel then still holds is
//! not known, so nothing is tried again over it. A full disk only pauses: the piece that found no room is cut off again, the
//! group stays in memory byte for byte, and the next try writes it from where the last fsync was. A segment gets its name
//! when its head is durable and everything before it is, so that a named segment never has half a head or a hole before it.

use std::io;
use std::sync::Arc;

use super::files::{Disk, DiskFile, is_full};
use super::format::segment_name;
use super::front::Group;
use super::mark::{Mark, MarkFile};
use crate::error::{Error, Result};

/// What can go wrong on the way to the disk.
enum Trouble {
    /// There is no room. What was written of it is cut off again.
    Full(io::Error),
    /// Anything else.
    Broken(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        if is_full(&error) { Self::Full(error) } else { Self::Broken(error) }
    }
}

/// The segment that is being written.
struct Active {
    file: Box<dyn DiskFile>,
    first: u64,
    /// Bytes of it that are durable.
    at: u64,
}

/// The disk's side.
pub(super) struct Back {
    pub(super) disk: Arc<dyn Disk>,
    active: Option<Active>,
    /// The group that is under way, and how much of it is durable.
    pub(super) group: Option<Group>,
    done: usize,
    /// How many of its segments were begun.
    begun: usize,
    /// Buffers for the next group.
    pub(super) spare: Group,
    /// LIMIT: buffers that hold more than this are not kept.
    keep: usize,
    mark: MarkFile,
    dead: bool,
}

impl Back {
    /// `keep`: how much usually waits at most.
    pub(super) fn new(disk: Arc<dyn Disk>, keep: usize) -> Self {
        let (spare, mark) = (Group::default(), MarkFile::default());
        Self { disk, active: None, group: None, done: 0, begun: 0, spare, keep, mark, dead: false }
    }

    /// Makes the group that is under way durable; gives the last sequence of it.
    ///
    /// # Errors
    /// Transient, when the disk is full: nothing is lost, call again. Config, when the disk failed: this writer is done.
    pub(super) fn write(&mut self) -> Result<Option<u64>> {
        if self.dead {
            return Err(Error::config(
                "write to the journal: it stopped when the disk failed, and does not go on over that; start again",
            ));
        }
        let Some(mut group) = self.group.take() else { return Ok(None) };
        let written = self.pieces(&group);
        if let Err(trouble) = written {
            let left = group.bytes.len() - self.done;
            self.group = Some(group);
            return Err(match trouble {
                Trouble::Full(error) => {
                    Error::transient(format!("write to the journal: paused, no room for {left} bytes")).because(error)
                }
                Trouble::Broken(error) => {
                    self.dead = true;
                    Error::config("write to the journal: the disk failed; check it, then start again").because(error)
                }
            });
        }
        let active = self.active.as_ref().expect("something was written, so a segment is open");
        self.mark.write(&*self.disk, Mark { sequence: group.last, segment: active.first, end: active.at });
        (self.done, self.begun) = (0, 0);
        let last = group.last;
        group.bytes.clear();
        group.bytes.shrink_to(2 * self.keep);
        group.begins.clear();
        self.spare = group;
        Ok(Some(last))
    }

    /// Bytes that its buffers hold on to.
    pub(super) fn held(&self) -> usize {
        self.spare.bytes.capacity() + self.group.as_ref().map_or(0, |group| group.bytes.capacity())
    }

    /// Whether an fsync has failed.
    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Makes the mark durable: the end of a writer's work.
    pub(super) fn close(&mut self) {
        self.mark.sync(&*self.disk);
    }

    /// Writes what is not durable yet, segment by segment.
    fn pieces(&mut self, group: &Group) -> Result<(), Trouble> {
        while self.done < group.bytes.len() {
            if let Some(begin) = group.begins.get(self.begun).filter(|begin| begin.at == self.done) {
                let file = create(&*self.disk, &segment_name(begin.first), &begin.head)?;
                self.active = Some(Active { file, first: begin.first, at: begin.head.len() as u64 });
                self.begun += 1;
            }
            let end = group.begins.get(self.begun).map_or(group.bytes.len(), |begin| begin.at);
            let active = self.active.as_mut().expect("frames wait only behind the segment that they belong to");
            append(active, &group.bytes[self.done..end])?;
            self.done = end;
        }
        Ok(())
    }
}

fn append(active: &mut Active, bytes: &[u8]) -> Result<(), Trouble> {
    if let Err(error) = active.file.write(active.at, bytes) {
        let trouble = Trouble::from(error);
        if matches!(trouble, Trouble::Full(_)) {
            // Where the piece stays, the next try writes over it, and a reader takes it for the torn tail that it is.
            let cut = active.file.cut(active.at);
            cut.or_else(|error| if is_full(&error) { Ok(()) } else { Err(Trouble::Broken(error)) })?;
        }
        return Err(trouble);
    }
    // An fsync that failed may have dropped what it was for: whatever it says, it is not tried again.
    active.file.sync().map_err(Trouble::Broken)?;
    active.at += bytes.len() as u64;
    Ok(())
}

/// Makes a segment's file.
fn create(disk: &dyn Disk, name: &str, head: &[u8]) -> Result<Box<dyn DiskFile>, Trouble> {
    let unnamed = format!("{name}.new");
    let mut file = disk.create(&unnamed)?;
    file.write(0, head)?;
    file.sync().map_err(Trouble::Broken)?;
    disk.rename(&unnamed, name)?;
    disk.sync_names().map_err(Trouble::Broken)?;
    Ok(file)
}
