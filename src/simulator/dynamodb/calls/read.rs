//! GetItem, and a projected read of one key.

use serde_json::{Map, Value as Json};

use super::super::expression::{Path, project, projection};
use super::super::fail::Result;
use super::super::input::Input;
use super::super::table::Key;
use super::super::value::{Item, item_size};
use super::super::wire;
use super::super::world::{World, capacity};
use super::write::units;

/// A read that was read from a request.
pub struct Prepared {
    /// Its table.
    pub table: String,
    /// Its key.
    pub key: Key,
    projection: Option<Vec<Path>>,
}

/// Reads the projection of a request.
///
/// # Errors
/// It is not one.
pub fn selected(input: &Input<'_>) -> Result<Option<Vec<Path>>> {
    let mut names = input.names()?;
    let paths = input.text("ProjectionExpression")?.map(|text| projection(text, &mut names)).transpose()?;
    names.all_used()?;
    Ok(paths)
}

/// Reads one read.
///
/// # Errors
/// It breaks a rule.
pub fn prepare(world: &World, input: &Input<'_>) -> Result<Prepared> {
    let table = world.table(input.required_text("TableName")?)?;
    let projection = selected(input)?;
    let key = table.schema.named(&wire::item(input.required("Key")?)?)?;
    Ok(Prepared { table: table.name.clone(), key, projection })
}

impl Prepared {
    /// What it gives, and the size of the whole item.
    pub fn read(&self, world: &World) -> (Option<Item>, usize) {
        let Some(item) = world.item(&self.table, &self.key) else { return (None, 0) };
        let seen = self.projection.as_ref().map_or_else(|| (**item).clone(), |paths| project(item, paths));
        (Some(seen), item_size(item))
    }
}

/// Read units of so many bytes; half as many where the read need not be consistent.
pub fn read_units(bytes: usize, consistent: bool) -> f64 {
    let whole = units(bytes, 4096) as f64;
    if consistent { whole } else { whole / 2.0 }
}

/// GetItem.
pub fn get_item(world: &mut World, input: &Input<'_>) -> Result<Json> {
    let prepared = prepare(world, input)?;
    let (item, size) = prepared.read(world);
    world.charge(&prepared.table, units(size, 4096), false)?;
    let mut answer = Map::new();
    if let Some(item) = item {
        answer.insert("Item".into(), wire::item_json(&item));
    }
    let consumed = read_units(size, input.flag("ConsistentRead")?);
    if let Some(consumed) = capacity(input, &[(&prepared.table, consumed)])? {
        answer.insert("ConsumedCapacity".into(), consumed[0].clone());
    }
    Ok(Json::Object(answer))
}
