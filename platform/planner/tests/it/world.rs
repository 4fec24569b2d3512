//! A made-up host in virtual time: the log, the state, a clock, and instances that do as they are told.

use std::collections::{BTreeMap, BTreeSet};

use holm_manifest::{Manifest, Memory, Process, ProcessName, Route, RouteMatch};
use holm_model::event::{Event, Recorded};
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName, ReleaseNumber};
use holm_model::report::{End, EndCause, Phase};
use holm_model::state::{DeploymentStatus, Instance, State};
use holm_model::target::Want;
use holm_planner::{BackendHealth, Plan, REMEMBERED, host_target, plan, routing};
use jiff::{SignedDuration, Timestamp};

pub(crate) fn app() -> AppKey {
    "hello".parse().unwrap()
}

pub(crate) fn web() -> ProcessName {
    "web".parse().unwrap()
}

pub(crate) fn manifest(instances: u32, port: u16) -> Box<Manifest> {
    let process = Process { instances, ..Process::new(Memory::from_mib(64)) };
    Box::new(Manifest {
        routes: vec![Route { on: RouteMatch::TcpPort(80), process: web(), port, proxy_protocol: false }],
        ..Manifest::new(app().app, BTreeMap::from([(web(), process)]))
    })
}

/// The log, the state, a clock, and a host that does as it is told.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) now: Timestamp,
    /// Releases whose instances die instead of becoming healthy.
    pub(crate) broken: Vec<ReleaseNumber>,
    /// How release commands of a release exit; others exit with 0.
    pub(crate) exits: BTreeMap<ReleaseNumber, i32>,
    /// Instances that stay as they are.
    pub(crate) stuck: BTreeSet<InstanceName>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            state: State::default(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            broken: Vec::new(),
            exits: BTreeMap::new(),
            stuck: BTreeSet::new(),
        }
    }

    /// How much memory microVMs may take together.
    pub(crate) fn host(&mut self, mib: u64) {
        self.record(Event::HostStarted {
            version: "1".to_owned(),
            acceleration: "kvm".to_owned(),
            why: String::new(),
            network: "user".to_owned(),
            memory: Some(mib << 20),
            disk: None,
        });
    }

    /// Deploys a manifest of its own, with one instance of `web` unless it says otherwise.
    pub(crate) fn deploy_with(&mut self, change: impl FnOnce(&mut Manifest)) -> DeploymentNumber {
        let deployment = self.state.apps.get(&app()).map_or(DeploymentNumber(0), |a| a.last_deployment).next();
        let mut manifest = manifest(1, 8000 + u16::try_from(deployment.0).unwrap());
        change(&mut manifest);
        self.record(Event::DeployRequested { app: app(), deployment, image: "img".to_owned(), manifest });
        self.release(deployment);
        deployment
    }

    /// What is planned now, without doing it.
    pub(crate) fn plan(&self) -> Plan {
        plan(&self.state, self.now)
    }

    pub(crate) fn live(&self) -> Vec<(InstanceName, Instance)> {
        self.state.instances.iter().filter(|(_, i)| i.is_live()).map(|(n, i)| (n.clone(), i.clone())).collect()
    }

    pub(crate) fn record(&mut self, event: Event) {
        let seq = self.state.seq.next();
        self.now += SignedDuration::from_millis(1);
        self.state.apply(&Recorded { seq, at: self.now, actor: "test".to_owned(), cause: None, event });
    }

    /// Records decisions until there are none left. The bound is what makes an endless planner fail the test.
    pub(crate) fn decide(&mut self) -> Option<Timestamp> {
        for _ in 0..100 {
            let plan = plan(&self.state, self.now);
            assert_eq!(plan.parent, self.state.seq);
            if plan.decisions.is_empty() {
                let ended = self.state.instances.values().filter(|i| i.end.is_some()).count();
                assert!(ended <= REMEMBERED, "{ended} ended instances are remembered");
                return plan.wake_at;
            }
            for decision in plan.decisions {
                self.record(decision);
                self.check_target();
            }
        }
        panic!("the planner does not come to rest: {:#?}", plan(&self.state, self.now));
    }

    pub(crate) fn check_target(&self) {
        for (name, instance) in &self.state.instances {
            assert_eq!(host_target(&self.state).instances[name].want == Want::Run, instance.is_live());
        }
    }

    pub(crate) fn deploy(&mut self, instances: u32) -> DeploymentNumber {
        let deployment = self.request(instances);
        self.release(deployment);
        deployment
    }

    pub(crate) fn request(&mut self, instances: u32) -> DeploymentNumber {
        let deployment = self.state.apps.get(&app()).map_or(DeploymentNumber(0), |a| a.last_deployment).next();
        let manifest = manifest(instances, 8000 + u16::try_from(deployment.0).unwrap());
        self.record(Event::DeployRequested { app: app(), deployment, image: "img".to_owned(), manifest });
        deployment
    }

    pub(crate) fn release(&mut self, deployment: DeploymentNumber) -> ReleaseNumber {
        let release = self.state.apps[&app()].last_release.next();
        let digest = Digest::of(&release.0.to_le_bytes());
        self.record(Event::ReleaseReady { app: app(), deployment, release, digest, reference: "img@".to_owned() });
        release
    }

    /// The host moves every instance one phase on.
    pub(crate) fn host_step(&mut self) -> bool {
        let mut moved = false;
        let all: Vec<(InstanceName, _)> = self.state.instances.iter().map(|(n, i)| (n.clone(), i.clone())).collect();
        for (instance, seen) in all.into_iter().filter(|(_, i)| i.end.is_none()) {
            if self.stuck.contains(&instance) {
                continue;
            } else if seen.retired.is_some() {
                self.end(&instance, EndCause::Stopped);
            } else if seen.task && seen.phase == Phase::Healthy {
                let code = self.exits.get(&seen.release).copied().unwrap_or(0);
                self.end(&instance, EndCause::Exited { code });
            } else if self.broken.contains(&seen.release) {
                self.end(&instance, EndCause::Exited { code: 1 });
            } else if seen.phase == Phase::Placed {
                self.observe(&instance, Phase::Starting);
            } else if seen.phase == Phase::Starting {
                self.observe(&instance, Phase::Healthy);
            } else {
                continue;
            }
            moved = true;
        }
        moved
    }

    pub(crate) fn observe(&mut self, instance: &InstanceName, phase: Phase) {
        let ports = host_target(&self.state).instances[instance].ports.clone();
        let endpoints = ports.into_iter().map(|p| (p, ([127, 0, 0, 1], p).into())).collect();
        self.record(Event::InstanceObserved { instance: instance.clone(), phase, detail: None, endpoints });
    }

    pub(crate) fn end(&mut self, instance: &InstanceName, cause: EndCause) {
        let end = End { cause, at: self.now, last_log: vec!["oh no".to_owned()] };
        self.record(Event::InstanceEnded { instance: instance.clone(), end });
    }

    /// Lets planner and host work until nothing moves; `floor` serving instances must never be undercut.
    pub(crate) fn settle(&mut self, floor: usize) {
        for _ in 0..200 {
            let wake = self.decide();
            assert!(self.serving() >= floor, "only {} of {floor} serve", self.serving());
            let live = self.state.instances.values().filter(|i| i.is_live()).count();
            assert!(live <= 7, "{live} live instances");
            if !self.host_step() {
                match wake.filter(|_| self.broken.is_empty()) {
                    Some(wake) => self.now = self.now.max(wake),
                    None => return,
                }
            }
        }
        panic!("no rest in sight: {:#?}", self.state.instances);
    }

    /// Lets planner and host work as far as they come without time passing.
    pub(crate) fn quiet(&mut self) {
        for _ in 0..200 {
            self.decide();
            if !self.host_step() {
                return;
            }
        }
        panic!("no rest in sight: {:#?}", self.state.instances);
    }

    pub(crate) fn serving(&self) -> usize {
        let Some(entry) = routing(&self.state).pop() else { return 0 };
        entry.backends.iter().filter(|b| b.health == BackendHealth::Healthy).count()
    }

    pub(crate) fn live_releases(&self) -> Vec<ReleaseNumber> {
        self.state.instances.values().filter(|i| i.is_live()).map(|i| i.release).collect()
    }

    pub(crate) fn status(&self, deployment: DeploymentNumber) -> &DeploymentStatus {
        &self.state.deployments[&(app(), deployment)].status
    }
}
