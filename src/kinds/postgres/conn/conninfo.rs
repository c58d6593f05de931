//! What a connection string means, once the environment and the service file have filled what it leaves out.
//!
//! Follows libpq (PostgreSQL 17, "Connection Strings" and "Environment Variables"), and takes the keys of pgx that stand in
//! Teleport's connection strings. One default differs: a server on another machine is verified. Pure: the environment and the service file come in as closures. Invariants: every key
//! is known or refused by name; a key that would make a connection safer is honoured or refused, never ignored; no error
//! repeats a value. Deliberately not here: what needs a file or the network (`passfile`, `tls`, `dial`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::keys::{self, Rule};
use crate::kinds::postgres::conn::secret::Secret;
use crate::kinds::postgres::conn::text::{self, Pairs};

/// Where a server may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// The directory of a Unix-domain socket.
    Unix(PathBuf),
}

/// One server to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name for the certificate, the passfile and messages.
    pub host: Host,
    /// Address to connect to in place of looking the name up.
    pub address: Option<IpAddr>,
    /// TCP port, or number in the name of the socket.
    pub port: u16,
}

impl Target {
    /// Whether the way to it stays on this machine, as far as its name or address tells without a look-up.
    pub fn is_local(&self) -> bool {
        let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
        match (&self.host, self.address) {
            (_, Some(ip)) => loopback(ip),
            (Host::Unix(_), None) => true,
            (Host::Tcp(name), None) => name == "localhost" || name.parse().is_ok_and(loopback),
        }
    }
}

/// `host:port`, for messages.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(dir) => write!(f, "{}/.s.PGSQL.{}", dir.display(), self.port),
        }
    }
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "libpq's own names")]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// This file, which must exist.
    File(PathBuf),
    /// The operating system's store (`sslrootcert=system`).
    System,
    /// This file where it exists; else the operating system's store for `verify-*`, as pgx has it, and nobody's for less.
    Usual(Option<PathBuf>),
}

/// Everything that TLS needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// How much is asked for.
    pub mode: SslMode,
    /// Whether somebody chose the mode; else it follows from where the servers are.
    pub chosen: bool,
    /// Whether the handshake starts at once, without asking (`sslnegotiation=direct`).
    pub direct: bool,
    /// Whose certificates are trusted.
    pub roots: Roots,
    /// Revocation list in PEM.
    pub crl: Option<PathBuf>,
    /// Client certificate; whether the file must exist.
    pub cert: Option<(PathBuf, bool)>,
    /// Key of the client certificate.
    pub key: Option<PathBuf>,
    /// Whether the server's name is sent in clear.
    pub sni: bool,
    /// TLS 1.3 or nothing.
    pub only_tls13: bool,
    /// TLS 1.2 or nothing.
    pub only_tls12: bool,
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "libpq's own names")]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "libpq's own names")]
pub enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// How the socket notices that the other side is gone. `None`: the system's own setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "libpq's own names")]
pub struct TcpOptions {
    pub keepalives: bool,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
    pub user_timeout: Option<Duration>,
}

/// A connection string, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnInfo {
    /// Servers in the order in which they are tried; never empty.
    pub targets: Vec<Target>,
    /// Whether they are tried in random order.
    pub balance: bool,
    /// What the server must be for us to stay.
    pub session: TargetSession,
    /// Role.
    pub user: String,
    /// Password, where it stands in the connection string or the environment.
    pub password: Option<Secret>,
    /// Where passwords are looked up else.
    pub passfile: Option<PathBuf>,
    /// Database.
    pub dbname: String,
    /// Start-up options of the session.
    pub options: Option<String>,
    /// Application name, where somebody set one.
    pub application_name: Option<String>,
    /// Limit for reaching one server, authentication included.
    pub connect_timeout: Option<Duration>,
    /// TLS.
    pub tls: TlsOptions,
    /// Whether SCRAM is bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// The socket.
    pub tcp: TcpOptions,
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Debian's directory for sockets, where nobody names a host.
const SOCKETS: &str = "/var/run/postgresql";
const PORT: u16 = 5432;
/// LIMIT: what a list of hosts may hold; more is a mistake.
const HOSTS_MAX: usize = 64;

