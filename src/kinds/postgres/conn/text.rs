//! The two spellings of a connection string, read into keys and values.
//!
//! Follows libpq: a URL (`postgresql://user:password@host:port,[v6]:port/database?key=value`) or `key = 'value'` pairs.
//! Pure. Invariant: no error repeats any part of the string except the name of a key. Deliberately knows no key: what a
//! key means is `conninfo`'s.

use crate::error::{Error, Result};

/// LIMIT: far longer than any real connection string; keeps a file named by mistake from being parsed as one.
const LENGTH_MAX: usize = 64 << 10;

/// Keys and values in the order in which they stand; a later one wins.
pub type Pairs = Vec<(String, String)>;

/// Reads either spelling.
pub fn read(text: &str) -> Result<Pairs> {
    if text.len() > LENGTH_MAX {
        return Err(wrong("it is longer than 64 KiB"));
    }
    match ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) => read_url(rest),
        None if text.trim_start().contains("://") && !text.contains('=') => {
            Err(wrong("a URL must start with postgresql:// or postgres://"))
        }
        None => read_words(text),
    }
}

fn wrong(why: &str) -> Error {
    Error::config(format!("read the PostgreSQL connection string: {why}"))
}

/// A key as it may be shown in an error: a word that cannot be a key might be a piece of a password.
pub fn shown(key: &str) -> &str {
    let named = !key.is_empty() && key.len() <= 40 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if named { key } else { "(not shown)" }
}

fn read_url(rest: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    // The authority ends as RFC 3986 has it. Its last `@` ends the user information, so that an unescaped one in a
    // password is read as the drivers of Go and Java read it; libpq would take the rest of the password for a host.
    let (authority, tail) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let hosts = match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let (user, password) = match user.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (user, None),
            };
            push_decoded(&mut pairs, "user", user)?;
            push_decoded(&mut pairs, "password", password.unwrap_or_default())?;
            hosts
        }
        None => authority,
    };
    read_hosts(hosts, &mut pairs)?;
    let (path, query) = match tail.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (tail, None),
    };
    push_decoded(&mut pairs, "dbname", path.strip_prefix('/').unwrap_or(path))?;
    for parameter in query.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
        let (key, value) =
            parameter.split_once('=').ok_or_else(|| wrong("a parameter after the question mark has no `=`"))?;
        if value.contains('=') {
            return Err(wrong("a parameter after the question mark has a second `=`; write it as %3D"));
        }
        let (key, value) = (decode(key)?, decode(value)?);
        // JDBC's spelling, which libpq also takes.
        match (key.as_str(), value.as_str()) {
            ("ssl", "true") => pairs.push(("sslmode".into(), "require".into())),
            _ => pairs.push((key, value)),
        }
    }
    Ok(pairs)
}

fn read_hosts(text: &str, pairs: &mut Pairs) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for one in text.split(',') {
        let (host, port) = if let Some(rest) = one.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| wrong("an IPv6 address has no closing `]`"))?;
            if host.is_empty() {
                return Err(wrong("the IPv6 address between `[` and `]` is empty"));
            }
            let port = match rest.strip_prefix(':') {
                Some(port) => port,
                None if rest.is_empty() => "",
                None => return Err(wrong("only `:` and a port may follow an IPv6 address")),
            };
            (host, port)
        } else {
            one.split_once(':').unwrap_or((one, ""))
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        pairs.push(("host".into(), hosts.join(",")));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".into(), ports.join(",")));
    }
    Ok(())
}

fn push_decoded(pairs: &mut Pairs, key: &str, value: &str) -> Result<()> {
    if !value.is_empty() {
        pairs.push((key.into(), decode(value)?));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(wrong(
                "a `%` in the URL is not followed by two hexadecimal digits; write a literal one as %25",
            ));
        };
        match high << 4 | low {
            0 => return Err(wrong("it contains %00")),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).map_err(|_| wrong("a part of the URL is not UTF-8 after percent-decoding"))
}

fn read_words(text: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_ascii_whitespace())
            .ok_or_else(|| wrong("it is neither a postgresql:// URL nor key=value pairs"))?;
        let (key, after) = rest.split_at(end);
        let value = after.trim_start().strip_prefix('=').ok_or_else(|| {
            wrong("a word has no `=` after it; a value with spaces in it must stand in single quotes")
        })?;
        let (value, after) = read_value(value.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// A value and what follows it.
fn read_value(text: &str) -> Result<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            c if !quoted && c.is_ascii_whitespace() => return Ok((value, text.get(at..).unwrap_or_default())),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(wrong("a value in single quotes has no closing quote"));
    }
    Ok((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> String {
        let pairs = read(text).unwrap();
        pairs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        for (text, expected) in [
            ("postgresql://", ""),
            ("postgres://h", "host=h"),
            (
                "postgresql://u:p%40%3a@h:5433/d?sslmode=disable&application_name=a%20b",
                "user=u | password=p@: | host=h | port=5433 | dbname=d | sslmode=disable | application_name=a b",
            ),
            ("postgresql://u@/d", "user=u | dbname=d"),
            ("postgresql://u:p@q@h/d", "user=u | password=p@q | host=h | dbname=d"),
            ("postgresql://a:1,b,[::1]:3/d", "host=a,b,::1 | port=1,,3 | dbname=d"),
            ("postgresql://%2Frun%2Fpg:6000/d", "host=/run/pg | port=6000 | dbname=d"),
            ("postgresql:///d?host=/run/pg&port=1", "dbname=d | host=/run/pg | port=1"),
            ("postgresql://h?ssl=true", "host=h | sslmode=require"),
            ("postgresql://h:/d", "host=h | dbname=d"),
            ("postgresql:///d?options=-c%20geqo%3Doff", "dbname=d | options=-c geqo=off"),
        ] {
            assert_eq!(pairs(text), expected, "{text}");
        }
    }

    #[test]
    fn words_are_read_as_libpq_reads_them() {
        for (text, expected) in [
            ("", ""),
            ("host=h port = 5433\n user='a b'", "host=h | port=5433 | user=a b"),
            (r"password='it\'s \\ me' dbname=a\ b", r"password=it's \ me | dbname=a b"),
            ("password='' host=h", "password= | host=h"),
            ("options='-c search_path=x'", "options=-c search_path=x"),
            ("password= host=h", "password=host=h"),
        ] {
            assert_eq!(pairs(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_being_repeated() {
        for text in [
            "postgresql://h/d?planted",
            "postgresql://h/d?a=planted=2",
            "postgresql://u:planted%zz@h",
            "postgresql://u:planted%00@h",
            "postgresql://[planted",
            "postgresql://[::1]planted",
            "mysql://planted",
            "planted",
            "host=h planted host=h",
            "password='planted",
        ] {
            let error = read(text).unwrap_err();
            assert!(!error.to_string().contains("planted"), "{error}");
            assert_eq!(error.fault(), crate::error::Fault::Config);
        }
    }

    #[test]
    fn a_key_that_may_be_a_piece_of_a_password_is_not_shown() {
        assert_eq!(shown("sslmod"), "sslmod");
        assert_eq!(shown("Hunter2"), "(not shown)");
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "\\PC{0,80}", url in "(postgres://)?[a-z:/@?&=%,'\\[\\]\\\\ 0]{0,60}") {
            drop(read(&text));
            drop(read(&url));
        }

        #[test]
        fn a_quoted_value_comes_back(value in "[^\\x00]{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            prop_assert_eq!(read(&format!("password = '{quoted}' host=h")).unwrap(),
                vec![("password".to_owned(), value), ("host".to_owned(), "h".to_owned())]);
        }
    }
}
