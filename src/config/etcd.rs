//! The keys of type `etcd`: Teleport's own, and ours beside them.
//!
//! Peers are made into full URLs here, so that everybody who compares or connects sees one form. The certificate of a peer
//! is verified, and nothing goes over a network in clear, unless `insecure` says so by its name.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::endpoint::{Endpoint, layout};
use crate::config::section::Section;
use crate::error::Result;
use crate::model::Layout;

/// The keys of type `etcd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Where members listen for clients: `http://` or `https://`, host and port. At least one.
    pub peers: Vec<String>,
    /// What stands before every key. Teleport's layout: begins with a slash. Raw: as it was given; `None` in a
    /// destination that takes the source's.
    pub prefix: Option<String>,
    /// How items lie in it.
    pub layout: Layout,
    /// Certificate that this side shows, as PEM; has a key.
    pub tls_cert_file: Option<PathBuf>,
    /// The key of that certificate, as PEM.
    pub tls_key_file: Option<PathBuf>,
    /// Authorities whose certificates are believed, as PEM; the operating system's without it.
    pub tls_ca_file: Option<PathBuf>,
    /// Whether peers may be spoken to in clear, and whatever certificate they show is believed.
    pub insecure: bool,
    /// Who logs in; has a password file.
    pub username: Option<String>,
    /// The file that holds nothing but the password.
    pub password_file: Option<PathBuf>,
    /// How long one peer is waited for before the next one is tried.
    pub dial_timeout: Duration,
    /// Most bytes of a request, where that is less than what the server takes.
    pub max_message: Option<usize>,
    /// Questions about leases that the cluster is asked in a second.
    pub lease_budget: u32,
}

/// Where our own records lie in a destination, which is never data.
const OURS: &str = "/driftless/";
/// LIMIT: a question costs the cluster's leader some ten microseconds; this is 1 % of one of its cores, and asks 5 000
/// leases within ten seconds.
const LEASE_BUDGET: i64 = 500;

/// Reads the keys.
pub(super) fn read(keys: Section<'_>, side: &str) -> Result<Endpoint> {
    // What Teleport's cache and its pool of clients do with them has no meaning here.
    keys.accept(&["buffer_size", "client_pool_size"]);
    let layout = layout(&keys)?;
    let insecure = keys.truth("insecure")?.unwrap_or(false);
    let file = |key| Ok(keys.text(key)?.filter(|path| !path.is_empty()).map(PathBuf::from));
    let endpoint = Etcd {
        peers: peers(&keys, insecure)?,
        prefix: prefix(&keys, layout, side)?,
        layout,
        tls_cert_file: file("tls_cert_file")?,
        tls_key_file: file("tls_key_file")?,
        tls_ca_file: file("tls_ca_file")?,
        insecure,
        username: keys.text("username")?.filter(|name| !name.is_empty()),
        password_file: file("password_file")?,
        dial_timeout: dial_timeout(&keys)?,
        max_message: keys
            .number("etcd_max_client_msg_size_bytes", 0, i64::from(i32::MAX))?
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0),
        lease_budget: keys
            .number("lease_budget", 1, 100_000)?
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(LEASE_BUDGET as u32),
    };
    for (one, key, other) in [
        (&endpoint.tls_cert_file, "tls_cert_file", "tls_key_file"),
        (&endpoint.tls_key_file, "tls_key_file", "tls_cert_file"),
    ] {
        if one.is_some() && (endpoint.tls_cert_file.is_none() || endpoint.tls_key_file.is_none()) {
            return Err(keys.wrong(key, format!("needs `{other}` beside it")));
        }
    }
    match (&endpoint.username, &endpoint.password_file) {
        (Some(_), None) => return Err(keys.wrong("username", "needs `password_file` beside it")),
        (None, Some(_)) => return Err(keys.wrong("password_file", "needs `username` beside it")),
        _ => {}
    }
    keys.finish()?;
    Ok(Endpoint::Etcd(endpoint))
}

impl Etcd {
    /// Whether the two could hold keys of each other: a peer in common, and prefixes of which one begins with the other.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.prefix.as_deref(), other.prefix.as_deref());
        let (ours, theirs) = (ours.or(theirs).unwrap_or_default(), theirs.or(ours).unwrap_or_default());
        let near = ours.starts_with(theirs) || theirs.starts_with(ours);
        near && self.peers.iter().any(|peer| other.peers.contains(peer))
    }
}

