//! Patches that meet no row while the first copy or a healing is under way.
//!
//! A row can move its key across the place that the scan has reached while one of its large values is not in the log: then
//! neither place was copied, and the patch cannot be filled from the sink. Before the sink is consistent such a row is read
//! from the source, and dropped if the source has none: whatever happened to it later follows in the tail. A patch that
//! moves nothing and meets no row is dropped: the row was gone when the scan came by, or the walk has not come by yet.
//! Once consistent, a patch without its row is corruption, and the sink says so.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::error::Result;
use crate::model::{Batch, Changes, Op};
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
    source: Arc<dyn Store>,
    sink: Arc<dyn Store>,
}

impl Patches {
    /// Reads from these stores.
    pub fn new(source: Arc<dyn Store>, sink: Arc<dyn Store>) -> Self {
        Self { source, sink }
    }

    /// Whether any change is a patch.
    pub fn any(changes: &Changes) -> bool {
        changes.iter().any(|row| row.op == Op::Patch)
    }

    /// The same changes without patches whose older image is neither in the sink nor staged; those that moved a row are
    /// replaced by the source's row, if it has one. Everything before them must have landed or be staged.
    pub async fn resolve(&self, changes: &Changes, staged: &Staged) -> Result<Changes> {
        let mut orphans = Vec::new();
        for index in 0..changes.len() {
            let row = changes.row(index);
            let older = row.from.unwrap_or(row.key);
            if row.op == Op::Patch && !staged.has(&row.table.name, older) {
                let found = self.sink.get(row.table, &[older], Batch::unpooled()).await?;
                if found.is_empty() {
                    orphans.push(index);
                }
            }
        }
        let mut resolved = changes.clone();
        let mut gone = HashSet::new();
        for index in orphans {
            let row = changes.row(index);
            if row.from.is_none_or(|from| from == row.key) {
                gone.insert(index);
                continue;
            }
            let image = self.source.get(row.table, &[row.key], Batch::unpooled()).await?;
            match image.rows().next() {
                Some(image) => resolved.rewrite(index, Op::Put, image.body),
                None => drop(gone.insert(index)),
            }
        }
        resolved.retain(|index| !gone.contains(&index));
        Ok(resolved)
    }
}
