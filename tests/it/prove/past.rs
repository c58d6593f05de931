//! The past, out of a journal: the state at random instants against the log of whoever wrote it, and what a test cluster is
//! given of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::filter::{cluster, delete, dumped, expiring, files_with, item, put};
use crate::prove::sides::Side;
use crate::restore::{rfc3339, shown, snapshots, until};
use crate::support::pg;
use crate::support::program::Site;
use crate::support::scale::{PLANTED, figure, pick};
use crate::support::teleport::{Item, PgDb, assert_same, expected, hex, items, now_us, uuid};

const PATIENCE: Duration = Duration::from_secs(300);

/// Numbers that look like chance and are the same for the same seed (Steele, Lea, Flood: SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// What a transaction did to each key it touched.
type Done = Vec<(String, Option<Item>)>;

/// A transaction of one to eight statements: inserts, updates, deletes, also of one key more than once.
fn transaction(chance: &mut Chance, keys: u64, number: u64, sql: &mut String) -> Done {
    let mut done = Vec::new();
    // The server's clock before the first thing of it, and after the last.
    sql.push_str("select floor(extract(epoch from clock_timestamp()) * 1000000)::bigint;\nbegin;\n");
    for statement in 0..=chance.below(8) {
        let key = format!("/apps/{PLANTED}{:06}", chance.below(keys));
        let at = hex(key.as_bytes());
        if chance.below(5) == 0 {
            writeln!(sql, "delete from kv where key = '\\x{at}';").unwrap();
            done.push((key, None));
            continue;
        }
        let value =
            format!("{{\"n\":{number},\"s\":{statement},\"fill\":\"{}\"}}", "x".repeat(chance.below(600) as usize));
        let item = Item {
            key: key.clone(),
            value: Some(value.into_bytes()),
            expires: None,
            revision: uuid(number * 16 + statement),
        };
        let (value, revision) = (hex(item.value.as_deref().unwrap()), &item.revision);
        writeln!(
            sql,
            "insert into kv (key, value, expires, revision) values ('\\x{at}', '\\x{value}', null, '{revision}') \
             on conflict (key) do update set value = excluded.value, revision = excluded.revision;"
        )
        .unwrap();
        done.push((key, Some(item)));
    }
    sql.push_str("commit;\nselect floor(extract(epoch from clock_timestamp()) * 1000000)::bigint;\n");
    done
}

/// The writer's own log: what each transaction did, and the server's clock before and after it, in microseconds.
struct Log {
    begun: BTreeMap<String, Item>,
    done: Vec<Done>,
    clock: Vec<(i128, i128)>,
}

impl Log {
    /// Writes for so long, through one `psql` that takes statements as they come.
    fn written(db: &PgDb, begun: &[Item], span: Duration, chance: &mut Chance, folder: &std::path::Path) -> Self {
        let told = folder.join("clock");
        let mut command = db.psql();
        command.stdin(Stdio::piped()).stdout(std::fs::File::create(&told).unwrap());
        let mut client = command.spawn().unwrap();
        let mut input = client.stdin.take().unwrap();
        let (deadline, mut done, mut sql) = (Instant::now() + span, Vec::new(), String::new());
        while Instant::now() < deadline {
            sql.clear();
            for _ in 0..20 {
                done.push(transaction(chance, begun.len() as u64 * 2, done.len() as u64, &mut sql));
            }
            // The pipe is short, so this goes no faster than the server.
            input.write_all(sql.as_bytes()).unwrap();
        }
        drop(input);
        assert!(client.wait().unwrap().success());
        let text = std::fs::read_to_string(&told).unwrap();
        let clock: Vec<i128> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let clock: Vec<_> = clock.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        assert_eq!(clock.len(), done.len());
        Self { begun: begun.iter().map(|item| (item.key.clone(), item.clone())).collect(), done, clock }
    }

    /// What the source held between transaction `number` and the next.
    fn state(&self, number: usize) -> Vec<Item> {
        let mut state = self.begun.clone();
        for (key, item) in self.done[..=number].iter().flatten() {
            match item {
                Some(item) => drop(state.insert(key.clone(), item.clone())),
                None => drop(state.remove(key)),
            }
        }
        state.into_values().collect()
    }

