//! The journal beside the bare disk: appending with fsync against one plain sequential write of as many bytes and its fsync,
//! in turns in the same run and folder; and reading back. 256 bytes a change.
//!
//! The bars are 80 % of the plain write, and a million changes a second. `DRIFTLESS_BENCH_MIB` sets how much is written each
//! time (default 1024), `DRIFTLESS_BENCH_DIR` where (default: this package's `target`).
#![allow(clippy::unwrap_used, missing_docs)] // A bench stops at the first surprise.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use driftless::error::Fault;
use driftless::kinds::journal::{Disk, Folder, Given, KEY, Key, Keys, Options, Pack, Reader, Writer};
use driftless::model::{Batch, Op, PartitionId, Position, Steps};
use driftless::pool::Pool;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of a body; with its key a change has 256.
const BODY: usize = 216;
const KEY_BYTES: usize = 40;
const ROUNDS: usize = 3;

fn main() {
    let mib = std::env::var("DRIFTLESS_BENCH_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(1024);
    let dir = std::env::var_os("DRIFTLESS_BENCH_DIR")
        .map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let place = tempfile::tempdir_in(dir).unwrap();
    let noise = batches(mib << 20, true);
    let words = batches(mib << 20, false);
    let key = || Keys::new(Key::new(&[7; KEY]));
    beside(place.path(), "bodies that do not pack", &noise, &|| Options::new("bench"));
    beside(place.path(), "the same, encrypted", &noise, &|| Options { keys: key(), ..Options::new("bench") });
    beside(place.path(), "bodies that pack", &words, &|| Options::new("bench"));
    beside(place.path(), "the same, always packed", &words, &|| Options {
        pack: Pack::Always,
        ..Options::new("bench")
    });
    for (name, batches, options) in [
        ("plain", &noise, Options { pack: Pack::Never, ..Options::new("bench") }),
        ("packed", &words, Options { pack: Pack::Always, ..Options::new("bench") }),
        ("packed and encrypted", &words, Options { pack: Pack::Always, keys: key(), ..Options::new("bench") }),
    ] {
        read_back(place.path(), name, batches, options, key());
    }
}

/// Batches of a quarter MiB, each one source transaction.
fn batches(bytes: usize, noise: bool) -> Vec<Batch> {
    let mut state = 4711u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 32) as u32
    };
    let per_batch = (256 << 10) / (BODY + KEY_BYTES);
    let mut all = Vec::new();
    for number in 0..bytes / (256 << 10) {
        let mut batch = Batch::unpooled();
        batch.begin(&PartitionId::new("pg/7/1/bench"), position(number), Steps::Ordinal);
        let table = batch.table(&Arc::default());
        let mut body = [0; BODY];
        for row in 0..per_batch {
            let key = format!("/nodes/default/{:025}", number * per_batch + row);
            if noise {
                body.chunks_exact_mut(4).for_each(|piece| piece.copy_from_slice(&random().to_le_bytes()));
            } else {
                let text = format!(
                    "{{\"kind\":\"node\",\"version\":\"v2\",\"metadata\":{{\"name\":\"{:08x}\",\"expires\":\"2026-01-01T00:00:{:02}Z\"}},\"spec\":{{\"addr\":\"10.0.{}.{}:3022\",\"hostname\":\"host-{}\",\"labels\":{{}}}}}}",
                    random(),
                    random() % 60,
                    random() % 256,
                    random() % 256,
                    random() % 1000
                );
                body.fill(b' ');
                body[..text.len().min(BODY)].copy_from_slice(&text.as_bytes()[..text.len().min(BODY)]);
            }
            batch.push(Op::Put, false, table, key.as_bytes(), &body, 1_700_000_000_000_000);
        }
        batch.mark(position(number + 1));
        all.push(batch);
    }
    all
}

fn position(number: usize) -> Position {
    Position::at(format!("{number:08X}/00000000"))
}

/// Journal and plain file in turns; the ratio is that of the medians.
fn beside(place: &Path, name: &str, batches: &[Batch], options: &dyn Fn() -> Options) {
    let (mut ours, mut plain, mut written) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let folder = place.join("journal");
        let took = append(&folder, batches, options());
        written = bytes_in(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        ours.push(written as f64 / took.as_secs_f64() / 1e6);
        plain.push(written as f64 / write_plain(&place.join("plain"), written).as_secs_f64() / 1e6);
    }
    let (ours, plain) = (median(ours), median(plain));
    let changes: usize = batches.iter().map(Batch::len).sum();
    let raw = changes * (BODY + KEY_BYTES);
    println!(
        "PROVE 4.1 journal append, {name}: {ours:.0} MB/s on the disk ({:.0} MB/s of changes), plain write and fsync {plain:.0} MB/s, ratio {:.2}",
        ours * raw as f64 / written as f64,
        ours / plain
    );
}

/// One thread appends, one takes to the disk.
fn append(folder: &Path, batches: &[Batch], options: Options) -> Duration {
    let disk: Arc<dyn Disk> = Arc::new(Folder::own(folder).unwrap());
    let (writer, _) = Writer::open(disk, options).unwrap();
    let ended = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // ORDERING: Acquire sees every append that came before the flag was set.
            while !ended.load(Ordering::Acquire) {
                let before = writer.durable();
                if writer.commit().unwrap() == before {
                    std::thread::yield_now();
                }
            }
            writer.close().unwrap();
        });
        for batch in batches {
            while let Err(error) = writer.append(batch, 1) {
                assert_eq!(error.fault(), Fault::Transient);
                writer.commit().unwrap();
            }
        }
        // ORDERING: Release, for the load above.
        ended.store(true, Ordering::Release);
    });
    began.elapsed()
}

fn bytes_in(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn write_plain(path: &Path, bytes: u64) -> Duration {
    let piece: Vec<u8> = (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let began = Instant::now();
    let mut file = File::create(path).unwrap();
    let mut left = bytes as usize;
    while left > 0 {
        let count = left.min(piece.len());
        file.write_all(&piece[..count]).unwrap();
        left -= count;
    }
    file.sync_all().unwrap();
    let took = began.elapsed();
    std::fs::remove_file(path).unwrap();
    took
}

fn read_back(place: &Path, name: &str, batches: &[Batch], options: Options, keys: Keys) {
    let folder = place.join("journal");
    append(&folder, batches, options);
    let disk: Arc<dyn Disk> = Arc::new(Folder::at(&folder));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pool = Pool::for_memory(64 << 20);
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (mut reader, mut changes) = (Reader::at_beginning(Arc::clone(&disk), keys.clone()).unwrap(), 0);
        let began = Instant::now();
        loop {
            let mut batch = runtime.block_on(pool.take());
            if reader.next(&mut batch, pool.batch_bytes(), u64::MAX).unwrap() == Given::End {
                break;
            }
            changes += batch.len();
        }
        assert_eq!(changes, batches.iter().map(Batch::len).sum::<usize>());
        rates.push(changes as f64 / began.elapsed().as_secs_f64() / 1e6);
    }
    println!("PROVE 4.1 journal read back, {name}: {:.2} M changes/s of 256 B", median(rates));
    std::fs::remove_dir_all(&folder).unwrap();
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
