//! Who may import whom, which files are pure, and who may print, spawn or use an atomic.
//!
//! ```text
//! main ─▶ cli ─▶ ops ─▶ engine ─▶ {source, sink, store, bridge, pool} ─▶ model ─▶ std
//!                 ├───▶ filter ─▶ {source, sink, store, bridge, pool} ─▶ model
//!                 └───▶ kinds  ─▶ {source, sink, store, bridge, pool} ─▶ model
//! ```
//! A path of ours is found wherever it stands in code, not only in `use` lines, and `super::` is followed.

use crate::lines::Source;
use crate::{report, sources};

/// The contracts between engine and kinds, and what they are made of.
const CONTRACTS: &[&str] = &["error", "model", "pool", "source", "sink", "store", "bridge"];

/// What a module may name: a list of first parts of paths, or of first and second part.
fn may_name(module: &[String]) -> Option<Vec<String>> {
    let first = module.first().map_or("lib", String::as_str);
    let mut allowed: Vec<&str> = match first {
        "error" => vec![],
        "model" => vec!["model", "error"],
        "pool" | "source" | "sink" | "store" | "bridge" => CONTRACTS.to_vec(),
        "telemetry" => vec!["telemetry", "model", "error"],
        "engine" => [CONTRACTS, &["engine", "telemetry"]].concat(),
        // What lies between two kinds knows all of them, and what opens them knows the configuration too.
        "kinds" if module.get(1).is_none_or(|part| part == "bridges") => [CONTRACTS, &["kinds", "telemetry"]].concat(),
        "kinds" if module[1] == "open" => [CONTRACTS, &["kinds", "config", "telemetry"]].concat(),
        "kinds" => [CONTRACTS, &["telemetry"]].concat(),
        "filter" => [CONTRACTS, &["filter", "telemetry"]].concat(),
        // A simulator is a service of its own: it shares nothing with what is tested against it.
        "simulator" => vec!["simulator", "error"],
        // What can be wanted of a filter is said in configuration's words; what a filter does is not its business.
        "config" => vec!["config", "error", "model", "filter::rules", "filter::classes"],
        "ops" => [CONTRACTS, &["ops", "engine", "filter", "kinds", "config", "telemetry"]].concat(),
        "cli" => return None,
        "main" => vec!["cli"],
        // lib.rs lists the modules and names nothing.
        "lib" => vec![],
        _ => vec![],
    };
    allowed.sort_unstable();
    let mut allowed: Vec<String> = allowed.into_iter().map(str::to_owned).collect();
    if first == "kinds" && module.len() > 1 {
        allowed.push(format!("kinds::{}", module[1]));
    }
    Some(allowed)
}

/// The module that a file of `src` is.
fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// Every path of ours that a file names, as line and at most two parts from the crate's root.
fn named_paths(module: &[String], source: &Source) -> Vec<(usize, Vec<String>)> {
    let mut code = Vec::new();
    for (number, line) in source.product() {
        code.extend(line.code.chars().chain(['\n']).map(|c| (number, c)));
    }
    let text: String = code.iter().map(|&(_, c)| c).collect();
    let bytes: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    for root in ["crate::", "driftless::", "super::"] {
        for (at, _) in text.match_indices(root) {
            let at = text[..at].chars().count();
            let boundary = at == 0 || !(bytes[at - 1].is_alphanumeric() || matches!(bytes[at - 1], '_' | ':'));
            if !boundary {
                continue;
            }
            // `super` in a file's own module is its parent; inline modules of product code do not occur.
            let mut base: Vec<String> = if root == "super::" { module.to_vec() } else { Vec::new() };
            let mut rest = &bytes[at..];
            while rest.starts_with(&['s', 'u', 'p', 'e', 'r', ':', ':']) {
                base.pop();
                rest = &rest[7..];
            }
            if root != "super::" {
                rest = &rest[root.len()..];
            }
            for leaf in tree(rest) {
                let mut path = base.clone();
                path.extend(leaf);
                path.truncate(2);
                found.push((code[at].0, path));
            }
        }
    }
    found
}

