//! Reading the app's output.

use futures_util::Stream;
use tokio::sync::mpsc;

use super::connection::Link;
use super::{GuestConnection, HostError};
use crate::{Features, HostMessage, LOG_WINDOW, LogRecord, frame_cost};

/// Items the queue must hold: as many records as the window lets through, and a loss notice before each.
const QUEUE: usize = 2 * (LOG_WINDOW as usize / 256) + 2;

/// What a log reader gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogItem {
    /// A piece of output.
    Record(LogRecord),
    /// Output was lost: the guest's ring was full before the host read it.
    Dropped {
        /// How many records.
        count: u64,
        /// Number of the next record.
        next: u64,
    },
}

/// The app's output in order. Give `seq + 1` of the last record kept to [`GuestConnection::logs`] to go on later.
pub struct LogReader {
    // Keeps the session alive.
    _connection: GuestConnection,
    link: Link,
    subscription: u32,
    items: mpsc::Receiver<LogItem>,
    owed: u32,
}

impl LogReader {
    pub(super) async fn subscribe(
        connection: &GuestConnection,
        link: Link,
        subscription: u32,
        from: u64,
    ) -> Result<Self, HostError> {
        connection.require(Features::LOGS)?;
        let (sender, items) = mpsc::channel(QUEUE);
        {
            let mut waiting = link.shared.waiting();
            if waiting.closed {
                return Err(HostError::Closed);
            }
            waiting.logs = Some((subscription, sender));
        }
        link.send(&HostMessage::LogsFrom { subscription, seq: from, window: LOG_WINDOW }).await?;
        Ok(Self { _connection: connection.clone(), link, subscription, items, owed: 0 })
    }

    /// The next item; `None` when the connection has ended or another reader took over. Safe to cancel.
    pub async fn recv(&mut self) -> Option<LogItem> {
        if self.owed >= LOG_WINDOW / 4 {
            let ack = HostMessage::LogsAck { subscription: self.subscription, credit: self.owed };
            // Items already here are still given when the pipe has ended.
            let _ = self.link.send(&ack).await;
            self.owed = 0;
        }
        let item = self.items.recv().await?;
        if let LogItem::Record(record) = &item {
            self.owed = self.owed.saturating_add(frame_cost(record.wire_len()));
        }
        Some(item)
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = LogItem> + Send {
        futures_util::stream::unfold(self, async |mut reader| reader.recv().await.map(|item| (item, reader)))
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        let mut waiting = self.link.shared.waiting();
        if waiting.logs.as_ref().is_some_and(|(current, _)| *current == self.subscription) {
            waiting.logs = None;
            drop(waiting);
            self.link.send_if_room(&HostMessage::LogsEnd);
        }
    }
}
