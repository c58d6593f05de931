//! Patches while the first copy or a healing is under way, when the sink's rows may be newer than the tail or missing.
//!
//! A patch that moved a row takes its older image from another key. What lies there in the sink may be a later row of that
//! key, or nothing, because the scan came by at another time; and nothing that follows would mend a wrong value that is not
//! in the log. So until the sink is consistent the moved row is read from the source instead, and dropped if the source has
//! none: whatever happened to it later follows in the tail. A patch that moves nothing is filled from what is there, since
//! any other life of its key begins with a whole row in the tail; where nothing is there it is dropped: the row was gone
//! when the scan came by, or the walk has not come by yet. Once consistent, a patch without its row is corruption, and the
//! sink says so.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::fast::FixedState;

use crate::error::Result;
use crate::model::{Batch, Changes, Op};
use crate::source::Source;
use crate::store::Store;

/// Keys that the staged part of a source transaction has written: their rows are in the sink, and nobody can see them yet.
/// Remembered by hash; a collision makes the sink refuse a patch rather than write something wrong.
// LIMIT: eight bytes for each key of one transaction, and only until the sink is consistent.
#[derive(Debug)]
pub struct Staged {
    keys: HashSet<u64, FixedState>,
    hasher: FixedState,
}

impl Default for Staged {
    fn default() -> Self {
        let hasher = FixedState::with_seed(0x0073_7461_6765);
        Self { keys: HashSet::with_hasher(hasher.clone()), hasher }
    }
}

impl Staged {
    /// These changes are staged.
    pub fn note(&mut self, changes: &Changes) {
        for row in changes.iter() {
            let key = self.hasher.hash_one((row.table.name.as_str(), row.key));
            match row.op {
                Op::Put | Op::Patch => drop(self.keys.insert(key)),
                Op::Delete => drop(self.keys.remove(&key)),
                Op::Clear => {}
            }
        }
    }

    /// What was staged is committed.
    pub fn clear(&mut self) {
        self.keys.clear();
    }

    fn has(&self, table: &str, key: &[u8]) -> bool {
        self.keys.contains(&self.hasher.hash_one((table, key)))
    }
}

/// Looks at the two stores for rows that patches need.
#[derive(Clone)]
pub struct Patches {
    source: Arc<dyn Source>,
    source_store: Arc<dyn Store>,
    sink_store: Arc<dyn Store>,
}

impl Patches {
    /// Reads from these stores.
    pub fn new(source: Arc<dyn Source>, source_store: Arc<dyn Store>, sink_store: Arc<dyn Store>) -> Self {
        Self { source, source_store, sink_store }
    }

    /// Whether any change is a patch.
    pub fn any(changes: &Changes) -> bool {
        changes.iter().any(|row| row.op == Op::Patch)
    }

    /// The same changes, with the source's row in the place of each patch that moved one, and without patches that move
    /// nothing and whose row is neither in the sink nor staged. Sets `ahead` if a row was read. Everything before these
    /// changes must have landed or be staged.
    pub async fn resolve(&self, changes: &Changes, staged: &Staged, ahead: &AtomicBool) -> Result<Changes> {
        let mut resolved = changes.clone();
        let (mut moved, mut gone) = (Vec::new(), HashSet::new());
        for index in 0..changes.len() {
            let row = changes.row(index);
            if row.op != Op::Patch {
                continue;
            }
            if row.from.is_some_and(|from| from != row.key) {
                moved.push(index);
            } else if !staged.has(&row.table.name, row.key) {
                let found = self.sink_store.get(row.table, &[row.key], Batch::unpooled()).await?;
                if found.is_empty() {
                    gone.insert(index);
                }
            }
        }
        if !moved.is_empty() {
            // ORDERING: Relaxed; what publishes the commit publishes this with it.
            ahead.store(true, Ordering::Relaxed);
            // A reader that lags behind the log would not see the row yet.
            self.source.head().await?;
            self.source_store.visible().await?;
        }
        for index in moved {
            let row = changes.row(index);
            let image = self.source_store.get(row.table, &[row.key], Batch::unpooled()).await?;
            match image.rows().next() {
                Some(image) => resolved.rewrite(index, Op::Put, image.body),
                None => drop(gone.insert(index)),
            }
        }
        resolved.retain(|index| !gone.contains(&index));
        Ok(resolved)
    }
}
