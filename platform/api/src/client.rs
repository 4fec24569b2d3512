//! The client: one method per request, and errors that say whether Holm runs at all.

mod exec;
mod stream;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holm_model::access::TokenId;
use holm_model::event::Recorded;
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName};
use holm_model::state::State;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

pub use stream::JsonStream;

use crate::access::{NewToken, TokenWish, Tokens};
use crate::host::RemoteHost;
use crate::problem::{Problem, ProblemCode};
use crate::secrets::{SecretDifferences, SecretsChange, SecretsComparison};
use crate::server::KEY_HEADER;
use crate::socket;
use crate::storage::{StorageAnswer, StorageRequest};
use crate::view::DeploymentUpdate;
use crate::wire::{
    Accepted, Command, EventQuery, Finding, GuestImport, GuestSummary, ImageDetail, ImageSummary, LiveInstance,
    LogLine, LogQuery, PruneReport, ServerVersion, Shutdown, StateDocuments,
};

/// Largest answer that is not a stream, in bytes.
const MAX_ANSWER: usize = 256 << 20;
/// Time in which a command that was cut off is sent again.
const RESEND: Duration = Duration::from_secs(10);
/// Longest time to reach a Holm elsewhere.
const REACH: Duration = Duration::from_secs(15);
/// Pause before a command is sent again.
const RESEND_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens in the state folder.
    #[error("holm is not running on this state folder: {}", state.display())]
    NotRunning {
        /// The folder.
        state: PathBuf,
        /// What the connection said.
        source: io::Error,
    },
    /// The Holm elsewhere cannot be reached, or shows another certificate.
    #[error("holm cannot be reached at {host}")]
    NotReachable {
        /// Its address.
        host: String,
        /// What the connection said.
        source: io::Error,
    },
    /// The socket is somebody else's.
    #[error("this user may not talk to the holm of {}", state.display())]
    NotAllowed {
        /// The folder.
        state: PathBuf,
        /// What the connection said.
        source: io::Error,
    },
    /// Holm answered with a problem.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The connection ended before the answer did.
    #[error("the connection to holm was cut off")]
    Cut(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what this version of Holm understands.
    #[error("holm's answer cannot be read; is it another version?")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ClientError {
    fn cut(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Cut(why.into())
    }

    fn unreadable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreadable(why.into())
    }
}

/// Talks to the Holm of one state folder. Each request has its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    state: PathBuf,
    /// Asked in place of the state folder's Holm.
    remote: Option<Arc<RemoteHost>>,
}

