//! What configuration can say about an etcd cluster, with everything that a key leaves out filled in.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::Layout;

/// Which side of a pipeline the cluster is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read, never written.
    Source,
    /// Written.
    Sink,
}

/// One prefix of one cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stream's name, for what is counted.
    pub stream: String,
    /// Which side it is.
    pub role: Role,
    /// `http://` or `https://`, host and port of each member that is known.
    pub peers: Vec<String>,
    /// What stands before every key; a slash at its beginning in Teleport's layout.
    pub prefix: String,
    /// How items lie in it.
    pub layout: Layout,
    /// Certificate and key that are shown to peers, as PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Authorities whose certificates are believed, as a PEM file; the operating system's without it.
    pub authorities: Option<PathBuf>,
    /// Whether any certificate is believed.
    pub insecure: bool,
    /// Who logs in, and the file that holds the password.
    pub user: Option<(String, PathBuf)>,
    /// How long one peer is waited for.
    pub dial_timeout: Duration,
    /// Most bytes of one request, where that is less than what the server takes.
    pub max_message: Option<usize>,
    /// Questions about leases in a second.
    pub lease_budget: u32,
    /// Whether what happens during the first copy is kept in a journal.
    pub journaled: bool,
}

impl Options {
    /// The defaults for a prefix of the cluster with these peers.
    pub fn new(stream: &str, role: Role, peers: &[String], prefix: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            role,
            peers: peers.to_vec(),
            prefix: prefix.to_owned(),
            layout: Layout::Teleport,
            identity: None,
            authorities: None,
            insecure: false,
            user: None,
            dial_timeout: Duration::from_secs(5),
            max_message: None,
            lease_budget: 500,
            journaled: true,
        }
    }
}
