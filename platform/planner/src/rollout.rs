//! One app: judge its deployment, then move its instances one safe step towards what is wanted.
//!
//! Rolling, with one instance more than wanted at the most: a new one is placed, and an old one is retired only when
//! those that stay can carry the load. Blue-green, where the manifest says so: all new ones are placed beside the old
//! ones, which are retired together once all new ones are healthy. The same rules serve a deployment, a rollback, a
//! restart, a failed deployment on its way back and the replacement of an instance that died.

use std::collections::BTreeSet;

use holm_manifest::{Manifest, ProcessName, RestartPolicy, Strategy};
use holm_model::event::Event;
use holm_model::id::{AppKey, DeploymentNumber, InstanceName, ReleaseNumber};
use holm_model::report::{EndCause, Phase};
use holm_model::secrets::SecretsVersion;
use holm_model::state::{App, Deployment, DeploymentKind, DeploymentStatus, Instance, State};
use jiff::{SignedDuration, Timestamp};

use crate::backoff::{Death, not_before};
use crate::release::{Before, before_rollout, overdue};
use crate::room::Shortage;
use crate::shape::Shape;
use crate::{Budget, REMEMBERED, Waiting, volumes};

/// Instances beyond the wanted count while old and new ones change places.
const SURGE: usize = 1;

/// How long a deployment may wait for memory while nothing of its app moves.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// What is decided for one app.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) decisions: Vec<Event>,
    pub(crate) wake_at: Option<Timestamp>,
    pub(crate) waiting: Vec<Waiting>,
}

impl Decided {
    fn wake(&mut self, at: Option<Timestamp>) {
        self.wake_at = [self.wake_at, at].into_iter().flatten().min();
    }
}

/// Decides for the app `key`. New instances get their numbers and their memory from `budget`.
pub(crate) fn plan_app(state: &State, key: &AppKey, now: Timestamp, budget: &mut Budget<'_>) -> Decided {
    let Some(app) = state.apps.get(key) else { return Decided::default() };
    if app.destroyed {
        return Decided { decisions: take_down(state, key), ..Decided::default() };
    }
    let rolling = state.active_deployment(key).filter(|(_, d)| d.status == DeploymentStatus::RollingOut);
    if let Some((number, deployment)) = rolling
        && let Some(failed) = failure(state, key, app, number, deployment)
    {
        return Decided { decisions: vec![failed], ..Decided::default() };
    }
    let mut decided = Decided::default();
    let (late, wake_at) = overdue(state, key, now);
    decided.decisions.extend(late);
    decided.wake(wake_at);
    let mut settled = true;
    let (mut wanted, mut in_force) = (state.wanted_release(key), rolling);
    if let Some((number, deployment)) = rolling {
        let mut waits = true;
        match before_rollout(state, key, number, deployment, budget) {
            Before::Ready => waits = false,
            Before::Waits => {}
            Before::NoRoom(shortage) => decided.waiting.push(Waiting {
                app: key.clone(),
                process: holm_manifest::ReleaseCommand::process_name(),
                shortage,
            }),
            Before::Decided(event) => decided.decisions.push(*event),
        }
        if waits {
            // Until then what served before is kept as it is.
            (settled, wanted, in_force) = (false, app.current, None);
        }
    }
    let wanted = wanted.and_then(|n| Some((n, &state.release(key, n)?.manifest)));
    if let Some((_, manifest)) = wanted {
        let changes = volumes::make_and_grow(state, key, manifest);
        if !changes.is_empty() {
            // Instances are placed when their volumes have numbers.
            return Decided { decisions: changes, ..Decided::default() };
        }
    }
    let secrets = wanted.and_then(|(release, _)| state.secrets_for_new_instance(key, release));
    let step = Step { state, key, app, wanted, secrets, rolling: in_force, now };
    let switch = step.processes().into_iter().all(|process| step.new_ones_serve(process));
    for process in step.processes() {
        settled &= step.plan_process(process, switch, budget, &mut decided);
    }
    if let Some((number, deployment)) = rolling {
        if settled && !app.stopped && decided.decisions.is_empty() {
            decided.decisions.push(Event::DeploymentSucceeded { app: key.clone(), deployment: number });
        } else if decided.decisions.is_empty()
            && let Some(waiting) = decided.waiting.first()
        {
            let until = out_of_patience(state, key, deployment);
            if until.is_some_and(|until| until <= now) {
                let (process, shortage) = (&waiting.process, waiting.shortage);
                let back_to = older_epoch(state, key, app, deployment);
                decided.decisions.push(no_memory(key, number, process, shortage, back_to));
            } else {
                decided.wake(until);
            }
        }
    }
    decided.decisions.extend(step.forget_old());
    decided
}

