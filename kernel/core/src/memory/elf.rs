//! Programs: static ELF files for x86-64, checked before anything is mapped.
//!
//! The parser is total and reads only what loading needs: the header and the segments to load. It refuses what would break
//! the rules of the house: a segment that is writable and executable, segments that share a page, an entry that is not in
//! executable memory.

use core::fmt;

use holm_abi::Protection;

use super::space::USER_START;
use crate::machine::{PAGE_SIZE, USER_END};

const PAGE: u64 = PAGE_SIZE as u64;

/// Segments to load of one program at most.
pub const MAX_SEGMENTS: usize = 16;

/// What is wrong with a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElfError {
    /// It does not begin as an ELF file.
    NotElf,
    /// It is for another machine, class or byte order.
    Machine,
    /// It is not a static executable at fixed addresses.
    Kind,
    /// The program headers are not inside the file, or not of the size they must have.
    Headers,
    /// It needs an interpreter.
    Interpreter,
    /// It has no segment to load, or more than [`MAX_SEGMENTS`].
    Count,
    /// A segment's bytes are not inside the file, or it has more bytes there than in memory.
    Bounds,
    /// A segment's address is not where a program may be, or does not fit its place in the file.
    Address,
    /// A segment may be written and run.
    WriteExecute,
    /// Two segments share a page, or are not in the order of their addresses.
    Overlap,
    /// The entry is not in a segment that may be run.
    Entry,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotElf => "it is not an ELF file",
            Self::Machine => "it is not for x86-64",
            Self::Kind => "it is not a static executable (ET_EXEC)",
            Self::Headers => "its program headers are damaged",
            Self::Interpreter => "it needs an interpreter",
            Self::Count => "it has no segment to load, or more than 16",
            Self::Bounds => "a segment goes on behind the end of the file",
            Self::Address => "a segment is at an address where no program may be",
            Self::WriteExecute => "a segment is writable and executable",
            Self::Overlap => "two segments share a page or are out of order",
            Self::Entry => "its entry is not in executable memory",
        })
    }
}

impl core::error::Error for ElfError {}

/// A segment to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The first byte of its first page.
    pub start: u64,
    /// Behind its last page.
    pub end: u64,
    /// What in the file the first page begins with.
    pub file_start: usize,
    /// Behind its bytes in the file; zeroes follow in memory.
    pub file_end: usize,
    /// What may be done.
    pub rights: Protection,
}

/// A program that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Where it starts.
    pub entry: u64,
    segments: [Option<Segment>; MAX_SEGMENTS],
}

