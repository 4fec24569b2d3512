//! Random lives of a control plane against what must always hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holm_control::{Command, EventQuery, Meta, Refused};
use holm_model::event::Event;
use holm_model::id::{InstanceName, ReleaseNumber, Seq};
use holm_model::report::{End, EndCause, HostReport, Observation, Phase};
use jiff::SignedDuration;
use proptest::prelude::*;
use rusqlite::{Connection, OpenFlags};

use crate::fixture::{House, KEEP_EVENTS, app, deploy_image, obey, process, tcp};

#[derive(Debug, Clone)]
enum Step {
    Ask {
        command: Command,
        key: Option<u8>,
    },
    /// The host moves everything one step on and reports.
    HostObeys,
    /// The host reports one instance in some phase, whatever it was told.
    HostRaves {
        which: usize,
        phase: Phase,
        exit: Option<u8>,
    },
    /// The host has lost everything.
    HostForgets,
    Turn {
        seconds: u8,
    },
    Reopen,
}

fn command() -> impl Strategy<Value = Command> {
    let app = prop::sample::select(vec!["a", "b", "b/staging"]).prop_map(app);
    (app, 0..12_u8, 0..4_u32).prop_map(|(app, kind, n)| match kind {
        0..=2 => deploy_image(&app.to_string(), &format!("image-{}", n % 2)),
        3 => Command::Rollback { app, to: (n > 0).then_some(ReleaseNumber(u64::from(n))) },
        4 => Command::Restart { app },
        5 | 6 => Command::Scale { app, process: process("web"), instances: n.checked_sub(1) },
        7 => Command::Stop { app },
        8 => Command::Start { app },
        9 => Command::RouteAdd { app, route: tcp(80 + u16::try_from(n % 2).unwrap()) },
        10 => Command::RouteRemove { app, on: tcp(80).on },
        _ => Command::Destroy { app, volumes: false },
    })
}

fn step() -> impl Strategy<Value = Step> {
    let phases = [Phase::Preparing, Phase::Starting, Phase::Healthy, Phase::Unhealthy, Phase::Stopping, Phase::Ended];
    prop_oneof![
        8 => (command(), prop::option::weighted(0.3, 0..4_u8)).prop_map(|(command, key)| Step::Ask { command, key }),
        6 => Just(Step::HostObeys),
        2 => (0..8_usize, prop::sample::select(phases.to_vec()), any::<Option<u8>>())
            .prop_map(|(which, phase, exit)| Step::HostRaves { which, phase, exit }),
        1 => Just(Step::HostForgets),
        2 => (0..90_u8).prop_map(|seconds| Step::Turn { seconds }),
        1 => Just(Step::Reopen),
    ]
}

/// Performs the steps, then lets everything settle, and checks what must hold.
async fn live(steps: Vec<Step>) {
    let mut house = House::new().await;
    let mut seen: BTreeMap<InstanceName, Observation> = BTreeMap::new();
    let mut keys = BTreeMap::new();
    for step in steps {
        match step {
            Step::Ask { command, key } => {
                let meta = Meta::new("user:anna");
                let meta = key.map_or(meta.clone(), |key| meta.with_key(key.to_string()));
                let answer = house.control.submit(command.clone(), meta).await;
                match (key.and_then(|key| keys.get(&key)), answer) {
                    (None, Ok(accepted)) => {
                        assert!(house.control.state().seq >= accepted.seq, "an answer comes after its state");
                        key.map(|key| keys.insert(key, (command, accepted)));
                    }
                    (Some((same, first)), Ok(again)) if *same == command => assert_eq!(again, *first),
                    (Some((other, _)), Ok(_)) => panic!("{command:?} was accepted with the key of {other:?}"),
                    (Some((same, _)), Err(error)) => assert_ne!(*same, command, "{error}"),
                    (None, Err(Refused::Refusal(_))) => {}
                    (None, Err(error)) => panic!("{error:?}"),
                }
            }
            Step::HostObeys => {
                let target = house.control.targets().borrow().clone();
                obey(&target, &mut seen, holm_control::Clock::now(&*house.clock));
                report(&house, &seen, target.generation).await;
            }
            Step::HostRaves { which, phase, exit } => {
                let generation = house.control.targets().borrow().generation;
                if let Some(known) = seen.values_mut().filter(|known| known.phase != Phase::Ended).nth(which) {
                    known.phase = phase;
                    let cause = EndCause::Exited { code: i32::from(exit.unwrap_or(0)) };
                    let at = holm_control::Clock::now(&*house.clock);
                    known.end = (phase == Phase::Ended).then(|| End { cause, at, last_log: Vec::new() });
                    report(&house, &seen, generation).await;
                }
            }
            Step::HostForgets => {
                seen.clear();
                let generation = house.control.targets().borrow().generation;
                report(&house, &seen, generation).await;
            }
            Step::Turn { seconds } => house.clock.turn(SignedDuration::from_secs(seconds.into())),
            Step::Reopen => {
                let before = house.control.state();
                house = house.reopen().await;
                // What the tasks did while it closed may have come on top.
                if house.control.state().seq == before.seq {
                    assert_eq!(*house.control.state(), *before);
                }
            }
        }
    }
    settle(&house).await;
    check(house).await;
}

