//! The TLS handshake, for every `sslmode`.
//!
//! libpq, "SSL Support", on rustls with aws-lc-rs. Invariants: `verify-ca` checks the chain, `verify-full` the name too;
//! weaker modes check the chain as soon as there is a file of roots, as libpq does; and a peer always proves that it holds
//! the key of the certificate it shows, or the channel binding of SCRAM would bind to nothing. Deliberately not here:
//! whether an encrypted connection is tried at all (`dial`).

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::binding;
use crate::kinds::postgres::conn::conninfo::{Roots, SslMode, TlsOptions};
use crate::kinds::postgres::conn::stream::Tls;
use crate::kinds::postgres::conn::verifier::{Check, Verifier};

/// The application protocol that PostgreSQL registered; required for `sslnegotiation=direct`.
const ALPN: &[u8] = b"postgresql";

/// What handshakes need, read from files once per connection attempt, so that renewed certificates are picked up.
pub struct TlsSetup {
    config: Arc<ClientConfig>,
    chosen: bool,
}

impl TlsSetup {
    /// Reads roots, revocations and the client certificate. Blocking, briefly: small local files.
    pub fn load(options: &TlsOptions) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions: &[_] = match (options.only_tls12, options.only_tls13) {
            (true, _) => &[&rustls::version::TLS12],
            (_, true) => &[&rustls::version::TLS13],
            _ => rustls::ALL_VERSIONS,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| Error::config("set up TLS for PostgreSQL").because(error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier(options, &provider)?));
        let mut config = match client_certificate(options)? {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::config("set up TLS for PostgreSQL: sslcert and sslkey do not go together").because(error)
            })?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = options.sni;
        Ok(Self { config: Arc::new(config), chosen: options.chosen })
    }

    /// What to say of a server without TLS.
    pub fn missing(&self) -> &'static str {
        if self.chosen {
            "the server has no TLS (ssl = off) and sslmode asks for it"
        } else {
            "the server has no TLS (ssl = off), and on another machine it is verified unless the connection string says \
             otherwise: turn TLS on there, or set sslmode= deliberately (sslmode=disable sends everything in clear)"
        }
    }

    /// Shakes hands with `host`.
    pub async fn handshake(&self, stream: TcpStream, host: &str) -> Result<Tls> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::config(format!("connect to PostgreSQL at {host}: this is not a name that a certificate can have"))
        })?;
        let connected = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await;
        let stream = connected.map_err(|error| refused(host, error, self.chosen))?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let end_point = certificate.and_then(|certificate| binding::tls_server_end_point(certificate));
        Ok(Tls { stream, end_point })
    }

    /// Whether the server agreed to speak PostgreSQL, which a direct handshake must end with.
    pub fn spoke_postgresql(tls: &Tls) -> bool {
        tls.stream.get_ref().1.alpn_protocol() == Some(ALPN)
    }
}

fn refused(host: &str, error: std::io::Error, chosen: bool) -> Error {
    let attempt = format!("connect to PostgreSQL at {host} with TLS");
    let Some(tls) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
        return Error::transient(format!("{attempt}: the handshake broke off: {error}"));
    };
    let why = match tls {
        rustls::Error::InvalidCertificate(why) => why,
        rustls::Error::AlertReceived(_) => {
            return Error::config(format!(
                "{attempt}: the server refused the handshake ({tls}); check sslcert, sslkey and the TLS versions"
            ));
        }
        _ => return Error::config(format!("{attempt}: the handshake failed: {tls}")),
    };
    let advice = match why {
        rustls::CertificateError::UnknownIssuer if chosen => "name the root that signed it in sslrootcert",
        rustls::CertificateError::UnknownIssuer => {
            "name the root that signed it in sslrootcert; without sslmode= a server on another machine is verified"
        }
        rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. } => {
            "connect by a name in its subjectAltName (a common name alone does not count), or use sslmode=verify-ca"
        }
        rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. } => {
            "renew it, or set this machine's clock"
        }
        _ => "see the server's ssl_cert_file",
    };
    Error::config(format!("{attempt}: the server's certificate is not trusted: {why}; {advice}"))
}

fn verifier(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<Verifier> {
    let verifying = options.mode >= SslMode::VerifyCa;
    let file = match &options.roots {
        Roots::File(path) => Some(path.as_path()),
        Roots::Usual(Some(path)) if path.exists() => Some(path.as_path()),
        Roots::Usual(_) if !verifying => None,
        Roots::Usual(_) | Roots::System if options.crl.is_some() => {
            return Err(Error::config(
                "set up TLS for PostgreSQL: sslcrl needs the roots in a file; name it in sslrootcert",
            ));
        }
        Roots::Usual(_) | Roots::System => {
            let system = rustls_platform_verifier::Verifier::new(Arc::clone(provider)).map_err(|error| {
                Error::config(
                    "read the operating system's root certificates: install ca-certificates, or name a file in sslrootcert",
                )
                .because(error)
            })?;
            return Ok(Verifier::new(check(options), Some(Arc::new(system)), Vec::new(), provider));
        }
    };
    let Some(path) = file else {
        if options.crl.is_some() {
            return Err(Error::config("set up TLS for PostgreSQL: sslcrl has no effect without sslrootcert"));
        }
        return Ok(Verifier::new(Check::Nothing, None, Vec::new(), provider));
    };
    let roots = certificates("sslrootcert", path)?;
    let mut store = rustls::RootCertStore::empty();
    for root in &roots {
        // What webpki cannot take as an anchor may still be the server's own certificate, which is compared as it is.
        drop(store.add(root.clone()));
    }
    if store.is_empty() {
        return Err(Error::config(format!("read sslrootcert {}: it holds no usable certificate", path.display())));
    }
    let mut builder =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    if let Some(crl) = &options.crl {
        let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(crl)
            .and_then(Iterator::collect)
            .map_err(|error| Error::config(format!("read sslcrl {}", crl.display())).because(error))?;
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    let inner: Arc<dyn ServerCertVerifier> = builder
        .build()
        .map_err(|error| Error::config(format!("set up TLS for PostgreSQL with {}", path.display())).because(error))?;
    Ok(Verifier::new(check(options), Some(inner), roots, provider))
}

fn check(options: &TlsOptions) -> Check {
    if options.mode == SslMode::VerifyFull { Check::ChainAndName } else { Check::Chain }
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| Error::config(format!("read {key} {}", path.display())).because(error))?;
    if all.is_empty() {
        return Err(Error::config(format!("read {key} {}: it holds no certificate in PEM", path.display())));
    }
    Ok(all)
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(options: &TlsOptions) -> Result<Option<ClientCertificate>> {
    let Some((path, named)) = &options.cert else { return Ok(None) };
    if !named && !path.exists() {
        return Ok(None);
    }
    let chain = certificates("sslcert", path)?;
    let Some(key_path) = &options.key else {
        return Err(Error::config("set up TLS for PostgreSQL: sslcert is given and sslkey is not"));
    };
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| {
        let advice = "a private key in PEM (PKCS#8, PKCS#1 or SEC1) that is not encrypted is needed";
        Error::config(format!("read sslkey {}: {advice}", key_path.display())).because(error)
    })?;
    warn_if_readable_by_others(key_path);
    Ok(Some((chain, key)))
}

/// libpq refuses such a key and pgx takes it. Keys mounted into containers are often 0644, so a warning it is.
fn warn_if_readable_by_others(path: &Path) {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o007 != 0) {
        tracing::warn!(path = %path.display(), "the private key in sslkey can be read by everybody on this machine");
    }
}
