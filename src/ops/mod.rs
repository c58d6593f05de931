//! One verb, one file. Verbs return values and print nothing; `cli` shows them.

pub mod capture;
pub mod check;
pub mod control;
pub mod copy;
#[cfg(feature = "sqlite")]
pub mod demo;
pub mod drop_slot;
#[cfg(feature = "dynamodb")]
pub mod fits;
#[cfg(feature = "journal")]
pub mod journal;
pub mod local;
pub mod outcome;
pub mod owner;
#[cfg(feature = "journal")]
mod past;
#[cfg(feature = "journal")]
pub mod replay;
#[cfg(feature = "journal")]
pub mod restore;
pub mod route;
pub mod run;
pub mod status;
pub mod verify;
pub mod view;
mod work;
