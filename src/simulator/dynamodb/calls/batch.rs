//! BatchWriteItem and BatchGetItem: many small calls, of which some may be left over.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use super::super::expression::project;
use super::super::fail::{Failure, Result};
use super::super::faults::Fault;
use super::super::input::Input;
use super::super::table::Key;
use super::super::value::{Item, item_size};
use super::super::wire;
use super::super::world::World;
use super::read::selected;
use super::transact::sized;
use super::write::units;

/// LIMIT: writes of a batch, as documented.
const WRITES: usize = 25;
/// LIMIT: keys of a batch, as documented.
const KEYS: usize = 100;
/// LIMIT: bytes that a batch writes or gives, as documented.
const BYTES: usize = 16 << 20;

struct Write<'a> {
    table: String,
    named: &'a str,
    request: &'a Json,
    key: Key,
    item: Option<Item>,
}

fn duplicates() -> Failure {
    Failure::invalid("Provided list of item keys contains duplicates")
}

fn writes<'a>(world: &World, input: &Input<'a>) -> Result<Vec<Write<'a>>> {
    input.required("RequestItems")?;
    let mut writes = Vec::new();
    for (named, list) in input.map("RequestItems")?.into_iter().flatten() {
        let table = world.table(named)?;
        for request in list.as_array().into_iter().flatten() {
            let one = Input::new(request)?;
            let (key, item) = match (one.part("PutRequest")?, one.part("DeleteRequest")?) {
                (Some(put), None) => {
                    let item = wire::item(put.required("Item")?)?;
                    table.check(&item)?;
                    (table.schema.key_of(&item)?, Some(item))
                }
                (None, Some(delete)) => (table.schema.named(&wire::item(delete.required("Key")?)?)?, None),
                _ => {
                    return Err(Failure::invalid(
                        "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported \
                         datatypes",
                    ));
                }
            };
            writes.push(Write { table: table.name.clone(), named, request, key, item });
        }
    }
    sized("requestItems", writes.len(), WRITES)?;
    let places: BTreeSet<_> = writes.iter().map(|write| (&write.table, &write.key)).collect();
    if places.len() < writes.len() {
        return Err(duplicates());
    }
    Ok(writes)
}

/// BatchWriteItem.
pub fn write(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let writes = writes(world, input)?;
    let bytes: usize = writes.iter().filter_map(|write| write.item.as_ref()).map(item_size).sum();
    if bytes > BYTES {
        return Err(Failure::invalid("The batch is larger than 16 MB"));
    }
    let some_left = world.fault == Some(Fault::Unprocessed);
    let mut left: Map<String, Json> = Map::new();
    let mut refused = None;
    let count = writes.len();
    for (at, write) in writes.into_iter().enumerate() {
        // At least one is left over when some are to be.
        let skip = some_left && (world.chance.below(2) == 0 || at + 1 == count && left.is_empty());
        let there = world.item(&write.table, &write.key).map_or(0, |item| item_size(item));
        let cost = units(there.max(write.item.as_ref().map_or(0, item_size)), 1024);
        let admitted = if skip { Ok(false) } else { world.charge(&write.table, cost, true).map(|()| true) };
        match admitted {
            Ok(true) => drop(world.write(&write.table, &write.key.place(), write.item, false)),
            other => {
                refused = refused.or(other.err());
                let list = left.entry(write.named).or_insert_with(|| json!([]));
                list.as_array_mut().expect("it was made as a list").push(write.request.clone());
            }
        }
    }
    // Only if nothing at all could be done does the call itself fail.
    let undone: usize = left.values().filter_map(Json::as_array).map(Vec::len).sum();
    match refused {
        Some(failure) if undone == count => Err(failure),
        _ => Ok(json!({ "UnprocessedItems": left })),
    }
}

/// BatchGetItem.
pub fn get(world: &mut World, input: &Input<'_>) -> Result<Json> {
    input.required("RequestItems")?;
    let (mut responses, mut left): (Map<String, Json>, Map<String, Json>) = (Map::new(), Map::new());
    let (mut count, mut bytes) = (0, 0);
    let some_left = world.fault == Some(Fault::Unprocessed);
    for (named, part) in input.map("RequestItems")?.into_iter().flatten() {
        let one = Input::new(part)?;
        let paths = selected(&one)?;
        let table = world.table(named)?.name.clone();
        let mut seen = BTreeSet::new();
        let (mut found, mut later) = (Vec::new(), Vec::new());
        for json in one.list("Keys")? {
            count += 1;
            let key = world.table(&table)?.schema.named(&wire::item(json)?)?;
            if !seen.insert(key.clone()) {
                return Err(duplicates());
            }
            let item = world.item(&table, &key).cloned();
            let size = item.as_deref().map_or(0, item_size);
            let skip = some_left && world.chance.below(2) == 0;
            if skip || bytes + size > BYTES || world.charge(&table, units(size, 4096), false).is_err() {
                later.push(json.clone());
                continue;
            }
            bytes += size;
            let shown = item.map(|item| paths.as_ref().map_or_else(|| (*item).clone(), |paths| project(&item, paths)));
            found.extend(shown.map(|item| wire::item_json(&item)));
        }
        responses.insert(named.clone(), found.into());
        if !later.is_empty() {
            let mut rest = part.clone();
            rest["Keys"] = later.into();
            left.insert(named.clone(), rest);
        }
    }
    sized("requestItems", count, KEYS)?;
    Ok(json!({ "Responses": responses, "UnprocessedKeys": left }))
}
