//! Families of store, and how items lie in them.

use std::fmt;

/// A family of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The reference kind: lives in this process, used by the simulation and the benches.
    Memory,
    /// Teleport's `lite` backend: one SQLite file.
    Sqlite,
    /// PostgreSQL 13 or later, self-hosted or managed.
    Postgresql,
    /// An etcd cluster, 3.4 or later.
    Etcd,
    /// A DynamoDB table.
    Dynamodb,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Postgresql => "postgresql",
            Self::Etcd => "etcd",
            Self::Dynamodb => "dynamodb",
        })
    }
}

/// How items lie in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// Teleport's key-value format of that kind.
    #[default]
    Teleport,
    /// Any table or prefix, untouched.
    Raw,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Teleport => "teleport",
            Self::Raw => "raw",
        })
    }
}
