//! Volumes: mounted into the app's root, grown with their disks, frozen for a moment and never longer.

#![allow(
    unsafe_code,
    reason = "three ioctls on file systems, each made of the number and argument its manual page names"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, TryRecvError};

use holm_guest_control::{ErrorBody, ErrorCode, GuestVolume, VolumeAction};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl};
use rustix::mount::MountFlags;

use crate::boot::Uevents;
use crate::clock;
use crate::console::say;
use crate::root::Root;
use crate::users::Identity;

/// `FIFREEZE` and `FITHAW` of linux/fs.h, `EXT4_IOC_RESIZE_FS` of fs/ext4/ext4.h.
const FIFREEZE: rustix::ioctl::Opcode = 0xc004_5877;
const FITHAW: rustix::ioctl::Opcode = 0xc004_5878;
const EXT4_IOC_RESIZE_FS: rustix::ioctl::Opcode = 0x4008_6610;

/// The longest time a volume may be frozen.
const MAX_FREEZE_MS: u64 = 60_000;
/// What mkfs.ext4 leaves in an empty file system.
const LOST_AND_FOUND: &str = "lost+found";

/// The volumes of the guest.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    mounted: Vec<Mounted>,
    flushing: Vec<Flushing>,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// In which session.
    pub(crate) session: u64,
    /// With which request.
    pub(crate) id: u32,
}

/// A volume that is about to be frozen. What waits in memory is written out before, beside everything else, so that
/// writers wait for a moment only, and PID 1 not at all.
#[derive(Debug)]
struct Flushing {
    serial: String,
    limit_ms: u64,
    asked: Asked,
    done: mpsc::Receiver<Result<(), Errno>>,
}

#[derive(Debug)]
struct Mounted {
    serial: String,
    device: PathBuf,
    /// The root of its file system.
    dir: OwnedFd,
    /// Until when it is frozen, by the clock of the boot.
    frozen_until: Option<u64>,
}

impl Volumes {
    /// Mounts every volume below `root`. On an error the ones before it stay mounted: the guest does not start then.
    pub(crate) fn mount(root: &Root, volumes: &[GuestVolume], owner: &Identity) -> Result<Self, String> {
        let mut made = Self::default();
        for volume in volumes {
            let mounted = mount_one(root, volume, owner);
            made.mounted.push(mounted.map_err(|why| format!("cannot mount a volume on {}: {why}", volume.path))?);
        }
        Ok(made)
    }

    /// Does what the host asks for. `false`: it is under way, and [`Volumes::flushed`] will answer, some time after a byte
    /// was written to `wake`.
    pub(crate) fn act(
        &mut self,
        asked: Asked,
        serial: &str,
        action: VolumeAction,
        wake: &UnixStream,
    ) -> Result<bool, ErrorBody> {
        let volume = self.mounted.iter_mut().find(|volume| volume.serial == serial);
        let volume = volume
            .ok_or_else(|| error(ErrorCode::Invalid, format!("there is no volume with the serial `{serial}`")))?;
        match action {
            VolumeAction::Grow => {
                // Growing a frozen file system waits for its thaw, and PID 1 with it: a host that asks for it while one is
                // frozen has forgotten about that. Whoever reads the disk hears so at the thaw.
                volume.thaw().map_err(|errno| failed("thaw", errno))?;
                volume.grow().map_err(|errno| failed("grow", errno)).map(|()| true)
            }
            VolumeAction::Freeze { limit_ms } => {
                let done = volume.flush(wake).map_err(|why| failed("flush", why))?;
                let limit_ms = limit_ms.min(MAX_FREEZE_MS);
                self.flushing.push(Flushing { serial: serial.to_owned(), limit_ms, asked, done });
                Ok(false)
            }
            VolumeAction::Thaw if volume.frozen_until.is_none() => {
                Err(error(ErrorCode::Refused, "the volume was thawed already: its time was over".to_owned()))
            }
            VolumeAction::Thaw => volume.thaw().map_err(|errno| failed("thaw", errno)).map(|()| true),
        }
    }

    /// Freezes the volumes that have been written out meanwhile, and gives the answers that are due. A host that has gone
    /// gets none, and its volume is left as it is.
    pub(crate) fn flushed(&mut self, session: Option<u64>) -> Vec<(u32, Result<(), ErrorBody>)> {
        let Self { mounted, flushing } = self;
        let mut answers = Vec::new();
        flushing.retain(|flushing| {
            let flushed = match flushing.done.try_recv() {
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => Err(Errno::IO),
                Ok(flushed) => flushed,
            };
            if session == Some(flushing.asked.session)
                && let Some(volume) = mounted.iter_mut().find(|volume| volume.serial == flushing.serial)
            {
                let frozen = flushed.and_then(|()| volume.freeze(flushing.limit_ms));
                answers.push((flushing.asked.id, frozen.map_err(|errno| failed("freeze", errno))));
            }
            false
        });
        answers
    }

    /// Leaves everything thawed: the host that froze it is gone, or the guest is about to power off.
    pub(crate) fn let_go(&mut self) {
        self.flushing.clear();
        self.thaw_due(None);
    }

    /// When the first volume has to be thawed.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.mounted.iter().filter_map(|volume| volume.frozen_until).min()
    }

    /// Thaws what has been frozen for too long; with `None` everything.
    pub(crate) fn thaw_due(&mut self, now: Option<u64>) {
        for volume in &mut self.mounted {
            if volume.frozen_until.is_some_and(|until| now.is_none_or(|now| until <= now)) {
                say(format_args!("thawing a volume that its host has left frozen"));
                if let Err(errno) = volume.thaw() {
                    say(format_args!("cannot thaw {}: {errno}", volume.device.display()));
                }
            }
        }
    }
}

