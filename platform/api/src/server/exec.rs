//! Commands in instances: the request, and the frames both ways once the connection is theirs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use http::header::{CONNECTION, UPGRADE};
use hyper_util::rt::TokioIo;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

use super::{MAX_BODY, MAX_EXECS, Peer, Server, read};
use crate::backend::Backend;
use crate::exec::{ExecOutput, ExecRequest, ExecSession, ExecTarget, PROTOCOL, ServerSide};
use crate::problem::Problem;
use crate::view;

pub(super) async fn exec<B: Backend>(
    State(server): State<Server<B>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
) -> Response {
    let wants_upgrade = request.headers().get(UPGRADE).is_some_and(|protocol| protocol == PROTOCOL);
    let upgrade = hyper::upgrade::on(&mut request);
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await;
    let mut about = None;
    let started = async {
        if !wants_upgrade {
            return Err(Problem::bad_request(format!("this request needs `Upgrade: {PROTOCOL}`")));
        }
        let permit = Arc::clone(&server.execs).try_acquire_owned().map_err(|_| {
            Problem::unavailable(format!("{MAX_EXECS} commands run in instances already"))
                .hint("end one of them and try again")
        })?;
        let body = body.map_err(|error| Problem::bad_request("the request was cut off").because(error))?;
        let request: ExecRequest = read(&body)?;
        request.check().map_err(|why| Problem::bad_request("the command is refused").because(why))?;
        let instance = match &request.target {
            ExecTarget::Instance(instance) => instance.clone(),
            ExecTarget::App { app, process } => view::instance_for(&server.backend.state(), app, process.as_ref())?,
        };
        about = Some(instance.to_string());
        Ok((permit, server.backend.exec(instance, request).await?))
    };
    let started = started.await;
    server.took(&peer, "exec", about, &started).await;
    let (permit, session) = match started {
        Ok(started) => started,
        Err(problem) => return problem.into_response(),
    };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => bridge(TokioIo::new(upgraded), session, server.ending.cut).await,
            Err(error) => tracing::debug!(%error, "the client went away before its command ran"),
        }
        drop(permit);
    });
    let switched = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(CONNECTION, "upgrade");
    let switched = switched.header(UPGRADE, PROTOCOL).body(Body::empty());
    switched.expect("a status and two constant headers make an answer")
}

/// Carries frames between the connection and the command until the command ends or the user goes away.
async fn bridge<S>(stream: S, session: ExecSession, stop: CancellationToken)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
{
    let ExecSession { input, mut output } = session;
    let (mut to_user, mut from_user) = Framed::new(stream, ServerSide).split();
    let inward = async move {
        while let Some(Ok(frame)) = from_user.next().await {
            if input.send(frame).await.is_err() {
                return Inward::CommandEnded;
            }
        }
        Inward::UserGone
    };
    let outward = async move {
        while let Some(frame) = output.recv().await {
            let last = matches!(frame, ExecOutput::Exit(_) | ExecOutput::Failed(_));
            if to_user.send(frame).await.is_err() || last {
                break;
            }
        }
        drop(to_user.close().await);
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        () = stop.cancelled() => {}
        () = &mut outward => {}
        ended = &mut inward => if ended == Inward::CommandEnded {
            tokio::select! {
                () = stop.cancelled() => {}
                () = outward => {}
            }
        },
    }
}

/// Why nothing more goes to the command.
#[derive(PartialEq, Eq)]
enum Inward {
    /// It takes nothing more; its last output and its status are still to come.
    CommandEnded,
    /// Nobody is there to see its output: dropping the session hangs up its terminal.
    UserGone,
}
