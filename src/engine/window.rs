//! What makes it safe to write what was read from a store while the tail runs. Pure.
//!
//! Once the tail runs, nothing read from a store reaches a lane except through a window: the window opens, head L is
//! taken, the store is read, head H is taken, and the tail is routed up to H. A key that the tail did not touch since the
//! window opened has, at H, the value that was read, and enters the stream at that point; it neither goes back nor
//! overtakes. A key that the tail set or removed is settled by the tail itself; one that it only patched is read again.

use std::collections::HashSet;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use crate::model::{Batch, Op};

/// LIMIT: touched keys remembered per window (8 bytes each, so 16 MiB for both sets at most). A window that sees more is
/// spoiled, and its page is read again: a source with a million changed keys between two heads needs smaller pages anyway.
const TOUCHED_MAX: usize = 1 << 19;

/// What became of a key while its row was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: the row that was read is its value at the closing head.
    Clean,
    /// The tail has brought its newest value.
    Settled,
    /// It must be read again.
    Again,
}

/// Remembers what the tail touches while a page is being read. Keys are remembered by hash: a collision costs a second
/// look, never a wrong write.
#[derive(Debug)]
pub struct Window {
    hasher: FixedState,
    whole: HashSet<u64, FixedState>,
    partly: HashSet<u64, FixedState>,
    cleared: Vec<String>,
    spoiled: bool,
}

impl Default for Window {
    fn default() -> Self {
        let hasher = FixedState::with_seed(0x7769_6e64_6f77);
        Self {
            hasher: hasher.clone(),
            whole: HashSet::with_hasher(hasher.clone()),
            partly: HashSet::with_hasher(hasher.clone()),
            cleared: Vec::new(),
            spoiled: false,
        }
    }
}

impl Window {
    /// The tail dispatches these changes while the window is open.
    pub fn note(&mut self, batch: &Batch) {
        if self.whole.len() + self.partly.len() + batch.len() > TOUCHED_MAX {
            self.spoiled = true;
            return;
        }
        for row in batch.rows() {
            let hash = self.hasher.hash_one((row.table.name.as_str(), row.key));
            match row.op {
                Op::Put | Op::Delete => drop(self.whole.insert(hash)),
                Op::Patch => drop(self.partly.insert(hash)),
                Op::Clear => self.cleared.push(row.table.name.clone()),
            }
        }
    }

    /// What became of a key.
    pub fn fate(&self, table: &str, key: &[u8]) -> Fate {
        if cfg!(mutate = "repair_without_window") {
            return Fate::Clean;
        }
        let hash = self.hasher.hash_one((table, key));
        if self.spoiled || self.partly.contains(&hash) {
            Fate::Again
        } else if self.whole.contains(&hash) || self.cleared.iter().any(|cleared| cleared == table) {
            Fate::Settled
        } else {
            Fate::Clean
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, Position, Steps};
    use std::sync::Arc;

    #[test]
    fn a_touched_key_is_not_written_from_what_was_read() {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("p"), Position::Start, Steps::Ordinal);
        let table = batch.table(&Arc::default());
        batch.push(Op::Put, false, table, b"put", b"", 0);
        batch.push(Op::Delete, false, table, b"deleted", b"", 0);
        batch.push(Op::Patch, false, table, b"patched", b"", 0);
        let mut window = Window::default();
        window.note(&batch);
        assert_eq!(window.fate("", b"put"), Fate::Settled);
        assert_eq!(window.fate("", b"deleted"), Fate::Settled);
        assert_eq!(window.fate("", b"patched"), Fate::Again);
        assert_eq!(window.fate("", b"other"), Fate::Clean);
        assert_eq!(window.fate("t", b"put"), Fate::Clean);
    }
}
