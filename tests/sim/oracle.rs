//! Who watches both ends and knows the promises.
//!
//! The oracle replays what landed at the sink into a mirror, commit by commit, so that it sees every state that a reader
//! could have seen, and holds each against the world's own history. It takes nothing from the engine's word but its
//! checkpoints; whether a lane is consistent it finds out by itself, from the marks of the walks and the head of the world
//! at the moment they ended.

use std::collections::{BTreeMap, BTreeSet};

use driftless::engine::plan::{self, Plan};
use driftless::engine::route::Router;
use driftless::kinds::memory::{Body, Landed, MemorySink, Version, World};
use driftless::model::{Checkpoint, PartitionId, Position, StreamId};
use driftless::sink::Sink;

/// Table, as the world counts them, and key.
pub type Row = (u16, Vec<u8>);

/// Rows that somebody else has changed at the sink.
pub type Meddled = BTreeSet<Row>;

/// What is known of one lane.
#[derive(Clone, Default)]
struct Lane {
    epoch: u64,
    number: u64,
    /// As the sink has it.
    checkpoint: Checkpoint,
    /// All that the lane ever passed in this generation, forgotten partitions included.
    passed: Checkpoint,
    generation: u64,
    /// Once the walks have ended: the head that the lane must pass to be consistent.
    settling: Option<Checkpoint>,
    consistent: bool,
}

/// The oracle.
pub struct Oracle {
    world: World,
    sink: MemorySink,
    stream: StreamId,
    router: Router,
    extent: String,
    tables: Vec<String>,
    lanes: Vec<Lane>,
    mirror: BTreeMap<Row, Vec<u8>>,
    /// How far each key's history has been seen at the sink: an index, or -1 for the time before its first version. Only
    /// for keys of lanes that were consistent once.
    seen: BTreeMap<Row, isize>,
    /// Rows that somebody else has changed at the sink and that are not repaired yet.
    pub meddled: Meddled,
    /// The furthest that all lanes had passed together.
    durable: Checkpoint,
    /// The source was set back under its old name: until a generation after this one is whole, nothing can be said.
    stale: Option<u64>,
    pub trace: bool,
    /// Rows change their keys, so that a row may have to be read ahead of the tail: then only the owner of the stream
    /// knows which head says that the tail has caught up, and its own mark is believed.
    pub moves: bool,
    /// Number of states that were held against the source.
    pub looks: u64,
    /// Number of those at which a lane was consistent.
    pub consistent_looks: u64,
}

impl Oracle {
    pub fn new(world: &World, sink: &MemorySink, stream: &StreamId, lanes: u16, extent: &str, tables: &[&str]) -> Self {
        Self {
            world: world.clone(),
            sink: sink.clone(),
            stream: stream.clone(),
            router: Router::new(lanes),
            extent: extent.to_owned(),
            tables: tables.iter().map(|name| (*name).to_owned()).collect(),
            lanes: vec![Lane::default(); usize::from(lanes)],
            mirror: BTreeMap::new(),
            seen: BTreeMap::new(),
            meddled: BTreeSet::new(),
            durable: Checkpoint::default(),
            stale: None,
            trace: false,
            moves: false,
            looks: 0,
            consistent_looks: 0,
        }
    }

    /// The source was set back.
    pub fn forget_source(&mut self, new_lineage: bool) {
        self.forget();
        self.durable = self.sink.record(&self.stream).map(|record| record.frontier()).unwrap_or_default();
        self.stale = (!new_lineage).then(|| self.generation());
    }

