//! The registry client: manifests and blobs over the OCI distribution API, and nothing it says is believed unchecked.
//!
//! Our own thin client over `reqwest`: resuming by `Range` and checking size and digest while bytes arrive is the
//! point of it. Source: OCI distribution spec 1.1.

mod auth;
mod blob;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};

use crate::digest::Digest;
use crate::manifest;
use crate::reference::RegistryRef;

pub(crate) use blob::write_blob;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REDIRECTS: usize = 5;
/// Attempts in a row that bring nothing before a request is given up.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// A file in the format of Docker's `config.json`; its `auths` are used, credential helpers are not.
    pub credentials_file: Option<PathBuf>,
    /// Registries (`host` or `host:port`) spoken to over plain HTTP. Loopback registries always are.
    pub insecure_registries: Vec<String>,
    /// How long a registry may send nothing before the connection counts as cut.
    pub stall_timeout: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { credentials_file: None, insecure_registries: Vec::new(), stall_timeout: Duration::from_secs(30) }
    }
}

impl RegistryError {
    /// Whether another try may succeed: the connection failed, or the registry has trouble of its own.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Truncated { .. } => true,
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }
}

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The client cannot be set up.
    #[error("cannot set up TLS")]
    Setup(#[source] reqwest::Error),
    /// The registry cannot be reached, or the connection failed too often.
    #[error("cannot reach registry `{registry}`")]
    Connection {
        /// Host and port.
        registry: String,
        /// The last failure.
        #[source]
        source: reqwest::Error,
    },
    /// The registry knows no such image or blob.
    #[error("registry `{registry}` has no `{what}`")]
    NotFound {
        /// Host and port.
        registry: String,
        /// Repository and tag or digest.
        what: String,
    },
    /// Credentials are missing or wrong.
    #[error(
        "registry `{registry}` denies access to `{repository}`; check the name and the credentials for `{registry}`"
    )]
    Denied {
        /// Host and port.
        registry: String,
        /// The repository.
        repository: String,
    },
    /// An answer that does not fit the protocol.
    #[error("registry `{registry}` answered {status}")]
    Status {
        /// Host and port.
        registry: String,
        /// The status.
        status: StatusCode,
    },
    /// The registry demands a login this client will not or cannot do.
    #[error("registry `{registry}` demands a login that is not supported: {reason}")]
    Challenge {
        /// Host and port.
        registry: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The credentials file cannot be used.
    #[error("credentials file `{path}` cannot be used: {reason}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A document over its limit.
    #[error("registry `{registry}` sent a document over the limit of {limit} bytes")]
    DocumentSize {
        /// Host and port.
        registry: String,
        /// The limit.
        limit: u64,
    },
    /// More bytes than the manifest says.
    #[error("blob {digest} is larger than the {expected} bytes its manifest says")]
    Oversized {
        /// The blob.
        digest: Digest,
        /// Bytes expected.
        expected: u64,
    },
    /// The blob stayed shorter than the manifest says.
    #[error("blob {digest} ends after {found} of {expected} bytes")]
    Truncated {
        /// The blob.
        digest: Digest,
        /// Bytes expected.
        expected: u64,
        /// Bytes received.
        found: u64,
    },
    /// Other bytes than the digest promises.
    #[error("content has the digest {found}, but {expected} was asked for")]
    WrongDigest {
        /// As asked for.
        expected: Digest,
        /// As received.
        found: Digest,
    },
    /// The host's disk failed.
    #[error("blob cannot be written")]
    Write(#[source] std::io::Error),
}

/// Talks to any number of registries; keeps their tokens.
#[derive(Debug)]
pub(crate) struct Registry {
    client: reqwest::Client,
    options: RegistryOptions,
    /// `Authorization` header per registry and repository.
    logins: Mutex<HashMap<(String, String), String>>,
}

/// A manifest or index as received, its digest computed from the bytes.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: Option<String>,
}

