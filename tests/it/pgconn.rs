//! Connections to a real PostgreSQL server: every `sslmode`, every way to log in, several hosts, the environment.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use driftless::error::{Error, Fault};
use driftless::kinds::postgres::conn::ConnInfo;
use driftless::kinds::postgres::{AuthMode, Endpoint, Session};

use crate::support::gone;
use crate::support::pg::{self, Pg};

const SECRET: &str = "planted-login-5c1e";

/// A server with TLS, its certificates, and one role per way to log in.
pub struct Secure {
    pub pg: Pg,
    certs: PathBuf,
}

fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn authority(dir: &Path, name: &str) {
    let (key, crt, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
    openssl(
        dir,
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &crt,
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ],
    );
}

/// A key and a certificate signed by `ca`, with extra arguments for the signature.
fn certificate(dir: &Path, name: &str, subject: &str, extensions: &str, signature: &[&str]) {
    let (key, csr, crt, ext) =
        (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"), format!("{name}.ext"));
    std::fs::write(dir.join(&ext), extensions).unwrap();
    openssl(dir, &["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout", &key, "-out", &csr]);
    let mut args =
        vec!["x509", "-req", "-in", &csr, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
    args.extend(["-out", &crt, "-extfile", &ext]);
    args.extend(signature);
    openssl(dir, &args);
}

pub fn secure() -> &'static Secure {
    static SERVER: OnceLock<Secure> = OnceLock::new();
    SERVER.get_or_init(|| {
        let certs = std::env::temp_dir().join(format!("driftless-certs-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&certs));
        std::fs::create_dir_all(&certs).unwrap();
        gone::with_this_process(&certs);
        std::fs::set_permissions(&certs, std::fs::Permissions::from_mode(0o755)).unwrap();
        authority(&certs, "ca");
        authority(&certs, "other");
        let server = "subjectAltName=DNS:localhost,IP:0.0.0.0\nextendedKeyUsage=serverAuth\n";
        certificate(&certs, "server", "/CN=localhost", server, &["-sha384"]);
        certificate(&certs, "client", "/CN=cert_user", "extendedKeyUsage=clientAuth\n", &[]);
        openssl(&certs, &["rsa", "-in", "client.key", "-traditional", "-out", "client.pkcs1.key"]);
        let key = certs.join("server.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&key, Some(65534), Some(65534)).unwrap();
        }
        let file = |setting: &str, name: &str| format!("{setting}={}", certs.join(name).display());
        let settings = [
            "ssl=on".to_owned(),
            file("ssl_cert_file", "server.crt"),
            file("ssl_key_file", "server.key"),
            file("ssl_ca_file", "ca.crt"),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let pg = Pg::start("secure", &settings);
        let hba = "local all all trust\n\
                   hostssl all cert_user 127.0.0.1/32 cert\n\
                   hostssl all tls_user 127.0.0.1/32 scram-sha-256\n\
                   hostnossl all clear_user 127.0.0.1/32 scram-sha-256\n\
                   host all tls_user,clear_user 127.0.0.1/32 reject\n\
                   host all md5_user 127.0.0.1/32 md5\n\
                   host all password_user 127.0.0.1/32 password\n\
                   host all trust_user 127.0.0.1/32 trust\n\
                   host all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(pg.data.join("pg_hba.conf"), hba).unwrap();
        for role in ["cert_user", "tls_user", "clear_user", "password_user", "trust_user", "scram_user"] {
            pg.psql("postgres", &format!("create role {role} login replication password '{SECRET}'"));
        }
        let md5 = "set password_encryption = md5; create role md5_user login replication password";
        pg.psql("postgres", &format!("{md5} '{SECRET}'"));
        pg.psql("postgres", "select pg_reload_conf()");
        Secure { pg, certs }
    })
}

fn endpoint_in(conn_string: &str, env: &HashMap<&str, String>) -> Result<Endpoint, Error> {
    let lookup = |name: &str| env.get(name).cloned();
    let info = ConnInfo::parse(conn_string, &lookup, &|_| Err(Error::config("no service file")))?;
    Ok(Endpoint::from_info(info, AuthMode::Password, "it's a test"))
}

fn endpoint(conn_string: &str) -> Endpoint {
    endpoint_in(conn_string, &HashMap::new()).unwrap()
}

/// What the server says about a connection.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    user: String,
    encrypted: bool,
    application: String,
}

/// Connects in both ways, and checks that the server sees the same of both.
async fn connect(endpoint: &Endpoint) -> Result<Seen, Error> {
    let sql = "select usename, coalesce(ssl, false)::text, application_name from pg_stat_activity \
               left join pg_stat_ssl using (pid) where pid = pg_backend_pid()";
    let wire = endpoint.replication().await;
    let session = endpoint.session(&Session::ADMIN).await;
    let (mut wire, session) = match (wire, session) {
        (Ok(wire), Ok(session)) => (wire, session),
        (Err(wire), Err(session)) => {
            assert_eq!(wire.fault(), session.fault(), "{wire} / {session}");
            for error in [&wire, &session] {
                assert!(!error.to_string().contains("planted"), "{error}");
            }
            return Err(wire);
        }
        (wire, session) => panic!("the two ways disagree: {:?} / {:?}", wire.err(), session.err()),
    };
    let row = session.query_one(sql, &[]).await.unwrap();
    let seen = Seen { user: row.get(0), encrypted: row.get::<_, String>(1) == "true", application: row.get(2) };
    let rows = wire.simple_query(sql).await.unwrap();
    let text = |column: usize| rows[0][column].clone().unwrap();
    assert_eq!(seen, Seen { user: text(0), encrypted: text(1) == "true", application: text(2) });
    let system = wire.simple_query("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(system[0][3].as_deref(), Some("postgres"));
    Ok(seen)
}

/// A connection string for the server with TLS.
pub fn secured(user: &str, more: &str) -> String {
    let port = secure().pg.port;
    let certs = secure().certs.display().to_string();
    let more = more.replace("CERTS", &certs);
    format!("host=localhost hostaddr=127.0.0.1 port={port} dbname=postgres user={user} {more}")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_encrypts_and_verifies_as_libpq_says() {
    let password = format!("password={SECRET}");
    for (user, more, encrypted) in [
        ("scram_user", "sslmode=disable", Some(false)),
        ("scram_user", "sslmode=allow", Some(false)),
        ("scram_user", "sslmode=prefer", Some(true)),
        ("scram_user", "", Some(true)),
        ("scram_user", "sslmode=require", Some(true)),
        ("scram_user", "sslmode=require sslsni=0 ssl_min_protocol_version=TLSv1.3", Some(true)),
        ("scram_user", "sslmode=require ssl_max_protocol_version=TLSv1.2", Some(true)),
        ("scram_user", "sslmode=require sslrootcert=CERTS/ca.crt", Some(true)),
        ("scram_user", "sslmode=verify-ca sslrootcert=CERTS/ca.crt", Some(true)),
        ("scram_user", "sslmode=verify-full sslrootcert=CERTS/ca.crt", Some(true)),
        // The server's own certificate, copied as the root.
        ("scram_user", "sslmode=verify-full sslrootcert=CERTS/server.crt", Some(true)),
        // What pg_hba.conf refuses one way is tried the other way.
        ("tls_user", "sslmode=allow", Some(true)),
        ("clear_user", "sslmode=prefer", Some(false)),
        ("tls_user", "sslmode=disable", None),
        ("clear_user", "sslmode=require", None),
        // As in libpq, a file of roots makes every mode verify the chain.
        ("tls_user", "sslmode=require sslrootcert=CERTS/other.crt", None),
        ("tls_user", "sslmode=verify-ca sslrootcert=CERTS/other.crt", None),
        ("tls_user", "sslmode=verify-full sslrootcert=CERTS/other.crt", None),
        ("tls_user", "sslmode=verify-full sslrootcert=CERTS/none.crt", None),
        ("tls_user", "sslmode=verify-full", None),
        ("tls_user", "sslrootcert=system", None),
    ] {
        let conn_string = secured(user, &format!("{password} {more}"));
        let seen = connect(&endpoint(&conn_string)).await;
        match (encrypted, seen) {
            (Some(encrypted), Ok(seen)) => {
                assert_eq!((seen.user.as_str(), seen.encrypted), (user, encrypted), "{user} {more}");
                assert_eq!(seen.application, "driftless it's a test");
            }
            (None, Err(error)) => assert_eq!(error.fault(), Fault::Config, "{user} {more}: {error}"),
            (expected, seen) => panic!("{user} {more}: expected {expected:?}, saw {seen:?}"),
        }
    }
}

/// A server by an address that leads to this machine and does not say so.
fn elsewhere(port: u16, more: &str) -> String {
    format!("host=0.0.0.0 port={port} dbname=postgres user=postgres password={} {more}", pg::PASSWORD)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_elsewhere_is_verified_unless_somebody_chooses_otherwise() {
    let port = pg::primary().port;
    let error = connect(&endpoint(&elsewhere(port, ""))).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Config);
    let said = error.to_string();
    assert!(said.contains("has no TLS") && said.contains("set sslmode= deliberately"), "{said}");
    assert!(!connect(&endpoint(&elsewhere(port, "sslmode=prefer"))).await.unwrap().encrypted);
    let chosen = HashMap::from([("PGSSLMODE", "disable".to_owned())]);
    assert!(!connect(&endpoint_in(&elsewhere(port, ""), &chosen).unwrap()).await.unwrap().encrypted);

    let (port, certs) = (secure().pg.port, secure().certs.display());
    let error = connect(&endpoint(&elsewhere(port, ""))).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Config);
    assert!(error.to_string().contains("name the root that signed it in sslrootcert; without sslmode="), "{error}");
    assert!(connect(&endpoint(&elsewhere(port, &format!("sslrootcert={certs}/other.crt")))).await.is_err());
    for chosen in [format!("sslrootcert={certs}/ca.crt"), "sslmode=require".to_owned()] {
        assert!(connect(&endpoint(&elsewhere(port, &chosen))).await.unwrap().encrypted, "{chosen}");
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn the_systems_roots_are_what_a_server_elsewhere_is_verified_by() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("clone.yaml");
    let (src, state) = (elsewhere(secure().pg.port, ""), dir.path().join("state"));
    let yaml = format!(
        "name: system-roots\nsrc: {{type: postgresql, conn_string: {src:?}}}\ndst: {{type: sqlite, path: copy}}\nstate_dir: {state:?}\n"
    );
    std::fs::write(&config, yaml).unwrap();
    // The variable with which OpenSSL and its like are told of another file of roots.
    for (roots, code, said) in [
        ("ca.crt", 0, "there is no replication slot driftless_system_roots"),
        ("other.crt", 2, "the server's certificate is not trusted"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_driftless"));
        command.arg("drop-slot").arg("-c").arg(&config).env("SSL_CERT_FILE", secure().certs.join(roots));
        let output = command.env_remove("SSL_CERT_DIR").output().unwrap();
        let all = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{roots}: {all}");
        assert!(all.contains(said), "{roots}: {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_handshake_works_where_the_server_knows_it_and_else_says_what_it_takes() {
    let conn_string = secured("scram_user", &format!("password={SECRET} sslmode=require sslnegotiation=direct"));
    let version: u32 = secure().pg.psql("postgres", "show server_version_num").parse().unwrap();
    match connect(&endpoint(&conn_string)).await {
        Ok(seen) => assert!(seen.encrypted && version >= 170_000, "{seen:?}"),
        Err(error) => {
            assert!(version < 170_000, "{error}");
            assert!(error.to_string().contains("takes PostgreSQL 17"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_certificate_lacks_is_refused_only_by_verify_full() {
    let port = secure().pg.port;
    let base = format!("host=127.0.0.1 port={port} dbname=postgres user=scram_user password={SECRET}");
    let root = secure().certs.join("ca.crt").display().to_string();
    connect(&endpoint(&format!("{base} sslmode=verify-ca sslrootcert={root}"))).await.unwrap();
    let refused = connect(&endpoint(&format!("{base} sslmode=verify-full sslrootcert={root}"))).await.unwrap_err();
    assert!(refused.to_string().contains("subjectAltName"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_log_in_works_and_a_wrong_password_says_so() {
    for (user, more, works) in [
        ("scram_user", "sslmode=require channel_binding=require", true),
        ("scram_user", "sslmode=require channel_binding=disable", true),
        ("scram_user", "sslmode=disable channel_binding=require", false),
        ("md5_user", "sslmode=disable", true),
        ("md5_user", "sslmode=require channel_binding=require", false),
        ("password_user", "sslmode=require", true),
        ("password_user", "sslmode=require channel_binding=require", false),
        ("trust_user", "sslmode=disable", true),
        ("trust_user", "sslmode=require channel_binding=require", false),
    ] {
        let seen = connect(&endpoint(&secured(user, &format!("password={SECRET} {more}")))).await;
        assert_eq!(seen.is_ok(), works, "{user} {more}: {seen:?}");
    }
    for user in ["scram_user", "md5_user", "password_user", "nobody_of_this_name"] {
        let error = connect(&endpoint(&secured(user, "password=planted-wrong"))).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Config);
        assert!(error.to_string().contains("check the user and the password"), "{error}");
        let error = connect(&endpoint(&secured(user, "sslmode=disable"))).await.unwrap_err();
        assert!(error.to_string().contains("asks for a password"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_logs_in_without_a_password() {
    let tls = "sslmode=verify-full sslrootcert=CERTS/ca.crt";
    for key in ["client.key", "client.pkcs1.key"] {
        let more = format!("{tls} sslcert=CERTS/client.crt sslkey=CERTS/{key}");
        let seen = connect(&endpoint(&secured("cert_user", &more))).await.unwrap();
        assert_eq!((seen.user.as_str(), seen.encrypted), ("cert_user", true));
    }
    for more in [
        tls.to_owned(),
        format!("{tls} sslcert=CERTS/client.crt sslkey=CERTS/none.key"),
        format!("{tls} sslcert=CERTS/client.crt sslkey=CERTS/server.crt"),
        format!("{tls} sslcert=CERTS/client.crt sslkey=CERTS/client.key sslcertmode=disable"),
        format!("{tls} sslcert=CERTS/client.crt sslkey=CERTS/other.key"),
    ] {
        let error = connect(&endpoint(&secured("cert_user", &more))).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Config, "{more}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_named_and_the_next_one_is_taken() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let user = format!("dbname=postgres user=postgres password={} sslmode=disable", pg::PASSWORD);
    let error = connect(&endpoint(&format!("host=127.0.0.1 port={free} {user}"))).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient);
    assert!(error.to_string().contains(&format!("127.0.0.1:{free}")), "{error}");
    let error = connect(&endpoint(&format!("host=no-such-host.invalid {user}"))).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Transient);
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    let both = format!("host=127.0.0.1,127.0.0.1 port={free},{} {user}", pg::primary().port);
    connect(&endpoint(&both)).await.unwrap();
    // Without a listener that ever answers, the limit ends the attempt.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = deaf.local_addr().unwrap().port();
    let error = connect(&endpoint(&format!("host=127.0.0.1 port={port} connect_timeout=2 {user}"))).await.unwrap_err();
    assert!(error.to_string().contains("no answer within 2 s"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn target_session_attrs_picks_the_server() {
    let (first, second) = (pg::primary(), pg::secondary());
    let database = second.database("attrs");
    first.psql("postgres", &format!("create database {database}"));
    second.psql("postgres", &format!("alter database {database} set default_transaction_read_only = on"));
    let base = format!("dbname={database} user=postgres password={} sslmode=disable", pg::PASSWORD);
    let hosts = format!("host=127.0.0.1,127.0.0.1 port={},{}", second.port, first.port);
    let port = "select inet_server_port()";
    for (attrs, expected) in [
        ("any", second.port),
        ("read-only", second.port),
        ("read-write", first.port),
        ("primary", second.port),
        ("prefer-standby", second.port),
    ] {
        let endpoint = endpoint(&format!("{hosts} {base} target_session_attrs={attrs}"));
        let row = endpoint.session(&Session::ADMIN).await.unwrap().query_one(port, &[]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), i32::from(expected), "{attrs}");
        let rows = endpoint.replication().await.unwrap().simple_query(port).await.unwrap();
        assert_eq!(rows[0][0].as_deref(), Some(expected.to_string().as_str()), "{attrs}");
    }
    let error =
        endpoint(&format!("{hosts} {base} target_session_attrs=standby")).session(&Session::ADMIN).await.unwrap_err();
    assert!(error.to_string().contains("target_session_attrs"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passfile_socket_and_environment_fill_what_the_string_leaves_out() {
    let server = &secure().pg;
    let dir = tempfile::tempdir().unwrap();
    let passfile = dir.path().join("pgpass");
    std::fs::write(&passfile, format!("localhost:{}:*:scram_user:{SECRET}\n", server.port)).unwrap();
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    let env = HashMap::from([
        ("PGHOST", "localhost".to_owned()),
        ("PGPORT", server.port.to_string()),
        ("PGUSER", "scram_user".to_owned()),
        ("PGDATABASE", "postgres".to_owned()),
        ("PGPASSFILE", passfile.display().to_string()),
        ("PGSSLMODE", "verify-full".to_owned()),
        ("PGSSLROOTCERT", secure().certs.join("ca.crt").display().to_string()),
        ("PGAPPNAME", "named by the environment".to_owned()),
        ("PGOPTIONS", "-c search_path=elsewhere".to_owned()),
    ]);
    let seen =
        connect(&endpoint_in("postgresql://?pool_max_conns=10&hostaddr=127.0.0.1", &env).unwrap()).await.unwrap();
    assert_eq!((seen.user.as_str(), seen.encrypted), ("scram_user", true));
    assert_eq!(seen.application, "named by the environment");
    let endpoint = endpoint_in("hostaddr=127.0.0.1", &env).unwrap();
    let row = endpoint.session(&Session::READ).await.unwrap().query_one("show search_path", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "elsewhere");
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = connect(&endpoint).await.unwrap_err();
    assert!(error.to_string().contains("asks for a password"), "{error}");
    let socket = server.data.parent().unwrap().display();
    let by_socket = self::endpoint(&format!("host={socket} port={} user=trust_user dbname=postgres", server.port));
    assert!(!connect(&by_socket).await.unwrap().encrypted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_the_server_refuses_leaves_the_connection_usable() {
    let endpoint = endpoint(&pg::primary().url("postgres"));
    let mut conn = endpoint.replication().await.unwrap();
    assert!(conn.server_version >= 130_000);
    let error = conn.simple_query("READ_REPLICATION_SLOT nothing; select").await.unwrap_err();
    assert!(error.code().is_some(), "{error:?}");
    let error = conn.simple_query("select 'planted'::uuid").await.unwrap_err();
    assert_eq!(error.code(), Some("22P02"));
    assert!(!error.during("ask").to_string().contains("planted"));
    let rows = conn.simple_query("select 1, null; select 2, 'b'").await.unwrap();
    assert_eq!(rows, [vec![Some("1".to_owned()), None], vec![Some("2".to_owned()), Some("b".to_owned())]]);
}
