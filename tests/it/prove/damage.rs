//! The journal is harmed between crashes: nothing wrong is ever applied, and nothing that was lost is kept silent.
//!
//! One source, two sinks behind one journal: one keeps up, the other one is locked from outside now and then, so that what
//! is harmed is often what it still needs. What must be said of a harm is known before the program starts again: see `vandal`.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sides::{Observer, Side, Writer, until_same};
use super::vandal::{Dice, Harm, Loss, Vandal};
use crate::support::pg;
use crate::support::program::{Running, Site, get};
use crate::support::scale::{figure, pick};
use crate::support::teleport::{items, now_us};

const PATIENCE: Duration = Duration::from_secs(180);
/// What is said when the end of the journal is not what was durable.
const CUT: &str = "the journal is damaged at its end";
/// What is said when a write was cut short by a crash, or by somebody who left no trace of what followed.
const TORN: &str = "a write to the journal was cut short";
/// What is said when capturing does not go on where the journal ends.
const BROKEN_OFF: &str = "a gap in the journal";
/// What is said when a sink meets damage further back.
const MET: &str = "the journal is damaged; nothing of that is applied";
/// What is said when a stream is healed by difference.
const GAP: &str = "gap: the source no longer has what follows";
/// 32 bytes, for nobody.
const KEY: &str = "6b1d2a5e4c1f4a9e9a550f7c2f7d1b426b1d2a5e4c1f4a9e9a550f7c2f7d1b42";

/// What has happened, over all crashes.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    harms: BTreeMap<&'static str, u32>,
    /// Harms that cost something durable.
    losses: u32,
    /// Of those, with no gap for any sink: cut, and read again from the source.
    read_again: u32,
    /// Of those, in front of a gap of at least one sink.
    healed: u32,
    /// Of those, where nobody needed what was lost.
    needless: u32,
    /// How often it was said that the pipeline was in a gap while it was asked, always with readiness off.
    unready: u32,
}

/// A source, two sinks behind one journal, and everything needed to crash it.
struct Case {
    name: String,
    site: Site,
    /// Streams, as the sinks follow.
    names: Vec<String>,
    listen: SocketAddr,
    source: Side,
    sinks: Vec<Side>,
    vandal: Vandal,
    dice: Dice,
    tally: Tally,
}

#[test]
fn damage_sqlite_to_sqlite_with_ack_sink() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(500)));
    route("sqlite→sqlite, ack: sink", folder.path(), source, "ack: sink", 1);
}

#[test]
fn damage_sqlite_to_sqlite_with_ack_journal() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(500)));
    route("sqlite→sqlite, ack: journal", folder.path(), source, "ack: journal", 2);
}

#[test]
fn damage_postgresql_to_sqlite_with_ack_sink() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::pg(pg::primary(), "damage_sink", Some(&items(500)));
    route("postgresql→sqlite, ack: sink", folder.path(), source, "ack: sink", 3);
}

#[test]
fn damage_postgresql_to_sqlite_with_ack_journal_encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::pg(pg::primary(), "damage_journal", Some(&items(500)));
    let journal = format!("ack: journal, key: \"{KEY}\"");
    route("postgresql→sqlite, ack: journal, encrypted", folder.path(), source, &journal, 4);
}

fn seed(route: u64) -> u64 {
    let chosen = std::env::var("DRIFTLESS_SEED").ok().and_then(|seed| seed.parse().ok());
    chosen.unwrap_or(4711u64) * 10 + route
}

