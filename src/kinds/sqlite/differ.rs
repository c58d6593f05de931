//! Following a backend that keeps no log (`events_off`): on each commit the table is read again and compared with what it
//! was.
//!
//! What is remembered is one digest per key, in key order, so that a pass over the table is a merge. The table is read in
//! pages, each a short transaction; a pass therefore need not be one state of the source, but each later one contains
//! everything that was committed before it began, and a position is the number of a pass. Passes are paced: at most one per
//! second, and at most a tenth of the time is spent in them. That is the delay of this mode.
//!
//! The digests live in this process only. A process that starts behind an older position cannot know what was removed
//! meanwhile: the position is lost, and the difference heals it. Blocking; runs on the tail's thread.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::follow::Feed;
use super::log::{Place, Seen};
use super::options::Options;
use super::reader::Reader;
use super::rows::Rows;
use super::source::{Shared, partition};
use super::store::Page;
use super::watch::{FileId, Signature};
use super::writer::now;
use crate::error::{Error, Fault, Result};
use crate::model::{Batch, Op, Position, Steps, Table};

/// LIMIT: about 150 bytes per key are remembered; more items than this belong into a backend with a log.
const KEYS: usize = 2_000_000;
const PAGE: usize = 1 << 18;
const PACE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the table after some pass.
#[derive(Default)]
pub(super) struct Digests {
    keys: BTreeMap<Vec<u8>, u64>,
    /// Number of that pass.
    pub(super) pass: u64,
    /// The file's signature, if nothing was committed from before the pass until its end.
    pub(super) signature: Option<Signature>,
    /// The pass that is under way or done.
    pub(super) started: u64,
}

impl Digests {
    /// Reads the whole table once.
    pub(super) fn take(reader: &Reader, pass: u64) -> Result<Self> {
        let mut digests = Self { pass, started: pass, ..Self::default() };
        let before = reader.look()?;
        let mut after = None;
        while let Some(rows) = read(reader, &mut after)? {
            for (key, body) in rows.iter() {
                digests.keys.insert(key.to_vec(), digest(body));
            }
            digests.check()?;
        }
        digests.signature = (reader.look()? == before && before.is_settled()).then_some(before);
        Ok(digests)
    }

    fn check(&self) -> Result<()> {
        if self.keys.len() <= KEYS {
            return Ok(());
        }
        Err(Error::config(format!(
            "follow a SQLite backend without events: it holds more than {KEYS} items; remove events_off from Teleport's configuration"
        )))
    }

    /// Compares a page, whose rows lie behind `from` and reach to the last of them (to the end of the table, if `last`),
    /// remembers it, and gives what is different.
    fn merge(&mut self, rows: &Rows, from: Option<&[u8]>, last: bool) -> Vec<(Op, Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        let mut previous = from.map(<[u8]>::to_vec);
        for (key, body) in rows.iter() {
            self.remove_between(previous.as_deref(), Some(key), &mut found);
            let digest = digest(body);
            if self.keys.insert(key.to_vec(), digest) != Some(digest) {
                found.push((Op::Put, key.to_vec(), body.to_vec()));
            }
            previous = Some(key.to_vec());
        }
        if last {
            self.remove_between(previous.as_deref(), None, &mut found);
        }
        found
    }

    fn remove_between(&mut self, from: Option<&[u8]>, to: Option<&[u8]>, found: &mut Vec<(Op, Vec<u8>, Vec<u8>)>) {
        let from = from.map_or(Bound::Unbounded, Bound::Excluded);
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let gone: Vec<Vec<u8>> = self.keys.range::<[u8], _>((from, to)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.keys.remove(&key);
            found.push((Op::Delete, key, Vec::new()));
        }
    }
}

