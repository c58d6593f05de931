//! The journal: a durable local log of a source's changes, in files of its own.
//!
//! A [`Writer`] appends batches to segments of checksummed frames, one fsync for all that waits; a [`Reader`] gives them back
//! from a sequence, a position, a checkpoint or a time. Nothing damaged is ever given out, a tail that a power
//! loss cut short is cut and said, and whatever is missing is named. A reader that is registered with a [`Cursor`] keeps
//! retention from removing what it needs. Snapshots lie between the changes that happened while they were read, so that
//! the state of any later instant can be made from one of them. No clock, no thread: time and calls come from outside.
//!
//! `format` has the bytes of segments and frames, `codec` those of records, `crypt` what encryption makes of them.

mod back;
pub mod check;
mod codec;
mod crypt;
mod cursors;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod faulty;
mod files;
mod format;
mod frame;
mod front;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod golden_tests;
mod inspect;
#[cfg(test)]
mod keep_tests;
mod keys;
mod mark;
pub mod past;
mod pieces;
mod reader;
mod records;
mod recover;
pub mod relay;
mod retain;
#[cfg(test)]
mod roundtrip_tests;
mod seek;
#[cfg(test)]
mod seek_tests;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use codec::Snapshot;
pub use crypt::{KEY, Key, Keys};
pub use cursors::Cursor;
pub use files::{Disk, DiskFile, Folder};
pub use format::Salt;
#[cfg(test)]
use inspect::verify;
pub use inspect::{SegmentInfo, Verified, list, verify_beside};
pub use reader::{Cut, Given, Reader};
pub use records::Note;
pub use recover::Recovered;
pub use retain::{Held, Holder, Retained, Retention, clear};
pub use seek::{Alias, aliases, reached, snapshots, unbroken};
pub use writer::{OnDamage, Options, Pack, Writer};
