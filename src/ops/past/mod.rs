//! What `replay` and `restore` have in common: a pipeline over a piece of the past, from claim to the place where the
//! destination has all of it, and then nothing that reminds of it.
//!
//! It is a stream of its own beside the configured one. What it covers is written down at the sink with its claim, so that
//! one that was interrupted goes on to the very same place, and another one is not mixed with it. The configured source is
//! never asked for anything.

mod around;

use std::sync::Arc;

use tokio::sync::watch;

use self::around::{Firm, Guest, Unwalked};
use crate::config::{Config, Pipeline as Configured};
use crate::engine::clock::{Clock as _, RealClock};
use crate::engine::plan;
use crate::engine::status::Shared;
use crate::error::{Error, Fault, Result};
use crate::filter::{Filter, Say, classes};
use crate::kinds::journal::past::{Bound as Sought, Past, Place, Span, Speed, place};
use crate::kinds::journal::{Cursor, Disk, Keys, Reader, list};
use crate::kinds::open::shared::Log;
use crate::kinds::open::{Side, Wanted, open, past as endpoint};
use crate::model::{Batch, Checkpoint, Layout, Micros, PartitionId, Position, Steps, StreamId, Table};
use crate::ops::journal::{Bound, only};
use crate::ops::local::Local;
use crate::ops::owner;
use crate::ops::route::Route;
use crate::ops::work;
use crate::store::Store;

/// LIMIT: bytes of a page while a destination is looked through for authorities.
const PAGE_BYTES: usize = 1 << 20;

/// A piece of the past on its way.
pub(super) struct Work<'c> {
    pub(super) config: &'c Config,
    pub(super) configured: &'c Configured,
    /// `replay` or `restore`.
    pub(super) verb: &'static str,
    pub(super) log: Log,
    pub(super) stream: StreamId,
    /// Whether what must be refused otherwise is wanted.
    pub(super) force: bool,
    /// Whether the destination may hold something already.
    pub(super) over: bool,
}

/// What such a stream covers, as it is written down at the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Covers {
    /// What was asked for, in the words of the command line.
    pub(super) request: String,
    /// The snapshot that it begins with, 0 for none.
    pub(super) snapshot: u64,
    pub(super) begin: Checkpoint,
    pub(super) whole: Checkpoint,
    pub(super) end: Checkpoint,
}

impl Covers {
    /// Its lines, and what the stream's filter covers below them.
    fn extent(&self, filter: &str) -> String {
        let mut text = format!("{}\nsnapshot {}\n", self.request, self.snapshot);
        for (word, places) in [("begin", &self.begin), ("whole", &self.whole), ("end", &self.end)] {
            for (partition, position) in places.iter() {
                text.push_str(&format!("{word} {partition} {position}\n"));
            }
        }
        format!("{text}\n{filter}")
    }

    /// The same, read again; with what the filter covered.
    fn read(extent: &str) -> Option<(Self, &str)> {
        let (text, filter) = extent.split_once("\n\n")?;
        let mut lines = text.lines();
        let request = lines.next()?.to_owned();
        let snapshot = lines.next()?.strip_prefix("snapshot ")?.parse().ok()?;
        let mut places = [const { Vec::new() }; 3];
        for line in lines {
            let (word, place) = line.split_once(' ')?;
            let (partition, position) = place.rsplit_once(' ')?;
            let index = ["begin", "whole", "end"].iter().position(|known| *known == word)?;
            places[index].push((PartitionId::new(partition), position.parse::<Position>().ok()?));
        }
        let [begin, whole, end] = places.map(|all| all.into_iter().collect());
        Some((Self { request, snapshot, begin, whole, end }, filter))
    }
}

impl<'c> Work<'c> {
    /// Looks for the journal; touches nothing.
    ///
    /// # Errors
    /// Config, when the pipeline has none, or another one has the name that this stream would have.
    pub(super) fn new(config: &'c Config, configured: &'c Configured, verb: &'static str, force: bool) -> Result<Self> {
        let name = format!("{}-{verb}", configured.name);
        if config.pipelines.iter().any(|pipeline| pipeline.name == name) {
            return Err(Error::config(format!(
                "{verb} {}: a pipeline is called {name}, which is the name that this would have at the destination; \
                 give that one another name",
                configured.name
            )));
        }
        let log = Log::of(config, configured)?;
        let over = force || verb == "replay" || configured.force;
        Ok(Self { config, configured, verb, log, stream: StreamId::new(name), force, over })
    }

