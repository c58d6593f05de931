//! One account's access to one table, for everybody of a pipeline's side who asks it.
//!
//! Region and credentials come from configuration, else from where AWS' own programs take them: the environment, shared
//! files, a web identity (IRSA), the container's role, the machine's. Each side of a pipeline has its own. The client's own
//! retries are off: what may be asked again, and how fast, is decided here, and for commits by who makes them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{Credentials, Region};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use super::fault::{Cause, cause, fault};
use super::options::Options;
use super::pace::{Pace, jitter};
use crate::error::{Error, Result};

/// LIMIT: the service answers within some ten milliseconds, a page of 1 MB within hundreds.
const PATIENCE: Duration = Duration::from_secs(20);
/// LIMIT: a connection is made within a round trip or two.
const DIAL: Duration = Duration::from_secs(5);
/// LIMIT: how often something that changes nothing is asked again, some ten seconds in all; then the caller decides.
const TRIES: u32 = 8;
/// The first pause between two tries.
const FIRST: Duration = Duration::from_millis(25);
/// LIMIT: the longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(3);

/// Access to a table. Cheap to clone; all clones share its connections and its pace.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    options: Options,
    client: OnceCell<Client>,
    reads: Pace,
    writes: Pace,
}

/// What an operation of the client comes to.
pub type Answer<T, E> = Result<T, SdkError<E>>;

impl Access {
    /// Access as configuration says; connects to nothing yet.
    pub fn new(options: &Options) -> Self {
        let (reads, writes) = (Pace::new(options.read_limit), Pace::new(None));
        Self(Arc::new(Inner { options: options.clone(), client: OnceCell::new(), reads, writes }))
    }

    /// What it was made from.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.0.options.table
    }

    /// The pace of reading items.
    pub fn reads(&self) -> &Pace {
        &self.0.reads
    }

    /// The pace of writing items.
    pub fn writes(&self) -> &Pace {
        &self.0.writes
    }

    /// The client. Finds out region and credentials when it is first asked for.
    pub async fn client(&self) -> Result<&Client> {
        // Boxed: what finds credentials is large.
        self.0.client.get_or_try_init(|| Box::pin(make(self.options()))).await
    }

    /// Asks something that changes nothing, or nothing more when it is asked twice: again after a pause while the service is
    /// away or asks for one.
    pub async fn ask<T, E, F>(&self, attempt: &str, question: impl Fn(Client) -> F) -> Result<T>
    where
        F: Future<Output = Answer<T, E>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.try_ask(attempt, question).await?.map_err(|error| fault(attempt, &error))
    }

    /// As [`Access::ask`]; an answer that says something else is given as it is.
    pub async fn try_ask<T, E, F>(&self, _attempt: &str, question: impl Fn(Client) -> F) -> Result<Answer<T, E>>
    where
        F: Future<Output = Answer<T, E>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let client = self.client().await?;
        let mut pause = FIRST;
        for left in (0..TRIES).rev() {
            match question(client.clone()).await {
                Err(error) if left > 0 && passes(cause(&error)) => {
                    if cause(&error) == Cause::Throttled {
                        self.0.reads.refused();
                    }
                    sleep(jitter(pause)).await;
                    pause = (pause * 2).min(LONGEST);
                }
                answer => return Ok(answer),
            }
        }
        Err(Error::bug("ask DynamoDB: no try was made"))
    }
}

/// Whether the same question may be answered a moment later.
pub fn passes(cause: Cause) -> bool {
    matches!(cause, Cause::Throttled | Cause::Conflict | Cause::Away | Cause::Expired | Cause::InUse)
}

async fn make(options: &Options) -> Result<Client> {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some((id, secret)) = &options.keys {
        loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "configuration"));
    }
    let found = loader.load().await;
    if found.region().is_none() {
        return Err(Error::config(format!(
            "reach table {}: no region is known; set `region`, or AWS_REGION in the environment",
            options.table
        )));
    }
    let timeouts = TimeoutConfig::builder().connect_timeout(DIAL).operation_attempt_timeout(PATIENCE).build();
    let mut config =
        aws_sdk_dynamodb::config::Builder::from(&found).retry_config(RetryConfig::disabled()).timeout_config(timeouts);
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint);
    }
    if let Some(role) = &options.role_arn {
        let role = AssumeRoleProvider::builder(role).session_name("driftless").configure(&found).build().await;
        config = config.credentials_provider(role);
    }
    Ok(Client::from_conf(config.build()))
}