fn route(name: &str, folder: &Path, source: Side, journal: &str, number: u64) {
    let mut case = Case::new(name, folder, source, &["front", "held"], journal, seed(number));
    let writer = Writer::start(&case.source, Duration::from_millis(pick(20, 10)));
    let program = case.start();
    case.until_consistent(0);
    let observers: Vec<Observer> = case.sinks.iter().map(Observer::start).collect();
    observers.iter().for_each(Observer::count);
    let before = writer.versions.load(Ordering::Relaxed);
    let (kills, harms) = (pick(6, 125), pick(4, 50));
    let mut program = Some(program);
    for left in (1..=kills).rev() {
        let harmed: u32 = case.tally.harms.values().sum();
        let harms_now = case.dice.roll(left) < harms - u64::from(harmed);
        program = Some(case.crash(program.take().unwrap(), harms_now));
    }
    let written = writer.finish() - before;
    until_same(&case.source, &case.sinks, PATIENCE);
    let verified = case.site.run("verify", &["--json"]);
    assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
    assert!(program.unwrap().stop(PATIENCE).success());
    let mut caught = Vec::new();
    let mut halves = 0;
    for (observer, name) in observers.into_iter().zip(&case.names) {
        let mut seen = observer.finish();
        // What is healed by difference is repaired page by page: until it is consistent again, it may be seen in pieces.
        let gaps = case.gaps(name);
        let healing = |at: &i128| gaps.iter().any(|(begin, end)| (*begin..=*end).contains(at));
        let outside: Vec<bool> = seen.half_seen_at.iter().map(|at| !healing(at)).collect();
        halves += outside.iter().filter(|outside| !**outside).count();
        let mut outside = outside.iter();
        seen.half_seen.retain(|_| *outside.next().unwrap());
        assert_eq!(seen.went_back, Vec::<String>::new(), "keys went back; {}", case.tail());
        assert_eq!(seen.half_seen, Vec::<String>::new(), "half of a transaction was visible; {}", case.tail());
        caught.push(seen.versions.iter().filter(|version| **version > before).count());
    }
    let Tally { kills, harms, losses, read_again, healed, needless, unready } = &case.tally;
    let count: u32 = harms.values().sum();
    figure(
        "4.3",
        "damage",
        format!(
            "{name}, seed {}: {kills} kills, {count} harms {harms:?}, {losses} of them of something durable: {read_again} cut \
             and read again, {healed} healed by difference, {needless} needed by nobody; {unready} looks at a gap, none of \
             them ready; {} and {} of {written} hot versions seen, none went back, no half transaction but {halves} looks within a gap, sinks equal source",
            seed(number),
            caught[0],
            caught[1],
        ),
    );
    assert!(caught.iter().all(|caught| *caught as u64 * 20 >= written), "too few versions were seen to say anything");
}

impl Case {
    fn new(name: &str, folder: &Path, source: Side, names: &[&str], journal: &str, seed: u64) -> Self {
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let word: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        // Slots of one server are named by streams.
        let names: Vec<String> = names.iter().map(|name| format!("{word}-{name}")).collect();
        let sinks: Vec<Side> = names.iter().map(|name| Side::sqlite(&folder.join(name), None)).collect();
        let mut yaml =
            format!("memory: 32MiB\nlisten: {listen}\njournal: {{ enabled: true, {journal} }}\npipelines:\n");
        for (name, sink) in names.iter().zip(&sinks) {
            yaml += &format!("  - {{ name: {name}, src: {}, dst: {} }}\n", source.yaml(), sink.yaml());
        }
        let site = Site::new(&format!("damage-{word}"), &yaml);
        let journal: PathBuf = site.folder().join("state").join(&names[0]).join("journal");
        let (vandal, dice, tally) = (Vandal::new(&journal, seed), Dice::new(seed + 1_000_000), Tally::default());
        Self { name: name.to_owned(), site, names, listen, source, sinks, vandal, dice, tally }
    }

    fn start(&self) -> Running {
        self.site.start("run", &[])
    }

    fn tail(&self) -> String {
        let log = self.site.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("{}:\n{}", self.name, lines[lines.len().saturating_sub(60)..].join("\n"))
    }

    /// When a stream was in a gap, in microseconds since 1970, as its log says.
    fn gaps(&self, stream: &str) -> Vec<(i128, i128)> {
        let (log, named) = (self.site.log(), format!("stream=\"{stream}\""));
        let (mut found, mut open) = (Vec::new(), None);
        for line in log.lines().filter(|line| line.contains(&named)) {
            let at =
                || i128::from(line.split(' ').next().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond());
            if line.contains(GAP) {
                open = open.or_else(|| Some(at()));
            } else if line.contains("INFO consistent ") {
                found.extend(open.take().map(|begin| (begin, at())));
            }
        }
        found
    }

    fn pipelines(&self) -> Option<Vec<Value>> {
        let page = get(self.listen, "/status.json")?;
        let all: Value = serde_json::from_str(page.split_once("\r\n\r\n")?.1).ok()?;
        all["pipelines"].as_array().cloned()
    }

