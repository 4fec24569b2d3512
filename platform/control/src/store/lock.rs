//! One process at a time has a state folder.

use std::fs::{self, File};
use std::path::Path;

use super::StoreError;

/// Keeps other processes out of a state folder, until it is dropped or the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct FolderLock(File);

impl Drop for FolderLock {
    /// Unlocks by hand: a child that is being started at this moment has the file open too, for a little longer.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl FolderLock {
    pub(crate) fn take(dir: &Path) -> Result<Self, StoreError> {
        use std::io::{Read as _, Seek as _, Write as _};
        let path = dir.join("holm.lock");
        let failed = |action| {
            let path = path.clone();
            move |source| StoreError::File { action, path, source }
        };
        let mut options = File::options();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = (&mut file).take(20).read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "?".to_owned() } else { pid.trim().to_owned() };
                return Err(StoreError::InUse { dir: dir.to_owned(), pid });
            }
            Err(fs::TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        let mut write = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write().map_err(failed("write"))?;
        Ok(Self(file))
    }
}
