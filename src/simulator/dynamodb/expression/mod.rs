//! Expressions: conditions, filters, key conditions, updates, projections.
//!
//! A text is parsed once into a tree whose names and values are filled in, and the tree is then asked of items. Grammar and
//! semantics are those of the developer guide's chapters "Condition and filter expressions", "Update expressions" and
//! "Projection expressions". The older parameters (`Expected`, `AttributeUpdates`, `KeyConditions`, …) are not taken.

mod condition;
mod keys;
mod lexer;
mod parser;
mod path;
mod reserved;
mod update;

#[cfg(test)]
mod tests;

pub use condition::{Comparator, Condition};
pub use keys::{KeyCondition, SortCondition};
pub use parser::{Names, condition, key_condition, projection, update};
pub use path::{Path, project};
pub use update::Update;
