//! The words: one for each concept, none that says "later", none that only makes sense on somebody's machine.

use crate::{File, files, report, rust};

/// Words that have a better one here, or that say nothing. Matched as whole words, without regard to case, in code,
/// comments, strings and documents.
const WORDS: &[(&str, &str)] = &[
    ("upstream", "source"),
    ("downstream", "sink"),
    ("watermark", "frontier"),
    ("bookmark", "position"),
    ("whitelist", "list of what is taken"),
    ("blacklist", "exclude"),
    ("slave", "secondary"),
    ("dedupe", "coalesce"),
    ("obviously", "nothing"),
    ("basically", "nothing"),
    ("hack", "the reason"),
    ("for now", "nothing, or when it will be otherwise"),
    ("quick and dirty", "the reason"),
];

/// Marks of what was left undone, as everybody writes them.
const UNDONE: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// Texts that point to somebody's machine or to papers that do not come with the repository.
fn foreign() -> Vec<String> {
    // Put together here, or this file would be the first finding.
    let pieces = [
        ("/wo", "rk/"),
        ("/Use", "rs/"),
        ("shared/", "research"),
        ("style-", "anchors"),
        ("teleport-", "formats"),
        ("hazards", ".md"),
        ("servers", ".md"),
        ("design", ".md"),
        ("engine-", "model.rs"),
        ("design ", "§"),
        ("issues ", "show"),
        ("work", "tree"),
        ("BRIEF", ".md"),
    ];
    pieces.iter().map(|(a, b)| format!("{a}{b}")).collect()
}

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "manager"];

fn has_word(text: &str, word: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| !(c.is_alphanumeric() || c == '_'));
    text.match_indices(word)
        .any(|(at, _)| edge(text[..at].chars().next_back()) && edge(text[at + word.len()..].chars().next()))
}

/// Everything that a reader of the repository sees, this file left out.
fn everything() -> Vec<File> {
    let mut all = files(&["src", "tests", "benches"], ".rs");
    for (place, ending) in [
        ("README.md", ""),
        ("ARCHITECTURE.md", ""),
        ("CONTRIBUTING.md", ""),
        ("CHANGELOG.md", ""),
        ("docs", ".md"),
        ("Makefile", ""),
        ("scripts", ".sh"),
        (".ci", ""),
        (".cargo", ""),
        ("Cargo.toml", ""),
        ("docker-compose.yml", ""),
        ("deny.toml", ""),
    ] {
        all.extend(files(&[place], ending));
    }
    all.retain(|file| file.path != "tests/tidy/words.rs");
    all
}

#[test]
fn each_concept_has_one_word() {
    let mut findings = Vec::new();
    for file in everything() {
        for (number, line) in file.text.lines().enumerate() {
            let lower = line.to_lowercase();
            for (word, better) in WORDS.iter().filter(|(word, _)| has_word(&lower, word)) {
                findings.push(format!("{}:{}: `{word}`: write {better}", file.path, number + 1));
            }
            for word in UNDONE.iter().filter(|word| has_word(line, word)) {
                findings.push(format!("{}:{}: `{word}`: do it, or open an issue", file.path, number + 1));
            }
        }
    }
    report(findings);
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let foreign = foreign();
    let mut findings = Vec::new();
    for file in everything() {
        for (number, line) in file.text.lines().enumerate() {
            for text in foreign.iter().filter(|text| line.contains(text.as_str())) {
                findings.push(format!(
                    "{}:{}: `{text}` means nothing to a reader of the repository",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    report(findings);
}

#[test]
fn modules_are_named_for_what_they_hold() {
    let empty = |path: &str| {
        let path = path.trim_end_matches(".rs");
        path.split('/').any(|part| EMPTY_NAMES.contains(&part))
    };
    report(
        rust(&["src"])
            .iter()
            .filter(|(path, _)| empty(path))
            .map(|(path, _)| format!("{path}: says nothing"))
            .collect(),
    );
}

#[test]
fn no_code_stops_where_it_was_left() {
    const MACROS: &[&str] = &["dbg!", "todo!", "unimplemented!"];
    let mut findings = Vec::new();
    for (path, source) in rust(&["src", "tests", "benches"]) {
        for (number, line) in source.lines.iter().enumerate() {
            if let Some(word) = MACROS.iter().find(|word| line.code.contains(**word)) {
                findings.push(format!("{path}:{}: `{word}`", number + 1));
            }
            if line.code.contains("#[ignore") || line.code.contains("#[should_panic") {
                findings.push(format!("{path}:{}: a test runs and asserts, or is not there", number + 1));
            }
        }
    }
    report(findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_count() {
        assert!(has_word("the upstream server", "upstream"));
        assert!(!has_word("hackney, shack", "hack"));
        assert!(!has_word("for nowhere", "for now"));
    }
}
