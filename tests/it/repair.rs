//! `verify --repair` beside a process that follows: what was repaired is in the destination when it is said.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::pg;
use crate::support::program::Site;
use crate::support::teleport::{Item, PgDb, SqliteDb, assert_same, items, now_us};

const PATIENCE: Duration = Duration::from_secs(60);
/// For how long the destination takes no commit.
const HELD: Duration = Duration::from_secs(2);

#[test]
fn a_repair_is_done_when_it_is_durable_however_long_the_destination_takes() {
    let folder = tempfile::tempdir().unwrap();
    let source = SqliteDb::create(folder.path().join("src"), &items(20));
    let sink = PgDb::empty(pg::secondary(), "repair");
    let site = Site::new(
        "repair",
        &format!(
            "src: {{ type: sqlite, path: {:?} }}\ndst: {{ type: postgresql, conn_string: {:?} }}\n",
            source.folder,
            sink.url()
        ),
    );
    let program = site.start("run", &[]);
    site.until_caught_up(PATIENCE);
    sink.put(&Item { key: "/apps/extra".into(), ..items(1)[0].clone() });

    // Everybody may read and nobody write, until the lock is gone.
    let mut holder = sink.psql().stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = holder.stdin.take().unwrap();
    writeln!(input, "begin; lock table kv in share mode; select pg_sleep({}); commit;", HELD.as_secs()).unwrap();
    drop(input);
    let deadline = Instant::now() + PATIENCE;
    while sink.run("select count(*) from pg_locks where relation = 'kv'::regclass and mode = 'ShareLock'") != "1" {
        assert!(Instant::now() < deadline, "nobody holds the lock");
    }
    let verdict = site.done("verify", &["--repair"]);
    assert_eq!((&verdict["equal"], &verdict["repaired"]), (&true.into(), &1.into()), "{verdict}");
    assert!(holder.wait().unwrap().success());
    assert_same(&source.dump(now_us()), &sink.dump(now_us()));
    assert!(program.stop(PATIENCE).success());
}
