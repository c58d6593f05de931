//! The simulator through the real clients, and beside Amazon's own emulator.

mod boto;
mod local;
mod sdk;
