//! One file of log records: the encoding of a record, appending, and reading from an offset.
//!
//! A record is `length u32, CRC-32 u32, number u64, Unix nanoseconds u64, stream u8, bytes`, little-endian; the length
//! counts what follows the sum. A file is named after the number of the first record it may hold.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::line::LogStream;

/// Bytes in front of a record's text.
const HEADER: usize = 8 + META;
const META: usize = 17;
/// Most bytes of text in one record; a longer one is written as several.
pub(crate) const MAX_TEXT: usize = 16 * 1024;

/// A piece of an app's output as the guest read it; need not be whole lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Counts from 0 since the guest's boot.
    pub(crate) seq: u64,
    /// Unix nanoseconds.
    pub(crate) at_ns: u64,
    /// Where it came from.
    pub(crate) stream: LogStream,
    /// The bytes, at most [`MAX_TEXT`].
    pub(crate) bytes: Vec<u8>,
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let text = &self.bytes[..self.bytes.len().min(MAX_TEXT)];
        let mut out = Vec::with_capacity(HEADER + text.len());
        out.extend_from_slice(&u32::try_from(META + text.len()).expect("at most MAX_TEXT and a header").to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.at_ns.to_le_bytes());
        out.push(match self.stream {
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
            LogStream::Holm => 3,
        });
        out.extend_from_slice(text);
        let sum = crc32fast::hash(&out[8..]);
        out[4..8].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The record at the start of `bytes` and its length there; `None` when there is no whole, sound one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let length = usize::try_from(word(0)?).ok()?;
        if !(META..=META + MAX_TEXT).contains(&length) {
            return None;
        }
        let body = bytes.get(8..8 + length)?;
        if crc32fast::hash(body) != word(4)? {
            return None;
        }
        let long = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
        let stream = match body[16] {
            1 => LogStream::Stdout,
            2 => LogStream::Stderr,
            3 => LogStream::Holm,
            _ => return None,
        };
        Some((Self { seq: long(0)?, at_ns: long(8)?, stream, bytes: body[META..].to_vec() }, 8 + length))
    }
}

/// The path of the segment whose first record has number `first`.
pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.log"))
}

/// The first numbers of all segments in `dir`, ascending; none when the folder is missing.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(".log")).filter(|n| n.len() == 20);
        found.extend(number.and_then(|n| n.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads sound records from `offset` on, about `budget` bytes of them; also says where the next one starts.
///
/// Stops at the first record that is not whole: the file's end, or a torn one.
pub(crate) fn read(file: &File, mut offset: u64, budget: usize) -> io::Result<(Vec<Record>, u64)> {
    let mut buffer = vec![0; budget.max(HEADER + MAX_TEXT)];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    let mut rest = &buffer[..filled];
    let mut records = Vec::new();
    while let Some((record, length)) = Record::decode(rest) {
        records.push(record);
        rest = &rest[length..];
        offset += length as u64;
    }
    Ok((records, offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_read_back_and_a_cut_one_does_not(
            seq: u64, at_ns: u64, stderr: bool, bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1_usize..100,
        ) {
            let stream = if stderr { LogStream::Stderr } else { LogStream::Stdout };
            let record = Record { seq, at_ns, stream, bytes };
            let encoded = record.encode();
            prop_assert_eq!(Record::decode(&encoded), Some((record, encoded.len())));
            prop_assert_eq!(Record::decode(&encoded[..encoded.len().saturating_sub(cut)]), None);
        }

        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
        }
    }
}
