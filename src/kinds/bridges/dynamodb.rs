//! Items as items of DynamoDB: whole seconds, and revisions of any text; and tables as they are.

use std::borrow::Cow;

use super::Codec;
use crate::bridge::{Bodies, Bridge, Verdict};
use crate::error::{Error, Result};
use crate::kinds::dynamodb::item::{self, View};
use crate::model::{Item, Micros, Row};

pub(super) struct Dynamodb;

impl Codec for Dynamodb {
    fn item(&self, row: Row<'_>) -> Result<Item> {
        item::to_item(row.body)
    }

    fn encode(&self, row: Row<'_>, item: &Item, out: &mut Vec<u8>) -> Result<()> {
        item::from_item(item, row.at, out)
    }

    fn expired(&self, row: Row<'_>, now: Micros) -> Result<bool> {
        View::of(row.body).map(|view| view.expired(now))
    }

    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool> {
        // One content has one form.
        Ok(source.body == sink.body)
    }

    fn fill(&self, _: Row<'_>, _: Row<'_>, _: &mut Vec<u8>) -> Result<bool> {
        Err(no_patches())
    }

    fn unit(&self) -> i128 {
        1_000_000_000
    }

    fn holds(&self, revision: &[u8]) -> bool {
        item::holds(revision)
    }
}

impl Bodies for Dynamodb {
    fn expires(&self, row: Row<'_>) -> Result<Option<bool>> {
        View::of(row.body).map(|view| Some(view.expires.is_some()))
    }

    fn value<'a>(&self, row: Row<'a>) -> Result<Option<Cow<'a, [u8]>>> {
        View::of(row.body).map(|view| Some(Cow::Borrowed(view.value)))
    }

    fn rewrite(&self, row: Row<'_>, _: Option<&[u8]>, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<bool> {
        // The key stands beside the body.
        value.map_or(Ok(false), |value| item::with_value(row.body, value, out).map(|()| true))
    }
}

/// Any table, untouched. Its own expiry is the destination's too.
pub(super) struct Raw;

impl Bridge for Raw {
    fn translate(&self, _: Row<'_>, _: Micros, _: &mut Vec<u8>) -> Result<Verdict> {
        Ok(Verdict::AsIs)
    }

    fn fill(&self, _: Row<'_>, _: Row<'_>, _: &mut Vec<u8>) -> Result<bool> {
        Err(no_patches())
    }

    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool> {
        Ok(source.body == sink.body)
    }

    fn expired(&self, _: Row<'_>, _: bool, _: Micros) -> Result<bool> {
        Ok(false)
    }
}

fn no_patches() -> Error {
    Error::bug("fill a patch: a DynamoDB source never gives one")
}
