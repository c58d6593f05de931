//! A change of one item that compares some of it, as an action of a transaction.
//!
//! Names are never written into an expression as they are: some of them are words of its language. Pure.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};

use super::body::Attributes;
use super::ledger;
use super::txn::incomplete;
use crate::error::Result;

/// A change of one item that compares some of it.
pub struct Change {
    key: Attributes,
    names: BTreeMap<String, String>,
    values: Attributes,
    sets: Vec<String>,
    conditions: Vec<String>,
}

impl Change {
    /// Of the item with this key.
    pub fn of(key: Attributes) -> Self {
        let (names, values) = (BTreeMap::new(), Attributes::new());
        Self { key, names, values, sets: Vec::new(), conditions: Vec::new() }
    }

    fn name(&mut self, name: &str) -> String {
        let short = format!("#{name}");
        self.names.insert(short.clone(), name.to_owned());
        short
    }

    /// Gives an attribute a value.
    pub fn set(&mut self, name: &str, value: AttributeValue) {
        let short = self.name(name);
        self.values.insert(format!(":to{name}"), value);
        self.sets.push(format!("{short} = :to{name}"));
    }

    /// Only if an attribute has this value.
    pub fn same(&mut self, name: &str, value: AttributeValue) {
        let short = self.name(name);
        self.values.insert(format!(":is{name}"), value);
        self.conditions.push(format!("{short} = :is{name}"));
    }

    /// Only if there is no such item.
    pub fn absent(&mut self) {
        let short = self.name(ledger::STREAM);
        self.conditions.push(format!("attribute_not_exists({short})"));
    }

    /// As an action of a transaction, which gives the item back where the condition does not hold.
    pub fn action(self, table: &str) -> Result<TransactWriteItem> {
        let update = Update::builder()
            .table_name(table)
            .set_key(Some(self.key))
            .update_expression(format!("SET {}", self.sets.join(", ")))
            .condition_expression(self.conditions.join(" AND "))
            .set_expression_attribute_names(Some(self.names.into_iter().collect()))
            .set_expression_attribute_values(Some(self.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .map_err(|_| incomplete())?;
        Ok(TransactWriteItem::builder().update(update).build())
    }
}
