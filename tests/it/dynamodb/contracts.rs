//! The kind DynamoDB, asked what the contracts say, of Teleport's layout; written to with boto3.

use std::sync::Arc;

use driftless::kinds::dynamodb::{Access, DynamoSink, DynamoSource, DynamoStore, Role};

use crate::conformance::{Rig, stream};
use crate::support::boto::{name, server, value};

async fn rig() -> Rig {
    let (table, copy) = (name("contracts"), name("copied"));
    let (from, to) = tokio::task::spawn_blocking(move || {
        server().teleport(&table);
        (table, copy)
    })
    .await
    .unwrap();
    let access = Access::new(&server().options(Role::Source, &from));
    let copied = Access::new(&server().options(Role::Sink, &to));
    Rig {
        source: Arc::new(DynamoSource::new(&access)),
        store: Arc::new(DynamoStore::new(&access)),
        sink_store: Arc::new(DynamoStore::new(&copied)),
        sink: Arc::new(DynamoSink::new(&copied)),
        stream: stream(),
        write: Box::new(move |all| {
            let text = |key: &Vec<u8>| String::from_utf8(key.clone()).unwrap();
            let all: Vec<_> = all.iter().map(|(key, bytes)| (text(key), bytes.as_deref().map(value))).collect();
            for part in all.chunks(100) {
                server().write(&from, part);
            }
        }),
        held: <[u8]>::to_vec,
        guard: Box::new(()),
    }
}

conformance!(@each rig, scan_sees_every_key_once, a_scan_goes_on_after_any_key, get_finds_what_is_there,
    body_roundtrips_bit_for_bit);
conformance!(@sink rig);
