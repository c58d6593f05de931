//! Present state: pages, ranges, single keys, one moment, and when leases end.

use std::collections::BTreeSet;
use std::time::Duration;

use driftless::error::Fault;
use driftless::kinds::etcd::Options;
use driftless::model::{Batch, PartitionId, Position, Steps};
use driftless::store::Store;

use super::{both, get, keys, options, raw, scan, store};
use crate::support::etcd::{self, Etcd, Release, Setup, Stored, base64};
use crate::support::teleport::now_us;

fn put_all(server: &Etcd, writes: &[(Vec<u8>, Vec<u8>)]) {
    for part in writes.chunks(100) {
        server.write(&part.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn teleports_layout_is_read_as_it_lies_and_nothing_beside_it() {
    for server in both() {
        let prefix = etcd::prefix("layout");
        let lease = server.grant(600);
        let bare = prefix.trim_end_matches('/');
        for (key, value) in [
            (format!("{prefix}/authorities/host/example.com"), base64(br#"{"kind":"cert_authority"}"#)),
            (format!("{prefix}.flags/migrated"), base64(b"1")),
            (format!("{prefix}/a?>b/ÿ~"), base64(b"{}")),
            (format!("{prefix}/semaphores/lock1"), "AP8Q".into()),
            (format!("{prefix}no-slash"), base64(b"somebody else's")),
            (format!("{bare}2/x"), base64(b"somebody else's")),
            (format!("{prefix}/x"), String::new()),
            (format!("{prefix}/y"), "not base64".into()),
        ] {
            server.put(&key, &value);
        }
        server.put_leased(&format!("{prefix}/nodes/default/1"), &base64(b"node"), &lease);
        let wanted =
            [".flags/migrated", "/a?>b/ÿ~", "/authorities/host/example.com", "/nodes/default/1", "/semaphores/lock1"];
        for bytes in [1, 1 << 20] {
            let rows = scan(&store(&options(server, &prefix)), 1, bytes).await;
            assert_eq!(keys(&rows), wanted);
            assert_eq!(rows[2].value(), br#"{"kind":"cert_authority"}"#);
            assert_eq!(rows[4].value(), b"\x00\xff\x10");
            assert_eq!(
                rows.iter().map(|row| row.expires().is_some()).collect::<Vec<_>>(),
                [false, false, false, true, false]
            );
        }
        // Without the slash at the end of the prefix the same keys have one slash more.
        let rows = scan(&store(&options(server, bare)), 2, 100).await;
        assert_eq!(
            keys(&rows),
            [
                "/.flags/migrated",
                "//a?>b/ÿ~",
                "//authorities/host/example.com",
                "//nodes/default/1",
                "//semaphores/lock1",
                "/no-slash"
            ]
        );
        let found = get(&store(&options(server, &prefix)), &[b"/x", b"/y", b"/a?>b/\xc3\xbf~", b"/nothing"]).await;
        assert_eq!(keys(&found), ["/a?>b/ÿ~"]);
    }
}

#[tokio::test]
async fn raw_keys_are_any_bytes_under_any_prefix_and_never_ours() {
    for release in [Release::New, Release::Old] {
        let server = Etcd::start(&format!("raw-{release:?}"), release, &Setup::default());
        let odd: [&[u8]; 8] =
            [b"\0", b"\0\0", b"/driftless", b"/driftless0", b"app", b"app\0x", b"app\xff", b"\xff\xff"];
        server.write(&odd.map(|key| (key.to_vec(), Some(key.to_vec()))));
        server.put("/driftless/somebody/lane/0", "a record");
        for (ranges, bytes) in [(1, 1), (1, 1 << 20), (4, 1), (9, 200)] {
            let rows = scan(&store(&raw(&server, "")), ranges, bytes).await;
            assert_eq!(rows.iter().map(|row| &row.key[..]).collect::<Vec<_>>(), odd);
            assert!(rows.iter().all(|row| row.value() == row.key), "values are as they are");
            let rows = scan(&store(&raw(&server, "app")), ranges, bytes).await;
            assert_eq!(rows.iter().map(|row| &row.key[..]).collect::<Vec<_>>(), [&b""[..], b"\0x", b"\xff"]);
        }
        let found = get(&store(&raw(&server, "")), &[b"/driftless/somebody/lane/0", b"\xff\xff", b"\0"]).await;
        assert_eq!(found.len(), 2);
        assert_eq!(get(&store(&raw(&server, "app")), &[b"", b"\xff"]).await.len(), 2);
    }
}

#[tokio::test]
async fn every_key_is_scanned_once_through_any_number_of_ranges() {
    for server in both() {
        let prefix = etcd::prefix("ranges");
        let wanted: BTreeSet<String> = (0..1_500u32)
            .flat_map(|n| {
                let id = n.wrapping_mul(2_654_435_761);
                [format!("/nodes/default/{id:08x}"), format!("/nodes/default/{id:08x}-more")]
            })
            .chain((0..40).map(|n| format!("/apps/{n:03}")))
            .collect();
        let writes: Vec<_> = wanted
            .iter()
            .map(|key| (format!("{prefix}{key}").into_bytes(), base64(key.as_bytes()).into_bytes()))
            .collect();
        put_all(server, &writes);
        let reads = store(&options(server, &prefix));
        for (ranges, bytes) in [(1, 4_000), (4, 20_000), (16, 1 << 20)] {
            let cut = reads.ranges(ranges).await.unwrap();
            assert_eq!(cut.len(), ranges);
            let rows = scan(&reads, ranges, bytes).await;
            assert_eq!(keys(&rows), wanted.iter().cloned().collect::<Vec<_>>());
            assert!(rows.iter().all(|row| row.value() == row.key));
            for range in &cut {
                let mut page = Batch::unpooled();
                page.begin(&PartitionId::new("!scan"), Position::Start, Steps::Key);
                let page = reads.scan(range, &Position::Start, page, usize::MAX).await.unwrap();
                assert_eq!(*page.upto(), Position::End);
                let (most, least) = (2 * wanted.len() / ranges, wanted.len() / ranges / 3);
                assert!(page.len() <= most && page.len() >= least, "{ranges}: {} of {}", page.len(), wanted.len());
            }
        }
        let every: Vec<&[u8]> = wanted.iter().map(String::as_bytes).collect();
        assert_eq!(get(&reads, &every).await.len(), wanted.len());
    }
}

#[tokio::test]
async fn a_server_that_takes_few_operations_is_asked_for_few() {
    let server = Etcd::start("few", Release::New, &Setup { options: &["--max-txn-ops=5"], ..Setup::default() });
    for n in 0..12 {
        server.put(&format!("/t/{n:02}"), "v");
    }
    let names: Vec<String> = (0..60).map(|n| format!("{n:02}")).collect();
    let every: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    assert_eq!(get(&store(&raw(&server, "/t/")), &every).await.len(), 12);
}

#[tokio::test]
async fn large_values_come_in_answers_that_can_be_taken() {
    let server = Etcd::start("large", Release::New, &Setup::default());
    let value = vec![b'x'; 1_400_000];
    for n in 0..40 {
        server.write(&[(format!("/t/large/{n:02}").into_bytes(), Some(value.clone()))]);
    }
    let small: Vec<_> = (0..2_000).map(|n| (format!("/t/a/{n:04}").into_bytes(), b"v".to_vec())).collect();
    put_all(&server, &small);
    let reads = store(&raw(&server, "/t/"));
    // Small ones first, so that the page that meets the large ones is a page of many keys.
    let rows = scan(&reads, 1, 1 << 20).await;
    assert_eq!(rows.len(), 2_040);
    assert!(rows[2_000..].iter().all(|row| row.value() == value));
    let reads = store(&raw(&server, "/t/"));
    let names: Vec<String> = (0..40).map(|n| format!("large/{n:02}")).collect();
    let every: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    assert_eq!(get(&reads, &every).await.len(), 40);
}

#[tokio::test]
async fn a_view_shows_one_moment_until_it_is_compacted_away() {
    for release in [Release::New, Release::Old] {
        let server = Etcd::start(&format!("view-{release:?}"), release, &Setup::default());
        let all: Vec<_> = (0..200).map(|n| (format!("/t/{n:03}").into_bytes(), b"old".to_vec())).collect();
        put_all(&server, &all);
        let reads = store(&raw(&server, "/t/"));
        let view = reads.frozen().await.unwrap().unwrap();
        server.write(&[
            (b"/t/050".to_vec(), Some(b"new".to_vec())),
            (b"/t/100".to_vec(), None),
            (b"/t/x".to_vec(), Some(vec![])),
        ]);
        let rows = scan(view.as_ref(), 3, 500).await;
        assert_eq!(rows.len(), 200);
        assert!(rows.iter().all(|row| row.value() == b"old"));
        assert_eq!(get(view.as_ref(), &[b"100", b"x"]).await.len(), 1);
        assert_eq!(scan(&reads, 3, 500).await.len(), 200, "the store itself shows what is there now");

        let range = view.ranges(1).await.unwrap().remove(0);
        let page = |after: Position| {
            let mut page = Batch::unpooled();
            page.begin(&PartitionId::new("!scan"), after.clone(), Steps::Key);
            (after, page)
        };
        let (after, first) = page(Position::Start);
        let first = view.scan(&range, &after, first, 500).await.unwrap();
        server.compact();
        let (after, second) = page(first.upto().clone());
        let lost = view.scan(&range, &after, second, 500).await.map(drop).unwrap_err();
        assert_eq!(lost.fault(), Fault::Transient, "never a silent skip: {lost}");
        assert!(lost.to_string().contains("compacted"), "{lost}");
        let newer = reads.frozen().await.unwrap().unwrap();
        let (after, second) = page(first.upto().clone());
        let second = newer.scan(&range, &after, second, usize::MAX).await.unwrap();
        assert_eq!(first.len() + second.len(), 200, "and the next view goes on behind the last key");
    }
}

#[tokio::test]
async fn every_key_of_a_lease_has_its_end_and_a_key_that_did_not_change_looks_the_same() {
    for server in both() {
        let prefix = etcd::prefix("leases");
        let leases: Vec<String> = [60, 600, 100_000].map(|seconds| server.grant(seconds)).into();
        for n in 0..30 {
            server.put_leased(&format!("{prefix}{n:02}"), "v", &leases[n % 3]);
        }
        server.put(&format!("{prefix}for-ever"), "v");
        let reads = store(&raw(server, &prefix));
        let rows = scan(&reads, 2, 500).await;
        let stored = server.dump(&prefix);
        assert_eq!(rows.len(), 31);
        for (row, Stored { lease, .. }) in rows.iter().zip(&stored) {
            let Some(expires) = row.expires() else {
                assert_eq!(*lease, 0);
                continue;
            };
            let left = i128::from(server.left(*lease).unwrap()) * 1_000_000;
            let late = i128::from(expires) - (now_us() + left);
            // The asking through etcdctl takes its time too.
            assert!((0..6_000_000).contains(&late), "late by {late} microseconds");
        }
        assert_eq!(scan(&reads, 1, 1 << 20).await, rows);
        assert_eq!(get(&reads, &[b"00", b"for-ever"]).await, [rows[0].clone(), rows[30].clone()]);
    }
}

#[tokio::test]
async fn a_lease_that_is_kept_alive_is_seen_to_end_later() {
    for server in both() {
        let prefix = etcd::prefix("renewed");
        let lease = server.grant(9);
        server.put_leased(&format!("{prefix}k"), "v", &lease);
        let reads = store(&raw(server, &prefix));
        let before = get(&reads, &[b"k"]).await[0].expires().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            server.ctl(&["lease", "keep-alive", "--once", &lease]);
            let now = get(&reads, &[b"k"]).await[0].expires().unwrap();
            if now > before + 3_000_000 {
                break;
            }
            assert!(now >= before && std::time::Instant::now() < deadline, "it is never seen to be renewed");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A leader that has just been elected has set no end yet, or the full time again: never one beyond what was granted.
#[tokio::test]
async fn a_change_of_leader_never_makes_an_end_that_was_not_granted() {
    let members = Etcd::cluster("leases", Release::New, &Setup::default());
    let lease = members[0].grant(600);
    members[0].put_leased("/t/k", "v", &lease);
    let peers: Vec<String> = members.iter().map(Etcd::url).collect();
    for _ in 0..3 {
        let leader = members.iter().find(|member| {
            let said = member.ctl(&["endpoint", "status", "-w", "json"]);
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            said[0]["Status"]["leader"] == said[0]["Status"]["header"]["member_id"]
        });
        let leader = leader.expect("one of them leads");
        leader.kill();
        let reads = store(&Options { peers: peers.clone(), ..raw(leader, "/t/") });
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let mut answers = 0;
        while answers < 20 {
            assert!(std::time::Instant::now() < deadline, "nobody is elected");
            let table = driftless::model::Table::default().into();
            match reads.get(&table, &[b"k"], Batch::unpooled()).await {
                Ok(batch) => {
                    let expires = super::rows_of(&batch)[0].expires().unwrap();
                    let left = i128::from(expires) - now_us();
                    assert!((500_000_000..=604_000_000).contains(&left), "{left} microseconds are left");
                    answers += 1;
                }
                Err(error) => assert_eq!(error.fault(), Fault::Transient, "{error}"),
            }
        }
        leader.spawn();
        leader.wait_ready();
    }
}

#[tokio::test]
async fn a_key_whose_old_lease_is_gone_is_read_with_its_newer_one() {
    for server in both() {
        let prefix = etcd::prefix("moved");
        let (first, second) = (server.grant(600), server.grant(1_200));
        for name in ["moved", "gone"] {
            server.put_leased(&format!("{prefix}{name}"), "old", &first);
        }
        let view = store(&raw(server, &prefix)).frozen().await.unwrap().unwrap();
        server.put_leased(&format!("{prefix}moved"), "new", &second);
        server.ctl(&["lease", "revoke", &first]);
        // In the view both still lie under the lease that is gone: one of them lives on, and must not be lost.
        let rows = scan(view.as_ref(), 1, 1 << 20).await;
        assert_eq!(keys(&rows), ["moved"]);
        assert_eq!(rows[0].value(), b"new");
        assert!(i128::from(rows[0].expires().unwrap()) > now_us() + 1_000_000_000);
    }
}

#[tokio::test]
async fn a_prefix_without_keys_is_a_mistake_in_teleports_layout() {
    for server in both() {
        let empty = etcd::prefix("empty");
        let error = store(&options(server, &empty)).begin().await.unwrap_err();
        assert_eq!(error.fault(), Fault::Config, "{error}");
        assert!(error.to_string().contains("there is none"), "{error}");
        store(&raw(server, &empty)).begin().await.unwrap();
        server.put(&format!("{empty}/k"), &base64(b"v"));
        store(&options(server, &empty)).begin().await.unwrap();
        assert!(
            scan(&store(&Options { lease_budget: 1, ..options(server, &etcd::prefix("none")) }), 3, 100)
                .await
                .is_empty()
        );
    }
}
