//! The database that is written to, as sink and writers share it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::kinds::postgres::{Endpoint, Options};
use crate::model::Layout;

/// One destination.
pub struct Destination {
    /// How to reach it.
    pub endpoint: Endpoint,
    /// How items lie in it.
    pub layout: Layout,
    /// Memory budget of the pipeline, in bytes.
    pub memory: usize,
    generation: AtomicU64,
}

impl Destination {
    /// The destination of these options; does not connect.
    ///
    /// # Errors
    /// Config for a connection string that cannot be read.
    pub fn new(options: &Options) -> Result<Self> {
        let endpoint = Endpoint::new(options)?;
        Ok(Self { endpoint, layout: options.layout, memory: options.memory, generation: AtomicU64::new(0) })
    }

    /// Rises when we made or settled tables, so that writers look at them again.
    pub fn generation(&self) -> u64 {
        // ORDERING: Acquire pairs with the Release below: who sees the new number asks the server after the change.
        self.generation.load(Ordering::Acquire)
    }

    /// Says that tables were made or settled.
    pub fn tables_changed(&self) {
        // ORDERING: Release, so that the tables were made before anybody sees the new number.
        self.generation.fetch_add(1, Ordering::Release);
    }
}
