//! From one side of a configured pipeline to the traits that the engine works with.
//!
//! Opening connects to nothing: it reads connection strings and looks at files, so that every mistake that can be found
//! without a connection is found here, before any side of any pipeline is touched.

#[cfg(feature = "postgresql")]
mod postgresql;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::sync::Arc;

use crate::config::{Config, Endpoint as Configured, Pipeline};
use crate::error::Result;
use crate::model::{Kind, Layout};
use crate::sink::Sink;
use crate::source::Source;
use crate::store::Store;

/// Which side of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where changes come from.
    Source,
    /// Where they go.
    Sink,
}

/// One side of a pipeline, opened.
pub struct Endpoint {
    /// Family of store.
    pub kind: Kind,
    /// How items lie in it.
    pub layout: Layout,
    /// The stream of changes; only on the source's side.
    pub source: Option<Arc<dyn Source>>,
    /// Where changes go; only on the sink's side.
    pub sink: Option<Arc<dyn Sink>>,
    /// Present state.
    pub store: Option<Arc<dyn Store>>,
    place: String,
    more: More,
}

/// What only one kind can do.
enum More {
    #[cfg(feature = "sqlite")]
    Sqlite(std::path::PathBuf),
    #[cfg(feature = "postgresql")]
    Postgresql(Box<postgresql::Server>),
}

impl Endpoint {
    /// Names it in messages: kind and place, never a user or a password.
    pub fn describe(&self) -> &str {
        &self.place
    }

    /// What the place calls itself, equal for two names of one place; `None` where it does not tell, or is not there yet.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn identity(&self) -> Result<Option<String>> {
        match &self.more {
            #[cfg(feature = "sqlite")]
            More::Sqlite(file) => Ok(sqlite::identity(file)),
            #[cfg(feature = "postgresql")]
            More::Postgresql(server) => server.identity().await,
        }
    }

    /// Removes what was made at a source for this stream; says what was done, one sentence each.
    ///
    /// # Errors
    /// Config for a kind that keeps nothing for a stream; Transient while it is in use.
    pub async fn drop_slot(&self) -> Result<Vec<String>> {
        match &self.more {
            #[cfg(feature = "sqlite")]
            More::Sqlite(_) => Err(crate::error::Error::config(
                "drop the slot: a SQLite source keeps nothing for a replica, so there is nothing to remove",
            )),
            #[cfg(feature = "postgresql")]
            More::Postgresql(server) => server.drop_slot().await,
        }
    }
}

/// Opens one side.
///
/// # Errors
/// Config, with what is wrong with its keys.
pub fn open(config: &Config, pipeline: &Pipeline, side: Side) -> Result<Endpoint> {
    let configured = match side {
        Side::Source => &pipeline.src,
        Side::Sink => &pipeline.dst,
    };
    match configured {
        #[cfg(feature = "sqlite")]
        Configured::Sqlite(keys) => sqlite::open(keys, side),
        #[cfg(feature = "postgresql")]
        Configured::Postgresql(keys) => postgresql::open(config, pipeline, keys, side),
        #[allow(unreachable_patterns, reason = "reached in builds that leave a kind out")]
        other => Err(super::left_out(other.kind())),
    }
}

/// What both sides of a pipeline are, if their configuration alone tells that they are one place. Two names of one server
/// are found later, by what the servers say of themselves.
///
/// # Errors
/// Config, for a connection string that cannot be read.
pub fn one_place(config: &Config, pipeline: &Pipeline) -> Result<Option<String>> {
    match (&pipeline.src, &pipeline.dst) {
        #[cfg(feature = "postgresql")]
        (Configured::Postgresql(src), Configured::Postgresql(dst)) => postgresql::one_place(config, pipeline, src, dst),
        _ => Ok(None),
    }
}
