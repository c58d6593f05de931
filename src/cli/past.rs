//! The verbs that go back in time, `replay` and `restore`: signals, progress, the last line.

use std::future::Future;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::args::{Replay, Restore};
use crate::cli::exit::Exit;
use crate::cli::print::{Printer, columns, number};
use crate::cli::{progress, signals};
use crate::config::{Config, Pipeline};
use crate::engine::status::Shared;
use crate::error::{Error, Result};
use crate::ops::journal::Bound;
use crate::ops::outcome::{Foreseen, Replayed, Restored};
use crate::ops::replay::{self, Wanted, foresee};
use crate::ops::restore;

/// `replay`.
pub(super) async fn replay(config: Config, options: &Replay, printer: Printer) -> Result<Exit> {
    let wanted = Wanted {
        from: options.from.parse()?,
        until: options.until.as_deref().map(str::parse).transpose()?,
        speed: options.speed.clone(),
        force: options.force,
    };
    if options.dry_run {
        for pipeline in &config.pipelines {
            let (whole, sorts) = foresee(&config, pipeline, &wanted).await?;
            let mut value = plain(&whole)?;
            value["sorts"] = plain(&sorts)?;
            printer.past("dry_run", &value, &foreseen(&whole, &sorts))?;
        }
        return Ok(Exit::Done);
    }
    let stop = signals::listen()?;
    for pipeline in &config.pipelines {
        let begun = Instant::now();
        let work = |status| replay::replay(&config, pipeline, &wanted, status, stop.clone());
        let done = shown(pipeline, "replay", printer, work).await?;
        let seconds = begun.elapsed().as_secs_f64();
        printer.past("done", &timed(&done, seconds)?, &replayed(&done, seconds))?;
    }
    Ok(Exit::Done)
}

/// `restore`.
pub(super) async fn restore(config: Config, options: &Restore, printer: Printer) -> Result<Exit> {
    let at: Bound = options.at.parse()?;
    let stop = signals::listen()?;
    for pipeline in &config.pipelines {
        let begun = Instant::now();
        let work = |status| restore::restore(&config, pipeline, &at, options.force, status, stop.clone());
        let done = shown(pipeline, "restore", printer, work).await?;
        let seconds = begun.elapsed().as_secs_f64();
        printer.past("done", &timed(&done, seconds)?, &restored(&done, seconds))?;
    }
    Ok(Exit::Done)
}

/// Shows progress until it is done, and says so if it was stopped before.
async fn shown<T, F>(pipeline: &Pipeline, verb: &str, printer: Printer, work: impl FnOnce(Shared) -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let status = Shared::new(&pipeline.name);
    let showing = tokio::spawn(progress::show(vec![status.clone()], !printer.is_json()));
    let done = work(status).await;
    showing.abort();
    drop(showing.await);
    let name = &pipeline.name;
    done?.ok_or_else(|| {
        Error::transient(format!("{verb} {name}: stopped before it was complete; the same command goes on from there"))
    })
}

fn plain(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|_| Error::bug("write a result"))
}

fn timed(done: &impl Serialize, seconds: f64) -> Result<Value> {
    let mut value = plain(done)?;
    value["seconds"] = json!(seconds);
    Ok(value)
}

fn span(first: Option<&String>, last: Option<&String>) -> String {
    match (first, last) {
        (Some(first), Some(last)) => format!("committed from {first} to {last}"),
        _ => "whose times are not known".to_owned(),
    }
}

fn replayed(done: &Replayed, seconds: f64) -> String {
    let Replayed { name, from, until, changes, first, last } = done;
    let (changes, span) = (number(*changes), span(first.as_ref(), last.as_ref()));
    format!("{name}: replayed {changes} changes {span}, from {from} to {until}, in {seconds:.1} s\n")
}

fn restored(done: &Restored, seconds: f64) -> String {
    let Restored { name, at, snapshot, snapshot_ended, items, changes, place, .. } = done;
    let (items, changes, ended) =
        (number(*items), number(*changes), snapshot_ended.as_deref().unwrap_or("an unknown time"));
    format!(
        "{name}: restored the state at {at} ({place}) from snapshot {snapshot}, complete at {ended}, {items} items and \
         {changes} changes, in {seconds:.1} s\n"
    )
}

fn foreseen(whole: &Replayed, sorts: &[Foreseen]) -> String {
    let Replayed { name, from, until, changes, first, last } = whole;
    let (changes, span) = (number(*changes), span(first.as_ref(), last.as_ref()));
    let mut out = format!("{name}: {changes} changes {span}, from {from} to {until}; of these would be written:\n");
    let mut rows = vec![["", "PUTS", "PATCHES", "DELETES", "CLEARS"].map(str::to_owned)];
    rows.extend(sorts.iter().map(|sort| {
        let Foreseen { what, puts, patches, deletes, clears } = sort;
        [what.clone(), number(*puts), number(*patches), number(*deletes), number(*clears)]
    }));
    out.push_str(&if sorts.is_empty() { "nothing\n".into() } else { columns(&rows) });
    out
}
