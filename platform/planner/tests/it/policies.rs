//! Blue-green, release commands, restart policies, and restarts that go back.

use holm_manifest::{Memory, ReleaseCommand, RestartPolicy, Strategy};
use holm_model::event::Event;
use holm_model::id::{DeploymentNumber, ReleaseNumber};
use holm_model::report::{EndCause, Phase};
use holm_model::state::DeploymentStatus;
use holm_planner::{crash_loops, routing};
use jiff::SignedDuration;

use crate::world::{World, app, web};

fn migrate() -> ReleaseCommand {
    let command = vec!["migrate".to_owned()];
    ReleaseCommand { command, cpu_millis: 500, memory: Memory::from_mib(32), timeout_ms: 60_000 }
}

fn served_by(world: &World) -> Vec<ReleaseNumber> {
    let entry = routing(&world.state).pop().unwrap();
    let healthy = entry.backends.iter().filter(|b| b.health == holm_planner::BackendHealth::Healthy);
    healthy.map(|backend| world.state.instances[&backend.instance].release).collect()
}

/// A world where a second release with so many instances begins to go out blue-green beside the first.
fn blue_green(instances: u32) -> (World, DeploymentNumber) {
    let mut world = World::new();
    world.deploy(instances);
    world.settle(0);
    let second = world.deploy_with(|manifest| {
        manifest.strategy = Strategy::BlueGreen;
        manifest.processes.get_mut(&web()).unwrap().instances = instances;
    });
    world.decide();
    (world, second)
}

#[test]
fn blue_green_goes_over_at_once_when_every_new_instance_is_healthy() {
    let (mut world, d2) = blue_green(3);
    assert_eq!(world.live().len(), 6, "all new ones beside all old ones");
    let late = world.live().pop().unwrap().0;
    world.stuck.insert(late.clone());
    for _ in 0..4 {
        world.host_step();
        world.decide();
        assert_eq!(served_by(&world), [ReleaseNumber(1); 3], "not before the last one is healthy");
    }
    world.stuck.clear();
    while served_by(&world) == [ReleaseNumber(1); 3] {
        assert!(world.host_step());
        world.decide();
    }
    assert_eq!(served_by(&world), [ReleaseNumber(2); 3], "and then all of them");
    world.settle(3);
    assert_eq!(world.status(d2), &DeploymentStatus::Succeeded);
}

#[test]
fn blue_green_that_fails_never_gets_a_connection() {
    let (mut world, d2) = blue_green(2);
    let new: Vec<_> = world.live().into_iter().filter(|(_, i)| i.release == ReleaseNumber(2)).collect();
    world.observe(&new[0].0, Phase::Healthy);
    world.decide();
    assert_eq!(served_by(&world), [ReleaseNumber(1); 2]);
    world.end(&new[1].0, EndCause::Exited { code: 1 });
    world.settle(2);
    assert!(matches!(world.status(d2), DeploymentStatus::Failed { .. }));
    assert_eq!(served_by(&world), [ReleaseNumber(1); 2]);
}

#[test]
fn new_instances_serve_when_no_old_one_can() {
    let mut world = World::new();
    world.deploy(1);
    world.settle(0);
    let (old, _) = world.live().pop().unwrap();
    world.deploy_with(|manifest| {
        manifest.strategy = Strategy::BlueGreen;
        manifest.processes.get_mut(&web()).unwrap().instances = 2;
    });
    world.decide();
    let new: Vec<_> = world.live().into_iter().filter(|(_, i)| i.release == ReleaseNumber(2)).collect();
    world.observe(&new[0].0, Phase::Healthy);
    world.decide();
    assert_eq!(served_by(&world), [ReleaseNumber(1)]);
    world.observe(&old, Phase::Unhealthy);
    assert_eq!(served_by(&world), [ReleaseNumber(2)]);
}

#[test]
fn an_instance_that_fails_its_check_is_asked_only_while_nobody_does_better() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    let [first, second] = [0, 1].map(|n| world.live()[n].0.clone());
    assert_eq!(served_by(&world).len(), 2);
    world.observe(&first, Phase::Unhealthy);
    assert_eq!(served_by(&world).len(), 1);
    world.observe(&second, Phase::Unhealthy);
    assert_eq!(served_by(&world).len(), 2, "an outage was made of two slow checks");
    world.observe(&second, Phase::Healthy);
    assert_eq!(served_by(&world).len(), 1);
    // One that has ended gets nothing, whatever becomes of the others.
    world.observe(&second, Phase::Unhealthy);
    world.end(&first, EndCause::Exited { code: 1 });
    assert_eq!(served_by(&world).len(), 1);
}

