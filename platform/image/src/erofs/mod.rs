//! EROFS: the read-only file system every instance of an image shares, written and read by our own small code.
//!
//! One fixed shape, the same bytes for the same input: 4 KiB blocks, nothing compressed, plain or inline data only, so
//! that any kernel from 5.4 on mounts it.
//!
//! ```text
//! block 0        file data, in archive order        folders and long links        inodes with inline data
//! superblock     blocks of dead files are holes     that do not fit inline        meta_blkaddr; root first
//! ```
//!
//! Sources: Linux `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`.

mod data;
mod folder;
mod format;
mod metadata;
mod reader;
mod xattr;

pub(crate) use data::{Content, DataWriter};
pub(crate) use metadata::{Identity, finish};
pub use reader::{DirEntry, FileType, Inode, ReadAt, Reader, ReaderError};

/// Puts the superblock's checksum right; `false` when there is not even a block for it.
pub(crate) fn seal(image: &mut [u8]) -> bool {
    image.first_chunk_mut().map(format::Superblock::seal).is_some()
}
