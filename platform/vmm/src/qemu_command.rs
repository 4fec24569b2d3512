//! QEMU's command line for a VM: a pure function of the specification and the numbers of the descriptors passed.

use std::os::fd::RawFd;

use crate::probe::{AccelKind, Acceleration};
use crate::spec::{MacAddress, NetSpec, VmSpec};

/// Bytes of console kept; a power of two, as QEMU's ring buffer wants it.
pub(crate) const CONSOLE_BYTES: usize = 64 << 10;

/// Everything QEMU denies itself: obsolete calls, new privileges, new programs, changes of its own scheduling.
pub(crate) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Numbers under which QEMU finds what was opened for it.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) kernel: RawFd,
    pub(crate) initrd: Option<RawFd>,
    /// In the order of the specification's disks.
    pub(crate) disks: Vec<RawFd>,
    pub(crate) tap: Option<RawFd>,
    pub(crate) qmp: RawFd,
    pub(crate) control: RawFd,
}

/// The arguments, without the program name. The specification has been checked.
pub(crate) fn arguments(spec: &VmSpec, accel: &Acceleration, fds: &Descriptors) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);

    add("-name", spec.name.to_string());
    // ACPI is how a Debian kernel finds virtio-mmio devices; without a clock (`rtc`) guests hung now and then.
    add("-M", "microvm,acpi=on,rtc=on".to_owned());
    add("-accel", accelerator(accel.kind));
    add("-cpu", accel.cpu.clone());
    add("-smp", spec.vcpus.to_string());
    add("-m", format!("{}M", spec.memory_mib));
    add("-sandbox", SANDBOX.to_owned());
    add("-display", "none".to_owned());
    // A guest that ends leaves QEMU paused, so that its console can be read; the driver then tells QEMU to quit.
    add("-action", "reboot=shutdown,shutdown=pause".to_owned());

    add("-kernel", descriptor_path(fds.kernel));
    if let Some(initrd) = fds.initrd {
        add("-initrd", descriptor_path(initrd));
    }
    if !spec.cmdline.is_empty() {
        add("-append", spec.cmdline.clone());
    }

    add("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", fds.qmp));
    add("-mon", "chardev=qmp,mode=control".to_owned());
    // A ring in memory: a guest that floods its console fills no disk.
    add("-chardev", format!("ringbuf,id=console,size={CONSOLE_BYTES}"));
    add("-serial", "chardev:console".to_owned());
    add("-chardev", format!("socket,id=control,fd={},server=on,wait=off", fds.control));
    add("-device", "virtio-serial-device".to_owned());
    add("-device", format!("virtserialport,chardev=control,name={}", VmSpec::CONTROL_PORT));
    add("-device", "virtio-rng-device".to_owned());

    for (index, (disk, fd)) in spec.disks.iter().zip(&fds.disks).enumerate() {
        let (read_only, discard) = if disk.read_only { ("on", "ignore") } else { ("off", "unmap") };
        let node = node_name(&disk.serial);
        add("-add-fd", format!("fd={fd},set={index}"));
        add(
            "-blockdev",
            format!(
                "driver=raw,node-name={node},read-only={read_only},discard={discard},file.driver=file,\
                 file.filename=/dev/fdset/{index},file.discard={discard}"
            ),
        );
        // A write that finds no room on the host pauses the guest and is made again; other failures are the guest's to judge.
        let device = format!("virtio-blk-device,drive={node},serial={},werror=enospc,rerror=report", disk.serial);
        add("-device", device);
    }
    match &spec.net {
        NetSpec::None => {}
        NetSpec::Tap { mac, .. } | NetSpec::TapFd { mac, .. } => {
            if let Some(fd) = fds.tap {
                add("-netdev", format!("tap,id=net,fd={fd}"));
                add("-device", net_device(*mac));
            }
        }
        NetSpec::User { forwards, mac } => {
            let mut netdev = "user,id=net".to_owned();
            for forward in forwards {
                netdev += &format!(",hostfwd=tcp:{}-:{}", forward.listen, forward.guest_port);
            }
            add("-netdev", netdev);
            add("-device", net_device(*mac));
        }
    }

    args.extend(["-nodefaults".to_owned(), "-no-user-config".to_owned()]);
    if spec.start_paused {
        args.push("-S".to_owned());
    }
    args
}

/// The name under which QEMU knows the disk with this serial number.
pub(crate) fn node_name(serial: &str) -> String {
    format!("disk-{serial}")
}

pub(crate) fn accelerator(kind: AccelKind) -> String {
    match kind {
        AccelKind::Kvm => "kvm".to_owned(),
        AccelKind::Tcg => "tcg,thread=multi,tb-size=64".to_owned(),
    }
}

/// Opens again what this process has open, whatever folder it is in.
fn descriptor_path(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

fn net_device(mac: MacAddress) -> String {
    format!("virtio-net-device,netdev=net,mac={mac}")
}
