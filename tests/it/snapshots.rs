//! Snapshots that the journal keeps of a source that is written to: whole, exact, and begun anew after a crash.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::pg;
use crate::support::program::Site;
use crate::support::scale::{PLANTED, pick};
use crate::support::teleport::{
    Item, PgDb, SqliteDb, assert_same, canonical, event, hex, insert, items, microseconds, now_us, uuid,
};

const PATIENCE: Duration = Duration::from_secs(120);

enum Source {
    Sqlite(SqliteDb),
    Pg(PgDb),
}

impl Source {
    fn yaml(&self) -> String {
        match self {
            Self::Sqlite(db) => db.yaml(),
            Self::Pg(db) => format!("{{ type: postgresql, conn_string: {:?} }}", db.url()),
        }
    }

    fn dump(&self, now_us: i128) -> Vec<String> {
        match self {
            Self::Sqlite(db) => db.dump(now_us),
            Self::Pg(db) => db.dump(now_us),
        }
    }

    /// Twenty transactions: hot keys, new keys among those of the first copy, and deletes.
    fn write(&self, round: u64) {
        for n in round * 20..round * 20 + 20 {
            let key = match n % 4 {
                0 => format!("/apps/{PLANTED}{:07}", n % 50),
                1 => format!("/apps/{PLANTED}{n:07}-new"),
                2 => format!("/nodes/default/hot-{}", n % 7),
                _ => format!("/tokens/{PLANTED}{:07}", n * 13 % 4000),
            };
            let value = Some(format!("planted-{n}").into_bytes());
            let item = Item { key: key.clone(), value, expires: None, revision: uuid(n) };
            match self {
                Self::Sqlite(db) if n % 4 == 3 => db.delete(&key),
                Self::Sqlite(db) => {
                    db.run(&format!("begin immediate;\n{};\n{};\ncommit;", insert(&item), event(&item, 1)));
                }
                Self::Pg(db) if n % 4 == 3 => db.delete(&key),
                Self::Pg(db) => db.put(&item),
            }
        }
    }
}

/// The cells of a row of either kind; `None`: what a patch does not say.
type Cells = Vec<Option<Cell>>;

#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Null,
    Bytes(Vec<u8>),
}

/// A body of SQLite: a version, then modified, expires, value and revision.
fn sqlite_cells(body: &[u8]) -> Cells {
    let (mut rest, mut cells) = (&body[1..], Vec::new());
    while let Some((tag, tail)) = rest.split_first() {
        let (length, tail) = match tag {
            0 => (0, tail),
            1 | 2 => (8, tail),
            _ => (u32::from_le_bytes(tail[..4].try_into().unwrap()) as usize, &tail[4..]),
        };
        cells.push(Some(if *tag == 0 { Cell::Null } else { Cell::Bytes(tail[..length].to_vec()) }));
        rest = &tail[length..];
    }
    cells
}

/// A body of PostgreSQL: a count, then key, value, expires and revision as the server sends them.
fn pg_cells(body: &[u8]) -> Cells {
    let (mut rest, mut cells) = (&body[2..], Vec::new());
    while let Some((tag, tail)) = rest.split_first() {
        rest = tail;
        match tag {
            b'n' => cells.push(Some(Cell::Null)),
            b'u' => cells.push(None),
            b'b' => {
                let length = u32::from_be_bytes(tail[..4].try_into().unwrap()) as usize;
                cells.push(Some(Cell::Bytes(tail[4..4 + length].to_vec())));
                rest = &tail[4 + length..];
            }
            other => panic!("a cell of form {other}"),
        }
    }
    cells
}

fn bytes(cell: &Option<Cell>) -> Option<&[u8]> {
    match cell.as_ref().expect("nothing is missing in a whole row") {
        Cell::Null => None,
        Cell::Bytes(bytes) => Some(bytes),
    }
}

fn line(source: &Source, key: &[u8], cells: &Cells, now_us: i128) -> Option<String> {
    let text = |cell| bytes(cell).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let value = |cell| hex(bytes(cell).unwrap_or_default());
    match source {
        Source::Sqlite(_) => {
            let expires = text(&cells[1]).map(|text| microseconds(&text));
            canonical(&hex(key), &value(&cells[2]), expires, &text(&cells[3]).unwrap_or_default(), now_us)
        }
        Source::Pg(_) => {
            // Microseconds since 2000.
            let micros = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().unwrap()) + 946_684_800_000_000;
            let expires = bytes(&cells[2]).map(|bytes| i128::from(micros(bytes)));
            let id = value(&cells[3]);
            let revision = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
            canonical(&hex(key), &value(&cells[1]), expires, &revision, now_us)
        }
    }
}

fn base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut word, mut bits, mut out) = (0_u32, 0, Vec::new());
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        word = word << 6 | LETTERS.iter().position(|known| *known == letter).unwrap() as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    out
}

/// Text, or what stands in base64 under the other name.
fn field(line: &Value, name: &str) -> Vec<u8> {
    match &line[name] {
        Value::String(text) => text.clone().into_bytes(),
        _ => base64(line[format!("{name}_base64")].as_str().unwrap()),
    }
}

