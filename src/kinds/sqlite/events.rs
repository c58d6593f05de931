//! Reading table `events`, within one short read transaction.
//!
//! An event is a hint: it names a key. What goes on is the row of `kv` in the same transaction, or its absence: Teleport
//! itself writes events whose revision differs from the row's. One change per event, so that a place in the log and a
//! number of changes say the same.

use rusqlite::types::ValueRef;

use super::fault::fault;
use super::log::{Event, Look, Place};
use super::reader::View;
use super::rows::{Key, Rows};
use super::time;
use crate::error::{Error, Result};
use crate::model::Micros;

const ATTEMPT: &str = "read table events";

/// LIMIT: a page is read within a few milliseconds even when every row is small, since a writer may be waiting.
const PAGE_EVENTS: usize = 4096;

/// What the log looks like from a place. `now`: our clock, in nanoseconds.
pub fn look(view: &View<'_>, place: &Place, now: i128) -> Result<Look> {
    if !view.has_events {
        return Err(Error::config(format!("{ATTEMPT}: there is no such table, so it is not a Teleport backend")));
    }
    let first = event(view, "select id, created from events order by id limit 1", None)?;
    let last = event(view, "select id, created from events order by id desc limit 1", None)?;
    let here = event(view, "select id, created from events where id = ?1", Some(place.id))?;
    let next = event(view, "select id, created from events where id > ?1 order by id limit 1", Some(place.id))?;
    Ok(Look {
        ends: first.zip(last),
        at_place: here.map(|event| event.created),
        next: next.map(|event| event.id),
        counter: view.inside.counter(),
        now,
    })
}

/// The newest event, if there is any.
pub fn last(view: &View<'_>) -> Result<Option<Event>> {
    event(view, "select id, created from events order by id desc limit 1", None)
}

/// What was read behind a place.
pub struct Page {
    /// The rows of the keys that the events name, one per event.
    pub rows: Rows,
    /// The last event read; the place itself if there was none.
    pub upto: Place,
    /// Whether that was the end of the log.
    pub ended: bool,
    /// Ids do not follow each other.
    pub hole: bool,
}

/// Reads the events behind a place and their rows, up to about `fill` bytes.
pub fn page(view: &View<'_>, place: &Place, look: &Look, fill: usize) -> Result<Page> {
    let failed = |error| fault(ATTEMPT, error);
    let sql = format!("select key, modified, expires, value, {} from kv where key = ?1", view.revision);
    let mut row = view.connection.prepare_cached(&sql).map_err(failed)?;
    let mut log = view
        .connection
        .prepare_cached("select id, created, kv_key from events where id > ?1 order by id")
        .map_err(failed)?;
    let mut found = log.query([signed(place.id)?]).map_err(failed)?;
    let end = look.ends.map_or(0, |(_, last)| last.id);
    let mut page =
        Page { rows: Rows::default(), upto: Place { seen: None, ..*place }, ended: end <= place.id, hole: false };
    while page.rows.bytes() < fill && page.rows.len() < PAGE_EVENTS {
        let Some(event) = found.next().map_err(failed)? else { break };
        let Event { id, created } = decode(event)?;
        if id != page.upto.id + 1 {
            page.hole = true;
            break;
        }
        let (ValueRef::Text(key) | ValueRef::Blob(key)) = event.get_ref(2).map_err(failed)? else {
            return Err(Error::corrupt(format!("{ATTEMPT}: event {id} names no key")));
        };
        let mut images = row.query([Key(key)]).map_err(failed)?;
        match images.next().map_err(failed)? {
            Some(image) => page.rows.add(ATTEMPT, image)?,
            None => page.rows.add_gone(key),
        }
        page.rows.date(micros(created));
        page.upto = Place { id, created, seen: None };
        page.ended = id == end;
    }
    Ok(page)
}

fn event(view: &View<'_>, sql: &str, id: Option<u64>) -> Result<Option<Event>> {
    let failed = |error| fault(ATTEMPT, error);
    let mut statement = view.connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = match id {
        Some(id) => statement.query([signed(id)?]),
        None => statement.query([]),
    }
    .map_err(failed)?;
    rows.next().map_err(failed)?.map(decode).transpose()
}

fn decode(row: &rusqlite::Row<'_>) -> Result<Event> {
    let failed = |error| fault(ATTEMPT, error);
    let broken =
        |id: i64| Error::corrupt(format!("{ATTEMPT}: event {id} has no time in any form that Teleport writes"));
    let id: i64 = row.get(0).map_err(failed)?;
    let created = match row.get_ref(1).map_err(failed)? {
        ValueRef::Text(text) => time::parse(text).ok_or_else(|| broken(id))?,
        ValueRef::Integer(value) => time::from_integer(value),
        _ => return Err(broken(id)),
    };
    let id = u64::try_from(id).map_err(|_| Error::corrupt(format!("{ATTEMPT}: the id {id} is negative")))?;
    Ok(Event { id, created })
}

fn signed(id: u64) -> Result<i64> {
    i64::try_from(id).map_err(|_| Error::corrupt(format!("{ATTEMPT}: no event can have the id {id}")))
}

fn micros(nanos: i128) -> Micros {
    Micros::try_from(nanos.div_euclid(1_000)).unwrap_or(0)
}
