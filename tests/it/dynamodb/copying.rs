//! `clone`, `verify`, `check` and `run` between DynamoDB and the other kinds, by the real program, looked at by others'
//! programs alone.

use crate::support::boto::{self, DynamoDb, server};
use crate::support::etcd;
use crate::support::etcddb::{self, EtcdDb};
use crate::support::pg;
use crate::support::program::Site;
use crate::support::scale::{figure, pick};
use crate::support::teleport::{PgDb, SqliteDb, items, now_us};

type Lines = std::collections::BTreeMap<String, (String, Option<i128>, String)>;

fn count() -> usize {
    pick(1_500, 50_000)
}

/// Fails with the first differing keys.
fn assert_same(source: &Lines, sink: &Lines) {
    let differing: Vec<_> =
        source.keys().chain(sink.keys()).filter(|key| source.get(*key) != sink.get(*key)).take(5).collect();
    let show = |key: &String| (source.get(key), sink.get(key));
    let (from, to) = (source.len(), sink.len());
    let shown: Vec<_> = differing.iter().map(|key| (key, show(key))).collect();
    assert!(differing.is_empty(), "{from} items in the source, {to} in the sink; these differ: {shown:#?}");
}

fn site(name: &str, src: &str, dst: &str) -> Site {
    Site::new(&format!("dynamodb-{name}"), &format!("src: {src}\ndst: {dst}\nparallel: 4\n"))
}

fn copied(name: &str, site: &Site, items: usize) {
    let begun = std::time::Instant::now();
    let done = site.done("clone", &[]);
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(done["items"].as_u64(), Some(items as u64), "{done}");
    assert_eq!(site.done("verify", &[])["equal"], true);
    figure("6", "dynamodb-copy", format!("{name}: {items} items in {seconds:.1} s"));
}

#[test]
fn a_table_is_copied_into_another_with_every_attribute_and_deletes_follow() {
    let (source, sink) = (DynamoDb::create("from", &items(count())), DynamoDb::absent("to"));
    let site = site("to_dynamodb", &source.yaml(), &sink.yaml());
    copied("to_dynamodb", &site, source.dump(now_us()).len());
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    // What another client sees is equal to the last attribute, `Timestamp` included.
    let all = |table: &str| {
        let mut all: Vec<String> = server().items(table).iter().map(ToString::to_string).collect();
        all.retain(|item| !item.contains("teleport.locks/") && !item.contains("/expired"));
        all.sort();
        all
    };
    assert_eq!(all(&source.table), all(&sink.table));

    source.put("/new/one", b"1");
    source.put("/apps/foo", b"changed");
    source.delete("/apps/foo-bar");
    let differs = site.run("verify", &[]);
    assert_eq!(differs.code, Some(4), "{}", differs.stderr);
    site.done("clone", &[]);
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    // A renewed expiry is all that a keep-alive changes.
    let later = serde_json::json!({"Value": boto::bytes(b"changed"), "Timestamp": {"N": "1775044800"}, "Expires": {"N": "3984120999"}});
    server().write(&source.table, &[("/apps/foo".into(), Some(later))]);
    assert_eq!(site.run("verify", &[]).code, Some(4));
    site.done("clone", &[]);
    assert_eq!(sink.dump(now_us())["2f617070732f666f6f"].1, Some(3_984_120_999));
    assert_eq!(site.done("verify", &[])["equal"], true);
}

