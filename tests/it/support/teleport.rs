//! Databases as Teleport leaves them, and a comparison of two of them by `sqlite3` and `psql` alone.
//!
//! The generator writes through the stores' own programs, and [`dump`](SqliteDb::dump) reads through them, so that a test
//! which compares two dumps believes nothing that driftless says. A dump is canonical: both kinds give the same text for
//! equal items, whatever the two stores' encodings are. It leaves out what counts for nobody: keys under `.locks/`, and
//! what has expired by the one clock reading that both dumps are given.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::scale::PLANTED;

/// 2026-04-01T12:10:30Z, the instant of expiry of the written-down examples, in nanoseconds. It has passed.
pub const PAST: i128 = 1_775_045_430_000_000_000;
/// The same wall clock time in 2096, for items that must still be there.
pub const FUTURE: i128 = 3_984_120_630_000_000_000;
/// The revision of the examples.
pub const REVISION: &str = "6b1d2a5e-4c1f-4a9e-9a55-0f7c2f7d1b42";
/// What a missing revision stands for.
pub const BLANK: &str = "00000000-0000-0000-0000-000000000000";

/// An item, in the finest units of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub key: String,
    /// `None`: NULL, which SQLite alone can hold; it stands for an empty value.
    pub value: Option<Vec<u8>>,
    /// Nanoseconds since 1970.
    pub expires: Option<i128>,
    /// Empty: none, which SQLite alone can hold; it stands for [`BLANK`].
    pub revision: String,
}

impl Item {
    fn new(key: &str, value: &[u8], expires: Option<i128>) -> Self {
        Self { key: key.to_owned(), value: Some(value.to_vec()), expires, revision: REVISION.to_owned() }
    }
}

