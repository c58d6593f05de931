//! etcd → etcd beside what a user would pick instead, `etcdctl make-mirror`, in one run on one machine.
//!
//! Both clusters wait for their disk at every write, as etcd does. A first copy of keys of half a KiB counts from the start
//! of the program: make-mirror's until the last key is there, driftless' until it has ended, sweep included. Then each
//! follows a burst of puts of keys that were never there before, from the first put to the last one visible at the destination,
//! while the other does not run. The delay is from the answer that a writer got to the event that a watch of the destination
//! brought, for each of a thousand puts a second. Three repetitions, medians; all that arrived is compared.
//!
//! `DRIFTLESS_BENCH_KEYS` (default 50 000; the burst is of two fifths of it), `DRIFTLESS_BENCH_REPEAT` (default 3) and
//! `DRIFTLESS_BENCH_SECONDS` (default 20) make it smaller. `DRIFTLESS_BENCH_ONLY` picks works by a part of their name.
#![allow(clippy::unwrap_used, missing_docs, dead_code)] // A bench stops at the first surprise.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use etcd_client::{Client, EventType, GetOptions, Txn, TxnOp, WatchOptions};

mod parts;
#[path = "../tests/it/support/mod.rs"]
mod support;

use parts::{at, fsync_ms};
use support::etcd::{Etcd, Release, Setup};
use support::program::{Running, Site};

const PATIENCE: Duration = Duration::from_secs(900);
/// Puts of a burst that are on their way at once; with fewer the source waits for its writers.
const WRITERS: u64 = 128;
const PEERS: [&str; 2] = ["make-mirror", "driftless"];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let keys = number("DRIFTLESS_BENCH_KEYS", 50_000);
    let repeat = number("DRIFTLESS_BENCH_REPEAT", 3);
    let seconds = number("DRIFTLESS_BENCH_SECONDS", 20);
    let only = std::env::var("DRIFTLESS_BENCH_ONLY").unwrap_or_default();
    println!("PROVE 5.1 etcd: fsync of this disk takes {:.2} ms (median)", fsync_ms());
    let start = |name: &str| Etcd::start(name, Release::New, &Setup { durable: true, ..Setup::default() });
    let servers = Servers { source: start("bench-source"), sink: start("bench-sink") };
    if "first copy".contains(&only) {
        first_copy(&servers, keys, repeat);
    }
    if "burst".contains(&only) {
        burst(&servers, keys * 2 / 5, repeat);
    }
    if "delay".contains(&only) {
        for peer in [1, 0] {
            delay(&servers, peer, seconds);
        }
    }
}

struct Servers {
    source: Etcd,
    sink: Etcd,
}

/// Somebody who follows a prefix.
enum Follower {
    Mirror(Child),
    Ours(Running, Site),
}

impl Follower {
    fn end(self) {
        match self {
            Self::Mirror(mut child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            Self::Ours(program, site) => {
                assert!(program.stop(PATIENCE).success(), "{}", site.log());
            }
        }
    }
}

impl Servers {
    fn site(&self, from: &str, to: &str) -> Site {
        Site::new(
            "bench-etcd",
            &format!(
                "name: bench{}\nsrc: {{ type: etcd, peers: [{:?}], prefix: {from:?}, layout: raw }}\n\
                 dst: {{ type: etcd, peers: [{:?}], prefix: {to:?}, layout: raw }}",
                to.replace('/', "-").trim_end_matches('-'),
                self.source.url(),
                self.sink.url()
            ),
        )
    }

