//! What a server's settings mean for us.
//!
//! [`Facts::read`] asks; the rest is pure. Fixes are spelled as the provider wants them: a managed server has no
//! `alter system`.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::error::Result;
use crate::kinds::postgres::admin::check::Finding;
use crate::kinds::postgres::conn::translate;

/// Settings by name, with what is in use of what they limit.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    settings: BTreeMap<String, String>,
    slots: i64,
    senders: i64,
    /// Our role.
    pub role: String,
}

/// Who runs a server, told by settings that only they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Somebody with `alter system`.
    Own,
    /// Amazon RDS or Aurora.
    Rds,
    /// Azure Database for PostgreSQL.
    Azure,
    /// Cloud SQL or AlloyDB.
    Google,
}

impl Facts {
    /// Asks the server. The slot of our own does not count as used.
    pub async fn read(client: &Client, slot: &str) -> Result<Self> {
        let read = async {
            let sql = "select name, setting from pg_catalog.pg_settings where name in ('server_version_num', 'wal_level', \
                 'max_replication_slots', 'max_wal_senders', 'max_slot_wal_keep_size', 'wal_sender_timeout', \
                 'output_plugin_libraries', 'idle_replication_slot_timeout') \
                 or name like 'rds.%' or name like 'azure.%' or name like 'cloudsql.%' or name like 'alloydb.%'";
            let mut settings = BTreeMap::new();
            for row in client.query(sql, &[]).await? {
                settings.insert(row.try_get(0)?, row.try_get(1)?);
            }
            let sql = "select (select count(*) from pg_catalog.pg_replication_slots where slot_name <> $1), \
                 (select count(*) from pg_catalog.pg_stat_replication), current_user::text";
            let row = client.query_one(sql, &[&slot]).await?;
            Ok(Self { settings, slots: row.try_get(0)?, senders: row.try_get(1)?, role: row.try_get(2)? })
        };
        read.await.map_err(|error: tokio_postgres::Error| translate(&error, "read a PostgreSQL server's settings"))
    }

