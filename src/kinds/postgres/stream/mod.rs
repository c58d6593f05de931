//! The streaming half of the PostgreSQL source: our own walreceiver.
//!
//! ```text
//! server ──▶ receiver (a task: reads, answers) ──▶ link (whole frames, bounded) ──▶ tail ──▶ assemble ──▶ batches
//!                    ▲                                                               └▶ spool (streamed transactions)
//!                    └────────── released position, nudges ◀─────────────────────────┘
//! ```
//!
//! Beside it the watch looks after the slot and for new tables, and ends the stream where it must.
//!
//! Invariant: the server is answered by the receiver alone, whatever the sink does, and is told to forget only what
//! `Tail::release` was told.

mod assemble;
mod definitions;
mod link;
mod newcomers;
mod receiver;
mod relations;
mod sequences;
mod source;
mod spool;
mod tail;
mod watch;

pub use source::PostgresSource;
