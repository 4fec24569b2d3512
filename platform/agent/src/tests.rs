//! The agent in the simulated world: lives without faults, every kind of end, and kills at every step.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use holm_guest_control::ExitStatus;
use holm_manifest::{HealthCheck, HealthProbe, Memory, StopPolicy};
use holm_model::id::{Digest, InstanceName, ReleaseNumber, Seq};
use holm_model::report::{EndCause, HostReport, Observation, Phase};
use holm_model::target::{HostTarget, InstanceSpec, InstanceTarget, Want};
use proptest::prelude::*;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::agent::{self, AgentError, AgentHandle};
use crate::config::{Connections, Limits, NoConnections};
use crate::life::starved::PAUSED;
use crate::log::LogQuery;
use crate::testing::{Script, Sim};

/// Virtual time in which everything must have settled: longer than any limit together.
const SETTLED: Duration = Duration::from_secs(3_600);

struct Bench {
    dir: tempfile::TempDir,
    sim: Arc<Sim>,
    targets: watch::Sender<Arc<HostTarget>>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::write(&image, "").unwrap();
        Self { dir, sim: Sim::new(image), targets: watch::Sender::default() }
    }

    async fn agent(&self) -> AgentHandle {
        self.agent_with(Arc::new(NoConnections)).await
    }

    async fn agent_with(&self, connections: Arc<dyn Connections>) -> AgentHandle {
        let state = self.dir.path().join("agent");
        // A killed agent's lock is free when its last task has been dropped.
        loop {
            let (world, targets) = (self.sim.clone(), self.targets.subscribe());
            match agent::start(state.clone(), world, connections.clone(), Limits::hardware(2), targets).await {
                Err(AgentError::InUse(_)) => tokio::task::yield_now().await,
                other => return other.unwrap(),
            }
        }
    }

    fn folder(&self, instance: &InstanceName) -> std::path::PathBuf {
        self.dir.path().join("agent/instances").join(instance.to_string())
    }

    fn set(&self, generation: u64, instances: &[(&InstanceSpec, Want)]) {
        let target = |(spec, want): &(&InstanceSpec, Want)| {
            let target = InstanceTarget { want: *want, spec: (*spec).clone(), ports: BTreeSet::from([80]) };
            (spec.instance.clone(), target)
        };
        let instances = instances.iter().map(target).collect();
        self.targets.send_replace(Arc::new(HostTarget {
            generation: Seq(generation),
            instances,
            ..HostTarget::default()
        }));
    }
}

fn name(number: u64) -> InstanceName {
    format!("hello.web.{number}").parse().unwrap()
}

fn spec(number: u64) -> InstanceSpec {
    InstanceSpec {
        instance: name(number),
        release: ReleaseNumber(1),
        image: Digest::of(b"image"),
        image_reference: "oci:/nowhere".to_owned(),
        command: None,
        config: Default::default(),
        cpu_millis: 250,
        memory: Memory::from_mib(64),
        health: None,
        stop: StopPolicy::default(),
        volumes: Vec::new(),
        secrets: None,
    }
}

fn checked(number: u64) -> InstanceSpec {
    let probe = HealthProbe::Tcp { port: 80 };
    let health = HealthCheck { probe, interval_ms: 1_000, timeout_ms: 1_000, startup_ms: 60_000, failures: 3 };
    InstanceSpec { health: Some(health), ..spec(number) }
}

async fn wait(agent: &AgentHandle, what: impl Fn(&HostReport) -> bool) -> Arc<HostReport> {
    let mut reports = agent.reports();
    let seen = timeout(SETTLED, reports.wait_for(|report| what(report))).await.map(|seen| seen.unwrap().clone());
    seen.unwrap_or_else(|_| panic!("never came about; last seen: {:#?}", agent.reports().borrow()))
}

async fn wait_phase(agent: &AgentHandle, number: u64, phase: Phase) -> Observation {
    let report = wait(agent, |r| r.instances.get(&name(number)).is_some_and(|seen| seen.phase == phase)).await;
    report.instances[&name(number)].clone()
}

