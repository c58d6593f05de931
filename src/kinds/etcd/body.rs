//! The body of an etcd row: its value, when it expires, and its revision.
//!
//! ```text
//! u8 version = 1
//! i64 LE expiry: microseconds since the Unix epoch; the largest number means never
//! i64 LE revision: the key's mod revision where the row was read; 0 if it came from another kind
//! u32 LE granted: the seconds for which its lease is granted anew whenever it is kept alive; 0 if that is not known
//! the value, to the end: without Teleport's base64, the same in both layouts
//! ```
//!
//! There is no body with holes: a lease that was renewed comes as the whole row again, because a destination may have let the
//! row expire meanwhile and would have nothing to fill the holes from (decision 0015).
//!
//! The expiry of a key is a lease, of which only the whole seconds that it has left can be asked. So an instant here is late
//! by up to three seconds, never early, and two are equal within [`SLACK`]. No cluster lets us choose a revision: it goes
//! along to kinds that can hold it (as decimal text, as Teleport shows it) and is not compared between two clusters. Pure.

use crate::error::{Error, Result};
use crate::model::{Item, Micros};

const VERSION: u8 = 1;
/// Bytes before the value.
const HEAD: usize = 21;
/// How [`Micros`] say never.
const NEVER: Micros = Micros::MAX;

/// How far two instants may be apart and still be one, in nanoseconds: an instant that was asked for is up to three seconds
/// late, and a destination collects keys under leases whose ends are up to ten seconds later.
pub const SLACK: i128 = 15_000_000_000;

/// A row without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body<'a> {
    /// When it expires.
    pub expires: Option<Micros>,
    /// Mod revision; 0 if unknown.
    pub revision: i64,
    /// The seconds for which its lease is granted whenever it is kept alive; 0 if unknown.
    pub granted: u32,
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Body<'a> {
    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        begin(self.expires, self.revision, self.granted, out);
        out.extend_from_slice(self.value);
    }

    /// Reads the encoded form.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let (version, rest) = bytes.split_first().ok_or_else(broken)?;
        if *version != VERSION {
            return Err(Error::corrupt(format!(
                "read an etcd body: its format {version} is not known to this version"
            )));
        }
        let (expires, rest) = rest.split_first_chunk().ok_or_else(broken)?;
        let (revision, rest) = rest.split_first_chunk().ok_or_else(broken)?;
        let (granted, value) = rest.split_first_chunk().ok_or_else(broken)?;
        let expires = Micros::from_le_bytes(*expires);
        let expires = (expires != NEVER).then_some(expires);
        let (revision, granted) = (i64::from_le_bytes(*revision), u32::from_le_bytes(*granted));
        Ok(Self { expires, revision, granted, value })
    }

    /// Whether it has expired.
    pub fn expired(&self, now: Micros) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

/// Appends everything but the value, which the caller appends.
pub fn begin(expires: Option<Micros>, revision: i64, granted: u32, out: &mut Vec<u8>) {
    out.reserve(HEAD);
    out.push(VERSION);
    out.extend_from_slice(&expires.unwrap_or(NEVER).to_le_bytes());
    out.extend_from_slice(&revision.to_le_bytes());
    out.extend_from_slice(&granted.to_le_bytes());
}

/// The item in a body.
pub fn to_item(body: &[u8]) -> Result<Item> {
    let body = Body::decode(body)?;
    let revision = if body.revision > 0 { body.revision.to_string().into_bytes() } else { Vec::new() };
    Ok(Item { value: body.value.to_vec(), expires: body.expires.map(|at| i128::from(at) * 1_000), revision })
}

/// Appends the body of an item of another kind. Its expiry is rounded up to a microsecond; its revision cannot be held.
pub fn from_item(item: &Item, out: &mut Vec<u8>) {
    let micros = |nanos: i128| {
        // An instant that is too far away to be written down is as good as the last that can be.
        Micros::try_from((nanos + 999).div_euclid(1_000)).unwrap_or(if nanos < 0 { 0 } else { NEVER - 1 })
    };
    Body { expires: item.expires.map(micros), revision: 0, granted: 0, value: &item.value }.encode(out);
}

/// Whether a row of a source and one of a destination are equal: the value, and the instant of expiry as far as it can be
/// known.
pub fn same(source: &[u8], sink: &[u8]) -> Result<bool> {
    let (source, sink) = (Body::decode(source)?, Body::decode(sink)?);
    let nanos = |at: Option<Micros>| at.map(|at| i128::from(at) * 1_000);
    Ok(source.value == sink.value && near(nanos(source.expires), nanos(sink.expires), renewed(source.granted)))
}

