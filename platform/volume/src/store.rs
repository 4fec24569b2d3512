//! The files of a host's volumes: `NUMBER.img`, each an ext4 file system in a sparse file.
//!
//! A file appears under its name only when it is whole and on disk. What a kill leaves behind starts with `.new-` or is a
//! `staged-KEY.img` that no volume was made from; both are removed when the store is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holm_manifest::VolumeSize;
use holm_model::id::Seq;
use holm_model::volume::{VolumeNumber, VolumeOrigin, VolumeTarget};
use uuid::Uuid;

/// Beginning of the names of files that are being made.
pub(crate) const NEW: &str = ".new-";
const STAGED: &str = "staged-";
const IMAGE: &str = ".img";
/// The program that makes file systems; on Debian outside of the usual path of users.
const MKFS: [&str; 3] = ["mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"];

/// Why a volume's files could not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The system refused.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No file system could be made.
    #[error("cannot make an ext4 file system: {0}")]
    MakeFileSystem(String),
    /// The file a volume was to be made from is not there.
    #[error("volume {0} was made from {1}, whose file is gone")]
    NotStaged(VolumeNumber, String),
    /// There is no such snapshot.
    #[error("there is no snapshot `{0}`")]
    NoSnapshot(String),
}

pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError + use<> {
    let path = path.to_owned();
    move |source| VolumeError::File { what, path, source }
}

/// The folder of a host's volumes. Cheap to clone. Its methods block.
#[derive(Debug, Clone)]
pub struct VolumeStore {
    root: PathBuf,
    /// The keys of staged files that were there when the store was opened, or that a target has listed. Who staged another
    /// since then is alive and about to have a volume recorded.
    seen: Arc<Mutex<BTreeSet<String>>>,
}

/// A file from which a volume will be made. It is removed with this value unless it was kept.
#[derive(Debug)]
pub struct Staged {
    key: Uuid,
    path: PathBuf,
    done: PathBuf,
    kept: bool,
}

impl Staged {
    /// The file to fill.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that the file is whole: it is on disk when this returns, and a volume may be made from it under the key given.
    ///
    /// # Errors
    /// [`VolumeError::File`].
    pub fn keep(mut self) -> Result<Uuid, VolumeError> {
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(failed("write", &self.path))?;
        fs::rename(&self.path, &self.done).map_err(failed("rename", &self.path))?;
        sync_folder(&self.done)?;
        self.kept = true;
        Ok(self.key)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.kept {
            // Removed when the store is opened again, at the latest.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl VolumeStore {
    /// Opens the store in `root`, making the folder when it is missing.
    ///
    /// # Errors
    /// [`VolumeError::File`].
    pub fn open(root: PathBuf) -> Result<Self, VolumeError> {
        // QEMU, which runs in folders of its own, is told these paths.
        let root = std::path::absolute(&root).map_err(failed("find", &root))?;
        for folder in [root.clone(), root.join("snapshots")] {
            fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        }
        let store = Self { root, seen: Arc::default() };
        store.each_file(|path, name| {
            store.seen().extend(staged_key(name).map(str::to_owned));
            if name.starts_with(NEW) { remove(path) } else { Ok(()) }
        })?;
        Ok(store)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn each_file(&self, mut look: impl FnMut(&Path, &str) -> Result<(), VolumeError>) -> Result<(), VolumeError> {
        let entries = fs::read_dir(&self.root).map_err(failed("read", &self.root))?;
        for entry in entries {
            let path = entry.map_err(failed("read", &self.root))?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                look(&path, name)?;
            }
        }
        Ok(())
    }

    /// The file of a volume, which may not have been made yet.
    #[must_use]
    pub fn path(&self, number: VolumeNumber) -> PathBuf {
        self.root.join(format!("{number}{IMAGE}"))
    }

    /// Makes the file of a volume when it is missing, and gives it at least the size it should have.
    ///
    /// # Errors
    /// See [`VolumeError`].
    pub fn ensure(&self, number: VolumeNumber, target: &VolumeTarget) -> Result<PathBuf, VolumeError> {
        let path = self.path(number);
        if !path.exists() {
            match &target.origin {
                VolumeOrigin::Empty => self.make(number, target.size)?,
                VolumeOrigin::Staged { key, what } => {
                    let staged = self.staged_path(key);
                    match fs::rename(&staged, &path) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            return Err(VolumeError::NotStaged(number, what.clone()));
                        }
                        other => other.map_err(failed("rename", &staged))?,
                    }
                    sync_folder(&path)?;
                }
            }
        }
        self.grow(number, target.size)?;
        Ok(path)
    }

