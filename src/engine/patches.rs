//! Patches that meet no row while the first copy or a healing is under way.
//!
//! A row can move its key across the place that the scan has reached while one of its large values is not in the log: then
//! neither place was copied, and the patch cannot be filled from the sink. Before the sink is consistent such a row is read
//! from the source, and dropped if the source has none: whatever happened to it later follows in the tail. Once consistent,
//! a patch without its row is corruption, and the sink says so.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Result;
use crate::model::{Batch, Changes, Commit, Op};
use crate::store::Store;

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

    /// The same commit, with each patch whose older image is not in the sink replaced by the source's row or dropped.
    /// Everything before it must have landed.
    pub async fn resolve(&self, commit: &Commit) -> Result<Arc<Commit>> {
        let mut orphans = Vec::new();
        for index in 0..commit.changes.len() {
            let row = commit.changes.row(index);
            if row.op == Op::Patch {
                let older = row.from.unwrap_or(row.key);
                let found = self.sink.get(row.table, &[older], Batch::unpooled()).await?;
                if found.is_empty() {
                    orphans.push(index);
                }
            }
        }
        let mut changes = commit.changes.clone();
        let mut gone = HashSet::new();
        for index in orphans {
            let row = commit.changes.row(index);
            let image = self.source.get(row.table, &[row.key], Batch::unpooled()).await?;
            match image.rows().next() {
                Some(image) => changes.rewrite(index, Op::Put, image.body),
                None => drop(gone.insert(index)),
            }
        }
        changes.retain(|index| !gone.contains(&index));
        let (number, forget, upto) = (commit.number, commit.forget.clone(), commit.upto.clone());
        Ok(Arc::new(Commit { number, changes, forget, upto }))
    }
}
