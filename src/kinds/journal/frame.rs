//! Records into frames and back: packed where it pays, encrypted where there is a key, checksummed always.
//!
//! Invariant: what [`Opener::open`] gives is what [`Sealer::seal`] took, or it gives nothing. Pure: no file is known here.

use zstd::bulk::{Compressor, Decompressor};

use super::crypt::{Keys, SegmentKey, TAG};
use super::format::{FRAME, FrameHead, RECORDS_MAX, Salt, SegmentHead, salted};
use crate::error::{Error, Result};

/// LIMIT: below it a packed frame saves less than it costs to look.
const PACK_MIN: usize = 256;
/// zstd's quickest ordinary level: packs JSON to a third at several hundred MB/s.
const LEVEL: i32 = 1;
/// LIMIT: after a frame that did not shrink this many go unpacked, so that data which never packs is hardly tried.
const PAUSE: u32 = 8;

/// Makes the frames of one segment.
pub(super) struct Sealer {
    salt: Salt,
    key: Option<SegmentKey>,
    packer: Compressor<'static>,
    pause: u32,
}

impl Sealer {
    /// For the segment whose head is given, as value and as bytes.
    ///
    /// # Errors
    /// Config, when the key that it names is not here.
    pub(super) fn new(head: &SegmentHead, bytes: &[u8], keys: &Keys) -> Result<Self> {
        let key = head.key.map(|id| keys.find(id)).transpose()?.map(|key| key.of_segment(bytes));
        let packer = Compressor::new(LEVEL).map_err(|e| failed("pack", e))?;
        Ok(Self { salt: head.salt, key, packer, pause: 0 })
    }

    /// Appends a frame with these records, packed if that is wanted and pays. `head` says sequence, settled and times.
    pub(super) fn seal(&mut self, records: &[u8], mut head: FrameHead, pack: bool, out: &mut Vec<u8>) {
        assert!(records.len() <= RECORDS_MAX, "a change that no frame holds is refused before");
        let begin = out.len();
        let payload = begin + FRAME;
        out.resize(payload, 0);
        head.records = records.len() as u32;
        head.packed = pack && self.pack(records, out);
        if !head.packed {
            out.extend_from_slice(records);
        }
        head.length = (out.len() - payload + if self.key.is_some() { TAG } else { 0 }) as u32;
        if let Some(key) = &self.key {
            let tag = key.seal(head.sequence, &head.sealed_part(), &mut out[payload..]);
            out.extend_from_slice(&tag);
        }
        head.sum = salted(&self.salt, &out[payload..]);
        out[begin..payload].copy_from_slice(&head.encode(&self.salt));
    }

    /// Whether the records now stand packed at the end of `out`, which they do where that saves an eighth.
    fn pack(&mut self, records: &[u8], out: &mut Vec<u8>) -> bool {
        if records.len() < PACK_MIN || self.pause > 0 {
            self.pause = self.pause.saturating_sub(1);
            return false;
        }
        let begin = out.len();
        // The target has the room that may be needed: zstd gives up as soon as the rest does not fit.
        out.resize(begin + records.len() - records.len() / 8, 0);
        let done = self.packer.compress_to_buffer(records, &mut out[begin..]);
        out.truncate(begin + *done.as_ref().unwrap_or(&0));
        self.pause = if done.is_ok() { 0 } else { PAUSE };
        done.is_ok()
    }
}

/// Opens the frames of one segment.
pub(super) struct Opener {
    head: SegmentHead,
    key: Option<SegmentKey>,
    unpacker: Decompressor<'static>,
}

impl Opener {
    /// For the segment whose head is given, as value and as bytes.
    ///
    /// # Errors
    /// Config, when the key that it names is not here.
    pub(super) fn new(head: SegmentHead, bytes: &[u8], keys: &Keys) -> Result<Self> {
        let key = head.key.map(|id| keys.find(id)).transpose()?.map(|key| key.of_segment(bytes));
        let unpacker = Decompressor::new().map_err(|e| failed("unpack", e))?;
        Ok(Self { head, key, unpacker })
    }

    /// The segment's head.
    pub(super) fn head(&self) -> &SegmentHead {
        &self.head
    }

    /// Puts a frame's records into `out`, in the place of what is there; false when its payload is not what was written.
    /// The payload is of no use afterwards.
    pub(super) fn open(&mut self, head: &FrameHead, payload: &mut [u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        if !head.vouches_for(payload, &self.head.salt) {
            return false;
        }
        let plain = match &self.key {
            Some(key) => match key.open(head.sequence, &head.sealed_part(), payload) {
                Some(plain) => plain,
                None => return false,
            },
            None => payload,
        };
        let length = head.records as usize;
        if !head.packed {
            out.extend_from_slice(plain);
            return out.len() == length;
        }
        out.reserve(length);
        self.unpacker.decompress_to_buffer(plain, out).is_ok_and(|unpacked| unpacked == length)
    }
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::bug(format!("{what} a frame of the journal: zstd could not be set up")).because(error)
}

#[cfg(test)]
mod tests {
    use super::super::crypt::{KEY, Key};
    use super::*;
    use proptest::prelude::*;

    /// Seals records into a frame and opens it again; gives the frame, its head, and what came out.
    fn through(records: &[u8], key: bool, pack: bool) -> (Vec<u8>, FrameHead, Vec<u8>) {
        let key = key.then(|| Key::new(&[7; KEY]));
        let id = key.as_ref().map(Key::id);
        let keys = key.map_or_else(Keys::default, Keys::new);
        let head = SegmentHead { lineage: "l".into(), first: 1, made: 0, key: id, salt: [3; 16], previous: [0; 16] };
        let bytes = head.encode().unwrap();
        let mut out = Vec::new();
        let mut sealer = Sealer::new(&head, &bytes, &keys).unwrap();
        sealer.seal(records, FrameHead { sequence: 5, settled: 4, ..FrameHead::default() }, pack, &mut out);
        let frame = FrameHead::decode(&out, &head.salt).unwrap();
        let mut opener = Opener::new(head, &bytes, &keys).unwrap();
        let mut back = Vec::new();
        assert!(opener.open(&frame, &mut out[FRAME..].to_vec(), &mut back));
        for at in 0..out.len() - FRAME {
            let mut changed = out[FRAME..].to_vec();
            changed[at] ^= 0x10;
            assert!(!opener.open(&frame, &mut changed, &mut Vec::new()), "byte {at}");
        }
        (out, frame, back)
    }

    #[test]
    fn what_does_not_shrink_is_not_packed() {
        let mut state = 7u64;
        let random: Vec<u8> = (0..2000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        assert!(!through(&random, false, true).1.packed);
        assert!(through(&[b'a'; 2000], false, true).1.packed);
        assert!(!through(&[b'a'; 2000], false, false).1.packed, "not asked for");
        assert!(!through(&[b'a'; 100], false, true).1.packed, "too small");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_as_it_was(
            piece in proptest::collection::vec(any::<u8>(), 0..60), times in 1usize..20, key: bool, pack: bool,
        ) {
            let records = piece.repeat(times);
            let (_, head, back) = through(&records, key, pack);
            prop_assert_eq!(back, records);
            prop_assert_eq!((head.sequence, head.settled), (5, 4));
        }
    }
}
