//! A configured pipeline, opened: both sides, what lies between them, and what belongs to the stream.
//!
//! Opening connects to nothing, so every mistake that needs no connection is found for all pipelines before one of them
//! starts.

use std::sync::Arc;

use crate::bridge::Bridge;
use crate::config::{Config, Lanes, Pipeline};
use crate::error::{Error, Fault, Result};
use crate::filter::Edge;
use crate::kinds::bridges::{bodies, bridge};
use crate::kinds::open::shared::Followed;
use crate::kinds::open::{Endpoint, Side, Wanted, one_place, open};
use crate::model::{Kind, Layout, Scope, StreamId};
use crate::ops::local::Local;
use crate::source::Source;
use crate::store::Store;

/// Everything that a verb needs of one pipeline.
pub struct Route {
    /// Stream name.
    pub stream: StreamId,
    /// Where changes come from.
    pub source: Endpoint,
    /// Where they go.
    pub sink: Endpoint,
    /// All that lies in the sink, what the stream's filter leaves to others included.
    pub whole_sink: Option<Arc<dyn Store>>,
    /// What lies between the two kinds.
    pub bridge: Arc<dyn Bridge>,
    /// What belongs to the stream.
    pub scope: Scope,
    /// Local state.
    pub local: Local,
}

impl Route {
    /// Opens both sides of a pipeline.
    ///
    /// # Errors
    /// Config, with the pipeline's name and side.
    pub fn open(config: &Config, pipeline: &Pipeline) -> Result<Self> {
        Self::open_through(config, pipeline, &mut |(source, _)| Ok(source))
    }

    /// As [`Route::open`]; `through` may put something between the source and the stream's filter.
    ///
    /// # Errors
    /// As [`Route::open`], and what `through` says.
    pub fn open_through(
        config: &Config,
        pipeline: &Pipeline,
        through: &mut dyn FnMut(Followed) -> Result<Arc<dyn Source>>,
    ) -> Result<Self> {
        let apart = apart(config, pipeline).and_then(|()| open(Wanted::new(config, pipeline), Side::Source));
        let mut source = apart.map_err(|error| named(error, config, pipeline))?;
        let followed = source.source.take().zip(source.followed.clone());
        source.source = followed.map(through).transpose()?;
        Self::between(config, pipeline, source)
    }

    /// From this source to a pipeline's destination.
    ///
    /// # Errors
    /// As [`Route::open`].
    pub fn between(config: &Config, pipeline: &Pipeline, mut source: Endpoint) -> Result<Self> {
        let sink = apart(config, pipeline).and_then(|()| open(Wanted::new(config, pipeline), Side::Sink));
        let mut sink = sink.map_err(|error| named(error, config, pipeline))?;
        let whole_sink = sink.store.clone();
        filter(pipeline, &mut source, &mut sink).map_err(|error| named(error, config, pipeline))?;
        let bridge = bridge(source.kind, sink.kind, source.layout)?;
        #[cfg(feature = "dynamodb")]
        if crate::ops::fits::concerns(source.kind, sink.kind, source.layout) {
            let fitting =
                |store| Arc::new(crate::ops::fits::Fitting::new(store, Arc::clone(&bridge))) as Arc<dyn Store>;
            source.store = source.store.take().map(fitting);
            source.followed = source.followed.take().map(fitting);
        }
        Ok(Self {
            stream: StreamId::new(pipeline.name.as_str()),
            bridge,
            scope: scope(pipeline, source.kind, sink.kind),
            local: Local::new(&config.state_dir, &pipeline.name),
            source,
            sink,
            whole_sink,
        })
    }
}

