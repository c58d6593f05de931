//! Patches while the first copy or a healing is under way, when the sink's rows may be newer than the tail or missing.
//!
//! A patch that moved a row takes its older image from another key. What lies there in the sink may be a later row of that
//! key, or nothing, because the scan came by at another time; and nothing that follows would mend a wrong value that is not
//! in the log. So until the sink is consistent the moved row is read from the source instead, and removed if the source has
//! none: whatever happened to it later follows in the tail. A patch that moves nothing is filled from what is there, since
//! any other life of its key begins with a whole row in the tail; where nothing is there it is dropped: the row was gone
//! when the scan came by, or the walk has not come by yet. Once consistent, a patch without its row is corruption, and the
//! sink says so.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::fast::FixedState;

use crate::error::Result;
use crate::model::{Batch, Changes, Op};
use crate::source::Source;
use crate::store::Store;

/// What the staged part of a source transaction did to keys: nobody can see it in the sink yet. Keys are remembered by
/// hash; a collision makes the sink refuse a patch rather than write something wrong.
// LIMIT: nine bytes for each key of one transaction, and only until the sink is consistent.
#[derive(Debug, Default)]
pub struct Staged(HashMap<String, Touched>);

#[derive(Debug)]
struct Touched {
    cleared: bool,
    /// Whether the key's row is there.
    keys: HashMap<u64, bool, FixedState>,
}

const HASHER: FixedState = FixedState::with_seed(0x0073_7461_6765);

impl Staged {
    /// These changes are staged.
    pub fn note(&mut self, changes: &Changes) {
        for row in changes.iter() {
            if !self.0.contains_key(&row.table.name) {
                let touched = Touched { cleared: false, keys: HashMap::with_hasher(HASHER) };
                self.0.insert(row.table.name.clone(), touched);
            }
            let Some(touched) = self.0.get_mut(&row.table.name) else { continue };
            if row.op == Op::Clear {
                touched.cleared = true;
                touched.keys.clear();
            } else {
                touched.keys.insert(HASHER.hash_one(row.key), row.op != Op::Delete);
            }
        }
    }

    /// What was staged is committed.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether the staged part left a row under this key; `None` if it did not touch it.
    fn has(&self, table: &str, key: &[u8]) -> Option<bool> {
        let touched = self.0.get(table)?;
        touched.keys.get(&HASHER.hash_one(key)).copied().or_else(|| touched.cleared.then_some(false))
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
                continue;
            }
            let is_there = match staged.has(&row.table.name, row.key) {
                Some(is_there) => is_there,
                None => !self.sink_store.get(row.table, &[row.key], Batch::unpooled()).await?.is_empty(),
            };
            if !is_there {
                gone.insert(index);
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
                // It may stand in the place of an earlier removal.
                None => resolved.rewrite(index, Op::Delete, &[]),
            }
        }
        resolved.retain(|index| !gone.contains(&index));
        Ok(resolved)
    }
}
