//! Time, handed in: decisions never look at a clock themselves, so a simulation can bring its own.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::model::Micros;

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment of this process; never goes back.
    fn now(&self) -> Duration;

    /// Wall-clock time, for expiry only.
    fn wall(&self) -> Micros;

    /// Waits.
    fn sleep(&self, pause: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>>;
}

/// The machine's clock and tokio's timer.
#[derive(Debug)]
pub struct RealClock(std::time::Instant);

impl Default for RealClock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> Micros {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
    }

    fn sleep(&self, pause: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        Box::pin(tokio::time::sleep(pause))
    }
}
