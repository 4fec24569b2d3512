//! What the agent asks of the outside: images, the host's network, microVMs and the guests inside.
//!
//! The life of an instance is written against these traits, so that it can be tested with a world that is simulated, in
//! virtual time, with faults. [`crate::host`] is the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holm_guest_control::{BootMark, Config, ExecRequest, Metrics, Status, VolumeAction};
use holm_model::id::{AppKey, InstanceName, SecretSetId};
use holm_model::target::{HostTarget, InstanceSpec};
use holm_model::volume::{VolumeNumber, VolumeTarget};
use holm_secrets::Secrets;
use holm_vmm::DiskCopy;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::exec::ExecSession;
use crate::log::Record;

/// Why something outside did not work, for people: what failed, then why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    /// An error with all its sources on one line.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self(text)
    }
}

/// An image that lies on this host, and what it says about running it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// The file system, as one EROFS file.
    pub(crate) root: PathBuf,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) user: String,
    pub(crate) working_dir: String,
    pub(crate) stop_signal: Option<String>,
}

/// The host's side of an instance's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attachment {
    /// A tap with a routed address.
    Routed {
        /// The tap's name.
        tap: String,
        /// The guest's Ethernet address.
        mac: String,
        /// The guest's address.
        address: Ipv6Addr,
        /// The way out, as the guest sees it.
        gateway: Ipv6Addr,
        /// Name servers, as text.
        dns: Vec<String>,
    },
    /// The VMM's own network stack, with forwards from loopback.
    User {
        /// Where the host listens for each port of the guest.
        forwards: BTreeMap<u16, SocketAddrV4>,
    },
}

impl Attachment {
    /// Where the host reaches each of `ports`; a port that is not forwarded yet is left out.
    pub(crate) fn endpoints(&self, ports: &BTreeSet<u16>) -> BTreeMap<u16, SocketAddr> {
        let reach = |port: u16| match self {
            Self::Routed { address, .. } => Some(SocketAddr::from((*address, port))),
            Self::User { forwards } => forwards.get(&port).copied().map(SocketAddr::V4),
        };
        ports.iter().filter_map(|port| Some((*port, reach(*port)?))).collect()
    }
}

/// What is needed to find a microVM again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineRecord {
    /// The VMM's process.
    pub(crate) pid: u32,
    /// When it started, in the kernel's clock ticks since boot.
    pub(crate) start_time: u64,
    /// Its folder.
    pub(crate) run_dir: PathBuf,
}

/// A microVM to start.
#[derive(Debug)]
pub(crate) struct LaunchOrder<'a> {
    pub(crate) spec: &'a InstanceSpec,
    pub(crate) image: &'a Image,
    pub(crate) network: &'a Attachment,
    /// Folder for its sockets and logs.
    pub(crate) run_dir: &'a Path,
    /// What the host should have of each volume.
    pub(crate) volumes: &'a BTreeMap<VolumeNumber, VolumeTarget>,
}

/// Told what a long preparation is doing.
pub(crate) type Progress = Arc<dyn Fn(String) + Send + Sync>;

/// Everything an agent changes outside its own folder.
///
/// Each method may be cut off at any point by the agent's kill, and is then called again.
pub(crate) trait World: Send + Sync + fmt::Debug {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Makes the image ready on this host. Dropping the future gives up.
    fn prepare_image<'a>(&'a self, spec: &'a InstanceSpec, progress: Progress)
    -> BoxFuture<'a, Result<Image, Failure>>;

    /// Makes the host's side of the network, or finds it made.
    fn attach_network<'a>(
        &'a self,
        instance: &'a InstanceName,
        ports: &'a BTreeSet<u16>,
    ) -> BoxFuture<'a, Result<Attachment, Failure>>;

    /// Removes the host's side of the network; nothing there is a success.
    fn detach_network<'a>(&'a self, instance: &'a InstanceName) -> BoxFuture<'a, Result<(), Failure>>;

    /// Starts a microVM. When this fails, nothing runs.
    fn launch<'a>(&'a self, order: LaunchOrder<'a>) -> BoxFuture<'a, Result<Arc<dyn Machine>, Failure>>;

    /// Takes over a microVM that an earlier agent started; `None` when it does not run any more.
    fn adopt<'a>(
        &'a self,
        instance: &'a InstanceName,
        record: &'a MachineRecord,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Machine>>, Failure>>;

    /// Ends every microVM that carries the instance's marker, known or not, and waits until it is gone.
    fn remove_machines<'a>(&'a self, instance: &'a InstanceName) -> BoxFuture<'a, Result<(), Failure>>;

    /// Removes microVMs and networks that carry this host's tag and belong to none of `known`; says what they were.
    fn sweep<'a>(&'a self, known: &'a BTreeSet<InstanceName>) -> BoxFuture<'a, Result<Vec<String>, Failure>>;

    /// Gives the file of a volume at least the size it should have, and says how many bytes it has.
    fn grow_volume<'a>(&'a self, number: VolumeNumber, target: &'a VolumeTarget)
    -> BoxFuture<'a, Result<u64, Failure>>;

    /// Removes the files of volumes that were deleted, as `target` tells.
    fn sweep_volumes<'a>(&'a self, target: &'a HostTarget) -> BoxFuture<'a, Result<(), Failure>>;

    /// Opens a sealed set of secrets.
    fn open_secrets<'a>(&'a self, app: &'a AppKey, set: &'a SecretSetId) -> BoxFuture<'a, Result<Secrets, Failure>>;

    /// Bytes that are free where the files of volumes lie.
    fn free_disk(&self) -> u64;

    /// Removes what all instances of this host share, when none runs: firewall, forwarding and such. What an instance
    /// that starts later needs of it is made again.
    fn leave(&self) -> BoxFuture<'_, Result<(), Failure>>;
}

