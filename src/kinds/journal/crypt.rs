//! Encryption of frames: AES-256-GCM, one key per segment, drawn from the caller's.
//!
//! ```text
//! extracted   = HKDF-SHA256-Extract("driftless journal 1", the caller's key)
//! key id      = HKDF-SHA256-Expand(extracted, "id", 8), as u64
//! segment key = HKDF-SHA256-Expand(extracted, "segment" SHA-256(all bytes of the segment's head), 32)
//! nonce       = u32 0, u64 sequence of the frame
//! payload     = ciphertext and tag[16], with the frame's head up to its checksums as associated data
//! ```
//!
//! **No nonce is used twice under one key.** A head holds 16 random bytes, so no two segments share a key, not even two that
//! begin with the same sequence (after a crash, or after a damaged end was cut off). Within a segment each frame has a
//! sequence of its own: only one writer, in one run, ever writes to a segment (whoever opens a journal begins a new one), it
//! seals each sequence once, and a frame that found no room on the disk is written again byte for byte, never sealed again.
//!
//! A changed head of a segment opens nothing, and a changed head of a frame does not open it. What stays readable: lineage,
//! sizes, sequences, commit times. What is not kept out: whoever may write to the folder may take frames off its end.
//! Pure; where keys come from is `keys`' business.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::error::{Error, Result};

/// What encryption adds to a payload.
pub const TAG: usize = 16;
/// Bytes of a key.
pub const KEY: usize = 32;

/// A key of the caller's. Its bytes are never shown.
#[derive(Clone)]
pub struct Key {
    id: u64,
    extracted: Prk,
}

/// Eight bytes drawn from a key, which tell it from others and tell nothing else about it.
struct IdBytes;

impl KeyType for IdBytes {
    fn len(&self) -> usize {
        8
    }
}

impl Key {
    /// A key of 32 random bytes.
    pub fn new(bytes: &[u8; KEY]) -> Self {
        let extracted = Salt::new(HKDF_SHA256, b"driftless journal 1").extract(bytes);
        let mut id = [0; 8];
        let drawn = extracted.expand(&[b"id"], IdBytes).and_then(|okm| okm.fill(&mut id));
        drawn.expect("8 bytes are less than HKDF can give");
        Self { id: u64::from_le_bytes(id), extracted }
    }

    /// A key as text: 64 hexadecimal digits, or base64 (either alphabet) of 32 bytes. Space around it does not count.
    ///
    /// # Errors
    /// Config, when it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let bytes = if text.len() == 2 * KEY { hex(text) } else { base64(text) };
        bytes.map(|bytes| Self::new(&bytes)).ok_or_else(|| {
            Error::config(format!(
                "read a key of the journal: it must be {KEY} bytes, as {} hexadecimal digits or as base64",
                2 * KEY
            ))
        })
    }

    /// The number that segments name it by.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The key of one segment, whose head is these bytes.
    pub(super) fn of_segment(&self, head: &[u8]) -> SegmentKey {
        let hash = digest(&SHA256, head);
        let info = [b"segment", hash.as_ref()];
        let okm = self.extracted.expand(&info, &AES_256_GCM).expect("32 bytes are less than HKDF can give");
        SegmentKey(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

fn hex(text: &str) -> Option<[u8; KEY]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok()
}

/// Two texts are never one key: what a digit too many would hold must be zero.
fn base64(text: &str) -> Option<[u8; KEY]> {
    let text = text.strip_suffix('=').unwrap_or(text).replace('-', "+").replace('_', "/");
    STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:016x})", self.id)
    }
}

/// The key that new segments are encrypted with, if any, and older ones that are still read with.
#[derive(Clone, Default)]
pub struct Keys {
    current: Option<Key>,
    old: BTreeMap<u64, Key>,
}

impl Keys {
    /// New segments are encrypted with this key. (By default they are not encrypted.)
    pub fn new(current: Key) -> Self {
        Self { current: Some(current), old: BTreeMap::new() }
    }

    /// Adds a key that segments were encrypted with before.
    #[must_use]
    pub fn with_old(mut self, key: Key) -> Self {
        self.old.insert(key.id, key);
        self
    }

    /// The key that new segments are encrypted with.
    pub fn current(&self) -> Option<&Key> {
        self.current.as_ref()
    }

