//! The app's root: the image read-only, a writable layer in memory above it, and the usual mounts inside.
//!
//! It is built below `/run/holm/root` in PID 1's own view and becomes `/` in a second mount namespace. PID 1
//! stays in the first: a broken image cannot hurt it. Every path that comes from the image or the configuration is
//! resolved by the kernel inside the root (`RESOLVE_IN_ROOT`).

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use holm_guest_control::{Config, GuestFile, RootOptions};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::process::{Place, own_mounts};
use crate::{boot, cgroup, etc};

const LOWER: &str = "/run/holm/lower";
const WRITABLE: &str = "/run/holm/rw";
const ROOT: &str = "/run/holm/root";

/// Most bytes read of a file in the image.
const READ_LIMIT: u64 = 1024 * 1024;

/// Why the app's root cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("no block device with serial `rootfs` and no /dev/vda")]
    NoDevice,
    #[error("cannot {step}: {source}")]
    Step { step: String, source: std::io::Error },
    #[error("the image's `{0}` is not a folder")]
    NotAFolder(&'static str),
}

pub(crate) fn at(step: impl Into<String>) -> impl FnOnce(Errno) -> RootError {
    let step = step.into();
    move |source| RootError::Step { step, source: source.into() }
}

pub(crate) fn at_io(step: impl Into<String>) -> impl FnOnce(std::io::Error) -> RootError {
    let step = step.into();
    move |source| RootError::Step { step, source }
}

fn mount(kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<(), RootError> {
    let data = CString::new(data).map_err(|e| at_io(format!("mount {kind}"))(e.into()))?;
    rustix::mount::mount(kind, target, kind, flags, data.as_c_str()).map_err(at(format!("mount {kind} on {target}")))
}

/// Mounts the image, read-only. The device must be there.
pub(crate) fn mount_image() -> Result<(), RootError> {
    let device = boot::find_root_device().ok_or(RootError::NoDevice)?;
    fs::create_dir_all(LOWER).map_err(at_io(format!("make {LOWER}")))?;
    rustix::mount::mount(&device, LOWER, "erofs", MountFlags::RDONLY | MountFlags::NODEV, None)
        .map_err(at(format!("mount the image on {} as erofs", device.display())))
}

/// The app's root, complete.
pub(crate) struct Root {
    dir: OwnedFd,
}

impl Root {
    /// Lays the writable layer over the image and makes the mounts inside.
    pub(crate) fn assemble(options: &RootOptions) -> Result<Self, RootError> {
        for dir in [WRITABLE, ROOT] {
            fs::create_dir_all(dir).map_err(at_io(format!("make {dir}")))?;
        }
        let size = options.writable_max.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
        mount("tmpfs", WRITABLE, MountFlags::NODEV, &format!("mode=0755{size}"))?;
        let upper = format!("{WRITABLE}/upper");
        for dir in [upper.clone(), format!("{WRITABLE}/work")] {
            fs::create_dir_all(&dir).map_err(at_io(format!("make {dir}")))?;
        }
        // The overlay's root looks like its upper folder: give it the image's mode and owner.
        let image = fs::metadata(LOWER).map_err(at_io("look at the image's root"))?;
        fs::set_permissions(&upper, fs::Permissions::from_mode(image.mode() & 0o7777))
            .map_err(at_io("set the root's mode"))?;
        std::os::unix::fs::chown(&upper, Some(image.uid()), Some(image.gid()))
            .map_err(at_io("set the root's owner"))?;
        let layers = format!("lowerdir={LOWER},upperdir={upper},workdir={WRITABLE}/work");
        mount("overlay", ROOT, MountFlags::NODEV, &layers)?;

        let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        for dir in ["proc", "sys", "dev"] {
            inner_folder(dir)?;
        }
        mount("proc", &format!("{ROOT}/proc"), safe, "")?;
        mount("sysfs", &format!("{ROOT}/sys"), safe | MountFlags::RDONLY, "")?;
        mount("cgroup2", &format!("{ROOT}/sys/fs/cgroup"), safe | MountFlags::RDONLY, "")?;
        make_dev()?;
        make_tmp()?;
        let dir = rustix::fs::open(ROOT, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(at("open the root"))?;
        Ok(Self { dir })
    }

    /// Makes the app's mount namespace, in which the root is `/`. Call before any thread is started.
    pub(crate) fn enter_place(&self) -> Result<Place, RootError> {
        let namespace = || File::open("/proc/self/ns/mnt").map_err(at_io("open the mount namespace"));
        let own = namespace()?;
        own_mounts().map_err(at("make a mount namespace"))?;
        let made = (|| {
            rustix::process::chdir(ROOT).map_err(at("enter the root"))?;
            rustix::mount::mount_move(".", "/").map_err(at("move the root to /"))?;
            rustix::process::chroot(".").map_err(at("change the root"))?;
            // The fresh /proc of the root shows the present namespace.
            namespace()
        })();
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&own),
            Some(rustix::thread::LinkNameSpaceType::Mount),
        )
        .map_err(at("return to the own mount namespace"))?;
        let group = |path| File::options().write(true).open(path).map_err(at_io("open the control group"));
        let (app, beside) = (group(cgroup::APP_PROCS)?, group(cgroup::BESIDE_PROCS)?);
        Ok(Place { mounts: made?.into(), app, beside })
    }

    pub(crate) fn open(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "/" } else { path };
        rustix::fs::openat2(&self.dir, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// A folder of the root, to mount on or to look into.
    pub(crate) fn open_folder(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Whether there is a folder of that name.
    pub(crate) fn has_folder(&self, path: &str) -> bool {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// A small text file of the image; empty when it is not there.
    pub(crate) fn read_text(&self, path: &str) -> String {
        let mut bytes = Vec::new();
        if let Ok(fd) = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            // A file that cannot be read is as good as none.
            let _ = File::from(fd).take(READ_LIMIT).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Makes a folder and those above it, as far as they are missing, with mode 0755 and this owner.
    pub(crate) fn make_folders(&self, path: &str, uid: u32, gid: u32) -> Result<(), RootError> {
        let mut done = String::new();
        for name in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            let next = format!("{done}/{name}");
            match self.open(&next, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let step = || format!("make the folder {next}");
                    let above = self.open(&done, OFlags::PATH | OFlags::DIRECTORY).map_err(at(step()))?;
                    rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)).map_err(at(step()))?;
                    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                    rustix::fs::chownat(&above, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(at(step()))?;
                }
                Err(error) => return Err(at(format!("open the folder {next}"))(error)),
            }
            done = next;
        }
        Ok(())
    }

    /// Writes a file, in place of whatever has its name.
    pub(crate) fn write(&self, file: &GuestFile) -> Result<(), RootError> {
        let step = || format!("write {}", file.path);
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        self.make_folders(folder, 0, 0)?;
        let folder = self.open(folder, OFlags::PATH | OFlags::DIRECTORY).map_err(at(step()))?;
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(at(step())(error)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600)).map_err(at(step()))?;
        rustix::fs::fchown(&fd, Some(Uid::from_raw(file.uid)), Some(Gid::from_raw(file.gid))).map_err(at(step()))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(file.mode)).map_err(at(step()))?;
        File::from(fd).write_all(&file.bytes).map_err(at_io(step()))
    }

    /// Writes the guest's name and the configuration's files.
    pub(crate) fn write_files(&self, config: &Config) -> Result<(), RootError> {
        let public = |path: &str, text: String| GuestFile {
            path: path.to_owned(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            bytes: text.into_bytes(),
        };
        self.write(&public("/etc/hostname", format!("{}\n", config.hostname)))?;
        self.write(&public("/etc/hosts", etc::hosts(&config.hostname, config.network.as_ref())))?;
        if let Some(text) = config.network.as_ref().and_then(etc::resolv_conf) {
            self.write(&public("/etc/resolv.conf", text))?;
        }
        config.files.iter().try_for_each(|file| self.write(file))
    }

    /// A new terminal of the app's own: its master end and the end for the process.
    pub(crate) fn open_terminal(&self) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
        let master = self.open("/dev/pts/ptmx", flags)?;
        rustix::pty::unlockpt(&master)?;
        let pt = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
        let process_end = rustix::pty::ioctl_tiocgptpeer(&master, pt)?;
        Ok((master, process_end))
    }
}

