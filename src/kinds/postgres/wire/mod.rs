//! The bytes of PostgreSQL's replication stream, as pure functions over slices.
//!
//! Nothing here opens a socket, reads a clock, allocates per message or panics: what the server sent is data from outside,
//! and every length in it is checked before it is believed. Connecting and authenticating are `conn/`'s work, and what a
//! message *means* for a batch is decided in `assemble`.

pub mod frames;
pub mod lsn;
pub mod pgoutput;
mod read;

pub use lsn::Lsn;
