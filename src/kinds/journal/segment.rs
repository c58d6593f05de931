//! Walks the frames of one segment, and judges what a broken one means.
//!
//! Invariant: a frame is given only when all its checksums hold, its sequence is the next one, and it opens. Everything else
//! is one of three: the end, a torn tail (a write that a crash cut short: nothing behind it was ever durable), or damage,
//! which is an error with the segment's name, the offset and the sequence. A writer may be at work meanwhile: what looks
//! like an end or like damage is looked at again after asking what there is behind it.

use super::crypt::Keys;
use super::files::{Disk, DiskFile};
use super::format::{BadHead, FIXED, FRAME, FrameHead, LINEAGE_MAX, SegmentHead, VERSION, segment_first, segment_name};
use super::frame::Opener;
use super::mark::Mark;
use crate::error::{Error, Result};

/// LIMIT: read at a time; small frames share one read.
const WINDOW: usize = 256 << 10;
/// LIMIT: the same where only heads are looked at, most of which lie far apart.
const SKIM: usize = 4 << 10;

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A sound frame.
    Frame(FrameHead),
    /// The segment ends here, and the next one goes on.
    Next,
    /// The journal ends here, so far.
    End,
    /// A write was cut short here; so many bytes behind it belong to nobody.
    Torn(u64),
}

/// The same, by the bytes of the segment alone.
enum Look {
    Frame(FrameHead),
    End,
    Broken,
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
    /// How much is read ahead.
    ahead: usize,
    /// Bytes that the file had when it was last asked.
    length: u64,
}

impl Segment {
    /// Opens the segment that begins with `first`, to read its frames; `None` when its head was cut short, so that it holds
    /// nothing.
    ///
    /// # Errors
    /// Corrupt, for a damaged head; Config, for another version or a key that is not there.
    pub(super) fn open(disk: &dyn Disk, first: u64, keys: &Keys) -> Result<Option<Self>> {
        let name = segment_name(first);
        let file = disk.open(&name).map_err(|error| unreadable(&name, error))?;
        let Some((head, bytes)) = read_head(&*file, &name, first)? else { return Ok(None) };
        let opener = Opener::new(head, &bytes, keys)?;
        Ok(Some(Self {
            file,
            name,
            opener,
            at: bytes.len() as u64,
            next: first,
            window: Vec::new(),
            start: 0,
            ahead: WINDOW,
            length: 0,
        }))
    }

    /// As [`Segment::open`], to [`Segment::skim`] only, which needs no key.
    ///
    /// # Errors
    /// Corrupt, for a damaged head; Config, for another version.
    pub(super) fn open_heads(disk: &dyn Disk, first: u64) -> Result<Option<Self>> {
        let name = segment_name(first);
        let file = disk.open(&name).map_err(|error| unreadable(&name, error))?;
        let Some((mut head, bytes)) = read_head(&*file, &name, first)? else { return Ok(None) };
        head.key = None;
        let opener = Opener::new(head, &bytes, &Keys::default())?;
        let at = bytes.len() as u64;
        Ok(Some(Self { file, name, opener, at, next: first, window: Vec::new(), start: 0, ahead: SKIM, length: 0 }))
    }

    /// The head.
    pub(super) fn head(&self) -> &SegmentHead {
        self.opener.head()
    }

    /// The name of the file.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that its buffer holds on to.
    pub(super) fn held(&self) -> usize {
        self.window.capacity()
    }

    /// Where the next frame begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Goes to the frame `next`, which begins at `at`.
    pub(super) fn go_to(&mut self, at: u64, next: u64) {
        (self.at, self.next) = (at, next);
    }

    /// Reads the next frame and puts its records into `out`.
    ///
    /// # Errors
    /// Corrupt, when what stands here was changed after it was written, or what follows is missing. PositionLost, when what
    /// follows was removed by retention.
    pub(super) fn next(&mut self, disk: &dyn Disk, out: &mut Vec<u8>) -> Result<Found> {
        self.step(disk, &mut Some(out))
    }