#[test]
fn release_command_runs_once_before_the_first_new_instance() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    let d2 = world.deploy_with(|manifest| manifest.release = Some(migrate()));
    world.decide();
    let tasks = |world: &World| world.state.instances.values().filter(|i| i.task).count();
    let new = |world: &World| world.live().iter().filter(|(_, i)| i.release == ReleaseNumber(2) && !i.task).count();
    assert_eq!((tasks(&world), new(&world)), (1, 0));
    let target = holm_planner::host_target(&world.state);
    let task = target.instances.values().find(|t| t.spec.instance.process.as_str() == "release").unwrap();
    assert_eq!(task.spec.command.as_deref(), Some(["migrate".to_owned()].as_slice()));
    assert_eq!((task.spec.memory, task.ports.len()), (Memory::from_mib(32), 0));
    // An instance that dies meanwhile is replaced by one of the release that serves.
    let (served, _) = world.live().into_iter().find(|(_, i)| !i.task).unwrap();
    world.end(&served, EndCause::Signaled { signal: 11 });
    let (task, _) = world.live().into_iter().find(|(_, i)| i.task).unwrap();
    world.stuck.insert(task);
    world.now += SignedDuration::from_secs(2);
    world.quiet();
    assert_eq!(world.live_releases().iter().filter(|r| **r == ReleaseNumber(1)).count(), 2);
    world.stuck.clear();
    world.settle(1);
    assert_eq!(world.status(d2), &DeploymentStatus::Succeeded);
    assert_eq!(tasks(&world), 1);
    // The same release again, and a rollback: nothing is to be prepared.
    let current = ReleaseNumber(1);
    world.record(Event::RollbackRequested { app: app(), deployment: DeploymentNumber(3), release: current });
    world.settle(1);
    assert_eq!(tasks(&world), 1);
}

#[test]
fn release_command_that_fails_stops_the_rollout() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    world.exits.insert(ReleaseNumber(2), 3);
    let d2 = world.deploy_with(|manifest| manifest.release = Some(migrate()));
    world.settle(2);
    let DeploymentStatus::Failed { why, last_log } = world.status(d2) else { panic!("{:?}", world.status(d2)) };
    assert_eq!(why, "the release command, hello.release.3, exited with status 3");
    assert_eq!(last_log, &["oh no"]);
    assert_eq!(world.live_releases(), [ReleaseNumber(1); 2]);
}

#[test]
fn release_command_that_hangs_is_ended_and_fails_the_deployment() {
    let mut world = World::new();
    let d1 = world.deploy_with(|manifest| manifest.release = Some(migrate()));
    let wake = world.decide().expect("the end of its time");
    let (task, _) = world.live().pop().unwrap();
    world.observe(&task, Phase::Healthy);
    world.stuck.insert(task.clone());
    world.now = wake;
    world.decide();
    assert!(world.state.instances[&task].retired.is_some());
    world.stuck.clear();
    world.settle(0);
    let DeploymentStatus::Failed { why, .. } = world.status(d1) else { panic!("{:?}", world.status(d1)) };
    assert_eq!(why, "the release command, hello.release.1, did not end within 1m");
}

#[test]
fn release_command_of_a_newer_deployment_waits_for_that_of_the_older() {
    let mut world = World::new();
    world.deploy_with(|manifest| manifest.release = Some(migrate()));
    world.decide();
    let (first, _) = world.live().pop().unwrap();
    world.observe(&first, Phase::Healthy);
    let d2 = world.deploy_with(|manifest| manifest.release = Some(migrate()));
    world.decide();
    assert_eq!(world.live().len(), 1, "never two at once");
    assert!(world.state.instances[&first].retired.is_none(), "and the first is not cut off");
    world.settle(0);
    assert_eq!(world.status(d2), &DeploymentStatus::Succeeded);
    assert_eq!(world.state.instances.values().filter(|i| i.task).count(), 2);
}

