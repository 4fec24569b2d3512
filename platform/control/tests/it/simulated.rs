//! A simulated world in virtual time: the planner and what is observed on one side, a host on the other, and between them
//! a network that loses, delays, repeats and reorders. The host hangs, restarts, runs out of disk; its instances die.

use std::collections::{BTreeMap, BTreeSet};

use holm_control::{Command, ReportOrder, Rules, decide, observe};
use holm_manifest::{Memory, ReleaseCommand, RestartPolicy, Strategy as Rollout};
use holm_model::event::{Event, Recorded};
use holm_model::footprint::footprint;
use holm_model::id::{InstanceName, ReleaseNumber, Seq};
use holm_model::report::{End, EndCause, HostReport, Observation, Phase};
use holm_model::state::{DeploymentStatus, State};
use holm_model::target::{HostTarget, Want};
use holm_planner::{host_target, plan};
use jiff::Timestamp;
use proptest::prelude::*;

use crate::fixture::{app, image, manifest, process};

/// Memory of the host: room for some of what is asked for, not for all of it.
const MEMORY: u64 = 12 * (194 << 20);

fn one_in(dice: &mut fastrand::Rng, n: u64) -> bool {
    dice.u64(..n) == 0
}

struct Machine {
    want: Want,
    memory: Memory,
    task: bool,
    seen: Observation,
    since: u64,
}

/// A host as the agent is: level-triggered, refusing old targets, never starting one name twice.
struct Host {
    run: u64,
    number: u64,
    generation: Seq,
    machines: BTreeMap<InstanceName, Machine>,
    removed: BTreeSet<InstanceName>,
    hangs_until: u64,
    disk_full_until: u64,
}

struct World {
    dice: fastrand::Rng,
    second: u64,
    state: State,
    order: ReportOrder,
    host: Host,
    targets: Vec<(u64, HostTarget)>,
    reports: Vec<(u64, HostReport)>,
    sent: HostTarget,
    /// Whether the network and the host misbehave.
    rough: bool,
    broken: BTreeSet<ReleaseNumber>,
}

