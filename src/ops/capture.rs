//! `capture`: from every source into its journal, and nothing else.
//!
//! One reader for each source, however many pipelines name it. The source may forget what the journal has. No sink is touched,
//! so nothing is claimed; the journal's folder is locked while it is written.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Config, Enabled, Pipeline};
use crate::engine::policy::{self, Reaction};
use crate::error::{Error, Result};
use crate::kinds::open::shared::{Reader, leader};
use crate::kinds::open::{Side, Wanted, open};

/// A capture that went on for so long has not failed "again".
const STEADY: Duration = Duration::from_secs(60);

/// Captures until told to stop.
///
/// # Errors
/// The first error that ended the capture of a source, once none is left.
pub async fn capture(config: &Config, stop: &watch::Receiver<bool>) -> Result<()> {
    let mut readers: Vec<(String, Reader)> = Vec::new();
    for pipeline in &config.pipelines {
        refuse_without(pipeline)?;
        let name = leader(config, pipeline);
        if readers.iter().any(|(known, _)| known == name) {
            continue;
        }
        let opened = open(Wanted::new(config, pipeline), Side::Source)?;
        let source = opened.source.zip(opened.followed);
        let source = source.ok_or_else(|| Error::bug(format!("open {name}: no source")))?;
        readers.push((name.to_owned(), Reader::alone(config, pipeline, name, source)?));
    }
    let mut running = JoinSet::new();
    for (name, reader) in readers {
        running.spawn(one(name, reader, stop.clone()));
    }
    let mut first = Ok(());
    while let Some(ended) = running.join_next().await {
        let result = ended.unwrap_or_else(|_| Err(Error::bug("capture: a task has panicked")));
        if let (Err(error), false) = (&result, running.is_empty()) {
            tracing::error!(%error, "a capture has stopped; the others go on");
        }
        first = first.and(result);
    }
    first
}

fn refuse_without(pipeline: &Pipeline) -> Result<()> {
    if pipeline.journal.enabled != Enabled::Off {
        return Ok(());
    }
    let name = &pipeline.name;
    Err(Error::config(format!(
        "capture {name}: its `journal` says `enabled: false`; leave that out to capture into it"
    )))
}

async fn stopping(stop: &mut watch::Receiver<bool>) {
    // Nobody is left who could say so only when the process ends.
    drop(stop.wait_for(|stop| *stop).await);
}

/// Captures one source, again and again where it fails for a while.
async fn one(name: String, reader: Reader, mut stop: watch::Receiver<bool>) -> Result<()> {
    let mut failures = 0;
    loop {
        tracing::info!(source = name, "capturing into the journal");
        let begun = Instant::now();
        let ended = tokio::select! {
            biased;
            () = stopping(&mut stop) => None,
            ended = reader.capture() => ended.err(),
        };
        let Some(error) = ended else { return reader.stop().await };
        failures = if begun.elapsed() > STEADY { 1 } else { failures + 1 };
        let pause = match policy::of_attempt(error.fault(), failures) {
            Reaction::Stop => {
                drop(reader.stop().await);
                return Err(error.during(format!("capture {name}")));
            }
            // What was missed is noted in the journal, and capturing goes on behind it.
            Reaction::Heal => policy::pause(failures),
            Reaction::Retry(pause) | Reaction::Restart(pause) => pause,
        };
        tracing::warn!(source = name, %error, ?pause, "capturing goes on after a pause");
        tokio::select! {
            biased;
            () = stopping(&mut stop) => return reader.stop().await,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
