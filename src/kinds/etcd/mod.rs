//! etcd: the keys under one prefix of a cluster, as Teleport lays them or as they are.
//!
//! | file | what |
//! |---|---|
//! | `options` | what configuration can say |
//! | `layout` | keys and values between a store and us; pure |
//! | `body` | the body of a row: value, instant of expiry, revision; pure |
//! | `place` | the name of the partition and the text of positions; pure |
//! | `version` | what a server's version means for a watch; pure |
//! | `fault` | every error of the client, translated once |
//! | `tls`, `connect` | peers, certificates, users; one live connection for all who ask, another peer when it is lost |
//! | `lease` | when leases end: each asked once, remembered, within a budget |
//! | `read`, `cut`, `store` | present state: pages, single keys, ranges |
//! | `watch` | following: the watch, whole revisions, and leases that are read again |
//! | `source` | the control side of a source: its head, and the stream |
//! | `check` | what can be wrong, found before it matters |
//! | `ledger` | what is remembered of a stream at a destination: keys, values; pure |
//! | `sink`, `claim` | the control side of a destination: claim, inspect, beat, forget, one transaction each |
//! | `writer`, `txn` | a lane: one transaction per commit; what changes become in it (pure) |
//! | `grant`, `mend` | leases at a destination, one for many keys; keys whose lease an election has moved |
//! | `limits` | what one transaction at a destination can hold |
//!
//! A source is only read: no lease there is ever granted, kept alive or revoked.

pub mod body;
pub mod check;
mod claim;
pub mod connect;
mod cut;
pub mod fault;
mod grant;
pub mod layout;
pub mod lease;
mod ledger;
mod limits;
mod mend;
pub mod options;
pub mod place;
mod read;
pub mod sink;
pub mod source;
pub mod store;
mod tls;
mod txn;
pub mod version;
pub mod watch;
mod writer;

pub use connect::Cluster;
pub use options::{Options, Role};
pub use sink::EtcdSink;
pub use source::EtcdSource;
pub use store::EtcdStore;
