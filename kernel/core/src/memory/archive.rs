//! The boot archive: a cpio archive (`newc`) in memory, whose regular files are the images of the system.
//!
//! The parser is total: whatever the bytes are, it answers files or says what is wrong and where.

use alloc::vec::Vec;
use core::fmt;

use super::{ImageId, RegionId};
use crate::arena::Arena;

/// A file of the boot archive.
#[derive(Debug)]
pub struct Image {
    /// Its path, without a leading `./` or `/`.
    pub name: &'static [u8],
    /// Its content.
    pub content: &'static [u8],
    /// The region through which all units see its pages, made when it is first needed.
    pub region: Option<RegionId>,
    /// The CRC-32 of the first `summed` bytes.
    pub crc: u32,
    /// How far the sum has come.
    pub summed: usize,
}

/// The files of the boot archive.
#[derive(Debug, Default)]
pub struct Archive {
    /// In their order.
    files: Vec<ImageId>,
    /// By name.
    sorted: Vec<ImageId>,
}

/// What is wrong with the boot archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveError {
    /// It has no bytes.
    Empty,
    /// What should be a file's header is none.
    Magic {
        /// Where, in bytes from the archive's start.
        at: usize,
    },
    /// A number of a header is not hexadecimal.
    Number {
        /// Where.
        at: usize,
    },
    /// A file goes on behind the end of the archive.
    Truncated {
        /// Where its header is.
        at: usize,
    },
    /// A name is empty or does not end with a zero byte.
    Name {
        /// Where its header is.
        at: usize,
    },
    /// The archive ends without its trailer.
    NoTrailer,
    /// Two files have one name.
    Twice {
        /// The name.
        name: &'static [u8],
    },
    /// There is not enough kernel memory for the list of files.
    Memory,
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the boot archive is empty"),
            Self::Magic { at } => write!(f, "the boot archive is damaged: no cpio header (newc) at byte {at}"),
            Self::Number { at } => write!(f, "the boot archive is damaged: a number at byte {at} is not hexadecimal"),
            Self::Truncated { at } => {
                write!(f, "the boot archive is cut off: the file at byte {at} goes on behind its end")
            }
            Self::Name { at } => write!(f, "the boot archive is damaged: the file at byte {at} has no proper name"),
            Self::NoTrailer => f.write_str("the boot archive is cut off: it has no trailer"),
            Self::Twice { name } => write!(f, "the boot archive has two files named {}", name.escape_ascii()),
            Self::Memory => f.write_str("there is not enough kernel memory for the boot archive's list of files"),
        }
    }
}

impl core::error::Error for ArchiveError {}

const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";
/// Type bits of a mode, and those of a regular file.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// A file as it stands in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File<'a> {
    /// Its path, as it stands there.
    pub name: &'a [u8],
    /// Its type and permissions.
    pub mode: u32,
    /// Its content.
    pub content: &'a [u8],
}

impl File<'_> {
    /// Whether it is a regular file.
    #[must_use]
    pub const fn is_regular(&self) -> bool {
        self.mode & TYPE == REGULAR
    }
}

/// The files of an archive, one after the other. After an error there is nothing more.
#[derive(Debug, Clone)]
pub struct Files<'a> {
    bytes: &'a [u8],
    at: usize,
    over: bool,
}

