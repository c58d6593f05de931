//! `${NAME}` and `${file:/path}` inside values, so that secrets need not stand in the file.
//!
//! Only values are expanded, never keys, and only once: what comes out is not looked at again, so a password may hold
//! `${`. `$${` stands for a plain `${`. A `$` before anything else is a plain `$`, because connection strings hold them.
//! A variable that is not set is an error: an empty password must not come from a typing error.

use std::path::Path;

/// The world that values may refer to; tests bring their own.
pub trait Outside {
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<String>;
    /// The text of a file, or a sentence that says why it cannot be read.
    fn file(&self, path: &Path) -> Result<String, String>;
}

/// The process' environment and files.
pub struct Process;

/// LIMIT: what `${file:…}` and the configuration itself may hold; credentials and configurations are a few KiB, and a
/// wrong path (a database, a device) must not fill the memory.
pub(super) const MAX_FILE: u64 = 1 << 20;

impl Outside for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        read_text(path)
    }
}

/// Reads a text file of at most [`MAX_FILE`] bytes.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| plain(&error))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err("it is a directory".into());
    }
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| plain(&error))?;
    if text.len() as u64 > MAX_FILE {
        return Err("it is larger than 1 MiB, so it is not what was meant".into());
    }
    Ok(text)
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".into(),
        kind => kind.to_string(),
    }
}

/// Expands a value. The error is a sentence that names variable or file and no value.
pub(super) fn expand(text: &str, outside: &dyn Outside) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = (&rest[..at], &rest[at + 2..]);
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = reference;
            continue;
        }
        out.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err("has `${` without `}`; write `$${` for a plain `${`".into());
        };
        out.push_str(&resolve(&reference[..end], outside)?);
        rest = &reference[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(name: &str, outside: &dyn Outside) -> Result<String, String> {
    if let Some(path) = name.strip_prefix("file:") {
        let text = outside
            .file(Path::new(path))
            .map_err(|why| format!("takes its value from the file {path}, which cannot be read: {why}"))?;
        // Editors and `echo` end files with a line end that is not part of a password.
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(valid) {
        return Err("has a `${…}` that names neither a variable nor `file:/path`; write `$${` for a plain `${`".into());
    }
    outside.variable(name).ok_or_else(|| format!("needs the environment variable {name}, which is not set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake;

    impl Outside for Fake {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "HOST").then(|| "db-1".to_owned())
        }

        fn file(&self, path: &Path) -> Result<String, String> {
            if path == Path::new("/run/pw") {
                Ok("s3${HOST}cret\n".into())
            } else {
                Err("there is no such file".into())
            }
        }
    }

    #[test]
    fn values_expand_once() {
        for (text, expanded) in [
            ("plain", "plain"),
            ("a$b$", "a$b$"),
            ("x-${HOST}-y", "x-db-1-y"),
            ("${file:/run/pw}", "s3${HOST}cret"),
            ("${HOST}${HOST}", "db-1db-1"),
            ("$${HOST}", "${HOST}"),
        ] {
            assert_eq!(expand(text, &Fake).unwrap(), expanded);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, error) in [
            ("${PASSWORD}", "needs the environment variable PASSWORD, which is not set"),
            ("${file:/x}", "takes its value from the file /x, which cannot be read: there is no such file"),
            ("a${b", "has `${` without `}`; write `$${` for a plain `${`"),
            ("${}", "has a `${…}` that names neither a variable nor `file:/path`; write `$${` for a plain `${`"),
        ] {
            assert_eq!(expand(text, &Fake).unwrap_err(), error);
        }
    }
}
