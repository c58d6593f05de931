//! Builds without a journal: every pipeline reads its source itself.

use std::convert::Infallible;
use std::future::Ready;
use std::sync::Arc;

use crate::config::{Config, Pipeline};
use crate::error::{Error, Result};
use crate::model::Remark;
use crate::source::Source;
use crate::store::Store;

/// Never, in such a build.
pub fn is_journaled(_: &Pipeline) -> bool {
    false
}

/// Never, in such a build.
pub fn is_relayed(_: &Pipeline) -> bool {
    false
}

/// Bytes of `memory` that changes may take within one pipeline.
pub struct Memory {
    /// In the pipeline.
    pub pipeline: usize,
}

impl Memory {
    /// As much for each.
    pub fn of(config: &Config, _: &Pipeline) -> Self {
        Self { pipeline: config.memory_of_one() }
    }
}

/// Nothing.
pub fn remarks(_: &Config, _: &Pipeline) -> Vec<Remark> {
    Vec::new()
}

/// The pipeline's own name.
pub fn leader<'c>(_: &Config, pipeline: &'c Pipeline) -> &'c str {
    &pipeline.name
}

/// A source, and the present state of what its stream brings.
pub type Followed = (Arc<dyn Source>, Arc<dyn Store>);

/// There is none.
pub struct Reader(Infallible);

impl Reader {
    /// # Errors
    /// Always; nobody asks, because no pipeline is journaled.
    pub fn new(_: &Config, _: &Pipeline, _: &str, _: Followed) -> Result<Self> {
        Err(Error::bug("open a journal in a build that has none"))
    }

    /// # Errors
    /// Always.
    pub fn alone(_: &Config, _: &Pipeline, _: &str, _: Followed) -> Result<Self> {
        Err(Error::config("capture: this build of driftless was made without the journal"))
    }

    /// Captures.
    pub fn capture(&self) -> Ready<Result<Infallible>> {
        match self.0 {}
    }

    /// The source as one of the pipelines sees it.
    pub fn source(&self, _: &str) -> Arc<dyn Source> {
        match self.0 {}
    }

    /// Stops reading.
    pub fn stop(&self) -> Ready<Result<()>> {
        match self.0 {}
    }
}