    /// The sink or the source was set back: what was seen before says nothing about what comes. What was durable once may
    /// have been released.
    pub fn forget(&mut self) {
        drop(self.sink.landed());
        self.mirror = self.sink.rows().into_iter().map(|((table, key), body)| (self.row(&table, &key), body)).collect();
        self.seen.clear();
        let record = self.sink.record(&self.stream);
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let stands = record.as_ref().and_then(|record| record.lanes.get(number)).cloned().unwrap_or_default();
            *lane =
                Lane { epoch: stands.epoch, number: stands.number, checkpoint: stands.checkpoint, ..Lane::default() };
            lane.passed = lane.checkpoint.clone();
            lane.generation = plan::newest(std::slice::from_ref(&lane.checkpoint), "!snapshot/");
        }
    }

    /// Somebody else has changed a row of the sink.
    pub fn meddle(&mut self, (table, key): (String, Vec<u8>), body: Option<Vec<u8>>) {
        let row = self.row(&table, &key);
        match body {
            Some(body) => drop(self.mirror.insert(row.clone(), body)),
            None => drop(self.mirror.remove(&row)),
        }
        self.meddled.insert(row);
    }

    fn row(&self, table: &str, key: &[u8]) -> Row {
        let index = self.tables.iter().position(|name| name == table).expect("the sink has the world's tables");
        (index as u16, key.to_vec())
    }

    /// Whether every lane is consistent by the oracle's own account.
    pub fn is_consistent(&self) -> bool {
        self.lanes.iter().all(|lane| lane.consistent)
    }

    /// The number of the newest generation that any lane has.
    pub fn generation(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.generation).max().unwrap_or(0)
    }

    /// What all lanes have passed.
    pub fn frontier(&self) -> Checkpoint {
        Checkpoint::meet(self.lanes.iter().map(|lane| &lane.checkpoint))
    }

    /// Looks at everything that happened since the last look.
    pub fn look(&mut self) -> Result<(), String> {
        for landed in self.sink.landed() {
            self.landed(&landed)?;
        }
        if !self.is_consistent() {
            self.settle();
        }
        self.released()
    }

    fn landed(&mut self, landed: &Landed) -> Result<(), String> {
        let number = usize::from(landed.lane);
        self.looks += 1;
        if self.trace {
            tell(landed);
        }
        let lane = &mut self.lanes[number];
        if landed.epoch < lane.epoch {
            return Err(format!("P5: lane {number} took a commit of epoch {} after {}", landed.epoch, lane.epoch));
        }
        if landed.number != lane.number + 1 {
            return Err(format!("invariant 2: lane {number} took commit {} after {}", landed.number, lane.number));
        }
        lane.epoch = landed.epoch;
        lane.number = landed.number;
        self.checkpoint(number, landed)?;
        for table in &landed.cleared {
            let (cleared, _) = self.row(table, &[]);
            self.mirror.retain(|(table, _), _| *table != cleared);
        }
        for ((table, key), body) in &landed.rows {
            let row = self.row(table, key);
            match body {
                Some(body) => drop(self.mirror.insert(row, body.clone())),
                None => drop(self.mirror.remove(&row)),
            }
        }
        self.settle();
        self.judge(number)
    }

    /// P2, first half: a checkpoint does not go back, but for a new generation.
    fn checkpoint(&mut self, number: usize, landed: &Landed) -> Result<(), String> {
        let lane = &mut self.lanes[number];
        let generation = plan::newest(std::slice::from_ref(&landed.checkpoint), "!snapshot/");
        if generation < lane.generation {
            return Err(format!("P2: lane {number} went back to generation {generation}"));
        }
        if generation > lane.generation {
            lane.generation = generation;
            // What the source no longer lists lies before the pin.
            let listed = self.world.newest();
            lane.passed = self.world.history(|history| {
                let all = history.values().flatten().map(|version| &version.partition);
                let gone = all.filter(|partition| !listed.names(partition) && !landed.checkpoint.names(partition));
                gone.map(|partition| (partition.clone(), Position::End)).collect()
            });
            lane.settling = None;
            lane.consistent = false;
        }
        for (partition, position) in landed.checkpoint.iter() {
            // The engine drops the names of a walk's ranges when it has ended, and may walk again.
            let before = if partition.is_engine() { &lane.checkpoint } else { &lane.passed };
            let before = before.get(partition);
            if before > position {
                return Err(format!("P2: lane {number} went back from {before} to {position} in {partition}"));
            }
            if self.sink.limits().stage && !partition.is_engine() && position.ordinal() > 0 {
                return Err(format!("P4: lane {number} shows half a transaction: {partition} {position}"));
            }
        }
        lane.passed.merge(&landed.checkpoint);
        lane.checkpoint = landed.checkpoint.clone();
        let frontier = Checkpoint::meet(self.lanes.iter().map(|lane| &lane.passed));
        self.durable.merge(&frontier);
        Ok(())
    }

    /// Finds out which lanes are consistent.
    fn settle(&mut self) {
        let checkpoints: Vec<_> = self.lanes.iter().map(|lane| lane.checkpoint.clone()).collect();
        let whole = plan::plan(&checkpoints, &self.extent, false, false) == Plan::Follow;
        let head = self.world.newest();
        let moves = self.moves;
        let lineage =
            |partition: &PartitionId| partition.as_str().rsplit_once('/').map(|(lineage, _)| lineage.to_owned());
        let ours = head.iter().next().and_then(|(partition, _)| lineage(partition));
        let tails = checkpoints.iter().flat_map(Checkpoint::iter).map(|(partition, _)| partition);
        let foreign = tails.filter(|partition| !partition.is_engine()).any(|partition| lineage(partition) != ours);
        let stale = foreign || self.stale.is_some_and(|stale| self.generation() <= stale);
        for lane in &mut self.lanes {
            if !whole || stale {
                (lane.settling, lane.consistent) = (None, false);
                continue;
            }
            let settling = lane.settling.get_or_insert_with(|| head.clone());
            lane.consistent |= match moves {
                true => lane.checkpoint.names(&plan::settled(lane.generation)),
                false => lane.passed.covers(settling),
            };
        }
    }

    /// P2, P3 and P4 for the keys of a lane.
    fn judge(&mut self, number: usize) -> Result<(), String> {
        let lane = &self.lanes[number];
        self.consistent_looks += u64::from(lane.consistent);
        let (mirror, seen, meddled) = (&self.mirror, &mut self.seen, &mut self.meddled);
        let (router, tables) = (&self.router, &self.tables);
        self.world.history(|history| {
            for (row, versions) in history {
                let (table, key) = (&tables[usize::from(row.0)], &row.1);
                if router.lane(table, key) != number {
                    continue;
                }
                let state = mirror.get(row).map(|body| &body[..]);
                let name = || format!("lane {number}, {table}{}", String::from_utf8_lossy(key));
                let due = due(versions, &lane.passed);
                let shown = |index: isize| if index < 0 { None } else { versions[index as usize].body.as_deref() };
                if lane.consistent && state == shown(due) {
                    meddled.remove(row);
                }
                if meddled.contains(row) {
                    continue;
                }
                if lane.consistent && state != shown(due) {
                    return Err(format!(
                        "P2/P4: {} is {} at {}, the source had {} there",
                        name(),
                        describe(state),
                        lane.passed,
                        describe(shown(due))
                    ));
                }
                // The first copy is whole, but what is newer than the checkpoint may have been copied already. (A walk that
                // heals leaves a row alone which the tail is about to set right.)
                let is_newer = |index| moment(shown(index)) == moment(state);
                let heals = lane.checkpoint.names(&plan::sweep(lane.generation));
                if lane.settling.is_some() && !heals && !(due..versions.len() as isize).any(is_newer) {
                    return Err(format!(
                        "P2: {} is {} at {}, older than {}",
                        name(),
                        describe(state),
                        lane.passed,
                        describe(shown(due))
                    ));
                }
                if lane.consistent {
                    seen.entry(row.clone()).or_insert(due);
                }
                let Some(before) = seen.get_mut(row) else { continue };
                // While a gap heals, a partial update may meet a row that missed what came before it: then the row is of
                // the right moment and not whole, until the walk comes by.
                if self.moves && !lane.consistent {
                    continue;
                }
                let Some(index) = (*before..versions.len() as isize).find(|i| moment(shown(*i)) == moment(state))
                else {
                    return Err(format!("P3: {} went back to {}", name(), describe(state)));
                };
                *before = index;
            }
            Ok(())
        })
    }

    /// P8, and the half of P1 that nobody can repair: the source is never told to forget what is not durable.
    fn released(&self) -> Result<(), String> {
        let Some(released) = self.world.released() else { return Ok(()) };
        let mut allowed = self.durable.clone();
        allowed.merge(&self.world.slot_start());
        if allowed.covers(&released) {
            return Ok(());
        }
        Err(format!("P1: the source was released up to {released} while {allowed} was durable"))
    }

    /// Rows that somebody else changed, and that are as they should be again without anybody having written them since.
    pub fn forgive(&mut self) {
        let (source, mirror, tables) = (self.world.rows(), &self.mirror, &self.tables);
        self.meddled.retain(|row| source.get(&(tables[usize::from(row.0)].clone(), row.1.clone())) != mirror.get(row));
    }

    /// P1: the sink is the source.
    pub fn equal(&self) -> Result<(), String> {
        let (source, sink) = (self.world.rows(), self.sink.rows());
        let seen = sink.iter().map(|((table, key), body)| (self.row(table, key), body));
        if !seen.eq(self.mirror.iter().map(|(row, body)| (row.clone(), body))) {
            return Err("the oracle's mirror is not the sink: something landed that was not told".into());
        }
        let keys: BTreeSet<_> = source.keys().chain(sink.keys()).collect();
        for row in keys {
            let (is, due) = (sink.get(row), source.get(row));
            if is != due {
                let key = String::from_utf8_lossy(&row.1);
                let (is, due) = (describe(is.map(|b| &b[..])), describe(due.map(|b| &b[..])));
                return Err(format!("P1: {}{key} is {is} at the sink and {due} at the source", row.0));
            }
        }
        Ok(())
    }
}

/// The newest version that lies at or before a checkpoint; -1 if none does.
fn due(versions: &[Version], passed: &Checkpoint) -> isize {
    let covered = |version: &Version| *passed.get(&version.partition) >= version.position;
    versions.iter().rposition(covered).map_or(-1, |index| index as isize)
}

/// The version of a body.
fn moment(body: Option<&[u8]>) -> Option<u64> {
    body.map(|body| Body::read(body).map_or(u64::MAX, |body| body.version))
}

fn describe(body: Option<&[u8]>) -> String {
    body.map_or_else(
        || "absent".to_owned(),
        |body| match Body::read(body) {
            Ok(body) => format!("v{}", body.version),
            Err(_) => "strange".to_owned(),
        },
    )
}

fn tell(landed: &Landed) {
    let rows = landed
        .rows
        .iter()
        .map(|((table, key), body)| format!("{table}{} {}", String::from_utf8_lossy(key), describe(body.as_deref())));
    eprintln!(
        "  landed lane {} epoch {} number {}{}: cleared {:?}, {}; at {}",
        landed.lane,
        landed.epoch,
        landed.number,
        if landed.late { " late" } else { "" },
        landed.cleared,
        rows.collect::<Vec<_>>().join(", "),
        landed.checkpoint
    );
}
