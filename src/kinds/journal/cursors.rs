//! Registered readers: who still needs what, in files that survive restarts.
//!
//! ```text
//! <name>.reader, the name with everything but ASCII letters, digits, `.`, `_` and `-` as %XX:
//!   "driftrdr"                                     8   little endian
//!   u16 version = 1                                2
//!   u16 flags: 1 = outrun                          2
//!   u64 sequence of the first frame it needs       8
//!   i64 when that moved last                       8   microseconds since 1970, the writer's clock
//!   u32 CRC-32C of the name and the bytes before   4
//! ```
//!
//! Invariant: retention removes nothing that a registered reader needs, unless it is told to; then the reader's file says so
//! before anything is gone. A file that cannot be read needs everything.

use super::files::{Disk, is_full, replace};
use crate::error::{Error, Fault, Result};
use crate::model::Micros;

const MAGIC: &[u8; 8] = b"driftrdr";
const VERSION: u16 = 1;
const LENGTH: usize = 32;
const ENDING: &str = ".reader";
/// LIMIT: what a file's name may have.
const NAME_MAX: usize = 240;

/// Where a registered reader stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Who it is.
    pub name: String,
    /// The first frame that it still needs: see [`super::Reader::needs`].
    pub sequence: u64,
    /// When that moved last.
    pub moved: Micros,
    /// Retention removed what it needed; it must go through a gap, and then say where it stands anew.
    pub outrun: bool,
}

impl Cursor {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LENGTH);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u16::from(self.outrun).to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.moved.to_le_bytes());
        out.extend_from_slice(&sum(&self.name, &out).to_le_bytes());
        out
    }

    fn decode(name: &str, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let sound = bytes.starts_with(MAGIC)
            && bytes[8..10] == VERSION.to_le_bytes()
            && bytes[28..] == sum(name, &bytes[..28]).to_le_bytes();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let (sequence, moved) = (word(12), word(20).cast_signed());
        sound.then(|| Self { name: name.to_owned(), sequence, moved, outrun: bytes[10] == 1 })
    }

    /// Registers a reader, or says where it stands now; durable when it returns. Cheap enough for once a second.
    ///
    /// # Errors
    /// Config, when the name is too long or the disk fails; Transient, when the disk is so full that there is no room for a
    /// reader that was not registered before.
    pub fn write(&self, disk: &dyn Disk) -> Result<()> {
        let (file, bytes) = (file_name(&self.name)?, self.encode());
        let written = replace(disk, &file, &bytes).or_else(|error| match is_full(&error) {
            // A reader that gets on is what makes room, so its place must be written even where there is none. A power loss
            // meanwhile may tear it: then it needs everything, until it says where it stands again.
            true => disk.open(&file).map_err(|_| error).and_then(|mut place| {
                place.write(0, &bytes)?;
                place.sync()
            }),
            false => Err(error),
        });
        written.map_err(|error| failed("write", &self.name, error))
    }

    /// Takes a reader off the list; it needs nothing any more. Harmless when it is not there.
    ///
    /// # Errors
    /// Config, when the disk fails.
    pub fn remove(disk: &dyn Disk, name: &str) -> Result<()> {
        match disk.remove(&file_name(name)?).and_then(|()| disk.sync_names()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", name, error)),
            _ => Ok(()),
        }
    }

    /// All registered readers, by name. One whose file is no good needs everything from the first frame on.
    ///
    /// # Errors
    /// Config, when the folder cannot be read.
    pub fn all(disk: &dyn Disk) -> Result<Vec<Self>> {
        let mut files = disk.names().map_err(|error| failed("list", "readers", error))?;
        files.sort_unstable();
        let mut found = Vec::new();
        for file in &files {
            let Some(name) = name_of(file) else { continue };
            let mut bytes = [0; LENGTH + 1];
            match disk.open(file).and_then(|file| file.read(0, &mut bytes)) {
                // It went away while we looked.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("read", &name, error)),
                Ok(length) => {
                    let lost = || Self { name: name.clone(), sequence: 0, moved: 0, outrun: false };
                    found.push(Self::decode(&name, &bytes[..length]).unwrap_or_else(lost));
                }
            }
        }
        Ok(found)
    }

    /// The registered reader of this name.
    ///
    /// # Errors
    /// Config, when the folder cannot be read.
    pub fn of(disk: &dyn Disk, name: &str) -> Result<Option<Self>> {
        Ok(Self::all(disk)?.into_iter().find(|cursor| cursor.name == name))
    }
}

