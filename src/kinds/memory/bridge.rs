//! Between two memory stores: bodies go as they are. Pure.

use crate::bridge::{Bridge, Verdict};
use crate::error::Result;
use crate::kinds::memory::Body;
use crate::model::{Micros, Row};

/// A bridge between two of them. Nothing expires in a memory store.
pub fn bridge() -> Box<dyn Bridge> {
    Box::new(Same)
}

struct Same;

impl Bridge for Same {
    fn translate(&self, _: Row<'_>, _: Micros, _: &mut Vec<u8>) -> Result<Verdict> {
        Ok(Verdict::AsIs)
    }

    fn fill(&self, older: Row<'_>, patch: Row<'_>, out: &mut Vec<u8>) -> Result<bool> {
        let filled = Body::read(patch.body)?.filled(Body::read(older.body)?);
        filled.write(out);
        Ok(filled.is_whole())
    }

    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool> {
        Ok(source.body == sink.body)
    }

    fn expired(&self, _: Row<'_>, _: bool, _: Micros) -> Result<bool> {
        Ok(false)
    }
}
