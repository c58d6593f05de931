//! Progress, on stderr: bars on a terminal, plain log lines elsewhere.
//!
//! It only reads what pipelines say of themselves, so nothing waits for it. Log lines and bars share the terminal:
//! [`Stderr`] is the writer that keeps them apart.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::cli::print::{number, size};
use crate::engine::status::{Shared, State, Status};

/// How often bars are drawn, and lines are written where there are no bars.
const DRAW: Duration = Duration::from_millis(200);
const TELL: Duration = Duration::from_secs(10);
/// LIMIT: rates are taken over this time; long enough to be read, short enough to show a stall.
const WINDOW: Duration = Duration::from_secs(5);

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Writes to stderr without tearing the bars.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        bars().suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Shows what these pipelines do until it is dropped. `bars`: draw, if stderr is a terminal.
pub async fn show(pipelines: Vec<Shared>, draw: bool) {
    let draw = draw && std::io::stderr().is_terminal();
    let mut lines: Vec<Line> = pipelines.into_iter().map(|shared| Line::new(shared, draw)).collect();
    loop {
        tokio::time::sleep(if draw { DRAW } else { TELL }).await;
        for line in &mut lines {
            line.tick(Instant::now());
        }
    }
}

struct Line {
    shared: Shared,
    bar: Option<ProgressBar>,
    rows: Meter,
    changes: Meter,
    since: Instant,
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Line {
    fn new(shared: Shared, draw: bool) -> Self {
        let bar = draw.then(|| {
            let style = ProgressStyle::with_template("{prefix:.bold} {bar:24} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            bars().add(ProgressBar::new(1).with_style(style).with_prefix(shared.get().name))
        });
        Self { shared, bar, rows: Meter::default(), changes: Meter::default(), since: Instant::now() }
    }

    fn tick(&mut self, now: Instant) {
        let status = self.shared.get();
        let elapsed = now.saturating_duration_since(self.since);
        let rows = self.rows.rate(elapsed, status.walk.rows);
        let changes = self.changes.rate(elapsed, status.changes);
        let sentence = sentence(&status, rows, changes, elapsed);
        match &self.bar {
            Some(bar) => {
                let walk = &status.walk;
                let walking = is_walking(status.state);
                bar.set_length(if walking { walk.ranges.max(1) as u64 } else { 1 });
                bar.set_position(if walking { walk.ranges_done as u64 } else { u64::from(status.consistent) });
                bar.set_message(sentence);
            }
            // Where nobody watches, a line is worth its place only while something has an end.
            None if is_walking(status.state) => tracing::info!(stream = status.name, "{sentence}"),
            None => {}
        }
    }
}

fn is_walking(state: State) -> bool {
    matches!(state, State::Snapshot | State::Gap)
}

/// What a pipeline is doing, for people. Pure.
fn sentence(status: &Status, rows: f64, changes: f64, elapsed: Duration) -> String {
    let per_second = |rate: f64| number(rate.round() as u64);
    match status.state {
        State::Snapshot | State::Gap => {
            let walk = &status.walk;
            let left = left(walk.ranges_done, walk.ranges, elapsed)
                .map_or_else(String::new, |left| format!(", about {} left", duration(left)));
            let what = if status.state == State::Snapshot { "copying" } else { "healing a gap" };
            let (count, bytes, rate) = (number(walk.rows), size(walk.bytes), per_second(rows));
            format!("{what}: {}/{} ranges, {count} rows, {bytes}, {rate} rows/s{left}", walk.ranges_done, walk.ranges)
        }
        State::CatchingUp | State::Following => {
            let lag = status.lag.map_or_else(|| "unknown".into(), |lag| format!("{:.1} s", lag.as_secs_f64()));
            let word = if status.state == State::Following { "following" } else { "catching up" };
            format!("{word}: lag {lag}, {} changes/s", per_second(changes))
        }
        State::Standby => format!("standing by: {}", status.reason),
        State::Stopped if status.reason.is_empty() => "stopped".into(),
        State::Stopped => format!("stopped: {}", status.reason),
    }
}

/// Time that the remaining ranges take if they take as long as those that are done.
fn left(done: usize, all: usize, elapsed: Duration) -> Option<Duration> {
    if done == 0 || done > all {
        return None;
    }
    Some(elapsed.mul_f64((all - done) as f64 / done as f64))
}

fn duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A rate over the last few seconds.
#[derive(Debug, Default)]
struct Meter(VecDeque<(Duration, u64)>);

impl Meter {
    fn rate(&mut self, now: Duration, count: u64) -> f64 {
        // A new walk begins to count at 0 again.
        if self.0.back().is_some_and(|(_, last)| count < *last) {
            self.0.clear();
        }
        self.0.push_back((now, count));
        while self.0.len() > 2 && now.saturating_sub(self.0[1].0) >= WINDOW {
            self.0.pop_front();
        }
        let (first, before) = self.0[0];
        let seconds = now.saturating_sub(first).as_secs_f64();
        if seconds > 0.0 { (count - before) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::status::Walk;

    #[test]
    fn a_rate_is_that_of_the_last_seconds_and_survives_a_new_walk() {
        let mut meter = Meter::default();
        let at = Duration::from_secs;
        assert_eq!(meter.rate(at(0), 0), 0.0);
        for second in 1..=20 {
            meter.rate(at(second), second * 100);
        }
        assert_eq!(meter.rate(at(21), 2_000 + 600), 200.0, "five seconds with 1 000 rows, the last of them with 600");
        assert_eq!(meter.rate(at(22), 5), 0.0);
        assert_eq!(meter.rate(at(23), 15), 10.0);
    }

    #[test]
    fn a_copy_tells_rate_and_time_left() {
        let walk = Walk { ranges: 4, ranges_done: 1, rows: 12_000, bytes: 6 << 20 };
        let mut status = Status { state: State::Snapshot, walk, ..Status::default() };
        assert_eq!(
            sentence(&status, 1_500.4, 0.0, Duration::from_secs(30)),
            "copying: 1/4 ranges, 12 000 rows, 6.0 MiB, 1 500 rows/s, about 1 min 30 s left"
        );
        status.state = State::Following;
        status.lag = Some(Duration::from_millis(120));
        assert_eq!(sentence(&status, 0.0, 42.0, Duration::ZERO), "following: lag 0.1 s, 42 changes/s");
    }
}
