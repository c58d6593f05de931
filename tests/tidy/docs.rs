//! Whether the documents still speak of what is there: links, commands, paths, configuration keys.

use std::collections::BTreeSet;

use crate::{File, files, report, root};

fn documents() -> Vec<File> {
    files(&["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "benches"], ".md")
}

/// Targets of `[text](target)` in a text, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for (at, _) in line.match_indices("](") {
            if let Some(end) = line[at + 2..].find(')') {
                found.push((number, line[at + 2..at + 2 + end].to_owned()));
            }
        }
    }
    found
}

/// Lines outside of code fences, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn has_anchor(text: &str, wanted: &str) -> bool {
    prose(text).any(|(_, line)| line.starts_with('#') && anchor(line) == wanted)
}

#[test]
fn links_lead_somewhere() {
    let mut findings = Vec::new();
    for file in documents() {
        let folder = root().join(&file.path).parent().unwrap().to_owned();
        for (number, link) in links(&file.text) {
            if link.starts_with("http") {
                continue;
            }
            let (path, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { root().join(&file.path) } else { folder.join(path) };
            let text = std::fs::read_to_string(&target).unwrap_or_default();
            if !target.exists() || (!fragment.is_empty() && !has_anchor(&text, fragment)) {
                findings.push(format!("{}:{number}: nothing is at {link}", file.path));
            }
        }
    }
    report(findings);
}

#[test]
fn paths_of_the_code_exist() {
    let mut findings = Vec::new();
    for file in documents() {
        for (number, line) in file.text.lines().enumerate() {
            for quoted in line.split('`').skip(1).step_by(2) {
                let ours = ["src/", "tests/", "benches/", "scripts/", "docs/", ".ci/"]
                    .iter()
                    .any(|top| quoted.starts_with(top));
                // A pattern (`src/kinds/*/wire.rs`, `docs/decisions/NNNN-…`) or a test's path is no file name.
                let plain = quoted.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'));
                if ours && plain && !root().join(quoted).exists() {
                    findings.push(format!("{}:{}: there is no {quoted}", file.path, number + 1));
                }
            }
        }
    }
    report(findings);
}

#[test]
fn commands_of_the_documents_are_in_the_makefile() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', ' ', '#', '.']))
        .filter_map(|line| line.split_once(':').map(|(name, _)| name))
        .collect();
    let mut findings = Vec::new();
    for file in documents() {
        for (number, line) in file.text.lines().enumerate() {
            let fenced = line.trim_start().strip_prefix("make ").map(|rest| rest.to_owned());
            let quoted =
                line.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("make ")).map(str::to_owned);
            for command in quoted.chain(fenced) {
                let target = command.split_whitespace().next().unwrap_or_default();
                let word = !target.is_empty() && target.chars().all(|c| c.is_ascii_lowercase() || c == '-');
                if word && line.contains('`') != line.trim_start().starts_with("make ") && !targets.contains(target) {
                    findings.push(format!("{}:{}: `make {target}` is not in the Makefile", file.path, number + 1));
                }
            }
        }
    }
    report(findings);
}

/// Names of configuration keys that the code asks for: the first argument of a reading method, and lists of accepted keys.
fn configuration_keys() -> BTreeSet<(String, String)> {
    const READS: &[&str] = &[
        "required", "text", "texts", "truth", "number", "size", "duration", "word", "section", "sections", "scalar",
        "node", "own", "has",
    ];
    let mut keys = BTreeSet::new();
    for file in files(&["src/config"], ".rs") {
        // What stands in tests is no key of ours.
        let text = file.text.split("#[cfg(test)]").next().unwrap();
        for method in READS {
            for (at, call) in text.match_indices(&format!(".{method}(\"")) {
                let key = text[at + call.len()..].split('"').next().unwrap();
                keys.insert((file.path.clone(), key.to_owned()));
            }
        }
        for (at, call) in text.match_indices(".accept(&[") {
            let list = text[at + call.len()..].split(']').next().unwrap();
            keys.extend(list.split('"').skip(1).step_by(2).map(|key| (file.path.clone(), key.to_owned())));
        }
    }
    keys
}

#[test]
fn each_configuration_key_is_described() {
    let text = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let keys = configuration_keys();
    assert!(keys.len() > 30, "the keys of src/config are no longer found where this test looks: {keys:?}");
    // The alias of the published sample belongs to a type that is refused.
    let described = |key: &str| key == "table" || text.contains(&format!("`{key}`"));
    report(
        keys.iter()
            .filter(|(_, key)| !described(key))
            .map(|(path, key)| format!("{path}: `{key}` is not described in docs/configuration.md"))
            .collect(),
    );
}

