//! A SQLite backend as a source: heads, the pin, and the proof that a tail can start where it is asked to.
//!
//! A partition is one life of the log: `sqlite/<file>/<generation>`. The file is known by inode and time of birth, so a file
//! that was moved into its place has another name; the generation is counted along the stream: the checkpoint names the
//! newest, a log that idleness emptied begins the next, and so does a pin after a lost position.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::differ::{Differ, Digests};
use super::events;
use super::follow::{Feed, Follower};
use super::log::{Place, Seen, Verdict, judge};
use super::open::locate;
use super::options::{Options, Role};
use super::reader::Reader;
use super::store::{blocking, no_table};
use super::tail::SqliteTail;
use super::watch::{FileId, Signature};
use super::writer::now;
use crate::error::{Error, Result};
use crate::model::{Checkpoint, PartitionId, Position};
use crate::pool::Pool;
use crate::source::{Fut, Source, Tail};

/// What this process has learned of the log.
pub(super) struct Known {
    /// The generation that the log is in.
    pub(super) generation: u64,
    /// A position was lost: the next pin begins a new generation.
    pub(super) lost: bool,
    /// Where the tail stands, and when it last saw that as the end of the log.
    pub(super) place: Option<(Place, Option<Instant>)>,
    /// The last head, for as long as nothing is committed.
    head: Option<(Signature, Checkpoint)>,
    /// Without a log: what the table was after the last pass, while no tail uses it.
    pub(super) digests: Option<Digests>,
    /// Without a log: the last pass that has begun, and the one that somebody waits for.
    pub(super) started: u64,
    pub(super) wanted: u64,
    /// Without a log: a pass that is known to hold everything, for as long as the file has this signature.
    pub(super) settled: Option<(Signature, u64)>,
}

/// `Known`, shared by the source and its tail.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Known>>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that the position was lost and says so.
    pub(super) fn lose(&self, why: &str) -> Error {
        let mut known = self.lock();
        known.lost = true;
        known.place = None;
        known.head = None;
        Error::position_lost(format!("follow a SQLite backend: {why}"))
    }
}

/// Control side of a source.
pub struct SqliteSource {
    options: Arc<Options>,
    reader: Arc<Reader>,
    shared: Shared,
}

impl SqliteSource {
    /// Of the backend in `options.path`, which must be there.
    pub fn open(options: &Options) -> Result<Self> {
        let reader = locate(options, Role::Source)?;
        let reader =
            reader.ok_or_else(|| Error::config(format!("open {}: there is no such file", options.file().display())))?;
        let known = Known {
            generation: 1,
            lost: false,
            place: None,
            head: None,
            digests: None,
            started: 0,
            wanted: 0,
            settled: None,
        };
        Ok(Self {
            options: Arc::new(options.clone()),
            reader: Arc::new(reader),
            shared: Shared(Arc::new(Mutex::new(known))),
        })
    }
}

/// The name of a partition.
pub(super) fn partition(file: FileId, generation: u64) -> PartitionId {
    PartitionId::new(format!("sqlite/{file}/{generation}"))
}

/// File and generation of a partition's name; `None` if it is none of ours.
fn parse(partition: &PartitionId) -> Option<(&str, u64)> {
    let (file, generation) = partition.as_str().strip_prefix("sqlite/")?.split_once('/')?;
    Some((file, generation.parse().ok()?))
}

/// The end of the log as it is now.
fn head(reader: &Reader, shared: &Shared) -> Result<Checkpoint> {
    let signature = reader.look()?;
    let (known_place, generation) = {
        let known = shared.lock();
        if let Some((at, head)) = &known.head
            && *at == signature
        {
            return Ok(head.clone());
        }
        (known.place, known.generation)
    };
    let wall = now();
    let (file, last, verdict, stable) = reader.read("read the end of the log", |view| {
        if !view.has_kv {
            return Err(no_table(reader));
        }
        let verdict = match &known_place {
            Some((place, looked)) => {
                let elapsed = looked.map(|at| at.elapsed().as_nanos().cast_signed());
                judge(place, elapsed, &events::look(view, place, wall)?)
            }
            None => Verdict::GoesOn,
        };
        Ok((view.before.file, events::last(view)?, verdict, view.inside == *view.before && view.before.is_settled()))
    })?;
    let known_generation = generation;
    let generation = match verdict {
        Verdict::GoesOn => known_generation,
        // The tail will come to the same conclusion at its next look.
        Verdict::Emptied => known_generation + 1,
        Verdict::Lost(why) => return Err(shared.lose(why)),
    };
    let position = match last {
        Some(event) => Position::at(Place { id: event.id, created: event.created, seen: None }.text()),
        None => Position::Start,
    };
    let head: Checkpoint = [(partition(file, generation), position)].into_iter().collect();
    let mut known = shared.lock();
    known.head =
        (stable && verdict == Verdict::GoesOn && known.generation == generation).then(|| (signature, head.clone()));
    Ok(head)
}

