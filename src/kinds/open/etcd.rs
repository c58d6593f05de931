//! The kind etcd from its keys.

use std::sync::Arc;

use super::{Endpoint, Side, Special, Wanted};
use crate::config::Etcd;
use crate::error::Result;
use crate::kinds::etcd::{Cluster, EtcdSink, EtcdSource, EtcdStore, Options, Role, check};
use crate::model::{Kind, Remark};
use crate::sink::Sink;
use crate::source::{Fut, Source};
use crate::store::Store;

fn options(wanted: Wanted<'_>, keys: &Etcd, side: Side) -> Options {
    let role = if side == Side::Source { Role::Source } else { Role::Sink };
    let prefix = keys.prefix.as_deref().or(source_prefix(wanted)).unwrap_or_default();
    let mut options = Options::new(wanted.name, role, &keys.peers, prefix);
    options.layout = keys.layout;
    options.identity = keys.tls_cert_file.clone().zip(keys.tls_key_file.clone());
    options.authorities.clone_from(&keys.tls_ca_file);
    options.insecure = keys.insecure;
    options.user = keys.username.clone().zip(keys.password_file.clone());
    options.dial_timeout = keys.dial_timeout;
    options.max_message = keys.max_message;
    options.lease_budget = keys.lease_budget;
    options.journaled = super::shared::is_journaled(wanted.pipeline);
    options
}

fn source_prefix(wanted: Wanted<'_>) -> Option<&str> {
    match &wanted.pipeline.src {
        crate::config::Endpoint::Etcd(src) => src.prefix.as_deref(),
        _ => None,
    }
}

pub(super) fn open(wanted: Wanted<'_>, keys: &Etcd, side: Side) -> Result<Endpoint> {
    let options = options(wanted, keys, side);
    let name = if side == Side::Source { "src" } else { "dst" };
    let cluster = Cluster::new(&options).map_err(|error| error.during(format!("open `{name}`")))?;
    let (source, sink) = match side {
        Side::Source => (Some(Arc::new(EtcdSource::new(&cluster)) as Arc<dyn Source>), None),
        Side::Sink => (None, Some(Arc::new(EtcdSink::new(&cluster)) as Arc<dyn Sink>)),
    };
    let store: Option<Arc<dyn Store>> = Some(Arc::new(EtcdStore::new(&cluster)));
    let place = format!("etcd {} {}", options.peers.join(","), options.prefix);
    let apart = are_apart(wanted);
    Ok(Endpoint {
        kind: Kind::Etcd,
        layout: keys.layout,
        source,
        sink,
        followed: store.clone(),
        store,
        place,
        special: Box::new(Prefix { cluster, apart }),
    })
}

/// Whether both sides are etcd, and no key of one can be a key of the other even if they are one cluster.
fn are_apart(wanted: Wanted<'_>) -> bool {
    let (crate::config::Endpoint::Etcd(src), crate::config::Endpoint::Etcd(dst)) =
        (&wanted.pipeline.src, &wanted.pipeline.dst)
    else {
        return false;
    };
    let src = src.prefix.as_deref().unwrap_or_default();
    let dst = dst.prefix.as_deref().unwrap_or(src);
    !src.starts_with(dst) && !dst.starts_with(src)
}

/// One prefix, for questions that only this kind answers.
struct Prefix {
    cluster: Cluster,
    apart: bool,
}

impl Special for Prefix {
    /// The cluster's own number; with the prefix where another one of the same cluster is another place.
    fn identity(&self) -> Fut<'_, Option<String>> {
        Box::pin(async {
            let live = self.cluster.live().await?;
            let prefix = if self.apart { self.cluster.options().prefix.as_str() } else { "" };
            Ok(Some(format!("etcd {:016x} {prefix}", live.cluster)))
        })
    }

    fn remarks(&self) -> Fut<'_, Vec<Remark>> {
        Box::pin(async { Ok(Box::pin(check::look(self.cluster.options())).await) })
    }
}
