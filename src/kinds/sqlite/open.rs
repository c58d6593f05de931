//! Finding the database that was meant, before anything is opened.
//!
//! Teleport's own clone takes a wrong directory for a new, empty backend and reports success. Here a source that is not
//! there is an error which says where it probably is; only a sink may be missing.

use std::fs;
use std::path::Path;

use super::options::{Options, Role};
use super::reader::Reader;
use super::watch::Watch;
use crate::error::{Error, Result};

/// Checks the path of a backend and gives a reader of its file; `None` for a sink that is not there yet.
pub fn locate(options: &Options, role: Role) -> Result<Option<Reader>> {
    check_path(&options.path)?;
    let file = options.file();
    match fs::metadata(&file) {
        Ok(meta) if !meta.is_file() => Err(Error::config(format!(
            "open {}: it is not a file; path names the directory that holds sqlite.db",
            file.display()
        ))),
        Ok(_) => {
            check_header(&file)?;
            Ok(Some(Reader::new(&file, options.busy_timeout, role == Role::Sink)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match role {
            Role::Sink => Ok(None),
            Role::Source => Err(Error::config(format!(
                "open {}: there is no such file; path must be the directory that holds sqlite.db, usually <data_dir>/backend",
                file.display()
            ))),
        },
        Err(error) => {
            Err(Error::config(format!("open {}: this process may not look at it", file.display())).because(error))
        }
    }
}

/// What is wrong with the path itself, for sources and sinks alike.
fn check_path(path: &Path) -> Result<()> {
    let meant = path.join("backend");
    if meant.join("sqlite.db").is_file() {
        return Err(Error::config(format!(
            "open {}: this is Teleport's data directory; its backend is {}, which is probably the path that was meant",
            path.display(),
            meant.display()
        )));
    }
    if path.is_file() {
        let directory = path.parent().unwrap_or(path);
        return Err(Error::config(format!(
            "open {}: path names a directory, not a file; {} was probably meant",
            path.display(),
            directory.display()
        )));
    }
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if real.file_name().is_some_and(|name| name == "proc") {
        return Err(Error::config(format!(
            "open {}: this is the process' own identity, which must never be copied; the backend is {}",
            path.display(),
            real.with_file_name("backend").display()
        )));
    }
    Ok(())
}

fn check_header(file: &Path) -> Result<()> {
    let signature = Watch::new(file).look().map_err(|error| {
        Error::config(format!("open {}: this process may not read it", file.display())).because(error)
    })?;
    if signature.is_database() {
        Ok(())
    } else {
        Err(Error::config(format!("open {}: the file is not a SQLite database, or it is encrypted", file.display())))
    }
}
