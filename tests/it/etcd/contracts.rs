//! The kind etcd, asked what the contracts say: any keys of one cluster, written to with etcdctl.

use std::sync::Arc;

use driftless::kinds::etcd::body::Body;
use driftless::kinds::etcd::{Cluster, EtcdSource, EtcdStore};
use driftless::kinds::memory::MemorySink;
use driftless::sink::Limits;

use super::raw;
use crate::conformance::Rig;
use crate::support::etcd::{self, Etcd};

/// A body without the revision, which no cluster lets us choose, and without what belongs to the lease it had.
fn held(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Body { revision: 0, granted: 0, ..Body::decode(body).unwrap() }.encode(&mut out);
    out
}

async fn rig() -> Rig {
    rig_of(etcd::wide())
}

async fn old_rig() -> Rig {
    rig_of(etcd::old())
}

fn rig_of(server: &'static Etcd) -> Rig {
    let prefix = etcd::prefix("contracts");
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

// What needs a sink is asked by who brings one.
conformance!(@each rig, tail_is_ordered, tail_resumes_exactly, a_dropped_read_loses_nothing,
    an_idle_source_reaches_its_head, another_lineage_is_a_lost_position, scan_sees_every_key_once,
    a_scan_goes_on_after_any_key, get_finds_what_is_there);

/// The same, asked of a server whose progress is no place.
mod old {
    use super::old_rig;

    conformance!(@each old_rig, tail_is_ordered, tail_resumes_exactly, a_dropped_read_loses_nothing,
        an_idle_source_reaches_its_head, another_lineage_is_a_lost_position);
}
