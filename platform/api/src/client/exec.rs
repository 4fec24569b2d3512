//! A command in an instance, as its user has it: frames both ways over the connection of the request.

use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, UPGRADE};
use http::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::codec::Framed;

use super::{Client, ClientError, encode, request};
use crate::exec::{ExecOutput, ExecRequest, ExecSession, PROTOCOL, QUEUE, UserSide};
use crate::problem::Problem;

impl Client {
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
}

fn cut_off() -> Problem {
    Problem::unavailable("the connection to holm was cut off")
}