    /// What is being done, for errors.
    pub(super) fn attempt(&self) -> String {
        format!("{} {}", self.verb, self.configured.name)
    }

    /// The journal, to be read where waiting for a disk holds up nobody.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Arc<dyn Disk>, &Keys) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (disk, keys) = (Arc::clone(&self.log.disk), self.log.keys.clone());
        let read = tokio::task::spawn_blocking(move || read(&disk, &keys)).await;
        let read = read.map_err(|_| Error::bug("read the journal: the reader has panicked"))?;
        read.map_err(|error| error.during(self.attempt()))
    }

    /// The piece of the journal that is covered.
    pub(super) fn span(&self, covers: &Covers) -> Span {
        Span {
            disk: Arc::clone(&self.log.disk),
            keys: self.log.keys.clone(),
            through: Reader::settled(&*self.log.disk),
            begin: covers.begin.clone(),
            whole: covers.whole.clone(),
            end: covers.end.clone(),
        }
    }

    /// Becomes the owner of the stream, as long as the result lives.
    fn own(&self) -> Result<owner::Ownership> {
        let local = Local::new(&self.config.state_dir, self.stream.as_str());
        let attempt = self.attempt();
        let taken = || Error::config(format!("{attempt}: another process of this machine does that already"));
        owner::acquire(&local)?.ok_or_else(taken)
    }

    /// What was begun at the destination and not finished, if it was this very request; `None` if nothing was.
    ///
    /// # Errors
    /// Config, for another one.
    pub(super) async fn unfinished(&self, request: &str, filter: &str) -> Result<Option<Covers>> {
        let sink = open(Wanted::new(self.config, self.configured), Side::Sink)?.sink;
        let sink = sink.ok_or_else(|| Error::bug(format!("open {}: no sink", self.stream)))?;
        let Some(record) = sink.inspect(&self.stream).await? else { return Ok(None) };
        let (verb, attempt) = (self.verb, self.attempt());
        let covered = Covers::read(&record.scope.extent);
        if self.force && covered.as_ref().is_none_or(|(covers, under)| covers.request != request || *under != filter) {
            // Nobody of this machine is at it, and whoever is elsewhere finds that his lane is gone.
            let _owned = self.own()?;
            sink.forget(&self.stream, &record).await?;
            self.unregister().await;
            tracing::warn!(stream = %self.stream, "what was begun there and not finished is given up");
            return Ok(None);
        }
        let Some((covers, under)) = covered else {
            return Err(Error::corrupt(format!(
                "{attempt}: what the destination says of an unfinished {verb} is nothing that \
                this program wrote"
            )));
        };
        if covers.request != request {
            return Err(Error::config(format!(
                "{attempt}: `{}` was begun at this destination and is not finished; run that again to finish it, or \
                 give it up with `--force`",
                covers.request
            )));
        }
        if under != filter {
            return Err(Error::config(format!(
                "{attempt}: it was begun with other filters and is not finished; set them back, or give it up with `--force`"
            )));
        }
        Ok(Some(covers))
    }

    /// What the configured filter covers.
    pub(super) fn filter(&self) -> String {
        let mut extent = self.configured.rules.extent();
        extent.sort_unstable();
        extent.dedup();
        extent.join("\n")
    }

    /// From a piece of the past to the destination; its stream covers what is to be written down.
    ///
    /// # Errors
    /// Config, for a destination that cannot be opened.
    pub(super) fn route(
        &self,
        past: Arc<Past>,
        store: Arc<dyn Store>,
        tables: &[Arc<Table>],
        covers: &Covers,
    ) -> Result<Route> {
        let place = format!("journal {}", self.log.name);
        let mut route = Route::between(self.config, self.configured, endpoint(self.configured, place, past, store))?;
        route.sink.only(tables)?;
        route.stream = self.stream.clone();
        route.local = Local::new(&self.config.state_dir, self.stream.as_str());
        route.scope.extent = covers.extent(&self.filter());
        // One after the other, as it was: a state in between is one that the source had.
        route.scope.lanes = 1;
        Ok(route)
    }

    /// Refuses a destination that must not get anything of the past unless somebody insists.
    ///
    /// # Errors
    /// Config.
    pub(super) async fn refuse_foreign(&self, route: &Route) -> Result<()> {
        if self.force {
            return Ok(());
        }
        let sink = route.sink.sink.as_ref().ok_or_else(|| Error::bug(format!("open {}: no sink", self.stream)))?;
        let own = sink.inspect(&StreamId::new(self.configured.name.as_str())).await?;
        let follows = own.as_ref().is_some_and(|record| plan::newest(&[record.frontier()], "!snapshot/") > 0);
        if follows {
            return Err(Error::config(format!(
                "{}: the destination follows its source as stream {}, and this would set it back; take another \
                 destination, or insist with `--force`",
                self.attempt(),
                self.configured.name
            )));
        }
        let (Some(store), Layout::Teleport) = (&route.whole_sink, route.sink.layout) else { return Ok(()) };
        let filter = Filter::new(&self.configured.rules)?;
        let mut scratch = Vec::new();
        let mut is_foreign = |key: &[u8]| {
            let takes = matches!(filter.say_of_image(key, &mut scratch), Some(Say::Take));
            classes::is_authority(key) && !(own.is_some() && takes)
        };
        if !holds(store.as_ref(), &mut is_foreign).await? {
            return Ok(());
        }
        Err(Error::config(format!(
            "{}: the destination holds certificate authorities that did not come from this source, so it is another \
             cluster; if its items may be written over, insist with `--force`",
            self.attempt()
        )))
    }

    /// Runs until the destination has everything, and takes away what reminds of it; false if told to stop before.
    ///
    /// # Errors
    /// What ended it.
    pub(super) async fn run(
        &self,
        route: Route,
        past: &Past,
        needs: u64,
        status: Shared,
        stop: watch::Receiver<bool>,
    ) -> Result<bool> {
        let ownership = self.own()?;
        self.register(needs).await;
        let (halt, halted) = watch::channel(false);
        let halting = tokio::spawn(until_either(past.done(), stop, halt));
        let (owner, configured) = (ownership.owner().clone(), self.configured);
        let mut pipeline = work::pipeline(&route, self.config, configured, owner, false, status, halted)?;
        pipeline.source = Arc::new(Firm(Arc::clone(&pipeline.source)));
        if self.over {
            pipeline.sink = Arc::new(Guest(Arc::clone(&pipeline.sink)));
            pipeline.sink_store = Arc::new(Unwalked(Arc::clone(&pipeline.sink_store)));
        }
        let (_asks, mut repairs) = tokio::sync::mpsc::channel(1);
        let result = pipeline.run(&mut repairs).await;
        halting.abort();
        let sink = Arc::clone(&pipeline.sink);
        drop(pipeline);
        if let Err(error) = result {
            // Nothing was begun, so nobody comes back for it.
            if matches!(sink.inspect(&self.stream).await, Ok(None)) {
                self.unregister().await;
            }
            return Err(self.explained(error, past));
        }
        if !*past.done().borrow() {
            return Ok(false);
        }
        if let Some(record) = sink.inspect(&self.stream).await? {
            if record.owner != *ownership.owner() {
                return Err(Error::fenced(format!("{}: another process has claimed it", self.attempt())));
            }
            sink.forget(&self.stream, &record).await?;
        }
        self.unregister().await;
        Ok(true)
    }

    /// Why it ended, for somebody who has not read this code.
    fn explained(&self, error: Error, past: &Past) -> Error {
        if let Some(wrong) = past.wrong() {
            return wrong.during(self.attempt());
        }
        if error.fault() != Fault::Corrupt || self.verb != "replay" {
            return error.during(self.attempt());
        }
        Error::corrupt(format!(
            "{}: the destination does not hold the state at `--from`, on which the changes after it build; make that with \
             `driftless restore --at` first ({error})",
            self.attempt()
        ))
    }

    /// Keeps retention from removing what is needed.
    async fn register(&self, needs: u64) {
        let cursor = Cursor {
            name: self.stream.to_string(),
            sequence: needs,
            moved: RealClock::default().wall(),
            outrun: false,
        };
        let written = self.reading(move |disk, _| cursor.write(&**disk)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "the journal was not told what is needed of it; it may remove that meanwhile");
        }
    }

    async fn unregister(&self) {
        let name = self.stream.to_string();
        if let Err(error) = self.reading(move |disk, _| Cursor::remove(&**disk, &name)).await {
            tracing::warn!(%error, "the journal was not told that nothing is needed of it any more");
        }
    }
}