/// A running microVM. Dropping it leaves it running.
pub(crate) trait Machine: Send + Sync + fmt::Debug {
    /// How to find it again.
    fn record(&self) -> MachineRecord;

    /// Waits for its end and says how it came, with the VMM's last words.
    fn wait_exit(&self) -> BoxFuture<'_, String>;

    /// Kills it and waits for its end.
    fn kill(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// Whether it is paused since a volume found the host's disk full, as that changes.
    fn starved(&self) -> watch::Receiver<bool>;

    /// Lets it go on; what found no room is written again.
    fn resume(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// The last lines of the guest's console, for people.
    fn last_words(&self) -> BoxFuture<'_, String>;

    /// Forwards a port of the host to `port` of the guest while it runs.
    fn forward(&self, port: u16) -> BoxFuture<'_, Result<SocketAddrV4, Failure>>;

    /// Tells the machine that the file of a disk has grown.
    fn resize_disk<'a>(&'a self, serial: &'a str, bytes: u64) -> BoxFuture<'a, Result<(), Failure>>;

    /// Begins to copy a disk as it is at this moment.
    fn begin_copy<'a>(&'a self, copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), Failure>>;

    /// Waits for the end of such a copy.
    fn finish_copy<'a>(&'a self, copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), Failure>>;

    /// Ends such a copy wherever it is.
    fn drop_copy<'a>(&'a self, serial: &'a str) -> BoxFuture<'a, ()>;

    /// The records of changes that are kept for a disk.
    fn change_records<'a>(&'a self, serial: &'a str) -> BoxFuture<'a, Result<Vec<String>, Failure>>;

    /// Forgets a record of changes.
    fn drop_record<'a>(&'a self, serial: &'a str, record: &'a str) -> BoxFuture<'a, Result<(), Failure>>;

    /// Connects to the guest and waits for its greeting, for as long as it takes.
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Guest>, Failure>>;
}

/// Why a guest did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GuestFailure {
    /// The guest answered that it cannot.
    #[error("{0}")]
    Refused(String),
    /// The connection ended.
    #[error("the connection to the guest ended")]
    Closed,
}

/// The connection to one guest.
pub(crate) trait Guest: Send + Sync + fmt::Debug {
    /// The guest's state as it changes.
    fn status(&self) -> watch::Receiver<Status>;

    /// When the guest was where as it booted, by its own clock.
    fn boot_marks(&self) -> Vec<BootMark>;

    /// Whether it has an ability ([`holm_guest_control::Features`]).
    fn can(&self, feature: &str) -> bool;

    /// Waits until the connection has ended.
    fn closed(&self) -> BoxFuture<'_, ()>;

    /// Sends the configuration.
    fn configure<'a>(&'a self, config: &'a Config) -> BoxFuture<'a, Result<(), GuestFailure>>;

    /// Starts the app.
    fn start(&self) -> BoxFuture<'_, Result<(), GuestFailure>>;

    /// Asks the app to end within `grace` and the guest to power off.
    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), GuestFailure>>;

    /// Figures; also the proof that the guest answers.
    fn metrics(&self) -> BoxFuture<'_, Result<Metrics, GuestFailure>>;

    /// Grows, freezes or thaws the volume on a disk.
    fn volume<'a>(&'a self, serial: &'a str, action: VolumeAction) -> BoxFuture<'a, Result<(), GuestFailure>>;

    /// Tells where the app's own instances are, by process type. A guest that cannot use it says nothing.
    fn names<'a>(&'a self, _names: &'a BTreeMap<String, Vec<IpAddr>>) -> BoxFuture<'a, Result<(), GuestFailure>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Runs a command beside the app.
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<ExecSession, GuestFailure>>;

    /// The app's output from record `seq` on.
    fn logs(&self, seq: u64) -> BoxFuture<'_, Result<Box<dyn LogSource>, GuestFailure>>;
}

/// Log records as the guest sends them.
pub(crate) trait LogSource: Send {
    /// The next record; `None` when the connection has ended. Asking for the next one says that the last is kept.
    fn next(&mut self) -> BoxFuture<'_, Option<Record>>;
}