/// Takes everything below the root off, as far as it lets go.
pub(crate) fn unmount() {
    for target in [ROOT, WRITABLE, LOWER] {
        let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
    }
}

fn inner_folder(name: &'static str) -> Result<(), RootError> {
    let path = Path::new(ROOT).join(name);
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(RootError::NotAFolder(name)),
        Err(_) => fs::create_dir(&path).map_err(at_io(format!("make {}", path.display()))),
    }
}

/// A `/tmp` for an image that has none, such as one with a single program.
fn make_tmp() -> Result<(), RootError> {
    let path = Path::new(ROOT).join("tmp");
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    fs::create_dir(&path)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)))
        .map_err(at_io(format!("make {}", path.display())))
}

/// A small `/dev` of the app's own: it does not see the guest's disks and ports.
fn make_dev() -> Result<(), RootError> {
    let dev = format!("{ROOT}/dev");
    mount("tmpfs", &dev, MountFlags::NOSUID | MountFlags::NOEXEC, "mode=0755,size=64k")?;
    let nodes = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in nodes {
        let path = format!("{dev}/{name}");
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, mode, rustix::fs::makedev(major, minor))
            .and_then(|()| rustix::fs::chmod(&path, mode))
            .map_err(at(format!("make {path}")))?;
    }
    for (target, link) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ] {
        std::os::unix::fs::symlink(target, format!("{dev}/{link}")).map_err(at_io(format!("make {dev}/{link}")))?;
    }
    for dir in ["pts", "shm"] {
        fs::create_dir(format!("{dev}/{dir}")).map_err(at_io(format!("make {dev}/{dir}")))?;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", &format!("{dev}/pts"), quiet, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    mount("tmpfs", &format!("{dev}/shm"), quiet | MountFlags::NODEV, "mode=1777,size=64m")
}
