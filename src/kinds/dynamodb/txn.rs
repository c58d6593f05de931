//! What a commit's changes become as actions of one transaction. Pure: the clock comes in.
//!
//! Invariant: no item is named twice, which DynamoDB refuses. In Teleport's layout what has expired by the time it is written
//! is removed instead: the table's own expiry may take days, and a read before that would bring it back.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem};

use super::body::{self, Attributes};
use super::item::View;
use super::layout::Keys;
use crate::error::{Error, Result};
use crate::model::{Changes, Layout, Micros, Op, Row, shown};

/// LIMIT: bytes of an item, set by DynamoDB.
pub const LARGEST: usize = 400 << 10;

/// What becomes of one item.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It goes, by its key.
    Delete(Attributes),
    /// It is this from now on.
    Put(Attributes),
}

/// A commit's changes, each item once.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// With what each item is called before people.
    pub items: Vec<(String, What)>,
    /// The keys of a table all of whose items go before that.
    pub clears: Option<Keys>,
}

impl Folded {
    /// Folds changes that are written at `now`.
    pub fn of(changes: &Changes, layout: Layout, now: Micros) -> Result<Self> {
        let mut folded = Self::default();
        let mut index: HashMap<&[u8], usize> = HashMap::with_capacity(changes.len());
        let mut known: Option<(*const crate::model::Table, Keys)> = None;
        for row in changes.iter() {
            let table = std::sync::Arc::as_ptr(row.table);
            let keys = match &known {
                Some((of, keys)) if *of == table => keys,
                _ => &known.insert((table, Keys::of(layout, row.table)?)).1,
            };
            if row.op == Op::Clear {
                folded.clears = Some(keys.clone());
                folded.items.clear();
                index.clear();
                continue;
            }
            let what = what(row, keys, layout, now)?;
            match index.get(row.key) {
                Some(&at) => {
                    if let Some((_, last)) = folded.items.get_mut(at) {
                        *last = what;
                    }
                }
                None => {
                    index.insert(row.key, folded.items.len());
                    folded.items.push((name_of(row, layout), what));
                }
            }
        }
        if folded.clears.is_some() {
            folded.items.retain(|(_, what)| matches!(what, What::Put(_)));
        }
        Ok(folded)
    }

    /// Appends the actions on a table.
    pub fn actions(&self, table: &str, out: &mut Vec<TransactWriteItem>) -> Result<()> {
        for (_, what) in &self.items {
            out.push(match what {
                What::Put(item) => put(table, item.clone())?,
                What::Delete(key) => delete(table, key.clone())?,
            });
        }
        Ok(())
    }
}

/// How an item is called before people.
fn name_of(row: Row<'_>, layout: Layout) -> String {
    // A raw key is no text of which a beginning could be shown.
    if layout == Layout::Raw { shown("item", row.key) } else { shown(&row.table.name, row.key) }
}

/// A put of a whole item.
pub fn put(table: &str, item: Attributes) -> Result<TransactWriteItem> {
    let put = Put::builder().table_name(table).set_item(Some(item)).build().map_err(|_| incomplete())?;
    Ok(TransactWriteItem::builder().put(put).build())
}

/// A delete by key.
pub fn delete(table: &str, key: Attributes) -> Result<TransactWriteItem> {
    let delete = Delete::builder().table_name(table).set_key(Some(key)).build().map_err(|_| incomplete())?;
    Ok(TransactWriteItem::builder().delete(delete).build())
}

/// Something that the client cannot be given.
pub fn incomplete() -> Error {
    Error::bug("write changes: an action is not complete")
}

fn what(row: Row<'_>, keys: &Keys, layout: Layout, now: Micros) -> Result<What> {
    match row.op {
        Op::Delete | Op::Clear => keys.attributes(row.key).map(What::Delete),
        // A stream of this kind gives whole items, and rows of others are made whole on their way here.
        Op::Patch => Err(Error::bug("write changes: a row with holes reached DynamoDB")),
        Op::Put => {
            let mut item = keys.attributes(row.key)?;
            if layout == Layout::Teleport && View::of(row.body)?.expired(now) {
                return Ok(What::Delete(item));
            }
            item.extend(body::decode(row.body)?);
            let size: usize = item.iter().map(|(name, value)| body::size(name, value)).sum();
            match size > LARGEST {
                true => Err(too_large(&name_of(row, layout), size)),
                false => Ok(What::Put(item)),
            }
        }
    }
}

