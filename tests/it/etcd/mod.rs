//! The kind etcd against real servers of both versions.

mod connecting;
mod contracts;
mod copying;
mod filling;
mod following;
mod past;
mod reading;
mod writing;

use driftless::kinds::etcd::body::Body;
use driftless::kinds::etcd::{Cluster, EtcdStore, Options, Role};
use driftless::model::{Batch, Layout, PartitionId, Position, Steps};
use driftless::store::Store;

use crate::support::etcd::{self, Etcd};

/// Both versions.
fn both() -> [&'static Etcd; 2] {
    [etcd::source(), etcd::old()]
}

fn options(server: &Etcd, prefix: &str) -> Options {
    Options::new("test", Role::Source, &[server.url()], prefix)
}

fn raw(server: &Etcd, prefix: &str) -> Options {
    Options { layout: Layout::Raw, ..options(server, prefix) }
}

fn store(options: &Options) -> EtcdStore {
    EtcdStore::new(&Cluster::new(options).unwrap())
}

/// A row as a store gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    key: Vec<u8>,
    body: Vec<u8>,
}

impl Row {
    fn value(&self) -> &[u8] {
        Body::decode(&self.body).unwrap().value
    }

    /// Microseconds.
    fn expires(&self) -> Option<i64> {
        Body::decode(&self.body).unwrap().expires
    }
}

fn rows_of(batch: &Batch) -> Vec<Row> {
    batch.rows().map(|row| Row { key: row.key.to_vec(), body: row.body.to_vec() }).collect()
}

/// Everything in a store, range by range, in pages of about so many bytes; keys must come in order and once.
async fn scan(store: &dyn Store, ranges: usize, bytes: usize) -> Vec<Row> {
    let mut all: Vec<Row> = Vec::new();
    for cut in store.ranges(ranges).await.unwrap() {
        let range = store.range(&cut.name).await.unwrap();
        let mut after = Position::Start;
        while after != Position::End {
            let mut page = Batch::unpooled();
            page.begin(&PartitionId::new("!scan"), after.clone(), Steps::Key);
            let page = store.scan(&range, &after, page, bytes).await.unwrap();
            assert!(*page.upto() > after, "a page moves");
            after = page.upto().clone();
            for row in rows_of(&page) {
                assert!(all.last().is_none_or(|last| last.key < row.key), "keys come in order and once");
                all.push(row);
            }
        }
    }
    all
}

async fn get(store: &dyn Store, keys: &[&[u8]]) -> Vec<Row> {
    let table = store.tables().await.unwrap().remove(0);
    let mut rows = rows_of(&store.get(&table, keys, Batch::unpooled()).await.unwrap());
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

fn keys(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| String::from_utf8_lossy(&row.key).into_owned()).collect()
}
