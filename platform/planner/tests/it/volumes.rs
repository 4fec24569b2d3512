//! The planner and volumes: made with the release that names them, and never in two hands.

use std::collections::BTreeMap;

use holm_manifest::{Manifest, Memory, Process, ProcessName, Volume, VolumeName, VolumeSize};
use holm_model::event::{Event, Recorded};
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName, ReleaseNumber};
use holm_model::report::{End, EndCause, Phase};
use holm_model::state::{DeploymentStatus, State};
use holm_planner::{host_target, plan};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

fn app() -> AppKey {
    "hello".parse().unwrap()
}

fn data() -> VolumeName {
    VolumeName::new("data").unwrap()
}

/// A manifest whose process type `name` has the volume.
fn manifest(name: &str, mib: u64) -> Box<Manifest> {
    let mounts = BTreeMap::from([(data(), "/data".to_owned())]);
    let process = Process { mounts, ..Process::new(Memory::from_mib(64)) };
    let volume = Volume { size: VolumeSize::from_mib(mib).unwrap(), backup: None };
    Box::new(Manifest {
        volumes: BTreeMap::from([(data(), volume)]),
        ..Manifest::new(app().app, BTreeMap::from([(ProcessName::new(name).unwrap(), process)]))
    })
}

struct World {
    state: State,
    now: Timestamp,
    releases: u64,
}

impl World {
    fn new() -> Self {
        Self { state: State::default(), now: Timestamp::from_second(1_800_000_000).unwrap(), releases: 0 }
    }

    fn record(&mut self, event: Event) {
        let seq = self.state.seq.next();
        self.now += SignedDuration::from_millis(1);
        self.state.apply(&Recorded { seq, at: self.now, actor: "test".to_owned(), cause: None, event });
        self.check();
    }

    /// The rule of the house: one writer.
    fn check(&self) {
        let target = host_target(&self.state);
        let mut open = BTreeMap::new();
        for (name, instance) in self.state.instances.iter().filter(|(_, i)| i.end.is_none()) {
            for mount in &target.instances[name].spec.volumes {
                if let Some(other) = open.insert(mount.number, name) {
                    panic!("{other} and {name} both have a volume: {:?}", instance.why);
                }
            }
        }
    }

    fn deploy(&mut self, manifest: Box<Manifest>) {
        self.releases += 1;
        let deployment = DeploymentNumber(self.releases);
        let digest = Digest::of(self.releases.to_string().as_bytes());
        self.record(Event::DeployRequested { app: app(), deployment, image: "x".to_owned(), manifest });
        let (release, reference) = (ReleaseNumber(self.releases), "x".to_owned());
        self.record(Event::ReleaseReady { app: app(), deployment, release, digest, reference });
    }

    fn plan(&mut self) {
        for _ in 0..50 {
            let decisions = plan(&self.state, self.now).decisions;
            if decisions.is_empty() {
                return;
            }
            decisions.into_iter().for_each(|event| self.record(event));
        }
        panic!("the planner does not settle");
    }

    fn open(&self) -> Vec<(InstanceName, bool)> {
        let open = self.state.instances.iter().filter(|(_, i)| i.end.is_none());
        open.map(|(name, i)| (name.clone(), i.retired.is_some())).collect()
    }

    fn end(&mut self, instance: &InstanceName, cause: EndCause) {
        let end = End { cause, at: self.now, last_log: Vec::new() };
        self.record(Event::InstanceEnded { instance: instance.clone(), end });
    }

    fn healthy(&mut self, instance: &InstanceName) {
        let (instance, endpoints) = (instance.clone(), BTreeMap::new());
        self.record(Event::InstanceObserved { instance, phase: Phase::Healthy, detail: None, endpoints });
    }

    /// The host does all it should; time passes.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.now += SignedDuration::from_secs(600);
            self.plan();
            for (name, retired) in self.open() {
                match retired {
                    true => self.end(&name, EndCause::Stopped),
                    false if self.state.instances[&name].phase != Phase::Healthy => self.healthy(&name),
                    false => {}
                }
            }
        }
        self.plan();
    }
}

#[test]
fn a_volume_is_made_with_its_first_release_grows_with_a_later_one_and_outlives_the_app() {
    let mut world = World::new();
    world.deploy(manifest("db", 64));
    world.settle();
    let made = world.state.volumes_of(&app()).next().map(|(_, v)| v.clone()).unwrap();
    assert_eq!(made.size.bytes(), 64 << 20);
    world.deploy(manifest("db", 128));
    world.settle();
    world.deploy(manifest("db", 32));
    world.settle();
    let later = world.state.volumes_of(&app()).next().map(|(_, v)| v.clone()).unwrap();
    assert_eq!((later.number, later.size.bytes()), (made.number, 128 << 20));
    world.record(Event::AppDestroyed { app: app(), volumes: false });
    world.settle();
    assert!(!world.state.apps.contains_key(&app()));
    assert_eq!(world.state.volumes_of(&app()).count(), 1);
    // Made again, the app finds what it left.
    world.deploy(manifest("db", 32));
    world.settle();
    let name = world.open().remove(0).0;
    assert_eq!(host_target(&world.state).instances[&name].spec.volumes[0].number, made.number);
    world.record(Event::AppDestroyed { app: app(), volumes: true });
    world.settle();
    assert_eq!(world.state.volumes_of(&app()).count(), 0);
}

