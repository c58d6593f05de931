//! The kinds of store, and what lies between two of them.
//!
//! A kind never names the engine or another kind; this file is the only place that knows them all.

pub mod memory;
#[cfg(feature = "postgresql")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;
