//! What is asked about volumes, snapshots and backups beyond commands: the host does these itself, and they may take long.

use holm_manifest::VolumeSize;
use holm_model::access::Permission;
use holm_model::id::InstanceName;
use holm_model::volume::VolumeId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::access::Need;

/// Something asked of the host's storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum StorageRequest {
    /// The volumes, or one of them.
    Volumes {
        /// Which; `None`: all.
        volume: Option<VolumeId>,
    },
    /// Take a snapshot.
    TakeSnapshot {
        /// Of which volume.
        volume: VolumeId,
    },
    /// The snapshots, oldest first.
    Snapshots {
        /// Of which volume; `None`: of all.
        volume: Option<VolumeId>,
    },
    /// Remove a snapshot.
    DeleteSnapshot {
        /// Of which volume.
        volume: VolumeId,
        /// Its moment.
        moment: String,
    },
    /// Make a new volume from a snapshot.
    RestoreSnapshot {
        /// Of which volume.
        volume: VolumeId,
        /// Its moment.
        moment: String,
        /// The volume to be.
        to: VolumeId,
    },
    /// Make a backup.
    Backup {
        /// Of which volume.
        volume: VolumeId,
        /// Bytes per second at most; `None`: what Holm was started with.
        rate: Option<u64>,
        /// Every chunk is sent again, also those that the store should have: mends a store that lost some.
        #[serde(default)]
        whole: bool,
    },
    /// The backups, those of each volume oldest first.
    Backups {
        /// Of which volume; `None`: of all in the store, also of volumes that are gone.
        volume: Option<VolumeId>,
    },
    /// Read a backup back and check it.
    VerifyBackup {
        /// Of which volume.
        volume: VolumeId,
        /// Its moment; `None`: the newest.
        moment: Option<String>,
        /// As for a backup.
        rate: Option<u64>,
    },
    /// Make a new volume from a backup.
    RestoreBackup {
        /// Of which volume, which may be gone.
        volume: VolumeId,
        /// Its moment; `None`: the newest.
        moment: Option<String>,
        /// The volume to be.
        to: VolumeId,
        /// As for a backup.
        rate: Option<u64>,
    },
    /// Remove all but the newest backups, and what only those needed.
    PruneBackups {
        /// Of which volume; `None`: of each.
        volume: Option<VolumeId>,
        /// How many stay, at least 1.
        keep: u32,
    },
}

impl StorageRequest {
    /// The permission it needs from afar. A copy of one app's volume for another app needs a token for the whole host: else
    /// a token for the other app would read what this one keeps.
    #[must_use]
    pub fn need(&self) -> Need {
        use Permission::{Deploy, Destroy, Host, Read};
        let app = |volume: &Option<VolumeId>| volume.as_ref().map(|volume| volume.app.clone());
        match self {
            Self::Volumes { volume } | Self::Snapshots { volume } | Self::Backups { volume } => {
                Need::For(Read, app(volume))
            }
            Self::TakeSnapshot { volume } | Self::Backup { volume, .. } | Self::VerifyBackup { volume, .. } => {
                Need::For(Deploy, Some(volume.app.clone()))
            }
            Self::DeleteSnapshot { volume, .. } => Need::For(Destroy, Some(volume.app.clone())),
            Self::PruneBackups { volume, .. } => Need::For(Destroy, app(volume)),
            Self::RestoreSnapshot { volume, to, .. } | Self::RestoreBackup { volume, to, .. } => {
                if volume.app == to.app { Need::For(Deploy, Some(to.app.clone())) } else { Need::For(Host, None) }
            }
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Volumes { .. } => "volumes",
            Self::TakeSnapshot { .. } => "snapshots create",
            Self::Snapshots { .. } => "snapshots",
            Self::DeleteSnapshot { .. } => "snapshots delete",
            Self::RestoreSnapshot { .. } => "snapshots restore",
            Self::Backup { .. } => "backups create",
            Self::Backups { .. } => "backups",
            Self::VerifyBackup { .. } => "backups verify",
            Self::RestoreBackup { .. } => "backups restore",
            Self::PruneBackups { .. } => "backups prune",
        }
    }

    /// The volume it is about.
    #[must_use]
    pub const fn volume(&self) -> Option<&VolumeId> {
        match self {
            Self::Volumes { volume }
            | Self::Snapshots { volume }
            | Self::Backups { volume }
            | Self::PruneBackups { volume, .. } => volume.as_ref(),
            Self::TakeSnapshot { volume }
            | Self::DeleteSnapshot { volume, .. }
            | Self::RestoreSnapshot { volume, .. }
            | Self::Backup { volume, .. }
            | Self::VerifyBackup { volume, .. }
            | Self::RestoreBackup { volume, .. } => Some(volume),
        }
    }

    /// Whether it only looks: then what came of it is not taken down, unless it was refused.
    #[must_use]
    pub const fn looks_only(&self) -> bool {
        matches!(self, Self::Volumes { .. } | Self::Snapshots { .. } | Self::Backups { .. } | Self::VerifyBackup { .. })
    }
}

/// What the host answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "body", rename_all = "snake_case")]
pub enum StorageAnswer {
    /// Volumes.
    Volumes(Vec<VolumeView>),
    /// A snapshot was taken.
    Snapshot(SnapshotView),
    /// Snapshots.
    Snapshots(Vec<SnapshotView>),
    /// It was done.
    Done,
    /// A volume was made.
    Restored(RestoredView),
    /// A backup was made.
    Backup(BackupView),
    /// Backups.
    Backups(Vec<BackupListed>),
    /// A backup is whole.
    Verified(VerifiedView),
    /// What was removed.
    Pruned(PrunedView),
}

/// A volume, as recorded and as the host has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeView {
    /// Which.
    pub volume: VolumeId,
    /// Its size.
    pub size: VolumeSize,
    /// Bytes it takes on the host; `None`: nobody has had it yet.
    pub used: Option<u64>,
    /// The instance that has it.
    pub holder: Option<InstanceName>,
    /// What it was made from, when it did not begin empty.
    pub origin: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// Its file on the host.
    pub file: String,
    /// How many snapshots it has.
    pub snapshots: usize,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Of which volume.
    pub volume: VolumeId,
    /// Its moment, which is its name.
    pub moment: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// The volume's size then.
    pub size: VolumeSize,
    /// Whether an instance ran and was frozen for the moment.
    pub frozen: bool,
}

/// A volume that was made from a snapshot or a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredView {
    /// The new volume.
    pub volume: VolumeId,
    /// Its size.
    pub size: VolumeSize,
    /// What it was made from.
    pub from: String,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// Of which volume.
    pub volume: VolumeId,
    /// Its moment, which is its name.
    pub moment: String,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes read of it.
    pub read: u64,
    /// Bytes sent to the store.
    pub sent: u64,
    /// Whether only what had changed was read.
    pub only_changes: bool,
}

/// A backup that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupListed {
    /// Of which volume.
    pub volume: VolumeId,
    /// Its moment, which is its name.
    pub moment: String,
    /// When it was written.
    pub written_at: Timestamp,
}

/// A backup that was read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedView {
    /// Of which volume.
    pub volume: VolumeId,
    /// Its moment.
    pub moment: String,
    /// Chunks that were read and checked.
    pub chunks: u64,
    /// Bytes read from the store.
    pub read: u64,
}

/// What was removed from the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedView {
    /// The backups, as `hello:data@MOMENT`.
    pub backups: Vec<String>,
    /// Chunks that no backup named.
    pub chunks: u64,
    /// Their size.
    pub bytes: u64,
}
