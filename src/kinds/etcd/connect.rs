//! One live connection to a cluster, for everybody of a pipeline's side who asks it; another peer when it is lost.
//!
//! A member is taken only if it is of the cluster that answered first, knows a leader, and is not still learning: what is
//! read through it is then never older than the question. All peers are tried, beginning with the one behind the last that
//! failed. A question that changes nothing may be asked once of each; one that changes something is asked once, and who asks
//! decides what a lost answer means.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, Error as ClientError, KvClient};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::fault::{Cause, cause, fault, silent};
use super::lease::Memory;
use super::options::Options;
use super::tls;
use super::version::{OLDEST, Version};
use crate::error::{Error, Fault, Result};

/// LIMIT: an answer that we take into memory. etcd advises values of up to 1.5 MiB, and pages are cut to a fraction of this.
pub const MAX_ANSWER: usize = 32 << 20;
/// LIMIT: a cluster that has a leader answers within milliseconds; an election takes a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster, by the peers that are known of it. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    options: Options,
    state: Mutex<State>,
    leases: Memory,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// The peer to try first.
    next: usize,
    /// The cluster that answered first; every later peer must be of it.
    cluster: Option<u64>,
    /// Connections made so far.
    made: u64,
}

/// A connection to one member.
#[derive(Clone)]
pub struct Live {
    /// For everything but keys.
    pub client: Client,
    /// For keys: takes answers of up to [`MAX_ANSWER`].
    pub kv: KvClient,
    /// The cluster's identity.
    pub cluster: u64,
    /// The member's version.
    pub version: Version,
    /// Whether the cluster knows the user that was given; a cluster without users is used without one.
    pub logged_in: bool,
    /// Bytes that the member's database takes.
    pub size: i64,
    /// Bytes that it may take; 0 where the member does not tell.
    pub quota: i64,
    /// What the member complains about.
    pub complaints: Vec<String>,
    number: u64,
}

impl Cluster {
    /// A cluster. Reads the files that it names, and connects to nothing.
    pub fn new(options: &Options) -> Result<Self> {
        if options.peers.is_empty() {
            return Err(Error::config("connect to etcd: no peer is named"));
        }
        tls::endpoints(options)?;
        user(options)?;
        let leases = Memory::new(options.lease_budget);
        Ok(Self(Arc::new(Inner { options: options.clone(), state: Mutex::default(), leases })))
    }

    /// What was asked of its leases.
    pub(super) fn memory(&self) -> &Memory {
        &self.0.leases
    }

    /// What it was made from.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// The live connection; makes one if there is none.
    pub async fn live(&self) -> Result<Live> {
        // Never held while somebody is waited for: whoever asks may be left unpolled in between, and others must go on.
        let (next, cluster) = {
            let state = self.state();
            if let Some(live) = &state.live {
                return Ok(live.clone());
            }
            (state.next, state.cluster)
        };
        let (endpoints, user) = (tls::endpoints(self.options())?, user(self.options())?);
        let mut worst: Option<Error> = None;
        for step in 0..endpoints.len() {
            let index = (next + step) % endpoints.len();
            let Some(endpoint) = endpoints.get(index) else { continue };
            let met =
                self.meet(endpoint, user.as_ref()).await.and_then(|live| same_cluster(cluster, live, endpoints.len()));
            match met {
                Ok(mut live) => {
                    let mut state = self.state();
                    // Somebody was faster.
                    if let Some(held) = &state.live {
                        return Ok(held.clone());
                    }
                    // Of another cluster under the address of the only peer nothing is known.
                    if state.cluster.is_some_and(|known| known != live.cluster) {
                        self.0.leases.forget();
                    }
                    state.made += 1;
                    live.number = state.made;
                    (state.next, state.cluster) = (index, Some(live.cluster));
                    return Ok(state.live.insert(live).clone());
                }
                // What a person must mend is told rather than that another peer is away.
                Err(error) => {
                    let away = |error: &Error| matches!(error.fault(), Fault::Transient | Fault::Throttled(_));
                    if worst.as_ref().is_none_or(|worst| away(worst) && !away(&error)) {
                        worst = Some(error);
                    }
                }
            }
        }
        Err(worst.unwrap_or_else(|| Error::config("connect to etcd: no peer is named")))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a connection up, so that the next question goes to another peer.
    pub fn forget(&self, live: &Live) {
        let mut state = self.state();
        if state.live.as_ref().is_some_and(|held| held.number == live.number) {
            state.live = None;
            state.next = (state.next + 1) % self.options().peers.len();
        }
    }

    /// Asks something that changes nothing: once of each peer, while they are away.
    pub async fn ask<T, F>(&self, attempt: &str, question: impl Fn(Live) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        self.try_ask(attempt, question).await?.map_err(|error| fault(attempt, &error))
    }

    /// As [`Cluster::ask`]; an answer that has nothing to do with the way to the peer is given as it is.
    pub async fn try_ask<T, F>(&self, attempt: &str, question: impl Fn(Live) -> F) -> Result<Result<T, ClientError>>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        // One more than there are peers, because the first may be lost while it was held.
        let mut left = self.options().peers.len() + 1;
        loop {
            left -= 1;
            let live = self.live().await?;
            let failed = match timeout(PATIENCE, question(live.clone())).await {
                Ok(Ok(answer)) => return Ok(Ok(answer)),
                Ok(Err(error)) if !matches!(cause(&error), Cause::Away | Cause::TokenExpired) => return Ok(Err(error)),
                Ok(Err(error)) => fault(attempt, &error),
                Err(_) => silent(attempt, PATIENCE),
            };
            self.forget(&live);
            if left == 0 {
                return Err(failed);
            }
        }
    }

