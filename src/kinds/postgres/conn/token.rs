//! Access tokens of a cloud's machine identity, used in place of a password.
//!
//! Azure (Entra ID): an application's secret, a federated token file, an App Service identity endpoint, or the
//! instance metadata service, in the order in which Microsoft's own libraries look. Google: the metadata server of the
//! machine. Which request is made is decided by a pure function; `http` sends it. Invariants: a token is fetched for each
//! new connection and never stored; no answer and no request is part of a message.

use std::fmt::Write as _;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::kinds::postgres::conn::http;
use crate::kinds::postgres::conn::secret::Secret;
use crate::kinds::postgres::options::AuthMode;

/// The resource that Azure Database for PostgreSQL checks tokens for.
const AZURE_RESOURCE: &str = "https://ossrdbms-aad.database.windows.net";
const GOOGLE_SCOPE: &str = "https://www.googleapis.com/auth/sqlservice.login";

type Env<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

#[derive(Deserialize)]
struct Answer {
    access_token: String,
}

/// A fresh token.
pub async fn fetch(mode: AuthMode, env: Env<'_>) -> Result<Secret> {
    let attempt = match mode {
        AuthMode::Azure => "fetch an access token of Azure for PostgreSQL",
        AuthMode::GcpCloudSql => "fetch an access token of Google Cloud for PostgreSQL",
        AuthMode::Password => return Err(Error::bug("fetch an access token: the endpoint uses a password")),
    };
    let request =
        if mode == AuthMode::Azure { azure(env, &|path| std::fs::read_to_string(path).ok()) } else { google(env) };
    let (status, body) = http::send(&request?, attempt).await?;
    if status != 200 {
        let error =
            format!("{attempt}: HTTP status {status}; check that this machine has an identity which the server knows");
        return Err(if status >= 500 || status == 429 { Error::transient(error) } else { Error::config(error) });
    }
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| Error::transient(format!("{attempt}: the answer holds no access_token")))?;
    Ok(Secret::new(answer.access_token))
}

fn google(env: Env<'_>) -> Result<http::Request> {
    if set(env, "GOOGLE_APPLICATION_CREDENTIALS").is_some() {
        return Err(Error::config(
            "fetch an access token of Google Cloud: key files (GOOGLE_APPLICATION_CREDENTIALS) are not read; run with a \
             service account of the machine or the pod, or connect through the Cloud SQL Auth Proxy with \
             --auto-iam-authn and leave auth_mode empty",
        ));
    }
    let host = set(env, "GCE_METADATA_HOST").unwrap_or_else(|| "metadata.google.internal".into());
    let scope = escaped(GOOGLE_SCOPE);
    let path = format!("/computeMetadata/v1/instance/service-accounts/default/token?scopes={scope}");
    Ok(http::Request::get(&format!("http://{host}"), &path)?.with_header("Metadata-Flavor", "Google"))
}