    /// Waits until every pipeline is consistent, and sees to it that none says it is ready while it has a gap. Gives how many
    /// gaps this process has had. `from`: where in the log it began, for a message.
    fn until_consistent(&mut self, from: usize) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.pipelines();
            let ready = get(self.listen, "/readyz");
            let after = self.pipelines();
            if let (Some(before), Some(ready), Some(after)) = (before, ready, after) {
                let in_gap =
                    |all: &[Value], index: usize| (all[index]["state"] == "gap").then(|| all[index]["gaps"].clone());
                let gap = (0..before.len())
                    .any(|index| in_gap(&before, index).is_some_and(|n| in_gap(&after, index) == Some(n)));
                if gap {
                    assert!(
                        ready.starts_with("HTTP/1.1 503"),
                        "ready within a gap: {ready}\n{after:?}\n{}",
                        self.tail()
                    );
                    self.tally.unready += 1;
                }
                if after.iter().all(|status| status["consistent"] == true) {
                    return after.iter().filter_map(|status| status["gaps"].as_u64()).sum();
                }
            }
            assert!(Instant::now() < deadline, "not consistent: {:?}\n{}", self.pipelines(), &self.site.log()[from..]);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Holds the last sink's lock; it lets go when that ends.
    fn hold(&self) -> Child {
        hold(self.sinks.last().unwrap())
    }

    /// Kills the program while it works, perhaps with a sink that is behind; harms the journal; starts it again, and sees to
    /// it that what was lost was said.
    fn crash(&mut self, program: Running, harms: bool) -> Running {
        let held = (self.dice.roll(3) > 0).then(|| self.hold());
        std::thread::sleep(Duration::from_millis(100 + self.dice.roll(500)));
        program.kill();
        self.tally.kills += 1;
        let_go(held);
        let harm = harms.then(|| {
            let known = self.verify();
            let harm = self.vandal.harm();
            *self.tally.harms.entry(harm.kind).or_default() += 1;
            self.is_found(&known, &harm);
            harm
        });
        let from = self.site.log().len();
        let program = self.start();
        let gaps = self.until_consistent(from);
        let log = self.site.log().split_off(from);
        let said = |what: &str| log.contains(what);
        let loud = said(CUT) || said(BROKEN_OFF) || said(MET) || gaps > 0;
        assert_eq!(gaps > 0, said(GAP), "a gap is in the status and in the log: {gaps}\n{log}");
        let Some(harm) = harm else {
            return program;
        };
        match harm.loss {
            Loss::Nothing => return program,
            Loss::Newest => assert!(said(CUT), "{harm:?} was not said:\n{log}"),
            Loss::Older | Loss::Unseen => {}
        }
        self.tally.losses += 1;
        if gaps > 0 {
            self.tally.healed += 1;
        } else if harm.loss == Loss::Older && !loud {
            self.tally.needless += 1;
        } else {
            self.tally.read_again += 1;
        }
        program
    }

    /// What `journal verify` says is wrong.
    fn verify(&self) -> Vec<String> {
        let finished = self.site.run("journal verify", &["--json"]);
        let checked = finished.json();
        let damage: Vec<String> =
            checked["damage"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect();
        let expected = if damage.is_empty() { 0 } else { 4 };
        assert_eq!(finished.code, Some(expected), "{}{}", finished.stdout, finished.stderr);
        damage
    }

    /// Who looks for damage before anything starts finds each one that can be found without the source.
    fn is_found(&self, known: &[String], harm: &Harm) {
        let found = self.verify();
        let new = found.iter().any(|what| !known.contains(what));
        let expected = matches!(harm.loss, Loss::Newest | Loss::Older);
        assert!(new || !expected, "{harm:?} was not found; known: {known:?}, found: {found:?}\n{}", self.tail());
    }
}

/// Holds a sink's lock, so that nothing lands there.
pub(super) fn hold(sink: &Side) -> Child {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut client = sink.client();
    let input = client.stdin.as_mut().unwrap();
    input.write_all(b"begin immediate;\nselect 'held';\n").unwrap();
    input.flush().unwrap();
    let mut answer = String::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
    assert_eq!(answer.trim(), "held");
    client
}

pub(super) fn let_go(held: Option<Child>) {
    let Some(mut held) = held else { return };
    // The end of its input ends the client, and that its transaction.
    drop(held.stdin.take());
    assert!(held.wait().unwrap().success());
}

/// One stream whose sink is held while the source is written to, and that is killed then: what the journal holds since is
/// what the sink lacks. Gives the case, and how many gaps there are after `harm`, with the log since.
fn held_then(name: &str, source: Side, journal: &str, harm: impl FnOnce(&mut Case)) -> (Case, u64, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut case = Case::new(name, folder.path(), source, &["held"], journal, 7);
    // A log that begins with an event can tell that it was trimmed.
    case.write(&case.source.put("/apps/first", "{}", 1));
    let program = case.start();
    case.until_consistent(0);
    let held = case.hold();
    let writer = Writer::start(&case.source, Duration::from_millis(5));
    std::thread::sleep(Duration::from_millis(700));
    writer.finish();
    case.until_captured();
    program.kill();
    let_go(Some(held));
    assert_ne!(case.source.dump(now_us()), case.sinks[0].dump(now_us()), "the sink was not behind");
    harm(&mut case);
    let from = case.site.log().len();
    let program = case.start();
    let gaps = case.until_consistent(from);
    until_same(&case.source, &case.sinks, PATIENCE);
    let log = case.site.log().split_off(from);
    assert!(program.stop(PATIENCE).success());
    (case, gaps, log)
}

impl Case {
    /// Writes to the source.
    fn write(&self, sql: &str) {
        use std::io::Write as _;
        let mut client = self.source.client();
        client.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        assert!(client.wait().unwrap().success());
    }

