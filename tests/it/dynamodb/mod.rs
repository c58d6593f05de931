//! The kind DynamoDB against DynamoDB Local.

mod contracts;
mod copying;
mod raw;
mod writing;