/// Retires what runs of a destroyed app; forgets the app when nothing of it is left.
fn take_down(state: &State, key: &AppKey) -> Vec<Event> {
    let left: Vec<_> = state.instances_of(key).filter(|(_, i)| i.end.is_none()).collect();
    if left.is_empty() {
        let gone = Event::AppForgotten { app: key.clone() };
        let with_volumes = state.apps.get(key).is_some_and(|app| app.volumes_destroyed);
        let volumes = if with_volumes { volumes::delete_all(state, key) } else { Vec::new() };
        return volumes.into_iter().chain([gone]).collect();
    }
    let live = left.iter().filter(|(_, i)| i.is_live());
    live.map(|(name, _)| retire(name, "the app was destroyed".to_owned())).collect()
}

/// A deployment fails as soon as one of its instances ends by itself, unless its work was done.
fn failure(
    state: &State,
    key: &AppKey,
    app: &App,
    deployment: DeploymentNumber,
    rolling: &Deployment,
) -> Option<Event> {
    let started = rolling.started_at?;
    let of_deployment = |i: &Instance| {
        let own = Some(i.release) == rolling.release && i.epoch == app.epoch && i.placed_at >= started;
        own && i.retired.is_none() && !i.task
    };
    let mut instances = state.instances_of(key).filter(|(_, i)| of_deployment(i));
    let (name, end) = instances.find_map(|(name, i)| {
        let end = i.end.as_ref()?;
        let well = end.cause.was_asked_for() || (is_done(state, name, i) && end.cause == EndCause::Exited { code: 0 });
        (!well).then_some((name, end))
    })?;
    Some(Event::DeploymentFailed {
        app: key.clone(),
        deployment,
        why: format!("{name} {}", end.cause),
        last_log: end.last_log.clone(),
        back_to: older_epoch(state, key, app, rolling),
    })
}

/// What a restart that failed goes back to: the epoch of the newest instances that it has not replaced yet.
fn older_epoch(state: &State, key: &AppKey, app: &App, rolling: &Deployment) -> Option<u64> {
    if rolling.kind != DeploymentKind::Restart {
        return None;
    }
    let older = state.instances_of(key).filter(|(_, i)| {
        i.is_live() && !i.task && Some(i.release) == rolling.release && i.epoch < app.epoch && i.healthy_at.is_some()
    });
    older.map(|(_, i)| i.epoch).max()
}

fn no_memory(
    key: &AppKey,
    deployment: DeploymentNumber,
    process: &ProcessName,
    short: Shortage,
    back_to: Option<u64>,
) -> Event {
    let [needs, free, cap] = [short.needs, short.free, short.cap].map(|bytes| bytes >> 20);
    Event::DeploymentFailed {
        app: key.clone(),
        deployment,
        why: format!(
            "no memory for another instance of `{process}`: it takes {needs} MiB, {free} of {cap} MiB are free"
        ),
        last_log: Vec::new(),
        back_to,
    }
}

/// When a deployment has waited long enough for memory: counted from the last thing that happened to its app.
fn out_of_patience(state: &State, key: &AppKey, deployment: &Deployment) -> Option<Timestamp> {
    let moved = state.instances_of(key).map(|(_, instance)| instance.since).max();
    let last = [deployment.started_at, moved].into_iter().flatten().max()?;
    last.checked_add(PATIENCE).ok()
}

/// Whether an instance is of the release and the epoch that are wanted of `app`.
pub(crate) fn is_fresh(state: &State, app: &AppKey, instance: &Instance) -> bool {
    let epoch = state.apps.get(app).map(|doc| doc.epoch);
    !instance.task && state.wanted_release(app) == Some(instance.release) && epoch == Some(instance.epoch)
}

/// Whether an instance has ended by itself and its restart policy asks for no other one.
fn is_done(state: &State, name: &InstanceName, instance: &Instance) -> bool {
    let Some(Shape::Process(process)) = Shape::of(state, name, instance) else { return false };
    let Some(end) = instance.end.as_ref().filter(|end| instance.retired.is_none() && !end.cause.was_asked_for()) else {
        return false;
    };
    match process.restart {
        RestartPolicy::Always => false,
        RestartPolicy::OnFailure => end.cause == EndCause::Exited { code: 0 },
        RestartPolicy::Never => true,
    }
}

/// How far one process type of an app is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many instances there are to be, work that is done left out.
    pub wanted: usize,
    /// How many of the wanted release run.
    pub running: usize,
    /// How many of those are healthy.
    pub healthy: usize,
    /// How many of an earlier release or restart are still to be replaced.
    pub stale: usize,
    /// How many have done their work and are not replaced.
    pub done: usize,
}

