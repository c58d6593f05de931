//! The changes of a commit by table and by what has to be done with them.
//!
//! A commit names each key once and clears come first, so clears, reads for holes, deletes and puts may each be done
//! together.

use std::collections::HashMap;
use std::sync::Arc;

use super::bindings::Bindings;
use super::session::Session;
use super::target::Binding;
use crate::error::Result;
use crate::kinds::postgres::rowcodec::{Columns, Value, begin, push};
use crate::model::{Changes, Layout, Op};

/// Name under which the values of sequences travel: key `schema.name`, body a decimal number.
pub const SEQUENCES: &str = "!sequences";

/// Changes of one table of one shape. Numbers are indexes into the commit's changes.
pub struct Group {
    /// How its rows are written.
    pub binding: Arc<Binding>,
    /// All rows go first.
    pub clear: bool,
    /// Keys that go.
    pub deletes: Vec<u32>,
    /// Whole rows.
    pub puts: Vec<u32>,
    /// Whole rows whose keys were not there, says the source.
    pub fresh: Vec<u32>,
    /// Rows with holes whose older image has the same key.
    pub patches: Vec<u32>,
    /// Rows with holes whose older image has another key.
    pub moved: Vec<u32>,
}

/// A commit's changes, sorted.
pub struct Sorted<'a> {
    /// The changes.
    pub changes: &'a Changes,
    /// By table and shape, in the order in which these appear.
    pub groups: Vec<Group>,
    /// Values of sequences.
    pub sequences: Vec<u32>,
    /// Bodies whose holes were filled from the destination.
    pub filled: HashMap<u32, Vec<u8>>,
}

impl<'a> Sorted<'a> {
    /// Sorts changes.
    ///
    /// # Errors
    /// Config when the destination has no such table or it does not fit.
    pub async fn new(changes: &'a Changes, session: &Session, layout: Layout, known: &mut Bindings) -> Result<Self> {
        let mut sorted = Self { changes, groups: Vec::new(), sequences: Vec::new(), filled: HashMap::new() };
        let mut last = 0;
        for (index, row) in changes.iter().enumerate() {
            let index = u32::try_from(index).expect("a commit has fewer than 2^32 changes");
            if row.table.name == SEQUENCES {
                sorted.sequences.push(index);
                continue;
            }
            if !sorted.groups.get(last).is_some_and(|group| Arc::ptr_eq(&group.binding.table, row.table)) {
                last = match sorted.groups.iter().position(|group| Arc::ptr_eq(&group.binding.table, row.table)) {
                    Some(place) => place,
                    None => {
                        let binding = known.get(session, layout, row.table).await?;
                        sorted.groups.push(Group::new(binding));
                        sorted.groups.len() - 1
                    }
                };
            }
            let group = &mut sorted.groups[last];
            match row.op {
                Op::Clear => group.clear = true,
                Op::Delete => group.deletes.push(index),
                Op::Patch if row.from.is_some() => group.moved.push(index),
                Op::Patch => group.patches.push(index),
                Op::Put if row.fresh => group.fresh.push(index),
                Op::Put => group.puts.push(index),
            }
        }
        Ok(sorted)
    }

    /// The key of a change.
    pub fn key(&self, index: u32) -> &'a [u8] {
        self.changes.row(index as usize).key
    }

    /// The body of a change, filled if it had holes.
    pub fn body(&self, index: u32) -> &[u8] {
        match self.filled.get(&index) {
            Some(filled) => filled,
            None => self.changes.row(index as usize).body,
        }
    }

    /// Fills the holes of a change; `value` gives the older image's column.
    ///
    /// # Errors
    /// Corrupt when its body is broken.
    pub fn fill<'v>(&mut self, index: u32, value: impl Fn(usize) -> Value<'v>) -> Result<()> {
        let body = self.changes.row(index as usize).body;
        let columns = Columns::of(body)?;
        let mut filled = Vec::with_capacity(body.len());
        begin(&mut filled, columns.len());
        for (column, own) in columns.enumerate() {
            let own = own?;
            push(&mut filled, if own == Value::Unchanged { value(column) } else { own });
        }
        self.filled.insert(index, filled);
        Ok(())
    }
}

impl Group {
    fn new(binding: Arc<Binding>) -> Self {
        Self {
            binding,
            clear: false,
            deletes: Vec::new(),
            puts: Vec::new(),
            fresh: Vec::new(),
            patches: Vec::new(),
            moved: Vec::new(),
        }
    }

    /// All changes that leave a row.
    pub fn written(&self) -> Vec<u32> {
        [&self.puts[..], &self.fresh, &self.patches, &self.moved].concat()
    }
}
