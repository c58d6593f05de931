//! From an endpoint to an authenticated connection: servers in turn, ways of encryption in turn, then the login.
//!
//! Both kinds of connection share everything up to the login: the driver's sessions and our replication connections.
//! libpq's rules for several hosts: a server that cannot be reached, is starting up or is not what `target_session_attrs`
//! asks for gives way to the next; a server that refuses the login ends the search. Only a refusal by `pg_hba.conf` (28000)
//! tries the other way of encryption, never a wrong password, which would then go over the wire in clear.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use crate::error::{Error, Fault, Result};
use crate::kinds::postgres::conn::auth::Identity;
use crate::kinds::postgres::conn::conninfo::{ConnInfo, Host, SslMode, Target, TargetSession};
use crate::kinds::postgres::conn::dial::{self, Failure, Way};
use crate::kinds::postgres::conn::login::{DriverLogin, Login, Role, WireLogin};
use crate::kinds::postgres::conn::passfile::{self, Wanted};
use crate::kinds::postgres::conn::replication::ReplicationConn;
use crate::kinds::postgres::conn::secret::Secret;
use crate::kinds::postgres::conn::session::Session;
use crate::kinds::postgres::conn::stream::Stream;
use crate::kinds::postgres::conn::tls::TlsSetup;
use crate::kinds::postgres::conn::{service, token};
use crate::kinds::postgres::options::{AuthMode, Options};

/// LIMIT: reaching one server, login included, where the connection string says nothing; libpq would wait for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// One PostgreSQL endpoint that can be connected to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    info: ConnInfo,
    auth: AuthMode,
    application_name: String,
}

impl Endpoint {
    /// The endpoint of the connection string, completed from this process' environment.
    pub fn new(options: &Options) -> Result<Self> {
        Self::of(options, &options.conn_string)
    }

    /// The endpoint of the change feed: another connection string, if configuration gives one.
    pub fn feed(options: &Options) -> Result<Self> {
        Self::of(options, options.feed_conn_string())
    }

    fn of(options: &Options, conn_string: &str) -> Result<Self> {
        let env = |name: &str| std::env::var(name).ok();
        let info = ConnInfo::parse(conn_string, &env, &|name| service::section(name, &env))?;
        Ok(Self::from_info(info, options.auth_mode, &options.stream))
    }

    /// An endpoint that was read elsewhere.
    pub fn from_info(info: ConnInfo, auth: AuthMode, stream: &str) -> Self {
        let application_name = info.application_name.clone().unwrap_or_else(|| format!("driftless {stream}"));
        Self(Arc::new(Inner { info, auth, application_name }))
    }

    /// What the connection string says.
    pub fn info(&self) -> &ConnInfo {
        &self.0.info
    }

    /// The name under which the server lists our sessions.
    pub fn application_name(&self) -> &str {
        &self.0.application_name
    }

    /// Connects with the driver, whose task runs on the current runtime until the client is dropped.
    pub async fn session(&self, session: &Session) -> Result<Client> {
        let login = DriverLogin { info: &self.0.info, application_name: &self.0.application_name };
        let (client, version) = self.search(&login).await?;
        session.prepare(&client, version).await?;
        Ok(client)
    }

    /// Connects in replication mode to the database.
    pub async fn replication(&self) -> Result<ReplicationConn> {
        let mut conn = self.wire(true).await?;
        let prepared = conn.simple_query(&Session::text_settings(conn.server_version)).await;
        prepared.map_err(|error| error.during("prepare a replication connection to PostgreSQL"))?;
        Ok(conn)
    }

    /// Connects without the driver and not in replication mode: what is between us and the server shows only so.
    pub async fn plain(&self) -> Result<ReplicationConn> {
        self.wire(false).await
    }

    async fn wire(&self, replication: bool) -> Result<ReplicationConn> {
        let login = WireLogin { info: &self.0.info, application_name: &self.0.application_name, replication };
        Box::pin(self.search(&login)).await
    }

