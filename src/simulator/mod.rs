//! Services that a test, or a person, can have on the own machine, with the faults that the real ones only have when it hurts.
//!
//! A simulator knows nothing of driftless: it speaks a service's own protocol, keeps that service's published rules, and can be
//! used by any program. Its core is pure: time and requests come in as arguments, what is random comes from a seed.

pub mod dynamodb;
