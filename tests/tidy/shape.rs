//! How long things are, and whether each file says what it is.
//!
//! Lengths are a ratchet: what is too long today stands in a list with its length and may only shrink; nothing may be added
//! to the list.

use crate::lines::Source;
use crate::{report, rust, sources};

/// LIMIT: the longest function that still fits on a screen.
const FUNCTION_LINES: usize = 70;
/// LIMIT: half of all files of well-kept Rust projects stay under 180 lines; a file of 500 still has one subject.
const FILE_LINES: usize = 500;

/// Functions that are longer, as `path::name`, with their length. May only shrink.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];
/// Files that are longer (tests in them not counted), with their length. May only shrink.
const LONG_FILES: &[(&str, usize)] = &[];

/// What a ratchet says to a thing of this length.
fn ratchet(name: &str, at: &str, length: usize, limit: usize, list: &[(&str, usize)]) -> Option<String> {
    let listed = list.iter().find(|(known, _)| *known == name).map(|(_, length)| *length);
    match listed {
        None if length > limit => Some(format!("{at}: {name} has {length} lines, {limit} are the limit")),
        Some(known) if length > known => {
            Some(format!("{at}: {name} has {length} lines and was at {known}; it may only shrink"))
        }
        Some(known) if length <= limit => Some(format!("{at}: {name} fits (was {known}): take it off the list")),
        Some(known) if length < known => Some(format!("{at}: {name} shrank from {known} to {length}: write that down")),
        _ => None,
    }
}

#[test]
fn functions_fit_on_a_screen() {
    let mut findings = Vec::new();
    for (path, source) in sources() {
        for function in source.functions().iter().filter(|function| !function.test) {
            let (name, at) = (format!("{path}::{}", function.name), format!("{path}:{}", function.line));
            findings.extend(ratchet(&name, &at, function.length, FUNCTION_LINES, LONG_FUNCTIONS));
        }
    }
    report(findings);
}

#[test]
fn files_have_one_subject() {
    let lengths: Vec<_> = sources().into_iter().map(|(path, source)| (path, source.product().count())).collect();
    report(lengths.iter().filter_map(|(path, n)| ratchet(path, path, *n, FILE_LINES, LONG_FILES)).collect());
}

#[test]
fn each_file_says_what_it_is() {
    let says = |source: &Source| source.lines.first().is_some_and(|line| line.comment.starts_with("//! "));
    let all = rust(&["src", "tests", "benches"]);
    report(all.iter().filter(|(_, s)| !says(s)).map(|(path, _)| format!("{path}:1: begins without `//!`")).collect());
}

/// Whether a `//` comment is code that somebody did not dare to delete.
fn is_dead_code(comment: &str) -> bool {
    let Some(text) = comment.strip_prefix("//") else { return false };
    if text.starts_with(['/', '!']) {
        return false;
    }
    let text = text.trim();
    let like_code =
        [" = ", "(", "::", "let ", "use ", "return", "mut ", "&", "=> "].iter().any(|sign| text.contains(sign));
    let begins =
        ["let ", "use crate", "pub fn ", "fn ", "#[", "if let ", "} else"].iter().any(|word| text.starts_with(word));
    (text.ends_with([';', '{']) && like_code) || matches!(text, "}" | "};" | "})") || begins
}

#[test]
fn no_code_lies_about_in_comments() {
    let mut findings = Vec::new();
    for (path, source) in rust(&["src", "tests", "benches"]) {
        for (number, line) in source.lines.iter().enumerate() {
            if is_dead_code(&line.comment) {
                findings.push(format!("{path}:{}: looks like code in a comment: {}", number + 1, line.comment));
            }
        }
    }
    report(findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_code_is_told_from_prose() {
        for code in ["// let a = 1;", "//  self.commit(batch);", "// }", "// #[test]", "// for x in (0..3) {"] {
            assert!(is_dead_code(code), "{code}");
        }
        for prose in
            ["// Nothing moves back;", "/// let a = 1;", "//! fn main() {", "// SAFETY: the span is ours.", "//"]
        {
            assert!(!is_dead_code(prose), "{prose}");
        }
    }

    #[test]
    fn a_ratchet_turns_one_way() {
        let list = &[("old", 90)];
        assert!(ratchet("new", "f:1", 71, 70, list).is_some());
        assert!(ratchet("new", "f:1", 70, 70, list).is_none());
        assert!(ratchet("old", "f:1", 91, 70, list).is_some());
        assert!(ratchet("old", "f:1", 90, 70, list).is_none());
        assert!(ratchet("old", "f:1", 80, 70, list).is_some(), "a shorter one is written down");
        assert!(ratchet("old", "f:1", 60, 70, list).is_some(), "one that fits leaves the list");
    }
}