/// The end of the log with the proof that it was seen; nothing is taken at the source.
fn pin(reader: &Reader, shared: &Shared) -> Result<Checkpoint> {
    let wall = now();
    let (file, counter, last) = reader.read("pin the log", |view| {
        if !view.has_kv {
            return Err(no_table(reader));
        }
        Ok((view.before.file, view.inside.counter(), events::last(view)?))
    })?;
    let mut known = shared.lock();
    if std::mem::take(&mut known.lost) {
        known.generation += 1;
    }
    known.place = None;
    known.head = None;
    let place = last.map_or(Place::BEFORE, |event| Place { id: event.id, created: event.created, seen: None });
    let place = Place { seen: Some(Seen { at: wall, counter }), ..place };
    Ok([(partition(file, known.generation), Position::at(place.text()))].into_iter().collect())
}

/// Where a checkpoint stands in the log: the newest generation that it names.
fn resume(from: &Checkpoint, file: FileId, shared: &Shared) -> Result<(u64, Place)> {
    let newest = from
        .iter()
        .filter_map(|(partition, position)| parse(partition).map(|(file, generation)| (generation, file, position)))
        .max_by_key(|(generation, ..)| *generation);
    let Some((generation, name, position)) = newest else {
        return Err(shared.lose("the checkpoint names no SQLite log"));
    };
    shared.lock().generation = generation;
    if name != file.to_string() {
        return Err(shared.lose("the file was replaced by another one"));
    }
    let place = match position {
        Position::Start | Position::End => Place::BEFORE,
        Position::At { at, .. } if at.is_empty() => Place::BEFORE,
        Position::At { at, .. } => Place::parse(at)
            .ok_or_else(|| Error::corrupt(format!("read the position {position}: it is no place in a SQLite log")))?,
    };
    // What ended has a successor that nobody wrote down; where that stands is not known.
    if *position == Position::End {
        return Err(shared.lose("the checkpoint knows the end of a log and not what came after it"));
    }
    Ok((generation, place))
}

/// Without a log: the pass that will hold everything that is committed now.
fn head_without_log(reader: &Reader, shared: &Shared) -> Result<Checkpoint> {
    let signature = reader.look()?;
    let mut known = shared.lock();
    let pass = match &known.settled {
        Some((settled, pass)) if *settled == signature => *pass,
        _ => known.started + 1,
    };
    known.wanted = known.wanted.max(pass);
    let place = Place { id: pass, ..Place::BEFORE };
    Ok([(partition(signature.file, known.generation), Position::at(place.text()))].into_iter().collect())
}

/// Without a log: reads the table, to compare with it from now on.
fn pin_without_log(reader: &Reader, shared: &Shared) -> Result<Checkpoint> {
    let pass = shared.lock().started + 1;
    let before = reader.look()?;
    let digests = Digests::take(reader, pass)?;
    let mut known = shared.lock();
    if std::mem::take(&mut known.lost) {
        known.generation += 1;
    }
    known.started = pass;
    known.settled = digests.signature.clone().map(|signature| (signature, pass));
    known.digests = Some(digests);
    let seen = Seen { at: now(), counter: before.counter() };
    let place = Place { id: pass, seen: Some(seen), ..Place::BEFORE };
    Ok([(partition(before.file, known.generation), Position::at(place.text()))].into_iter().collect())
}

/// Without a log: goes on only where the digests are those of the very position.
fn resume_without_log(
    options: &Options,
    shared: Shared,
    file: FileId,
    generation: u64,
    place: Place,
    fill: usize,
) -> Result<Differ> {
    let digests = shared.lock().digests.take().filter(|digests| digests.pass == place.id);
    match digests {
        Some(digests) => Ok(Differ::new(options, shared, file, generation, place, digests, fill)),
        None => Err(shared.lose("without events nobody knows what was removed since the last change that was read")),
    }
}

impl Source for SqliteSource {
    fn head(&self) -> Fut<'_, Checkpoint> {
        let (reader, shared) = (Arc::clone(&self.reader), self.shared.clone());
        let without_log = self.options.events_off;
        Box::pin(blocking(
            move || if without_log { head_without_log(&reader, &shared) } else { head(&reader, &shared) },
        ))
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        let (reader, shared) = (Arc::clone(&self.reader), self.shared.clone());
        let without_log = self.options.events_off;
        Box::pin(blocking(move || if without_log { pin_without_log(&reader, &shared) } else { pin(&reader, &shared) }))
    }

    fn tail<'a>(&'a self, from: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        let (reader, shared, options) = (Arc::clone(&self.reader), self.shared.clone(), Arc::clone(&self.options));
        let from = from.clone();
        Box::pin(async move {
            let fill = pool.batch_bytes();
            let feed = blocking(move || {
                let file = reader.look()?.file;
                let (generation, place) = resume(&from, file, &shared)?;
                if options.events_off {
                    let differ = resume_without_log(&options, shared, file, generation, place, fill)?;
                    return Ok(Box::new(differ) as Box<dyn Feed>);
                }
                let follower = Follower::new(&options, shared, file, generation, place, fill);
                // The proof: the same look that the tail takes, here so that a lost position is known at once.
                follower.prove(&reader)?;
                Ok(Box::new(follower) as Box<dyn Feed>)
            })
            .await?;
            Ok(Box::new(SqliteTail::start(feed, self.shared.clone(), pool)?) as Box<dyn Tail>)
        })
    }
}
