//! The verbs that take their time, `run`, `clone` and `verify`: signals, progress, the status server, the last line.

use std::sync::Arc;

use crate::cli::args::{Follow, Verify};
use crate::cli::exit::Exit;
use crate::cli::http::{Board, Server};
use crate::cli::print::Printer;
use crate::cli::progress;
use crate::cli::signals;
use crate::config::Config;
use crate::engine::compare::Difference;
use crate::engine::status::Shared;
use crate::error::{Error, Result};
use crate::model;
use crate::ops::copy::copy;
use crate::ops::run::Work;
use crate::ops::verify::{Sample, verify};
use crate::telemetry;

/// `run`.
pub(super) async fn run(config: Config, options: &Follow, printer: Printer) -> Result<Exit> {
    let work = Work::open(&config)?;
    let stopped = signals::listen()?;
    let shown: Vec<Shared> = work.statuses().iter().map(|(shared, _)| shared.clone()).collect();
    let metrics = telemetry::start_metrics()?;
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let board = Arc::new(Board { pipelines: work.statuses().to_vec(), metrics });
    if let Some(address) = config.listen {
        let server = Server::bind(address).await?;
        tokio::spawn(server.serve(board, stopped.clone()));
    }
    let showing = tokio::spawn(progress::show(shown, !printer.is_json()));
    let result = work.run(Arc::new(config), options.takeover, stopped).await;
    showing.abort();
    drop(showing.await);
    result.map(|()| Exit::Done)
}

/// `clone`.
pub(super) async fn clone(config: Config, options: &Follow, printer: Printer) -> Result<Exit> {
    let stopped = signals::listen()?;
    // A mistake in the last pipeline is found before the first one starts.
    Work::open(&config)?;
    for pipeline in &config.pipelines {
        let status = Shared::new(&pipeline.name);
        let showing = tokio::spawn(progress::show(vec![status.clone()], !printer.is_json()));
        let result = copy(&config, pipeline, options.takeover, status, stopped.clone()).await;
        showing.abort();
        drop(showing.await);
        match result? {
            Some(copied) => printer.copied(&copied)?,
            None => {
                return Err(Error::transient(format!(
                    "copy {}: stopped before it was complete; the next clone goes on from there",
                    pipeline.name
                )));
            }
        }
    }
    Ok(Exit::Done)
}

/// `verify`.
pub(super) async fn compare(config: Config, options: &Verify, printer: Printer) -> Result<Exit> {
    let mut exit = Exit::Done;
    for pipeline in &config.pipelines {
        let mut progress = |_compared| {};
        let done = verify(&config, pipeline, options.repair, options.takeover, options.show, &mut progress);
        let (verified, samples) = done.await?;
        for sample in &samples {
            let (what, key) = shown(sample);
            printer.difference(what, &key)?;
        }
        if !verified.equal {
            exit = Exit::Different;
        }
        printer.verified(&verified)?;
    }
    Ok(exit)
}

/// A key that differs, without what may be secret in it.
fn shown((table, key, difference): &Sample) -> (&'static str, String) {
    let what = match difference {
        Difference::Missing => "missing",
        Difference::Different => "different",
        Difference::Extra => "extra",
    };
    (what, model::shown(table, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_differing_key_is_shown_without_the_token_in_it() {
        let sample = (String::new(), b"/tokens/planted-token".to_vec(), Difference::Missing);
        let (what, shown) = shown(&sample);
        assert_eq!(what, "missing");
        assert!(!shown.contains("planted-token") && shown.starts_with('…'), "{shown}");
        let node = (String::new(), b"/nodes/default/abc".to_vec(), Difference::Extra);
        assert!(super::shown(&node).1.starts_with("/nodes/default/…"));
    }
}