impl World {
    fn new(seed: u64) -> Self {
        let host = Host {
            run: 1,
            number: 0,
            generation: Seq(0),
            machines: BTreeMap::new(),
            removed: BTreeSet::new(),
            hangs_until: 0,
            disk_full_until: 0,
        };
        let mut world = Self {
            dice: fastrand::Rng::with_seed(seed),
            second: 0,
            state: State::default(),
            order: ReportOrder::default(),
            host,
            targets: Vec::new(),
            reports: Vec::new(),
            sent: HostTarget::default(),
            rough: true,
            broken: BTreeSet::new(),
        };
        world.record(Event::HostStarted {
            version: "1".to_owned(),
            acceleration: "kvm".to_owned(),
            why: String::new(),
            network: "user".to_owned(),
            memory: Some(MEMORY),
            disk: None,
        });
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + self.second.cast_signed()).unwrap()
    }

    fn record(&mut self, event: Event) {
        let (seq, at) = (self.state.seq.next(), self.now());
        self.state.apply(&Recorded { seq, at, actor: "test".to_owned(), cause: None, event });
    }

    fn ask(&mut self, command: &Command) {
        for event in decide(&self.state, &Rules::default(), command).unwrap_or_default() {
            self.record(event);
        }
        let hello = app("hello");
        let Some((deployment, doc)) = self.state.active_deployment(&hello) else { return };
        if doc.status != DeploymentStatus::Preparing {
            return;
        }
        let release = self.state.apps[&hello].last_release.next();
        let found = image(&release.to_string());
        let (digest, reference) = (found.digest, found.reference);
        self.record(Event::ReleaseReady { app: hello, deployment, release, digest, reference });
    }

    fn random_command(&mut self) -> Command {
        let hello = app("hello");
        let instances = self.dice.u32(..4);
        match self.dice.u64(..9) {
            0..=3 => {
                if one_in(&mut self.dice, 4) {
                    self.broken.insert(self.state.apps.get(&hello).map_or(ReleaseNumber(1), |a| a.last_release.next()));
                }
                let release = one_in(&mut self.dice, 3);
                self.deploy(instances, release)
            }
            4 => Command::Scale { app: hello, process: process("web"), instances: Some(instances) },
            5 => Command::Restart { app: hello },
            6 => Command::Rollback { app: hello, to: None },
            7 => Command::Stop { app: hello },
            _ => Command::Start { app: hello },
        }
    }

    fn deploy(&mut self, instances: u32, release: bool) -> Command {
        let mut manifest = manifest("hello");
        let web = manifest.processes.get_mut(&process("web")).unwrap();
        web.instances = instances;
        web.restart = if one_in(&mut self.dice, 4) { RestartPolicy::OnFailure } else { RestartPolicy::Always };
        manifest.strategy = if one_in(&mut self.dice, 3) { Rollout::BlueGreen } else { Rollout::Rolling };
        let command = vec!["migrate".to_owned()];
        let memory = Memory::from_mib(64);
        manifest.release = release.then_some(ReleaseCommand { command, cpu_millis: 500, memory, timeout_ms: 120_000 });
        Command::Deploy { app: app("hello"), image: None, manifest: Box::new(manifest) }
    }

    /// Plans until there is nothing left to decide, and sends the host what follows.
    fn decide(&mut self) {
        for round in 0.. {
            assert!(round < 100, "the planner does not settle");
            let plan = plan(&self.state, self.now());
            if plan.decisions.is_empty() {
                break;
            }
            plan.decisions.into_iter().for_each(|decision| self.record(decision));
        }
        let target = host_target(&self.state);
        if target.instances != self.sent.instances || self.second.is_multiple_of(7) {
            if target.instances != self.sent.instances {
                self.sent = target;
            }
            for at in self.deliveries() {
                self.targets.push((at, self.sent.clone()));
            }
        }
    }

    /// When a message that is sent now arrives: never, once, or more than once.
    fn deliveries(&mut self) -> Vec<u64> {
        if !self.rough {
            return vec![self.second];
        }
        let copies = [0, 1, 1, 1, 2][self.dice.usize(..5)];
        (0..copies).map(|_| self.second + self.dice.u64(..12)).collect()
    }

    fn send_report(&mut self) {
        let instances = self.host.machines.iter().map(|(name, machine)| (name.clone(), machine.seen.clone()));
        let Host { run, number, generation, .. } = self.host;
        let report = HostReport { run, number, generation, instances: instances.collect() };
        for at in self.deliveries() {
            self.reports.push((at, report.clone()));
        }
    }

    fn tick(&mut self) {
        self.second += 1;
        self.trouble();
        if self.second >= self.host.hangs_until {
            self.host_works();
        }
        let due = self.reports.extract_if(.., |(at, _)| *at <= self.second).map(|(_, report)| report);
        for report in due.collect::<Vec<_>>() {
            if self.order.admits(&report) {
                observe(&self.state, &report, self.now()).into_iter().for_each(|event| self.record(event));
            }
        }
        self.decide();
        self.check();
    }

    fn trouble(&mut self) {
        if !self.rough {
            return;
        }
        if one_in(&mut self.dice, 60) {
            self.host.hangs_until = self.second + self.dice.u64(..40);
        }
        if one_in(&mut self.dice, 60) {
            self.host.disk_full_until = self.second + self.dice.u64(..40);
        }
        if one_in(&mut self.dice, 60) {
            // The agent is killed and comes back; what ran runs on.
            self.host.run += 1;
            self.host.number = 0;
        }
    }

    fn host_works(&mut self) {
        let due = self.targets.extract_if(.., |(at, _)| *at <= self.second).map(|(_, target)| target);
        let mut changed = false;
        for target in due.collect::<Vec<_>>() {
            changed |= self.host_follows(&target);
        }
        let now = self.now();
        let (rough, second) = (self.rough, self.second);
        let full = second < self.host.disk_full_until;
        for (name, machine) in &mut self.host.machines {
            let broken = self.state.instances.get(name).is_some_and(|i| self.broken.contains(&i.release));
            let waited = second - machine.since > self.dice.u64(..4);
            let ended = |cause| Some((Phase::Ended, Some(cause)));
            let next = match (machine.seen.phase, machine.want) {
                (Phase::Ended, _) => None,
                _ if !waited => None,
                (Phase::Stopping, _) => ended(EndCause::Stopped),
                (Phase::Preparing, Want::Stop) => ended(EndCause::Stopped),
                (_, Want::Stop) => Some((Phase::Stopping, None)),
                (Phase::Preparing, Want::Run) if full => {
                    ended(EndCause::CouldNotStart { why: "no space left on the device".to_owned() })
                }
                (Phase::Preparing, Want::Run) => Some((Phase::Booting, None)),
                (Phase::Booting, Want::Run) => Some((Phase::Starting, None)),
                (Phase::Starting, Want::Run) if broken => ended(EndCause::Exited { code: 1 }),
                (Phase::Starting | Phase::Unhealthy, Want::Run) => Some((Phase::Healthy, None)),
                (Phase::Healthy, Want::Run) if machine.task => ended(EndCause::Exited { code: 0 }),
                (Phase::Healthy, Want::Run) if rough && one_in(&mut self.dice, 80) => {
                    ended(EndCause::Exited { code: i32::from(one_in(&mut self.dice, 2)) })
                }
                (Phase::Healthy, Want::Run) if rough && one_in(&mut self.dice, 80) => Some((Phase::Unhealthy, None)),
                _ => None,
            };
            let Some((phase, cause)) = next else { continue };
            machine.since = second;
            machine.seen.phase = phase;
            machine.seen.end = cause.map(|cause| End { cause, at: now, last_log: Vec::new() });
            changed = true;
        }
        self.host.number += u64::from(changed);
        if changed || self.second.is_multiple_of(5) {
            self.send_report();
        }
    }

    fn host_follows(&mut self, target: &HostTarget) -> bool {
        let host = &mut self.host;
        if target.generation < host.generation {
            return false;
        }
        host.generation = target.generation;
        let gone = host.machines.extract_if(.., |name, _| !target.instances.contains_key(name));
        host.removed.extend(gone.map(|(name, _)| name));
        for (name, wanted) in &target.instances {
            assert!(!host.removed.contains(name), "{name} was gone and is wanted again");
            let machine = host.machines.entry(name.clone()).or_insert_with(|| Machine {
                want: wanted.want,
                memory: wanted.spec.memory,
                task: wanted.spec.instance.process.as_str() == ReleaseCommand::PROCESS,
                seen: Observation { phase: Phase::Preparing, detail: None, endpoints: BTreeMap::new(), end: None },
                since: self.second,
            });
            assert!(machine.want == wanted.want || wanted.want == Want::Stop, "{name} was to stop and is to run again");
            machine.want = wanted.want;
        }
        true
    }

    /// What holds at every moment.
    fn check(&self) {
        let running = self.host.machines.values().filter(|machine| machine.seen.phase != Phase::Ended);
        let host = self.state.site.host.as_ref().unwrap();
        let taken: u64 = running.map(|machine| footprint(machine.memory, host)).sum();
        assert!(taken <= MEMORY, "{} of {} MiB are taken on the host", taken >> 20, MEMORY >> 20);
    }

    /// Whether nothing is on its way and nothing is left to happen.
    fn is_at_rest(&self) -> bool {
        let plan = plan(&self.state, self.now());
        let done = |machine: &Machine| match machine.want {
            Want::Run => matches!(machine.seen.phase, Phase::Healthy | Phase::Ended),
            Want::Stop => machine.seen.phase == Phase::Ended,
        };
        let told = self.host.machines.iter().all(|(name, machine)| {
            done(machine) && self.state.instances.get(name).is_some_and(|i| i.phase == machine.seen.phase)
        });
        let quiet = plan.decisions.is_empty() && plan.wake_at.is_none();
        let heard = self.host.generation >= self.sent.generation;
        quiet && told && heard && self.targets.is_empty() && self.reports.is_empty()
    }

    fn calm(&mut self) {
        self.rough = false;
        self.broken.clear();
        self.host.hangs_until = 0;
        self.host.disk_full_until = 0;
        for _ in 0..1800 {
            self.tick();
            if self.is_at_rest() {
                return;
            }
        }
    }
}

