//! Items as rows of PostgreSQL's `kv`: microseconds, and revisions that are UUIDs or blank; and tables as they are.
//!
//! A revision that is no canonical UUID becomes one that is always the same for the same text (`postgres::kvrow`).

use std::borrow::Cow;

use super::Codec;
use crate::bridge::{Bodies, Bridge, Verdict, same_item};
use crate::error::Result;
use crate::kinds::postgres::kvrow::{self, Kv};
use crate::kinds::postgres::rowcodec;
use crate::kinds::postgres::shape::Shapes;
use crate::model::{Item, Micros, Row};

pub(super) struct Postgresql {
    shapes: Shapes,
    /// Where the columns stand in rows that come from another kind: as Teleport makes the table.
    made: Kv,
}

impl Postgresql {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { shapes: Shapes::default(), made: Kv::of(&kvrow::shape("public"))? })
    }

    fn columns(&self, row: Row<'_>) -> Result<Kv> {
        Kv::of(&*self.shapes.get(row.table)?)
    }
}

impl Codec for Postgresql {
    fn item(&self, row: Row<'_>) -> Result<Item> {
        self.columns(row)?.to_item(row.body)
    }

    fn encode(&self, row: Row<'_>, item: &Item, out: &mut Vec<u8>) -> Result<()> {
        self.made.from_item(row.key, item, out);
        Ok(())
    }

    fn expired(&self, row: Row<'_>, now: Micros) -> Result<bool> {
        self.columns(row)?.expired(row.body, now)
    }

    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool> {
        // As items, because one side may hold text and the other binary: old servers stream text.
        Ok(same_item(&self.item(source)?, &self.item(sink)?, self.unit(), true))
    }

    fn fill(&self, older: Row<'_>, patch: Row<'_>, out: &mut Vec<u8>) -> Result<bool> {
        fill(&self.shapes, older, patch, out)
    }

    fn unit(&self) -> i128 {
        1_000
    }

    fn holds(&self, revision: &[u8]) -> bool {
        revision.is_empty()
            || uuid::Uuid::try_parse_ascii(revision).is_ok_and(|uuid| {
                let mut buffer = uuid::Uuid::encode_buffer();
                uuid.hyphenated().encode_lower(&mut buffer).as_bytes() == revision
            })
    }
}

impl Bodies for Postgresql {
    fn expires(&self, row: Row<'_>) -> Result<Option<bool>> {
        self.columns(row)?.expires(row.body)
    }

    fn value<'a>(&self, row: Row<'a>) -> Result<Option<Cow<'a, [u8]>>> {
        self.columns(row)?.value(row.body)
    }

    fn rewrite(&self, row: Row<'_>, key: Option<&[u8]>, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<bool> {
        self.columns(row)?.rewrite(row.body, key, value, out).map(|()| true)
    }
}

fn fill(shapes: &Shapes, older: Row<'_>, patch: Row<'_>, out: &mut Vec<u8>) -> Result<bool> {
    let (old, new) = (shapes.get(older.table)?, shapes.get(patch.table)?);
    rowcodec::fill((&old, older.body), (&new, patch.body), out)
}

/// Any PostgreSQL tables, untouched: nothing expires.
#[derive(Default)]
pub(super) struct Raw {
    shapes: Shapes,
}

impl Bridge for Raw {
    fn translate(&self, _: Row<'_>, _: Micros, _: &mut Vec<u8>) -> Result<Verdict> {
        Ok(Verdict::AsIs)
    }

    fn fill(&self, older: Row<'_>, patch: Row<'_>, out: &mut Vec<u8>) -> Result<bool> {
        fill(&self.shapes, older, patch, out)
    }

    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool> {
        let (ours, theirs) = (self.shapes.get(source.table)?, self.shapes.get(sink.table)?);
        rowcodec::same((&ours, source.body), (&theirs, sink.body))
    }

    fn expired(&self, _: Row<'_>, _: bool, _: Micros) -> Result<bool> {
        Ok(false)
    }
}
