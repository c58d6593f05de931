//! Keys and values as they lie in etcd, and as everybody else here sees them.
//!
//! *Teleport*: the stored key is the configured prefix and the key, one behind the other, so that `/teleport/` gives two
//! slashes (`/teleport//nodes/…`) and one before a dot (`/teleport/.flags/…`). What follows the prefix begins with `/` or
//! `.`; anything else under it is somebody else's (`/teleport2/…` under `/teleport`). The stored value is base64: standard
//! alphabet, with padding. An empty one, and one that is not base64, is unreadable to Teleport too.
//!
//! *Raw*: the stored key is the prefix and the key; a destination may have another prefix. Values are as they are.
//!
//! What lies under [`OURS`] is our own bookkeeping in a destination and belongs to no layout. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::model::Layout;

/// Where our own records lie.
pub const OURS: &[u8] = b"/driftless/";

/// The end of a range that has none, as etcd writes it.
const NO_END: &[u8] = b"\0";

/// Keys under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    layout: Layout,
    prefix: Vec<u8>,
}

impl Keys {
    /// Keys of a layout under a prefix.
    pub fn new(layout: Layout, prefix: &[u8]) -> Self {
        Self { layout, prefix: prefix.to_vec() }
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The first stored key of a range of keys that begins at `from` (empty: at the first of all).
    pub fn first(&self, from: &[u8]) -> Vec<u8> {
        // `.` is the smaller of the two bytes with which Teleport's keys begin.
        let from = if from.is_empty() && self.layout == Layout::Teleport { b"." } else { from };
        let stored = [&self.prefix, from].concat();
        if stored.is_empty() { NO_END.to_vec() } else { stored }
    }

    /// What a range of stored keys ends before, if its keys end before `to` (empty: behind the last of all).
    pub fn end(&self, to: &[u8]) -> Vec<u8> {
        match (to.is_empty(), self.layout) {
            (false, _) => [&self.prefix, to].concat(),
            // `.` and `/` are neighbours, and `0` follows them.
            (true, Layout::Teleport) => [&self.prefix[..], b"0"].concat(),
            (true, Layout::Raw) => after_all(&self.prefix),
        }
    }

    /// The first stored key that can follow this key.
    pub fn next(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key, b"\0"].concat()
    }

    /// The stored key of a key.
    pub fn stored(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    /// The key of a stored key; `None` for what is not of this layout, or is ours.
    pub fn key<'a>(&self, stored: &'a [u8]) -> Option<&'a [u8]> {
        if stored.starts_with(OURS) {
            return None;
        }
        let key = stored.strip_prefix(&self.prefix[..])?;
        match self.layout {
            Layout::Raw => Some(key),
            Layout::Teleport => matches!(key.first(), Some(b'/' | b'.')).then_some(key),
        }
    }

    /// Appends the value of a stored value; false, with nothing appended, if it cannot be read.
    pub fn value(&self, stored: &[u8], out: &mut Vec<u8>) -> bool {
        match self.layout {
            Layout::Raw => {
                out.extend_from_slice(stored);
                true
            }
            Layout::Teleport => {
                let before = out.len();
                let read = !stored.is_empty() && STANDARD.decode_vec(stored, out).is_ok();
                if !read {
                    out.truncate(before);
                }
                read
            }
        }
    }

    /// The stored value of a value. In Teleport's layout an empty one cannot be stored so that Teleport reads it: `None`.
    pub fn stored_value(&self, value: &[u8]) -> Option<Vec<u8>> {
        match self.layout {
            Layout::Raw => Some(value.to_vec()),
            Layout::Teleport if value.is_empty() => None,
            Layout::Teleport => Some(STANDARD.encode(value).into_bytes()),
        }
    }
}

