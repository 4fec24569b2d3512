//! Observe mode for real: `morpheusd` with its programs in this machine's kernel, and threads that share a CPU.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "helpers of tests are tests")]

mod support;

use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

use libbpf_rs::MapType;
use libbpf_rs::query::{ProgInfoIter, ProgramInfo};
use morpheus_abi::{Reason, WorkerState, heartbeat_is_stale};
use morpheus_agent::mode::Mode;
use morpheus_agent::observe::Observe;
use morpheus_agent::server::now_ns;
use rustix::process::Signal;
use rustix::thread::sched_getaffinity;
use support::{Agent, Repeating, Spinner, bpf_is_permitted, first_cpu, wait_for};

#[test]
fn a_worker_that_others_wait_for_is_hinted_and_its_answer_is_counted() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let cpu = first_cpu();
    let _competitor = Repeating::competitor(cpu);
    let spinner = Spinner::on(cpu, &client, WorkerState::Running, true);
    let worker = agent.wait_for("taken hints", |report| {
        let worker = report.processes.first()?.workers.first()?.clone();
        let totals = &worker.totals;
        let for_others = totals.hints.get("waiter").copied().unwrap_or(0);
        (for_others > 0 && totals.taken >= 3 && totals.off_cpu_ns > 0 && totals.runqueue_wait_ns > 0).then_some(worker)
    });
    assert_eq!(worker.name, "spinner");
    assert_eq!(worker.state, "running");
    assert!(worker.totals.hints() >= worker.totals.taken);
    assert_eq!(worker.totals.histogram().count(), worker.totals.taken);
    let line = spinner.lines.kernel.snapshot();
    // PRESSURE on a machine that is short of CPU.
    assert!(matches!(Reason::from_number(line.reason), Some(Reason::Waiter | Reason::Pressure)), "{}", line.reason);
    assert!(line.hint_time_ns > 0 && line.hint_time_ns <= now_ns());
    let table =
        Command::new(env!("CARGO_BIN_EXE_morpheusd")).args(["top", "--once", "--socket"]).arg(agent.socket()).output();
    let table = String::from_utf8(table.unwrap().stdout).unwrap();
    assert!(table.lines().any(|line| line.contains(" spinner ") && line.contains(" running ")), "{table}");
}

#[test]
fn a_worker_that_takes_no_hint_has_one_pending_and_it_counts_as_ignored() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let cpu = first_cpu();
    let _competitor = Repeating::competitor(cpu);
    let spinner = Spinner::on(cpu, &client, WorkerState::Running, false);
    let totals = agent.wait_for("an ignored hint", |report| {
        let totals = &report.processes.first()?.workers.first()?.totals;
        (totals.ignored > 0).then(|| totals.clone())
    });
    assert_eq!(totals.taken, 0);
    // Nobody is hinted again before the hint is taken; WAITER after LOCAL is not for a worker without tasks.
    assert_eq!(totals.hints(), 1, "{:?}", totals.hints);
    assert!(u64::from(spinner.lines.hints()) >= totals.hints());
}

/// The worker shares its CPU: each time it comes back, its own tasks have waited as long as it has.
#[test]
fn a_worker_that_waited_for_the_cpu_is_told_that_its_own_tasks_did() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let cpu = first_cpu();
    let _competitor = Repeating::competitor(cpu);
    // Of its own time it wants to hear too seldom to make a difference.
    let _spinner = Spinner::rotating(cpu, &client, u32::MAX);
    agent.wait_for("LOCAL hints that were taken", |report| {
        let totals = &report.processes.first()?.workers.first()?.totals;
        (totals.hints.get("local").is_some_and(|given| *given >= 3) && totals.taken >= 3).then_some(())
    });
}