    /// As [`Segment::next`], and the payload is neither read nor checked.
    pub(super) fn skim(&mut self, disk: &dyn Disk) -> Result<Found> {
        self.ahead = SKIM;
        self.step(disk, &mut None)
    }

    fn step(&mut self, disk: &dyn Disk, out: &mut Option<&mut Vec<u8>>) -> Result<Found> {
        if let Look::Frame(head) = self.look(out)? {
            return Ok(Found::Frame(head));
        }
        // First ask what is durable, then what there is behind it, then look again: whatever was there when it was answered
        // is seen now, in this segment or in one that was begun meanwhile.
        let settled = Mark::read(disk).map_or(0, |mark| mark.sequence);
        let behind = self.behind(disk)?;
        self.window.clear();
        self.length = 0;
        match (self.look(out)?, behind) {
            (Look::Frame(head), _) => Ok(Found::Frame(head)),
            (Look::End, None) if settled < self.next => Ok(Found::End),
            (Look::End, Some(first)) if first == self.next => Ok(Found::Next),
            (Look::End, None) => {
                Err(self
                    .damage(&format!("it ends before frame {}, and frames up to {settled} were durable", self.next)))
            }
            (Look::End, Some(first)) => Err(self.hole(disk, first)),
            (Look::Broken, None) if settled < self.next => self.judge(),
            (Look::Broken, _) => Err(self.damage(&format!("frame {} is not what was written", self.next))),
        }
    }

    /// Takes the frame that stands here, if all of it is as it was written.
    fn look(&mut self, out: &mut Option<&mut Vec<u8>>) -> Result<Look> {
        if self.at + FRAME as u64 > self.length {
            self.ask_length()?;
        }
        if self.at == self.length {
            return Ok(Look::End);
        }
        if self.at > self.length {
            return Err(damaged(&self.name, self.length, "it ends before a frame that it held"));
        }
        let Some(head) = self.head_at(self.at)? else { return Ok(Look::Broken) };
        let end = self.at + FRAME as u64 + u64::from(head.length);
        if end > self.length {
            self.ask_length()?;
        }
        if end > self.length {
            return Ok(Look::Broken);
        }
        if head.sequence != self.next {
            return Err(self.damage(&format!("frame {} stands where {} belongs", head.sequence, self.next)));
        }
        if let Some(out) = out {
            self.fill(self.at, FRAME + head.length as usize)?;
            let begin = (self.at - self.start) as usize + FRAME;
            let payload = self.window.get_mut(begin..begin + head.length as usize);
            if !payload.is_some_and(|payload| self.opener.open(&head, payload, out)) {
                return Ok(Look::Broken);
            }
        }
        self.at += FRAME as u64 + u64::from(head.length);
        self.next += 1;
        Ok(Look::Frame(head))
    }

    fn ask_length(&mut self) -> Result<()> {
        self.length = self.file.length().map_err(|error| unreadable(&self.name, error))?;
        Ok(())
    }

    /// Where the segment behind this one begins.
    fn behind(&self, disk: &dyn Disk) -> Result<Option<u64>> {
        let first = self.head().first;
        Ok(segments(disk)?.into_iter().find(|other| *other > first))
    }

    /// What a frame that is broken at the end of the journal means: damage where it was durable once, else a torn tail.
    fn judge(&mut self) -> Result<Found> {
        let length = self.file.length().map_err(|error| unreadable(&self.name, error))?;
        // What was opened where it lay is not what the file holds.
        self.window.clear();
        let mut at = self.at;
        while at + FRAME as u64 <= length {
            if self.head_at(at)?.is_some_and(|head| head.settled >= self.next) {
                return Err(self.damage(&format!("frame {} is not what was written", self.next)));
            }
            at += 1;
        }
        Ok(Found::Torn(length.saturating_sub(self.at)))
    }