#[test]
fn a_table_that_is_made_is_as_teleport_makes_it_and_one_that_is_there_stays_as_it_is() {
    let (source, sink) = (DynamoDb::create("few", &items(30)), DynamoDb::absent("made"));
    let route = site("made", &source.yaml(), &sink.yaml());
    route.done("clone", &[]);
    let made = server().call("describe_table", &serde_json::json!({"TableName": sink.table}))["Table"].clone();
    assert_eq!(made["KeySchema"][0], serde_json::json!({"AttributeName": "HashKey", "KeyType": "HASH"}));
    assert_eq!(made["KeySchema"][1], serde_json::json!({"AttributeName": "FullPath", "KeyType": "RANGE"}));
    assert_eq!(made["BillingModeSummary"]["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(made["StreamSpecification"], serde_json::json!({"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"}));
    let expiry = server().call("describe_time_to_live", &serde_json::json!({"TableName": sink.table}));
    assert_eq!(expiry["TimeToLiveDescription"]["AttributeName"], "Expires");

    // The one that was there has no stream and no expiry, and gets none.
    let back = DynamoDb::absent("there");
    server().teleport(&back.table);
    site("there", &sink.yaml(), &back.yaml()).done("clone", &[]);
    let there = server().call("describe_table", &serde_json::json!({"TableName": back.table}))["Table"].clone();
    assert!(there["StreamSpecification"].is_null(), "{there}");
    assert_same(&source.dump(now_us()), &back.dump(now_us()));
    let checked = site("checked", &back.yaml(), &DynamoDb::absent("nowhere").yaml()).run("check", &[]);
    assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);
    for said in ["do not expire", "write units", "is not there: it is made", "can be copied and compared"] {
        assert!(checked.stdout.contains(said), "{said}: {}", checked.stdout);
    }
}

#[test]
fn sqlite_goes_into_a_table_and_back_and_expires_at_the_second() {
    let folder = tempfile::tempdir().unwrap();
    let source = SqliteDb::create(folder.path().join("src"), &items(count()));
    let sink = DynamoDb::absent("sqlite");
    let forth = site("from_sqlite", &source.yaml(), &sink.yaml());
    let expected = boto::lines(&source.dump(now_us()));
    copied("from_sqlite", &forth, expected.len());
    assert_same(&expected, &sink.dump(now_us()));
    let back = SqliteDb::at(folder.path().join("dst"));
    let again = site("to_sqlite", &sink.yaml(), &back.yaml());
    copied("to_sqlite", &again, expected.len());
    assert_same(&expected, &boto::lines(&back.dump(now_us())));
}

#[test]
fn postgresql_is_followed_into_a_table_and_copied_back() {
    let source = PgDb::create(pg::primary(), "to_dynamodb", &items(count()));
    let sink = DynamoDb::absent("pg");
    let site =
        site("from_postgresql", &format!("{{ type: postgresql, conn_string: {:?} }}", source.url()), &sink.yaml());
    let running = site.start("run", &[]);
    site.until_caught_up(std::time::Duration::from_secs(120));
    assert_same(&boto::lines(&source.dump(now_us())), &sink.dump(now_us()));
    source.run("update kv set value = 'moved' where key like '/apps/%'; delete from kv where key = '/apps/foo0'");
    source.run("insert into kv values ('/new/one', '1', now() + interval '1 hour 1.5 seconds', gen_random_uuid())");
    site.until_caught_up(std::time::Duration::from_secs(60));
    assert_same(&boto::lines(&source.dump(now_us())), &sink.dump(now_us()));
    // A table that is emptied at a stroke is emptied in steps.
    source.run("truncate kv; insert into kv select ('/again/' || n)::bytea, 'x', null, gen_random_uuid() from generate_series(1, 300) n");
    site.until_caught_up(std::time::Duration::from_secs(60));
    assert_same(&boto::lines(&source.dump(now_us())), &sink.dump(now_us()));
    assert_eq!(sink.dump(now_us()).len(), 300);
    running.stop(std::time::Duration::from_secs(60));
    assert_eq!(site.done("verify", &[])["equal"], true);
    let back = PgDb::empty(pg::secondary(), "from_dynamodb");
    let again =
        self::site("to_postgresql", &sink.yaml(), &format!("{{ type: postgresql, conn_string: {:?} }}", back.url()));
    copied("to_postgresql", &again, 300);
    assert_same(&sink.dump(now_us()), &boto::lines(&back.dump(now_us())));
}

#[test]
fn etcd_goes_into_a_table_and_back() {
    let source = EtcdDb::create(etcd::source(), "to_dynamodb", &items(pick(500, 20_000)));
    let sink = DynamoDb::absent("etcd");
    site("from_etcd", &source.yaml(), &sink.yaml()).done("clone", &[]);
    let micros = |lines: Lines| -> etcddb::Lines {
        lines
            .into_iter()
            .map(|(key, (value, at, revision))| (key, (value, at.map(|at| at * 1_000_000), revision)))
            .collect()
    };
    // An expiry at etcd is a lease; revisions go along as they are.
    etcddb::assert_near(&source.dump(), &micros(sink.dump(now_us())), true);
    let back = EtcdDb::empty(etcd::sink(), "from_dynamodb");
    site("to_etcd", &sink.yaml(), &back.yaml()).done("clone", &[]);
    etcddb::assert_near(&micros(sink.dump(now_us())), &back.dump(), false);
}

#[test]
fn a_table_is_not_followed_and_says_so_before_anything_is_touched() {
    let (source, sink) = (DynamoDb::create("unfollowed", &items(30)), DynamoDb::absent("untouched"));
    let refused = site("run", &source.yaml(), &sink.yaml()).run("run", &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot follow one"), "{}", refused.stderr);
    for table in [sink.table.clone(), format!("{}_driftless", sink.table)] {
        assert!(server().try_call("describe_table", &serde_json::json!({"TableName": table})).is_err());
    }
}

#[test]
fn what_the_table_cannot_hold_is_named_before_the_copy_begins() {
    let folder = tempfile::tempdir().unwrap();
    let source = SqliteDb::create(folder.path().join("src"), &items(200));
    source.run("insert into kv (key, value, modified) values ('/zz/large/planted-name', zeroblob(420000), 1)");
    let sink = DynamoDb::absent("large");
    let site = site("large", &source.yaml(), &sink.yaml());
    let checked = site.run("check", &[]);
    assert_eq!(checked.code, Some(1), "{}{}", checked.stdout, checked.stderr);
    assert!(checked.stdout.contains("/zz/large/… #") && !checked.stdout.contains("planted"), "{}", checked.stdout);
    let refused = site.run("clone", &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("1 items are larger") && refused.stderr.contains("/zz/large/… #"),
        "{}",
        refused.stderr
    );
    assert!(sink.dump(now_us()).is_empty(), "nothing was written");
    source.run("delete from kv where key like '/zz/%'");
    site.done("clone", &[]);
    assert_eq!(site.done("verify", &[])["equal"], true);
}

#[test]
fn wrong_tables_and_wrong_places_are_errors_and_nothing_is_made_at_a_source() {
    let sink = DynamoDb::absent("wrong");
    let absent = DynamoDb::absent("absent");
    let route = site("absent", &absent.yaml(), &sink.yaml());
    let failed = route.run("clone", &[]);
    assert_eq!(failed.code, Some(2), "{}", failed.stderr);
    assert!(failed.stderr.contains("it is not there"), "{}", failed.stderr);
    assert_eq!(route.run("check", &[]).code, Some(1));
    assert!(server().try_call("describe_table", &serde_json::json!({"TableName": absent.table})).is_err());

    let empty = DynamoDb::create("empty", &[]);
    let failed = site("empty", &empty.yaml(), &sink.yaml()).run("clone", &[]);
    assert!(failed.code == Some(2) && failed.stderr.contains("no item of Teleport's"), "{}", failed.stderr);

    let away = "{ type: dynamodb, region: r, table_name: tab, endpoint: 'http://127.0.0.1:1', access_key: a, secret_key: planted-5 }";
    let failed = site("away", &empty.yaml(), away).run("clone", &[]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("does not answer") && !failed.stderr.contains("planted-5"), "{}", failed.stderr);
}

#[test]
fn policies_are_printed_and_nobody_is_asked() {
    let table = "{ type: dynamodb, region: eu-west-1, table_name: teleport }";
    let route = site("iam", table, "{ type: dynamodb, region: eu-west-2, table_name: standby }");
    let printed = route.run("check", &["--print-iam", "--json"]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let lines: Vec<serde_json::Value> =
        printed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((lines[0]["side"].as_str(), lines[1]["side"].as_str()), (Some("src"), Some("dst")));
    let resource = &lines[1]["policy"]["Statement"][1]["Resource"];
    assert_eq!(resource, "arn:aws:dynamodb:eu-west-2:*:table/standby_driftless");
    assert!(route.run("check", &["--print-iam"]).stdout.contains("dst:\n{\n"));
}