impl Program {
    /// Its segments, by address.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().flatten()
    }

    /// Whether an address is in memory that may be run.
    #[must_use]
    pub fn runs(&self, address: u64) -> bool {
        self.segments().any(|segment| {
            segment.rights.contains(Protection::EXECUTE) && segment.start <= address && address < segment.end
        })
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.first_chunk().copied()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;
const EXECUTABLE: u16 = 2;
const X86_64: u16 = 62;
const HEADER_SIZE: usize = 56;

/// Reads a program.
///
/// # Errors
/// What is wrong with it.
pub fn parse(file: &[u8]) -> Result<Program, ElfError> {
    if file.get(..4) != Some(b"\x7fELF") || file.len() < 64 {
        return Err(ElfError::NotElf);
    }
    // 64 bits, little endian, version 1.
    if file.get(4..7) != Some(&[2, 1, 1]) || half(file, 18) != Some(X86_64) {
        return Err(ElfError::Machine);
    }
    if half(file, 16) != Some(EXECUTABLE) {
        return Err(ElfError::Kind);
    }
    let entry = long(file, 24).ok_or(ElfError::Headers)?;
    let table = long(file, 32).and_then(|at| usize::try_from(at).ok()).ok_or(ElfError::Headers)?;
    let count = usize::from(half(file, 56).ok_or(ElfError::Headers)?);
    if half(file, 54) != Some(HEADER_SIZE as u16) {
        return Err(ElfError::Headers);
    }
    let headers =
        table.checked_add(count * HEADER_SIZE).and_then(|end| file.get(table..end)).ok_or(ElfError::Headers)?;
    let mut program = Program { entry, segments: [None; MAX_SEGMENTS] };
    let mut loaded = 0;
    let mut last_end = 0;
    for header in headers.chunks_exact(HEADER_SIZE) {
        match word(header, 0) {
            Some(LOAD) => {}
            Some(INTERPRETER) => return Err(ElfError::Interpreter),
            _ => continue,
        }
        let Some(segment) = segment(header, file.len())? else { continue };
        if segment.start < last_end {
            return Err(ElfError::Overlap);
        }
        last_end = segment.end;
        *program.segments.get_mut(loaded).ok_or(ElfError::Count)? = Some(segment);
        loaded += 1;
    }
    if loaded == 0 {
        return Err(ElfError::Count);
    }
    if !program.runs(entry) {
        return Err(ElfError::Entry);
    }
    Ok(program)
}

/// Reads the header of a segment to load; `None` for one without memory.
fn segment(header: &[u8], file_length: usize) -> Result<Option<Segment>, ElfError> {
    let field = |at| long(header, at).ok_or(ElfError::Headers);
    let flags = word(header, 4).ok_or(ElfError::Headers)?;
    let (offset, address, in_file, in_memory) = (field(8)?, field(16)?, field(32)?, field(40)?);
    if in_memory == 0 {
        return Ok(None);
    }
    let file_end = offset.checked_add(in_file).ok_or(ElfError::Bounds)?;
    if in_file > in_memory || file_end > file_length as u64 {
        return Err(ElfError::Bounds);
    }
    let end = address.checked_add(in_memory).ok_or(ElfError::Address)?;
    if address < USER_START || end > USER_END || (in_file > 0 && address % PAGE != offset % PAGE) {
        return Err(ElfError::Address);
    }
    let (execute, write) = (flags & 1 != 0, flags & 2 != 0);
    if execute && write {
        return Err(ElfError::WriteExecute);
    }
    let mut rights = Protection::READ;
    if execute {
        rights = rights | Protection::EXECUTE;
    }
    if write {
        rights = rights | Protection::WRITE;
    }
    // Offset and address have the same place in their pages, so the first page's bytes are those of the file's page.
    let (file_start, file_end) = if in_file > 0 { (offset - address % PAGE, file_end) } else { (0, 0) };
    Ok(Some(Segment {
        start: address - address % PAGE,
        end: end.next_multiple_of(PAGE),
        file_start: file_start as usize,
        file_end: file_end as usize,
        rights,
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// A segment as a linker would describe it: flags, offset, address, bytes in the file, bytes in memory.
    pub(crate) type Header = (u32, u64, u64, u64, u64);

    /// An executable of these segments, `length` bytes long, every byte behind the headers its offset's low byte.
    pub(crate) fn build(entry: u64, segments: &[Header], length: usize) -> Vec<u8> {
        let mut file: Vec<u8> = (0..length).map(|at| at as u8).collect();
        file[..64].fill(0);
        file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
        file[16..18].copy_from_slice(&2u16.to_le_bytes());
        file[18..20].copy_from_slice(&62u16.to_le_bytes());
        file[24..32].copy_from_slice(&entry.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for (index, (flags, offset, address, in_file, in_memory)) in segments.iter().enumerate() {
            let header = &mut file[64 + index * 56..][..56];
            header[..4].copy_from_slice(&1u32.to_le_bytes());
            header[4..8].copy_from_slice(&flags.to_le_bytes());
            for (at, value) in [(8, offset), (16, address), (24, address), (32, in_file), (40, in_memory), (48, &4096)]
            {
                header[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        file
    }

    /// Text at 0x40_0000, data of two pages at 0x40_2000 of which one and a bit is in the file.
    pub(crate) fn sample() -> Vec<u8> {
        build(0x40_0123, &[(5, 0, 0x40_0000, 0x1800, 0x1800), (6, 0x1800, 0x40_2800, 0x900, 0x3000)], 0x3000)
    }

    #[test]
    fn a_program_says_its_segments_in_pages() {
        let program = parse(&sample()).unwrap();
        let segments: Vec<Segment> = program.segments().copied().collect();
        let (read, write) = (Protection::READ, Protection::WRITE);
        assert_eq!(program.entry, 0x40_0123);
        assert_eq!(
            segments,
            [
                Segment {
                    start: 0x40_0000,
                    end: 0x40_2000,
                    file_start: 0,
                    file_end: 0x1800,
                    rights: read | Protection::EXECUTE,
                },
                Segment {
                    start: 0x40_2000,
                    end: 0x40_6000,
                    file_start: 0x1000,
                    file_end: 0x2100,
                    rights: read | write
                },
            ]
        );
    }

    #[test]
    fn programs_that_break_a_rule_are_refused() {
        let text = (5, 0, 0x40_0000, 0x1000, 0x1000);
        let entry = 0x40_0100;
        let cases: &[(&[Header], u64, ElfError)] = &[
            (&[], entry, ElfError::Count),
            (&[text; 1], 0x41_0000, ElfError::Entry),
            (&[(4, 0, 0x40_0000, 0x1000, 0x1000)], entry, ElfError::Entry),
            (&[(7, 0, 0x40_0000, 0x1000, 0x1000)], entry, ElfError::WriteExecute),
            (&[text, (6, 0x1000, 0x40_0000, 0x1000, 0x1000)], entry, ElfError::Overlap),
            (&[text, (6, 0x1000, 0x3f_0000, 0x1000, 0x1000)], entry, ElfError::Overlap),
            (&[(5, 0, 0x40_0000, 0x1001, 0x1000)], entry, ElfError::Bounds),
            (&[(5, 0x2000, 0x40_0000, 0x1001, 0x1001)], entry, ElfError::Bounds),
            (&[(5, u64::MAX, 0x40_0fff, 0x1, 0x1)], entry, ElfError::Bounds),
            (&[(5, 1, 0x40_0000, 0x1000, 0x1000)], entry, ElfError::Address),
            (&[(5, 0, 0, 0x1000, 0x1000)], 0x100, ElfError::Address),
            (&[(5, 0, 0xffff_8000_0000_0000, 0x1000, 0x1000)], entry, ElfError::Address),
            (&[(5, 0, 0x7fff_ffff_f000, 0x1000, 0x1000)], entry, ElfError::Address),
            (&[text; MAX_SEGMENTS + 1], entry, ElfError::Overlap),
        ];
        for (segments, entry, error) in cases {
            assert_eq!(parse(&build(*entry, segments, 0x3000)), Err(*error), "{segments:x?}");
        }
        let mut other = sample();
        other[18] = 3;
        assert_eq!(parse(&other), Err(ElfError::Machine));
        let mut other = sample();
        other[16] = 3;
        assert_eq!(parse(&other), Err(ElfError::Kind));
        let mut other = sample();
        other[64] = 3;
        assert_eq!(parse(&other), Err(ElfError::Interpreter));
        assert_eq!(parse(b"#!/bin/sh"), Err(ElfError::NotElf));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_fail_badly(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_accepted_keeps_the_rules(
            changes in proptest::collection::vec((0usize..200, any::<u8>()), 1..5),
            length in 64usize..0x3000,
        ) {
            let mut bytes = sample();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            for file in [&bytes[..], &bytes[..length]] {
                let Ok(program) = parse(file) else { continue };
                prop_assert!(program.runs(program.entry));
                let mut last = USER_START;
                for segment in program.segments() {
                    prop_assert!(segment.start >= last && segment.end > segment.start && segment.end <= USER_END);
                    prop_assert!(segment.file_start <= segment.file_end && segment.file_end <= file.len());
                    prop_assert!((segment.file_end - segment.file_start) as u64 <= segment.end - segment.start);
                    prop_assert!(!segment.rights.contains(Protection::WRITE | Protection::EXECUTE));
                    last = segment.end;
                }
            }
        }
    }
}
