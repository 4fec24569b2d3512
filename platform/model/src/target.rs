//! What a host is told to do: the whole wanted state each time, never a step.

use std::collections::{BTreeMap, BTreeSet};

use holm_manifest::{HealthCheck, Memory, SecretName, SecretUse, StopPolicy};
use serde::{Deserialize, Serialize};

use crate::id::{AppKey, Digest, InstanceName, ReleaseNumber, SecretSetId, Seq};
use crate::volume::{VolumeMount, VolumeNumber, VolumeTarget};

/// Everything a host should have. An instance that is not listed is removed with its folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostTarget {
    /// Counts up with every change; a host refuses a target older than one it has seen.
    pub generation: Seq,
    /// The instances of this host.
    pub instances: BTreeMap<InstanceName, InstanceTarget>,
    /// The volumes of this host. One with a number up to the generation's that is not listed was deleted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<VolumeNumber, VolumeTarget>,
}

/// What should become of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceTarget {
    /// Whether it should run.
    pub want: Want,
    /// What it is; never changes for a given name.
    pub spec: InstanceSpec,
    /// The ports inside the guest that routes lead to; may change while it runs.
    pub ports: BTreeSet<u16>,
}

/// Whether an instance should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// Run it. One that has ended is not started again: the planner places another one.
    Run,
    /// Drain it, stop it, and keep what it left (logs, its end).
    Stop,
}

/// What a microVM is made from. Immutable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// The instance's name.
    pub instance: InstanceName,
    /// The release it runs.
    pub release: ReleaseNumber,
    /// The image.
    pub image: Digest,
    /// Where the image comes from when the host does not have it: `registry/name@sha256:…` or `oci:/folder`.
    pub image_reference: String,
    /// Replaces the image's `Cmd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Plain configuration, laid over the image's `Env`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// Soft share of the host's processors in thousandths of one.
    pub cpu_millis: u32,
    /// Hard cap of the app's memory.
    pub memory: Memory,
    /// The health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// How it is asked to end.
    pub stop: StopPolicy,
    /// The volumes it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
    /// Its secrets; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretsTarget>,
}

/// Which secrets an instance gets, and how. Never their values: the host opens the set when the guest greets it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecretsTarget {
    /// The version's number, which the guest is told.
    pub version: u64,
    /// Where the values lie.
    pub set: SecretSetId,
    /// How the secrets are delivered that need more than the defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub uses: BTreeMap<SecretName, SecretUse>,
}

impl InstanceSpec {
    /// The app and environment the instance belongs to.
    #[must_use]
    pub const fn app(&self) -> &AppKey {
        &self.instance.app
    }
}
