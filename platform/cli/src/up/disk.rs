//! The disk of this host: how much of it may be promised, and what is left beside what was.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use holm_manifest::Memory;
use holm_model::state::State;
use holm_planner::Disk;
use holm_volume::VolumeStore;

/// Part of the file system that is never promised, for the database, images and Holm's own log, and in bytes at least.
const RESERVE: (u64, u64) = (16, 1 << 30);

/// The folders of a state folder in which promised room is used.
const PROMISED: [&str; 2] = ["volumes", "agent"];

/// What volumes, their snapshots and logs may take together, in bytes: what was asked for, else what they take and what is
/// free on the file system of the state folder, less a sixteenth of that and at least 1 GiB, but not more than half.
pub(super) fn cap(asked: Option<Memory>, state_dir: &Path) -> Result<u64> {
    if let Some(asked) = asked {
        return Ok(asked.bytes());
    }
    let (size, free) = figures(state_dir).context("cannot read how much disk the host has")?;
    let own = PROMISED.iter().map(|folder| taken(&state_dir.join(folder))).sum();
    Ok(room(size, free, own))
}

/// Size and free space of the file system of a folder, in bytes.
fn figures(folder: &Path) -> io::Result<(u64, u64)> {
    let seen = rustix::fs::statvfs(folder)?;
    Ok((seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize))
}

/// The room there is on a file system of `size` bytes, `free` of them, when `own` bytes are used by what was promised room. At
/// most half of what there is is kept back.
fn room(size: u64, free: u64, own: u64) -> u64 {
    let there = free + own;
    let reserve = (size / RESERVE.0).max(RESERVE.1).min(there / 2);
    (there - reserve) >> 20 << 20
}

/// Bytes that the files below a folder take on the disk. What cannot be read counts nothing.
fn taken(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => taken(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// What the disk has, against what was promised and not used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// Bytes that were promised and are not used yet.
    pub(super) owed: u64,
    /// Bytes that are free.
    pub(super) free: u64,
}

impl Left {
    /// Looks at the disk.
    ///
    /// # Errors
    /// When its figures cannot be read.
    pub(super) fn look(state: &State, state_dir: &Path, volumes: &VolumeStore) -> io::Result<Self> {
        let (_, free) = figures(state_dir)?;
        let (mut listed, mut used) = (0, 0);
        for volume in state.volumes.values() {
            let of_volume = volumes.used(volume.number, &volume.origin).unwrap_or(0);
            used += of_volume.min(volume.size.bytes()) + volumes.snapshots_take(volume.number).min(volume.snapshots);
            listed += volume.size.bytes() + volume.snapshots;
        }
        let promised = Disk::of(state).promised();
        used += taken(&state_dir.join("agent")).min(promised.saturating_sub(listed));
        Ok(Self { owed: promised.saturating_sub(used), free })
    }

    /// Bytes that are neither promised nor used.
    pub(super) const fn spare(self) -> u64 {
        self.free.saturating_sub(self.owed)
    }
}

#[cfg(test)]
mod tests {
    use holm_manifest::VolumeSize;
    use holm_model::event::{Event, Recorded};
    use holm_model::volume::{VolumeNumber, VolumeOrigin, VolumeTarget};

    use super::*;

    #[test]
    fn a_part_of_the_disk_is_never_promised() {
        const GIB: u64 = 1 << 30;
        let table = [
            ((160 * GIB, 100 * GIB, 0), 90 * GIB),
            ((160 * GIB, 60 * GIB, 40 * GIB), 90 * GIB),
            ((8 * GIB, 8 * GIB, 0), 7 * GIB),
            ((GIB, GIB, 0), GIB / 2),
            ((160 * GIB, 4 * GIB, 2 * GIB), 3 * GIB),
            ((160 * GIB, 0, 0), 0),
        ];
        for ((size, free, own), expected) in table {
            assert_eq!(room(size, free, own), expected, "{size} {free} {own}");
        }
    }

    #[test]
    fn what_is_written_is_owed_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = VolumeStore::open(folder.path().join("volumes")).unwrap();
        let mut state = State::default();
        let size = VolumeSize::from_mib(64).unwrap();
        let volume = "hello:data".parse().unwrap();
        let event = Event::VolumeCreated { volume, size, origin: VolumeOrigin::Empty };
        let (seq, at) = (state.seq.next(), jiff::Timestamp::UNIX_EPOCH);
        state.apply(&Recorded { seq, at, actor: "test".to_owned(), cause: None, event });
        let owed = || Left::look(&state, folder.path(), &volumes).unwrap().owed;
        assert_eq!(owed(), 64 << 20);
        let file = volumes.ensure(VolumeNumber(1), &VolumeTarget { size, origin: VolumeOrigin::Empty }).unwrap();
        let fresh = owed();
        assert!(fresh < 64 << 20, "{fresh}");
        let file = std::fs::File::options().write(true).open(file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![1; 8 << 20], 40 << 20).unwrap();
        file.sync_all().unwrap();
        assert!(owed() + (7 << 20) < fresh, "{} {fresh}", owed());
        assert_eq!(Left { owed: 5, free: 7 }.spare(), 2);
        assert_eq!(Left { owed: 7, free: 5 }.spare(), 0);
    }
}
