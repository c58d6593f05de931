//! The state of a memory source: rows, the log of its partitions, and everything that can happen to them.
//!
//! One order of transactions, numbered from 1; each transaction is logged in the partition (shard) that its keys hash to,
//! so with one shard the log is that of a database, and with several that of a sharded table, where a transaction over
//! two shards is two. Rows keep all their versions, each with its place in its partition: that is what lets a reader lag
//! behind the log, a view be frozen, and a test ask what the source was at any checkpoint. A world is for tests and
//! benches and grows with what is written to it.
//!
//! Nothing in here acts by itself: splits, trims, restores and lost connections happen when the owner of the world asks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::kinds::memory::faults::{Doors, Plan, lock};
use crate::model::{Checkpoint, Op, PartitionId, Position, Table};
use crate::pool::Pool;

/// One write of a source transaction. Tables go by their index in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the whole row.
    Put(u16, Vec<u8>, [Vec<u8>; 2]),
    /// Sets the first field of a row that is there: logged as a patch with a hole.
    Touch(u16, Vec<u8>, Vec<u8>),
    /// Moves a row that is there to a free key and sets its first field: logged as a patch from the old key, then its
    /// delete. Only in a world with one shard.
    Move(u16, Vec<u8>, Vec<u8>, Vec<u8>),
    /// Removes a row that is there.
    Delete(u16, Vec<u8>),
    /// Removes all rows of the table. Only in a world with one shard.
    Clear(u16),
}

/// One version of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Number of the transaction.
    pub transaction: u64,
    /// The partition that logged it.
    pub partition: PartitionId,
    /// The position right after it.
    pub position: Position,
    /// The row, or that it is gone.
    pub body: Option<Arc<[u8]>>,
}

#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) op: Op,
    pub(super) fresh: bool,
    pub(super) table: u16,
    pub(super) key: Vec<u8>,
    pub(super) body: Vec<u8>,
    pub(super) from: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) transaction: u64,
    pub(super) changes: Arc<Vec<Logged>>,
}

#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) id: PartitionId,
    pub(super) parents: Vec<PartitionId>,
    pub(super) log: VecDeque<Entry>,
    /// Number of the last transaction logged here, 0 if none.
    pub(super) last: u64,
    /// Everything up to this transaction is gone from the log.
    pub(super) trimmed: u64,
    pub(super) closed: bool,
    low: u8,
    high: u8,
}

/// Every version of every row, oldest first.
pub type Rows = BTreeMap<(u16, Vec<u8>), Vec<Version>>;

/// What a backup holds.
#[derive(Clone)]
pub(super) struct Data {
    lineage: u64,
    next_shard: u64,
    pub(super) transactions: u64,
    pub(super) rows: Rows,
    pub(super) shards: Vec<Shard>,
    /// How far the source was told that it may forget. `None`: it does not keep its log for anybody.
    pub(super) slot: Option<Checkpoint>,
    /// Readers see transactions up to this one.
    pub(super) visible: u64,
}

pub(super) struct State {
    pub(super) data: Data,
    /// Never goes back, not even with a backup.
    pub(super) versions: u64,
    lineages: u64,
    lagging: bool,
    pub(super) freezes: bool,
    /// Transactions up to this one lie at or before a head that was given.
    pub(super) told: u64,
    /// Raised when connections break.
    pub(super) connection: u64,
    /// A batch is filled no further than this, however large the pool's batches are.
    pub(super) batch_bytes: usize,
    /// The pool that the newest tail takes its batches from.
    pub(super) pool: Option<Pool>,
    /// How far the slot stood when it was made.
    pub(super) slot_start: Checkpoint,
    pub(super) doors: Doors,
}

/// A memory source with everything that can happen to it. Cheap to clone; clones are the same world.
#[derive(Clone)]
pub struct World {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) tables: Arc<[Arc<Table>]>,
}

/// A world as it once was.
#[derive(Clone)]
pub struct Backup(Data);

/// Text form of a transaction's number in positions: order of bytes is order of transactions.
pub(super) fn place(transaction: u64) -> Position {
    Position::at(format!("{transaction:016x}"))
}

/// The transaction at or before a position.
pub(super) fn transaction(position: &Position) -> Result<u64> {
    match position.boundary() {
        None => Ok(u64::MAX),
        Some([]) => Ok(0),
        Some(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .ok_or_else(|| Error::corrupt(format!("read position {position} of a memory source: not a number"))),
    }
}

fn hash(key: &[u8]) -> u8 {
    let hash = key.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash >> 24) as u8 ^ hash as u8
}

