//! The journal: a durable local log of a source's changes, in files of its own.
//!
//! A [`Writer`] appends batches to segments of checksummed frames, one fsync for all that waits; a [`Reader`] gives them back
//! from a sequence, a position or a time. Nothing damaged is ever given out, a tail that a power
//! loss cut short is cut and said, and what cannot be seen from the files alone (whole frames cut off the end) can be seen by
//! comparing [`Recovered`] with what the source has confirmed. No clock, no thread: time and calls come from outside.

mod crypt;
#[cfg(test)]
mod faulty;
mod files;
mod format;
mod frame;
mod reader;
mod records;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use crypt::{KEY, Key, Keys};
pub use files::{Disk, DiskFile, Folder};
pub use reader::{Cut, Given, Reader};
pub use writer::{Options, Recovered, Writer};