#[test]
fn a_rollout_ends_the_old_instance_before_it_places_the_new_one() {
    let mut world = World::new();
    world.deploy(manifest("db", 64));
    world.settle();
    let old = world.open().remove(0).0;
    // Another process type takes the volume over: the rule is the volume's.
    world.deploy(manifest("other", 64));
    world.plan();
    assert_eq!(world.open(), [(old.clone(), true)], "retired, and nothing placed while it may write");
    world.end(&old, EndCause::Stopped);
    world.plan();
    assert_eq!(world.open().len(), 1);
    world.settle();
    let deployment = &world.state.deployments[&(app(), DeploymentNumber(2))];
    assert_eq!(deployment.status, DeploymentStatus::Succeeded);
}

#[test]
fn blue_green_does_not_wait_for_who_has_the_volume() {
    let mut world = World::new();
    world.deploy(manifest("db", 64));
    world.settle();
    let old = world.open().remove(0).0;
    // The old process type stays and loses the volume to another: its successors cannot all serve before it goes.
    let mut next = manifest("db", 64);
    let mut taker = next.processes[&old.process].clone();
    next.processes.get_mut(&old.process).unwrap().mounts.clear();
    taker.instances = 1;
    next.processes.insert(ProcessName::new("other").unwrap(), taker);
    next.strategy = holm_manifest::Strategy::BlueGreen;
    world.deploy(next);
    world.plan();
    assert!(world.open().contains(&(old, true)), "{:?}", world.open());
    world.settle();
    let deployment = &world.state.deployments[&(app(), DeploymentNumber(2))];
    assert_eq!(deployment.status, DeploymentStatus::Succeeded);
}

#[test]
fn a_failed_rollout_gives_the_volume_back() {
    let mut world = World::new();
    world.deploy(manifest("db", 64));
    world.settle();
    let old = world.open().remove(0).0;
    world.deploy(manifest("db", 64));
    world.plan();
    world.end(&old, EndCause::Stopped);
    world.plan();
    let new = world.open().remove(0).0;
    world.end(&new, EndCause::Exited { code: 1 });
    world.settle();
    let status = &world.state.deployments[&(app(), DeploymentNumber(2))].status;
    assert!(matches!(status, DeploymentStatus::Failed { .. }), "{status:?}");
    let (name, _) = world.open().remove(0);
    assert_eq!(world.state.instances[&name].release, ReleaseNumber(1));
}

#[derive(Debug, Clone)]
enum Step {
    /// Of one process type or the other, rolling or blue-green.
    Deploy(bool, bool),
    Restart,
    Plan,
    End(bool),
    Healthy,
    Wait,
    Stop(bool),
}

proptest! {
    #[test]
    fn no_history_gives_a_volume_to_two(steps in proptest::collection::vec(prop_oneof![
        1 => any::<(bool, bool)>().prop_map(|(other, blue)| Step::Deploy(other, blue)), 1 => Just(Step::Restart), 4 => Just(Step::Plan),
        2 => any::<bool>().prop_map(Step::End), 2 => Just(Step::Healthy), 1 => Just(Step::Wait),
        1 => any::<bool>().prop_map(Step::Stop),
    ], 1..60)) {
        let mut world = World::new();
        world.deploy(manifest("db", 64));
        for step in steps {
            match step {
                Step::Deploy(other, blue) => {
                    let mut next = manifest(if other { "other" } else { "db" }, 64);
                    next.strategy = if blue { holm_manifest::Strategy::BlueGreen } else { holm_manifest::Strategy::Rolling };
                    world.deploy(next);
                }
                Step::Restart => {
                    let deployment = world.state.apps[&app()].last_deployment.next();
                    if world.state.apps[&app()].current.is_some() {
                        world.releases = world.releases.max(deployment.0);
                        world.record(Event::RestartRequested { app: app(), deployment });
                    }
                }
                Step::Plan => world.plan(),
                Step::End(by_itself) => {
                    if let Some((name, retired)) = world.open().first().cloned() {
                        let cause = if retired && !by_itself { EndCause::Stopped } else { EndCause::Exited { code: 1 } };
                        world.end(&name, cause);
                    }
                }
                Step::Healthy => {
                    if let Some((name, _)) = world.open().last().cloned() {
                        world.healthy(&name);
                    }
                }
                Step::Wait => world.now += SignedDuration::from_secs(600),
                Step::Stop(true) => world.record(Event::AppStopped { app: app() }),
                Step::Stop(false) => world.record(Event::AppStarted { app: app() }),
            }
        }
        world.record(Event::AppStarted { app: app() });
        world.settle();
        // Nothing runs when the only release there was has failed.
        prop_assert_eq!(world.open().len(), usize::from(world.state.wanted_release(&app()).is_some()));
        let rolling = world.state.active_deployment(&app());
        prop_assert!(rolling.is_none(), "{:?}", rolling);
    }
}
