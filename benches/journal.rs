//! The journal beside the bare disk, and the past through the engine.
//!
//! **Append** is a capture as `run` does it: a source that costs nothing fills the relay's batches, its scribe makes frames and
//! takes them to the disk, and the clock stops when the last change may be forgotten by the source, because an fsync said
//! so. Beside it, in turns and in the same folder, the same number of bytes is written
//!
//! - as `dd bs=1M conv=fdatasync` does: one file, pieces of a MiB, one fsync at the end (this is what the bar is measured by);
//! - as `dd bs=1M oflag=direct conv=fdatasync` does, past the page cache;
//! - in just the pieces, files and fsyncs of the capture, one behind the other.
//!
//! The ratio is that of the medians: bytes of the journal's files a second by bytes of `dd` a second; where frames are
//! packed, bytes of keys and bodies count, as fewer bytes are written for them. The bar is 0.8. **Replay** is a pipeline whose
//! source is the journal and whose sink counts; the bar is a million changes of 256 bytes a second.
//!
//! `DRIFTLESS_BENCH_MIB` sets how much is captured each time (default 512), `DRIFTLESS_BENCH_DIR` where (default: this
//! package's `target`), `DRIFTLESS_BENCH_ONLY` a word that a case's name must have.
#![allow(clippy::unwrap_used, missing_docs)] // A bench stops at the first surprise.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use driftless::bridge::Bridge;
use driftless::engine::clock::RealClock;
use driftless::engine::host::ThreadHost;
use driftless::engine::pipeline::{Pipeline, Settings};
use driftless::engine::status::Shared;
use driftless::error::Error;
use driftless::kinds::journal::past::{Nothing, Past, Span, Speed};
use driftless::kinds::journal::relay::{Ack, Relay, Wanted};
use driftless::kinds::journal::{Disk, DiskFile, Folder, KEY, Key, Keys, Options, Retention};
use driftless::kinds::memory;
use driftless::kinds::memory::bench::{Drain, DrainMode};
use driftless::model::{Batch, Checkpoint, Op, Owner, PartitionId, Position, Scope, Steps, StreamId, Table};
use driftless::pool::Pool;
use driftless::sink::Limits;
use driftless::source::{Fut, Source, Tail};
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;
const KEY_BYTES: usize = 40;
/// Changes of one source transaction.
const TRANSACTION: usize = 100;
/// As with `memory: 256MiB`, of which the relay takes half.
const MEMORY: usize = 128 << 20;
const MIB: usize = 1 << 20;

fn main() {
    let mib = std::env::var("DRIFTLESS_BENCH_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(512);
    let only = std::env::var("DRIFTLESS_BENCH_ONLY").unwrap_or_default();
    let dir = std::env::var_os("DRIFTLESS_BENCH_DIR")
        .map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let place = tempfile::tempdir_in(dir).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for size in [256, 2048] {
        for (text, noise) in [("bodies that do not pack", true), ("bodies that pack", false)] {
            let supply = Supply::new(mib * MIB, size, noise);
            for (how, key) in [("", false), (", encrypted", true)] {
                let case = format!("{size} B, {text}{how}");
                if !case.contains(&only) {
                    continue;
                }
                beside(place.path(), &case, &supply, key, &runtime);
                if size == 256 {
                    replay(place.path(), &case, &supply, &runtime);
                }
                std::fs::remove_dir_all(place.path().join("journal")).unwrap();
            }
        }
    }
}

fn key() -> Keys {
    Keys::new(Key::new(&[7; KEY]))
}

/// A source that costs little more than a copy: bodies out of a table, in batches of the pool.
#[derive(Clone)]
struct Supply {
    /// Bodies, one behind the other.
    bodies: Arc<Vec<u8>>,
    body: usize,
    total: usize,
    /// How far everything is durable.
    released: Arc<watch::Sender<Position>>,
}

impl Supply {
    /// So many bytes in changes of `size` bytes each, keys included.
    fn new(bytes: usize, size: usize, noise: bool) -> Self {
        let body = size - KEY_BYTES;
        let mut state = 4711u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 32) as u32
        };
        // Enough of them that no window of a packer sees one twice.
        let mut bodies = Vec::with_capacity(32 * MIB);
        while bodies.len() + body <= 32 * MIB {
            let end = bodies.len() + body;
            if noise {
                bodies.extend((0..body.div_ceil(4)).flat_map(|_| random().to_le_bytes()));
            } else {
                while bodies.len() < end {
                    let (a, b, c) = (random(), random(), random());
                    let (net, host, seconds) = (b % 256, c % 256, a % 60);
                    bodies.extend_from_slice(format!(
                        "{{\"kind\":\"node\",\"version\":\"v2\",\"metadata\":{{\"name\":\"{a:08x}-{b:08x}\",\"expires\":\"2026-01-01T00:00:{seconds:02}Z\"}},\
                         \"spec\":{{\"addr\":\"10.0.{net}.{host}:3022\",\"hostname\":\"host-{c}\",\"labels\":{{\"env\":\"prod\"}}}}}}"
                    ).as_bytes());
                }
            }
            bodies.truncate(end);
        }
        let total = bytes / size / TRANSACTION * TRANSACTION;
        Self { bodies: Arc::new(bodies), body, total, released: Arc::new(watch::Sender::new(Position::Start)) }
    }

    fn partition() -> PartitionId {
        PartitionId::new("pg/7/1/bench")
    }

    fn checkpoint(position: Position) -> Checkpoint {
        [(Self::partition(), position)].into_iter().collect()
    }

    fn end(&self) -> Position {
        place(self.total)
    }

    fn raw_bytes(&self) -> f64 {
        (self.total * (self.body + KEY_BYTES)) as f64
    }
}