    fn make(&self, number: VolumeNumber, size: VolumeSize) -> Result<(), VolumeError> {
        let new = self.root.join(format!("{NEW}{number}{IMAGE}"));
        let file = File::create(&new).map_err(failed("make", &new))?;
        file.set_len(size.bytes()).map_err(failed("make", &new))?;
        make_file_system(&new)?;
        file.sync_all().map_err(failed("write", &new))?;
        let path = self.path(number);
        fs::rename(&new, &path).map_err(failed("rename", &new))?;
        sync_folder(&path)
    }

    /// Gives the file of a volume at least this size, and says how many bytes it has: more, when the size is an old one. The
    /// file system in it grows when a guest has it.
    ///
    /// # Errors
    /// [`VolumeError::File`].
    pub fn grow(&self, number: VolumeNumber, size: VolumeSize) -> Result<u64, VolumeError> {
        let path = self.path(number);
        let file = File::options().write(true).open(&path).map_err(failed("open", &path))?;
        let length = file.metadata().map_err(failed("look at", &path))?.len();
        if length < size.bytes() {
            file.set_len(size.bytes()).and_then(|()| file.sync_all()).map_err(failed("grow", &path))?;
        }
        Ok(length.max(size.bytes()))
    }

    /// Bytes that are free on the disk of the volumes.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn free(&self) -> io::Result<u64> {
        let seen = rustix::fs::statvfs(&self.root)?;
        Ok(seen.f_bavail * seen.f_frsize)
    }

    /// Bytes of a volume that take room on the host; `None` when it has no file yet.
    #[must_use]
    pub fn used(&self, number: VolumeNumber, origin: &VolumeOrigin) -> Option<u64> {
        use std::os::unix::fs::MetadataExt as _;
        let found = fs::metadata(self.path(number)).ok().or_else(|| match origin {
            VolumeOrigin::Empty => None,
            VolumeOrigin::Staged { key, .. } => fs::metadata(self.staged_path(key)).ok(),
        });
        found.map(|meta| meta.blocks() * 512)
    }

    fn staged_path(&self, key: &Uuid) -> PathBuf {
        self.root.join(format!("{STAGED}{key}{IMAGE}"))
    }

    /// Removes the volumes that were deleted, with their snapshots: those with a number up to that of the newest event the
    /// target knows of that the target does not list. A number is never used again, so nothing else is ever removed.
    ///
    /// # Errors
    /// [`VolumeError::File`].
    pub fn sweep(
        &self,
        known_up_to: Seq,
        volumes: &BTreeMap<VolumeNumber, VolumeTarget>,
    ) -> Result<Vec<VolumeNumber>, VolumeError> {
        let mut gone = BTreeSet::new();
        let deleted = |name: &str| {
            let number = VolumeNumber(name.parse().ok()?);
            (number.0 <= known_up_to.0 && !volumes.contains_key(&number)).then_some(number)
        };
        self.each_file(|path, name| {
            let Some(number) = name.strip_suffix(IMAGE).and_then(deleted) else { return Ok(()) };
            gone.insert(number);
            remove(path)
        })?;
        let snapshots = self.root.join("snapshots");
        for entry in fs::read_dir(&snapshots).map_err(failed("read", &snapshots))? {
            let path = entry.map_err(failed("read", &snapshots))?.path();
            if path.file_name().and_then(|name| name.to_str()).and_then(deleted).is_some() {
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(gone.into_iter().collect())
    }

    /// Removes the files that were staged for volumes that are gone, and those that were there when the store was opened
    /// and that no volume was made from.
    ///
    /// # Errors
    /// [`VolumeError::File`].
    pub fn sweep_staged(&self, volumes: &BTreeMap<VolumeNumber, VolumeTarget>) -> Result<(), VolumeError> {
        let wanted = volumes.values().filter_map(|volume| match &volume.origin {
            VolumeOrigin::Empty => None,
            VolumeOrigin::Staged { key, .. } => Some(key.to_string()),
        });
        let wanted: BTreeSet<String> = wanted.collect();
        self.seen().extend(wanted.iter().cloned());
        self.each_file(|path, name| match staged_key(name) {
            Some(key) if !wanted.contains(key) && self.seen().contains(key) => remove(path),
            _ => Ok(()),
        })
    }

    /// Begins a file from which a volume will be made.
    #[must_use]
    pub fn stage(&self) -> Staged {
        let key = Uuid::new_v4();
        let path = self.root.join(format!("{NEW}{STAGED}{key}{IMAGE}"));
        Staged { key, path, done: self.staged_path(&key), kept: false }
    }

    /// A name for a file that is there for a short while. It is removed when the store is opened.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.root.join(format!("{NEW}scratch-{}", Uuid::new_v4()))
    }
}

/// The key of a staged file of this name.
fn staged_key(name: &str) -> Option<&str> {
    name.strip_prefix(STAGED)?.strip_suffix(IMAGE)
}

