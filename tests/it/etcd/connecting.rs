//! Peers, certificates, users.

use driftless::error::{Error, Fault};
use driftless::kinds::etcd::{Cluster, Options, Role};
use driftless::source::Source as _;

use super::{both, get, options, raw, store};
use crate::support::etcd::{self, Certificates, Etcd, PASSWORD, Proxy, Release, Setup, Weather};

fn password_file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

async fn refused(options: &Options) -> Error {
    let error = match Cluster::new(options) {
        Ok(cluster) => cluster.live().await.map(drop).unwrap_err(),
        Err(error) => error,
    };
    assert!(!error.to_string().contains("planted"), "{error}");
    error
}

#[tokio::test]
async fn a_server_says_who_it_is_and_which_version() {
    for (server, version) in both().into_iter().zip(["3.6.", "3.4."]) {
        let cluster = Cluster::new(&options(server, "/t/")).unwrap();
        let live = cluster.live().await.unwrap();
        assert!(live.version.to_string().starts_with(version), "{}", live.version);
        let head = driftless::kinds::etcd::EtcdSource::new(&cluster).head().await.unwrap();
        let (partition, position) = head.iter().next().unwrap();
        assert_eq!(partition.as_str(), format!("etcd/{:016x}", live.cluster));
        let revision: i64 = position.to_string()[1..].parse().unwrap();
        assert!(revision <= server.revision() && revision > 0);
    }
}

#[tokio::test]
async fn a_user_logs_in_and_is_told_what_is_wrong_without_the_password() {
    for release in [Release::New, Release::Old] {
        let server = Etcd::start(&format!("login-{release:?}"), release, &Setup::default());
        server.put("/app//k", &etcd::base64(b"v"));
        let lease = server.grant(600);
        server.put_leased("/app//leased", &etcd::base64(b"v"), &lease);
        server.ask_for_users("reader", "/app/", false);
        let (right, wrong) = (password_file(&format!("{PASSWORD}\n")), password_file("planted-wrong"));
        let with = |file: &tempfile::NamedTempFile, prefix: &str| Options {
            user: Some(("reader".into(), file.path().to_owned())),
            ..options(&server, prefix)
        };
        let reads = store(&with(&right, "/app/"));
        assert_eq!(get(&reads, &[b"/k"]).await[0].value(), b"v");
        assert!(get(&reads, &[b"/leased"]).await[0].expires().is_some(), "whoever may read may ask when it ends");
        // A restarted server has forgotten who logged in.
        server.restart();
        assert_eq!(get(&reads, &[b"/k"]).await.len(), 1);

        let error = refused(&with(&wrong, "/app/")).await;
        assert_eq!(error.fault(), Fault::Config, "{error}");
        assert!(error.to_string().contains("refuses username or password"), "{error}");
        let nobody = store(&options(&server, "/app/"));
        let error = driftless::store::Store::tables(&nobody).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Config, "{error}");
        assert!(error.to_string().contains("asks for a user"), "{error}");
        let error = driftless::store::Store::tables(&store(&with(&right, "/other/"))).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Config, "{error}");
        assert!(error.to_string().contains("grant the role the prefix"), "{error}");
        let missing = Options { user: Some(("reader".into(), "/nowhere".into())), ..options(&server, "/app/") };
        assert!(refused(&missing).await.to_string().contains("password_file /nowhere"));
    }
    // A user for a server that knows none is no reason to stop.
    let file = password_file(PASSWORD);
    for server in both() {
        let given = Options { user: Some(("reader".into(), file.path().to_owned())), ..options(server, "/t/") };
        assert!(!Cluster::new(&given).unwrap().live().await.unwrap().logged_in);
    }
}

