//! What the real program says to bad input: one clear sentence, the documented exit code, no secret, no damage.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::program::{Finished, Site};

/// A password that must not come out anywhere.
const PLANTED: &str = "planted-password-in-a-config-51c9";

fn backend(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let sql = "create table kv (key TEXT NOT NULL PRIMARY KEY, modified INTEGER NOT NULL, expires DATETIME, value BLOB, \
               revision TEXT NOT NULL DEFAULT \"\");\
               create table events (id INTEGER PRIMARY KEY, type TEXT NOT NULL, created INTEGER NOT NULL, kv_key TEXT NOT NULL, \
               kv_modified INTEGER NOT NULL, kv_expires DATETIME, kv_value BLOB, kv_revision TEXT NOT NULL DEFAULT \"\");\
               insert into kv values ('/a', 1, null, 'value', '');";
    let status = Command::new("sqlite3").arg(dir.join("sqlite.db")).arg(sql).status().unwrap();
    assert!(status.success());
    // As Teleport leaves it.
    std::fs::set_permissions(dir.join("sqlite.db"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The one sentence that the program ends with.
fn sentence(finished: &Finished) -> &str {
    assert!(!format!("{}{}", finished.stdout, finished.stderr).contains(PLANTED), "a secret: {}", finished.stderr);
    let mut lines = finished.stderr.lines().filter(|line| line.starts_with("driftless: "));
    let line = lines.next().unwrap_or_else(|| panic!("no sentence: {}", finished.stderr));
    assert_eq!(lines.next(), None, "one sentence, not two");
    assert!(
        !finished.stderr.contains("panicked") && !finished.stderr.contains("stack backtrace"),
        "{}",
        finished.stderr
    );
    line.strip_prefix("driftless: ").unwrap()
}

#[test]
fn a_wrong_configuration_is_said_in_one_sentence_with_exit_code_2() {
    let site = Site::new("bad-config", "");
    let config = site.config().display().to_string();
    let url = format!("postgresql://u:{PLANTED}@h/d");
    for (yaml, said) in [
        (format!("src: {{type: postgresql, conn_string: '{url}'}}\n"), "line 1: `dst` is missing"),
        (format!("src: {{type: postgresql, conn: '{url}'}}\n"), "line 1: `conn_string` is missing in `src`"),
        (
            format!("src: {{type: postgresql, conn_string: '{url}', colour: red}}\n"),
            "line 1: unknown key `colour` in `src`",
        ),
        (
            format!("src: {{type: postgresql, conn_string: ['{url}']}}\n"),
            "line 1: `conn_string` in `src` must be text, found a list",
        ),
        (format!("src: {{type: postgresql, conn_string: \"{url}\\q\"}}\n"), "line 1: not valid YAML: "),
        (format!("src: '{url}'\n"), "line 1: `src` must be a map of keys, found text"),
        (
            format!("src: {{type: firestore, project_id: '{url}', collection_name: t}}\n"),
            "line 1: `type` in `src` is firestore, which this version",
        ),
        ("parallel: lots\n".into(), "line 1: `src` is missing"),
        (
            "src: {type: sqlite, path: /nowhere}\ndst: {type: sqlite, path: b}\nparallel: lots\n".into(),
            "line 3: `parallel` must be a whole number",
        ),
    ] {
        site.configure(&yaml);
        for verb in ["run", "clone", "verify", "status", "check", "drop-slot"] {
            let finished = site.run(verb, &[]);
            assert_eq!(finished.code, Some(2), "{verb}: {}", finished.stderr);
            let expected = format!("read {config} {said}");
            assert!(sentence(&finished).starts_with(&expected), "{verb}: {}\nexpected {expected}", finished.stderr);
            assert_eq!(finished.stdout, "");
        }
    }
    let missing =
        Command::new(env!("CARGO_BIN_EXE_driftless")).args(["run", "-c", "/nowhere/clone.yaml"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    let said = String::from_utf8(missing.stderr).unwrap();
    assert_eq!(said, "driftless: read configuration /nowhere/clone.yaml: there is no such file\n");
}

#[test]
fn with_json_the_error_is_one_object() {
    let site = Site::new("bad-json", "src: 3\n");
    let finished = site.run("status", &["--json"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""));
    let line = finished.stderr.lines().last().unwrap();
    let error: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&error["event"], &error["exit"]), (&"error".into(), &2.into()));
    assert!(error["message"].as_str().unwrap().contains("`src` must be a map of keys"), "{error}");
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_0() {
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_driftless"));
        let output = command.args(args).env_remove("DRIFTLESS_CONFIG").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    for args in
        [&["run"][..], &["dance"], &["run", "-c", "x", "--frobnicate"], &["verify", "-c", "x", "--takeover"], &[]]
    {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(stderr.contains("--help") || stderr.contains("Usage"), "{args:?}: {stderr}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["--version"], &["help", "verify"]] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(stdout.contains("driftless"), "{args:?}: {stdout}");
    }
}

#[test]
fn mistaken_paths_of_sqlite_name_what_was_meant_and_make_nothing() {
    let site = Site::new("paths", "");
    let dir = site.folder();
    backend(&dir.join("teleport/backend"));
    backend(&dir.join("teleport/proc"));
    std::os::unix::fs::symlink(dir.join("teleport/backend"), dir.join("linked")).unwrap();
    let meant = dir.join("teleport/backend").display().to_string();
    for (src, dst, said) in [
        ("teleport", "copy", "which is probably the path that was meant"),
        ("teleport/backend/sqlite.db", "copy", "path names a directory, not a file"),
        ("teleport/proc", "copy", "this is the process' own identity, which must never be copied"),
        ("nowhere", "copy", "there is no such file"),
        ("teleport/backend", "teleport/backend", "`src` and `dst` are the same SQLite file"),
        ("teleport/backend", "linked", "`src` and `dst` are the same SQLite file"),
        ("teleport/backend", "teleport", "this is Teleport's data directory"),
    ] {
        let path = |name: &str| dir.join(name).display().to_string();
        site.configure(&format!(
            "src: {{type: dir, path: {}}}\ndst: {{type: sqlite, path: {}}}\n",
            path(src),
            path(dst)
        ));
        for verb in ["run", "clone", "status"] {
            let finished = site.run(verb, &[]);
            assert_eq!(finished.code, Some(2), "{verb}: {}", finished.stderr);
            assert!(sentence(&finished).contains(said), "{src} to {dst}: {}", finished.stderr);
        }
        let names_it = said.contains("probably");
        let finished = site.run("check", &[]);
        let all = finished.stdout.clone() + &finished.stderr;
        assert!(matches!(finished.code, Some(1 | 2)) && all.contains(said), "{all}");
        assert!(!names_it || all.contains(&meant), "{all}");
    }
    for made in ["copy", "nowhere", "teleport/sqlite.db"] {
        assert!(!dir.join(made).try_exists().unwrap(), "{made} was made");
    }
}

#[test]
fn status_and_check_take_and_make_nothing() {
    let site = Site::new("look", "");
    let dir = site.folder();
    backend(&dir.join("source"));
    backend(&dir.join("full"));
    let route = |dst: &str, rest: &str| {
        let path = |name: &str| dir.join(name).display().to_string();
        site.configure(&format!(
            "src: {{type: dir, path: {}}}\ndst: {{type: sqlite, path: {}}}\n{rest}",
            path("source"),
            path(dst)
        ));
    };
    route("copy", "");
    let status = site.status();
    assert_eq!((&status["name"], &status["state"]), (&"sqlite-to-sqlite".into(), &"stopped".into()));
    assert_eq!(
        (&status["consistent"], &status["epoch"], &status["lag_changes"]),
        (&false.into(), &0.into(), &serde_json::Value::Null)
    );
    assert_ne!(status["head"], "");
    let table = site.run("status", &[]).stdout;
    assert!(table.starts_with("PIPELINE ") && table.contains("nothing was copied yet"), "{table}");
    assert_eq!(site.done("check", &[])["errors"], 0);
    assert!(!dir.join("copy").try_exists().unwrap() && !dir.join("state").try_exists().unwrap());

    route("full", "");
    let finished = site.run("check", &["--json"]);
    assert_eq!(finished.code, Some(1));
    let finding: serde_json::Value = serde_json::from_str(finished.stdout.lines().next().unwrap()).unwrap();
    assert!(finding["what"].as_str().unwrap().contains("holds data that this stream did not write"), "{finding}");
    assert!(finding["mend"].as_str().unwrap().contains("force: true"), "{finding}");
    route("full", "force: true\n");
    assert_eq!(site.done("check", &[])["errors"], 0);

    std::fs::create_dir(dir.join("twin")).unwrap();
    std::fs::hard_link(dir.join("source/sqlite.db"), dir.join("twin/sqlite.db")).unwrap();
    route("twin", "force: true\n");
    let finished = site.run("check", &[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stdout.contains("two names of one place"), "{}", finished.stdout);
}

#[test]
fn a_destination_of_somebody_else_and_a_port_in_use_stop_before_anything_is_written() {
    let site = Site::new("refusals", "");
    let dir = site.folder();
    backend(&dir.join("source"));
    backend(&dir.join("full"));
    let before = std::fs::read(dir.join("full/sqlite.db")).unwrap();
    let route = |dst: &str, rest: &str| {
        let path = |name: &str| dir.join(name).display().to_string();
        let yaml =
            format!("src: {{type: dir, path: {}}}\ndst: {{type: sqlite, path: {}}}\n{rest}", path("source"), path(dst));
        site.configure(&yaml);
    };
    route("full", "");
    for verb in ["clone", "run"] {
        let finished = site.run(verb, &[]);
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(sentence(&finished).contains("set `force: true`"), "{}", finished.stderr);
    }
    assert!(std::fs::read(dir.join("full/sqlite.db")).unwrap() == before, "the destination was written to");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    route("copy", &format!("listen: {}\n", taken.local_addr().unwrap()));
    let finished = site.run("run", &[]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(sentence(&finished).contains("the port is in use"), "{}", finished.stderr);
    assert!(!dir.join("copy").try_exists().unwrap());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let site = Site::new("pipe", "");
    let dir = site.folder();
    backend(&dir.join("source"));
    let path = |name: &str| dir.join(name).display().to_string();
    site.configure(&format!(
        "src: {{type: dir, path: {}}}\ndst: {{type: sqlite, path: {}}}\nlisten: false\n",
        path("source"),
        path("copy")
    ));
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftless"));
    command.args(["status", "--watch", "-c"]).arg(site.config()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = [0u8; 8];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn secrets_from_the_environment_and_from_files_stay_secret() {
    let site = Site::new("secrets", "");
    let secret = site.folder().join("password");
    let mut file = std::fs::File::create(&secret).unwrap();
    writeln!(file, "{PLANTED}").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Port 1 of the loopback: nobody listens there.
    let conn = format!("postgresql://u:${{file:{}}}@127.0.0.1:1/d", secret.display());
    site.configure(&format!("src: {{type: postgresql, conn_string: '{conn}'}}\ndst: {{type: sqlite, path: copy}}\n"));
    let finished = site.run("drop-slot", &["-vv"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(sentence(&finished).contains("127.0.0.1:1"), "{}", finished.stderr);
}

#[cfg(feature = "postgresql")]
mod postgresql {
    //! What a PostgreSQL server refuses.

    use super::{Site, sentence};
    use crate::support::pg;

    #[test]
    fn a_refused_password_and_an_unreachable_host_are_told_apart() {
        let server = pg::primary();
        let good = server.url("postgres");
        let site = Site::new("refused", "");
        for (url, code, said) in [
            (good.replace(pg::PASSWORD, super::PLANTED), 2, "password authentication failed"),
            (good.replace("/postgres?", "/no_such_database?"), 2, "no_such_database"),
            (good.replace(&format!(":{}/", server.port), ":1/"), 1, "127.0.0.1:1"),
            (good.replace("127.0.0.1", "no-such-host.invalid"), 1, "no-such-host.invalid"),
            (good.replace("sslmode=disable", "sslmode=sometimes"), 2, "sslmode"),
        ] {
            site.configure(&format!(
                "src: {{type: postgresql, conn_string: '{url}'}}\ndst: {{type: sqlite, path: copy}}\n"
            ));
            let finished = site.run("drop-slot", &[]);
            assert!(sentence(&finished).contains(said), "{}", finished.stderr);
            assert_eq!(finished.code, Some(code), "{}", finished.stderr);
            assert!(!finished.stderr.contains(pg::PASSWORD), "{}", finished.stderr);
        }
    }

    #[test]
    fn one_database_under_two_spellings_is_refused_before_anything_is_touched() {
        let server = pg::primary();
        let url = server.url("postgres");
        let pairs = format!("host=127.0.0.1 port={} user=someone dbname=postgres sslmode=disable", server.port);
        let site = Site::new(
            "same-database",
            &format!(
                "src: {{type: postgresql, conn_string: '{url}'}}\ndst: {{type: postgres, conn_string: '{pairs}'}}\n"
            ),
        );
        for verb in ["run", "clone", "status"] {
            let finished = site.run(verb, &[]);
            assert_eq!(finished.code, Some(2));
            assert!(sentence(&finished).contains("`src` and `dst` are the same database"), "{}", finished.stderr);
        }
    }

    #[test]
    fn every_verb_says_which_server_does_not_answer_and_which_password_is_refused() {
        let server = pg::primary();
        let good = server.url("postgres");
        let site = Site::new("unreachable", "");
        super::backend(&site.folder().join("source"));
        for (url, code, said) in [
            (good.replace(&format!(":{}/", server.port), ":1/"), 1, "127.0.0.1:1"),
            (good.replace(pg::PASSWORD, super::PLANTED), 2, "password authentication failed"),
        ] {
            let path = site.folder().join("source").display().to_string();
            site.configure(&format!(
                "src: {{type: sqlite, path: {path}}}\ndst: {{type: postgresql, conn_string: '{url}'}}\n"
            ));
            for verb in ["status", "verify", "check"] {
                let finished = site.run(verb, &[]);
                let all = format!("{}{}", finished.stdout, finished.stderr);
                assert!(all.contains(said) && !all.contains(super::PLANTED), "{verb}: {all}");
                assert_eq!(finished.code, Some(if verb == "check" { 1 } else { code }), "{verb}: {all}");
            }
        }
    }

    #[test]
    fn a_copy_is_equal_and_a_stray_change_is_exit_code_4() {
        let server = pg::primary();
        let database = server.database("cli");
        let site = Site::new("exit-codes", "");
        super::backend(&site.folder().join("source"));
        let path = site.folder().join("source").display().to_string();
        let url = server.url(&database);
        site.configure(&format!("src: {{type: dir, path: {path}}}\ndst: {{type: postgres, conn_string: '{url}'}}\n"));
        let copied = site.done("clone", &[]);
        assert_eq!((&copied["event"], &copied["items"]), (&"done".into(), &1.into()));
        assert_eq!(server.psql(&database, "select convert_from(key, 'UTF8') from kv"), "/a");
        assert_eq!(site.done("verify", &[])["equal"], true);
        assert_eq!(site.status()["reason"], "copied once; nobody follows the source");
        server.psql(&database, "update kv set value = 'other'");
        let finished = site.run("verify", &["--json"]);
        assert_eq!(finished.code, Some(4), "{}", finished.stderr);
        assert_eq!((&finished.json()["equal"], &finished.json()["different"]), (&false.into(), &1.into()));
    }

    #[test]
    fn a_slot_that_is_not_there_is_no_error() {
        let server = pg::primary();
        let site = Site::new(
            "drop-slot",
            &format!(
                "name: never-run\nsrc: {{type: postgresql, conn_string: '{}'}}\ndst: {{type: sqlite, path: copy}}\n",
                server.url("postgres")
            ),
        );
        let finished = site.run("drop-slot", &[]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(
            finished.stdout.contains("never-run: there is no replication slot driftless_never_run"),
            "{}",
            finished.stdout
        );
    }
}
