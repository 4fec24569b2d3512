//! Reading a log as lines: from a time, the last so many, and on as it grows.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::line::{LineJoiner, LogLine};
use super::store::{Cursor, LogView};

/// Which lines of a log to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only lines from this moment on.
    pub since: Option<Timestamp>,
    /// Only the last so many of them.
    pub tail: Option<usize>,
    /// Go on with new lines until the instance has ended.
    pub follow: bool,
}

/// Lines of a log, oldest first. At most 64 are read ahead; a slow reader of a followed log may miss what has left the
/// disk meanwhile, and is told so by a line of [`super::LogStream::Holm`].
#[derive(Debug)]
pub struct LogLines {
    lines: mpsc::Receiver<io::Result<LogLine>>,
    _reader: AbortOnDropHandle<()>,
}

impl LogLines {
    pub(crate) fn start(view: LogView, query: LogQuery) -> Self {
        let (sender, lines) = mpsc::channel(64);
        let reader = tokio::spawn(async move {
            if let Err(error) = read(view, query, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Self { lines, _reader: AbortOnDropHandle::new(reader) }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The system's, when the log cannot be read. It is the last item.
    pub async fn next(&mut self) -> io::Result<Option<LogLine>> {
        self.lines.recv().await.transpose()
    }
}

impl Stream for LogLines {
    type Item = io::Result<LogLine>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lines.poll_recv(cx)
    }
}

type Lines = mpsc::Sender<io::Result<LogLine>>;

/// Reads until the end, or for ever when following. Ends quietly when nobody listens any more.
async fn read(mut view: LogView, query: LogQuery, out: &Lines) -> io::Result<()> {
    let mut cursor = Cursor::default();
    let mut joiner = LineJoiner::default();
    // With a tail, the lines that were there at the start are held back until all of them are known.
    let mut held = query.tail.map(|tail| (tail, VecDeque::new()));
    let mut head = *view.head.borrow_and_update();
    loop {
        let records = next(&mut cursor, &view).await?;
        let mut lines = Vec::new();
        for record in &records {
            joiner.push(record, &mut |line| lines.push(line));
        }
        let at_end = records.is_empty();
        let over = at_end && (head.closed || !query.follow);
        if over {
            joiner.finish(&mut |line| lines.push(line));
        }
        lines.retain(|line| query.since.is_none_or(|since| line.at >= since));
        if let Some((tail, kept)) = &mut held {
            kept.extend(lines.drain(..));
            kept.drain(..kept.len().saturating_sub(*tail));
        }
        if at_end && let Some((_, kept)) = held.take() {
            lines.extend(kept);
        }
        for line in lines {
            if out.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        if over {
            return Ok(());
        }
        if at_end {
            tokio::select! {
                // Without a writer nothing more will come.
                changed = view.head.changed() => head.closed |= changed.is_err(),
                () = out.closed() => return Ok(()),
            }
            head.closed |= view.head.borrow_and_update().closed;
        }
    }
}

/// One read from disk, on a thread that may block.
async fn next(cursor: &mut Cursor, view: &LogView) -> io::Result<Vec<super::segment::Record>> {
    let mut moved = std::mem::take(cursor);
    let dir = view.dir.clone();
    let (back, records) = tokio::task::spawn_blocking(move || {
        let records = moved.next(&dir);
        (moved, records)
    })
    .await
    .map_err(io::Error::other)?;
    *cursor = back;
    records
}

#[cfg(test)]
mod tests {
    use super::super::line::LogStream;
    use super::super::segment::Record;
    use super::super::store::LogStore;
    use super::*;
    use crate::config::LogLimits;

    fn store(dir: &std::path::Path) -> LogStore {
        LogStore::open(dir.into(), LogLimits { segments: 4, segment_bytes: 4096 }).unwrap()
    }

    fn write(store: &mut LogStore, text: &str) {
        let seq = store.next_seq();
        let record = Record { seq, at_ns: seq * 1_000_000_000, stream: LogStream::Stdout, bytes: text.into() };
        store.append(&record).unwrap();
    }

    async fn texts(mut lines: LogLines) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(String::from_utf8(line.text).unwrap());
        }
        all
    }

    #[tokio::test]
    async fn lines_are_selected_by_time_and_tail() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path());
        for i in 0..10 {
            write(&mut store, &format!("{i}\n"));
        }
        write(&mut store, "open");
        let query = LogQuery::default();
        let since = Some(Timestamp::from_second(7).unwrap());
        assert_eq!(texts(LogLines::start(store.view(), query)).await.len(), 11);
        assert_eq!(texts(LogLines::start(store.view(), LogQuery { since, ..query })).await, ["7", "8", "9", "open"]);
        assert_eq!(texts(LogLines::start(store.view(), LogQuery { tail: Some(2), ..query })).await, ["9", "open"]);
        assert_eq!(texts(LogLines::start(store.view(), LogQuery { tail: Some(0), ..query })).await.len(), 0);
    }

    #[tokio::test]
    async fn a_followed_log_gives_every_line_once_and_ends_with_the_instance() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path());
        write(&mut store, "before\nhal");
        let mut lines = LogLines::start(store.view(), LogQuery { follow: true, tail: Some(5), ..LogQuery::default() });
        assert_eq!(lines.next().await.unwrap().unwrap().text, b"before");
        write(&mut store, "f\n");
        assert_eq!(lines.next().await.unwrap().unwrap().text, b"half");
        for i in 0..20 {
            write(&mut store, &format!("{i}\n"));
        }
        write(&mut store, "last words");
        store.close();
        let mut expected: Vec<String> = (0..20).map(|i| i.to_string()).collect();
        expected.push("last words".into());
        assert_eq!(texts(lines).await, expected);
    }
}
