//! The HTTP server: turns requests into calls of the [`Backend`], and problems into answers.

mod access;
mod exec;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use bytes::Bytes;
use holm_model::access::Scope;
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend::{Audit, Backend};
use crate::ndjson::Ending;
use crate::problem::{Problem, ProblemCode};
use crate::storage::StorageRequest;
use crate::wire::{Command, EventQuery, GuestImport, LogQuery, ServerVersion, Shutdown, StateDocuments, Submission};
use crate::{follow, ndjson, peer};

/// The header with the key that makes sending a command twice harmless.
pub const KEY_HEADER: &str = "idempotency-key";

/// Largest body of a request, in bytes: a manifest of the largest size, with every character escaped.
pub(crate) const MAX_BODY: usize = 2 << 20;
/// The type of Prometheus' text form.
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Commands that may run inside instances at the same time.
const MAX_EXECS: usize = 64;
/// Time that open requests have to end once the server is told to stop.
pub(crate) const FAREWELL: Duration = Duration::from_secs(5);

pub(crate) struct Server<B> {
    pub(crate) backend: Arc<B>,
    pub(crate) ending: Ending,
    execs: Arc<Semaphore>,
    version: String,
}

impl<B> Clone for Server<B> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            ending: self.ending.clone(),
            execs: Arc::clone(&self.execs),
            version: self.version.clone(),
        }
    }
}

impl<B: Backend> Server<B> {
    pub(crate) fn new(backend: Arc<B>, version: String, stop: CancellationToken) -> Self {
        let ending = Ending { cut: stop.clone(), down: stop };
        Self { backend, ending, execs: Arc::new(Semaphore::new(MAX_EXECS)), version }
    }

    /// The same server for one connection that ends when `cut` is given, too.
    pub(crate) fn until(self, cut: CancellationToken) -> Self {
        Self { ending: Ending { cut, ..self.ending }, ..self }
    }

    /// Takes down what came of a request that leaves no event when it is done.
    async fn took<T>(&self, peer: &Peer, verb: &str, about: Option<String>, result: &Result<T, Problem>) {
        let refused = result.as_ref().err().map(ToString::to_string);
        let audit = Audit { actor: peer.actor.clone(), verb: verb.to_owned(), about, refused };
        self.backend.audit(audit).await;
    }

    /// Takes down a request that was refused.
    async fn refused<T>(&self, peer: &Peer, verb: &str, about: Option<String>, result: &Result<T, Problem>) {
        if result.is_err() {
            self.took(peer, verb, about, result).await;
        }
    }
}

/// Whoever is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) actor: String,
    /// What it may see; `None`: everything.
    pub(crate) scope: Option<Scope>,
    /// When its token ends; `None`: never, or it needs none.
    pub(crate) until: Option<Timestamp>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { actor: peer::actor_of(stream.io()), scope: None, until: None }
    }
}

/// Serves `backend` on `listener` (see [`crate::socket::bind`]) until `stop` is given; then open streams are ended and
/// open requests get five seconds. `version` is Holm's own.
///
/// # Errors
/// When the listener fails.
pub async fn serve<B: Backend>(
    listener: UnixListener,
    backend: Arc<B>,
    version: impl Into<String>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let server = Server::new(backend, version.into(), stop.clone());
    let service = router(server).into_make_service_with_connect_info::<Peer>();
    let told = stop.clone();
    let serving = axum::serve(listener, service).with_graceful_shutdown(async move { told.cancelled().await });
    tokio::select! {
        done = serving.into_future() => done,
        () = async { stop.cancelled().await; tokio::time::sleep(FAREWELL).await } => Ok(()),
    }
}

