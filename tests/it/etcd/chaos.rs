//! Hot keys, half of them under leases, through kills of driftless, restarts and elections at the source and compactions: at
//! the end keys, values and expiries are equal, as `etcdctl` and `sqlite3` alone show them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use etcd_client::{Client, PutOptions, TxnOp};

use super::following::leader;
use crate::support::etcd::{Etcd, Release, Setup, until};
use crate::support::etcddb::{EtcdDb, Lines, NEAR_US, assert_near, lines};
use crate::support::program::Site;
use crate::support::scale::{figure, pick};
use crate::support::teleport::{SqliteDb, items, now_us};

const PATIENCE: Duration = Duration::from_secs(180);

/// Creates, updates, deletes and creates again; half of the puts have a lease of ten seconds to ten minutes.
async fn write(db: &EtcdDb, peers: &[String], keys: u64, told: &AtomicBool, count: &AtomicU64) {
    let mut client = Client::connect(peers, None).await.unwrap();
    let mut leases: Vec<(i64, Instant)> = Vec::new();
    let (mut n, mut dice) = (0u64, 7u64);
    while !told.load(Ordering::Relaxed) {
        n += 1;
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if n % 20 == 1 {
            let seconds = [10, 15, 30, 60, 120, 600][(n / 20) as usize % 6];
            let granted = tokio::time::timeout(Duration::from_secs(2), client.lease_grant(seconds, None)).await;
            if let Ok(Ok(lease)) = granted {
                leases.push((lease.id(), Instant::now() + Duration::from_secs(seconds as u64 - 5)));
            }
            leases.retain(|(_, until)| *until > Instant::now());
        }
        let lease = leases.get((dice >> 40) as usize % leases.len().max(1)).map(|lease| lease.0);
        let mut turn = Vec::new();
        for step in 0..4 {
            let key = db.stored(&format!("/hot/{:05}", ((dice >> 33) + step * 7) % keys));
            let options = lease.filter(|_| step % 2 == 0).map(|lease| PutOptions::new().with_lease(lease));
            match (dice >> (20 + step)) % 5 {
                0 => turn.push(TxnOp::delete(key, None)),
                _ => turn.push(TxnOp::put(key, STANDARD.encode(format!("planted-{n}-{step}")), options)),
            }
        }
        // One that fails, because nobody leads or its lease has just ended, is made up for by the next.
        let turn = client.txn(etcd_client::Txn::new().and_then(turn));
        drop(tokio::time::timeout(Duration::from_secs(2), turn).await);
        count.store(n, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn near(source: &Lines, sink: &Lines) -> bool {
    let expiry = |a: Option<i128>, b: Option<i128>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= NEAR_US,
        (a, b) => a == b,
    };
    source.len() == sink.len()
        && source.iter().all(|(key, ours)| {
            sink.get(key).is_some_and(|theirs| ours.0 == theirs.0 && ours.2 == theirs.2 && expiry(ours.1, theirs.1))
        })
}

#[test]
fn hot_keys_and_leases_come_through_kills_elections_and_compactions() {
    let members: &'static Vec<Etcd> = Box::leak(Box::new(Etcd::cluster("chaos", Release::New, &Setup::default())));
    let source = EtcdDb::create(&members[0], "chaos", &items(200));
    let peers: Vec<String> = members.iter().map(Etcd::url).collect();
    let folder = tempfile::tempdir().unwrap();
    let sink = SqliteDb::at(folder.path().join("dst"));
    let yaml = format!(
        "src: {{ type: etcd, peers: {peers:?}, prefix: {:?} }}\ndst: {{ type: sqlite, path: {:?} }}\n",
        source.prefix,
        sink.folder.display().to_string()
    );
    let site = Site::watched("etcd-chaos", &yaml);
    let (told, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut kills, mut elections, mut compactions) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(write(&source, &peers, pick(300, 5_000), &told, &count));
        });
        for round in 0..pick(6, 100) {
            let program = site.start("run", &[]);
            site.until("it follows", PATIENCE, |status| status["consistent"] == true && status["state"] != "stopped");
            std::thread::sleep(Duration::from_millis(500 + 137 * (round % 7)));
            if round % 3 == 1 {
                let leader = leader(members);
                members[leader].kill();
                until("the others agree", || members[(leader + 1) % 3].try_ctl(&["put", "/x", "1"]).is_ok());
                members[leader].spawn();
                members[leader].wait_ready();
                elections += 1;
            }
            program.kill();
            kills += 1;
            if round % 3 == 2 {
                // What is written until it starts again is out of the history when it does.
                std::thread::sleep(Duration::from_millis(300));
                members[0].compact();
                compactions += 1;
            }
        }
        told.store(true, Ordering::Relaxed);
    });
    let program = site.start("run", &[]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (ours, theirs) = (source.dump(), lines(&sink.dump(now_us())));
        if near(&ours, &theirs) || Instant::now() > deadline {
            assert!(Instant::now() < deadline, "{}", site.log());
            assert_near(&ours, &theirs, true);
            assert!(ours.values().any(|line| line.1.is_some()), "some are under leases");
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    let verdict = site.done("verify", &[]);
    assert_eq!(verdict["equal"], true, "{verdict}");
    assert!(program.stop(PATIENCE).success(), "{}", site.log());
    figure(
        "5",
        "etcd-chaos",
        format!(
            "{} transactions, {kills} kills, {elections} elections, {compactions} compactions: keys, values and expiries equal",
            count.load(Ordering::Relaxed)
        ),
    );
    members.iter().for_each(Etcd::kill);
}