    /// A random instant between two transactions that lies behind `since`; with the number of the one before it.
    fn instant(&self, chance: &mut Chance, since: i128) -> (usize, i128) {
        loop {
            let number = chance.below(self.done.len() as u64 - 1) as usize;
            let (low, high) = (self.clock[number].1, self.clock[number + 1].0);
            // The first is a reading of the clock behind the commit; the second one before the next begins.
            if low > since && high > low {
                return (number, low + chance.below((high - low) as u64) as i128);
            }
        }
    }
}

#[test]
fn restore_at_random_instants_is_what_the_writers_own_log_says() {
    let seed = now_us() as u64;
    let mut chance = Chance(seed);
    let folder = tempfile::tempdir().unwrap();
    let begun = items(pick(300, 20_000));
    let source = PgDb::create(pg::primary(), "past", &begun);
    let site = Site::new("past", "");
    let yaml = |src: &str, dst: &str| {
        format!(
            "name: past\nsrc: {src}\ndst: {dst}\njournal: {{ enabled: true, snapshot_every: {} }}\n",
            pick("1s", "10s")
        )
    };
    let src = format!("{{ type: postgresql, conn_string: {:?} }}", source.url());
    let sqlite = |name: &str| format!("{{ type: sqlite, path: {:?} }}", folder.path().join(name));
    site.configure(&yaml(&src, &sqlite("live")));
    let program = site.start("run", &[]);
    let journal = site.folder().join("state/past/journal");
    until("there is a snapshot", &site, || journal.is_dir() && !snapshots(&site).is_empty());
    let span = Duration::from_secs(pick(4, 60));
    let log = Log::written(&source, &begun, span, &mut chance, folder.path());
    site.until_caught_up(PATIENCE);
    assert!(program.stop(PATIENCE).success());
    site.done("drop-slot", &[]);

    let all = snapshots(&site);
    let ended: jiff::Timestamp = all[0]["ended"].as_str().unwrap().parse().unwrap();
    let (count, mut took) = (pick(4, 20), Vec::new());
    for number in 0..count {
        let (transaction, instant) = log.instant(&mut chance, i128::from(ended.as_microsecond()));
        let side = match number % 4 {
            0 => Side::pg(pg::secondary(), "past", None),
            _ => Side::sqlite(&folder.path().join(format!("restored-{number}")), None),
        };
        site.configure(&yaml(
            "{ type: postgresql, conn_string: \"postgresql://nobody@127.0.0.1:1/none\" }",
            &side.yaml(),
        ));
        let done = site.done("restore", &["--at", &rfc3339(instant)]);
        let now = now_us();
        let state = log.state(transaction);
        println!("seed {seed}: instant {number} is {}, behind transaction {transaction}", rfc3339(instant));
        assert_same(&expected(&state, now), &side.dump(now));
        took.push(done["seconds"].as_f64().unwrap());
        if let Side::Sqlite(db) = &side {
            std::fs::remove_dir_all(&db.folder).unwrap();
        }
    }
    took.sort_by(f64::total_cmp);
    let changes: usize = log.done.iter().map(Vec::len).sum();
    figure(
        "4.4",
        "restore",
        format!(
            "{count} of {count} random instants equal to the writer's log: {} transactions with {changes} changes in {} s over \
             {} items, {} snapshots; a restore took {:.2} s (median), {:.2} s (longest); seed {seed}",
            log.done.len(),
            span.as_secs(),
            begun.len(),
            all.len(),
            took[took.len() / 2],
            took[took.len() - 1]
        ),
    );
}

/// Where every byte of a destination lies.
fn place_of(side: &Side) -> PathBuf {
    match side {
        Side::Sqlite(db) => db.folder.clone(),
        Side::Pg(db) => db.server.data.clone(),
        #[cfg(feature = "etcd")]
        Side::Etcd(..) => panic!("not a side of this test"),
    }
}

fn assert_nowhere(side: &Side, site: &Site, canary: &str) {
    assert_eq!(files_with(&place_of(side), canary), Vec::<PathBuf>::new(), "{canary} has arrived");
    let coded = hex(canary.as_bytes());
    for text in [dumped(side), site.log().to_lowercase()] {
        assert!(!text.contains(&canary.to_lowercase()) && !text.contains(&coded), "{canary} is told");
    }
}

