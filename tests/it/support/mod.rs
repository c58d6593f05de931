//! What several tests need: servers, and ways to look at stores that are not ours.

#[cfg(feature = "dynamodb")]
pub mod boto;
#[cfg(feature = "journal")]
pub mod disk;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "etcd")]
pub mod etcddb;
pub mod gone;
pub mod log;
#[cfg(feature = "postgresql")]
pub mod pg;
pub mod program;
pub mod scale;
pub mod secrets;
pub mod teleport;