    async fn search<L: Login>(&self, login: &L) -> Result<L::Conn> {
        let info = &self.0.info;
        let tls = self.tls()?;
        let mut order: Vec<&Target> = info.targets.iter().collect();
        if info.balance {
            shuffle(&mut order);
        }
        let wishes: &[TargetSession] = match info.session {
            TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
            _ => std::slice::from_ref(&info.session),
        };
        let mut failures: Vec<Error> = Vec::new();
        for wish in wishes {
            for target in &order {
                match self.reach(login, target, *wish, tls.as_ref()).await {
                    Ok(conn) => return Ok(conn),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Unreachable(error) | Failure::NotThisWay(error)) => failures.push(error),
                }
            }
        }
        Err(together(failures))
    }

    fn tls(&self) -> Result<Option<TlsSetup>> {
        let info = &self.0.info;
        let tcp = info.targets.iter().any(|target| matches!(target.host, Host::Tcp(_)));
        if info.tls.mode == SslMode::Disable || !tcp { Ok(None) } else { TlsSetup::load(&info.tls).map(Some) }
    }

    /// All addresses of one target, each within the time limit.
    async fn reach<L: Login>(
        &self,
        login: &L,
        target: &Target,
        wish: TargetSession,
        tls: Option<&TlsSetup>,
    ) -> Result<L::Conn, Failure> {
        let limit = self.0.info.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let late = || {
            let seconds = limit.as_secs();
            Failure::Unreachable(Error::transient(format!(
                "reach the PostgreSQL server at {target}: no answer within {seconds} s"
            )))
        };
        let found = tokio::time::timeout(limit, dial::addresses(target)).await.map_err(|_| late())??;
        let mut last = None;
        for address in found {
            for way in dial::ways(self.0.info.tls.mode, &target.host) {
                let attempt = self.attempt(login, target, address, (*way, tls));
                let failure = match tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| Err(late())) {
                    Ok(mut conn) => match login.role(&mut conn).await {
                        Ok(role) if suits(role, wish) => return Ok(conn),
                        Ok(role) => Failure::Unreachable(unsuited(target, role)),
                        Err(error) => Failure::Unreachable(error),
                    },
                    Err(failure) => failure,
                };
                let other_way = matches!(failure, Failure::NotThisWay(_));
                match failure {
                    Failure::Final(error) => return Err(Failure::Final(error)),
                    failure => last = Some(failure),
                }
                if !other_way {
                    break;
                }
            }
        }
        // Where no other way was left, the refusal was the server's last word.
        Err(match last {
            Some(Failure::NotThisWay(error)) => Failure::Final(error),
            Some(failure) => failure,
            None => {
                Failure::Unreachable(Error::transient(format!("look up the PostgreSQL server {target}: no address")))
            }
        })
    }

    async fn attempt<L: Login>(
        &self,
        login: &L,
        target: &Target,
        address: Option<std::net::SocketAddr>,
        (way, tls): (Way, Option<&TlsSetup>),
    ) -> Result<L::Conn, Failure> {
        let info = &self.0.info;
        let stream = dial::open(target, address, way, tls, (&info.tcp, info.tls.direct)).await?;
        let password = self.password(target, &stream).await.map_err(Failure::Final)?;
        let identity = Identity { user: &info.user, password: password.as_ref(), binding: info.channel_binding };
        login.login(stream, &identity, target).await
    }

    async fn password(&self, target: &Target, stream: &Stream) -> Result<Option<Secret>> {
        let info = &self.0.info;
        if self.0.auth != AuthMode::Password {
            if !stream.is_encrypted() {
                return Err(Error::config(format!(
                    "connect to PostgreSQL at {target}: an access token goes only over TLS; set sslmode=verify-full"
                )));
            }
            return token::fetch(self.0.auth, &|name| std::env::var(name).ok()).await.map(Some);
        }
        if info.password.is_some() {
            return Ok(info.password.clone());
        }
        let host = match &target.host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(dir) if dir.as_os_str() == "/var/run/postgresql" => "localhost".into(),
            Host::Unix(dir) => dir.display().to_string(),
        };
        let wanted = Wanted { host: &host, port: target.port, dbname: &info.dbname, user: &info.user };
        Ok(info.passfile.as_deref().and_then(|path| passfile::look_up(path, wanted)))
    }
}

/// Whether a server is what `target_session_attrs` asks for.
fn suits(role: Role, wish: TargetSession) -> bool {
    match wish {
        TargetSession::Any => true,
        TargetSession::ReadWrite => !role.read_only && !role.standby,
        TargetSession::ReadOnly => role.read_only || role.standby,
        TargetSession::Primary => !role.standby,
        TargetSession::Standby | TargetSession::PreferStandby => role.standby,
    }
}

fn unsuited(target: &Target, role: Role) -> Error {
    let is = match (role.standby, role.read_only) {
        (true, _) => "a standby",
        (false, true) => "read-only",
        (false, false) => "a primary that takes writes",
    };
    Error::transient(format!(
        "connect to PostgreSQL at {target}: it is {is}, and target_session_attrs asks for another"
    ))
}

/// One error of several servers' errors; anything that a person must change comes first.
fn together(mut failures: Vec<Error>) -> Error {
    if failures.len() == 1 {
        return failures.remove(0);
    }
    let fault = if failures.iter().any(|e| e.fault() == Fault::Config) { Fault::Config } else { Fault::Transient };
    let all: Vec<_> = failures.iter().map(ToString::to_string).collect();
    Error::new(fault, format!("connect to PostgreSQL: none of its servers will do: {}", all.join("; ")))
}

fn shuffle(order: &mut [&Target]) {
    for last in (1..order.len()).rev() {
        let pick = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % (last + 1);
        order.swap(last, pick);
    }
}
