//! From one side of a configured pipeline to the traits that the engine works with.
//!
//! Opening connects to nothing: it reads connection strings and looks at files, so that every mistake that can be found
//! without a connection is found here, before any side of any pipeline is touched.

#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "postgresql")]
mod postgresql;
#[cfg(feature = "journal")]
pub mod shared;
#[cfg(not(feature = "journal"))]
#[path = "unshared.rs"]
pub mod shared;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::sync::Arc;

use crate::config::{Config, Pipeline};
use crate::error::{Error, Result};
use crate::model::{Kind, Layout, Remark, Table};
use crate::sink::Sink;
use crate::source::{Fut, Source};
use crate::store::Store;

/// Which side of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where changes come from.
    Source,
    /// Where they go.
    Sink,
}

/// What is opened.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// One of its pipelines.
    pub pipeline: &'a Pipeline,
    /// The name under which its side is opened: its own, or that of the pipeline whose reader it shares.
    pub name: &'a str,
}

impl<'a> Wanted<'a> {
    /// A pipeline of a configuration.
    pub fn new(config: &'a Config, pipeline: &'a Pipeline) -> Self {
        Self { config, pipeline, name: &pipeline.name }
    }
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
    /// Present state of all that configuration means.
    pub store: Option<Arc<dyn Store>>,
    /// Present state of what a stream that follows brings; the same wherever that is all there is.
    pub followed: Option<Arc<dyn Store>>,
    place: String,
    special: Box<dyn Special>,
}

/// Questions and errands that are the kind's own.
trait Special: Send + Sync {
    fn identity(&self) -> Fut<'_, Option<String>>;

    fn remarks(&self) -> Fut<'_, Vec<Remark>>;

    /// Present state of these tables, where that takes more than asking this side.
    fn store_of(&self, _tables: &[Arc<Table>]) -> Result<Option<Arc<dyn Store>>> {
        Ok(None)
    }

    /// The least that a policy of the place must allow whoever uses it.
    fn policy(&self) -> Option<serde_json::Value> {
        None
    }

    fn drop_slot(&self) -> Fut<'_, Vec<String>> {
        Box::pin(async {
            let what = "drop the slot: such a source keeps nothing for a replica, so there is nothing to remove";
            Err(Error::config(what))
        })
    }
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
    pub fn identity(&self) -> Fut<'_, Option<String>> {
        self.special.identity()
    }

    /// Everything that the kind finds wrong with its side, or worth saying. Changes nothing.
    ///
    /// # Errors
    /// Never for what is wrong with the store; that is a remark.
    pub fn remarks(&self) -> Fut<'_, Vec<Remark>> {
        self.special.remarks()
    }

    /// The least that a policy of the place must allow us; `None` for a kind that has none.
    pub fn policy(&self) -> Option<serde_json::Value> {
        self.special.policy()
    }

    /// From here on the store is that of these tables, as a source once had them, and no source is asked for them.
    ///
    /// # Errors
    /// Corrupt, for a table whose description cannot be read.
    pub fn only(&mut self, tables: &[Arc<Table>]) -> Result<()> {
        if let Some(store) = self.special.store_of(tables)? {
            (self.store, self.followed) = (Some(Arc::clone(&store)), Some(store));
        }
        Ok(())
    }

    /// Removes what was made at a source for this stream; says what was done, one sentence each.
    ///
    /// # Errors
    /// Config for a kind that keeps nothing for a stream; Transient while it is in use.
    pub fn drop_slot(&self) -> Fut<'_, Vec<String>> {
        self.special.drop_slot()
    }
}

/// Opens one side.
///
/// # Errors
/// Config, with what is wrong with its keys.
pub fn open(wanted: Wanted<'_>, side: Side) -> Result<Endpoint> {
    let wanted = match side {
        Side::Source => Wanted { name: shared::leader(wanted.config, wanted.pipeline), ..wanted },
        Side::Sink => wanted,
    };
    let configured = match side {
        Side::Source => &wanted.pipeline.src,
        Side::Sink => &wanted.pipeline.dst,
    };
    match configured {
        #[cfg(feature = "sqlite")]
        crate::config::Endpoint::Sqlite(keys) => sqlite::open(wanted, keys, side),
        #[cfg(feature = "postgresql")]
        crate::config::Endpoint::Postgresql(keys) => postgresql::open(wanted, keys, side),
        #[cfg(feature = "dynamodb")]
        crate::config::Endpoint::Dynamodb(keys) => dynamodb::open(wanted, keys, side),
        #[cfg(feature = "etcd")]
        crate::config::Endpoint::Etcd(keys) => etcd::open(wanted, keys, side),
        #[allow(unreachable_patterns, reason = "reached in builds that leave a kind out")]
        other => Err(super::left_out(other.kind())),
    }
}

/// The source's side of a pipeline as it was: nothing of the configured source is opened or asked.
pub fn past(pipeline: &Pipeline, place: String, source: Arc<dyn Source>, store: Arc<dyn Store>) -> Endpoint {
    let (kind, layout) = (pipeline.src.kind(), pipeline.src.layout());
    let (source, followed) = (Some(source), Some(Arc::clone(&store)));
    Endpoint { kind, layout, source, sink: None, store: Some(store), followed, place, special: Box::new(Gone) }
}

/// A place that answers nothing.
struct Gone;

impl Special for Gone {
    fn identity(&self) -> Fut<'_, Option<String>> {
        Box::pin(async { Ok(None) })
    }

    fn remarks(&self) -> Fut<'_, Vec<Remark>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// What both sides of a pipeline are, if their configuration alone tells that they are one place. Two names of one server
/// are found later, by what the servers say of themselves.
///
/// # Errors
/// Config, for a connection string that cannot be read.
pub fn one_place(wanted: Wanted<'_>) -> Result<Option<String>> {
    match (&wanted.pipeline.src, &wanted.pipeline.dst) {
        #[cfg(feature = "postgresql")]
        (crate::config::Endpoint::Postgresql(src), crate::config::Endpoint::Postgresql(dst)) => {
            postgresql::one_place(wanted, src, dst)
        }
        _ => Ok(None),
    }
}