/// Whether the instant of a source and that of a destination, in nanoseconds, are one as far as etcd can tell, where the
/// destination's may be `behind` by so much more; never is near nothing but never.
pub fn near(source: Option<i128>, sink: Option<i128>, behind: i128) -> bool {
    match (source, sink) {
        (None, None) => true,
        (Some(source), Some(sink)) => (-SLACK..=SLACK + behind).contains(&(source - sink)),
        _ => false,
    }
}

/// How much earlier a destination's instant may be, in nanoseconds, under a lease that is granted for so many seconds each
/// time: keeping it alive makes no event, and it is read again before a third of its time is left.
pub fn renewed(granted: u32) -> i128 {
    i128::from(granted) * 1_000_000_000 * 2 / 3
}

/// Appends the same body with another value.
pub fn with_value(body: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<()> {
    Body { value, ..Body::decode(body)? }.encode(out);
    Ok(())
}

fn broken() -> Error {
    Error::corrupt("read an etcd body: it is cut short or not one of ours")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(expires: Option<Micros>, revision: i64, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Body { expires, revision, granted: 600, value }.encode(&mut out);
        out
    }

    #[test]
    fn the_bytes_of_the_encoding_do_not_change() {
        let never = encoded(None, 4711, b"v");
        assert_eq!(never, [1, 255, 255, 255, 255, 255, 255, 255, 127, 103, 18, 0, 0, 0, 0, 0, 0, 88, 2, 0, 0, b'v']);
        assert_eq!(encoded(Some(1), 0, b"")[..10], [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(Body::decode(&[9; 20]).unwrap_err().to_string().contains("format 9"));
        for cut in 0..HEAD {
            assert!(Body::decode(&never[..cut]).is_err());
        }
    }

    #[test]
    fn the_revision_is_shown_as_teleport_shows_it_and_not_compared() {
        assert_eq!(to_item(&encoded(None, 4711, b"v")).unwrap().revision, b"4711");
        assert_eq!(to_item(&encoded(None, 0, b"v")).unwrap().revision, b"");
        assert!(same(&encoded(None, 1, b"v"), &encoded(None, 2, b"v")).unwrap());
        assert!(!same(&encoded(None, 1, b"v"), &encoded(None, 1, b"w")).unwrap());
    }

    #[test]
    fn instants_are_equal_as_far_as_leases_can_tell() {
        const E: Micros = 1_775_045_430_000_000;
        let at = |expires| encoded(expires, 1, b"v");
        // A lease of ten minutes may have been kept alive, unseen, for two thirds of its time.
        for (other, equal) in [
            (Some(E), true),
            (Some(E + 15_000_000), true),
            (Some(E + 15_000_001), false),
            (Some(E - 415_000_000), true),
            (Some(E - 415_000_001), false),
            (None, false),
        ] {
            assert_eq!(same(&at(Some(E)), &at(other)).unwrap(), equal, "{other:?}");
        }
        assert!(same(&at(None), &at(None)).unwrap());
        let body = at(Some(E));
        let body = Body::decode(&body).unwrap();
        assert!(!body.expired(E - 1) && body.expired(E));
        assert!(!Body::decode(&at(None)).unwrap().expired(Micros::MAX));
    }

    #[test]
    fn an_instant_between_two_microseconds_is_rounded_up_and_never_becomes_never() {
        let carried = |expires| {
            let mut out = Vec::new();
            from_item(&Item { value: b"v".to_vec(), expires: Some(expires), revision: b"r".to_vec() }, &mut out);
            let body = Body::decode(&out).unwrap();
            assert_eq!(body.revision, 0);
            body.expires.unwrap()
        };
        for (nanos, micros) in [(1_000, 1), (1_001, 2), (0, 0), (-1, 0), (i128::MAX / 2, NEVER - 1), (i128::MIN / 2, 0)]
        {
            assert_eq!(carried(nanos), micros);
        }
    }

    #[test]
    fn another_value_leaves_the_rest_as_it_was() {
        let mut out = Vec::new();
        with_value(&encoded(Some(7), 3, b"old"), b"new", &mut out).unwrap();
        assert_eq!(out, encoded(Some(7), 3, b"new"));
    }

    proptest! {
        #[test]
        fn any_body_comes_back(expires in proptest::option::of(0..NEVER), revision in any::<i64>(),
            value in proptest::collection::vec(any::<u8>(), 0..40))
        {
            let bytes = encoded(expires, revision, &value);
            prop_assert_eq!(Body::decode(&bytes).unwrap(), Body { expires, revision, granted: 600, value: &value });
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            drop(to_item(&bytes));
        }
    }
}