impl Registry {
    pub(crate) fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        let mut roots = rustls::RootCertStore::empty();
        // A host without certificates can still use loopback registries.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let insecure = options.insecure_registries.clone();
        let redirects = reqwest::redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                return attempt.error("too many redirects");
            }
            let secure = attempt.url().scheme() == "https" || may_be_plain(&authority(attempt.url()), &insecure);
            if secure { attempt.follow() } else { attempt.error("redirect from https to http") }
        });
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirects)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(options.stall_timeout)
            .user_agent(concat!("holm/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(RegistryError::Setup)?;
        Ok(Self { client, options, logins: Mutex::default() })
    }

    /// The manifest or index called `target` (a tag or a digest), of at most `limit` bytes.
    pub(crate) async fn manifest(
        &self,
        reference: &RegistryRef,
        target: &str,
        limit: u64,
    ) -> Result<Received, RegistryError> {
        let mut attempt = 0;
        loop {
            match self.manifest_once(reference, target, limit).await {
                Err(error) if error.may_pass() && attempt + 1 < ATTEMPTS => {
                    pause(attempt).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn manifest_once(
        &self,
        reference: &RegistryRef,
        target: &str,
        limit: u64,
    ) -> Result<Received, RegistryError> {
        let url = self.url(reference, "manifests", target)?;
        let mut response = self.get(reference, url, None).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| connection(reference.registry(), source))? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(RegistryError::DocumentSize { registry: reference.registry().to_owned(), limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        let digest = Digest::of(&bytes);
        match target.parse::<Digest>() {
            Ok(expected) if expected != digest => Err(RegistryError::WrongDigest { expected, found: digest }),
            _ => Ok(Received { bytes, digest, media_type }),
        }
    }

    /// A successful answer to a GET, logging in where the registry asks for it.
    async fn get(&self, reference: &RegistryRef, url: Url, from: Option<u64>) -> Result<Response, RegistryError> {
        let key = (reference.registry().to_owned(), reference.repository().to_owned());
        let known = self.logins.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let response = self.send(reference, url.clone(), from, known.as_deref()).await?;
        let response = if response.status() == StatusCode::UNAUTHORIZED {
            let challenges: Vec<_> =
                response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
            let login = self.log_in(reference, &challenges).await?;
            let response = self.send(reference, url, from, Some(&login)).await?;
            if response.status().is_success() {
                self.logins.lock().unwrap_or_else(PoisonError::into_inner).insert(key, login);
            }
            response
        } else {
            response
        };
        let registry = reference.registry().to_owned();
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(RegistryError::Denied { registry, repository: reference.repository().to_owned() })
            }
            StatusCode::NOT_FOUND => {
                let name = response.url().path().rsplit('/').next().unwrap_or_default();
                let separator = if name.contains(':') { '@' } else { ':' };
                let what = format!("{}{separator}{name}", reference.repository());
                Err(RegistryError::NotFound { registry, what })
            }
            status => Err(RegistryError::Status { registry, status }),
        }
    }

    async fn send(
        &self,
        reference: &RegistryRef,
        url: Url,
        from: Option<u64>,
        login: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let mut request = self.client.get(url).header(ACCEPT, manifest::ACCEPT);
        if let Some(from) = from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if let Some(login) = login {
            request = request.header(AUTHORIZATION, login);
        }
        request.send().await.map_err(|source| connection(reference.registry(), source))
    }

    fn url(&self, reference: &RegistryRef, kind: &str, name: &str) -> Result<Url, RegistryError> {
        let host = match reference.registry() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let scheme = if may_be_plain(host, &self.options.insecure_registries) { "http" } else { "https" };
        let text = format!("{scheme}://{host}/v2/{}/{kind}/{name}", reference.repository());
        let wrong = |_| RegistryError::NotFound { registry: host.to_owned(), what: reference.repository().to_owned() };
        Url::parse(&text).map_err(wrong)
    }
}

impl RegistryError {
    /// Whether asking again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connection { source, .. } => !source.is_redirect() && !source.is_builder(),
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Truncated { .. } => true,
            _ => false,
        }
    }
}

/// Waits before attempt `attempt + 1`, twice as long each time.
async fn pause(attempt: u32) {
    tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(attempt.min(6))).await;
}

fn connection(registry: &str, source: reqwest::Error) -> RegistryError {
    RegistryError::Connection { registry: registry.to_owned(), source: source.without_url() }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Plain HTTP is for loopback, and for hosts the operator names.
fn may_be_plain(authority: &str, insecure: &[String]) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        || insecure.iter().any(|listed| listed == authority || listed == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_listed_hosts_only() {
        let listed = ["registry.lan:5000".to_owned()];
        for (authority, plain) in [
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost:5000", true),
            ("registry.lan:5000", true),
            ("registry.lan:5001", false),
            ("127.0.0.1.example.com", false),
            ("localhost.example.com:5000", false),
            ("10.0.0.1:5000", false),
            ("docker.io", false),
        ] {
            assert_eq!(may_be_plain(authority, &listed), plain, "{authority}");
        }
    }
}
