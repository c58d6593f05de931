//! A disk in memory that tests can fill, break, hold and cut the power of. Compiled for tests only.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::files::{Disk, DiskFile};

/// What a file holds now, and what a power loss leaves of it.
#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    files: Vec<Content>,
    /// Bytes that still fit.
    room: Option<usize>,
    /// Each fsync fails, and what it was for is lost in the next power loss.
    failing: bool,
    /// Writes so many calls from now fail, other than for want of room.
    broken_writes: bool,
    /// Each fsync waits.
    held: bool,
    /// How long each read takes.
    slow: Duration,
    waiting: usize,
    syncs: usize,
    /// What was done, in order: `sync 000…1.segment`, `remove …`.
    log: Vec<String>,
}

/// The disk.
#[derive(Clone, Default)]
pub(super) struct Faulty(Arc<(Mutex<State>, Condvar)>);

struct Open {
    disk: Faulty,
    name: String,
    file: usize,
}

impl Faulty {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().expect("nobody panics while he holds the disk")
    }

    /// Only so many more bytes fit; `None`: any number.
    pub(super) fn room(&self, room: Option<usize>) {
        self.state().room = room;
    }

    /// From now on each fsync fails.
    pub(super) fn fail(&self, failing: bool) {
        self.state().failing = failing;
    }

    /// From now on each write fails, for no want of room.
    pub(super) fn break_writes(&self, broken: bool) {
        self.state().broken_writes = broken;
    }

    /// From now on each fsync waits until this is called again with `false`.
    pub(super) fn hold(&self, held: bool) {
        self.state().held = held;
        self.0.1.notify_all();
    }

    /// From now on each read takes this long.
    pub(super) fn slow(&self, each: Duration) {
        self.state().slow = each;
    }

    /// Waits until somebody waits for an fsync that is held.
    pub(super) fn wait_for_sync(&self) {
        let state = self.state();
        drop(self.0.1.wait_while(state, |state| state.waiting == 0).expect("nobody panics while he holds the disk"));
    }

    pub(super) fn syncs(&self) -> usize {
        self.state().syncs
    }

    /// What was done since this was asked last.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// A file's bytes.
    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].now.clone()
    }

    /// Puts other bytes into a file.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        state.files.push(Content { now: bytes.clone(), durable: bytes });
        let file = state.files.len() - 1;
        state.names.insert(name.to_owned(), file);
        state.durable_names.insert(name.to_owned(), file);
    }

    /// All files with their bytes, and a disk that holds them.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::default();
        let names: Vec<String> = self.state().names.keys().cloned().collect();
        for name in names {
            copy.put(&name, self.bytes(&name));
        }
        copy
    }

    /// Cuts the power: each name is what it was or what it was made durable as, and of each file what was not synced is
    /// there, not there, or there in pieces of 16 bytes, as `dice` says.
    pub(super) fn power_loss(&self, mut dice: impl FnMut(usize) -> usize) {
        let mut state = self.state();
        let state = &mut *state;
        let all: Vec<String> = state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        for name in all {
            if dice(2) == 0 {
                match state.durable_names.get(&name) {
                    Some(file) => state.names.insert(name, *file),
                    None => state.names.remove(&name),
                };
            }
        }
        for file in &mut state.files {
            let (short, long) = (file.now.len().min(file.durable.len()), file.now.len().max(file.durable.len()));
            let mut left = file.durable.clone();
            left.resize(short + dice(long - short + 1), 0);
            for at in (0..left.len()).step_by(16) {
                let end = (at + 16).min(left.len()).min(file.now.len());
                if at < end && left[at..end] != file.now[at..end] && dice(2) == 1 {
                    left[at..end].copy_from_slice(&file.now[at..end]);
                }
            }
            *file = Content { now: left.clone(), durable: left };
        }
        state.durable_names = state.names.clone();
    }
}

impl Disk for Faulty {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.files.push(Content::default());
        let file = state.files.len() - 1;
        state.names.insert(name.to_owned(), file);
        Ok(Box::new(Open { disk: self.clone(), name: name.to_owned(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.state().names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Open { disk: self.clone(), name: name.to_owned(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.log.push(format!("rename {to}"));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.log.push(format!("remove {name}"));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        state.log.push("sync names".to_owned());
        state.durable_names = state.names.clone();
        Ok(())
    }
}

impl DiskFile for Open {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.file].now.len() as u64)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let slow = self.disk.state().slow;
        std::thread::sleep(slow);
        let state = self.disk.state();
        let rest = state.files[self.file].now.get(at as usize..).unwrap_or(&[]);
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let state = &mut *state;
        if state.broken_writes {
            return Err(io::Error::other("the disk does not answer"));
        }
        let now = &mut state.files[self.file].now;
        let (at, end) = (at as usize, at as usize + bytes.len());
        let grows = end.saturating_sub(now.len());
        let fits = bytes.len() - grows.saturating_sub(state.room.unwrap_or(usize::MAX));
        state.room = state.room.map(|room| room.saturating_sub(grows));
        if now.len() < at + fits {
            now.resize(at + fits, 0);
        }
        now[at..at + fits].copy_from_slice(&bytes[..fits]);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let state = &mut *state;
        let now = &mut state.files[self.file].now;
        state.room = state.room.map(|room| room + now.len().saturating_sub(length as usize));
        now.truncate(length as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.syncs += 1;
        state.waiting += 1;
        self.disk.0.1.notify_all();
        let mut state = self.disk.0.1.wait_while(state, |state| state.held).expect("nobody panics with the disk");
        state.waiting -= 1;
        state.log.push(format!("sync {}", self.name));
        if state.failing {
            return Err(io::Error::other("the disk does not answer"));
        }
        let file = &mut state.files[self.file];
        file.durable = file.now.clone();
        Ok(())
    }
}