    fn mirror(&self, from: &str, to: &str) -> Child {
        let arguments =
            ["make-mirror", "--prefix", from, "--dest-prefix", to, &format!("127.0.0.1:{}", self.sink.port)];
        self.source.ctl_command(&arguments).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Follows from now on: what is put next is not part of a first copy.
    fn follow(&self, peer: usize, from: &str, to: &str) -> Follower {
        let follower = match peer {
            0 => Follower::Mirror(self.mirror(from, to)),
            _ => {
                let site = self.site(from, to);
                Follower::Ours(site.start("run", &[]), site)
            }
        };
        self.source.put(&format!("{from}ready"), "1");
        on_runtime(async { arrived(&mut client(&self.sink).await, to, 1).await });
        if let Follower::Ours(_, site) = &follower {
            site.until_caught_up(PATIENCE);
        }
        follower
    }

    /// Fails unless the destination has what the source has.
    fn compare(&self, from: &str, to: &str) {
        on_runtime(async {
            let (ours, theirs) = (all(&self.source, from).await, all(&self.sink, to).await);
            assert!(ours == theirs, "{from} has {} keys, {to} {}", ours.len(), theirs.len());
        });
    }

    /// Lets each begin with nothing left to be written by the other.
    fn settle(&self, gone: &str) {
        for server in [&self.source, &self.sink] {
            server.compact();
        }
        self.sink.ctl(&["del", "--prefix", gone]);
        assert!(std::process::Command::new("sync").status().unwrap().success());
    }
}

fn first_copy(servers: &Servers, keys: u64, repeat: u64) {
    on_runtime(fill(&servers.source, "/bench/", keys));
    let mut times = [Vec::new(), Vec::new()];
    let mut there = Vec::new();
    for round in 0..repeat {
        for place in 0..PEERS.len() {
            // Whoever comes first finds emptier caches, so everybody does once.
            let peer = (place + round as usize) % PEERS.len();
            let to = format!("/copy-{peer}-{round}/");
            let begun = Instant::now();
            if peer == 0 {
                let mirror = Follower::Mirror(servers.mirror("/bench/", &to));
                on_runtime(async { arrived(&mut client(&servers.sink).await, &to, keys).await });
                times[peer].push(begun.elapsed().as_secs_f64());
                mirror.end();
            } else {
                let site = servers.site("/bench/", &to);
                let program = site.start("clone", &[]);
                on_runtime(async { arrived(&mut client(&servers.sink).await, &to, keys).await });
                there.push(begun.elapsed().as_secs_f64());
                assert!(program.ended(PATIENCE).success(), "{}", site.log());
                times[peer].push(begun.elapsed().as_secs_f64());
            }
            servers.compare("/bench/", &to);
            servers.settle(&to);
        }
    }
    println!(
        "PROVE 5.1 first copy: driftless has all keys there after {:.2} s (median), before its sweep",
        median(&there)
    );
    table("first copy", keys, &times);
}

fn burst(servers: &Servers, count: u64, repeat: u64) {
    let mut times = [Vec::new(), Vec::new()];
    let mut taken = [Vec::new(), Vec::new()];
    for round in 0..repeat {
        for place in 0..PEERS.len() {
            let peer = (place + round as usize) % PEERS.len();
            let (from, to) = (format!("/burst-{peer}-{round}/"), format!("/follow-{peer}-{round}/"));
            let follower = servers.follow(peer, &from, &to);
            let begun = Instant::now();
            let written = on_runtime(async {
                let mut sink = client(&servers.sink).await;
                let looks = async { arrived(&mut sink, &to, count + 1).await };
                tokio::join!(puts(&servers.source, &from, count), looks).0
            });
            times[peer].push(begun.elapsed().as_secs_f64());
            taken[peer].push(written.as_secs_f64());
            follower.end();
            servers.compare(&from, &to);
            servers.settle(&to);
        }
    }
    for (peer, taken) in PEERS.iter().zip(&taken) {
        println!("PROVE 5.1 burst: beside {peer} the source took it in {:.2} s (median)", median(taken));
    }
    table("burst of single puts", count, &times);
}

fn delay(servers: &Servers, peer: usize, seconds: u64) {
    let (from, to) = (format!("/delay-{peer}/"), format!("/delayed-{peer}/"));
    let follower = servers.follow(peer, &from, &to);
    let count = seconds * 1_000;
    let (ready, begin) = mpsc::channel();
    let (watched, there) = (servers.sink.url(), to.clone());
    let watch = std::thread::spawn(move || on_runtime(watch(watched, there, count, ready)));
    begin.recv().unwrap();
    let committed = on_runtime(paced(&servers.source, &from, count));
    let seen = watch.join().unwrap();
    let mut delays: Vec<f64> = committed
        .iter()
        .zip(&seen)
        // It can be visible before the writer hears that its own put is done.
        .map(|(put, seen)| seen.saturating_duration_since(*put).as_secs_f64() * 1e3)
        .collect();
    delays.sort_by(f64::total_cmp);
    println!(
        "PROVE 5.1 delay etcd → etcd, 1 000 puts/s for {seconds} s: {}: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        PEERS[peer],
        at(&delays, 0.5),
        at(&delays, 0.99),
        at(&delays, 1.0)
    );
    follower.end();
    servers.compare(&from, &to);
    servers.settle(&to);
}

fn table(work: &str, count: u64, times: &[Vec<f64>; 2]) {
    let ours = median(&times[1]);
    for (peer, times) in PEERS.iter().zip(times) {
        let time = median(times);
        println!(
            "PROVE 5.1 {work}: {peer}: {:.2} k keys/s (median {time:.2} s of {times:.2?}); driftless is {:.1} x as fast",
            count as f64 / time / 1e3,
            time / ours
        );
    }
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn client(server: &Etcd) -> Client {
    Client::connect([server.url()], None).await.unwrap()
}

/// Half a KiB that is not like its neighbours.
fn value(n: u64) -> Vec<u8> {
    (0..64).flat_map(|part| (n * 64 + part).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

fn key(prefix: &str, n: u64) -> String {
    format!("{prefix}{n:08}")
}

async fn fill(server: &Etcd, prefix: &str, count: u64) {
    let mut client = client(server).await;
    for first in (0..count).step_by(100) {
        let puts: Vec<_> =
            (first..count.min(first + 100)).map(|n| TxnOp::put(key(prefix, n), value(n), None)).collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
}

/// Puts each key once, many at a time; gives how long the cluster took to take them.
async fn puts(server: &Etcd, prefix: &str, count: u64) -> Duration {
    let begun = Instant::now();
    let client = client(server).await;
    let writers = (0..WRITERS).map(|writer| {
        let (mut kv, prefix) = (client.kv_client(), prefix.to_owned());
        tokio::spawn(async move {
            for n in (writer..count).step_by(WRITERS as usize) {
                kv.put(key(&prefix, n), value(n), None).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    begun.elapsed()
}

/// Puts each key once, one every millisecond, whatever became of those before; gives when each was answered.
async fn paced(server: &Etcd, prefix: &str, count: u64) -> Vec<Instant> {
    let client = client(server).await;
    let (begun, mut puts) = (Instant::now(), Vec::new());
    let prefix: Arc<str> = prefix.into();
    for n in 0..count {
        tokio::time::sleep_until((begun + Duration::from_millis(n)).into()).await;
        let (mut kv, prefix) = (client.kv_client(), Arc::clone(&prefix));
        puts.push(tokio::spawn(async move {
            kv.put(key(&prefix, n), value(n), None).await.unwrap();
            Instant::now()
        }));
    }
    let mut answered = Vec::new();
    for put in puts {
        answered.push(put.await.unwrap());
    }
    answered
}

/// When each key was there.
async fn watch(url: String, prefix: String, count: u64, ready: mpsc::Sender<()>) -> Vec<Instant> {
    let mut client = Client::connect([url], None).await.unwrap();
    let mut stream = client.watch(prefix.as_str(), Some(WatchOptions::new().with_prefix())).await.unwrap();
    ready.send(()).unwrap();
    let mut seen: Vec<Option<Instant>> = vec![None; count as usize];
    let mut left = count;
    while left > 0 {
        let answer = stream.message().await.unwrap().unwrap();
        let now = Instant::now();
        for event in answer.events() {
            let key = event.kv().unwrap().key_str().unwrap();
            let Ok(n) = key[prefix.len()..].parse::<usize>() else { continue };
            assert_eq!(event.event_type(), EventType::Put);
            left -= u64::from(seen[n].is_none());
            seen[n].get_or_insert(now);
        }
    }
    seen.into_iter().map(Option::unwrap).collect()
}

/// Waits until so many keys are there: counting them costs the cluster next to nothing.
async fn arrived(client: &mut Client, prefix: &str, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let options = GetOptions::new().with_prefix().with_count_only();
        let found = client.get(prefix, Some(options)).await.unwrap().count();
        if found >= i64::try_from(count).unwrap() {
            return;
        }
        assert!(Instant::now() < deadline, "{found} of {count} keys have come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Everything under a prefix.
async fn all(server: &Etcd, prefix: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut client = client(server).await.kv_client();
    let mut found = BTreeMap::new();
    let (mut from, mut more) = (prefix.as_bytes().to_vec(), true);
    while more {
        let options = GetOptions::new().with_range(format!("{}0", prefix.trim_end_matches('/'))).with_limit(2_000);
        let page = client.get(from, Some(options)).await.unwrap();
        for row in page.kvs() {
            found.insert(row.key()[prefix.len()..].to_vec(), row.value().to_vec());
        }
        from = page.kvs().last().map(|row| [row.key(), b"\0"].concat()).unwrap_or_default();
        more = page.more();
    }
    found
}
