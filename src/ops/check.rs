//! `check`: everything that can be wrong, found before it matters. Changes nothing anywhere.
//!
//! One finding does not hide another: each question is asked whatever the others came to.

use std::time::Duration;

use crate::config::{Config, Pipeline};
use crate::engine::foreign;
use crate::error::{Error, Result};
use crate::kinds::open::shared::remarks;
use crate::kinds::open::{Endpoint, Side, Wanted, open};
use crate::model::{Level, Owner, Remark, StreamRecord};
#[cfg(feature = "dynamodb")]
use crate::ops::fits::{concerns, cost};
use crate::ops::outcome::{Finding, Policy, Severity};
use crate::ops::owner;
use crate::ops::route::Route;
use crate::ops::status::inspect;

/// LIMIT: an owner moves its record at least every two and a half seconds, so one that is alive is seen within this time.
const REFRESH: Duration = Duration::from_millis(3_000);

/// Everything that was found, for every pipeline of the configuration.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut all = Vec::new();
    for pipeline in &config.pipelines {
        let mut findings = Findings { name: pipeline.name.clone(), list: Vec::new() };
        match Route::open(config, pipeline) {
            Ok(route) => findings.of_route(&route, pipeline).await,
            Err(error) => findings.of_broken(&error, Wanted::new(config, pipeline)),
        }
        findings.remarks("journal", remarks(config, pipeline));
        all.extend(findings.list);
    }
    all
}

/// The least that policies must allow, one for each side that has such a thing.
///
/// # Errors
/// Config, for a pipeline that cannot be opened.
pub fn policies(config: &Config) -> Result<Vec<Policy>> {
    let mut all = Vec::new();
    for pipeline in &config.pipelines {
        let route = Route::open(config, pipeline)?;
        for (side, endpoint) in [("src", &route.source), ("dst", &route.sink)] {
            if let Some(policy) = endpoint.policy() {
                all.push(Policy { name: pipeline.name.clone(), side: side.to_owned(), policy });
            }
        }
    }
    Ok(all)
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
        self.of_side("src", &route.source).await;
        if self.sound("src") {
            self.of_source(&route.source).await;
        }
        self.of_side("dst", &route.sink).await;
        if !self.sound("dst") {
            return;
        }
        match inspect(route).await {
            Err(error) => return self.error("dst", &error),
            Ok(Some(record)) => self.of_record(route, &record).await,
            Ok(None) if pipeline.force => {}
            Ok(None) => self.of_contents(&route.sink).await,
        }
        if self.sound("src") {
            self.same_place(&route.source, &route.sink).await;
            #[cfg(feature = "dynamodb")]
            self.of_cost(route).await;
        }
    }

    /// What the first copy would cost, and what would stop it, where that can be told.
    #[cfg(feature = "dynamodb")]
    async fn of_cost(&mut self, route: &Route) {
        let (source, sink) = (&route.source, &route.sink);
        let known = !matches!(inspect(route).await, Ok(None));
        let Some(store) = source.store.as_ref().filter(|_| !known && concerns(source.kind, sink.kind, source.layout))
        else {
            return;
        };
        match cost(store.as_ref(), route.bridge.as_ref()).await {
            Err(error) => self.error("src", &error),
            Ok(cost) => {
                let what = format!("a first copy writes {} items and takes {} write units", cost.items, cost.units);
                self.add("dst", Severity::Note, what, "");
                if let Some(refusal) = cost.refusal() {
                    self.add("src", Severity::Error, refusal, "leave them out with `exclude`");
                }
            }
        }
    }

    /// Whether nothing is broken on a side, so that further questions will not only repeat what is known.
    fn sound(&self, side: &str) -> bool {
        !self.list.iter().any(|finding| finding.side == side && finding.severity == Severity::Error)
    }

    /// What the kind itself has to say.
    async fn of_side(&mut self, name: &str, side: &Endpoint) {
        match side.remarks().await {
            Err(error) => self.error(name, &error),
            Ok(remarks) => self.remarks(name, remarks),
        }
    }

    fn remarks(&mut self, side: &str, remarks: Vec<Remark>) {
        for remark in remarks {
            let severity = match remark.level {
                Level::Note => Severity::Note,
                Level::Warning => Severity::Warning,
                Level::Error => Severity::Error,
            };
            self.add(side, severity, remark.what, &remark.mend);
        }
    }

    /// Whether the source does what a replica needs of it.
    async fn of_source(&mut self, source: &Endpoint) {
        if let Some(source) = &source.source
            && let Err(error) = source.head().await
        {
            return self.error("src", &error);
        }
        if let Some(store) = &source.store
            && let Err(error) = store.tables().await
        {
            self.error("src", &error);
        }
    }

    /// What a destination holds that knows nothing of this stream.
    async fn of_contents(&mut self, sink: &Endpoint) {
        match holds_data(sink).await {
            Ok(false) => {}
            Ok(true) => self.add(
                "dst",
                Severity::Error,
                format!("{} holds data that this stream did not write", sink.describe()),
                "choose an empty destination, or set `force: true` to write over what it holds",
            ),
            Err(error) => self.error("dst", &error),
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
            let what = "what is taken (`tables`, `include`, `exclude`, `drop`, `replace`) differs from what the stream covers; the next run heals the difference";
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
        if foreign::has_rows(&**store, &range).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
