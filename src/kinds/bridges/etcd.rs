//! Items as etcd bodies: instants as far as leases can tell them, and revisions that nobody can choose; and keys as they are.

use std::borrow::Cow;

use super::Codec;
use crate::bridge::{Bodies, Bridge, Verdict};
use crate::error::{Error, Result};
use crate::kinds::etcd::body::{self, Body};
use crate::model::{Item, Micros, Row};

pub(super) struct Etcd;

impl Codec for Etcd {
    fn item(&self, row: Row<'_>) -> Result<Item> {
        body::to_item(row.body)
    }

    fn encode(&self, _: Row<'_>, item: &Item, out: &mut Vec<u8>) -> Result<()> {
        body::from_item(item, out);
        Ok(())
    }

    fn expired(&self, row: Row<'_>, now: Micros) -> Result<bool> {
        Body::decode(row.body).map(|body| body.expired(now))
    }

    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool> {
        body::same(source.body, sink.body)
    }

    fn fill(&self, _: Row<'_>, _: Row<'_>, _: &mut Vec<u8>) -> Result<bool> {
        Err(no_patches())
    }

    fn unit(&self) -> i128 {
        1_000
    }

    fn slack(&self) -> i128 {
        body::SLACK
    }

    fn leaves_empty_out(&self) -> bool {
        true
    }

    fn behind(&self, row: Row<'_>) -> Result<i128> {
        Body::decode(row.body).map(|body| body::renewed(body.granted))
    }

    fn holds(&self, _: &[u8]) -> bool {
        false
    }
}

impl Bodies for Etcd {
    fn expires(&self, row: Row<'_>) -> Result<Option<bool>> {
        Body::decode(row.body).map(|body| Some(body.expires.is_some()))
    }

    fn value<'a>(&self, row: Row<'a>) -> Result<Option<Cow<'a, [u8]>>> {
        Body::decode(row.body).map(|body| Some(Cow::Borrowed(body.value)))
    }

    fn rewrite(&self, row: Row<'_>, _: Option<&[u8]>, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<bool> {
        // The key stands beside the body.
        value.map_or(Ok(false), |value| body::with_value(row.body, value, out).map(|()| true))
    }
}

/// Any keys of etcd, untouched, with their expiry.
pub(super) struct Raw;

impl Bridge for Raw {
    fn translate(&self, row: Row<'_>, now: Micros, _: &mut Vec<u8>) -> Result<Verdict> {
        Ok(if Body::decode(row.body)?.expired(now) { Verdict::Delete } else { Verdict::AsIs })
    }

    fn fill(&self, _: Row<'_>, _: Row<'_>, _: &mut Vec<u8>) -> Result<bool> {
        Err(no_patches())
    }

    fn same(&self, source: Row<'_>, sink: Row<'_>) -> Result<bool> {
        body::same(source.body, sink.body)
    }

    fn expired(&self, row: Row<'_>, _: bool, now: Micros) -> Result<bool> {
        Body::decode(row.body).map(|body| body.expired(now))
    }
}

fn no_patches() -> Error {
    Error::bug("fill a patch: an etcd source never gives one")
}