/// Both kinds of connections.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Client {
    /// A client for the Holm whose state folder is `state`. Connects when it is asked something.
    #[must_use]
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self { state: state.into(), remote: None }
    }

    /// A client for a Holm elsewhere.
    #[must_use]
    pub fn of_remote(host: RemoteHost) -> Self {
        Self { state: PathBuf::new(), remote: Some(Arc::new(host)) }
    }

    /// The state folder.
    #[must_use]
    pub fn state_folder(&self) -> &Path {
        &self.state
    }

    /// Which Holm answers.
    ///
    /// # Errors
    /// As every method: see [`ClientError`].
    pub async fn version(&self) -> Result<ServerVersion, ClientError> {
        self.get("/v1/version", &()).await
    }

    /// The state, whole or of one app and environment.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn state(&self, app: Option<&AppKey>) -> Result<State, ClientError> {
        #[derive(Serialize)]
        struct Query<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            app: Option<&'a AppKey>,
        }
        let documents: StateDocuments = self.get("/v1/state", &Query { app }).await?;
        documents.into_state().map_err(ClientError::unreadable)
    }

    /// Sends a command under `key`. When the connection is cut it is sent again with the same key, so that it is carried
    /// out once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn submit(&self, command: &Command, key: Uuid) -> Result<Accepted, ClientError> {
        self.send_once("/v1/commands", encode(command)?, key).await
    }

    /// The access tokens, without their secret halves.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn tokens(&self) -> Result<Tokens, ClientError> {
        self.get("/v1/tokens", &()).await
    }

    /// Makes an access token.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_token(&self, wish: &TokenWish) -> Result<NewToken, ClientError> {
        self.post("/v1/tokens", wish).await
    }

    /// Revokes an access token.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revoke_token(&self, id: &TokenId) -> Result<(), ClientError> {
        #[derive(Serialize)]
        struct Revocation<'a> {
            id: &'a TokenId,
        }
        self.post("/v1/tokens/revoke", &Revocation { id }).await
    }

    /// The running Holm's figures, in the text form of Prometheus.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let response = self.send(request(Method::GET, "/v1/metrics"), Bytes::new()).await?;
        String::from_utf8(collect(response).await?.to_vec()).map_err(ClientError::unreadable)
    }

    /// Changes the secrets of an app, under `key` as [`Client::submit`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn change_secrets(&self, change: &SecretsChange, key: Uuid) -> Result<Accepted, ClientError> {
        self.send_once("/v1/secrets", encode(change)?, key).await
    }

    /// Compares values with those that are set.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn compare_secrets(&self, comparison: &SecretsComparison) -> Result<SecretDifferences, ClientError> {
        self.post("/v1/secrets/compare", comparison).await
    }

    /// Sends something that must be carried out once, again when the connection is cut.
    async fn send_once<T: DeserializeOwned>(&self, path: &str, body: Bytes, key: Uuid) -> Result<T, ClientError> {
        let begun = Instant::now();
        let mut sent = false;
        loop {
            let request = request(Method::POST, path).header(KEY_HEADER, key.to_string());
            let answer = async { decode(self.send(request, body.clone()).await?).await };
            let error = match answer.await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            sent |= matches!(error, ClientError::Cut(_));
            let again = match &error {
                ClientError::Cut(_) => true,
                ClientError::NotRunning { .. } | ClientError::NotReachable { .. } => sent,
                _ => false,
            };
            if !again || begun.elapsed() >= RESEND {
                return Err(error);
            }
            tokio::time::sleep(RESEND_PAUSE).await;
        }
    }

    /// The events that fit, oldest first; with `follow`, then those that come.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self, query: &EventQuery, follow: bool) -> Result<JsonStream<Recorded>, ClientError> {
        #[derive(Serialize)]
        struct Query<'a> {
            #[serde(flatten)]
            query: &'a EventQuery,
            follow: bool,
        }
        self.stream("/v1/events", &Query { query, follow }).await
    }

    /// A deployment, now and each time it changes, until it has ended.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(
        &self,
        app: &AppKey,
        deployment: DeploymentNumber,
    ) -> Result<JsonStream<DeploymentUpdate>, ClientError> {
        #[derive(Serialize)]
        struct Query<'a> {
            app: &'a AppKey,
            deployment: DeploymentNumber,
        }
        self.stream("/v1/deployment", &Query { app, deployment }).await
    }

    /// What the host sees of an instance.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn live(&self, instance: &InstanceName) -> Result<Option<LiveInstance>, ClientError> {
        self.get("/v1/live", &[("instance", instance)]).await
    }

    /// Lines of an app's output.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn logs(&self, query: &LogQuery) -> Result<JsonStream<LogLine>, ClientError> {
        self.stream("/v1/logs", query).await
    }

    /// The images on the host.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn images(&self) -> Result<Vec<ImageSummary>, ClientError> {
        self.get("/v1/images", &()).await
    }

    /// One image.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn image(&self, digest: &Digest) -> Result<ImageDetail, ClientError> {
        self.get("/v1/image", &[("digest", digest)]).await
    }

    /// Removes the images that no release uses.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn prune_images(&self) -> Result<PruneReport, ClientError> {
        self.post("/v1/images/prune", &()).await
    }

    /// The guest bundles on the host.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn guests(&self) -> Result<Vec<GuestSummary>, ClientError> {
        self.get("/v1/guests", &()).await
    }

    /// Makes a guest bundle.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn import_guest(&self, import: &GuestImport) -> Result<GuestSummary, ClientError> {
        self.post("/v1/guests", import).await
    }

    /// Asks for something about volumes, snapshots or backups, and waits until it is done.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn storage(&self, request: &StorageRequest) -> Result<StorageAnswer, ClientError> {
        self.post("/v1/storage", request).await
    }

    /// What can be wrong with the host, as the running Holm sees it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn doctor(&self) -> Result<Vec<Finding>, ClientError> {
        self.get("/v1/doctor", &()).await
    }

    /// Tells Holm to go down, and returns when it has begun.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn shutdown(&self, how: Shutdown) -> Result<(), ClientError> {
        self.post("/v1/shutdown", &how).await
    }

    async fn get<Q: Serialize, T: DeserializeOwned>(&self, path: &str, query: &Q) -> Result<T, ClientError> {
        let request = request(Method::GET, &with_query(path, query)?);
        decode(self.send(request, Bytes::new()).await?).await
    }

    async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        decode(self.send(request(Method::POST, path), encode(body)?).await?).await
    }

    async fn stream<Q: Serialize, T>(&self, path: &str, query: &Q) -> Result<JsonStream<T>, ClientError> {
        let request = request(Method::GET, &with_query(path, query)?);
        let response = self.send(request, Bytes::new()).await?;
        Ok(JsonStream::of(response.into_body()))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, ClientError> {
        if let Some(remote) = &self.remote {
            let connected = tokio::time::timeout(REACH, remote.connect()).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let not_reachable = |source| ClientError::NotReachable { host: remote.to_string(), source };
            return Ok(Box::new(connected.map_err(not_reachable)?));
        }
        let stream = socket::connect(&self.state).await.map_err(|source| {
            let state = self.state.clone();
            match source.kind() {
                io::ErrorKind::PermissionDenied => ClientError::NotAllowed { state, source },
                _ => ClientError::NotRunning { state, source },
            }
        })?;
        Ok(Box::new(stream))
    }

    async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let request = match &self.remote {
            Some(remote) => request.header(AUTHORIZATION, remote.bearer()),
            None => request,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::cut)?;
        // Ends by itself with the answer's body, or with the upgraded connection.
        tokio::spawn(connection.with_upgrades());
        let request = request.body(Full::new(body)).map_err(ClientError::unreadable)?;
        let response = sender.send_request(request).await.map_err(ClientError::cut)?;
        if response.status().is_client_error() || response.status().is_server_error() {
            let status = response.status();
            let bytes = collect(response).await?;
            return Err(serde_json::from_slice::<Problem>(&bytes)
                .unwrap_or_else(|_| Problem::new(ProblemCode::Failed, format!("holm answered with status {status}")))
                .into());
        }
        Ok(response)
    }
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header(HOST, "holm").header(CONTENT_TYPE, "application/json")
}

fn with_query<Q: Serialize>(path: &str, query: &Q) -> Result<String, ClientError> {
    let query = serde_urlencoded::to_string(query).map_err(ClientError::unreadable)?;
    Ok(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") })
}

fn encode<T: Serialize>(body: &T) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(ClientError::unreadable)
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER);
    Ok(body.collect().await.map_err(ClientError::Cut)?.to_bytes())
}

async fn decode<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    serde_json::from_slice(&collect(response).await?).map_err(ClientError::unreadable)
}
