//! `~/.pgpass`: passwords by host, port, database and user.
//!
//! libpq, "The Password File". The matching is pure; only [`look_up`] reads the file. As in libpq, a file that group or
//! others may read is not used, with a warning that says so, and a missing file is no error. Invariant: no password is
//! ever part of a message.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::kinds::postgres::conn::secret::Secret;

/// LIMIT: a password file is a page or two; what is larger is something else.
const SIZE_MAX: u64 = 1 << 20;

/// What a line must match.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Host as the connection string names it; `localhost` for the default socket directory.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Database.
    pub dbname: &'a str,
    /// Role.
    pub user: &'a str,
}

/// The password in the file, if it is there, is private, and has a line that matches. Blocking, briefly.
pub fn look_up(path: &Path, wanted: Wanted<'_>) -> Option<Secret> {
    let meta = std::fs::metadata(path).ok()?;
    let refusal = if !meta.is_file() {
        Some("it is not a plain file")
    } else if meta.mode() & 0o077 != 0 {
        Some("group or others have access to it: chmod 0600")
    } else if meta.len() > SIZE_MAX {
        Some("it is larger than 1 MiB")
    } else {
        None
    };
    if let Some(why) = refusal {
        tracing::warn!(path = %path.display(), why, "the password file is not used");
        return None;
    }
    find(&std::fs::read_to_string(path).ok()?, wanted)
}

/// The password of the first line that matches.
pub fn find(text: &str, wanted: Wanted<'_>) -> Option<Secret> {
    let port = wanted.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line.strip_suffix('\r').unwrap_or(line);
        for value in [wanted.host, &port, wanted.dbname, wanted.user] {
            let (field, after) = cut(rest)?;
            if field.raw != "*" && field.text != value {
                return None;
            }
            rest = after;
        }
        // The password ends at the next colon or with the line, as in libpq.
        let password = cut(rest).map_or_else(|| unescape(rest), |(field, _)| field.text);
        (!password.is_empty()).then(|| Secret::new(password))
    })
}

struct Field<'a> {
    raw: &'a str,
    text: String,
}

/// The field before the next colon that no backslash precedes, and what follows the colon.
fn cut(line: &str) -> Option<(Field<'_>, &str)> {
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => {
                let (raw, rest) = line.split_at(at);
                return Some((Field { raw, text: unescape(raw) }, rest.get(1..).unwrap_or_default()));
            }
            _ => {}
        }
    }
    None
}

fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.extend(chars.next()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WANTED: Wanted<'static> = Wanted { host: "db-1", port: 5432, dbname: "teleport", user: "u" };

    #[test]
    fn the_first_line_that_matches_wins() {
        for (text, expected) in [
            ("db-1:5432:teleport:u:one\n*:*:*:*:two", Some("one")),
            ("db-2:5432:teleport:u:one\n*:*:*:*:two", Some("two")),
            ("#db-1:5432:teleport:u:one\n", None),
            (r"db-1:5432:teleport:u:o\:n\\e", Some(r"o:n\e")),
            ("db-1:5432:teleport:u:one:two", Some("one")),
            ("db-1:5432:teleport:u:", None),
            ("db-1:5432:teleport:u", None),
            ("db-1:5433:teleport:u:one", None),
            (r"\*:5432:teleport:u:one", None),
            ("db-1:5432:teleport:u:one\r\n", Some("one")),
            ("", None),
        ] {
            assert_eq!(find(text, WANTED).as_ref().map(Secret::reveal), expected, "{text}");
        }
    }

    #[test]
    fn an_escaped_field_matches_its_plain_form() {
        let wanted = Wanted { host: "::1", ..WANTED };
        assert_eq!(find(r"\:\:1:*:*:*:one", wanted).unwrap().reveal(), "one");
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:one").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(look_up(&path, WANTED), None);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look_up(&path, WANTED).unwrap().reveal(), "one");
        assert_eq!(look_up(dir.path(), WANTED), None);
        assert_eq!(look_up(&dir.path().join("none"), WANTED), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "[*:\\\\#a\n\r é]{0,60}") {
            drop(find(&text, WANTED));
        }
    }
}
