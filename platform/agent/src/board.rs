//! What the agent shows of its instances: the report, and the way to their guests and logs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use holm_model::id::{AppKey, InstanceName, Seq};
use holm_model::report::{HostReport, Observation, Phase};
use holm_model::volume::VolumeNumber;
use tokio::sync::watch;

use crate::log::LogView;
use crate::world::{Guest, Machine};

/// How to reach a live instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    /// The guest, while it is connected.
    pub(crate) guest: Option<Arc<dyn Guest>>,
    /// Its log.
    pub(crate) logs: Option<LogView>,
    /// The VMM's process, while it runs.
    pub(crate) pid: Option<u32>,
    /// The guest's address, where instances reach each other.
    pub(crate) address: Option<Ipv6Addr>,
    /// The microVM, while it runs.
    pub(crate) machine: Option<Arc<dyn Machine>>,
    /// The volumes that its microVM has, from before its start to after its end.
    pub(crate) volumes: Vec<VolumeNumber>,
}

/// Written by every instance's task, read by everyone.
#[derive(Debug)]
pub(crate) struct Board {
    report: watch::Sender<Arc<HostReport>>,
    reach: Mutex<BTreeMap<InstanceName, Reach>>,
    /// Counts the changes of `reach`.
    reached: watch::Sender<u64>,
}

impl Board {
    pub(crate) fn new(generation: Seq) -> Self {
        // Who reads reports starts with the agent, so a clock that was set back between two runs misleads nobody.
        let since = jiff::Timestamp::now().as_nanosecond().unsigned_abs() as u64;
        let report = HostReport { run: since, number: 0, generation, instances: BTreeMap::new() };
        Self { report: watch::Sender::new(Arc::new(report)), reach: Mutex::default(), reached: watch::Sender::new(0) }
    }

    pub(crate) fn reports(&self) -> watch::Receiver<Arc<HostReport>> {
        self.report.subscribe()
    }

    pub(crate) fn set_generation(&self, generation: Seq) {
        self.change(|report| (report.generation != generation).then(|| Arc::make_mut(report).generation = generation));
    }

    /// Shows an instance; says nothing to anyone when nothing changed.
    pub(crate) fn show(&self, name: &InstanceName, seen: &Observation) {
        self.change(|report| {
            (report.instances.get(name) != Some(seen))
                .then(|| drop(Arc::make_mut(report).instances.insert(name.clone(), seen.clone())))
        });
    }

    /// Forgets an instance: nothing of it is left on this host.
    pub(crate) fn forget(&self, name: &InstanceName) {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.change(|report| {
            report.instances.contains_key(name).then(|| drop(Arc::make_mut(report).instances.remove(name)))
        });
    }

    fn change(&self, change: impl FnOnce(&mut Arc<HostReport>) -> Option<()>) {
        self.report.send_if_modified(|report| {
            let changed = change(report).is_some();
            if changed {
                Arc::make_mut(report).number += 1;
            }
            changed
        });
    }

    /// Where the healthy instances of `app` are, by process type.
    pub(crate) fn names_of(&self, app: &AppKey) -> BTreeMap<String, Vec<IpAddr>> {
        let report = self.report.borrow().clone();
        let reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (name, seen) in report.instances.iter().filter(|(name, _)| name.app == *app) {
            let addresses = names.entry(name.process.to_string()).or_default();
            if seen.phase == Phase::Healthy {
                addresses.extend(reach.get(name).and_then(|reach| reach.address).map(IpAddr::V6));
            }
        }
        names
    }

    pub(crate) fn reach(&self, name: &InstanceName) -> Option<Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// To wait for changes of what is reached.
    pub(crate) fn reached(&self) -> watch::Receiver<u64> {
        self.reached.subscribe()
    }

    /// The instances that are paused since a volume found the host's disk full.
    pub(crate) fn starved(&self) -> Vec<InstanceName> {
        let reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        let paused = |reach: &Reach| reach.machine.as_ref().is_some_and(|machine| *machine.starved().borrow());
        reach.iter().filter(|(_, reach)| paused(reach)).map(|(name, _)| name.clone()).collect()
    }

    /// The instance that has a volume.
    pub(crate) fn holder_of(&self, number: VolumeNumber) -> Option<(InstanceName, Reach)> {
        let reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        let found = reach.iter().find(|(_, reach)| reach.volumes.contains(&number));
        found.map(|(name, reach)| (name.clone(), reach.clone()))
    }

    pub(crate) fn set_reach(&self, name: &InstanceName, change: impl FnOnce(&mut Reach)) {
        change(self.reach.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default());
        self.reached.send_modify(|count| *count += 1);
    }
}