impl World {
    /// An empty world with these tables and so many shards (1 to 64).
    pub fn new(tables: &[&str], shards: u8) -> Self {
        assert!((1..=64).contains(&shards) && !tables.is_empty(), "a world has tables, and 1 to 64 shards");
        let tables = tables.iter().map(|name| Arc::new(Table { name: (*name).to_owned(), shape: vec![] })).collect();
        let data = Data {
            lineage: 1,
            next_shard: 0,
            transactions: 0,
            rows: Rows::new(),
            shards: vec![],
            slot: None,
            visible: 0,
        };
        let state = State {
            data,
            versions: 0,
            lineages: 1,
            lagging: false,
            freezes: false,
            told: 0,
            connection: 0,
            batch_bytes: usize::MAX,
            pool: None,
            slot_start: Checkpoint::default(),
            doors: Doors::default(),
        };
        let world = Self { state: Arc::new(Mutex::new(state)), tables };
        let mut state = world.lock();
        for i in 0..u16::from(shards) {
            let edge = |i: u16| i * 256 / u16::from(shards);
            state.data.open(vec![], edge(i) as u8, (edge(i + 1) - 1) as u8);
        }
        drop(state);
        world
    }

    /// Readers see a transaction only after [`World::settle`], while the log shows it at once.
    #[must_use]
    pub fn with_lagging_readers(self, lagging: bool) -> Self {
        self.lock().lagging = lagging;
        self
    }

    /// `Store::frozen` gives a view of one moment.
    #[must_use]
    pub fn with_frozen_views(self, freezes: bool) -> Self {
        self.lock().freezes = freezes;
        self
    }

    /// Tails and scans cut batches at so many bytes, so that transactions and tables lie over several of them.
    #[must_use]
    pub fn with_batch_bytes(self, bytes: usize) -> Self {
        self.lock().batch_bytes = bytes;
        self
    }

