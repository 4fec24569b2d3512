//! The interface from afar: the same requests over TLS, from whoever has a token, within limits.
//!
//! | what | limit | what happens then |
//! | --- | --- | --- |
//! | connections | 256, of one source 32 | closed before TLS begins |
//! | TLS handshake, head of a request, its body | 10 s, 10 s, 30 s | closed |
//! | body | 2 MiB | refused |
//! | requests on one connection | 1 | closed after it |
//! | a token that is revoked or expires | at once | what it has open is cut |
//!
//! A source is an IPv4 address or the first 64 bits of an IPv6 address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use holm_model::access::TokenId;
use http::header::AUTHORIZATION;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access;
use crate::backend::{Audit, Backend, STRANGER};
use crate::problem::{Problem, ProblemCode};
use crate::server::{FAREWELL, MAX_BODY, Peer, Server, router};

const MAX_CONNECTIONS: usize = 256;
const MAX_OF_ONE_SOURCE: usize = 32;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(10);
const BODY: Duration = Duration::from_secs(30);
/// How often a token's end is looked for while nothing happens.
const LOOK: Duration = Duration::from_secs(1);
/// Rest after a connection could not be accepted: no file descriptor is free, for one.
const REST: Duration = Duration::from_millis(100);

/// Serves `backend` on `listener` until `stop` is given; what is open then is cut.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    backend: Arc<B>,
    version: impl Into<String>,
    stop: CancellationToken,
) {
    let server = Server::new(backend, version.into(), stop.clone());
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sources = Arc::new(Sources::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        // Whoever is too many is closed here, before any work is done for them.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let Some(turn) = sources.enter(address.ip()) else { continue };
        tokio::spawn(connection(server.clone(), acceptor.clone(), stream, address, (place, turn)));
    }
}

/// How many connections each source has.
#[derive(Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// One connection of a source.
struct Turn {
    sources: Arc<Sources>,
    source: IpAddr,
}

/// What counts as one source.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 => v4,
    }
}

impl Sources {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Turn> {
        let source = source_of(address);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_default();
        if *count >= MAX_OF_ONE_SOURCE {
            return None;
        }
        *count += 1;
        Some(Turn { sources: Arc::clone(self), source })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut open = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

/// A stream with what is given back when it is dropped, wherever it went: an upgrade outlives its connection.
struct Held<S> {
    stream: S,
    _place: OwnedSemaphorePermit,
    _turn: Turn,
    _over: DropGuard,
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the requests of one connection share.
struct Session<B> {
    backend: Arc<B>,
    source: SocketAddr,
    /// The token it was opened with, once it has shown one.
    token: Arc<OnceLock<TokenId>>,
}

impl<B> Clone for Session<B> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), source: self.source, token: Arc::clone(&self.token) }
    }
}

async fn connection<B: Backend>(
    server: Server<B>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    source: SocketAddr,
    (place, turn): (OwnedSemaphorePermit, Turn),
) {
    // An answer is written whole; waiting for more to send with it helps nobody.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%source, %error, "no TLS with a remote client"),
        Err(_) => return tracing::debug!(%source, "a remote client was too slow"),
    };
    let over = CancellationToken::new();
    let stream = Held { stream, _place: place, _turn: turn, _over: over.clone().drop_guard() };
    let session = Session { backend: Arc::clone(&server.backend), source, token: Arc::default() };
    let cut = server.ending.down.child_token();
    tokio::spawn(cut_when_worthless(session.clone(), cut.clone(), over));
    let service = router(server.until(cut.clone())).layer(from_fn_with_state(session, authorise::<B>));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false).max_buf_size(64 << 10);
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).with_upgrades();
    tokio::select! {
        done = serving => if let Err(error) = done {
            tracing::debug!(%source, %error, "a remote connection ended");
        },
        // Streams end with a last line; whoever does not take it is not waited for.
        () = async { cut.cancelled().await; tokio::time::sleep(FAREWELL).await } => {}
    }
}