/// Tells a pipeline to stop when it has everything, or somebody wants it to.
async fn until_either(mut done: watch::Receiver<bool>, mut stop: watch::Receiver<bool>, halt: watch::Sender<bool>) {
    tokio::select! {
        done = done.wait_for(|done| *done) => drop(done),
        stop = stop.wait_for(|stop| *stop) => drop(stop),
    }
    halt.send_replace(true);
    // Dropped, it would look as if nobody were left who could ask.
    std::future::pending::<()>().await;
}

/// What is sought in a journal.
///
/// # Errors
/// Config, for a position without a partition where there are several, and a time that is still to come.
fn sought(bound: &Bound, disk: &Arc<dyn Disk>, keys: &Keys) -> Result<Sought> {
    Ok(match bound {
        Bound::Time(time) if *time > RealClock::default().wall() => {
            return Err(Error::config(format!("look for {bound} in the journal: that is still to come")));
        }
        Bound::Time(time) => Sought::Time(*time),
        Bound::Position(Some(partition), position) => Sought::Position(partition.clone(), position.clone()),
        Bound::Position(None, position) => Sought::Position(only(disk, keys)?, position.clone()),
    })
}

/// A place of a journal; `None` where it does not reach back so far.
///
/// # Errors
/// As of [`sought`] and of what reads the journal.
pub(super) fn seek(bound: &Bound, disk: &Arc<dyn Disk>, keys: &Keys, through: u64) -> Result<Option<Place>> {
    match place(disk, keys, &sought(bound, disk, keys)?, through) {
        // Nobody knows what happened before the journal was begun.
        Ok(found) if found.latest == 0 && matches!(bound, Bound::Time(time) if *time < reach(disk)?.0) => Ok(None),
        Err(error) if error.fault() == Fault::PositionLost => Ok(None),
        found => found.map(Some),
    }
}

