//! The engine: from one source to one sink, whatever their kinds.

mod attempt;
pub mod beat;
pub mod clock;
mod coalesce;
pub mod compare;
mod desk;
mod dispatch;
mod follow;
pub mod frontier;
pub mod heal;
pub mod host;
mod inbox;
pub mod lane;
mod load;
pub mod once;
mod patches;
pub mod pipeline;
pub mod plan;
pub mod policy;
pub mod report;
pub mod route;
pub mod runner;
pub mod standby;
pub mod status;
mod take;
pub mod verify;
pub mod window;
