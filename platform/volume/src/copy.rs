//! Copying a file on the same host: by sharing its blocks where the file system can, else block by block without the holes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use rustix::fs::SeekFrom as Sparse;
use rustix::io::Errno;

/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;

/// Makes `to` share the blocks of `from`, at once and whatever its size; `false` where the file system cannot. `to` is made,
/// and is empty when this is `false`.
///
/// # Errors
/// When a file cannot be opened or made.
pub fn try_clone(from: &Path, to: &Path) -> io::Result<bool> {
    let (source, target) = (File::open(from)?, File::create(to)?);
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Copies `from` to `to`, holes as holes, and returns when it is on disk. Nobody may write to `from` meanwhile.
///
/// # Errors
/// When a file cannot be read or written, such as on a full disk.
pub fn clone_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    if !try_clone(from, to)? {
        let mut target = File::create(to)?;
        for (at, length) in data_of(from)? {
            copy_range(&mut File::open(from)?, &mut target, at, length)?;
        }
        target.set_len(std::fs::metadata(from)?.len())?;
    }
    File::open(to)?.sync_all()
}

/// The parts of a file that are not holes, as offset and length, in order.
pub(crate) fn data_of(path: &Path) -> io::Result<Vec<(u64, u64)>> {
    let file = File::open(path)?;
    let mut parts = Vec::new();
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(&file, Sparse::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(parts),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&file, Sparse::Hole(start))?;
        parts.push((start, end - start));
        at = end;
    }
}

fn copy_range(from: &mut File, to: &mut File, at: u64, length: u64) -> io::Result<()> {
    from.seek(SeekFrom::Start(at))?;
    to.seek(SeekFrom::Start(at))?;
    let mut left = length;
    let mut buffer = vec![0; usize::try_from(PIECE).expect("a MiB fits")];
    while left > 0 {
        let piece = usize::try_from(left.min(PIECE)).expect("at most a MiB");
        from.read_exact(&mut buffer[..piece])?;
        to.write_all(&buffer[..piece])?;
        left -= piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_copy_is_the_same_and_as_sparse(writes in proptest::collection::vec((0u64..64, 1usize..9000, 1u8..), 0..6)) {
            let folder = tempfile::tempdir().unwrap();
            let (from, to) = (folder.path().join("a"), folder.path().join("b"));
            let file = File::create(&from).unwrap();
            file.set_len(4 << 20).unwrap();
            for (block, length, byte) in writes {
                file.write_all_at(&vec![byte; length], block * 65_536).unwrap();
            }
            file.sync_all().unwrap();
            clone_or_copy(&from, &to).unwrap();
            prop_assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
            let blocks = |path| std::fs::metadata(path).unwrap().blocks();
            prop_assert!(blocks(&to) <= blocks(&from) + 16, "{} {}", blocks(&to), blocks(&from));
        }
    }
}
