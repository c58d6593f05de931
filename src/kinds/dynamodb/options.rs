//! What configuration can say about a table, with everything that a key leaves out filled in.

use std::fmt;

use crate::model::Layout;

/// Which side of a pipeline the table is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read, never written.
    Source,
    /// Written.
    Sink,
}

/// One table of one account in one region.
#[derive(Clone)]
pub struct Options {
    /// The stream's name, for what is counted.
    pub stream: String,
    /// Which side it is.
    pub role: Role,
    /// The table's name.
    pub table: String,
    /// How items lie in it.
    pub layout: Layout,
    /// Where our own records lie, at a destination.
    pub checkpoints: String,
    /// The region; from the environment, the profile or the machine without it.
    pub region: Option<String>,
    /// Where requests go, where that is not the region's own address.
    pub endpoint: Option<String>,
    /// A profile of the shared configuration files.
    pub profile: Option<String>,
    /// A role that is taken on.
    pub role_arn: Option<String>,
    /// An access key and its secret; the SDK's own chain of places without it.
    pub keys: Option<(String, String)>,
    /// Read units a second that reading may take.
    pub read_limit: Option<u32>,
    /// Read and write units of a table that we make; `None` where each request is paid for.
    pub units: Option<(i64, i64)>,
    /// Whether a table that we make can be restored to any moment.
    pub recoverable: bool,
}

impl Options {
    /// The defaults for a table of this name.
    pub fn new(stream: &str, role: Role, table: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            role,
            table: table.to_owned(),
            layout: Layout::Teleport,
            checkpoints: format!("{table}_driftless"),
            region: None,
            endpoint: None,
            profile: None,
            role_arn: None,
            keys: None,
            read_limit: None,
            units: None,
            recoverable: false,
        }
    }
}

/// Without the keys.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("role", &self.role)
            .field("table", &self.table)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