    /// Hands in who decides what goes wrong.
    pub fn plan(&self, plan: impl Plan + 'static) {
        self.lock().doors.plan = Box::new(plan);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Commits one transaction; without writes it is one that moves the log and changes nothing. Gives its number.
    pub fn transact(&self, writes: &[Write]) -> u64 {
        let mut state = self.lock();
        state.data.transactions += 1;
        let number = state.data.transactions;
        let mut logs: BTreeMap<usize, Vec<Logged>> = BTreeMap::new();
        for write in writes {
            state.write(number, write, &mut logs);
        }
        if writes.is_empty() {
            let open = state.data.shards.iter().position(|shard| !shard.closed);
            logs.insert(open.expect("a world has an open shard"), vec![]);
        }
        for (shard, changes) in logs {
            let shard = &mut state.data.shards[shard];
            shard.last = number;
            shard.log.push_back(Entry { transaction: number, changes: Arc::new(changes) });
        }
        if !state.lagging {
            state.data.visible = number;
        }
        state.doors.changed();
        number
    }

    /// Readers catch up with the log.
    pub fn settle(&self) {
        let mut state = self.lock();
        state.data.visible = state.data.transactions;
        state.doors.changed();
    }

    /// Closes an open shard and opens two children for its keys. False if there is none that can be split.
    pub fn split(&self, pick: usize) -> bool {
        let mut state = self.lock();
        let wide = |shard: &&mut Shard| !shard.closed && shard.low < shard.high;
        let count = state.data.shards.iter_mut().filter(wide_ref).count();
        let Some(pick) = pick.checked_rem(count) else { return false };
        let shard = state.data.shards.iter_mut().filter(wide).nth(pick).expect("the pick is below the count");
        shard.closed = true;
        let (parent, low, high) = (shard.id.clone(), shard.low, shard.high);
        let middle = low + (high - low) / 2;
        state.data.open(vec![parent.clone()], low, middle);
        state.data.open(vec![parent], middle + 1, high);
        state.doors.changed();
        true
    }

    /// Closes two open shards with neighbouring keys and opens one child for both. False if there are none.
    pub fn merge(&self) -> bool {
        let mut state = self.lock();
        let mut open: Vec<_> = state.data.shards.iter_mut().filter(|shard| !shard.closed).collect();
        open.sort_by_key(|shard| shard.low);
        let [left, right, ..] = &mut open[..] else { return false };
        (left.closed, right.closed) = (true, true);
        let (parents, low, high) = (vec![left.id.clone(), right.id.clone()], left.low, right.high);
        state.data.open(parents, low, high);
        state.doors.changed();
        true
    }

    /// Forgets the log up to the newest transaction, whatever was promised, and closed shards with it (history that was
    /// too short). The slot, if any, is lost.
    pub fn trim(&self) {
        let mut state = self.lock();
        let newest = state.data.transactions;
        state.data.shards.retain(|shard| !shard.closed);
        for shard in &mut state.data.shards {
            shard.trim(newest);
        }
        state.data.slot = None;
        state.doors.changed();
    }

    /// Takes closed shards from the listing whose end was released.
    pub fn prune(&self) {
        let data = &mut self.lock().data;
        let released = data.slot.clone().unwrap_or_default();
        data.shards.retain(|shard| *released.get(&shard.id) != Position::End);
    }

    /// Breaks all connections: tails must be opened again.
    pub fn disconnect(&self) {
        let mut state = self.lock();
        state.connection += 1;
        state.doors.changed();
    }

    /// Lifts all holds.
    pub fn lift(&self) {
        self.lock().doors.lift();
    }

    /// Takes a backup.
    pub fn backup(&self) -> Backup {
        Backup(self.lock().data.clone())
    }

    /// Sets the world back. With `new_lineage` its partitions have other names afterwards, as after a recovery that
    /// starts a new history; without it only their positions tell. Connections break.
    pub fn restore(&self, backup: &Backup, new_lineage: bool) {
        let mut state = self.lock();
        state.data = backup.0.clone();
        state.data.visible = state.data.transactions;
        state.told = 0;
        state.connection += 1;
        if new_lineage {
            state.lineages += 1;
            state.data.lineage = state.lineages;
            state.data.slot = None;
            let mut edges: Vec<_> =
                state.data.shards.iter().filter(|shard| !shard.closed).map(|shard| (shard.low, shard.high)).collect();
            edges.sort_unstable();
            state.data.shards.clear();
            for (low, high) in edges {
                state.data.open(vec![], low, high);
            }
        }
        state.doors.changed();
    }

    /// All rows, by table and key.
    pub fn rows(&self) -> BTreeMap<(String, Vec<u8>), Vec<u8>> {
        let state = self.lock();
        let newest = state.data.transactions;
        let row = |((table, key), versions): (&(u16, Vec<u8>), &Vec<Version>)| {
            let body = at(versions, newest)?;
            Some(((self.tables[usize::from(*table)].name.clone(), key.clone()), body.to_vec()))
        };
        state.data.rows.iter().filter_map(row).collect()
    }

    /// Lets somebody look at every version that every key ever had, oldest first.
    pub fn history<T>(&self, look: impl FnOnce(&Rows) -> T) -> T {
        look(&self.lock().data.rows)
    }

    /// The pool that the newest tail takes its batches from.
    pub fn pool(&self) -> Option<Pool> {
        self.lock().pool.clone()
    }

    /// How far the source's slot stood when it was made.
    pub fn slot_start(&self) -> Checkpoint {
        self.lock().slot_start.clone()
    }

    /// The end of what was written, without asking anybody's plan.
    pub fn newest(&self) -> Checkpoint {
        self.lock().data.head()
    }

    /// How far the source was told that it may forget.
    pub fn released(&self) -> Option<Checkpoint> {
        self.lock().data.slot.clone()
    }

    /// Number of shards that take writes.
    pub fn open_shards(&self) -> usize {
        self.lock().data.shards.iter().filter(|shard| !shard.closed).count()
    }
}

fn wide_ref(shard: &&mut Shard) -> bool {
    !shard.closed && shard.low < shard.high
}

/// The row as a reader sees it who sees transactions up to `transaction`.
pub(super) fn at(versions: &[Version], transaction: u64) -> Option<&Arc<[u8]>> {
    let seen = versions.partition_point(|version| version.transaction <= transaction);
    versions[..seen].last()?.body.as_ref()
}

impl Shard {
    pub(super) fn trim(&mut self, upto: u64) {
        while let Some(entry) = self.log.front().filter(|entry| entry.transaction <= upto) {
            self.trimmed = entry.transaction;
            self.log.pop_front();
        }
    }
}

impl Data {
    fn open(&mut self, parents: Vec<PartitionId>, low: u8, high: u8) {
        let id = PartitionId::new(format!("memory/{}/{:04}", self.lineage, self.next_shard));
        self.next_shard += 1;
        let (log, last, trimmed, closed) = (VecDeque::new(), 0, 0, false);
        self.shards.push(Shard { id, parents, log, last, trimmed, closed, low, high });
    }

    /// Whether a partition's name is of this lineage.
    pub(super) fn is_ours(&self, partition: &PartitionId) -> bool {
        partition.as_str().starts_with(&format!("memory/{}/", self.lineage))
    }

    pub(super) fn head(&self) -> Checkpoint {
        let end = |shard: &Shard| match shard.last {
            _ if shard.closed => Position::End,
            0 if cfg!(mutate = "wrong_head_of_empty") => place(0),
            0 => Position::Start,
            last => place(last),
        };
        self.shards.iter().map(|shard| (shard.id.clone(), end(shard))).collect()
    }

    pub(super) fn shard_of(&self, key: &[u8]) -> usize {
        let hash = hash(key);
        let takes = |shard: &Shard| !shard.closed && (shard.low..=shard.high).contains(&hash);
        self.shards.iter().position(takes).expect("every key has an open shard")
    }

    pub(super) fn body(&self, table: u16, key: &[u8]) -> Option<Arc<[u8]>> {
        self.rows.get(&(table, key.to_vec()))?.last()?.body.clone()
    }
}