    /// Asks something that changes something, once. An answer that has nothing to do with the way to the peer is given as it
    /// is; after any other nobody knows whether it was done, and the next question goes to another peer.
    pub async fn once<T, F>(&self, attempt: &str, question: impl FnOnce(Live) -> F) -> Result<Result<T, ClientError>>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let live = self.live().await?;
        let failed = match timeout(PATIENCE, question(live.clone())).await {
            Ok(Err(error)) if matches!(cause(&error), Cause::Away | Cause::TokenExpired) => fault(attempt, &error),
            Ok(answer) => return Ok(answer),
            Err(_) => silent(attempt, PATIENCE),
        };
        self.forget(&live);
        Err(failed)
    }

    /// Connects to one peer, logs in and asks who it is.
    async fn meet(&self, endpoint: &Endpoint, user: Option<&(String, String)>) -> Result<Live> {
        let attempt = format!("connect to etcd at {}", peer_of(endpoint));
        let channel = match timeout(self.options().dial_timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(fault(&attempt, &ClientError::TransportError(error))),
            Err(_) => return Err(silent(&attempt, self.options().dial_timeout)),
        };
        let greet = async {
            let mut logged_in = user.is_some();
            let enter = |user| Client::from_channel(Channel::Tonic(channel.clone()), Some(settings(user)));
            let mut client = match enter(user).await {
                Err(error) if cause(&error) == Cause::AuthOff => {
                    logged_in = false;
                    enter(None).await?
                }
                entered => entered?,
            };
            let status = client.status().await?;
            Ok((client, status, logged_in))
        };
        let (client, status, logged_in) = match timeout(PATIENCE, greet).await {
            Ok(Ok(met)) => met,
            Ok(Err(error)) => {
                let told = fault(&attempt, &error);
                let hint = endpoint.uri().scheme_str() == Some("https") && cause(&error) == Cause::Away;
                // A cluster that does not believe a certificate says so, but not always before the connection ends.
                return Err(if hint { told.during("this may be about tls_cert_file and tls_key_file") } else { told });
            }
            Err(_) => return Err(silent(&attempt, PATIENCE)),
        };
        let version = Version::parse(status.version()).unwrap_or_default();
        if version < OLDEST {
            return Err(Error::config(format!(
                "{attempt}: it is version {version}, and {OLDEST} is the oldest that can be used"
            )));
        }
        if status.leader() == 0 || status.is_learner() {
            return Err(Error::transient(format!("{attempt}: the member knows no leader, or is still learning")));
        }
        let cluster = status.header().map(etcd_client::ResponseHeader::cluster_id);
        Ok(Live {
            kv: client.kv_client().max_decoding_message_size(MAX_ANSWER),
            cluster: cluster.ok_or_else(|| Error::corrupt(format!("{attempt}: it does not say who it is")))?,
            version,
            logged_in,
            size: status.db_size(),
            quota: status.db_size_quota(),
            complaints: status.errors().to_vec(),
            number: 0,
            client,
        })
    }
}

/// Refuses a member of another cluster. Behind the address of an only peer there may be another one by now, which nobody can
/// mistake for a slip of configuration.
fn same_cluster(cluster: Option<u64>, live: Live, peers: usize) -> Result<Live> {
    match cluster {
        Some(known) if known != live.cluster && peers > 1 => Err(Error::config(format!(
            "connect to etcd: peers answer for two clusters ({known:016x} and {:016x}); name the members of one",
            live.cluster
        ))),
        _ => Ok(live),
    }
}

fn settings(user: Option<&(String, String)>) -> ConnectOptions {
    let settings = ConnectOptions::new().with_require_leader(true);
    match user {
        // Asking again after an expired log-in needs a copy of each request, which nobody else pays for.
        Some((name, password)) => settings.with_user(name, password).with_auto_token_refresh(true),
        None => settings,
    }
}

/// Name and password; the file is read anew, because passwords change.
fn user(options: &Options) -> Result<Option<(String, String)>> {
    let Some((name, path)) = &options.user else { return Ok(None) };
    let bytes = tls::read("password_file", path)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::config(format!("read password_file {}: it is not UTF-8 text", path.display())))?;
    // As Teleport does.
    let password = text.trim();
    if password.is_empty() {
        return Err(Error::config(format!("read password_file {}: it is empty", path.display())));
    }
    Ok(Some((name.clone(), password.to_owned())))
}

/// Host and port.
fn peer_of(endpoint: &Endpoint) -> String {
    endpoint.uri().authority().map_or_else(String::new, ToString::to_string)
}
