//! The headers of segments and of frames: where each byte lies, and what makes them broken.
//!
//! ```text
//! folder  = <sequence of its first frame, 20 digits>.segment*
//!           mark  lock  <name>.reader*           see `mark`, `files`, `cursors`
//! segment = head frame*                          little endian throughout
//! head    = "driftjnl"                           8
//!           u16 version = 1                      2
//!           u16 flags: 1 = frames encrypted      2
//!           u32 length of the lineage            4
//!           u64 sequence of the first frame      8   also the file's name
//!           i64 when it was begun                8   microseconds since 1970, the writer's clock
//!           u64 id of the key, 0 without         8
//!           u8[16] salt, random                 16
//!           u8[16] salt of the segment before   16   zero in the first one
//!           u32 CRC-32C of the 72 bytes          4
//!           lineage, UTF-8                       n   of which source, under which stream name
//!           u32 CRC-32C of salt and lineage      4
//! frame   = "dlf1"                               4
//!           u32 length of the payload            4   as it lies here
//!           u32 length of the records            4   when opened and unpacked
//!           u32 flags: 1 = packed                4
//!           u64 sequence                         8   one more than the frame before it
//!           u64 settled                          8   last sequence that was durable when this frame was made
//!           i64 earliest, i64 latest            16   commit times of its changes; both 0 when none is known
//!           u32 CRC-32C of salt and payload      4
//!           u32 CRC-32C of salt and the 52 bytes before   4
//!           payload                              n   records, packed with zstd, encrypted: see `records`, `crypt`
//! ```
//!
//! The salt makes a frame of another segment (an old block that a crash brought back) a broken one here, and keeps what
//! users write into their values from ever looking like a frame. The salt of the segment before makes a segment that was put
//! back from an older copy of the folder a wrong one. `settled` tells a torn tail from damage: a broken frame
//! that a later one calls settled was durable once. A later version keeps the first 76 bytes of a head and their checksum, so
//! that another version is told from damage. Pure: bytes in, bytes out. What is in a payload is not known here.

use crate::error::{Error, Result};
use crate::model::Micros;

/// The version that is written, and the only one that is read.
pub const VERSION: u16 = 1;
const MAGIC: &[u8; 8] = b"driftjnl";
const MARK: &[u8; 4] = b"dlf1";
/// Bytes of a segment's head before the lineage.
pub const FIXED: usize = 76;
/// Bytes before a frame's payload.
pub const FRAME: usize = 56;
/// LIMIT: a stream's name and a source's identity fit many times.
pub const LINEAGE_MAX: usize = 4096;
/// LIMIT: what a frame may hold when unpacked. PostgreSQL's largest value is 1 GB; rows of several such do not fit.
pub const RECORDS_MAX: usize = 1 << 30;
/// LIMIT: as much again for what packing and encryption may add.
pub const PAYLOAD_MAX: usize = RECORDS_MAX + (1 << 20);

const ENCRYPTED: u16 = 1;
const PACKED: u32 = 1;

/// Random bytes of a segment.
pub type Salt = [u8; 16];

/// What stands at the beginning of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// Which history this is a piece of; two histories never share a folder.
    pub lineage: String,
    /// Sequence of the first frame.
    pub first: u64,
    /// When the segment was begun.
    pub made: Micros,
    /// The key under which the frames are encrypted, if they are.
    pub key: Option<u64>,
    /// Random bytes, new for each segment.
    pub salt: Salt,
    /// Those of the segment before it; zero in the first.
    pub previous: Salt,
}

/// Why a head cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// The file ends inside it.
    Short,
    /// Its bytes are not what was written.
    Damaged,
    /// Another version of the format.
    Version(u16),
}

