//! Items as SQLite bodies: nanoseconds, and revisions of any text.

use super::Codec;
use crate::error::{Error, Result};
use crate::kinds::sqlite::body;
use crate::model::{Item, Micros, Row};

pub(super) struct Sqlite;

impl Codec for Sqlite {
    fn item(&self, row: Row<'_>) -> Result<Item> {
        body::to_item(row.body)
    }

    fn encode(&self, row: Row<'_>, item: &Item, out: &mut Vec<u8>) -> Result<()> {
        body::from_item(item, row.at, out)
    }

    fn expired(&self, row: Row<'_>, now: Micros) -> Result<bool> {
        body::expired(row.body, now)
    }

    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool> {
        body::same(source.body, sink.body)
    }

    fn fill(&self, _: Row<'_>, _: Row<'_>, _: &mut Vec<u8>) -> Result<bool> {
        Err(Error::bug("fill a patch: a SQLite source never gives one"))
    }

    fn unit(&self) -> i128 {
        1
    }

    fn holds(&self, _: &[u8]) -> bool {
        true
    }
}