async fn report(house: &House, seen: &BTreeMap<InstanceName, Observation>, generation: Seq) {
    house.control.report(HostReport { run: 0, number: 0, generation, instances: seen.clone() }).await.unwrap();
}

/// With a host that obeys and a clock that runs, every deployment ends and every wanted instance is healthy.
async fn settle(house: &House) {
    let _host = house.host();
    let clock = std::sync::Arc::clone(&house.clock);
    let running = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            tick.tick().await;
            clock.turn(SignedDuration::from_secs(30));
        }
    });
    house
        .until("everything to settle", |state| {
            let idle = state.apps.iter().all(|(key, doc)| doc.stopped || state.active_deployment(key).is_none());
            let alive = state.apps.iter().all(|(key, doc)| {
                let Some(release) = state.wanted_release(key).and_then(|n| state.release(key, n)) else {
                    return !doc.destroyed;
                };
                let web = process("web");
                let wanted = doc.scale.get(&web).copied().unwrap_or(release.manifest.instances_in(&key.env, &web));
                let wanted = if doc.stopped { 0 } else { wanted };
                let healthy = state.instances_of(key).filter(|(_, i)| i.is_live() && i.phase == Phase::Healthy);
                healthy.count() == wanted as usize
            });
            let gone = state.instances.values().all(|i| i.retired.is_none() || i.end.is_some());
            idle && alive && gone
        })
        .await;
    running.abort();
}

async fn check(house: House) {
    let verified = house.control.verify().await.unwrap();
    assert_eq!(verified.differing, [""; 0], "replaying the log gives the stored documents");
    let events = house.control.events(EventQuery { limit: 10_000, ..EventQuery::default() }).await.unwrap();
    let first = events.first().map_or(1, |event| event.seq.0);
    assert!(events.iter().map(|e| e.seq.0).eq(first..first + events.len() as u64), "the log has no gap");
    assert!(events.len() as u64 <= KEEP_EVENTS + KEEP_EVENTS / 8 + 300, "{} events are kept", events.len());
    assert!(events.windows(2).all(|two| two[0].at <= two[1].at), "time does not run backwards");
    let mut placed = BTreeSet::new();
    let mut ended = BTreeSet::new();
    for recorded in &events {
        match &recorded.event {
            Event::InstancePlaced { instance, .. } => {
                assert!(placed.insert(instance.clone()), "{instance} was placed twice");
            }
            Event::InstanceEnded { instance, .. } => {
                assert!(ended.insert(instance.clone()), "{instance} ended twice");
            }
            _ => {}
        }
    }
    let numbers: BTreeSet<u64> = placed.iter().map(|name| name.number).collect();
    assert_eq!(numbers.len(), placed.len(), "no two instances have the same number");
    let House { dir, control, .. } = house;
    control.close().await;
    let database = Connection::open_with_flags(dir.path().join("holm.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let gaps = "SELECT count(*) FROM
                (SELECT e.stream, min(version) AS low, max(version) AS high, count(*) AS count FROM events e GROUP BY 1) e
                LEFT JOIN streams s ON s.stream = e.stream
                WHERE high - low + 1 <> count OR low <> 1 + coalesce(s.version, 0)";
    let gaps: i64 = database.query_row(gaps, [], |row| row.get(0)).unwrap();
    assert_eq!(gaps, 0, "the versions of a stream are contiguous");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 5, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_life_keeps_its_log_and_settles(steps in prop::collection::vec(step(), 1..50)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(live(steps));
    }
}