impl SegmentHead {
    /// The bytes of the head.
    ///
    /// # Errors
    /// Config, when the lineage is too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        if self.lineage.len() > LINEAGE_MAX {
            return Err(Error::config(format!("begin a journal: its name is longer than {LINEAGE_MAX} bytes")));
        }
        let mut out = Vec::with_capacity(FIXED + self.lineage.len() + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&if self.key.is_some() { ENCRYPTED } else { 0 }.to_le_bytes());
        out.extend_from_slice(&(self.lineage.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.made.to_le_bytes());
        out.extend_from_slice(&self.key.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.previous);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.extend_from_slice(self.lineage.as_bytes());
        out.extend_from_slice(&salted(&self.salt, self.lineage.as_bytes()).to_le_bytes());
        Ok(out)
    }

    /// Reads a head from the first bytes of a file (`FIXED + LINEAGE_MAX + 4` of them are enough); gives its length too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), BadHead> {
        let mut fields = Fields(bytes.get(..FIXED).ok_or(BadHead::Short)?);
        let magic = fields.take::<8>();
        let version = u16::from_le_bytes(fields.take());
        let flags = u16::from_le_bytes(fields.take());
        let length = u32::from_le_bytes(fields.take()) as usize;
        let first = u64::from_le_bytes(fields.take());
        let made = i64::from_le_bytes(fields.take());
        let key = u64::from_le_bytes(fields.take());
        let salt = fields.take();
        let previous = fields.take();
        let sum = u32::from_le_bytes(fields.take());
        if magic != *MAGIC || sum != crc32c::crc32c(&bytes[..FIXED - 4]) {
            return Err(BadHead::Damaged);
        }
        if version != VERSION {
            return Err(BadHead::Version(version));
        }
        if flags > ENCRYPTED || length > LINEAGE_MAX || first == 0 {
            return Err(BadHead::Damaged);
        }
        let end = FIXED + length + 4;
        let rest = bytes.get(FIXED..end).ok_or(BadHead::Short)?;
        let (lineage, sum) = rest.split_at(length);
        if sum != salted(&salt, lineage).to_le_bytes() {
            return Err(BadHead::Damaged);
        }
        let lineage = std::str::from_utf8(lineage).map_err(|_| BadHead::Damaged)?.to_owned();
        let key = (flags & ENCRYPTED != 0).then_some(key);
        Ok((Self { lineage, first, made, key, salt, previous }, end))
    }
}

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrameHead {
    /// Bytes of the payload as it lies in the file.
    pub length: u32,
    /// Bytes of its records when opened and unpacked.
    pub records: u32,
    /// Whether the records are packed with zstd.
    pub packed: bool,
    /// Its number in the journal, from 1.
    pub sequence: u64,
    /// The last sequence that was durable when this frame was made.
    pub settled: u64,
    /// The earliest known commit time of its changes, or 0.
    pub earliest: Micros,
    /// The latest.
    pub latest: Micros,
    /// Checksum of the payload.
    pub sum: u32,
}