impl Standing {
    /// Whether it is as it should be.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.stale == 0 && self.running == self.wanted && self.healthy == self.wanted
    }
}

/// How far `process` of the app `key` is in `state`.
#[must_use]
pub fn standing(state: &State, key: &AppKey, process: &ProcessName) -> Standing {
    let Some(app) = state.apps.get(key) else {
        return Standing { wanted: 0, running: 0, healthy: 0, stale: 0, done: 0 };
    };
    let wanted = state.wanted_release(key).and_then(|n| Some((n, &state.release(key, n)?.manifest)));
    let secrets = wanted.and_then(|(release, _)| state.secrets_for_new_instance(key, release));
    let step = Step { state, key, app, wanted, secrets, rolling: None, now: Timestamp::UNIX_EPOCH };
    let live = step.instances().filter(|(name, i)| name.process == *process && i.is_live());
    let (fresh, stale): (Vec<_>, Vec<_>) = live.partition(|(_, i)| step.is_fresh(i));
    Standing {
        wanted: step.count_wanted(process),
        running: fresh.len(),
        healthy: fresh.iter().filter(|(_, i)| i.phase == Phase::Healthy).count(),
        stale: stale.len(),
        done: step.count_done(process),
    }
}

/// Whether an instance has died: nobody wanted its end.
pub(crate) fn is_death(state: &State, name: &InstanceName, instance: &Instance) -> bool {
    let by_itself = instance.end.as_ref().is_some_and(|end| !end.cause.was_asked_for());
    by_itself && instance.retired.is_none() && !is_done(state, name, instance)
}

