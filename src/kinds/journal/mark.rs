//! How far the journal is durable, beside the journal: what a later frame cannot say of the newest ones.
//!
//! ```text
//! mark = "driftmrk"                              8   little endian
//!        u64 sequence of the last durable frame  8
//!        u64 where its segment begins            8   sequence, as in the segment's name
//!        u64 where it ends in that segment       8   bytes
//!        u32 CRC-32C of the 32 bytes             4
//! ```
//!
//! It is written over after each fsync of a segment, and not synced itself. So it is never ahead of the truth, and after a
//! crash of the process it is exact: an end of the journal that was cut off, be it at the border of two frames, is seen. After
//! a power loss it may be behind or of no use, and then it says nothing. A reader in another process takes it for how far it
//! may read.

use super::files::{Disk, DiskFile};

const NAME: &str = "mark";
const MAGIC: &[u8; 8] = b"driftmrk";
const LENGTH: usize = 36;

/// What the mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Mark {
    /// The last durable frame.
    pub(super) sequence: u64,
    /// Its segment.
    pub(super) segment: u64,
    /// Where it ends in that.
    pub(super) end: u64,
}

impl Mark {
    fn encode(self) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..24].copy_from_slice(&self.segment.to_le_bytes());
        out[24..32].copy_from_slice(&self.end.to_le_bytes());
        let sum = crc32c::crc32c(&out[..32]);
        out[32..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let sound = bytes.starts_with(MAGIC) && bytes[32..] == crc32c::crc32c(&bytes[..32]).to_le_bytes();
        sound.then(|| Self { sequence: word(8), segment: word(16), end: word(24) })
    }

    /// What the mark of a folder says; nothing when there is none, or it was torn.
    pub(super) fn read(disk: &dyn Disk) -> Option<Self> {
        let mut bytes = [0; LENGTH + 1];
        let length = disk.open(NAME).and_then(|file| file.read(0, &mut bytes)).ok()?;
        Self::decode(&bytes[..length])
    }

    /// Removes the mark of a folder.
    pub(super) fn remove(disk: &dyn Disk) -> std::io::Result<()> {
        disk.remove(NAME)?;
        disk.sync_names()
    }
}

/// The mark of a folder, kept open to be written over.
#[derive(Default)]
pub(super) struct MarkFile(Option<Box<dyn DiskFile>>);

impl MarkFile {
    /// Writes the mark. That it cannot be written is no failure of the journal: it then says less than it could.
    pub(super) fn write(&mut self, disk: &dyn Disk, mark: Mark) {
        if self.0.is_none() {
            self.0 = disk.open(NAME).or_else(|_| disk.create(NAME)).ok();
        }
        if let Some(file) = &mut self.0
            && file.write(0, &mark.encode()).is_err()
        {
            self.0 = None;
        }
    }

    /// Makes the mark durable, where a clean end wants it to be exact after a power loss too.
    pub(super) fn sync(&mut self, disk: &dyn Disk) {
        if let Some(file) = &mut self.0
            && file.sync().is_ok()
        {
            // The journal is as good without it.
            drop(disk.sync_names());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::faulty::Faulty;
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_a_changed_one_says_nothing() {
        let (disk, mark) = (Faulty::default(), Mark { sequence: 7, segment: 3, end: 999 });
        assert_eq!(Mark::read(&disk), None);
        MarkFile::default().write(&disk, mark);
        assert_eq!(Mark::read(&disk), Some(mark));
        let whole = disk.bytes(NAME);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            disk.put(NAME, flipped);
            assert_eq!(Mark::read(&disk), None, "bit {bit}");
        }
        for length in 0..whole.len() {
            disk.put(NAME, whole[..length].to_vec());
            assert_eq!(Mark::read(&disk), None);
        }
    }

    #[test]
    fn a_mark_that_cannot_be_written_is_left_as_it_is() {
        let (disk, mut file) = (Faulty::default(), MarkFile::default());
        disk.room(Some(10));
        file.write(&disk, Mark::default());
        assert_eq!(Mark::read(&disk), None);
        disk.room(None);
        file.write(&disk, Mark { sequence: 1, ..Mark::default() });
        assert_eq!(Mark::read(&disk).unwrap().sequence, 1);
    }
}
