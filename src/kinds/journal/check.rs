//! What can be wrong with a journal's folder, found before it matters. Changes nothing, and takes no lock: another process may
//! write there.

use std::fs::symlink_metadata;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, access, statvfs};

use super::crypt::Keys;
use super::files::{Disk, Folder};
use super::seek::{reached, snapshots};
use super::segment::segments;
use crate::error::Fault;
use crate::model::{Level, Micros, Remark};

/// LIMIT: part of `max_bytes` below which a disk counts as nearly full.
const NEARLY_FULL: u64 = 10;

/// What a journal is to be.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Most bytes that it takes.
    pub max_bytes: u64,
    /// How old its newest snapshot may become, in microseconds, if snapshots are kept.
    pub snapshot_every: Option<Micros>,
    /// The time.
    pub now: Micros,
}

/// Everything that is found wrong with the journal in a folder, which need not be there yet.
pub fn check(folder: &Path, keys: &Keys, expected: Expected) -> Vec<Remark> {
    let mut found = Vec::new();
    let mut add = |level, what: String, mend: &str| found.push(Remark::new(level, what, mend));
    let there = folder.ancestors().find(|path| symlink_metadata(path).is_ok()).unwrap_or(Path::new("."));
    if access(there, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_err() || !there.is_dir() {
        let what =
            format!("the journal cannot be kept in {}: {} is no folder to write to", folder.display(), there.display());
        add(Level::Error, what, "let this user write there, or choose another `state_dir`");
        return found;
    }
    let mut used = 0;
    if there == folder {
        used = private(folder, &mut add);
        contents(folder, keys, expected, &mut add);
    }
    if let Ok(disk) = statvfs(there) {
        let room = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(used);
        if room < expected.max_bytes / NEARLY_FULL {
            let (room, most) = (room >> 20, expected.max_bytes >> 20);
            let what = format!(
                "the journal may take {most} MiB, and the disk of {} has {room} MiB for it; when it is full, reading pauses",
                there.display()
            );
            add(Level::Warning, what, "make room, or set a smaller `max_bytes`");
        }
    }
    found
}

/// Looks whether others may use the folder or its files; gives how many bytes they have.
fn private(folder: &Path, add: &mut impl FnMut(Level, String, &str)) -> u64 {
    let mut bytes = 0;
    let inside = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| (entry.path(), "chmod 600"));
    for (path, chmod) in std::iter::once((folder.to_owned(), "chmod 700")).chain(inside) {
        // What went away meanwhile harms nobody.
        let Ok(metadata) = symlink_metadata(&path) else { continue };
        if metadata.permissions().mode() & 0o077 != 0 {
            let what =
                format!("others may use {}, and the journal holds the private keys of a cluster", path.display());
            add(Level::Error, what, &format!("run {chmod} {}", path.display()));
        }
        if metadata.is_file() {
            bytes += metadata.len();
        }
    }
    bytes
}

/// Reads the newest part of what is there.
fn contents(folder: &Path, keys: &Keys, expected: Expected, add: &mut impl FnMut(Level, String, &str)) {
    let disk = Arc::new(Folder::at(folder)) as Arc<dyn Disk>;
    if segments(&*disk).is_ok_and(|all| all.is_empty()) {
        return;
    }
    if let Err(error) = reached(&disk, keys) {
        return match error.fault() {
            Fault::Corrupt => add(
                Level::Warning,
                format!("the journal is damaged at its end: {error}"),
                "nothing to do: `run` cuts that off and reads it again from the source, or heals the gap by difference",
            ),
            _ => add(Level::Error, error.to_string(), ""),
        };
    }
    let Some(every) = expected.snapshot_every else { return };
    let newest = snapshots(&disk, keys).ok().and_then(|all| all.last().map(|snapshot| snapshot.ended_at));
    if newest.is_some_and(|ended| expected.now.saturating_sub(ended) > every.saturating_mul(2)) {
        add(
            Level::Warning,
            "the newest snapshot in the journal is older than two periods of `snapshot_every`".to_owned(),
            "let `run` or `capture` run; if one does, its log says why no snapshot is taken",
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use super::super::tests::{key, one, options};
    use super::super::{Keys, Writer};
    use super::*;

    const EXPECTED: Expected = Expected { max_bytes: 1 << 20, snapshot_every: Some(100), now: 1000 };

    /// A folder with a journal in it whose newest snapshot ended at 800.
    fn journal(current: Option<u8>) -> tempfile::TempDir {
        let site = tempfile::tempdir().unwrap();
        let folder = Folder::own(&site.path().join("journal")).unwrap();
        let writer = Writer::open(Arc::new(folder), options(1 << 20, current)).unwrap().0;
        writer.append(&one(0), 1).unwrap();
        let snapshot = writer.begin_snapshot(&writer.reached(), 700).unwrap();
        writer.end_snapshot(snapshot, &writer.reached(), true, 800).unwrap();
        writer.commit().unwrap();
        site
    }

    fn said(site: &tempfile::TempDir, expected: Expected) -> Vec<(Level, String)> {
        let found = check(&site.path().join("journal"), &Keys::default(), expected);
        found.into_iter().map(|finding| (finding.level, finding.what)).collect()
    }

    fn only(found: &[(Level, String)], level: Level, what: &str) {
        assert!(found.len() == 1 && found[0].0 == level && found[0].1.contains(what), "{found:?}");
    }

    #[test]
    fn nothing_is_wrong_with_a_journal_that_is_not_there_or_sound() {
        let site = tempfile::tempdir().unwrap();
        assert_eq!(said(&site, EXPECTED), []);
        assert!(!site.path().join("journal").exists());
        assert_eq!(said(&journal(None), EXPECTED), []);
    }

    #[test]
    fn each_thing_that_is_wrong_is_told() {
        let site = journal(None);
        only(&said(&site, Expected { now: 1001, ..EXPECTED }), Level::Warning, "older than two periods");
        assert_eq!(said(&site, Expected { now: 1001, snapshot_every: None, ..EXPECTED }), []);
        only(&said(&site, Expected { max_bytes: u64::MAX, ..EXPECTED }), Level::Warning, "reading pauses");
        let segment = site.path().join("journal").join(crate::kinds::journal::format::segment_name(1));
        set_permissions(&segment, Permissions::from_mode(0o640)).unwrap();
        only(&said(&site, EXPECTED), Level::Error, "others may use");
        set_permissions(&segment, Permissions::from_mode(0o600)).unwrap();
        let whole = std::fs::read(&segment).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        only(&said(&site, EXPECTED), Level::Warning, "damaged at its end");
        only(&said(&journal(Some(7)), EXPECTED), Level::Error, "encrypted with key");
        assert_eq!(check(&journal(Some(7)).path().join("journal"), &Keys::new(key(7)), EXPECTED), []);
        let file = tempfile::tempdir().unwrap();
        std::fs::write(file.path().join("journal"), "").unwrap();
        only(&said(&file, EXPECTED), Level::Error, "is no folder to write to");
    }
}
