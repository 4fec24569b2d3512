//! The guest's end of a pipe, played by a test: it says what it is told to and shows what the host sent.

#![allow(clippy::unwrap_used, reason = "a test's own pipe and messages")]

use std::collections::VecDeque;
use std::time::Duration;

use holm_guest_control::host::{ConnectOptions, GuestConnection, HostError};
use holm_guest_control::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// What the host sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Message(HostMessage),
    Stdin(u32, Vec<u8>),
}

pub(crate) struct FakeGuest {
    pub(crate) pipe: DuplexStream,
    /// The last one a `Hello` opened.
    pub(crate) session: u64,
    decoder: Decoder,
    assembler: MessageAssembler,
    arrived: VecDeque<Sent>,
}

/// A pipe that holds more than any window: only flow control makes a sender wait.
pub(crate) fn pipe() -> (DuplexStream, FakeGuest) {
    let (host, guest) = tokio::io::duplex(4 << 20);
    let decoder = Decoder::new();
    let (assembler, arrived) = (MessageAssembler::default(), VecDeque::new());
    (host, FakeGuest { pipe: guest, session: 0, decoder, assembler, arrived })
}

/// A connection and its guest after the greeting.
pub(crate) async fn greeted() -> (GuestConnection, FakeGuest) {
    let (host, mut guest) = pipe();
    let (connection, ()) = tokio::join!(connect(host), guest.greet());
    (connection.unwrap(), guest)
}

pub(crate) async fn connect(host: DuplexStream) -> Result<GuestConnection, HostError> {
    GuestConnection::connect(host, ConnectOptions::default()).await
}

pub(crate) fn hello_ack() -> HelloAck {
    let features = [Features::EXEC, Features::EXEC_TTY, Features::LOGS, Features::METRICS];
    HelloAck {
        protocol: PROTOCOL,
        boot_id: "boot-1".into(),
        features: features.map(str::to_owned).into(),
        agent: "fake".into(),
        kernel: "6.12".into(),
        boot: Vec::new(),
        status: Status::booted(),
    }
}

impl FakeGuest {
    /// The next thing the host sent; `None` when it has closed the pipe.
    pub(crate) async fn next(&mut self) -> Option<Sent> {
        let mut buffer = [0; 4096];
        while self.arrived.is_empty() {
            let length = self.pipe.read(&mut buffer).await.ok().filter(|length| *length > 0)?;
            let (assembler, arrived, session) = (&mut self.assembler, &mut self.arrived, &mut self.session);
            self.decoder.feed(&buffer[..length], |frame| match frame.kind {
                Kind::Stdin => arrived.push_back(Sent::Stdin(frame.stream, frame.payload)),
                _ => {
                    let from = frame.session;
                    let message = assembler.push(frame).and_then(|json| HostMessage::decode(&json));
                    if matches!(message, Some(HostMessage::Hello { .. })) {
                        *session = from;
                    }
                    arrived.extend(message.map(Sent::Message));
                }
            });
        }
        self.arrived.pop_front()
    }

    pub(crate) async fn message(&mut self) -> HostMessage {
        match self.next().await {
            Some(Sent::Message(message)) => message,
            other => panic!("no message but {other:?}"),
        }
    }

    /// What comes until the host has nothing more to say. Needs paused time: the wait ends when all tasks rest.
    pub(crate) async fn until_quiet(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        while let Ok(Some(sent)) = tokio::time::timeout(Duration::from_secs(1), self.next()).await {
            all.push(sent);
        }
        all
    }

    pub(crate) async fn greet(&mut self) {
        assert!(matches!(self.message().await, HostMessage::Hello { .. }));
        self.pipe.write_all(&[0]).await.unwrap();
        self.tell(&GuestMessage::HelloAck(hello_ack())).await;
    }

    pub(crate) async fn tell(&mut self, message: &GuestMessage) {
        let mut bytes = Vec::new();
        encode_message(self.session, &message.encode(), &mut bytes).unwrap();
        self.pipe.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn reply(&mut self, id: u32, outcome: Outcome) {
        self.tell(&GuestMessage::Reply { id, outcome }).await;
    }

    pub(crate) fn encoded(&self, kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let frame = Frame { kind, more: false, session: self.session, stream, payload: payload.to_vec() };
        encode_frame(&frame, &mut bytes).unwrap();
        bytes
    }

    pub(crate) async fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        let bytes = self.encoded(kind, stream, payload);
        self.pipe.write_all(&bytes).await.unwrap();
    }

    /// Takes an `Exec`, says it runs, and gives its stream and request.
    pub(crate) async fn take_exec(&mut self) -> (u32, ExecRequest) {
        let HostMessage::Exec { id, stream, request, .. } = self.message().await else {
            panic!("an exec was expected");
        };
        self.reply(id, Outcome::Ok(ReplyValue::Started { pid: 9 })).await;
        (stream, request)
    }
}
