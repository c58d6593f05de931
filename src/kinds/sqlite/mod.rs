//! Teleport's `lite` backend: one SQLite file with the tables `kv` and `events`.
//!
//! The rows of `kv` are the truth; `events` is a log of the last ten minutes that says which keys to look at. A source is
//! read in short transactions, nothing at it is ever created or altered, and its writer is not made to wait.

pub mod body;
mod fault;
mod open;
pub mod options;
mod reader;
mod record;
mod schema;
pub mod sink;
pub mod store;
pub mod time;
mod watch;
mod writer;

pub use options::{Journal, Options, Role, Sync};
pub use sink::SqliteSink;
pub use store::SqliteStore;
