//! What each event does to the state.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::{Deployment, DeploymentKind, DeploymentStatus, DocumentKey, Host, Instance, Release, State, manifest_hash};
use crate::access::Token;
use crate::event::{Event, Recorded};
use crate::id::{AppKey, DeploymentNumber, Digest, ReleaseNumber};
use crate::report::Phase;

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
            Event::HostStarted { version, acceleration, why, network, memory, disk } => {
                self.site.host = Some(Host {
                    version: version.clone(),
                    acceleration: acceleration.clone(),
                    why: why.clone(),
                    network: network.clone(),
                    since: at,
                    memory: *memory,
                    disk: *disk,
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
            | Event::SnapshotsChanged { .. }
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