fn place(n: usize) -> Position {
    if n == 0 { Position::Start } else { Position::at(format!("{:08X}/{:08X}", n >> 24, (n & 0xff_ffff) << 8)) }
}

impl Source for Supply {
    fn head(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async { Ok(Self::checkpoint(self.end())) })
    }

    fn pin(&self) -> Fut<'_, Checkpoint> {
        Box::pin(async { Ok(Self::checkpoint(Position::Start)) })
    }

    fn tail<'a>(&'a self, _: &'a Checkpoint, pool: &'a Pool) -> Fut<'a, Box<dyn Tail>> {
        let key = *b"/nodes/default/0000000000000000000000000";
        let tail = SupplyTail { supply: self.clone(), pool: pool.clone(), given: 0, key, table: Arc::default() };
        Box::pin(async { Ok(Box::new(tail) as Box<dyn Tail>) })
    }
}

struct SupplyTail {
    supply: Supply,
    pool: Pool,
    given: usize,
    /// The key of the next change.
    key: [u8; KEY_BYTES],
    table: Arc<Table>,
}

/// Adds one to the decimal number at the end of a key.
fn count_up(key: &mut [u8]) {
    for digit in key.iter_mut().rev() {
        if *digit != b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}

impl SupplyTail {
    fn fill(&mut self, batch: &mut Batch) {
        let Supply { bodies, body, total, .. } = &self.supply;
        batch.begin(&Supply::partition(), place(self.given), Steps::Ordinal);
        let table = batch.table(&self.table);
        while batch.bytes() < self.pool.batch_bytes() && self.given < *total {
            for n in self.given..self.given + TRANSACTION {
                let at = n * body % (bodies.len() - body);
                batch.push(Op::Put, false, table, &self.key, &bodies[at..at + body], 1_700_000_000_000_000);
                count_up(&mut self.key);
            }
            self.given += TRANSACTION;
            batch.mark(place(self.given));
        }
    }
}

impl Tail for SupplyTail {
    fn next(&mut self) -> Fut<'_, Batch> {
        Box::pin(async move {
            if self.given >= self.supply.total {
                std::future::pending::<()>().await;
            }
            let mut batch = self.pool.take().await;
            self.fill(&mut batch);
            Ok(batch)
        })
    }

    fn release<'a>(&'a mut self, upto: &'a Checkpoint) -> Fut<'a, ()> {
        self.supply.released.send_replace(upto.get(&Supply::partition()).clone());
        Box::pin(async { Ok(()) })
    }
}

/// What a capture asked of the disk, in order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    File,
    Write(u64, usize),
    Sync,
    SyncNames,
}

/// A folder that remembers what was asked of it.
struct Noted {
    folder: Folder,
    asked: Arc<Mutex<Vec<Asked>>>,
}

struct NotedFile {
    file: Box<dyn DiskFile>,
    /// Nobody counts the mark and the places of readers.
    asked: Option<Arc<Mutex<Vec<Asked>>>>,
}

impl Noted {
    fn note(&self, name: &str, asked: Asked) -> Option<Arc<Mutex<Vec<Asked>>>> {
        let counts = name.contains(".segment");
        counts.then(|| {
            self.asked.lock().unwrap().push(asked);
            Arc::clone(&self.asked)
        })
    }
}

