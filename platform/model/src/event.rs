//! The events of the log. What is recorded is never changed: a new meaning gets a new event.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use holm_manifest::{Manifest, ProcessName, Route, RouteMatch, SecretName, VolumeSize};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::access::{Scope, TokenId};
use crate::id::{AppKey, DeploymentNumber, Digest, InstanceName, ReleaseNumber, SecretSetId, Seq};
use crate::report::{End, Phase};
use crate::volume::{VolumeId, VolumeOrigin};

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Position in the whole log, from 1, without gaps.
    pub seq: Seq,
    /// When it was recorded.
    pub at: Timestamp,
    /// Who caused it: `user:anna`, `planner`, `host`.
    pub actor: String,
    /// The event that led to this one, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Seq>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "body", rename_all = "snake_case")]
pub enum Event {
    /// Somebody asked for a deployment of an image; it is looked up and fetched next.
    DeployRequested {
        /// The app and environment.
        app: AppKey,
        /// The new deployment.
        deployment: DeploymentNumber,
        /// The image as it was named.
        image: String,
        /// The manifest of the release to be.
        manifest: Box<Manifest>,
    },
    /// The image is on the host under its digest, and the deployment has its release: a new one, or one that exists
    /// with the same digest and manifest.
    ReleaseReady {
        /// The app and environment.
        app: AppKey,
        /// The deployment it belongs to.
        deployment: DeploymentNumber,
        /// The release.
        release: ReleaseNumber,
        /// The image's digest.
        digest: Digest,
        /// The image's name with its digest, from which any host can fetch it.
        reference: String,
    },
    /// Somebody asked to go back to an earlier release.
    RollbackRequested {
        /// The app and environment.
        app: AppKey,
        /// The new deployment.
        deployment: DeploymentNumber,
        /// The release to go back to.
        release: ReleaseNumber,
    },
    /// Somebody asked for new instances of the same release.
    RestartRequested {
        /// The app and environment.
        app: AppKey,
        /// The new deployment.
        deployment: DeploymentNumber,
    },
    /// Every instance of the deployment is healthy and the old ones are on their way out.
    DeploymentSucceeded {
        /// The app and environment.
        app: AppKey,
        /// The deployment.
        deployment: DeploymentNumber,
    },
    /// The deployment failed; what served before goes on.
    DeploymentFailed {
        /// The app and environment.
        app: AppKey,
        /// The deployment.
        deployment: DeploymentNumber,
        /// Why, in one line.
        why: String,
        /// The last lines of the instance that failed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        last_log: Vec<String>,
        /// A failed restart: the epoch whose instances are wanted again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        back_to: Option<u64>,
    },
    /// Somebody set how many instances of a process type run.
    Scaled {
        /// The app and environment.
        app: AppKey,
        /// The process type.
        process: ProcessName,
        /// The count; `None`: what the manifest says.
        instances: Option<u32>,
    },
    /// Somebody stopped the app: no instance runs until it is started.
    AppStopped {
        /// The app and environment.
        app: AppKey,
    },
    /// Somebody started a stopped app.
    AppStarted {
        /// The app and environment.
        app: AppKey,
    },
    /// Somebody added a route beside those of the manifest.
    RouteAdded {
        /// The app and environment.
        app: AppKey,
        /// The route.
        route: Route,
    },
    /// Somebody removed a route that had been added.
    RouteRemoved {
        /// The app and environment.
        app: AppKey,
        /// What the route matched.
        on: RouteMatch,
    },
    /// Somebody changed the app's secrets: there is a new version of the whole set. Never the values.
    SecretsChanged {
        /// The app and environment.
        app: AppKey,
        /// Where the whole new set lies, sealed.
        set: SecretSetId,
        /// The secrets that have a new value.
        changed: BTreeSet<SecretName>,
        /// The secrets that are gone.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        removed: BTreeSet<SecretName>,
    },
    /// Somebody allocated IPv4 to the app: its routes are reached over it too.
    Ipv4Allocated {
        /// The app and environment.
        app: AppKey,
    },
    /// Somebody gave the app's IPv4 back.
    Ipv4Released {
        /// The app and environment.
        app: AppKey,
    },
    /// Somebody destroyed the app in this environment: its routes go at once, its instances are stopped.
    AppDestroyed {
        /// The app and environment.
        app: AppKey,
        /// Whether its volumes go with it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        volumes: bool,
    },
    /// The last instance of a destroyed app has ended: nothing of the app is remembered but this log.
    AppForgotten {
        /// The app and environment.
        app: AppKey,
    },
    /// The planner decided on a new instance.
    InstancePlaced {
        /// The instance.
        instance: InstanceName,
        /// The release it runs.
        release: ReleaseNumber,
        /// How many restarts of the app had been asked for.
        epoch: u64,
        /// Why it is there, for people.
        why: String,
        /// Whether it runs the release command once, instead of a process type.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        task: bool,
    },
    /// The planner decided that an instance should go.
    InstanceRetired {
        /// The instance.
        instance: InstanceName,
        /// Why it should go, for people.
        why: String,
    },
    /// A host saw an instance reach another phase (never [`Phase::Ended`]) or other endpoints.
    InstanceObserved {
        /// The instance.
        instance: InstanceName,
        /// The phase.
        phase: Phase,
        /// What is going on, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// Where the host reaches the ports of the guest.
        #[serde(
            default,
            skip_serializing_if = "BTreeMap::is_empty",
            deserialize_with = "crate::endpoints::deserialize"
        )]
        endpoints: BTreeMap<u16, SocketAddr>,
    },
    /// A host saw an instance end.
    InstanceEnded {
        /// The instance.
        instance: InstanceName,
        /// How.
        end: End,
    },
    /// The planner decided that an ended instance need not be remembered any longer.
    InstanceForgotten {
        /// The instance.
        instance: InstanceName,
    },
    /// A volume was made: somebody asked for it, or a release names it.
    VolumeCreated {
        /// The volume.
        volume: VolumeId,
        /// Its size.
        size: VolumeSize,
        /// Where its first content comes from.
        origin: VolumeOrigin,
    },
    /// A volume was made larger: somebody asked for it, or a release does.
    VolumeGrown {
        /// The volume.
        volume: VolumeId,
        /// Its new size.
        size: VolumeSize,
    },
    /// What the snapshots of a volume take of the host's disk has changed: one is about to be taken, or was removed.
    SnapshotsChanged {
        /// The volume.
        volume: VolumeId,
        /// What all of its snapshots take together at the most, in bytes.
        bytes: u64,
    },
    /// A volume was removed with everything in it.
    VolumeDeleted {
        /// The volume.
        volume: VolumeId,
    },
    /// Holm started on a host.
    HostStarted {
        /// Holm's version.
        version: String,
        /// `kvm` or `tcg`.
        acceleration: String,
        /// What the choice rests on, for people.
        why: String,
        /// `privileged` (taps and routed IPv6) or `user` (QEMU's user network).
        network: String,
        /// The memory that all microVMs together may take, in bytes; `None`: nobody has said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory: Option<u64>,
        /// The disk that volumes, their snapshots and logs may take together, in bytes; `None`: nobody has said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<u64>,
    },
    /// Somebody made an access token.
    TokenCreated {
        /// Its public half.
        id: TokenId,
        /// What it is called.
        name: String,
        /// The hash of its secret half.
        hash: Digest,
        /// What it allows.
        scope: Scope,
        /// From when on it is worth nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
    },
    /// Somebody revoked an access token.
    TokenRevoked {
        /// Its public half.
        id: TokenId,
    },
    /// Somebody asked for something that is no event of its own, or was refused.
    Asked {
        /// What for: `exec`, `images prune`, `deploy`.
        verb: String,
        /// About what: an app, an instance, a source address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        about: Option<String>,
        /// Why it was refused; `None`: it was done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
        /// Refusals before this one that were too many to be recorded.
        #[serde(default, skip_serializing_if = "is_zero")]
        unrecorded: u64,
    },
    /// Holm stopped on a host, in good order.
    HostStopped {
        /// Whether the microVMs were left running.
        instances_kept: bool,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event {
    /// The stream the event belongs to: versions are counted within it.
    #[must_use]
    pub fn stream(&self) -> String {
        match self.app() {
            Some(app) => format!("app/{app}"),
            None => "host".to_owned(),
        }
    }

    /// The app and environment the event is about, if it is about one.
    #[must_use]
    pub fn app(&self) -> Option<&AppKey> {
        match self {
            Self::DeployRequested { app, .. }
            | Self::ReleaseReady { app, .. }
            | Self::RollbackRequested { app, .. }
            | Self::RestartRequested { app, .. }
            | Self::DeploymentSucceeded { app, .. }
            | Self::DeploymentFailed { app, .. }
            | Self::Scaled { app, .. }
            | Self::AppStopped { app }
            | Self::AppStarted { app }
            | Self::RouteAdded { app, .. }
            | Self::RouteRemoved { app, .. }
            | Self::SecretsChanged { app, .. }
            | Self::Ipv4Allocated { app }
            | Self::Ipv4Released { app }
            | Self::AppDestroyed { app, .. }
            | Self::AppForgotten { app } => Some(app),
            Self::InstancePlaced { instance, .. }
            | Self::InstanceRetired { instance, .. }
            | Self::InstanceObserved { instance, .. }
            | Self::InstanceEnded { instance, .. }
            | Self::InstanceForgotten { instance } => Some(&instance.app),
            Self::VolumeCreated { volume, .. }
            | Self::VolumeGrown { volume, .. }
            | Self::SnapshotsChanged { volume, .. }
            | Self::VolumeDeleted { volume } => Some(&volume.app),
            Self::HostStarted { .. }
            | Self::HostStopped { .. }
            | Self::TokenCreated { .. }
            | Self::TokenRevoked { .. }
            | Self::Asked { .. } => None,
        }
    }

    /// The instance the event is about, if it is about one.
    #[must_use]
    pub const fn instance(&self) -> Option<&InstanceName> {
        match self {
            Self::InstancePlaced { instance, .. }
            | Self::InstanceRetired { instance, .. }
            | Self::InstanceObserved { instance, .. }
            | Self::InstanceEnded { instance, .. }
            | Self::InstanceForgotten { instance } => Some(instance),
            _ => None,
        }
    }
}
