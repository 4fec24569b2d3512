//! The programs that test the kernel through its ABI: one boot runs them all, each test tells its outcome in a line.

use std::time::Duration;

use anyhow::{Result, anyhow};

use super::build::Built;
use super::check::Outcome;
use super::qemu::{ENDED_WELL, Machine};

/// All tests of a boot; most of it is the fuzzer.
const LIMIT: Duration = Duration::from_secs(600);
/// The last line of a complete run.
const LAST_LINE: &str = "tests done";

/// Runs them on `cpus` processors.
///
/// # Errors
/// When QEMU cannot be started.
pub(super) fn run(built: &Built, cpus: u32, outcome: &mut Outcome) -> Result<()> {
    let place = format!("({cpus} cpu, {})", built.profile.name());
    let machine = Machine { cpus, memory_mib: 256, archive: Some(built.tests.clone()), ..Machine::of(built) };
    let ended = machine.run(None, LIMIT)?;
    for line in ended.console.lines() {
        if line.starts_with("unseen ") || line.starts_with("errors: ") {
            println!("{line}");
        }
        if let Some((name, why)) = parse(line) {
            let result = if why.is_empty() { Ok(()) } else { Err(anyhow!("{why}")) };
            outcome.note(&format!("{name} {place}"), result);
        }
    }
    let whole = ended.console.lines().any(|line| line == LAST_LINE) && ended.status == Some(ENDED_WELL);
    let last: Vec<&str> = ended.console.lines().rev().take(20).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    outcome.note(
        &format!("all tests on the kernel ran {place}"),
        if whole {
            Ok(())
        } else {
            Err(anyhow!("QEMU ended with {:?}; the last lines:\n{}", ended.status, last.join("\n")))
        },
    );
    Ok(())
}

/// Reads `test NAME ok` and `test NAME FAILED: why`: the name, and why it failed (nothing when it did not).
fn parse(line: &str) -> Option<(&str, &str)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(' ')?;
    match outcome.strip_prefix("FAILED") {
        Some(why) => {
            Some((name, if why.is_empty() { "it does not say why" } else { why.trim_start_matches([':', ' ']) }))
        }
        None => (outcome == "ok").then_some((name, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_from_lines() {
        assert_eq!(parse("test unit_exit ok"), Some(("unit_exit", "")));
        assert_eq!(parse("test unit_exit FAILED: code 3, not 4"), Some(("unit_exit", "code 3, not 4")));
        assert_eq!(parse("test unit_exit FAILED"), Some(("unit_exit", "it does not say why")));
        assert_eq!(parse("test of something else"), None);
        assert_eq!(parse("testing"), None);
    }
}
