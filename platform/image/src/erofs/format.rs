//! The on-disk structures shared by writer and reader, in little-endian bytes.

use crate::tar::{Device, Mtime};

/// Bytes per block.
pub(super) const BLOCK: usize = 4096;
/// Where the superblock starts.
pub(super) const SUPERBLOCK_OFFSET: usize = 1024;
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK_BITS: u8 = 12;
/// The superblock has a checksum; inode times are modification times.
const COMPATIBLE_FEATURES: u32 = FEATURE_CHECKSUM | 0x2;
pub(super) const FEATURE_CHECKSUM: u32 = 0x1;
/// Inodes start at multiples of this many bytes.
pub(super) const SLOT: usize = 32;
pub(super) const COMPACT_INODE: usize = 32;
pub(super) const EXTENDED_INODE: usize = 64;
/// Bytes of one folder entry before its name.
pub(super) const DIRENT: usize = 12;

pub(super) const S_IFMT: u16 = 0o170_000;
pub(super) const S_IFREG: u16 = 0o100_000;
pub(super) const S_IFDIR: u16 = 0o040_000;
pub(super) const S_IFLNK: u16 = 0o120_000;
pub(super) const S_IFCHR: u16 = 0o020_000;
pub(super) const S_IFBLK: u16 = 0o060_000;
pub(super) const S_IFIFO: u16 = 0o010_000;

/// Where an inode's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// All of it in blocks.
    Plain,
    /// Whole blocks in blocks, the rest behind the inode and its attributes.
    Inline,
}

/// The fields of the superblock that vary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) root: u16,
    pub(super) inodes: u64,
    /// Time of every compact inode.
    pub(super) time: Mtime,
    pub(super) blocks: u32,
    pub(super) metadata_block: u32,
    pub(super) uuid: [u8; 16],
    pub(super) volume: [u8; 16],
}

/// The fields of an inode. `start` is the first data block or the device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawInode {
    pub(super) layout: Layout,
    pub(super) xattr_units: u16,
    pub(super) mode: u16,
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) start: u32,
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Mtime,
}

impl Superblock {
    /// The whole of block 0, checksum included.
    pub(super) fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let bytes = &mut block[SUPERBLOCK_OFFSET..];
        put(bytes, 0, &MAGIC.to_le_bytes());
        put(bytes, 8, &COMPATIBLE_FEATURES.to_le_bytes());
        bytes[12] = BLOCK_BITS;
        put(bytes, 14, &self.root.to_le_bytes());
        put(bytes, 16, &self.inodes.to_le_bytes());
        put(bytes, 24, &self.time.seconds.to_le_bytes());
        put(bytes, 32, &self.time.nanos.to_le_bytes());
        put(bytes, 36, &self.blocks.to_le_bytes());
        put(bytes, 40, &self.metadata_block.to_le_bytes());
        put(bytes, 48, &self.uuid);
        put(bytes, 64, &self.volume);
        Self::seal(&mut block);
        block
    }

    /// Puts the checksum in block 0 right.
    pub(super) fn seal(block: &mut [u8; BLOCK]) {
        let bytes = &mut block[SUPERBLOCK_OFFSET..];
        put(bytes, 4, &[0; 4]);
        let checksum = crc32c(bytes);
        put(bytes, 4, &checksum.to_le_bytes());
    }

    /// `None` unless it is a superblock of the one shape this crate writes. `block` is the whole of block 0.
    pub(super) fn decode(block: &[u8; BLOCK]) -> Option<Self> {
        let mut bytes: [u8; BLOCK - SUPERBLOCK_OFFSET] = block[SUPERBLOCK_OFFSET..].try_into().expect("lengths agree");
        let checksum = u32_at(&bytes, 4);
        put(&mut bytes, 4, &[0; 4]);
        let incompatible = u32_at(&bytes, 80);
        let shaped = u32_at(&bytes, 0) == MAGIC && bytes[12] == BLOCK_BITS && incompatible == 0;
        if !shaped || u32_at(&bytes, 8) & FEATURE_CHECKSUM == 0 || crc32c(&bytes) != checksum {
            return None;
        }
        Some(Self {
            root: u16_at(&bytes, 14),
            inodes: u64_at(&bytes, 16),
            time: Mtime { seconds: u64_at(&bytes, 24).cast_signed(), nanos: u32_at(&bytes, 32) },
            blocks: u32_at(&bytes, 36),
            metadata_block: u32_at(&bytes, 40),
            uuid: bytes[48..64].try_into().expect("sixteen bytes"),
            volume: bytes[64..80].try_into().expect("sixteen bytes"),
        })
    }
}

