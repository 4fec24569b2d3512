//! What a microVM is made of: the specification a driver launches.

use std::fmt;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a specification was refused before anything was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A part of a VM name is empty, too long or has other characters than `a-z A-Z 0-9 . _ -`.
    #[error("VM name part `{0}` must be 1 to 64 characters of a-z, A-Z, 0-9, `.`, `_` and `-`")]
    Name(String),
    /// The marker found on a command line is not `holm/<host tag>/<instance>`.
    #[error("`{0}` is not of the form `holm/<host tag>/<instance>`")]
    Marker(String),
    /// Not six hexadecimal bytes, or a group address.
    #[error("`{0}` is not a unicast MAC address of six hexadecimal bytes separated by colons")]
    Mac(String),
    /// The number of virtual CPUs is out of range.
    #[error("{0} virtual CPUs: must be 1 to {max}", max = VmSpec::MAX_VCPUS)]
    Vcpus(u32),
    /// The memory size is out of range.
    #[error("{0} MiB of memory: must be {min} to {max}", min = VmSpec::MIN_MEMORY_MIB, max = VmSpec::MAX_MEMORY_MIB)]
    Memory(u32),
    /// More disks than the machine has device slots for.
    #[error("{0} disks: a microVM has slots for {max}", max = VmSpec::MAX_DISKS)]
    Disks(usize),
    /// A disk serial is empty, longer than 20 bytes, not plain, or used twice.
    #[error("disk serial `{0}` must be unique and 1 to 20 characters of a-z, A-Z, 0-9, `.`, `_` and `-`")]
    Serial(String),
    /// A kernel command line with a control character, or longer than the kernel reads.
    #[error("kernel command line must be printable ASCII of at most {max} bytes", max = VmSpec::MAX_CMDLINE)]
    Cmdline,
    /// The tap interface name does not fit the kernel's rules.
    #[error("`{0}` is not an interface name of 1 to 15 plain characters")]
    Interface(String),
    /// A forward that listens on another address than loopback.
    #[error("host forward {0} must listen on a loopback address")]
    Forward(SocketAddrV4),
}

/// Whether `text` is 1 to `max` characters of the plain set that needs no quoting on a QEMU command line.
fn plain(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The name of a VM on its host; its marker `holm/<host tag>/<instance>` stands on QEMU's command line.
///
/// The host tag tells apart several Holm state folders on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName {
    host_tag: String,
    instance: String,
}

impl VmName {
    /// Builds a name.
    ///
    /// # Errors
    /// [`SpecError::Name`] when a part is not 1 to 64 plain characters.
    pub fn new(host_tag: &str, instance: &str) -> Result<Self, SpecError> {
        for part in [host_tag, instance] {
            if !plain(part, 64) {
                return Err(SpecError::Name(part.to_owned()));
            }
        }
        Ok(Self { host_tag: host_tag.to_owned(), instance: instance.to_owned() })
    }

    /// Which Holm on this machine the VM belongs to.
    pub fn host_tag(&self) -> &str {
        &self.host_tag
    }

    /// The instance that runs in the VM.
    pub fn instance(&self) -> &str {
        &self.instance
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "holm/{}/{}", self.host_tag, self.instance)
    }
}

impl FromStr for VmName {
    type Err = SpecError;

    fn from_str(marker: &str) -> Result<Self, SpecError> {
        let wrong = || SpecError::Marker(marker.chars().take(200).collect());
        let (tag, instance) = marker.strip_prefix("holm/").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
        Self::new(tag, instance).map_err(|_| wrong())
    }
}

impl TryFrom<String> for VmName {
    type Error = SpecError;