fn retire(name: &InstanceName, why: String) -> Event {
    Event::InstanceRetired { instance: name.clone(), why }
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
    /// The instances of the app's process types.
    fn instances(&self) -> impl Iterator<Item = (&'a InstanceName, &'a Instance)> {
        self.state.instances_of(self.key).filter(|(_, instance)| !instance.task)
    }

    /// The process types that should run or do run.
    fn processes(&self) -> BTreeSet<&'a ProcessName> {
        let wanted = self.wanted.map(|(_, manifest)| manifest.processes.keys()).into_iter().flatten();
        let live = self.instances().filter(|(_, i)| i.is_live()).map(|(name, _)| &name.process);
        wanted.chain(live).collect()
    }

    /// How many instances should run: those whose work is done count as if they did.
    fn count_wanted(&self, process: &ProcessName) -> usize {
        let Some((_, manifest)) = self.wanted.filter(|(_, m)| m.processes.contains_key(process)) else { return 0 };
        if self.app.stopped {
            return 0;
        }
        let by_hand = self.app.scale.get(process).copied();
        let wanted = by_hand.unwrap_or_else(|| manifest.instances_in(&self.key.env, process)) as usize;
        wanted.saturating_sub(self.count_done(process))
    }

    fn count_done(&self, process: &ProcessName) -> usize {
        let of_process = self.instances().filter(|(name, i)| name.process == *process && self.is_fresh(i));
        of_process.filter(|(name, i)| is_done(self.state, name, i)).count()
    }

    fn is_fresh(&self, instance: &Instance) -> bool {
        self.wanted.is_some_and(|(release, _)| instance.release == release)
            && instance.epoch == self.app.epoch
            && instance.secrets == self.secrets
    }

    /// Whether the old instances wait until all new ones can serve.
    fn is_blue_green(&self) -> bool {
        self.rolling.is_some() && self.wanted.is_some_and(|(_, manifest)| manifest.strategy == Strategy::BlueGreen)
    }

    fn new_ones_serve(&self, process: &ProcessName) -> bool {
        let fresh = self.instances().filter(|(name, i)| name.process == *process && i.is_live() && self.is_fresh(i));
        fresh.filter(|(_, i)| i.phase == Phase::Healthy).count() >= self.count_wanted(process)
    }

    /// Moves one process type a step on. `true`: it is as it should be. `switch`: the new instances of every process type
    /// can serve.
    fn plan_process(
        &self,
        process: &ProcessName,
        switch: bool,
        budget: &mut Budget<'_>,
        decided: &mut Decided,
    ) -> bool {
        let wanted = self.count_wanted(process);
        let live = self.instances().filter(|(name, i)| name.process == *process && i.is_live());
        let (fresh, stale): (Vec<_>, Vec<_>) = live.partition(|(_, i)| self.is_fresh(i));
        let healthy = fresh.iter().filter(|(_, i)| i.phase == Phase::Healthy).count();

        let keep_old = self.is_blue_green() && !switch && !self.app.stopped;
        // A volume has one writer, so those that have one which the new release wants go first, whatever the strategy.
        let gives_way = |(name, i): &(&'a InstanceName, &'a Instance)| {
            self.wanted.is_some_and(|(_, manifest)| volumes::gives_way(self.state, manifest, name, i))
        };
        let (writers, others): (Vec<_>, Vec<_>) = stale.iter().copied().partition(gives_way);
        let mut retired: Vec<Event> = writers.iter().map(|(name, i)| retire(name, self.why_stale(i))).collect();
        retired.extend(self.retire_surplus(wanted, &fresh, &others, healthy, keep_old));
        let gone = retired.len();
        decided.decisions.extend(retired);

        let surge = if self.is_blue_green() { stale.len() } else { SURGE };
        let room = if stale.is_empty() { wanted } else { wanted + surge };
        let place = room.saturating_sub(fresh.len() + stale.len()).min(wanted.saturating_sub(fresh.len()));
        let in_use = self.wanted.is_some_and(|(_, m)| volumes::are_in_use(self.state, self.key, m, process));
        if place > 0 && gone == 0 && !in_use {
            self.place(process, place, budget, decided);
        }
        stale.is_empty() && fresh.len() == wanted && healthy == wanted
    }

    fn retire_surplus(
        &self,
        wanted: usize,
        fresh: &[(&InstanceName, &Instance)],
        stale: &[(&InstanceName, &Instance)],
        healthy: usize,
        keep_old: bool,
    ) -> Vec<Event> {
        // Fresh ones beyond the wanted count: first those that do not serve yet, then the newest.
        let mut surplus: Vec<_> = fresh.to_vec();
        surplus.sort_by_key(|(name, i)| (i.phase == Phase::Healthy, std::cmp::Reverse(name.number)));
        surplus.truncate(fresh.len().saturating_sub(wanted));
        let surplus = surplus.into_iter().map(|(name, _)| retire(name, self.why_surplus(wanted)));

        // Stale ones that never served go at once; those that serve go when the others can do without them.
        let (serving, idle): (Vec<_>, Vec<_>) = stale.iter().partition(|(_, i)| i.healthy_at.is_some());
        let spare = (healthy + serving.len()).saturating_sub(wanted).min(serving.len());
        let spare = if keep_old { 0 } else { spare };
        let mut leaving: Vec<_> = serving;
        leaving.sort_by_key(|(name, i)| (i.phase == Phase::Healthy, name.number));
        leaving.truncate(spare);
        let replaced = idle.into_iter().chain(leaving).map(|(name, i)| retire(name, self.why_stale(i)));
        surplus.chain(replaced).collect()
    }

    fn place(&self, process: &ProcessName, count: usize, budget: &mut Budget<'_>, decided: &mut Decided) {
        let Some((release, manifest)) = self.wanted else { return };
        let Some(memory) = manifest.processes.get(process).map(|process| process.memory) else { return };
        let of_process = self.instances().filter(|(name, _)| name.process == *process);
        let dead = of_process.filter(|(name, i)| self.is_fresh(i) && is_death(self.state, name, i));
        let deaths: Vec<Death> = dead.filter_map(|(_, i)| Death::of(i)).collect();
        if let Some(earliest) = not_before(&deaths).filter(|earliest| *earliest > self.now) {
            decided.wake(Some(earliest));
            return;
        }
        for _ in 0..count {
            if let Err(shortage) = budget.room.take(memory) {
                decided.waiting.push(Waiting { app: self.key.clone(), process: process.clone(), shortage });
                return;
            }
            decided.decisions.push(Event::InstancePlaced {
                instance: budget.name(self.key, process),
                release,
                epoch: self.app.epoch,
                why: self.why_placed(process, deaths.len()),
                task: false,
            });
        }
    }

    /// Ended instances beyond the newest [`REMEMBERED`] of each process type. Those whose work is done are what keeps
    /// others from being placed, and stay.
    fn forget_old(&self) -> Vec<Event> {
        let keeps = |name: &InstanceName, i: &Instance| self.is_fresh(i) && is_done(self.state, name, i);
        let ended = self.state.instances_of(self.key).filter(|(name, i)| i.end.is_some() && !keeps(name, i));
        let ended: Vec<&InstanceName> = ended.map(|(name, _)| name).collect();
        let newer = |name: &InstanceName| {
            ended.iter().filter(|other| other.process == name.process && other.number > name.number).count()
        };
        let old = ended.iter().filter(|name| newer(name) >= REMEMBERED);
        old.map(|name| Event::InstanceForgotten { instance: (*name).clone() }).collect()
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
