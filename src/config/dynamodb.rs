//! The keys of type `dynamodb`: Teleport's own, and ours beside them.
//!
//! What is not said here (region, credentials) is found where AWS' own programs find it. Nothing goes over a network in clear
//! unless `insecure` says so by its name.

use crate::config::endpoint::{Endpoint, Secret, layout};
use crate::config::section::Section;
use crate::error::Result;
use crate::model::Layout;

/// The keys of type `dynamodb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dynamodb {
    /// The table.
    pub table_name: String,
    /// Its region; from the environment, the profile or the machine without it.
    pub region: Option<String>,
    /// How items lie in it.
    pub layout: Layout,
    /// Where requests go, where that is not the region's own address: `http://` or `https://`, host and port.
    pub endpoint: Option<String>,
    /// A profile of AWS' shared files.
    pub profile: Option<String>,
    /// A role that is taken on.
    pub role_arn: Option<String>,
    /// An access key; has a secret.
    pub access_key: Option<String>,
    /// The secret of that key.
    pub secret_key: Option<Secret>,
    /// Where our own records lie, at a destination.
    pub checkpoint_table: String,
    /// Read units a second that copying and comparing may take.
    pub read_limit: Option<u32>,
    /// Read and write units of a table that is made; `None` where each request is paid for.
    pub units: Option<(i64, i64)>,
    /// Whether a table that is made can be restored to any moment.
    pub continuous_backups: bool,
}

/// What stands behind the table's name in that of our own, unless a key says otherwise.
const OURS: &str = "_driftless";

/// Reads the keys.
pub(super) fn read(keys: Section<'_>) -> Result<Endpoint> {
    // What Teleport's own poller and cache do with them has no meaning here.
    keys.accept(&["buffer_size", "poll_stream_period", "retry_period"]);
    let table_name = table_name(&keys)?;
    let layout = layout(&keys)?;
    let insecure = keys.truth("insecure")?.unwrap_or(false);
    let some = |key| Ok(keys.text(key)?.filter(|text| !text.is_empty()));
    let endpoint = Dynamodb {
        region: some("region")?,
        endpoint: endpoint(&keys, insecure)?,
        profile: some("profile")?,
        role_arn: some("role_arn")?,
        access_key: some("access_key")?,
        secret_key: some("secret_key")?.map(Secret::new),
        checkpoint_table: some("checkpoint_table")?.unwrap_or_else(|| format!("{table_name}{OURS}")),
        read_limit: keys.number("read_limit", 1, 1_000_000)?.and_then(|units| u32::try_from(units).ok()),
        units: units(&keys)?,
        continuous_backups: keys.truth("continuous_backups")?.unwrap_or(false),
        table_name,
        layout,
    };
    match (&endpoint.access_key, &endpoint.secret_key) {
        (Some(_), None) => return Err(keys.wrong("access_key", "needs `secret_key` beside it")),
        (None, Some(_)) => return Err(keys.wrong("secret_key", "needs `access_key` beside it")),
        (Some(_), Some(_)) if endpoint.profile.is_some() => {
            return Err(keys.wrong("profile", "stands beside `access_key`; credentials come from one or the other"));
        }
        _ => {}
    }
    if !is_name(&endpoint.table_name) {
        return Err(keys.wrong("table_name", NAME));
    }
    if !is_name(&endpoint.checkpoint_table) {
        return Err(keys.wrong("checkpoint_table", NAME));
    }
    if endpoint.checkpoint_table == endpoint.table_name {
        return Err(keys.wrong("checkpoint_table", "is `table_name` too; it must be a table of its own"));
    }
    auto_scaling(&keys)?;
    keys.finish()?;
    Ok(Endpoint::Dynamodb(endpoint))
}

impl Dynamodb {
    /// Whether the two are one table, as far as they tell.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let place = |keys: &Self| (keys.table_name.clone(), keys.region.clone(), keys.endpoint.clone());
        let who = |keys: &Self| (keys.profile.clone(), keys.role_arn.clone(), keys.access_key.clone());
        place(self) == place(other) && who(self) == who(other)
    }
}

const NAME: &str = "must have 3 to 255 letters, digits, `_`, `-` or `.`";

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (3..=255).contains(&name.len()) && name.chars().all(plain)
}

fn table_name(keys: &Section<'_>) -> Result<String> {
    const MEANING: &str = "the name of the table";
    if !keys.has("table") {
        return keys.required("table_name", MEANING);
    }
    let name = keys.required("table", MEANING)?;
    if keys.says("table_name") {
        return Err(keys.wrong("table", "stands beside `table_name`, which means the same"));
    }
    keys.context.note(keys.line_of("table"), "`table` is read as `table_name`, which is Teleport's name for it");
    Ok(name)
}

fn endpoint(keys: &Section<'_>, insecure: bool) -> Result<Option<String>> {
    const EXPECTED: &str = "must be an address such as https://vpce-1.dynamodb.us-east-1.vpce.amazonaws.com";
    let Some(text) = keys.text("endpoint")?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let Some((scheme @ ("http" | "https"), rest)) = text.split_once("://") else {
        return Err(keys.wrong("endpoint", EXPECTED));
    };
    let address = rest.strip_suffix('/').unwrap_or(rest);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if address.is_empty() || !address.chars().all(plain) {
        return Err(keys.wrong("endpoint", EXPECTED));
    }
    if scheme == "http" && !insecure && !is_here(address) {
        let what = "names another machine with `http://`, which sends secrets in clear; use `https://`, or say \
                    `insecure: true`";
        return Err(keys.wrong("endpoint", what));
    }
    Ok(Some(format!("{scheme}://{address}")))
}

/// Whether an address is this machine, by what is written and never by a look-up.
fn is_here(address: &str) -> bool {
    let host = match address.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or_default(),
        None => address.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Teleport's defaults where capacity is provisioned.
const UNITS: i64 = 10;

fn units(keys: &Section<'_>) -> Result<Option<(i64, i64)>> {
    let provisioned = keys.word("billing_mode", &["", "pay_per_request", "provisioned"])? == Some(2);
    let units = |key| Ok(keys.number(key, 1, 1_000_000)?.unwrap_or(UNITS));
    let both = (units("read_capacity_units")?, units("write_capacity_units")?);
    Ok(provisioned.then_some(both))
}

fn auto_scaling(keys: &Section<'_>) -> Result<()> {
    keys.accept(&[
        "read_min_capacity",
        "read_max_capacity",
        "read_target_value",
        "write_min_capacity",
        "write_max_capacity",
        "write_target_value",
    ]);
    if keys.truth("auto_scaling")? == Some(true) {
        keys.context.note(
            keys.line_of("auto_scaling"),
            "`auto_scaling` is left to Teleport, which sets it whenever it opens the table",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_in_clear() {
        for (address, here) in [
            ("127.0.0.1:8000", true),
            ("localhost", true),
            ("[::1]:8000", true),
            ("10.0.0.1:8000", false),
            ("localhost.example.com", false),
            ("", false),
        ] {
            assert_eq!(is_here(address), here, "{address}");
        }
    }

    #[test]
    fn names_of_tables_are_those_that_dynamodb_takes() {
        for (name, good) in [("abc", true), ("a.b-c_D9", true), ("ab", false), ("a/b", false), ("", false)] {
            assert_eq!(is_name(name), good, "{name}");
        }
        assert!(!is_name(&"a".repeat(256)));
    }
}
