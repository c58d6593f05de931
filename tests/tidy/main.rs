//! Style and layering as a test, so that no reviewer has to say it.
//!
//! What is checked here is what a compiler and clippy cannot see: who may import whom, which files stay free of clocks and
//! I/O, how long things are, what the words are, and whether the documents still speak of the code that is there. Each
//! finding is one line `file:line: what is wrong`, and all of them are printed at once.
#![allow(clippy::unwrap_used, missing_docs)] // Tests stop at the first surprise.

mod docs;
mod layers;
mod lines;
mod shape;
mod words;

use std::path::{Path, PathBuf};

use lines::Source;

/// A file of the repository that was read.
pub struct File {
    /// Path from the repository's top, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// The repository's top.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files with this ending under these folders (or the folders' names themselves, where they are files), by path.
pub fn files(places: &[&str], ending: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = places.iter().map(|place| root().join(place)).collect();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() && path.to_str().unwrap().ends_with(ending) {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            found.push(File { path: name, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The files of `src`, taken apart.
pub fn sources() -> Vec<(String, Source)> {
    rust(&["src"])
}

/// The Rust files under these folders, taken apart.
pub fn rust(places: &[&str]) -> Vec<(String, Source)> {
    let parse = |file: File| {
        let mut source = Source::parse(&file.text);
        // A test module in a file of its own; its `#[cfg(test)]` stands where it is declared.
        if file.path.ends_with("_tests.rs") || file.path.ends_with("/tests.rs") {
            source.lines.iter_mut().for_each(|line| line.test = true);
        }
        (file.path, source)
    };
    files(places, ".rs").into_iter().map(parse).collect()
}

/// Fails with all findings, if there are any.
pub fn report(mut findings: Vec<String>) {
    findings.sort();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}