impl ConnInfo {
    /// Reads a connection string. `env` looks up an environment variable; `service` reads a section of the service file.
    pub fn parse(conn_string: &str, env: Lookup<'_>, service: &dyn Fn(&str) -> Result<Pairs>) -> Result<Self> {
        let mut given = Given::default();
        for (key, value) in text::read(conn_string)? {
            given.put(key, value)?;
        }
        let named = given.take("service").or_else(|| env("PGSERVICE").filter(|v| !v.is_empty()));
        if let Some(name) = named {
            for (key, value) in service(&name)? {
                given.put_if_absent(key, value)?;
            }
        }
        for (key, variable) in keys::ENVIRONMENT {
            if let Some(value) = env(variable).filter(|v| !v.is_empty()) {
                given.put_if_absent((*key).to_owned(), value)?;
            }
        }
        given.understand(env)
    }
}

fn wrong(key: &str, why: &str) -> Error {
    Error::config(format!("read the PostgreSQL connection string: `{key}` {why}"))
}

#[derive(Default)]
struct Given(BTreeMap<String, String>);

impl Given {
    fn put(&mut self, key: String, value: String) -> Result<()> {
        match keys::rule(&key) {
            Rule::Used => drop(self.0.insert(key, value)),
            Rule::Setting => self.put_setting(&key, &value),
            Rule::Ignored => {}
            Rule::Must(allowed) if allowed.contains(&value.as_str()) || value.is_empty() => {}
            Rule::Must(allowed) => {
                return Err(wrong(&key, &format!("is understood only as {}", allowed.join(" or "))));
            }
            Rule::Refused(instead) => return Err(wrong(&key, &format!("is not supported: {instead}"))),
            Rule::Unknown => {
                return Err(wrong(
                    text::shown(&key),
                    "is not a key that libpq or pgx knows; a setting of the server goes into options='-c name=value'",
                ));
            }
        }
        Ok(())
    }

    fn put_if_absent(&mut self, key: String, value: String) -> Result<()> {
        if self.0.contains_key(&key) { Ok(()) } else { self.put(key, value) }
    }

    /// pgx sends keys like `search_path` as settings of the session; in libpq's words that is an option.
    fn put_setting(&mut self, key: &str, value: &str) {
        let escaped = value.replace('\\', "\\\\").replace(' ', "\\ ");
        let options = self.0.entry("options".into()).or_default();
        let space = if options.is_empty() { "" } else { " " };
        options.push_str(&format!("{space}-c {key}={escaped}"));
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key).filter(|value| !value.is_empty())
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>> {
        let number = |value: String| value.trim().parse().map_err(|_| wrong(key, "is not a number in its range"));
        self.take(key).map(number).transpose()
    }

    fn flag(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.take(key).as_deref() {
            None => Ok(default),
            Some("1") => Ok(true),
            Some("0") => Ok(false),
            Some(_) => Err(wrong(key, "must be 0 or 1")),
        }
    }

