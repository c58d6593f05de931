//! `run` from etcd into the other kinds, by the real program, while things happen to the cluster; looked at by others'
//! programs alone.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::etcd::{self, Etcd, Proxy, Release, Setup, Weather, until};
use crate::support::etcddb::{EtcdDb, Lines, assert_near, lines};
use crate::support::pg;
use crate::support::program::Site;
use crate::support::scale::pick;
use crate::support::teleport::{PgDb, SqliteDb, hex, items, now_us};

const PATIENCE: Duration = Duration::from_secs(120);

/// A pipeline from a prefix into a SQLite file of its own.
struct Case {
    source: EtcdDb,
    sink: SqliteDb,
    site: Site,
    _folder: tempfile::TempDir,
}

impl Case {
    fn new(name: &str, source: EtcdDb) -> Self {
        let yaml = source.yaml();
        Self::with(name, source, &yaml, "")
    }

    fn with(name: &str, source: EtcdDb, src: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sink = SqliteDb::at(folder.path().join("dst"));
        let dst = sink.yaml();
        let site = Site::watched(&format!("etcd-run-{name}"), &format!("src: {src}\ndst: {dst}\nparallel: 4\n{more}"));
        Self { source, sink, site, _folder: folder }
    }

    fn lines(&self) -> Lines {
        lines(&self.sink.dump(now_us()))
    }

    /// Waits until the sink has what the source has, which nobody writes to.
    fn settle(&self) {
        settle(&self.source, || self.lines(), true);
        let verdict = self.site.done("verify", &[]);
        assert_eq!(verdict["equal"], true, "{verdict}\n{}", self.site.log());
    }

    fn has(&self, key: &str) -> bool {
        self.lines().contains_key(&hex(key.as_bytes()))
    }

    fn consistent(&self) {
        self.site.until("it is consistent", PATIENCE, |status| status["consistent"] == true);
    }

    /// Gaps that were opened, by the process's own page.
    fn gaps(&self) -> usize {
        self.site.log().matches("a gap").count()
    }
}