fn error(code: ErrorCode, message: String) -> ErrorBody {
    ErrorBody { code, message }
}

fn failed(what: &str, why: impl std::fmt::Display) -> ErrorBody {
    error(ErrorCode::Failed, format!("cannot {what} the volume: {why}"))
}

impl Mounted {
    /// Writes out what waits in memory, on a thread of its own, which tells when it is done.
    fn flush(&self, wake: &UnixStream) -> std::io::Result<mpsc::Receiver<Result<(), Errno>>> {
        let (dir, mut wake) = (self.dir.try_clone()?, wake.try_clone()?);
        let (sender, receiver) = mpsc::channel();
        std::thread::Builder::new().spawn(move || {
            // PID 1 may have let go of it meanwhile.
            let _ = sender.send(rustix::fs::syncfs(&dir));
            let _ = wake.write(&[1]);
        })?;
        Ok(receiver)
    }

    fn freeze(&mut self, limit_ms: u64) -> Result<(), Errno> {
        if self.frozen_until.is_none() {
            // SAFETY: FIFREEZE takes an int that it does not read; the descriptor is open.
            unsafe { ioctl(&self.dir, Setter::<FIFREEZE, i32>::new(0)) }?;
        }
        self.frozen_until = Some(clock::since_boot_ns().saturating_add(limit_ms * 1_000_000));
        Ok(())
    }

    fn thaw(&mut self) -> Result<(), Errno> {
        // SAFETY: FITHAW takes an int that it does not read; the descriptor is open.
        let thawed = unsafe { ioctl(&self.dir, Setter::<FITHAW, i32>::new(0)) };
        self.frozen_until = None;
        match thawed {
            // Not frozen: just as well.
            Err(Errno::INVAL) => Ok(()),
            other => other,
        }
    }

    /// Lets the file system fill its disk.
    fn grow(&self) -> Result<(), Errno> {
        let block = rustix::fs::fstatfs(&self.dir)?.f_bsize;
        let sectors = sectors_of(&self.device).ok_or(Errno::NODEV)?;
        let blocks = sectors * 512 / u64::try_from(block).map_err(|_| Errno::RANGE)?.max(1);
        // SAFETY: EXT4_IOC_RESIZE_FS reads a u64, the new count of blocks, and `blocks` is one.
        unsafe { ioctl(&self.dir, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks)) }
    }
}

/// The size of a disk in sectors of 512 bytes.
fn sectors_of(device: &Path) -> Option<u64> {
    let size = fs::read_to_string(Path::new("/sys/block").join(device.file_name()?).join("size")).ok()?;
    size.trim().parse().ok()
}

fn find_disk(serial: &str) -> Option<PathBuf> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("serial")).ok()?;
        let device = Path::new("/dev").join(entry.file_name());
        (found.trim() == serial && device.exists()).then_some(device)
    })
}

fn mount_one(root: &Root, volume: &GuestVolume, owner: &Identity) -> Result<Mounted, String> {
    let uevents = Uevents::open().map_err(|errno| format!("cannot hear device events: {errno}"))?;
    let device = uevents.wait_for(|| find_disk(&volume.serial));
    let device = device.ok_or_else(|| format!("no disk with the serial `{}`", volume.serial))?;
    root.make_folders(&volume.path, 0, 0).map_err(|error| error.to_string())?;
    let place = root.open_folder(&volume.path).map_err(|errno| format!("cannot open the folder: {errno}"))?;
    // Through the descriptor, so that no link of the image leads elsewhere.
    let target = format!("/proc/self/fd/{}", place.as_raw_fd());
    // What is deleted is given back to the host at once, and is not in backups.
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    rustix::mount::mount(&device, target.as_str(), "ext4", flags, Some(c"errors=remount-ro,discard"))
        .map_err(|errno| format!("cannot mount {} as ext4: {errno}", device.display()))?;
    // The descriptor above stands for the folder below the mount.
    let dir = root.open_folder(&volume.path).map_err(|errno| format!("cannot open the volume: {errno}"))?;
    let dir = rustix::fs::openat(&dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| format!("cannot open the volume: {errno}"))?;
    let mounted = Mounted { serial: volume.serial.clone(), device, dir, frozen_until: None };
    // It may have grown while nobody had it.
    mounted.grow().map_err(|errno| format!("cannot grow the file system: {errno}"))?;
    give_if_empty(&mounted.dir, owner).map_err(|error| format!("cannot give it to the app's user: {error}"))?;
    Ok(mounted)
}

/// A file system that nobody has written to yet becomes the app user's, without what mkfs left in it: some databases want
/// an empty folder.
fn give_if_empty(dir: &OwnedFd, owner: &Identity) -> std::io::Result<()> {
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let names: Vec<_> = fs::read_dir(&path)?.flatten().map(|entry| entry.file_name()).collect();
    if names.iter().any(|name| name != LOST_AND_FOUND) {
        return Ok(());
    }
    if !names.is_empty() {
        fs::remove_dir(Path::new(&path).join(LOST_AND_FOUND))?;
        rustix::fs::fchown(dir, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
        File::from(rustix::io::fcntl_dupfd_cloexec(dir, 3)?).sync_all()?;
    }
    Ok(())
}
