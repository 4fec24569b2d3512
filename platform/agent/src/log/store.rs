//! The log files of one instance: appended to by one writer, bounded, and seen by many readers.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::line::{LineJoiner, LogLine};
use super::segment::{self, Record};
use crate::config::LogLimits;

/// How far a log has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Number the next record will get.
    pub(crate) next_seq: u64,
    /// Nothing more will come.
    pub(crate) closed: bool,
}

/// What readers share: where the files lie and how far they have come.
#[derive(Debug, Clone)]
pub(crate) struct LogView {
    pub(crate) dir: Arc<Path>,
    pub(crate) head: watch::Receiver<Head>,
}

/// The writing end of one instance's log.
#[derive(Debug)]
pub(crate) struct LogStore {
    dir: Arc<Path>,
    limits: LogLimits,
    segments: Vec<u64>,
    current: Option<(File, u64)>,
    head: watch::Sender<Head>,
}

impl LogStore {
    /// Opens the log in `dir` and cuts off a torn end.
    pub(crate) fn open(dir: PathBuf, limits: LogLimits) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let segments = segment::list(&dir)?;
        let mut next_seq = 0;
        let mut current = None;
        if let Some(&first) = segments.last() {
            let mut file = OpenOptions::new().read(true).write(true).open(segment::path(&dir, first))?;
            let mut end = 0;
            next_seq = first;
            loop {
                let (records, next) = segment::read(&file, end, READ_BUDGET)?;
                end = next;
                match records.last() {
                    Some(last) => next_seq = last.seq + 1,
                    None => break,
                }
            }
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            current = Some((file, end));
        }
        let head = watch::Sender::new(Head { next_seq, closed: false });
        Ok(Self { dir: dir.into(), limits, segments, current, head })
    }

    /// What readers need.
    pub(crate) fn view(&self) -> LogView {
        LogView { dir: self.dir.clone(), head: self.head.subscribe() }
    }

    /// Number of the next record to ask the guest for.
    pub(crate) fn next_seq(&self) -> u64 {
        self.head.borrow().next_seq
    }

    /// Writes a record; one that is older than the newest is dropped, so that repeats do no harm. A record that this
    /// returns for survives the agent's kill, though not always a power cut.
    pub(crate) fn append(&mut self, record: &Record) -> io::Result<()> {
        if record.seq < self.next_seq() {
            return Ok(());
        }
        let encoded = record.encode();
        let size = self.current.as_ref().map_or(u64::MAX, |(_, size)| *size);
        if size.saturating_add(encoded.len() as u64) > self.limits.segment_bytes {
            self.start_segment(record.seq)?;
        }
        let (file, size) = self.current.as_mut().expect("a segment was started when there was none");
        if let Err(error) = file.write_all(&encoded) {
            file.set_len(*size)?;
            file.seek(SeekFrom::Start(*size))?;
            return Err(error);
        }
        *size += encoded.len() as u64;
        self.head.send_modify(|head| head.next_seq = record.seq + 1);
        Ok(())
    }

    fn start_segment(&mut self, first: u64) -> io::Result<()> {
        while self.segments.len() >= self.limits.segments.max(1) {
            let oldest = self.segments.remove(0);
            fs::remove_file(segment::path(&self.dir, oldest))?;
        }
        let path = segment::path(&self.dir, first);
        let file = OpenOptions::new().create(true).read(true).write(true).truncate(true).open(path)?;
        self.current = Some((file, 0));
        self.segments.push(first);
        Ok(())
    }

    /// Says that nothing more will come: followers end when they have read the rest.
    pub(crate) fn close(&self) {
        if let Some((file, _)) = &self.current
            && let Err(error) = file.sync_data()
        {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot sync a log");
        }
        self.head.send_modify(|head| head.closed = true);
    }
}

/// How many bytes of records are read at once.
pub(super) const READ_BUDGET: usize = 64 * 1024;

/// Where a reader stands.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    open: Option<(u64, File, u64)>,
}