pub(crate) fn router<B: Backend>(server: Server<B>) -> Router {
    Router::new()
        .route("/v1/version", get(version::<B>))
        .route("/v1/state", get(state::<B>))
        .route("/v1/commands", post(command::<B>))
        .route("/v1/secrets", post(access::change_secrets::<B>))
        .route("/v1/secrets/compare", post(access::compare_secrets::<B>))
        .route("/v1/events", get(events::<B>))
        .route("/v1/deployment", get(deployment::<B>))
        .route("/v1/live", get(live::<B>))
        .route("/v1/logs", get(logs::<B>))
        .route("/v1/exec", post(exec::exec::<B>))
        .route("/v1/images", get(images::<B>))
        .route("/v1/image", get(image::<B>))
        .route("/v1/images/prune", post(prune_images::<B>))
        .route("/v1/guests", get(guests::<B>).post(import_guest::<B>))
        .route("/v1/storage", post(storage::<B>))
        .route("/v1/doctor", get(doctor::<B>))
        .route("/v1/shutdown", post(shutdown::<B>))
        .route("/v1/tokens", get(access::tokens::<B>).post(access::create_token::<B>))
        .route("/v1/tokens/revoke", post(access::revoke_token::<B>))
        .route("/v1/metrics", get(metrics::<B>))
        .fallback(|| async { Problem::not_found("this version of holm does not know this request") })
        .method_not_allowed_fallback(|| async { Problem::bad_request("this request has another method") })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(server)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        json(self.code.status(), &self)
    }
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn answer<T: Serialize>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(body) => json(StatusCode::OK, &body),
        Err(problem) => problem.into_response(),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad_request("the request cannot be read").because(error))
}

/// A query string, or why it is refused.
type Asked<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Problem> {
    query
        .map(|Query(query)| query)
        .map_err(|e| Problem::bad_request("the request cannot be read").because(e.body_text()))
}

/// A body, or why it is refused: over the limit, or cut.
type Sent = Result<Bytes, axum::extract::rejection::BytesRejection>;

fn sent(body: Sent) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(ProblemCode::TooLarge, format!("the request is over {MAX_BODY} bytes"))
        }
        _ => Problem::bad_request("the request was cut off"),
    })
}

async fn version<B: Backend>(State(server): State<Server<B>>) -> Response {
    json(StatusCode::OK, &ServerVersion { version: server.version, pid: std::process::id() })
}

#[derive(Deserialize)]
struct StateQuery {
    app: Option<AppKey>,
}

async fn state<B: Backend>(
    State(server): State<Server<B>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    query: Asked<StateQuery>,
) -> Response {
    let shown = |query: StateQuery| {
        let state = server.backend.state();
        match &peer.scope {
            None => StateDocuments::of(&state, query.app.as_ref()),
            Some(scope) => StateDocuments::of_scope(&state, query.app.as_ref(), scope),
        }
    };
    answer(asked(query).map(shown))
}

async fn command<B: Backend>(
    State(server): State<Server<B>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    body: Sent,
) -> Response {
    let submission = || -> Result<Submission, Problem> {
        let key = request_key(&headers)?;
        let command: Command = read(&sent(body)?)?;
        command.check().map_err(|why| Problem::bad_request("the command is refused").because(why))?;
        Ok(Submission { key, actor: peer.actor.clone(), command })
    };
    let (verb, about, accepted) = match submission() {
        Ok(submission) => {
            let (verb, app) = (submission.command.verb(), submission.command.app().to_string());
            (verb, Some(app), server.backend.submit(submission).await)
        }
        Err(problem) => ("command", None, Err(problem)),
    };
    server.refused(&peer, verb, about, &accepted).await;
    answer(accepted)
}

fn request_key(headers: &HeaderMap) -> Result<Uuid, Problem> {
    let key = headers.get(KEY_HEADER).and_then(|value| value.to_str().ok());
    let key = key.and_then(|text| Uuid::try_parse(text).ok());
    key.ok_or_else(|| Problem::bad_request(format!("the header `{KEY_HEADER}` must be a UUID")))
}

async fn storage<B: Backend>(
    State(server): State<Server<B>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Sent,
) -> Response {
    let request: StorageRequest = match sent(body).and_then(|body| read(&body)) {
        Ok(request) => request,
        Err(problem) => {
            let refused: Result<(), Problem> = Err(problem);
            server.refused(&peer, "storage", None, &refused).await;
            return answer(refused);
        }
    };
    // A task of its own: it goes on, and is taken down, when the client hangs up.
    let working = tokio::spawn(async move {
        let (verb, about) = (request.verb(), request.volume().map(ToString::to_string));
        let looks_only = request.looks_only();
        let done = server.backend.storage(request, peer.actor.clone()).await;
        match looks_only {
            true => server.refused(&peer, verb, about, &done).await,
            false => server.took(&peer, verb, about, &done).await,
        }
        done
    });
    let done = working.await;
    answer(done.unwrap_or_else(|error| Err(Problem::failed("the work on storage ended early").because(error))))
}

