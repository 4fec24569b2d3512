//! A small client for QEMU's machine protocol (QMP): requests with answers, and events between them.
//!
//! One task reads and writes; [`QmpClient`] is a handle to it that may be cloned. Requests are answered in any order.
//! Queues are bounded: requests wait for a place among [`MAX_PENDING`]; of events a slow listener loses the oldest.

mod decoder;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};

pub use decoder::{Decoder, Event, MAX_LINE, Message};

/// Requests that may wait for an answer at a time.
pub const MAX_PENDING: usize = 32;

/// Events kept for a listener that is behind.
const EVENTS_KEPT: usize = 64;

/// How long QEMU may take to answer a request.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// What can go wrong on a monitor connection.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Reading or writing failed.
    #[error("the monitor connection failed")]
    Io(#[from] std::io::Error),
    /// QEMU closed the connection.
    #[error("the monitor connection was closed")]
    Closed,
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// A line longer than [`MAX_LINE`].
    #[error("a monitor message is longer than {MAX_LINE} bytes")]
    LineTooLong,
    /// Not the protocol.
    #[error("a monitor message cannot be read: {0}")]
    Malformed(String),
    /// QEMU refused the request.
    #[error("{class}: {description}")]
    Refused {
        /// QEMU's error class.
        class: String,
        /// QEMU's explanation.
        description: String,
    },
}

struct Request {
    line: (&'static str, Value),
    answer: oneshot::Sender<Result<Value, QmpError>>,
}

/// A connection to the monitor. It closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct QmpClient {
    requests: mpsc::Sender<Request>,
    events: broadcast::WeakSender<Event>,
}

impl QmpClient {
    /// Waits for the greeting, accepts it, and returns the handle with the first listener to events.
    ///
    /// # Errors
    /// [`QmpError::Deadline`] when this takes longer than `deadline`; otherwise see [`QmpError`].
    pub async fn handshake(
        stream: UnixStream,
        deadline: Duration,
    ) -> Result<(Self, broadcast::Receiver<Event>), QmpError> {
        let (requests, inbox) = mpsc::channel(MAX_PENDING);
        let (sender, events) = broadcast::channel(EVENTS_KEPT);
        let client = Self { requests, events: sender.downgrade() };
        let greeted = async {
            let mut connection = Connection { stream, decoder: Decoder::default() };
            while connection.read_message().await? != Message::Greeting {}
            tokio::spawn(connection.serve(inbox, sender));
            client.execute("qmp_capabilities", Value::Null).await
        };
        match tokio::time::timeout(deadline, greeted).await {
            Ok(result) => result.map(|_| (client, events)),
            Err(_) => Err(QmpError::Deadline(deadline)),
        }
    }

    /// Sends a request and waits for its answer, at most 10 s. `arguments` is an object or null.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn execute(&self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        let asked = async {
            let (answer, answered) = oneshot::channel();
            let request = Request { line: (command, arguments), answer };
            self.requests.send(request).await.map_err(|_| QmpError::Closed)?;
            answered.await.map_err(|_| QmpError::Closed)?
        };
        tokio::time::timeout(ANSWER_DEADLINE, asked).await.map_err(|_| QmpError::Deadline(ANSWER_DEADLINE))?
    }

    /// A new listener to events from now on; `None` when the connection has ended.
    pub fn events(&self) -> Option<broadcast::Receiver<Event>> {
        self.events.upgrade().map(|sender| sender.subscribe())
    }
}

struct Connection {
    stream: UnixStream,
    decoder: Decoder,
}

impl Connection {
    /// The next message. Safe to cancel: bytes read stay in the decoder.
    async fn read_message(&mut self) -> Result<Message, QmpError> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            match self.stream.read(&mut chunk).await? {
                0 => return Err(QmpError::Closed),
                length => self.decoder.feed(&chunk[..length]),
            }
        }
    }

    /// Moves requests out and answers in until either side is gone. Open requests then fail as closed.
    async fn serve(mut self, mut inbox: mpsc::Receiver<Request>, events: broadcast::Sender<Event>) {
        let mut pending: HashMap<u64, oneshot::Sender<Result<Value, QmpError>>> = HashMap::new();
        let mut next_id = 1;
        loop {
            // Requests whose caller has given up make room; QEMU's late answer is then dropped.
            pending.retain(|_, answer| !answer.is_closed());
            tokio::select! {
                request = inbox.recv(), if pending.len() < MAX_PENDING => {
                    let Some(Request { line: (command, arguments), answer }) = request else { return };
                    let mut message = json!({"execute": command, "id": next_id});
                    if !arguments.is_null() {
                        message["arguments"] = arguments;
                    }
                    if let Err(error) = self.stream.write_all(format!("{message}\n").as_bytes()).await {
                        let _ = answer.send(Err(error.into()));
                        return;
                    }
                    pending.insert(next_id, answer);
                    next_id += 1;
                }
                message = self.read_message() => {
                    let (id, result) = match message {
                        Ok(Message::Return { id, value }) => (id, Ok(value)),
                        Ok(Message::Error { id, class, description }) => {
                            (id, Err(QmpError::Refused { class, description }))
                        }
                        Ok(Message::Event(event)) => {
                            let _ = events.send(event);
                            continue;
                        }
                        Ok(Message::Greeting) => continue,
                        Err(error) => {
                            tracing::debug!(%error, "monitor connection ended");
                            return;
                        }
                    };
                    if let Some(answer) = id.and_then(|id| pending.remove(&id)) {
                        let _ = answer.send(result);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt;

    use super::*;

    async fn served(lines: &'static [&'static str]) -> Result<(QmpClient, broadcast::Receiver<Event>), QmpError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (read, mut write) = theirs.into_split();
            write.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
            let mut requests = tokio::io::BufReader::new(read).lines();
            let mut answers = lines.iter();
            while let Ok(Some(request)) = requests.next_line().await {
                let id = serde_json::from_str::<Value>(&request).unwrap()["id"].clone();
                let Some(answer) = answers.next() else { return };
                write.write_all(answer.replace("ID", &id.to_string()).as_bytes()).await.unwrap();
            }
        });
        QmpClient::handshake(ours, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn events_between_request_and_answer_are_delivered_and_do_not_confuse() {
        let (client, mut events) = served(&[
            "{\"return\": {}, \"id\": ID}\n",
            "{\"event\": \"STOP\"}\n{\"return\": 1, \"id\": 999}\n{\"return\": 5, \"id\": ID}\n",
            "{\"id\": ID, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n",
        ])
        .await
        .unwrap();
        assert_eq!(client.execute("stop", Value::Null).await.unwrap(), json!(5));
        assert_eq!(events.recv().await.unwrap().name, "STOP");
        assert!(matches!(client.execute("x", Value::Null).await, Err(QmpError::Refused { .. })));
        assert!(matches!(client.execute("y", Value::Null).await, Err(QmpError::Closed)));
        assert!(events.recv().await.is_err(), "the event stream ends with the connection");
    }

    #[tokio::test]
    async fn garbage_ends_the_connection_with_an_error_for_whoever_waits() {
        let (client, _events) = served(&["{\"return\": {}, \"id\": ID}\n", "garbage\n"]).await.unwrap();
        assert!(matches!(client.execute("stop", Value::Null).await, Err(QmpError::Closed)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_monitor_runs_into_the_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let result = QmpClient::handshake(ours, Duration::from_secs(5)).await;
        assert!(matches!(result, Err(QmpError::Deadline(_))));
    }
}
