//! Snapshots: copies of a volume on the same host, listed by a small description that is written last.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use holm_manifest::VolumeSize;
use holm_model::volume::{VolumeId, VolumeNumber};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::{NEW, VolumeError, VolumeStore, failed, remove, sync_folder};

/// The name of a snapshot: the moment it was taken, such as `20260131T120000.123Z`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// The name of one that is taken at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(now.strftime("%Y%m%dT%H%M%S%.3fZ").to_string())
    }

    /// Reads a name; `None` when it is not one, such as one that would lead to another folder.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'T' | b'Z' | b'.'));
        (plain && (16..=24).contains(&text.len()) && !text.starts_with('.')).then(|| Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A snapshot that is whole and on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// The volume.
    pub volume: VolumeId,
    /// Its number.
    pub number: VolumeNumber,
    /// The volume's size then.
    pub size: VolumeSize,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Whether an instance ran and its file system was frozen for the moment; `false`: nobody had the volume.
    pub frozen: bool,
}

/// A snapshot that is being taken. It is removed with this value unless it was kept.
#[derive(Debug)]
pub struct NewSnapshot {
    folder: PathBuf,
    image: PathBuf,
    described: Snapshot,
}

impl NewSnapshot {
    /// The file to fill.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.image
    }

    /// Says that the file is whole: the snapshot is listed when this returns, also after a power cut.
    ///
    /// # Errors
    /// [`VolumeError::File`].
    pub fn keep(self, frozen: bool) -> Result<Snapshot, VolumeError> {
        File::open(&self.image).and_then(|file| file.sync_all()).map_err(failed("write", &self.image))?;
        let described = Snapshot { frozen, ..self.described.clone() };
        let image = self.folder.join(format!("{}.img", described.id.as_str()));
        fs::rename(&self.image, &image).map_err(failed("rename", &self.image))?;
        let text = serde_json::to_vec(&described).expect("plain data with text keys");
        let (new, path) = (self.folder.join(format!("{NEW}json")), description(&self.folder, &described.id));
        fs::write(&new, text).and_then(|()| File::open(&new)?.sync_all()).map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("rename", &new))?;
        sync_folder(&path)?;
        Ok(described)
    }
}

impl Drop for NewSnapshot {
    fn drop(&mut self) {
        // After `keep` it has another name. One that stays is removed with the next snapshot.
        let _ = fs::remove_file(&self.image);
    }
}

fn description(folder: &Path, id: &SnapshotId) -> PathBuf {
    folder.join(format!("{}.json", id.as_str()))
}

impl VolumeStore {
    fn snapshots_of(&self, number: VolumeNumber) -> PathBuf {
        self.root().join("snapshots").join(number.to_string())
    }

    /// Begins a snapshot. One of a volume at a time; what a kill left of an earlier one is removed.
    ///
    /// # Errors
    /// [`VolumeError::File`].
    pub fn begin_snapshot(
        &self,
        volume: &VolumeId,
        number: VolumeNumber,
        size: VolumeSize,
        now: Timestamp,
    ) -> Result<NewSnapshot, VolumeError> {
        let folder = self.snapshots_of(number);
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        let listed = self.snapshots(number)?;
        for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
            let path = entry.map_err(failed("read", &folder))?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if !listed.iter().any(|snapshot| snapshot.id.as_str() == stem) {
                remove(&path)?;
            }
        }
        let id = SnapshotId::at(now);
        let image = folder.join(format!("{NEW}{}.img", id.as_str()));
        let described = Snapshot { id, volume: volume.clone(), number, size, taken_at: now, frozen: false };
        Ok(NewSnapshot { folder, image, described })
    }

    /// The snapshots of a volume, oldest first.
    ///
    /// # Errors
    /// [`VolumeError::File`].
    pub fn snapshots(&self, number: VolumeNumber) -> Result<Vec<Snapshot>, VolumeError> {
        let folder = self.snapshots_of(number);
        let mut found: Vec<Snapshot> = Vec::new();
        if !folder.exists() {
            return Ok(found);
        }
        for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
            let path = entry.map_err(failed("read", &folder))?.path();
            let named = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if named.ends_with(".json") && !named.starts_with(NEW) {
                let text = fs::read(&path).map_err(failed("read", &path))?;
                let read = serde_json::from_slice(&text).map_err(|error| failed("read", &path)(error.into()));
                found.push(read?);
            }
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// Bytes that the snapshots of a volume take on the disk, blocks that they share with it counted too.
    #[must_use]
    pub fn snapshots_take(&self, number: VolumeNumber) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(entries) = fs::read_dir(self.snapshots_of(number)) else { return 0 };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
    }

    /// The file of a snapshot.
    ///
    /// # Errors
    /// [`VolumeError::NoSnapshot`], or [`VolumeError::File`].
    pub fn snapshot(&self, number: VolumeNumber, id: &SnapshotId) -> Result<(Snapshot, PathBuf), VolumeError> {
        let found = self.snapshots(number)?.into_iter().find(|snapshot| snapshot.id == *id);
        let found = found.ok_or_else(|| VolumeError::NoSnapshot(id.as_str().to_owned()))?;
        let image = self.snapshots_of(number).join(format!("{}.img", id.as_str()));
        Ok((found, image))
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// [`VolumeError::NoSnapshot`], or [`VolumeError::File`].
    pub fn delete_snapshot(&self, number: VolumeNumber, id: &SnapshotId) -> Result<(), VolumeError> {
        let (_, image) = self.snapshot(number, id)?;
        // First the description: a snapshot without its file is none.
        remove(&description(&self.snapshots_of(number), id))?;
        remove(&image)?;
        sync_folder(&image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_listed_when_it_is_whole_and_never_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = VolumeStore::open(folder.path().to_owned()).unwrap();
        let (number, size) = (VolumeNumber(7), VolumeSize::from_mib(16).unwrap());
        let volume: VolumeId = "hello:data".parse().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let begin = |second| store.begin_snapshot(&volume, number, size, at(second)).unwrap();
        let torn = begin(100);
        fs::write(torn.path(), b"torn").unwrap();
        // As after a kill: nobody removed it.
        std::mem::forget(torn);
        assert_eq!(store.snapshots(number).unwrap(), []);
        let whole = begin(200);
        fs::write(whole.path(), b"whole").unwrap();
        let kept = whole.keep(true).unwrap();
        assert_eq!(store.snapshots(number).unwrap(), std::slice::from_ref(&kept));
        let (_, image) = store.snapshot(number, &kept.id).unwrap();
        assert_eq!(fs::read(image).unwrap(), b"whole");
        let files = fs::read_dir(store.snapshots_of(number)).unwrap().count();
        assert_eq!(files, 2, "what a kill left is gone");
        store.delete_snapshot(number, &kept.id).unwrap();
        assert!(matches!(store.snapshot(number, &kept.id), Err(VolumeError::NoSnapshot(_))));
    }

    #[test]
    fn names_lead_nowhere_else() {
        let id = SnapshotId::at(Timestamp::from_second(0).unwrap());
        assert_eq!(SnapshotId::parse(id.as_str()), Some(id));
        for bad in ["", "../x", "..............................", "20260131T120000/0000Z", ".0260131T120000.000Z"] {
            assert_eq!(SnapshotId::parse(bad), None, "{bad}");
        }
    }
}