impl Cursor {
    /// The next records, in order; empty at the end. When the segment it stands in was removed under it, it goes on with
    /// what it holds open and then with the oldest that is left.
    pub(super) fn next(&mut self, dir: &Path) -> io::Result<Vec<Record>> {
        loop {
            if let Some((_, file, offset)) = &mut self.open {
                let (records, next) = segment::read(file, *offset, READ_BUDGET)?;
                *offset = next;
                if !records.is_empty() {
                    return Ok(records);
                }
            }
            let after = self.open.as_ref().map(|(first, ..)| *first);
            let Some(first) = segment::list(dir)?.into_iter().find(|first| after.is_none_or(|after| *first > after))
            else {
                return Ok(Vec::new());
            };
            match File::open(segment::path(dir, first)) {
                Ok(file) => {
                    // The writer may have added to the old segment between the last read and the look at the folder.
                    if let Some((_, file, offset)) = &mut self.open {
                        let (records, next) = segment::read(file, *offset, READ_BUDGET)?;
                        *offset = next;
                        if !records.is_empty() {
                            return Ok(records);
                        }
                    }
                    self.open = Some((first, file, 0));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The last `count` lines of the log in `dir`, each cut to `max_bytes`, as text.
pub(crate) fn last_lines(dir: &Path, count: usize, max_bytes: usize) -> io::Result<Vec<String>> {
    let mut cursor = Cursor::default();
    let mut joiner = LineJoiner::default();
    let mut lines = std::collections::VecDeque::new();
    let mut keep = |line: LogLine| {
        let text = String::from_utf8_lossy(&line.text[..line.text.len().min(max_bytes)]).into_owned();
        let cut = text.floor_char_boundary(max_bytes);
        lines.push_back(text[..cut].to_owned());
        if lines.len() > count {
            lines.pop_front();
        }
    };
    loop {
        let records = cursor.next(dir)?;
        if records.is_empty() {
            break;
        }
        for record in &records {
            joiner.push(record, &mut keep);
        }
    }
    joiner.finish(&mut keep);
    Ok(lines.into())
}

#[cfg(test)]
mod tests {
    use super::super::line::LogStream;
    use super::*;

    fn record(seq: u64, text: &str) -> Record {
        Record { seq, at_ns: seq, stream: LogStream::Stdout, bytes: text.as_bytes().to_vec() }
    }

    fn seqs(dir: &Path) -> Vec<u64> {
        let mut cursor = Cursor::default();
        let mut all = Vec::new();
        loop {
            let records = cursor.next(dir).unwrap();
            if records.is_empty() {
                return all;
            }
            all.extend(records.iter().map(|r| r.seq));
        }
    }

    const SMALL: LogLimits = LogLimits { segments: 3, segment_bytes: 200 };

    #[test]
    fn the_log_stays_within_its_bound_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LogStore::open(dir.path().into(), SMALL).unwrap();
        for seq in 0..100 {
            store.append(&record(seq, &format!("line {seq}\n"))).unwrap();
            let size: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
            assert!(size <= 600, "{size} bytes after record {seq}");
        }
        let kept = seqs(dir.path());
        assert!(kept.len() >= 10, "{kept:?}");
        assert_eq!(kept, (100 - kept.len() as u64..100).collect::<Vec<_>>());
        assert_eq!(last_lines(dir.path(), 2, 6).unwrap(), ["line 9", "line 9"]);
    }

    #[test]
    fn repeats_are_dropped_and_a_reopened_log_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LogStore::open(dir.path().into(), SMALL).unwrap();
        for seq in [0, 1, 1, 0, 2] {
            store.append(&record(seq, "x\n")).unwrap();
        }
        drop(store);
        let mut store = LogStore::open(dir.path().into(), SMALL).unwrap();
        assert_eq!(store.next_seq(), 3);
        store.append(&record(2, "x\n")).unwrap();
        store.append(&record(3, "x\n")).unwrap();
        assert_eq!(seqs(dir.path()), [0, 1, 2, 3]);
    }

    #[test]
    fn a_log_torn_at_any_byte_keeps_its_whole_records_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let lines = ["one\n", "two\n", "three\n"];
        let encoded: Vec<Vec<u8>> = (0..).zip(lines).map(|(i, l)| record(i, l).encode()).collect();
        let whole = encoded.concat();
        for cut in 0..=whole.len() {
            fs::write(segment::path(dir.path(), 0), &whole[..cut]).unwrap();
            let mut size = 0;
            let kept = encoded
                .iter()
                .take_while(|e| {
                    size += e.len();
                    size <= cut
                })
                .count() as u64;
            let mut store = LogStore::open(dir.path().into(), SMALL).unwrap();
            assert_eq!(store.next_seq(), kept, "cut at {cut}");
            store.append(&record(kept, "again\n")).unwrap();
            assert_eq!(seqs(dir.path()), (0..=kept).collect::<Vec<_>>(), "cut at {cut}");
        }
    }

    #[test]
    fn a_reader_overtaken_by_the_ring_sees_every_record_that_is_left_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LogStore::open(dir.path().into(), SMALL).unwrap();
        let mut cursor = Cursor::default();
        let mut seen = Vec::new();
        for seq in 0..200 {
            store.append(&record(seq, "line\n")).unwrap();
            if seq % 37 == 0 {
                seen.extend(cursor.next(dir.path()).unwrap().iter().map(|r| r.seq));
            }
        }
        loop {
            let records = cursor.next(dir.path()).unwrap();
            if records.is_empty() {
                break;
            }
            seen.extend(records.iter().map(|r| r.seq));
        }
        assert!(seen.is_sorted() && seen.windows(2).all(|w| w[0] != w[1]), "{seen:?}");
        assert_eq!(seen.last(), Some(&199));
    }
}
