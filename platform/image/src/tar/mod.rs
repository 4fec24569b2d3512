//! Tar, streamed: one entry after the other from any reader, with every dialect OCI layers use and nothing trusted.
//!
//! Understood: ustar and v7, pax (`x` records; `g` is skipped as other OCI tools do), GNU long names and links, base-256
//! numbers, sparse files in the old GNU form and the pax forms 0.0, 0.1 and 1.0, and `SCHILY.xattr` attributes.
//! Formats: POSIX.1-2008 `pax`, GNU tar manual appendix "Tar Internals".

mod header;
mod pax;
mod reader;
pub(crate) mod write;

pub(crate) use reader::TarReader;

/// Size of every header and the unit of padding, in bytes.
pub(crate) const BLOCK: usize = 512;

/// A point in time: seconds since 1970 (may be negative) and nanoseconds within that second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mtime {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds, below 1 000 000 000.
    pub nanos: u32,
}

/// One extended attribute: full name such as `security.capability`, and raw value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xattr {
    /// Full name with its namespace.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// Major and minor number of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Major number, below 2^12.
    pub major: u32,
    /// Minor number, below 2^20.
    pub minor: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

/// One entry's metadata, raw as the archive has it: the path is not normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    pub(crate) xattrs: Vec<Xattr>,
    /// Size of the file as a reader sees it, holes included.
    pub(crate) size: u64,
    /// The parts of the file that have bytes in the archive, ascending; `None` where all of it has.
    pub(crate) segments: Option<Vec<Segment>>,
}

/// A run of bytes of a sparse file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream itself failed.
    #[error("layer cannot be read")]
    Read(#[source] std::io::Error),
    /// The stream ended inside a header or a file.
    #[error("layer ends in the middle of an entry")]
    Truncated,
    /// A header's checksum is wrong: not a tar archive, or damaged.
    #[error("layer has a tar header with a wrong checksum")]
    Checksum,
    /// A numeric field does not hold a number, or one that is out of range.
    #[error("layer has a tar header whose {0} is not a number in range")]
    Number(&'static str),
    /// A malformed pax record.
    #[error("layer has a malformed pax record: {0}")]
    Pax(&'static str),
    /// A sparse map that contradicts itself or the entry's size.
    #[error("layer has a sparse file with a map that {0}")]
    Sparse(&'static str),
    /// A header longer than [`crate::Limits::header_bytes`].
    #[error("layer has an extended header of {size} bytes; the limit is {limit}")]
    HeaderSize {
        /// Bytes announced.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// An entry type the OCI image spec does not know.
    #[error("layer has an entry of the unsupported type `{}`", char::from(*.0).escape_default())]
    EntryType(u8),
}
