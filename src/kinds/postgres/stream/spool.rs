//! Keeps the changes of a streamed transaction until it commits, in little memory.
//!
//! A few blocks stay in memory, the rest goes to a file in `state_dir` that has no name from the beginning (or loses it at
//! once), so that none remains whatever happens to the process. Records are the server's own messages with the xid of
//! their subtransaction: a subtransaction that is rolled back is only noted, and left out when the spool is read back.
//! Invariant: what is read back is what was pushed and not rolled back, in that order. Every method that waits may be
//! dropped while it waits and called again.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// LIMIT: what is written and read at a time; each spool holds at most three of them.
pub(super) const BLOCK: usize = 128 << 10;
/// Length and xid before each message.
const RECORD: usize = 8;

/// A block under way to or from the disk.
type Work = JoinHandle<io::Result<(Arc<File>, Vec<u8>)>>;

/// The changes of one streamed transaction.
pub(super) struct Spool {
    dir: PathBuf,
    file: Option<Arc<File>>,
    /// Bytes in the file, the block under way included.
    written: u64,
    /// What comes after them.
    tail: Vec<u8>,
    spare: Vec<u8>,
    work: Option<Work>,
    aborted: HashSet<u32, foldhash::fast::RandomState>,
}

impl Spool {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            file: None,
            written: 0,
            tail: Vec::new(),
            spare: Vec::new(),
            work: None,
            aborted: HashSet::default(),
        }
    }

    /// Appends a message of subtransaction `xid`.
    pub(super) fn push(&mut self, xid: u32, message: &[u8]) {
        let length = u32::try_from(message.len()).expect("a frame of the protocol stays under 2 GiB");
        self.tail.extend_from_slice(&length.to_be_bytes());
        self.tail.extend_from_slice(&xid.to_be_bytes());
        self.tail.extend_from_slice(message);
    }

    /// Bytes that wait in memory to be written.
    pub(super) fn held(&self) -> usize {
        self.tail.len()
    }

    /// Subtransaction `xid` was rolled back; none of its changes counts.
    pub(super) fn abort(&mut self, xid: u32) {
        self.aborted.insert(xid);
    }

    /// Sends what is in memory on its way to the disk, after what is under way already.
    pub(super) async fn spill(&mut self) -> Result<()> {
        self.settle().await?;
        if self.tail.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.tail, std::mem::take(&mut self.spare));
        let (file, dir, at) = (self.file.take(), self.dir.clone(), self.written);
        self.written += block.len() as u64;
        self.work = Some(tokio::task::spawn_blocking(move || {
            let file = file.map_or_else(|| nameless(&dir).map(Arc::new), Ok)?;
            file.write_all_at(&block, at)?;
            Ok((file, block))
        }));
        Ok(())
    }

    /// Waits for the block that is under way.
    async fn settle(&mut self) -> Result<()> {
        if let Some(work) = &mut self.work {
            let done = work.await;
            self.work = None;
            let (file, mut block) = done
                .unwrap_or_else(|_| Err(io::Error::other("the writing thread is gone")))
                .map_err(|error| failed("write", &self.dir, error))?;
            self.file = Some(file);
            block.clear();
            if block.capacity() <= 2 * BLOCK {
                self.spare = block;
            }
        }
        Ok(())
    }

    /// Ends the writing; the changes are read back from the first on.
    pub(super) async fn read_back(&mut self) -> Result<Playback> {
        self.settle().await?;
        Ok(Playback {
            dir: std::mem::take(&mut self.dir),
            file: self.file.take(),
            left: self.written,
            at: 0,
            window: Vec::new(),
            read: 0,
            tail: std::mem::take(&mut self.tail),
            work: None,
            aborted: std::mem::take(&mut self.aborted),
        })
    }
}

/// A spool that is read back.
pub(super) struct Playback {
    dir: PathBuf,
    file: Option<Arc<File>>,
    /// Bytes of the file that were not asked for yet, and where they begin.
    left: u64,
    at: u64,
    window: Vec<u8>,
    /// How much of the window was read.
    read: usize,
    /// What comes after the file.
    tail: Vec<u8>,
    work: Option<Work>,
    aborted: HashSet<u32, foldhash::fast::RandomState>,
}

impl Playback {
    /// The next message that counts, if it is in memory; [`Playback::pass`] goes on to the one after it.
    pub(super) fn peek(&mut self) -> Option<&[u8]> {
        loop {
            let rest = self.window.get(self.read..)?;
            let (length, xid) = header(rest)?;
            let whole = RECORD + length;
            if rest.len() < whole {
                return None;
            }
            if self.aborted.is_empty() || !self.aborted.contains(&xid) {
                return self.window.get(self.read + RECORD..self.read + whole);
            }
            self.read += whole;
        }
    }

