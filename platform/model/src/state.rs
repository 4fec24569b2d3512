//! The state: a pure fold of the events, kept as documents that are stored one by one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use holm_manifest::{Manifest, ProcessName, Route, RouteMatch};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::access::{Token, TokenId};
use crate::event::{Event, Recorded};
use crate::id::{AppKey, DeploymentNumber, Digest, InstanceName, ReleaseNumber, Seq};
use crate::report::{End, Phase};
use crate::secrets::{AppSecrets, SecretsVersion};
use crate::volume::{Volume, VolumeId};

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
    /// What the last [`Event::HostStarted`] said.
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

/// The name of one document of the state. Documents are stored apart, so that an event rewrites only what it touches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DocumentKey {
    /// [`Site`].
    Site,
    /// [`App`].
    App(AppKey),
    /// [`Release`].
    Release(AppKey, ReleaseNumber),
    /// [`Deployment`].
    Deployment(AppKey, DeploymentNumber),
    /// [`Instance`].
    Instance(InstanceName),
    /// [`Volume`].
    Volume(VolumeId),
}

/// A stored document that does not fit the state.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kind or key is not one this version knows.
    #[error("a stored document has the unknown key `{0}`")]
    UnknownKey(String),
    /// The body is not what the key promises.
    #[error("the stored document `{key}` cannot be read")]
    BadBody {
        /// The document's key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl DocumentKey {
    /// The key as text: `app hello`, `release hello 3` …, environments as in [`AppKey`].
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Site => "site".to_owned(),
            Self::App(app) => format!("app {app}"),
            Self::Release(app, n) => format!("release {app} {}", n.0),
            Self::Deployment(app, n) => format!("deployment {app} {}", n.0),
            Self::Instance(name) => format!("instance {name}"),
            Self::Volume(id) => format!("volume {id}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(' ').collect();
        Some(match parts[..] {
            ["site"] => Self::Site,
            ["app", app] => Self::App(app.parse().ok()?),
            ["release", app, n] => Self::Release(app.parse().ok()?, ReleaseNumber(n.parse().ok()?)),
            ["deployment", app, n] => Self::Deployment(app.parse().ok()?, DeploymentNumber(n.parse().ok()?)),
            ["instance", name] => Self::Instance(name.parse().ok()?),
            ["volume", id] => Self::Volume(id.parse().ok()?),
            _ => return None,
        })
    }
}

impl State {
    /// Folds one event in and says which documents it touched. Total: an event that does not fit changes nothing but
    /// the sequence number, since what is recorded cannot be refused any more.
    pub fn apply(&mut self, recorded: &Recorded) -> BTreeSet<DocumentKey> {
        self.seq = recorded.seq;
        let mut touched = BTreeSet::new();
        if self.apply_to_volumes(recorded, &mut touched) {
            return touched;
        }
        if let Some(key) = recorded.event.app() {
            let known = self.apps.contains_key(key);
            let creates = matches!(
                recorded.event,
                Event::DeployRequested { .. } | Event::RouteAdded { .. } | Event::SecretsChanged { .. }
            );
            if !known && !creates {
                return touched;
            }
            self.apps.entry(key.clone()).or_default().version = recorded.seq.0;
            touched.insert(DocumentKey::App(key.clone()));
        }
        self.apply_event(recorded, &mut touched);
        touched
    }

