//! The reference kind: every contract over state in this process.
//!
//! It is what the contracts mean, in the fewest words, and what the simulation and the benches run on. A [`World`] is a
//! source (one log or many shards, transactions, patches, clears), a [`MemorySink`] a transactional sink; whatever can go
//! wrong at their doors is decided by a [`Plan`] from outside. No clock, no chance, no thread, no I/O: a future is ready,
//! or waits for a change of the state. [`bench`] has a source and a sink that are only fast.

pub mod bench;
mod body;
mod bridge;
mod faults;
mod log;
mod ranges;
mod sink;
mod sinkstore;
mod source;
mod store;
mod tail;
mod world;
mod writer;

pub use body::Body;
pub use bridge::bridge;
pub use faults::{Outcome, Plan, Script, Site, Smooth};
pub use sink::{Landed, MemorySink, SinkBackup, SinkRows, Written};
pub use world::{Backup, Rows, Version, World, Write};
