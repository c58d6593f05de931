//! Control side of a memory sink: rows, what it remembers of streams, and everything that can happen to them.
//!
//! A commit lands under the sink's one lock, so data and checkpoint are one step. What a commit did is kept as
//! [`Landed`] if asked for, so that a test can look at every state that a reader could have seen. Commits that were
//! answered "late" wait in limbo until the owner of the sink lets them land, as a twin of what was sent again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Fault, Result};
use crate::kinds::memory::Body;
use crate::kinds::memory::faults::{Doors, Outcome, Plan, Site, lock, pass};
use crate::kinds::memory::writer::{Connection, MemoryWriter, Sent};
use crate::model::{Changes, Checkpoint, Claim, LaneRecord, Op, Standing, StreamId, StreamRecord, Table};
use crate::sink::{Limits, Sink, Writer};
use crate::source::Fut;

/// Rows of a sink by table and key.
pub type SinkRows = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// Rows by table and key, as they were left: `None` is gone.
pub type Written = Vec<((String, Vec<u8>), Option<Vec<u8>>)>;

/// A commit that landed.
#[derive(Clone, Debug)]
pub struct Landed {
    /// Which stream.
    pub stream: StreamId,
    /// Which lane.
    pub lane: u16,
    /// Under which epoch.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
    /// The lane's checkpoint after it.
    pub checkpoint: Checkpoint,
    /// What it changed, in the order of execution: tables that were cleared, then rows.
    pub cleared: Vec<String>,
    /// Rows that were written (or removed: `None`).
    pub rows: Written,
    /// It landed after its sender had been told that it failed.
    pub late: bool,
}

/// What a backup holds.
#[derive(Clone, Default)]
struct Data {
    rows: SinkRows,
    streams: BTreeMap<StreamId, StreamRecord>,
    tables: Vec<Arc<Table>>,
}

pub(super) struct State {
    data: Data,
    pub(super) limits: Limits,
    pub(super) connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    pub(super) limbo: Vec<Sent>,
    landed: Option<Vec<Landed>>,
    refused: u64,
    /// Scans fill a batch no further than this.
    pub(super) page_bytes: usize,
    pub(super) doors: Doors,
}

/// A memory sink with everything that can happen to it. Cheap to clone; clones are the same sink.
#[derive(Clone)]
pub struct MemorySink {
    pub(super) state: Arc<Mutex<State>>,
}

/// A sink as it once was.
#[derive(Clone)]
pub struct SinkBackup(Data);

