//! Encryption of frames: AES-256-GCM, one key per segment, drawn from the caller's.
//!
//! ```text
//! extracted   = HKDF-SHA256-Extract("driftless journal 1", the caller's key)
//! segment key = HKDF-SHA256-Expand(extracted, SHA-256(all bytes of the segment's head), 32)
//! nonce       = u32 0, u64 sequence of the frame (little endian)
//! payload     = ciphertext and tag[16], with the frame's head up to its checksums as associated data
//! ```
//!
//! A head has a random salt, so no two segments share a key, and a changed head opens nothing: it is authenticated with every
//! frame. A sequence occurs once in a segment, because a writer never goes on with a segment that another one began, and
//! writes a frame that found no room again byte for byte; so no nonce is used twice. What stays readable: lineage, sizes,
//! sequences, commit times. Pure; where keys come from is the caller's business.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};

use crate::error::{Error, Result};

/// What encryption adds to a payload.
pub const TAG: usize = 16;
/// Bytes of a key.
pub const KEY: usize = 32;

/// A key of the caller's, under the number that segments name it by. Its bytes are never shown.
#[derive(Clone)]
pub struct Key {
    id: u64,
    extracted: Prk,
}

impl Key {
    /// A key of 32 random bytes. The number is the caller's; two keys never share one.
    pub fn new(id: u64, bytes: &[u8; KEY]) -> Self {
        Self { id, extracted: Salt::new(HKDF_SHA256, b"driftless journal 1").extract(bytes) }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The key of one segment, whose head is these bytes.
    pub(super) fn of_segment(&self, head: &[u8]) -> SegmentKey {
        let hash = digest(&SHA256, head);
        let info = [hash.as_ref()];
        let okm = self.extracted.expand(&info, &AES_256_GCM).expect("32 bytes are less than HKDF can give");
        SegmentKey(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// The keys that segments may name: the one that is written with, and older ones that are still read.
#[derive(Clone, Debug, Default)]
pub struct Keys(BTreeMap<u64, Key>);

impl Keys {
    /// Adds a key; another one of the same number goes.
    #[must_use]
    pub fn with(mut self, key: Key) -> Self {
        self.0.insert(key.id, key);
        self
    }

    /// The key that a segment names.
    ///
    /// # Errors
    /// Config, when it is not here.
    pub(super) fn find(&self, id: u64) -> Result<&Key> {
        let missing =
            || Error::config(format!("read the journal: a segment is encrypted with key {id}; give that key too"));
        self.0.get(&id).ok_or_else(missing)
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

    /// Encrypts a payload where it lies and appends its tag.
    pub(super) fn seal(&self, sequence: u64, head: &[u8], payload: &mut Vec<u8>) {
        let sealed = self.0.seal_in_place_append_tag(Self::nonce(sequence), Aad::from(head), payload);
        sealed.expect("a frame is far smaller than what one nonce may encrypt");
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
        let key = Key::new(1, &[7; KEY]);
        let mut sealed = b"a secret".to_vec();
        key.of_segment(b"one").seal(5, b"head", &mut sealed);
        assert_eq!(sealed.len(), 8 + TAG);
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
        let open = |segment: &[u8], sequence, head: &[u8], key: &Key| {
            key.of_segment(segment).open(sequence, head, &mut sealed.clone()).map(|plain| plain.to_vec())
        };
        assert_eq!(open(b"one", 5, b"head", &key).unwrap(), b"a secret");
        assert!(open(b"two", 5, b"head", &key).is_none(), "another segment");
        assert!(open(b"one", 6, b"head", &key).is_none(), "another frame");
        assert!(open(b"one", 5, b"Head", &key).is_none(), "another head");
        assert!(open(b"one", 5, b"head", &Key::new(1, &[8; KEY])).is_none(), "another key");
    }

    #[test]
    fn a_key_is_never_shown_and_a_missing_one_is_named() {
        let keys = Keys::default().with(Key::new(3, &[0x41; KEY]));
        assert_eq!(format!("{keys:?}"), "Keys({3: Key(3)})");
        assert!(keys.find(4).unwrap_err().to_string().contains("key 4"));
    }
}