/// Whether or not anybody waits: what waits for its runtime to look, nobody else sees.
#[test]
fn a_worker_that_asks_is_told_of_its_own_time() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let spinner = Spinner::rotating(first_cpu(), &client, 2_000_000);
    agent.wait_for("a fifth of a second of the worker", |report| {
        let worker = report.processes.first()?.workers.first()?;
        let ran = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", worker.tid)).ok()?;
        (ran.split(' ').next()?.parse::<u64>().ok()? >= 200_000_000).then_some(())
    });
    // Each hint begins the count anew, so there are as many in any case.
    assert!(spinner.lines.hints() >= 50, "{} hints", spinner.lines.hints());
}

/// A thread of low weight waits nearly always, and is let in by no yield before the worker has had its own share.
#[test]
fn no_hint_for_a_thread_of_a_fraction_of_the_workers_weight() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let cpu = first_cpu();
    let mut is_nice = false;
    let _waits = Repeating::on(cpu, move || {
        if !std::mem::replace(&mut is_nice, true) {
            rustix::process::nice(19).unwrap();
        }
        std::hint::spin_loop();
    });
    let _spinner = Spinner::on(cpu, &client, WorkerState::Running, true);
    let (totals, ran_ms) = agent.wait_for("two seconds of the worker", |report| {
        let worker = report.processes.first()?.workers.first()?;
        let ran = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", worker.tid)).ok()?;
        let ran_ms = ran.split(' ').next()?.parse::<u64>().ok()? / 1_000_000;
        (ran_ms >= 2_000).then(|| (worker.totals.clone(), ran_ms))
    });
    // Whoever else wants the CPU meanwhile gets it by a switch; hints for the light one would come at every tick.
    let waiter = totals.hints.get("waiter").copied().unwrap_or(0);
    let in_vain = waiter.saturating_sub(totals.involuntary_switches);
    assert!(in_vain < ran_ms / 10, "{in_vain} yields let nobody in, in {ran_ms} ms: {totals:?}");
}

/// Seed, Non-Goal 2 and the states of the ABI: hints go to workers that say they run, to nobody else.
#[test]
fn no_hint_in_the_wrong_state() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let cpu = first_cpu();
    let _competitor = Repeating::competitor(cpu);
    for state in [WorkerState::Init, WorkerState::Registered, WorkerState::Quiescing, WorkerState::Dead] {
        let spinner = Spinner::on(cpu, &client, state, false);
        // It lost the CPU to somebody ten times, so somebody waited, and the programs saw it.
        wait_for("switches away", || (spinner.lines.kernel.involuntary_switches.load(Relaxed) >= 10).then_some(()));
        assert_eq!(spinner.lines.hints(), 0, "{state}");
        // The same worker at work is hinted.
        spinner.lines.runtime.state.store(WorkerState::Running.number(), Relaxed);
        wait_for("a hint", || (spinner.lines.hints() > 0).then_some(()));
    }
    // A line that claims another registration is not believed.
    let spinner = Spinner::on(cpu, &client, WorkerState::Registered, false);
    spinner.lines.runtime.slot_generation.store(spinner.generation.wrapping_sub(1), Relaxed);
    spinner.lines.runtime.state.store(WorkerState::Running.number(), Relaxed);
    wait_for("switches away", || (spinner.lines.kernel.involuntary_switches.load(Relaxed) >= 10).then_some(()));
    assert_eq!(spinner.lines.hints(), 0);
}

