//! A simulated DynamoDB with DynamoDB Streams.
//!
//! It speaks the real protocol for the calls that somebody who copies or follows tables makes, and keeps the service's published
//! rules, above all those of streams, which no other emulator has: shards that end and have children, iterators that expire,
//! records that are trimmed. What it does is written in `docs/dynamodb-simulator.md`, each rule with its source.
//!
//! Layers, each of which knows only those before it: values (`number`, `value`, `wire`), `expression`, `table`, `stream`, `faults`,
//! `world` with its `calls` and `control`, and at the edge `server`, which alone knows a clock and a socket. Everything else is
//! pure: [`World::handle`] takes the time and gives the answer, and the same seed with the same requests gives the same answers.
//!
//! Deliberately left out: signatures are not checked, nothing is stored on disk, `PartiQL`, backups, global tables, and the
//! parameters from before there were expressions.

mod calls;
mod chance;
mod control;
mod expression;
mod fail;
mod faults;
mod input;
mod number;
mod options;
mod server;
mod stream;
mod table;
mod value;
mod wire;
mod world;

#[cfg(test)]
mod tests;

pub use options::{Options, Rates};
pub use server::{Pace, Server};
pub use world::{Answer, Request, World};
