//! The ways to the peers: one for each, with its certificates and the signs of life that a dead peer does not give.
//!
//! Files are read each time anew, so that a certificate that was replaced is used from the next connection on. A peer's
//! certificate is verified, by the given authorities or those of the operating system, unless `insecure` was asked for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::options::Options;
use crate::error::{Error, Result};

/// LIMIT: etcd refuses signs of life more often than every five seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// LIMIT: together with [`KEEP_ALIVE`], a peer that has gone silent is given up within a quarter of a minute.
const KEEP_ALIVE_PATIENCE: Duration = Duration::from_secs(5);
/// LIMIT: bytes that a member may send before it hears from us: over a distance of 80 ms, 25 MB/s.
const STREAM_WINDOW: u32 = 2 << 20;
/// LIMIT: certificates and keys are a few KiB; a bundle of all authorities of an operating system stays under this.
const MAX_FILE: u64 = 4 << 20;

/// The way to each peer, in the order of configuration.
pub fn endpoints(options: &Options) -> Result<Vec<Endpoint>> {
    let tls = options.peers.iter().any(|peer| peer.starts_with("https:")).then(|| settings(options)).transpose()?;
    options.peers.iter().map(|peer| endpoint(peer, options, tls.as_ref())).collect()
}

fn endpoint(peer: &str, options: &Options, tls: Option<&ClientTlsConfig>) -> Result<Endpoint> {
    let wrong = |what: &str| Error::config(format!("connect to {peer}: {what}"));
    let endpoint = Endpoint::from_shared(peer.to_owned())
        .map_err(|_| wrong("it is not an address such as https://etcd-1:2379"))?
        .connect_timeout(options.dial_timeout)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_PATIENCE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(2 * STREAM_WINDOW)
        .tcp_nodelay(true);
    let Some(tls) = tls.filter(|_| peer.starts_with("https:")) else { return Ok(endpoint) };
    let refused = "certificate, key or authorities cannot be used; see tls_ca_file, tls_cert_file and tls_key_file";
    match options.insecure {
        true => endpoint.tls_config_with_verifier(tls.clone(), Arc::new(Anybody::default())),
        false => endpoint.tls_config(tls.clone()),
    }
    .map_err(|_| wrong(refused))
}

fn settings(options: &Options) -> Result<ClientTlsConfig> {
    let mut tls = ClientTlsConfig::new().timeout(options.dial_timeout);
    if let Some((certificate, key)) = &options.identity {
        let (certificate, key) = (read("tls_cert_file", certificate)?, read("tls_key_file", key)?);
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    match &options.authorities {
        // Nobody asks who signed what anybody may show.
        _ if options.insecure => {}
        Some(path) => {
            let authorities = read("tls_ca_file", path)?;
            if !authorities.windows(11).any(|text| text == b"-----BEGIN ") {
                return Err(Error::config(format!("read tls_ca_file {}: there is no PEM in it", path.display())));
            }
            tls = tls.ca_certificate(Certificate::from_pem(authorities));
        }
        None => tls = tls.with_native_roots(),
    }
    Ok(tls)
}

/// Reads one of the small files that configuration names.
pub fn read(key: &str, path: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| {
        Error::config(format!("read {key} {}: this process cannot", path.display())).because(error)
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::config(format!("read {key} {}: it is larger than 4 MiB", path.display())));
    }
    Ok(bytes)
}

/// Believes any certificate of whoever holds its key.
#[derive(Debug)]
struct Anybody {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Default for Anybody {
    fn default() -> Self {
        Self { algorithms: aws_lc_rs::default_provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
