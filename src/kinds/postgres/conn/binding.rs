//! `tls-server-end-point` of RFC 5929: the hash of the server's certificate that SCRAM is bound to.
//!
//! The hash is the one that the certificate's own signature uses, and SHA-256 where that is MD5 or SHA-1. Pure. A
//! signature that names no hash (Ed25519) has no binding.

use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::{Any, ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Decode, Reader, SliceReader, TagNumber};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// `id-RSASSA-PSS`, whose hash stands in its parameters (RFC 4055).
const RSA_PSS: &str = "1.2.840.113549.1.1.10";

/// The hash, or none where RFC 5929 leaves it undefined or the certificate cannot be read.
pub fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = &parsed.signature_algorithm;
    let oid = algorithm.oid.to_string();
    let hash = if oid == RSA_PSS { pss_hash(algorithm.parameters.as_ref()?)? } else { oid };
    Some(match hash.as_str() {
        // md5WithRSA, sha1WithRSA, ecdsa-with-SHA1, dsa-with-sha1; sha256 with RSA, ECDSA, DSA; SHA-1 and SHA-256 alone.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10045.4.1"
        | "1.2.840.10040.4.3"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.3.2"
        | "2.16.840.1.101.3.4.3.2"
        | "1.3.14.3.2.26"
        | "2.16.840.1.101.3.4.2.1" => Sha256::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Sha384::digest(certificate).to_vec()
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    })
}

/// `hashAlgorithm [0]` of `RSASSA-PSS-params`; SHA-1 where it is left out.
fn pss_hash(parameters: &Any) -> Option<String> {
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    let sha1 = ObjectIdentifier::new_unwrap("1.3.14.3.2.26").to_string();
    if reader.is_finished() {
        return Some(sha1);
    }
    let hash = ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut reader, TagNumber::N0).ok()?;
    Some(hash.map_or(sha1, |hash| hash.value.oid.to_string()))
}
