//! The kind PostgreSQL from its keys and the pipeline's.

use std::sync::Arc;

use super::{Endpoint, Side};
use crate::config::{AuthMode, Config, Pipeline, Postgresql};
use crate::error::Result;
use crate::kinds::postgres::conn::conninfo::{ConnInfo, Host};
use crate::kinds::postgres::{self, Options};
use crate::model::Kind;

pub(super) fn options(config: &Config, pipeline: &Pipeline, keys: &Postgresql) -> Options {
    let mut options = Options::new(&pipeline.name, keys.conn_string.reveal());
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
    options.state_dir = config.state_dir.join(&pipeline.name);
    options.memory = config.memory_of_one();
    options.parallel = pipeline.parallel;
    options.manage_slot = pipeline.manage.slot;
    options.manage_publication = pipeline.manage.publication;
    options.max_retained = pipeline.max_retained;
    options
}

pub(super) fn open(config: &Config, pipeline: &Pipeline, keys: &Postgresql, side: Side) -> Result<Endpoint> {
    let options = options(config, pipeline, keys);
    let info = postgres::Endpoint::new(&options)?;
    let place = describe(info.info());
    drop((Arc::new(()), side, Kind::Postgresql, place));
    Err(crate::error::Error::bug("open postgresql"))
}

pub(super) fn one_place(
    config: &Config,
    pipeline: &Pipeline,
    src: &Postgresql,
    dst: &Postgresql,
) -> Result<Option<String>> {
    let [src, dst] = [src, dst].map(|keys| postgres::Endpoint::new(&options(config, pipeline, keys)));
    let (src, dst) = (
        src.map_err(|e| e.during("read `conn_string` of `src`"))?,
        dst.map_err(|e| e.during("read `conn_string` of `dst`"))?,
    );
    let (src, dst) = (src.info(), dst.info());
    let shared = src.targets.iter().any(|a| dst.targets.iter().any(|b| a.port == b.port && a.host == b.host));
    Ok((shared && src.dbname == dst.dbname).then(|| describe(dst)))
}

fn describe(info: &ConnInfo) -> String {
    let host = info.targets.first().map_or_else(String::new, |target| match &target.host {
        Host::Tcp(name) => format!("{name}:{}", target.port),
        Host::Unix(dir) => format!("{}:{}", dir.display(), target.port),
    });
    format!("postgresql {host}/{}", info.dbname)
}
