//! File data on its way into the image: whole blocks go straight to their final place, short ends are set aside.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

use super::format::{BLOCK, EXTENDED_INODE};
use super::xattr;
use crate::tar::{Segment, Xattr};

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;
/// Holes from this size on are left unwritten instead of filled with zeros.
const HOLE: u64 = 64 << 10;

/// Where a file's data is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Bytes of the file.
    pub(crate) size: u64,
    /// First block of the image that holds its data.
    pub(super) start: u32,
    /// Its last, incomplete block, if that is kept apart to go behind the inode: offset in the spool.
    pub(super) tail: Option<u64>,
}

impl Content {
    /// Bytes kept apart.
    pub(super) fn tail_length(&self) -> usize {
        if self.tail.is_some() { usize::try_from(self.size % BLOCK as u64).expect("below a block") } else { 0 }
    }

    /// Blocks taken in the image.
    pub(super) fn blocks(&self) -> u64 {
        if self.tail.is_some() { self.size / BLOCK as u64 } else { self.size.div_ceil(BLOCK as u64) }
    }
}

/// Appends file data to the image being built.
pub(crate) struct DataWriter {
    image: File,
    /// Bytes gathered for `written..`.
    buffer: Vec<u8>,
    /// Offset in the image of the first gathered byte.
    written: u64,
    tails: BufWriter<File>,
    tails_length: u64,
}

impl DataWriter {
    /// `image` and `tails` are empty files; `tails` is scratch space.
    pub(crate) fn new(image: File, tails: File) -> Self {
        let tails = BufWriter::with_capacity(BUFFER, tails);
        // Block 0 holds the superblock, written last.
        Self { image, buffer: Vec::with_capacity(BUFFER), written: BLOCK as u64, tails, tails_length: 0 }
    }

    /// Stores a file of `size` bytes; `reader` yields the bytes of `segments`, or all of them.
    pub(crate) fn store(
        &mut self,
        reader: &mut impl Read,
        size: u64,
        segments: Option<&[Segment]>,
        xattrs: &[Xattr],
    ) -> io::Result<Content> {
        let start = u32::try_from(self.position() / BLOCK as u64).map_err(|_| too_large())?;
        u32::try_from(u64::from(start) + size.div_ceil(BLOCK as u64)).map_err(|_| too_large())?;
        let tail_length = usize::try_from(size % BLOCK as u64).expect("below a block");
        let inline = tail_length > 0 && EXTENDED_INODE + xattr::encoded_length(xattrs) + tail_length <= BLOCK;
        let in_blocks = if inline { size - tail_length as u64 } else { size };
        let whole = [Segment { offset: 0, length: size }];
        let mut source = Source { reader, segments: segments.unwrap_or(&whole), position: 0 };
        self.fill_blocks(&mut source, in_blocks)?;
        let tail = inline.then_some(self.tails_length);
        if inline {
            let mut bytes = [0; BLOCK];
            source.read(&mut bytes[..tail_length])?;
            self.tails.write_all(&bytes[..tail_length])?;
            self.tails_length += tail_length as u64;
        }
        Ok(Content { size, start, tail })
    }

    fn fill_blocks(&mut self, source: &mut Source<'_, impl Read>, length: u64) -> io::Result<()> {
        while source.position < length {
            let hole = source.hole().min(length - source.position);
            if hole >= HOLE {
                self.flush()?;
                self.written += hole;
                source.position += hole;
                continue;
            }
            let room = (BUFFER - self.buffer.len()) as u64;
            let most = room.min(length - source.position);
            let most = usize::try_from(source.until_large_hole(HOLE).min(most)).expect("at most a buffer");
            let old = self.buffer.len();
            self.buffer.resize(old + most, 0);
            source.read(&mut self.buffer[old..])?;
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
        }
        let padding = self.position().wrapping_neg() % BLOCK as u64;
        self.buffer.resize(self.buffer.len() + usize::try_from(padding).expect("below a block"), 0);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the data: the image, the scratch file, and the first free block.
    pub(super) fn finish(mut self) -> io::Result<(File, File, u32)> {
        self.flush()?;
        let tails = self.tails.into_inner().map_err(io::IntoInnerError::into_error)?;
        let end = u32::try_from(self.written / BLOCK as u64).map_err(|_| too_large())?;
        Ok((self.image, tails, end))
    }
}

/// A file's bytes with its holes.
struct Source<'a, R> {
    reader: &'a mut R,
    /// Segments not yet passed.
    segments: &'a [Segment],
    position: u64,
}

impl<R: Read> Source<'_, R> {
    /// Bytes of the hole at the current position; `u64::MAX` after the last segment.
    fn hole(&mut self) -> u64 {
        while self.segments.first().is_some_and(|segment| segment.offset + segment.length <= self.position) {
            self.segments = &self.segments[1..];
        }
        self.segments.first().map_or(u64::MAX, |segment| segment.offset.saturating_sub(self.position))
    }

    /// Bytes that can be read before a hole of at least `size` starts, or before the current segment's end.
    fn until_large_hole(&mut self, size: u64) -> u64 {
        match self.hole() {
            0 => self.segments[0].offset + self.segments[0].length - self.position,
            hole => hole.min(size),
        }
    }

    /// Fills `buffer`, with zeros where there is a hole.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let left = (buffer.len() - filled) as u64;
            let hole = self.hole();
            let run = if hole > 0 { hole.min(left) } else { self.until_large_hole(0).min(left) };
            let run = usize::try_from(run).expect("at most the buffer");
            let part = &mut buffer[filled..filled + run];
            if hole > 0 {
                part.fill(0)
            } else {
                self.reader.read_exact(part)?
            }
            filled += run;
            self.position += run as u64;
        }
        Ok(())
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the image is over 16 TiB")
}
