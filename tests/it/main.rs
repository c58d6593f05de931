//! Tests against real stores, in one binary so that servers are started once.
//!
//! A server that cannot be started fails the test that needs it; nothing is skipped. `make servers` installs them.
#![allow(clippy::unwrap_used, missing_docs, dead_code)] // Tests stop at the first surprise.

#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod capture;
mod cli;
mod config;
#[cfg(feature = "sqlite")]
mod sqlite;
#[macro_use]
mod conformance;
#[cfg(all(feature = "dynamodb", feature = "etcd", feature = "postgresql", feature = "sqlite"))]
mod dynamodb;
#[cfg(all(feature = "etcd", feature = "postgresql", feature = "sqlite"))]
mod etcd;
#[cfg(all(feature = "postgresql", feature = "sqlite"))]
mod filter;
#[cfg(all(feature = "journal", feature = "sqlite"))]
mod journal;
#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod overflow;
#[cfg(feature = "postgresql")]
mod pgadmin;
#[cfg(feature = "postgresql")]
mod pgcheck;
#[cfg(feature = "postgresql")]
mod pgconn;
#[cfg(feature = "postgresql")]
mod pgcontracts;
#[cfg(feature = "postgresql")]
mod pgsink;
#[cfg(feature = "postgresql")]
mod pgstore;
#[cfg(feature = "postgresql")]
mod pgstream;
#[cfg(feature = "postgresql")]
mod pgwatch;
mod prove;
#[cfg(all(feature = "postgresql", feature = "sqlite"))]
mod repair;
#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod replay;
#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod restore;
#[cfg(all(feature = "postgresql", feature = "sqlite"))]
mod secrets;
#[cfg(all(feature = "journal", feature = "postgresql", feature = "sqlite"))]
mod snapshots;
mod support;

#[test]
#[cfg(feature = "postgresql")]
fn both_servers_are_there() {
    for server in [support::pg::primary(), support::pg::secondary()] {
        assert_eq!(server.psql("postgres", "show wal_level"), "logical");
    }
}
