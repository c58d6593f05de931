//! Transactions of a hundred puts are never visible in part, and every state that a reader of the destination can see is one
//! that the source had: an independent client reads all of it at one revision, as often as it can, also through kills.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use etcd_client::{Client, GetOptions, KeyValue, Txn, TxnOp};

use super::Told;
use crate::support::etcd::{self, Etcd};
use crate::support::etcddb::{EtcdDb, assert_near};
use crate::support::program::{Site, get};
use crate::support::scale::{figure, pick};

const PATIENCE: Duration = Duration::from_secs(120);
/// Sets of keys; each transaction is of the next one. More than one does not fit into what a commit takes.
const SETS: u64 = 7;
/// Puts of a transaction.
const PUTS: usize = 100;

#[test]
fn a_transaction_of_a_hundred_puts_is_never_seen_in_part() {
    for (name, from, to) in [("new", etcd::source(), etcd::sink()), ("old", etcd::source(), etcd::old())] {
        watched(name, from, to);
    }
}

/// What one transaction does: every ninth removes its keys instead.
fn removes(n: u64) -> bool {
    n % 9 == 4
}

/// What each set holds once transaction `n` is the last one, the first being 1: its version, or nothing.
fn state(n: u64) -> Vec<Option<u64>> {
    let last = |set: u64| (n.saturating_sub(SETS - 1)..=n).find(|n| n % SETS == set).filter(|n| *n > 0 && !removes(*n));
    (0..SETS).map(last).collect()
}

fn watched(name: &str, from: &'static Etcd, to: &'static Etcd) {
    let source = EtcdDb::empty(from, "whole");
    source.put("/other", b"0");
    let sink = EtcdDb::empty(to, "whole");
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::new(
        &format!("etcd-whole-{name}"),
        &format!("name: whole-{name}\nsrc: {}\ndst: {}\nlisten: {listen}\n", source.yaml(), sink.yaml()),
    );
    let mut program = Some(site.start("run", &[]));
    site.until_caught_up(PATIENCE);
    let (told, written, versions) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (begun, mut kills) = (Instant::now(), 0u64);
    let seen = std::thread::scope(|scope| {
        let writer = scope.spawn(|| on_runtime(write(&source, &told, &written)));
        let observer = scope.spawn(|| on_runtime(observe(&sink, &told, &versions)));
        let over = Told(&told);
        let (enough, lives) = (pick(40, 1_500), pick(2, 13));
        loop {
            let seen = versions.load(Ordering::Relaxed);
            if seen >= enough || writer.is_finished() || observer.is_finished() {
                break;
            }
            assert!(begun.elapsed() < pick(1, 10) * PATIENCE, "too few versions are seen\n{}", site.log());
            if seen > enough * (kills + 1) / lives {
                kills += 1;
                program.take().unwrap().kill();
                program = Some(site.start("run", &[]));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(over);
        writer.join().unwrap();
        observer.join().unwrap()
    });
    let seconds = begun.elapsed().as_secs_f64();
    site.until_caught_up(PATIENCE);
    assert_near(&source.dump(), &sink.dump(), false);
    let page = get(listen, "/metrics").unwrap();
    let split = page.lines().find(|line| line.starts_with("driftless_split_transactions_total")).map(str::to_owned);
    assert!(split.as_ref().is_none_or(|line| line.ends_with(" 0")), "{split:?}");
    assert_eq!(site.log().matches("a gap").count(), 0, "{}", site.log());
    assert!(program.unwrap().stop(PATIENCE).success(), "{}", site.log());
    let (looks, whole) = (seen.looks, seen.versions.len());
    figure(
        "5.4",
        "etcd-whole",
        format!(
            "into etcd ({name}): {} transactions of {PUTS}, {looks} looks at one revision each ({:.0} a second), {whole} \
             states seen, each one that the source had, none in part; {kills} kills",
            written.load(Ordering::Relaxed),
            looks as f64 / seconds
        ),
    );
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Transaction after transaction, with single puts between them, so that commits begin and end anywhere.
async fn write(db: &EtcdDb, told: &AtomicBool, written: &AtomicU64) {
    let mut client = Client::connect([db.server.url()], None).await.unwrap();
    let mut n = 0;
    while !told.load(Ordering::Relaxed) {
        n += 1;
        let value = STANDARD.encode(format!("{n:09}"));
        let one = |key: usize| {
            let key = db.stored(&format!("/whole/{}/{key:03}", n % SETS));
            if removes(n) { TxnOp::delete(key, None) } else { TxnOp::put(key, value.clone(), None) }
        };
        client.txn(Txn::new().and_then((0..PUTS).map(one).collect::<Vec<_>>())).await.unwrap();
        written.store(n, Ordering::Relaxed);
        for _ in 0..n % 4 {
            client.put(db.stored("/other"), value.clone(), None).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(pick(30, 20))).await;
    }
}

#[derive(Default)]
struct Seen {
    looks: u64,
    versions: BTreeSet<u64>,
}

async fn observe(sink: &EtcdDb, told: &AtomicBool, versions: &AtomicU64) -> Seen {
    let mut client = Client::connect([sink.server.url()], None).await.unwrap();
    let (mut seen, mut last) = (Seen::default(), 0);
    while !told.load(Ordering::Relaxed) {
        // One range is of one revision.
        let options = GetOptions::new().with_prefix();
        let rows = client.get(sink.stored("/whole/"), Some(options)).await.unwrap();
        let found = sets(rows.kvs(), sink.stored("/whole/").len());
        let newest = found.iter().flatten().max().copied().unwrap_or(0);
        // The newest may have been one that removes.
        let known = (newest..=newest + 1).find(|n| state(*n) == found);
        let known = known.unwrap_or_else(|| panic!("the source never had {found:?}"));
        assert!(known >= last, "the copy went back from {last} to {known}");
        last = known;
        seen.looks += 1;
        seen.versions.insert(known);
        versions.store(seen.versions.len() as u64, Ordering::Relaxed);
    }
    seen
}

/// The version of each set, all of whose keys must have it.
fn sets(rows: &[KeyValue], prefix: usize) -> Vec<Option<u64>> {
    let mut found: Vec<Vec<u64>> = vec![Vec::new(); SETS as usize];
    for row in rows {
        let set = usize::from(row.key()[prefix] - b'0');
        let value = String::from_utf8(STANDARD.decode(row.value()).unwrap()).unwrap();
        found[set].push(value.parse().unwrap());
    }
    let whole = |versions: Vec<u64>| {
        let first = versions.first().copied();
        let same = versions.iter().all(|version| Some(*version) == first);
        assert!(same && [0, PUTS].contains(&versions.len()), "a transaction is seen in part: {versions:?}");
        first
    };
    found.into_iter().map(whole).collect()
}