#[tokio::test]
async fn certificates_are_verified_on_both_sides_unless_somebody_says_insecure() {
    let certificates = Certificates::new();
    let file = |name: &str| certificates.folder.join(name);
    for release in [Release::New, Release::Old] {
        let setup = Setup { certificates: Some(&certificates), mutual: true, ..Setup::default() };
        let server = Etcd::start(&format!("tls-{release:?}"), release, &setup);
        let ours = Options {
            authorities: Some(file("ca.crt")),
            identity: Some((file("root.crt"), file("root.key"))),
            ..options(&server, "/t/")
        };
        Cluster::new(&ours).unwrap().live().await.unwrap();
        for (name, options) in [
            ("another authority", Options { authorities: Some(file("other.crt")), ..ours.clone() }),
            ("the operating system's authorities", Options { authorities: None, ..ours.clone() }),
            ("no certificate of ours", Options { identity: None, ..ours.clone() }),
            ("a stranger's", Options { identity: Some((file("stranger.crt"), file("stranger.key"))), ..ours.clone() }),
        ] {
            let error = refused(&options).await;
            // A server that refuses ours may be gone before it has said why.
            let cut_short = options.authorities == ours.authorities && error.fault() == Fault::Transient;
            assert!(cut_short || error.fault() == Fault::Config, "{name}: {error}");
            assert!(error.to_string().contains("tls_cert_file"), "{name}: {error}");
        }
        Cluster::new(&Options { insecure: true, authorities: None, ..ours.clone() }).unwrap().live().await.unwrap();
        let error = refused(&Options { authorities: Some(file("ext")), ..ours.clone() }).await;
        assert!(error.to_string().contains("no PEM"), "{error}");
        let error = refused(&Options { identity: Some((file("ext"), file("ext"))), ..ours.clone() }).await;
        assert_eq!(error.fault(), Fault::Config, "{error}");
    }
}

#[tokio::test]
async fn each_peer_is_tried_and_a_lost_one_is_replaced() {
    let server = etcd::source();
    let prefix = etcd::prefix("peers");
    server.put(&format!("{prefix}k"), "v");
    let (first, second) = (Proxy::to(server.port), Proxy::to(server.port));
    let peers = ["http://127.0.0.1:1".to_owned(), first.url(), second.url()];
    let reads = store(&Options { peers: peers.to_vec(), ..raw(server, &prefix) });
    for (down, up) in [(&second, &first), (&first, &second), (&second, &first)] {
        up.set(Weather::Fair);
        down.set(Weather::Cut);
        assert_eq!(get(&reads, &[b"k"]).await.len(), 1);
    }
    first.set(Weather::Cut);
    let error = driftless::store::Store::tables(&reads).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient, "{error}");
    second.set(Weather::Fair);
    assert_eq!(get(&reads, &[b"k"]).await.len(), 1);
}

/// The signs of life that a dead peer does not give are missed within a quarter of a minute.
#[tokio::test]
async fn a_peer_that_has_gone_silent_is_given_up() {
    let server = etcd::source();
    let prefix = etcd::prefix("silent");
    server.put(&format!("{prefix}k"), "v");
    let (first, second) = (Proxy::to(server.port), Proxy::to(server.port));
    let reads = store(&Options { peers: vec![first.url(), second.url()], ..raw(server, &prefix) });
    assert_eq!(get(&reads, &[b"k"]).await.len(), 1);
    first.set(Weather::Silent);
    let begun = std::time::Instant::now();
    assert_eq!(get(&reads, &[b"k"]).await.len(), 1);
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_cluster_that_loses_a_member_is_read_on_through_another() {
    let members = Etcd::cluster("members", Release::New, &Setup::default());
    members[0].put("/app/k", "1");
    let peers: Vec<String> = members.iter().map(Etcd::url).collect();
    let reads = store(&Options {
        layout: driftless::model::Layout::Raw,
        ..Options::new("test", Role::Source, &peers, "/app/")
    });
    assert_eq!(get(&reads, &[b"k"]).await[0].value(), b"1");
    members[0].kill();
    etcd::until("the other two agree", || members[1].try_ctl(&["put", "/app/k", "2"]).is_ok());
    // What is read is never older than the question, whichever member answers.
    assert_eq!(get(&reads, &[b"k"]).await[0].value(), b"2");
    members[1].kill();
    let error = driftless::store::Store::tables(&reads).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient, "{error}");
    members[0].spawn();
    members[0].wait_ready();
    members[2].put("/app/k", "3");
    assert_eq!(get(&reads, &[b"k"]).await[0].value(), b"3");
}

#[tokio::test]
async fn peers_of_two_clusters_are_a_mistake() {
    let [new, old] = both();
    let way = Proxy::to(new.port);
    let both = Options { peers: vec![way.url(), old.url()], ..options(new, "/t/") };
    let cluster = Cluster::new(&both).unwrap();
    let live = cluster.live().await.unwrap();
    way.set(Weather::Cut);
    cluster.forget(&live);
    let error = cluster.live().await.map(drop).unwrap_err();
    assert_eq!(error.fault(), Fault::Config, "{error}");
    assert!(error.to_string().contains("two clusters"), "{error}");
}
