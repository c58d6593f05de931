//! Seeing that a database changed without taking a lock.
//!
//! A reader's lock makes a writer in rollback mode wait and then sleep, so looking for changes must not lock. What tells
//! them lies in plain bytes: the file change counter in the database header (rollback modes), and the header of the
//! wal-index in `-shm`, which each commit in WAL mode rewrites (<https://www.sqlite.org/fileformat2.html>, §1.3.7 and §4).
//!
//! **Descriptors are never closed while the file lives.** POSIX drops *all* locks that a process holds on a file when *any*
//! descriptor of that file is closed, so closing ours would take SQLite's locks away under a running transaction. They
//! are kept in one table for the whole process, one per file; a file that was unlinked leaves it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Which file it is, whatever its path: inode and time of birth. Device numbers change with a reboot and are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    inode: u64,
    born: u128,
}

impl FileId {
    fn of(meta: &Metadata) -> Self {
        let born =
            meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_nanos());
        Self { inode: meta.ino(), born }
    }
}

/// Which file lies under a path; `None` if there is none.
pub fn file_id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|meta| FileId::of(&meta))
}

impl std::fmt::Display for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}", self.inode, self.born)
    }
}

const TICK: Duration = Duration::from_millis(30);

/// Everything that a commit changes, as one value: equal signatures mean that nothing was committed in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which file lies under the path.
    pub file: FileId,
    header: [u8; 100],
    index: Option<(u64, [u8; 96])>,
    /// Size and time of the last write of a WAL database without a wal-index: commits reach it only when it is folded and
    /// closed, and then need not change the header.
    folded: Option<(u64, SystemTime)>,
}

impl Signature {
    /// Whether the file says that it is in WAL mode.
    pub fn is_wal(&self) -> bool {
        self.header[18] == 2 || self.header[19] == 2
    }

    /// The file change counter: grows with each commit in the rollback modes, never shrinks in any.
    pub fn counter(&self) -> u32 {
        let bytes = self.header.get(24..28).and_then(|bytes| bytes.try_into().ok());
        u32::from_be_bytes(bytes.expect("a header has a hundred bytes"))
    }

    /// The schema cookie: another one after each change of a table's definition. In WAL mode that may still be in the log.
    pub fn schema(&self) -> Option<[u8; 4]> {
        if self.is_wal() { None } else { self.header.get(40..44).and_then(|bytes| bytes.try_into().ok()) }
    }

    /// Whether a commit after this look is sure to give another signature. Times of files move in steps of some
    /// milliseconds, so a file that was written a moment ago may be written again without a trace.
    pub fn is_settled(&self) -> bool {
        // LIMIT: kernels count file times in ticks of 10 ms or less.
        self.folded
            .is_none_or(|(_, written)| written.elapsed().map_or_else(|ahead| ahead.duration() > TICK, |ago| ago > TICK))
    }

    /// Whether it is a SQLite database (an empty file is one).
    pub fn is_database(&self) -> bool {
        self.header.starts_with(b"SQLite format 3\0") || self.header == [0; 100]
    }
}

/// Looks at one database file.
pub struct Watch {
    path: PathBuf,
    index_path: PathBuf,
    file: Option<((u64, u64), Arc<File>)>,
    index: Option<((u64, u64), Arc<File>)>,
}

impl Watch {
    /// Of the database file at this path, which need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), index_path: beside(path, "-shm"), file: None, index: None }
    }

    /// Looks. Two system calls in rollback modes, four in WAL mode; no lock.
    pub fn look(&mut self) -> io::Result<Signature> {
        let meta = fs::metadata(&self.path)?;
        let file = keep(&mut self.file, &self.path, &meta)?;
        let mut header = [0; 100];
        fill(file, &mut header)?;
        let mut signature = Signature { file: FileId::of(&meta), header, index: None, folded: None };
        if signature.is_wal() {
            match fs::metadata(&self.index_path) {
                Ok(meta) => {
                    let file = keep(&mut self.index, &self.index_path, &meta)?;
                    let mut index = [0; 96];
                    fill(file, &mut index)?;
                    signature.index = Some((meta.ino(), index));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.index = None;
                    signature.folded = Some((meta.len(), meta.modified()?));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(signature)
    }
}

/// The file of this name beside a database.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

type Key = (u64, u64);

static FILES: LazyLock<Mutex<HashMap<Key, Arc<File>>>> = LazyLock::new(Mutex::default);

/// The descriptor in `slot` if it is still that of the file at the path, else the process' one descriptor of that file.
fn keep<'a>(slot: &'a mut Option<(Key, Arc<File>)>, path: &Path, meta: &Metadata) -> io::Result<&'a File> {
    let key = (meta.dev(), meta.ino());
    if slot.as_ref().is_none_or(|(kept, _)| *kept != key) {
        *slot = None;
        *slot = Some(descriptor(path, key)?);
    }
    match slot {
        Some((_, file)) => Ok(file),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn descriptor(path: &Path, key: Key) -> io::Result<(Key, Arc<File>)> {
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = files.get(&key) {
        return Ok((key, Arc::clone(file)));
    }
    // Locks on a file that has no name any more protect nobody: its descriptor may go.
    files.retain(|_, file| Arc::strong_count(file) > 1 || file.metadata().map_or(true, |meta| meta.nlink() > 0));
    let file = Arc::new(File::open(path)?);
    let meta = file.metadata()?;
    let key = (meta.dev(), meta.ino());
    match files.entry(key) {
        Entry::Vacant(entry) => Ok((key, Arc::clone(entry.insert(file)))),
        Entry::Occupied(entry) => {
            // The path was exchanged between the two looks, and this is a second descriptor of a file that we hold already.
            std::mem::forget(file);
            Ok((key, Arc::clone(entry.get())))
        }
    }
}

/// Reads from the beginning; what a short file does not have stays zero.
fn fill(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
