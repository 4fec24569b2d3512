//! Lines out of records: pieces of one stream are joined until a newline comes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::segment::Record;

/// Longest line in bytes; a longer one is cut into several.
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// The app's standard output.
    Stdout,
    /// The app's standard error.
    Stderr,
    /// Holm itself, about the log: `12 log records were lost`.
    Holm,
}

/// One line of an app's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When the guest read its first byte, by the guest's clock.
    pub at: Timestamp,
    /// Where it came from.
    pub stream: LogStream,
    /// The line without its newline, at most 16 KiB; need not be UTF-8.
    pub text: Vec<u8>,
}

/// Joins records into lines.
#[derive(Debug, Default)]
pub(crate) struct LineJoiner {
    open: [Option<LogLine>; 2],
    next_seq: Option<u64>,
}

impl LineJoiner {
    /// Adds a record; calls `out` with each line that is whole now.
    pub(crate) fn push(&mut self, record: &Record, out: &mut impl FnMut(LogLine)) {
        let at = Timestamp::from_nanosecond(i128::from(record.at_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
        let lost = self.next_seq.map_or(0, |next| record.seq.saturating_sub(next));
        self.next_seq = Some(record.seq + 1);
        if lost > 0 {
            self.finish(out);
            let text =
                format!("{lost} log records were lost: the app wrote faster than they could be kept").into_bytes();
            out(LogLine { at, stream: LogStream::Holm, text });
        }
        let slot = match record.stream {
            LogStream::Stdout => &mut self.open[0],
            LogStream::Stderr => &mut self.open[1],
            LogStream::Holm => return out(LogLine { at, stream: LogStream::Holm, text: record.bytes.clone() }),
        };
        for piece in record.bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, whole) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let mut text = text;
            loop {
                let line = slot.get_or_insert_with(|| LogLine { at, stream: record.stream, text: Vec::new() });
                let (fits, rest) = text.split_at(text.len().min(MAX_LINE - line.text.len()));
                line.text.extend_from_slice(fits);
                text = rest;
                if rest.is_empty() {
                    break;
                }
                out(slot.take().expect("the line was just put there"));
            }
            if whole {
                out(slot.take().expect("the line was just put there"));
            }
        }
    }

    /// Gives out the lines that have no newline yet.
    pub(crate) fn finish(&mut self, out: &mut impl FnMut(LogLine)) {
        let mut open: Vec<LogLine> = self.open.iter_mut().filter_map(Option::take).collect();
        open.sort_by_key(|line| line.at);
        open.into_iter().for_each(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn join(records: &[Record]) -> Vec<(LogStream, String)> {
        let mut joiner = LineJoiner::default();
        let mut lines = Vec::new();
        let mut out = |l: LogLine| lines.push((l.stream, String::from_utf8_lossy(&l.text).into_owned()));
        for record in records {
            joiner.push(record, &mut out);
        }
        joiner.finish(&mut out);
        lines
    }

    fn record(seq: u64, stream: LogStream, text: &str) -> Record {
        Record { seq, at_ns: seq, stream, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn streams_are_joined_apart_and_losses_are_told() {
        use LogStream::{Holm, Stderr, Stdout};
        let lines = join(&[
            record(0, Stdout, "a"),
            record(1, Stderr, "err\n\n"),
            record(2, Stdout, "b\nc"),
            record(5, Stdout, "d\n"),
            record(6, Stderr, "end"),
        ]);
        let lost = "2 log records were lost: the app wrote faster than they could be kept";
        let expected = [
            (Stderr, "err"),
            (Stderr, ""),
            (Stdout, "ab"),
            (Stdout, "c"),
            (Holm, lost),
            (Stdout, "d"),
            (Stderr, "end"),
        ];
        assert_eq!(lines, expected.map(|(s, t)| (s, t.to_owned())));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_where_records_are_cut(text in "[a\n]{0,60}", cuts in proptest::collection::vec(0_usize..60, 0..5)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let records: Vec<Record> = cuts.windows(2).enumerate()
                .map(|(i, w)| record(i as u64, LogStream::Stdout, &text[w[0]..w[1]])).collect();
            let lines: Vec<String> = join(&records).into_iter().map(|(_, t)| t).collect();
            prop_assert_eq!(lines, text.split_terminator('\n').map(str::to_owned).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_line_without_end_is_cut_at_its_limit() {
        let records: Vec<Record> = (0..5).map(|i| record(i, LogStream::Stdout, &"x".repeat(10_000))).collect();
        let lengths: Vec<usize> = join(&records).iter().map(|(_, t)| t.len()).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, MAX_LINE, 50_000 - 3 * MAX_LINE]);
    }
}
