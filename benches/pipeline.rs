//! The engine alone, memory → memory, at 256 bytes a change; and the delay from commit to visible between real stores.
//!
//! The first figure is what one core does: changes per second divided by the cores that the process kept busy. The bar is
//! five million. `DRIFTLESS_BENCH_SECONDS` sets how long each case runs (default 5).
#![allow(clippy::unwrap_used, missing_docs)] // A bench stops at the first surprise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use driftless::bridge::Bridge;
use driftless::engine::clock::RealClock;
use driftless::engine::host::ThreadHost;
use driftless::engine::pipeline::{Pipeline, Settings};
use driftless::engine::status::Shared;
use driftless::kinds::memory;
use driftless::kinds::memory::bench::{Drain, DrainMode, Flood};
use driftless::model::{Owner, Scope, StreamId};
use driftless::sink::{Limits, Sink as _};
use driftless::source::Source;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let seconds = std::env::var("DRIFTLESS_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5.0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for (name, keys, mode) in [
        ("1 M keys, counted at the sink", 1 << 20, DrainMode::Count),
        ("10 k hot keys, counted at the sink", 10_000, DrainMode::Count),
        ("1 M keys, kept in a hash map", 1 << 20, DrainMode::Keep),
    ] {
        for lanes in [1, 2] {
            let rates: Vec<f64> = (0..3).map(|_| runtime.block_on(engine(keys, mode, lanes, seconds / 3.0))).collect();
            let best = rates.iter().copied().fold(0.0, f64::max);
            let mut sorted = rates.clone();
            sorted.sort_by(f64::total_cmp);
            println!(
                "PROVE 3.7 engine memory→memory, 256 B, {lanes} lane(s), {name}: median {:.2} M changes/s per core, best {best:.2}",
                sorted[1]
            );
        }
    }
}

/// Runs a flood for about `seconds`; gives million changes per second and core.
async fn engine(keys: usize, mode: DrainMode, lanes: u16, seconds: f64) -> f64 {
    let warm = flood(keys, mode, lanes, 2_000_000).await;
    let total = (warm.per_second * seconds) as u64;
    let run = flood(keys, mode, lanes, total.max(2_000_000)).await;
    run.per_core / 1e6
}

struct Rate {
    per_second: f64,
    per_core: f64,
}

async fn flood(keys: usize, mode: DrainMode, lanes: u16, total: u64) -> Rate {
    let limits = Limits { changes: 10_000, bytes: 8 << 20, stage: true, in_flight: 1 };
    let source = Arc::new(Flood::new(keys, 256, total, 100));
    let source_head = Arc::clone(&source);
    let sink = Drain::new(mode, limits);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let status = Shared::new("bench");
    let bridge: Arc<dyn Bridge> = Arc::from(memory::bridge());
    let pipeline = Pipeline {
        settings: Settings {
            stream: StreamId::new("bench"),
            owner: Owner("bench".into()),
            scope: Scope { layout: "memory".into(), extent: String::new(), lanes },
            memory: 64 << 20,
            parallel: 1,
            force: true,
            prune: false,
            takeover: false,
        },
        source: Arc::clone(&source) as Arc<dyn Source>,
        source_store: source as _,
        sink: Arc::new(sink.clone()),
        sink_store: Arc::new(Flood::new(1, 8, 0, 1)),
        bridge,
        clock: Arc::new(RealClock::default()),
        host: Arc::new(ThreadHost::new(tokio::runtime::Handle::current())),
        status,
        stop: stopped,
    };
    let (_ask, mut repairs) = tokio::sync::mpsc::channel(1);
    let (cpu, begun) = (cpu_seconds(), Instant::now());
    let watch = async {
        let head = source_head.head().await.unwrap();
        let name = StreamId::new("bench");
        while !sink.inspect(&name).await.unwrap().is_some_and(|record| record.frontier().covers(&head)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let measured = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        stop.send(true).unwrap();
        measured
    };
    let (result, (wall, cpu)) = tokio::join!(pipeline.run(&mut repairs), watch);
    result.unwrap();
    let per_second = total as f64 / wall;
    Rate { per_second, per_core: total as f64 / cpu.max(wall) }
}

/// User and system time of this process, from the kernel's own account.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<f64> = after_name.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) / rustix::param::clock_ticks_per_second() as f64
}