/// What happens to a cluster with something to hide in each class; gives how many changes that is, and what of it is shown.
fn happens(source: &Side, canary: &str, shown: &mut Vec<Item>, rounds: usize) -> u64 {
    let secret = format!("{{\"s\":\"{canary}\"}}");
    let mut changes = 0;
    for round in 0..rounds {
        let held =
            ["/authorities/host/new", "/web/users/bob/pwd", "/web/users/bob/mfa/1", "/new/class/x", "/tokens/fixed"];
        for key in held {
            put(source, &Item { revision: uuid(round as u64), ..item(key, &secret) });
        }
        for key in [format!("/tokens/{canary}-{round}-later"), format!("/web/sessions/{canary}-{round}-later")] {
            put(source, &expiring(&key, &secret));
            delete(source, &key);
        }
        let role = item(&format!("/roles/later-{round}/params"), "{}");
        put(source, &role);
        shown.push(role);
        changes += held.len() as u64 + 5;
    }
    let bob = |value: String| item("/web/users/bob/params", &value);
    let whole = bob(format!("{{\"spec\":{{\"local_auth\":\"{canary}\"}},\"n\":1.0}}"));
    put(source, &whole);
    shown.push(Item { revision: whole.revision, ..bob("{\"spec\":{},\"n\":1.0}".to_owned()) });
    changes + 1
}

#[test]
fn what_is_replayed_or_restored_for_a_test_cluster_holds_no_byte_of_a_secret() {
    let mut searched = 0;
    for route in ["ss", "sp", "ps", "pp"] {
        let canary = format!("Canary-Past-{route}-{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let (all, before) = cluster(&canary);
        let source = match &route[..1] {
            "s" => Side::sqlite(&folder.path().join("src"), Some(&all)),
            _ => Side::pg(pg::primary(), "past_test", Some(&all)),
        };
        let sink = |name: &str| match &route[1..] {
            "s" => Side::sqlite(&folder.path().join(name), None),
            _ => Side::pg(pg::secondary(), "past_test", None),
        };
        let site = Site::watched(&format!("past-{route}"), "");
        let aim = |side: &Side, rest: &str| {
            let (src, dst) = (source.yaml(), side.yaml());
            let journal = "{ enabled: true, snapshot_every: 1s }";
            site.configure(&format!("name: past_{route}\nsrc: {src}\ndst: {dst}\njournal: {journal}\n{rest}"));
        };
        let (restored, replayed) = (sink("restored"), sink("replayed"));
        aim(&restored, "");
        let capture = site.start("capture", &[]);
        let journal = site.folder().join(format!("state/past_{route}/journal"));
        until("there is a snapshot", &site, || journal.is_dir() && !snapshots(&site).is_empty());
        let begin = rfc3339(now_us());
        let mut after = before.clone();
        let changes = happens(&source, &canary, &mut after, pick(2, 40));
        until("it is captured", &site, || shown(&site) >= changes);
        let end = rfc3339(now_us());
        assert!(capture.stop(PATIENCE).success());
        if let Side::Pg(_) = source {
            drop(site.run("drop-slot", &[]));
        }
        assert!(!files_with(&site.folder().join("state"), &canary).is_empty(), "the journal has it");

        aim(&restored, "profile: test-cluster\n");
        site.done("restore", &["--at", &end]);
        assert_same(&expected(&after, now_us()), &restored.dump(now_us()));
        assert_nowhere(&restored, &site, &canary);

        // A test cluster that runs already, with authorities of its own.
        aim(&replayed, "profile: test-cluster\n");
        site.done("restore", &["--at", &begin]);
        let own = item("/authorities/host/test.example.com", "its own");
        put(&replayed, &own);
        let range = ["--from", &begin, "--until", &end];
        let refused = site.run("replay", &range);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains("authorities"), "{}", refused.stderr);
        site.done("replay", &[&range[..], &["--force"]].concat());
        let own = [after.clone(), vec![own]].concat();
        assert_same(&expected(&own, now_us()), &replayed.dump(now_us()));
        assert_nowhere(&replayed, &site, &canary);
        searched += changes as usize + all.len();
    }
    figure(
        "4.5",
        "test-cluster",
        format!(
            "no byte of {searched} items and changes with a planted secret in every class that the profile leaves out, in the \
             files and dumps of eight destinations: four kinds of route, each by restore and by replay"
        ),
    );
}
