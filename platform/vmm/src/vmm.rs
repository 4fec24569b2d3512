//! The trait every VMM driver implements, and the handle to one running VM.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holm_process::ProcessIdentity;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::disk_copy::DiskCopy;
use crate::qmp::QmpError;
use crate::spec::{HostForward, SpecError, VmName, VmSpec};

/// What went wrong with a VM, one variant per operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// The specification is wrong; nothing was started.
    #[error("cannot launch `{name}`")]
    Spec {
        /// The VM.
        name: VmName,
        /// What is wrong.
        source: SpecError,
    },
    /// A file, folder or socket the VM needs could not be prepared; nothing was started.
    #[error("cannot prepare {what} {}", path.display())]
    Prepare {
        /// What it is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The VMM program could not be started.
    #[error("cannot start `{}`", program.display())]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The VMM ended or stayed silent before it was ready; it is gone now.
    #[error("`{name}` did not come up: {reason}")]
    NotReady {
        /// The VM.
        name: VmName,
        /// What was seen, with the last lines of the VMM's own log.
        reason: String,
    },
    /// A request to the running VMM failed.
    #[error("`{name}` refused `{command}`")]
    Monitor {
        /// The VM.
        name: VmName,
        /// The request.
        command: &'static str,
        /// What the monitor connection said.
        source: QmpError,
    },
    /// The VMM process is there but its monitor does not answer; only [`Vm::kill`] works.
    #[error("the monitor of `{name}` does not answer")]
    Unresponsive {
        /// The VM.
        name: VmName,
    },
    /// A port could not be forwarded.
    #[error("cannot forward {} into `{name}`: {why}", forward.listen)]
    Forward {
        /// The VM.
        name: VmName,
        /// What was asked for.
        forward: HostForward,
        /// QEMU's answer.
        why: String,
    },
    /// A disk could not be copied.
    #[error("cannot copy the disk `{serial}` of `{name}`: {why}")]
    Copy {
        /// The VM.
        name: VmName,
        /// The disk.
        serial: String,
        /// QEMU's answer.
        why: String,
    },
    /// The control socket could not be reached.
    #[error("cannot connect to the control socket of `{name}`")]
    Control {
        /// The VM.
        name: VmName,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A signal could not be sent.
    #[error("cannot kill `{name}`")]
    Kill {
        /// The VM.
        name: VmName,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The list of processes could not be read.
    #[error("cannot look through the running processes")]
    Scan(#[source] std::io::Error),
}

/// What must be remembered to find a VM again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// The VM's name, which is also the marker on the VMM's command line.
    pub name: VmName,
    /// The VMM process.
    pub process: ProcessIdentity,
    /// The VM's folder.
    pub run_dir: PathBuf,
}

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmStatus {
    /// The guest runs.
    Running,
    /// Created with [`VmSpec::start_paused`], or paused.
    Paused,
    /// The guest has ended and the VMM is about to.
    Ending,
    /// The VMM is there but does not answer.
    Unresponsive,
    /// The VMM has ended.
    Gone,
}

/// How a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest reset itself: a reboot or, with [`crate::guest::BASE_CMDLINE`], a kernel panic.
    GuestReset,
    /// The VMM was told to quit.
    Quit,
    /// The VMM was ended by a signal.
    Signal(i32),
    /// The VMM ended by itself with this exit code.
    Code(i32),
    /// The VMM stopped the guest over an error of its own, such as a failure of KVM.
    VmmError,
    /// The guest ended, or the VMM went, while no one watched and this process was not its parent.
    Unknown,
}

/// The end of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmExit {
    /// Why.
    pub reason: ExitReason,
    /// The end of the guest's console, at most 64 KiB, as text; empty when the VMM was killed. Also in
    /// [`VmSpec::CONSOLE_LOG`].
    pub console: String,
}

/// Starts VMs and finds them again.
pub trait Vmm: Send + Sync + std::fmt::Debug {
    /// Starts a VM and waits until its VMM answers. The VM outlives the caller: dropping the handle leaves it running.
    /// When this fails, nothing runs.
    ///
    /// # Errors
    /// See [`VmError`].
    fn launch<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<Arc<dyn Vm>, VmError>>;

    /// Takes over a VM that an earlier process started: `None` when it does not run any more, that is unless the
    /// process id is alive, was started at the recorded time and carries the VM's marker. At most one handle may exist
    /// per VM.
    ///
    /// # Errors
    /// See [`VmError`].
    fn adopt<'a>(&'a self, record: &'a VmRecord) -> BoxFuture<'a, Result<Option<Arc<dyn Vm>>, VmError>>;

    /// All running VMs that carry this host tag and belong to this user (or the one VMs are run as), known or not.
    ///
    /// # Errors
    /// [`VmError::Scan`].
    fn find_leftovers(&self, host_tag: &str) -> Result<Vec<VmRecord>, VmError>;
}

