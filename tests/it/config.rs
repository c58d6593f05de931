//! Every sentence that a wrong configuration gives: which line, which key, what is expected; never a value.

use std::path::Path;

use driftless::config::{self, Config, Endpoint, Lanes, Outside};
use driftless::filter::classes::Class;
use driftless::filter::rules::{Profile, Rename, Replace, Rules, Substitute};
use driftless::model::{Kind, Layout};

struct Fake;

impl Outside for Fake {
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "DB" => Some("postgresql://u:planted-1@h/d".into()),
            "PARALLEL" => Some("7".into()),
            _ => None,
        }
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        if path == Path::new("/run/secrets/db") {
            Ok("host=h password=planted-2\n".into())
        } else {
            Err("there is no such file".into())
        }
    }
}

fn parse(text: &str) -> Result<Config, String> {
    config::parse("clone.yaml", text, &Fake).map_err(|error| {
        assert_eq!(error.fault(), driftless::error::Fault::Config);
        error.to_string()
    })
}

/// Parses text whose source and destination are in order and gives the error.
fn wrong(rest: &str) -> String {
    let text =
        format!("src: {{type: sqlite, path: /a}}\ndst: {{type: postgresql, conn_string: 'postgresql://h/d'}}\n{rest}");
    parse(&text).unwrap_err()
}

#[test]
fn teleports_own_clone_yaml_is_valid() {
    let config = parse(
        "# As Teleport publishes it.\nsrc:\n  type: dir\n  path: /var/lib/teleport/backend\ndst:\n  type: postgres\n  \
         conn_string: \"postgresql://user_name@database-address/teleport_backend?sslmode=verify-full\"\n\
         parallel: 100\nforce: false\n",
    )
    .unwrap();
    let [pipeline] = &config.pipelines[..] else { panic!("one pipeline") };
    assert_eq!(pipeline.name, "sqlite-to-postgresql");
    assert_eq!((pipeline.src.kind(), pipeline.dst.kind()), (Kind::Sqlite, Kind::Postgresql));
    assert_eq!((pipeline.parallel, pipeline.force, pipeline.lanes), (100, false, Lanes::Auto));
    assert_eq!(config.listen.unwrap().to_string(), "127.0.0.1:9464");
    assert_eq!(config.memory, 256 << 20);
    assert_eq!(config.state_dir, Path::new("driftless-state"));
    assert!(config.notes.is_empty());
}

#[test]
fn every_key_of_the_reference_is_read() {
    let config = parse(
        "name: cluster-state\nsrc:\n  type: postgresql\n  conn_string: ${DB}\n  change_feed_conn_string: ${file:/run/secrets/db}\n  \
         change_feed_poll_interval: 1s\n  change_feed_batch_size: 1000\n  disable_expiry: true\n  expiry_interval: 30s\n  \
         expiry_batch_size: 10\n  auth_mode: \"\"\ndst:\n  type: sqlite\n  path: /var/lib/teleport/backend\n  sync: OFF\n  \
         journal: wal\n  busy_timeout: 5000\n  buffer_size: 1024\n  poll_stream_period: 1s\n  events_off: yes\n\
         parallel: ${PARALLEL}\nforce: yes\nprune: true\nstate_dir: /var/lib/driftless\n\
         journal: { enabled: auto, max_bytes: 50GiB, retain: 24h, ack: sink }\nmax_retained: 20GiB\n\
         manage: { slot: true, publication: false, stream: false }\nlanes: 3\nmemory: 64MiB\nlisten: 127.0.0.1:1\n\
         lag_budget: 1m30s\nexclude: [\"/nodes/\", \"/semaphores/\"]\n",
    )
    .unwrap();
    let pipeline = &config.pipelines[0];
    let Endpoint::Postgresql(src) = &pipeline.src else { panic!("PostgreSQL") };
    assert_eq!(src.conn_string.reveal(), "postgresql://u:planted-1@h/d");
    assert_eq!(src.change_feed_conn_string.as_ref().unwrap().reveal(), "host=h password=planted-2");
    let Endpoint::Sqlite(dst) = &pipeline.dst else { panic!("SQLite") };
    assert_eq!(dst.sync, Some(config::Synchronous::Off));
    assert_eq!(dst.journal, Some(config::Journaling::Wal));
    assert_eq!((dst.busy_timeout.as_millis(), dst.events_off), (5000, true));
    assert_eq!((pipeline.parallel, pipeline.lanes, pipeline.prune), (7, Lanes::Fixed(3), true));
    assert_eq!((config.memory, pipeline.max_retained), (64 << 20, 20 << 30));
    assert_eq!((pipeline.lag_budget.as_secs(), pipeline.manage.publication), (90, false));
    assert_eq!(pipeline.rules.exclude, ["/nodes/", "/semaphores/"]);
    assert!(!format!("{config:?}").contains("planted"), "Debug shows a secret");
}