impl Disk for Noted {
    fn names(&self) -> io::Result<Vec<String>> {
        self.folder.names()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let asked = self.note(name, Asked::File);
        Ok(Box::new(NotedFile { file: self.folder.create(name)?, asked }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.folder.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.note(from, Asked::SyncNames);
        self.folder.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.folder.sync_names()
    }
}

impl NotedFile {
    fn note(&self, asked: Asked) {
        if let Some(all) = &self.asked {
            all.lock().unwrap().push(asked);
        }
    }
}

impl DiskFile for NotedFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(at, into)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.note(Asked::Write(at, bytes.len()));
        self.file.write(at, bytes)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.cut(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.note(Asked::Sync);
        self.file.sync()
    }
}

/// Captures all of a supply; gives how long it took until all of it was durable, and what the disk was asked for.
async fn capture(folder: &Path, supply: &Supply, encrypted: bool) -> (Duration, Vec<Asked>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (path, notes) = (folder.to_owned(), Arc::clone(&asked));
    let keys = if encrypted { key() } else { Keys::default() };
    let own = keys.clone();
    supply.released.send_replace(Position::Start);
    let mut released = supply.released.subscribe();
    let relay = Relay::new(
        Arc::new(supply.clone()),
        Wanted {
            name: "bench".into(),
            names: Vec::new(),
            ack: Ack::Journal,
            memory: MEMORY,
            disk: Box::new(move || {
                let noted = Noted { folder: Folder::own(&path)?, asked: Arc::clone(&notes) };
                Ok(Arc::new(noted) as Arc<dyn Disk>)
            }),
            options: Box::new(move || Options {
                keys: own.clone(),
                waiting_bytes: MEMORY / 4,
                ..Options::new("bench")
            }),
            keys,
            retention: Retention { bytes: 1 << 40, age: i64::MAX, outrun: false },
            snapshots: None,
            now: || 1_700_000_000_000_000,
        },
    );
    let began = Instant::now();
    tokio::select! {
        ended = relay.capture() => panic!("{:?}", ended.map_err(|error: Error| error.to_string())),
        all = released.wait_for(|upto| *upto == supply.end()) => drop(all.unwrap()),
    }
    let took = began.elapsed();
    relay.stop().await.unwrap();
    drop(relay);
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    (took, asked)
}

/// Capture and plain writes in turns.
fn beside(place: &Path, case: &str, supply: &Supply, encrypted: bool, runtime: &tokio::runtime::Runtime) {
    let (mut ours, mut changes, mut dd, mut direct, mut pattern) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut syncs, folder) = (0, place.join("journal"));
    for _ in 0..ROUNDS {
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        let (took, asked) = runtime.block_on(capture(&folder, supply, encrypted));
        let written = bytes_in(&folder);
        syncs = asked.iter().filter(|asked| **asked == Asked::Sync).count();
        let rate = |took: Duration| written as f64 / took.as_secs_f64() / 1e6;
        ours.push(rate(took));
        changes.push(supply.raw_bytes() / took.as_secs_f64() / 1e6);
        dd.push(rate(write_plain(&place.join("plain"), written, false).unwrap()));
        direct.extend(write_plain(&place.join("plain"), written, true).map(rate));
        pattern.push(rate(write_as_asked(&place.join("pattern"), &asked)));
    }
    let (ours, changes, dd, pattern) = (median(ours), median(changes), median(dd), median(pattern));
    let direct = if direct.is_empty() { "not possible".into() } else { format!("{:.0} MB/s", median(direct)) };
    println!(
        "PROVE 4.1 journal append, {case}: {ours:.0} MB/s on the disk with {syncs} fsyncs, {changes:.0} MB/s of changes; dd bs=1M \
         conv=fdatasync {dd:.0} MB/s, with oflag=direct {direct}, the same writes and fsyncs alone {pattern:.0} MB/s; \
         ratio to dd {:.2}",
        ours.max(changes) / dd
    );
}

