//! The kinds of store, and what lies between two of them.
//!
//! A kind never names the engine or another kind; this file, [`open`] and [`bridges`] are the only places that know them all.

pub mod bridges;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "journal")]
pub mod journal;
pub mod memory;
pub mod open;
#[cfg(feature = "postgresql")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use crate::error::Error;
use crate::model::Kind;

/// A kind that was switched off when this program was built.
fn left_out(kind: Kind) -> Error {
    Error::config(format!("open {kind}: this build of driftless was made without it; use one with the feature {kind}"))
}
