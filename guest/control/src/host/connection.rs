//! The connection to one guest: greeting, requests, state.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::dispatch::{Shared, read_all};
use super::{HostError, LogReader};
use crate::{
    Config, ErrorBody, ErrorCode, Event, Frame, GuestMessage, HelloAck, HostMessage, Kind, Metrics, Outcome, PROTOCOL,
    PROTOCOL_OLDEST, ReplyValue, Status, VolumeAction, encode_frame, encode_message,
};

/// Encoded frames that may wait for the pipe; callers wait beyond that.
const WRITE_QUEUE: usize = 32;

/// How often the greeting is repeated while the guest boots.
const GREETING_INTERVAL: Duration = Duration::from_millis(500);

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The host's software and version, for the guest's console.
    pub agent: String,
    /// How long to wait for the greeting. A guest that still boots greets when it is up.
    pub greeting_timeout: Duration,
    /// How long to wait for the answer to one request.
    pub request_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            agent: concat!("holm/", env!("CARGO_PKG_VERSION")).into(),
            greeting_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// A session with one guest. Clones share it; it ends when the last clone and the readers made from it are gone.
#[derive(Clone)]
pub struct GuestConnection {
    inner: Arc<Inner>,
}

struct Inner {
    hello: HelloAck,
    link: Link,
    request_timeout: Duration,
    next_request: AtomicU32,
    next_stream: AtomicU32,
    tasks: [AbortHandle; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.shared.close();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl core::fmt::Debug for GuestConnection {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GuestConnection").field("boot_id", &self.inner.hello.boot_id).finish_non_exhaustive()
    }
}

/// The sending side, shared by everything that talks on one session.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    writer: mpsc::Sender<Vec<u8>>,
}

impl Link {
    /// Queues a message; waits while the queue is full.
    pub(super) async fn send(&self, message: &HostMessage) -> Result<(), HostError> {
        let mut bytes = Vec::new();
        encode_message(self.shared.session, &message.encode(), &mut bytes)?;
        self.writer.send(bytes).await.map_err(|_| HostError::Closed)
    }

    /// Queues raw bytes for an exec stream.
    pub(super) async fn send_stdin(&self, stream: u32, payload: &[u8]) -> Result<(), HostError> {
        let mut bytes = Vec::new();
        let frame =
            Frame { kind: Kind::Stdin, more: false, session: self.shared.session, stream, payload: payload.into() };
        encode_frame(&frame, &mut bytes)?;
        self.writer.send(bytes).await.map_err(|_| HostError::Closed)
    }

    /// Queues a message from a place that cannot wait; a full queue drops it.
    pub(super) fn send_if_room(&self, message: &HostMessage) {
        let mut bytes = Vec::new();
        if encode_message(self.shared.session, &message.encode(), &mut bytes).is_ok() {
            // A closed or clogged pipe: the guest learns of the end with the session's.
            let _ = self.writer.try_send(bytes);
        }
    }
}