impl Route {
    /// Asks both sides who they are, before anything is claimed: a host that is not there, a password that is refused and
    /// one database under two names are found here. A source that is away is no reason to stop a stream that the sink
    /// knows already: then it is waited for.
    ///
    /// # Errors
    /// Config, if both sides are one place; else what the side that did not answer says.
    pub async fn meet(&self) -> Result<()> {
        let sink = self.sink.identity().await?;
        let source = match self.source.identity().await {
            Ok(source) => source,
            Err(error) if error.fault() == Fault::Transient => match &self.sink.sink {
                Some(sink) if sink.inspect(&self.stream).await?.is_some() => return Ok(()),
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        if source.is_some() && source == sink {
            return Err(Error::config(format!(
                "open {}: `src` and `dst` are the same database; a replica needs a place of its own",
                self.stream
            )));
        }
        Ok(())
    }
}

/// Puts the stream's filter between its sides: whoever uses the route sees the image of the source, and of the sink what can
/// be in it.
fn filter(pipeline: &Pipeline, source: &mut Endpoint, sink: &mut Endpoint) -> Result<()> {
    if source.layout != Layout::Teleport {
        return Ok(());
    }
    let edge = Edge::new(&pipeline.name, &pipeline.rules, bodies(source.kind)?, bodies(sink.kind)?)?;
    source.source = source.source.take().map(|source| edge.source(source));
    for store in [&mut source.store, &mut source.followed] {
        *store = store.take().map(|store| edge.source_store(store));
    }
    for store in [&mut sink.store, &mut sink.followed] {
        *store = store.take().map(|store| edge.sink_store(store));
    }
    Ok(())
}

/// Refuses two sides that are one place, as far as configuration tells.
fn apart(config: &Config, pipeline: &Pipeline) -> Result<()> {
    match one_place(Wanted::new(config, pipeline))? {
        None => Ok(()),
        Some(place) => Err(Error::config(format!(
            "`src` and `dst` are the same database, {place}; a replica needs a place of its own"
        ))),
    }
}

/// Names the pipeline where there are several.
fn named(error: Error, config: &Config, pipeline: &Pipeline) -> Error {
    if config.pipelines.len() > 1 { error.during(format!("pipeline {}", pipeline.name)) } else { error }
}

/// What belongs to the stream. The texts are compared with those of earlier releases and must not change.
fn scope(pipeline: &Pipeline, source: Kind, sink: Kind) -> Scope {
    let layout = pipeline.src.layout();
    let mut extent = pipeline.rules.extent();
    if let (Layout::Raw, crate::config::Endpoint::Postgresql(keys)) = (layout, &pipeline.src) {
        extent.extend(keys.tables.iter().map(|table| format!("table {table:?}")));
    }
    if let crate::config::Endpoint::Etcd(keys) = &pipeline.src {
        extent.extend(keys.prefix.iter().map(|prefix| format!("prefix {prefix:?}")));
    }
    if let crate::config::Endpoint::Dynamodb(keys) = &pipeline.src {
        extent.push(format!("table {:?}", keys.table_name));
    }
    // Under another prefix of the sink there would be another copy, and the old one would stay for ever.
    let place = match &pipeline.dst {
        crate::config::Endpoint::Etcd(keys) => match (&keys.prefix, &pipeline.src) {
            (Some(prefix), _) => format!(", under {prefix:?}"),
            (None, crate::config::Endpoint::Etcd(src)) => {
                format!(", under {:?}", src.prefix.as_deref().unwrap_or_default())
            }
            (None, _) => String::new(),
        },
        _ => String::new(),
    };
    // The order in which somebody writes them down is no difference.
    extent.sort_unstable();
    extent.dedup();
    let lanes = match pipeline.lanes {
        // Both kinds have one total order and transactions: with one lane each state of the sink is one the source had.
        Lanes::Auto => 1,
        Lanes::Fixed(lanes) => lanes,
    };
    let layout = format!("{layout} {source} {sink}{place}{}", pipeline.rules.layout());
    Scope { layout, extent: extent.join("\n"), lanes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    struct Nothing;

    impl config::Outside for Nothing {
        fn variable(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, _: &std::path::Path) -> Result<String, String> {
            Err("there is no such file".into())
        }
    }

    fn scope_of(rest: &str) -> Scope {
        let yaml = format!("src: {{type: sqlite, path: /a}}\ndst: {{type: sqlite, path: /b}}\n{rest}");
        let config = config::parse("clone.yaml", &yaml, &Nothing).unwrap();
        scope(&config.pipelines[0], Kind::Sqlite, Kind::Sqlite)
    }

    #[test]
    fn the_texts_of_a_scope_do_not_change_with_the_order_of_the_file() {
        let scope = scope_of("exclude: [/b/, /a/, /b/]\n");
        assert_eq!(scope.layout, "teleport sqlite sqlite");
        assert_eq!(scope.extent, "not \"/a/\"\nnot \"/b/\"");
        assert_eq!(scope.lanes, 1);
        assert_eq!(scope_of("lanes: 4\n").lanes, 4);
        assert_ne!(scope_of("").extent, scope.extent);
        let etcd = |yaml: &str| {
            let config = config::parse("clone.yaml", yaml, &Nothing).unwrap();
            super::scope(&config.pipelines[0], Kind::Etcd, Kind::Etcd)
        };
        let raw = "layout: raw, peers: ['localhost:";
        let moved =
            etcd(&format!("src: {{type: etcd, {raw}1'], prefix: /a/}}\ndst: {{type: etcd, {raw}2'], prefix: b}}\n"));
        assert_eq!((&moved.layout[..], &moved.extent[..]), ("raw etcd etcd, under \"b\"", "prefix \"/a/\""));
        let same = etcd(&format!("src: {{type: etcd, {raw}1'], prefix: /a/}}\ndst: {{type: etcd, {raw}2']}}\n"));
        assert_eq!(same.layout, "raw etcd etcd, under \"/a/\"");
        // What would leave something behind if it changed is refused by the sink, so it stands in the layout.
        let other = scope_of("profile: test-cluster\nrename: {from: /a/, to: /b/}\n");
        assert_eq!(other.layout, "teleport sqlite sqlite, profile test-cluster, \"/a/\" renamed to \"/b/\"");
        assert_eq!(other.extent, "classes 1");
    }
}
