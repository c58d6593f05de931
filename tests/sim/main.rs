//! The whole engine under seeded faults: every order of events that could happen, on one thread, in virtual time.
//!
//! What is injected, and why the engine must survive it: calls that are slow, held, refused, answered although they did
//! not happen, done although they were refused, or done later than what was sent after them (`faults.rs`); processes that
//! are killed, stopped, doubled, told to stop; partitions that split, merge and are pruned; history that is trimmed; a
//! source or a sink that is set back; somebody else who writes to the sink (`run.rs`). What must hold is in `oracle.rs`.
//!
//! A failing seed prints the one command that replays it; with `DRIFTLESS_TRACE=1` that tells what happened.
#![allow(clippy::unwrap_used, missing_docs)] // Tests stop at the first surprise.

mod faults;
mod machine;
mod oracle;
mod rng;
mod run;
mod stories;
mod writer;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use run::{Report, Run};

/// LIMIT: seeds that every run tries: enough to find each known way of breaking the engine, in less than a minute.
const FIXED: u64 = 300;
/// LIMIT: seeds that are new with every commit.
const OF_THE_COMMIT: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

fn commit() -> String {
    let asked = || {
        let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output().ok()?;
        String::from_utf8(git.stdout).ok().filter(|hash| git.status.success() && !hash.is_empty())
    };
    std::env::var("DRIFTLESS_COMMIT").ok().or_else(asked).unwrap_or_else(|| "no commit".into())
}

fn seeds() -> Vec<u64> {
    if let Some(seed) = number("DRIFTLESS_SEED") {
        return vec![seed];
    }
    if let Some(count) = number("DRIFTLESS_SEEDS") {
        return (1..=count).collect();
    }
    let base = commit()
        .trim()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (1..=FIXED).chain((0..OF_THE_COMMIT).map(|n| base.wrapping_add(n))).collect()
}

fn one(seed: u64, trace: bool) -> Result<Report, String> {
    std::panic::catch_unwind(|| Run::new(seed, trace).all()).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

#[test]
fn every_seed_keeps_the_promises() {
    let trace = std::env::var_os("DRIFTLESS_TRACE").is_some();
    if trace {
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).without_time();
        subscriber.with_writer(std::io::stderr).init();
    }
    let seeds = seeds();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let total = Mutex::new(Report::default());
    let begun = std::time::Instant::now();
    let workers = if trace { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match one(seed, trace) {
                        Ok(report) => total.lock().unwrap().add(&report),
                        Err(why) => {
                            println!("DRIFTLESS_SEED={seed} cargo test --test sim -- --nocapture  # {why}");
                            failed.lock().unwrap().push(seed);
                        }
                    }
                }
            });
        }
    });
    let (total, failed) = (total.into_inner().unwrap(), failed.into_inner().unwrap());
    println!("{} seeds in {:.1}s: {total:?}", seeds.len(), begun.elapsed().as_secs_f64());
    assert!(failed.is_empty(), "{} of {} seeds failed: {failed:?}", failed.len(), seeds.len());
}