impl MemorySink {
    /// An empty sink.
    pub fn new(limits: Limits) -> Self {
        let state = State {
            data: Data::default(),
            limits,
            connections: BTreeMap::new(),
            next_connection: 0,
            limbo: Vec::new(),
            landed: None,
            refused: 0,
            page_bytes: usize::MAX,
            doors: Doors::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Keeps what landed, for [`MemorySink::landed`].
    #[must_use]
    pub fn recording(self) -> Self {
        self.lock().landed = Some(vec![]);
        self
    }

    /// Scans cut batches at so many bytes, so that a table lies over several of them.
    #[must_use]
    pub fn with_page_bytes(self, bytes: usize) -> Self {
        self.lock().page_bytes = bytes;
        self
    }

    /// Hands in who decides what goes wrong.
    pub fn plan(&self, plan: impl Plan + 'static) {
        self.lock().doors.plan = Box::new(plan);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What landed since this was last asked.
    pub fn landed(&self) -> Vec<Landed> {
        self.lock().landed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Number of commits that wait in limbo.
    pub fn late(&self) -> usize {
        self.lock().limbo.len()
    }

    /// Lets one of the commits in limbo arrive. It lands if nothing forbids it; nobody is told.
    pub fn land_late(&self, pick: usize) {
        let mut state = self.lock();
        if let Some(pick) = pick.checked_rem(state.limbo.len()) {
            let sent = state.limbo.remove(pick);
            state.refused += u64::from(state.land(&sent, true).is_err());
            state.doors.changed();
        }
    }

    /// How many late commits were refused.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// Lifts all holds.
    pub fn lift(&self) {
        self.lock().doors.lift();
    }

    /// Breaks all connections: what was staged is gone, what was not answered has not happened.
    pub fn disconnect(&self) {
        let mut state = self.lock();
        let all: Vec<_> = state.connections.keys().copied().collect();
        all.into_iter().for_each(|id| state.lose(id));
    }

    /// Takes a backup.
    pub fn backup(&self) -> SinkBackup {
        SinkBackup(self.lock().data.clone())
    }

    /// Sets the sink back. Connections break and nothing is left in limbo, as when a server is replaced.
    pub fn restore(&self, backup: &SinkBackup) {
        self.disconnect();
        let mut state = self.lock();
        state.limbo.clear();
        state.data = backup.0.clone();
    }

    /// Somebody else writes to (or removes from) the sink.
    pub fn meddle(&self, table: &str, key: &[u8], body: Option<&[u8]>) {
        let row = (table.to_owned(), key.to_vec());
        let rows = &mut self.lock().data.rows;
        match body {
            Some(body) => drop(rows.insert(row, body.to_vec())),
            None => drop(rows.remove(&row)),
        }
    }

    /// All rows, by table and key.
    pub fn rows(&self) -> SinkRows {
        self.lock().data.rows.clone()
    }

    /// The record of a stream, without asking anybody's plan.
    pub fn record(&self, stream: &StreamId) -> Option<StreamRecord> {
        self.lock().data.streams.get(stream).cloned()
    }

    pub(super) fn with_data<T>(&self, look: impl FnOnce(&SinkRows, &[Arc<Table>]) -> T) -> T {
        let state = self.lock();
        look(&state.data.rows, &state.data.tables)
    }
}

impl State {
    pub(super) fn connect(&mut self) -> u64 {
        self.next_connection += 1;
        self.connections.insert(self.next_connection, Connection::default());
        self.next_connection
    }

    /// Makes a commit durable, if the lane's record allows it.
    pub(super) fn land(&mut self, sent: &Sent, late: bool) -> Result<()> {
        let commit = &sent.commit;
        let attempt = || format!("commit {} of lane {} of stream {}", commit.number, sent.lane, sent.stream);
        let record = self.data.streams.get(&sent.stream).and_then(|stream| stream.lanes.get(usize::from(sent.lane)));
        let record = record.filter(|lane| lane.epoch == sent.epoch);
        let record = record.ok_or_else(|| Error::fenced(format!("{}: another owner has the lane", attempt())))?;
        if !(late && cfg!(mutate = "late_twin_accepted")) {
            // Of what arrives late, nobody knows any more what was sent meanwhile.
            let given = if late { record.number } else { sent.given };
            match Standing::of(record.number, commit.number, given) {
                Ok(Standing::Landed) => return Ok(()),
                _ if sent.lacks_stage => {
                    return Err(Error::new(Fault::StageLost, format!("{}: what was staged is gone", attempt())));
                }
                other => drop(other.map_err(|error| error.during(attempt()))?),
            }
        }
        let mut rows = self.data.rows.clone_if_patched(sent);
        let (mut cleared, mut written) = (vec![], vec![]);
        let target = rows.as_mut().unwrap_or(&mut self.data.rows);
        for changes in sent.staged.iter().map(|staged| &**staged).chain([&commit.changes]) {
            apply(target, changes, &mut cleared, &mut written)?;
        }
        if let Some(rows) = rows {
            self.data.rows = rows;
        }
        let stream = self.data.streams.get_mut(&sent.stream).expect("the record was found above");
        let lane = &mut stream.lanes[usize::from(sent.lane)];
        lane.number = commit.number;
        lane.checkpoint.retain(|partition| !commit.forget.contains(partition));
        for (partition, position) in commit.upto.iter() {
            lane.checkpoint.retain(|known| known != partition);
            lane.checkpoint.advance(partition, position);
        }
        if let Some(landed) = &mut self.landed {
            let (stream, checkpoint) = (sent.stream.clone(), lane.checkpoint.clone());
            let (lane, epoch, number) = (sent.lane, sent.epoch, commit.number);
            landed.push(Landed { stream, lane, epoch, number, checkpoint, cleared, rows: written, late });
        }
        Ok(())
    }

    fn claim(&mut self, claim: &Claim) -> Result<LaneRecord> {
        let attempt = format!("claim lane {} of stream {}", claim.lane, claim.stream);
        let record = self.data.streams.entry(claim.stream.clone()).or_insert_with(|| StreamRecord {
            format: StreamRecord::FORMAT,
            owner: claim.owner.clone(),
            scope: claim.scope.clone(),
            foreign: claim.foreign,
            lanes: vec![LaneRecord::default(); usize::from(claim.scope.lanes)],
        });
        let standing = record.lanes.get(usize::from(claim.lane)).map_or(0, |lane| lane.epoch);
        if standing != claim.seen.unwrap_or(0) {
            return Err(Error::fenced(format!("{attempt}: somebody else claimed it in the meantime")));
        }
        claim.refuse_if_moved(record.lanes.get(usize::from(claim.lane)).map_or(0, |lane| lane.number))?;
        if record.lanes.len() != usize::from(claim.scope.lanes) {
            relane(record, claim.scope.lanes);
        }
        record.owner = claim.owner.clone();
        record.scope = claim.scope.clone();
        let lane = record.lanes.get_mut(usize::from(claim.lane));
        let lane = lane.ok_or_else(|| Error::bug(format!("{attempt}: the stream has fewer lanes")))?;
        lane.epoch += 1;
        lane.beat = 0;
        Ok(lane.clone())
    }

    fn beat(&mut self, stream: &StreamId, lane: u16, epoch: u64) {
        let record = self.data.streams.get_mut(stream);
        let lane = record.and_then(|record| record.lanes.get_mut(usize::from(lane)));
        if let Some(lane) = lane.filter(|lane| lane.epoch == epoch) {
            lane.beat += 1;
        }
    }
}

/// Gives a stream another number of lanes, all of which start from what all old ones had passed. The commit numbers move
/// past all old ones, so that no commit of an old lane that is still on its way can land.
fn relane(record: &mut StreamRecord, lanes: u16) {
    let checkpoint = record.frontier();
    let number = record.lanes.iter().map(|lane| lane.number).max().unwrap_or(0) + 2;
    record.lanes.resize(usize::from(lanes), LaneRecord::default());
    for lane in &mut record.lanes {
        lane.checkpoint = checkpoint.clone();
        lane.number = number;
    }
}

trait CloneIfPatched: Sized {
    fn clone_if_patched(&self, sent: &Sent) -> Option<Self>;
}

impl CloneIfPatched for SinkRows {
    /// A patch may fail for lack of its row, and then nothing of the commit may be seen: it works on a copy.
    fn clone_if_patched(&self, sent: &Sent) -> Option<Self> {
        let staged = sent.staged.iter().map(|staged| &**staged);
        let patched = staged.chain([&sent.commit.changes]).any(|changes| changes.iter().any(|row| row.op == Op::Patch));
        patched.then(|| self.clone())
    }
}

/// Clears, reads for holes, deletes, puts.
fn apply(rows: &mut SinkRows, changes: &Changes, cleared: &mut Vec<String>, written: &mut Written) -> Result<()> {
    for row in changes.iter().filter(|row| row.op == Op::Clear) {
        rows.retain(|(table, _), _| *table != row.table.name);
        written.retain(|((table, _), _)| *table != row.table.name);
        cleared.push(row.table.name.clone());
    }
    let mut filled = vec![];
    for row in changes.iter().filter(|row| row.op == Op::Patch) {
        let older = rows.get(&(row.table.name.clone(), row.from.unwrap_or(row.key).to_vec()));
        let older = older.ok_or_else(|| Error::corrupt("commit to a memory sink: a patch has no row to patch"))?;
        let body = Body::read(row.body)?.filled(Body::read(older)?).bytes();
        filled.push(((row.table.name.clone(), row.key.to_vec()), body));
    }
    for row in changes.iter().filter(|row| row.op == Op::Delete) {
        let at = (row.table.name.clone(), row.key.to_vec());
        rows.remove(&at);
        written.push((at, None));
    }
    let whole = changes.iter().filter(|row| row.op == Op::Put);
    let whole = whole.map(|row| ((row.table.name.clone(), row.key.to_vec()), row.body.to_vec()));
    for (at, body) in whole.chain(filled) {
        rows.insert(at.clone(), body.clone());
        written.push((at, Some(body)));
    }
    Ok(())
}

impl Sink for MemorySink {
    fn limits(&self) -> Limits {
        self.lock().limits
    }

    fn inspect<'a>(&'a self, stream: &'a StreamId) -> Fut<'a, Option<StreamRecord>> {
        Box::pin(async move {
            pass(&self.state, |state| &mut state.doors, Site::Inspect).await?;
            Ok(self.record(stream))
        })
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> Fut<'a, (LaneRecord, Box<dyn Writer>)> {
        Box::pin(async move {
            let mut call = self.lock().doors.knock(Site::Claim);
            std::future::poll_fn(|cx| call.poll(&mut self.lock().doors, cx)).await;
            if call.outcome == Outcome::AnswerLost {
                // The claim holds, and its owner does not know.
                self.lock().claim(claim)?;
            }
            call.refused("claim a lane of a memory sink")?;
            let record = self.lock().claim(claim)?;
            let writer = MemoryWriter::new(self.clone(), claim, &record);
            Ok((record, Box::new(writer) as Box<dyn Writer>))
        })
    }

    fn beat<'a>(&'a self, stream: &'a StreamId, lane: u16, epoch: u64) -> Fut<'a, ()> {
        Box::pin(async move {
            let mut call = self.lock().doors.knock(Site::Beat);
            std::future::poll_fn(|cx| call.poll(&mut self.lock().doors, cx)).await;
            if !matches!(call.outcome, Outcome::Reject | Outcome::Late) {
                self.lock().beat(stream, lane, epoch);
            }
            call.refused("show a memory sink that a lane is at work")
        })
    }

    fn forget<'a>(&'a self, stream: &'a StreamId, seen: &'a StreamRecord) -> Fut<'a, ()> {
        Box::pin(async move {
            let streams = &mut self.lock().data.streams;
            if let Some(known) = streams.get(stream) {
                seen.refuse_if_claimed(stream, known)?;
                streams.remove(stream);
            }
            Ok(())
        })
    }

    fn prepare<'a>(&'a self, tables: &'a [Arc<Table>], _load: bool) -> Fut<'a, ()> {
        Box::pin(async move {
            let known = &mut self.lock().data.tables;
            for table in tables {
                known.retain(|old| old.name != table.name);
                known.push(Arc::clone(table));
            }
            Ok(())
        })
    }
}
