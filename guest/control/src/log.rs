//! Log records and the bounded ring a guest keeps them in.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Which of the app's outputs a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output as it was read: usually whole lines, at most [`LogRecord::MAX_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Counts from 0 since boot, without gaps at the source.
    pub seq: u64,
    /// Where it came from.
    pub stream: LogStream,
    /// Nanoseconds since the guest's boot at which it was read.
    pub since_boot_ns: u64,
    /// Unix time in nanoseconds by the guest's clock.
    pub at_unix_ns: u64,
    /// The bytes; need not be UTF-8 nor end with a newline.
    pub bytes: Vec<u8>,
}

impl LogRecord {
    /// Most bytes in one record.
    pub const MAX_BYTES: usize = 16 * 1024;

    const HEADER: usize = 25;

    /// The wire form: `seq`, `since_boot_ns`, `at_unix_ns` as little-endian u64, one byte 1 (stdout) or 2 (stderr),
    /// then the bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::HEADER + self.bytes.len());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.since_boot_ns.to_le_bytes());
        out.extend_from_slice(&self.at_unix_ns.to_le_bytes());
        out.push(match self.stream {
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
        });
        out.extend_from_slice(&self.bytes);
        out
    }

    /// Reads the wire form; `None` when it is none.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (header, bytes) = payload.split_at_checked(Self::HEADER)?;
        let word = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
        if bytes.len() > Self::MAX_BYTES {
            return None;
        }
        Some(Self {
            seq: word(0)?,
            since_boot_ns: word(8)?,
            at_unix_ns: word(16)?,
            stream: match header[24] {
                1 => LogStream::Stdout,
                2 => LogStream::Stderr,
                _ => return None,
            },
            bytes: bytes.to_vec(),
        })
    }

    /// Length of the wire form in bytes.
    pub fn wire_len(&self) -> usize {
        Self::HEADER + self.bytes.len()
    }
}

/// What [`LogRing::read`] finds at a sequence number.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadLog<'a> {
    /// The record with that number.
    Record(&'a LogRecord),
    /// That record is gone; the oldest that is left has this number.
    Dropped {
        /// Number of the oldest record in the ring, or the next to come.
        oldest: u64,
    },
    /// Nothing has that number yet.
    End,
}

/// Keeps the newest records within a bound of bytes; the oldest leave first.
#[derive(Debug)]
pub struct LogRing {
    records: VecDeque<LogRecord>,
    next_seq: u64,
    held: usize,
    limit: usize,
    dropped: u64,
}

impl LogRing {
    /// What a record costs besides its bytes.
    const OVERHEAD: usize = 64;

    /// A ring that holds at most `limit` bytes, each record counted with 64 bytes of overhead.
    pub fn new(limit: usize) -> Self {
        Self { records: VecDeque::new(), next_seq: 0, held: 0, limit, dropped: 0 }
    }

    /// Adds `bytes` as one or more records of at most [`LogRecord::MAX_BYTES`]. Empty input adds nothing.
    pub fn push(&mut self, stream: LogStream, since_boot_ns: u64, at_unix_ns: u64, bytes: &[u8]) {
        for part in bytes.chunks(LogRecord::MAX_BYTES) {
            let record = LogRecord { seq: self.next_seq, stream, since_boot_ns, at_unix_ns, bytes: part.to_vec() };
            self.next_seq += 1;
            self.held += part.len() + Self::OVERHEAD;
            self.records.push_back(record);
            while self.held > self.limit {
                let Some(oldest) = self.records.pop_front() else {
                    break;
                };
                self.held -= oldest.bytes.len() + Self::OVERHEAD;
                self.dropped += 1;
            }
        }
    }

    /// The record with number `seq`, or why there is none.
    pub fn read(&self, seq: u64) -> ReadLog<'_> {
        let oldest = self.oldest();
        if seq >= self.next_seq {
            return ReadLog::End;
        }
        match seq.checked_sub(oldest).and_then(|i| self.records.get(usize::try_from(i).ok()?)) {
            Some(record) => ReadLog::Record(record),
            None => ReadLog::Dropped { oldest },
        }
    }

    /// Number of the oldest record held, or of the next when the ring is empty.
    pub fn oldest(&self) -> u64 {
        self.records.front().map_or(self.next_seq, |r| r.seq)
    }

    /// Number the next record will get.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Records that left because the ring was full, whether or not a host had read them.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
