//! What people and programs are shown of the state: flat pictures of apps, releases, deployments and instances.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use holm_manifest::{ProcessName, Route};
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName, ReleaseNumber};
use holm_model::report::{End, Phase};
use holm_model::state::{Deployment, DeploymentKind, DeploymentStatus, Instance, Release, State};
use holm_planner::{CrashLoop, Shortage, crash_loops, plan, standing};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;
use crate::wire::ImageProgress;

/// An instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its name.
    pub instance: InstanceName,
    /// The release it runs.
    pub release: ReleaseNumber,
    /// How far it is.
    pub phase: Phase,
    /// Since when it is in this phase.
    pub since: Timestamp,
    /// What is going on.
    pub detail: Option<String>,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// Why it was placed.
    pub why: String,
    /// Why it should go, once that was decided.
    pub retired: Option<String>,
    /// Where its ports are reached.
    pub endpoints: BTreeMap<u16, SocketAddr>,
    /// How it ended.
    pub end: Option<End>,
}

impl InstanceView {
    /// The picture of one instance.
    #[must_use]
    pub fn of(name: &InstanceName, instance: &Instance) -> Self {
        Self {
            instance: name.clone(),
            release: instance.release,
            phase: instance.phase,
            since: instance.since,
            detail: instance.detail.clone(),
            placed_at: instance.placed_at,
            why: instance.why.clone(),
            retired: instance.retired.clone(),
            endpoints: instance.endpoints.clone(),
            end: instance.end.clone(),
        }
    }
}

/// The instances of `app` (or of all), by app, process type and number; ended ones only when `ended` says so.
#[must_use]
pub fn instances(state: &State, app: Option<&AppKey>, ended: bool) -> Vec<InstanceView> {
    let wanted = state
        .instances
        .iter()
        .filter(|(name, instance)| app.is_none_or(|app| name.app == *app) && (ended || instance.phase != Phase::Ended));
    wanted.map(|(name, instance)| InstanceView::of(name, instance)).collect()
}

/// What kind of deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An image is brought out.
    Deploy,
    /// Back to an earlier release.
    Rollback,
    /// New instances of the same release.
    Restart,
}

/// How far a deployment is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The image is looked up and fetched.
    Preparing,
    /// Instances are being replaced.
    RollingOut,
    /// Done.
    Succeeded,
    /// Failed; what served before goes on.
    Failed,
    /// A newer one took its place.
    Superseded,
}

impl Progress {
    /// The word, as in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::RollingOut => "rolling_out",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }

    /// Whether something is still to be done.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Preparing | Self::RollingOut)
    }
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentView {
    /// The app and environment.
    pub app: AppKey,
    /// Its number.
    pub deployment: DeploymentNumber,
    /// What was asked for.
    pub kind: Kind,
    /// How far it is.
    pub status: Progress,
    /// The image as it was named; only for [`Kind::Deploy`].
    pub image: Option<String>,
    /// The release it goes to, once known.
    pub release: Option<ReleaseNumber>,
    /// The digest of the release's image, once known.
    pub digest: Option<Digest>,
    /// The release that served before.
    pub previous: Option<ReleaseNumber>,
    /// Who asked.
    pub actor: String,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When the rollout began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it failed.
    pub why: Option<String>,
    /// The last lines of the instance that failed.
    pub last_log: Vec<String>,
    /// The newer deployment that took its place.
    pub superseded_by: Option<DeploymentNumber>,
}

