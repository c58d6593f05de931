//! Following a cluster: the watch, what becomes of its answers, and the leases that no watch speaks of.
//!
//! | file | what |
//! |---|---|
//! | `assemble` | answers in, whole revisions out; pure |
//! | `health` | whether a silent watch is still one; pure |
//! | `due` | which leases are to be read again, and when; pure |
//! | `link` | one watch at one member |
//! | `refresh` | reads leases again, and the rows of those that moved |
//! | `follow` | the task that turns all of that into batches |
//! | `shared` | what the source and the task tell each other |
//! | `tail` | the stream, as the engine has it |

pub mod assemble;
pub mod due;
mod follow;
pub mod health;
mod link;
mod refresh;
mod shared;
mod tail;

pub(super) use shared::Shared;
pub(super) use tail::EtcdTail;
