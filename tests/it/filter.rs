//! Filters and masks, on the real program and the real stores: what must not arrive is looked for in every byte of the
//! destination, and what must arrive is read by `sqlite3` and `psql`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::prove::sides::Side;
use crate::support::pg;
use crate::support::program::Site;
use crate::support::teleport::{FUTURE, Item, assert_same, expected, now_us, uuid};

const PATIENCE: Duration = Duration::from_secs(120);

/// A route between two stores, with a folder for what is SQLite.
struct Route {
    /// Name of the stream: slots of one server need different ones.
    name: String,
    folder: tempfile::TempDir,
    source: Side,
    sink: Side,
}

const ROUTES: [&str; 4] = ["ss", "sp", "ps", "pp"];

impl Route {
    fn new(name: &str, route: &str, items: &[Item]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hint = format!("filter_{name}");
        let source = match &route[..1] {
            "s" => Side::sqlite(&folder.path().join("src"), Some(items)),
            _ => Side::pg(pg::primary(), &hint, Some(items)),
        };
        let sink = match &route[1..] {
            "s" => Side::sqlite(&folder.path().join("dst"), None),
            _ => Side::pg(pg::secondary(), &hint, None),
        };
        Self { name: format!("{hint}_{route}"), folder, source, sink }
    }

    fn yaml(&self, rest: &str) -> String {
        let (name, src, dst) = (&self.name, self.source.yaml(), self.sink.yaml());
        format!("name: {name}\nsrc: {src}\ndst: {dst}\nparallel: 4\n{rest}")
    }

    /// Where every byte of the destination lies, what its store keeps beside the data included.
    fn bytes(&self) -> PathBuf {
        match &self.sink {
            Side::Sqlite(db) => db.folder.clone(),
            Side::Pg(db) => db.server.data.clone(),
            #[cfg(feature = "etcd")]
            Side::Etcd(..) => panic!("not a side of this test"),
        }
    }

    fn assert_sink(&self, wanted: &[Item]) {
        let now = now_us();
        assert_same(&expected(wanted, now), &self.sink.dump(now));
    }
}

pub fn item(key: &str, value: &str) -> Item {
    Item { key: key.into(), value: Some(value.into()), expires: None, revision: uuid(value.len() as u64) }
}

pub fn expiring(key: &str, value: &str) -> Item {
    Item { expires: Some(FUTURE), ..item(key, value) }
}

pub fn put(side: &Side, item: &Item) {
    match side {
        Side::Sqlite(db) => db.put(item),
        Side::Pg(db) => db.put(item),
        #[cfg(feature = "etcd")]
        Side::Etcd(..) => panic!("not a side of this test"),
    }
}

pub fn delete(side: &Side, key: &str) {
    match side {
        Side::Sqlite(db) => db.delete(key),
        Side::Pg(db) => db.delete(key),
        #[cfg(feature = "etcd")]
        Side::Etcd(..) => panic!("not a side of this test"),
    }
}