fn azure(env: Env<'_>, read: &dyn Fn(&str) -> Option<String>) -> Result<http::Request> {
    let client = set(env, "AZURE_CLIENT_ID");
    if let (Some(tenant), Some(client)) = (set(env, "AZURE_TENANT_ID"), &client) {
        let proof = if let Some(secret) = set(env, "AZURE_CLIENT_SECRET") {
            Some(format!("client_secret={}", escaped(&secret)))
        } else if let Some(file) = set(env, "AZURE_FEDERATED_TOKEN_FILE") {
            let token = read(&file).ok_or_else(|| {
                Error::config(format!(
                    "fetch an access token of Azure: AZURE_FEDERATED_TOKEN_FILE {file} cannot be read"
                ))
            })?;
            let kind = escaped("urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
            Some(format!("client_assertion_type={kind}&client_assertion={}", escaped(token.trim())))
        } else {
            None
        };
        if let Some(proof) = proof {
            let authority =
                set(env, "AZURE_AUTHORITY_HOST").unwrap_or_else(|| "https://login.microsoftonline.com".into());
            let scope = escaped(&format!("{AZURE_RESOURCE}/.default"));
            let body = format!("grant_type=client_credentials&client_id={}&scope={scope}&{proof}", escaped(client));
            let path = format!("/{}/oauth2/v2.0/token", escaped(&tenant));
            return http::Request::post(authority.trim_end_matches('/'), &path, body);
        }
    }
    let identity = client.map_or_else(String::new, |client| format!("&client_id={}", escaped(&client)));
    let resource = escaped(AZURE_RESOURCE);
    if let (Some(url), Some(header)) = (set(env, "IDENTITY_ENDPOINT"), set(env, "IDENTITY_HEADER")) {
        let path = format!("?api-version=2019-08-01&resource={resource}{identity}");
        return Ok(http::Request::get(&url, &path)?.with_header("X-IDENTITY-HEADER", &header));
    }
    let host = set(env, "AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| "http://169.254.169.254".into());
    let path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}{identity}");
    Ok(http::Request::get(host.trim_end_matches('/'), &path)?.with_header("Metadata", "true"))
}

fn set(env: Env<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

/// A value as it may stand in a query or a form.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use std::collections::HashMap;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + Sync + use<> {
        let map: HashMap<String, String> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        move |name| map.get(name).cloned()
    }

    #[test]
    fn azure_looks_in_the_order_of_microsofts_libraries() {
        let read = |path: &str| (path == "/token").then(|| "jwt\n".to_owned());
        let identity = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
        for (more, url, body) in [
            (
                &[("AZURE_CLIENT_SECRET", "s&")][..],
                "https://login.microsoftonline.com/t/oauth2/v2.0/token",
                "client_secret=s%26",
            ),
            (
                &[("AZURE_FEDERATED_TOKEN_FILE", "/token")],
                "https://login.microsoftonline.com/t/oauth2/v2.0/token",
                "client_assertion=jwt",
            ),
            (
                &[("IDENTITY_ENDPOINT", "http://l:1/msi"), ("IDENTITY_HEADER", "h")],
                "http://l:1/msi?api-version=2019-08-01",
                "",
            ),
            (&[], "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01", ""),
        ] {
            let request = azure(&env(&[&identity[..], more].concat()), &read).unwrap();
            assert!(request.url().starts_with(url), "{}", request.url());
            assert!(request.body().contains(body));
        }
        let missing = env(&[&identity[..], &[("AZURE_FEDERATED_TOKEN_FILE", "/none")]].concat());
        assert_eq!(azure(&missing, &read).err().unwrap().fault(), Fault::Config);
    }

    /// Answers one request and gives it back.
    async fn serve_once(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        (address, served)
    }

    #[tokio::test]
    async fn a_token_comes_from_the_metadata_server() {
        let (host, served) =
            serve_once("HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"access_token\":\"planted-1\"}").await;
        let env = env(&[("GCE_METADATA_HOST", &host)]);
        assert!(fetch(AuthMode::GcpCloudSql, &env).await.is_err(), "the answer was cut");
        drop(served);
        let (host, served) =
            serve_once("HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{\"access_token\":\"planted-1\"}").await;
        let env = self::env(&[("GCE_METADATA_HOST", &host)]);
        assert_eq!(fetch(AuthMode::GcpCloudSql, &env).await.unwrap().reveal(), "planted-1");
        let request = served.await.unwrap().to_lowercase();
        assert!(request.contains("metadata-flavor: google") && request.contains("sqlservice.login"), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_is_a_matter_of_configuration_and_holds_nothing_of_the_answer() {
        let (host, _served) = serve_once("HTTP/1.1 400 Bad\r\nContent-Length: 7\r\n\r\nplanted").await;
        let env = env(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &format!("http://{host}"))]);
        let error = fetch(AuthMode::Azure, &env).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Config);
        assert!(error.to_string().contains("400") && !error.to_string().contains("planted"), "{error}");
    }
}
