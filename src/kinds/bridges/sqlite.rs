//! Items as SQLite bodies: nanoseconds, and revisions of any text.

use std::borrow::Cow;

use super::Codec;
use crate::bridge::Bodies;
use crate::error::{Error, Result};
use crate::kinds::sqlite::body;
use crate::model::{Item, Micros, Row};

pub(super) struct Sqlite;

impl Bodies for Sqlite {
    fn expires(&self, row: Row<'_>) -> Result<Option<bool>> {
        body::expires(row.body).map(Some)
    }

    fn value<'a>(&self, row: Row<'a>) -> Result<Option<Cow<'a, [u8]>>> {
        body::value(row.body).map(|value| Some(Cow::Borrowed(value)))
    }

    fn rewrite(&self, row: Row<'_>, _: Option<&[u8]>, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<bool> {
        // The key is a column beside the body.
        value.map_or(Ok(false), |value| body::with_value(row.body, value, out).map(|()| true))
    }
}

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