impl DeploymentView {
    /// The picture of one deployment.
    #[must_use]
    pub fn of(state: &State, app: &AppKey, number: DeploymentNumber, deployment: &Deployment) -> Self {
        let (kind, image) = match &deployment.kind {
            DeploymentKind::Deploy { image, .. } => (Kind::Deploy, Some(image.clone())),
            DeploymentKind::Rollback => (Kind::Rollback, None),
            DeploymentKind::Restart => (Kind::Restart, None),
        };
        let (status, why, last_log, superseded_by) = match &deployment.status {
            DeploymentStatus::Preparing => (Progress::Preparing, None, Vec::new(), None),
            DeploymentStatus::RollingOut => (Progress::RollingOut, None, Vec::new(), None),
            DeploymentStatus::Succeeded => (Progress::Succeeded, None, Vec::new(), None),
            DeploymentStatus::Failed { why, last_log } => (Progress::Failed, Some(why.clone()), last_log.clone(), None),
            DeploymentStatus::Superseded { by } => (Progress::Superseded, None, Vec::new(), Some(*by)),
        };
        let digest = deployment.release.and_then(|n| state.release(app, n)).map(|release| release.digest.clone());
        Self {
            app: app.clone(),
            deployment: number,
            kind,
            status,
            image,
            release: deployment.release,
            digest,
            previous: deployment.previous,
            actor: deployment.actor.clone(),
            requested_at: deployment.requested_at,
            started_at: deployment.started_at,
            ended_at: deployment.ended_at,
            why,
            last_log,
            superseded_by,
        }
    }
}

/// A deployment as it goes on: sent whole each time something about it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentUpdate {
    /// The deployment.
    pub deployment: DeploymentView,
    /// How far its image is, while that is fetched or built.
    pub image: Option<ImageProgress>,
    /// How many instances of each process type there are to be.
    pub wanted: BTreeMap<ProcessName, u32>,
    /// The app's instances: those that run, and those placed by this deployment that have ended.
    pub instances: Vec<InstanceView>,
    /// The process types that have no room on the host now, with what is missing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waiting: BTreeMap<ProcessName, NoRoom>,
    /// When it has succeeded: the addresses of the app's routes that the ingress cannot listen on, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub closed: BTreeMap<SocketAddr, String>,
}

impl DeploymentUpdate {
    /// The update for a deployment, if it exists.
    #[must_use]
    pub fn of(state: &State, app: &AppKey, number: DeploymentNumber, image: Option<ImageProgress>) -> Option<Self> {
        let deployment = state.deployments.get(&(app.clone(), number))?;
        let shown = state
            .instances_of(app)
            .filter(|(_, instance)| instance.phase != Phase::Ended || instance.placed_at >= deployment.requested_at);
        Some(Self {
            deployment: DeploymentView::of(state, app, number, deployment),
            image,
            wanted: deployment.release.map(|release| wanted(state, app, release)).unwrap_or_default(),
            instances: shown.map(|(name, instance)| InstanceView::of(name, instance)).collect(),
            waiting: waiting(state, app, Timestamp::now()),
            closed: BTreeMap::new(),
        })
    }
}

/// How many instances of each process type `app` is to have with `release`.
#[must_use]
pub fn wanted(state: &State, app: &AppKey, release: ReleaseNumber) -> BTreeMap<ProcessName, u32> {
    let (Some(release), Some(app_doc)) = (state.release(app, release), state.apps.get(app)) else {
        return BTreeMap::new();
    };
    let count = |process: &ProcessName| match app_doc.scale.get(process) {
        _ if app_doc.stopped => 0,
        Some(by_hand) => *by_hand,
        None => release.manifest.instances_in(&app.env, process),
    };
    release.manifest.processes.keys().map(|process| (process.clone(), count(process))).collect()
}

/// A release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseView {
    /// Its number.
    pub release: ReleaseNumber,
    /// Whether it serves now.
    pub current: bool,
    /// Whether it was ever healthy.
    pub proven: bool,
    /// The image's digest.
    pub digest: Digest,
    /// The image's name with its digest.
    pub reference: String,
    /// The digest of the manifest.
    pub manifest_hash: Digest,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
}

impl ReleaseView {
    /// The picture of one release.
    #[must_use]
    pub fn of(number: ReleaseNumber, release: &Release, current: Option<ReleaseNumber>) -> Self {
        Self {
            release: number,
            current: current == Some(number),
            proven: release.proven,
            digest: release.digest.clone(),
            reference: release.reference.clone(),
            manifest_hash: release.manifest_hash.clone(),
            created_at: release.created_at,
            created_by: release.created_by.clone(),
        }
    }
}

