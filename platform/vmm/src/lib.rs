//! MicroVMs on one host: start, adopt, watch and stop them, and keep what they boot from.
//!
//! Owns the [`Vmm`] trait and its QEMU `microvm` driver ([`QemuVmm`]), the QMP client ([`qmp`]), the probe that decides
//! between KVM and TCG ([`probe`]), the guest bundles made from Debian kernel packages ([`guest`]), soft CPU shares
//! ([`CpuShares`]) and the host checks behind `holm doctor` ([`doctor`]). May not touch: images, the network set-up of the
//! host, the state log, or what is said over the control socket.
//!
//! A VM outlives the process that started it. What is needed to find it again is a [`VmRecord`]; a record that was lost
//! is found by scanning `/proc` for the marker on QEMU's command line ([`Vmm::find_leftovers`]). QEMU gets everything it
//! uses as open descriptors (disks, kernel, sockets, tap), so it can run as another user in a folder it cannot enter.
#![deny(unsafe_code)]

mod cpu_share;
mod disk_copy;
pub mod doctor;
pub mod guest;
pub mod probe;
mod process;
mod qemu;
mod qemu_command;
pub mod qmp;
mod socket_dir;
mod spec;
mod syscalls;
pub mod tiny_guest;
mod vmm;
mod watch;

pub use cpu_share::{CpuShares, ShareMechanism};
pub use disk_copy::{CopyWhat, DiskCopy};
pub use guest::{GuestBundle, GuestStore};
pub use holm_process::ProcessIdentity;
pub use probe::{AccelKind, Acceleration};
pub use qemu::{QemuConfig, QemuVmm};
pub use socket_dir::{bind_unix_in, connect_unix_in};
pub use spec::{DiskSpec, HostForward, MacAddress, NetSpec, RunAs, SpecError, VmName, VmSpec};
pub use vmm::{ExitReason, Vm, VmError, VmExit, VmRecord, VmStatus, Vmm};
