//! What a user asks for happens, and availability is kept.

use holm_model::event::Event;
use holm_model::id::{DeploymentNumber, InstanceName, ReleaseNumber, Seq};
use holm_model::report::EndCause;
use holm_model::state::{DeploymentStatus, State};
use holm_planner::{host_target, routing};
use jiff::SignedDuration;
use proptest::prelude::*;

use crate::world::{World, app, web};

#[test]
fn first_deployment_brings_up_every_instance_and_then_routes() {
    let mut world = World::new();
    let d1 = world.deploy(3);
    world.settle(0);
    assert_eq!(world.status(d1), &DeploymentStatus::Succeeded);
    assert_eq!(world.serving(), 3);
    assert_eq!(world.state.apps[&app()].current, Some(ReleaseNumber(1)));
}

#[test]
fn rollout_keeps_the_wanted_count_serving_and_follows_the_release_to_its_port() {
    let mut world = World::new();
    world.deploy(3);
    world.settle(0);
    let d2 = world.deploy(3);
    world.settle(3);
    assert_eq!(world.status(d2), &DeploymentStatus::Succeeded);
    assert_eq!(world.live_releases(), [ReleaseNumber(2); 3]);
    let ports: Vec<u16> = routing(&world.state)[0].backends.iter().map(|b| b.address.port()).collect();
    assert_eq!(ports, [8002; 3]);
}

#[test]
fn failed_rollout_names_the_cause_and_leaves_the_old_release_serving() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    world.broken = vec![ReleaseNumber(2)];
    let d2 = world.deploy(2);
    world.settle(2);
    let DeploymentStatus::Failed { why, last_log } = world.status(d2) else { panic!("{:?}", world.status(d2)) };
    assert_eq!(why, "hello.web.3 exited with status 1");
    assert_eq!(last_log, &["oh no"]);
    assert_eq!(world.live_releases(), [ReleaseNumber(1); 2]);
}

#[test]
fn failed_first_deployment_leaves_nothing_running() {
    let mut world = World::new();
    world.broken = vec![ReleaseNumber(1)];
    let d1 = world.deploy(2);
    world.settle(0);
    assert!(matches!(world.status(d1), DeploymentStatus::Failed { .. }));
    assert!(world.live_releases().is_empty());
}

#[test]
fn rollback_and_restart_replace_without_a_gap() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    world.deploy(2);
    world.settle(2);
    let back = DeploymentNumber(3);
    world.record(Event::RollbackRequested { app: app(), deployment: back, release: ReleaseNumber(1) });
    world.settle(2);
    assert_eq!(world.live_releases(), [ReleaseNumber(1); 2]);
    let before: Vec<_> = world.state.instances.keys().cloned().collect();
    world.record(Event::RestartRequested { app: app(), deployment: DeploymentNumber(4) });
    world.settle(2);
    assert_eq!(world.live_releases(), [ReleaseNumber(1); 2]);
    let live = world.state.instances.iter().filter(|(_, i)| i.is_live());
    assert!(live.map(|(name, _)| name).all(|name| !before.contains(name)));
}

#[test]
fn newer_deployment_takes_over_from_one_under_way() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    let d2 = world.deploy(2);
    world.decide();
    let d3 = world.deploy(2);
    world.settle(2);
    assert_eq!(world.status(d2), &DeploymentStatus::Superseded { by: d3 });
    assert_eq!(world.live_releases(), [ReleaseNumber(3); 2]);
}

#[test]
fn instance_that_dies_is_replaced_after_a_growing_wait() {
    let mut world = World::new();
    world.deploy(1);
    world.settle(0);
    for expected in [1, 2, 4] {
        let (name, _) = world.state.instances.iter().find(|(_, i)| i.is_live()).unwrap();
        let name = name.clone();
        world.end(&name, EndCause::Signaled { signal: 11 });
        let died = world.state.instances[&name].end.as_ref().unwrap().at;
        let wake = world.decide().expect("a wait before the replacement");
        assert_eq!(wake.duration_since(died), SignedDuration::from_secs(expected));
        world.settle(0);
        assert_eq!(world.serving(), 1);
    }
}

#[test]
fn stopped_app_runs_nothing_and_starts_again() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    world.record(Event::AppStopped { app: app() });
    world.settle(0);
    assert!(world.live_releases().is_empty());
    world.record(Event::AppStarted { app: app() });
    world.settle(0);
    assert_eq!(world.serving(), 2);
}

#[test]
fn destroyed_app_is_forgotten_when_its_last_instance_has_ended() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    world.record(Event::AppDestroyed { app: app(), volumes: false });
    world.decide();
    assert!(world.state.apps.contains_key(&app()) && world.serving() == 0);
    world.settle(0);
    assert_eq!(world.state.documents().keys().collect::<Vec<_>>(), ["site"]);
}

