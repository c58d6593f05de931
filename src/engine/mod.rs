//! The engine: from one source to one sink, whatever their kinds.

pub mod clock;
mod coalesce;
pub mod frontier;
pub mod lane;
mod patches;
pub mod plan;
pub mod policy;
pub mod report;
pub mod route;
pub mod runner;
pub mod status;
pub mod window;