    /// The key that a segment names.
    ///
    /// # Errors
    /// Config, when it is not here.
    pub(super) fn find(&self, id: u64) -> Result<&Key> {
        let current = self.current.as_ref().filter(|key| key.id == id);
        current.or_else(|| self.old.get(&id)).ok_or_else(|| {
            Error::config(format!("read the journal: a segment is encrypted with key {id:016x}; give that key too"))
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({:?}, old {:?})", self.current, self.old.values())
    }
}

/// The key of one segment.
pub(super) struct SegmentKey(LessSafeKey);

impl SegmentKey {
    fn nonce(sequence: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&sequence.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }

    /// Encrypts a payload where it lies; gives its tag.
    pub(super) fn seal(&self, sequence: u64, head: &[u8], payload: &mut [u8]) -> [u8; TAG] {
        let sealed = self.0.seal_in_place_separate_tag(Self::nonce(sequence), Aad::from(head), payload);
        let tag = sealed.expect("a frame is far smaller than what one nonce may encrypt");
        tag.as_ref().try_into().expect("a tag of AES-GCM has 16 bytes")
    }

    /// Decrypts a payload where it lies; `None` when it, its head or its segment's head is not what was sealed.
    pub(super) fn open<'a>(&self, sequence: u64, head: &[u8], payload: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.0.open_in_place(Self::nonce(sequence), Aad::from(head), payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_as_it_was_and_where_it_was() {
        let key = Key::new(&[7; KEY]);
        let mut sealed = b"a secret".to_vec();
        let tag = key.of_segment(b"one").seal(5, b"head", &mut sealed);
        sealed.extend_from_slice(&tag);
        assert_eq!(sealed.len(), 8 + TAG);
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
        let open = |segment: &[u8], sequence, head: &[u8], key: &Key| {
            key.of_segment(segment).open(sequence, head, &mut sealed.clone()).map(|plain| plain.to_vec())
        };
        assert_eq!(open(b"one", 5, b"head", &key).unwrap(), b"a secret");
        assert!(open(b"two", 5, b"head", &key).is_none(), "another segment");
        assert!(open(b"one", 6, b"head", &key).is_none(), "another frame");
        assert!(open(b"one", 5, b"Head", &key).is_none(), "another head");
        assert!(open(b"one", 5, b"head", &Key::new(&[8; KEY])).is_none(), "another key");
    }

    #[test]
    fn a_key_is_never_shown_and_a_missing_one_is_named() {
        let (new, old) = (Key::new(&[0x41; KEY]), Key::new(&[0x42; KEY]));
        let keys = Keys::new(new.clone()).with_old(old.clone());
        let shown = format!("{keys:?}");
        assert!(!shown.contains("AAAA") && !shown.contains("41414141") && !shown.contains("65, 65"), "{shown}");
        assert_eq!(keys.find(new.id()).unwrap().id(), new.id());
        assert_eq!(keys.find(old.id()).unwrap().id(), old.id());
        let other = Key::new(&[1; KEY]).id();
        assert!(keys.find(other).unwrap_err().to_string().contains(&format!("{other:016x}")));
    }

    #[test]
    fn a_key_is_read_from_hexadecimal_and_base64_and_from_nothing_else() {
        let bytes: [u8; KEY] = std::array::from_fn(|i| (i * 9 + 250) as u8);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // The same bytes as `base64` of coreutils writes them.
        let base64 = "+gMMFR4nMDlCS1RdZm94gYqTnKWut8DJ0tvk7fb/CBE=";
        let id = Key::new(&bytes).id();
        let urlsafe = base64.replace('+', "-").replace('/', "_");
        for text in [&hex, &hex.to_uppercase(), base64, base64.trim_end_matches('='), &urlsafe, &format!(" {hex}\n")] {
            assert_eq!(Key::parse(text).unwrap().id(), id, "{text}");
        }
        for text in [
            "",
            "planted-key",
            &hex[1..],
            &hex.replace('f', "g"),
            &base64[1..],
            "+gMMFR4nMDlCS1RdZm94gYqTnKWut8DJ0tvk7fb/CBF=",
        ] {
            let error = Key::parse(text).unwrap_err().to_string();
            assert!(!error.contains("planted") && error.contains("hexadecimal"), "{error}");
        }
    }
}