/// Names of metrics: `telemetry` has them all, each as a constant.
fn metrics() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("src/telemetry.rs")).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines()
        .filter(|line| line.trim_start().starts_with("pub const"))
        .filter_map(|line| line.split('"').nth(1))
        .filter(|name| name.starts_with("driftless_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn metrics_have_their_names_in_one_place() {
    let mut findings = Vec::new();
    for (path, source) in crate::sources().iter().filter(|(path, _)| path != "src/telemetry.rs") {
        for (number, line) in source.product() {
            let registers = ["counter!(\"", "gauge!(\"", "histogram!(\""].iter().any(|call| line.code.contains(call));
            if registers {
                findings.push(format!("{path}:{number}: names a metric; take the constant of src/telemetry.rs"));
            }
        }
    }
    report(findings);
}

#[test]
fn each_metric_is_described_and_each_described_metric_is_there() {
    let text = std::fs::read_to_string(root().join("docs/operation.md")).unwrap();
    let described: BTreeSet<String> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.starts_with("driftless_") && !code.contains('…'))
        .map(str::to_owned)
        .collect();
    let metrics = metrics();
    assert!(!metrics.is_empty(), "metrics are no longer registered where this test looks");
    let missing = metrics.difference(&described).map(|name| format!("docs/operation.md: `{name}` is not described"));
    let gone = described.difference(&metrics).map(|name| format!("docs/operation.md: there is no metric `{name}`"));
    report(missing.chain(gone).collect());
}

/// The verbs of the command line, from the enum that defines them.
fn verbs() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("src/cli/args.rs")).unwrap();
    let body = text.split("pub enum Command {").nth(1).expect("src/cli/args.rs defines `enum Command`");
    let body = body.split("\n}").next().unwrap();
    let variant = |line: &str| {
        let name = line.trim().split(['(', ',', ' ']).next()?;
        let starts = name.starts_with(|c: char| c.is_ascii_uppercase())
            && line.starts_with("    ")
            && !line.starts_with("     ");
        starts.then(|| name.to_owned())
    };
    body.lines().filter_map(variant).map(|name| kebab(&name)).collect()
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[test]
fn verbs_of_the_documents_exist_and_each_verb_is_described() {
    let verbs = verbs();
    assert!(
        verbs.contains("run") && verbs.contains("drop-slot"),
        "verbs are no longer found where this test looks: {verbs:?}"
    );
    let mut findings = Vec::new();
    let mut shown = BTreeSet::new();
    for file in documents() {
        for (number, line) in file.text.lines().enumerate() {
            let quoted = line.split('`').skip(1).step_by(2);
            for command in quoted.chain([line]).filter_map(|code| code.strip_prefix("driftless ")) {
                let verb = command.split_whitespace().next().unwrap_or_default();
                shown.insert(verb.to_owned());
                let in_prose = !line.contains("  ") && !line.contains('`');
                if !in_prose && !verbs.contains(verb) {
                    findings.push(format!("{}:{}: `driftless {verb}` is no command", file.path, number + 1));
                }
            }
        }
    }
    findings.extend(
        verbs
            .iter()
            .filter(|v| !shown.contains(*v) && *v != "demo")
            .map(|v| format!("docs: `driftless {v}` is nowhere")),
    );
    report(findings);
}

/// Whether a text quotes a number with this sign before it, as a word: `P1` is not in `P10`.
fn quotes(text: &str, sign: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric());
    text.match_indices(sign)
        .any(|(at, _)| edge(text[..at].chars().next_back()) && edge(text[at + sign.len()..].chars().next()))
}

#[test]
fn each_promise_is_quoted_by_a_test_that_would_break_with_it() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let promises: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| P").and_then(|_| line[2..].split_whitespace().next()))
        .collect();
    assert_eq!(promises.len(), 10, "the README's promises are no longer found where this test looks: {promises:?}");
    let mut tests = files(&["tests/it", "tests/sim", "scripts"], "");
    // Of the product's own files only what stands in their tests.
    for mut file in files(&["src"], ".rs") {
        if !file.path.ends_with("tests.rs") {
            file.text = file.text.split_once("#[cfg(test)]").map_or(String::new(), |(_, tests)| tests.to_owned());
        }
        tests.push(file);
    }
    let broken = |promise: &&str| !tests.iter().any(|file| quotes(&file.text, promise));
    report(promises.iter().filter(|p| broken(p)).map(|p| format!("README.md: no test quotes {p}")).collect());
}

#[test]
fn each_invariant_is_quoted_where_it_is_kept() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let numbers: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("### Invariant ")?.split(':').next()).collect();
    assert_eq!(numbers.len(), 4, "the invariants are no longer found where this test looks: {numbers:?}");
    let code: Vec<String> = files(&["src"], ".rs").into_iter().map(|file| file.text.to_lowercase()).collect();
    let kept = |number: &str| code.iter().any(|text| quotes(text, &format!("invariant {number}")));
    report(
        numbers.iter().filter(|n| !kept(n)).map(|n| format!("ARCHITECTURE.md: nothing quotes invariant {n}")).collect(),
    );
}

#[test]
fn each_script_is_called_by_somebody() {
    let callers: String =
        files(&["Makefile", ".ci", "scripts"], "").iter().map(|file| file.text.as_str()).collect::<Vec<_>>().join("\n");
    let scripts = files(&["scripts"], ".sh");
    report(
        scripts
            .iter()
            .filter(|s| !callers.contains(&s.path))
            .map(|s| format!("{}: nothing calls it", s.path))
            .collect(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code_fences_only() {
        let text = "see [a](docs/a.md#top) and [b](b.md)\n```\n[c](c.md)\n```\n";
        assert_eq!(links(text), [(1, "docs/a.md#top".to_owned()), (1, "b.md".to_owned())]);
    }

    #[test]
    fn anchors_are_made_as_renderers_make_them() {
        assert_eq!(anchor("## When the slot is lost: a gap"), "when-the-slot-is-lost-a-gap");
    }
}