/// The releases of `app`, newest first.
#[must_use]
pub fn releases(state: &State, app: &AppKey) -> Vec<ReleaseView> {
    let current = state.apps.get(app).and_then(|app| app.current);
    state.releases_of(app).rev().map(|(number, release)| ReleaseView::of(number, release, current)).collect()
}

/// A process type of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessView {
    /// Its name.
    pub process: ProcessName,
    /// How many instances there are to be.
    pub wanted: u32,
    /// Whether that was set by hand and not by the manifest.
    pub scaled: bool,
    /// How many run and are not on their way out.
    pub running: u32,
    /// How many of those are healthy.
    pub healthy: u32,
    /// How many have done their work and ended, where the restart policy asks for no others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub done: u32,
    /// Its instances die one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_loop: Option<CrashView>,
    /// Another instance has no room on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<NoRoom>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Instances of a process type that die one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashView {
    /// How many died in a row; at least this many from 8 on.
    pub deaths: u32,
    /// The newest of the dead.
    pub newest: InstanceName,
    /// How that one ended, for people.
    pub cause: String,
    /// When the next one is placed, while that is in the future.
    pub next_try: Option<Timestamp>,
}

impl CrashView {
    fn of(crash: CrashLoop) -> Self {
        let deaths = u32::try_from(crash.deaths).unwrap_or(u32::MAX);
        let cause = crash.end.cause.to_string();
        Self { deaths, newest: crash.newest, cause, next_try: crash.next_try }
    }
}

/// Memory that is missing for one more instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoRoom {
    /// What it takes, in bytes.
    pub needs: u64,
    /// What is free, in bytes.
    pub free: u64,
    /// What microVMs may take together, in bytes.
    pub cap: u64,
}

impl From<Shortage> for NoRoom {
    fn from(Shortage { needs, free, cap }: Shortage) -> Self {
        Self { needs, free, cap }
    }
}

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [needs, free, cap] = [self.needs, self.free, self.cap].map(|bytes| bytes >> 20);
        write!(f, "no memory: it takes {needs} MiB, {free} of the host's {cap} MiB are free")
    }
}

/// Disk that is missing for what somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoDisk {
    /// What it takes more, in bytes.
    pub needs: u64,
    /// What is not promised yet, in bytes.
    pub free: u64,
    /// What may be promised together, in bytes.
    pub cap: u64,
}

impl From<Shortage> for NoDisk {
    fn from(Shortage { needs, free, cap }: Shortage) -> Self {
        Self { needs, free, cap }
    }
}

impl std::fmt::Display for NoDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [needs, free, cap] = [self.needs.div_ceil(1 << 20), self.free >> 20, self.cap >> 20];
        write!(f, "no disk: it takes {needs} MiB more, {free} of the host's {cap} MiB are not promised yet")
    }
}

/// Disk that is promised on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// To volumes, their snapshots and logs, in bytes.
    pub promised: u64,
    /// What may be promised together, in bytes.
    pub cap: u64,
}

impl DiskView {
    /// The figures of `state`, which is that of all apps; `None` where nobody has said how much there is.
    #[must_use]
    pub fn of(state: &State) -> Option<Self> {
        holm_planner::Disk::of(state).figures().map(|(promised, cap)| Self { promised, cap })
    }
}

/// The process types of `app` that have no room now. `state` is that of all apps.
#[must_use]
pub fn waiting(state: &State, app: &AppKey, now: Timestamp) -> BTreeMap<ProcessName, NoRoom> {
    let waiting = plan(state, now).waiting.into_iter().filter(|waiting| waiting.app == *app);
    waiting.map(|waiting| (waiting.process, waiting.shortage.into())).collect()
}

/// A route with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// The route.
    #[serde(flatten)]
    pub route: Route,
    /// Whether it was added by hand and is not of the manifest.
    pub added: bool,
}