    fn apply_event(&mut self, recorded: &Recorded, touched: &mut BTreeSet<DocumentKey>) {
        let at = recorded.at;
        match &recorded.event {
            Event::DeployRequested { app, deployment, image, manifest } => {
                let kind = DeploymentKind::Deploy { image: image.clone(), manifest: manifest.clone() };
                self.begin_deployment(recorded, app, *deployment, kind, None, touched);
            }
            Event::RollbackRequested { app, deployment, release } => {
                self.begin_deployment(recorded, app, *deployment, DeploymentKind::Rollback, Some(*release), touched);
            }
            Event::RestartRequested { app, deployment } => {
                let current = self.apps.get(app).and_then(|a| a.current);
                self.begin_deployment(recorded, app, *deployment, DeploymentKind::Restart, current, touched);
                if let Some(app) = self.apps.get_mut(app) {
                    app.epoch = app.failed_epoch.take().unwrap_or(0).max(app.epoch) + 1;
                }
            }
            Event::ReleaseReady { app, deployment, release, digest, reference } => {
                self.release_ready(recorded, (app, *deployment), *release, digest, reference, touched);
            }
            Event::DeploymentSucceeded { app, deployment } => {
                let key = (app.clone(), *deployment);
                let Some(done) = self.deployments.get_mut(&key) else { return };
                done.status = DeploymentStatus::Succeeded;
                done.ended_at = Some(at);
                let (release, secrets) = (done.release, done.secrets.clone());
                touched.insert(DocumentKey::Deployment(app.clone(), *deployment));
                if let (Some(app_doc), Some(number)) = (self.apps.get_mut(app), release) {
                    app_doc.current = Some(number);
                    app_doc.secrets.serving = secrets;
                    if let Some(release) = self.releases.get_mut(&(app.clone(), number)) {
                        release.proven = true;
                        touched.insert(DocumentKey::Release(app.clone(), number));
                    }
                }
            }
            Event::DeploymentFailed { app, deployment, why, last_log, back_to } => {
                if let Some(failed) = self.deployments.get_mut(&(app.clone(), *deployment)) {
                    failed.status = DeploymentStatus::Failed { why: why.clone(), last_log: last_log.clone() };
                    failed.ended_at = Some(at);
                    touched.insert(DocumentKey::Deployment(app.clone(), *deployment));
                }
                if let (Some(app), Some(epoch)) = (self.apps.get_mut(app), back_to) {
                    app.failed_epoch = Some(app.epoch.max(app.failed_epoch.unwrap_or(0)));
                    app.epoch = *epoch;
                }
            }
            Event::Scaled { app, process, instances } => {
                if let Some(app) = self.apps.get_mut(app) {
                    match instances {
                        Some(count) => app.scale.insert(process.clone(), *count),
                        None => app.scale.remove(process),
                    };
                }
            }
            Event::AppStopped { app } => self.set_stopped(app, true),
            Event::AppStarted { app } => self.set_stopped(app, false),
            Event::RouteAdded { app, route } => {
                if let Some(app) = self.apps.get_mut(app) {
                    app.added_routes.insert(route.on.to_string(), route.clone());
                }
            }
            Event::RouteRemoved { app, on } => {
                if let Some(app) = self.apps.get_mut(app) {
                    app.added_routes.remove(&on.to_string());
                }
            }
            Event::SecretsChanged { app, set, changed, removed } => {
                if let Some(app) = self.apps.get_mut(app) {
                    app.secrets.change(set, changed, removed);
                }
            }
            Event::Ipv4Allocated { app } => self.set_ipv4(app, true),
            Event::Ipv4Released { app } => self.set_ipv4(app, false),
            Event::AppDestroyed { app, volumes } => self.destroy(recorded, app, *volumes, touched),
            Event::AppForgotten { app } => self.forget(app, touched),
            Event::InstancePlaced { instance, release, epoch, why, task } => {
                self.site.last_instance = self.site.last_instance.max(instance.number);
                touched.insert(DocumentKey::Site);
                let placed = Instance {
                    release: *release,
                    epoch: *epoch,
                    decided: recorded.seq,
                    why: why.clone(),
                    task: *task,
                    placed_at: at,
                    retired: None,
                    phase: Phase::Placed,
                    detail: None,
                    since: at,
                    healthy_at: None,
                    endpoints: BTreeMap::new(),
                    end: None,
                    secrets: self.secrets_for_new_instance(&instance.app, *release),
                };
                self.instances.insert(instance.clone(), placed);
                touched.insert(DocumentKey::Instance(instance.clone()));
            }
            Event::InstanceForgotten { instance } => {
                self.instances.remove(instance);
                touched.insert(DocumentKey::Instance(instance.clone()));
            }
            Event::InstanceRetired { instance, .. }
            | Event::InstanceObserved { instance, .. }
            | Event::InstanceEnded { instance, .. } => {
                if let Some(known) = self.instances.get_mut(instance) {
                    known.apply(recorded);
                    touched.insert(DocumentKey::Instance(instance.clone()));
                }
            }
            Event::HostStarted { version, acceleration, why, network, memory } => {
                self.site.host = Some(Host {
                    version: version.clone(),
                    acceleration: acceleration.clone(),
                    why: why.clone(),
                    network: network.clone(),
                    since: at,
                    memory: *memory,
                });
                touched.insert(DocumentKey::Site);
            }
            Event::TokenCreated { id, name, hash, scope, expires_at } => {
                let token = Token {
                    name: name.clone(),
                    hash: hash.clone(),
                    scope: scope.clone(),
                    created_at: at,
                    created_by: recorded.actor.clone(),
                    expires_at: *expires_at,
                };
                self.site.tokens.insert(id.clone(), token);
                touched.insert(DocumentKey::Site);
            }
            Event::TokenRevoked { id } => {
                self.site.tokens.remove(id);
                touched.insert(DocumentKey::Site);
            }
            // Volumes have been looked after by `apply_to_volumes`.
            Event::HostStopped { .. }
            | Event::Asked { .. }
            | Event::VolumeCreated { .. }
            | Event::VolumeGrown { .. }
            | Event::VolumeDeleted { .. } => {}
        }
    }