fn sum(name: &str, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(name.as_bytes()), bytes)
}

fn file_name(name: &str) -> Result<String> {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    if name.is_empty() || out.len() > NAME_MAX {
        return Err(Error::config(format!(
            "register a reader of the journal: {name:?} is no name of 1 to {NAME_MAX} bytes"
        )));
    }
    Ok(out + ENDING)
}

fn name_of(file: &str) -> Option<String> {
    let mut bytes = file.strip_suffix(ENDING)?.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push((digit()? << 4 | digit()?) as u8);
    }
    String::from_utf8(out).ok()
}

fn failed(what: &str, name: &str, error: std::io::Error) -> Error {
    let fault = if is_full(&error) { Fault::Transient } else { Fault::Config };
    Error::new(fault, format!("{what} the place of reader {name} of the journal")).because(error)
}

#[cfg(test)]
mod tests {
    use super::super::faulty::Faulty;
    use super::*;

    fn cursor(name: &str) -> Cursor {
        Cursor { name: name.to_owned(), sequence: 7, moved: 1_700_000_000_000_000, outrun: false }
    }

    #[test]
    fn a_reader_is_found_again_after_a_power_loss() {
        let disk = Faulty::default();
        for name in ["cluster-state", "a/b c%ä", "."] {
            cursor(name).write(&disk).unwrap();
        }
        Cursor { sequence: 9, outrun: true, ..cursor("cluster-state") }.write(&disk).unwrap();
        disk.power_loss(|_| 0);
        let names: Vec<_> = Cursor::all(&disk).unwrap().into_iter().map(|cursor| cursor.name).collect();
        assert_eq!(names, [".", "a/b c%ä", "cluster-state"]);
        assert_eq!(Cursor::of(&disk, "a/b c%ä").unwrap().unwrap(), cursor("a/b c%ä"));
        assert_eq!(Cursor::of(&disk, "cluster-state").unwrap().unwrap().sequence, 9);
        Cursor::remove(&disk, ".").unwrap();
        Cursor::remove(&disk, ".").unwrap();
        assert_eq!(Cursor::of(&disk, ".").unwrap(), None);
    }

    #[test]
    fn a_reader_whose_file_is_damaged_needs_everything() {
        let disk = Faulty::default();
        cursor("r").write(&disk).unwrap();
        let whole = disk.bytes("r.reader");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            disk.put("r.reader", flipped);
            assert_eq!(Cursor::of(&disk, "r").unwrap().unwrap().sequence, 0, "bit {bit}");
        }
        disk.put("other.reader", whole);
        assert_eq!(Cursor::of(&disk, "other").unwrap().unwrap().sequence, 0, "it belongs to another one");
    }

    #[test]
    fn a_reader_that_is_known_gets_on_even_where_the_disk_is_full() {
        let disk = Faulty::default();
        cursor("r").write(&disk).unwrap();
        disk.room(Some(0));
        Cursor { sequence: 9, ..cursor("r") }.write(&disk).unwrap();
        assert_eq!(Cursor::of(&disk, "r").unwrap().unwrap().sequence, 9);
        assert_eq!(cursor("other").write(&disk).unwrap_err().fault(), Fault::Transient);
        assert_eq!(Cursor::all(&disk).unwrap().len(), 1);
    }

    #[test]
    fn a_name_that_no_file_can_have_is_refused() {
        let disk = Faulty::default();
        for name in [String::new(), "x".repeat(241), "/".repeat(81)] {
            assert_eq!(cursor(&name).write(&disk).unwrap_err().fault(), Fault::Config);
        }
    }
}