/// What every key that begins with a prefix lies before: the prefix with its last byte below 0xFF counted up and what
/// follows cut off.
pub fn after_all(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|&byte| byte < 0xff) {
        None => NO_END.to_vec(),
        Some(last) => {
            let mut end = prefix.get(..=last).unwrap_or_default().to_vec();
            if let Some(byte) = end.last_mut() {
                *byte += 1;
            }
            end
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn teleport(prefix: &str) -> Keys {
        Keys::new(Layout::Teleport, prefix.as_bytes())
    }

    fn text(value: &[u8]) -> String {
        String::from_utf8(value.to_vec()).unwrap()
    }

    #[test]
    fn the_written_down_examples_lie_as_teleport_lays_them() {
        let keys = teleport("/teleport/");
        for (key, stored, value, base64) in [
            (
                "/authorities/host/example.com",
                "/teleport//authorities/host/example.com",
                &br#"{"kind":"cert_authority"}"#[..],
                "eyJraW5kIjoiY2VydF9hdXRob3JpdHkifQ==",
            ),
            (
                "/nodes/default/4f1c0f5e-8d3c-4f0a-9b0e-2a6c7f1d9e55",
                "/teleport//nodes/default/4f1c0f5e-8d3c-4f0a-9b0e-2a6c7f1d9e55",
                br#"{"kind":"node"}"#,
                "eyJraW5kIjoibm9kZSJ9",
            ),
            (
                "/web/users/alice/pwd",
                "/teleport//web/users/alice/pwd",
                b"$2a$10$abcdefghijklmnopqrstuv",
                "JDJhJDEwJGFiY2RlZmdoaWprbG1ub3BxcnN0dXY=",
            ),
            (
                "/semaphores/connection/alice/lock1",
                "/teleport//semaphores/connection/alice/lock1",
                b"\x00\xff\x10",
                "AP8Q",
            ),
            (".locks/athena_lock", "/teleport/.locks/athena_lock", b"hello", "aGVsbG8="),
            ("/a?>b/ÿ~", "/teleport//a?>b/ÿ~", b"{}", "e30="),
        ] {
            assert_eq!(text(&keys.stored(key.as_bytes())), stored);
            assert_eq!(keys.key(stored.as_bytes()), Some(key.as_bytes()));
            assert_eq!(text(&keys.stored_value(value).unwrap()), base64);
            let mut out = b"before".to_vec();
            assert!(keys.value(base64.as_bytes(), &mut out));
            assert_eq!(out, [b"before", value].concat());
        }
    }

    #[test]
    fn what_only_begins_alike_and_what_is_ours_is_left_alone() {
        for (prefix, foreign) in [
            ("/teleport", &["/teleport2/x", "/teleport", "/teleporT/x", "/tele"][..]),
            ("/teleport/", &["/teleport/x", "/teleport2/x", "/teleport/"]),
            ("/", &["/driftless/s/lane/0", "/x"]),
        ] {
            for stored in foreign {
                assert_eq!(teleport(prefix).key(stored.as_bytes()), None, "{stored} under {prefix}");
            }
        }
        assert_eq!(teleport("/teleport").key(b"/teleport/x"), Some(&b"/x"[..]));
        assert_eq!(teleport("/teleport").key(b"/teleport.flags/x"), Some(&b".flags/x"[..]));
        let all = Keys::new(Layout::Raw, b"");
        assert_eq!(all.key(b"/driftless/s"), None);
        assert_eq!(all.key(b"/driftless"), Some(&b"/driftless"[..]));
        let near = Keys::new(Layout::Raw, b"/drift");
        assert_eq!((near.key(b"/driftless/s"), near.key(b"/driftwood")), (None, Some(&b"wood"[..])));
    }

    #[test]
    fn an_empty_or_broken_value_is_unreadable_in_teleports_layout_alone() {
        for broken in [&b""[..], b"e30", b"e30=\n", b"e3-=", b"{}", b"\xff"] {
            let mut out = b"before".to_vec();
            assert!(!teleport("/t/").value(broken, &mut out), "{broken:?}");
            assert_eq!(out, b"before");
            assert!(Keys::new(Layout::Raw, b"/t/").value(broken, &mut out));
            assert_eq!(out, [b"before", broken].concat());
        }
        assert_eq!(teleport("/t/").stored_value(b""), None);
        assert_eq!(Keys::new(Layout::Raw, b"").stored_value(b""), Some(vec![]));
    }

    #[test]
    fn ranges_hold_what_is_of_the_layout_and_end_where_it_ends() {
        let keys = teleport("/teleport/");
        assert_eq!((text(&keys.first(b"")), text(&keys.end(b""))), ("/teleport/.".into(), "/teleport/0".into()));
        assert_eq!(text(&keys.first(b"/nodes/")), "/teleport//nodes/");
        assert_eq!(text(&keys.end(b"/nodes0")), "/teleport//nodes0");
        assert_eq!(keys.next(b"/apps/foo"), b"/teleport//apps/foo\0");
        let raw = |prefix: &[u8]| Keys::new(Layout::Raw, prefix);
        assert_eq!((raw(b"").first(b""), raw(b"").end(b"")), (b"\0".to_vec(), b"\0".to_vec()));
        assert_eq!((raw(b"/a\xff").first(b""), raw(b"/a\xff").end(b"")), (b"/a\xff".to_vec(), b"/b".to_vec()));
        assert_eq!(raw(b"\xff\xff").end(b""), b"\0");
        assert_eq!(raw(b"/a/").end(b""), b"/a0");
    }

    #[test]
    fn the_page_after_a_key_skips_none_that_begins_with_it() {
        let order = ["/apps/foo", "/apps/foo-bar", "/apps/foo/bar", "/apps/foo0", "/apps/fop"];
        let keys = teleport("/t/");
        for (at, key) in order.iter().enumerate() {
            let next = keys.next(key.as_bytes());
            for (other, key) in order.iter().enumerate() {
                assert_eq!(keys.stored(key.as_bytes()) >= next, other > at);
            }
        }
    }

    proptest! {
        #[test]
        fn any_raw_key_and_value_comes_back(prefix in proptest::collection::vec(any::<u8>(), 0..6),
            key in proptest::collection::vec(any::<u8>(), 0..20), value in proptest::collection::vec(any::<u8>(), 0..20))
        {
            let keys = Keys::new(Layout::Raw, &prefix);
            let stored = keys.stored(&key);
            prop_assume!(!stored.starts_with(OURS) && !stored.is_empty());
            prop_assert_eq!(keys.key(&stored), Some(&key[..]));
            prop_assert!(stored >= keys.first(b"") || keys.first(b"") == b"\0");
            prop_assert!(stored < keys.end(b"") || keys.end(b"") == b"\0");
            let mut out = vec![];
            prop_assert!(keys.value(&keys.stored_value(&value).unwrap(), &mut out));
            prop_assert_eq!(out, value);
        }

        #[test]
        fn any_value_but_none_comes_back_from_base64(value in proptest::collection::vec(any::<u8>(), 1..50)) {
            let keys = teleport("/t/");
            let mut out = vec![];
            prop_assert!(keys.value(&keys.stored_value(&value).unwrap(), &mut out));
            prop_assert_eq!(out, value);
        }
    }
}
