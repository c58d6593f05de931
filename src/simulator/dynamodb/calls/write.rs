//! PutItem, UpdateItem, DeleteItem, and the same as parts of a transaction.
//!
//! A write is prepared from its request, then judged against the item that is there, then done: a transaction does the first two
//! for all of its parts before it does the third for any.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::super::expression::{Condition, Path, Update, condition, project, update};
use super::super::fail::{Failure, Kind, Result};
use super::super::faults::Fault;
use super::super::input::Input;
use super::super::table::Key;
use super::super::value::{Item, item_size};
use super::super::wire;
use super::super::world::{World, capacity};

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Puts a whole item.
    Put,
    /// Changes attributes.
    Update,
    /// Deletes.
    Delete,
    /// Only looks.
    Check,
}

/// A write that was read from a request.
pub struct Prepared {
    /// Its table.
    pub table: String,
    /// Its key.
    pub key: Key,
    action: Action,
    item: Item,
    condition: Option<Condition>,
    update: Option<Update>,
    gives_item: bool,
}

/// What a write leaves.
pub struct Judged {
    /// The item before.
    pub old: Option<Arc<Item>>,
    /// The item after.
    pub new: Option<Item>,
}

/// Reads a write.
///
/// # Errors
/// It breaks a rule that can be seen without the item.
pub fn prepare(world: &World, action: Action, input: &Input<'_>) -> Result<Prepared> {
    let table = world.table(input.required_text("TableName")?)?;
    let mut names = input.names()?;
    let condition = match input.text("ConditionExpression")? {
        Some(text) => Some(condition(text, "ConditionExpression", &mut names)?),
        None if action == Action::Check => {
            input.required("ConditionExpression")?;
            None
        }
        None => None,
    };
    let update = match input.text("UpdateExpression")? {
        Some(text) if action == Action::Update => Some(update(text, &mut names)?),
        _ => None,
    };
    names.all_used()?;
    let (key, item) = if action == Action::Put {
        let item = wire::item(input.required("Item")?)?;
        (table.schema.key_of(&item)?, item)
    } else {
        (table.schema.named(&wire::item(input.required("Key")?)?)?, Item::new())
    };
    if action == Action::Put {
        table.check(&item)?;
    }
    for path in update.iter().flat_map(Update::paths) {
        if table.schema.has(&path.attribute) {
            return Err(Failure::parameter(format!(
                "Cannot update attribute {}. This attribute is part of the key",
                path.attribute
            )));
        }
    }
    let gives_item = match input.text("ReturnValuesOnConditionCheckFailure")? {
        None | Some("NONE") => false,
        Some("ALL_OLD") => true,
        Some(_) => return Err(Failure::invalid("ReturnValuesOnConditionCheckFailure is NONE or ALL_OLD")),
    };
    Ok(Prepared { table: table.name.clone(), key, action, item, condition, update, gives_item })
}

impl Prepared {
    /// Whether it can be done, and what it would leave.
    ///
    /// # Errors
    /// Its condition does not hold, or the item has something else than the update takes.
    pub fn judge(&self, world: &World) -> Result<Judged> {
        let old = world.item(&self.table, &self.key).cloned();
        let nothing = Item::new();
        let seen = old.as_deref().unwrap_or(&nothing);
        if self.condition.as_ref().is_some_and(|condition| !condition.holds(seen)) {
            return Err(Failure::condition(old.filter(|_| self.gives_item).map(|item| (*item).clone())));
        }
        let new = match self.action {
            Action::Put => Some(self.item.clone()),
            Action::Delete => None,
            Action::Check => old.as_deref().cloned(),
            Action::Update => {
                let table = world.table(&self.table)?;
                let before = old.as_deref().cloned().unwrap_or_else(|| table.schema.item(&self.key));
                let after =
                    self.update.as_ref().map_or_else(|| Ok(before.clone()), |update| update.applied(&before))?;
                table.check(&after).map_err(|failure| match failure.message.as_str() {
                    "Item size has exceeded the maximum allowed size" => {
                        Failure::invalid("Item size to update has exceeded the maximum allowed size")
                    }
                    _ => failure,
                })?;
                Some(after)
            }
        };
        Ok(Judged { old, new })
    }

