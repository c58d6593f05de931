//! Where keys come from: a file or an environment variable.
//!
//! A file holds the 32 bytes as they are, or as text that [`Key::parse`] reads; a variable holds text. Neither is ever shown,
//! not even in an error.

use std::path::Path;

use super::crypt::{KEY, Key};
use crate::error::{Error, Result};

/// LIMIT: a key as text with some space around it; a larger file is something else.
const FILE_MAX: u64 = 1024;

impl Key {
    /// The key in a file.
    ///
    /// # Errors
    /// Config, when the file cannot be read or holds no key.
    pub fn from_file(path: &Path) -> Result<Self> {
        let what = || format!("read a key of the journal from {}", path.display());
        let refused = |error: std::io::Error| Error::config(what()).because(error);
        if std::fs::metadata(path).map_err(refused)?.len() > FILE_MAX {
            return Err(Error::config(format!("{}: it is larger than a key", what())));
        }
        let bytes = std::fs::read(path).map_err(refused)?;
        if let Ok(raw) = <&[u8; KEY]>::try_from(&bytes[..]) {
            return Ok(Self::new(raw));
        }
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        Self::parse(text).map_err(|error| error.during(path.display()))
    }

    /// The key in an environment variable.
    ///
    /// # Errors
    /// Config, when it is not set or holds no key.
    pub fn from_env(name: &str) -> Result<Self> {
        let missing = || Error::config(format!("read a key of the journal: the variable {name} is not set"));
        let text = std::env::var(name).map_err(|_| missing())?;
        Self::parse(&text).map_err(|error| error.during(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_from_a_file_as_bytes_or_as_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let id = Key::new(&[0x6b; KEY]).id();
        for content in [vec![0x6b; KEY], "6b".repeat(KEY).into_bytes(), format!("{}\n", "6B".repeat(KEY)).into_bytes()]
        {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Key::from_file(&path).unwrap().id(), id);
        }
        for content in [&b"planted-secret"[..], &[0xff; 40], &[b'6'; 2000]] {
            std::fs::write(&path, content).unwrap();
            let error = Key::from_file(&path).unwrap_err();
            assert!(!error.to_string().contains("planted"), "{error}");
        }
        assert!(Key::from_file(&folder.path().join("missing")).is_err());
        assert!(Key::from_env("DRIFTLESS_TEST_NO_SUCH_VARIABLE").unwrap_err().to_string().contains("not set"));
    }
}