    fn text(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// Who runs the server.
    pub fn provider(&self) -> Provider {
        let has = |prefix: &str| self.settings.keys().any(|name| name.starts_with(prefix));
        if has("rds.") {
            Provider::Rds
        } else if has("azure.") {
            Provider::Azure
        } else if has("cloudsql.") || has("alloydb.") {
            Provider::Google
        } else {
            Provider::Own
        }
    }

    /// How a setting is changed there.
    fn set(&self, name: &str, value: &str, restart: bool) -> String {
        let then = if restart { ", then restart the server" } else { "; select pg_reload_conf()" };
        match self.provider() {
            Provider::Own => format!("alter system set {name} = {value}{then}"),
            Provider::Rds => format!("set {name} = {value} in the DB parameter group, then reboot the instance"),
            Provider::Azure => format!("set the server parameter {name} = {value}, then restart the server"),
            Provider::Google => format!("set the database flag {name} = {value}, then restart the instance"),
        }
    }
}

/// Whether the version is one we know.
pub fn version(facts: &Facts) -> Finding {
    let number = facts.number("server_version_num");
    let (major, minor) = (number / 10_000, number % 10_000);
    if major >= 13 {
        Finding::ok(format!("the server is PostgreSQL {major}.{minor}"))
    } else {
        Finding::error(format!("the server is PostgreSQL {major}.{minor}, too old"), "use PostgreSQL 13 or later")
    }
}

/// Whether changes can be followed at all.
pub fn logical(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let level = facts.text("wal_level");
    findings.push(match (level, facts.provider()) {
        ("logical", _) => Finding::ok("wal_level is logical"),
        (_, Provider::Rds) => Finding::error(
            format!("wal_level is {level}: changes cannot be followed"),
            "set rds.logical_replication = 1 in the DB parameter group, then reboot the instance",
        ),
        (_, Provider::Google) => Finding::error(
            format!("wal_level is {level}: changes cannot be followed"),
            "set the database flag cloudsql.logical_decoding = on (AlloyDB: alloydb.logical_decoding), then restart the instance",
        ),
        _ => Finding::error(
            format!("wal_level is {level}: changes cannot be followed"),
            facts.set("wal_level", "logical", true),
        ),
    });
    for (name, used) in [("max_replication_slots", facts.slots), ("max_wal_senders", facts.senders)] {
        let most = facts.number(name);
        findings.push(if used < most {
            Finding::ok(format!("{used} of {name} = {most} are in use"))
        } else {
            let more = (most + 10).to_string();
            Finding::warning(format!("all of {name} = {most} are in use"), facts.set(name, &more, true))
        });
    }
    if let Some(plugins) = facts.settings.get("output_plugin_libraries")
        && !plugins.split(',').any(|name| matches!(name.trim().trim_matches(['"', '\'']), "pgoutput" | "*"))
    {
        findings.push(Finding::error(
            "output_plugin_libraries does not contain pgoutput, so the server refuses to decode with it",
            facts.set("output_plugin_libraries", "pgoutput, test_decoding", false),
        ));
    }
    let timeout = facts.number("wal_sender_timeout");
    if timeout == 0 {
        findings.push(Finding::warning(
            "wal_sender_timeout is off: a reader that is gone without a word blocks its slot until TCP gives up",
            facts.set("wal_sender_timeout", "'60s'", false),
        ));
    } else if timeout < 5_000 {
        findings.push(Finding::warning(
            format!("wal_sender_timeout is {timeout} ms: a short hiccup of the network ends the stream"),
            facts.set("wal_sender_timeout", "'60s'", false),
        ));
    }
    findings
}

/// Whether a stopped stream can fill the source's disk.
pub fn retention(facts: &Facts, max_retained: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    // In MB; driftless itself bounds what it keeps, but only while it runs.
    let limit = facts.number("max_slot_wal_keep_size");
    let needed = (max_retained >> 20).max(1);
    if limit < 0 {
        findings.push(Finding::warning(
            "max_slot_wal_keep_size is -1: when nobody reads the slot, its log fills the server's disk",
            facts.set("max_slot_wal_keep_size", &format!("'{}MB'", needed.saturating_mul(2)), false),
        ));
    } else if u64::try_from(limit).unwrap_or(0) < needed {
        findings.push(Finding::warning(
            format!("max_slot_wal_keep_size is {limit} MB, less than max_retained: the server gives up the slot first"),
            facts.set("max_slot_wal_keep_size", &format!("'{needed}MB'"), false),
        ));
    } else {
        findings.push(Finding::ok(format!("the server keeps at most {limit} MB of log for a slot")));
    }
    let idle = facts.number("idle_replication_slot_timeout");
    if idle > 0 {
        findings.push(Finding::warning(
            format!(
                "idle_replication_slot_timeout is {idle} s: a longer stop of driftless costs the slot, and opens a gap"
            ),
            facts.set("idle_replication_slot_timeout", "0", false),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::postgres::admin::check::Level;

    fn facts(settings: &[(&str, &str)]) -> Facts {
        let fine = [
            ("server_version_num", "150020"),
            ("wal_level", "logical"),
            ("max_replication_slots", "10"),
            ("max_wal_senders", "10"),
            ("max_slot_wal_keep_size", "40960"),
            ("wal_sender_timeout", "60000"),
        ];
        let settings = fine.iter().chain(settings).map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
        Facts { settings, ..Facts::default() }
    }

    fn worst(findings: &[Finding]) -> (Level, String) {
        let worst = findings.iter().max_by_key(|finding| finding.level).unwrap();
        (worst.level, worst.fix.clone().unwrap_or_default())
    }

    fn all(facts: &Facts) -> Vec<Finding> {
        [vec![version(facts)], logical(facts), retention(facts, 20 << 30)].concat()
    }

    #[test]
    fn each_setting_is_judged_and_repaired_as_the_provider_wants_it() {
        assert_eq!(worst(&all(&facts(&[]))), (Level::Ok, String::new()));
        for (settings, level, fix) in [
            (&[("server_version_num", "120004")][..], Level::Error, "PostgreSQL 13"),
            (&[("wal_level", "replica")], Level::Error, "alter system set wal_level = logical"),
            (
                &[("wal_level", "replica"), ("rds.logical_replication", "off")],
                Level::Error,
                "rds.logical_replication = 1",
            ),
            (&[("wal_level", "replica"), ("cloudsql.x", "")], Level::Error, "cloudsql.logical_decoding = on"),
            (&[("wal_level", "replica"), ("azure.extensions", "")], Level::Error, "server parameter wal_level"),
            (&[("max_replication_slots", "0")], Level::Warning, "max_replication_slots = 10"),
            (&[("max_wal_senders", "0")], Level::Warning, "max_wal_senders = 10"),
            (&[("output_plugin_libraries", "test_decoding, wal2json")], Level::Error, "pgoutput, test_decoding"),
            (&[("max_slot_wal_keep_size", "-1")], Level::Warning, "max_slot_wal_keep_size = '40960MB'"),
            (&[("max_slot_wal_keep_size", "1024")], Level::Warning, "max_slot_wal_keep_size = '20480MB'"),
            (&[("wal_sender_timeout", "0")], Level::Warning, "wal_sender_timeout"),
            (&[("wal_sender_timeout", "1000")], Level::Warning, "wal_sender_timeout"),
            (&[("idle_replication_slot_timeout", "600")], Level::Warning, "idle_replication_slot_timeout"),
        ] {
            let (found, said) = worst(&all(&facts(settings)));
            assert!(found == level && said.contains(fix), "{settings:?}: {found:?} {said}");
        }
        for fine in ["pgoutput", "test_decoding, pgoutput", "*"] {
            assert_eq!(worst(&all(&facts(&[("output_plugin_libraries", fine)]))).0, Level::Ok, "{fine}");
        }
    }
}
