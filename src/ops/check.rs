//! `check`: everything that can be wrong, found before it matters. Changes nothing anywhere.
//!
//! One finding does not hide another: each question is asked whatever the others came to.

use std::time::Duration;

use crate::config::{Config, Pipeline};
use crate::error::{Error, Result};
use crate::kinds::open::{Endpoint, Side, Wanted, open};
use crate::model::{Batch, Owner, PartitionId, Position, Steps, StreamRecord};
use crate::ops::outcome::{Finding, Severity};
use crate::ops::owner;
use crate::ops::route::Route;
use crate::ops::status::inspect;
use crate::store::Store;

/// LIMIT: an owner refreshes its record at least every two seconds, so one that is alive is seen within this time.
const REFRESH: Duration = Duration::from_millis(2_500);

/// Everything that was found, for every pipeline of the configuration.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut all = Vec::new();
    for pipeline in &config.pipelines {
        let mut findings = Findings { name: pipeline.name.clone(), list: Vec::new() };
        match Route::open(config, pipeline) {
            Ok(route) => findings.of_route(&route, pipeline).await,
            Err(error) => findings.of_broken(&error, Wanted { config, pipeline }),
        }
        all.extend(findings.list);
    }
    all
}

struct Findings {
    name: String,
    list: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, side: &str, severity: Severity, what: impl Into<String>, mend: &str) {
        let (name, side, mend) = (self.name.clone(), side.to_owned(), mend.to_owned());
        self.list.push(Finding { name, side, severity, what: what.into(), mend });
    }

    fn error(&mut self, side: &str, error: &Error) {
        self.add(side, Severity::Error, error.to_string(), "");
    }

    /// A route that cannot be opened: each side says for itself what is wrong, and if none does, it is about both.
    fn of_broken(&mut self, error: &Error, wanted: Wanted<'_>) {
        let before = self.list.len();
        for (name, side) in [("src", Side::Source), ("dst", Side::Sink)] {
            if let Err(error) = open(wanted, side) {
                self.error(name, &error);
            }
        }
        if self.list.len() == before {
            self.error("", error);
        }
    }

    async fn of_route(&mut self, route: &Route, pipeline: &Pipeline) {
        if let Some(source) = &route.source.source
            && let Err(error) = source.head().await
        {
            self.error("src", &error);
        }
        if let Some(store) = &route.source.store
            && let Err(error) = store.tables().await
        {
            self.error("src", &error);
        }
        let record = match inspect(route).await {
            Ok(record) => record,
            Err(error) => return self.error("dst", &error),
        };
        self.same_place(&route.source, &route.sink).await;
        match record {
            Some(record) => self.of_record(route, &record).await,
            None if pipeline.force => {}
            None => match holds_data(&route.sink).await {
                Ok(false) => {}
                Ok(true) => self.add(
                    "dst",
                    Severity::Error,
                    format!("{} holds data that this stream did not write", route.sink.describe()),
                    "choose an empty destination, or set `force: true` to write over what it holds",
                ),
                Err(error) => self.error("dst", &error),
            },
        }
    }

    async fn same_place(&mut self, source: &Endpoint, sink: &Endpoint) {
        let (source, sink) = (source.identity().await, sink.identity().await);
        if let (Ok(Some(a)), Ok(Some(b))) = (source, sink)
            && a == b
        {
            let what = "`src` and `dst` are two names of one place; a replica needs a place of its own";
            self.add("", Severity::Error, what, "");
        }
    }

    async fn of_record(&mut self, route: &Route, record: &StreamRecord) {
        if record.scope.layout != route.scope.layout {
            let (was, is) = (&record.scope.layout, &route.scope.layout);
            self.add(
                "dst",
                Severity::Error,
                format!("stream {} was written as {was}, and is configured as {is}", route.stream),
                "give the pipeline another `name` and an empty destination",
            );
        }
        if record.scope.lanes != route.scope.lanes {
            let what =
                format!("the stream has {} lanes and is configured with {}", record.scope.lanes, route.scope.lanes);
            self.add("dst", Severity::Note, what + "; they change once everything in flight is written", "");
        }
        if record.scope.extent != route.scope.extent {
            let what = "`exclude` or `tables` differ from what the stream covers; the next run heals the difference";
            self.add("dst", Severity::Warning, what, "");
        }
        if let Some(owner) = self.alive(route, record).await {
            let what = format!("the stream is owned by another process that is alive ({})", owner.0);
            self.add("dst", Severity::Warning, what, "a `run` here stands by; `--takeover` takes the stream at once");
        }
    }

    /// The owner, if it is not of this directory and moves its record.
    async fn alive(&self, route: &Route, record: &StreamRecord) -> Option<Owner> {
        if owner::peek(&route.local).as_ref() == Some(&record.owner) {
            return None;
        }
        tokio::time::sleep(REFRESH).await;
        let later = inspect(route).await.ok()??;
        (later.pulse() != record.pulse()).then_some(later.owner)
    }
}

/// Whether a destination holds any row within the stream's tables.
async fn holds_data(sink: &Endpoint) -> Result<bool> {
    let Some(store) = &sink.store else { return Ok(false) };
    for range in store.ranges(1).await? {
        if has_rows(&**store, &range).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn has_rows(store: &dyn Store, range: &crate::store::Range) -> Result<bool> {
    let mut batch = Batch::unpooled();
    batch.begin(&PartitionId::new("!check"), Position::Start, Steps::Key);
    Ok(!store.scan(range, &Position::Start, batch, 1).await?.is_empty())
}