    fn begin_deployment(
        &mut self,
        recorded: &Recorded,
        app: &AppKey,
        number: DeploymentNumber,
        kind: DeploymentKind,
        release: Option<ReleaseNumber>,
        touched: &mut BTreeSet<DocumentKey>,
    ) {
        if let Some(earlier) = self.active_deployment_mut(app) {
            earlier.1.status = DeploymentStatus::Superseded { by: number };
            earlier.1.ended_at = Some(recorded.at);
            touched.insert(DocumentKey::Deployment(app.clone(), earlier.0));
        }
        let Some(app_doc) = self.apps.get_mut(app) else { return };
        app_doc.last_deployment = app_doc.last_deployment.max(number);
        let ready = release.is_some();
        let secrets = app_doc.secrets.for_deployment(&kind, app_doc.current.is_some());
        let deployment = Deployment {
            request: recorded.seq,
            kind,
            status: if ready { DeploymentStatus::RollingOut } else { DeploymentStatus::Preparing },
            release,
            previous: app_doc.current,
            secrets,
            actor: recorded.actor.clone(),
            requested_at: recorded.at,
            started_at: ready.then_some(recorded.at),
            ended_at: None,
        };
        self.deployments.insert((app.clone(), number), deployment);
        touched.insert(DocumentKey::Deployment(app.clone(), number));
    }

    fn release_ready(
        &mut self,
        recorded: &Recorded,
        (app, deployment): (&AppKey, DeploymentNumber),
        number: ReleaseNumber,
        digest: &Digest,
        reference: &str,
        touched: &mut BTreeSet<DocumentKey>,
    ) {
        let Some(rolling) = self.deployments.get_mut(&(app.clone(), deployment)) else { return };
        let DeploymentKind::Deploy { manifest, .. } = &rolling.kind else { return };
        rolling.release = Some(number);
        rolling.status = DeploymentStatus::RollingOut;
        rolling.started_at = Some(recorded.at);
        touched.insert(DocumentKey::Deployment(app.clone(), deployment));
        if let Entry::Vacant(vacant) = self.releases.entry((app.clone(), number)) {
            vacant.insert(Release {
                digest: digest.clone(),
                reference: reference.to_owned(),
                manifest_hash: manifest_hash(manifest),
                manifest: (**manifest).clone(),
                proven: false,
                created_at: recorded.at,
                created_by: rolling.actor.clone(),
            });
            touched.insert(DocumentKey::Release(app.clone(), number));
        }
        if let Some(app) = self.apps.get_mut(app) {
            app.last_release = app.last_release.max(number);
        }
    }

    fn set_stopped(&mut self, app: &AppKey, stopped: bool) {
        if let Some(app) = self.apps.get_mut(app) {
            app.stopped = stopped;
        }
    }

    fn set_ipv4(&mut self, app: &AppKey, allocated: bool) {
        if let Some(app) = self.apps.get_mut(app) {
            app.ipv4 = allocated;
        }
    }

    fn destroy(&mut self, recorded: &Recorded, app: &AppKey, volumes: bool, touched: &mut BTreeSet<DocumentKey>) {
        if let Some((number, active)) = self.active_deployment_mut(app) {
            active.status = DeploymentStatus::Failed { why: "the app was destroyed".to_owned(), last_log: Vec::new() };
            active.ended_at = Some(recorded.at);
            touched.insert(DocumentKey::Deployment(app.clone(), number));
        }
        if let Some(app) = self.apps.get_mut(app) {
            app.destroyed = true;
            app.volumes_destroyed |= volumes;
            app.added_routes.clear();
        }
    }

