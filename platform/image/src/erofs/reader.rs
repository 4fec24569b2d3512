//! Reads images back, trusting no byte of them: every offset is checked, and walks end however the image is damaged.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::format::{
    BLOCK, COMPACT_INODE, DIRENT, EXTENDED_INODE, Layout, RawInode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK,
    S_IFMT, S_IFREG, SLOT, Superblock, decode_device, u16_at, u64_at,
};
use super::xattr;
use crate::tar::{Device, Mtime, Xattr};

const SYMLINK_MAX: u64 = 4095;
const FOLDER_MAX: u64 = 1 << 30;

/// Something with bytes at offsets.
pub trait ReadAt {
    /// Fills `buffer` with the bytes at `offset`, or fails where there are fewer.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let start = usize::try_from(offset).ok();
        let bytes = start.and_then(|start| self.get(start..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// The file itself cannot be read, or ends too early.
    #[error("file system image cannot be read")]
    Read(#[from] std::io::Error),
    /// No superblock of the shape this platform writes.
    #[error("not an EROFS image of this platform, or its superblock is damaged")]
    Superblock,
    /// A structure contradicts itself.
    #[error("file system image is damaged: {0}")]
    Damaged(&'static str),
    /// There is no such path.
    #[error("`{0}` is not in the image")]
    NotFound(String),
    /// The path goes through something that is not a folder.
    #[error("`{0}` is not a folder")]
    NotAFolder(String),
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symlink.
    Symlink,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// A file of any type, without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    nid: u64,
    header: usize,
    raw: RawInode,
    file_type: FileType,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name's bytes.
    pub name: Vec<u8>,
    /// Number of the inode, for [`Reader::inode`].
    pub nid: u64,
}

/// A file system image opened for reading.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    superblock: Superblock,
}

impl Inode {
    /// Number in the image, the same for all hard links.
    pub fn nid(&self) -> u64 {
        self.nid
    }

    /// What it is.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// Permission bits with setuid, setgid and sticky.
    pub fn mode(&self) -> u16 {
        self.raw.mode & 0o7777
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.raw.uid
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.raw.gid
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.raw.size
    }

    /// Number of names.
    pub fn links(&self) -> u32 {
        self.raw.links
    }

    /// Time of the last change of its data.
    pub fn mtime(&self) -> Mtime {
        self.raw.mtime
    }
}

impl<S: ReadAt> Reader<S> {
    /// Opens an image written by this crate.
    pub fn open(source: S) -> Result<Self, ReaderError> {
        let mut block = [0; BLOCK];
        source.read_exact_at(&mut block, 0)?;
        let superblock = Superblock::decode(&block).ok_or(ReaderError::Superblock)?;
        Ok(Self { source, superblock })
    }

    /// How many inodes the image says it has.
    pub fn inode_count(&self) -> u64 {
        self.superblock.inodes
    }

    /// Bytes of the image.
    pub fn image_bytes(&self) -> u64 {
        u64::from(self.superblock.blocks) * BLOCK as u64
    }

    /// The root folder.
    pub fn root(&self) -> Result<Inode, ReaderError> {
        self.inode(self.superblock.root.into())
    }

    /// The inode with that number.
    pub fn inode(&self, nid: u64) -> Result<Inode, ReaderError> {
        let offset = self.inode_offset(nid)?;
        let mut bytes = [0; EXTENDED_INODE];
        self.source.read_exact_at(&mut bytes[..COMPACT_INODE], offset)?;
        if bytes[0] & 1 != 0 {
            self.source.read_exact_at(&mut bytes[COMPACT_INODE..], offset + COMPACT_INODE as u64)?;
        }
        let decoded = RawInode::decode(&bytes, self.superblock.time);
        let (raw, header) = decoded.ok_or(ReaderError::Damaged("an inode has an unknown layout"))?;
        let file_type = match raw.mode & S_IFMT {
            S_IFREG => FileType::File,
            S_IFDIR => FileType::Folder,
            S_IFLNK => FileType::Symlink,
            S_IFCHR => FileType::CharDevice(decode_device(raw.start)),
            S_IFBLK => FileType::BlockDevice(decode_device(raw.start)),
            S_IFIFO => FileType::Fifo,
            _ => return Err(ReaderError::Damaged("an inode has an unknown type")),
        };
        Ok(Inode { nid, header, raw, file_type })
    }

    /// The names in a folder without `.` and `..`, in the image's order.
    pub fn read_dir(&self, folder: &Inode) -> Result<Vec<DirEntry>, ReaderError> {
        const DAMAGED: ReaderError = ReaderError::Damaged("a folder's entries are malformed");
        if folder.file_type != FileType::Folder {
            return Err(ReaderError::NotAFolder(format!("inode {}", folder.nid)));
        }
        if folder.raw.size > FOLDER_MAX {
            return Err(ReaderError::Damaged("a folder is over 1 GiB"));
        }
        let mut entries = Vec::new();
        let mut offset = 0;
        while offset < folder.raw.size {
            let length = usize::try_from((folder.raw.size - offset).min(BLOCK as u64)).expect("at most a block");
            let mut bytes = [0; BLOCK];
            let block = &mut bytes[..length];
            self.read(folder, offset, block)?;
            let names_start = if length < DIRENT { 0 } else { usize::from(u16_at(block, 8)) };
            if names_start == 0 || names_start % DIRENT != 0 || names_start > length {
                return Err(DAMAGED);
            }
            let name_offset = |index: usize| usize::from(u16_at(block, index * DIRENT + 8));
            let count = names_start / DIRENT;
            for index in 0..count {
                let end = if index + 1 < count { name_offset(index + 1) } else { length };
                let name = block.get(name_offset(index)..end).ok_or(DAMAGED)?;
                // The last name of a block ends at the zeros that fill it up.
                let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                if name.is_empty() || name.len() > 255 || name.contains(&b'/') {
                    return Err(DAMAGED);
                }
                if !matches!(name, b"." | b"..") {
                    entries.push(DirEntry { name: name.to_vec(), nid: u64_at(block, index * DIRENT) });
                }
            }
            offset += length as u64;
        }
        Ok(entries)
    }

    /// The inode at an absolute path; symlinks on the way are not followed.
    pub fn lookup(&self, path: &[u8]) -> Result<Inode, ReaderError> {
        let mut inode = self.root()?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            if inode.file_type != FileType::Folder {
                return Err(ReaderError::NotAFolder(path.escape_ascii().to_string()));
            }
            let entries = self.read_dir(&inode)?;
            let found = entries.into_iter().find(|entry| entry.name == name);
            let found = found.ok_or_else(|| ReaderError::NotFound(path.escape_ascii().to_string()))?;
            inode = self.inode(found.nid)?;
        }
        Ok(inode)
    }

    /// Fills `buffer` with the inode's bytes from `offset` on.
    pub fn read(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<(), ReaderError> {
        let size = inode.raw.size;
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= size);
        end.ok_or(ReaderError::Damaged("a read runs past the end of a file"))?;
        let in_blocks = match inode.raw.layout {
            Layout::Plain => size,
            Layout::Inline => size - size % BLOCK as u64,
        };
        let first = usize::try_from(in_blocks.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let (blocks, tail) = buffer.split_at_mut(first);
        if !blocks.is_empty() {
            let start = u64::from(inode.raw.start) * BLOCK as u64;
            let start = start.checked_add(offset).ok_or(ReaderError::Damaged("a file lies outside the image"))?;
            self.source.read_exact_at(blocks, start)?;
        }
        if !tail.is_empty() {
            let before = (inode.header + xattr::length_of(inode.raw.xattr_units)) as u64;
            let within = offset + first as u64 - in_blocks;
            self.source.read_exact_at(tail, self.inode_offset(inode.nid)? + before + within)?;
        }
        Ok(())
    }

    /// All bytes of a file or symlink of at most `limit` bytes.
    pub fn read_all(&self, inode: &Inode, limit: u64) -> Result<Vec<u8>, ReaderError> {
        if inode.raw.size > limit.min(self.image_bytes()) {
            return Err(ReaderError::Damaged("a file is larger than expected"));
        }
        let mut bytes = vec![0; usize::try_from(inode.raw.size).expect("below the limit")];
        self.read(inode, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// A symlink's target.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, ReaderError> {
        self.read_all(inode, SYMLINK_MAX)
    }

    /// An inode's extended attributes in stored order.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, ReaderError> {
        let mut bytes = vec![0; xattr::length_of(inode.raw.xattr_units)];
        self.source.read_exact_at(&mut bytes, self.inode_offset(inode.nid)? + inode.header as u64)?;
        xattr::decode(&bytes).ok_or(ReaderError::Damaged("an inode's attributes are malformed"))
    }

    /// Calls `visit` with every path below the root and its inode, parents first; ends even if folders form a loop.
    pub fn walk(&self, mut visit: impl FnMut(&[u8], &Inode)) -> Result<(), ReaderError> {
        let mut pending = vec![(Vec::new(), self.root()?)];
        let mut seen = HashSet::new();
        while let Some((path, folder)) = pending.pop() {
            if !seen.insert(folder.nid) {
                return Err(ReaderError::Damaged("a folder has two parents"));
            }
            for entry in self.read_dir(&folder)? {
                let inode = self.inode(entry.nid)?;
                let path = [&path[..], b"/", &entry.name].concat();
                visit(&path, &inode);
                if inode.file_type == FileType::Folder {
                    pending.push((path, inode));
                }
            }
        }
        Ok(())
    }

    fn inode_offset(&self, nid: u64) -> Result<u64, ReaderError> {
        let start = u64::from(self.superblock.metadata_block) * BLOCK as u64;
        let offset = nid.checked_mul(SLOT as u64).and_then(|offset| offset.checked_add(start));
        offset
            .filter(|offset| *offset < self.image_bytes())
            .ok_or(ReaderError::Damaged("an inode lies outside the image"))
    }
}
