//! What arrives from the guest, and to whom it goes.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

use super::exec::OutputChunk;
use super::logs::LogItem;
use crate::{Decoder, ExitStatus, Frame, GuestMessage, Kind, LogRecord, MessageAssembler, Outcome, Status};

/// Events a slow receiver may be behind before it misses some; the status never misses.
const EVENT_BACKLOG: usize = 256;

/// Where the bytes of one exec stream go.
pub(super) struct ExecPeer {
    pub(super) output: mpsc::Sender<OutputChunk>,
    pub(super) exit: Option<oneshot::Sender<ExitStatus>>,
    pub(super) stdin_credit: Arc<Semaphore>,
}

/// Who waits for what.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) greeting: Option<oneshot::Sender<GuestMessage>>,
    pub(super) replies: HashMap<u32, oneshot::Sender<Outcome>>,
    pub(super) execs: HashMap<u32, ExecPeer>,
    pub(super) logs: Option<(u32, mpsc::Sender<LogItem>)>,
    pub(super) closed: bool,
}

/// State the two tasks and all callers share.
pub(super) struct Shared {
    pub(super) session: u64,
    waiting: Mutex<Waiting>,
    pub(super) events: broadcast::Sender<crate::Event>,
    pub(super) status: watch::Sender<Status>,
    ended: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(session: u64) -> Self {
        Self {
            session,
            waiting: Mutex::new(Waiting::default()),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            status: watch::Sender::new(Status::booted()),
            ended: watch::Sender::new(false),
        }
    }

    /// The lock is held for map operations only, never across an await.
    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until [`Self::close`] was called, from either side of the pipe or by the last user's leave.
    pub(super) async fn ended(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Ends every wait: their senders are dropped.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting();
        for peer in waiting.execs.values() {
            peer.stdin_credit.close();
        }
        *waiting = Waiting { closed: true, ..Waiting::default() };
        drop(waiting);
        self.ended.send_replace(true);
    }

    fn take_frame(&self, frame: Frame, assembler: &mut MessageAssembler) {
        if frame.session != self.session {
            return;
        }
        match frame.kind {
            Kind::Message => {
                let message = assembler.push(frame).and_then(|json| GuestMessage::decode(&json));
                if let Some(message) = message {
                    self.take_message(message);
                }
            }
            Kind::Log => {
                if let Some(record) = LogRecord::decode(&frame.payload) {
                    self.take_log(frame.stream, LogItem::Record(record));
                }
            }
            Kind::Stdout => self.take_output(frame.stream, OutputChunk::Stdout(frame.payload)),
            Kind::Stderr => self.take_output(frame.stream, OutputChunk::Stderr(frame.payload)),
            Kind::Stdin => {}
        }
    }

    fn take_message(&self, message: GuestMessage) {
        match message {
            GuestMessage::HelloAck(ack) => {
                let greeting = self.waiting().greeting.take();
                if let Some(greeting) = greeting {
                    self.status.send_replace(ack.status.clone());
                    // The caller of `connect` may have given up.
                    let _ = greeting.send(GuestMessage::HelloAck(ack));
                }
            }
            refused @ GuestMessage::HelloRefused { .. } => {
                if let Some(greeting) = self.waiting().greeting.take() {
                    let _ = greeting.send(refused);
                }
            }
            GuestMessage::Reply { id, outcome } => {
                let waiter = self.waiting().replies.remove(&id);
                if let Some(waiter) = waiter {
                    let _ = waiter.send(outcome);
                }
            }
            GuestMessage::Event(event) => {
                self.status.send_if_modified(|status| {
                    let newer = event.seq > status.last_event;
                    if newer {
                        status.apply(&event);
                    }
                    newer
                });
                // No receiver is fine: the status keeps what matters.
                let _ = self.events.send(event);
            }
            GuestMessage::LogsDropped { subscription, count, next } => {
                self.take_log(subscription, LogItem::Dropped { count, next });
            }
            GuestMessage::ExecCredit { stream, credit } => {
                if let Some(peer) = self.waiting().execs.get(&stream) {
                    let room = crate::EXEC_WINDOW as usize
                        - peer.stdin_credit.available_permits().min(crate::EXEC_WINDOW as usize);
                    peer.stdin_credit.add_permits((credit as usize).min(room));
                }
            }
            GuestMessage::ExecExit { stream, status } => {
                if let Some(mut peer) = self.waiting().execs.remove(&stream) {
                    peer.stdin_credit.close();
                    if let Some(exit) = peer.exit.take() {
                        let _ = exit.send(status);
                    }
                }
            }
            GuestMessage::Unknown => {
                tracing::debug!("the guest sent a message this version does not know")
            }
        }
    }

    fn take_log(&self, subscription: u32, item: LogItem) {
        let mut waiting = self.waiting();
        let Some((current, sender)) = &waiting.logs else {
            return;
        };
        if *current == subscription && sender.try_send(item).is_err() {
            // Gone, or the guest sent beyond its window: the reader sees the end and may subscribe again.
            waiting.logs = None;
        }
    }

    fn take_output(&self, stream: u32, chunk: OutputChunk) {
        let waiting = self.waiting();
        if let Some(peer) = waiting.execs.get(&stream)
            && let Err(mpsc::error::TrySendError::Full(_)) = peer.output.try_send(chunk)
        {
            tracing::warn!(stream, "the guest sent more output than its window allows; the surplus is dropped");
        }
    }
}

/// Reads until the pipe ends.
pub(super) async fn read_all(mut pipe: impl AsyncRead + Unpin, shared: Arc<Shared>) {
    let mut decoder = Decoder::new();
    let mut assembler = MessageAssembler::default();
    let mut buffer: Vec<u8> = alloc::vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) => break,
            Ok(n) => decoder.feed(&buffer[..n], |frame| shared.take_frame(frame, &mut assembler)),
            Err(error) => {
                tracing::debug!(%error, "reading from the guest failed");
                break;
            }
        }
    }
    tracing::debug!(stats = ?decoder.stats(), "the pipe to the guest has ended");
    shared.close();
}
