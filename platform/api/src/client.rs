//! The client: one method per request, and errors that say whether Holm runs at all.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use holm_model::event::Recorded;
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName};
use holm_model::state::State;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::codec::Framed;
use uuid::Uuid;

use crate::exec::{ExecOutput, ExecRequest, ExecSession, PROTOCOL, QUEUE, UserSide};
use crate::ndjson::{Line, Lines};
use crate::problem::{Problem, ProblemCode};
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
/// Time without a byte, not even a sign of life, after which a stream is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Time in which a command that was cut off is sent again.
const RESEND: Duration = Duration::from_secs(10);
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
}

impl Client {
    /// A client for the Holm whose state folder is `state`. Connects when it is asked something.
    #[must_use]
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self { state: state.into() }
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
        let body = encode(command)?;
        let begun = Instant::now();
        let mut sent = false;
        loop {
            let request = request(Method::POST, "/v1/commands").header(KEY_HEADER, key.to_string());
            let answer = async { decode(self.send(request, body.clone()).await?).await };
            let error = match answer.await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            sent |= matches!(error, ClientError::Cut(_));
            let again = match &error {
                ClientError::Cut(_) => true,
                ClientError::NotRunning { .. } => sent,
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

    /// Runs a command in an instance.
    ///
    /// # Errors
    /// See [`ClientError`]; what goes wrong later comes as [`ExecOutput::Failed`].
    pub async fn exec(&self, exec: &ExecRequest) -> Result<ExecSession, ClientError> {
        let request = request(Method::POST, "/v1/exec").header(CONNECTION, "upgrade").header(UPGRADE, PROTOCOL);
        let response = self.send(request, encode(exec)?).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ClientError::unreadable(format!("status {} and no upgrade", response.status())));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(ClientError::cut)?;
        let (mut to_server, mut from_server) = Framed::new(TokioIo::new(upgraded), UserSide).split();
        let (input, mut inputs) = mpsc::channel(QUEUE);
        let (outputs, output) = mpsc::channel(QUEUE);
        let inward = tokio::spawn(async move {
            while let Some(frame) = inputs.recv().await {
                if to_server.send(frame).await.is_err() {
                    break;
                }
            }
            drop(to_server.close().await);
        });
        tokio::spawn(async move {
            loop {
                let frame = match from_server.next().await {
                    Some(Ok(frame)) => frame,
                    Some(Err(error)) => ExecOutput::Failed(cut_off().because(error)),
                    None => ExecOutput::Failed(cut_off()),
                };
                let last = matches!(frame, ExecOutput::Exit(_) | ExecOutput::Failed(_));
                if outputs.send(frame).await.is_err() || last {
                    break;
                }
            }
            inward.abort();
        });
        Ok(ExecSession { input, output })
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
        Ok(JsonStream { body: response.into_body(), lines: Lines::default(), item: PhantomData })
    }

    async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = socket::connect(&self.state).await.map_err(|source| {
            let state = self.state.clone();
            match source.kind() {
                io::ErrorKind::PermissionDenied => ClientError::NotAllowed { state, source },
                _ => ClientError::NotRunning { state, source },
            }
        })?;
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

fn cut_off() -> Problem {
    Problem::unavailable("the connection to holm was cut off")
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

/// A stream of documents from Holm.
#[derive(Debug)]
pub struct JsonStream<T> {
    body: Incoming,
    lines: Lines,
    item: PhantomData<T>,
}

impl<T: DeserializeOwned> JsonStream<T> {
    /// The next document; `None` when the stream has ended as it should.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Cut`] also after a minute without a sign of life.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(line) = self.lines.next_line().map_err(ClientError::unreadable)? {
                return match serde_json::from_slice(&line).map_err(ClientError::unreadable)? {
                    Line::Item(item) => Ok(Some(item)),
                    Line::Problem(problem) => Err(problem.into()),
                };
            }
            match tokio::time::timeout(SILENCE, self.body.frame()).await {
                Err(_) => return Err(ClientError::cut("no sign of life for a minute")),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(ClientError::cut(error)),
                Ok(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.lines.push(bytes);
                    }
                }
            }
        }
    }
}
