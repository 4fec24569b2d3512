//! The state: a pure fold of the events, kept as documents that are stored one by one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use holm_manifest::{Manifest, ProcessName, Route, RouteMatch};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::access::{Token, TokenId};
use crate::id::{AppKey, DeploymentNumber, Digest, InstanceName, ReleaseNumber, Seq};
use crate::report::{End, Phase};
use crate::secrets::{AppSecrets, SecretsVersion};
use crate::volume::{Volume, VolumeId};

mod documents;
mod fold;

pub use documents::{DocumentKey, LoadError};

/// Everything Holm knows, as of one event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The newest event that is part of this state.
    pub seq: Seq,
    /// What belongs to the installation as a whole.
    pub site: Site,
    /// The apps, by app and environment.
    pub apps: BTreeMap<AppKey, App>,
    /// The releases of each app.
    pub releases: BTreeMap<(AppKey, ReleaseNumber), Release>,
    /// The deployments of each app.
    pub deployments: BTreeMap<(AppKey, DeploymentNumber), Deployment>,
    /// The instances that run or are remembered.
    pub instances: BTreeMap<InstanceName, Instance>,
    /// The volumes, also those whose app is not there.
    pub volumes: BTreeMap<VolumeId, Volume>,
}

/// What belongs to the installation as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// The number of the newest instance, over all apps.
    pub last_instance: u64,
    /// What the last [`HostStarted`](crate::event::Event::HostStarted) said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// The access tokens that were not revoked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tokens: BTreeMap<TokenId, Token>,
}

/// What the last start of the host told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Holm's version.
    pub version: String,
    /// `kvm` or `tcg`.
    pub acceleration: String,
    /// What the choice rests on, for people.
    pub why: String,
    /// `privileged` or `user`.
    pub network: String,
    /// Since when.
    pub since: Timestamp,
    /// The memory that all microVMs together may take, in bytes; `None`: nobody has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The disk that volumes, their snapshots and logs may take together, in bytes; `None`: nobody has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
}

/// An app in one environment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// The newest event about this app: the version for optimistic checks. Never seen twice, even when the app is
    /// destroyed and made again.
    pub version: u64,
    /// The release that serves when no deployment is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<ReleaseNumber>,
    /// The newest release.
    pub last_release: ReleaseNumber,
    /// The newest deployment.
    pub last_deployment: DeploymentNumber,
    /// The epoch whose instances are wanted: each restart begins another, and one that fails goes back.
    pub epoch: u64,
    /// The newest epoch, where that is not the one that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_epoch: Option<u64>,
    /// Whether it is stopped.
    pub stopped: bool,
    /// Whether it is being destroyed: it goes when its last instance has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub destroyed: bool,
    /// Whether its routes are reached over IPv4 too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv4: bool,
    /// Whether its volumes go with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub volumes_destroyed: bool,
    /// Instance counts set by hand.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scale: BTreeMap<ProcessName, u32>,
    /// Routes added beside those of the manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub added_routes: BTreeMap<String, Route>,
    /// Its secrets: names and versions.
    #[serde(default, skip_serializing_if = "AppSecrets::is_empty")]
    pub secrets: AppSecrets,
}

/// What can be run: an image by digest, and a manifest. Immutable but for its health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The image's digest.
    pub digest: Digest,
    /// The image's name with its digest.
    pub reference: String,
    /// The manifest.
    pub manifest: Manifest,
    /// The digest of the manifest's serialised form.
    pub manifest_hash: Digest,
    /// Whether a deployment of it ever succeeded.
    pub proven: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
}

/// One try to bring an app to a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// The event that asked for it: tells it from one of the same number of an app that was destroyed.
    pub request: Seq,
    /// What was asked for.
    pub kind: DeploymentKind,
    /// How far it is.
    pub status: DeploymentStatus,
    /// The release it goes to; unknown until the image has been found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseNumber>,
    /// The release that served before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ReleaseNumber>,
    /// The version of the secrets it brings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretsVersion>,
    /// Who asked.
    pub actor: String,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When the image and release were ready and the rollout began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// What a deployment was asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentKind {
    /// Bring out an image with a manifest.
    Deploy {
        /// The image as it was named.
        image: String,
        /// The manifest.
        manifest: Box<Manifest>,
    },
    /// Go back to a release.
    Rollback,
    /// Replace the instances by new ones of the same release.
    Restart,
}

/// How far a deployment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentStatus {
    /// The image is looked up and fetched.
    Preparing,
    /// Instances are being replaced.
    RollingOut,
    /// It is done.
    Succeeded,
    /// It failed, and the app went back to what served before.
    Failed {
        /// Why, in one line.
        why: String,
        /// The last lines of the instance that failed.
        last_log: Vec<String>,
    },
    /// A newer deployment took its place.
    Superseded {
        /// The newer one.
        by: DeploymentNumber,
    },
}

