//! The app's output pipes: read as it comes, cut at line ends, stamped, and put into the log ring.

use std::os::fd::OwnedFd;

use holm_guest_control::{LogRecord, LogRing, LogStream};
use rustix::io::Errno;

use crate::clock;

/// A line without end waits this long for the rest.
const PARTIAL_NS: u64 = 100_000_000;

/// Most reads in one go, so that a chatty app does not keep PID 1 from its other work.
const READS: usize = 16;

/// One of the app's two outputs.
pub(crate) struct OutputPipe {
    pub(crate) fd: OwnedFd,
    stream: LogStream,
    partial: Vec<u8>,
    /// When the partial line goes out as it is.
    pub(crate) flush_at: Option<u64>,
}

impl OutputPipe {
    /// `fd` must not block.
    pub(crate) fn new(fd: OwnedFd, stream: LogStream) -> Self {
        Self { fd, stream, partial: Vec::new(), flush_at: None }
    }

    /// Reads what is there; `false` at the end.
    pub(crate) fn read(&mut self, ring: &mut LogRing) -> bool {
        let mut buffer = [0u8; LogRecord::MAX_BYTES];
        for _ in 0..READS {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => {
                    self.flush(ring);
                    return false;
                }
                Ok(n) => self.take(&buffer[..n], ring),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8], ring: &mut LogRing) {
        let (whole, rest) = match bytes.iter().rposition(|b| *b == b'\n') {
            Some(end) => bytes.split_at(end + 1),
            None => (&[][..], bytes),
        };
        if !whole.is_empty() {
            self.partial.extend_from_slice(whole);
            self.flush(ring);
        }
        if self.partial.len() + rest.len() > LogRecord::MAX_BYTES {
            self.flush(ring);
        }
        if !rest.is_empty() {
            self.partial.extend_from_slice(rest);
            self.flush_at.get_or_insert_with(|| clock::since_boot_ns() + PARTIAL_NS);
        }
    }

    /// Puts the partial line into the ring.
    pub(crate) fn flush(&mut self, ring: &mut LogRing) {
        ring.push(self.stream, clock::since_boot_ns(), clock::unix_ns(), &self.partial);
        self.partial.clear();
        self.flush_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_guest_control::ReadLog;

    fn records(ring: &LogRing) -> Vec<String> {
        (0..ring.next_seq())
            .map(|seq| match ring.read(seq) {
                ReadLog::Record(record) => String::from_utf8(record.bytes.clone()).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn records_end_at_line_ends_and_the_rest_waits() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let mut ring = LogRing::new(1 << 20);
        let mut pipe = OutputPipe::new(read, LogStream::Stdout);
        pipe.take(b"one\ntw", &mut ring);
        assert!(pipe.flush_at.is_some());
        pipe.take(b"o\nthree\n", &mut ring);
        assert_eq!((records(&ring), pipe.flush_at), (vec!["one\n".into(), "two\nthree\n".to_owned()], None));
        pipe.take(&[b'x'; LogRecord::MAX_BYTES], &mut ring);
        pipe.take(b"y", &mut ring);
        assert_eq!(ring.next_seq(), 3, "a line longer than a record is cut");
    }
}