/// The leaves of a use tree, each with at most two parts: `a::{b, c::d}` gives `a b` and `a c`.
fn tree(text: &[char]) -> Vec<Vec<String>> {
    let mut rest = text.iter().copied().skip_while(|c| c.is_whitespace()).peekable();
    if rest.peek() != Some(&'{') {
        let name: String = text.iter().skip_while(|c| c.is_whitespace()).take_while(|c| is_word(**c)).collect();
        let skipped = text.iter().take_while(|c| c.is_whitespace()).count() + name.chars().count();
        let after = &text[skipped..];
        if after.starts_with(&[':', ':']) {
            return tree(&after[2..])
                .into_iter()
                .map(|leaf| std::iter::once(name.clone()).chain(leaf).take(2).collect())
                .collect();
        }
        return vec![vec![name]];
    }
    let open = text.iter().position(|&c| c == '{').unwrap();
    let mut leaves = Vec::new();
    let mut depth = 0;
    let mut begin = open + 1;
    for (at, &c) in text.iter().enumerate().skip(open) {
        let closes = c == '}' && depth == 1;
        if (c == ',' && depth == 1) || closes {
            if text[begin..at].iter().any(|&c| is_word(c)) {
                leaves.extend(tree(&text[begin..at]));
            }
            begin = at + 1;
        }
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if closes {
            break;
        }
    }
    leaves
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn layer_findings(path: &str, source: &Source) -> Vec<String> {
    let module = module_of(path);
    let Some(allowed) = may_name(&module) else { return Vec::new() };
    let own = module.first().cloned().unwrap_or_default();
    named_paths(&module, source)
        .into_iter()
        .filter(|(_, named)| {
            let first = named.first().map_or("", String::as_str);
            let two = named.join("::");
            let same_kind = own != "kinds" && first == own;
            !same_kind && !allowed.iter().any(|ok| ok == first || ok == &two)
        })
        .map(|(line, named)| format!("{path}:{line}: may not name `{}`", named.join("::")))
        .collect()
}

#[test]
fn each_layer_names_only_what_lies_below_it() {
    report(sources().iter().flat_map(|(path, source)| layer_findings(path, source)).collect());
}

/// Files that decide and never act: time and data come in as arguments.
fn is_pure(path: &str) -> bool {
    const ENGINE: &[&str] = &[
        "coalesce.rs",
        "route.rs",
        "frontier.rs",
        "policy.rs",
        "plan.rs",
        "window.rs",
        "lane.rs",
        "compare.rs",
        "standby.rs",
    ];
    const KINDS: &[&str] = &[
        "wire.rs",
        "shape.rs",
        "rowcodec.rs",
        "kvrow.rs",
        "translate.rs",
        "body.rs",
        "time.rs",
        "bridge.rs",
        "log.rs",
        "format.rs",
        "codec.rs",
        "records.rs",
        "pieces.rs",
        "crypt.rs",
        "frame.rs",
        "layout.rs",
        "place.rs",
        "version.rs",
    ];
    let name = path.rsplit('/').next().unwrap();
    path.starts_with("src/model/")
        || path == "src/bridge.rs"
        || (path.starts_with("src/filter/") && name != "edge.rs")
        || (path.starts_with("src/simulator/") && name != "server.rs")
        || (path.starts_with("src/engine/") && ENGINE.contains(&name))
        || (path.starts_with("src/kinds/") && (path.contains("/wire/") || KINDS.contains(&name)))
}

/// What a pure file does without.
const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "tokio",
    "Instant",
    "SystemTime",
    "Timestamp::now",
    "rand::",
    "thread::",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "Uuid::new_v4",
    "RandomState",
];

#[test]
fn pure_files_have_no_clock_no_chance_and_no_io() {
    let mut findings = Vec::new();
    for (path, source) in sources().iter().filter(|(path, _)| is_pure(path)) {
        for (number, line) in source.product() {
            for word in IMPURE.iter().filter(|word| line.code.contains(**word)) {
                findings.push(format!("{path}:{number}: a pure file does without `{}`", word.trim()));
            }
        }
    }
    report(findings);
}

#[test]
fn only_the_command_line_writes_to_the_terminal() {
    const PRINTING: &[&str] = &["println!", "print!", "eprintln!", "eprint!", "stdout()", "stderr()"];
    let mut findings = Vec::new();
    for (path, source) in sources().iter().filter(|(path, _)| !path.starts_with("src/cli/")) {
        for (number, line) in source.product() {
            if let Some(word) = PRINTING.iter().find(|word| line.code.contains(**word)) {
                findings.push(format!("{path}:{number}: `{word}` belongs to src/cli; return a value instead"));
            }
        }
    }
    report(findings);
}

