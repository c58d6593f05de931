//! The kind DynamoDB from its keys.

use std::sync::Arc;

use super::{Endpoint, Side, Special, Wanted};
use crate::config::Dynamodb;
use crate::error::Result;
use crate::kinds::dynamodb::{Access, DynamoSink, DynamoSource, DynamoStore, Options, Role, check, describe, iam};
use crate::model::{Kind, Remark};
use crate::sink::Sink;
use crate::source::{Fut, Source};
use crate::store::Store;

pub(super) fn options(name: &str, keys: &Dynamodb, side: Side) -> Options {
    let role = if side == Side::Source { Role::Source } else { Role::Sink };
    let mut options = Options::new(name, role, &keys.table_name);
    options.layout = keys.layout;
    options.checkpoints.clone_from(&keys.checkpoint_table);
    options.region.clone_from(&keys.region);
    options.endpoint.clone_from(&keys.endpoint);
    options.profile.clone_from(&keys.profile);
    options.role_arn.clone_from(&keys.role_arn);
    let secret = keys.secret_key.as_ref().map(|secret| secret.reveal().to_owned());
    options.keys = keys.access_key.clone().zip(secret);
    options.read_limit = keys.read_limit;
    options.units = keys.units;
    options.recoverable = keys.continuous_backups;
    options
}

pub(super) fn open(wanted: Wanted<'_>, keys: &Dynamodb, side: Side) -> Result<Endpoint> {
    let access = Access::new(&options(wanted.name, keys, side));
    let (source, sink) = match side {
        Side::Source => (Some(Arc::new(DynamoSource::new(&access)) as Arc<dyn Source>), None),
        Side::Sink => (None, Some(Arc::new(DynamoSink::new(&access)) as Arc<dyn Sink>)),
    };
    let store: Option<Arc<dyn Store>> = Some(Arc::new(DynamoStore::new(&access)));
    let region = keys.region.as_deref().map(|region| format!(" in {region}")).unwrap_or_default();
    Ok(Endpoint {
        kind: Kind::Dynamodb,
        layout: keys.layout,
        source,
        sink,
        followed: store.clone(),
        store,
        place: format!("dynamodb {}{region}", keys.table_name),
        special: Box::new(Place { access }),
    })
}

/// One table, for questions that only this kind answers.
struct Place {
    access: Access,
}

impl Special for Place {
    /// What the service calls the table, which no other has.
    fn identity(&self) -> Fut<'_, Option<String>> {
        Box::pin(async {
            let found = match self.access.options().role {
                Role::Source => Some(describe::present(&self.access, self.access.table()).await?),
                Role::Sink => describe::describe(&self.access, self.access.table()).await?,
            };
            Ok(found.map(|found| format!("dynamodb {}", found.id)))
        })
    }

    fn remarks(&self) -> Fut<'_, Vec<Remark>> {
        Box::pin(async { Ok(Box::pin(check::look(&self.access)).await) })
    }

    fn policy(&self) -> Option<serde_json::Value> {
        Some(iam::policy(self.access.options()))
    }
}