/// Seed, Non-Goal 3: `budget_remaining_ns` is informational; nothing happens when it is spent.
#[test]
fn budget_is_information_only() {
    if !bpf_is_permitted() {
        return;
    }
    // No program can change scheduling: they trace, or write a page when the agent asks; none is a scheduler.
    let observe = Observe::load().unwrap();
    let names: Vec<String> = observe.verified_instructions().into_iter().map(|(name, _)| name).collect();
    for info in ProgInfoIter::default().filter(|info: &ProgramInfo| names.contains(&info.name.to_string_lossy().into()))
    {
        let kind = format!("{:?}", info.ty);
        assert!(["Tracing", "PerfEvent", "Syscall"].contains(&kind.as_str()), "{:?} is {kind}", info.name);
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let cpu = first_cpu();
    let _competitor = Repeating::competitor(cpu);
    let spinner = Spinner::on(cpu, &client, WorkerState::Running, false);
    let budget = || spinner.lines.kernel.budget_remaining_ns.load(Relaxed);
    wait_for("a budget", || (budget() > 0).then_some(()));
    let rounds = || spinner.rounds.load(Relaxed);
    // It ignores every hint and runs on for as long as it likes; what is left of the budget comes and goes.
    let before = rounds();
    wait_for("an ignored hint and another look", || {
        (agent.report().totals().ignored > 0 && rounds() > before + 1_000_000).then_some(())
    });
    let line = spinner.lines.kernel.snapshot();
    assert_eq!((line.escalations, line.state), (0, WorkerState::Registered.number()));
}

/// Seed, invariant 1, and Non-Goals 1 and 5: no map has a key that could name a task of a runtime.
#[test]
fn kernel_operates_on_threads_not_tasks() {
    if !bpf_is_permitted() {
        return;
    }
    let observe = Observe::load().unwrap();
    let maps: Vec<_> = observe.all_maps();
    let keyed: Vec<_> = maps.iter().map(|(name, kind, key)| (name.as_str(), *kind, *key)).collect();
    for (name, kind, key) in &keyed {
        match kind {
            // Keyed by the kernel's own task, through a pidfd.
            MapType::TaskStorage => assert_eq!((*name, *key), ("workers", 4)),
            // Indices of fixed arrays: processes, constants. An array cannot grow with a runtime's tasks.
            MapType::ArrayOfMaps | MapType::Array => assert_eq!(*key, 4, "{name}"),
            other => panic!("{name} is a {other:?}: its keys could be anything"),
        }
    }
    // Constants and the like have a section's name, with a dot.
    let mut names: Vec<_> = keyed.iter().map(|(name, ..)| *name).filter(|name| !name.contains('.')).collect();
    names.sort_unstable();
    assert_eq!(names, ["kernel_pages", "ledgers", "runtime_pages", "workers"]);
}

/// Design: a dead agent looks like no hints.
#[test]
fn agent_killed_leaves_runtimes_unharmed() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let cpu = first_cpu();
    let _competitor = Repeating::competitor(cpu);
    let spinner = Spinner::on(cpu, &client, WorkerState::Running, true);
    wait_for("a hint", || (spinner.lines.hints() > 0).then_some(()));
    let (status, folder) = agent.end(Signal::KILL);
    let killed_ns = now_ns();
    assert!(!status.success());
    // The last heartbeat is from before the kill, so two seconds after it everybody knows.
    let heartbeat = || client.kernel().header.heartbeat_ns.load(Relaxed);
    assert!(heartbeat() <= killed_ns && heartbeat_is_stale(heartbeat(), killed_ns + 2_000_000_000));
    // The programs went with the agent: the counters stand still while the worker loses the CPU many times.
    let mut last = spinner.lines.kernel.snapshot();
    wait_for("the programs to go", || {
        let rounds = spinner.rounds.load(Relaxed);
        wait_for("rounds", || (spinner.rounds.load(Relaxed) > rounds + 1_000_000).then_some(()));
        let now = spinner.lines.kernel.snapshot();
        let still = now.off_cpu_ns == last.off_cpu_ns && now.hint_seq == last.hint_seq;
        last = now;
        still.then_some(())
    });
    // Another agent takes the same path, as another run.
    let next = Agent::start_in(folder, &[]);
    let again = next.connect().hello();
    assert_ne!(again.generation, client.generation);
    assert_eq!(heartbeat(), client.kernel().header.heartbeat_ns.load(Relaxed), "nobody writes the old page");
}

#[test]
fn an_agent_that_is_asked_to_end_marks_its_pages_and_removes_its_socket() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let spinner = Spinner::on(sched_getaffinity(None).unwrap(), &client, WorkerState::Running, true);
    let (status, folder) = agent.end(Signal::TERM);
    assert!(status.success(), "{status}");
    assert!(!folder.path().join("socket").exists());
    assert_eq!(spinner.lines.kernel.state.load(Relaxed), WorkerState::Dead.number());
    assert!(heartbeat_is_stale(client.kernel().header.heartbeat_ns.load(Relaxed), now_ns()));
}