    /// Goes on behind the message that was seen.
    pub(super) fn pass(&mut self) {
        if let Some((length, _)) = self.window.get(self.read..).and_then(header) {
            self.read += RECORD + length;
        }
    }

    /// Gets more into memory after [`Playback::peek`] found nothing; false at the end.
    pub(super) async fn refill(&mut self) -> Result<bool> {
        self.ask();
        if let Some(work) = &mut self.work {
            let done = work.await;
            self.work = None;
            let (file, block) = done
                .unwrap_or_else(|_| Err(io::Error::other("the reading thread is gone")))
                .map_err(|error| failed("read", &self.dir, error))?;
            self.file = Some(file);
            self.window.drain(..self.read);
            self.read = 0;
            self.window.extend_from_slice(&block);
            // The next block comes while this one is worked on.
            self.ask();
            return Ok(true);
        }
        if self.tail.is_empty() {
            if self.read < self.window.len() {
                return Err(Error::bug("read a streamed transaction back: it ends within a change"));
            }
            return Ok(false);
        }
        self.window.drain(..self.read);
        self.read = 0;
        self.window.append(&mut self.tail);
        Ok(true)
    }

    fn ask(&mut self) {
        if self.work.is_some() || self.left == 0 {
            return;
        }
        if let Some(file) = self.file.take() {
            let size = usize::try_from(self.left).unwrap_or(BLOCK).min(BLOCK);
            let at = self.at;
            self.left -= size as u64;
            self.at += size as u64;
            self.work = Some(tokio::task::spawn_blocking(move || {
                let mut block = vec![0; size];
                file.read_exact_at(&mut block, at)?;
                Ok((file, block))
            }));
        }
    }
}

fn header(rest: &[u8]) -> Option<(usize, u32)> {
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let xid = rest.first_chunk::<4>()?;
    Some((u32::from_be_bytes(*length) as usize, u32::from_be_bytes(*xid)))
}

fn failed(what: &str, dir: &Path, error: io::Error) -> Error {
    let what = format!("{what} a streamed transaction to {}: is there room, and is it ours to write?", dir.display());
    Error::transient(what).because(error)
}

/// A file without a name, for this process alone.
fn nameless(dir: &Path) -> io::Result<File> {
    if !dir.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    let unnamed = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
    if let Ok(file) = options.clone().custom_flags(unnamed).open(dir) {
        return Ok(file);
    }
    // File systems without such files: a name that nobody else has, for as long as it takes to remove it.
    let path = dir.join(format!(".spool-{}", uuid::Uuid::new_v4()));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(spool: &mut Spool) -> Vec<Vec<u8>> {
        let mut playback = spool.read_back().await.unwrap();
        let mut seen = Vec::new();
        loop {
            while let Some(message) = playback.peek() {
                seen.push(message.to_vec());
                playback.pass();
            }
            if !playback.refill().await.unwrap() {
                return seen;
            }
        }
    }

    #[tokio::test]
    async fn a_spool_gives_back_what_was_not_rolled_back_in_order_and_leaves_no_file() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("made/when/needed");
        let mut spool = Spool::new(&dir);
        let mut expected = Vec::new();
        for n in 0..5_000u32 {
            // A few messages are larger than a block.
            let message = vec![n as u8; if n % 1000 == 7 { 3 * BLOCK } else { 200 }];
            spool.push(n % 3, &message);
            if n % 3 != 1 {
                expected.push(message);
            }
            if spool.held() >= BLOCK {
                spool.spill().await.unwrap();
                assert_eq!(std::fs::read_dir(&dir).map_or(0, Iterator::count), 0, "the file has no name");
            }
        }
        spool.abort(1);
        assert!(spool.written > 10 * BLOCK as u64, "the test reaches the disk");
        assert!(all(&mut spool).await == expected);
    }

    #[tokio::test]
    async fn a_small_transaction_never_touches_the_disk() {
        let mut spool = Spool::new(Path::new("/dev/null/state"));
        spool.push(1, b"a");
        spool.push(2, b"");
        assert_eq!(all(&mut spool).await, [&b"a"[..], b""]);
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_is_named() {
        let mut spool = Spool::new(Path::new("/dev/null/state"));
        spool.push(1, b"a");
        spool.spill().await.unwrap();
        let error = spool.spill().await.unwrap_err().to_string();
        assert!(error.contains("/dev/null/state"), "{error}");
    }
}
