//! Streams of JSON lines: one document per line, an empty line now and then to show that the other end lives.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::problem::{Problem, ProblemCode};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/x-ndjson";
/// Longest line a client takes, in bytes.
pub(crate) const MAX_LINE: usize = 16 << 20;
/// Time without a line after which an empty one is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// One line of a stream.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line<T> {
    /// Something the stream is about.
    Item(T),
    /// The stream ends here because of this.
    Problem(Problem),
}

/// When open streams end before there is nothing more to tell.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    /// Holm goes down.
    pub(crate) down: CancellationToken,
    /// The stream's token is worth nothing any more; given with `down` too.
    pub(crate) cut: CancellationToken,
}

impl Ending {
    /// Waits for it and says why.
    async fn come(&self) -> Problem {
        self.cut.cancelled().await;
        if self.down.is_cancelled() {
            return Problem::unavailable("holm is going down");
        }
        Problem::new(ProblemCode::Unauthorised, "the token was revoked or has expired")
    }
}

/// Answers with `items` until they end or `ending` comes; then the last line says why.
pub(crate) fn respond<T, S>(items: S, ending: Ending) -> Response
where
    T: Serialize + Send + 'static,
    S: Stream<Item = Result<T, Problem>> + Send + 'static,
{
    let source = Source { items: Box::pin(items), ending, over: false };
    let pieces = stream::unfold(source, |mut source| async move {
        if source.over {
            return None;
        }
        let line = tokio::select! {
            biased;
            problem = source.ending.come() => Line::Problem(problem),
            item = tokio::time::timeout(KEEP_ALIVE, source.items.next()) => match item {
                Err(_) => return Some((Ok::<_, Infallible>(Bytes::from_static(b"\n")), source)),
                Ok(None) => return None,
                Ok(Some(Ok(item))) => Line::Item(item),
                Ok(Some(Err(problem))) => Line::Problem(problem),
            },
        };
        source.over = matches!(line, Line::Problem(_));
        Some((Ok(encode(&line)?), source))
    });
    ([(CONTENT_TYPE, MEDIA_TYPE)], Body::from_stream(pieces)).into_response()
}

struct Source<S> {
    items: Pin<Box<S>>,
    ending: Ending,
    /// Whether the last line has been sent.
    over: bool,
}

fn encode<T: Serialize>(line: &Line<T>) -> Option<Bytes> {
    let mut bytes =
        serde_json::to_vec(line).map_err(|error| tracing::error!(%error, "a line has no JSON form")).ok()?;
    bytes.push(b'\n');
    Some(bytes.into())
}

/// Cuts incoming bytes into lines, without the empty ones.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// Bytes at the start of the buffer known to hold no line break.
    searched: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, or an error when a line is over the limit.
    pub(crate) fn next_line(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') else {
                self.searched = self.buffer.len();
                return if self.searched > MAX_LINE { Err("a line is over 16 MiB".to_owned()) } else { Ok(None) };
            };
            let line = self.buffer.split_to(self.searched + at + 1).freeze();
            self.searched = 0;
            if line.len() > 1 {
                return Ok(Some(line.slice(..line.len() - 1)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_survive_any_cut(lines in proptest::collection::vec("[a-z]{0,9}", 0..9), piece in 1usize..8) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let (mut reader, mut seen) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(piece) {
                reader.push(piece);
                while let Some(line) = reader.next_line().unwrap() {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            let expected: Vec<String> = lines.into_iter().filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
