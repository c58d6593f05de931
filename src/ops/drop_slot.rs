//! `drop-slot`: removes what a pipeline keeps at its PostgreSQL source.
//!
//! For a pipeline that is given up; the server stops keeping its log for it. Nothing at the sink is touched.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::kinds::open::{Side, Wanted, open};
use crate::ops::control::{self, Request};
use crate::ops::local::Local;
use crate::ops::outcome::Dropped;

/// Removes the slot and publication of every pipeline of the configuration whose source can have one.
///
/// # Errors
/// Config when none has, or one is run by a process of this machine.
pub async fn drop_slot(config: &Config) -> Result<Vec<Dropped>> {
    let mut done = Vec::new();
    for pipeline in &config.pipelines {
        let name = &pipeline.name;
        let local = Local::new(&config.state_dir, name);
        if control::ask(&local, Request::Status, std::time::Duration::from_secs(2))
            .await
            .is_ok_and(|answer| answer.is_some())
        {
            return Err(Error::config(format!("drop the slot of {name}: a process runs this pipeline; stop it first")));
        }
        // Only the source: a sink that is gone is a good reason to give a pipeline up.
        for what in open(Wanted::new(config, pipeline), Side::Source)?.drop_slot().await? {
            done.push(Dropped { name: name.clone(), what });
        }
    }
    Ok(done)
}
