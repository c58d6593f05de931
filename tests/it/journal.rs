//! `journal ls`, `show` and `verify` over what real processes have captured.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::program::{Running, Site};
use crate::support::scale::PLANTED;
use crate::support::secrets::leaks;
use crate::support::teleport::{Item, SqliteDb, items, uuid};

const PATIENCE: Duration = Duration::from_secs(120);

/// A source with as many sinks as there are names, and what is captured of it.
struct Captured {
    site: Site,
    source: SqliteDb,
    folder: PathBuf,
}

impl Captured {
    fn new(test: &str, names: &[&str], rest: &str) -> Self {
        let site = Site::new(test, "");
        let source = SqliteDb::create(site.folder().join("src"), &items(40));
        let path = |name: &str| format!("{{type: sqlite, path: {:?}}}", site.folder().join(name).display().to_string());
        // What a snapshot adds to a journal is tested in `snapshots`.
        let mut yaml = format!("journal: {{snapshot_every: never{rest}}}\npipelines:\n");
        for name in names {
            yaml.push_str(&format!("  - {{name: {name}, src: {}, dst: {}}}\n", path("src"), path(name)));
        }
        site.configure(&yaml);
        let folder = site.folder().join("state").join(names[0]).join("journal");
        let captured = Self { site, source, folder };
        captured.put("/apps/first", b"{}", 100);
        captured
    }

    fn start(&self) -> Running {
        let program = self.site.start("run", &[]);
        self.site.until_caught_up(PATIENCE);
        program
    }

    fn put(&self, key: &str, value: &[u8], n: u64) {
        let item = Item { key: key.into(), value: Some(value.to_vec()), expires: None, revision: uuid(n) };
        self.source.put(&item);
    }

    /// Captures 20 secrets, a value that is no text, and a delete.
    fn fill(&self) {
        let program = self.start();
        for n in 0..20 {
            self.put(&format!("/tokens/{PLANTED}-{n:03}"), format!("{PLANTED}-value-{n}").as_bytes(), n);
        }
        self.put("/nodes/default/binary", &[0xff, 0, 0xfe], 20);
        self.source.delete("/apps/foo");
        self.site.until_caught_up(PATIENCE);
        assert!(program.stop(PATIENCE).success());
    }

    /// The lines of `show`, none of which may tell what was planted.
    fn show(&self, options: &[&str]) -> Vec<Value> {
        let finished = self.site.run("journal show", options);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_eq!(leaks(&finished.stdout), Vec::<String>::new());
        lines(&finished.stdout)
    }

    /// The lines of `show --values`, which no log keeps, and what it says beside them.
    fn show_values(&self, options: &[&str]) -> (Vec<Value>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_driftless"));
        command.args(["journal", "show", "--values", "-c"]).arg(self.site.config()).args(options);
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && leaks(&stderr).is_empty(), "{stderr}");
        (lines(std::str::from_utf8(&output.stdout).unwrap()), stderr)
    }

    /// The segments, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let names = std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = names.filter(|path| path.extension().is_some_and(|end| end == "segment")).collect();
        all.sort();
        all
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn changes(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["op"].is_string()).collect()
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn a_journal_is_listed_once_for_all_who_follow_it_while_it_is_written() {
    let captured = Captured::new("journal-ls", &["one", "two"], "");
    let program = captured.start();
    captured.put("/tokens/planted-1", b"planted-1", 1);
    captured.site.until_caught_up(PATIENCE);
    let finished = captured.site.run("journal ls", &["--json"]);
    assert_eq!((finished.code, finished.stdout.lines().count()), (Some(0), 1), "{}", finished.stderr);
    let listing = finished.json();
    assert_eq!((&listing["name"], &listing["pipelines"]), (&"one".into(), &serde_json::json!(["one", "two"])));
    let segment = &listing["segments"][0];
    assert_eq!((&segment["first"], &segment["encrypted"]), (&1.into(), &false.into()));
    assert_eq!(segment["file"], name(&captured.segments()[0]));
    assert!(segment["frames"].as_u64() > Some(0) && segment["damage"].is_null(), "{listing}");
    assert!(segment["latest"].as_str() >= segment["earliest"].as_str() && segment["latest"].is_string(), "{listing}");
    assert_eq!((&listing["bytes"], &listing["frames"]), (&segment["bytes"], &segment["frames"]));
    let readers: Vec<_> = listing["readers"].as_array().unwrap().iter().map(|reader| &reader["name"]).collect();
    assert_eq!(readers, ["one", "two"], "{listing}");
    assert_eq!(listing["snapshots"], serde_json::json!([]));
    let table = captured.site.run("journal ls", &["-p", "two"]).stdout;
    for said in ["followed by one, two", "SEGMENT ", "READER ", "no whole snapshot", "1 segments, "] {
        assert!(table.contains(said), "{said}: {table}");
    }
    assert_eq!(captured.site.done("journal verify", &[])["sound"], true);
    program.kill();
    let killed = captured.site.done("journal verify", &[]);
    assert_eq!((&killed["sound"], &killed["changes"]), (&true.into(), &1.into()), "{killed}");
}