/// The lines of `show --values`, which no log keeps.
fn shown(site: &Site) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftless"));
    let output = command.args(["journal", "show", "--values", "-c"]).arg(site.config()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the pages of the newest whole snapshot, and then the changes since its beginning, come to.
fn rebuilt(site: &Site, source: &Source, now_us: i128) -> Vec<String> {
    let listing = site.done("journal ls", &[]);
    let number = &listing["snapshots"].as_array().unwrap().last().expect("a whole snapshot")["number"];
    let cells = |line: &Value| match source {
        Source::Sqlite(_) => sqlite_cells(&field(line, "body")),
        Source::Pg(_) => pg_cells(&field(line, "body")),
    };
    let (mut rows, mut changes, mut begun, mut ended) = (BTreeMap::new(), Vec::new(), false, false);
    for line in shown(site) {
        let is_own = line["snapshot"] == *number;
        match (line["note"].as_str(), line["op"].as_str()) {
            (Some("snapshot_began"), _) if is_own => begun = true,
            (Some("snapshot_ended"), _) if is_own => ended = true,
            (None, Some("put")) if is_own => drop(rows.insert(field(&line, "key"), cells(&line))),
            (None, Some(_)) if line["snapshot"].is_null() && begun => changes.push(line),
            _ => {}
        }
    }
    assert!(begun && ended);
    for change in changes {
        let key = field(&change, "key");
        match change["op"].as_str().unwrap() {
            "delete" => drop(rows.remove(&key)),
            op => {
                if change.get("key_before").or(change.get("key_before_base64")).is_some() {
                    rows.remove(&field(&change, "key_before"));
                }
                let mut new = cells(&change);
                if let ("patch", Some(old)) = (op, rows.get(&key)) {
                    new.iter_mut().zip(old).for_each(|(new, old)| *new = new.take().or_else(|| old.clone()));
                }
                rows.insert(key, new);
            }
        }
    }
    let mut lines: Vec<_> = rows.iter().filter_map(|(key, cells)| line(source, key, cells, now_us)).collect();
    lines.sort_unstable();
    lines
}

/// Bytes of the journal's segments.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn until(what: &str, site: &Site, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}\n{}", site.log());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn whole(site: &Site) -> usize {
    site.done("journal ls", &[])["snapshots"].as_array().unwrap().len()
}

/// Kills in the middle of a snapshot, starts again, and compares what the journal holds with what the source does.
fn begun_anew(name: &str, source: &Source) {
    let site = Site::new(name, "");
    let sink = SqliteDb::at(site.folder().join("dst"));
    let src = source.yaml();
    let dst = sink.yaml();
    site.configure(&format!("name: s\nsrc: {src}\ndst: {dst}\njournal: {{ enabled: true, snapshot_every: 1h }}\n"));
    let folder = site.folder().join("state/s/journal");
    let (stop, round) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                source.write(round.fetch_add(1, Ordering::Relaxed));
            }
        });
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let program = site.start("run", &[]);
            until("pages are written", &site, || size(&folder) > 1 << 20);
            program.kill();
            assert_eq!(whole(&site), 0, "it was killed in the middle");
            assert_eq!(site.done("journal verify", &[])["sound"], true);

            let program = site.start("run", &[]);
            until("there is a whole snapshot", &site, || whole(&site) == 1);
            let at = round.load(Ordering::Relaxed);
            until("more is written", &site, || round.load(Ordering::Relaxed) > at + 3);
            program
        }));
        stop.store(true, Ordering::Relaxed);
        let program = tested.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(program.stop(PATIENCE).success());
    });
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    assert!(program.stop(PATIENCE).success());
    let now = now_us();
    assert_same(&source.dump(now), &sink.dump(now));
    assert_same(&source.dump(now), &rebuilt(&site, source, now));
    let verified = site.done("journal verify", &[]);
    assert_eq!(verified["sound"], true);
    assert!(verified["items"].as_u64() > Some(source.dump(now).len() as u64), "{verified}");
    assert_eq!(whole(&site), 1, "a start takes none while there is a young one");
    drop(site.run("drop-slot", &[]));
}

#[test]
fn a_snapshot_of_sqlite_that_was_cut_short_is_taken_anew_and_with_the_changes_makes_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let source = SqliteDb::create(folder.path().join("src"), &items(pick(12_000, 200_000)));
    begun_anew("snapshots-sqlite", &Source::Sqlite(source));
}

#[test]
fn a_snapshot_of_postgresql_that_was_cut_short_is_taken_anew_and_with_the_changes_makes_the_source() {
    let source = PgDb::create(pg::primary(), "snapshots", &items(pick(12_000, 200_000)));
    begun_anew("snapshots-pg", &Source::Pg(source));
}

#[test]
fn a_snapshot_is_taken_every_period_or_never() {
    let folder = tempfile::tempdir().unwrap();
    let source = SqliteDb::create(folder.path().join("src"), &items(50));
    let yaml = |every: &str| {
        format!(
            "name: s\nsrc: {{ type: sqlite, path: {:?} }}\ndst: {{ type: sqlite, path: {:?} }}\n\
             journal: {{ snapshot_every: {every} }}\n",
            source.folder,
            folder.path().join("dst")
        )
    };
    let site = Site::new("snapshots-period", &yaml("0"));
    let capture = site.start("capture", &[]);
    let journal = site.folder().join("state/s/journal");
    until("it captures", &site, || size(&journal) > 0);
    source.put(&Item { key: "/apps/one".into(), ..items(1)[0].clone() });
    until("it is captured", &site, || site.run("journal show", &[]).stdout.contains("\"op\""));
    assert!(capture.stop(PATIENCE).success());
    assert_eq!(whole(&site), 0);
    site.configure(&yaml("1s"));
    let capture = site.start("capture", &[]);
    until("there are three", &site, || journal.is_dir() && whole(&site) >= 3);
    assert!(capture.stop(PATIENCE).success());
    let listing = site.done("journal ls", &[]);
    let ended = listing["snapshots"].as_array().unwrap().iter().map(|snapshot| snapshot["ended"].as_str().unwrap());
    assert!(ended.is_sorted(), "{listing}");
    let now = now_us();
    assert_same(&source.dump(now), &rebuilt(&site, &Source::Sqlite(SqliteDb::at(&source.folder)), now));
}
