//! The kind etcd, asked what the contracts say: any keys of one cluster, written to with etcdctl.

use std::sync::Arc;

use driftless::kinds::etcd::body::Body;
use driftless::kinds::etcd::{Cluster, EtcdSource, EtcdStore};
use driftless::kinds::memory::MemorySink;
use driftless::sink::Limits;

use super::raw;
use crate::conformance::Rig;
use crate::support::etcd;

/// A body without the revision, which no cluster lets us choose, and without what belongs to the lease it had.
fn held(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Body { revision: 0, granted: 0, ..Body::decode(body).unwrap() }.encode(&mut out);
    out
}

async fn rig() -> Rig {
    let (server, prefix) = (etcd::wide(), etcd::prefix("contracts"));
    let cluster = Cluster::new(&raw(server, &prefix)).unwrap();
    let sink = MemorySink::new(Limits { changes: 100, bytes: 1 << 20, stage: false, in_flight: 1 });
    Rig {
        source: Arc::new(EtcdSource::new(&cluster)),
        store: Arc::new(EtcdStore::new(&cluster)),
        sink_store: Arc::from(sink.store()),
        sink: Arc::new(sink),
        write: Box::new(move |all| {
            let stored = |key: &Vec<u8>| [prefix.as_bytes(), key].concat();
            server.write(&all.iter().map(|(key, value)| (stored(key), value.clone())).collect::<Vec<_>>());
        }),
        held,
        guard: Box::new(()),
    }
}

// What needs a stream or a sink is asked by who brings them.
conformance!(@each rig, scan_sees_every_key_once, a_scan_goes_on_after_any_key, get_finds_what_is_there);
