//! DynamoDB: the simulator as others see it.

mod simulator;