async fn end_of(script: Script, spec: InstanceSpec) -> EndCause {
    let bench = Bench::new();
    bench.sim.script(&spec.instance, script);
    bench.set(1, &[(&spec, Want::Run)]);
    let agent = bench.agent().await;
    let seen = wait_phase(&agent, spec.instance.number, Phase::Ended).await;
    assert_eq!(bench.sim.left(), (vec![], vec![]), "something is left after the end");
    assert!(seen.endpoints.is_empty());
    seen.end.unwrap().cause
}

#[tokio::test(start_paused = true)]
async fn an_instance_goes_from_target_to_healthy_to_stopped_to_nothing() {
    let bench = Bench::new();
    let spec = spec(1);
    bench.set(1, &[(&spec, Want::Run)]);
    let agent = bench.agent().await;
    let seen = wait_phase(&agent, 1, Phase::Healthy).await;
    assert_eq!(seen.endpoints[&80], "127.0.0.1:80".parse().unwrap());
    assert_eq!(agent.reports().borrow().generation, Seq(1));

    bench.set(2, &[(&spec, Want::Stop)]);
    let end = wait_phase(&agent, 1, Phase::Ended).await.end.unwrap();
    assert_eq!(end.cause, EndCause::Stopped);
    assert_eq!(end.last_log, ["line 0", "line 1", "line 2"]);
    assert_eq!(bench.sim.left(), (vec![], vec![]));
    let mut lines = agent.logs(&name(1), LogQuery { tail: Some(1), follow: true, since: None }).unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().text, b"line 2");
    assert!(lines.next().await.unwrap().is_none());

    bench.set(3, &[]);
    wait(&agent, |report| report.instances.is_empty()).await;
    assert!(!bench.folder(&name(1)).exists());
    assert_eq!(bench.sim.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_end_is_told_apart() {
    let after = Duration::from_secs(5);
    let exits = |status, oom| Script { exits_after: Some((after, status, oom)), ..Script::default() };
    let could_not_start = |why: &str| EndCause::CouldNotStart { why: why.to_owned() };
    let hung = |why: &str| EndCause::Hung { why: why.to_owned() };
    let table = [
        (spec(1), exits(ExitStatus::Code(3), false), EndCause::Exited { code: 3 }),
        (spec(1), exits(ExitStatus::Signal(11), false), EndCause::Signaled { signal: 11 }),
        (spec(1), exits(ExitStatus::Signal(9), true), EndCause::OutOfMemory { limit: 64 << 20 }),
        (spec(1), Script { start_error: true, ..Script::default() }, could_not_start("no such command `/app`")),
        (spec(1), Script { image_fails: true, ..Script::default() }, could_not_start("no such image")),
        (spec(1), Script { launch_fails: true, ..Script::default() }, could_not_start("no room")),
        (
            spec(1),
            Script { vanishes_after: Some(after), ..Script::default() },
            EndCause::Lost { why: "it vanished".into() },
        ),
        (
            spec(1),
            Script { boot_hangs: true, ..Script::default() },
            hung("the guest was not up within 30 s; its console ends with: Kernel panic"),
        ),
        (
            spec(1),
            Script { freezes_after: Some(after), ..Script::default() },
            hung("the guest did not answer for 15 s"),
        ),
        (
            checked(1),
            Script { health: vec![(after, false)], ..Script::default() },
            hung("not healthy within 60 s: connection refused"),
        ),
        (checked(1), Script::default(), hung("not healthy within 60 s: the health check has not run")),
    ];
    for (spec, script, cause) in table {
        assert_eq!(end_of(script.clone(), spec).await, cause, "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn health_flips_are_reported_and_do_not_end_an_instance() {
    let bench = Bench::new();
    let seconds = Duration::from_secs;
    let health = vec![(seconds(1), false), (seconds(2), true), (seconds(3), false), (seconds(4), true)];
    bench.sim.script(&name(1), Script { health, ..Script::default() });
    bench.set(1, &[(&checked(1), Want::Run)]);
    let agent = bench.agent().await;
    let seen = wait_phase(&agent, 1, Phase::Starting).await;
    assert_eq!(seen.end, None);
    wait_phase(&agent, 1, Phase::Healthy).await;
    let seen = wait_phase(&agent, 1, Phase::Unhealthy).await;
    assert_eq!(seen.detail.as_deref(), Some("connection refused"));
    wait_phase(&agent, 1, Phase::Healthy).await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_made_again() {
    let bench = Bench::new();
    let breaks_after = Some(Duration::from_secs(10));
    let exits_after = Some((Duration::from_secs(20), ExitStatus::Code(7), false));
    bench.sim.script(&name(1), Script { breaks_after, exits_after, ..Script::default() });
    bench.set(1, &[(&spec(1), Want::Run)]);
    let agent = bench.agent().await;
    assert_eq!(wait_phase(&agent, 1, Phase::Ended).await.end.unwrap().cause, EndCause::Exited { code: 7 });
}

#[tokio::test(start_paused = true)]
async fn apps_and_guests_that_do_not_stop_are_killed() {
    let ignores = Script { ignores_stop: true, ..Script::default() };
    let frozen = Script { freezes_after: Some(Duration::from_secs(6)), ..Script::default() };
    for script in [ignores, frozen] {
        let bench = Bench::new();
        bench.sim.script(&name(1), script);
        bench.set(1, &[(&spec(1), Want::Run)]);
        let agent = bench.agent().await;
        wait_phase(&agent, 1, Phase::Healthy).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        bench.set(2, &[(&spec(1), Want::Stop)]);
        assert_eq!(wait_phase(&agent, 1, Phase::Ended).await.end.unwrap().cause, EndCause::StoppedByForce);
        assert_eq!(bench.sim.left(), (vec![], vec![]));
    }
}

/// An ingress with connections that never end by themselves.
#[derive(Debug, Default)]
struct Busy {
    cut: Mutex<Vec<InstanceName>>,
}

impl Connections for Busy {
    fn drained<'a>(&'a self, _instance: &'a InstanceName) -> BoxFuture<'a, ()> {
        Box::pin(std::future::pending())
    }

    fn cut(&self, instance: &InstanceName) {
        self.cut.lock().unwrap().push(instance.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn open_connections_get_their_time_and_are_cut_when_the_machine_is_gone() {
    let bench = Bench::new();
    let busy = Arc::new(Busy::default());
    bench.set(1, &[(&spec(1), Want::Run)]);
    let agent = bench.agent_with(busy.clone()).await;
    wait_phase(&agent, 1, Phase::Healthy).await;
    let asked = Instant::now();
    bench.set(2, &[(&spec(1), Want::Stop)]);
    wait_phase(&agent, 1, Phase::Stopping).await;
    assert!(busy.cut.lock().unwrap().is_empty());
    wait_phase(&agent, 1, Phase::Ended).await;
    // Virtual time: exact but for the steps of the simulation.
    assert!(asked.elapsed() >= Duration::from_millis(spec(1).stop.drain_ms), "{:?}", asked.elapsed());
    assert_eq!(*busy.cut.lock().unwrap(), [name(1)]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_stopped_wherever_it_is() {
    for ms in (0..8_000).step_by(250) {
        let bench = Bench::new();
        bench.set(1, &[(&spec(1), Want::Run)]);
        let agent = bench.agent().await;
        tokio::time::sleep(Duration::from_millis(ms)).await;
        bench.set(2, &[(&spec(1), Want::Stop)]);
        assert_eq!(wait_phase(&agent, 1, Phase::Ended).await.end.unwrap().cause, EndCause::Stopped, "after {ms} ms");
        assert_eq!(bench.sim.left(), (vec![], vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_begins_again_takes_no_app_out_of_service() {
    let bench = Bench::new();
    bench.sim.script(&name(1), Script { health: vec![(Duration::from_secs(1), true)], ..Script::default() });
    bench.set(1, &[(&checked(1), Want::Run)]);
    let agent = bench.agent().await;
    let before = wait_phase(&agent, 1, Phase::Healthy).await;
    assert!(!before.endpoints.is_empty());
    agent.detach().await;

    let agent = bench.agent().await;
    let mut reports = agent.reports();
    let watched = async {
        loop {
            let seen = reports.borrow_and_update().instances[&name(1)].clone();
            assert_eq!((seen.phase, seen.endpoints), (before.phase, before.endpoints.clone()));
            reports.changed().await.unwrap();
        }
    };
    timeout(Duration::from_secs(60), watched).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn old_targets_are_refused_also_after_a_restart() {
    let bench = Bench::new();
    let (one, two) = (spec(1), spec(2));
    bench.set(5, &[(&one, Want::Run)]);
    let agent = bench.agent().await;
    wait_phase(&agent, 1, Phase::Healthy).await;
    bench.set(4, &[(&two, Want::Run)]);
    bench.set(3, &[]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(agent.reports().borrow().instances.keys().collect::<Vec<_>>(), [&one.instance]);
    agent.detach().await;

    let agent = bench.agent().await;
    assert_eq!(wait_phase(&agent, 1, Phase::Healthy).await.end, None);
    assert_eq!(agent.reports().borrow().generation, Seq(5));
    assert_eq!(bench.sim.app_starts(&one.instance), 1);
    bench.set(6, &[(&two, Want::Run)]);
    wait(&agent, |r| r.instances.len() == 1 && r.instances.get(&name(2)).is_some_and(|s| s.phase == Phase::Healthy))
        .await;
    assert!(!bench.folder(&one.instance).exists());
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_no_instance_is_swept_at_the_start() {
    let bench = Bench::new();
    let stray = name(9);
    bench.sim.leave_behind(&stray);
    let half_made = bench.folder(&stray).with_file_name(".new-hello.web.9");
    std::fs::create_dir_all(&half_made).unwrap();
    let _agent = bench.agent().await;
    assert_eq!(bench.sim.left(), (vec![], vec![]));
    assert!(!half_made.exists());
}

#[tokio::test(start_paused = true)]
async fn stopping_all_leaves_the_ends_and_ignores_targets() {
    let bench = Bench::new();
    let specs = [spec(1), spec(2), spec(3)];
    bench.set(1, &[(&specs[0], Want::Run), (&specs[1], Want::Run), (&specs[2], Want::Run)]);
    let agent = bench.agent().await;
    for number in 1..=3 {
        wait_phase(&agent, number, Phase::Healthy).await;
    }
    timeout(SETTLED, agent.stop_all()).await.unwrap();
    assert_eq!(bench.sim.left(), (vec![], vec![]));
    assert!(bench.sim.shared_removed());
    assert_eq!(bench.sim.violations(), [] as [String; 0]);
    bench.set(2, &[(&spec(4), Want::Run)]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let report = agent.reports().borrow().clone();
    assert_eq!(report.instances.len(), 3);
    assert!(report.instances.values().all(|seen| seen.end.as_ref().is_some_and(|end| end.cause == EndCause::Stopped)));
}

/// Runs until the sim kills the agent, then drops every task of it. False when it was never killed.
async fn run_until_killed(bench: &Bench, settled: impl Fn(&HostReport) -> bool) -> bool {
    let life = async {
        let agent = bench.agent().await;
        wait(&agent, &settled).await;
    };
    tokio::select! {
        biased;
        () = bench.sim.killed.notified() => true,
        () = life => false,
    }
}

fn is(phase: Phase) -> impl Fn(&HostReport) -> bool {
    move |report| report.instances.get(&name(1)).is_some_and(|seen| seen.phase == phase)
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_step_of_the_start_an_instance_starts_once() {
    let mut at = 1;
    loop {
        let bench = Bench::new();
        bench.set(1, &[(&spec(1), Want::Run)]);
        bench.sim.kill_at(Some(at));
        let killed = run_until_killed(&bench, is(Phase::Healthy)).await;
        bench.sim.kill_at(None);
        let agent = bench.agent().await;
        wait_phase(&agent, 1, Phase::Healthy).await;
        assert_eq!(bench.sim.app_starts(&name(1)), 1, "killed at step {at}");
        assert_eq!(bench.sim.left().0, [name(1)], "killed at step {at}");
        assert_eq!(bench.sim.violations(), Vec::<String>::new(), "killed at step {at}");
        if !killed {
            break;
        }
        at += 1;
    }
    assert!(at > 10, "only {at} steps were tried");
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_step_of_the_stop_an_instance_ends_and_leaves_nothing() {
    let mut at = 1;
    loop {
        let bench = Bench::new();
        bench.set(1, &[(&spec(1), Want::Run)]);
        let agent = bench.agent().await;
        wait_phase(&agent, 1, Phase::Healthy).await;
        agent.detach().await;
        bench.set(2, &[(&spec(1), Want::Stop)]);
        bench.sim.kill_at(Some(at));
        let killed = run_until_killed(&bench, is(Phase::Ended)).await;
        bench.sim.kill_at(None);
        let agent = bench.agent().await;
        let end = wait_phase(&agent, 1, Phase::Ended).await.end.unwrap();
        assert_eq!(end.cause, EndCause::Stopped, "killed at step {at}");
        let clean = async {
            while bench.sim.left() != (vec![], vec![]) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SETTLED, clean).await.unwrap_or_else(|_| panic!("killed at step {at}: {:?}", bench.sim.left()));
        bench.set(3, &[]);
        wait(&agent, |report| report.instances.is_empty()).await;
        assert!(!bench.folder(&name(1)).exists());
        if !killed {
            break;
        }
        at += 1;
    }
    assert!(at > 5, "only {at} steps were tried");
}

#[tokio::test(start_paused = true)]
async fn killed_while_an_app_ends_the_cause_is_still_learnt() {
    for at in 1..40 {
        let bench = Bench::new();
        let exits_after = Some((Duration::from_secs(5), ExitStatus::Code(3), false));
        bench.sim.script(&name(1), Script { exits_after, ..Script::default() });
        bench.set(1, &[(&spec(1), Want::Run)]);
        bench.sim.kill_at(Some(at));
        run_until_killed(&bench, is(Phase::Ended)).await;
        bench.sim.kill_at(None);
        let agent = bench.agent().await;
        let end = wait_phase(&agent, 1, Phase::Ended).await.end.unwrap();
        assert_eq!(end.cause, EndCause::Exited { code: 3 }, "killed at step {at}");
        assert_eq!(end.last_log.len(), 3, "killed at step {at}");
    }
}

#[derive(Debug, Clone)]
enum Move {
    /// Kill the agent at this half call, then start it again.
    Kill(u64),
    /// Set a target: for each of three instances, absent, run or stop. `true`: with an old generation.
    Target([Option<bool>; 3], bool),
    /// Let time pass.
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        (1_u64..40).prop_map(Move::Kill),
        (any::<[Option<bool>; 3]>(), proptest::bool::weighted(0.3)).prop_map(|(t, old)| Move::Target(t, old)),
        (0_u64..20_000).prop_map(Move::Pass),
    ];
    proptest::collection::vec(one, 1..12)
}

fn script() -> impl Strategy<Value = Script> {
    prop_oneof![
        6 => Just(Script::default()),
        1 => Just(Script { boot_hangs: true, ..Script::default() }),
        1 => Just(Script { start_error: true, ..Script::default() }),
        1 => Just(Script { ignores_stop: true, ..Script::default() }),
        1 => (1_u64..30).prop_map(|s| Script { freezes_after: Some(Duration::from_secs(s)), ..Script::default() }),
        1 => (1_u64..30).prop_map(|s| Script { vanishes_after: Some(Duration::from_secs(s)), ..Script::default() }),
        1 => (1_u64..30).prop_map(|s| Script { breaks_after: Some(Duration::from_secs(s)), ..Script::default() }),
        1 => (1_u64..30).prop_map(|s| Script {
            exits_after: Some((Duration::from_secs(s), ExitStatus::Code(1), false)),
            ..Script::default()
        }),
    ]
}

/// Plays the moves, lets everything settle, and checks that the host is what the newest target wants.
async fn play(scripts: Vec<Script>, moves: Vec<Move>) {
    let bench = Bench::new();
    let specs = [spec(1), spec(2), spec(3)];
    for (spec, script) in specs.iter().zip(scripts) {
        bench.sim.script(&spec.instance, script);
    }
    let mut generation = 0;
    let mut wanted = [None; 3];
    let mut removed = [false; 3];
    let mut agent = bench.agent().await;
    for next in moves {
        match next {
            Move::Kill(at) => {
                bench.sim.kill_at(Some(at));
                // Nothing may be going on any more: then it is killed while idle.
                let _ = timeout(Duration::from_secs(30), bench.sim.killed.notified()).await;
                agent.detach().await;
                bench.sim.kill_at(None);
                agent = bench.agent().await;
            }
            Move::Target(new, old) => {
                let mut list = Vec::new();
                for (index, run) in new.iter().enumerate() {
                    // The planner never uses a name again.
                    if let Some(run) = run.filter(|_| !removed[index]) {
                        list.push((&specs[index], if run { Want::Run } else { Want::Stop }));
                    }
                }
                if !old {
                    generation += 1;
                    for index in 0..3 {
                        let listed = list.iter().find(|(s, _)| s.instance == specs[index].instance);
                        removed[index] |= wanted[index].is_some() && listed.is_none();
                        wanted[index] = listed.map(|(_, want)| *want);
                    }
                    bench.set(generation, &list);
                    // A level is only sure to be seen when nothing overwrites it; the model counts every one of them.
                    wait(&agent, |r| r.generation == Seq(generation)).await;
                } else if generation > 1 {
                    bench.set(generation - 1, &list);
                }
            }
            Move::Pass(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }
    let settled = |report: &HostReport| {
        specs.iter().zip(wanted).all(|(spec, want)| {
            let seen = report.instances.get(&spec.instance).map(|seen| seen.phase);
            match want {
                None => seen.is_none(),
                Some(Want::Stop) => seen == Some(Phase::Ended),
                Some(Want::Run) => matches!(seen, Some(Phase::Healthy | Phase::Ended)),
            }
        })
    };
    wait(&agent, settled).await;
    // What freezes, vanishes or exits late has done so, too.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let report = wait(&agent, settled).await;
    let running: Vec<_> =
        report.instances.iter().filter(|(_, s)| s.phase == Phase::Healthy).map(|(n, _)| n.clone()).collect();
    assert_eq!(bench.sim.left(), (running.clone(), running));
    assert_eq!(bench.sim.violations(), Vec::<String>::new());
    for spec in &specs {
        assert!(bench.sim.app_starts(&spec.instance) <= 1, "{} was started twice", spec.instance);
        assert_eq!(bench.folder(&spec.instance).exists(), report.instances.contains_key(&spec.instance));
    }
    assert_eq!(hidden_folders(bench.dir.path()), Vec::<String>::new());
}

fn hidden_folders(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("agent/instances")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

proptest! {
    // A thousand kills at random steps, and four times what the soak asks for.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 4, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_host_becomes_what_the_newest_target_wants(
        scripts in proptest::collection::vec(script(), 3), moves in moves(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(scripts, moves));
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_disk_is_full_waits_for_room_and_goes_on() {
    // In its boot (500 ms for the image, then the guest), while its app starts, and while it serves.
    for after in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(5), Duration::from_secs(90)] {
        for spec in [spec(1), checked(1)] {
            let bench = Bench::new();
            let health = vec![(Duration::from_secs(30), true)];
            bench.sim.script(&spec.instance, Script { starves_after: Some(after), health, ..Script::default() });
            bench.set(1, &[(&spec, Want::Run)]);
            let agent = bench.agent().await;
            let paused = |seen: &Observation| seen.detail.as_deref() == Some(PAUSED);
            let report = wait(&agent, |r| r.instances.get(&name(1)).is_some_and(paused)).await;
            assert_ne!(report.instances[&name(1)].phase, Phase::Healthy, "{after:?}");
            assert_eq!(agent.starved(), [name(1)]);
            // Longer than any limit together, and nothing of it counts.
            tokio::time::sleep(SETTLED).await;
            let report = agent.reports().borrow().clone();
            assert!(paused(&report.instances[&name(1)]), "{after:?}: {:?}", report.instances[&name(1)]);
            bench.sim.make_room();
            wait_phase(&agent, 1, Phase::Healthy).await;
            assert_eq!((agent.starved().len(), bench.sim.app_starts(&name(1))), (0, 1));
            let left = bench.sim.left().0;
            assert_eq!(left, [name(1)], "another machine was started");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_instance_can_be_stopped() {
    let bench = Bench::new();
    let spec = spec(1);
    bench.sim.script(&spec.instance, Script { starves_after: Some(Duration::from_secs(60)), ..Script::default() });
    bench.set(1, &[(&spec, Want::Run)]);
    let agent = bench.agent().await;
    wait_phase(&agent, 1, Phase::Unhealthy).await;
    bench.set(2, &[(&spec, Want::Stop)]);
    let seen = wait_phase(&agent, 1, Phase::Ended).await;
    assert_eq!(seen.end.unwrap().cause, EndCause::StoppedByForce);
}