/// A running VM. All methods may be called at any time, also after its end.
pub trait Vm: Send + Sync + std::fmt::Debug {
    /// What to remember.
    fn record(&self) -> &VmRecord;

    /// What the VM is doing. Never fails: an answer that does not come is [`VmStatus::Unresponsive`].
    fn status(&self) -> BoxFuture<'_, VmStatus>;

    /// Waits for the end. May be awaited by several callers and be dropped at will.
    fn wait_exit(&self) -> BoxFuture<'_, VmExit>;

    /// The end if it has come.
    fn exited(&self) -> Option<VmExit>;

    /// Stops the virtual CPUs.
    ///
    /// # Errors
    /// [`VmError::Monitor`] or [`VmError::Unresponsive`].
    fn pause(&self) -> BoxFuture<'_, Result<(), VmError>>;

    /// Runs the virtual CPUs.
    ///
    /// # Errors
    /// [`VmError::Monitor`] or [`VmError::Unresponsive`].
    fn resume(&self) -> BoxFuture<'_, Result<(), VmError>>;

    /// Whether the virtual CPUs are stopped since a write to a disk found no room on the host, as it changes. Nothing is lost:
    /// [`Vm::resume`] has the VMM write it again. Closed after the end.
    fn starved(&self) -> watch::Receiver<bool>;

    /// Presses the ACPI power button. Whether the guest heeds it is its business; a Holm guest is asked over its control
    /// socket instead.
    ///
    /// # Errors
    /// [`VmError::Monitor`] or [`VmError::Unresponsive`].
    fn powerdown(&self) -> BoxFuture<'_, Result<(), VmError>>;

    /// Ends the VMM, saving the console; kills it when it has not ended within `grace`. Returns after the end.
    ///
    /// # Errors
    /// [`VmError::Kill`].
    fn quit(&self, grace: Duration) -> BoxFuture<'_, Result<VmExit, VmError>>;

    /// Kills the VMM and waits for its end.
    ///
    /// # Errors
    /// [`VmError::Kill`].
    fn kill(&self) -> BoxFuture<'_, Result<VmExit, VmError>>;

    /// What the guest has written to its console, at most the last 64 KiB; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// [`VmError::Monitor`] or [`VmError::Unresponsive`].
    fn console(&self) -> BoxFuture<'_, Result<String, VmError>>;

    /// Forwards one more port into a VM with [`crate::NetSpec::User`] while it runs.
    ///
    /// # Errors
    /// [`VmError::Monitor`] or [`VmError::Unresponsive`]; [`VmError::Forward`] when QEMU cannot listen there.
    fn forward(&self, forward: HostForward) -> BoxFuture<'_, Result<(), VmError>>;

    /// Tells a running VM that the file of the disk with this serial number has grown to `bytes`.
    ///
    /// # Errors
    /// [`VmError::Monitor`] or [`VmError::Unresponsive`].
    fn resize_disk<'a>(&'a self, serial: &'a str, bytes: u64) -> BoxFuture<'a, Result<(), VmError>>;

    /// Begins to copy a disk as it is at this moment, while the VM runs on and writes to it. See [`DiskCopy`].
    ///
    /// # Errors
    /// [`VmError::Monitor`], [`VmError::Unresponsive`], or [`VmError::Copy`]. Nothing is left in the VM then.
    fn begin_copy<'a>(&'a self, copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), VmError>>;

    /// Waits for the end of a copy that was begun, and takes what it needed out of the VM. Dropping the future leaves the
    /// copy running; [`Vm::drop_copy`] ends it.
    ///
    /// # Errors
    /// [`VmError::Copy`] when it failed: the target is worthless then. Else as [`Vm::begin_copy`].
    fn finish_copy<'a>(&'a self, copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), VmError>>;

    /// Ends a copy wherever it is and removes what it left in the VM. None there is fine.
    fn drop_copy<'a>(&'a self, serial: &'a str) -> BoxFuture<'a, ()>;

    /// The records of changes the VM keeps for a disk, by name: those [`DiskCopy::record`] began.
    ///
    /// # Errors
    /// [`VmError::Monitor`] or [`VmError::Unresponsive`].
    fn change_records<'a>(&'a self, serial: &'a str) -> BoxFuture<'a, Result<Vec<String>, VmError>>;

    /// Forgets a record of changes. None there is fine.
    ///
    /// # Errors
    /// [`VmError::Monitor`] or [`VmError::Unresponsive`].
    fn drop_record<'a>(&'a self, serial: &'a str, record: &'a str) -> BoxFuture<'a, Result<(), VmError>>;

    /// Connects to the guest's control port. One connection at a time; a second one waits for the first to close.
    ///
    /// # Errors
    /// [`VmError::Control`].
    fn connect_control(&self) -> BoxFuture<'_, Result<UnixStream, VmError>>;
}