impl<'a> Files<'a> {
    /// Of the archive in `bytes`. Bytes behind the trailer are ignored.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, over: false }
    }

    fn number(&self, at: usize) -> Result<u32, ArchiveError> {
        let digits = self.bytes.get(at..at + 8).ok_or(ArchiveError::Truncated { at: self.at })?;
        digits.iter().try_fold(0u32, |number, digit| {
            let digit = (*digit as char).to_digit(16).ok_or(ArchiveError::Number { at })?;
            Ok(number << 4 | digit)
        })
    }

    fn file(&mut self) -> Result<Option<File<'a>>, ArchiveError> {
        let at = self.at;
        if at >= self.bytes.len() {
            return Err(if at == 0 { ArchiveError::Empty } else { ArchiveError::NoTrailer });
        }
        // `070701` without, `070702` with a checksum of the content, which is not looked at.
        if !matches!(self.bytes.get(at..at + 6), Some(b"070701" | b"070702")) {
            return Err(ArchiveError::Magic { at });
        }
        let mode = self.number(at + 14)?;
        let size = self.number(at + 54)? as usize;
        let name_size = self.number(at + 94)? as usize;
        let truncated = ArchiveError::Truncated { at };
        let name = self.bytes.get(at + HEADER..at + HEADER + name_size).ok_or(truncated)?;
        let Some((0, name)) = name.split_last() else { return Err(ArchiveError::Name { at }) };
        if name.is_empty() || name.contains(&0) {
            return Err(ArchiveError::Name { at });
        }
        let start = (at + HEADER + name_size).next_multiple_of(4);
        if name == TRAILER {
            return Ok(None);
        }
        let content = self.bytes.get(start..start + size).ok_or(truncated)?;
        self.at = (start + size).next_multiple_of(4);
        Ok(Some(File { name, mode, content }))
    }
}

impl<'a> Iterator for Files<'a> {
    type Item = Result<File<'a>, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let file = self.file().transpose();
        self.over = !matches!(file, Some(Ok(_)));
        file
    }
}

/// A path without what stands in front of its first part.
fn plain(name: &[u8]) -> &[u8] {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    name.strip_prefix(b"/").unwrap_or(name)
}

impl Archive {
    /// Takes in the regular files of an archive.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(bytes: &'static [u8], images: &mut Arena<Image>) -> Result<Self, ArchiveError> {
        let mut archive = Self::default();
        for file in Files::new(bytes) {
            let file = file?;
            if !file.is_regular() {
                continue;
            }
            let image = Image { name: plain(file.name), content: file.content, region: None, crc: 0, summed: 0 };
            let id = images.insert(image).map_err(|_| ArchiveError::Memory)?;
            archive.files.try_reserve(1).map_err(|_| ArchiveError::Memory)?;
            archive.files.push(id);
        }
        archive.sorted.try_reserve_exact(archive.files.len()).map_err(|_| ArchiveError::Memory)?;
        archive.sorted.extend_from_slice(&archive.files);
        let name = |id: &ImageId| images.get(*id).map_or(&b""[..], |image| image.name);
        archive.sorted.sort_unstable_by(|left, right| name(left).cmp(name(right)));
        for pair in archive.sorted.windows(2) {
            if let [left, right] = pair
                && name(left) == name(right)
            {
                return Err(ArchiveError::Twice { name: name(left) });
            }
        }
        Ok(archive)
    }

    /// How many files there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The file at a place of the archive's order.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<ImageId> {
        self.files.get(index).copied()
    }

    /// The file with a name.
    #[must_use]
    pub fn find(&self, images: &Arena<Image>, name: &[u8]) -> Option<ImageId> {
        let at = self
            .sorted
            .binary_search_by(|id| images.get(*id).map_or(&b""[..], |image| image.name).cmp(plain(name)))
            .ok()?;
        self.sorted.get(at).copied()
    }
}