#[test]
fn restart_policy_says_whether_another_instance_follows() {
    let exits = |code| EndCause::Exited { code };
    let table = [
        (RestartPolicy::Always, exits(0), true),
        (RestartPolicy::OnFailure, exits(0), false),
        (RestartPolicy::OnFailure, exits(1), true),
        (RestartPolicy::OnFailure, EndCause::OutOfMemory { limit: 1 }, true),
        (RestartPolicy::Never, exits(0), false),
        (RestartPolicy::Never, EndCause::Signaled { signal: 11 }, false),
        (RestartPolicy::Never, EndCause::Stopped, true),
    ];
    for (policy, end, replaced) in table {
        let mut world = World::new();
        world.deploy_with(|manifest| manifest.processes.get_mut(&web()).unwrap().restart = policy);
        world.settle(0);
        let (name, _) = world.live().pop().unwrap();
        world.end(&name, end.clone());
        world.settle(0);
        assert_eq!(!world.live().is_empty(), replaced, "{policy:?} after {end:?}");
        world.record(Event::RestartRequested { app: app(), deployment: DeploymentNumber(2) });
        world.settle(0);
        assert_eq!(world.live().len(), 1, "a restart by hand brings it back");
        assert_eq!(world.status(DeploymentNumber(2)), &DeploymentStatus::Succeeded);
    }
}

#[test]
fn work_that_is_done_during_its_deployment_is_no_failure() {
    let mut world = World::new();
    let d1 = world.deploy_with(|manifest| {
        let web = manifest.processes.get_mut(&web()).unwrap();
        (web.restart, web.instances) = (RestartPolicy::OnFailure, 12);
    });
    world.decide();
    for (name, _) in world.live() {
        world.end(&name, EndCause::Exited { code: 0 });
    }
    // More than are remembered of the dead: their work stays done.
    for _ in 0..3 {
        while !world.plan().decisions.is_empty() {
            for decision in world.plan().decisions {
                world.record(decision);
            }
        }
        world.now += SignedDuration::from_mins(5);
    }
    assert_eq!(world.status(d1), &DeploymentStatus::Succeeded);
    assert!(world.live().is_empty());
}

#[test]
fn failed_restart_goes_back_to_the_instances_it_has_not_replaced() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    let before: Vec<_> = world.live().into_iter().map(|(name, _)| name).collect();
    let restart = DeploymentNumber(2);
    world.record(Event::RestartRequested { app: app(), deployment: restart });
    world.decide();
    let (new, _) = world.live().into_iter().find(|(name, _)| !before.contains(name)).unwrap();
    world.end(&new, EndCause::Exited { code: 1 });
    world.settle(2);
    assert!(matches!(world.status(restart), DeploymentStatus::Failed { .. }));
    let after: Vec<_> = world.live().into_iter().map(|(name, _)| name).collect();
    assert_eq!(after, before);
    world.record(Event::RestartRequested { app: app(), deployment: DeploymentNumber(3) });
    world.settle(2);
    assert!(world.live().iter().all(|(name, _)| !before.contains(name)), "the next one is a restart again");
}

#[test]
fn instances_that_die_again_and_again_are_a_crash_loop_until_one_stays() {
    let mut world = World::new();
    world.deploy(1);
    world.settle(0);
    assert_eq!(crash_loops(&world.state, world.now), []);
    for deaths in 1..=3 {
        let (name, _) = world.live().pop().unwrap();
        world.end(&name, EndCause::Exited { code: 9 });
        let wake = world.decide().unwrap();
        match &crash_loops(&world.state, world.now)[..] {
            [] => assert_eq!(deaths, 1, "one death is no loop"),
            [one] => assert_eq!((one.deaths, &one.newest, one.next_try), (deaths, &name, Some(wake))),
            more => panic!("{more:?}"),
        }
        world.settle(0);
    }
    assert_eq!(crash_loops(&world.state, world.now)[0].next_try, None, "the next one runs");
    world.now += SignedDuration::from_secs(61);
    assert_eq!(crash_loops(&world.state, world.now), []);
}

#[test]
fn a_host_that_goes_down_in_good_order_makes_no_crash_loop() {
    let mut world = World::new();
    world.deploy(1);
    for _ in 0..3 {
        world.settle(0);
        let (name, _) = world.live().pop().unwrap();
        world.end(&name, EndCause::Stopped);
        assert_eq!(world.decide(), None, "its place is taken at once");
        assert_eq!(crash_loops(&world.state, world.now), []);
    }
}
