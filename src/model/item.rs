//! The view of a body that two different kinds can agree on.

/// Microseconds since the Unix epoch, UTC.
pub type Micros = i64;

/// A key-value item as every kind understands it; used only when source and sink are of different kinds,
/// and to compare them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Item {
    /// The value, opaque.
    pub value: Vec<u8>,
    /// The instant of expiry in **nanoseconds** since the Unix epoch, or never. Nanoseconds are the finest unit of any
    /// kind (SQLite); a sink that is coarser rounds up.
    pub expires: Option<i128>,
    /// Opaque revision, compared for equality only; empty when the source has none ("blank").
    pub revision: Vec<u8>,
}

impl Item {
    /// Whether the item has expired at `now`.
    pub fn expired(&self, now: Micros) -> bool {
        self.expires.is_some_and(|at| at <= i128::from(now) * 1_000)
    }
}
