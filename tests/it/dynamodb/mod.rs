//! DynamoDB: the kind against DynamoDB Local, and the simulator as others see it.

mod contracts;
mod copying;
mod raw;
mod simulator;
mod writing;
