//! Records into frames and back: packed where it pays, encrypted where there is a key, checksummed always.
//!
//! Invariant: what [`Opener::open`] gives is what [`Sealer::seal`] took, or it gives nothing. Pure: no file is known here.

use zstd::bulk::{Compressor, Decompressor};

use super::crypt::{Keys, SegmentKey, TAG};
use super::format::{FRAME, FrameHead, RECORDS_MAX, SegmentHead};
use super::records::Summary;
use crate::error::{Error, Result};

/// LIMIT: below it a packed frame saves less than it costs to look.
const PACK_MIN: usize = 256;
/// zstd's quickest ordinary level: packs JSON to a third at several hundred MB/s.
const LEVEL: i32 = 1;
/// LIMIT: after a frame that did not shrink this many go unpacked, so that data which never packs is hardly tried.
const PAUSE: u32 = 8;

/// Makes the frames of one segment.
pub(super) struct Sealer {
    head: SegmentHead,
    key: Option<SegmentKey>,
    packer: Option<Compressor<'static>>,
    pause: u32,
    payload: Vec<u8>,
}

impl Sealer {
    /// For the segment whose head is given, as value and as bytes. `key` is the one that it names.
    pub(super) fn new(head: SegmentHead, bytes: &[u8], keys: &Keys, pack: bool) -> Result<Self> {
        let key = head.key.map(|id| keys.find(id)).transpose()?.map(|key| key.of_segment(bytes));
        let packer = if pack { Some(Compressor::new(LEVEL).map_err(|e| failed("pack", e))?) } else { None };
        Ok(Self { head, key, packer, pause: 0, payload: Vec::new() })
    }

    /// Appends a frame with these records.
    pub(super) fn seal(
        &mut self,
        records: &[u8],
        sequence: u64,
        settled: u64,
        summary: Summary,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if records.len() > RECORDS_MAX {
            let most = RECORDS_MAX >> 20;
            return Err(Error::rejected(format!("write to the journal: a change is larger than {most} MiB")));
        }
        let packed = self.pack(records);
        if !packed {
            self.payload.clear();
            self.payload.extend_from_slice(records);
        }
        let mut head = FrameHead {
            length: (self.payload.len() + if self.key.is_some() { TAG } else { 0 }) as u32,
            records: records.len() as u32,
            packed,
            defines: summary.defines,
            sequence,
            settled,
            earliest: summary.earliest,
            latest: summary.latest,
            sum: 0,
        };
        if let Some(key) = &self.key {
            key.seal(sequence, &head.sealed_part(), &mut self.payload);
        }
        head.sum = super::format::salted(&self.head.salt, &self.payload);
        out.extend_from_slice(&head.encode(&self.head.salt));
        out.extend_from_slice(&self.payload);
        Ok(())
    }

    /// Whether `payload` now holds the records packed, which it does where that saves an eighth.
    fn pack(&mut self, records: &[u8]) -> bool {
        let Some(packer) = &mut self.packer else { return false };
        if records.len() < PACK_MIN || self.pause > 0 {
            self.pause = self.pause.saturating_sub(1);
            return false;
        }
        self.payload.clear();
        // The target is what must be saved: zstd gives up as soon as the rest does not fit.
        self.payload.reserve(records.len() - records.len() / 8);
        let limit = records.len() - records.len() / 8;
        let done = packer.compress_to_buffer(records, &mut self.payload).is_ok_and(|length| length <= limit);
        self.pause = if done { 0 } else { PAUSE };
        done
    }
}

/// Opens the frames of one segment.
pub(super) struct Opener {
    head: SegmentHead,
    key: Option<SegmentKey>,
    unpacker: Decompressor<'static>,
    payload: Vec<u8>,
}

impl Opener {
    /// For the segment whose head is given, as value and as bytes.
    pub(super) fn new(head: SegmentHead, bytes: &[u8], keys: &Keys) -> Result<Self> {
        let key = head.key.map(|id| keys.find(id)).transpose()?.map(|key| key.of_segment(bytes));
        let unpacker = Decompressor::new().map_err(|e| failed("unpack", e))?;
        Ok(Self { head, key, unpacker, payload: Vec::new() })
    }

    /// The segment's head.
    pub(super) fn head(&self) -> &SegmentHead {
        &self.head
    }

    /// A frame's head, if there is one at the beginning of these bytes.
    pub(super) fn peek(&self, bytes: &[u8]) -> Option<FrameHead> {
        FrameHead::decode(bytes.get(..FRAME)?, &self.head.salt)
    }

    /// Puts a frame's records into `out`, in the place of what is there; false when its payload is not what was written.
    pub(super) fn open(&mut self, head: &FrameHead, payload: &[u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        if !head.vouches_for(payload, &self.head.salt) {
            return false;
        }
        self.payload.clear();
        self.payload.extend_from_slice(payload);
        let plain = match &self.key {
            Some(key) => match key.open(head.sequence, &head.sealed_part(), &mut self.payload) {
                Some(plain) => &*plain,
                None => return false,
            },
            None => &self.payload,
        };
        if !head.packed {
            out.extend_from_slice(plain);
            return out.len() == head.records as usize;
        }
        out.reserve(head.records as usize);
        self.unpacker.decompress_to_buffer(plain, out).is_ok_and(|length| length == head.records as usize)
    }
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::bug(format!("{what} a frame of the journal: zstd could not be set up")).because(error)
}
