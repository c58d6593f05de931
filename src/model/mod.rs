//! The nouns. Everything here is pure: no I/O, no clock, no runtime, no driver.

mod batch;
mod changes;
mod checkpoint;
mod claim;
mod item;
mod kind;
mod position;
mod remark;
mod shown;

pub use batch::{Batch, Buffers, Change, Draft, Edit, Home, Mark, Op, Row, Steps, Table};
pub use changes::{Changes, Commit};
pub use checkpoint::Checkpoint;
pub use claim::{Claim, LaneRecord, Owner, Pulse, Scope, Standing, StreamId, StreamRecord};
pub use item::{Item, Micros};
pub use kind::{Kind, Layout};
pub use position::{PartitionId, Position};
pub use remark::{Level, Remark};
pub use shown::shown;