    /// Drops every document of `app`.
    fn forget(&mut self, app: &AppKey, touched: &mut BTreeSet<DocumentKey>) {
        self.apps.remove(app);
        touched.extend(
            self.releases.extract_if(.., |(of, _), _| of == app).map(|((of, n), _)| DocumentKey::Release(of, n)),
        );
        touched.extend(
            self.deployments.extract_if(.., |(of, _), _| of == app).map(|((of, n), _)| DocumentKey::Deployment(of, n)),
        );
        touched.extend(
            self.instances.extract_if(.., |name, _| name.app == *app).map(|(name, _)| DocumentKey::Instance(name)),
        );
    }

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

    /// One document as it is stored, or `None` when it does not exist (any more).
    #[must_use]
    pub fn document(&self, key: &DocumentKey) -> Option<String> {
        let body = match key {
            DocumentKey::Site => Some(serde_json::to_string(&self.site)),
            DocumentKey::App(app) => self.apps.get(app).map(serde_json::to_string),
            DocumentKey::Release(app, n) => self.releases.get(&(app.clone(), *n)).map(serde_json::to_string),
            DocumentKey::Deployment(app, n) => self.deployments.get(&(app.clone(), *n)).map(serde_json::to_string),
            DocumentKey::Instance(name) => self.instances.get(name).map(serde_json::to_string),
            DocumentKey::Volume(id) => self.volumes.get(id).map(serde_json::to_string),
        };
        body.map(|json| json.expect("the state's documents have only text keys and finite numbers"))
    }

    /// Every document of this state, by key.
    #[must_use]
    pub fn documents(&self) -> BTreeMap<String, String> {
        let site = std::iter::once(DocumentKey::Site);
        let apps = self.apps.keys().cloned().map(DocumentKey::App);
        let releases = self.releases.keys().cloned().map(|(app, n)| DocumentKey::Release(app, n));
        let deployments = self.deployments.keys().cloned().map(|(app, n)| DocumentKey::Deployment(app, n));
        let instances = self.instances.keys().cloned().map(DocumentKey::Instance);
        let volumes = self.volumes.keys().cloned().map(DocumentKey::Volume);
        let keys = site.chain(apps).chain(releases).chain(deployments).chain(instances).chain(volumes);
        keys.filter_map(|key| Some((key.to_text(), self.document(&key)?))).collect()
    }

    /// Puts a stored document back.
    ///
    /// # Errors
    /// [`LoadError`] when the key is unknown or the body does not fit it.
    pub fn load(&mut self, key: &str, body: &str) -> Result<(), LoadError> {
        fn read<T: serde::de::DeserializeOwned>(key: &str, body: &str) -> Result<T, LoadError> {
            serde_json::from_str(body).map_err(|source| LoadError::BadBody { key: key.to_owned(), source })
        }
        match DocumentKey::parse(key).ok_or_else(|| LoadError::UnknownKey(key.to_owned()))? {
            DocumentKey::Site => self.site = read(key, body)?,
            DocumentKey::App(app) => drop(self.apps.insert(app, read(key, body)?)),
            DocumentKey::Release(app, n) => drop(self.releases.insert((app, n), read(key, body)?)),
            DocumentKey::Deployment(app, n) => drop(self.deployments.insert((app, n), read(key, body)?)),
            DocumentKey::Instance(name) => drop(self.instances.insert(name, read(key, body)?)),
            DocumentKey::Volume(id) => drop(self.volumes.insert(id, read(key, body)?)),
        }
        Ok(())
    }
}

impl Instance {
    fn apply(&mut self, recorded: &Recorded) {
        match &recorded.event {
            Event::InstanceRetired { why, .. } => {
                self.retired = Some(why.clone());
                self.decided = recorded.seq;
            }
            Event::InstanceObserved { phase, detail, endpoints, .. } if self.end.is_none() => {
                if self.phase != *phase {
                    self.since = recorded.at;
                }
                self.phase = *phase;
                self.detail.clone_from(detail);
                self.endpoints.clone_from(endpoints);
                if *phase == Phase::Healthy && self.healthy_at.is_none() {
                    self.healthy_at = Some(recorded.at);
                }
            }
            Event::InstanceEnded { end, .. } => {
                self.phase = Phase::Ended;
                self.since = end.at;
                self.detail = None;
                self.endpoints = BTreeMap::new();
                self.end = Some(end.clone());
            }
            _ => {}
        }
    }
}

/// The identity of a manifest: the digest of its serialised form.
#[must_use]
pub fn manifest_hash(manifest: &Manifest) -> Digest {
    let json = serde_json::to_vec(manifest).expect("a manifest has only text keys and finite numbers");
    Digest::of(&json)
}
