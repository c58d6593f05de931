//! Every key that may stand in a connection string, and what is done with it.
//!
//! The keys are those of libpq (PostgreSQL 18, `PQconninfoOptions`) and of pgx and pgxpool 5 (`ParseConfig`). A table and
//! nothing else.

/// What is done with a key.
pub enum Rule {
    /// It has a meaning here.
    Used,
    /// It is a setting of the session, which pgx takes as a key.
    Setting,
    /// It tunes something that we do not have.
    Ignored,
    /// Only these values, which ask for nothing, can be met.
    Must(&'static [&'static str]),
    /// It asks for something that we cannot do; what to do instead.
    Refused(&'static str),
    /// Nobody knows it.
    Unknown,
}

/// Key and the environment variable that fills it.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("require_auth", "PGREQUIREAUTH"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslsni", "PGSSLSNI"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("requirepeer", "PGREQUIREPEER"),
    ("gssencmode", "PGGSSENCMODE"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("client_encoding", "PGCLIENTENCODING"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
];

/// What is done with a key.
pub fn rule(key: &str) -> Rule {
    match key {
        "host"
        | "hostaddr"
        | "port"
        | "dbname"
        | "user"
        | "password"
        | "passfile"
        | "options"
        | "application_name"
        | "fallback_application_name"
        | "connect_timeout"
        | "service"
        | "sslmode"
        | "sslnegotiation"
        | "sslrootcert"
        | "sslcert"
        | "sslkey"
        | "sslcertmode"
        | "sslcrl"
        | "sslsni"
        | "ssl_min_protocol_version"
        | "ssl_max_protocol_version"
        | "channel_binding"
        | "target_session_attrs"
        | "load_balance_hosts"
        | "keepalives"
        | "keepalives_idle"
        | "keepalives_interval"
        | "keepalives_count"
        | "tcp_user_timeout" => Rule::Used,
        "search_path" | "role" | "timezone" | "TimeZone" => Rule::Setting,
        "pool_max_conns"
        | "pool_min_conns"
        | "pool_min_idle_conns"
        | "pool_max_conn_lifetime"
        | "pool_max_conn_lifetime_jitter"
        | "pool_max_conn_idle_time"
        | "pool_health_check_period"
        | "default_query_exec_mode"
        | "statement_cache_capacity"
        | "statement_cache_mode"
        | "description_cache_capacity"
        | "prefer_simple_protocol"
        | "min_read_buffer_size"
        | "sslcompression"
        | "krbsrvname"
        | "krbspn"
        | "gsslib"
        | "gssdelegation"
        | "tty"
        | "servicefile"
        | "sslkeylogfile" => Rule::Ignored,
        "client_encoding" => Rule::Must(&["UTF8", "utf8", "UTF-8", "utf-8", "auto"]),
        "replication" => Rule::Must(&["false", "off", "no", "0"]),
        "gssencmode" => Rule::Must(&["disable", "prefer"]),
        "requiressl" => Rule::Must(&["0"]),
        "min_protocol_version" => Rule::Must(&["3.0"]),
        "max_protocol_version" => Rule::Must(&["3.0", "3.2", "latest"]),
        _ => refusal(key).map_or(Rule::Unknown, Rule::Refused),
    }
}

/// What to do instead of a key that asks for something that we cannot do.
fn refusal(key: &str) -> Option<&'static str> {
    Some(match key {
        "sslpassword" => "decrypt the key with `openssl pkey` and name that file in sslkey",
        "sslcrldir" => "put the revocation lists into one file and name it in sslcrl",
        "sslinline" => "name files in sslrootcert, sslcert and sslkey",
        "requirepeer" => "use a TCP connection with sslmode=verify-full",
        "require_auth" => "use channel_binding=require, or sslmode=verify-full",
        "scram_client_key" | "scram_server_key" => "give the password itself",
        "oauth_issuer" | "oauth_client_id" | "oauth_client_secret" | "oauth_scope" => {
            "use a password or a client certificate"
        }
        _ => return None,
    })
}
