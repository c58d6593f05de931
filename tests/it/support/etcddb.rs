//! Teleport's etcd backend under a prefix of a test server, and a comparison of it with a dump of another store.
//!
//! Only `etcdctl` writes and reads it. An expiry is a lease, so two dumps are equal when instants are near.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::etcd::{self, Etcd};
use super::teleport::{Item, now_us};

/// How far two instants may be apart: Teleport's own leases are that coarse.
pub const NEAR_US: i128 = 10_000_000;

/// A Teleport backend in etcd.
pub struct EtcdDb {
    pub server: &'static Etcd,
    /// As configuration names it.
    pub prefix: String,
}

/// An item as it lies in a store: hexadecimal value, expiry in microseconds, revision.
pub type Lines = BTreeMap<String, (String, Option<i128>, String)>;

impl EtcdDb {
    /// A prefix of its own without keys.
    pub fn empty(server: &'static Etcd, hint: &str) -> Self {
        Self { server, prefix: etcd::prefix(hint) }
    }

    /// A prefix of its own that holds these items. What has expired is not there; what expires has one of a few leases of
    /// about an hour, whatever the item says.
    pub fn create(server: &'static Etcd, hint: &str, items: &[Item]) -> Self {
        let db = Self::empty(server, hint);
        let leases: Vec<String> = (0..4).map(|n| server.grant(3_600 + 600 * n)).collect();
        let live = items.iter().filter(|item| item.expires.is_none_or(|at| at / 1_000 > now_us()));
        let writes: Vec<_> = (0..)
            .zip(live)
            .map(|(n, item)| {
                let lease = item.expires.map(|_| leases[n % leases.len()].as_str());
                let value = STANDARD.encode(item.value.as_deref().unwrap_or_default()).into_bytes();
                (db.stored(&item.key), Some(value), lease)
            })
            .collect();
        for part in writes.chunks(100) {
            server.write_leased(part);
        }
        db
    }

    /// The stored key of a key.
    pub fn stored(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    /// Puts an item that does not expire.
    pub fn put(&self, key: &str, value: &[u8]) {
        self.server.write(&[(self.stored(key), Some(STANDARD.encode(value).into_bytes()))]);
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) {
        self.server.write(&[(self.stored(key), None)]);
    }

    /// The value of `src:` or `dst:`.
    pub fn yaml(&self) -> String {
        format!("{{ type: etcd, peers: [{:?}], prefix: {:?} }}", self.server.url(), self.prefix)
    }

    /// What Teleport could read, without locks, as `etcdctl` shows it.
    pub fn dump(&self) -> Lines {
        let mut ends: HashMap<i64, Option<i128>> = HashMap::new();
        let mut lines = Lines::new();
        for row in self.server.dump(&self.prefix) {
            let key = row.key.strip_prefix(self.prefix.as_bytes()).unwrap();
            let ours = matches!(key.first(), Some(b'/' | b'.')) && !key.starts_with(b".locks/");
            let (Ok(value), true) = (STANDARD.decode(&row.value), ours && !row.value.is_empty()) else { continue };
            let expires = match row.lease {
                0 => None,
                lease => {
                    let left = || self.server.left(lease).map(|left| now_us() + i128::from(left) * 1_000_000);
                    // Nothing has ended unless its lease is gone, and then its key goes too.
                    let Some(at) = *ends.entry(lease).or_insert_with(left) else { continue };
                    Some(at)
                }
            };
            lines.insert(hex(key), (hex(&value), expires, row.mod_revision.to_string()));
        }
        lines
    }
}

/// The canonical lines of another store's dump.
pub fn lines(dump: &[String]) -> Lines {
    let line = |line: &String| {
        let parts: Vec<&str> = line.split(' ').collect();
        let [key, value, expires, revision] = parts[..] else { panic!("four words: {line}") };
        (key.to_owned(), (value.to_owned(), expires.parse().ok(), revision.to_owned()))
    };
    dump.iter().map(line).collect()
}

/// Fails with the first differing keys, unless keys and values are equal and expiries near. `revisions`: these too.
pub fn assert_near(source: &Lines, sink: &Lines, revisions: bool) {
    let near = |a: Option<i128>, b: Option<i128>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= NEAR_US,
        (a, b) => a == b,
    };
    let differs = |key: &&String| match (source.get(*key), sink.get(*key)) {
        (Some(a), Some(b)) => a.0 != b.0 || !near(a.1, b.1) || (revisions && a.2 != b.2),
        _ => true,
    };
    let differing: Vec<_> = source.keys().chain(sink.keys()).filter(differs).take(5).collect();
    let show =
        |key: &String| (source.get(key).map(|line| (&line.1, &line.2)), sink.get(key).map(|line| (&line.1, &line.2)));
    assert!(
        differing.is_empty(),
        "{} items in the source, {} in the sink; these differ: {:#?}",
        source.len(),
        sink.len(),
        differing.iter().map(|key| (key, show(key))).collect::<Vec<_>>()
    );
}

/// Whether keys and values are equal and expiries near.
pub fn are_near(source: &Lines, sink: &Lines) -> bool {
    let near = |a: Option<i128>, b: Option<i128>| a.zip(b).map_or(a == b, |(a, b)| (a - b).abs() <= NEAR_US);
    let same = |key: &String| source.get(key).zip(sink.get(key)).is_some_and(|(a, b)| a.0 == b.0 && near(a.1, b.1));
    source.len() == sink.len() && source.keys().all(same)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