/// When a journal was begun, by the clock of whoever wrote it, and the latest commit time in it; 0 where not known.
pub(super) fn reach(disk: &Arc<dyn Disk>) -> Result<(Micros, Micros)> {
    let segments = list(disk)?;
    let made = segments.first().map_or(0, |first| first.made);
    Ok((made, segments.iter().map(|segment| segment.latest).max().unwrap_or(0)))
}

/// A time, for people and programs.
pub(super) fn shown(at: Micros) -> Option<String> {
    jiff::Timestamp::from_microsecond(at).ok().filter(|_| at != 0).map(|at| at.to_string())
}

/// Speed of the past.
///
/// # Errors
/// Config, for what is none.
pub(super) fn speed(text: &str) -> Result<Speed> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    let times = text.strip_suffix('x').and_then(|times| times.parse::<f64>().ok());
    match times.filter(|times| times.is_finite() && *times > 0.0) {
        Some(times) => Ok(Speed::Times(times)),
        None => Err(Error::config(format!(
            "read the speed {text:?}: write `max`, or how many times as fast, such as `10x`"
        ))),
    }
}

/// Whether a store has a row with such a key.
async fn holds(store: &dyn Store, wanted: &mut (dyn FnMut(&[u8]) -> bool + Send)) -> Result<bool> {
    for range in store.ranges(1).await? {
        let mut after = Position::Start;
        while after != Position::End {
            let mut page = Batch::unpooled();
            page.begin(&PartitionId::new("!repair"), after.clone(), Steps::Key);
            let page = store.scan(&range, &after, page, PAGE_BYTES).await?;
            if page.rows().any(|row| wanted(row.key)) {
                return Ok(true);
            }
            after = page.upto().clone();
        }
    }
    Ok(false)
}
