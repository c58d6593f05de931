//! The kind etcd, asked what the contracts say: of both layouts and both versions, written to with etcdctl.

use std::sync::Arc;

use driftless::kinds::etcd::body::Body;
use driftless::kinds::etcd::{Cluster, EtcdSink, EtcdSource, EtcdStore, Options, Role};
use driftless::model::{Layout, StreamId};

use super::options;
use crate::conformance::Rig;
use crate::support::etcd::{self, Etcd};

/// A body without the revision, which no cluster lets us choose, and without what belongs to the lease it had.
fn held(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Body { revision: 0, granted: 0, ..Body::decode(body).unwrap() }.encode(&mut out);
    out
}

fn rig_of(server: &'static Etcd, layout: Layout) -> Rig {
    let (prefix, copy) = (etcd::prefix("contracts"), etcd::prefix("copied"));
    let cluster = Cluster::new(&Options { layout, ..options(server, &prefix) }).unwrap();
    let copied = Cluster::new(&Options { layout, role: Role::Sink, ..options(server, &copy) }).unwrap();
    Rig {
        source: Arc::new(EtcdSource::new(&cluster)),
        store: Arc::new(EtcdStore::new(&cluster)),
        sink_store: Arc::new(EtcdStore::new(&copied)),
        sink: Arc::new(EtcdSink::new(&copied)),
        stream: StreamId::new(copy.trim_matches('/')),
        write: Box::new(move |all| {
            let stored = |key: &Vec<u8>| [prefix.as_bytes(), key].concat();
            let value = |value: &Vec<u8>| match layout {
                Layout::Raw => value.clone(),
                Layout::Teleport => etcd::base64(value).into_bytes(),
            };
            server.write(&all.iter().map(|(key, v)| (stored(key), v.as_ref().map(value))).collect::<Vec<_>>());
        }),
        held,
        guard: Box::new(()),
    }
}

mod any_keys {
    use super::*;

    async fn rig() -> Rig {
        rig_of(etcd::wide(), Layout::Raw)
    }

    conformance!(@each rig, tail_is_ordered, tail_resumes_exactly, a_dropped_read_loses_nothing,
        an_idle_source_reaches_its_head, another_lineage_is_a_lost_position, scan_sees_every_key_once, a_scan_goes_on_after_any_key, get_finds_what_is_there,
        body_roundtrips_bit_for_bit);
    conformance!(@sink rig);
}

mod items {
    use super::*;

    async fn rig() -> Rig {
        rig_of(etcd::wide(), Layout::Teleport)
    }

    // Without the bodies that this layout does not hold: an empty value.
    conformance!(@each rig, scan_sees_every_key_once, a_scan_goes_on_after_any_key, get_finds_what_is_there);
    conformance!(@sink rig);
}

mod the_old_version {
    use super::*;

    async fn rig() -> Rig {
        rig_of(etcd::old(), Layout::Raw)
    }

    // Its progress is no place.
    conformance!(@each rig, tail_is_ordered, tail_resumes_exactly, a_dropped_read_loses_nothing,
        an_idle_source_reaches_its_head, another_lineage_is_a_lost_position, get_finds_what_is_there,
        body_roundtrips_bit_for_bit);
    conformance!(@sink rig);
}
