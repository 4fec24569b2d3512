//! Answers that go on: one document a line, with signs of life between them.

use std::marker::PhantomData;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::ClientError;
use crate::ndjson::{Line, Lines};

/// Time without a byte, not even a sign of life, after which a stream is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// A stream of documents from Holm.
#[derive(Debug)]
pub struct JsonStream<T> {
    body: Incoming,
    lines: Lines,
    item: PhantomData<T>,
}

impl<T> JsonStream<T> {
    pub(super) fn of(body: Incoming) -> Self {
        Self { body, lines: Lines::default(), item: PhantomData }
    }
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