pub(crate) fn remove(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(crate) fn sync_folder(path: &Path) -> Result<(), VolumeError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|file| file.sync_all()).map_err(failed("sync", folder))
}

/// Makes an ext4 file system that fills `file`. The file is all holes, so nothing has to be zeroed, now or in the guest.
fn make_file_system(file: &Path) -> Result<(), VolumeError> {
    let arguments = ["-q", "-F", "-m", "0", "-b", "4096", "-E", "assume_storage_prezeroed=1"];
    for program in MKFS {
        let ran = Command::new(program).args(arguments).arg(file).stdin(Stdio::null()).output();
        match ran {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(VolumeError::MakeFileSystem(error.to_string())),
            Ok(ran) if ran.status.success() => return Ok(()),
            Ok(ran) => {
                let words = String::from_utf8_lossy(&ran.stderr).lines().collect::<Vec<_>>().join("; ");
                return Err(VolumeError::MakeFileSystem(format!("mkfs.ext4 failed: {words}")));
            }
        }
    }
    Err(VolumeError::MakeFileSystem("there is no mkfs.ext4; install e2fsprogs".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(mib: u64, origin: VolumeOrigin) -> VolumeTarget {
        VolumeTarget { size: VolumeSize::from_mib(mib).unwrap(), origin }
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_volume_is_made_once_grows_and_goes_when_it_was_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let store = VolumeStore::open(folder.path().to_owned()).unwrap();
        let number = VolumeNumber(7);
        let path = store.ensure(number, &target(16, VolumeOrigin::Empty)).unwrap();
        let checked = Command::new("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(&path).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        let before = fs::read(&path).unwrap();
        store.ensure(number, &target(32, VolumeOrigin::Empty)).unwrap();
        assert_eq!(
            store.grow(number, VolumeSize::from_mib(16).unwrap()).unwrap(),
            32 << 20,
            "an old size shrinks nothing"
        );
        let after = fs::read(&path).unwrap();
        assert!(after.len() == 32 << 20 && after[..before.len()] == before[..]);
        // A target that is older than the volume says nothing about it.
        assert_eq!(store.sweep(Seq(6), &BTreeMap::new()).unwrap(), []);
        assert_eq!(store.sweep(Seq(7), &[(number, target(32, VolumeOrigin::Empty))].into()).unwrap(), []);
        assert_eq!(store.sweep(Seq(9), &BTreeMap::new()).unwrap(), [number]);
        assert_eq!(names(folder.path()), ["snapshots"]);
    }

    #[test]
    fn a_staged_file_becomes_a_volume_once_and_is_swept_when_none_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let store = VolumeStore::open(folder.path().to_owned()).unwrap();
        let stage = |text: &[u8]| {
            let staged = store.stage();
            fs::write(staged.path(), text).unwrap();
            staged
        };
        drop(stage(b"dropped"));
        let (wanted, other) = (stage(b"wanted").keep().unwrap(), stage(b"other").keep().unwrap());
        fs::write(folder.path().join(".new-8.img"), b"torn").unwrap();
        let origin = VolumeOrigin::Staged { key: wanted, what: "a backup".to_owned() };
        let volumes: BTreeMap<_, _> = [(VolumeNumber(8), target(16, origin))].into();
        let store = VolumeStore::open(folder.path().to_owned()).unwrap();
        let since = store.stage();
        fs::write(since.path(), b"since").unwrap();
        let since = since.keep().unwrap();
        store.sweep_staged(&volumes).unwrap();
        assert!(folder.path().join(format!("staged-{since}.img")).exists(), "its volume is about to be recorded");
        let origin = VolumeOrigin::Staged { key: since, what: "a backup".to_owned() };
        let mut more = volumes.clone();
        more.insert(VolumeNumber(9), target(16, origin.clone()));
        store.sweep_staged(&more).unwrap();
        assert!(store.used(VolumeNumber(9), &origin).is_some());
        // Its volume was deleted before anybody had it.
        store.sweep_staged(&volumes).unwrap();
        assert_eq!(store.used(VolumeNumber(9), &origin), None);
        assert_eq!(names(folder.path()), ["snapshots".to_owned(), format!("staged-{wanted}.img")]);
        for _ in 0..2 {
            let path = store.ensure(VolumeNumber(8), &volumes[&VolumeNumber(8)]).unwrap();
            assert!(fs::read(path).unwrap().starts_with(b"wanted"));
        }
        let gone = VolumeOrigin::Staged { key: other, what: "a backup".to_owned() };
        assert!(matches!(store.ensure(VolumeNumber(9), &target(16, gone)), Err(VolumeError::NotStaged(..))));
    }
}
