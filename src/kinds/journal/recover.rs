//! What is done before a journal is written on: finding out how far it reaches, and cutting what a crash left.
//!
//! Invariant: only two things are ever cut off. What was never durable; and damage at the end, where the caller says that he
//! can have it again. Only the newest segment is read: it begins with where everything stood, and damage further back is met
//! by whoever reads there.

use std::sync::Arc;

use super::codec::Snapshot;
use super::files::Disk;
use super::format::{Salt, segment_name};
use super::mark::Mark;
use super::reader::{Cut, Given, Reader};
use super::records::Standing;
use super::segment::{head_of, segments, unreadable};
use super::writer::{OnDamage, Options};
use crate::error::{Error, Fault, Result};
use crate::model::Checkpoint;

/// What was there when a journal was opened.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The oldest frame that is still there; 1 more than `last` when there is none.
    pub oldest: u64,
    /// The last frame, 0 when there is none.
    pub last: u64,
    /// How far each partition reaches. After a power loss that also took the mark, frames that somebody cut off whole leave
    /// no trace but this: compare it with what the source has been told to forget.
    pub reached: Checkpoint,
    /// A tail that a crash had cut short and that is gone now. None of it was ever durable.
    pub cut: Option<Cut>,
    /// Damage that was cut off, in one sentence: frames that were durable and are gone now.
    pub damage: Option<String>,
    /// The whole snapshots that the journal holds, oldest first.
    pub snapshots: Vec<Snapshot>,
}

/// Recovers a journal; gives what was found, where everything stands, and the salt of the segment that the last frame is in.
///
/// # Errors
/// Config, for another history's folder, a key that is missing, or a folder that cannot be read; Corrupt, when the newest
/// segment is damaged and nothing is to be cut.
pub(super) fn recover(disk: &Arc<dyn Disk>, options: &Options) -> Result<(Recovered, Standing, Salt)> {
    remove_unnamed(&**disk)?;
    let mut found = Recovered::default();
    let mut damaged = None;
    let mut last_place = None;
    loop {
        refuse_other(&**disk, &options.lineage)?;
        match newest(disk, options, &mut found) {
            Ok((standing, salt)) => {
                found.damage = damaged;
                let oldest = segments(&**disk)?.first().copied();
                found.oldest = oldest.filter(|first| *first <= found.last).unwrap_or(found.last + 1);
                let whole = standing.whole().filter(|snapshot| snapshot.began >= found.oldest);
                found.snapshots = whole.copied().collect();
                return Ok((found, standing, salt));
            }
            // What is still there after it was cut off will not go by cutting.
            Err((error, place))
                if error.fault() == Fault::Corrupt
                    && options.on_damage == OnDamage::Cut
                    && last_place.replace(place) != Some(place) =>
            {
                damaged.get_or_insert_with(|| error.to_string());
                cut_damage(&**disk, place)?;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// A segment, where its last sound frame ends, and the sequence of that.
type Place = (u64, u64, u64);

/// Reads the newest segment that holds something, and cuts a torn tail.
fn newest(disk: &Arc<dyn Disk>, options: &Options, found: &mut Recovered) -> Result<(Standing, Salt), (Error, Place)> {
    let nowhere = |error| (error, (1, 0, 0));
    let all = segments(&**disk).map_err(nowhere)?;
    // The newest may hold nothing yet; then the one before it tells how far the journal reaches.
    let candidates = all.iter().rev().copied().take(2);
    for first in candidates.chain(all.is_empty().then_some(1)) {
        let mut reader = Reader::at_segment(Arc::clone(disk), options.keys.clone(), first);
        let end = reader.pass(u64::MAX, |_, _| false).map_err(|error| (error, reader.place()))?;
        if let (Some(Given::Torn(cut)), None) = (end, &found.cut) {
            cut_torn(&**disk, &cut).map_err(nowhere)?;
            found.cut = Some(cut);
        }
        if reader.sequence() >= first {
            (found.last, found.reached) = (reader.sequence(), reader.reached().clone());
            let salt = reader.salt();
            return Ok((reader.standing, salt));
        }
    }
    // No frame is there: the next one goes into the segment that was begun for it, if one was.
    found.last = all.last().map_or(0, |first| first - 1);
    Ok((Standing::default(), Salt::default()))
}

fn refuse_other(disk: &dyn Disk, lineage: &str) -> Result<()> {
    for first in segments(disk)?.into_iter().rev() {
        // A head that cannot be read is judged where the segment is.
        let Ok(Some(head)) = head_of(disk, first) else { continue };
        if head.lineage == lineage {
            return Ok(());
        }
        let other = head.lineage;
        return Err(Error::config(format!("open the journal: the folder holds that of {other}, not of {lineage}")));
    }
    Ok(())
}

/// Removes segments that a crash left before they got their names.
fn remove_unnamed(disk: &dyn Disk) -> Result<()> {
    let names = disk.names().map_err(|error| unreadable("folder", error))?;
    for name in names.iter().filter(|name| name.ends_with(".segment.new")) {
        disk.remove(name).map_err(|error| unreadable(name, error))?;
    }
    Ok(())
}

fn cut_torn(disk: &dyn Disk, cut: &Cut) -> Result<()> {
    // A segment without a whole head is replaced by the next one that is begun, which has its name.
    if cut.at > 0 {
        let done = disk.open(&cut.segment).and_then(|mut file| file.cut(cut.at).and_then(|()| file.sync()));
        done.map_err(|error| unreadable(&cut.segment, error))?;
    }
    Ok(())
}

/// Cuts off everything behind the last sound frame, from the end, so that a crash meanwhile leaves no hole.
fn cut_damage(disk: &dyn Disk, (segment, at, last): Place) -> Result<()> {
    let remove = |first: u64| {
        let name = segment_name(first);
        disk.remove(&name).and_then(|()| disk.sync_names()).map_err(|error| unreadable(&name, error))
    };
    for first in segments(disk)?.into_iter().rev().filter(|first| *first > segment) {
        remove(first)?;
    }
    let keeps = last >= segment;
    if keeps {
        cut_torn(disk, &Cut { segment: segment_name(segment), at, bytes: 0 })?;
    } else if segments(disk)?.contains(&segment) {
        remove(segment)?;
    }
    // It speaks of what is gone now. Until here it kept a crash from making a quiet end of this.
    if Mark::read(disk).is_some() {
        Mark::remove(disk).map_err(|error| unreadable("mark", error))?;
    }
    Ok(())
}
