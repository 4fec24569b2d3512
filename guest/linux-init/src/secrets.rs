//! Secrets in the app's root: files on a file system in memory that nobody can write to once they are there.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use holm_guest_control::secrets::{ALL_FILE, FOLDER, GuestSecrets};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::root::{Root, RootError, at, at_io};
use crate::users::Identity;

/// The file system's options. Room for the largest set twice, in pages: a file takes 4 KiB at least.
const OPTIONS: &CStr = c"mode=0755,size=4m,nr_inodes=512";

/// A secret with the owner of its file.
pub(crate) struct Owned<'s> {
    pub(crate) name: &'s str,
    pub(crate) value: &'s [u8],
    pub(crate) mode: u32,
    pub(crate) owner: Identity,
}

/// Makes the file system in `root` and writes the secrets; `app` owns the file with all of them.
pub(crate) fn deliver(root: &Root, all: &GuestSecrets, files: &[Owned<'_>], app: &Identity) -> Result<(), RootError> {
    root.make_folders(FOLDER, 0, 0)?;
    // By descriptor: a link in the image must not lead the mount out of the root.
    let place = root.open(FOLDER, OFlags::PATH | OFlags::DIRECTORY).map_err(at(format!("open {FOLDER}")))?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let step = || format!("mount the secrets on {FOLDER}");
    rustix::mount::mount("tmpfs", below(&place.as_fd()), "tmpfs", quiet, OPTIONS).map_err(at(step()))?;
    let folder = root.open(FOLDER, OFlags::PATH | OFlags::DIRECTORY).map_err(at(step()))?;
    rustix::mount::mount_change(below(&folder.as_fd()), MountPropagationFlags::PRIVATE).map_err(at(step()))?;
    for file in files {
        write(folder.as_fd(), file.name, file.value, file.mode, &file.owner)?;
    }
    write(folder.as_fd(), ALL_FILE, &all.render(), 0o400, app)?;
    rustix::mount::mount_remount(below(&folder.as_fd()), quiet | MountFlags::RDONLY, c"")
        .map_err(at("make the secrets read-only"))
}

fn below(folder: &BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", folder.as_raw_fd())
}

fn write(folder: BorrowedFd<'_>, name: &str, bytes: &[u8], mode: u32, owner: &Identity) -> Result<(), RootError> {
    let step = || format!("write the secret {name}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600)).map_err(at(step()))?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(at(step()))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(at(step()))?;
    File::from(fd).write_all(bytes).map_err(at_io(step()))
}
