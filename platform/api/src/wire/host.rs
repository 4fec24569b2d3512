//! The host: its images and guest kernels, what it sees of an instance, what is wrong with it, and its end.

use std::path::PathBuf;

use holm_model::id::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Which Holm answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerVersion {
    /// Holm's version.
    pub version: String,
    /// Its process on the host.
    pub pid: u32,
}

/// How far a deployment's image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageProgress {
    /// What is done with it.
    pub step: ImageStep,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// What is done with an image on its way to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageStep {
    /// The name is looked up at the registry.
    Resolving,
    /// Its layers are fetched and checked.
    Pulling,
    /// The file system is made from the layers.
    Building,
}

/// What the host sees of an instance beyond the recorded state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LiveInstance {
    /// The microVM's process on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The instance's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::Ipv6Addr>,
    /// Memory used inside the guest, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used: Option<u64>,
    /// Memory the microVM takes on the host (proportional set size), in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_memory: Option<u64>,
    /// What the last health check said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// What it waits for, in one line: `a free build slot`, `2 of 3 layers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// An image on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSummary {
    /// Its digest.
    pub digest: Digest,
    /// The names under which it was fetched.
    pub references: Vec<String>,
    /// Size of its file system on this host, in bytes.
    pub size: u64,
    /// When it was made here.
    pub created_at: Timestamp,
    /// The releases that use it, such as `hello v3`.
    pub used_by: Vec<String>,
}

/// An image with what it says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDetail {
    /// What the list shows.
    #[serde(flatten)]
    pub summary: ImageSummary,
    /// The processor it is for, such as `amd64`.
    pub architecture: String,
    /// Its `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// Its `Cmd`.
    pub cmd: Vec<String>,
    /// Its `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// Its `User`; empty: root.
    pub user: String,
    /// Its `WorkingDir`; empty: `/`.
    pub working_dir: String,
    /// Its `StopSignal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Its `ExposedPorts`, such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerSummary>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSummary {
    /// The digest of the compressed layer.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// The images.
    pub removed: Vec<Digest>,
    /// Bytes that are free now, layers included.
    pub freed: u64,
}

/// A kernel bundle that microVMs can boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSummary {
    /// Its name, such as `linux-6.12.48+deb13-cloud-amd64`.
    pub name: String,
    /// Its kernel's version.
    pub kernel: String,
    /// The bundle's id: 16 hexadecimal digits, a hash of its content.
    pub id: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether new instances boot it.
    pub default: bool,
}

/// What a guest bundle is to be made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestImport {
    /// Absolute paths of Debian kernel packages; none: Debian's newest cloud kernel, fetched with apt.
    pub packages: Vec<PathBuf>,
    /// Absolute path of the guest's PID 1; `None`: the one that lies beside the `holm` program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

/// One thing that `holm doctor` looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, in a word or two: `kvm`, `state folder`.
    pub subject: String,
    /// How it is.
    pub level: FindingLevel,
    /// What was found, in one line.
    pub text: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingLevel {
    /// As it should be.
    Ok,
    /// Works, with a loss.
    Warn,
    /// Does not work.
    Fail,
}

/// How Holm is to go down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Whether the microVMs are left running, for the next `holm up` to adopt.
    pub keep_instances: bool,
}
