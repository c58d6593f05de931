//! Teleport's `lite` backend: one SQLite file with the tables `kv` and `events`.
//!
//! The rows of `kv` are the truth; `events` is a log of the last ten minutes that says which keys to look at. A source is
//! read in short transactions, nothing at it is ever created or altered, and its writer is not made to wait.

pub mod body;
pub mod check;
mod differ;
mod events;
mod fault;
mod follow;
pub mod log;
mod open;
pub mod options;
mod reader;
mod record;
mod rows;
mod schema;
pub mod sink;
pub mod source;
pub mod store;
mod tail;
pub mod time;
mod watch;
mod writer;

pub use options::{Journal, Options, Role, Sync};
pub use sink::SqliteSink;
pub use source::SqliteSource;
pub use store::SqliteStore;
