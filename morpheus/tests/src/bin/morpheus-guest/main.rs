//! PID 1 of the test guest: makes a system of it, starts the agent, tries every scenario, says what came of each on the
//! console, and ends the guest. Started by itself with a role in `MORPHEUS_ROLE` it is one of the scenario's processes.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the console is how the guest tells its results")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use morpheus_e2e::{ONLY, RESULT, SCENARIOS};
use rustix::mount::{MountFlags, mount};
use rustix::process::Pid;
use rustix::system::{RebootCommand, reboot};

use agent::Agent;

mod agent;
mod falls_back;
mod identities;
mod observes;
mod rules;
mod threads;

/// What a scenario works with.
#[derive(Default)]
struct Stage {
    /// The agent that schedules, if one is up.
    agent: Option<Agent>,
}

impl Stage {
    /// The agent; started when there is none.
    fn agent(&mut self) -> Result<&mut Agent> {
        if self.agent.is_none() {
            self.agent = Some(Agent::enforce(&[])?);
        }
        self.agent.as_mut().context("the agent was just started")
    }

    /// Takes the agent out, to end it.
    fn take_agent(&mut self) -> Result<Agent> {
        self.agent()?;
        self.agent.take().context("the agent was just started")
    }
}

type Scenario = fn(&mut Stage) -> Result<()>;

/// In the order of [`SCENARIOS`].
const TRIED: [Scenario; SCENARIOS.len()] = [
    observes::nobody_is_hinted_for_others_on_an_idle_machine,
    rules::loads_and_attaches,
    rules::another_scheduler_is_refused,
    rules::no_hint_when_nobody_waits,
    rules::hint_is_raised_when_somebody_waits,
    rules::acknowledged_hint_clears,
    rules::no_hint_and_no_escalation_in_the_wrong_state,
    rules::non_escapable_is_never_escalated,
    rules::critical_section_blocks_escalation,
    rules::grace_is_always_observed,
    rules::escapable_worker_is_escalated_after_grace,
    rules::weights_are_honoured,
    identities::dead_or_reused_ids_never_leak,
    identities::ten_thousand_threads_come_and_go,
    falls_back::clean_exit_unregisters_scheduler,
    falls_back::sigkill_of_the_loader_falls_back,
    falls_back::watchdog_stall_falls_back,
    falls_back::sysrq_falls_back,
    rules::verifier_counts_stay_below_their_limits,
];

fn main() -> ExitCode {
    if let Ok(role) = std::env::var("MORPHEUS_ROLE") {
        return identities::play(&role);
    }
    match system() {
        Ok(()) => {
            let mut stage = Stage::default();
            let only = std::env::var(ONLY).unwrap_or_default();
            for (name, scenario) in SCENARIOS.iter().zip(TRIED).filter(|(name, _)| name.contains(&only)) {
                println!("begin {name} at {} s", uptime());
                let outcome = catch_unwind(AssertUnwindSafe(|| scenario(&mut stage)));
                let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked")));
                match outcome {
                    Ok(()) => println!("{RESULT} {name} ok"),
                    Err(error) => println!("{RESULT} {name} {}", format!("{error:#}").replace('\n', "; ")),
                }
            }
        }
        Err(error) => println!("the guest cannot be set up: {error:#}"),
    }
    println!("end at {} s", uptime());
    let _ = reboot(RebootCommand::Restart);
    ExitCode::FAILURE
}

fn uptime() -> String {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// Mounts what the agent and the scenarios read.
fn system() -> Result<()> {
    ensure!(std::process::id() == 1, "this program is PID 1 of a test guest; it is of no use elsewhere");
    let none = MountFlags::empty();
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("bpf", "/sys/fs/bpf"),
        ("tracefs", "/sys/kernel/tracing"),
    ] {
        mount(kind, place, kind, none, None).with_context(|| format!("cannot mount {place}"))?;
    }
    // This process, the agent it starts, and whatever of the kernel's own threads can be moved keep off the CPU that
    // scenarios share.
    threads::bind(None, threads::OWN)?;
    std::fs::write("/sys/devices/virtual/workqueue/cpumask", "1").context("cannot move the kernel's work queues")?;
    for entry in std::fs::read_dir("/proc")? {
        let number = entry?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        if number.is_some() {
            // Those that belong to one CPU refuse.
            let _ = threads::bind(number, threads::OWN);
        }
    }
    Ok(())
}