impl GuestConnection {
    /// Opens a session over `pipe` and waits for the guest's greeting.
    ///
    /// The pipe may be one a killed predecessor used: whatever is left in it is skipped. A guest that still boots
    /// is waited for until the greeting timeout.
    ///
    /// # Errors
    /// [`HostError::NoGreeting`], [`HostError::Protocol`] or [`HostError::Closed`].
    pub async fn connect<P>(pipe: P, options: ConnectOptions) -> Result<Self, HostError>
    where
        P: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared::new(new_session()));
        let (greeting, mut greeted) = oneshot::channel();
        shared.waiting().greeting = Some(greeting);

        let (read_half, write_half) = tokio::io::split(pipe);
        let (writer, to_write) = mpsc::channel(WRITE_QUEUE);
        let reading = tokio::spawn(read_all(read_half, shared.clone())).abort_handle();
        let writing = tokio::spawn(write_all(write_half, to_write, shared.clone())).abort_handle();
        let mut inner = Inner {
            hello: HelloAck {
                protocol: PROTOCOL,
                boot_id: String::new(),
                features: Default::default(),
                agent: String::new(),
                kernel: String::new(),
                boot: Vec::new(),
                status: Status::booted(),
            },
            link: Link { shared, writer },
            request_timeout: options.request_timeout,
            next_request: AtomicU32::new(1),
            next_stream: AtomicU32::new(1),
            tasks: [reading, writing],
        };

        let greeting = async {
            loop {
                let hello = HostMessage::Hello {
                    protocol: PROTOCOL,
                    oldest: PROTOCOL_OLDEST,
                    agent: options.agent.clone(),
                    unix_ns: unix_now_ns(),
                };
                inner.link.send(&hello).await?;
                match tokio::time::timeout(GREETING_INTERVAL, &mut greeted).await {
                    Ok(answer) => return answer.map_err(|_| HostError::Closed),
                    Err(_) => continue,
                }
            }
        };
        let answer = tokio::time::timeout(options.greeting_timeout, greeting)
            .await
            .map_err(|_| HostError::NoGreeting(options.greeting_timeout))??;
        match answer {
            GuestMessage::HelloAck(ack) if (PROTOCOL_OLDEST..=PROTOCOL).contains(&ack.protocol) => {
                inner.hello = ack;
                Ok(Self { inner: Arc::new(inner) })
            }
            GuestMessage::HelloAck(ack) => Err(protocol_error(ack.protocol, ack.protocol)),
            GuestMessage::HelloRefused { protocol, oldest } => Err(protocol_error(oldest, protocol)),
            _ => Err(HostError::Closed),
        }
    }

    /// The guest's greeting: boot id, abilities, kernel, boot timings, and its state at that moment.
    pub fn hello(&self) -> &HelloAck {
        &self.inner.hello
    }

    /// Gives the guest what to run. The same configuration again is fine; a different one is refused.
    ///
    /// # Errors
    /// [`HostError::Guest`] with [`ErrorCode::Invalid`] or [`ErrorCode::Refused`].
    pub async fn configure(&self, config: &Config) -> Result<(), HostError> {
        if let Err(wrong) = config.check() {
            return Err(HostError::Guest(ErrorBody { code: ErrorCode::Invalid, message: wrong.to_string() }));
        }
        let config = Box::new(config.clone());
        self.request("configure", move |id| HostMessage::Configure { id, config }).await.map(drop)
    }

    /// Starts the configured app; gives its process id. Fine when it already runs or ran.
    ///
    /// # Errors
    /// [`HostError::Guest`] with [`ErrorCode::CommandNotFound`] or [`ErrorCode::CannotExecute`] and the reason.
    pub async fn start(&self) -> Result<Option<u32>, HostError> {
        match self.request("start", |id| HostMessage::Start { id }).await? {
            ReplyValue::Started { pid } => Ok(Some(pid)),
            _ => Ok(None),
        }
    }

    /// Asks the guest to stop its app and power off; answers at once. Then wait for the state, and for the end of
    /// the virtual machine.
    ///
    /// # Errors
    /// As for any request.
    pub async fn stop(&self, grace: Option<Duration>) -> Result<(), HostError> {
        let grace_ms = grace.map(|g| u64::try_from(g.as_millis()).unwrap_or(u64::MAX));
        self.request("stop", move |id| HostMessage::Stop { id, grace_ms }).await.map(drop)
    }

    /// Sends a signal to the app's main process.
    ///
    /// # Errors
    /// [`HostError::Guest`] with [`ErrorCode::Refused`] when it does not run.
    pub async fn signal(&self, signal: i32) -> Result<(), HostError> {
        self.request("signal", move |id| HostMessage::Signal { id, signal }).await.map(drop)
    }

    /// Figures of the guest and its app.
    ///
    /// # Errors
    /// As for any request.
    pub async fn metrics(&self) -> Result<Metrics, HostError> {
        match self.request("metrics", |id| HostMessage::Metrics { id }).await? {
            ReplyValue::Metrics(metrics) => Ok(metrics),
            _ => Err(self.unsupported(crate::Features::METRICS)),
        }
    }

    /// Sets the guest's clock to the host's. The greeting did so already.
    ///
    /// # Errors
    /// As for any request.
    pub async fn set_time(&self) -> Result<(), HostError> {
        self.request("set time", |id| HostMessage::SetTime { id, unix_ns: unix_now_ns() }).await.map(drop)
    }

    /// Grows, freezes or thaws the volume on the disk with this serial number.
    ///
    /// # Errors
    /// As for any request; [`HostError::Guest`] with [`ErrorCode::Refused`] for a thaw that comes after the freeze's limit.
    pub async fn volume(&self, serial: &str, action: VolumeAction) -> Result<(), HostError> {
        self.require(crate::Features::VOLUMES)?;
        let serial = String::from(serial);
        self.request("volume", move |id| HostMessage::Volume { id, serial, action }).await.map(drop)
    }

    /// Tells the guest where the app's own instances are, by process type.
    ///
    /// # Errors
    /// [`HostError::Unsupported`] by an older guest; else as for any request.
    pub async fn names(&self, names: &BTreeMap<String, Vec<IpAddr>>) -> Result<(), HostError> {
        self.require(crate::Features::NAMES)?;
        let names = names.clone();
        self.request("names", move |id| HostMessage::Names { id, names }).await.map(drop)
    }

    /// Every change of the guest's state from now on. A receiver more than 256 behind is told that it missed some;
    /// the state itself is always in [`Self::status`].
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.link.shared.events.subscribe()
    }

    /// The guest's state, kept up to date; its receiver sees the newest only.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.link.shared.status.subscribe()
    }

    /// The app's output from record `from` on, past and to come. A later call takes over from an earlier one.
    ///
    /// # Errors
    /// [`HostError::Closed`].
    pub async fn logs(&self, from: u64) -> Result<LogReader, HostError> {
        LogReader::subscribe(self, self.inner.link.clone(), self.next_stream(), from).await
    }

    /// Waits until the pipe has ended.
    pub async fn closed(&self) {
        self.inner.link.shared.ended().await;
    }

    pub(super) fn link(&self) -> &Link {
        &self.inner.link
    }

    pub(super) fn next_stream(&self) -> u32 {
        self.inner.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn require(&self, feature: &'static str) -> Result<(), HostError> {
        if self.inner.hello.features.contains(feature) { Ok(()) } else { Err(self.unsupported(feature)) }
    }

    fn unsupported(&self, feature: &'static str) -> HostError {
        HostError::Unsupported { feature, agent: self.inner.hello.agent.clone() }
    }

    /// Sends what `message` makes of a fresh id and waits for the reply.
    pub(super) async fn request(
        &self,
        name: &'static str,
        message: impl FnOnce(u32) -> HostMessage,
    ) -> Result<ReplyValue, HostError> {
        let id = self.inner.next_request.fetch_add(1, Ordering::Relaxed);
        let (reply, replied) = oneshot::channel();
        let shared = &self.inner.link.shared;
        {
            let mut waiting = shared.waiting();
            if waiting.closed {
                return Err(HostError::Closed);
            }
            waiting.replies.insert(id, reply);
        }
        let forget = ForgetReply { shared, id };
        let exchange = async {
            self.inner.link.send(&message(id)).await?;
            replied.await.map_err(|_| HostError::Closed)
        };
        let after = self.inner.request_timeout;
        let outcome =
            tokio::time::timeout(after, exchange).await.map_err(|_| HostError::NoAnswer { request: name, after })??;
        drop(forget);
        match outcome {
            Outcome::Ok(value) => Ok(value),
            Outcome::Error(body) => Err(HostError::Guest(body)),
        }
    }
}

/// Takes a request's place out of the map however its caller leaves.
struct ForgetReply<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for ForgetReply<'_> {
    fn drop(&mut self) {
        self.shared.waiting().replies.remove(&self.id);
    }
}

fn protocol_error(oldest: u32, newest: u32) -> HostError {
    HostError::Protocol { oldest, newest, own_oldest: PROTOCOL_OLDEST, own_newest: PROTOCOL }
}

/// Writes what is queued until the pipe or the session ends, also when only the reading side saw the end.
async fn write_all(mut pipe: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Vec<u8>>, shared: Arc<Shared>) {
    let writing = async {
        // Ends what a predecessor left half-sent.
        pipe.write_all(&[0]).await?;
        while let Some(bytes) = queue.recv().await {
            pipe.write_all(&bytes).await?;
            if queue.is_empty() {
                pipe.flush().await?;
            }
        }
        std::io::Result::Ok(())
    };
    tokio::select! {
        result = writing => if let Err(error) = result {
            tracing::debug!(%error, "writing to the guest failed");
        },
        () = shared.ended() => {}
    }
    shared.close();
}

/// A number an app in the guest cannot guess; never 0.
fn new_session() -> u64 {
    RandomState::new().build_hasher().finish() | 1
}

fn unix_now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