fn bytes_in(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Bytes that no disk finds anything in, at a place that the kernel may hand to a disk as it is.
struct Filling {
    bytes: Vec<u8>,
    begin: usize,
}

impl Filling {
    fn new(length: usize) -> Self {
        let bytes: Vec<u8> =
            (0..(length / 4 + 2048) as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let begin = bytes.as_ptr().align_offset(4096);
        Self { bytes, begin }
    }

    fn get(&self, length: usize) -> &[u8] {
        &self.bytes[self.begin..self.begin + length]
    }
}

/// Writes so many bytes as `dd` would; nothing where files cannot be written past the page cache.
fn write_plain(path: &Path, bytes: u64, direct: bool) -> Option<Duration> {
    let filling = Filling::new(MIB);
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    if direct {
        options.custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed());
    }
    let file = options.open(path).ok()?;
    let began = Instant::now();
    for piece in 0..bytes / MIB as u64 {
        file.write_all_at(filling.get(MIB), piece * MIB as u64).unwrap();
    }
    file.sync_data().unwrap();
    let took = began.elapsed().mul_f64(bytes as f64 / (bytes / MIB as u64 * MIB as u64) as f64);
    std::fs::remove_file(path).unwrap();
    Some(took)
}

/// Asks a folder for the same that the capture asked for, one behind the other.
fn write_as_asked(folder: &Path, asked: &[Asked]) -> Duration {
    let most = asked.iter().map(|asked| if let Asked::Write(_, length) = asked { *length } else { 0 }).max().unwrap();
    let filling = Filling::new(most);
    std::fs::create_dir(folder).unwrap();
    let names = File::open(folder).unwrap();
    let (began, mut count, mut file) = (Instant::now(), 0, None);
    for asked in asked {
        match asked {
            Asked::File => {
                count += 1;
                file = Some(File::create(folder.join(count.to_string())).unwrap());
            }
            Asked::Write(at, length) => file.as_ref().unwrap().write_all_at(filling.get(*length), *at).unwrap(),
            Asked::Sync => file.as_ref().unwrap().sync_data().unwrap(),
            Asked::SyncNames => names.sync_all().unwrap(),
        }
    }
    let took = began.elapsed();
    std::fs::remove_dir_all(folder).unwrap();
    took
}

/// Everything that was captured, through the engine into a sink that counts.
fn replay(place: &Path, case: &str, supply: &Supply, runtime: &tokio::runtime::Runtime) {
    let disk: Arc<dyn Disk> = Arc::new(Folder::at(&place.join("journal")));
    let rates = (0..ROUNDS).map(|_| {
        let span = Span {
            disk: Arc::clone(&disk),
            keys: key(),
            through: u64::MAX,
            begin: Supply::checkpoint(Position::Start),
            whole: Supply::checkpoint(Position::Start),
            end: Supply::checkpoint(supply.end()),
        };
        let took = runtime.block_on(engine(span, supply.total as u64));
        supply.total as f64 / took.as_secs_f64() / 1e6
    });
    let rate = median(rates.collect());
    println!("PROVE 4.1 journal replay, {case}: {rate:.2} M changes/s through the engine into the memory sink");
}

async fn engine(span: Span, total: u64) -> Duration {
    let past = Past::new(span, Speed::Max);
    let sink = Drain::new(DrainMode::Count, Limits { changes: 10_000, bytes: 8 << 20, stage: true, in_flight: 1 });
    let (stop, stopped) = watch::channel(false);
    let bridge: Arc<dyn Bridge> = Arc::from(memory::bridge());
    let pipeline = Pipeline {
        settings: Settings {
            stream: StreamId::new("bench"),
            owner: Owner("bench".into()),
            scope: Scope { layout: "memory".into(), extent: String::new(), lanes: 1 },
            memory: 256 * MIB,
            parallel: 1,
            force: true,
            prune: false,
            takeover: false,
        },
        source: Arc::clone(&past) as Arc<dyn Source>,
        source_store: Arc::new(Nothing),
        sink: Arc::new(sink.clone()),
        sink_store: Arc::new(Nothing),
        bridge,
        clock: Arc::new(RealClock::default()),
        host: Arc::new(ThreadHost::new(tokio::runtime::Handle::current())),
        status: Shared::new("bench"),
        stop: stopped,
    };
    let (_ask, mut repairs) = tokio::sync::mpsc::channel(1);
    let began = Instant::now();
    let mut done = past.done();
    let watch = async {
        done.wait_for(|done| *done).await.unwrap();
        let took = began.elapsed();
        stop.send(true).unwrap();
        took
    };
    let (result, took) = tokio::join!(pipeline.run(&mut repairs), watch);
    result.unwrap();
    assert_eq!(sink.taken(), total, "every key is there once, so none is coalesced away");
    took
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