/// Cuts what a token has open once the token is worth nothing.
async fn cut_when_worthless<B: Backend>(session: Session<B>, cut: CancellationToken, over: CancellationToken) {
    let mut changes = session.backend.changes();
    loop {
        tokio::select! {
            () = over.cancelled() => return,
            () = cut.cancelled() => return,
            _ = changes.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        let state = session.backend.state();
        let worthless = |id: &TokenId| state.site.tokens.get(id).is_none_or(|token| !token.is_valid(Timestamp::now()));
        if session.token.get().is_some_and(worthless) {
            return cut.cancel();
        }
    }
}

/// Lets a request through that has a token for what it asks.
async fn authorise<B: Backend>(State(session): State<Session<B>>, request: Request, next: Next) -> Response {
    match admitted(&session, request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn admitted<B: Backend>(session: &Session<B>, request: Request) -> Result<Request, Problem> {
    let path = request.uri().path().to_owned();
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let text = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let state = session.backend.state();
    let found = match access::find(&state.site.tokens, text, Timestamp::now()) {
        Ok((id, token)) => Ok((id.clone(), token.clone())),
        Err(why) => Err(if text.is_empty() { "no token was shown".to_owned() } else { why }),
    };
    let (id, token) = match found {
        Ok(found) => found,
        Err(why) => {
            let refused = |why| Audit {
                actor: STRANGER.to_owned(),
                verb: "connect".to_owned(),
                about: Some(session.source.ip().to_canonical().to_string()),
                refused: Some(why),
            };
            session.backend.audit(refused(why)).await;
            return Err(Problem::new(ProblemCode::Unauthorised, "the token is missing or worth nothing")
                .hint("make one on the host with `holm tokens create`, and set HOLM_TOKEN to it"));
        }
    };
    // Only a client that showed a token may send a body.
    let (mut parts, body) = request.into_parts();
    let read = timeout(BODY, to_bytes(body, MAX_BODY)).await;
    let bytes = read
        .map_err(|_| Problem::bad_request("the request was sent too slowly"))?
        .map_err(|_| Problem::new(ProblemCode::TooLarge, format!("the request is over {MAX_BODY} bytes or was cut")))?;
    let need = access::need(&parts.method, &path, parts.uri.query().unwrap_or_default(), &bytes);
    let actor = format!("token:{}", token.name);
    let refused = match need {
        Ok(need) if need.is_met_by(&token.scope) => None,
        Ok(need) => {
            let about = need.app().map(ToString::to_string);
            let problem = Problem::new(ProblemCode::Denied, "the token does not allow this");
            let problem = problem.because(format!("it needs {}", need.words()));
            Some((about, problem.hint("`holm tokens list` on the host shows what it allows")))
        }
        Err(problem) => Some((None, problem)),
    };
    if let Some((about, problem)) = refused {
        let verb = path.strip_prefix("/v1/").unwrap_or("request").chars().take(40).collect();
        session.backend.audit(Audit { actor, verb, about, refused: Some(problem.to_string()) }).await;
        return Err(problem);
    }
    // Already set on a connection with a second request, which there is none of.
    let _ = session.token.set(id);
    parts.extensions.insert(ConnectInfo(Peer { actor, scope: Some(token.scope), until: token.expires_at }));
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_so_many_connections_and_gets_them_back() {
        let sources = Arc::new(Sources::default());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        // Addresses of one /64 are one source, and IPv4 in IPv6's clothes is IPv4.
        let turns: Vec<Turn> =
            (0..MAX_OF_ONE_SOURCE).map(|n| sources.enter(address(&format!("fd00::{n:x}"))).unwrap()).collect();
        assert!(sources.enter(address("fd00::ffff:1")).is_none());
        assert!(sources.enter(address("fd00:0:0:1::1")).is_some());
        assert_eq!(source_of(address("::ffff:192.0.2.1")), source_of(address("192.0.2.1")));
        drop(turns);
        assert!(sources.0.lock().unwrap().is_empty());
    }
}