/// Files under a folder that hold a word, in its own bytes or in hexadecimal. Read twice if the store writes meanwhile.
pub fn files_with(folder: &Path, word: &str) -> Vec<PathBuf> {
    let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut grep = Command::new("grep");
    let output = grep.args(["-r", "-l", "-a", "-F", "-i", "-e", word, "-e", &hex]).arg(folder).output().unwrap();
    // 2: a file of a server that works has gone in between.
    assert!(matches!(output.status.code(), Some(0..=2)), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

/// What `pg_dump` or `sqlite3` make of a destination.
pub fn dumped(sink: &Side) -> String {
    let output = match sink {
        Side::Sqlite(db) => Command::new("sqlite3").arg(db.file()).arg(".dump").output(),
        Side::Pg(db) => Command::new(db.server.bin.join("pg_dump"))
            .args(["-h", &db.server.data.parent().unwrap().display().to_string(), "-p", &db.server.port.to_string()])
            .args(["-U", "postgres", &db.name])
            .output(),
        #[cfg(feature = "etcd")]
        Side::Etcd(..) => panic!("not a side of this test"),
    }
    .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).to_lowercase()
}

/// Fails if a word is anywhere in the destination, in the state of the program or in what it said. A journal holds what the
/// source has, so it is left out.
fn assert_nowhere(route: &Route, site: &Site, word: &str) {
    let mut found = files_with(&route.bytes(), word);
    found.extend(files_with(&site.folder().join("state"), word));
    found.retain(|path| path.parent().is_none_or(|folder| !folder.ends_with("journal")));
    assert_eq!(found, Vec::<PathBuf>::new(), "{word} has arrived");
    let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
    for text in [dumped(&route.sink), site.log().to_lowercase()] {
        assert!(!text.contains(&word.to_lowercase()) && !text.contains(&hex), "{word} is told");
    }
}

/// A cluster with something to hide in each class. Many keys are secrets themselves, as those of join tokens are.
pub fn cluster(canary: &str) -> (Vec<Item>, Vec<Item>) {
    let secret = |key: &str| item(key, &format!("{{\"kind\":\"x\",\"key\":\"{canary}-of-{}\"}}", key.len()));
    let mut hidden: Vec<Item> = [
        "/authorities/host/example.com",
        "/authorities/deactivated/user/example.com",
        "/cluster_configuration/name",
        "/cluster_configuration/static_tokens",
        "/cluster_configuration/audit",
        "/locks/4f1c",
        "/web/users/alice/pwd",
        "/web/users/alice/mfa/4f1c",
        "/web/users/alice/webauthnlocalauth",
        "/web/users/alice/recoverycodes",
        "/web/users/al/ice/params",
        "/web/connectors/oidc/connectors/okta",
        "/web/connectors/github/requests/4711",
        "/webauthn/sessionData/login",
        "/headless_authentication/users/alice/1",
        "/access_requests/1/params",
        "/bot_instance/b/1",
        "/trustedclusters/leaf",
        "/plugin_static_credentials/okta",
        "/kubernetes/prod",
        "/nodes/default/permanent",
        "/no/class/that/anybody/knows",
        ".flags/migrated",
    ]
    .map(secret)
    .into();
    hidden.push(expiring("/semaphores/connection/alice/1", canary));
    hidden.push(expiring(".locks/athena_lock", canary));
    hidden.push(item("/web/users/gob/params", &format!("no json: {canary}")));
    // More than a page, and most of what the store samples to cut ranges.
    for n in 0..600 {
        hidden.push(expiring(&format!("/tokens/{canary}-{n:04}"), &format!("{{\"fill\":\"{}\"}}", "t".repeat(700))));
        hidden.push(expiring(&format!("/web/sessions/{canary}-{n:04}"), &"s".repeat(700)));
    }
    let user = |extra: &str| format!("{{\"kind\":\"user\",\"spec\":{{{extra}\"roles\":[\"access\"]}}}}");
    let auth = format!("\"local_auth\":{{\"password_hash\":\"{canary}\"}},");
    let mut shown = vec![
        item("/cluster_configuration/networking", "{}"),
        item("/authentication/preference/general", "{}"),
        item("/namespaces/default/params", "{}"),
        item("/access_list/a", "{}"),
    ];
    shown.extend((0..300).map(|n| item(&format!("/roles/role-{n:03}/params"), &"{\"kind\":\"role\"}".repeat(40))));
    let mut all = shown.clone();
    all.extend(hidden);
    for (list, extra) in [(&mut all, auth.as_str()), (&mut shown, "")] {
        list.push(Item { revision: uuid(7), ..item("/web/users/alice/params", &user(extra)) });
    }
    (all, shown)
}

/// The names of what no class knows, and never a key, are told.
fn assert_told(site: &Site) {
    let log = site.log();
    assert!(log.contains("/no/") && !log.contains("that/anybody"), "{log}");
    assert!(log.contains("a value that is not JSON"), "{log}");
}

#[test]
fn a_copy_for_a_test_cluster_holds_no_byte_of_a_secret() {
    for route in ROUTES {
        let canary = format!("Canary-Copy-{route}-{}", std::process::id());
        let (all, shown) = cluster(&canary);
        let route = Route::new("copy", route, &all);
        let site = Site::watched("filter-copy", &route.yaml("profile: test-cluster\n"));
        assert_eq!(files_with(route.folder.path(), &canary).is_empty(), matches!(route.source, Side::Pg(_)));
        site.done("check", &[]);
        let copied = site.done("clone", &[]);
        assert_eq!(copied["items"], shown.len());
        assert_eq!(copied["skipped_excluded"], all.len() - shown.len());
        route.assert_sink(&shown);
        assert_eq!(site.done("verify", &[])["equal"], true);
        assert_nowhere(&route, &site, &canary);
        assert_told(&site);
    }
}

#[test]
fn a_stream_for_a_test_cluster_brings_no_byte_of_a_secret() {
    for route in ROUTES {
        let canary = format!("Canary-Run-{route}-{}", std::process::id());
        let (all, mut shown) = cluster(&canary);
        let route = Route::new("run", route, &all);
        let site = Site::watched("filter-run", &route.yaml("profile: test-cluster\n"));
        let program = site.start("run", &[]);
        site.until_caught_up(PATIENCE);
        route.assert_sink(&shown);

        let (later, secret) = (format!("{canary}-later"), format!("{{\"s\":\"{canary}\"}}"));
        for key in
            ["/authorities/host/new", "/web/users/bob/pwd", "/web/users/bob/mfa/1", "/new/class/x", "/tokens/fixed"]
        {
            put(&route.source, &item(key, &secret));
        }
        for key in [format!("/tokens/{later}"), format!("/web/sessions/{later}")] {
            put(&route.source, &expiring(&key, &secret));
            put(&route.source, &expiring(&key, "{}"));
            delete(&route.source, &key);
        }
        delete(&route.source, &format!("/tokens/{canary}-0001"));
        delete(&route.source, "/web/users/alice/pwd");
        put(
            &route.source,
            &item("/web/users/bob/params", &format!("{{\"spec\":{{\"LOCAL_AUTH\":\"{canary}\"}},\"n\":1.0}}")),
        );
        put(&route.source, &Item { revision: uuid(9), ..item("/web/users/alice/params", &format!("gob {canary}")) });
        put(&route.source, &item("/roles/later/params", "{}"));
        delete(&route.source, "/roles/role-000/params");
        shown.retain(|item| !matches!(item.key.as_str(), "/roles/role-000/params" | "/web/users/alice/params"));
        shown.push(item("/roles/later/params", "{}"));
        let bob = item("/web/users/bob/params", &format!("{{\"spec\":{{\"LOCAL_AUTH\":\"{canary}\"}},\"n\":1.0}}"));
        shown.push(Item { value: Some(b"{\"spec\":{},\"n\":1.0}".to_vec()), ..bob });

        site.until_caught_up(PATIENCE);
        route.assert_sink(&shown);
        assert_eq!(site.done("verify", &[])["equal"], true);
        assert_nowhere(&route, &site, &canary);
        assert_told(&site);
        let pages = site.pages();
        for why in ["authorities", "tokens", "unknown", "not_json"] {
            assert!(
                pages.contains(&format!("driftless_left_out_total{{stream=\"{}\",why=\"{why}\"}}", route.name)),
                "{why}"
            );
        }
        assert!(program.stop(PATIENCE).success());
        drop(site.run("drop-slot", &[]));
    }
}

/// What the rules hide.
const HUSH: &str = "hush-hush";

const RULES: &str = "exclude: [/secret/]\ndrop: presence\nrename:\n  - { from: /a/, to: /renamed/a/ }\n  - { from: /x/, to: /y/ }\n  \
    - { from: /y/, to: /x/ }\nreplace:\n  - { prefix: /fixed/, value: \"${file:VALUE}\" }\n  \
    - { prefix: /json/, field: spec.secret, remove: true }\n  - { prefix: /json/, field: [owner], value: nobody }\n  \
    - { prefix: /json/, field: size, value: 7 }\n";

/// Items, and what they are under the rules; `None` for those that are not in the image.
fn ruled() -> Vec<(Item, Option<Item>)> {
    let same = |item: Item| (item.clone(), Some(item));
    let named = |from: &str, to: &str| (item(from, "{}"), Some(item(to, "{}")));
    let masked = |old: Item, new: &str| (old.clone(), Some(Item { value: Some(new.into()), ..old }));
    vec![
        same(item("/plain", "{}")),
        same(expiring("/tokens/short", "{}")),
        same(item("/nodes/default/permanent", "{}")),
        (expiring("/nodes/default/alive", "{}"), None),
        (item("/secret/a", HUSH), None),
        named("/a/k", "/renamed/a/k"),
        named("/a/long/er", "/renamed/a/long/er"),
        named("/x/1", "/y/1"),
        named("/y/1", "/x/1"),
        named("/y/2", "/x/2"),
        masked(expiring("/fixed/a", HUSH), "put in"),
        masked(item("/json/a", r#"{"spec":{"secret":"hush-hush","n":1.50}}"#), r#"{"spec":{"n":1.50}}"#),
        masked(item("/json/b", r#"{"owner":{"x":1},"size":null}"#), r#"{"owner":"nobody","size":7}"#),
        (item("/json/gob", HUSH), None),
    ]
}

fn start(name: &str, route: &str, rest: &str) -> (Route, Site) {
    let items = ruled();
    let route = Route::new(name, route, &items.iter().map(|(item, _)| item.clone()).collect::<Vec<_>>());
    let value = route.folder.path().join("value");
    std::fs::write(&value, "put in\n").unwrap();
    let rules = RULES.replace("VALUE", &value.display().to_string());
    let site = Site::new(&format!("filter-{name}"), &route.yaml(&format!("{rules}{rest}")));
    (route, site)
}

fn image() -> Vec<Item> {
    ruled().into_iter().filter_map(|(_, image)| image).collect()
}

#[test]
fn a_key_that_is_renamed_and_a_value_that_is_replaced_stay_so_through_every_change() {
    for route in ROUTES {
        let (route, site) = start("rules", route, "");
        let program = site.start("run", &[]);
        site.until_caught_up(PATIENCE);
        let mut wanted = image();
        route.assert_sink(&wanted);

        let gone = ["/a/k", "/y/2"];
        gone.iter().for_each(|key| delete(&route.source, key));
        wanted.retain(|item| !matches!(item.key.as_str(), "/renamed/a/k" | "/x/2"));
        for (old, new) in [
            (item("/a/new", "1"), Some(item("/renamed/a/new", "1"))),
            (item("/json/a", r#"{"spec":[{"secret":1},{"secret":2}]}"#), Some(item("/json/a", r#"{"spec":[{},{}]}"#))),
            (item("/json/b", "not json any more"), None),
            (item("/json/gob", "[]"), Some(item("/json/gob", "[]"))),
            (expiring("/nodes/default/permanent", "{}"), None),
            (item("/nodes/default/alive", "{}"), Some(item("/nodes/default/alive", "{}"))),
            (item("/secret/b", HUSH), None),
        ] {
            // The mask changes the value and nothing beside it.
            let new = new.map(|new| Item { revision: old.revision.clone(), ..new });
            put(&route.source, &old);
            wanted.retain(|item| item.key != old.key && Some(&item.key) != new.as_ref().map(|new| &new.key));
            wanted.extend(new);
        }
        if let Side::Pg(db) = &route.source {
            db.run("update kv set key = '/a/moved' where key = '/x/1'; update kv set key = '/secret/c' where key = '/plain'");
            wanted.retain(|item| !matches!(item.key.as_str(), "/y/1" | "/plain"));
            wanted.push(item("/renamed/a/moved", "{}"));
        }
        site.until_caught_up(PATIENCE);
        route.assert_sink(&wanted);
        assert_eq!(site.done("verify", &[])["equal"], true);
        assert_nowhere(&route, &site, HUSH);
        assert!(program.stop(PATIENCE).success());
        drop(site.run("drop-slot", &[]));
    }
}

/// What a verify must find: how many items are missing, extra and different.
fn differs(site: &Site, wanted: [u64; 3]) {
    let finished = site.run("verify", &["--json"]);
    let json: Value = finished.json();
    let found = ["missing", "extra", "different"].map(|key| json[key].as_u64().unwrap());
    assert_eq!((finished.code, found), (Some(4), wanted), "{json}");
}

/// The destination is somebody's: a test cluster that runs. What the image can never hold is his.
#[test]
fn healing_and_repairing_touch_only_what_the_image_can_hold() {
    for route in ROUTES {
        let (route, site) = start("heal", route, "");
        let program = site.start("run", &[]);
        site.until_caught_up(PATIENCE);
        route.assert_sink(&image());
        let mut theirs = vec![
            item("/secret/a", "theirs"),
            item("/secret/own", "theirs"),
            expiring("/nodes/default/own", "theirs"),
            item("/a/k", "theirs"),
        ];
        theirs.iter().for_each(|item| put(&route.sink, item));
        assert_eq!(site.done("verify", &[])["equal"], true);

        delete(&route.sink, "/renamed/a/k");
        put(&route.sink, &item("/fixed/a", HUSH));
        for extra in ["/x/extra", "/renamed/a/extra", "/json/gob", "/nodes/default/old"] {
            put(&route.sink, &item(extra, "{}"));
        }
        put(&route.sink, &item("/nodes/default/alive", "it did not expire once"));
        differs(&site, [1, 5, 1]);
        assert_eq!(site.done("verify", &["--repair"])["repaired"], 7);
        theirs.extend(image());
        route.assert_sink(&theirs);
        assert!(program.stop(PATIENCE).success());

        // A copy made again sweeps the destination, too.
        put(&route.sink, &item("/x/extra", "{}"));
        site.done("clone", &[]);
        route.assert_sink(&theirs);
        assert_eq!(site.done("verify", &[])["equal"], true);
        drop(site.run("drop-slot", &[]));
    }
}

#[test]
fn a_table_that_is_emptied_at_one_stroke_takes_nothing_of_somebody_elses_with_it() {
    for route in ["ps", "pp"] {
        let (route, site) = start("truncate", route, "");
        let program = site.start("run", &[]);
        site.until_caught_up(PATIENCE);
        let theirs = item("/secret/own", "theirs");
        put(&route.sink, &theirs);
        let Side::Pg(db) = &route.source else { panic!("PostgreSQL") };
        db.run("truncate kv");
        put(&route.source, &item("/a/after", "{}"));
        site.until("healed", PATIENCE, |status| status["gaps"].as_u64() > Some(0) && status["consistent"] == true);
        site.until_caught_up(PATIENCE);
        route.assert_sink(&[theirs, item("/renamed/a/after", "{}")]);
        assert!(program.stop(PATIENCE).success());
        drop(site.run("drop-slot", &[]));
    }
}

#[test]
fn a_key_that_another_one_could_become_stops_the_copy_and_the_stream() {
    for route in ["ss", "pp"] {
        let route = Route::new("collide", route, &[item("/a/k", "{}")]);
        let site = Site::new("filter-collide", &route.yaml("rename: { from: /a/, to: /b/ }\n"));
        let program = site.start("run", &[]);
        site.until_caught_up(PATIENCE);
        put(&route.source, &item("/b/planted-k", "{}"));
        assert_eq!(program.ended(PATIENCE).code(), Some(2), "{}", site.log());
        assert!(
            site.log().contains("two keys could become one") && !site.log().contains("planted-k"),
            "{}",
            site.log()
        );
        route.assert_sink(&[item("/b/k", "{}")]);
        for verb in ["clone", "run", "verify"] {
            let finished = site.run(verb, &[]);
            assert_eq!(finished.code, Some(2), "{verb}: {}", finished.stderr);
        }
        // Left out, it is in nobody's way.
        site.configure(&route.yaml("rename: { from: /a/, to: /b/ }\nexclude: [/b/]\n"));
        site.done("clone", &[]);
        route.assert_sink(&[item("/b/k", "{}")]);
        assert_eq!(site.done("verify", &[])["equal"], true);
        drop(site.run("drop-slot", &[]));
    }
}

#[test]
fn a_filter_belongs_to_the_stream() {
    for route in ["ss", "pp"] {
        let items = [item("/a/k", "old"), item("/out/k", "old"), item("/roles/r/params", "{}")];
        let route = Route::new("scope", route, &items);
        let site = Site::new("filter-scope", "");
        let follow = |rules: &str| {
            site.configure(&route.yaml(rules));
            let program = site.start("run", &[]);
            site.until_caught_up(PATIENCE);
            assert!(program.stop(PATIENCE).success());
        };
        follow("exclude: [/out/]\n");
        route.assert_sink(&[item("/a/k", "old"), item("/roles/r/params", "{}")]);
        // What is let in later, or masked otherwise, is healed.
        follow("replace: { prefix: /a/, value: mask }\n");
        let masked = Item { value: Some(b"mask".to_vec()), ..item("/a/k", "old") };
        route.assert_sink(&[masked, item("/out/k", "old"), item("/roles/r/params", "{}")]);
        // What would leave behind what is there is refused.
        for rules in ["profile: test-cluster\n", "rename: { from: /a/, to: /b/ }\n"] {
            site.configure(&route.yaml(rules));
            let finished = site.run("run", &[]);
            assert_eq!(finished.code, Some(2), "{}", finished.stderr);
            assert!(finished.stderr.contains("another name"), "{}", finished.stderr);
        }
        drop(site.run("drop-slot", &[]));
    }
}

/// Rows of no stream stand before those of one, so the first row of a destination does not tell.
#[test]
fn a_destination_with_rows_of_somebody_else_is_refused_wherever_they_stand() {
    let theirs = [item(".locks/a", "theirs"), item("/authorities/host/theirs", "theirs")];
    let route = Route::new("foreign", "ss", &[item("/roles/r/params", "{}")]);
    let sink = Side::sqlite(&route.folder.path().join("dst"), Some(&theirs));
    let site = Site::new("filter-foreign", &route.yaml(""));
    for verb in ["clone", "run", "check"] {
        let finished = site.run(verb, &[]);
        assert_ne!(finished.code, Some(0), "{verb}");
        assert!((finished.stdout + &finished.stderr).contains("`force: true`"), "{verb}");
    }
    // Under the profile an authority is nothing that the stream could write.
    site.configure(&route.yaml("profile: test-cluster\n"));
    site.done("clone", &[]);
    let all: Vec<Item> = theirs.into_iter().chain([item("/roles/r/params", "{}")]).collect();
    assert_same(&expected(&all, now_us()), &sink.dump(now_us()));
}
