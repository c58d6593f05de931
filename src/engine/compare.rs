//! What differs between rows of a source and rows of a sink. Pure: time comes in.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::bridge::Bridge;
use crate::error::Result;
use crate::model::{Batch, Micros};

/// How a key differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The sink does not have it.
    Missing,
    /// Both have it, and it is not equal.
    Different,
    /// Only the sink has it.
    Extra,
}

/// The differences of a page of the source against what the sink has under the same keys, by index into the page. What has
/// expired at `now` counts as absent.
pub fn against_sink(page: &Batch, sink: &Batch, bridge: &dyn Bridge, now: Micros) -> Result<Vec<(usize, Difference)>> {
    let held = by_key(sink);
    let mut differences = Vec::new();
    for (index, row) in page.rows().enumerate() {
        let expired = bridge.expired(row, false, now)?;
        let there = match held.get(row.key) {
            Some(&at) => Some(sink.row(at)).filter(|held| !matches!(bridge.expired(*held, true, now), Ok(true))),
            None => None,
        };
        match there {
            None if !expired => differences.push((index, Difference::Missing)),
            Some(_) if expired => differences.push((index, Difference::Extra)),
            Some(there) if !bridge.same(row, there)? => differences.push((index, Difference::Different)),
            None | Some(_) => {}
        }
    }
    Ok(differences)
}

/// The rows of a page of the sink that the source does not have, by index into the page; the flag says that the row has
/// expired, so that it is no difference but may go.
pub fn extras(page: &Batch, source: &Batch, bridge: &dyn Bridge, now: Micros) -> Result<Vec<(usize, bool)>> {
    let held = by_key(source);
    let mut extras = Vec::new();
    for (index, row) in page.rows().enumerate() {
        let there = match held.get(row.key) {
            Some(&at) => !bridge.expired(source.row(at), false, now)?,
            None => false,
        };
        if !there {
            extras.push((index, bridge.expired(row, true, now)?));
        }
    }
    Ok(extras)
}

/// The rows of a batch by key. All of a batch's rows are of one table here.
pub fn by_key(batch: &Batch) -> HashMap<&[u8], usize, FixedState> {
    let mut rows = HashMap::with_capacity_and_hasher(batch.len(), FixedState::with_seed(0x6b65_7973));
    rows.extend(batch.rows().enumerate().map(|(index, row)| (row.key, index)));
    rows
}