#[test]
fn changes_are_shown_without_what_is_secret_unless_it_is_asked_for() {
    let captured = Captured::new("journal-show", &["s"], "");
    captured.fill();
    let all = captured.show(&[]);
    let shown = changes(&all);
    assert_eq!(shown.len(), 22, "{all:?}");
    assert!(shown[0]["key"].as_str().unwrap().starts_with("… #"), "{}", shown[0]);
    let fields: Vec<_> = shown[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["journal", "key", "op", "partition", "position", "table", "time"]);
    assert!(shown[20]["key"].as_str().unwrap().starts_with("/nodes/default/… #"), "{}", shown[20]);
    assert_eq!((&shown[20]["op"], &shown[21]["op"]), (&"put".into(), &"delete".into()));

    let (whole, warning) = captured.show_values(&[]);
    assert!(warning.contains("whoever reads them has the cluster's secrets"), "{warning}");
    let whole = changes(&whole);
    assert_eq!(whole[3]["key"], format!("/tokens/{PLANTED}-003"));
    let body = whole[3].get("body").or(whole[3].get("body_base64"));
    assert!(body.is_some_and(Value::is_string), "{}", whole[3]);
    assert!(whole[20]["body_base64"].is_string(), "{}", whole[20]);
    assert_eq!(captured.show_values(&["--limit", "1"]).0.len(), 1);
}

#[test]
fn changes_are_shown_from_and_up_to_a_position_or_a_time() {
    let captured = Captured::new("journal-range", &["s"], "");
    captured.fill();
    let all = captured.show(&[]);
    let all = changes(&all);
    let position = |n: usize| all[n]["position"].as_str().unwrap();
    let keys = |options: &[&str]| -> Vec<Value> {
        let shown = captured.show(options);
        changes(&shown).into_iter().map(|change| change["key"].clone()).collect()
    };
    let expected = |range: std::ops::Range<usize>| -> Vec<Value> {
        all[range].iter().map(|change| change["key"].clone()).collect()
    };
    assert_eq!(keys(&["--from", position(4)]), expected(5..22));
    assert_eq!(keys(&["--until", position(4)]), expected(0..5));
    assert_eq!(keys(&["--from", position(4), "--until", position(9)]), expected(5..10));
    let named = format!("{}{}", all[0]["partition"].as_str().unwrap(), position(4));
    assert_eq!(keys(&["--from", &named]), expected(5..22));
    // Changes of one moment belong together.
    let time = all[10]["time"].as_str().unwrap();
    let first = all.iter().position(|change| change["time"] == time).unwrap();
    let last = all.iter().rposition(|change| change["time"] == time).unwrap();
    assert_eq!(keys(&["--from", time]), expected(first..22));
    assert_eq!(keys(&["--until", time]), expected(0..last + 1));
    assert_eq!(keys(&["--from", "2096-01-01T00:00:00Z"]), expected(0..0));
    for (wrong, said) in [("yesterday", "neither a time such as"), ("2026-04-01", "neither a time such as")] {
        let finished = captured.site.run("journal show", &["--from", wrong]);
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
    }
}

