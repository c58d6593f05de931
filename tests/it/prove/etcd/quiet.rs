//! Nothing happens to the keys that are followed, for a long time, while others write to the cluster and it is compacted. Then
//! one put arrives. A lease that somebody keeps alive all the while lives on in the copy, and nothing at the source is touched.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Told;
use crate::support::etcd::{Etcd, Release, Setup, until};
use crate::support::etcddb::{EtcdDb, Lines, lines};
use crate::support::program::Site;
use crate::support::scale::{figure, full, pick};
use crate::support::teleport::{SqliteDb, hex, items, now_us};

const PATIENCE: Duration = Duration::from_secs(120);
/// Keys under the lease that is kept alive.
const ALIVE: usize = 5;

/// A server of either version, into either kind, side by side: most of it is waiting.
#[test]
fn after_a_long_quiet_a_put_arrives_and_what_is_kept_alive_lives() {
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, etcd) =
        (SqliteDb::at(folder.path().join("dst")), EtcdDb::empty(crate::support::etcd::sink(), "quiet"));
    std::thread::scope(|scope| {
        scope.spawn(|| quiet("new-to-etcd", Release::New, &etcd.yaml(), || etcd.dump()));
        scope.spawn(|| quiet("old-to-sqlite", Release::Old, &sqlite.yaml(), || lines(&sqlite.dump(now_us()))));
    });
}

fn quiet(name: &str, release: Release, dst: &str, sink: impl Fn() -> Lines + Sync) {
    let server: &'static Etcd = Box::leak(Box::new(Etcd::start(&format!("quiet-{name}"), release, &Setup::default())));
    let source = EtcdDb::create(server, "quiet", &items(200));
    let seconds = pick(5, 60);
    let lease = server.grant(seconds);
    let alive = |n: usize| format!("/alive/{n}");
    let puts: Vec<_> = (0..ALIVE)
        .map(|n| (source.stored(&alive(n)), Some(STANDARD.encode("v").into_bytes()), Some(lease.as_str())))
        .collect();
    server.write_leased(&puts);
    let mut keeper = server.ctl_command(&["lease", "keep-alive", &lease]).stdout(Stdio::null()).spawn().unwrap();
    let site = Site::watched(&format!("etcd-{name}"), &format!("name: {name}\nsrc: {}\ndst: {dst}\n", source.yaml()));
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    let before = (server.dump(&source.prefix), leases(server));
    let (told, compactions) = (AtomicBool::new(false), AtomicU32::new(0));
    let (begun, mut looks) = (Instant::now(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !told.load(Ordering::Relaxed) {
                server.put("/somebody/else", "1");
                server.compact();
                compactions.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(pick(200, 2_000)));
            }
        });
        let over = Told(&told);
        // At the small size the lease would have ended twice.
        while begun.elapsed() < Duration::from_secs(pick(11, 900)) {
            let (now, held) = (now_us(), sink());
            for n in 0..ALIVE {
                let line = held.get(&hex(alive(n).as_bytes()));
                let at = line.and_then(|line| line.1);
                assert!(at.is_some_and(|at| at > now), "it ended in the copy: {line:?}\n{}", site.log());
            }
            let status = site.status();
            assert!(status["consistent"] == true && status["gaps"] == 0, "{status}\n{}", site.log());
            looks += 1;
            std::thread::sleep(Duration::from_millis(pick(100, 1_000)));
        }
        drop(over);
    });
    let length = begun.elapsed();
    assert_eq!((server.dump(&source.prefix), leases(server)), before, "something was touched at the source");
    let put = Instant::now();
    source.put("/at/last", b"1");
    until("the put arrives", || sink().contains_key(&hex(b"/at/last")));
    let arrived = put.elapsed();
    assert_eq!(site.log().matches("a gap").count(), 0, "{}", site.log());
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    // Nobody keeps it alive any more: it ends on both sides.
    let ended = || (0..ALIVE).all(|n| !sink().contains_key(&hex(alive(n).as_bytes())));
    until("the keys end", ended);
    assert_eq!(site.done("verify", &[])["equal"], true);
    assert!(program.stop(PATIENCE).success(), "{}", site.log());
    server.stop();
    figure(
        "5.5",
        "etcd-quiet",
        format!(
            "{name}: quiet for {:.0} s through {} compactions, then a put was there after {:.1} s; no gap; {ALIVE} keys under a \
             lease of {seconds} s that was kept alive were there at each of {looks} looks, and nothing was touched at the source",
            length.as_secs_f64(),
            compactions.load(Ordering::Relaxed),
            arrived.as_secs_f64()
        ),
    );
    assert!(!full() || length >= Duration::from_secs(900));
}

fn leases(server: &Etcd) -> Vec<String> {
    let said = server.ctl(&["lease", "list"]);
    let mut leases: Vec<String> = said.lines().map(str::to_owned).collect();
    leases.sort_unstable();
    leases
}
