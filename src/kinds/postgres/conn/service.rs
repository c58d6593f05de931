//! `pg_service.conf`: named sets of connection parameters.
//!
//! libpq, "The Connection Service File": `~/.pg_service.conf` or `PGSERVICEFILE`, then the directory in `PGSYSCONFDIR`.
//! LDAP look-ups are not done.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::text::Pairs;

/// The parameters of a service. Blocking, briefly.
pub fn section(name: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Pairs> {
    let own = env("PGSERVICEFILE")
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| PathBuf::from(home).join(".pg_service.conf")));
    let system = env("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".into());
    let files = own.into_iter().chain([PathBuf::from(system).join("pg_service.conf")]);
    for path in files {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if let Some(pairs) = find(&text, name) {
            return Ok(pairs);
        }
    }
    Err(Error::config(format!("read the PostgreSQL connection string: the service {name:?} is in no pg_service.conf")))
}

/// The parameters of a section, if the text has it.
pub fn find(text: &str, name: &str) -> Option<Pairs> {
    let mut found = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            if found.is_some() {
                break;
            }
            found = (section == name).then(Pairs::new);
        } else if let (Some(pairs), Some((key, value))) = (&mut found, line.split_once('=')) {
            pairs.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let text = "# comment\n[a]\nhost=x\n port = 1 \n\n[b]\nhost=y\n";
        assert_eq!(find(text, "a").unwrap(), [("host".into(), "x".into()), ("port".into(), "1".into())]);
        assert_eq!(find(text, "b").unwrap(), [("host".into(), "y".into())]);
        assert_eq!(find(text, "c"), None);
    }
}
