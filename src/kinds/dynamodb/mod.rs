//! DynamoDB: one table, as Teleport lays its items or as it is.
//!
//! | file | what |
//! |---|---|
//! | `options` | what configuration can say |
//! | `number`, `body` | one text for each number, one form for each item; pure |
//! | `item` | Teleport's item in a body; pure |
//! | `layout`, `shape` | keys between a table and us; what a table is, so that one like it can be made; pure |
//! | `fault` | every error of the client, translated once |
//! | `connect`, `pace` | region, credentials, the client; how fast requests follow each other |
//! | `describe`, `create` | what a table is, asked; tables that are missing at a destination, made |
//! | `read`, `cut`, `store` | present state: pages, single keys, ranges |
//! | `source` | the control side of a source |
//! | `ledger` | what is remembered of a stream at a destination; pure |
//! | `sink`, `claim`, `look`, `change` | the control side of a destination: claim, inspect, beat, forget |
//! | `writer`, `txn` | a lane: one transaction per commit; what changes become in it (pure) |
//! | `check`, `units`, `iam` | what can be wrong, what writing costs, what a policy must allow (the last two pure) |
//!
//! A source is only read.

pub mod body;
mod change;
pub mod check;
mod claim;
pub mod connect;
mod create;
mod cut;
pub mod describe;
pub mod fault;
pub mod iam;
pub mod item;
pub mod layout;
mod ledger;
mod look;
pub mod number;
pub mod options;
mod pace;
mod read;
pub mod shape;
pub mod sink;
pub mod source;
pub mod store;
mod txn;
pub mod units;
mod writer;

pub use connect::Access;
pub use options::{Options, Role};
pub use sink::DynamoSink;
pub use source::DynamoSource;
pub use store::DynamoStore;
