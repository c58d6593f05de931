//! Who we are: an id in `state_dir/<name>/owner`, under a file lock that is held for the life of the process.
//!
//! The same owner may claim its stream at once, which makes a restart after a crash immediate. That is safe because
//! nobody else can be the same owner at the same time: on one machine the lock says so, and the id carries the machine's
//! boot, so that a directory shared between machines, where locks may not work, gives each of them another one. A second
//! process with the same `state_dir` and name finds the lock held and must not claim: it waits here.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::model::Owner;
use crate::ops::local::Local;

/// The right to act as an owner, until dropped.
#[derive(Debug)]
pub struct Ownership {
    owner: Owner,
    /// Locked; the lock goes with the file.
    _lock: File,
}

impl Ownership {
    /// Who we are.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }
}

/// Becomes the owner of this directory; `None` while another process of this machine is.
///
/// # Errors
/// Config when the directory cannot be used.
pub fn acquire(local: &Local) -> Result<Option<Ownership>> {
    local.make()?;
    let mut lock = local.open("owner")?;
    let path = local.file("owner");
    let failed = |error: &std::io::Error| {
        Error::config(format!("lock {}: {}; choose another `state_dir`", path.display(), error.kind()))
    };
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(failed(&error)),
    }
    let mut text = String::new();
    // LIMIT: a UUID and a line end; anything longer is not ours.
    (&mut lock).take(64).read_to_string(&mut text).map_err(|error| failed(&error))?;
    let id = match text.trim() {
        // Empty also after a crash between making and writing it: nobody has claimed under it yet.
        "" => {
            let id = Uuid::new_v4();
            lock.rewind()
                .and_then(|()| writeln!(lock, "{id}"))
                .and_then(|()| lock.sync_all())
                .map_err(|e| failed(&e))?;
            id
        }
        text => text.parse().map_err(|_| {
            Error::config(format!("read {}: it does not hold an owner's id; remove it and start again", path.display()))
        })?,
    };
    Ok(Some(Ownership { owner: named(id), _lock: lock }))
}

/// Who a process of this directory is or was, without becoming it; `None` if there never was one.
pub fn peek(local: &Local) -> Option<Owner> {
    let text = std::fs::read_to_string(local.file("owner")).ok()?;
    let id: Uuid = text.trim().parse().ok()?;
    Some(named(id))
}

fn named(id: Uuid) -> Owner {
    Owner(format!("{id}@{}", boot()))
}

/// Names this start of this machine; empty where the system does not tell.
fn boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_id_stays_and_only_one_holder_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let local = Local::new(&dir.path().join("state"), "stream");
        let first = acquire(&local).unwrap().unwrap();
        assert!(acquire(&local).unwrap().is_none(), "a second process must wait");
        let id = first.owner().clone();
        assert_eq!(peek(&local).as_ref(), Some(&id));
        drop(first);
        assert_eq!(*acquire(&local).unwrap().unwrap().owner(), id);
        let other = Local::new(&dir.path().join("state"), "other");
        assert_ne!(*acquire(&other).unwrap().unwrap().owner(), id);
        for (path, mode) in [(local.dir().to_owned(), 0o700), (local.file("owner"), 0o600)] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
        }
    }

    #[test]
    fn a_file_that_is_not_ours_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let local = Local::new(dir.path(), "stream");
        local.make().unwrap();
        std::fs::write(local.file("owner"), "somebody\n").unwrap();
        let error = acquire(&local).unwrap_err().to_string();
        assert!(error.contains("stream/owner: it does not hold an owner's id"), "{error}");
    }
}