    fn choice<T: Copy>(&mut self, key: &str, default: T, choices: &[(&str, T)]) -> Result<T> {
        let Some(value) = self.take(key) else { return Ok(default) };
        choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            wrong(key, &format!("must be one of {}", names.join(", ")))
        })
    }

    /// Seconds; zero and less mean "not set", as in libpq.
    fn seconds(&mut self, key: &str) -> Result<Option<Duration>> {
        let seconds: Option<i32> = self.number(key)?;
        Ok(seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).map(Duration::from_secs))
    }

    fn understand(mut self, env: Lookup<'_>) -> Result<ConnInfo> {
        let home = env("HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
        let user = self.take("user").or_else(|| env("USER")).or_else(|| env("LOGNAME")).filter(|u| !u.is_empty());
        let user = user.ok_or_else(|| wrong("user", "is missing, and neither PGUSER nor USER is set"))?;
        let usual = || home.as_ref().map(|home| home.join(".pgpass"));
        let passfile = self.take("passfile").map(PathBuf::from).or_else(usual);
        let attrs = [
            ("any", TargetSession::Any),
            ("read-write", TargetSession::ReadWrite),
            ("read-only", TargetSession::ReadOnly),
            ("primary", TargetSession::Primary),
            ("standby", TargetSession::Standby),
            ("prefer-standby", TargetSession::PreferStandby),
        ];
        let bindings = [
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ];
        let targets = self.targets()?;
        let tls = self.tls(home, targets.iter().all(Target::is_local))?;
        Ok(ConnInfo {
            targets,
            balance: self.choice("load_balance_hosts", false, &[("disable", false), ("random", true)])?,
            session: self.choice("target_session_attrs", TargetSession::Any, &attrs)?,
            dbname: self.take("dbname").unwrap_or_else(|| user.clone()),
            user,
            password: self.take("password").map(Secret::new),
            passfile,
            options: self.take("options"),
            application_name: self.take("application_name").or_else(|| self.take("fallback_application_name")),
            // libpq waits at least two seconds whatever is asked for.
            connect_timeout: self.seconds("connect_timeout")?.map(|t| t.max(Duration::from_secs(2))),
            channel_binding: self.choice("channel_binding", ChannelBinding::Prefer, &bindings)?,
            tcp: self.tcp()?,
            tls,
        })
    }

    fn tcp(&mut self) -> Result<TcpOptions> {
        let user_timeout: Option<i32> = self.number("tcp_user_timeout")?;
        let count: Option<i32> = self.number("keepalives_count")?;
        Ok(TcpOptions {
            keepalives: self.flag("keepalives", true)?,
            idle: self.seconds("keepalives_idle")?,
            interval: self.seconds("keepalives_interval")?,
            count: count.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0),
            user_timeout: user_timeout
                .and_then(|ms| u64::try_from(ms).ok())
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
        })
    }

    /// Where nobody chooses, libpq tries TLS and takes whatever answers. Here that is so only for a server on this machine
    /// (`local`); any other must prove who it is.
    fn tls(&mut self, home: Option<PathBuf>, local: bool) -> Result<TlsOptions> {
        let usual = |name: &str| home.as_ref().map(|home| home.join(".postgresql").join(name));
        let modes = [
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ];
        let roots = match self.take("sslrootcert") {
            Some(word) if word == "system" => Roots::System,
            Some(path) => Roots::File(path.into()),
            None => Roots::Usual(usual("root.crt")),
        };
        let system = roots == Roots::System;
        let usual_mode = if local && !system { SslMode::Prefer } else { SslMode::VerifyFull };
        let chosen = self.0.get("sslmode").is_some_and(|mode| !mode.is_empty());
        let mode = self.choice("sslmode", usual_mode, &modes)?;
        if system && mode != SslMode::VerifyFull {
            return Err(wrong("sslmode", "must be verify-full with sslrootcert=system"));
        }
        let direct = self.choice("sslnegotiation", false, &[("postgres", false), ("direct", true)])?;
        if direct && mode < SslMode::Require {
            return Err(wrong("sslnegotiation", "can be direct only with sslmode require or stronger"));
        }
        let wanted = self.choice("sslcertmode", true, &[("disable", false), ("allow", true)])?;
        let cert = match self.take("sslcert") {
            Some(path) => Some((PathBuf::from(path), true)),
            None => usual("postgresql.crt").map(|path| (path, false)),
        };
        let versions = [("TLSv1", 10), ("TLSv1.1", 11), ("TLSv1.2", 12), ("TLSv1.3", 13)];
        let least = self.choice("ssl_min_protocol_version", 12, &versions)?;
        let most = self.choice("ssl_max_protocol_version", 13, &versions)?;
        if most < 12 || most < least {
            return Err(wrong("ssl_max_protocol_version", "leaves neither TLS 1.2 nor TLS 1.3"));
        }
        Ok(TlsOptions {
            mode,
            chosen,
            direct,
            roots,
            crl: self.take("sslcrl").map(PathBuf::from),
            cert: cert.filter(|_| wanted),
            key: self.take("sslkey").map(PathBuf::from).or_else(|| usual("postgresql.key")),
            sni: self.flag("sslsni", true)?,
            only_tls13: least == 13,
            only_tls12: most == 12,
        })
    }

    fn targets(&mut self) -> Result<Vec<Target>> {
        let list = |value: Option<String>| -> Vec<String> {
            value.map(|v| v.split(',').map(|one| one.trim().to_owned()).collect()).unwrap_or_default()
        };
        let (hosts, addresses, ports) = (list(self.take("host")), list(self.take("hostaddr")), list(self.take("port")));
        let count = hosts.len().max(addresses.len()).max(1);
        if count > HOSTS_MAX {
            return Err(wrong("host", "names more than 64 servers"));
        }
        if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
            return Err(wrong("hostaddr", "must have as many entries as `host`"));
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(wrong("port", "must have one entry, or as many as `host`"));
        }
        (0..count)
            .map(|at| {
                let address = match addresses.get(at).map(String::as_str).unwrap_or_default() {
                    "" => None,
                    text => Some(text.parse::<IpAddr>().map_err(|_| wrong("hostaddr", "is not an IP address"))?),
                };
                let port = match ports.get(at).or(ports.first()).map(String::as_str).unwrap_or_default() {
                    "" => PORT,
                    text => {
                        text.parse().ok().filter(|p| *p > 0).ok_or_else(|| wrong("port", "is not a port number"))?
                    }
                };
                let host = match hosts.get(at).map(String::as_str).unwrap_or_default() {
                    "" => address.map_or_else(|| Host::Unix(SOCKETS.into()), |a| Host::Tcp(a.to_string())),
                    dir if dir.starts_with('/') && address.is_some() => {
                        return Err(wrong(
                            "hostaddr",
                            "stands beside the directory of a socket in `host`; leave one of them out",
                        ));
                    }
                    dir if dir.starts_with('/') => Host::Unix(dir.into()),
                    name if name.starts_with('@') => {
                        return Err(wrong("host", "cannot be a socket in the abstract namespace"));
                    }
                    name => Host::Tcp(name.to_owned()),
                };
                Ok(Target { host, address, port })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn no_service(name: &str) -> Result<Pairs> {
        match name {
            "known" => Ok(vec![("host".into(), "from-service".into()), ("port".into(), "7".into())]),
            _ => Err(Error::config("no such service")),
        }
    }

    fn parse_in(text: &str, env: &[(&str, &str)]) -> Result<ConnInfo> {
        let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        ConnInfo::parse(text, &lookup, &no_service)
    }

    fn parse(text: &str) -> ConnInfo {
        parse_in(text, &[("USER", "me"), ("HOME", "/users/me")]).unwrap()
    }

    fn targets(text: &str) -> String {
        parse(text).targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn hosts_and_ports_pair_up_as_libpq_says() {
        for (text, expected) in [
            ("", "/var/run/postgresql/.s.PGSQL.5432"),
            ("host=a", "a:5432"),
            ("host=a,b port=1", "a:1 b:1"),
            ("host=a,b,::1 port=1,,3", "a:1 b:5432 [::1]:3"),
            ("postgresql://a:1,b/d", "a:1 b:5432"),
            ("host=/run/pg port=9", "/run/pg/.s.PGSQL.9"),
            ("host=a, port=1", "a:1 /var/run/postgresql/.s.PGSQL.1"),
            ("hostaddr=10.0.0.1", "10.0.0.1:5432"),
        ] {
            assert_eq!(targets(text), expected, "{text}");
        }
        for text in [
            "host=a,b port=1,2,3",
            "host=a,b hostaddr=1.1.1.1",
            "port=0",
            "port=x",
            "hostaddr=name",
            "host=@a",
            "host=/run/pg hostaddr=10.0.0.1",
        ] {
            assert!(parse_in(text, &[("USER", "me")]).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_left_out_comes_from_service_then_environment_then_defaults() {
        let env =
            [("PGHOST", "from-env"), ("PGUSER", "env-user"), ("PGPASSWORD", "secret"), ("USER", "os"), ("PGPORT", "")];
        let info = parse_in("service=known", &env).unwrap();
        assert_eq!(info.targets[0].to_string(), "from-service:7");
        assert_eq!((info.user.as_str(), info.dbname.as_str()), ("env-user", "env-user"));
        assert_eq!(info.password.unwrap().reveal(), "secret");
        assert_eq!(parse_in("", &env).unwrap().targets[0].to_string(), "from-env:5432");
        assert_eq!(
            parse_in("host=h", &[("PGSERVICE", "known"), ("USER", "os")]).unwrap().targets[0].to_string(),
            "h:7"
        );
        assert!(parse_in("service=unknown", &env).is_err());
        assert!(parse_in("host=h", &[]).unwrap_err().to_string().contains("PGUSER"));
    }

    #[test]
    fn a_server_elsewhere_is_verified_unless_somebody_chooses_and_one_here_is_as_in_libpq() {
        use SslMode::{Disable, Prefer, Require, VerifyFull};
        for (text, mode, chosen) in [
            ("", Prefer, false),
            ("host=/run/pg", Prefer, false),
            ("host=localhost,127.8.0.1,::1", Prefer, false),
            ("host=db hostaddr=127.0.0.1", Prefer, false),
            ("hostaddr=::ffff:127.0.0.1", Prefer, false),
            ("host=db", VerifyFull, false),
            ("host=localhost.example", VerifyFull, false),
            ("host=localhost hostaddr=10.0.0.1", VerifyFull, false),
            ("host=0.0.0.0", VerifyFull, false),
            ("host=localhost,db", VerifyFull, false),
            ("host=db sslmode=", VerifyFull, false),
            ("host=db sslrootcert=/ca.pem", VerifyFull, false),
            ("postgresql://u@db/d?application_name=x", VerifyFull, false),
            ("host=db sslmode=prefer", Prefer, true),
            ("postgresql://u@db/d?sslmode=disable", Disable, true),
            ("host=localhost sslmode=verify-full", VerifyFull, true),
        ] {
            let tls = parse(text).tls;
            assert_eq!((tls.mode, tls.chosen), (mode, chosen), "{text}");
        }
        let chosen = parse_in("host=db", &[("USER", "me"), ("PGSSLMODE", "require")]).unwrap().tls;
        assert_eq!((chosen.mode, chosen.chosen), (Require, true));
        let elsewhere = parse_in("", &[("USER", "me"), ("PGHOST", "db")]).unwrap().tls;
        assert_eq!((elsewhere.mode, elsewhere.chosen), (VerifyFull, false));
    }

    #[test]
    fn the_other_defaults_are_libpqs_and_the_system_roots_ask_for_everything() {
        let info = parse("host=h");
        assert_eq!((info.tls.sni, info.channel_binding), (true, ChannelBinding::Prefer));
        assert_eq!(info.tls.roots, Roots::Usual(Some("/users/me/.postgresql/root.crt".into())));
        assert_eq!(info.passfile.as_deref(), Some(std::path::Path::new("/users/me/.pgpass")));
        assert_eq!(parse("host=h sslrootcert=system").tls.mode, SslMode::VerifyFull);
        for text in [
            "sslrootcert=system sslmode=require",
            "sslnegotiation=direct sslmode=prefer",
            "host=localhost sslnegotiation=direct",
            "ssl_max_protocol_version=TLSv1.1",
        ] {
            assert_eq!(parse_in(text, &[("USER", "me")]).unwrap_err().fault(), crate::error::Fault::Config, "{text}");
        }
    }

    #[test]
    fn teleports_connection_strings_are_taken_as_they_are() {
        let text = "postgresql://teleport@db:5432/teleport?sslmode=verify-full&pool_max_conns=20&pool_min_conns=2\
                    &sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem&search_path=tele%20port";
        let info = parse(text);
        assert_eq!(info.options.as_deref(), Some(r"-c search_path=tele\ port"));
        assert_eq!(info.tls.roots, Roots::File("/ca.pem".into()));
        assert_eq!(info.tls.cert, Some(("/c.pem".into(), true)));
    }

    #[test]
    fn an_unknown_key_is_named_and_its_value_is_not() {
        for (text, named) in [
            ("host=h pasword=planted", "`pasword`"),
            ("host=h sslmode=planted", "`sslmode`"),
            ("host=h connect_timeout=planted", "`connect_timeout`"),
            ("host=h keepalives=planted", "`keepalives`"),
            ("host=h require_auth=planted", "`require_auth`"),
            ("host=h gssencmode=planted", "`gssencmode`"),
            ("host=h client_encoding=planted", "`client_encoding`"),
            ("host=h password=a Planted=x", "`(not shown)`"),
        ] {
            let error = parse_in(text, &[("USER", "me")]).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(named) && !said.to_lowercase().contains("planted"), "{said}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        let debug = format!("{:?}", parse("host=h password=planted"));
        assert!(!debug.contains("planted"), "{debug}");
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "(host|port|hostaddr|sslmode|options|keepalives_idle|connect_timeout|x)=[a-z0-9,./:-]{0,12} ?\\PC{0,20}") {
            drop(parse_in(&text, &[("USER", "me")]));
        }
    }
}
