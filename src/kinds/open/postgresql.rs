//! The kind PostgreSQL from its keys and the pipeline's.

use std::sync::Arc;

use super::{Endpoint, Side, Special, Wanted};
use crate::config::{AuthMode, Postgresql};
use crate::error::Result;
use crate::kinds::postgres::admin::check;
use crate::kinds::postgres::catalog::{Need, Scope};
use crate::kinds::postgres::conn::conninfo::{ConnInfo, Host};
use crate::kinds::postgres::store::PgStore;
use crate::kinds::postgres::{self, Options, PgSink, PostgresSource, Session, admin};
use crate::model::{Kind, Layout, Level, Remark, Table};
use crate::sink::Sink;
use crate::source::{Fut, Source};
use crate::store::Store;

pub(super) fn options(wanted: Wanted<'_>, keys: &Postgresql) -> Options {
    let Wanted { config, pipeline, name } = wanted;
    let mut options = Options::new(name, keys.conn_string.reveal());
    options.change_feed_conn_string = keys.change_feed_conn_string.as_ref().map(|text| text.reveal().to_owned());
    options.auth_mode = match keys.auth_mode {
        AuthMode::ConnString => postgres::AuthMode::Password,
        AuthMode::Azure => postgres::AuthMode::Azure,
        AuthMode::GcpCloudSql => postgres::AuthMode::GcpCloudSql,
    };
    options.layout = keys.layout;
    // The sink makes and compares the tables that the source names.
    if let crate::config::Endpoint::Postgresql(source) = &pipeline.src {
        options.tables.clone_from(&source.tables);
    }
    options.state_dir = config.state_dir.join(name);
    options.memory = config.memory_of_one();
    options.parallel = pipeline.parallel;
    options.manage_slot = pipeline.manage.slot;
    options.manage_publication = pipeline.manage.publication;
    options.max_retained = pipeline.max_retained;
    options.relieved = super::shared::is_relayed(pipeline);
    options
}

pub(super) fn open(wanted: Wanted<'_>, keys: &Postgresql, side: Side) -> Result<Endpoint> {
    let name = if side == Side::Source { "src" } else { "dst" };
    let (options, endpoint) = (options(wanted, keys), connectable(wanted, keys, name)?);
    let place = describe(endpoint.info());
    let (source, sink) = match side {
        Side::Source => (Some(Arc::new(PostgresSource::new(&options)?) as Arc<dyn Source>), None),
        Side::Sink => (None, Some(Arc::new(PgSink::new(&options)?) as Arc<dyn Sink>)),
    };
    let followed = store(wanted, &endpoint, &options, side)?.following(&options.publication());
    let store: Option<Arc<dyn Store>> = Some(Arc::new(store(wanted, &endpoint, &options, side)?));
    let followed: Option<Arc<dyn Store>> = Some(Arc::new(followed));
    let special = Box::new(Server { endpoint, options, side });
    Ok(Endpoint { kind: Kind::Postgresql, layout: keys.layout, source, sink, store, followed, place, special })
}

/// Present state. A raw sink shows its tables by the keys and in the form of bodies of the source's, so it asks both.
fn store(wanted: Wanted<'_>, endpoint: &postgres::Endpoint, options: &Options, side: Side) -> Result<PgStore> {
    let scope = Scope::of(options)?;
    Ok(match (side, options.layout, &wanted.pipeline.src) {
        (Side::Source, _, _) => PgStore::source(endpoint, scope, Need::Scan),
        (Side::Sink, Layout::Raw, crate::config::Endpoint::Postgresql(src)) => {
            PgStore::raw_sink(endpoint, &connectable(wanted, src, "src")?, scope)
        }
        (Side::Sink, _, _) => PgStore::teleport_sink(endpoint),
    })
}

/// One database, for questions that only this kind answers.
struct Server {
    endpoint: postgres::Endpoint,
    options: Options,
    side: Side,
}

impl Special for Server {
    fn identity(&self) -> Fut<'_, Option<String>> {
        Box::pin(self.ask_identity())
    }

    fn remarks(&self) -> Fut<'_, Vec<Remark>> {
        Box::pin(async {
            let found = match self.side {
                Side::Source => check::source(&self.options).await,
                Side::Sink => check::destination(&self.options).await,
            };
            Ok(found.into_iter().map(remark).collect())
        })
    }

    fn store_of(&self, tables: &[Arc<Table>]) -> Result<Option<Arc<dyn Store>>> {
        if self.side == Side::Source || self.options.layout == Layout::Teleport {
            return Ok(None);
        }
        Ok(Some(Arc::new(PgStore::copy_of(&self.endpoint, tables)?)))
    }

    fn drop_slot(&self) -> Fut<'_, Vec<String>> {
        Box::pin(self.remove())
    }
}

fn remark(found: check::Finding) -> Remark {
    let level = match found.level {
        check::Level::Ok => Level::Note,
        check::Level::Warning => Level::Warning,
        check::Level::Error => Level::Error,
    };
    Remark { level, what: found.what, mend: found.fix.unwrap_or_default() }
}

impl Server {
    /// System identifier and the database's object id.
    async fn ask_identity(&self) -> Result<Option<String>> {
        const WHO: &str = "select c.system_identifier::text || '/' || d.oid::text \
             from pg_catalog.pg_control_system() c, pg_catalog.pg_database d where d.datname = pg_catalog.current_database()";
        let client = self.endpoint.session(&Session::ADMIN).await?;
        // Some services do not let everybody ask; then nothing is known, which is no failure.
        let answer = client.query_one(WHO, &[]).await.ok();
        Ok(answer.and_then(|row| row.try_get::<_, String>(0).ok()).map(|id| format!("postgresql {id}")))
    }

    /// Removes slot and publication.
    async fn remove(&self) -> Result<Vec<String>> {
        let client = self.endpoint.session(&Session::ADMIN).await?;
        let (slot, publication) = (self.options.slot(), self.options.publication());
        let mut done = Vec::new();
        for (what, name, was_there) in [
            ("replication slot", &slot, admin::slot::drop(&client, &slot).await?),
            ("publication", &publication, admin::publication::drop(&client, &publication).await?),
        ] {
            done.push(if was_there {
                format!("{what} {name} is removed")
            } else {
                format!("there is no {what} {name}")
            });
        }
        Ok(done)
    }
}

pub(super) fn one_place(wanted: Wanted<'_>, src: &Postgresql, dst: &Postgresql) -> Result<Option<String>> {
    let (src, dst) = (connectable(wanted, src, "src")?, connectable(wanted, dst, "dst")?);
    let (src, dst) = (src.info(), dst.info());
    let shared = src.targets.iter().any(|a| dst.targets.iter().any(|b| a.port == b.port && a.host == b.host));
    Ok((shared && src.dbname == dst.dbname).then(|| describe(dst)))
}

/// The connection string, understood.
fn connectable(wanted: Wanted<'_>, keys: &Postgresql, side: &str) -> Result<postgres::Endpoint> {
    let endpoint = postgres::Endpoint::new(&options(wanted, keys));
    endpoint.map_err(|error| error.during(format!("read `conn_string` of `{side}`")))
}

fn describe(info: &ConnInfo) -> String {
    let host = info.targets.first().map_or_else(String::new, |target| match &target.host {
        Host::Tcp(name) => format!("{name}:{}", target.port),
        Host::Unix(dir) => format!("{}:{}", dir.display(), target.port),
    });
    format!("postgresql {host}/{}", info.dbname)
}
