//! What an agent needs to know, and its limits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holm_image::ImageStore;
use holm_model::id::InstanceName;
use holm_secrets::Vault;
use holm_vmm::{AccelKind, Acceleration, GuestStore, RunAs};
use holm_volume::VolumeStore;

use crate::host::NetworkMode;

/// What an agent works with.
#[derive(Clone)]
pub struct AgentConfig {
    /// The agent's own folder; one agent at a time may use it.
    pub state_dir: PathBuf,
    /// Tells this Holm's microVMs from those of others on the same machine: 1 to 64 of `a-z A-Z 0-9 . _ -`.
    pub host_tag: String,
    /// Where images come from.
    pub images: ImageStore,
    /// What guests boot from: the default bundle at the time.
    pub guests: GuestStore,
    /// The files of volumes.
    pub volumes: VolumeStore,
    /// Where the apps' secrets lie.
    pub secrets: Arc<Vault>,
    /// How microVMs run, from the probe.
    pub acceleration: Acceleration,
    /// How instances reach the network.
    pub network: NetworkMode,
    /// Name servers for guests with a routed network, as text.
    pub dns: Vec<String>,
    /// The user QEMU runs as when the agent is root; `None`: the agent's own.
    pub run_as: Option<RunAs>,
    /// What the ingress knows of connections.
    pub connections: Arc<dyn Connections>,
    /// How long things may take.
    pub limits: Limits,
}

impl std::fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { state_dir, host_tag, acceleration, network, .. } = self;
        let mut out = f.debug_struct("AgentConfig");
        out.field("state_dir", state_dir).field("host_tag", host_tag);
        out.field("acceleration", acceleration).field("network", network).finish_non_exhaustive()
    }
}

/// What the ingress tells the agent about an instance's connections.
pub trait Connections: Send + Sync + std::fmt::Debug {
    /// Resolves when no connection to the instance is open. New ones are kept away by the report: the instance is
    /// `Stopping` there before this is called.
    fn drained<'a>(&'a self, instance: &'a InstanceName) -> BoxFuture<'a, ()>;

    /// Ends every connection to the instance; its microVM is gone.
    fn cut(&self, instance: &InstanceName);
}

/// For a host without an ingress: nothing is ever connected.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoConnections;

impl Connections for NoConnections {
    fn drained<'a>(&'a self, _instance: &'a InstanceName) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    fn cut(&self, _instance: &InstanceName) {}
}

/// How much of an app's output is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Files per instance; when one more is needed the oldest goes. At least 1.
    pub segments: usize,
    /// Most bytes in one file.
    pub segment_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { segments: 4, segment_bytes: 1 << 20 }
    }
}

/// How long things may take and how many may happen at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the launch of a microVM to the greeting of its guest, to its app's start.
    pub boot: Duration,
    /// How long a running guest may leave a question unanswered before it counts as hung.
    pub silence: Duration,
    /// Time between two such questions.
    pub ping: Duration,
    /// How long an app without a health check has to stay up before it counts as healthy.
    pub smoke: Duration,
    /// What a guest gets beyond the app's grace to power off before it is killed.
    pub power_off: Duration,
    /// MicroVMs that boot at the same time; the others wait. At least 1.
    pub boots: usize,
    /// What is kept of each app's output.
    pub logs: LogLimits,
}

impl Limits {
    /// An app without a health check is healthy when it has stayed up this long.
    pub const SMOKE: Duration = Duration::from_secs(2);

    /// Limits for this acceleration on a host with so many processors.
    #[must_use]
    pub fn of(acceleration: &Acceleration, processors: usize) -> Self {
        match acceleration.kind {
            AccelKind::Kvm => Self::hardware(processors),
            AccelKind::Tcg => Self::emulated(processors),
        }
    }

    /// Limits for guests that run on the processor itself.
    #[must_use]
    pub fn hardware(processors: usize) -> Self {
        Self {
            boot: Duration::from_secs(30),
            silence: Duration::from_secs(15),
            ping: Duration::from_secs(5),
            smoke: Self::SMOKE,
            power_off: Duration::from_secs(5),
            boots: processors.max(1) * 4,
            logs: LogLimits::default(),
        }
    }

    /// Limits for guests whose processor is emulated: about ten times slower, and a boot fills one processor.
    #[must_use]
    pub fn emulated(processors: usize) -> Self {
        Self {
            boot: Duration::from_secs(180),
            silence: Duration::from_secs(60),
            power_off: Duration::from_secs(20),
            boots: processors.max(1),
            ..Self::hardware(processors)
        }
    }
}

#[cfg(test)]
mod tests {
    use holm_model::footprint::INSTANCE_DISK;

    use super::*;

    #[test]
    fn an_instance_keeps_to_the_disk_it_is_promised() {
        let limits = [Limits::hardware(2), Limits::emulated(2)];
        for LogLimits { segments, segment_bytes } in limits.map(|limits| limits.logs) {
            assert!(segments as u64 * segment_bytes + (1 << 20) <= INSTANCE_DISK);
        }
    }
}