/// Who may start a task or a thread, and what for. Whoever else needs one is asked to run in the caller's.
const SPAWNERS: &[(&str, &str)] = &[
    ("src/engine/host.rs", "a lane runs on a thread of its own"),
    ("src/cli/", "the runtime, the status server, signals"),
    ("src/ops/", "one task per pipeline"),
    ("src/kinds/journal/relay/", "a capture goes on whoever follows it, and waiting for a disk blocks"),
    ("src/kinds/journal/past/", "reading a disk blocks"),
    ("src/simulator/dynamodb/server.rs", "connections are served beside each other"),
    ("src/kinds/sqlite/store.rs", "reading a file blocks"),
    ("src/kinds/sqlite/tail.rs", "a file is watched, which blocks"),
    ("src/kinds/sqlite/writer.rs", "a connection that writes lives on one thread"),
    ("src/kinds/etcd/watch/tail.rs", "leases are read again whether or not a batch is taken"),
    ("src/kinds/etcd/writer.rs", "a commit is on its way while the one before it is waited for"),
    ("src/kinds/postgres/conn/", "a connection is driven beside whoever asks it"),
    ("src/kinds/postgres/writer/", "commits of a lane go on after their caller has gone on"),
    ("src/kinds/postgres/stream/receiver.rs", "feedback must not depend on the sink"),
    ("src/kinds/postgres/stream/sequences.rs", "sequences are read beside the stream, and a batch never waits for it"),
    ("src/kinds/postgres/stream/watch.rs", "the source is looked after while nobody takes a batch"),
    ("src/kinds/postgres/stream/spool.rs", "writing a file blocks"),
];

#[test]
fn only_known_files_start_tasks_or_threads() {
    const SPAWNING: &[&str] =
        &["tokio::spawn", "task::spawn", "spawn_blocking", "thread::spawn", "thread::Builder", "JoinSet"];
    let mut findings = Vec::new();
    let known = |path: &str| SPAWNERS.iter().any(|(place, _)| path.starts_with(place));
    for (path, source) in sources().iter().filter(|(path, _)| !known(path)) {
        for (number, line) in source.product() {
            if let Some(word) = SPAWNING.iter().find(|word| line.code.contains(**word)) {
                findings
                    .push(format!("{path}:{number}: `{word}`, and the file is not in the list of who may start tasks"));
            }
        }
    }
    report(findings);
}

#[test]
fn each_atomic_access_says_why_its_ordering_is_enough() {
    const ORDERINGS: &[&str] =
        &["Ordering::Relaxed", "Ordering::Acquire", "Ordering::Release", "Ordering::AcqRel", "Ordering::SeqCst"];
    let mut findings = Vec::new();
    for (path, source) in sources() {
        for (number, line) in source.product() {
            let explained =
                source.lines[number.saturating_sub(4)..number].iter().any(|l| l.comment.contains("ORDERING:"));
            if ORDERINGS.iter().any(|word| line.code.contains(word)) && !explained {
                findings
                    .push(format!("{path}:{number}: an atomic access without `// ORDERING:` within three lines above"));
            }
        }
    }
    report(findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, code: &str) -> Vec<String> {
        let source = Source::parse(code);
        named_paths(&module_of(path), &source).into_iter().map(|(_, path)| path.join("::")).collect()
    }

    #[test]
    fn paths_are_found_in_grouped_imports_and_in_expressions() {
        assert_eq!(names("src/ops/run.rs", "use crate::model::{Batch, Op};"), ["model::Batch", "model::Op"]);
        assert_eq!(
            names("src/ops/run.rs", "use crate::{\n    engine,\n    kinds::{sqlite::x, memory},\n};"),
            ["engine", "kinds::sqlite", "kinds::memory"]
        );
        assert_eq!(names("src/ops/run.rs", "let a = crate::pool::Pool::new();"), ["pool::Pool"]);
    }

    #[test]
    fn super_is_followed_to_where_it_leads() {
        assert_eq!(names("src/kinds/sqlite/tail.rs", "use super::super::postgres::wire;"), ["kinds::postgres"]);
        assert_eq!(names("src/kinds/sqlite/mod.rs", "use super::memory;"), ["kinds::memory"]);
    }

    #[test]
    fn words_in_comments_strings_and_tests_are_no_imports() {
        let code = "// crate::engine\nlet a = \"crate::engine\";\n#[cfg(test)]\nmod tests { use crate::engine; }";
        assert!(names("src/model/batch.rs", code).is_empty());
    }

    #[test]
    fn a_kind_may_name_itself_but_neither_the_engine_nor_another_kind() {
        let found = |path: &str, code: &str| layer_findings(path, &Source::parse(code)).len();
        assert_eq!(found("src/kinds/sqlite/tail.rs", "use crate::kinds::sqlite::body; use super::time;"), 0);
        assert_eq!(found("src/kinds/sqlite/tail.rs", "use crate::kinds::postgres;"), 1);
        assert_eq!(found("src/kinds/sqlite/tail.rs", "use crate::engine::lane;"), 1);
        assert_eq!(found("src/engine/lane.rs", "use crate::kinds::memory;"), 1);
        assert_eq!(found("src/model/batch.rs", "use crate::source::Source;"), 1);
        assert_eq!(found("src/engine/lane.rs", "use crate::{cli, ops};"), 2);
    }
}