/// The next page behind `after`, which moves to its last key; `None` behind the last one.
fn read(reader: &Reader, after: &mut Option<Option<Vec<u8>>>) -> Result<Option<Rows>> {
    // Outer `None`: not begun. Inner `None`: ended.
    let from = match after {
        Some(None) => return Ok(None),
        Some(Some(key)) => Some(key.clone()),
        None => None,
    };
    let page = Page::behind(from);
    let (rows, ended) = reader.read("compare table kv", |view| page.read(view, PAGE))?;
    *after = Some(if ended { None } else { rows.iter().last().map(|(key, _)| key.to_vec()) });
    Ok(Some(rows))
}

fn digest(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

/// A pass that is under way.
struct Pass {
    before: Signature,
    begun: Instant,
    after: Option<Option<Vec<u8>>>,
}

/// The state of one tail without a log.
pub(super) struct Differ {
    reader: Reader,
    shared: Shared,
    table: Arc<Table>,
    fill: usize,
    every: Duration,
    file: FileId,
    generation: u64,
    digests: Option<Digests>,
    boundary: Position,
    behind: u64,
    pass: Option<Pass>,
    rest_until: Instant,
    pending: std::collections::VecDeque<(Op, Vec<u8>, Vec<u8>)>,
}

impl Differ {
    pub(super) fn new(
        options: &Options,
        shared: Shared,
        file: FileId,
        generation: u64,
        place: Place,
        digests: Digests,
        fill: usize,
    ) -> Self {
        Self {
            reader: Reader::new(&options.file(), options.busy_timeout, false),
            shared,
            table: Arc::default(),
            fill,
            every: options.watch_every,
            file,
            generation,
            digests: Some(digests),
            boundary: Position::at(place.text()),
            behind: 0,
            pass: None,
            rest_until: Instant::now(),
            pending: std::collections::VecDeque::new(),
        }
    }

    /// Begins a pass if there may be something new. False if there is nothing to do now.
    fn begin(&mut self) -> Result<bool> {
        if self.pass.is_some() {
            return Ok(true);
        }
        let before = self.reader.look()?;
        if before.file != self.file {
            return Err(self.shared.lose("the file was replaced by another one while it was followed"));
        }
        let digests = self.digests.as_mut().ok_or_else(|| Error::bug("follow a table: its digests are gone"))?;
        let mut known = self.shared.lock();
        if digests.signature.as_ref() == Some(&before) && known.wanted <= digests.pass {
            return Ok(false);
        }
        if Instant::now() < self.rest_until {
            return Ok(false);
        }
        digests.started = digests.pass + 1;
        known.started = digests.started;
        known.settled = None;
        self.pass = Some(Pass { before, begun: Instant::now(), after: None });
        Ok(true)
    }

    /// One page of the pass. True if the batch is to be handed on.
    fn step(&mut self, batch: &mut Batch) -> Result<bool> {
        if self.pending.is_empty() && !self.begin()? {
            return Ok(false);
        }
        let digests = self.digests.as_mut().ok_or_else(|| Error::bug("follow a table: its digests are gone"))?;
        if self.pending.is_empty()
            && let Some(pass) = &mut self.pass
        {
            let from = pass.after.clone().flatten();
            if let Some(rows) = read(&self.reader, &mut pass.after)? {
                let last = pass.after == Some(None);
                self.pending.extend(digests.merge(&rows, from.as_deref(), last));
                digests.check()?;
            }
        }
        let ended = self.pass.as_ref().is_some_and(|pass| pass.after == Some(None));
        if self.pending.is_empty() && !ended {
            return Ok(false);
        }
        batch.begin(&partition(self.file, self.generation), self.boundary.plus(self.behind), Steps::Ordinal);
        let table = batch.table(&self.table);
        while batch.bytes() < self.fill
            && let Some((op, key, body)) = self.pending.pop_front()
        {
            batch.push(op, false, table, &key, &body, 0);
        }
        self.behind += batch.len() as u64;
        if self.pending.is_empty() && ended {
            self.end(batch)?;
        }
        Ok(true)
    }

    /// Marks the end of a pass.
    fn end(&mut self, batch: &mut Batch) -> Result<()> {
        let Some(pass) = self.pass.take() else { return Ok(()) };
        let digests = self.digests.as_mut().ok_or_else(|| Error::bug("follow a table: its digests are gone"))?;
        digests.pass = digests.started;
        let after = self.reader.look()?;
        digests.signature = (after == pass.before && after.is_settled()).then_some(after);
        let spent = pass.begun.elapsed();
        self.rest_until = Instant::now() + PACE.max(spent * 10);
        let seen = Seen { at: now(), counter: pass.before.counter() };
        self.boundary = Position::at(Place { id: digests.pass, seen: Some(seen), ..Place::BEFORE }.text());
        self.behind = 0;
        batch.mark(self.boundary.clone());
        let mut known = self.shared.lock();
        known.settled = digests.signature.clone().map(|signature| (signature, digests.pass));
        Ok(())
    }
}

impl Feed for Differ {
    fn next(&mut self, mut batch: Batch, stop: &AtomicBool) -> Result<Option<Batch>> {
        let mut troubled: Option<Instant> = None;
        // ORDERING: Relaxed: nothing else is read on the strength of it, and the next look sees it.
        while !stop.load(Ordering::Relaxed) {
            match self.step(&mut batch) {
                Ok(true) => return Ok(Some(batch)),
                Ok(false) => {
                    troubled = None;
                    if self.pass.is_none() {
                        thread::sleep(self.every);
                    }
                }
                Err(error) if error.fault() == Fault::Transient => {
                    if troubled.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return Err(error);
                    }
                    thread::sleep(self.every);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

impl Drop for Differ {
    fn drop(&mut self) {
        // Between two passes the digests are exactly those of the last mark, so a tail that starts there can go on.
        if let Some(digests) = self.digests.take().filter(|_| self.pass.is_none() && self.pending.is_empty()) {
            self.shared.lock().digests = Some(digests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Map = BTreeMap<Vec<u8>, Vec<u8>>;

    fn rows(map: &Map, from: Option<&[u8]>, count: usize) -> (Rows, bool) {
        let mut rows = Rows::default();
        let behind = (from.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut all = map.range::<[u8], _>(behind);
        for (key, body) in all.by_ref().take(count) {
            rows.add_raw(key, body);
        }
        (rows, all.next().is_none())
    }

    proptest! {
        /// However the table is cut into pages, what a pass finds turns the old state into the new one.
        #[test]
        fn a_pass_finds_exactly_the_difference(
            old in proptest::collection::btree_map(proptest::collection::vec(0u8..4, 0..3), proptest::collection::vec(0u8..3, 1..2), 0..20),
            new in proptest::collection::btree_map(proptest::collection::vec(0u8..4, 0..3), proptest::collection::vec(0u8..3, 1..2), 0..20),
            page in 1usize..7,
        ) {
            let keys = old.iter().map(|(key, body)| (key.clone(), digest(body))).collect();
            let mut digests = Digests { keys, ..Digests::default() };
            let (mut state, mut from, mut changes) = (old.clone(), None::<Vec<u8>>, 0);
            loop {
                let (rows, last) = rows(&new, from.as_deref(), page);
                for (op, key, body) in digests.merge(&rows, from.as_deref(), last) {
                    changes += 1;
                    match op {
                        Op::Put => drop(state.insert(key, body)),
                        _ => drop(state.remove(&key)),
                    }
                }
                from = rows.iter().last().map(|(key, _)| key.to_vec());
                if last {
                    break;
                }
            }
            prop_assert_eq!(&state, &new);
            let same = old.iter().filter(|(key, body)| new.get(*key) == Some(body)).count();
            let touched = old.keys().chain(new.keys()).collect::<std::collections::BTreeSet<_>>().len() - same;
            prop_assert_eq!(changes, touched);
        }
    }
}
