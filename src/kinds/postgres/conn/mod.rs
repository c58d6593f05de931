//! Connections: from a connection string to an authenticated stream, and what went wrong on the way.
//!
//! [`Endpoint`] is the only way in. It makes two kinds of connection, which share everything up to the login: sessions of
//! the driver ([`Endpoint::session`]) and replication connections whose bytes we read ourselves
//! ([`Endpoint::replication`]). [`errors`] is the only place that translates what drivers and servers say.

mod auth;
mod binding;
mod connect;
pub mod conninfo;
mod dial;
pub mod errors;
mod http;
mod keys;
mod login;
mod passfile;
mod replication;
mod secret;
mod service;
mod session;
mod stream;
mod text;
mod tls;
mod token;
mod verifier;

pub use connect::Endpoint;
pub use conninfo::ConnInfo;
pub use errors::{ServerError, translate};
pub use replication::{QueryError, ReplicationConn, TextRow};
pub use secret::Secret;
pub use session::Session;
pub use stream::Stream;
