//! Volumes on one host: their files, their snapshots, and their backups in an object store.
//!
//! Owns the folder of volumes and the format of backups. May not touch: the state log, microVMs and guests; whoever has a
//! running one freezes it and makes QEMU copy its disk.
//!
//! | module | concept |
//! | --- | --- |
//! | `store` | the files of volumes, made, grown and removed as the target says |
//! | `snapshot` | copies of a volume on the same host |
//! | `copy` | copying a file and its holes |
//! | `file_system` | which file system a file holds |
//! | `qcow2` | the clusters that QEMU found changed |
//! | `backup` | chunks, sealed and stored; what each backup is made of |

#![forbid(unsafe_code)]

pub mod backup;
mod copy;
mod file_system;
mod qcow2;
mod snapshot;
mod store;

pub use copy::{clone_or_copy, try_clone};
pub use file_system::file_system_of;
pub use qcow2::{ChangedClusters, Qcow2Error};
pub use snapshot::{NewSnapshot, Snapshot, SnapshotId};
pub use store::{Staged, VolumeError, VolumeStore};