/// The routes of `app` that are in force.
#[must_use]
pub fn routes(state: &State, app: &AppKey) -> Vec<RouteView> {
    let added = state.apps.get(app).map(|app| &app.added_routes);
    let is_added = |route: &Route| added.is_some_and(|added| added.values().any(|other| other == route));
    state.routes_of(app).into_values().map(|route| RouteView { added: is_added(&route), route }).collect()
}

/// An app in one environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppView {
    /// The app and environment.
    pub app: AppKey,
    /// Whether it is stopped.
    pub stopped: bool,
    /// Whether it is being destroyed: it goes when its last instance has ended.
    pub destroyed: bool,
    /// The release that serves, if one does.
    pub release: Option<ReleaseView>,
    /// The process types of the release that is wanted.
    pub processes: Vec<ProcessView>,
    /// The routes in force.
    pub routes: Vec<RouteView>,
    /// The newest deployment.
    pub deployment: Option<DeploymentView>,
}

impl AppView {
    /// The picture of one app at the time `now`, if it exists. `state` is that of all apps.
    #[must_use]
    pub fn of(state: &State, key: &AppKey, now: Timestamp) -> Option<Self> {
        let mut crashing = crash_loops(state, now);
        crashing.retain(|crash| crash.app == *key);
        let waiting = waiting(state, key, now);
        let app = state.apps.get(key)?;
        let current = app.current.and_then(|n| Some(ReleaseView::of(n, state.release(key, n)?, app.current)));
        let wanted = state.wanted_release(key).map(|release| wanted(state, key, release)).unwrap_or_default();
        let processes = wanted.into_iter().map(|(process, wanted)| {
            let live = || state.instances_of(key).filter(|(name, i)| name.process == process && i.is_live() && !i.task);
            let healthy = live().filter(|(_, instance)| instance.phase == Phase::Healthy);
            let crash_loop = crashing.iter().find(|crash| crash.process == process);
            ProcessView {
                wanted,
                scaled: app.scale.contains_key(&process),
                running: count(live()),
                healthy: count(healthy),
                done: u32::try_from(standing(state, key, &process).done).unwrap_or(u32::MAX),
                crash_loop: crash_loop.cloned().map(CrashView::of),
                waiting: waiting.get(&process).copied(),
                process,
            }
        });
        let deployment = state.deployments.get(&(key.clone(), app.last_deployment));
        Some(Self {
            app: key.clone(),
            stopped: app.stopped,
            destroyed: app.destroyed,
            release: current,
            processes: processes.collect(),
            routes: routes(state, key),
            deployment: deployment.map(|d| DeploymentView::of(state, key, app.last_deployment, d)),
        })
    }
}

fn count(of: impl Iterator) -> u32 {
    u32::try_from(of.count()).unwrap_or(u32::MAX)
}

/// The instance in which a command for `app` (and `process`) should run: the oldest healthy one, else the oldest whose
/// app runs.
///
/// # Errors
/// When there is no such app, or nothing of it runs.
pub fn instance_for(state: &State, app: &AppKey, process: Option<&ProcessName>) -> Result<InstanceName, Problem> {
    if !state.apps.contains_key(app) {
        return Err(Problem::not_found(format!("there is no app `{app}`")).hint("`holm status` lists the apps"));
    }
    let fits = |name: &&InstanceName| process.is_none_or(|process| name.process == *process);
    let in_phase = |wanted: &[Phase]| {
        let found = state.instances_of(app).filter(|(_, i)| i.is_live() && !i.task && wanted.contains(&i.phase));
        found.map(|(name, _)| name).filter(fits).min_by_key(|name| name.number).cloned()
    };
    in_phase(&[Phase::Healthy]).or_else(|| in_phase(&[Phase::Unhealthy, Phase::Starting])).ok_or_else(|| {
        let what = process.map_or_else(|| format!("`{app}`"), |process| format!("`{process}` of `{app}`"));
        Problem::refused(format!("no instance of {what} runs")).hint(format!("`holm ps {app}` shows what there is"))
    })
}
