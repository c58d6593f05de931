//! The control side of a source: a table that can be copied and compared.
//!
//! Its stream is not followed: what asks for that is refused, and nothing at the table is changed.

use super::connect::Access;
use super::describe;
use crate::error::{Error, Result};
use crate::model::Checkpoint;
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};

/// A table that is read.
pub struct DynamoSource {
    access: Access,
}

impl DynamoSource {
    /// Of a table; connects to nothing yet.
    pub fn new(access: &Access) -> Self {
        Self { access: access.clone() }
    }
}

fn refused<T>() -> Result<T> {
    Err(Error::config(
        "follow a DynamoDB table: this version of driftless copies one (`clone`) and compares it (`verify`), and cannot \
         follow its stream",
    ))
}

impl Source for DynamoSource {
    fn head(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async {
            describe::present(&self.access, self.access.table()).await?;
            Ok(Checkpoint::default())
        })
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async { refused() })
    }

    fn tail<'a>(&'a self, _: &'a Checkpoint, _: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        Box::pin(async { refused() })
    }
}