impl FrameHead {
    /// The bytes that encryption vouches for: all but the checksums.
    pub fn sealed_part(&self) -> [u8; FRAME - 8] {
        let mut out = [0; FRAME - 8];
        let flags = u32::from(self.packed) * PACKED;
        out[..4].copy_from_slice(MARK);
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..12].copy_from_slice(&self.records.to_le_bytes());
        out[12..16].copy_from_slice(&flags.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.settled.to_le_bytes());
        out[32..40].copy_from_slice(&self.earliest.to_le_bytes());
        out[40..48].copy_from_slice(&self.latest.to_le_bytes());
        out
    }

    /// The bytes of the head in a segment with this salt.
    pub fn encode(&self, salt: &Salt) -> [u8; FRAME] {
        let mut out = [0; FRAME];
        out[..FRAME - 8].copy_from_slice(&self.sealed_part());
        out[FRAME - 8..FRAME - 4].copy_from_slice(&self.sum.to_le_bytes());
        let sum = salted(salt, &out[..FRAME - 4]);
        out[FRAME - 4..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a head; `None` when this is no frame of a segment with this salt.
    pub fn decode(bytes: &[u8], salt: &Salt) -> Option<Self> {
        let bytes = bytes.get(..FRAME)?;
        // Looking for frames byte by byte is cheap as long as the mark is compared first.
        if !bytes.starts_with(MARK) || bytes[FRAME - 4..] != salted(salt, &bytes[..FRAME - 4]).to_le_bytes() {
            return None;
        }
        let mut fields = Fields(&bytes[4..]);
        let length = u32::from_le_bytes(fields.take());
        let records = u32::from_le_bytes(fields.take());
        let flags = u32::from_le_bytes(fields.take());
        let head = Self {
            length,
            records,
            packed: flags & PACKED != 0,
            sequence: u64::from_le_bytes(fields.take()),
            settled: u64::from_le_bytes(fields.take()),
            earliest: i64::from_le_bytes(fields.take()),
            latest: i64::from_le_bytes(fields.take()),
            sum: u32::from_le_bytes(fields.take()),
        };
        let sane = flags <= PACKED
            && length as usize <= PAYLOAD_MAX
            && records as usize <= RECORDS_MAX
            && head.sequence > head.settled;
        sane.then_some(head)
    }

    /// Whether a payload is the one that this head was written for.
    pub fn vouches_for(&self, payload: &[u8], salt: &Salt) -> bool {
        payload.len() == self.length as usize && salted(salt, payload) == self.sum
    }
}

/// The checksum of bytes in a segment with this salt.
pub fn salted(salt: &Salt, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(salt), bytes)
}

/// Takes fields off the front of bytes whose length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the length of a head was checked before it is read");
        self.0 = rest;
        *field
    }
}

/// The name of the file of the segment that begins with this sequence. Names sort as the segments do.
pub fn segment_name(first: u64) -> String {
    format!("{first:020}.segment")
}

/// The sequence that a segment's name says, `None` for files that are no segments.
pub fn segment_first(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> SegmentHead {
        SegmentHead {
            lineage: "state pg/7/1/s".into(),
            first: 7,
            made: 1_700_000_000_000_000,
            key: Some(3),
            salt: [9; 16],
            previous: [8; 16],
        }
    }

    fn frame() -> FrameHead {
        FrameHead {
            length: 3,
            records: 9,
            packed: true,
            sequence: 8,
            settled: 7,
            earliest: 5,
            latest: 6,
            ..FrameHead::default()
        }
    }

    #[test]
    fn heads_come_back_as_they_were_written() {
        let bytes = head().encode().unwrap();
        assert_eq!(SegmentHead::decode(&bytes).unwrap(), (head(), bytes.len()));
        let bytes = frame().encode(&[9; 16]);
        assert_eq!(FrameHead::decode(&bytes, &[9; 16]), Some(frame()));
        assert_eq!(FrameHead::decode(&bytes, &[8; 16]), None, "a frame of another segment is none here");
    }

    #[test]
    fn each_flipped_bit_of_a_head_is_found() {
        let bytes = head().encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHead::decode(&flipped).is_err(), "bit {bit}");
        }
        let bytes = frame().encode(&[9; 16]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHead::decode(&flipped, &[9; 16]), None, "bit {bit}");
        }
    }

    #[test]
    fn a_head_that_ends_early_is_short_and_nothing_else() {
        let bytes = head().encode().unwrap();
        for length in 0..bytes.len() {
            assert_eq!(SegmentHead::decode(&bytes[..length]), Err(BadHead::Short));
        }
    }

    #[test]
    fn names_sort_as_segments_do() {
        assert_eq!(segment_first(&segment_name(12)), Some(12));
        assert!(segment_name(9) < segment_name(10));
        for name in ["12.segment", "0000000000000000001x.segment", "00000000000000000012.new", "readers"] {
            assert_eq!(segment_first(name), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(SegmentHead::decode(&bytes).is_err());
            prop_assert_eq!(FrameHead::decode(&bytes, &[0; 16]), None);
        }
    }
}