#[test]
fn the_heartbeat_goes_on_while_the_agent_lives() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let heartbeat = || client.kernel().header.heartbeat_ns.load(Relaxed);
    let mut last = heartbeat();
    for _ in 0..3 {
        last = wait_for("a heartbeat", || (heartbeat() > last).then(heartbeat));
    }
}

#[test]
fn the_metrics_are_given_out() {
    use std::io::{Read, Write};
    if !bpf_is_permitted() {
        return;
    }
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _agent = Agent::start(&["--metrics", &port.to_string()]);
    let mut answer = String::new();
    let mut stream = wait_for("the metrics' port", || std::net::TcpStream::connect(port).ok());
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\nmorpheus_workers 0\n"), "{answer}");
}

/// A control group with a CPU quota of 20 ms in 100 ms, if this machine lets us make one.
struct Quota {
    folder: std::path::PathBuf,
    threads: &'static str,
}

impl Quota {
    fn new() -> Option<Self> {
        let name = format!("morpheus-test-{}", std::process::id());
        let legacy = std::path::Path::new("/sys/fs/cgroup/cpu").join(&name);
        if legacy.parent()?.join("cpu.cfs_quota_us").exists() {
            std::fs::create_dir(&legacy).ok()?;
            let quota = Self { folder: legacy, threads: "tasks" };
            std::fs::write(quota.folder.join("cpu.cfs_period_us"), "100000").ok()?;
            std::fs::write(quota.folder.join("cpu.cfs_quota_us"), "20000").ok()?;
            return Some(quota);
        }
        let unified = std::path::Path::new("/sys/fs/cgroup").join(&name);
        std::fs::create_dir(&unified).ok()?;
        let quota = Self { folder: unified, threads: "cgroup.threads" };
        std::fs::write(quota.folder.join("cpu.max"), "20000 100000").ok()?;
        std::fs::write(quota.folder.join("cgroup.type"), "threaded").ok()?;
        Some(quota)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

#[test]
fn a_worker_whose_group_has_nearly_spent_its_quota_is_told_when_it_is_refilled() {
    if !bpf_is_permitted() {
        return;
    }
    let Some(quota) = Quota::new() else {
        eprintln!("skipped: no control group with a CPU quota can be made here");
        return;
    };
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let spinner = Spinner::on(sched_getaffinity(None).unwrap(), &client, WorkerState::Running, true);
    let tid = agent.report().processes[0].workers[0].tid;
    if let Err(error) = std::fs::write(quota.folder.join(quota.threads), tid.to_string()) {
        eprintln!("skipped: a thread cannot be put under a CPU quota here: {error}");
        return;
    }
    let line = wait_for("a QUOTA hint", || {
        let line = spinner.lines.kernel.snapshot();
        (Reason::from_number(line.reason) == Some(Reason::Quota)).then_some(line)
    });
    // The refill lies ahead, at most two periods away.
    let ahead = line.deadline_ns.saturating_sub(line.hint_time_ns);
    assert!(ahead > 0 && ahead <= 200_000_000, "{ahead}");
}

/// Two threads for each CPU that never stop, beside the worker: everybody waits for everybody.
#[test]
fn a_worker_is_told_when_the_whole_system_is_short_of_cpu() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let all = sched_getaffinity(None).unwrap();
    let threads = 2 * std::thread::available_parallelism().unwrap().get() + 2;
    let _crowd: Vec<_> = (0..threads).map(|_| Repeating::on(all, std::hint::spin_loop)).collect();
    let _spinner = Spinner::on(all, &client, WorkerState::Running, true);
    agent.wait_for("a PRESSURE hint", |report| {
        let totals = &report.processes.first()?.workers.first()?.totals;
        (totals.hints.get("pressure").copied().unwrap_or(0) > 0).then_some(())
    });
}
