//! The sink's own questions: limits, order, leases, fencing, and servers that refuse; looked at by `etcdctl`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use driftless::error::{Error, Fault};
use driftless::kinds::etcd::body::Body;
use driftless::kinds::etcd::{Cluster, EtcdSink, Options, Role};
use driftless::model::{
    Batch, Changes, Checkpoint, Claim, Commit, LaneRecord, Layout, Micros, Op, Owner, PartitionId, Position, Scope,
    Steps, StreamId,
};
use driftless::sink::{Sink, Writer};

use crate::support::etcd::{self, Etcd, Proxy, Release, Setup, Weather};
use crate::support::teleport::now_us;

fn now() -> Micros {
    i64::try_from(now_us()).unwrap()
}

struct Rig {
    prefix: String,
    sink: EtcdSink,
}

fn into(server: &Etcd, change: impl FnOnce(&mut Options)) -> Rig {
    let prefix = etcd::prefix("writing");
    let mut options = Options { role: Role::Sink, ..super::options(server, &prefix) };
    change(&mut options);
    let sink = EtcdSink::new(&Cluster::new(&options).unwrap());
    Rig { prefix, sink }
}

impl Rig {
    fn stream(&self) -> StreamId {
        StreamId::new(self.prefix.trim_matches('/'))
    }

    fn asking(&self, seen: Option<u64>) -> Claim {
        Claim {
            stream: self.stream(),
            lane: 0,
            owner: Owner("somebody".into()),
            scope: Scope { layout: "teleport sqlite etcd".into(), extent: "all".into(), lanes: 1 },
            seen,
            still: None,
            foreign: false,
        }
    }

    async fn claim(&self, seen: Option<u64>) -> (LaneRecord, Box<dyn Writer>) {
        self.sink.claim(&self.asking(seen)).await.unwrap()
    }

    fn keys(&self, server: &Etcd) -> BTreeSet<String> {
        let name = |row: etcd::Stored| String::from_utf8(row.key).unwrap()[self.prefix.len()..].to_owned();
        server.dump(&self.prefix).into_iter().map(name).collect()
    }
}

type Change<'a> = (Op, &'a str, &'a [u8], Option<Micros>);

fn changes(rows: &[Change<'_>]) -> Changes {
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("!row"), Position::Start, Steps::Key);
    let table = batch.table(&Arc::default());
    for (op, key, value, expires) in rows {
        let mut body = Vec::new();
        Body { expires: *expires, revision: 0, granted: 0, value }.encode(&mut body);
        batch.push(*op, false, table, key.as_bytes(), &body, 0);
    }
    let (batch, mut changes) = (Arc::new(batch), Changes::default());
    let held = changes.hold(&batch);
    for index in 0..rows.len() {
        changes.pick(held, u32::try_from(index).unwrap());
    }
    changes
}

fn commit(number: u64, rows: &[Change<'_>]) -> Arc<Commit> {
    let at = Position::at(format!("{number:08}"));
    let upto: Checkpoint = [(PartitionId::new("somewhere/1"), at)].into_iter().collect();
    Arc::new(Commit { number, changes: changes(rows), forget: vec![], upto })
}

fn many(count: usize, value: &[u8]) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|n| (format!("/key/{n:05}"), value.to_vec())).collect()
}

fn puts(rows: &[(String, Vec<u8>)]) -> Vec<Change<'_>> {
    rows.iter().map(|(key, value)| (Op::Put, key.as_str(), &value[..], None)).collect()
}

