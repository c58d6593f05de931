//! How fast requests follow each other: within a limit of units, and slower for as long as the service asks for it.
//!
//! The units that a request took are known only when it is answered, so what it took beyond its time is waited for before
//! the next one. When the service says that it is too much, everybody who shares this waits longer before the next request,
//! and a little less after each that goes well.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// The first pause after a refusal.
const FIRST: Duration = Duration::from_millis(20);
/// LIMIT: the longest pause between two requests; a table that cannot be read once in this time is as good as away.
const LONGEST: Duration = Duration::from_secs(2);

/// The pace of everybody who asks one table.
#[derive(Debug)]
pub struct Pace {
    /// Units a second.
    limit: Option<u32>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When what was taken so far has been waited for.
    paid: Instant,
    /// The pause before a request.
    pause: Duration,
}

impl Pace {
    /// With so many units a second, or as many as the service gives.
    pub fn new(limit: Option<u32>) -> Self {
        Self { limit, state: Mutex::new(State { paid: Instant::now(), pause: Duration::ZERO }) }
    }

    /// Waits for its turn.
    pub async fn turn(&self) {
        let (paid, pause) = {
            let state = self.lock();
            (state.paid, state.pause)
        };
        if !pause.is_zero() {
            sleep(jitter(pause)).await;
        }
        if self.limit.is_some() {
            sleep_until(paid).await;
        }
    }

    /// A request went well, and took so many units.
    pub fn took(&self, units: f64) {
        let mut state = self.lock();
        state.pause = state.pause.mul_f64(0.8);
        if state.pause < Duration::from_millis(1) {
            state.pause = Duration::ZERO;
        }
        if let Some(limit) = self.limit {
            let cost = Duration::try_from_secs_f64(units.max(0.0) / f64::from(limit.max(1))).unwrap_or(LONGEST);
            state.paid = state.paid.max(Instant::now()) + cost;
        }
    }

    /// A request was too much.
    pub fn refused(&self) {
        let mut state = self.lock();
        state.pause = (state.pause * 2).clamp(FIRST, LONGEST);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time up to the given one, so that who was refused together does not come again together.
pub fn jitter(most: Duration) -> Duration {
    let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
    // The lowest digits of a clock are as good as dice here.
    most.mul_f64(0.5 + f64::from(nanos % 1_000) / 2_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_taken_is_waited_for() {
        let pace = Pace::new(Some(1_000));
        let begun = Instant::now();
        for _ in 0..5 {
            pace.turn().await;
            pace.took(40.0);
        }
        pace.turn().await;
        assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_refusal_slows_everybody_down_and_success_brings_the_pace_back() {
        let pace = Pace::new(None);
        pace.refused();
        assert_eq!(pace.lock().pause, FIRST);
        for _ in 0..20 {
            pace.refused();
        }
        assert_eq!(pace.lock().pause, LONGEST);
        for _ in 0..60 {
            pace.took(1.0);
        }
        assert_eq!(pace.lock().pause, Duration::ZERO);
        for _ in 0..100 {
            assert!((LONGEST / 2..=LONGEST).contains(&jitter(LONGEST)));
        }
    }
}
