//! `status`: what the running process says, and where none answers, what the sink's own records and the source's head say.
//!
//! Takes and changes nothing. A source that cannot be reached is no reason to say nothing: that is when somebody wants to
//! know how far the replica is.

use std::time::Duration;

use crate::config::{Config, Pipeline};
use crate::engine::plan::{self, Plan};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Position, StreamRecord};
use crate::ops::control::{self, Request};
use crate::ops::owner;
use crate::ops::route::Route;
use crate::ops::view::{View, Views, positions};

/// LIMIT: how long a running process may take to answer; it only copies a struct.
const PATIENCE: Duration = Duration::from_secs(2);
/// LIMIT: an owner moves its record at least every two and a half seconds, so one that is alive is seen within this time.
const REFRESH: Duration = Duration::from_millis(3_000);

/// What every pipeline of the configuration is doing.
///
/// # Errors
/// When a sink cannot be asked.
pub async fn status(config: &Config) -> Result<Views> {
    let mut pipelines = Vec::with_capacity(config.pipelines.len());
    for pipeline in &config.pipelines {
        pipelines.push(one(config, pipeline).await?);
    }
    Ok(Views { pipelines })
}

async fn one(config: &Config, pipeline: &Pipeline) -> Result<View> {
    let local = crate::ops::local::Local::new(&config.state_dir, &pipeline.name);
    // A process that goes away while it is asked is asked no more; the records say the rest.
    if let Ok(Some(answer)) = control::ask(&local, Request::Status, PATIENCE).await {
        return serde_json::from_value(answer)
            .map_err(|_| Error::corrupt("ask the running process: it is of another version of driftless; restart it"));
    }
    let route = Route::open(config, pipeline)?;
    let asked = async {
        match &route.source.source {
            Some(source) => source.head().await,
            None => Err(Error::bug("ask the source for its head: it was opened without one")),
        }
    };
    let (record, head) = tokio::join!(inspect(&route), asked);
    let record = record?;
    let mut view = from_records(&pipeline.name, &route.scope.extent, record.as_ref(), head.as_ref().ok());
    if let Err(error) = head {
        view.reason = format!("the source did not answer: {error}");
    }
    if let Some(record) = record.filter(|record| owner::peek(&route.local).as_ref() != Some(&record.owner)) {
        tokio::time::sleep(REFRESH).await;
        if inspect(&route).await?.is_some_and(|later| later.pulse() != record.pulse()) {
            view.state = works_elsewhere(&record, &route.scope.extent, view.consistent).to_owned();
            view.reason = format!("run by another process, {}", record.owner.0);
        }
    }
    Ok(view)
}

/// The sink's record of the stream.
pub(super) async fn inspect(route: &Route) -> Result<Option<StreamRecord>> {
    match &route.sink.sink {
        Some(sink) => sink.inspect(&route.stream).await,
        None => Err(Error::bug("inspect the sink: it was opened without one")),
    }
}

fn next_step(record: &StreamRecord, extent: &str) -> Plan {
    let lanes: Vec<Checkpoint> = record.lanes.iter().map(|lane| lane.checkpoint.clone()).collect();
    plan::plan(&lanes, extent, false, record.foreign)
}

fn works_elsewhere(record: &StreamRecord, extent: &str, covered: bool) -> &'static str {
    match next_step(record, extent) {
        Plan::Follow if covered => "following",
        Plan::Follow => "catching_up",
        Plan::Heal { .. } => "gap",
        Plan::Pin { .. } | Plan::Load { .. } => "snapshot",
    }
}

/// What records alone tell. Pure.
fn from_records(name: &str, extent: &str, record: Option<&StreamRecord>, head: Option<&Checkpoint>) -> View {
    let frontier = record.map(StreamRecord::frontier).unwrap_or_default();
    let whole = record.is_some_and(|record| next_step(record, extent) == Plan::Follow);
    let covered = whole && head.is_some_and(|head| frontier.covers(head));
    let reason = match record {
        None => "nothing was copied yet",
        Some(_) if !whole && *frontier.get(&plan::loaded()) == Position::End => {
            "copied once; nobody follows the source"
        }
        Some(_) if !whole => "the copy is not complete; no process of this machine runs it",
        Some(_) => "no process of this machine runs it",
    };
    View {
        name: name.to_owned(),
        state: "stopped".into(),
        consistent: covered,
        lag_seconds: covered.then_some(0.0),
        lag_changes: covered.then_some(0),
        frontier: positions(&frontier),
        head: head.map(positions).unwrap_or_default(),
        heads: 0,
        epoch: record.map_or(0, |record| record.lanes.iter().map(|lane| lane.epoch).max().unwrap_or(0)),
        reason: reason.into(),
        ranges: 0,
        ranges_done: 0,
        rows: 0,
        bytes: 0,
        changes: 0,
        gaps: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LaneRecord, Owner, PartitionId, Scope};

    fn record(marks: &[(&str, Position)]) -> StreamRecord {
        let mut checkpoint: Checkpoint =
            marks.iter().map(|(name, position)| (PartitionId::new(*name), position.clone())).collect();
        checkpoint.advance(&plan::scope("all"), &Position::End);
        StreamRecord {
            format: StreamRecord::FORMAT,
            owner: Owner("us".into()),
            scope: Scope { layout: String::new(), extent: "all".into(), lanes: 1 },
            foreign: false,
            lanes: vec![LaneRecord { epoch: 4, number: 9, beat: 0, checkpoint }],
        }
    }

    #[test]
    fn records_tell_whether_the_copy_is_complete_and_covers_the_source() {
        let head: Checkpoint = [(PartitionId::new("p"), Position::at("2"))].into_iter().collect();
        let marks = |snapshot: Position, at: &str| {
            record(&[("!snapshot/1", snapshot), ("!loaded", Position::End), ("p", Position::at(at))])
        };
        let view = |record: Option<&StreamRecord>| from_records("s", "all", record, Some(&head));
        let caught_up = view(Some(&marks(Position::End, "2")));
        assert!(caught_up.consistent);
        assert_eq!((caught_up.lag_seconds, caught_up.epoch), (Some(0.0), 4));
        assert_eq!((caught_up.frontier.as_str(), caught_up.head.as_str()), ("p @2", "p @2"));
        let behind = view(Some(&marks(Position::End, "1")));
        assert!(!behind.consistent);
        assert_eq!(behind.lag_seconds, None);
        let unfinished = view(Some(&record(&[("!snapshot/1", Position::Start), ("p", Position::at("2"))])));
        assert!(!unfinished.consistent && unfinished.reason.contains("not complete"));
        let once = view(Some(&record(&[("!clone/1", Position::End), ("!loaded", Position::End)])));
        assert!(!once.consistent && once.reason.contains("copied once"));
        assert_eq!(view(None).reason, "nothing was copied yet");
    }
}