    fn try_from(marker: String) -> Result<Self, SpecError> {
        marker.parse()
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.to_string()
    }
}

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// A locally administered address made of five bytes of the caller's choice.
    pub fn local(bytes: [u8; 5]) -> Self {
        Self([0x52, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let wrong = || SpecError::Mac(text.chars().take(40).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() || bytes[0] & 1 != 0 {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

/// A file shown to the guest as a virtio block device.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    /// The raw file. It is opened by the driver, so QEMU itself needs no access to its folder.
    pub path: PathBuf,
    /// Whether the guest may only read. Several VMs may share a file read-only; a writable one belongs to one VM.
    pub read_only: bool,
    /// The name under which the guest finds it: `/sys/block/*/serial`. Unique in the VM, 1 to 20 plain characters.
    pub serial: String,
}

/// A TCP port of the host that leads to a port of the guest, with user networking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostForward {
    /// Where the host listens; a loopback address (IPv4: QEMU's user network forwards no other).
    pub listen: SocketAddrV4,
    /// The guest's TCP port.
    pub guest_port: u16,
}

/// How the guest reaches the network.
#[derive(Debug, Clone, Default)]
pub enum NetSpec {
    /// No network device.
    #[default]
    None,
    /// A tap interface that exists already; needs `CAP_NET_ADMIN` or ownership of the tap.
    Tap {
        /// Its name, at most 15 characters.
        ifname: String,
        /// The guest's address.
        mac: MacAddress,
    },
    /// A tap interface that the caller opened (`TUNSETIFF` with `IFF_TAP | IFF_NO_PI`).
    TapFd {
        /// The open tap. Kept open by the caller's `Arc` at will; QEMU has its own copy.
        fd: Arc<OwnedFd>,
        /// The guest's address.
        mac: MacAddress,
    },
    /// QEMU's user network: needs no privilege. The guest sees 10.0.2.0/24 and fec0::/64.
    User {
        /// TCP forwards from loopback.
        forwards: Vec<HostForward>,
        /// The guest's address.
        mac: MacAddress,
    },
}

/// The user that QEMU runs as when the caller is root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User id; need not be in the passwd file.
    pub uid: u32,
    /// Group id; all supplementary groups are dropped. Needs the group of `/dev/kvm` where KVM is used.
    pub gid: u32,
}

/// Everything about one microVM. See [`crate::Vmm::launch`].
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// Name, unique among the running VMs of the host.
    pub name: VmName,
    /// Virtual CPUs, 1 to [`VmSpec::MAX_VCPUS`].
    pub vcpus: u32,
    /// Guest memory in MiB, [`VmSpec::MIN_MEMORY_MIB`] to [`VmSpec::MAX_MEMORY_MIB`]: the hard cap of the app.
    pub memory_mib: u32,
    /// Kernel: a bzImage, or an ELF file with a PVH note.
    pub kernel: PathBuf,
    /// Initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line; start with [`crate::guest::base_cmdline`].
    pub cmdline: String,
    /// Block devices, at most [`VmSpec::MAX_DISKS`].
    pub disks: Vec<DiskSpec>,
    /// Network device.
    pub net: NetSpec,
    /// The VM's own folder: working directory of QEMU, home of its sockets ([`VmSpec::CONTROL_SOCKET`],
    /// [`VmSpec::QMP_SOCKET`]) and logs ([`VmSpec::QEMU_LOG`], [`VmSpec::CONSOLE_LOG`]). Made if missing; the caller
    /// removes it after the VM has ended. May be of any depth.
    pub run_dir: PathBuf,
    /// Create the VM without running it; [`crate::Vm::resume`] starts it.
    pub start_paused: bool,
    /// Nice value of QEMU, 0 to 19; 0 leaves it alone.
    pub nice: u8,
    /// User to run as; `None` keeps the caller's.
    pub run_as: Option<RunAs>,
}

impl VmSpec {
    /// Most virtual CPUs of a VM.
    pub const MAX_VCPUS: u32 = 64;
    /// Least memory of a VM in MiB.
    pub const MIN_MEMORY_MIB: u32 = 16;
    /// Most memory of a VM in MiB (1 TiB).
    pub const MAX_MEMORY_MIB: u32 = 1 << 20;
    /// Most disks: 24 virtio-mmio slots less network, console, random numbers and one spare.
    pub const MAX_DISKS: usize = 20;
    /// Longest kernel command line in bytes (x86: 2048 with the final zero).
    pub const MAX_CMDLINE: usize = 2047;
    /// Name of the control socket in the run folder: the host end of the virtio-serial port `holm.control`.
    pub const CONTROL_SOCKET: &str = "control.sock";
    /// Name of the QMP socket in the run folder.
    pub const QMP_SOCKET: &str = "qmp.sock";
    /// Name of the file with QEMU's own messages in the run folder.
    pub const QEMU_LOG: &str = "qemu.log";
    /// Name of the file with the end of the guest's console, written when the guest ended.
    pub const CONSOLE_LOG: &str = "console.log";
    /// Name of the virtio-serial port as the guest sees it (`/sys/class/virtio-ports/*/name`).
    pub const CONTROL_PORT: &str = "holm.control";

    /// A VM with the given name, kernel and run folder, 1 CPU, 128 MiB and nothing else.
    pub fn new(name: VmName, kernel: PathBuf, run_dir: PathBuf) -> Self {
        Self {
            name,
            vcpus: 1,
            memory_mib: 128,
            kernel,
            initrd: None,
            cmdline: String::new(),
            disks: Vec::new(),
            net: NetSpec::None,
            run_dir,
            start_paused: false,
            nice: 0,
            run_as: None,
        }
    }

    /// Checks every range and name.
    ///
    /// # Errors
    /// The first [`SpecError`] found.
    pub fn check(&self) -> Result<(), SpecError> {
        if !(1..=Self::MAX_VCPUS).contains(&self.vcpus) {
            return Err(SpecError::Vcpus(self.vcpus));
        }
        if !(Self::MIN_MEMORY_MIB..=Self::MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(SpecError::Memory(self.memory_mib));
        }
        if self.disks.len() > Self::MAX_DISKS {
            return Err(SpecError::Disks(self.disks.len()));
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let repeated = self.disks[..index].iter().any(|other| other.serial == disk.serial);
            if repeated || !plain(&disk.serial, 20) {
                return Err(SpecError::Serial(disk.serial.clone()));
            }
        }
        if self.cmdline.len() > Self::MAX_CMDLINE || !self.cmdline.bytes().all(|b| matches!(b, 0x20..=0x7e)) {
            return Err(SpecError::Cmdline);
        }
        match &self.net {
            NetSpec::Tap { ifname, .. } if !plain(ifname, 15) => Err(SpecError::Interface(ifname.clone())),
            NetSpec::User { forwards, .. } => match forwards.iter().find(|f| !f.listen.ip().is_loopback()) {
                Some(forward) => Err(SpecError::Forward(forward.listen)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VmSpec {
        VmSpec::new(VmName::new("h1", "web-1").unwrap(), "/k".into(), "/run/x".into())
    }

    fn disk(serial: &str) -> DiskSpec {
        DiskSpec { path: "/d".into(), read_only: true, serial: serial.into() }
    }

    #[test]
    fn marker_round_trips_and_foreign_names_are_refused() {
        let name = VmName::new("h1", "web-1").unwrap();
        assert_eq!(name.to_string(), "holm/h1/web-1");
        assert_eq!("holm/h1/web-1".parse::<VmName>().unwrap(), name);
        for wrong in ["", "holm/", "holm/h1", "holm/h1/", "holm//x", "holm/a/b/c", "other/h1/x", "holm/a/b,c"] {
            assert!(wrong.parse::<VmName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn out_of_range_specifications_are_refused() {
        assert_eq!(spec().check(), Ok(()));
        type Change = Box<dyn Fn(&mut VmSpec)>;
        let broken: Vec<(&str, Change)> = vec![
            ("no cpu", Box::new(|s| s.vcpus = 0)),
            ("little memory", Box::new(|s| s.memory_mib = 1)),
            ("control character", Box::new(|s| s.cmdline = "a\nb".into())),
            ("long command line", Box::new(|s| s.cmdline = "a".repeat(2048))),
            ("comma in serial", Box::new(|s| s.disks = vec![disk("a,b")])),
            ("serial twice", Box::new(|s| s.disks = vec![disk("a"), disk("a")])),
            ("long serial", Box::new(|s| s.disks = vec![disk("aaaaaaaaaaaaaaaaaaaaa")])),
            ("too many disks", Box::new(|s| s.disks = (0..21).map(|i| disk(&format!("d{i}"))).collect())),
            (
                "interface with comma",
                Box::new(|s| s.net = NetSpec::Tap { ifname: "a,b".into(), mac: MacAddress::local([0; 5]) }),
            ),
            (
                "forward from everywhere",
                Box::new(|s| {
                    let listen = "0.0.0.0:1".parse().unwrap();
                    let forwards = vec![HostForward { listen, guest_port: 1 }];
                    s.net = NetSpec::User { forwards, mac: MacAddress::local([0; 5]) };
                }),
            ),
        ];
        for (what, change) in broken {
            let mut spec = spec();
            change(&mut spec);
            assert!(spec.check().is_err(), "{what}");
        }
    }

    #[test]
    fn mac_addresses_are_unicast_and_exact() {
        assert_eq!("52:54:00:12:34:56".parse::<MacAddress>().unwrap().to_string(), "52:54:00:12:34:56");
        for wrong in
            ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "01:00:5e:00:00:01", "52:54:0:12:34:56", "+2:54:00:12:34:5g"]
        {
            assert!(wrong.parse::<MacAddress>().is_err(), "{wrong}");
        }
    }
}