/// The written-down examples: each kind of key, value and expiry that has hurt somebody.
pub fn vectors() -> Vec<Item> {
    let mut all = vec![
        Item::new("/authorities/host/example.com", br#"{"kind":"cert_authority"}"#, None),
        Item::new("/nodes/default/4f1c0f5e-8d3c-4f0a-9b0e-2a6c7f1d9e55", br#"{"kind":"node"}"#, Some(FUTURE)),
        Item::new("/web/users/alice/pwd", b"$2a$10$abcdefghijklmnopqrstuv", None),
        Item::new("/semaphores/connection/alice/lock1", &[0x00, 0xff, 0x10], Some(FUTURE)),
        // Locks of one cluster must not stop the other, whether they are still held or not.
        Item::new(".locks/athena_lock", b"hello", Some(FUTURE)),
        Item::new(".locks/forgotten", b"hello", Some(PAST)),
        // Flags say which migrations have run: these go along, though they sort before every `/`.
        Item::new(".flags/migrated", b"1", None),
        Item::new("/a?>b/ÿ~", b"{}", None),
        // Fractions of a second: tens of milliseconds, microseconds, and nanoseconds that PostgreSQL rounds up.
        Item::new("/nodes/default/fraction-2", b"{}", Some(FUTURE + 120_000_000)),
        Item::new("/nodes/default/fraction-6", b"{}", Some(FUTURE + 123_456_000)),
        Item::new("/nodes/default/fraction-9", b"{}", Some(FUTURE + 123_456_789)),
        Item::new("/nodes/default/fraction-carries", b"{}", Some(FUTURE + 999_999_999)),
        // Has expired: it is never written, and never brought back.
        Item::new("/nodes/default/expired", br#"{"kind":"node"}"#, Some(PAST)),
        Item::new("/nodes/default/expired-fraction", br#"{"kind":"node"}"#, Some(PAST + 120_000_000)),
        Item::new("/tokens/empty", b"", None),
        Item::new("/legacy//name/with\ttab and 'quote' \\ and \"more\"", b"line\nfeed\r\0", None),
    ];
    all.push(Item { value: None, ..Item::new("/tokens/null", b"", None) });
    all.push(Item { revision: String::new(), ..Item::new("/tokens/blank-revision", b"{}", None) });
    // A page that ends at the first of these, continued at the end of its range (`/apps/fop`), loses three.
    for key in ["/apps/foo", "/apps/foo-bar", "/apps/foo/bar", "/apps/foo0", "/apps/fop"] {
        all.push(Item::new(key, key.as_bytes(), None));
    }
    all
}

/// The examples, and further items up to `count`: as a cluster has them, with the paging trap at every third key, so that
/// it lies at the end of a page of any size; most keys hold what must not be told, as those of join tokens do. The same `count` always gives the same items.
pub fn items(count: usize) -> Vec<Item> {
    let mut all = vectors();
    for n in 0..count.saturating_sub(all.len()) {
        let family = n / 5;
        let key = match n % 5 {
            0 => format!("/apps/{PLANTED}{family:07}"),
            1 => format!("/apps/{PLANTED}{family:07}-more"),
            2 => format!("/apps/{PLANTED}{family:07}/more"),
            3 => format!("/nodes/default/{}", uuid(family as u64)),
            _ => format!("/tokens/{PLANTED}{family:07}"),
        };
        // Presence expires; a spread of fractions, so that rounding is met everywhere.
        let expires = (n % 5 == 3).then(|| FUTURE + family as i128 * 1_000_000_123);
        all.push(Item { key, value: Some(value(n)), expires, revision: uuid(n as u64 + 1_000_000_000) });
    }
    all
}

/// A value of 60 bytes to 1 KiB, every 5000th of 64 KiB.
fn value(n: usize) -> Vec<u8> {
    let size = if n % 5000 == 4999 { 64 << 10 } else { 60 + (n * 7919) % 964 };
    let mut text = format!("{{\"kind\":\"thing\",\"secret\":\"{PLANTED}{n}\",\"fill\":\"").into_bytes();
    // Not all of it is text, or an encoding that expects text would go unnoticed.
    while text.len() < size {
        text.push((n.wrapping_mul(31) + text.len() * 17) as u8);
    }
    text
}

/// A UUID of version 4 made of a number, always the same.
pub fn uuid(n: u64) -> String {
    let mixed = (n ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let (high, low) = (mixed.rotate_left(29), mixed);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        (high >> 32) as u32,
        (high >> 16) as u16,
        high & 0xfff,
        (low >> 52) & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

/// Nanoseconds as Teleport's SQLite writes an instant: UTC, up to nine digits, no trailing zeros, no empty fraction.
pub fn sqlite_time(nanoseconds: i128) -> String {
    let (seconds, fraction) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let clock = seconds.rem_euclid(86_400);
    let mut text =
        format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", clock / 3600, clock / 60 % 60, clock % 60);
    if fraction > 0 {
        let digits = format!("{fraction:09}");
        write!(text, ".{}", digits.trim_end_matches('0')).unwrap();
    }
    text + "+00:00"
}

/// Year, month and day of a number of days since 1970 (Gregorian; the usual arithmetic over eras of 400 years).
fn civil(days: i128) -> (i128, i128, i128) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i128::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// The instant that Teleport's SQLite wrote, in microseconds, rounded up. Panics at any other form, because a sink that
/// writes another form is wrong: Teleport compares these as text.
pub fn microseconds(text: &str) -> i128 {
    let number =
        |from: usize, to: usize| text[from..to].parse::<i128>().unwrap_or_else(|_| panic!("no time: {text:?}"));
    let (rest, zone) = text.split_at(text.len() - 6);
    assert_eq!(zone, "+00:00", "{text:?}");
    let shape: String = text[..19].chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00 00:00:00", "{text:?}");
    let fraction = match rest[19..].strip_prefix('.') {
        None => {
            assert_eq!(rest.len(), 19, "{text:?}");
            0
        }
        Some(digits) => {
            assert!((1..=9).contains(&digits.len()) && !digits.ends_with('0'), "{text:?}");
            format!("{digits:0<9}").parse::<i128>().unwrap()
        }
    };
    let days = days_from_civil(number(0, 4), number(5, 7), number(8, 10));
    let seconds = days * 86_400 + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
    (seconds * 1_000_000_000 + fraction + 999).div_euclid(1000)
}

fn days_from_civil(year: i128, month: i128, day: i128) -> i128 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Lower-case digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Feeds a program's standard input and fails with its standard error.
fn feed(mut command: Command, text: &str) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // A program that stops at the first error closes its end: the message that counts is the one it wrote.
    drop(input.write_all(text.as_bytes()));
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The lines that a program prints, each through `canonical`; what gives nothing is left out.
fn lines(mut command: Command, mut canonical: impl FnMut(&str) -> Option<String>) -> Vec<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let found = output.lines().filter_map(|line| canonical(&line.unwrap())).collect();
    assert!(child.wait().unwrap().success(), "{command:?}");
    found
}

/// One canonical line: key and value in hexadecimal, expiry in microseconds (rounded up) or `never`, revision.
/// Nothing for a lock, and for what has expired at `now_us`.
pub fn canonical(key: &str, value: &str, expires: Option<i128>, revision: &str, now_us: i128) -> Option<String> {
    let key = key.to_lowercase();
    if key.starts_with(&hex(b".locks/")) || expires.is_some_and(|at| at <= now_us) {
        return None;
    }
    let revision = if revision.is_empty() { BLANK } else { revision };
    let expires = expires.map_or("never".to_owned(), |at| at.to_string());
    Some(format!("{key} {} {expires} {revision}", value.to_lowercase()))
}

/// What a dump of these items must be.
pub fn expected(items: &[Item], now_us: i128) -> Vec<String> {
    let mut lines: Vec<String> = items
        .iter()
        .filter_map(|item| {
            let expires = item.expires.map(|at| (at + 999).div_euclid(1000));
            canonical(
                &hex(item.key.as_bytes()),
                &hex(item.value.as_deref().unwrap_or(&[])),
                expires,
                &item.revision,
                now_us,
            )
        })
        .collect();
    lines.sort_unstable();
    lines
}

/// One reading of the clock for both sides of a comparison, in microseconds.
pub fn now_us() -> i128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i128::try_from(now.as_micros()).unwrap()
}

/// Fails with the first differing keys, if the two dumps differ.
pub fn assert_same(source: &[String], sink: &[String]) {
    if source == sink {
        return;
    }
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        let other: std::collections::HashSet<&String> = b.iter().collect();
        a.iter().filter(|line| !other.contains(line)).take(5).map(|line| line.chars().take(300).collect()).collect()
    };
    panic!(
        "{} items in the source, {} in the sink\nonly in the source: {:#?}\nonly in the sink: {:#?}",
        source.len(),
        sink.len(),
        only(source, sink),
        only(sink, source)
    );
}

/// Teleport's `lite` backend in a folder.
pub struct SqliteDb {
    /// The folder, as configuration names it (`path`).
    pub folder: PathBuf,
}

/// The schema that Teleport makes.
pub const SQLITE_SCHEMA: &str = "
create table kv (key TEXT NOT NULL PRIMARY KEY, modified INTEGER NOT NULL, expires DATETIME, value BLOB, revision TEXT NOT NULL DEFAULT \"\");
create index kv_expires on kv (expires);
create table events (id INTEGER PRIMARY KEY, type TEXT NOT NULL, created INTEGER NOT NULL, kv_key TEXT NOT NULL, kv_modified INTEGER NOT NULL, kv_expires DATETIME, kv_value BLOB, kv_revision TEXT NOT NULL DEFAULT \"\");
create index events_created on events (created);
";

impl SqliteDb {
    /// Names a folder; nothing is touched.
    pub fn at(folder: impl AsRef<Path>) -> Self {
        Self { folder: folder.as_ref().to_owned() }
    }

    /// Makes a backend that holds these items, as a cluster leaves it whose log has been trimmed.
    pub fn create(folder: impl AsRef<Path>, items: &[Item]) -> Self {
        let database = Self::at(folder);
        std::fs::create_dir_all(&database.folder).unwrap();
        let mut sql = format!("{SQLITE_SCHEMA}begin;\n");
        for item in items {
            writeln!(sql, "{};", insert(item)).unwrap();
        }
        sql.push_str("commit;\n");
        database.run(&sql);
        database
    }

    /// This side of a pipeline, for a configuration.
    pub fn yaml(&self) -> String {
        format!("{{ type: sqlite, path: {:?} }}", self.folder.display().to_string())
    }

    /// The database file.
    pub fn file(&self) -> PathBuf {
        self.folder.join("sqlite.db")
    }

    /// Runs statements through `sqlite3`, waiting up to ten seconds for others' locks as Teleport does.
    pub fn run(&self, sql: &str) {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", "-bail", "-cmd", ".timeout 60000"]).arg(self.file());
        feed(command, sql);
    }

    /// What a query gives, unaligned.
    pub fn query(&self, sql: &str) -> String {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", "-bail", "-readonly", "-cmd", ".timeout 60000"]).arg(self.file()).arg(sql);
        lines(command, |line| Some(line.to_owned())).join("\n")
    }

    /// Puts an item as Teleport does: the row and its event in one transaction.
    pub fn put(&self, item: &Item) {
        self.run(&format!("begin immediate;\n{};\n{};\ncommit;", insert(item), event(item, 1)));
    }

    /// Deletes a key as Teleport does.
    pub fn delete(&self, key: &str) {
        let gone = Item { value: None, expires: None, ..Item::new(key, b"", None) };
        let remove = format!("delete from kv where key = {}", sqlite_text(key));
        self.run(&format!("begin immediate;\n{remove};\n{};\ncommit;", event(&gone, 2)));
    }

    /// All items in canonical lines, sorted, read by `sqlite3`.
    pub fn dump(&self, now_us: i128) -> Vec<String> {
        let mut command = Command::new("sqlite3");
        let sql = "select hex(key), hex(value), typeof(expires), coalesce(expires, ''), revision from kv";
        command
            .args(["-batch", "-bail", "-readonly", "-separator", " ", "-cmd", ".timeout 60000"])
            .arg(self.file())
            .arg(sql);
        let mut all = lines(command, |line| {
            let (key, rest) = line.split_once(' ').unwrap();
            let (value, rest) = rest.split_once(' ').unwrap();
            let (storage, rest) = rest.split_once(' ').unwrap();
            let (expires, revision) = rest.rsplit_once(' ').unwrap();
            assert!(matches!(storage, "text" | "null"), "an expiry is stored as {storage}");
            let expires = (!expires.is_empty()).then(|| microseconds(expires));
            canonical(key, value, expires, revision, now_us)
        });
        all.sort_unstable();
        all
    }
}

fn sqlite_text(text: &str) -> String {
    // Through hexadecimal, because the program reads lines and would stop at a zero byte.
    format!("cast(X'{}' as text)", hex(text.as_bytes()))
}

fn sqlite_columns(item: &Item) -> (String, String, String, String) {
    let value = item.value.as_ref().map_or("NULL".to_owned(), |value| format!("X'{}'", hex(value)));
    let expires = item.expires.map_or("NULL".to_owned(), |at| format!("'{}'", sqlite_time(at)));
    (sqlite_text(&item.key), expires, value, format!("'{}'", item.revision))
}

/// The statement with which Teleport puts a row.
pub fn insert(item: &Item) -> String {
    let (key, expires, value, revision) = sqlite_columns(item);
    format!(
        "insert or replace into kv (key, modified, expires, value, revision) values ({key}, 1775044800000000000, {expires}, {value}, {revision})"
    )
}

/// The statement with which Teleport logs a put (1) or a delete (2), at the present time.
pub fn event(item: &Item, kind: u8) -> String {
    let (key, expires, value, revision) = sqlite_columns(item);
    let created = sqlite_time(now_us() * 1000);
    format!(
        "insert into events (type, created, kv_key, kv_modified, kv_expires, kv_value, kv_revision) values ({kind}, '{created}', {key}, 1775044800000000000, {expires}, {value}, {revision})"
    )
}

/// Teleport's PostgreSQL backend in a database of a test server.
#[cfg(feature = "postgresql")]
pub struct PgDb {
    pub server: &'static super::pg::Pg,
    pub name: String,
}

/// The schema that Teleport makes, version 2.
#[cfg(feature = "postgresql")]
pub const PG_SCHEMA: &str = "
create table kv (key bytea not null, value bytea not null, expires timestamptz, revision uuid not null, constraint kv_pkey primary key (key));
create index kv_expires_idx on kv (expires) where expires is not null;
alter table kv replica identity full;
create table backend_version (version integer primary key check (version > 0), created timestamptz not null default now());
insert into backend_version (version) values (2);
";

#[cfg(feature = "postgresql")]
impl PgDb {
    /// A database of its own, empty.
    pub fn empty(server: &'static super::pg::Pg, hint: &str) -> Self {
        Self { server, name: server.database(hint) }
    }

    /// A database of its own that holds these items.
    pub fn create(server: &'static super::pg::Pg, hint: &str, items: &[Item]) -> Self {
        let database = Self::empty(server, hint);
        let mut sql = format!("{PG_SCHEMA}copy kv (key, value, expires, revision) from stdin;\n");
        for item in items {
            let expires = item.expires.map_or("\\N".to_owned(), |at| sqlite_time((at + 999).div_euclid(1000) * 1000));
            let revision = if item.revision.is_empty() { BLANK } else { &item.revision };
            let (key, value) = (hex(item.key.as_bytes()), hex(item.value.as_deref().unwrap_or(&[])));
            writeln!(sql, "\\\\x{key}\t\\\\x{value}\t{expires}\t{revision}").unwrap();
        }
        sql.push_str("\\.\n");
        feed(database.psql(), &sql);
        database
    }

    /// The connection string that configuration names.
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Runs SQL through `psql`.
    pub fn run(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql)
    }

    /// A `psql` on this database.
    pub fn psql(&self) -> Command {
        let mut command = Command::new(self.server.psql_program());
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h"]).arg(self.server.data.parent().unwrap());
        command.args(["-p", &self.server.port.to_string(), "-U", "postgres", "-d", &self.name]);
        command
    }

    /// Puts an item.
    pub fn put(&self, item: &Item) {
        let expires = item
            .expires
            .map_or("null".to_owned(), |at| format!("'{}'", sqlite_time((at + 999).div_euclid(1000) * 1000)));
        let revision = if item.revision.is_empty() { BLANK } else { &item.revision };
        let (key, value) = (hex(item.key.as_bytes()), hex(item.value.as_deref().unwrap_or(&[])));
        self.run(&format!(
            "insert into kv (key, value, expires, revision) values ('\\x{key}', '\\x{value}', {expires}, '{revision}')
             on conflict (key) do update set value = excluded.value, expires = excluded.expires, revision = excluded.revision"
        ));
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) {
        self.run(&format!("delete from kv where key = '\\x{}'", hex(key.as_bytes())));
    }

    /// All items in canonical lines, sorted, read by `psql`.
    pub fn dump(&self, now_us: i128) -> Vec<String> {
        let mut command = self.psql();
        // Microseconds since 1970 stay below 2^53, so that releases in which extract gives a double are exact too.
        let micros = "coalesce((extract(epoch from expires) * 1000000)::bigint::text, '')";
        let sql = format!("select encode(key, 'hex'), encode(value, 'hex'), {micros}, revision from kv");
        command.args(["-F", " ", "-v", "FETCH_COUNT=10000", "-c", &sql]);
        let mut all = lines(command, |line| {
            let parts: Vec<&str> = line.split(' ').collect();
            let [key, value, expires, revision] = parts[..] else { panic!("four columns: {line:?}") };
            let expires = (!expires.is_empty()).then(|| expires.parse().unwrap());
            canonical(key, value, expires, revision, now_us)
        });
        all.sort_unstable();
        all
    }
}

#[test]
fn times_are_written_and_read_as_teleport_does() {
    assert_eq!(sqlite_time(PAST), "2026-04-01 12:10:30+00:00");
    assert_eq!(sqlite_time(FUTURE), "2096-04-01 12:10:30+00:00");
    assert_eq!(sqlite_time(PAST + 120_000_000), "2026-04-01 12:10:30.12+00:00");
    assert_eq!(sqlite_time(PAST + 1), "2026-04-01 12:10:30.000000001+00:00");
    for at in [PAST, FUTURE, PAST + 120_000_000, PAST + 1, 951_782_400_000_000_000] {
        assert_eq!(microseconds(&sqlite_time(at)), (at + 999) / 1000);
    }
}

#[test]
fn a_generated_sqlite_backend_reads_back_as_it_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let all = items(2_000);
    let mut database = SqliteDb::create(folder.path(), &all);
    let now = now_us();
    assert_same(&expected(&all, now), &database.dump(now));
    assert_eq!(all.len(), 2_000);
    assert_eq!(database.dump(now).len(), 2_000 - 4, "two locks and two expired nodes count for nobody");
    database.put(&Item::new("/apps/foo", b"other", None));
    database.delete("/apps/fop");
    let changed = database.dump(now);
    assert_eq!(changed.len(), 2_000 - 5);
    assert!(std::panic::catch_unwind(|| assert_same(&expected(&all, now), &changed)).is_err(), "a difference is found");
    assert_eq!(database.query("select type, kv_key from events order by id"), "1|/apps/foo\n2|/apps/fop");
    database.folder = folder.path().join("elsewhere");
    assert!(!database.file().exists());
}

#[test]
#[cfg(feature = "postgresql")]
fn a_generated_postgresql_backend_holds_the_same_items_as_a_generated_sqlite_backend() {
    let folder = tempfile::tempdir().unwrap();
    let all = items(2_000);
    let sqlite = SqliteDb::create(folder.path(), &all);
    let postgresql = PgDb::create(super::pg::primary(), "teleport_generated", &all);
    let now = now_us();
    assert_same(&sqlite.dump(now), &postgresql.dump(now));
    postgresql.put(&Item::new("/apps/foo", b"other", Some(FUTURE + 1)));
    postgresql.delete("/apps/fop");
    let changed = postgresql.dump(now);
    let foo = hex(b"/apps/foo");
    let line = changed.iter().find(|line| line.starts_with(&format!("{foo} "))).unwrap();
    assert_eq!(*line, format!("{foo} {} {} {REVISION}", hex(b"other"), FUTURE / 1000 + 1));
    assert_eq!(changed.len(), 2_000 - 5);
}
