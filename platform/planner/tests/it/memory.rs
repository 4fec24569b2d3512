//! Memory is admitted and never overcommitted.

use holm_manifest::{Manifest, Memory, Strategy, Volume, VolumeName, VolumeSize};
use holm_model::event::Event;
use holm_model::footprint::footprint;
use holm_model::state::DeploymentStatus;
use holm_planner::{Room, fits};
use jiff::SignedDuration;
use proptest::prelude::*;

use crate::world::{World, app, manifest, web};

/// What an instance of the tests' manifest takes, in MiB.
fn one() -> u64 {
    let mut world = World::new();
    world.host(0);
    footprint(Memory::from_mib(64), world.state.site.host.as_ref().unwrap()) >> 20
}

#[test]
fn instances_beyond_the_hosts_memory_wait_and_say_what_is_free() {
    let mut world = World::new();
    world.host(2 * one() + 10);
    world.deploy(3);
    world.quiet();
    assert_eq!(world.live().len(), 2);
    let waiting = world.plan().waiting;
    assert_eq!((waiting.len(), waiting[0].app.clone(), waiting[0].process.clone()), (1, app(), web()));
    assert_eq!((waiting[0].shortage.needs >> 20, waiting[0].shortage.free >> 20), (one(), 10));
    world.host(3 * one());
    world.settle(0);
    assert_eq!(world.live().len(), 3, "more room lets it in");
    assert_eq!(world.plan().waiting, []);
}

#[test]
fn a_deployment_that_waits_too_long_for_memory_fails_and_says_so() {
    let mut world = World::new();
    world.host(one());
    world.deploy(1);
    world.settle(0);
    let d2 = world.deploy(1);
    let wake = world.decide().expect("the end of its patience");
    assert_eq!(world.status(d2), &DeploymentStatus::RollingOut);
    world.now = wake;
    world.settle(1);
    let DeploymentStatus::Failed { why, .. } = world.status(d2) else { panic!("{:?}", world.status(d2)) };
    assert!(why.contains("no memory") && why.contains(&format!("0 of {} MiB are free", one())), "{why}");
}

#[test]
fn what_could_never_fit_is_known_before() {
    let mut world = World::new();
    world.deploy(2);
    world.settle(0);
    let doc = world.state.apps[&app()].clone();
    let table = [
        (2 * one(), 2, Strategy::Rolling, false),
        (3 * one(), 2, Strategy::Rolling, true),
        (3 * one(), 2, Strategy::BlueGreen, false),
        (4 * one(), 2, Strategy::BlueGreen, true),
        (4 * one(), 4, Strategy::Rolling, false),
        (5 * one(), 4, Strategy::Rolling, true),
    ];
    for (cap, instances, strategy, fitting) in table {
        world.host(cap);
        let mut coming = manifest(instances, 8000);
        coming.strategy = strategy;
        let answer = fits(&world.state, &app(), &doc, &coming, true);
        assert_eq!(answer.is_ok(), fitting, "{cap} MiB, {instances} instances, {strategy:?}: {answer:?}");
    }
    world.host(2 * one());
    assert!(fits(&world.state, &app(), &doc, &manifest(2, 8000), false).is_ok(), "without a change nothing surges");
}

#[test]
fn who_has_a_volume_needs_no_room_beside_its_successor() {
    let mut world = World::new();
    let kept = |m: &mut Manifest| {
        m.processes.get_mut(&web()).unwrap().mounts.insert(VolumeName::new("data").unwrap(), "/data".to_owned());
        let volume = Volume { size: VolumeSize::from_mib(16).unwrap(), backup: None };
        m.volumes.insert(VolumeName::new("data").unwrap(), volume);
    };
    world.deploy_with(|m| (m.processes.get_mut(&web()).unwrap().instances = 1, kept(m)).1);
    world.settle(0);
    let doc = world.state.apps[&app()].clone();
    world.host(one());
    for strategy in [Strategy::Rolling, Strategy::BlueGreen] {
        let mut coming = manifest(1, 8000);
        coming.strategy = strategy;
        assert!(fits(&world.state, &app(), &doc, &coming, true).is_err(), "without its volume it stays until then");
        kept(&mut coming);
        assert_eq!(fits(&world.state, &app(), &doc, &coming, true), Ok(()), "{strategy:?}");
        world.deploy_with(|m| *m = *coming);
        world.settle(0);
        assert_eq!(world.live().len(), 1);
    }
}

#[test]
fn a_host_that_comes_back_smaller_keeps_what_runs() {
    let mut world = World::new();
    world.host(4 * one());
    world.deploy(3);
    world.settle(0);
    world.host(one());
    world.settle(3);
    assert_eq!(world.live().len(), 3);
}

proptest! {
    #[test]
    fn memory_is_never_overcommitted(
        cap in 0..8_u64,
        acts in prop::collection::vec((0..6_u32, any::<bool>(), 0..40_i64, 0..4_u8), 0..20),
    ) {
        let mut world = World::new();
        world.host(cap * one() + 7);
        for (instances, blue_green, seconds, kind) in acts {
            match kind {
                0 => drop(world.deploy_with(|m| {
                    m.processes.get_mut(&web()).unwrap().instances = instances;
                    m.strategy = if blue_green { Strategy::BlueGreen } else { Strategy::Rolling };
                })),
                1 if world.state.apps.contains_key(&app()) => {
                    world.record(Event::Scaled { app: app(), process: web(), instances: Some(instances) });
                }
                2 => drop(world.host_step()),
                _ => world.now += SignedDuration::from_secs(seconds),
            }
            for _ in 0..20 {
                let plan = world.plan();
                if plan.decisions.is_empty() {
                    break;
                }
                for decision in plan.decisions {
                    world.record(decision);
                    let (taken, there) = Room::of(&world.state).figures().unwrap();
                    prop_assert!(taken <= there, "{taken} of {there} are taken");
                }
            }
        }
    }
}
