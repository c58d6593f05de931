//! One verb, one file. Verbs return values and print nothing; `cli` shows them.

pub mod control;
pub mod local;
pub mod outcome;
pub mod owner;
pub mod view;