/// An item that DynamoDB does not take.
pub fn too_large(name: &str, size: usize) -> Error {
    Error::rejected(format!(
        "write the item {name}: it has about {} KiB, and DynamoDB takes 400 KiB; leave it out with `exclude`, or make it \
         smaller at the source",
        size.div_ceil(1 << 10)
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kinds::dynamodb::item::from_item;
    use crate::kinds::dynamodb::shape::Shape;
    use crate::model::{Batch, Item, Table};

    const NOW: Micros = 1_775_044_800_000_000;

    fn row(expires: Option<Micros>, value: &[u8]) -> Vec<u8> {
        let expires = expires.map(|at| i128::from(at) * 1_000);
        let mut out = Vec::new();
        from_item(&Item { value: value.to_vec(), expires, revision: vec![] }, 0, &mut out).unwrap();
        out
    }

    fn changes(table: &Arc<Table>, rows: &[(Op, &[u8], Vec<u8>)]) -> Changes {
        let mut batch = Batch::unpooled();
        let table = batch.table(table);
        for (op, key, body) in rows {
            batch.push(*op, false, table, key, body, 0);
        }
        let (batch, mut changes) = (Arc::new(batch), Changes::default());
        let held = changes.hold(&batch);
        for index in 0..rows.len() {
            changes.pick(held, u32::try_from(index).unwrap());
        }
        changes
    }

    fn folded(rows: &[(Op, &str, Vec<u8>)]) -> Result<Vec<String>> {
        let rows: Vec<_> = rows.iter().map(|(op, key, body)| (*op, key.as_bytes(), body.clone())).collect();
        let folded = Folded::of(&changes(&Arc::default(), &rows), Layout::Teleport, NOW)?;
        let path = |item: &Attributes| item["FullPath"].as_s().unwrap().clone();
        let say = |(_, what): &(String, What)| match what {
            What::Delete(key) => format!("{} goes", path(key)),
            What::Put(item) => {
                let value = item["Value"].as_b().unwrap().as_ref().to_vec();
                format!("{} is {}", path(item), String::from_utf8(value).unwrap())
            }
        };
        Ok(folded.items.iter().map(say).collect())
    }

    #[test]
    fn each_item_is_named_once_and_the_last_change_counts() {
        let all = [
            (Op::Put, "/a", row(None, b"1")),
            (Op::Put, "/b", row(None, b"1")),
            (Op::Delete, "/a", vec![]),
            (Op::Put, "/b", row(Some(NOW + 1), b"2")),
            (Op::Put, "/past", row(Some(NOW), b"x")),
        ];
        assert_eq!(folded(&all).unwrap(), ["teleport/a goes", "teleport/b is 2", "teleport/past goes"]);
        assert!(folded(&[(Op::Patch, "/a", vec![])]).is_err());
    }

    #[test]
    fn behind_a_clear_only_what_is_put_is_named() {
        let all = [
            (Op::Put, "/old", row(None, b"1")),
            (Op::Clear, "", vec![]),
            (Op::Put, "/a", row(None, b"2")),
            (Op::Delete, "/b", vec![]),
        ];
        assert_eq!(folded(&all).unwrap(), ["teleport/a is 2"]);
    }

    #[test]
    fn an_item_that_is_too_large_is_refused_by_a_name_that_hides_what_is_secret() {
        let most = LARGEST - 200;
        assert!(folded(&[(Op::Put, "/tokens/static/planted", row(None, &vec![b'x'; most]))]).is_ok());
        let said = folded(&[(Op::Put, "/tokens/static/planted", row(None, &vec![b'x'; LARGEST]))]).unwrap_err();
        assert_eq!(said.fault(), crate::error::Fault::Rejected);
        let said = said.to_string();
        assert!(said.contains("/tokens/static/… #") && said.contains("401 KiB") && !said.contains("planted"), "{said}");
    }

    #[test]
    fn a_raw_item_is_written_with_every_attribute_and_never_expires_here() {
        let shape = Shape::teleport(None);
        let keys = Keys::raw(&shape);
        let table = Arc::new(Table { name: String::new(), shape: shape.encode().unwrap() });
        let key = keys.key(&Keys::Teleport.attributes(b"/k").unwrap()).unwrap().unwrap();
        let changes = changes(&table, &[(Op::Put, &key, row(Some(1), b"v"))]);
        let folded = Folded::of(&changes, Layout::Raw, NOW).unwrap();
        let (_, What::Put(item)) = &folded.items[0] else { panic!("{folded:?}") };
        let mut names: Vec<_> = item.keys().collect();
        names.sort();
        assert_eq!(names, ["Expires", "FullPath", "HashKey", "Timestamp", "Value"]);
    }
}
