//! The requests about secrets and tokens.

use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse, Response};
use holm_model::access::TokenId;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Peer, Sent, Server, answer, json, read, request_key, sent};
use crate::access::TokenWish;
use crate::backend::Backend;
use crate::problem::{Problem, ProblemCode};
use crate::secrets::{SecretsChange, SecretsComparison};

/// Like [`read`], but what is wrong is told by its place alone: the text around it may be a secret.
fn read_secret<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Problem::bad_request("the request cannot be read").because(place)
    })
}

pub(super) async fn change_secrets<B: Backend>(
    State(server): State<Server<B>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    body: Sent,
) -> Response {
    let change = || -> Result<(Uuid, SecretsChange), Problem> {
        let key = request_key(&headers)?;
        let change: SecretsChange = read_secret(&sent(body)?)?;
        change.check().map_err(|why| Problem::bad_request("the change is refused").because(why))?;
        Ok((key, change))
    };
    let (about, accepted) = match change() {
        Ok((key, change)) => {
            let about = Some(change.app.to_string());
            (about, server.backend.change_secrets(key, peer.actor.clone(), change).await)
        }
        Err(problem) => (None, Err(problem)),
    };
    server.refused(&peer, "secrets", about, &accepted).await;
    answer(accepted)
}

pub(super) async fn compare_secrets<B: Backend>(State(server): State<Server<B>>, body: Sent) -> Response {
    let comparison: Result<SecretsComparison, Problem> = sent(body).and_then(|body| read_secret(&body));
    match comparison {
        Ok(comparison) => answer(server.backend.compare_secrets(comparison).await),
        Err(problem) => problem.into_response(),
    }
}

pub(super) async fn tokens<B: Backend>(State(server): State<Server<B>>) -> Response {
    json(StatusCode::OK, &server.backend.state().site.tokens)
}

pub(super) async fn create_token<B: Backend>(
    State(server): State<Server<B>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Sent,
) -> Response {
    let wish = sent(body).and_then(|body| {
        let wish: TokenWish = read(&body)?;
        if peer.scope.as_ref().is_some_and(|scope| wish.is_more_than(scope, peer.until)) {
            return Err(Problem::new(ProblemCode::Denied, "a token cannot make one that allows more than itself")
                .hint("ask for fewer permissions and a nearer end, or make it on the host itself"));
        }
        wish.check().map_err(|why| Problem::bad_request("the token is refused").because(why)).map(|()| wish)
    });
    let made = match wish {
        Ok(wish) => server.backend.create_token(peer.actor.clone(), wish).await,
        Err(problem) => Err(problem),
    };
    server.refused(&peer, "tokens create", None, &made).await;
    answer(made)
}

#[derive(Deserialize)]
struct Revocation {
    id: TokenId,
}

pub(super) async fn revoke_token<B: Backend>(
    State(server): State<Server<B>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Sent,
) -> Response {
    let revocation: Result<Revocation, Problem> = sent(body).and_then(|body| read(&body));
    let (about, revoked) = match revocation {
        Ok(Revocation { id }) => (Some(id.to_string()), server.backend.revoke_token(peer.actor.clone(), id).await),
        Err(problem) => (None, Err(problem)),
    };
    server.refused(&peer, "tokens revoke", about, &revoked).await;
    answer(revoked)
}