async fn refused(rig: &Rig, seen: Option<u64>) -> Error {
    rig.sink.claim(&rig.asking(seen)).await.map(drop).unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_may_hold_what_the_server_takes_and_not_more() {
    let setup = Setup { options: &["--max-txn-ops=20", "--max-request-bytes=400000"], ..Setup::default() };
    let small = Etcd::start("small", Release::New, &setup);
    for (server, ops, bytes) in [
        (etcd::sink(), 128, 1_572_864),
        (etcd::old(), 128, 1_572_864),
        (etcd::wide(), 1000, 1_572_864),
        (&small, 20, 400_000),
    ] {
        for layout in [Layout::Teleport, Layout::Raw] {
            let rig = into(server, |options| options.layout = layout);
            let (_, mut writer) = rig.claim(None).await;
            let limits = rig.sink.limits();
            assert_eq!(limits.changes, ops - 9, "{layout}");
            assert!(limits.bytes > bytes / 2 && limits.bytes < bytes, "{}", limits.bytes);
            // As many as there may be, and as large as they may be.
            let full = many(limits.changes, &vec![b'v'; (limits.bytes - 21) / limits.changes - 40]);
            writer.commit(commit(1, &puts(&full))).await.unwrap();
            assert_eq!(rig.keys(server).len(), limits.changes);
            let one = many(1, &vec![b'w'; limits.bytes - 40]);
            writer.commit(commit(2, &puts(&one))).await.unwrap();
            let told = writer.commit(commit(3, &puts(&many(1, &vec![b'x'; bytes])))).await.unwrap_err();
            assert_eq!(told.fault(), Fault::Rejected, "{told}");
            assert!(told.to_string().contains("--max-request-bytes"), "{told}");
            assert!(server.dump(&rig.prefix)[0].value.len() >= one[0].1.len());
        }
    }
    let less = into(etcd::sink(), |options| options.max_message = Some(300_000));
    less.claim(None).await;
    assert!(less.sink.limits().bytes < 300_000 / 4 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_with_smaller_limits_gets_smaller_commits() {
    // The same data, on a server that takes less.
    let wide = Setup { options: &["--max-txn-ops=500"], ..Setup::default() };
    let mut server = Etcd::start("shrinks", Release::New, &wide);
    let rig = into(&server, |_| ());
    let (_, mut writer) = rig.claim(None).await;
    assert_eq!(rig.sink.limits().changes, 491);
    server.stop();
    server.replace("--max-txn-ops=500", "--max-txn-ops=64");
    server.spawn();
    server.wait_ready();
    let full = many(491, b"v");
    let told = loop {
        match writer.commit(commit(1, &puts(&full))).await {
            // The connection of before is lost once.
            Err(error) if error.fault() == Fault::Transient => {}
            told => break told.unwrap_err(),
        }
    };
    assert_eq!(told.fault(), Fault::StageLost, "the lane collects anew from its checkpoint: {told}");
    let (record, mut writer) = rig.claim(Some(1)).await;
    assert_eq!((record.number, rig.sink.limits().changes), (0, 55));
    writer.commit(commit(1, &puts(&full[..55]))).await.unwrap();
    assert_eq!(rig.keys(&server).len(), 55);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_overtakes_another_one_lands_behind_it() {
    for server in [etcd::sink(), etcd::old()] {
        let rig = into(server, |_| ());
        let (_, mut writer) = rig.claim(None).await;
        for round in 0..20u64 {
            let (first, second) = (round * 2 + 1, round * 2 + 2);
            // The first one needs leases before it can be sent, so the second one arrives before it.
            let at = now() + 600_000_000 + i64::try_from(round).unwrap() * 10_000_000;
            let older = [(Op::Put, "/hot", &b"older"[..], Some(at)), (Op::Put, "/gone", b"1", None)];
            let newer = [(Op::Put, "/hot", &b"newer"[..], None), (Op::Delete, "/gone", b"", None)];
            let sent = [writer.commit(commit(first, &older)), writer.commit(commit(second, &newer))];
            for answer in sent {
                answer.await.unwrap();
            }
            assert_eq!(rig.keys(server), ["/hot".to_owned()].into());
            let row = server.dump(&rig.prefix).remove(0);
            assert_eq!((row.value, row.lease), (etcd::base64(b"newer").into_bytes(), 0));
        }
        let record = rig.sink.inspect(&rig.stream()).await.unwrap().unwrap();
        assert_eq!(record.lanes[0].number, 40);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_expire_together_share_a_lease_and_none_expires_early_or_much_later() {
    for server in [etcd::sink(), etcd::old()] {
        let rig = into(server, |_| ());
        let (_, mut writer) = rig.claim(None).await;
        let begun = now();
        let names: Vec<(String, Micros)> =
            (0..100).map(|n| (format!("/node/{n:03}"), begun + 600_000_000 + n * 300_000)).collect();
        let rows: Vec<Change<'_>> =
            names.iter().map(|(name, at)| (Op::Put, name.as_str(), &b"v"[..], Some(*at))).collect();
        writer.commit(commit(1, &rows)).await.unwrap();
        let found = server.dump(&rig.prefix);
        let leases: BTreeSet<i64> = found.iter().map(|row| row.lease).collect();
        assert!(!leases.contains(&0) && (6..=8).contains(&leases.len()), "30 seconds of instants: {leases:?}");
        let ends: Vec<(i64, Micros)> =
            leases.iter().map(|lease| (*lease, now() + server.left(*lease).unwrap() * 1_000_000)).collect();
        for row in &found {
            let name = String::from_utf8_lossy(&row.key[rig.prefix.len()..]).into_owned();
            let at = names.iter().find(|(other, _)| *other == name).unwrap().1;
            let end = ends.iter().find(|(lease, _)| *lease == row.lease).unwrap().1;
            // What is left is told in whole seconds, cut off.
            assert!((at - 1_000_000..=at + 7_000_000).contains(&end), "{name}: {} ms", (end - at) / 1000);
        }
        // A renewed key moves to another lease, one that does not expire any more has none, and no other key is touched.
        let later = begun + 1_200_000_000;
        let renewed = [(Op::Put, "/node/000", &b"v"[..], Some(later)), (Op::Put, "/node/001", b"v", None)];
        writer.commit(commit(2, &renewed)).await.unwrap();
        let after = server.dump(&rig.prefix);
        assert!(!leases.contains(&after[0].lease) && after[0].lease != 0);
        assert_eq!(after[1].lease, 0);
        assert!(found[2..].iter().zip(&after[2..]).all(|(a, b)| a == b));
        // The same instants again take no further leases.
        writer.commit(commit(3, &rows)).await.unwrap();
        let again: BTreeSet<i64> = server.dump(&rig.prefix).iter().map(|row| row.lease).collect();
        assert_eq!(again, leases);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_somebody_revoked_is_granted_anew_and_the_commit_lands() {
    for server in [etcd::sink(), etcd::old()] {
        let rig = into(server, |_| ());
        let (_, mut writer) = rig.claim(None).await;
        let at = Some(now() + 600_000_000);
        writer.commit(commit(1, &[(Op::Put, "/a", b"1", at)])).await.unwrap();
        let lease = server.dump(&rig.prefix)[0].lease;
        server.ctl(&["lease", "revoke", &format!("{lease:x}")]);
        assert!(rig.keys(server).is_empty());
        writer.commit(commit(2, &[(Op::Put, "/a", b"2", at), (Op::Put, "/b", b"2", None)])).await.unwrap();
        let found = server.dump(&rig.prefix);
        assert!(found.len() == 2 && found[0].lease != lease && found[0].lease != 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_election_no_key_lives_longer_than_it_should() {
    for release in [Release::New, Release::Old] {
        let server = Etcd::start("elects", release, &Setup::default());
        let rig = into(&server, |_| ());
        let (_, mut writer) = rig.claim(None).await;
        let names: Vec<String> = (0..30).map(|n| format!("/node/{n:02}")).collect();
        let (begun, at) = (now(), now() + 600_000_000);
        let rows: Vec<Change<'_>> = names.iter().map(|name| (Op::Put, name.as_str(), &b"v"[..], Some(at))).collect();
        writer.commit(commit(1, &rows)).await.unwrap();
        let before = server.dump(&rig.prefix);
        let lease = before[0].lease;
        etcd::until("some of its time is gone", || now() > begun + 9_000_000);
        server.restart();
        let reset = server.left(lease).unwrap();
        assert!(reset > 597, "a new leader gives a lease its whole time: {reset}");
        // One key is written meanwhile; an idle lane commits every two seconds, too.
        let next = commit(2, &[(Op::Put, "/node/07", b"w", None)]);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while let Err(error) = writer.commit(Arc::clone(&next)).await {
            assert!(error.fault() == Fault::Transient && std::time::Instant::now() < deadline, "{error}");
        }
        etcd::until("every key has its own end again", || {
            let rows = server.dump(&rig.prefix);
            rows.iter().all(|row| row.lease != lease)
        });
        for (row, old) in server.dump(&rig.prefix).iter().zip(&before) {
            if row.key.ends_with(b"/07") {
                assert_eq!((row.lease, &row.value), (0, &etcd::base64(b"w").into_bytes()));
                continue;
            }
            assert_eq!(row.value, old.value);
            let end = now() + server.left(row.lease).unwrap() * 1_000_000;
            assert!((at - 1_000_000..=at + 8_000_000).contains(&end), "{} ms", (end - at) / 1000);
        }
        drop(writer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_by_the_time_it_is_written_is_removed_and_an_empty_value_is_left_out() {
    let server = etcd::sink();
    let rig = into(server, |_| ());
    let (_, mut writer) = rig.claim(None).await;
    let old = [(Op::Put, "/over", &b"1"[..], None), (Op::Put, "/emptied", b"1", None), (Op::Put, "/stays", b"1", None)];
    writer.commit(commit(1, &old)).await.unwrap();
    let now = now();
    let rows = [
        (Op::Put, "/over", &b"2"[..], Some(now - 1)),
        (Op::Put, "/emptied", b"", None),
        (Op::Put, "/never", b"1", Some(now - 60_000_000)),
        (Op::Put, "/soon", b"1", Some(now + 1_500_000)),
    ];
    writer.commit(commit(2, &rows)).await.unwrap();
    assert_eq!(rig.keys(server), ["/soon".to_owned(), "/stays".to_owned()].into());
    etcd::until("what expires goes", || !rig.keys(server).contains("/soon"));
    assert!(self::now() > now + 1_500_000, "and not before its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clear_and_what_follows_it_is_one_step_if_it_fits_and_leaves_others_alone() {
    for server in [etcd::sink(), etcd::old()] {
        let rig = into(server, |_| ());
        let (_, mut writer) = rig.claim(None).await;
        let neighbour = format!("{}2/other", rig.prefix.trim_end_matches('/'));
        server.put(&neighbour, "stays");
        for (number, count) in [(1, 20), (3, 100)] {
            let before = many(100, b"before");
            writer.commit(commit(number, &puts(&before))).await.unwrap();
            let mut rows: Vec<Change<'_>> = vec![(Op::Clear, "", b"", None)];
            let after: Vec<_> = many(count, b"after").into_iter().map(|(key, v)| (key.replace("0", "1"), v)).collect();
            let distinct: BTreeSet<_> = after.iter().map(|(key, _)| key.clone()).collect();
            rows.extend(puts(&after));
            let revision = server.revision();
            writer.commit(commit(number + 1, &rows)).await.unwrap();
            assert_eq!(rig.keys(server), distinct);
            let steps = server.revision() - revision;
            assert!(steps >= if count == 20 { 1 } else { 2 });
        }
        assert_eq!(server.dump(&neighbour).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_forgotten_and_begun_anew_fences_its_former_owner() {
    for server in [etcd::sink(), etcd::old()] {
        let rig = into(server, |_| ());
        let (_, mut old) = rig.claim(None).await;
        let seen = rig.sink.inspect(&rig.stream()).await.unwrap().unwrap();
        rig.sink.forget(&rig.stream(), &seen).await.unwrap();
        // The same epoch and the same number as before, and not the same stream.
        let (record, mut new) = rig.claim(None).await;
        assert_eq!((record.epoch, record.number), (1, 0));
        let fenced = old.commit(commit(1, &[(Op::Put, "/a", b"old", None)])).await.unwrap_err();
        assert_eq!(fenced.fault(), Fault::Fenced, "{fenced}");
        new.commit(commit(1, &[(Op::Put, "/a", b"new", None)])).await.unwrap();
        assert_eq!(server.dump(&rig.prefix)[0].value, etcd::base64(b"new").into_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_streams_never_write_the_same_keys_of_a_cluster() {
    let server = etcd::sink();
    let rig = into(server, |_| ());
    rig.claim(None).await;
    let inner = format!("{}/inner/", rig.prefix);
    for (prefix, layout, taken) in [
        (rig.prefix.clone(), Layout::Teleport, true),
        (inner, Layout::Teleport, true),
        (rig.prefix.clone(), Layout::Raw, true),
        (format!("{}x/", rig.prefix.trim_end_matches('/')), Layout::Teleport, false),
    ] {
        let mut other = into(server, |options| {
            options.prefix.clone_from(&prefix);
            options.layout = layout;
        });
        other.prefix = format!("{}-other/", other.prefix.trim_end_matches('/'));
        match other.sink.claim(&other.asking(None)).await.map(drop) {
            Ok(()) => assert!(!taken, "{prefix} {layout}"),
            Err(error) => {
                assert!(taken && error.fault() == Fault::Config, "{prefix} {layout}: {error}");
                assert!(error.to_string().contains(rig.stream().as_str()), "{error}");
            }
        }
    }
    assert_eq!(refused(&rig, Some(7)).await.fault(), Fault::Fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_lands_once() {
    let server = etcd::sink();
    let proxy = Proxy::to(server.port);
    let rig = into(server, |options| options.peers = vec![proxy.url()]);
    let (_, mut writer) = rig.claim(None).await;
    for round in 0..10u64 {
        let first = commit(round * 2 + 1, &[(Op::Put, "/hot", b"older", None)]);
        let second = commit(round * 2 + 2, &[(Op::Put, "/hot", b"newer", None)]);
        let sent = [writer.commit(Arc::clone(&first)), writer.commit(Arc::clone(&second))];
        if round % 2 == 0 {
            proxy.set(Weather::Cut);
        }
        let answers: Vec<_> = futures_util::future::join_all(sent).await;
        proxy.set(Weather::Fair);
        for (answer, commit) in answers.into_iter().zip([first, second]) {
            let mut answer = answer;
            while let Err(error) = answer {
                assert_eq!(error.fault(), Fault::Transient, "{error}");
                answer = writer.commit(Arc::clone(&commit)).await;
            }
        }
        assert_eq!(server.dump(&rig.prefix)[0].value, etcd::base64(b"newer").into_bytes());
    }
    assert_eq!(rig.sink.inspect(&rig.stream()).await.unwrap().unwrap().lanes[0].number, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_space_is_waited_for_and_says_what_to_do() {
    let setup = Setup { options: &["--quota-backend-bytes=2000000"], ..Setup::default() };
    let server = Etcd::start("quota", Release::New, &setup);
    let rig = into(&server, |_| ());
    let (_, mut writer) = rig.claim(None).await;
    let large = vec![b'v'; 200_000];
    let (mut number, told) = (1, loop_until_refused(&mut writer, &large).await);
    number += told.0;
    let told = told.1;
    assert_eq!(told.fault(), Fault::Transient, "{told}");
    for word in ["quota", "defragment", "alarm disarm"] {
        assert!(told.to_string().contains(word), "{told}");
    }
    let last = commit(number, &[(Op::Put, "/large", &large, None)]);
    assert_eq!(writer.commit(Arc::clone(&last)).await.unwrap_err().fault(), Fault::Transient);
    server.compact();
    server.ctl(&["defrag"]);
    server.ctl(&["alarm", "disarm"]);
    writer.commit(last).await.unwrap();
    assert_eq!(rig.keys(&server), ["/large".to_owned()].into());
}

/// How many commits landed before one was refused, and what it was told.
async fn loop_until_refused(writer: &mut Box<dyn Writer>, value: &[u8]) -> (u64, Error) {
    for number in 1..100 {
        if let Err(error) = writer.commit(commit(number, &[(Op::Put, "/large", value, None)])).await {
            return (number - 1, error);
        }
    }
    panic!("the quota is never reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_write_with_the_prefix_and_our_own_place_and_is_told_what_is_missing() {
    for release in [Release::New, Release::Old] {
        let server = Etcd::start("roles", release, &Setup::default());
        server.ask_for_users("writer", "/roles/", true);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, etcd::PASSWORD).unwrap();
        let rig = into(&server, |options| {
            options.prefix = "/roles/".into();
            options.user = Some(("writer".into(), file));
        });
        let denied = refused(&rig, None).await;
        assert!(denied.fault() == Fault::Config && denied.to_string().contains("/driftless/"), "{denied}");
        let root = format!("root:{}", etcd::PASSWORD);
        server.ctl(&[
            "--user",
            &root,
            "role",
            "grant-permission",
            "writer",
            "--prefix=true",
            "readwrite",
            "/driftless/",
        ]);
        let (_, mut writer) = rig.claim(None).await;
        writer.commit(commit(1, &[(Op::Put, "/a", b"1", Some(now() + 60_000_000))])).await.unwrap();
        // A log-in ends with the server that gave it.
        server.restart();
        let second = commit(2, &[(Op::Put, "/a", b"2", Some(now() + 60_000_000)), (Op::Put, "/b", b"2", None)]);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while let Err(error) = writer.commit(Arc::clone(&second)).await {
            assert_eq!(error.fault(), Fault::Transient, "{error}");
            assert!(std::time::Instant::now() < deadline, "{error}");
        }
        let found = server.ctl(&["--user", &root, "get", "--prefix", "/roles/", "--keys-only"]);
        assert!(found.contains("/roles//a") && found.contains("/roles//b"), "{found}");
    }
}
