//! What a lane hands to a sink: the final image of each key in a prefix of the lane.

use std::sync::Arc;

use crate::model::batch::Span;
use crate::model::{Batch, Checkpoint, Op, PartitionId, Row};

/// Changes picked from batches, in order, each key at most once (unless cleared in between). Bodies are the batches' own
/// bytes, or replaced by bytes of this struct's own arena where they were translated or filled.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    batches: Vec<Arc<Batch>>,
    picks: Vec<Pick>,
    arena: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Pick {
    batch: u32,
    change: u32,
    op: Op,
    fresh: bool,
    /// Bytes of `Changes::arena` that replace the body.
    body: Option<Span>,
}

impl Changes {
    /// Holds on to a batch, so that changes of it can be picked; gives the index to name it by.
    pub fn hold(&mut self, batch: &Arc<Batch>) -> u32 {
        match self.batches.iter().rposition(|held| Arc::ptr_eq(held, batch)) {
            Some(index) => index as u32,
            None => {
                self.batches.push(Arc::clone(batch));
                (self.batches.len() - 1) as u32
            }
        }
    }

    /// Appends a change of a held batch; gives its index here.
    pub fn pick(&mut self, batch: u32, change: u32) -> usize {
        let row = self.batches[batch as usize].row(change as usize);
        self.picks.push(Pick { batch, change, op: row.op, fresh: row.fresh, body: None });
        self.picks.len() - 1
    }

    /// Puts another change of a held batch in the place of an earlier one (of the same key).
    pub fn replace(&mut self, index: usize, batch: u32, change: u32, fresh: bool) {
        let row = self.batches[batch as usize].row(change as usize);
        self.picks[index] = Pick { batch, change, op: row.op, fresh, body: None };
    }

    /// Gives a change another operation and body: translated for the sink, or filled from an older image.
    pub fn rewrite(&mut self, index: usize, op: Op, body: &[u8]) {
        let span = Span::append(&mut self.arena, body);
        let pick = &mut self.picks[index];
        pick.op = op;
        pick.body = Some(span);
    }

    /// Copies all changes into a batch of their own and lets go of those that they were picked from.
    pub fn compact(&mut self) {
        let mut own = Batch::unpooled();
        for row in self.iter() {
            let table = own.table(row.table);
            own.push_moved(row.op, row.fresh, table, row.key, row.body, row.from, row.at);
        }
        for (change, pick) in (0..).zip(&mut self.picks) {
            *pick = Pick { batch: 0, change, body: None, ..*pick };
        }
        self.arena.clear();
        self.batches = vec![Arc::new(own)];
    }

    /// Keeps only the changes for which `keep` says yes, in order.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut index = 0;
        self.picks.retain(|_| {
            index += 1;
            keep(index - 1)
        });
    }

    /// The change at `index`, with its bytes.
    pub fn row(&self, index: usize) -> Row<'_> {
        let pick = &self.picks[index];
        let row = self.batches[pick.batch as usize].row(pick.change as usize);
        let body = pick.body.map_or(row.body, |span| span.of(&self.arena));
        Row { op: pick.op, fresh: pick.fresh, body, ..row }
    }

    /// All changes, in order. A sink executes them as: clears, reads for holes, deletes, puts; that order gives the
    /// same result as theirs because each key occurs once and clears come first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.len()).map(|index| self.row(index))
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.picks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.picks.is_empty()
    }

    /// Bytes of keys and bodies that a sink has to write.
    pub fn bytes(&self) -> usize {
        self.iter().map(|row| row.key.len() + row.body.len()).sum()
    }
}

/// One commit of one lane: what `Writer::commit` makes durable, all or nothing.
#[derive(Debug)]
pub struct Commit {
    /// Commit number: lands only on a lane whose record stands at `number - 1` under the writer's epoch.
    pub number: u64,
    /// What changes; on top of what was staged before it.
    pub changes: Changes,
    /// Partitions whose record the lane drops *before* `upto` is written: ended ones that nobody asks for any more, and,
    /// when a gap opens, those of the lost lineage, whose positions mean nothing to the new one.
    pub forget: Vec<PartitionId>,
    /// The partitions that move, and how far.
    pub upto: Checkpoint,
}
