//! How a running process is asked to stop.
//!
//! The first SIGTERM or Ctrl-C brings what is in flight to the sink and stops; a second one stops at once, which the next
//! start recovers from as from a crash.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::exit::Exit;
use crate::error::{Error, Result};

/// Starts to listen for signals; the value becomes true when one says stop.
pub fn listen() -> Result<watch::Receiver<bool>> {
    let failed = |error| Error::bug("listen for signals").because(error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let mut again = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if again {
                tracing::warn!("stopped at once; the next start resumes where the destination is");
                std::process::exit(i32::from(Exit::Failed as u8));
            }
            again = true;
            tracing::info!("stopping: what is in flight is brought to the destination; a second signal stops at once");
            stop.send_replace(true);
        }
    });
    Ok(stopped)
}
