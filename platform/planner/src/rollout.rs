//! One app: judge its deployment, then move its instances one safe step towards what is wanted.
//!
//! Rolling, with one instance more than wanted at the most: a new one is placed, and an old one is retired only when
//! those that stay can carry the load. The same rule serves a deployment, a rollback, a restart, a failed deployment on
//! its way back and the replacement of an instance that died.

use std::collections::BTreeSet;

use holm_manifest::{Manifest, ProcessName};
use holm_model::event::Event;
use holm_model::id::{AppKey, DeploymentNumber, InstanceName, ReleaseNumber};
use holm_model::report::Phase;
use holm_model::secrets::SecretsVersion;
use holm_model::state::{App, Deployment, DeploymentKind, DeploymentStatus, Instance, State};
use jiff::Timestamp;

use crate::REMEMBERED;
use crate::backoff::{Death, not_before};

/// Instances beyond the wanted count while old and new ones change places.
const SURGE: usize = 1;

/// What is decided for one app.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) decisions: Vec<Event>,
    pub(crate) wake_at: Option<Timestamp>,
}

/// Decides for the app `key`. New instances get their numbers from `next_instance`.
pub(crate) fn plan_app(state: &State, key: &AppKey, now: Timestamp, next_instance: &mut u64) -> Decided {
    let Some(app) = state.apps.get(key) else { return Decided::default() };
    if app.destroyed {
        return Decided { decisions: take_down(state, key), wake_at: None };
    }
    let rolling = state.active_deployment(key).filter(|(_, d)| d.status == DeploymentStatus::RollingOut);
    if let Some((number, deployment)) = rolling
        && let Some(failed) = failure(state, key, app, number, deployment)
    {
        return Decided { decisions: vec![failed], wake_at: None };
    }
    let wanted = state.wanted_release(key).and_then(|n| Some((n, &state.release(key, n)?.manifest)));
    let secrets = state.secrets_for_new_instance(key);
    let step = Step { state, key, app, wanted, secrets, rolling, now };
    let mut decided = Decided::default();
    let mut settled = true;
    for process in step.processes() {
        settled &= step.plan_process(process, next_instance, &mut decided);
    }
    if settled
        && !app.stopped
        && decided.decisions.is_empty()
        && let Some((deployment, _)) = rolling
    {
        decided.decisions.push(Event::DeploymentSucceeded { app: key.clone(), deployment });
    }
    decided.decisions.extend(forget_old(state, key));
    decided
}

/// Retires what runs of a destroyed app; forgets the app when nothing of it is left.
fn take_down(state: &State, key: &AppKey) -> Vec<Event> {
    let left: Vec<_> = state.instances_of(key).filter(|(_, i)| i.end.is_none()).collect();
    if left.is_empty() {
        return vec![Event::AppForgotten { app: key.clone() }];
    }
    let live = left.iter().filter(|(_, i)| i.is_live());
    live.map(|(name, _)| retire(name, "the app was destroyed".to_owned())).collect()
}

/// A deployment fails as soon as one of its instances ends by itself.
fn failure(
    state: &State,
    key: &AppKey,
    app: &App,
    deployment: DeploymentNumber,
    rolling: &Deployment,
) -> Option<Event> {
    let started = rolling.started_at?;
    let of_deployment = |i: &Instance| {
        Some(i.release) == rolling.release && i.epoch == app.epoch && i.placed_at >= started && i.retired.is_none()
    };
    let mut instances = state.instances_of(key).filter(|(_, i)| of_deployment(i));
    let (name, end) = instances.find_map(|(name, i)| Some((name, i.end.as_ref()?)))?;
    Some(Event::DeploymentFailed {
        app: key.clone(),
        deployment,
        why: format!("{name} {}", end.cause),
        last_log: end.last_log.clone(),
    })
}

fn retire(name: &InstanceName, why: String) -> Event {
    Event::InstanceRetired { instance: name.clone(), why }
}

/// Ended instances beyond the newest [`REMEMBERED`] of each process type.
fn forget_old(state: &State, key: &AppKey) -> Vec<Event> {
    let ended: Vec<&InstanceName> =
        state.instances_of(key).filter(|(_, i)| i.end.is_some()).map(|(name, _)| name).collect();
    let old = ended.iter().filter(|name| {
        ended.iter().filter(|other| other.process == name.process && other.number > name.number).count() >= REMEMBERED
    });
    old.map(|name| Event::InstanceForgotten { instance: (*name).clone() }).collect()
}

