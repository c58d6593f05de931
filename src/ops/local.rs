//! Local state of a stream: `state_dir/<name>/`, for its owner only.
//!
//! What lies there says who we are and how to reach us; positions are never kept here, they lie in the sink beside the
//! data. Losing the directory costs a wait of ten seconds at the next start, and nothing else.

use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The directory of one stream.
#[derive(Clone, Debug)]
pub struct Local(PathBuf);

impl Local {
    /// The directory of this stream; makes nothing.
    pub fn new(state_dir: &Path, stream: &str) -> Self {
        Self(state_dir.join(stream))
    }

    /// Makes the directory with mode 0700, and takes away the rights of others where it was there before.
    ///
    /// # Errors
    /// Config, saying which directory.
    pub fn make(&self) -> Result<()> {
        let wrong = |error: &std::io::Error| {
            let why = error.kind();
            Error::config(format!("make {}: {why}; choose another `state_dir`", self.0.display()))
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(|error| wrong(&error))?;
        // Only our own directory: `state_dir` itself may be shared with others.
        std::fs::set_permissions(&self.0, std::fs::Permissions::from_mode(0o700)).map_err(|error| wrong(&error))
    }

    /// A file of the stream.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Opens a file for reading and writing, made with mode 0600 if missing.
    ///
    /// # Errors
    /// Config, saying which file.
    pub fn open(&self, name: &str) -> Result<std::fs::File> {
        let path = self.file(name);
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(&path).map_err(|error| {
            Error::config(format!("open {}: {}; choose another `state_dir`", path.display(), error.kind()))
        })
    }
}
