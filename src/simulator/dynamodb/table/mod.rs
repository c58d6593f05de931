//! A table: its definition, its items, what of it expires.

mod create;
mod describe;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value as Json;

pub use create::{created, view_type};
pub use describe::{describe, seconds};
pub use schema::{Key, Place, Scalar, Schema};

use super::chance::{hash, mix};
use super::fail::{Failure, Result};
use super::value::{Item, Value, item_size};

/// LIMIT: an item's size, as documented.
pub const LARGEST_ITEM: usize = 400 * 1024;
/// Items that expired longer ago than this are not deleted for it, as documented: five years.
const TOO_OLD: u64 = 5 * 365 * 24 * 3600 * 1000;

/// A secondary index.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Its key.
    pub schema: Schema,
    /// Whether it shares the table's partition key and reads consistently.
    pub local: bool,
    /// What of an item it holds, as it was asked for.
    pub projection: Json,
    /// Its throughput, as it was asked for.
    pub throughput: Option<Json>,
}

impl Index {
    /// What of an item the index holds, or nothing for all of it.
    pub fn attributes(&self, table: &Schema) -> Option<BTreeSet<String>> {
        if self.projection["ProjectionType"] == "ALL" {
            return None;
        }
        let keys = self.schema.attributes().chain(table.attributes()).map(|attribute| attribute.name.clone());
        let more = self.projection["NonKeyAttributes"].as_array().into_iter().flatten();
        Some(keys.chain(more.filter_map(Json::as_str).map(str::to_owned)).collect())
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its resource name.
    pub arn: String,
    /// Its id.
    pub id: String,
    /// When it was created, in milliseconds.
    pub created: u64,
    /// Its key.
    pub schema: Schema,
    /// The attributes that keys consist of, as they were asked for.
    pub definitions: Json,
    /// Its indexes.
    pub indexes: Vec<Index>,
    /// Whether it is paid by request, or its throughput as it was asked for.
    pub throughput: Option<Json>,
    /// Whether DeleteTable is refused.
    pub protected: bool,
    /// Until when it is being created or updated, and which.
    pub busy: (u64, &'static str),
    /// The stream that is on.
    pub stream: Option<String>,
    /// The stream that was switched on last.
    pub latest_stream: Option<String>,
    /// The attribute by which items expire.
    pub ttl: Option<String>,
    /// Since when point-in-time recovery is on.
    pub recovery: Option<u64>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The sum of its items' sizes.
    pub bytes: usize,
    items: BTreeMap<Place, Arc<Item>>,
    expiring: BTreeSet<(u64, Place)>,
    /// How long after its expiry an item is deleted at most, and the seed that says how long exactly.
    pub ttl_delay: (u64, u64),
}

impl Table {
    /// An item.
    pub fn get(&self, place: &Place) -> Option<&Arc<Item>> {
        self.items.get(place)
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Items in a Scan's order, from behind a place on.
    pub fn items(&self, after: Option<&Place>) -> impl Iterator<Item = (&Place, &Arc<Item>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.items.range((from, Bound::Unbounded))
    }

    /// Items between two places.
    pub fn between(
        &self,
        from: Bound<&Place>,
        to: Bound<&Place>,
    ) -> impl DoubleEndedIterator<Item = (&Place, &Arc<Item>)> {
        // A range that is turned around holds nothing; the map would panic.
        let turned = match (from, to) {
            (Bound::Included(a), Bound::Included(b)) => a > b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b) | Bound::Included(b)) => a >= b,
            _ => false,
        };
        (!turned).then(|| self.items.range((from, to))).into_iter().flatten()
    }

    /// Puts an item in place, or removes it, and gives what was there.
    pub fn store(&mut self, place: &Place, item: Option<Arc<Item>>) -> Option<Arc<Item>> {
        if let Some(item) = &item {
            self.bytes += item_size(item);
            if let Some(due) = self.due(place, item) {
                self.expiring.insert((due, place.clone()));
            }
        }
        let old = match item {
            Some(item) => self.items.insert(place.clone(), item),
            None => self.items.remove(place),
        };
        if let Some(old) = &old {
            self.bytes -= item_size(old);
            let now = self.items.get(place).and_then(|item| self.due(place, item));
            if let Some(due) = self.due(place, old)
                && now != Some(due)
            {
                self.expiring.remove(&(due, place.clone()));
            }
        }
        old
    }

    /// Switches expiry on or off.
    pub fn expire_by(&mut self, attribute: Option<String>) {
        self.ttl = attribute;
        self.expiring =
            self.items.iter().filter_map(|(place, item)| Some((self.due(place, item)?, place.clone()))).collect();
    }

    /// When an item will be deleted for its age.
    fn due(&self, place: &Place, item: &Item) -> Option<u64> {
        let Some(Value::N(seconds)) = item.get(self.ttl.as_ref()?) else { return None };
        let expires = u64::try_from(seconds.whole()?).ok()?.checked_mul(1000)?;
        let (delay, seed) = self.ttl_delay;
        let chance = mix(seed ^ place.key.shard_token() ^ hash(self.name.as_bytes()));
        // An item is never deleted before its second is over.
        Some(expires + 1000 + chance % (delay * 1000 + 1))
    }

    /// The next item that is deleted for its age, with the time of that.
    pub fn next_expiry(&self) -> Option<(u64, &Place)> {
        self.expiring.first().map(|(due, place)| (*due, place))
    }

    /// Takes the item that is due off the list. Whether it is to be deleted: what expired years ago stays.
    pub fn expire_first(&mut self, now: u64) -> Option<Place> {
        let (due, place) = self.expiring.pop_first()?;
        (due + TOO_OLD > now).then_some(place)
    }

    /// Refuses an item that the table or one of its indexes cannot hold.
    ///
    /// # Errors
    /// It is too large, or has a value of another type where an index has its key.
    pub fn check(&self, item: &Item) -> Result<()> {
        if item_size(item) > LARGEST_ITEM {
            return Err(Failure::invalid("Item size has exceeded the maximum allowed size"));
        }
        for index in &self.indexes {
            for attribute in index.schema.attributes() {
                let Some(value) = item.get(&attribute.name) else { continue };
                if value.kind() != attribute.kind {
                    return Err(Failure::parameter(format!(
                        "Type mismatch for Index Key {} Expected: {} Actual: {} IndexName: {}",
                        attribute.name,
                        attribute.kind,
                        value.kind(),
                        index.name
                    )));
                }
                if value.size() == 0 {
                    return Err(Failure::invalid(format!(
                        "One or more parameter values are not valid. A value specified for a secondary index key is not \
                         supported. The AttributeValue for a key attribute cannot contain an empty string value. \
                         IndexName: {}, IndexKey: {}",
                        index.name, attribute.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// The index of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn index(&self, name: &str) -> Result<&Index> {
        let found = self.indexes.iter().find(|index| index.name == name);
        found.ok_or_else(|| Failure::invalid(format!("The table does not have the specified index: {name}")))
    }
}

/// A schema of one text attribute, for tests.
#[cfg(test)]
pub fn tests_schema(name: &str) -> Schema {
    Schema { hash: schema::KeyAttribute { name: name.into(), kind: "S".into() }, range: None }
}