impl DeploymentStatus {
    /// Whether something is still to be done.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Preparing | Self::RollingOut)
    }
}

/// One microVM, as decided and as seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The release it runs.
    pub release: ReleaseNumber,
    /// The app's restart count when it was placed.
    pub epoch: u64,
    /// The newest decision about it: a report of an older generation says nothing about it.
    pub decided: Seq,
    /// Why it is there.
    pub why: String,
    /// Whether it runs the release command once, instead of a process type.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub task: bool,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// Why it should go, once that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
    /// How far it is.
    pub phase: Phase,
    /// What is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Since when it is in this phase.
    pub since: Timestamp,
    /// When it was first found healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_at: Option<Timestamp>,
    /// Where its ports are reached.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "crate::endpoints::deserialize")]
    pub endpoints: BTreeMap<u16, SocketAddr>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The version of the secrets it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretsVersion>,
}

impl Instance {
    /// Whether it is wanted and has not ended.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.retired.is_none() && self.end.is_none()
    }
}

impl State {
    fn active_deployment_mut(&mut self, app: &AppKey) -> Option<(DeploymentNumber, &mut Deployment)> {
        let number = self.active_deployment(app)?.0;
        self.deployments.get_mut(&(app.clone(), number)).map(|d| (number, d))
    }

    /// The deployment of `app` that is under way.
    #[must_use]
    pub fn active_deployment(&self, app: &AppKey) -> Option<(DeploymentNumber, &Deployment)> {
        let last = self.apps.get(app)?.last_deployment;
        self.deployments.get(&(app.clone(), last)).filter(|d| d.status.is_active()).map(|d| (last, d))
    }

    /// The release `app` should run now: the one being rolled out, else the current one; none while it is destroyed.
    #[must_use]
    pub fn wanted_release(&self, app: &AppKey) -> Option<ReleaseNumber> {
        if self.apps.get(app)?.destroyed {
            return None;
        }
        let rolling = self.active_deployment(app).and_then(|(_, d)| d.release);
        rolling.or_else(|| self.apps.get(app)?.current)
    }

    /// The manifests that are or may soon be in force for `app`: the current release's, and that of a deployment under way.
    pub fn manifests_of<'a>(&'a self, app: &'a AppKey) -> impl Iterator<Item = &'a Manifest> {
        let manifest_of = |number| self.release(app, number).map(|release| &release.manifest);
        let current = self.apps.get(app).and_then(|doc| doc.current).and_then(manifest_of);
        let under_way = self.active_deployment(app).map(|(_, deployment)| deployment);
        let coming = under_way.and_then(|deployment| match &deployment.kind {
            DeploymentKind::Deploy { manifest, .. } => Some(&**manifest),
            DeploymentKind::Rollback | DeploymentKind::Restart => deployment.release.and_then(manifest_of),
        });
        current.into_iter().chain(coming)
    }

    /// A release by number.
    #[must_use]
    pub fn release(&self, app: &AppKey, number: ReleaseNumber) -> Option<&Release> {
        self.releases.get(&(app.clone(), number))
    }

    /// The releases of `app`, oldest first.
    pub fn releases_of<'a>(&'a self, app: &'a AppKey) -> impl DoubleEndedIterator<Item = (ReleaseNumber, &'a Release)> {
        self.releases
            .range((app.clone(), ReleaseNumber(0))..=(app.clone(), ReleaseNumber(u64::MAX)))
            .map(|((_, number), release)| (*number, release))
    }

    /// The instances of `app`, by process type and number.
    pub fn instances_of<'a>(&'a self, app: &'a AppKey) -> impl Iterator<Item = (&'a InstanceName, &'a Instance)> {
        self.instances.iter().filter(move |(name, _)| name.app == *app)
    }

    /// The routes of `app` that are in force: those of the current release, and those added by hand.
    #[must_use]
    pub fn routes_of(&self, app: &AppKey) -> BTreeMap<RouteMatch, Route> {
        let Some(app_doc) = self.apps.get(app).filter(|a| !a.destroyed) else { return BTreeMap::new() };
        let release = app_doc.current.and_then(|number| self.release(app, number));
        let from_manifest = release.map(|r| r.manifest.routes_in(&app.env)).unwrap_or_default();
        let all = from_manifest.iter().chain(app_doc.added_routes.values());
        all.map(|route| (route.on.clone(), route.clone())).collect()
    }
}

/// The identity of a manifest: the digest of its serialised form.
#[must_use]
pub fn manifest_hash(manifest: &Manifest) -> Digest {
    let json = serde_json::to_vec(manifest).expect("a manifest has only text keys and finite numbers");
    Digest::of(&json)
}
