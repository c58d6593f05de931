//! What the journal asks of a file system, as small as it can be, so that tests can be the disk.
//!
//! [`Folder`] is a folder on a real disk: 0700, files 0600, and a lock that keeps a second writer out; a folder that others
//! may look into is not used. It keeps to what POSIX promises: a file's bytes are durable after `sync`, its name after
//! `sync_names`.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use crate::error::{Error, Fault, Result};

/// LIMIT: bytes of a write after which the disk may begin with them.
const STEP: usize = 1 << 20;

/// A folder of files.
pub trait Disk: Send + Sync {
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Makes a file, empty, in the place of one of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to read, and to cut.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, in the place of one that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send {
    /// How long it is.
    fn length(&self) -> io::Result<u64>;
    /// Reads up to a buffer's length from a place; less only at the end.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all of it at a place; after an error any part may be there.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Makes bytes and length durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder on a real disk.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    lock: Option<Arc<File>>,
}

impl Folder {
    /// The folder at `path`, to read.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), lock: None }
    }

    /// The folder at `path`, to write; made if it is not there. While it lives no other process writes there.
    ///
    /// # Errors
    /// Config, when it cannot be made, others may enter it or read a file of it, or another process writes there.
    /// Transient, when the disk is full.
    pub fn own(path: &Path) -> Result<Self> {
        let what = || format!("open the journal in {}", path.display());
        let refused = |error: io::Error| {
            let fault = if is_full(&error) { Fault::Transient } else { Fault::Config };
            Error::new(fault, what()).because(error)
        };
        make(path).map_err(refused)?;
        // It holds the private keys of a cluster. What somebody opened is not closed again behind his back: it may be the
        // wrong folder.
        let open = |found: io::Result<Metadata>| Ok(found?.permissions().mode() & 0o077 != 0);
        if open(std::fs::metadata(path)).map_err(refused)? {
            return Err(Error::config(format!("{}: others may enter that folder; run chmod 700 on it", what())));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(path.join("lock")).map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::config(format!("{}: another process writes there", what())));
            }
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        let folder = Self { path: path.to_owned(), lock: Some(Arc::new(lock)) };
        for name in folder.names().map_err(refused)? {
            // A link is open to all, and no file of ours is one.
            let found = open(std::fs::symlink_metadata(path.join(&name)));
            // A reader in another process may write its place anew meanwhile.
            let gone = found.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            if !gone && found.map_err(refused)? {
                return Err(Error::config(format!("{}: others may use its file {name}; run chmod 600 on it", what())));
            }
        }
        Ok(folder)
    }
}

/// Makes a folder and those above it, durably.
fn make(path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in missing {
        let above = made.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// Whether an error says that there is no room, so that there may be some later.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Puts a small file in the place of one of that name, all of it or nothing, and makes it durable.
pub(super) fn replace(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unnamed = format!("{name}.new");
    let mut file = disk.create(&unnamed)?;
    file.write(0, bytes)?;
    file.sync()?;
    disk.rename(&unnamed, name)?;
    disk.sync_names()
}

impl Disk for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(self.lock.is_some()).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.read_at(&mut into[done..], at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut place = at;
        for piece in bytes.chunks(STEP) {
            self.write_all_at(piece, place)?;
            if piece.len() == STEP {
                // The disk begins with it while the rest is being copied, so that the fsync has little left to wait for.
                // That it cannot is no harm.
                fadvise(&*self, place, NonZero::new(STEP as u64), Advice::DontNeed).unwrap_or_default();
            }
            place += piece.len() as u64;
        }
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