/// CRC-32 (the polynomial of IEEE 802.3, as zip has it) by half bytes.
const CRC: [u32; 16] = {
    let mut table = [0; 16];
    let mut index = 0;
    while index < 16 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 4 {
            value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

impl Image {
    /// The sum, when it is whole.
    #[must_use]
    pub fn whole_sum(&self) -> Option<u32> {
        (self.summed == self.content.len()).then_some(self.crc)
    }

    /// Goes on with the sum by at most `step` bytes; answers it when it is whole.
    pub fn sum(&mut self, step: usize) -> Option<u32> {
        let end = self.content.len().min(self.summed.saturating_add(step));
        let bytes = self.content.get(self.summed..end).unwrap_or_default();
        self.crc = !bytes.iter().fold(!self.crc, |crc, byte| {
            let crc = crc ^ u32::from(*byte);
            let crc = crc >> 4 ^ CRC[(crc & 15) as usize];
            crc >> 4 ^ CRC[(crc & 15) as usize]
        });
        self.summed = end;
        self.whole_sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::string::ToString;

    /// A cpio archive of these files.
    pub(crate) fn pack(files: &[(&[u8], u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, mode, content) in files.iter().chain([&(TRAILER, 0, &b""[..])]) {
            let fields = [0, *mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
            bytes.extend_from_slice(b"070701");
            for field in fields {
                bytes.extend_from_slice(format!("{field:08x}").as_bytes());
            }
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn open(bytes: Vec<u8>) -> Result<(Archive, Arena<Image>), ArchiveError> {
        let mut images: Arena<Image> = Arena::default();
        Archive::open(bytes.leak(), &mut images).map(|archive| (archive, images))
    }

    #[test]
    fn files_are_found_by_name_and_by_place() {
        let (archive, images) = open(pack(&[
            (b".", 0o040_755, b""),
            (b"./init", 0o100_755, b"first"),
            (b"bin/b", 0o100_755, b"second!"),
            (b"bin/link", 0o120_777, b"b"),
        ]))
        .unwrap();
        assert_eq!(archive.len(), 2);
        let found = |name: &[u8]| archive.find(&images, name).map(|id| images.get(id).unwrap().content);
        assert_eq!(found(b"init"), Some(&b"first"[..]));
        assert_eq!(found(b"/init"), Some(&b"first"[..]));
        assert_eq!(found(b"bin/b"), Some(&b"second!"[..]));
        assert_eq!(found(b"bin/link"), None);
        assert_eq!(archive.at(1), archive.find(&images, b"bin/b"));
    }

    #[test]
    fn the_sum_of_a_file_is_its_crc_32_whatever_the_steps() {
        let image = || Image { name: b"", content: b"123456789", region: None, crc: 0, summed: 0 };
        assert_eq!(image().sum(100), Some(0xcbf4_3926));
        let mut stepped = image();
        assert_eq!([stepped.sum(4), stepped.sum(4), stepped.sum(4)], [None, None, Some(0xcbf4_3926)]);
        assert_eq!(stepped.sum(4), Some(0xcbf4_3926));
    }

    #[test]
    fn a_damaged_archive_is_told_from_a_missing_one() {
        let good = pack(&[(b"init", 0o100_755, b"content")]);
        assert_eq!(open(Vec::new()).unwrap_err().to_string(), "the boot archive is empty");
        assert_eq!(
            open(b"\x1f\x8b compressed".to_vec()).unwrap_err().to_string(),
            "the boot archive is damaged: no cpio header (newc) at byte 0"
        );
        let mut bytes = good.clone();
        bytes[20] = b'x';
        assert_eq!(
            open(bytes).unwrap_err().to_string(),
            "the boot archive is damaged: a number at byte 14 is not hexadecimal"
        );
        assert_eq!(
            open(good[..120].to_vec()).unwrap_err().to_string(),
            "the boot archive is cut off: the file at byte 0 goes on behind its end"
        );
        assert_eq!(
            open(good[..124].to_vec()).unwrap_err().to_string(),
            "the boot archive is cut off: it has no trailer"
        );
        let twice = pack(&[(b"init", 0o100_755, b"1"), (b"/init", 0o100_755, b"2")]);
        assert_eq!(open(twice).unwrap_err().to_string(), "the boot archive has two files named init");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_fail_badly(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Files::new(&bytes).count();
        }

        #[test]
        fn no_change_of_a_good_archive_makes_the_parser_fail_badly(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = pack(&[(b"init", 0o100_755, b"content"), (b"a/b", 0o100_644, b""), (b"c", 0o100_644, &[7; 99])]);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            for file in Files::new(&bytes).chain(Files::new(&bytes[..cut.index(bytes.len())])).flatten() {
                prop_assert!(file.content.len() <= bytes.len());
            }
        }
    }
}