    /// The write units that it takes.
    pub fn units(&self, judged: &Judged) -> u64 {
        let sizes = judged.old.as_deref().into_iter().chain(&judged.new).map(item_size);
        units(sizes.max().unwrap_or(0), 1024)
    }

    /// What it weighs in a transaction.
    pub fn size(&self, judged: &Judged) -> usize {
        judged.new.as_ref().map_or(0, item_size)
    }

    /// Does it.
    pub fn apply(&self, world: &mut World, judged: Judged) {
        if self.action != Action::Check {
            world.write(&self.table, &self.key.clone().place(), judged.new, false);
        }
    }
}

/// Units of this many bytes, one at least.
pub fn units(bytes: usize, unit: usize) -> u64 {
    bytes.div_ceil(unit).max(1) as u64
}

fn one(world: &mut World, action: Action, input: &Input<'_>) -> Result<Json> {
    let returns = input.text("ReturnValues")?.unwrap_or("NONE");
    let allowed: &[&str] = match action {
        Action::Update => &["NONE", "ALL_OLD", "UPDATED_OLD", "ALL_NEW", "UPDATED_NEW"],
        _ => &["NONE", "ALL_OLD"],
    };
    if !allowed.contains(&returns) {
        return Err(Failure::invalid("Return values set to invalid value"));
    }
    let prepared = prepare(world, action, input)?;
    if world.fault == Some(Fault::TransactionConflict) {
        return Err(Failure::new(Kind::TransactionConflict, "Transaction is ongoing for the item"));
    }
    // A condition that does not hold costs as much as a write, so throughput is looked at first.
    let there = world.item(&prepared.table, &prepared.key).map_or(0, |item| item_size(item));
    world.charge(&prepared.table, units(there.max(item_size(&prepared.item)), 1024), true)?;
    let judged = prepared.judge(world)?;
    let (old, new) = (judged.old.clone(), judged.new.clone());
    let consumed = prepared.units(&judged);
    prepared.apply(world, judged);

    let paths: Vec<Path> = prepared.update.iter().flat_map(Update::paths).cloned().collect();
    let attributes = match returns {
        "ALL_OLD" => old.as_deref().cloned(),
        "ALL_NEW" => new,
        "UPDATED_OLD" => old.map(|item| updated(&item, &paths)),
        "UPDATED_NEW" => new.map(|item| updated(&item, &paths)),
        _ => None,
    };
    let mut answer = Map::new();
    if let Some(attributes) = attributes.filter(|attributes| !attributes.is_empty()) {
        answer.insert("Attributes".into(), wire::item_json(&attributes));
    }
    if let Some(consumed) = capacity(input, &[(&prepared.table, consumed as f64)])? {
        answer.insert("ConsumedCapacity".into(), consumed[0].clone());
    }
    Ok(Json::Object(answer))
}

/// What is there of the paths that an update wrote.
fn updated(item: &Item, paths: &[Path]) -> Item {
    let there: Vec<Path> = paths.iter().filter(|path| path.find(item).is_some()).map(Path::to_list).collect();
    project(item, &there)
}

/// PutItem.
pub fn put_item(world: &mut World, input: &Input<'_>) -> Result<Json> {
    one(world, Action::Put, input)
}

/// UpdateItem.
pub fn update_item(world: &mut World, input: &Input<'_>) -> Result<Json> {
    one(world, Action::Update, input)
}

/// DeleteItem.
pub fn delete_item(world: &mut World, input: &Input<'_>) -> Result<Json> {
    one(world, Action::Delete, input)
}
