//! The manifest as data, after parsing and checking: every default filled in, every unit explicit.
//!
//! The serialised form is stored in releases and hashed, so maps are ordered and fields are never renamed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ingress::IngressLimits;
use crate::name::{AppName, EnvName, ProcessName, SecretName, VolumeName};
use crate::rollout::{ReleaseCommand, RestartPolicy, Strategy, is_default};
use crate::volume::Volume;

/// A checked `holm.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The app's name.
    pub app: AppName,
    /// The image to deploy when the command line names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The process types; at least one.
    pub processes: BTreeMap<ProcessName, Process>,
    /// How a new release takes the place of the one that serves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strategy: Strategy,
    /// What runs once before a new release comes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseCommand>,
    /// Routes of every environment that has none of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Caps on connections from outside.
    #[serde(default, skip_serializing_if = "IngressLimits::is_default")]
    pub ingress: IngressLimits,
    /// What the app keeps beyond its instances' lives.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<VolumeName, Volume>,
    /// Plain configuration, given to every process as environment variables. Never for secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// How secrets that need more than the defaults are delivered. Never their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretName, SecretUse>,
    /// What differs in a named environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environments: BTreeMap<EnvName, Environment>,
}

impl Manifest {
    /// One that says nothing but which process types the app has.
    #[must_use]
    pub fn new(app: AppName, processes: BTreeMap<ProcessName, Process>) -> Self {
        Self {
            app,
            image: None,
            processes,
            strategy: Strategy::default(),
            release: None,
            routes: Vec::new(),
            ingress: IngressLimits::default(),
            volumes: BTreeMap::new(),
            config: BTreeMap::new(),
            secrets: BTreeMap::new(),
            environments: BTreeMap::new(),
        }
    }

    /// The routes of `env`: its own when it lists any, else those of the whole manifest.
    #[must_use]
    pub fn routes_in(&self, env: &EnvName) -> &[Route] {
        self.environments.get(env).and_then(|e| e.routes.as_deref()).unwrap_or(&self.routes)
    }

    /// The plain configuration of `env`: the manifest's, overlaid by the environment's.
    #[must_use]
    pub fn config_in(&self, env: &EnvName) -> BTreeMap<String, String> {
        let mut config = self.config.clone();
        if let Some(environment) = self.environments.get(env) {
            config.extend(environment.config.clone());
        }
        config
    }

    /// The instances of `process` that `env` asks for; 0 when the process type does not exist.
    #[must_use]
    pub fn instances_in(&self, env: &EnvName, process: &ProcessName) -> u32 {
        let own = self.environments.get(env).and_then(|e| e.instances.get(process).copied());
        own.or_else(|| self.processes.get(process).map(|p| p.instances)).unwrap_or(0)
    }
}

/// How one secret is delivered. A secret that the manifest does not name is delivered as `SecretUse::default()` says, and
/// need not be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretUse {
    /// Whether no release with this manifest runs while the secret is not set.
    pub required: bool,
    /// Whether it is an environment variable too.
    pub env: bool,
    /// Permission bits of its file: 0 to 0o777.
    pub mode: u32,
    /// Owner of its file, as a user of the image: `name`, `uid`, `uid:gid`. `None`: the user the app runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl Default for SecretUse {
    fn default() -> Self {
        Self { required: false, env: false, mode: 0o400, owner: None }
    }
}

/// What differs in one environment of an app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Configuration laid over the manifest's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// Routes instead of the manifest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// Instance counts instead of the process types' own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<ProcessName, u32>,
}

/// One process type: how a microVM of it is made and judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Replaces the image's `Cmd` (its `Entrypoint` stays), as in `docker run IMAGE COMMAND`. `None`: the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Soft share of the host's processors, in thousandths of one processor: 50 to 64,000.
    pub cpu_millis: u32,
    /// Hard cap of the app's memory inside its microVM.
    pub memory: Memory,
    /// How many instances run: 0 to 100.
    pub instances: u32,
    /// The health check. `None`: an instance counts as healthy when it has stayed up for a short while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// How an instance is asked to end.
    pub stop: StopPolicy,
    /// What happens when an instance ends by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: RestartPolicy,
    /// The volumes an instance has, with the folders it sees them in. A process type with volumes has at most 1 instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mounts: BTreeMap<VolumeName, String>,
}

impl Process {
    pub(crate) const DEFAULT_CPU_MILLIS: u32 = 1000;
    pub(crate) const DEFAULT_INSTANCES: u32 = 1;

    /// One of which a manifest says nothing but the memory.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        Self {
            command: None,
            cpu_millis: Self::DEFAULT_CPU_MILLIS,
            memory,
            instances: Self::DEFAULT_INSTANCES,
            health: None,
            stop: StopPolicy::default(),
            restart: RestartPolicy::default(),
            mounts: BTreeMap::new(),
        }
    }
}

/// An amount of memory in bytes; a whole number of MiB, 16 MiB to 1 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory(u64);

impl Memory {
    /// An amount of `mib` MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The amount that `text` names, such as `128MiB` or `2GiB`, if it names one up to 1 PiB.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        crate::unit::parse_memory_mib(text).filter(|mib| *mib <= 1 << 30).map(Self::from_mib)
    }

    /// The amount in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The amount in MiB.
    #[must_use]
    pub const fn mib(self) -> u64 {
        self.0 >> 20
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.mib())
    }
}

/// How Holm finds out whether an instance can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: HealthProbe,
    /// Time between two tries, in milliseconds: 100 to 3,600,000.
    pub interval_ms: u64,
    /// Longest time for one try, in milliseconds: 100 to 600,000.
    pub timeout_ms: u64,
    /// Time an instance has to become healthy for the first time, in milliseconds: 1,000 to 3,600,000.
    pub startup_ms: u64,
    /// Failed tries in a row that make a healthy instance unhealthy: 1 to 100.
    pub failures: u32,
}

/// One kind of health check. It runs inside the guest, so it needs no port that is open to the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthProbe {
    /// A TCP connection to this port succeeds.
    Tcp {
        /// The port inside the guest.
        port: u16,
    },
    /// `GET path` on this port answers with a status of 200 to 399.
    Http {
        /// The port inside the guest.
        port: u16,
        /// The path, starting with `/`.
        path: String,
    },
    /// This command exits with status 0.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// How an instance is asked to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPolicy {
    /// The signal's name, such as `SIGTERM`. `None`: the image's `StopSignal`, else `SIGTERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Time between the signal and the kill, in milliseconds: 0 to 3,600,000.
    pub grace_ms: u64,
    /// Longest time in which open connections may end by themselves before the signal, in milliseconds: 0 to 3,600,000.
    pub drain_ms: u64,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self { signal: None, grace_ms: 10_000, drain_ms: 30_000 }
    }
}

/// Leads connections from the ingress to the instances of a process type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// What the ingress looks at.
    #[serde(rename = "match")]
    pub on: RouteMatch,
    /// The process type that serves.
    pub process: ProcessName,
    /// The port inside the guest: 1 to 65,535.
    pub port: u16,
    /// Whether the app is told who connects, by a PROXY header of version 2 before the client's bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy_protocol: bool,
}

/// What selects a route at the ingress.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteMatch {
    /// Every connection to this port of the host: 1 to 65,535.
    TcpPort(u16),
    /// TLS connections to the shared SNI port that name this host (lower case, no trailing dot).
    Sni(String),
}

impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpPort(port) => write!(f, "tcp:{port}"),
            Self::Sni(host) => write!(f, "sni:{host}"),
        }
    }
}
