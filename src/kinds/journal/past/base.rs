//! Which snapshot a state can be made from.

use std::sync::Arc;

use super::part;
use super::place::Place;
use crate::error::{Error, Result};
use crate::kinds::journal::reader::{Given, Reader};
use crate::kinds::journal::records::Note;
use crate::kinds::journal::{Disk, Keys, Snapshot, snapshots};
use crate::model::{Batch, Checkpoint};

/// A snapshot, and where it stands among the changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Which one.
    pub snapshot: Snapshot,
    /// The place from which on changes are needed beside it.
    pub begin: Checkpoint,
    /// The place from which on it is right with them.
    pub whole: Checkpoint,
}

/// The newest whole snapshot that is right at or before a place; `None` if there is none. Clocks decide nothing: what lies
/// where in the log does.
///
/// # Errors
/// Corrupt, when the snapshot or what leads to it is damaged.
pub fn base(disk: &Arc<dyn Disk>, keys: &Keys, end: &Place) -> Result<Option<Base>> {
    for snapshot in snapshots(disk, keys)?.into_iter().rev() {
        // One that was begun behind what must not be in it holds it.
        if snapshot.began > end.frame {
            continue;
        }
        let (whole, _) = note(disk, keys, snapshot.ended, |note| match note {
            Note::Ended { snapshot: id, whole: true, head, .. } if *id == snapshot.id => Some(head.clone()),
            _ => None,
        })?;
        let covers = |(partition, at): (&_, &_)| end.at.names(partition) && end.at.get(partition) >= at;
        if !whole.iter().all(covers) {
            continue;
        }
        // All that the journal held then can be seen in the pages.
        let (_, held) = note(disk, keys, snapshot.began, |note| match note {
            Note::Began { snapshot: id, .. } if *id == snapshot.id => Some(Checkpoint::default()),
            _ => None,
        })?;
        let begin = held.iter().map(|(partition, at)| (partition.clone(), part::closed(at))).collect();
        return Ok(Some(Base { snapshot, begin, whole }));
    }
    Ok(None)
}

/// What a note of a frame says, and where the partitions stood there.
fn note(
    disk: &Arc<dyn Disk>,
    keys: &Keys,
    frame: u64,
    wanted: impl Fn(&Note) -> Option<Checkpoint>,
) -> Result<(Checkpoint, Checkpoint)> {
    let mut reader = Reader::at_sequence(Arc::clone(disk), keys.clone(), frame)?;
    loop {
        match reader.next(&mut Batch::unpooled(), usize::MAX, frame)? {
            Given::Note(note) => {
                if let Some(head) = wanted(&note) {
                    return Ok((head, reader.reached().clone()));
                }
            }
            Given::Run | Given::Page(_) => {}
            Given::End | Given::Torn(_) => {
                let text =
                    format!("read the journal: frame {frame} does not hold the end of a snapshot that it should");
                return Err(Error::corrupt(text));
            }
        }
    }
}