fn settle(source: &EtcdDb, sink: impl Fn() -> Lines, revisions: bool) {
    let deadline = Instant::now() + PATIENCE;
    let values = |lines: &Lines| lines.iter().map(|(key, line)| (key.clone(), line.0.clone())).collect::<Vec<_>>();
    loop {
        let (ours, theirs) = (source.dump(), sink());
        if values(&ours) == values(&theirs) || Instant::now() > deadline {
            assert_near(&ours, &theirs, revisions);
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn value(text: &str) -> Option<Vec<u8>> {
    Some(STANDARD.encode(text).into_bytes())
}

/// What a cluster does: puts, updates, deletes, keys that come back, transactions, leases.
fn change(db: &EtcdDb, round: usize) {
    db.put("/new/one", format!("{round}").as_bytes());
    db.put("/apps/foo", format!("changed {round}").as_bytes());
    db.delete("/apps/foo-bar");
    db.put("/gone/and/back", b"first");
    db.delete("/gone/and/back");
    db.put("/gone/and/back", format!("again {round}").as_bytes());
    let lease = db.server.grant(1_800);
    let writes: Vec<_> = (0..50)
        .map(|n| (db.stored(&format!("/txn/{n}")), value(&format!("{round}")), (n % 2 == 0).then_some(lease.as_str())))
        .chain((0..10).map(|n| (db.stored(&format!("/txn/gone-{n}")), None, None)))
        .collect();
    db.server.write_leased(&writes);
}

#[test]
fn a_cluster_is_copied_and_followed_into_sqlite() {
    for (name, server) in [("new", etcd::source()), ("old", etcd::old())] {
        let case = Case::new(name, EtcdDb::create(server, "follow", &items(pick(500, 20_000))));
        let program = case.site.start("run", &[]);
        change(&case.source, 1);
        case.consistent();
        change(&case.source, 2);
        case.site.until_caught_up(PATIENCE);
        case.settle();
        assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
        // What happened while nobody followed comes out of the history.
        change(&case.source, 3);
        let program = case.site.start("run", &[]);
        case.settle();
        assert_eq!(case.gaps(), 0, "{}", case.site.log());
        assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    }
}

#[test]
fn a_cluster_is_followed_into_postgresql() {
    let source = EtcdDb::create(etcd::source(), "follow_pg", &items(200));
    let sink = PgDb::empty(pg::secondary(), "etcd_follow");
    let yaml = format!("src: {}\ndst: {{ type: postgresql, conn_string: {:?} }}\n", source.yaml(), sink.url());
    let site = Site::watched("etcd-run-pg", &yaml);
    let program = site.start("run", &[]);
    change(&source, 1);
    site.until("it is consistent", PATIENCE, |status| status["consistent"] == true);
    change(&source, 2);
    settle(&source, || lines(&sink.dump(now_us())), false);
    let verdict = site.done("verify", &[]);
    assert_eq!(verdict["equal"], true, "{verdict}");
    assert!(program.stop(PATIENCE).success(), "{}", site.log());
}

/// Keys of one cluster into another prefix of another, of either version, in both layouts; a transaction is never seen in part.
#[test]
fn a_cluster_is_followed_into_another_one() {
    for (name, from, to) in [("to-new", etcd::old(), etcd::sink()), ("to-old", etcd::source(), etcd::old())] {
        let source = EtcdDb::create(from, "follow_etcd", &items(200));
        let sink = EtcdDb::empty(to, "followed");
        let site = Site::watched(
            &format!("etcd-run-{name}"),
            &format!("name: {name}\nsrc: {}\ndst: {}\n", source.yaml(), sink.yaml()),
        );
        let program = site.start("run", &[]);
        change(&source, 1);
        site.until("it is consistent", PATIENCE, |status| status["consistent"] == true);
        change(&source, 2);
        settle(&source, || sink.dump(), false);
        let begun = Instant::now();
        let txn: Vec<_> = (0..100).map(|n| (source.stored(&format!("/whole/{n}")), value("v"))).collect();
        source.server.write(&txn);
        let prefix = format!("{}/whole/", sink.prefix);
        let mut seen = std::collections::BTreeSet::new();
        while seen.last() != Some(&100) && begun.elapsed() < PATIENCE {
            seen.insert(to.dump(&prefix).len());
        }
        assert!(seen.iter().all(|count| [0, 100].contains(count)), "never in part: {seen:?}");
        let verdict = site.done("verify", &[]);
        assert_eq!(verdict["equal"], true, "{verdict}\n{}", site.log());
        assert!(program.stop(PATIENCE).success(), "{}", site.log());
    }
}

/// What somebody keeps alive at the source lives in a copy whose own leases would have ended long ago.
#[test]
fn a_lease_that_is_kept_alive_lives_on_in_another_cluster() {
    let source = EtcdDb::create(etcd::source(), "alive_etcd", &items(10));
    let sink = EtcdDb::empty(etcd::sink(), "alive_copy");
    let server = source.server;
    let lease = server.grant(8);
    server.write_leased(&[(source.stored("/alive"), value("v"), Some(&lease))]);
    let mut keeper = server.ctl_command(&["lease", "keep-alive", &lease]);
    let mut keeper = keeper.stdout(std::process::Stdio::null()).spawn().unwrap();
    let site = Site::watched(
        "etcd-run-alive-copy",
        &format!("name: alive-copy\nsrc: {}\ndst: {}\n", source.yaml(), sink.yaml()),
    );
    let program = site.start("run", &[]);
    site.until("it is consistent", PATIENCE, |status| status["consistent"] == true);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(pick(45, 120)) {
        let held = sink.dump();
        let line = held.get(&hex(b"/alive")).unwrap_or_else(|| panic!("it ended in the copy\n{}", site.log()));
        assert!(line.1.is_some_and(|at| at > now_us()), "it has an expiry: {line:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    until("it ends in the copy", || !sink.dump().contains_key(&hex(b"/alive")));
    assert!(program.stop(PATIENCE).success(), "{}", site.log());
}

/// A cluster in which nothing happens, and in which nothing has a lease, says nothing at all.
#[test]
fn a_cluster_that_says_nothing_is_copied_and_followed() {
    let server = own("mute", Release::New, &[]);
    let source = EtcdDb::empty(server, "mute");
    source.put("/only", b"1");
    let case = Case::new("mute", source);
    let program = case.site.start("run", &[]);
    case.consistent();
    case.settle();
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    let program = case.site.start("run", &[]);
    case.site.until("it follows again", PATIENCE, |status| status["state"] == "following");
    case.source.put("/second", b"2");
    until("it arrives", || case.has("/second"));
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    server.stop();
}

fn own(name: &str, release: Release, options: &[&str]) -> &'static Etcd {
    Box::leak(Box::new(Etcd::start(name, release, &Setup { options, ..Setup::default() })))
}

#[test]
fn a_server_that_is_killed_and_comes_back_is_followed_on() {
    for (name, release) in [("killed-new", Release::New), ("killed-old", Release::Old)] {
        let server = own(name, release, &[]);
        let case = Case::new(name, EtcdDb::create(server, "killed", &items(200)));
        let mut program = case.site.start("run", &[]);
        case.consistent();
        for round in 0..3 {
            server.kill();
            server.spawn();
            server.wait_ready();
            change(&case.source, round);
            case.settle();
        }
        assert!(program.is_running());
        assert_eq!(case.gaps(), 0, "{}", case.site.log());
        assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
        server.stop();
    }
}

/// Transactions of more than a MiB that happened while nobody followed come together in one answer, cut into fragments that
/// split them; each is one transaction at the sink all the same.
#[test]
fn large_transactions_come_in_fragments_and_whole() {
    for (name, release) in [("large-new", Release::New), ("large-old", Release::Old)] {
        let server = own(name, release, &[]);
        let source = EtcdDb::create(server, "large", &items(20));
        let yaml = source.yaml();
        let case = Case::with(name, source, &yaml, "memory: 16MiB\n");
        let write = |round: usize| {
            let large = format!("{round:03}").repeat(66_000);
            let stored = |n: usize| case.source.stored(&format!("/large/{n}"));
            server.write(&(0..5).map(|n| (stored(n), value(&large))).collect::<Vec<_>>());
        };
        write(0);
        let program = case.site.start("run", &[]);
        case.consistent();
        assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
        (1..12).for_each(write);
        let program = case.site.start("run", &[]);
        let look = "select distinct substr(value, 1, 3) from kv where key >= '/large/' and key < '/large0'";
        let mut seen = std::collections::BTreeSet::new();
        until("the last transaction arrives", || {
            seen.insert(case.sink.query(look));
            seen.contains("011")
        });
        assert!(seen.iter().all(|round| round.len() == 3), "never in part: {seen:?}");
        case.settle();
        assert_eq!(case.gaps(), 0, "{}", case.site.log());
        assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
        server.stop();
    }
}

#[test]
fn what_was_compacted_while_nobody_followed_is_a_gap_that_is_healed_deletes_included() {
    let server = own("compacted", Release::New, &[]);
    let case = Case::new("compacted", EtcdDb::create(server, "compacted", &items(300)));
    let program = case.site.start("run", &[]);
    case.consistent();
    change(&case.source, 1);
    case.settle();
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    case.source.delete("/gone/and/back");
    case.source.put("/while/away", b"1");
    server.compact();
    assert!(case.has("/gone/and/back"));
    let program = case.site.start("run", &[]);
    case.site.until("the gap is healed", PATIENCE, |status| {
        status["consistent"] == true && case.has("/while/away") && !case.has("/gone/and/back")
    });
    case.settle();
    assert!(case.site.log().contains("has compacted what follows"), "{}", case.site.log());
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    server.stop();
}

/// Others write and compact all the time; the prefix is quiet, and its place keeps up all the same.
#[test]
fn a_quiet_prefix_in_a_busy_cluster_opens_no_gap() {
    for (name, release) in [("quiet-new", Release::New), ("quiet-old", Release::Old)] {
        let server = own(name, release, &[]);
        let case = Case::new(name, EtcdDb::create(server, "quiet", &items(50)));
        let program = case.site.start("run", &[]);
        case.consistent();
        for round in 0..pick(10, 300) {
            server.put("/somebody/else", &format!("{round}"));
            server.compact();
            std::thread::sleep(Duration::from_millis(300));
        }
        case.site.until_caught_up(PATIENCE);
        assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
        // While nobody follows, too: the place that was written down is not older than the last look.
        server.compact();
        let program = case.site.start("run", &[]);
        case.source.put("/at/last", b"1");
        until("the put arrives", || case.has("/at/last"));
        case.settle();
        assert_eq!(case.gaps(), 0, "{}", case.site.log());
        assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
        server.stop();
    }
}

/// Expiry in microseconds of a key at the sink, whether or not it has passed.
fn expiry(case: &Case, key: &str) -> Option<i128> {
    let text = case.sink.query(&format!("select expires from kv where key = '{key}'"));
    (!text.is_empty()).then(|| crate::support::teleport::microseconds(&text))
}

#[test]
fn a_lease_that_somebody_keeps_alive_never_ends_at_the_sink() {
    let server = own("alive", Release::New, &[]);
    let case = Case::new("alive", EtcdDb::create(server, "alive", &items(20)));
    let lease = server.grant(6);
    for n in 0..5 {
        server.write_leased(&[(case.source.stored(&format!("/alive/{n}")), value("v"), Some(&lease))]);
    }
    let mut keeper = server.ctl_command(&["lease", "keep-alive", &lease]);
    let mut keeper = keeper.stdout(std::process::Stdio::null()).spawn().unwrap();
    let program = case.site.start("run", &[]);
    case.consistent();
    let (begun, mut told) = (Instant::now(), std::collections::BTreeSet::new());
    while begun.elapsed() < Duration::from_secs(pick(20, 120)) {
        for n in 0..5 {
            let at = expiry(&case, &format!("/alive/{n}"));
            assert!(at.is_some_and(|at| at > now_us()), "it expired at the sink: {at:?}\n{}", case.site.log());
            told.extend(at);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(told.len() > 3, "it was told anew: {told:?}");
    case.settle();
    let touched = server.dump(&case.source.prefix).iter().filter(|row| row.lease != 0).count();
    assert!(touched >= 5, "none was touched at the source");
    // Nobody keeps it alive any more: it ends on both sides, with a delete.
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    until("the keys end", || (0..5).all(|n| !case.has(&format!("/alive/{n}"))));
    case.settle();
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    server.stop();
}

/// Leases are kept alive while nobody follows: all keys are read again before the copy is said to be consistent, however long
/// that takes.
#[test]
fn after_a_start_all_leases_are_read_before_it_is_consistent() {
    const LEASES: usize = 8;
    let server = own("sweep", Release::New, &[]);
    let source = EtcdDb::create(server, "sweep", &items(5));
    let src = source.yaml().replace(" }", ", lease_budget: 2 }");
    let case = Case::with("sweep", source, &src, "");
    let leases: Vec<String> = (0..LEASES).map(|_| server.grant(10)).collect();
    for (n, lease) in leases.iter().enumerate() {
        server.write_leased(&[(case.source.stored(&format!("/leased/{n}")), value("v"), Some(lease))]);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for lease in &leases {
                    drop(server.try_ctl(&["lease", "keep-alive", "--once", lease]));
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        let told = || (0..LEASES).map(|n| expiry(&case, &format!("/leased/{n}"))).collect::<Vec<_>>();
        let follow = || {
            let program = case.site.start("run", &[]);
            // What the last process left behind says that it was consistent, too.
            case.site.until("it follows", PATIENCE, |status| status["state"] == "following");
            let (at, now) = (told(), now_us());
            assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
            (at, now)
        };
        let (first, _) = follow();
        until("all that was told has passed", || first.iter().flatten().all(|at| now_us() > at + 500_000));
        let (second, now) = follow();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(second.iter().all(|at| at.is_some_and(|at| at > now)), "{second:?} at {now}\n{}", case.site.log());
    });
    server.stop();
}

/// A new leader gives leases their whole time again, and says nothing.
#[test]
fn another_leader_is_followed_and_what_it_gave_to_leases_is_told() {
    let members: &'static Vec<Etcd> = Box::leak(Box::new(Etcd::cluster("leaders", Release::New, &Setup::default())));
    let source = EtcdDb::create(&members[0], "leaders", &items(100));
    let peers: Vec<String> = members.iter().map(Etcd::url).collect();
    let src = format!("{{ type: etcd, peers: {peers:?}, prefix: {:?} }}", source.prefix);
    let case = Case::with("leaders", source, &src, "");
    let mut program = case.site.start("run", &[]);
    case.consistent();
    let lease = members[0].grant(60);
    let put = |key: &str| members[0].write_leased(&[(case.source.stored(key), value("v"), Some(&lease))]);
    put("/leased");
    until("it arrives", || case.has("/leased"));
    let before = expiry(&case, "/leased").unwrap();
    std::thread::sleep(Duration::from_secs(8));
    for round in 0..pick(2, 5) {
        // The one that leads dies; another one is elected.
        let leader = etcd::leader(members);
        members[leader].kill();
        let alive = (leader + 1) % 3;
        until("the others agree", || members[alive].try_ctl(&["put", "/x", "1"]).is_ok());
        members[alive].write(&[(case.source.stored(&format!("/after/{round}")), value("1"))]);
        until("what came after the election arrives", || case.has(&format!("/after/{round}")));
        members[leader].spawn();
        members[leader].wait_ready();
        change(&case.source, round);
    }
    until("the lease's new end is told", || expiry(&case, "/leased").is_some_and(|at| at > before + 6_000_000));
    case.settle();
    assert!(program.is_running());
    assert_eq!(case.gaps(), 0, "{}", case.site.log());
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    members.iter().for_each(Etcd::stop);
}

/// A way that goes silent keeps its connection; only the watchdog tells it from a quiet cluster.
#[test]
fn a_silent_way_is_given_up_for_another_peer() {
    let server = own("silent", Release::New, &[]);
    let source = EtcdDb::create(server, "silent", &items(50));
    let first = Proxy::to(server.port);
    let peers = [first.url(), server.url()];
    let src = format!("{{ type: etcd, peers: {peers:?}, prefix: {:?}, dial_timeout: 2s }}", source.prefix);
    let case = Case::with("silent", source, &src, "");
    let program = case.site.start("run", &[]);
    case.consistent();
    case.source.put("/before", b"1");
    until("it arrives", || case.has("/before"));
    first.set(Weather::Silent);
    case.source.put("/behind/silence", b"1");
    case.site.until("it arrives by the other way", PATIENCE, |_| case.has("/behind/silence"));
    assert!(case.site.log().contains("a watch was lost"), "{}", case.site.log());
    case.settle();
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    // In order it would wait for the end of connections that nobody ends.
    server.kill();
}

#[test]
fn a_log_in_that_runs_out_is_made_again() {
    for (name, release) in [("token-new", Release::New), ("token-old", Release::Old)] {
        let server = own(name, release, &["--auth-token-ttl=2"]);
        let prefix = etcd::prefix("token");
        server.write(&[(format!("{prefix}/first").into_bytes(), value("1"))]);
        server.ask_for_users("reader", &prefix, false);
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, etcd::PASSWORD).unwrap();
        let source = EtcdDb { server, prefix };
        let src = format!(
            "{{ type: etcd, peers: [{:?}], prefix: {:?}, username: reader, password_file: {:?}, insecure: true }}",
            server.url(),
            source.prefix,
            password.display().to_string()
        );
        let case = Case::with(name, source, &src, "");
        let mut program = case.site.start("run", &[]);
        until("the first copy is in", || case.sink.file().exists() && case.has("/first"));
        let root = format!("root:{}", etcd::PASSWORD);
        let put = |key: &str, lease: Option<&str>| {
            let stored = String::from_utf8(case.source.stored(key)).unwrap();
            let text = STANDARD.encode("v");
            let mut words = vec!["--user", &root, "put", &stored, &text];
            words.extend(lease.iter().flat_map(|lease| ["--lease", lease]));
            server.ctl(&words);
        };
        for round in 0..3 {
            std::thread::sleep(Duration::from_secs(4));
            let said = server.ctl(&["--user", &root, "lease", "grant", "600"]);
            let lease = said.split_whitespace().nth(1).unwrap().to_owned();
            put(&format!("/round/{round}"), Some(&lease));
            until("it arrives", || case.has(&format!("/round/{round}")));
            if round == 1 {
                // The watch has to be made anew with a log-in that has run out.
                server.kill();
                server.spawn();
                server.wait_ready();
            }
        }
        assert!(program.is_running(), "{}", case.site.log());
        assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
        server.stop();
    }
}

#[test]
fn check_says_what_compaction_does_to_a_copy_without_a_journal() {
    let source = EtcdDb::create(etcd::source(), "unkept", &items(5));
    let yaml = source.yaml();
    let case = Case::with("unkept", source, &yaml, "journal: { enabled: false }\n");
    let said = |case: &Case| {
        let checked = case.site.run("check", &[]);
        format!("{}{}", checked.stdout, checked.stderr)
    };
    assert!(said(&case).contains("if the cluster compacts its history"), "{}", said(&case));
    let dst = case.sink.yaml();
    case.site.configure(&format!("src: {yaml}\ndst: {dst}\n"));
    assert!(!said(&case).contains("if the cluster compacts its history"), "{}", said(&case));
}

/// The only peer's address begins to lead to another cluster while it is followed.
#[test]
fn another_cluster_that_takes_the_place_of_one_that_is_followed_is_a_gap_that_is_healed() {
    let (first, second) = (own("replaced-1", Release::New, &[]), own("replaced-2", Release::New, &[]));
    let source = EtcdDb::create(first, "replaced", &items(30));
    source.put("/only/first", b"1");
    let other = EtcdDb { server: second, prefix: source.prefix.clone() };
    other.put("/only/second", b"1");
    let (way, prefix) = (Proxy::to(first.port), source.prefix.clone());
    let src = format!("{{ type: etcd, peers: [{:?}], prefix: {prefix:?} }}", way.url());
    let case = Case::with("replaced", source, &src, "");
    let mut program = case.site.start("run", &[]);
    case.consistent();
    assert!(case.has("/only/first"));
    way.lead_to(second.port);
    case.site.until("it is healed", PATIENCE, |_| case.has("/only/second") && !case.has("/only/first"));
    assert!(program.is_running());
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    first.kill();
    second.kill();
}

/// A cluster that was restored from a backup is behind the stream, or another one.
#[test]
fn another_cluster_under_the_same_address_is_a_gap_that_is_healed() {
    let (first, second) = (own("lineage-1", Release::New, &[]), own("lineage-2", Release::New, &[]));
    let source = EtcdDb::create(first, "lineage", &items(30));
    source.put("/only/first", b"1");
    let other = EtcdDb { server: second, prefix: source.prefix.clone() };
    other.put("/only/second", b"1");
    let case = Case::new("lineage", source);
    let program = case.site.start("run", &[]);
    case.consistent();
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    let dst = case.sink.yaml();
    // The stream keeps its name, as it does where an address begins to lead to another cluster.
    case.site.configure(&format!("src: {}\ndst: {dst}\n", other.yaml()));
    let program = case.site.start("run", &[]);
    until("it is healed", || case.has("/only/second") && !case.has("/only/first"));
    assert!(case.site.log().contains("it is another one than before"), "{}", case.site.log());
    assert!(program.stop(PATIENCE).success(), "{}", case.site.log());
    first.stop();
    second.stop();
}