    /// Waits until the journal has all that was written, and with `ack: journal` the source knows that.
    fn until_captured(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut last = (0, String::new());
        let mut still = Instant::now();
        let end = match &self.source {
            Side::Pg(db) => db.run("select pg_current_wal_lsn()"),
            Side::Sqlite(_) => String::new(),
            #[cfg(feature = "etcd")]
            Side::Etcd(..) => panic!("not a side of this test"),
        };
        let acknowledges = std::fs::read_to_string(self.site.config()).unwrap().contains("ack: journal");
        loop {
            assert!(Instant::now() < deadline, "not captured within {PATIENCE:?}\n{}", self.tail());
            let now = (self.vandal.bytes(), String::new());
            if now != last {
                (last, still) = (now, Instant::now());
            }
            let confirmed = match &self.source {
                Side::Pg(db) if acknowledges => {
                    let sql = format!(
                        "select coalesce(bool_and(confirmed_flush_lsn >= '{end}'), false) from pg_replication_slots
                         where database = current_database()"
                    );
                    db.run(&sql) == "t"
                }
                _ => still.elapsed() > Duration::from_millis(500),
            };
            if confirmed {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Cuts off whole frames, and the mark that told of them.
fn cut_without_trace(case: &mut Case) {
    let known = case.verify();
    let harm = case.vandal.cut_between_frames(true);
    assert_eq!(harm.loss, Loss::Unseen, "{harm:?}");
    assert_eq!(case.verify(), known, "nobody can see it who does not ask the source");
}

#[test]
fn damage_frames_cut_off_at_a_border_are_read_again_where_the_source_keeps_what_a_sink_lacks() {
    let folder = tempfile::tempdir().unwrap();
    for (name, source) in [
        ("border-sqlite", Side::sqlite(&folder.path().join("src"), Some(&items(50)))),
        ("border-postgresql", Side::pg(pg::primary(), "damage_border", Some(&items(50)))),
    ] {
        let (_, gaps, log) = held_then(name, source, "ack: sink", cut_without_trace);
        assert_eq!(gaps, 0, "{name}: what was cut off is still at the source:\n{log}");
        assert!(!log.contains(BROKEN_OFF), "{name}:\n{log}");
    }
}

#[test]
fn damage_frames_cut_off_at_a_border_are_missed_by_comparing_with_what_the_source_has_confirmed() {
    let source = Side::pg(pg::primary(), "damage_confirmed", Some(&items(50)));
    let (_, gaps, log) = held_then("border-confirmed", source, "ack: journal", cut_without_trace);
    assert_eq!(gaps, 1, "the journal alone had it:\n{log}");
    assert!(log.contains(BROKEN_OFF) && log.contains("the slot was confirmed up to"), "{log}");
}

#[test]
fn damage_frames_cut_off_at_a_border_are_missed_by_a_log_that_was_trimmed_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let source = Side::sqlite(&folder.path().join("src"), Some(&items(50)));
    let (_, gaps, log) = held_then("border-trimmed", source, "ack: journal", |case| {
        cut_without_trace(case);
        let Side::Sqlite(db) = &case.source else { unreachable!("the source is SQLite") };
        db.run("delete from events;");
    });
    assert_eq!(gaps, 1, "the journal alone had it:\n{log}");
    assert!(log.contains(BROKEN_OFF), "{log}");
}

#[test]
fn damage_of_what_only_spares_work_costs_nothing() {
    let source = Side::pg(pg::primary(), "damage_small", Some(&items(50)));
    let (_, gaps, log) = held_then("small-files", source, "ack: journal", |case| {
        case.vandal.remove_small_files();
        assert_eq!(case.verify(), Vec::<String>::new());
    });
    assert_eq!(gaps, 0, "{log}");
    assert!(!log.contains(BROKEN_OFF) && !log.contains(CUT) && !log.contains(TORN), "{log}");
}
