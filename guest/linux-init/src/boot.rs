//! From the kernel's hand-over to a working machine: first mounts, modules, and waiting for devices.

use std::ffi::{CStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use holm_guest_control::{BootMark, PORT_NAME, ROOT_SERIAL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, mount};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::clock;
use crate::console::say;

/// How long a device may take to appear.
const DEVICE_DEADLINE_NS: u64 = 20_000_000_000;

/// What happened when, for the host's report.
#[derive(Default)]
pub(crate) struct Marks(pub(crate) Vec<BootMark>);

impl Marks {
    pub(crate) fn set(&mut self, step: &str) {
        self.0.push(BootMark { step: step.to_owned(), since_boot_us: clock::since_boot_ns() / 1000 });
    }
}

/// Mounts proc, sys, dev, run and the control groups. What the kernel mounted already is fine.
pub(crate) fn first_mounts() {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounts: [(&str, &str, MountFlags, Option<&CStr>); 5] = [
        ("proc", "/proc", safe, None),
        ("sysfs", "/sys", safe, None),
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC, Some(c"mode=0755")),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755,size=4m")),
        ("cgroup2", "/sys/fs/cgroup", safe, None),
    ];
    for (kind, target, flags, data) in mounts {
        // An existing folder is as good; a missing one shows in the mount's error.
        let _ = fs::create_dir_all(target);
        if let Err(error) = mount(kind, target, kind, flags, data)
            && error != rustix::io::Errno::BUSY
        {
            say(format_args!("cannot mount {kind} on {target}: {error}"));
        }
    }
}

/// The modules among the files of the folder, in load order, which is that of their names: `03-virtio_blk.ko`.
pub(crate) fn module_order(files: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut modules: Vec<OsString> = files.filter(|name| name.as_encoded_bytes().ends_with(b".ko")).collect();
    modules.sort();
    modules
}

/// Loads `/modules/*.ko` in the order of their names. A module that fails is told and skipped: it may be built into this
/// kernel.
pub(crate) fn load_modules() {
    let folder = Path::new("/modules");
    let Ok(files) = fs::read_dir(folder) else {
        say(format_args!("no modules in the initramfs; taking the kernel's drivers as built in"));
        return;
    };
    for name in module_order(files.filter_map(|entry| Some(entry.ok()?.file_name()))) {
        let result = File::open(folder.join(&name))
            .and_then(|file| rustix::system::finit_module(file, c"", 0).map_err(io::Error::from));
        match result {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                say(format_args!("module {} not loaded: {error}", name.display()));
            }
            _ => {}
        }
    }
}

/// Hears when the kernel adds a device. Open it before what it shall hear of.
pub(crate) struct Uevents(OwnedFd);

impl Uevents {
    pub(crate) fn open() -> rustix::io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )?;
        // Group 1: what the kernel says, not what a device manager adds.
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Looks with `find` now and after each device event until it finds something or the deadline has passed.
    pub(crate) fn wait_for<T>(&self, find: impl Fn() -> Option<T>) -> Option<T> {
        let deadline = clock::since_boot_ns() + DEVICE_DEADLINE_NS;
        loop {
            if let Some(found) = find() {
                return Some(found);
            }
            let left = deadline.checked_sub(clock::since_boot_ns())?;
            let timeout = Timespec { tv_sec: i64::try_from(left / 1_000_000_000).ok()?, tv_nsec: 0 };
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) && left < 1_000_000_000 {
                return find();
            }
            let mut message = [0u8; 4096];
            while rustix::net::recv(&self.0, &mut message[..], RecvFlags::empty()).is_ok() {}
        }
    }
}

/// The device file of the control port, once its name is known.
pub(crate) fn find_control_port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        let device = Path::new("/dev").join(entry.file_name());
        (name.trim() == PORT_NAME && device.exists()).then_some(device)
    })
}

/// The block device with the root file system: by its serial number, else `/dev/vda`.
pub(crate) fn find_root_device() -> Option<PathBuf> {
    let by_serial = fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let serial = fs::read_to_string(entry.path().join("serial")).ok()?;
        (serial.trim() == ROOT_SERIAL).then(|| Path::new("/dev").join(entry.file_name()))
    });
    by_serial.or_else(|| Some(PathBuf::from("/dev/vda"))).filter(|device| device.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_in_the_order_of_their_names_and_alone() {
        let files = ["10-erofs.ko", "README", "02-virtio_blk.ko", "01-virtio_mmio.ko"].map(OsString::from);
        let expected = ["01-virtio_mmio.ko", "02-virtio_blk.ko", "10-erofs.ko"].map(OsString::from);
        assert_eq!(module_order(files.into_iter()), expected);
    }
}
