//! Snapshots that the journal takes beside its work: what they cost the delay of a change.

use std::time::Duration;

use super::fanout::{CLOCK, Clock, delay};
use super::sides::Side;
use crate::support::pg;
use crate::support::program::Site;
use crate::support::scale::{figure, pick};
use crate::support::teleport::{Item, items};

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn fresh_snapshots_are_taken_all_the_time_and_cost_the_changes_beside_them_little() {
    let mut all = items(pick(20_000, 200_000));
    all.push(Item { key: CLOCK.into(), value: Some(b"0".to_vec()), expires: None, ..all[0].clone() });
    let rows = all.len();
    let source = Side::pg(pg::primary(), "fresh", Some(&all));
    let site = Site::new("fresh", "");
    let sink = Side::sqlite(&site.folder().join("dst"), None);
    let dst = sink.yaml().replace("type: sqlite,", "type: sqlite, journal: WAL,");
    let configure = |every: &str| {
        let journal = format!("{{ enabled: true, snapshot_every: {every}, retain: 1s }}");
        site.configure(&format!("name: fresh\nsrc: {}\ndst: {dst}\njournal: {journal}\n", source.yaml()));
    };
    let taken = || site.done("journal ls", &[])["snapshots"].as_array().unwrap().len();
    let span = Duration::from_secs(pick(4, 20));
    let measure = || {
        let program = site.start("run", &[]);
        site.until_caught_up(PATIENCE);
        let clock = Clock::start(&source);
        let measured = delay(&sink, span);
        clock.stop();
        assert!(program.stop(PATIENCE).success());
        measured
    };
    configure("never");
    let without = measure();
    assert_eq!(taken(), 0);
    configure("1s");
    let with = measure();
    assert!(taken() > 0, "{}", site.log());
    figure(
        "4.0",
        "snapshot-delay",
        format!(
            "p99 of the delay {:.1} ms without snapshots, {:.1} ms while {} snapshots of {rows} rows are taken in {} s",
            without as f64 / 1e3,
            with as f64 / 1e3,
            taken(),
            span.as_secs()
        ),
    );
    // LIMIT: far from what is measured, so that a busy machine does not fail it; a snapshot that holds up changes does.
    assert!(with < 5 * without + 200_000, "{without} µs without snapshots, {with} µs with them");
    drop(site.run("drop-slot", &[]));
}
