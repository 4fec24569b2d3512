//! Which file system a volume's file holds: every one that is made has an id of its own, which copies keep. So it tells a
//! volume from another that was made anew in its place.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use uuid::Uuid;

/// Where ext4 keeps its magic number and its id (Linux, `Documentation/filesystems/ext4/super.rst`), in bytes.
const MAGIC_AT: u64 = 1024 + 0x38;
const ID_AT: u64 = 1024 + 0x68;
const MAGIC: [u8; 2] = [0x53, 0xef];

/// The id of the ext4 file system in `file`; `None` when there is none, or the file cannot be read.
#[must_use]
pub fn file_system_of(file: &Path) -> Option<Uuid> {
    let file = File::open(file).ok()?;
    let (mut magic, mut id) = ([0; 2], [0; 16]);
    file.read_exact_at(&mut magic, MAGIC_AT).ok()?;
    file.read_exact_at(&mut id, ID_AT).ok()?;
    (magic == MAGIC).then(|| Uuid::from_bytes(id)).filter(|id| !id.is_nil())
}

#[cfg(test)]
mod tests {
    use holm_manifest::VolumeSize;
    use holm_model::volume::{VolumeNumber, VolumeOrigin, VolumeTarget};

    use super::*;
    use crate::VolumeStore;

    #[test]
    fn a_volume_that_is_made_again_is_another_and_a_copy_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = VolumeStore::open(folder.path().to_owned()).unwrap();
        let target = VolumeTarget { size: VolumeSize::from_mib(16).unwrap(), origin: VolumeOrigin::Empty };
        let file = store.ensure(VolumeNumber(7), &target).unwrap();
        let first = file_system_of(&file).expect("a file system");
        let copy = folder.path().join("copy");
        std::fs::copy(&file, &copy).unwrap();
        assert_eq!(file_system_of(&copy), Some(first));
        std::fs::remove_file(&file).unwrap();
        store.ensure(VolumeNumber(7), &target).unwrap();
        assert!(file_system_of(&file).is_some_and(|second| second != first));
        std::fs::write(&copy, [0xff; 4096]).unwrap();
        assert_eq!(file_system_of(&copy), None);
        std::fs::write(&copy, [0; 10]).unwrap();
        assert_eq!(file_system_of(&copy), None);
    }
}
