//! Owns the end-to-end tests of Morpheus that need a machine of their own, above all enforce mode: a guest with a kernel that has sched_ext is booted once and runs
//! every scenario against the real agent and the real client crate. May not touch the machine's own scheduler or packages.
//!
//! - [`kernel`]: Debian's kernel, fetched and unpacked, never installed.
//! - [`image`]: what the guest boots from: this package's `morpheus-guest` as PID 1, the agent, its libraries.
//! - [`machine`]: QEMU, and what the guest says on its console.
//!
//! Translated code is slow and its clock is not to be trusted: nothing here measures time. A scenario waits for the
//! scheduler's own counts, or for a fact, with a deadline.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub mod image;
pub mod kernel;
pub mod machine;

/// The rules that are tested, in the order in which the guest tries them.
pub const SCENARIOS: [&str; 19] = [
    "nobody_is_hinted_for_others_on_an_idle_machine",
    "loads_and_attaches",
    "another_scheduler_is_refused",
    "no_hint_when_nobody_waits",
    "hint_is_raised_when_somebody_waits",
    "acknowledged_hint_clears",
    "no_hint_and_no_escalation_in_the_wrong_state",
    "non_escapable_is_never_escalated",
    "critical_section_blocks_escalation",
    "grace_is_always_observed",
    "escapable_worker_is_escalated_after_grace",
    "weights_are_honoured",
    "dead_or_reused_ids_never_leak",
    "ten_thousand_threads_come_and_go",
    "clean_exit_unregisters_scheduler",
    "sigkill_of_the_loader_falls_back",
    "watchdog_stall_falls_back",
    "sysrq_falls_back",
    "verifier_counts_stay_below_their_limits",
];

/// Begins a line of the guest with a scenario's name and `ok`, or `failed` and why.
pub const RESULT: &str = "morpheus-result:";
/// Begins a line of the guest with a program's name and the instructions the verifier went through.
pub const VERIFIED: &str = "morpheus-verified:";

/// The guest's environment variable with a part of the names of the scenarios to try; all without it.
pub const ONLY: &str = "MORPHEUS_ONLY";

/// The guest's environment variable with how long its workers are watched on an idle machine, in seconds of them; taken over
/// from whoever boots the guest. [`IDLE_SECONDS_SHORT`] without it.
pub const IDLE_SECONDS: &str = "MORPHEUS_IDLE_SECONDS";
/// As long as the tests watch.
pub const IDLE_SECONDS_SHORT: u64 = 5;
/// Begins a line of the guest about its idle machine: hints for others, LOCAL hints, seconds, and how often the workers lost
/// their CPUs.
pub const IDLE: &str = "morpheus-idle:";

/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `condition` gives a value.
///
/// # Errors
/// Those of the condition, and when it gives none in time; `what` says what was waited for.
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", patience.as_secs());
        }
        std::thread::park_timeout(LOOK);
    }
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Runs `command` to its end and gives what it wrote to standard output; what it says on failure is part of the error.
pub(crate) fn output(command: &mut std::process::Command) -> Result<String> {
    let shown = format!("{command:?}");
    let done = match command.stdin(std::process::Stdio::null()).output() {
        Ok(done) => done,
        Err(error) => bail!("cannot start {shown}: {error}"),
    };
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let last: Vec<&str> = said.lines().rev().take(12).collect();
        bail!("{shown} ended with {}\n{}", done.status, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
