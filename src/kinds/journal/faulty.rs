//! A disk in memory that tests can fill, break and cut the power of. Compiled for tests only.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

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
    failing: bool,
    syncs: usize,
}

/// The disk.
#[derive(Clone, Default)]
pub(super) struct Faulty(Arc<Mutex<State>>);

struct Open(Faulty, usize);

impl Faulty {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// Only so many more bytes fit; `None`: any number.
    pub(super) fn room(&self, room: Option<usize>) {
        self.with(|s| s.room = room);
    }

    /// From now on each fsync fails, and drops what it was for.
    pub(super) fn fail(&self, failing: bool) {
        self.with(|s| s.failing = failing);
    }

    pub(super) fn syncs(&self) -> usize {
        self.with(|s| s.syncs)
    }

    /// A file's bytes.
    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.with(|s| s.files[s.names[name]].now.clone())
    }

    /// Puts other bytes into a file.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        self.with(|s| {
            s.files.push(Content { now: bytes.clone(), durable: bytes });
            let file = s.files.len() - 1;
            s.names.insert(name.to_owned(), file);
            s.durable_names.insert(name.to_owned(), file);
        });
    }

    /// Cuts the power: what was not synced is there, not there, or there in pieces of 16 bytes, as `dice` says.
    pub(super) fn power_loss(&self, mut dice: impl FnMut(usize) -> usize) {
        self.with(|s| {
            if dice(2) == 0 {
                s.names = s.durable_names.clone();
            }
            for file in &mut s.files {
                let most = file.now.len().max(file.durable.len());
                let length = file.durable.len().min(most) + dice(most.saturating_sub(file.durable.len()) + 1);
                let mut left = file.durable.clone();
                left.resize(length, 0);
                for at in (file.durable.len()..length).step_by(16) {
                    if dice(2) == 0 {
                        let end = (at + 16).min(length).min(file.now.len());
                        if at < end {
                            left[at..end].copy_from_slice(&file.now[at..end]);
                        }
                    }
                }
                *file = Content { now: left.clone(), durable: left };
            }
            s.durable_names = s.names.clone();
        });
    }
}

impl Disk for Faulty {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.with(|s| s.names.keys().cloned().collect()))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.with(|s| {
            s.files.push(Content::default());
            s.names.insert(name.to_owned(), s.files.len() - 1);
            s.files.len() - 1
        });
        Ok(Box::new(Open(self.clone(), file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.with(|s| s.names.get(name).copied());
        Ok(Box::new(Open(self.clone(), file.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|s| {
            let file = s.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            s.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|s| s.names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into()))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.with(|s| s.durable_names = s.names.clone());
        Ok(())
    }
}

impl DiskFile for Open {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.with(|s| s.files[self.1].now.len() as u64))
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.with(|s| {
            let rest = s.files[self.1].now.get(at as usize..).unwrap_or(&[]);
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.with(|s| {
            let fits = s.room.map_or(bytes.len(), |room| room.min(bytes.len()));
            s.room = s.room.map(|room| room - fits);
            let now = &mut s.files[self.1].now;
            now.truncate(at as usize);
            now.resize(at as usize, 0);
            now.extend_from_slice(&bytes[..fits]);
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.0.with(|s| {
            let now = &mut s.files[self.1].now;
            s.room = s.room.map(|room| room + now.len().saturating_sub(length as usize));
            now.truncate(length as usize);
        });
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.with(|s| {
            s.syncs += 1;
            let file = &mut s.files[self.1];
            if s.failing {
                return Err(io::Error::other("the disk does not answer"));
            }
            file.durable = file.now.clone();
            Ok(())
        })
    }
}
