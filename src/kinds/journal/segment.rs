//! Walks the frames of one segment, and judges what a broken one means.
//!
//! Invariant: a frame is given only when all its checksums hold, its sequence is the next one, and its records decode.
//! Everything else is one of two: a torn tail (a write that a crash cut short: nothing behind it was ever durable), or
//! damage, which is an error with the segment's name and the offset.

use super::crypt::Keys;
use super::files::{Disk, DiskFile};
use super::format::{BadHead, FIXED, FRAME, FrameHead, LINEAGE_MAX, SegmentHead, VERSION, segment_first, segment_name};
use super::frame::Opener;
use crate::error::{Error, Result};

/// LIMIT: read at a time; small frames share one read.
const WINDOW: usize = 256 << 10;

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A sound frame.
    Frame(FrameHead),
    /// The file ends here, as it should.
    End,
    /// A write was cut short here; so many bytes behind it belong to nobody.
    Torn(u64),
}

/// An open segment.
pub(super) struct Segment {
    file: Box<dyn DiskFile>,
    name: String,
    opener: Opener,
    /// Where the next frame begins.
    at: u64,
    /// Its sequence.
    next: u64,
    window: Vec<u8>,
    /// Where the window begins.
    start: u64,
}

impl Segment {
    /// Opens the segment that begins with `first`; `None` when its head was cut short, so that it holds nothing.
    ///
    /// # Errors
    /// Corrupt, for a damaged head; Config, for another version or a key that is not there.
    pub(super) fn open(disk: &dyn Disk, first: u64, keys: &Keys) -> Result<Option<Self>> {
        let name = segment_name(first);
        let file = disk.open(&name).map_err(|error| unreadable(&name, error))?;
        let mut bytes = vec![0; FIXED + LINEAGE_MAX + 4];
        let length = file.read(0, &mut bytes).map_err(|error| unreadable(&name, error))?;
        let (head, end) = match SegmentHead::decode(&bytes[..length]) {
            Ok(found) => found,
            Err(BadHead::Short) => return Ok(None),
            Err(BadHead::Damaged) => return Err(damaged(&name, 0, "its head is not what was written")),
            Err(BadHead::Version(found)) => {
                let text =
                    format!("read journal segment {name}: it says format {found}; this driftless reads {VERSION}");
                return Err(Error::config(text));
            }
        };
        if head.first != first {
            return Err(damaged(&name, 0, "its name and its head disagree"));
        }
        let opener = Opener::new(head, &bytes[..end], keys)?;
        Ok(Some(Self { file, name, opener, at: end as u64, next: first, window: Vec::new(), start: 0 }))
    }

    /// The head.
    pub(super) fn head(&self) -> &SegmentHead {
        self.opener.head()
    }

    /// The name of the file.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the next frame begins, and its sequence.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.at, self.next)
    }

    /// Reads the next frame and puts its records into `out`. `last` says whether no segment follows, so that a write may have
    /// been cut short here.
    ///
    /// # Errors
    /// Corrupt, with name and offset, when what stands here was changed after it was written.
    pub(super) fn next(&mut self, last: impl FnOnce() -> Result<bool>, out: &mut Vec<u8>) -> Result<Found> {
        self.step(last, Some(out))
    }

    /// As [`Segment::next`], and the payload is neither read nor checked.
    pub(super) fn skim(&mut self, last: impl FnOnce() -> Result<bool>) -> Result<Found> {
        self.step(last, None)
    }

    fn step(&mut self, last: impl FnOnce() -> Result<bool>, mut out: Option<&mut Vec<u8>>) -> Result<Found> {
        let length = self.file.length().map_err(|error| unreadable(&self.name, error))?;
        if self.at == length {
            return Ok(Found::End);
        }
        if self.at > length {
            return Err(damaged(&self.name, length, "it ends before a frame that it held"));
        }
        // What was read ahead may have been read while it was being written: look once more before saying that it is broken.
        for _ in 0..2 {
            if let Some(head) = self.sound(length, out.as_deref_mut())? {
                self.at += FRAME as u64 + u64::from(head.length);
                self.next += 1;
                return Ok(Found::Frame(head));
            }
            self.window.clear();
        }
        self.judge(last()?, length)
    }

    /// The head of the frame that stands here, if all of it is as it was written.
    fn sound(&mut self, length: u64, out: Option<&mut Vec<u8>>) -> Result<Option<FrameHead>> {
        let (at, next) = (self.at, self.next);
        let Some(head) = self.head_at(at)? else { return Ok(None) };
        if at + FRAME as u64 + u64::from(head.length) > length {
            return Ok(None);
        }
        if head.sequence != next {
            return Err(damaged(&self.name, at, &format!("frame {} stands where {next} belongs", head.sequence)));
        }
        let Some(out) = out else { return Ok(Some(head)) };
        self.fill(at, FRAME + head.length as usize)?;
        let begin = (at - self.start) as usize + FRAME;
        let payload = self.window.get(begin..begin + head.length as usize);
        Ok(payload.is_some_and(|payload| self.opener.open(&head, payload, out)).then_some(head))
    }

    /// What a broken frame means: damage where it was durable once, else a torn tail.
    fn judge(&mut self, last: bool, length: u64) -> Result<Found> {
        let (at, next) = (self.at, self.next);
        let damage = damaged(&self.name, at, &format!("frame {next} is not what was written"));
        if !last {
            return Err(damage);
        }
        let mut look = at;
        while look + FRAME as u64 <= length {
            if self.head_at(look)?.is_some_and(|head| head.settled >= next) {
                return Err(damage);
            }
            look += 1;
        }
        Ok(Found::Torn(length - at))
    }

    fn head_at(&mut self, at: u64) -> Result<Option<FrameHead>> {
        self.fill(at, FRAME)?;
        let begin = (at - self.start) as usize;
        Ok(self.window.get(begin..).and_then(|bytes| self.opener.peek(bytes)))
    }

    /// Sees to it that the window begins at or before `at` and holds `count` bytes from there, if the file has them.
    fn fill(&mut self, at: u64, count: usize) -> Result<()> {
        let end = self.start + self.window.len() as u64;
        if at >= self.start && at + count as u64 <= end {
            return Ok(());
        }
        self.window.resize(count.max(WINDOW), 0);
        let read = self.file.read(at, &mut self.window).map_err(|error| unreadable(&self.name, error))?;
        self.window.truncate(read);
        self.start = at;
        Ok(())
    }
}

/// The first sequences of all segments, in order.
pub(super) fn segments(disk: &dyn Disk) -> Result<Vec<u64>> {
    let names = disk.names().map_err(|error| unreadable("folder", error))?;
    let mut found: Vec<u64> = names.iter().filter_map(|name| segment_first(name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// Somebody changed a segment after it was written.
pub(super) fn damaged(name: &str, at: u64, what: &str) -> Error {
    Error::corrupt(format!("read journal segment {name} at byte {at}: {what}; nothing from there on is used"))
}

pub(super) fn unreadable(name: &str, error: std::io::Error) -> Error {
    Error::config(format!("read journal {name}")).because(error)
}
