//! The streaming reader: headers, their extensions, sparse maps and file data, in archive order.

use std::io::{self, Read};

use super::header::{Header, gnu_sparse_continuation};
use super::pax::{Records, decimal};
use super::{BLOCK, Device, Entry, EntryKind, Mtime, Segment, TarError};

/// Reads entries from `R`. After [`TarReader::next`] the entry's stored bytes can be read through [`Read`]; what is
/// left unread is skipped by the next call.
pub(crate) struct TarReader<R> {
    inner: R,
    /// Stored bytes of the current entry not yet read.
    left: u64,
    /// Padding after them.
    padding: u64,
    header_limit: u64,
}

/// What GNU `L`, `K` and pax `x` headers said about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Records,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(inner: R, header_limit: u64) -> Self {
        Self { inner, left: 0, padding: 0, header_limit }
    }

    /// The next entry, or `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        let mut extended = 0;
        loop {
            self.skip_data()?;
            let Some(header) = self.read_header()? else {
                return if extended == 0 { Ok(None) } else { Err(TarError::Truncated) };
            };
            match header.kind() {
                b'g' => self.start_data(header.size()?),
                kind @ (b'x' | b'L' | b'K') => {
                    extended += header.size()?;
                    let body = self.read_extension(header.size()?, extended)?;
                    match kind {
                        b'L' => extensions.path = Some(c_string(body)),
                        b'K' => extensions.link = Some(c_string(body)),
                        _ => extensions.records.parse(&body)?,
                    }
                    // An empty extension still announces an entry.
                    extended = extended.max(1);
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// The stream behind the archive, for whatever follows its end.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, TarError> {
        let Extensions { path, link, records } = extensions;
        let stored = records.size.map_or_else(|| header.size(), Ok)?;
        let link = records.link.or(link).unwrap_or_else(|| header.link());
        let path = records.sparse.name.clone().or(records.path).or(path).unwrap_or_else(|| header.path());
        let device = || Ok::<_, TarError>(Device { major: header.major()?, minor: header.minor()? });
        let kind = match header.kind() {
            // Before ustar a folder was a file whose name ends in a slash.
            b'0' | 0 | b'7' | b'S' if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' => EntryKind::CharDevice(device()?),
            b'4' => EntryKind::BlockDevice(device()?),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(TarError::EntryType(other)),
        };
        // Only files carry data; some writers leave a size in the header of a link.
        let stored = if kind == EntryKind::File { stored } else { 0 };
        let mut entry = Entry {
            path,
            kind,
            mode: header.mode()?,
            uid: records.uid.map_or_else(|| header.uid(), Ok)?,
            gid: records.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: records.mtime.map_or_else(|| Ok(Mtime { seconds: header.mtime()?, nanos: 0 }), Ok)?,
            xattrs: records.xattrs,
            size: stored,
            segments: None,
        };
        entry.xattrs.sort();
        self.start_data(stored);
        if entry.kind != EntryKind::File {
            return Ok(entry);
        }
        let map = if header.kind() == b'S' {
            Some((self.read_gnu_map(header)?, header.gnu_real_size()?))
        } else if records.sparse.map_in_data {
            let size = records.sparse.size.ok_or(TarError::Sparse("has no size"))?;
            Some((self.read_pax_map()?, size))
        } else if let Some(numbers) = records.sparse.map {
            let size = records.sparse.size.ok_or(TarError::Sparse("has no size"))?;
            Some((pairs(&numbers)?, size))
        } else {
            None
        };
        if let Some((map, size)) = map {
            entry.segments = Some(checked_segments(map, size, self.left)?);
            entry.size = size;
        }
        Ok(entry)
    }

    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK];
        // Some writers leave out the two closing blocks; the end of the stream then ends the archive.
        match read_up_to(&mut self.inner, &mut block)? {
            0 => Ok(None),
            BLOCK => Header::parse(block),
            _ => Err(TarError::Truncated),
        }
    }

    fn read_extension(&mut self, size: u64, total: u64) -> Result<Vec<u8>, TarError> {
        if total > self.header_limit {
            return Err(TarError::HeaderSize { size: total, limit: self.header_limit });
        }
        self.start_data(size);
        let mut body = Vec::new();
        self.read_to_end(&mut body).map_err(read_error)?;
        Ok(body)
    }

    fn read_gnu_map(&mut self, header: &Header) -> Result<Vec<(u64, u64)>, TarError> {
        let (mut map, mut more) = header.gnu_sparse()?;
        while more {
            let mut block = [0; BLOCK];
            if read_up_to(&mut self.inner, &mut block)? != BLOCK {
                return Err(TarError::Truncated);
            }
            let (slots, again) = gnu_sparse_continuation(&block)?;
            map.extend(slots);
            more = again;
            self.check_map_length(map.len() as u64)?;
        }
        Ok(map)
    }

    /// Version 1.0: decimal numbers, one a line, padded to a block, before the data.
    fn read_pax_map(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        loop {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block).map_err(read_error)?;
            for &byte in &block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(TarError::Sparse("holds something other than numbers"));
                    }
                    continue;
                }
                numbers.push(decimal(&line, "sparse map")?);
                line.clear();
                self.check_map_length(numbers[0])?;
                if numbers.len() as u64 == 1 + 2 * numbers[0] {
                    return pairs(&numbers[1..]);
                }
            }
        }
    }

    fn check_map_length(&self, segments: u64) -> Result<(), TarError> {
        if segments > self.header_limit / 16 { Err(TarError::Sparse("has too many segments")) } else { Ok(()) }
    }

    fn start_data(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let wanted = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut self.inner.by_ref().take(wanted), &mut io::sink()).map_err(read_error)?;
        if skipped == wanted { Ok(()) } else { Err(TarError::Truncated) }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Tells the end of the stream apart from its other failures.
pub(crate) fn read_error(error: io::Error) -> TarError {
    if error.kind() == io::ErrorKind::UnexpectedEof { TarError::Truncated } else { TarError::Read(error) }
}

fn read_up_to(reader: &mut impl Read, block: &mut [u8]) -> Result<usize, TarError> {
    let mut filled = 0;
    while filled < block.len() {
        match reader.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(error)),
        }
    }
    Ok(filled)
}

fn c_string(mut body: Vec<u8>) -> Vec<u8> {
    if let Some(end) = body.iter().position(|&byte| byte == 0) {
        body.truncate(end);
    }
    body
}

fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>, TarError> {
    if !numbers.len().is_multiple_of(2) {
        return Err(TarError::Sparse("has an odd number of values"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Ascending, without overlap, inside the file, and together exactly the stored bytes.
fn checked_segments(map: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Vec<Segment>, TarError> {
    let (mut end, mut total) = (0_u64, 0_u64);
    let mut segments = Vec::with_capacity(map.len());
    for (offset, length) in map {
        let after = offset.checked_add(length).filter(|&after| offset >= end && after <= size);
        end = after.ok_or(TarError::Sparse("overlaps itself or runs past the file"))?;
        total += length;
        if length > 0 {
            segments.push(Segment { offset, length });
        }
    }
    if total != stored {
        return Err(TarError::Sparse("does not add up to the stored bytes"));
    }
    Ok(segments)
}