#[test]
fn rules_of_a_filter_are_read_with_what_they_put_in() {
    let config = parse(
        "src: {type: sqlite, path: /a}\ndst: {type: sqlite, path: /b}\ninclude: /i/\nexclude: [/e/]\ndrop: presence\n\
         profile: test-cluster\nrename: {from: /a/, to: /b/}\nreplace:\n- {prefix: /v/, value: '${DB}'}\n\
         - {prefix: /f/, field: a.b, value: \"q\\\"\"}\n- {prefix: /f/, field: [a.b, c], value: true}\n\
         - {prefix: /f/, field: d, value: -3}\n- {prefix: /f/, field: e, remove: true}\n",
    )
    .unwrap();
    let rules = &config.pipelines[0].rules;
    let field = |path: &[&str], json: Option<&str>| Replace {
        prefix: "/f/".into(),
        with: Substitute::Field { path: path.iter().map(|&name| name.into()).collect(), json: json.map(str::to_owned) },
    };
    let value = Substitute::Value(b"postgresql://u:planted-1@h/d".to_vec());
    assert_eq!(
        *rules,
        Rules {
            include: vec!["/i/".into()],
            exclude: vec!["/e/".into()],
            drop: vec![Class::Presence],
            profile: Some(Profile::TestCluster),
            rename: vec![Rename { from: "/a/".into(), to: "/b/".into() }],
            replace: vec![
                Replace { prefix: "/v/".into(), with: value },
                field(&["a", "b"], Some(r#""q\"""#)),
                field(&["a.b", "c"], Some("true")),
                field(&["d"], Some("-3")),
                field(&["e"], None),
            ],
        }
    );
    assert!(!format!("{config:?}").contains("planted"), "Debug shows what is put in");
}

#[test]
fn wrong_rules_of_a_filter_name_line_and_key() {
    for (rest, error) in [
        ("include: [/a/]\nexclude: [/a/]\n", "line 3: `include` names \"/a/\", and so does `exclude`"),
        ("drop: [presense]\n", "line 3: `drop` names a class that is not known; known are authorities, tokens,"),
        ("profile: tests\n", "line 3: `profile` must be one of test-cluster"),
        ("rename: /a/\n", "line 3: `rename` must be a list of maps, found text"),
        ("rename:\n- {from: /a/}\n", "line 4: `to` is missing in `rename`; it must be the prefix at the sink"),
        ("rename:\n- {from: /a/, too: /b/}\n", "line 4: `to` is missing in `rename`"),
        ("rename:\n- {from: /a/, to: /b/, x: 1}\n", "line 4: unknown key `x` in `rename`; did you mean `to`?"),
        (
            "rename:\n- {from: /a/, to: /c/}\n- {from: /b/, to: /c/}\n",
            "line 5: `rename` turns keys into \"/c/\" and into \"/c/\", so two keys could become one",
        ),
        ("replace: [{prefix: /a/}]\n", "line 3: `replace` needs a `value`, or `remove: true`"),
        ("replace: [{value: x}]\n", "line 3: `prefix` is missing in `replace`"),
        ("replace:\n- prefix: /a/\n  remove: yes\n", "line 5: `remove` in `replace` means a field"),
        ("replace: {prefix: /a/, value: 7}\n", "line 3: `value` in `replace` must be text and not empty"),
        ("replace: {prefix: /a/, value: ''}\n", "line 3: `value` in `replace` must be text and not empty"),
        (
            "replace: {prefix: /a/, field: b, value: 1.5}\n",
            "line 3: `value` in `replace` must be text, a whole number,",
        ),
        ("replace: {prefix: /a/, field: b, value: 1, remove: true}\n", "line 3: `remove` in `replace` stands beside"),
        (
            "replace: {prefix: /a/, field: b..c, value: 1}\n",
            "line 3: `replace` names a field of \"/a/\" without a name",
        ),
        ("replace: {prefix: /a/, value: '${NOT_SET}'}\n", "line 3: `value` in `replace`"),
    ] {
        let said = wrong(rest);
        assert!(said.contains(error), "{rest}\n  said:     {said}\n  expected: {error}");
    }
}

#[test]
fn unknown_keys_and_wrong_types_name_line_and_key() {
    for (rest, error) in [
        ("paralel: 3\n", "line 3: unknown key `paralel`; did you mean `parallel`?"),
        ("parallel: lots\n", "line 3: `parallel` must be a whole number from"),
        ("parallel: [1]\n", "line 3: `parallel` must be a whole number from"),
        ("force: maybe\n", "line 3: `force` must be true or false"),
        ("force: 1\n", "line 3: `force` must be true or false, found a number"),
        ("\nforce: true\nforce: false\n", "line 5: the key `force` stands there twice; remove one of the two"),
        ("memory: 10K\n", "line 3: `memory` must be a size such as 256MiB, 50GiB or a number of bytes"),
        ("memory: 1MiB\n", "line 3: `memory` must be at least 16MiB"),
        (
            "memory: {}\n",
            "line 3: `memory` must be a size such as 256MiB, 50GiB or a number of bytes, found a map of keys",
        ),
        ("lag_budget: 5\n", "line 3: `lag_budget` must be a duration such as 500ms, 5s, 10m or 24h, found a number"),
        ("lag_budget: soon\n", "line 3: `lag_budget` must be a duration such as 500ms, 5s, 10m or 24h"),
        ("listen: 9464\n", "line 3: `listen` must be text, found a number; put it in quotes"),
        (
            "listen: here\n",
            "line 3: `listen` must be an address and a port such as 127.0.0.1:9464, or false to serve nothing",
        ),
        ("lanes: 0\n", "line 3: `lanes` must be `auto` or a whole number from 1 to 64"),
        ("lanes: many\n", "line 3: `lanes` must be `auto` or a whole number from 1 to 64"),
        (
            "name: 'a b'\n",
            "line 3: `name` must begin with a letter or digit and hold at most 50 of: letters, digits, `-`, `_`, `.`; it names files and slots",
        ),
        ("name: ../x\n", "line 3: `name` must begin with a letter or digit"),
        ("name: 7\n", "line 3: `name` must be text, found a number; put it in quotes"),
        ("exclude: [/a, 3]\n", "line 3: `exclude` must be a list of texts, found a number in it"),
        ("exclude: ['']\n", "line 3: `exclude` holds an empty prefix, which would leave out everything"),
        ("journal: yes\n", "line 3: `journal` must be a map of keys, found a truth value"),
        (
            "journal: {enabled: false, ack: journal}\n",
            "line 3: `ack` in `journal` is `journal`, and `enabled` says that there is none",
        ),
        (
            "journal: {span: 3h}\n",
            "line 3: unknown key `span` in `journal`; known keys are ack, enabled, key, max_bytes, old_keys, retain, snapshot_every",
        ),
        ("manage:\n  slots: true\n", "line 4: unknown key `slots` in `manage`; did you mean `slot`?"),
        ("state_dir: ''\n", "line 3: `state_dir` is empty; it must be a directory"),
        ("state_dir: ${NOWHERE}\n", "line 3: `state_dir` needs the environment variable NOWHERE, which is not set"),
        (
            "state_dir: ${file:/nowhere}\n",
            "line 3: `state_dir` takes its value from the file /nowhere, which cannot be read: there is no such file",
        ),
        ("a: 'x\n", "line 4: not valid YAML: "),
        ("---\nsrc: {}\n", "line 4: a second document begins; several pipelines go into a list under `pipelines`"),
        ("pipelines: []\n", "line 3: `pipelines` is empty; each pipeline has at least `src` and `dst`"),
        ("pipelines: [{}]\n", "line 1: `src` stands beside `pipelines`; move it into one of them"),
    ] {
        let said = wrong(rest);
        assert!(
            said.starts_with(&format!("read clone.yaml {error}")),
            "{rest}\n  said:     {said}\n  expected: {error}"
        );
    }
}

#[test]
fn endpoints_are_checked_key_by_key() {
    let pg = "{type: postgresql, conn_string: 'postgresql://u:planted-3@h/d'}";
    for (text, error) in [
        (String::new(), "line 1: `src` is missing; it says where the replica's changes come from"),
        ("- 1\n".into(), "line 1: expected keys such as `src:` and `dst:`, found a list"),
        ("src: planted-3\n".into(), "line 1: `src` must be a map of keys, found text"),
        ("src: {}\n".into(), "line 1: `type` is missing in `src`; it must be sqlite, postgresql, etcd or dynamodb"),
        ("src:\n  type: mysql\n".into(), "line 2: `type` in `src` is not a type of store that driftless knows"),
        ("src: {type: sqlite}\n".into(), "line 1: `path` is missing in `src`; it must be the directory that holds sqlite.db"),
        ("src: {type: sqlite, path: ''}\n".into(), "line 1: `path` in `src` is empty; it must be the directory that holds sqlite.db"),
        ("src: {type: sqlite, pfad: /x, path: /y}\n".into(), "line 1: unknown key `pfad` in `src`; known keys are audit_events_uri, "),
        ("src: {type: sqlite, path: /y, sync: SOME}\n".into(), "line 1: `sync` in `src` must be one of OFF, NORMAL, FULL, EXTRA"),
        ("src: {type: sqlite, path: /y, busy_timeout: 5s}\n".into(), "line 1: `busy_timeout` in `src` must be a whole number from 0 to 3600000"),
        ("src: {type: sqlite, path: /y, layout: raw}\n".into(), "line 1: `layout` in `src` must be teleport for a SQLite file"),
        ("src: {type: postgresql}\n".into(), "line 1: `conn_string` is missing in `src`; it must be a PostgreSQL connection string"),
        ("src: {type: postgres, conn_string: h, auth_mode: kerberos}\n".into(), "line 1: `auth_mode` in `src` must be one of "),
        ("src: {type: postgres, conn_string: h, tables: [public.a]}\n".into(), "line 1: `tables` in `src` has a meaning only with `layout: raw`"),
        ("src: {type: postgres, conn_string: h, layout: raw}\n".into(), "line 1: `layout: raw` in `src` needs `tables`, such as [\"public.*\"]"),
        ("src: {type: postgres, conn_string: h, layout: raw, tables: [a]}\n".into(), "line 1: `tables` in `src` must name tables with their schema"),
        ("src: {type: etcd, peers: [a], prefix: /t, prefx: /u}\n".into(), "line 1: unknown key `prefx` in `src`; did you mean `prefix`?"),
        ("src: {type: etcd, prefix: /t/}\n".into(), "line 1: `peers` is missing in `src`; it must be a list of addresses such as"),
        ("src: {type: etcd, peers: []}\n".into(), "line 1: `peers` in `src` must be a list of addresses such as"),
        ("src: {type: etcd, peers: [ftp://a]}\n".into(), "line 1: `peers` in `src` must be a list of addresses such as"),
        ("src: {type: etcd, peers: ['https://u:planted-3@a:1']}\n".into(), "line 1: `peers` in `src` must be a list of addresses such as"),
        ("src: {type: etcd, peers: ['http://a:1']}\n".into(), "line 1: `peers` in `src` names a peer of another machine with `http://`, which sends secrets in clear; use `https://`, or say `insecure: true`"),
        ("src: {type: etcd, peers: [a]}\n".into(), "line 1: `prefix` is missing in `src`; it must be what stands before every key, such as /teleport/"),
        ("src: {type: etcd, peers: [a], prefix: ''}\n".into(), "line 1: `prefix` in `src` is empty; it must be what stands"),
        ("src: {type: etcd, peers: [a], layout: raw}\n".into(), "line 1: `prefix` is missing in `src`; it must be what stands before every key that is copied"),
        ("src: {type: etcd, peers: [a], prefix: driftless/x}\n".into(), "line 1: `prefix` in `src` lies under /driftless/, where"),
        ("src:\n  type: etcd\n  peers: [a]\n  prefix: /t\n  tls_cert_file: /c\n".into(), "line 5: `tls_cert_file` in `src` needs `tls_key_file` beside it"),
        ("src: {type: etcd, peers: [a], prefix: /t, tls_key_file: /k}\n".into(), "line 1: `tls_key_file` in `src` needs `tls_cert_file` beside it"),
        ("src: {type: etcd, peers: ['http://[::1]:1'], prefix: /t, tls_key_file: /k, tls_cert_file: /c}\n".into(), "line 1: `tls_cert_file` in `src` is never shown to a peer that"),
        ("src: {type: etcd, peers: [a], prefix: /t, username: planted-3}\n".into(), "line 1: `username` in `src` needs `password_file` beside it"),
        ("src: {type: etcd, peers: [a], prefix: /t, password_file: /p}\n".into(), "line 1: `password_file` in `src` needs `username` beside it"),
        ("src: {type: etcd, peers: [a], prefix: /t, password: planted-3}\n".into(), "line 1: unknown key `password` in `src`; known keys are"),
        ("src: {type: etcd, peers: [a], prefix: /t, lease_budget: 0}\n".into(), "line 1: `lease_budget` in `src` must be a whole number from 1 to 100000"),
        ("src: {type: etcd, peers: [a], prefix: /t, dial_timeout: 0s}\n".into(), "line 1: `dial_timeout` in `src` must be longer than nothing"),
        ("src: {type: etcd, peers: [a, b], prefix: /t/}\ndst: {type: etcd, peers: [c, b], prefix: /t/u/}\n".into(), "line 2: `src` and `dst` are the same keys of one cluster; a replica needs a place of its own"),
        ("src: {type: etcd, peers: [a], prefix: /t/, layout: raw}\ndst: {type: etcd, peers: [a], layout: raw}\n".into(), "line 2: `src` and `dst` are the same keys"),
        ("src: {type: etcd, peers: [a], prefix: /t/, layout: raw}\ndst: {type: postgres, conn_string: h, layout: raw}\n".into(), "line 1: `src` and `dst` are of different kinds (etcd and postgresql), which `layout: raw` cannot connect"),
        ("src: {type: firestore, project_id: r, collection_name: t}\n".into(), "line 1: `type` in `src` is firestore, which"),
        ("src: {type: dynamodb, region: r}\n".into(), "line 1: `table_name` is missing in `src`; it must be the name of the table"),
        ("src: {type: dynamodb, table: t/1}\n".into(), "line 1: `table_name` in `src` must have 3 to 255 letters"),
        ("src: {type: dynamodb, table: tab, table_name: tab}\n".into(), "line 1: `table` in `src` stands beside `table_name`"),
        ("src: {type: dynamodb, table_name: tab, endpoint: 'http://a:1'}\n".into(), "line 1: `endpoint` in `src` names another machine with `http://`, which sends secrets in clear"),
        ("src: {type: dynamodb, table_name: tab, endpoint: 'https://u:planted-3@a'}\n".into(), "line 1: `endpoint` in `src` must be an address such as"),
        ("src: {type: dynamodb, table_name: tab, access_key: planted-3}\n".into(), "line 1: `access_key` in `src` needs `secret_key` beside it"),
        ("src: {type: dynamodb, table_name: tab, secret_key: planted-3}\n".into(), "line 1: `secret_key` in `src` needs `access_key` beside it"),
        ("src: {type: dynamodb, table_name: tab, access_key: a, secret_key: planted-3, profile: p}\n".into(), "line 1: `profile` in `src` stands beside `access_key`"),
        ("src: {type: dynamodb, table_name: tab, checkpoint_table: tab}\n".into(), "line 1: `checkpoint_table` in `src` is `table_name` too"),
        ("src: {type: dynamodb, table_name: tab, read_limit: 0}\n".into(), "line 1: `read_limit` in `src` must be a whole number from 1 to"),
        ("src: {type: dynamodb, table_name: tab, region: r}\ndst: {type: dynamodb, table_name: tab, region: r}\n".into(), "line 2: `src` and `dst` are the same table; a replica needs a place of its own"),
        ("src: {type: dynamodb, table_name: tab, layout: raw}\ndst: {type: dynamodb, table_name: two, layout: raw}\nlanes: 2\n".into(), "line 3: `lanes` above 1 needs a source that is read in the order of keys"),
        (format!("src: {pg}\ndst:\n  type: sqlite\n  path: /x\n  layout: raw\n"), "line 5: `layout` in `dst` must be teleport for a SQLite file"),
        (format!("src: {pg}\ndst: {pg}\n"), "line 2: `src` and `dst` are the same database; a replica needs a place of its own"),
        ("src: {type: sqlite, path: /tmp/../tmp/x}\ndst: {type: dir, path: /tmp/x/}\n".into(), "line 2: `src` and `dst` are the same SQLite file; a replica needs a place of its own"),
        ("src: {type: postgres, conn_string: h, layout: raw, tables: [a.*]}\ndst: {type: postgres, conn_string: i}\n".into(), "line 1: `layout` must be the same in `src` and `dst`"),
    ] {
        let said = parse(&text).unwrap_err();
        assert!(said.starts_with(&format!("read clone.yaml {error}")), "{text}\n  said:     {said}\n  expected: {error}");
        assert!(!said.contains("planted"), "{said}");
    }
}

#[test]
fn every_key_of_an_etcd_side_is_read() {
    let config = parse(
        "src:\n  type: etcd\n  peers: [etcd-1, \"https://[2001:db8::1]:99\", \"http://127.0.0.1:1\"]\n  prefix: teleport/\n  \
         tls_ca_file: /ca\n  insecure: false\n  username: replica\n  \
         password_file: /pw\n  dial_timeout: 2s\n  buffer_size: 1\n  etcd_max_client_msg_size_bytes: 4096\n  \
         client_pool_size: 3\n  lease_budget: 50\n  layout: teleport\n\
         dst: {type: etcd, peers: 'a:1', prefix: /t, tls_cert_file: /c, tls_key_file: /k}\n",
    )
    .unwrap();
    let (Endpoint::Etcd(src), Endpoint::Etcd(dst)) = (&config.pipelines[0].src, &config.pipelines[0].dst) else {
        panic!("etcd")
    };
    assert_eq!(src.peers, ["https://etcd-1:2379", "https://[2001:db8::1]:99", "http://127.0.0.1:1"]);
    assert_eq!(src.prefix.as_deref(), Some("/teleport/"));
    assert_eq!((src.tls_ca_file.as_deref(), src.insecure), (Some(Path::new("/ca")), false));
    assert_eq!((src.username.as_deref(), src.password_file.as_deref()), (Some("replica"), Some(Path::new("/pw"))));
    assert_eq!((src.dial_timeout.as_secs(), src.max_message, src.lease_budget), (2, Some(4096), 50));
    assert_eq!((dst.prefix.as_deref(), dst.peers.len(), dst.dial_timeout.as_secs()), (Some("/t"), 1, 5));
    assert_eq!(config.pipelines[0].name, "etcd-to-etcd");
    let raw = parse(
        "src: {type: etcd, peers: a, layout: raw, prefix: ''}\ndst: {type: etcd, peers: 'http://b', insecure: true, layout: raw, prefix: app}\n",
    )
    .unwrap();
    let (Endpoint::Etcd(src), Endpoint::Etcd(dst)) = (&raw.pipelines[0].src, &raw.pipelines[0].dst) else {
        panic!("etcd")
    };
    assert_eq!((src.prefix.as_deref(), dst.prefix.as_deref(), dst.insecure), (Some(""), Some("app"), true));
}

#[test]
fn several_pipelines_share_what_belongs_to_the_process() {
    let two = |top: &str, first: &str, second: &str| {
        let side = |n: u8| format!("src: {{type: sqlite, path: /s{n}}}, dst: {{type: sqlite, path: /d{n}}}");
        parse(&format!("{top}pipelines:\n  - {{{}{first}}}\n  - {{{}{second}}}\n", side(1), side(2)))
    };
    let config = two("parallel: 9\nmemory: 64MiB\n", ", name: a", ", name: b, parallel: 2, memory: 64MiB").unwrap();
    assert_eq!(config.pipelines.iter().map(|p| p.parallel).collect::<Vec<_>>(), [9, 2]);
    assert_eq!(config.memory, 64 << 20);
    for (top, first, second, error) in [
        ("", "", "", "read clone.yaml: two pipelines are called `sqlite-to-sqlite`; give each a `name` of its own"),
        (
            "",
            ", name: a",
            ", name: b, memry: 64MiB",
            "read clone.yaml line 3: unknown key `memry` in `pipelines`; did you mean `memory`?",
        ),
        (
            "memory: 32MiB\n",
            ", name: a",
            ", name: b, memory: 64MiB",
            "read clone.yaml line 4: `memory` in `pipelines` differs from what another pipeline says; the process has only one, so put it at the top",
        ),
        (
            "paralel: 3\n",
            ", name: a",
            ", name: b",
            "read clone.yaml line 1: unknown key `paralel`; did you mean `parallel`?",
        ),
    ] {
        assert_eq!(two(top, first, second).unwrap_err(), error);
    }
}

#[test]
fn every_key_of_a_dynamodb_side_is_read() {
    let config = parse(
        "src:\n  type: dynamodb\n  region: us-east-1\n  table_name: teleport\n  profile: prod\n  role_arn: arn:aws:iam::1:role/r\n  \
         endpoint: https://vpce-1.dynamodb.us-east-1.vpce.amazonaws.com/\n  read_limit: 500\n  buffer_size: 1\n  \
         poll_stream_period: 1s\n  retry_period: 10s\n\
         dst:\n  type: dynamodb\n  table_name: copy\n  access_key: a\n  secret_key: planted-4\n  billing_mode: provisioned\n  \
         read_capacity_units: 20\n  continuous_backups: true\n  auto_scaling: true\n  read_min_capacity: 1\n  \
         endpoint: http://127.0.0.1:8000\n  checkpoint_table: ours\n",
    )
    .unwrap();
    let (Endpoint::Dynamodb(src), Endpoint::Dynamodb(dst)) = (&config.pipelines[0].src, &config.pipelines[0].dst)
    else {
        panic!("dynamodb")
    };
    assert_eq!((src.table_name.as_str(), src.region.as_deref()), ("teleport", Some("us-east-1")));
    assert_eq!(src.endpoint.as_deref(), Some("https://vpce-1.dynamodb.us-east-1.vpce.amazonaws.com"));
    assert_eq!((src.profile.as_deref(), src.role_arn.as_deref()), (Some("prod"), Some("arn:aws:iam::1:role/r")));
    assert_eq!((src.read_limit, src.units, src.continuous_backups), (Some(500), None, false));
    assert_eq!(src.checkpoint_table, "teleport_driftless");
    assert_eq!((dst.units, dst.continuous_backups, dst.checkpoint_table.as_str()), (Some((20, 10)), true, "ours"));
    assert_eq!(dst.endpoint.as_deref(), Some("http://127.0.0.1:8000"));
    assert!(config.notes.iter().any(|note| note.contains("`auto_scaling` is left to Teleport")), "{:?}", config.notes);
    assert!(!format!("{config:?}").contains("planted"));
}

#[test]
fn the_published_alias_is_accepted_with_a_note() {
    let config = parse("src: {type: dynamodb, table: one}\ndst: {type: dynamodb, table: two}\n").unwrap();
    let Endpoint::Dynamodb(src) = &config.pipelines[0].src else { panic!("dynamodb") };
    assert_eq!(src.table_name, "one");
    assert!(config.notes[0].contains("`table` is read as `table_name`"), "{:?}", config.notes);
}

#[test]
fn raw_needs_one_kind_on_both_sides() {
    let raw = "type: postgresql, layout: raw";
    let config =
        parse(&format!("src: {{{raw}, conn_string: a, tables: 'public.*'}}\ndst: {{{raw}, conn_string: b}}\n"))
            .unwrap();
    assert_eq!(config.pipelines[0].src.layout(), Layout::Raw);
    let error = parse(&format!(
        "src: {{{raw}, conn_string: a, tables: 'p.*'}}\ndst: {{{raw}, conn_string: b}}\nexclude: [/x]\n"
    ));
    assert!(error.unwrap_err().contains("`exclude` names prefixes of Teleport's keys"));
    for rule in ["include: [/x]", "drop: tokens", "profile: test-cluster", "rename: {from: /a/, to: /b/}"] {
        let yaml = format!(
            "src: {{{raw}, conn_string: a, tables: 'p.*'}}\ndst: {{{raw}, conn_string: b}}\nexclude: []\n{rule}\n"
        );
        assert!(parse(&yaml).unwrap_err().contains("names prefixes of Teleport's keys"), "{rule}");
    }
}
