//! Log lines of one future, for tests of what is said aloud.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::instrument::{WithDispatch, WithSubscriber};
use tracing_subscriber::fmt::MakeWriter;

/// Log lines, collected.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Collects what a future says while it is polled.
    pub fn during<F: Future>(&self, future: F) -> WithDispatch<F> {
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(self.clone()).finish();
        future.with_subscriber(subscriber)
    }

    /// What was said.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