impl RawInode {
    /// Whether the short form can hold it, given the file system's common time.
    pub(super) fn is_compact(&self, common: Mtime) -> bool {
        let short = |value: u32| u16::try_from(value).is_ok();
        self.mtime == common
            && short(self.uid)
            && short(self.gid)
            && short(self.links)
            && u32::try_from(self.size).is_ok()
    }

    /// Appends the short form if `compact`, else the long one.
    pub(super) fn encode(&self, compact: bool, out: &mut Vec<u8>) {
        let layout = match self.layout {
            Layout::Plain => 0_u16,
            Layout::Inline => 2,
        };
        let low = |value: u32| u16::try_from(value & 0xffff).expect("sixteen bits fit").to_le_bytes();
        out.extend((layout << 1 | u16::from(!compact)).to_le_bytes());
        out.extend(self.xattr_units.to_le_bytes());
        out.extend(self.mode.to_le_bytes());
        if compact {
            out.extend(low(self.links));
            out.extend(u32::try_from(self.size).expect("checked by is_compact").to_le_bytes());
            out.extend([0; 4]);
            out.extend(self.start.to_le_bytes());
            out.extend(self.number.to_le_bytes());
            out.extend(low(self.uid));
            out.extend(low(self.gid));
            out.extend([0; 4]);
        } else {
            out.extend([0; 2]);
            out.extend(self.size.to_le_bytes());
            out.extend(self.start.to_le_bytes());
            out.extend(self.number.to_le_bytes());
            out.extend(self.uid.to_le_bytes());
            out.extend(self.gid.to_le_bytes());
            out.extend(self.mtime.seconds.to_le_bytes());
            out.extend(self.mtime.nanos.to_le_bytes());
            out.extend(self.links.to_le_bytes());
            out.extend([0; 16]);
        }
    }

    /// The inode in the first bytes of `bytes` and its length, or `None` where it is of no shape this crate writes.
    /// `bytes` must hold [`EXTENDED_INODE`] bytes.
    pub(super) fn decode(bytes: &[u8; EXTENDED_INODE], common: Mtime) -> Option<(Self, usize)> {
        let format = u16_at(bytes, 0);
        let layout = match format >> 1 {
            0 => Layout::Plain,
            2 => Layout::Inline,
            _ => return None,
        };
        let (xattr_units, mode) = (u16_at(bytes, 2), u16_at(bytes, 4));
        let inode = if format & 1 == 0 {
            Self {
                layout,
                xattr_units,
                mode,
                links: u16_at(bytes, 6).into(),
                size: u32_at(bytes, 8).into(),
                start: u32_at(bytes, 16),
                number: u32_at(bytes, 20),
                uid: u16_at(bytes, 24).into(),
                gid: u16_at(bytes, 26).into(),
                mtime: common,
            }
        } else {
            Self {
                layout,
                xattr_units,
                mode,
                links: u32_at(bytes, 44),
                size: u64_at(bytes, 8),
                start: u32_at(bytes, 16),
                number: u32_at(bytes, 20),
                uid: u32_at(bytes, 24),
                gid: u32_at(bytes, 28),
                mtime: Mtime { seconds: u64_at(bytes, 32).cast_signed(), nanos: u32_at(bytes, 40) },
            }
        };
        Some((inode, if format & 1 == 0 { COMPACT_INODE } else { EXTENDED_INODE }))
    }
}

/// Linux's `new_encode_dev`.
pub(super) fn encode_device(device: Device) -> u32 {
    (device.minor & 0xff) | (device.major & 0xfff) << 8 | (device.minor & !0xff) << 12
}

/// Linux's `new_decode_dev`.
pub(super) fn decode_device(number: u32) -> Device {
    Device { major: number >> 8 & 0xfff, minor: number & 0xff | number >> 12 & 0xfff00 }
}

/// The type byte of a folder entry for an inode's mode.
pub(super) fn dirent_type(mode: u16) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFLNK => 7,
        _ => 0,
    }
}

/// CRC-32C as EROFS uses it: seeded with all ones, not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().expect("two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}
