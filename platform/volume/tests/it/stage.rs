//! A volume that is backed up again and again, a second apart.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use holm_manifest::VolumeSize;
use holm_model::volume::{VolumeId, VolumeNumber};
use holm_volume::SnapshotId;
use holm_volume::backup::{BackupError, BackupId, CHUNK, Made, NewBackup, Rate, Source, Vault};
use jiff::Timestamp;

/// The size of the volume.
const MIB: u64 = 16;

/// How many chunks it has.
pub(crate) const PLACES: u64 = (MIB << 20) / CHUNK as u64;

pub(crate) struct Stage {
    folder: tempfile::TempDir,
    seconds: i64,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let stage = Self { folder: tempfile::tempdir().unwrap(), seconds: 1_800_000_000 };
        std::fs::File::create(stage.disk()).unwrap().set_len(MIB << 20).unwrap();
        stage
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn disk(&self) -> PathBuf {
        self.folder().join("disk")
    }

    /// What the volume holds.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.disk()).unwrap()
    }

    /// Writes into the chunk `place`.
    pub(crate) fn write(&self, place: u64, bytes: &[u8]) {
        let disk = std::fs::File::options().write(true).open(self.disk()).unwrap();
        disk.write_all_at(bytes, place * u64::from(CHUNK) + 7).unwrap();
    }

    /// The next backup, which follows the newest in `vault`.
    pub(crate) async fn next(&mut self, vault: &Vault) -> Result<NewBackup, BackupError> {
        self.seconds += 1;
        let taken_at = Timestamp::from_second(self.seconds).unwrap();
        let follows = match vault.newest(&volume()).await? {
            Some(id) => Some(vault.index(&id).await?),
            None => None,
        };
        Ok(NewBackup {
            id: BackupId { volume: volume(), moment: SnapshotId::at(taken_at) },
            number: VolumeNumber(7),
            size: VolumeSize::from_mib(MIB).unwrap(),
            taken_at,
            file_system: None,
            follows,
            source: Source::Whole(self.disk()),
        })
    }

    pub(crate) async fn make(&mut self, vault: &Vault) -> Result<Made, BackupError> {
        let new = self.next(vault).await?;
        vault.make(new, &Rate::new(0)).await
    }

    /// What a restore of the backup `id` gives.
    pub(crate) async fn restored(&self, vault: &Vault, id: &BackupId) -> Result<Vec<u8>, BackupError> {
        let to = self.folder().join("restored");
        vault.restore(id, &to, &Rate::new(0)).await?;
        Ok(std::fs::read(to).unwrap())
    }
}

pub(crate) fn volume() -> VolumeId {
    "hello:data".parse().unwrap()
}