/// What a user or the world may do at any moment.
#[derive(Debug, Clone)]
enum Act {
    Deploy(u32),
    DeployBroken,
    Rollback,
    Restart,
    Scale(u32),
    Stop,
    Start,
    Kill(usize),
    HostStep,
    Wait(i64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..4u32).prop_map(Act::Deploy),
        Just(Act::DeployBroken),
        Just(Act::Rollback),
        Just(Act::Restart),
        (0..5u32).prop_map(Act::Scale),
        Just(Act::Stop),
        Just(Act::Start),
        (0..4usize).prop_map(Act::Kill),
        Just(Act::HostStep),
        Just(Act::HostStep),
        (1..70i64).prop_map(Act::Wait),
    ]
}

impl World {
    fn act(&mut self, act: Act) {
        let next = self.state.apps.get(&app()).map(|a| a.last_deployment.next());
        let current = self.state.apps.get(&app()).and_then(|a| a.current);
        match act {
            Act::Deploy(instances) => drop(self.deploy(instances)),
            Act::DeployBroken => {
                let deployment = self.request(2);
                let release = self.release(deployment);
                self.broken.push(release);
            }
            Act::Rollback => {
                if let (Some(deployment), Some(release)) = (next, current) {
                    self.record(Event::RollbackRequested { app: app(), deployment, release });
                }
            }
            Act::Restart => {
                if let (Some(deployment), Some(_)) = (next, current) {
                    self.record(Event::RestartRequested { app: app(), deployment });
                }
            }
            Act::Scale(count) => {
                self.record(Event::Scaled { app: app(), process: web(), instances: Some(count) });
            }
            Act::Stop => self.record(Event::AppStopped { app: app() }),
            Act::Start => self.record(Event::AppStarted { app: app() }),
            Act::Kill(nth) => {
                let running: Vec<_> = self.state.instances.iter().filter(|(_, i)| i.end.is_none()).collect();
                if let Some((name, _)) = running.get(nth) {
                    let name = (*name).clone();
                    self.end(&name, EndCause::Lost { why: "pulled the plug".to_owned() });
                }
            }
            Act::HostStep => drop(self.host_step()),
            Act::Wait(seconds) => self.now += SignedDuration::from_secs(seconds),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 4, ..ProptestConfig::default() })]

    /// Whatever happened, once the world calms down the newest wish is fulfilled; and the stored documents are the state.
    #[test]
    fn every_history_converges(acts in prop::collection::vec(act(), 0..40)) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
            world.decide();
        }
        if !world.state.apps.contains_key(&app()) {
            return Ok(());
        }
        world.record(Event::AppStarted { app: app() });
        world.record(Event::Scaled { app: app(), process: web(), instances: Some(2) });
        let last = world.deploy(1);
        let broken = std::mem::take(&mut world.broken);
        world.settle(0);
        prop_assert_eq!(world.status(last), &DeploymentStatus::Succeeded);
        prop_assert_eq!(world.serving(), 2);
        prop_assert_eq!(world.live_releases(), [world.state.apps[&app()].current.unwrap(); 2]);
        drop(broken);

        let mut loaded = State { seq: world.state.seq, ..State::default() };
        for (key, body) in world.state.documents() {
            loaded.load(&key, &body).unwrap();
        }
        prop_assert_eq!(&loaded, &world.state);
        prop_assert_ne!(world.state.seq, Seq(0));
    }
}

#[test]
fn other_secrets_are_rolled_out_also_with_the_same_release_and_never_undercut_what_serves() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    let set = "00000000-0000-7000-8000-000000000001".parse().unwrap();
    let changed = ["PASSWORD".parse().unwrap()].into();
    world.record(Event::SecretsChanged { app: app(), set, changed, removed: [].into() });
    let before: Vec<InstanceName> = world.state.instances.keys().cloned().collect();
    world.settle(2);
    assert!(world.state.instances.keys().eq(&before), "a change that is only kept replaced instances");

    // The same image and manifest again: no new release, but new values.
    let deployment = world.request(2);
    let digest = world.state.release(&app(), ReleaseNumber(1)).unwrap().digest.clone();
    let release = ReleaseNumber(1);
    world.record(Event::ReleaseReady { app: app(), deployment, release, digest, reference: "img@".to_owned() });
    world.settle(2);
    assert_eq!(world.status(deployment), &DeploymentStatus::Succeeded);
    let live: Vec<u64> = world.state.instances.values().filter(|i| i.is_live()).map(version).collect();
    assert_eq!(live, [1, 1]);
    let target = host_target(&world.state);
    let told = |name: &InstanceName| target.instances[name].spec.secrets.as_ref().map(|secrets| secrets.version);
    assert!(world.state.instances.iter().filter(|(_, i)| i.is_live()).all(|(name, _)| told(name) == Some(1)));
}

fn version(instance: &holm_model::state::Instance) -> u64 {
    instance.secrets.as_ref().map_or(0, |secrets| secrets.number)
}