    /// Why the segment that begins with `first` does not go on where this one ends.
    fn hole(&self, disk: &dyn Disk, first: u64) -> Error {
        let next = self.next;
        let outrun = segments(disk).is_ok_and(|all| !all.contains(&self.head().first));
        if outrun {
            let text = format!("read the journal from {next}: retention removed it meanwhile, it begins at {first}");
            return Error::position_lost(text);
        }
        if first < next {
            return self.damage(&format!("frame {next} belongs here, and a segment that begins with {first} follows"));
        }
        missing(next, first - 1)
    }

    fn head_at(&mut self, at: u64) -> Result<Option<FrameHead>> {
        self.fill(at, FRAME)?;
        let begin = (at - self.start) as usize;
        Ok(self.window.get(begin..).and_then(|bytes| FrameHead::decode(bytes, &self.head().salt)))
    }

    /// Sees to it that the window begins at or before `at` and holds `count` bytes from there, if the file has them.
    fn fill(&mut self, at: u64, count: usize) -> Result<()> {
        let end = self.start + self.window.len() as u64;
        if at >= self.start && at + count as u64 <= end {
            return Ok(());
        }
        if self.window.capacity() > 4 * WINDOW && count <= WINDOW {
            // What one large frame needed is not held for ever.
            self.window = Vec::new();
        }
        let length = self.file.length().map_err(|error| unreadable(&self.name, error))?;
        let left = usize::try_from(length.saturating_sub(at)).unwrap_or(usize::MAX);
        self.window.resize(count.max(self.ahead).min(left), 0);
        let read = self.file.read(at, &mut self.window).map_err(|error| unreadable(&self.name, error))?;
        self.window.truncate(read);
        self.start = at;
        Ok(())
    }

    /// Somebody changed the segment after it was written.
    fn damage(&self, what: &str) -> Error {
        damaged(&self.name, self.at, what)
    }
}

/// Reads a segment's head, as value and as bytes; `None` when the file ends within it.
fn read_head(file: &dyn DiskFile, name: &str, first: u64) -> Result<Option<(SegmentHead, Vec<u8>)>> {
    let mut bytes = vec![0; FIXED + LINEAGE_MAX + 4];
    let length = file.read(0, &mut bytes).map_err(|error| unreadable(name, error))?;
    bytes.truncate(length);
    match SegmentHead::decode(&bytes) {
        Ok((head, end)) if head.first == first => {
            bytes.truncate(end);
            Ok(Some((head, bytes)))
        }
        Ok(_) => Err(damaged(name, 0, "its name and its head disagree")),
        Err(BadHead::Short) => Ok(None),
        Err(BadHead::Damaged) => Err(damaged(name, 0, "its head is not what was written")),
        Err(BadHead::Version(found)) => Err(Error::config(format!(
            "read journal segment {name}: it says format {found}, and this driftless reads {VERSION}"
        ))),
    }
}

/// The head of the segment that begins with `first`; `None` when it was cut short. Needs no key.
pub(super) fn head_of(disk: &dyn Disk, first: u64) -> Result<Option<SegmentHead>> {
    let name = segment_name(first);
    let file = disk.open(&name).map_err(|error| unreadable(&name, error))?;
    Ok(read_head(&*file, &name, first)?.map(|(head, _)| head))
}

/// The first sequences of all segments, in order.
pub(super) fn segments(disk: &dyn Disk) -> Result<Vec<u64>> {
    let names = disk.names().map_err(|error| unreadable("folder", error))?;
    let mut found: Vec<u64> = names.iter().filter_map(|name| segment_first(name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// A whole segment is not there.
pub(super) fn missing(from: u64, to: u64) -> Error {
    Error::corrupt(format!("read the journal: frames {from} to {to} are missing, their segment is gone"))
}

/// Somebody changed a segment after it was written.
pub(super) fn damaged(name: &str, at: u64, what: &str) -> Error {
    Error::corrupt(format!("read journal segment {name} at byte {at}: {what}; nothing from there on is used"))
}

/// The disk does not give what it holds.
pub(super) fn unreadable(name: &str, error: std::io::Error) -> Error {
    Error::config(format!("read journal {name}")).because(error)
}
