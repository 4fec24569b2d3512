//! Whether an image's file is still what was built: read whole once by each process, and again when the file was touched.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use super::{ImageRecord, Inner, PreparedImage, StoreError};
use crate::digest::Digest;

/// Files that this process has found to be what was built, as they were then.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<Digest, Seen>>);

/// What tells a file from another one and from itself before a change. Nobody can set the time of the last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Seen {
    fn of(file: &Metadata) -> Self {
        let changed = (file.ctime(), file.ctime_nsec());
        Self { device: file.dev(), inode: file.ino(), size: file.size(), changed }
    }
}

impl Known {
    fn remember(&self, digest: Digest, file: Seen) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, file);
    }

    fn has(&self, digest: Digest, file: Seen) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&digest) == Some(&file)
    }

    pub(super) fn forget(&self, digest: Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
    }
}

impl Inner {
    /// The image, when its file is known to be what was built and was not touched since.
    pub(super) fn known(&self, digest: Digest) -> Result<Option<PreparedImage>, StoreError> {
        let ready = self.ready(digest)?;
        let untouched = |file: Metadata| self.known.has(digest, Seen::of(&file));
        Ok(ready.filter(|image| std::fs::metadata(&image.erofs).is_ok_and(untouched)))
    }

    /// The image, when its file is what was built; reads all of it unless it is known.
    pub(super) fn whole(&self, digest: Digest) -> Result<Option<PreparedImage>, StoreError> {
        if let Some(known) = self.known(digest)? {
            return Ok(Some(known));
        }
        let Some(record) = self.record(digest)? else { return Ok(None) };
        match self.compare(&record) {
            Ok(()) => self.ready(digest),
            Err(reason) => {
                tracing::warn!(image = %digest, reason, "an image on this host is damaged; it is built again");
                Ok(None)
            }
        }
    }

    /// Reads an image's file and compares it with what was built; says what is wrong with it.
    pub(super) fn compare(&self, record: &ImageRecord) -> Result<(), String> {
        let read = || -> io::Result<_> {
            let file = File::open(self.erofs_path(record.digest))?;
            // Taken first: a change from now on shows later.
            let seen = Seen::of(&file.metadata()?);
            Ok((seen, Digest::of_reader(file)?))
        };
        match read() {
            Ok((_, (_, size))) if size != record.erofs_bytes => {
                Err(format!("its file has {size} bytes instead of {}", record.erofs_bytes))
            }
            Ok((_, (sha256, _))) if sha256 != record.erofs_sha256 => Err("its file has changed".to_owned()),
            Ok((seen, _)) => {
                self.known.remember(record.digest, seen);
                Ok(())
            }
            Err(error) => Err(format!("its file cannot be read: {error}")),
        }
    }

    /// Remembers that an image's file is what was built: it was built just now.
    pub(super) fn remember(&self, digest: Digest) -> io::Result<()> {
        let file = std::fs::metadata(self.erofs_path(digest))?;
        self.known.remember(digest, Seen::of(&file));
        Ok(())
    }
}