fn peers(keys: &Section<'_>, insecure: bool) -> Result<Vec<String>> {
    const EXPECTED: &str = "must be a list of addresses such as [\"https://etcd-1:2379\"]";
    let named = keys.texts("peers")?.unwrap_or_default();
    if named.is_empty() {
        // A key that is missing has no line of its own.
        return Err(if keys.has("peers") {
            keys.wrong("peers", EXPECTED)
        } else {
            keys.missing("peers", "a list of addresses such as [\"https://etcd-1:2379\"]")
        });
    }
    let mut peers = Vec::with_capacity(named.len());
    for text in named {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            Some(_) => return Err(keys.wrong("peers", EXPECTED)),
            None => (if insecure { "http" } else { "https" }, text.as_str()),
        };
        let (host, port) = address(rest).ok_or_else(|| keys.wrong("peers", EXPECTED))?;
        if scheme == "http" && !insecure && !is_here(host) {
            let what = "names a peer of another machine with `http://`, which sends secrets in clear; use `https://`, \
                        or say `insecure: true`";
            return Err(keys.wrong("peers", what));
        }
        let peer = format!("{scheme}://{host}:{port}");
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    if peers.iter().any(|peer| peer.starts_with("http:")) && keys.says("tls_cert_file") {
        return Err(keys.wrong("tls_cert_file", "is never shown to a peer that `peers` names with `http://`"));
    }
    Ok(peers)
}

/// Host and port of an address without scheme; etcd's own port where none is given.
fn address(text: &str) -> Option<(&str, u16)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let end = inner.find(']')?;
            inner[..end].parse::<std::net::Ipv6Addr>().ok()?;
            text.split_at(end + 2)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None if rest.is_empty() => 2379,
        None => return None,
    };
    let plain = host.starts_with('[') || (!host.is_empty() && host.chars().all(name));
    plain.then_some((host, port))
}

/// Whether a host is this machine, by what is written and never by a look-up.
fn is_here(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn prefix(keys: &Section<'_>, layout: Layout, side: &str) -> Result<Option<String>> {
    const MEANING: &str = "what stands before every key, such as /teleport/";
    let prefix = match (layout, side) {
        (Layout::Teleport, _) => {
            let prefix = keys.required("prefix", MEANING)?;
            // As Teleport does; what follows is left as it is, two slashes included.
            Some(if prefix.starts_with('/') { prefix } else { format!("/{prefix}") })
        }
        (Layout::Raw, "dst") => keys.text("prefix")?,
        (Layout::Raw, _) => Some(keys.text("prefix")?.ok_or_else(|| {
            keys.missing("prefix", "what stands before every key that is copied; \"\" is every key of the cluster")
        })?),
    };
    // What follows it begins with a slash, in Teleport's layout.
    let after = if layout == Layout::Teleport { "/" } else { "" };
    if prefix.as_ref().is_some_and(|prefix| format!("{prefix}{after}").starts_with(OURS)) {
        return Err(keys.wrong("prefix", format!("lies under {OURS}, where driftless keeps its own records")));
    }
    Ok(prefix)
}

fn dial_timeout(keys: &Section<'_>) -> Result<Duration> {
    match keys.duration("dial_timeout")? {
        None => Ok(Duration::from_secs(5)),
        Some(Duration::ZERO) => Err(keys.wrong("dial_timeout", "must be longer than nothing")),
        Some(timeout) => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form() {
        for (text, wanted) in [
            ("a", Some(("a", 2379))),
            ("a:1", Some(("a", 1))),
            ("etcd-1.example.com:2379/", Some(("etcd-1.example.com", 2379))),
            ("[::1]:9", Some(("[::1]", 9))),
            ("[::1]", Some(("[::1]", 2379))),
            ("user:secret@a:1", None),
            ("a:0", None),
            ("a:70000", None),
            ("a/v3", None),
            ("", None),
            (":1", None),
            ("[::1", None),
            ("[planted]", None),
        ] {
            assert_eq!(address(text), wanted, "{text}");
        }
        for (host, here) in
            [("127.0.0.1", true), ("[::1]", true), ("localhost", true), ("10.0.0.1", false), ("a", false)]
        {
            assert_eq!(is_here(host), here, "{host}");
        }
    }
}
