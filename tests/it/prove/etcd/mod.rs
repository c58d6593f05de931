//! What is claimed of etcd, looked at from outside.

use std::sync::atomic::{AtomicBool, Ordering};

mod chaos;
mod expiry;
mod quiet;
mod whole;

/// Tells a thread to stop, also when the test fails.
struct Told<'a>(&'a AtomicBool);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
