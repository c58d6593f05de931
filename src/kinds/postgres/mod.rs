//! PostgreSQL 13 and later, self-hosted or managed, as a source and as a sink.
//!
//! [`options`] is what configuration says about one endpoint. [`conn`] turns it into connections, [`admin`] looks after
//! what has to exist at a server: slot, publication, head and pin, and what an operator has to be told.
//!
//! [`shape`] says what a table looks like and [`rowcodec`] how its rows lie in bytes, in both layouts.
//!
//! [`catalog`] reads what a server says about its tables, [`ddl`] makes the same tables somewhere else.
//!
//! [`stream`] follows the changes, over [`wire`], which reads the bytes of the replication stream.
//!
//! [`sink`] receives a stream, through the [`writer`] of each lane.

pub mod admin;
pub mod catalog;
pub mod conn;
pub mod ddl;
pub mod kvrow;
pub mod options;
pub mod rowcodec;
pub mod shape;
pub mod sink;
pub mod store;
pub mod stream;
pub mod wire;
pub mod writer;

pub use conn::{Endpoint, ReplicationConn, Session};
pub use options::{AuthMode, Options};
pub use sink::PgSink;
pub use stream::PostgresSource;