/// One app at one moment.
struct Step<'a> {
    state: &'a State,
    key: &'a AppKey,
    app: &'a App,
    /// The release that should run, with its manifest.
    wanted: Option<(ReleaseNumber, &'a Manifest)>,
    /// The secrets its instances should have.
    secrets: Option<SecretsVersion>,
    rolling: Option<(DeploymentNumber, &'a Deployment)>,
    now: Timestamp,
}

impl<'a> Step<'a> {
    /// The process types that should run or do run.
    fn processes(&self) -> BTreeSet<&'a ProcessName> {
        let wanted = self.wanted.map(|(_, manifest)| manifest.processes.keys()).into_iter().flatten();
        let live = self.state.instances_of(self.key).filter(|(_, i)| i.is_live()).map(|(name, _)| &name.process);
        wanted.chain(live).collect()
    }

    fn count_wanted(&self, process: &ProcessName) -> usize {
        let Some((_, manifest)) = self.wanted.filter(|(_, m)| m.processes.contains_key(process)) else { return 0 };
        if self.app.stopped {
            return 0;
        }
        let by_hand = self.app.scale.get(process).copied();
        by_hand.unwrap_or_else(|| manifest.instances_in(&self.key.env, process)) as usize
    }

    fn is_fresh(&self, instance: &Instance) -> bool {
        self.wanted.is_some_and(|(release, _)| instance.release == release)
            && instance.epoch == self.app.epoch
            && instance.secrets == self.secrets
    }

    /// Moves one process type a step on. `true`: it is as it should be.
    fn plan_process(&self, process: &ProcessName, next_instance: &mut u64, decided: &mut Decided) -> bool {
        let wanted = self.count_wanted(process);
        let live = self.state.instances_of(self.key).filter(|(name, i)| name.process == *process && i.is_live());
        let (fresh, stale): (Vec<_>, Vec<_>) = live.partition(|(_, i)| self.is_fresh(i));
        let healthy = fresh.iter().filter(|(_, i)| i.phase == Phase::Healthy).count();

        let retired = self.retire_surplus(wanted, &fresh, &stale, healthy);
        let gone = retired.len();
        decided.decisions.extend(retired);

        let room = if stale.is_empty() { wanted } else { wanted + SURGE };
        let place = room.saturating_sub(fresh.len() + stale.len()).min(wanted.saturating_sub(fresh.len()));
        if place > 0 && gone == 0 {
            self.place(process, place, next_instance, decided);
        }
        stale.is_empty() && fresh.len() == wanted && healthy == wanted
    }

    fn retire_surplus(
        &self,
        wanted: usize,
        fresh: &[(&InstanceName, &Instance)],
        stale: &[(&InstanceName, &Instance)],
        healthy: usize,
    ) -> Vec<Event> {
        // Fresh ones beyond the wanted count: first those that do not serve yet, then the newest.
        let mut surplus: Vec<_> = fresh.to_vec();
        surplus.sort_by_key(|(name, i)| (i.phase == Phase::Healthy, std::cmp::Reverse(name.number)));
        surplus.truncate(fresh.len().saturating_sub(wanted));
        let surplus = surplus.into_iter().map(|(name, _)| retire(name, self.why_surplus(wanted)));

        // Stale ones that never served go at once; those that serve go when the others can do without them.
        let (serving, idle): (Vec<_>, Vec<_>) = stale.iter().partition(|(_, i)| i.healthy_at.is_some());
        let spare = (healthy + serving.len()).saturating_sub(wanted).min(serving.len());
        let mut leaving: Vec<_> = serving;
        leaving.sort_by_key(|(name, i)| (i.phase == Phase::Healthy, name.number));
        leaving.truncate(spare);
        let replaced = idle.into_iter().chain(leaving).map(|(name, i)| retire(name, self.why_stale(i)));
        surplus.chain(replaced).collect()
    }

    fn place(&self, process: &ProcessName, count: usize, next_instance: &mut u64, decided: &mut Decided) {
        let Some((release, _)) = self.wanted else { return };
        let of_process = self.state.instances_of(self.key).filter(|(name, _)| name.process == *process);
        let deaths = of_process.filter(|(_, i)| self.is_fresh(i) && i.retired.is_none());
        let deaths: Vec<Death> = deaths
            .filter_map(|(_, i)| i.end.as_ref().map(|end| Death { healthy_at: i.healthy_at, at: end.at }))
            .collect();
        if let Some(earliest) = not_before(&deaths).filter(|earliest| *earliest > self.now) {
            decided.wake_at = [decided.wake_at, Some(earliest)].into_iter().flatten().min();
            return;
        }
        for _ in 0..count {
            let number = *next_instance;
            *next_instance += 1;
            decided.decisions.push(Event::InstancePlaced {
                instance: InstanceName { app: self.key.clone(), process: process.clone(), number },
                release,
                epoch: self.app.epoch,
                why: self.why_placed(process, deaths.len()),
            });
        }
    }

    fn why_placed(&self, process: &ProcessName, deaths: usize) -> String {
        match (self.rolling, deaths) {
            (Some((number, deployment)), _) => format!("{} {number}", verb(&deployment.kind)),
            (None, 0) if self.app.scale.contains_key(process) => "scaled by hand".to_owned(),
            (None, 0) => "wanted by the manifest".to_owned(),
            (None, _) => "replaces one that died".to_owned(),
        }
    }

    fn why_surplus(&self, wanted: usize) -> String {
        match (self.app.stopped, self.wanted) {
            (true, _) => "the app was stopped".to_owned(),
            (false, None) => "the app has no release to run".to_owned(),
            (false, Some(_)) => format!("{wanted} wanted"),
        }
    }

    fn why_stale(&self, instance: &Instance) -> String {
        match (self.app.stopped, self.wanted, self.rolling) {
            (true, _, _) => "the app was stopped".to_owned(),
            (_, None, _) => "the app has no release to run".to_owned(),
            (_, Some((release, _)), Some((number, deployment))) if instance.release != release => {
                format!("{} {number} replaces {} by {release}", verb(&deployment.kind), instance.release)
            }
            (_, Some(_), Some((number, deployment))) => format!("{} {number}", verb(&deployment.kind)),
            (_, Some((release, _)), None) => format!("{release} serves"),
        }
    }
}

/// What a deployment is called in reasons.
const fn verb(kind: &DeploymentKind) -> &'static str {
    match kind {
        DeploymentKind::Deploy { .. } => "deployment",
        DeploymentKind::Rollback => "rollback",
        DeploymentKind::Restart => "restart",
    }
}