#[test]
fn a_flipped_byte_is_exit_code_4_and_its_place_is_named() {
    let captured = Captured::new("journal-flip", &["s"], "");
    captured.fill();
    let program = captured.start();
    captured.put("/apps/second", b"{}", 21);
    captured.site.until_caught_up(PATIENCE);
    assert!(program.stop(PATIENCE).success());
    let sound = captured.site.done("journal verify", &[]);
    assert_eq!((&sound["sound"], &sound["segments"], &sound["changes"]), (&true.into(), &2.into(), &23.into()));
    let first = captured.segments()[0].clone();
    let file = std::fs::File::options().read(true).write(true).open(&first).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();

    let finished = captured.site.run("journal verify", &["--json"]);
    assert_eq!(finished.code, Some(4), "{}", finished.stderr);
    let found = finished.json();
    assert_eq!((&found["sound"], &found["damage"].as_array().unwrap().len()), (&false.into(), &1));
    let damage = found["damage"][0].as_str().unwrap();
    assert!(damage.contains(name(&first)) && damage.contains("at byte "), "{damage}");
    let said: u64 = damage.split("at byte ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    assert!(said <= at && damage.contains("frame "), "byte {at}: {damage}");
    let text = captured.site.run("journal verify", &[]);
    assert!(text.code == Some(4) && text.stdout.contains("s: DAMAGED: ") && text.stdout.contains(damage), "{damage}");
    let shown = captured.site.run("journal show", &[]);
    assert_eq!(shown.code, Some(1), "{}", shown.stdout);
    assert!(shown.stderr.contains(name(&first)), "{}", shown.stderr);
}

#[test]
fn a_tail_that_was_cut_off_is_damage_and_a_write_that_was_cut_short_is_none() {
    let captured = Captured::new("journal-tail", &["s"], "");
    captured.fill();
    let last = captured.segments().pop().unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&last).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(b"a write that a crash cut short", length).unwrap();
    let torn = captured.site.done("journal verify", &[]);
    assert_eq!((&torn["sound"], &torn["torn"]), (&true.into(), &true.into()));
    file.set_len(length - 3).unwrap();
    let finished = captured.site.run("journal verify", &["--json"]);
    assert_eq!(finished.code, Some(4), "{}", finished.stdout);
    let damage = finished.json()["damage"][0].as_str().unwrap().to_owned();
    assert!(damage.contains(name(&last)) && damage.contains("at byte ") && damage.contains("frame "), "{damage}");
    std::fs::remove_file(&last).unwrap();
    let finished = captured.site.run("journal verify", &["--json"]);
    assert_eq!(finished.code, Some(4), "{}", finished.stdout);
}

#[test]
fn an_encrypted_journal_is_listed_without_its_key_and_read_with_it_alone() {
    let key = |digit: &str| format!(", key: '{}'", digit.repeat(64));
    let captured = Captured::new("journal-key", &["s"], &key("5"));
    captured.fill();
    assert_eq!(changes(&captured.show(&[])).len(), 22);
    assert_eq!(captured.site.done("journal verify", &[])["changes"], 22);
    let yaml = std::fs::read_to_string(captured.site.config()).unwrap();
    std::fs::write(captured.site.config(), yaml.replace(&key("5"), &key("6"))).unwrap();
    let listing = captured.site.done("journal ls", &[]);
    assert_eq!(listing["segments"][0]["encrypted"], true);
    assert!(listing["snapshots"].is_null() && listing["snapshots_unknown"].is_string(), "{listing}");
    for verb in ["journal verify", "journal show"] {
        let finished = captured.site.run(verb, &[]);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{verb}: {}", finished.stderr);
    }
}

#[test]
fn a_pipeline_without_a_journal_is_said_in_one_sentence() {
    let captured = Captured::new("journal-none", &["s"], "");
    let asked = |said: &str| {
        for verb in ["journal ls", "journal show", "journal verify"] {
            let finished = captured.site.run(verb, &[]);
            assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{verb}: {}", finished.stderr);
            let lines: Vec<_> = finished.stderr.lines().filter(|line| line.starts_with("driftless: ")).collect();
            assert!(lines.len() == 1 && lines[0].contains(said), "{verb}: {}", finished.stderr);
        }
    };
    asked("is not there; `run` begins one");
    let yaml = std::fs::read_to_string(captured.site.config()).unwrap();
    std::fs::write(captured.site.config(), yaml.replace("snapshot_every: never", "enabled: false")).unwrap();
    asked("open the journal of s: it has none");
}
