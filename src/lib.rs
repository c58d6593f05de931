//! driftless keeps a second copy of a Teleport cluster's backend, and of any PostgreSQL tables, that never drifts.

pub mod bridge;
pub mod cli;
pub mod config;
pub mod engine;
pub mod error;
pub mod filter;
pub mod kinds;
pub mod model;
pub mod ops;
pub mod pool;
#[cfg(feature = "dynamodb")]
pub mod simulator;
pub mod sink;
pub mod source;
pub mod store;
pub mod telemetry;