#[derive(Deserialize)]
struct Follow {
    #[serde(default)]
    follow: bool,
}

async fn events<B: Backend>(
    State(server): State<Server<B>>,
    follow: Asked<Follow>,
    query: Asked<EventQuery>,
) -> Response {
    let asked = asked(follow).and_then(|Follow { follow }| Ok((follow, asked(query)?)));
    match asked {
        Ok((follow, query)) => ndjson::respond(follow::events(server.backend, query, follow), server.ending),
        Err(problem) => problem.into_response(),
    }
}

#[derive(Deserialize)]
struct DeploymentQuery {
    app: AppKey,
    deployment: DeploymentNumber,
}

async fn deployment<B: Backend>(State(server): State<Server<B>>, query: Asked<DeploymentQuery>) -> Response {
    match asked(query) {
        Ok(DeploymentQuery { app, deployment }) => {
            ndjson::respond(follow::deployment(server.backend, app, deployment), server.ending)
        }
        Err(problem) => problem.into_response(),
    }
}

#[derive(Deserialize)]
struct LiveQuery {
    instance: InstanceName,
}

async fn live<B: Backend>(State(server): State<Server<B>>, query: Asked<LiveQuery>) -> Response {
    match asked(query) {
        Ok(LiveQuery { instance }) => json(StatusCode::OK, &server.backend.live(&instance).await),
        Err(problem) => problem.into_response(),
    }
}

async fn logs<B: Backend>(State(server): State<Server<B>>, query: Asked<LogQuery>) -> Response {
    let lines = match asked(query) {
        Ok(query) if !server.backend.state().apps.contains_key(&query.app) => Err(no_app(&query.app)),
        Ok(query) => server.backend.logs(query).await,
        Err(problem) => Err(problem),
    };
    match lines {
        Ok(lines) => ndjson::respond(lines, server.ending),
        Err(problem) => problem.into_response(),
    }
}

fn no_app(app: &AppKey) -> Problem {
    Problem::not_found(format!("there is no app `{app}`")).hint("`holm status` lists the apps")
}

async fn images<B: Backend>(State(server): State<Server<B>>) -> Response {
    answer(server.backend.images().await)
}

#[derive(Deserialize)]
struct ImageQuery {
    digest: Digest,
}

async fn image<B: Backend>(State(server): State<Server<B>>, query: Asked<ImageQuery>) -> Response {
    match asked(query) {
        Ok(ImageQuery { digest }) => answer(server.backend.image(digest).await),
        Err(problem) => problem.into_response(),
    }
}

async fn prune_images<B: Backend>(State(server): State<Server<B>>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    let pruned = server.backend.prune_images().await;
    server.took(&peer, "images prune", None, &pruned).await;
    answer(pruned)
}

async fn guests<B: Backend>(State(server): State<Server<B>>) -> Response {
    answer(server.backend.guests().await)
}

async fn import_guest<B: Backend>(
    State(server): State<Server<B>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Sent,
) -> Response {
    let import: Result<GuestImport, Problem> = sent(body).and_then(|body| read(&body));
    let imported = match import {
        Ok(import) if import.packages.iter().chain(&import.init).any(|path| !path.is_absolute()) => {
            Err(Problem::bad_request("the paths of a guest import must be absolute"))
        }
        Ok(import) => server.backend.import_guest(import).await,
        Err(problem) => Err(problem),
    };
    server.took(&peer, "guest import", None, &imported).await;
    answer(imported)
}

async fn doctor<B: Backend>(State(server): State<Server<B>>) -> Response {
    json(StatusCode::OK, &server.backend.doctor().await)
}

async fn shutdown<B: Backend>(
    State(server): State<Server<B>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Sent,
) -> Response {
    let how: Result<Shutdown, Problem> = sent(body).and_then(|body| read(&body));
    // Taken down first: nothing is written any more once it has begun.
    server.took(&peer, "down", None, &how).await;
    match how {
        Ok(how) => answer(server.backend.shutdown(how).await),
        Err(problem) => problem.into_response(),
    }
}

async fn metrics<B: Backend>(State(server): State<Server<B>>) -> Response {
    let text = server.backend.metrics().await;
    (StatusCode::OK, [(CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}