fn live(seed: u64) {
    let mut world = World::new(seed);
    let first = world.deploy(2, false);
    world.ask(&first);
    for _ in 0..400 {
        if one_in(&mut world.dice, 25) {
            let command = world.random_command();
            world.ask(&command);
        }
        world.tick();
    }
    world.calm();
    let hello = app("hello");
    world.ask(&Command::Start { app: hello.clone() });
    let last = world.deploy(3, true);
    world.ask(&last);
    world.ask(&Command::Scale { app: hello.clone(), process: process("web"), instances: None });
    let number = world.state.apps[&hello].last_deployment;
    world.calm();
    let deployment = &world.state.deployments[&(hello.clone(), number)];
    let seen = || {
        world
            .state
            .instances
            .iter()
            .map(|(n, i)| format!("{n} {} {} {:?} {:?}", i.release, i.phase, i.retired, i.end))
            .collect::<Vec<_>>()
    };
    assert_eq!(deployment.status, DeploymentStatus::Succeeded, "{:?} {:#?}", world.state.apps[&hello], seen());
    let healthy = |seen: &Observation| seen.phase == Phase::Healthy;
    let on_host: Vec<_> = world.host.machines.iter().filter(|(_, m)| healthy(&m.seen)).map(|(name, _)| name).collect();
    let live: Vec<_> = world.state.instances.iter().filter(|(_, i)| i.is_live()).map(|(name, _)| name).collect();
    assert_eq!(on_host, live, "the host runs what the state says, and nothing else");
    assert_eq!(live.len(), 3);
    let on_the_way = world.host.machines.values().filter(|m| !matches!(m.seen.phase, Phase::Healthy | Phase::Ended));
    assert_eq!(on_the_way.count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_rough_world_comes_to_rest_as_it_was_asked_to(seed in any::<u64>()) {
        live(seed);
    }
}
